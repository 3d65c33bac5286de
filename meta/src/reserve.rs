//! Space that is kept for a full disk: giving it up lets one more checkpoint through, which frees the journal.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes kept. A checkpoint of the largest dirty set fits into SQLite's log with it.
const RESERVE_BYTES: u64 = 32 << 20;
/// It is made again once this many times as much is free.
const FREE_FOR_ANOTHER: u64 = 4;

/// The file `reserve`.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    /// It was given up and is not there again.
    used: AtomicBool,
}

impl Reserve {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join("reserve"),
            used: AtomicBool::new(false),
        }
    }

    /// Gives the space back to the disk. Returns whether there was any.
    pub(crate) fn give_up(&self) -> bool {
        let gave = fs::remove_file(&self.path).is_ok();
        self.used.fetch_or(gave, Ordering::AcqRel);
        gave
    }

    /// Whether the disk is so full that only what makes room may go on.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Takes it, if there is plenty. A disk that is too small for one works without.
    pub(crate) fn take(&self) {
        if self.path.exists() || !self.is_affordable() {
            return;
        }
        let made = File::create(&self.path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?));
        match made {
            Ok(()) => self.used.store(false, Ordering::Release),
            Err(error) => {
                tracing::debug!(%error, "no reserve for a full disk");
                // Half a reserve only takes room.
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    fn is_affordable(&self) -> bool {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        statvfs(dir).is_ok_and(|v| {
            v.f_bavail.saturating_mul(v.f_frsize) >= RESERVE_BYTES * FREE_FOR_ANOTHER
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_takes_its_space_once_and_gives_it_back_once() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path());
        assert!(!reserve.give_up());
        reserve.take();
        reserve.take();
        let held = fs::metadata(dir.path().join("reserve")).unwrap();
        assert!(held.blocks() * 512 >= RESERVE_BYTES);
        assert!(!reserve.is_used());
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
        assert!(reserve.is_used());
        reserve.take();
        assert!(!reserve.is_used());
    }
}
