//! Bringing back what a snapshot has: everything, a directory or one file, in place, all at once and undoable.
//!
//! Owns the order of things around it; what has to change is worked out by `plan`.

use crate::error::Result;
use crate::ids::{Epoch, Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::sqlite::at::At;

use super::edit::{Edit, EntryChange};
use super::plan::plan;
use super::{NewSnapshot, Order, Snapshot};

/// What a restore did, for whoever has to tell the kernel.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The snapshot of what was there before; none when there was nothing to restore.
    pub safety: Option<Snapshot>,
    /// Entries that were added, replaced or removed in directories that were there before.
    pub entries: Vec<EntryChange>,
    /// How many names were added, replaced or removed, those in directories that were made included.
    pub names: u64,
    /// Inodes from before whose attributes have changed.
    pub inodes: Vec<Ino>,
    /// Those of them that have no name any more: to be reclaimed when nobody holds them.
    pub orphans: Vec<Ino>,
}

impl Namespace {
    /// Makes everything at and below a path what it was at a snapshot, all at once, and before that a snapshot of the
    /// present. An empty path is everything. Directories above the path that are missing are made again.
    ///
    /// # Errors
    /// `NotFound` when there is no such snapshot or it has no such path, `NotDir` when a file is in the way of a
    /// directory above it, `Exists` and `Invalid` for the name of the safety snapshot. Nothing was restored then, but
    /// the safety snapshot may be there.
    pub fn restore(
        &self,
        from: Epoch,
        path: &[u8],
        safety: NewSnapshot,
        now_ns: i64,
    ) -> Result<Restored> {
        self.restore_on(&Order::default(), from, path, safety, now_ns)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `TakenBack`.
    pub fn restore_on(
        &self,
        order: &Order,
        from: Epoch,
        path: &[u8],
        safety: NewSnapshot,
        now_ns: i64,
    ) -> Result<Restored> {
        safety.check()?;
        let _held = self.holding.lock();
        let from = self.point(from)?;
        // Most of it while others go on.
        self.checkpoint(self.acknowledged())?;
        let mut tx = self.begin_growing(now_ns)?;
        tx.rest()?;
        // What the restore makes is not in the snapshot of the present.
        let next_ino = self.numbers.next_ino();
        let edited = {
            let mut number = || tx.next_ino();
            self.look(|c| {
                let edit = Edit::new(At::present(c), now_ns, &mut number);
                plan(At::snapshot(c, from), edit, path)
            })?
        };
        if edited.changes.is_empty() {
            return Ok(Restored::default());
        }
        // Working it out may have taken longer than the lease holds.
        self.wait_for_permit()?;
        order.begin()?;
        let safety = tx.mark(safety, next_ino)?;
        tx.rest()?;
        self.replaced.watch(&edited.replaced);
        if let Err(error) = tx.commit_bulk(&edited, ROOT_INO) {
            self.replaced.watch(&[]);
            return Err(error);
        }
        Ok(Restored {
            safety: Some(safety),
            names: edited.entries.len() as u64 + edited.inner,
            entries: edited.entries,
            inodes: edited.inodes,
            orphans: edited.orphans.to_vec(),
        })
    }
}
