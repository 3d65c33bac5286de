//! Bringing back what a snapshot has: everything, a directory or one file, in place.
//!
//! Files that changed come back as new inodes that share the old extents, so that whoever has the present one open, mapped
//! or running keeps it, without a name. Directories keep their inodes as far as they are there. Only what changed since
//! the snapshot is looked at.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{MetaError, Result};
use crate::ids::{Cookie, Epoch, Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::changed;
use crate::sqlite::open::named;

use super::diff::same_content;
use super::edit::{Edit, Edited};
use super::{NewSnapshot, Snapshot};

/// What a restore did, for whoever has to tell the kernel.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The snapshot of what was there before; none when there was nothing to restore.
    pub safety: Option<Snapshot>,
    /// Entries, by directory and name, that were added, replaced or removed.
    pub entries: Vec<(Ino, Name)>,
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
        safety.check()?;
        let _held = self.holding.lock();
        if !self.snapshots.lock().contains_key(&from) {
            return Err(MetaError::NotFound);
        }
        // Most of it while others go on.
        self.checkpoint(self.acknowledged())?;
        let mut tx = self.begin_growing(now_ns)?;
        tx.rest()?;
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
        let safety = tx.mark(safety)?;
        tx.rest()?;
        tx.commit_bulk(&edited, ROOT_INO)?;
        Ok(Restored {
            safety: Some(safety),
            entries: edited.entries,
            inodes: edited.inodes,
            orphans: edited.orphans,
        })
    }
}

fn plan(old: At<'_>, edit: Edit<'_, '_>, path: &[u8]) -> Result<Edited> {
    let mut plan = Plan::new(old, edit);
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    plan.descend(&names.map(Name::from).collect::<Vec<_>>())?;
    plan.settle()
}

/// A directory of the snapshot and the one that becomes it, to be compared entry by entry.
struct Pair {
    old: Ino,
    new: Ino,
}

struct Plan<'c, 'n> {
    old: At<'c>,
    edit: Edit<'c, 'n>,
    /// The directory that is restored: what it was, and what becomes it. None for a single file.
    scope: Option<Pair>,
    is_inside_old: FxHashMap<Ino, bool>,
    is_inside_now: FxHashMap<Ino, bool>,
    /// What becomes of the snapshot's directories and files.
    dirs: FxHashMap<Ino, Ino>,
    files: FxHashMap<Ino, Ino>,
    /// Directories that have a place in the restored tree.
    kept: FxHashSet<Ino>,
    pairs: Vec<Pair>,
    /// What entries are to name.
    wanted: BTreeMap<(Ino, Name), Option<(Ino, u8)>>,
}

impl<'c, 'n> Plan<'c, 'n> {
    fn new(old: At<'c>, edit: Edit<'c, 'n>) -> Self {
        Self {
            old,
            edit,
            scope: None,
            is_inside_old: FxHashMap::default(),
            is_inside_now: FxHashMap::default(),
            dirs: FxHashMap::default(),
            files: FxHashMap::default(),
            kept: FxHashSet::default(),
            pairs: Vec::new(),
            wanted: BTreeMap::new(),
        }
    }

