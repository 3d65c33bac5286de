//! Making things: files, directories, links, device nodes.

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::{Ino, ROOT_INO};
use crate::rows::{InodeRow, MAX_LINKS, MAX_SYMLINK_BYTES};

use super::Namespace;
use super::tx::{Tx, check_name};

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// File type and permission bits, as in `st_mode`; the umask has been applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory passes on its own.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Option<&'a [u8]>,
}

impl Namespace {
    /// Makes an inode under a name that must be free.
    ///
    /// # Errors
    /// `Exists`, `NotFound` or `NotDir` for the parent, `NameTooLong`, `TooManyLinks`, `Invalid`.
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        new: &NewNode<'_>,
        now_ns: i64,
    ) -> Result<InodeRow> {
        if let Some(target) = new.target
            && (target.is_empty() || target.len() > MAX_SYMLINK_BYTES)
        {
            return Err(if target.is_empty() {
                MetaError::NotFound
            } else {
                MetaError::NameTooLong
            });
        }
        let mut tx = self.begin_growing(now_ns)?;
        let dir = tx.dir(parent)?;
        check_name(name)?;
        if tx.find(dir, name)?.is_some() {
            return Err(MetaError::Exists);
        }
        let dir_row = *tx.row(dir);
        let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let row = tx.make(new_row(new, &dir_row, is_dir, now_ns));
        tx.add_entry(dir, name, row.ino, row.kind());
        if is_dir {
            tx.row_mut(dir).nlink += 1;
        }
        if let Some(target) = new.target {
            tx.changes.push(Change::PutSymlink {
                ino: row.ino,
                target: target.to_vec(),
            });
        }
        tx.commit()?;
        Ok(row)
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotPermitted` for a directory, `TooManyLinks`.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8], now_ns: i64) -> Result<InodeRow> {
        let mut tx = self.begin_growing(now_ns)?;
        let dir = tx.dir(parent)?;
        check_name(name)?;
        let at = tx.get(ino)?;
        let row = *tx.row(at);
        if row.is_dir() {
            return Err(MetaError::NotPermitted);
        }
        if tx.find(dir, name)?.is_some() {
            return Err(MetaError::Exists);
        }
        if row.nlink == 0 {
            return Err(MetaError::NotFound);
        }
        if row.nlink >= MAX_LINKS {
            return Err(MetaError::TooManyLinks);
        }
        tx.add_entry(dir, name, ino, row.kind());
        let row = tx.row_mut(at);
        row.nlink += 1;
        row.ctime_ns = now_ns;
        let row = *row;
        tx.commit()?;
        Ok(row)
    }

    /// Makes the root directory of a new volume.
    pub(crate) fn create_root(&self, uid: u32, gid: u32, now_ns: i64) -> Result<()> {
        let mut tx: Tx<'_> = self.begin_growing(now_ns)?;
        let new = NewNode {
            mode: libc::S_IFDIR | 0o755,
            uid,
            gid,
            rdev: 0,
            target: None,
        };
        self.numbers
            .ino
            .store(ROOT_INO.0, std::sync::atomic::Ordering::Release);
        let root = new_row(
            &new,
            &InodeRow {
                ino: ROOT_INO,
                mode: 0,
                ..blank()
            },
            true,
            now_ns,
        );
        tx.make(root);
        tx.commit()?;
        Ok(())
    }
}

fn blank() -> InodeRow {
    InodeRow {
        ino: Ino(0),
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        btime_ns: 0,
        parent: Ino(0),
        entries_hash: 0,
        next_cookie: 0,
    }
}

/// First cookie of a directory: `.` and `..` come before it.
pub(crate) const FIRST_COOKIE: u64 = 3;

fn new_row(new: &NewNode<'_>, dir: &InodeRow, is_dir: bool, now_ns: i64) -> InodeRow {
    // A set-group-id directory hands its group to what is made in it, and the bit to its subdirectories.
    let passes_group = dir.mode & libc::S_ISGID != 0;
    let mode = if passes_group && is_dir {
        new.mode | libc::S_ISGID
    } else {
        new.mode
    };
    InodeRow {
        mode,
        uid: new.uid,
        gid: if passes_group { dir.gid } else { new.gid },
        nlink: if is_dir { 2 } else { 1 },
        rdev: new.rdev,
        size: new.target.map_or(0, |t| t.len() as u64),
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        btime_ns: now_ns,
        parent: if is_dir { dir.ino } else { Ino(0) },
        next_cookie: if is_dir { FIRST_COOKIE } else { 0 },
        ..blank()
    }
}
