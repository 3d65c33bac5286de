//! Operations on names.

use bytes::Bytes;
use weldrfs_meta::{Cookie, Ino, NewNode, RenameFlags};

use super::{Attr, Caller, Engine, Kind, Result};

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
        Ok(self.ns.lookup(parent, name)?.into())
    }

    /// Finds a name, or says that there is none; only trouble is an error.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENAMETOOLONG`, and trouble.
    pub fn find(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        match self.ns.lookup(parent, name) {
            Ok(row) => Ok(Some(row.into())),
            Err(weldrfs_meta::MetaError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
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
        Ok(self.ns.link(ino, parent, name, self.now_ns())?.into())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL`.
    pub fn readlink(&self, ino: Ino) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(&self.ns.readlink(ino)?))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let orphan = self.ns.unlink(parent, name, self.now_ns())?;
        self.orphaned(orphan)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let orphan = self.ns.rmdir(parent, name, self.now_ns())?;
        self.orphaned(Some(orphan))
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
        let entries = self.ns.readdir(ino, Cookie(after_cookie), max)?;
        let shown = entries.into_iter().map(|e| DirEntry {
            name: Bytes::copy_from_slice(&e.name),
            ino: e.ino,
            kind: Kind::of_mode(u32::from(e.kind) << 12),
            cookie: e.cookie.0,
        });
        Ok(shown.collect())
    }
}