    /// Goes down the path in the snapshot and in the present at once and sets what is to be restored there.
    fn descend(&mut self, names: &[Name]) -> Result<()> {
        let (mut was, mut is) = (ROOT_INO, ROOT_INO);
        for (at, name) in names.iter().enumerate() {
            let entry = named(self.old.dirent(was, name))?.ok_or(MetaError::NotFound)?;
            let row = self.old_row(entry.ino)?;
            let present = match self.edit.is_born(is) {
                true => None,
                false => named(self.edit.now.dirent(is, name))?,
            };
            let present = match present {
                Some(present) => Some(self.now_row(present.ino)?),
                None => None,
            };
            let is_last = at + 1 == names.len();
            if !row.is_dir() {
                if !is_last {
                    return Err(MetaError::NotDir);
                }
                return self.one_file(is, name, &row, present);
            }
            let next = match present {
                Some(present) if present.is_dir() => present.ino,
                Some(_) if !is_last => return Err(MetaError::NotDir),
                _ => {
                    let made = self.edit.copy(self.old, &row)?;
                    self.want(is, name, Some((made, row.kind())));
                    made
                }
            };
            (was, is) = (row.ino, next);
        }
        self.scope = Some(Pair { old: was, new: is });
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
            Some(present) => self.is_same(row, present)?,
            None => false,
        };
        if !is_there {
            let made = self.edit.copy(self.old, row)?;
            self.want(dir, name, Some((made, row.kind())));
        }
        Ok(())
    }

    /// Finds out what has to change, and changes it.
    fn settle(mut self) -> Result<Edited> {
        if let Some(Pair { old, new }) = self.scope {
            self.dirs.insert(old, new);
            self.kept.insert(new);
            if old != new {
                self.pairs.push(Pair { old, new });
            }
            self.collect()?;
            while let Some(pair) = self.pairs.pop() {
                self.compare(&pair)?;
            }
        }
        let mut ended = Vec::new();
        for ((dir, name), to) in std::mem::take(&mut self.wanted) {
            ended.extend(self.edit.set_entry(dir, &name, to)?);
        }
        self.edit.drop_trees(ended, &self.kept)?;
        self.edit.finish()
    }

    /// What was kept since the snapshot names everything that can differ.
    fn collect(&mut self) -> Result<()> {
        let c = self.old.connection();
        let span = (self.old.epoch(), i64::MAX);
        let mut inodes: FxHashSet<Ino> = FxHashSet::default();
        for table in ["inode", "extent", "xattr"] {
            inodes.extend(named(changed::inos(c, table, span))?);
        }
        for (dir, name) in named(changed::entries(c, span))? {
            let was = named(self.old.dirent(dir, &name))?;
            let is = named(self.edit.now.dirent(dir, &name))?;
            inodes.extend(was.iter().chain(&is).map(|d| d.ino));
            if !self.is_inside_old(dir)? {
                continue;
            }
            // One that became another directory is compared as a whole.
            if self.dir(dir)? == dir {
                let to = was.map(|d| self.target(d.ino)).transpose()?;
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
        let Some(row) = named(self.old.inode(ino))?.filter(|r| r.nlink > 0) else {
            return Ok(());
        };
        if row.is_dir() {
            if self.is_inside_old(ino)? && self.dir(ino)? == ino {
                self.edit.dress(ino, self.old, &row)?;
            }
            return Ok(());
        }
        for (dir, name) in named(self.old.names(ino))? {
            if self.is_inside_old(dir)? {
                let to = self.target(ino)?;
                let dir = self.dir(dir)?;
                self.want(dir, &name, Some(to));
            }
        }
        Ok(())
    }

    /// Makes the new directory what the old one was, entry by entry.
    fn compare(&mut self, pair: &Pair) -> Result<()> {
        let row = self.old_row(pair.old)?;
        self.edit.dress(pair.new, self.old, &row)?;
        let mut names: FxHashSet<Name> = FxHashSet::default();
        for (name, dirent) in named(self.old.dirents(pair.old, Cookie(0), usize::MAX))? {
            let to = self.target(dirent.ino)?;
            self.want(pair.new, &name, Some(to));
            names.insert(name);
        }
        if self.edit.is_born(pair.new) {
            return Ok(());
        }
        for (name, _) in named(self.edit.now.dirents(pair.new, Cookie(0), usize::MAX))? {
            if !names.contains(&name) {
                self.want(pair.new, &name, None);
            }
        }
        Ok(())
    }

    fn want(&mut self, dir: Ino, name: &Name, to: Option<(Ino, u8)>) {
        self.wanted.insert((dir, Name::clone(name)), to);
    }

    /// What becomes of an inode of the snapshot, with its kind.
    fn target(&mut self, ino: Ino) -> Result<(Ino, u8)> {
        let row = self.old_row(ino)?;
        let target = match row.is_dir() {
            true => self.dir(ino)?,
            false => self.file(&row)?,
        };
        Ok((target, row.kind()))
    }

    /// What becomes of a directory of the snapshot: itself if it is still inside, or else the one that has its place, if
    /// that has no place of its own, or else a new one.
    fn dir(&mut self, ino: Ino) -> Result<Ino> {
        if let Some(found) = self.dirs.get(&ino) {
            return Ok(*found);
        }
        let is_here = self.is_inside_now(ino)? && self.scope_now() != Some(ino);
        let target = match is_here {
            true => ino,
            false => {
                let new = match self.stand_in(ino)? {
                    Some(found) => found,
                    None => {
                        let row = self.old_row(ino)?;
                        self.edit.copy(self.old, &row)?
                    }
                };
                self.pairs.push(Pair { old: ino, new });
                new
            }
        };
        self.dirs.insert(ino, target);
        self.kept.insert(target);
        Ok(target)
    }

    /// The present directory under the name of one that is not inside any more.
    fn stand_in(&mut self, ino: Ino) -> Result<Option<Ino>> {
        let Some((parent, name)) = named(self.old.names(ino))?.pop() else {
            return Ok(None);
        };
        let parent = self.dir(parent)?;
        if self.edit.is_born(parent) {
            return Ok(None);
        }
        let Some(found) = named(self.edit.now.dirent(parent, &name))? else {
            return Ok(None);
        };
        let is_free = self.now_row(found.ino)?.is_dir()
            && !self.is_inside_old(found.ino)?
            && !self.kept.contains(&found.ino);
        Ok(is_free.then_some(found.ino))
    }

    /// What becomes of a file of the snapshot: itself if it is what it was and has no name outside, or else the one under
    /// its name, if that is the same, or else a new one.
    fn file(&mut self, row: &InodeRow) -> Result<Ino> {
        if let Some(found) = self.files.get(&row.ino) {
            return Ok(*found);
        }
        let present = named(self.edit.now.inode(row.ino))?.filter(|r| r.nlink > 0);
        let mut target = None;
        if let Some(present) = present
            && self.is_same(row, &present)?
            && self.is_wholly_inside(row.ino)?
        {
            target = Some(row.ino);
        } else if row.nlink == 1 {
            target = self.stand_in_file(row)?;
        }
        let target = match target {
            Some(target) => target,
            None => self.edit.copy(self.old, row)?,
        };
        self.files.insert(row.ino, target);
        Ok(target)
    }

    /// The present file under the only name of one that is not there any more, if one cannot tell them apart.
    fn stand_in_file(&mut self, row: &InodeRow) -> Result<Option<Ino>> {
        let Some((parent, name)) = named(self.old.names(row.ino))?.pop() else {
            return Ok(None);
        };
        if !self.is_inside_old(parent)? {
            return Ok(None);
        }
        let parent = self.dir(parent)?;
        if self.edit.is_born(parent) {
            return Ok(None);
        }
        let Some(found) = named(self.edit.now.dirent(parent, &name))? else {
            return Ok(None);
        };
        let present = self.now_row(found.ino)?;
        // One that the snapshot has too becomes what it was there.
        let is_free = present.nlink == 1 && named(self.old.inode(found.ino))?.is_none();
        Ok((is_free && self.is_same(row, &present)?).then_some(found.ino))
    }

    /// Whether a file is what it was, but for the times of access and of the last change of the inode.
    fn is_same(&self, was: &InodeRow, is: &InodeRow) -> Result<bool> {
        let key = |r: &InodeRow| (r.mode, r.uid, r.gid, r.rdev, r.size, r.mtime_ns);
        if key(was) != key(is) || was.is_dir() {
            return Ok(false);
        }
        let now = self.edit.now;
        Ok(named(same_content(self.old, was, now, is))?
            && named(self.old.xattrs(was.ino))? == named(now.xattrs(is.ino))?)
    }

    /// Whether every present name of a file is inside.
    fn is_wholly_inside(&mut self, ino: Ino) -> Result<bool> {
        for (dir, _) in named(self.edit.now.names(ino))? {
            if !self.is_inside_now(dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn scope_now(&self) -> Option<Ino> {
        self.scope.as_ref().map(|pair| pair.new)
    }

    fn is_inside_old(&mut self, dir: Ino) -> Result<bool> {
        let top = self.scope.as_ref().map(|pair| pair.old);
        is_inside(self.old, &mut self.is_inside_old, top, dir)
    }

    fn is_inside_now(&mut self, dir: Ino) -> Result<bool> {
        let top = self.scope_now();
        is_inside(self.edit.now, &mut self.is_inside_now, top, dir)
    }

    fn old_row(&self, ino: Ino) -> Result<InodeRow> {
        row_of(self.old, ino)
    }

    fn now_row(&self, ino: Ino) -> Result<InodeRow> {
        row_of(self.edit.now, ino)
    }
}

fn row_of(at: At<'_>, ino: Ino) -> Result<InodeRow> {
    named(at.inode(ino))?.ok_or_else(|| {
        MetaError::damaged(
            "metadata database",
            format!("{ino} is missing although it has a name"),
        )
    })
}

/// Whether a directory is in a tree, at or below `top`.
fn is_inside(
    at: At<'_>,
    known: &mut FxHashMap<Ino, bool>,
    top: Option<Ino>,
    dir: Ino,
) -> Result<bool> {
    let mut steps = Vec::new();
    let mut here = dir;
    let inside = loop {
        if let Some(found) = known.get(&here) {
            break *found;
        }
        if Some(here) == top {
            break true;
        }
        let row = named(at.inode(here))?.filter(|r| r.is_dir() && r.nlink > 0);
        steps.push(here);
        match row {
            Some(row) if row.parent != here => here = row.parent,
            _ => break false,
        }
    };
    known.extend(steps.into_iter().map(|step| (step, inside)));
    Ok(inside)
}
