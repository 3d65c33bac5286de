//! Snapshots: making, listing and removing them. What is in one is told by `view`, what changed since by `diff`.
//!
//! Making one is a record in the journal and nothing else. The old rows are kept by whoever writes to SQLite
//! (`sqlite::capture`), never by an operation.

mod bulk;
mod clone;
mod diff;
pub(crate) mod edit;
mod late;
mod order;
mod plan;
mod restore;
mod successors;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::collections::BTreeMap;

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::{Epoch, Ino, Lsn, ROOT_INO};
use crate::namespace::{Namespace, check_name};

pub(crate) use bulk::Bulk;
pub use clone::CloneTo;
pub use diff::Difference;
pub use edit::EntryChange;
pub(crate) use late::Replaced;
pub use order::Order;
pub use restore::Restored;
pub use view::SnapshotView;

/// Longest note and longest owner of a snapshot, bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Most snapshots that a volume has.
const MAX_SNAPSHOTS: usize = 10_000;
/// Snapshots that may wait for the checkpointer; the next one waits for it.
const MAX_WAITING: usize = 64;

/// What a new snapshot is called.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewSnapshot {
    /// Unique in the volume, and a name that a directory could have.
    pub name: String,
    /// Why it was made.
    pub note: String,
    /// Who made it.
    pub owner: String,
    /// Whether it stays until somebody removes it; others are thinned out by age.
    pub kept: bool,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
}

impl NewSnapshot {
    pub(crate) fn made(self, epoch: Epoch, next_ino: Ino, lsn: Lsn) -> Snapshot {
        Snapshot {
            epoch,
            next_ino,
            lsn,
            name: self.name,
            note: self.note,
            owner: self.owner,
            kept: self.kept,
            made_ms: self.made_ms,
        }
    }

    fn check(&self) -> Result<()> {
        check_name(self.name.as_bytes())?;
        if self.note.len() > MAX_TEXT_BYTES || self.owner.len() > MAX_TEXT_BYTES {
            return Err(MetaError::Invalid(
                "a note or an owner of more than 4096 bytes",
            ));
        }
        Ok(())
    }
}

/// A snapshot: the volume as it was before one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Its number.
    pub epoch: Epoch,
    /// The first inode number that is not in it.
    pub next_ino: Ino,
    /// The operation that made it: everything before it is in the snapshot.
    pub lsn: Lsn,
    /// Its name.
    pub name: String,
    /// Why it was made.
    pub note: String,
    /// Who made it.
    pub owner: String,
    /// Whether it stays until somebody removes it.
    pub kept: bool,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
}

impl Snapshot {
    pub(crate) fn point(&self) -> Point {
        Point {
            epoch: self.epoch,
            next_ino: self.next_ino,
        }
    }
}

/// Where in the history a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Point {
    pub(crate) epoch: Epoch,
    /// Inodes from this number on came later, with everything that belongs to them.
    pub(crate) next_ino: Ino,
}

/// The snapshots that there are.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    all: BTreeMap<Epoch, Snapshot>,
    /// One that is being removed: its name is still taken, and nobody may read it any more.
    leaving: Option<Epoch>,
}

