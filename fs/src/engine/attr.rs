//! Attributes: plain values for whoever drives the engine, and the operations that read and change them.

use bytes::Bytes;
use weldrfs_meta::{AttrChange, Ino, InodeRow, MetaError, XattrMode};

use super::{Engine, Result};
use crate::error::FsError;

/// Who asks: the owner of what is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// File types.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

impl Kind {
    /// The type's bits in `st_mode`.
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Dir => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::Char => libc::S_IFCHR,
            Self::Block => libc::S_IFBLK,
        }
    }

    /// The type in a mode; what no mode has reads as a regular file.
    pub fn of_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::Char,
            libc::S_IFBLK => Self::Block,
            _ => Self::File,
        }
    }
}

/// The attributes of an inode. Times are nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// File type.
    pub kind: Kind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated 512-byte units.
    pub blocks: u64,
    /// Last access.
    pub atime_ns: i64,
    /// Last change of the content.
    pub mtime_ns: i64,
    /// Last change of the inode.
    pub ctime_ns: i64,
    /// Birth.
    pub btime_ns: i64,
    /// Directory: the directory above it.
    pub parent: Ino,
}

/// Size of a directory in `stat`, for each entry, so that it grows with them.
const DIRENT_STAT_BYTES: u64 = 32;

impl From<InodeRow> for Attr {
    fn from(row: InodeRow) -> Self {
        let size = if row.is_dir() {
            4096.max(row.size * DIRENT_STAT_BYTES)
        } else {
            row.size
        };
        let allocated = if row.is_dir() { size } else { row.allocated };
        Self {
            ino: row.ino,
            kind: Kind::of_mode(row.mode),
            mode: row.mode & 0o7777,
            nlink: row.nlink,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size,
            blocks: allocated.next_multiple_of(4096) / 512,
            atime_ns: row.atime_ns,
            mtime_ns: row.mtime_ns,
            ctime_ns: row.ctime_ns,
            btime_ns: row.btime_ns,
            parent: row.parent,
        }
    }
}

/// What `statfs` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub free: u64,
    /// Blocks free for users without privilege.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}

/// Bytes of a block in `statfs`.
const BLOCK_BYTES: u32 = 4096;
/// Inode numbers do not run out; programs still like to see a number.
const FREE_INODES: u64 = 1 << 32;

impl Engine {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        match self.past_attr(ino) {
            None => Ok(self.ns.getattr(ino)?.into()),
            Some(attr) => attr,
        }
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EINVAL`, `EFBIG`.
    pub fn setattr(&self, ino: Ino, change: AttrChange) -> Result<Attr> {
        let ino = self.present(ino)?;
        let row = self.ns.setattr(ino, &change, self.now_ns())?;
        if change.size.is_some() {
            self.changed(ino);
        }
        Ok(row.into())
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `EOPNOTSUPP` for a class of names that is not kept.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        check_class(name)?;
        let ino = self.present(ino)?;
        Ok(self.ns.setxattr(ino, name, value, mode, self.now_ns())?)
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP` for a class of names that is not kept.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        check_class(name)?;
        let Some(all) = self.past_xattrs(ino) else {
            return Ok(Bytes::copy_from_slice(&self.ns.getxattr(ino, name)?));
        };
        let found = all?.into_iter().find(|(own, _)| own == name);
        Ok(found.ok_or(MetaError::NoAttribute)?.1)
    }

    /// The names of all extended attributes; those of the class `trusted.` only for who is privileged.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn listxattr(&self, ino: Ino, privileged: bool) -> Result<Vec<Bytes>> {
        let names: Vec<Bytes> = match self.past_xattrs(ino) {
            None => {
                let names = self.ns.listxattr(ino)?;
                names.iter().map(|n| Bytes::copy_from_slice(n)).collect()
            }
            Some(all) => all?.into_iter().map(|(name, _)| name).collect(),
        };
        let is_shown = |name: &Bytes| privileged || !name.starts_with(TRUSTED);
        Ok(names.into_iter().filter(is_shown).collect())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP` for a class of names that is not kept.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_class(name)?;
        let ino = self.present(ino)?;
        Ok(self.ns.removexattr(ino, name, self.now_ns())?)
    }

    /// How much room there is.
    ///
    /// # Errors
    /// `EIO` when the local disk cannot be asked.
    pub fn statfs(&self) -> Result<StatFs> {
        let below = rustix::fs::statvfs(&self.space)
            .map_err(|e| FsError::Meta(std::io::Error::from(e).into()))?;
        let unit = u64::from(BLOCK_BYTES);
        let usage = self.ns.usage();
        let used = usage.bytes.div_ceil(unit);
        let free = (below.f_bfree * below.f_frsize) / unit;
        let available = (below.f_bavail * below.f_frsize) / unit;
        Ok(StatFs {
            block_bytes: BLOCK_BYTES,
            blocks: used + free,
            free,
            available,
            files: usage.inodes + FREE_INODES,
            files_free: FREE_INODES,
            name_max: weldrfs_meta::MAX_NAME_BYTES as u32,
        })
    }
}

/// Attributes that only privileged processes see.
const TRUSTED: &[u8] = b"trusted.";
/// The classes of extended attributes that are kept. Access control lists (`system.`) are not: pretending would be
/// worse than saying so.
const CLASSES: [&[u8]; 3] = [b"user.", b"security.", TRUSTED];

/// The kernel hands on any name; local file systems take the classes they know and nothing else.
fn check_class(name: &[u8]) -> Result<()> {
    match CLASSES.iter().find_map(|class| name.strip_prefix(&**class)) {
        Some(b"") => Err(MetaError::Invalid("an attribute's name is empty").into()),
        Some(_) => Ok(()),
        None => Err(FsError::NotSupported),
    }
}
