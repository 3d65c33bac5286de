//! What is still written into files that a restore has replaced.
//!
//! From the moment a restore is there until the kernel has forgotten the old names, programs that open one of them write into
//! the replaced file, which has no name any more. Such a write belongs to what was there before: it is moved there, into the
//! snapshot that the restore made of it. Nothing is moved unless something was written, which is noted here.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use crate::error::Result;
use crate::ids::Ino;
use crate::namespace::Namespace;

use super::Restored;

/// The files that the last restore replaced, while it is not over.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    is_watching: AtomicBool,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    watched: FxHashSet<Ino>,
    written: FxHashSet<Ino>,
}

impl Replaced {
    /// Notes what is written into these from now on.
    pub(super) fn watch(&self, inos: &[Ino]) {
        let mut files = self.files.lock();
        files.watched = inos.iter().copied().collect();
        files.written.clear();
        let is_any = !files.watched.is_empty();
        self.is_watching.store(is_any, Ordering::Release);
    }

    /// Ends it, and tells what was written.
    pub(super) fn end(&self) -> Vec<Ino> {
        let mut files = self.files.lock();
        self.is_watching.store(false, Ordering::Release);
        let found = std::mem::take(&mut *files);
        let mut written: Vec<Ino> = found.written.into_iter().collect();
        written.sort_unstable();
        written
    }

    /// Whether anything is watched at all: the only question that other mutations ask.
    pub(crate) fn is_watching(&self) -> bool {
        self.is_watching.load(Ordering::Acquire)
    }

    /// Whether what is written into this inode is noted.
    pub(crate) fn watches(&self, ino: Ino) -> bool {
        self.is_watching() && self.files.lock().watched.contains(&ino)
    }

    /// An inode was changed.
    pub(crate) fn note(&self, ino: Ino) {
        let mut files = self.files.lock();
        if files.watched.contains(&ino) {
            files.written.insert(ino);
        }
    }
}

impl Namespace {
    /// Puts what was written into files that a restore replaced, since then, into the snapshot of what was there before.
    /// To be called when nobody finds the old names any more, and before the files are reclaimed. Returns how many files
    /// there were.
    ///
    /// # Errors
    /// When SQLite fails: what was written is only in files without a name then.
    pub fn keep_late_writes(&self, restored: &Restored, now_ns: i64) -> Result<usize> {
        // Nothing that a snapshot keeps may go while somebody plans with it, and no replaced file before it was looked at.
        let _held = self.holding.lock();
        let written = self.replaced.end();
        let Some(safety) = restored.safety.as_ref().filter(|_| !written.is_empty()) else {
            return Ok(0);
        };
        self.checkpoint(self.acknowledged())?;
        let kept = self.checkpointer.backdate(safety.epoch, written)?;
        self.note_bulk(now_ns);
        Ok(kept)
    }
}
