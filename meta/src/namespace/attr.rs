//! Changing attributes: mode, owner, times, size.

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::Ino;
use crate::rows::{InodeRow, MAX_FILE_BYTES, Name};

use super::Namespace;
use super::tx::{At, Tx};

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeSet {
    /// The time of the operation.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// What to change of an inode; `None` leaves a thing alone.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AttrChange {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes, of a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeSet>,
    /// Last change of the content.
    pub mtime: Option<TimeSet>,
    /// Last change of the inode, when it is not the time of the operation.
    pub ctime_ns: Option<i64>,
    /// With `size`: the caller may not keep set-id bits and capabilities.
    pub kill_priv: bool,
}

/// The extended attribute that holds file capabilities.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

impl Namespace {
    /// Changes attributes and returns them all.
    ///
    /// # Errors
    /// `NotFound`; for a size `IsDir`, `Invalid` or `TooLarge`.
    pub fn setattr(&self, ino: Ino, change: &AttrChange, now_ns: i64) -> Result<InodeRow> {
        let mut tx = self.begin(now_ns)?;
        let at = tx.get(ino)?;
        if let Some(size) = change.size {
            tx.file(ino)?;
            self.resize(&mut tx, at, size)?;
            if change.kill_priv {
                self.kill_priv(&mut tx, at, true)?;
            }
        }
        let row = tx.row_mut(at);
        if let Some(mode) = change.mode {
            row.mode = row.mode & libc::S_IFMT | mode & 0o7777;
        }
        let owned = change.uid.is_some() || change.gid.is_some();
        row.uid = change.uid.unwrap_or(row.uid);
        row.gid = change.gid.unwrap_or(row.gid);
        let set = |time: Option<TimeSet>, old: i64| match time {
            None => old,
            Some(TimeSet::Now) => now_ns,
            Some(TimeSet::At(ns)) => ns,
        };
        row.atime_ns = set(change.atime, row.atime_ns);
        row.mtime_ns = set(change.mtime, row.mtime_ns);
        row.ctime_ns = change.ctime_ns.unwrap_or(now_ns);
        let is_dir = row.is_dir();
        if owned && !is_dir {
            self.kill_priv(&mut tx, at, change.mode.is_none())?;
        }
        let row = *tx.row(at);
        tx.commit()?;
        Ok(row)
    }

    /// What POSIX and Linux take from a file that somebody without privilege writes to, or whose owner changes:
    /// set-user-id, set-group-id where the group may execute, and file capabilities. Capabilities go in any case, set-id
    /// bits only with `mode_too`.
    pub(super) fn kill_priv(&self, tx: &mut Tx<'_>, at: At, mode_too: bool) -> Result<()> {
        let row = tx.row_mut(at);
        if mode_too {
            row.mode &= !libc::S_ISUID;
            if row.mode & libc::S_IXGRP != 0 {
                row.mode &= !libc::S_ISGID;
            }
        }
        let ino = row.ino;
        let node = tx.node(at);
        let has = {
            let mut state = node.state.write();
            self.load_xattrs(&mut state)?.contains_key(CAPABILITY)
        };
        if has {
            tx.changes.push(Change::DelXattr {
                ino,
                name: Name::from(CAPABILITY),
            });
        }
        Ok(())
    }

    pub(super) fn resize(&self, tx: &mut Tx<'_>, at: At, size: u64) -> Result<()> {
        if size > MAX_FILE_BYTES {
            return Err(MetaError::TooLarge);
        }
        let row = *tx.row(at);
        let mut freed = 0;
        if size < row.size {
            let node = tx.node(at);
            let mut state = node.state.write();
            let (changes, bytes) = self.load_runs(&mut state)?.plan_truncate(row.ino, size);
            freed = bytes;
            tx.changes.extend(changes);
        }
        let now = tx.now_ns;
        let row = tx.row_mut(at);
        row.size = size;
        row.allocated -= freed.min(row.allocated);
        row.mtime_ns = now;
        row.ctime_ns = now;
        Ok(())
    }
}
