//! Reading the volume as it was at a snapshot. Nothing here is cached and nothing changes: whoever asks may remember
//! every answer for as long as the snapshot is there.

use crate::error::{MetaError, Result};
use crate::filemap::Piece;
use crate::ids::{Cookie, Epoch, Ino};
use crate::namespace::{DirEntry, Namespace};
use crate::rows::{InodeRow, MAX_NAME_BYTES, Name};
use crate::sqlite::at::At;

use super::Point;

/// The volume as it was at a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotView<'a> {
    ns: &'a Namespace,
    point: Point,
}

impl<'a> SnapshotView<'a> {
    pub(super) fn open(ns: &'a Namespace, epoch: Epoch) -> Result<Self> {
        let found = ns.snapshots.lock().get(epoch).map(|s| (s.lsn, s.point()));
        let (lsn, point) = found.ok_or(MetaError::NotFound)?;
        ns.checkpoint(lsn)?;
        Ok(Self { ns, point })
    }

    /// Reads with one statement. What it found counts only if the snapshot is still there afterwards: it leaves the list
    /// before what it kept is touched.
    fn read<T>(&self, read: impl FnOnce(At<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let point = self.point;
        let found = self.ns.readers.with(|c| read(At::snapshot(c, point)))?;
        match self.ns.snapshots.lock().get(point.epoch).is_some() {
            true => Ok(found),
            false => Err(MetaError::NotFound),
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `NotFound` when there was no such inode, or the snapshot is gone.
    pub fn getattr(&self, ino: Ino) -> Result<InodeRow> {
        self.read(|at| at.inode(ino))?.ok_or(MetaError::NotFound)
    }

    fn directory(&self, ino: Ino) -> Result<InodeRow> {
        let row = self.getattr(ino)?;
        match row.is_dir() {
            true => Ok(row),
            false => Err(MetaError::NotDir),
        }
    }

    /// The entry `name` of a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NameTooLong`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<InodeRow> {
        if name.len() > MAX_NAME_BYTES {
            return Err(MetaError::NameTooLong);
        }
        match self.read(|at| at.dirent(parent, name))? {
            Some(dirent) => self.getattr(dirent.ino),
            None => Err(self.directory(parent).err().unwrap_or(MetaError::NotFound)),
        }
    }

    /// At most `max` entries behind a cookie, in cookie order. An empty answer is the end.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    pub fn readdir(&self, ino: Ino, after: Cookie, max: usize) -> Result<Vec<DirEntry>> {
        let found = self.read(|at| at.dirents(ino, after, max))?;
        if found.is_empty() {
            self.directory(ino)?;
        }
        Ok(found.iter().map(|(n, d)| DirEntry::new(n, *d)).collect())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when it is no symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        match self.read(|at| at.symlink(ino))? {
            Some(target) => Ok(target),
            None => self
                .getattr(ino)
                .and(Err(MetaError::Invalid("not a symbolic link"))),
        }
    }

    /// All extended attributes, by name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<(Name, Vec<u8>)>> {
        self.getattr(ino)?;
        self.read(|at| at.xattrs(ino))
    }

    /// The size of a file and its runs in `[offset, offset + len)`, clipped to it and to the size. Gaps are holes. Where
    /// the extents lie is told by [`Namespace::location`].
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `Invalid` for what has no content.
    pub fn map(&self, ino: Ino, offset: u64, len: u64) -> Result<(u64, Vec<Piece>)> {
        let row = self.getattr(ino)?;
        if row.is_dir() {
            return Err(MetaError::IsDir);
        }
        if !row.is_file() {
            return Err(MetaError::Invalid("not a regular file"));
        }
        let end = offset.saturating_add(len).min(row.size);
        let runs = self.read(|at| at.runs(ino))?;
        let clipped = runs.iter().filter_map(|run| run.clip(offset, end));
        Ok((row.size, clipped.collect()))
    }
}