impl Snapshots {
    pub(crate) fn new(all: Vec<Snapshot>) -> Self {
        Self {
            all: all.into_iter().map(|s| (s.epoch, s)).collect(),
            leaving: None,
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Snapshot> {
        let leaving = self.leaving;
        self.all.values().filter(move |s| Some(s.epoch) != leaving)
    }

    pub(crate) fn get(&self, epoch: Epoch) -> Option<&Snapshot> {
        let found = self.all.get(&epoch)?;
        (self.leaving != Some(epoch)).then_some(found)
    }
}

impl Namespace {
    /// Makes a snapshot of everything acknowledged so far. Takes as long as any other operation, however much there is.
    ///
    /// # Errors
    /// `Exists` when the name is taken, `NameTooLong` and `Invalid` for what cannot be one; what a commit can fail with.
    pub fn create_snapshot(&self, new: NewSnapshot) -> Result<Snapshot> {
        self.create_snapshot_on(&Order::default(), new)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `TakenBack`.
    pub fn create_snapshot_on(&self, order: &Order, new: NewSnapshot) -> Result<Snapshot> {
        new.check()?;
        if self.overlay.sealed() >= MAX_WAITING {
            self.checkpoint(self.acknowledged())?;
        }
        let now_ns = i64::try_from(new.made_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        let mut tx = self.begin_growing(now_ns)?;
        let next_ino = self.numbers.next_ino();
        order.begin()?;
        tx.mark(new, next_ino)
    }

    /// The volume as it was at a snapshot, to be read. Brings into SQLite what was acknowledged before it was made.
    ///
    /// # Errors
    /// `NotFound` when there is no such snapshot; why the checkpoint failed.
    pub fn at(&self, epoch: Epoch) -> Result<SnapshotView<'_>> {
        SnapshotView::open(self, epoch)
    }

    fn point(&self, epoch: Epoch) -> Result<Point> {
        let found = self.snapshots.lock().get(epoch).map(Snapshot::point);
        found.ok_or(MetaError::NotFound)
    }

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.snapshots.lock().iter().cloned().collect()
    }

    /// The snapshot of a name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let snapshots = self.snapshots.lock();
        let found = snapshots.iter().find(|s| s.name == name);
        found.cloned().ok_or(MetaError::NotFound)
    }

    /// Removes a snapshot. What only it needed goes, what an older one needs too stays.
    ///
    /// # Errors
    /// `NotFound`, and why SQLite could not do it: it is still there then.
    pub fn remove_snapshot(&self, name: &str, now_ns: i64) -> Result<()> {
        // Whoever may not write may not remove either; writers go on meanwhile, so the lock is given back.
        drop(self.begin(now_ns)?);
        // What a restore names may only be named by the snapshot until SQLite has the restored rows.
        let _held = self.holding.lock();
        let epoch = self.snapshot(name)?.epoch;
        self.checkpoint(self.acknowledged())?;
        // From here on nobody reads it: half of what it kept may be an older one's.
        self.snapshots.lock().leaving = Some(epoch);
        let result = self.checkpointer.remove_snapshot(epoch);
        if let Err(MetaError::Closed) = result {
            // Whether it happened the next start will tell.
            return Err(self
                .journal
                .fail("the removal of a snapshot did not end".into()));
        }
        {
            let mut snapshots = self.snapshots.lock();
            snapshots.leaving = None;
            if result.is_ok() {
                snapshots.all.remove(&epoch);
            }
        }
        result?;
        self.note_bulk(now_ns);
        Ok(())
    }

    /// Notes in the journal that the tables changed by themselves, so that the history goes on and is published.
    fn note_bulk(&self, now_ns: i64) {
        let noted = self.begin(now_ns).and_then(|mut tx| {
            tx.changes.push(Change::Bulk(ROOT_INO));
            tx.commit()
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "a change of the tables is not noted; the next operation makes up for it");
        }
    }
}

impl crate::namespace::Tx<'_> {
    /// Makes the snapshot, and nothing else; the mutation can go on. No inode that there is has `next_ino` or a greater
    /// number.
    fn mark(&mut self, new: NewSnapshot, next_ino: Ino) -> Result<Snapshot> {
        let ns = self.namespace();
        let is_taken = |s: &Snapshot| s.name == new.name;
        {
            let snapshots = ns.snapshots.lock();
            if snapshots.all.values().any(is_taken) {
                return Err(MetaError::Exists);
            }
            if snapshots.all.len() >= MAX_SNAPSHOTS {
                return Err(MetaError::TooManySnapshots(MAX_SNAPSHOTS));
            }
        }
        let epoch = Epoch(self.state.next_epoch);
        self.changes.push(Change::PutSnapshot {
            epoch,
            next_ino,
            new: new.clone(),
        });
        self.state.next_epoch += 1;
        let lsn = self.settle()?;
        let snapshot = new.made(epoch, next_ino, lsn);
        ns.snapshots.lock().all.insert(epoch, snapshot.clone());
        ns.trash.grown_up(next_ino);
        Ok(snapshot)
    }
}
