//! What differs between a snapshot and a newer one, or the present.
//!
//! Only rows that were kept in between are looked at, so it costs what changed, not what there is. Content is judged by
//! its extents: packing shows nothing.

mod content;
mod differ;
mod names;

use crate::error::{MetaError, Result};
use crate::ids::Epoch;
use crate::namespace::Namespace;
use crate::rows::InodeRow;
use crate::sqlite::at::At;
use crate::sqlite::changed;
use crate::sqlite::open::named;

pub(super) use content::same_content;
use differ::{Both, Differ};

type Sql<T> = rusqlite::Result<T>;

/// One path that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where it is in the newer state, or was if it is not there any more; below the root, without a slash in front.
    pub path: Vec<u8>,
    /// Renamed: where it was.
    pub from: Option<Vec<u8>>,
    /// Where it was, if that is another path because a directory above it has another one.
    pub old_path: Option<Vec<u8>>,
    /// What it was; `None`: it was created.
    pub before: Option<InodeRow>,
    /// What it is; `None`: it was deleted.
    pub after: Option<InodeRow>,
    /// The bytes of a file differ, or the target of a symbolic link, or a device's number.
    pub content: bool,
    /// Permission bits differ.
    pub mode: bool,
    /// Owner or group differ.
    pub owner: bool,
    /// Extended attributes differ.
    pub xattrs: bool,
}

impl Difference {
    fn is_any(&self) -> bool {
        self.from.is_some() || self.content || self.mode || self.owner || self.xattrs
    }
}

impl Namespace {
    /// What differs between a snapshot and a newer one, or the present; by path. A file that was replaced by another one
    /// under its name is compared with that one. Times are no difference.
    ///
    /// Between two snapshots, which do not change, it is read a piece at a time, and holds up nobody however much it is. For the
    /// present all of it is read at once, and meanwhile the database cannot be folded: see [`Namespace::changed_since`].
    ///
    /// # Errors
    /// `NotFound` for a snapshot that is not there, `Invalid` when the first is not the older one; what a checkpoint
    /// can fail with.
    pub fn diff(&self, older: Epoch, newer: Option<Epoch>) -> Result<Vec<Difference>> {
        if newer.is_some_and(|newer| newer < older) {
            return Err(MetaError::Invalid(
                "the first snapshot is not the older one",
            ));
        }
        let old = self.point(older)?;
        let new = newer.map(|newer| self.point(newer)).transpose()?;
        self.checkpoint(self.acknowledged())?;
        let is_there = || {
            let snapshots = self.snapshots.lock();
            let one = |epoch: Epoch| snapshots.get(epoch).is_some();
            match one(older) && newer.is_none_or(one) {
                true => Ok(()),
                false => Err(MetaError::NotFound),
            }
        };
        let mut differ = Differ::default();
        match new {
            Some(new) => {
                let mut is_more = true;
                while is_more {
                    is_more = self.look(|c| {
                        let both = Both {
                            old: At::snapshot(c, old),
                            new: At::snapshot(c, new),
                        };
                        named(differ.some(both))
                    })?;
                    is_there()?;
                }
            }
            None => {
                self.look(|c| {
                    let both = Both {
                        old: At::snapshot(c, old),
                        new: At::present(c),
                    };
                    while named(differ.some(both))? {}
                    Ok(())
                })?;
                is_there()?;
            }
        }
        Ok(differ.end())
    }

    /// About how much a diff of a snapshot and the present looks at, counted up to `most`.
    ///
    /// # Errors
    /// `NotFound` for a snapshot that is not there; what a checkpoint can fail with.
    pub fn changed_since(&self, older: Epoch, most: u64) -> Result<u64> {
        let old = self.point(older)?;
        self.checkpoint(self.acknowledged())?;
        let made = self.numbers.next_ino().0.saturating_sub(old.next_ino.0);
        if made >= most {
            return Ok(most);
        }
        let span = (At::epoch_of(old), i64::MAX);
        let kept = self.readers.with(|c| changed::count(c, span, most))?;
        Ok(most.min(made.saturating_add(kept)))
    }
}
