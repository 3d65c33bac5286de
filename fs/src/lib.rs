//! A WeldrFS volume: the engine that puts namespace and bytes together, what works behind it, and the FUSE adapter.
//!
//! The engine ([`Engine`]) knows nothing of FUSE: one method per file-system operation, plain values, typed errors.
//! Only the module `adapter` names fuser, and it only translates.

mod adapter;
mod awake;
mod clock;
mod engine;
mod error;
mod volume;

pub use adapter::{FuseMount, FuseSettings, MountError, Readdirplus, Unmounter};
pub use clock::{Clock, KernelClock, ManualClock, SystemClock};
pub use engine::{
    Attr, BRANCHES, Branched, Caller, DirEntry, Engine, Kind, SnapshotNames, StatFs, StoreWait,
    TrashFigures, TrashTarget,
};
pub use error::FsError;
pub use volume::{
    Amount, Claim, Destroyed, Dropped, FsckFinding, FsckReport, GcReport, LastError, LeaseTerm,
    OpenError, RestorePoint, SnapshotCare, Source, Status, SyncReport, Volume, VolumeConfig,
    VolumeFound, destroy_volume, find_volumes, fsck, fsck_local, restore_points, restore_to,
};
pub use weldrfs_blockstore::{
    Addressing, MAX_UPLOADS, S3_DEFAULT_REGION, S3Credentials, S3Settings, StoreCounts, VerbCounts,
    is_bucket_name,
};
pub use weldrfs_meta::SeekTo as Whence;
pub use weldrfs_meta::{
    AttrChange, CheckReport, Difference, FallocMode, Finding, Ino, InodeRow, Lsn, MetaError, Order,
    ROOT_INO, RenameFlags, Restored, RestoredTrash, Snapshot, TimeSet, TrashEntry, XattrMode,
};
