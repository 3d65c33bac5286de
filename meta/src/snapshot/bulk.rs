//! Changing many rows at once: one transaction of SQLite, between two operations of the journal.
//!
//! Whoever does it holds the commit lock and has everything acknowledged in SQLite, so there is nothing in the overlay
//! that could stand in front of the rows, and nothing in the journal that could be replayed over them. A crash finds all
//! of it or nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::Ino;
use crate::namespace::{Namespace, Tx, ino_of};

use super::edit::Edited;

impl Namespace {
    /// Looks at the tables as they are, in one state. The caller has brought into them what it wants to see.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.readers.with(|c| {
            let t = c.unchecked_transaction()?;
            Ok(look(&t))
        })?
    }
}

/// What is to be written.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub(crate) changes: Arc<Vec<Change>>,
    /// Inodes that have no name any more.
    pub(crate) orphans: Arc<Vec<Ino>>,
}

impl Bulk {
    fn of(edited: &Edited) -> Self {
        Self {
            changes: Arc::clone(&edited.changes),
            orphans: Arc::clone(&edited.orphans),
        }
    }
}

impl Tx<'_> {
    /// Brings everything into SQLite while nobody can add to it.
    pub(crate) fn rest(&self) -> Result<()> {
        let ns = self.namespace();
        ns.checkpoint(ns.acknowledged())
    }

    /// Makes an edit real. Everything is in SQLite, and the edit was made of what is there.
    ///
    /// # Errors
    /// Nothing has happened then.
    pub(crate) fn commit_bulk(mut self, edited: &Edited, below: Ino) -> Result<()> {
        let ns = self.namespace();
        // Who reads directories meanwhile would see rows that do not fit together.
        let mut nodes = Vec::with_capacity(edited.dirs.len());
        for ino in &edited.dirs {
            nodes.push(ns.node(*ino)?);
        }
        let mut locked: FxHashMap<Ino, _> =
            nodes.iter().map(|n| (n.ino, n.state.write())).collect();
        match ns.checkpointer.bulk(Bulk::of(edited)) {
            // It has begun, and how it ends nobody will hear: memory cannot follow any more.
            Err(MetaError::Closed) => {
                return Err(ns.journal.fail("a change of many rows did not end".into()));
            }
            result => result?,
        }
        for change in edited.changes.iter() {
            let Some(ino) = ino_of(change) else { continue };
            if let Some(state) = locked.get_mut(&ino) {
                state.apply(change);
            } else if let Some(node) = ns.cache.known(ino) {
                // Who loads it from now on finds the new row.
                node.state.write().apply(change);
            }
        }
        drop(locked);
        ns.inodes.fetch_add(edited.born.0, Ordering::Relaxed);
        ns.bytes.fetch_add(edited.born.1, Ordering::Relaxed);
        ns.trash.count(edited.trash.0, edited.trash.1);
        ns.trash.count_names(&edited.changes, |_| false);
        for change in edited.changes.iter() {
            if let Change::PutTrash(row) = change {
                self.keep_young_dir(row.parent);
            }
        }
        self.changes.push(Change::Bulk(below));
        if let Err(error) = self.commit() {
            tracing::warn!(%error, "a change of many rows is not noted; the next operation makes up for it");
        }
        Ok(())
    }
}
