//! The namespace: one method per operation, POSIX rules included, on top of cache, overlay, journal and SQLite.
//!
//! A mutation holds the commit lock from its first look to its last change, so the journal's order is memory's order.
//! Readers take one node's lock at a time and never the commit lock. Nothing here touches file contents or a network.

mod attr;
mod create;
mod load;
mod orphan;
mod places;
mod readdir;
mod remove;
mod rename;
mod runs;
mod tx;
mod xattr;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashSet;

use crate::cache::Cache;
use crate::checkpoint::Checkpointer;
use crate::error::{MetaError, Result};
use crate::flusher::Flusher;
use crate::ids::{Ino, Lsn};
use crate::journal::Journal;
use crate::overlay::Overlay;
use crate::reserve::Reserve;
use crate::rows::InodeRow;
use crate::settings::{DataBarrier, MetaSettings, Permit};
use crate::snapshot::{Replaced, Snapshots};
use crate::sqlite::open::Readers;
use crate::sqlite::write::Counters;
use crate::trash::Trash;

pub use attr::{AttrChange, TimeSet};
pub(crate) use create::FIRST_COOKIE;
pub use create::NewNode;
pub use readdir::DirEntry;
pub use rename::RenameFlags;
pub use runs::{ExtendSums, FallocMode, SeekTo, WriteAt};
pub(crate) use tx::{Tx, check_name, ino_of, ms_of};
pub use xattr::XattrMode;

/// What only a mutation moves.
#[derive(Debug)]
pub(crate) struct CommitState {
    pub(crate) next_epoch: u64,
    /// Files with so many runs that rewriting them would pay.
    pub(crate) fragmented: FxHashSet<Ino>,
    /// Directories that were made since the last publication and of which something is in the trash.
    pub(crate) young_dirs: FxHashSet<Ino>,
}

/// Numbers that are given once. Only a mutation takes one, under the commit lock; a checkpoint reads them without it:
/// what it writes was numbered before it was sealed.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub(crate) ino: AtomicU64,
    pub(crate) extent: AtomicU64,
}

impl Numbers {
    /// The next inode number that will be given.
    pub(crate) fn next_ino(&self) -> Ino {
        Ino(self.ino.load(Ordering::Acquire))
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            next_ino: self.next_ino().0,
            next_extent: self.extent.load(Ordering::Acquire),
        }
    }
}

/// A volume's namespace. Made with [`Namespace::open`].
pub struct Namespace {
    pub(crate) settings: MetaSettings,
    pub(crate) journal: Journal,
    pub(crate) overlay: Overlay,
    pub(crate) readers: Readers,
    pub(crate) cache: Cache,
    pub(crate) barrier: Arc<dyn DataBarrier>,
    pub(crate) commit: Mutex<CommitState>,
    pub(crate) numbers: Numbers,
    pub(crate) snapshots: Mutex<Snapshots>,
    pub(crate) replaced: Replaced,
    /// Held while extents may be in use that no table names: nothing that a snapshot keeps may go.
    pub(crate) holding: Mutex<()>,
    pub(crate) checkpointer: Checkpointer,
    /// Held by the one thread that flushes for all who wait.
    pub(crate) group: Mutex<()>,
    /// Used by that one.
    pub(crate) flusher: Flusher,
    /// Writers that wait at a cap, woken by every checkpoint.
    pub(crate) room: (Mutex<()>, Condvar),
    pub(crate) inodes: AtomicI64,
    pub(crate) bytes: AtomicI64,
    pub(crate) read_only: Mutex<Option<String>>,
    /// Asked before every mutation; unset, nobody else can have the volume.
    pub(crate) permit: OnceLock<Arc<dyn Permit>>,
    pub(crate) reserve: Reserve,
    pub(crate) trash: Trash,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("dir", &self.settings.dir)
            .finish_non_exhaustive()
    }
}

/// How much there is, and how far behind the disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Inodes, orphans included and those in the trash left out.
    pub inodes: u64,
    /// Bytes mapped by these.
    pub bytes: u64,
    /// Inodes that are in the trash and have no name besides.
    pub trash_inodes: u64,
    /// Bytes mapped by these.
    pub trash_bytes: u64,
    /// Last operation acknowledged.
    pub acknowledged: Lsn,
    /// Last operation known to be on the local disk.
    pub durable: Lsn,
    /// Last operation in SQLite.
    pub checkpointed: Lsn,
    /// Records that wait for a checkpoint.
    pub waiting_records: usize,
    /// Bytes of memory of what waits for a checkpoint.
    pub waiting_bytes: usize,
    /// Bytes of the journal files.
    pub journal_bytes: u64,
    /// Bytes of the inode and directory cache.
    pub cache_bytes: usize,
}

