//! A change: the smallest thing an operation does to the tables. A journal record is a list of them, applied in order.

use crate::ids::{Epoch, ExtentId, Ino};
use crate::rows::{Dirent, ExtentRow, InodeRow, Location, Name, TrashRow};
use crate::snapshot::NewSnapshot;

/// One change of one row (or of one file's rows from an offset on).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Insert or replace an inode.
    PutInode(InodeRow),
    /// Remove an inode with its extents, attributes, link target and orphan row.
    DropInode(Ino),
    /// Insert or replace a directory entry.
    PutDirent {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
        /// The entry.
        dirent: Dirent,
    },
    /// Remove a directory entry.
    DelDirent {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// Insert or replace a file's run at its offset.
    PutExtent(ExtentRow),
    /// Remove the run that starts at the offset.
    DelExtent {
        /// The file.
        ino: Ino,
        /// Start of the run, bytes.
        offset: u64,
    },
    /// Remove every run that starts at or after the offset.
    CutExtents {
        /// The file.
        ino: Ino,
        /// First offset that goes, bytes.
        from: u64,
    },
    /// A new extent and where it was born.
    PutLocation {
        /// The extent.
        extent: ExtentId,
        /// Where its bytes are.
        location: Location,
    },
    /// An extent whose bytes went on in the same segment, right behind its end.
    GrowLocation {
        /// The extent.
        extent: ExtentId,
        /// Its length now, bytes.
        len: u64,
        /// The first block whose checksum changed.
        from_block: u64,
        /// The checksums from that block on.
        sums: Vec<u32>,
    },
    /// Insert or replace an extended attribute.
    PutXattr {
        /// The inode.
        ino: Ino,
        /// The attribute's full name.
        name: Name,
        /// Its value.
        value: Vec<u8>,
    },
    /// Remove an extended attribute.
    DelXattr {
        /// The inode.
        ino: Ino,
        /// The attribute's full name.
        name: Name,
    },
    /// The target of a symbolic link.
    PutSymlink {
        /// The inode.
        ino: Ino,
        /// The target.
        target: Vec<u8>,
    },
    /// The inode has no name any more and lives until it is closed.
    PutOrphan(Ino),
    /// The inode has a name again.
    DelOrphan(Ino),
    /// A name that was removed is in the trash; one without another name lives as long as that.
    PutTrash(TrashRow),
    /// A name is not in the trash any more.
    DelTrash {
        /// What it named.
        ino: Ino,
        /// The directory that it was in.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// From here on the rows belong to another epoch. The only change of its record.
    PutSnapshot {
        /// Its epoch: greater than every other one's.
        epoch: Epoch,
        /// The first inode number that is not in it.
        next_ino: Ino,
        /// What it is called, and by whom.
        new: NewSnapshot,
    },
    /// The tables below this directory were changed as a whole, outside of the journal. Changes nothing by itself.
    Bulk(Ino),
}
