//! The rows of the volume's tables, as plain values. No I/O and no policy here.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{Cookie, ExtentId, Ino};

/// Longest name of a directory entry, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link, in bytes (Linux' `PATH_MAX` less the terminating zero).
pub(crate) const MAX_SYMLINK_BYTES: usize = 4095;
/// Most names of one file, as on ext4. A directory may have any number of subdirectories.
pub(crate) const MAX_LINKS: u32 = 65_000;
/// Greatest file size in bytes: what Linux can address with a signed 64-bit offset, less one block.
pub(crate) const MAX_FILE_BYTES: u64 = i64::MAX as u64 - 4095;

/// A name, shared between the caches that hold it.
pub(crate) type Name = Arc<[u8]>;

/// The inode row. Times are nanoseconds since 1970, sizes are bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InodeRow {
    /// The inode number.
    pub ino: Ino,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of links; a directory has 2 plus its subdirectories.
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Size in bytes (symbolic link: length of the target; directory: number of entries).
    pub size: u64,
    /// Bytes that are mapped to extents.
    pub allocated: u64,
    /// Last access.
    pub atime_ns: i64,
    /// Last change of the content.
    pub mtime_ns: i64,
    /// Last change of the inode.
    pub ctime_ns: i64,
    /// Birth.
    pub btime_ns: i64,
    /// Directory: its parent (the root's is itself). In the trash: the directory that it was in last. Otherwise 0.
    pub parent: Ino,
    /// Directory: sum of the hashes of its entries, see [`Dirent::hash`].
    pub entries_hash: u64,
    /// Directory: the cookie the next new entry gets.
    pub next_cookie: u64,
}

impl InodeRow {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }

    /// Whether this is in the trash, for anything but a directory. Of a directory the row alone does not tell.
    pub(crate) fn is_trashed_file(&self) -> bool {
        self.nlink == 0 && self.parent != Ino(0) && !self.is_dir()
    }

    /// The file type as in `d_type`.
    pub fn kind(&self) -> u8 {
        kind_of_mode(self.mode)
    }
}

/// The `d_type` of a mode's file type.
pub fn kind_of_mode(mode: u32) -> u8 {
    ((mode & libc::S_IFMT) >> 12) as u8
}

/// A directory entry, without its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dirent {
    /// What it names.
    pub ino: Ino,
    /// The file type as in `d_type`.
    pub kind: u8,
    /// Its place in the directory.
    pub cookie: Cookie,
}

impl Dirent {
    /// The hash of an entry; a directory keeps the wrapping sum over its entries.
    pub fn hash(&self, name: &[u8]) -> u64 {
        let seed =
            self.ino.0.rotate_left(17) ^ self.cookie.0.rotate_left(41) ^ u64::from(self.kind);
        xxh3_64_with_seed(name, seed)
    }
}

/// One run of a file: `len` bytes at `offset` of the file are `extent`'s bytes from `extent_offset` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentRow {
    /// The file.
    pub ino: Ino,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// The extent.
    pub extent: ExtentId,
    /// Offset in the extent, bytes.
    pub extent_offset: u64,
}

/// A name in the trash: an entry that was removed, and what it named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrashRow {
    /// What it named.
    pub ino: Ino,
    /// The directory that it was in.
    pub parent: Ino,
    /// The name.
    pub name: Arc<[u8]>,
    /// When it was removed, milliseconds since 1970.
    pub deleted_ms: u64,
    /// When the directory's content had last changed before, nanoseconds since 1970.
    pub dir_mtime_ns: i64,
}

/// Where an extent's bytes lie. The numbers belong to whoever stores bytes; here they are opaque.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a local segment.
    Segment {
        /// Segment number.
        segment: u64,
        /// Offset in the segment file, bytes.
        offset: u64,
    },
    /// In a pack.
    Pack {
        /// Row number in the table `pack`.
        pack: u64,
        /// Offset in the pack's raw bytes.
        offset: u64,
    },
}

/// The location row of an extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Location {
    /// Where.
    pub place: Place,
    /// How many bytes.
    pub len: u64,
    /// In a segment: CRC-32C of each 4096-byte block of the extent, the last one short. In a pack: empty, the
    /// pack's frames carry their own.
    pub sums: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dirent_hash_depends_on_every_field() {
        let base = Dirent {
            ino: Ino(2),
            kind: 8,
            cookie: Cookie(3),
        };
        let h = base.hash(b"name");
        assert_ne!(h, base.hash(b"nam"));
        assert_ne!(
            h,
            Dirent {
                ino: Ino(4),
                ..base
            }
            .hash(b"name")
        );
        assert_ne!(h, Dirent { kind: 4, ..base }.hash(b"name"));
        assert_ne!(
            h,
            Dirent {
                cookie: Cookie(4),
                ..base
            }
            .hash(b"name")
        );
    }

    #[test]
    fn kinds_are_those_of_dirent_h() {
        assert_eq!(kind_of_mode(libc::S_IFDIR | 0o755), libc::DT_DIR);
        assert_eq!(kind_of_mode(libc::S_IFREG), libc::DT_REG);
        assert_eq!(kind_of_mode(libc::S_IFLNK), libc::DT_LNK);
        assert_eq!(kind_of_mode(libc::S_IFSOCK), libc::DT_SOCK);
    }
}