impl Namespace {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// `NotFound` when there is no such inode.
    pub fn getattr(&self, ino: Ino) -> Result<InodeRow> {
        self.read(ino, |state| state.row)
    }

    /// The entry `name` of a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NameTooLong`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<InodeRow> {
        let dirent = self.find(parent, name)?.ok_or(MetaError::NotFound)?;
        self.getattr(dirent.ino)
    }

    /// The last operation that was acknowledged.
    pub fn acknowledged(&self) -> Lsn {
        self.journal.last()
    }

    /// Makes everything up to `upto` durable: data first, then the journal. Many callers share one flush.
    ///
    /// # Errors
    /// `ReadOnly` once a flush has failed: it is never retried into success.
    pub fn flush(&self, upto: Lsn) -> Result<()> {
        if self.journal.durable() >= upto {
            return self.check_journal();
        }
        let _leader = self.group.lock();
        if self.journal.durable() >= upto {
            return self.check_journal();
        }
        // Whatever was acknowledged by now comes along: those who wait behind this flush need none of their own.
        let upto = self.journal.last();
        let (data, records) = match self.barrier.is_flushed() {
            true => (Ok(()), self.journal.flush(upto)),
            false => self.flusher.beside(|| self.journal.flush(upto)),
        };
        if let Err(error) = data {
            return Err(self.journal.fail(format!("flushing data failed: {error}")));
        }
        self.journal.note_durable(records?);
        Ok(())
    }

    /// A read-only mount may flush; one whose disk failed has nothing to promise.
    fn check_journal(&self) -> Result<()> {
        self.journal
            .failure()
            .map_or(Ok(()), |why| Err(MetaError::ReadOnly(why)))
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_journal()?;
        let why = self.read_only.lock().clone();
        why.map_or(Ok(()), |why| Err(MetaError::ReadOnly(why)))
    }

    /// From now on every mutation asks for leave first.
    pub fn set_permit(&self, permit: Arc<dyn Permit>) {
        // A volume has one lease.
        let _ = self.permit.set(permit);
    }

    fn is_permitted(&self) -> bool {
        self.permit.get().is_none_or(|permit| permit.holds())
    }

    /// Waits for leave to change something.
    pub(crate) fn wait_for_permit(&self) -> Result<()> {
        match self.permit.get() {
            Some(permit) if !permit.holds() => permit.wait().map_err(MetaError::ReadOnly),
            _ => Ok(()),
        }
    }

    /// Refuses mutations from now on. The one that is being committed has ended when this returns.
    pub fn set_read_only(&self, why: Option<String>) {
        *self.read_only.lock() = why;
        drop(self.commit.lock());
    }

    /// Why mutations are refused, if they are.
    pub fn read_only(&self) -> Option<String> {
        self.check_writable().err().map(|e| match e {
            MetaError::ReadOnly(why) => why,
            other => other.to_string(),
        })
    }

    /// How much there is.
    pub fn usage(&self) -> Usage {
        let (waiting_records, waiting_bytes) = self.overlay.waiting();
        let (trash_inodes, trash_bytes) = self.trash.held();
        let rest = |all: &AtomicI64, trash: u64| {
            let all = all.load(Ordering::Relaxed).max(0) as u64;
            all.saturating_sub(trash)
        };
        Usage {
            inodes: rest(&self.inodes, trash_inodes),
            bytes: rest(&self.bytes, trash_bytes),
            trash_inodes,
            trash_bytes,
            acknowledged: self.journal.last(),
            durable: self.journal.durable(),
            checkpointed: self.checkpointer.done(),
            waiting_records,
            waiting_bytes,
            journal_bytes: self.journal.bytes(),
            cache_bytes: self.cache.bytes(),
        }
    }

    /// Drops every clean row from memory.
    pub fn drop_caches(&self) {
        self.cache.clear();
    }

    /// Files that have more runs than is good for them, once.
    pub fn take_fragmented(&self) -> Vec<Ino> {
        self.commit.lock().fragmented.drain().collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
