//! What has to change so that a place in the tree is what it was at a snapshot.
//!
//! Files that changed come back as new inodes that share the old extents, so that whoever has the present one open, mapped
//! or running keeps it, without a name. Directories keep their inodes as far as they are there. Only what changed since
//! the snapshot is looked at. It reads tables and changes none.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use crate::error::{MetaError, Result};
use crate::ids::{Cookie, Ino, ROOT_INO};
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::changed;
use crate::sqlite::open::named;

use super::edit::{Edit, Edited};
use super::successors::{Pair, Successors};

/// Works out what makes everything at and below a path what it was. An empty path is everything.
///
/// # Errors
/// `NotFound` when the snapshot has no such path, `NotDir` when a file is in the way of a directory above it.
pub(super) fn plan(old: At<'_>, edit: Edit<'_, '_>, path: &[u8]) -> Result<Edited> {
    let mut plan = Plan {
        s: Successors::new(old, edit),
        wanted: BTreeMap::new(),
    };
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    plan.descend(&names.map(Name::from).collect::<Vec<_>>())?;
    plan.settle()
}

struct Plan<'c, 'n> {
    s: Successors<'c, 'n>,
    /// What entries are to name.
    wanted: BTreeMap<(Ino, Name), Option<(Ino, u8)>>,
}

impl Plan<'_, '_> {
    /// What the snapshot has along a path, from the first name on.
    fn old_path(&self, names: &[Name]) -> Result<Vec<InodeRow>> {
        let mut rows: Vec<InodeRow> = Vec::with_capacity(names.len());
        for name in names {
            let dir = rows.last().map_or(ROOT_INO, |row| row.ino);
            let entry = named(self.s.old.dirent(dir, name))?.ok_or(MetaError::NotFound)?;
            rows.push(self.s.old_row(entry.ino)?);
        }
        Ok(rows)
    }

    /// Goes down the path in the present and sets what is to be restored there.
    fn descend(&mut self, names: &[Name]) -> Result<()> {
        let rows = self.old_path(names)?;
        let (mut was, mut is) = (ROOT_INO, ROOT_INO);
        for (at, (name, row)) in names.iter().zip(&rows).enumerate() {
            let present = self.s.present(is, name)?;
            let is_last = at + 1 == names.len();
            if !row.is_dir() {
                return self.one_file(is, name, row, present);
            }
            let next = match present {
                Some(present) if present.is_dir() => present.ino,
                Some(_) if !is_last => return Err(MetaError::NotDir),
                _ => {
                    let made = self.s.edit.copy(self.s.old, row)?;
                    self.want(is, name, Some((made, row.kind())));
                    made
                }
            };
            (was, is) = (row.ino, next);
        }
        self.s.scope = Some(Pair { old: was, new: is });
        Ok(())
    }

    fn one_file(
        &mut self,
        dir: Ino,
        name: &Name,
        row: &InodeRow,
        present: Option<InodeRow>,
    ) -> Result<()> {
        let is_there = match &present {
            Some(present) => self.s.is_same(row, present)?,
            None => false,
        };
        if !is_there {
            let made = self.s.edit.copy(self.s.old, row)?;
            self.want(dir, name, Some((made, row.kind())));
        }
        Ok(())
    }

    /// Finds out what has to change, and changes it.
    fn settle(mut self) -> Result<Edited> {
        if let Some(Pair { old, new }) = self.s.scope {
            self.s.dirs.insert(old, new);
            self.s.kept.insert(new);
            if old != new {
                self.s.pairs.push(Pair { old, new });
            }
            self.collect()?;
            while let Some(pair) = self.s.pairs.pop() {
                self.compare(&pair)?;
            }
        }
        let mut ended = Vec::new();
        for ((dir, name), to) in std::mem::take(&mut self.wanted) {
            ended.extend(self.s.edit.set_entry(dir, &name, to)?);
        }
        self.s.edit.drop_trees(ended, &self.s.kept)?;
        self.s.edit.finish()
    }

    /// What was kept since the snapshot names everything that can differ.
    fn collect(&mut self) -> Result<()> {
        let c = self.s.old.connection();
        let span = (self.s.old.epoch(), i64::MAX);
        let mut inodes: FxHashSet<Ino> = FxHashSet::default();
        for table in ["inode", "extent", "xattr"] {
            inodes.extend(named(changed::inos(c, table, span))?);
        }
        for (dir, name) in named(changed::entries(c, span))? {
            let was = named(self.s.old.dirent(dir, &name))?;
            let is = named(self.s.edit.now.dirent(dir, &name))?;
            inodes.extend(was.iter().chain(&is).map(|d| d.ino));
            if !self.s.is_inside_old(dir)? {
                continue;
            }
            // One that became another directory is compared as a whole.
            if self.s.dir(dir)? == dir {
                let to = was.map(|d| self.s.target(d.ino)).transpose()?;
                self.want(dir, &name, to);
            }
        }
        for ino in inodes {
            self.inode(ino)?;
        }
        Ok(())
    }

    /// An inode that may have changed.
    fn inode(&mut self, ino: Ino) -> Result<()> {
        let Some(row) = named(self.s.old.inode(ino))?.filter(|r| r.nlink > 0) else {
            return Ok(());
        };
        if row.is_dir() {
            if self.s.is_inside_old(ino)? && self.s.dir(ino)? == ino {
                self.s.edit.dress(ino, self.s.old, &row)?;
            }
            return Ok(());
        }
        for (dir, name) in named(self.s.old.names(ino))? {
            if self.s.is_inside_old(dir)? {
                let to = self.s.file(&row)?;
                let dir = self.s.dir(dir)?;
                self.want(dir, &name, Some((to, row.kind())));
            }
        }
        Ok(())
    }

    /// Makes the new directory what the old one was, entry by entry.
    fn compare(&mut self, pair: &Pair) -> Result<()> {
        let row = self.s.old_row(pair.old)?;
        self.s.edit.dress(pair.new, self.s.old, &row)?;
        let mut names: FxHashSet<Name> = FxHashSet::default();
        for (name, dirent) in named(self.s.old.dirents(pair.old, Cookie(0), usize::MAX))? {
            let to = self.s.target(dirent.ino)?;
            self.want(pair.new, &name, Some(to));
            names.insert(name);
        }
        if self.s.edit.is_born(pair.new) {
            return Ok(());
        }
        for (name, _) in named(self.s.edit.now.dirents(pair.new, Cookie(0), usize::MAX))? {
            if !names.contains(&name) {
                self.want(pair.new, &name, None);
            }
        }
        Ok(())
    }

    fn want(&mut self, dir: Ino, name: &Name, to: Option<(Ino, u8)>) {
        self.wanted.insert((dir, Name::clone(name)), to);
    }
}
