//! The end of inodes that have no name.

use crate::error::{MetaError, Result};
use crate::ids::{Ino, Lsn};
use crate::sqlite::read;

use super::Namespace;

/// Inodes that are reclaimed by one record.
const BATCH: usize = 256;

impl Namespace {
    /// Removes inodes for good that have no name, are not in the trash, and that nobody holds any more. Others are left
    /// alone.
    ///
    /// # Errors
    /// What a commit can fail with; the orphans not reached stay and are found again at the next mount.
    pub fn reclaim(&self, inos: &[Ino], now_ns: i64) -> Result<()> {
        for batch in inos.chunks(BATCH) {
            let mut tx = self.begin(now_ns)?;
            for ino in batch {
                match tx.get(*ino) {
                    Ok(at) if tx.row(at).is_trashed_file() => {}
                    Ok(at) if tx.row(at).nlink == 0 => tx.drop_inode(at),
                    Ok(_) | Err(MetaError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            tx.commit()?;
        }
        Ok(())
    }

    /// Orphans that a former process left behind.
    pub(crate) fn reclaim_inherited(&self, now_ns: i64) -> Result<usize> {
        let orphans = self.readers.with(read::orphans)?;
        self.reclaim(&orphans, now_ns)?;
        Ok(orphans.len())
    }

    /// The last operation in SQLite.
    pub fn checkpointed(&self) -> Lsn {
        self.checkpointer.done()
    }
}
