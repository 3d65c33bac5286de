//! Removing names.

use crate::error::{MetaError, Result};
use crate::ids::Ino;

use super::Namespace;
use super::tx::check_name;

impl Namespace {
    /// Removes a name of anything but a directory. Returns the inode when this was its last name and it is not in the
    /// trash: it is an orphan now and lives until [`Namespace::reclaim`].
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `IsDir`.
    pub fn unlink(&self, parent: Ino, name: &[u8], now_ns: i64) -> Result<Option<Ino>> {
        let mut tx = self.begin(now_ns)?;
        let dir = tx.dir(parent)?;
        check_name(name)?;
        let dirent = tx.find(dir, name)?.ok_or(MetaError::NotFound)?;
        let at = tx.get(dirent.ino)?;
        if tx.row(at).is_dir() {
            return Err(MetaError::IsDir);
        }
        tx.remove_entry(dir, name, dirent);
        let orphan = tx.unlink_inode(at, dir, name);
        tx.commit()?;
        Ok(orphan)
    }

    /// Removes an empty directory. Returns its inode unless it is in the trash: an orphan now.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`.
    pub fn rmdir(&self, parent: Ino, name: &[u8], now_ns: i64) -> Result<Option<Ino>> {
        let mut tx = self.begin(now_ns)?;
        let dir = tx.dir(parent)?;
        check_name(name)?;
        let dirent = tx.find(dir, name)?.ok_or(MetaError::NotFound)?;
        let at = tx.dir(dirent.ino)?;
        if tx.row(at).size != 0 {
            return Err(MetaError::NotEmpty);
        }
        tx.remove_entry(dir, name, dirent);
        tx.row_mut(dir).nlink -= 1;
        let orphan = tx.unlink_inode(at, dir, name);
        tx.commit()?;
        Ok(orphan)
    }
}
