//! The namespace of a WeldrFS volume: inodes, directory entries, extents and where their bytes lie.
//!
//! Owns the order of operations (the journal), the rows' durable base (SQLite) and what has not reached it yet (the
//! overlay). It must not know how bytes are stored (segments and packs are plain numbers here), nor anything of FUSE.

mod cache;
mod changes;
mod check;
mod checkpoint;
mod codec;
mod cut;
mod error;
mod filemap;
mod flusher;
#[cfg(test)]
mod fuzz_tests;
mod ids;
mod journal;
mod namespace;
mod overlay;
mod reserve;
mod rows;
mod settings;
mod snapshot;
mod sqlite;
mod startup;
mod trash;

pub use changes::Change;
pub use check::{CheckReport, Finding, RestedDatabase};
pub use codec::{CodecError, decode_changes, encode_changes};
pub use cut::Cut;
pub use error::{Advice, MetaError, Result};
pub use filemap::Piece;
pub use ids::{Cookie, Epoch, ExtentId, Ino, Lsn, ROOT_INO};
pub use journal::{JournalHeader, RecordHeader, parse_record};
pub use namespace::{
    AttrChange, DirEntry, ExtendSums, FallocMode, Namespace, NewNode, RenameFlags, SeekTo, TimeSet,
    Usage, WriteAt, XattrMode,
};
pub use rows::{
    Dirent, ExtentRow, InodeRow, Location, MAX_NAME_BYTES, Place, TrashRow, kind_of_mode,
};
pub use settings::{DataBarrier, MetaSettings, Permit};
pub use snapshot::{
    CloneTo, Difference, EntryChange, NewSnapshot, Order, Restored, Snapshot, SnapshotView,
};
pub use sqlite::{
    Dead, Own, PackRow, PackUsage, Packed, SCHEMA_VERSION, add_dead_packs, settle_restored,
};
pub use trash::{
    MAX_TRASH_BYTES, MAX_TRASH_NAMES, PurgeLimits, Purged, RestoredTrash, TrashEntry, TrashRestore,
};
