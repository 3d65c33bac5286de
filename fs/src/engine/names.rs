//! Operations on names.

use bytes::Bytes;
use weldrfs_meta::{Cookie, Ino, MetaError, NewNode, RenameFlags};

use super::{Attr, Caller, Engine, Kind, Result};
use crate::error::FsError;

/// A directory entry as it is listed. `.` and `..` are not among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: Bytes,
    /// What it names.
    pub ino: Ino,
    /// File type.
    pub kind: Kind,
    /// Give this to go on behind the entry; 3 or more.
    pub cookie: u64,
}

impl Engine {
    /// Finds a name.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        match self.past_lookup(parent, name) {
            None => Ok(self.ns.lookup(parent, name)?.into()),
            Some(found) => found,
        }
    }

    /// Finds a name, or says that there is none; only trouble is an error.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENAMETOOLONG`, and trouble.
    pub fn find(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        match self.lookup(parent, name) {
            Ok(found) => Ok(Some(found)),
            Err(FsError::Meta(MetaError::NotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes anything but a directory or a symbolic link.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u32,
        caller: &Caller,
    ) -> Result<Attr> {
        let made = self.make(parent, name, kind, mode, rdev, None, caller)?;
        if kind == Kind::File {
            self.changed(made.ino);
        }
        Ok(made)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Engine::mknod`], and `EMLINK`.
    pub fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: &Caller) -> Result<Attr> {
        self.make(parent, name, Kind::Dir, mode, 0, None, caller)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Engine::mknod`].
    pub fn symlink(
        &self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        caller: &Caller,
    ) -> Result<Attr> {
        self.make(parent, name, Kind::Symlink, 0o777, 0, Some(target), caller)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the arguments of mknod(2) and the two that symlink and mkdir differ in"
    )]
    fn make(
        &self,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u32,
        target: Option<&[u8]>,
        caller: &Caller,
    ) -> Result<Attr> {
        let parent = self.place(parent, name)?;
        let mode = kind.mode_bits() | mode & 0o7777;
        let new = NewNode {
            mode,
            uid: caller.uid,
            gid: caller.gid,
            rdev,
            target,
        };
        Ok(self.ns.create(parent, name, &new, self.now_ns())?.into())
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EPERM`, `EMLINK`.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let parent = self.place(parent, name)?;
        let ino = self.present(ino).map_err(|_| FsError::OtherState)?;
        Ok(self.ns.link(ino, parent, name, self.now_ns())?.into())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL`.
    pub fn readlink(&self, ino: Ino) -> Result<Bytes> {
        match self.past_readlink(ino) {
            None => Ok(Bytes::copy_from_slice(&self.ns.readlink(ino)?)),
            Some(target) => target,
        }
    }

    /// Removes a name.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let parent = self.place(parent, name)?;
        let orphan = self.ns.unlink(parent, name, self.now_ns())?;
        self.orphaned(orphan)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let parent = self.place(parent, name)?;
        let orphan = self.ns.rmdir(parent, name, self.now_ns())?;
        self.orphaned(orphan)
    }

    /// Renames.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `EINVAL`.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        let (parent, new_parent) = (self.place(parent, name)?, self.place(new_parent, new_name)?);
        let orphan = self
            .ns
            .rename(parent, name, new_parent, new_name, flags, self.now_ns())?;
        self.orphaned(orphan)
    }

    /// At most `max` entries behind a cookie, in the directory's order. An empty answer is the end.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn readdir(&self, ino: Ino, after_cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        if let Some(listed) = self.past_readdir(ino, after_cookie, max) {
            return listed;
        }
        if Self::is_listed(after_cookie) {
            return Ok(Vec::new());
        }
        let entries = self.ns.readdir(ino, Cookie(after_cookie), max)?;
        let mut shown = entries.into_iter().map(DirEntry::from).collect();
        self.with_list(ino, max, &mut shown)?;
        Ok(shown)
    }
}

impl From<weldrfs_meta::DirEntry> for DirEntry {
    fn from(e: weldrfs_meta::DirEntry) -> Self {
        Self {
            name: Bytes::copy_from_slice(&e.name),
            ino: e.ino,
            kind: Kind::of_mode(u32::from(e.kind) << 12),
            cookie: e.cookie.0,
        }
    }
}
