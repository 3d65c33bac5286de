//! What becomes of each inode of a snapshot when a place in the tree is restored.
//!
//! Makes copies of those that nothing can become, and decides nothing about entries.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{MetaError, Result};
use crate::ids::Ino;
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::open::named;

use super::diff::same_content;
use super::edit::Edit;

/// A directory of the snapshot and the one that becomes it, to be compared entry by entry.
pub(super) struct Pair {
    pub(super) old: Ino,
    pub(super) new: Ino,
}

/// The inodes of the snapshot and those that become them.
pub(super) struct Successors<'c, 'n> {
    pub(super) old: At<'c>,
    pub(super) edit: Edit<'c, 'n>,
    /// The directory that is restored: what it was, and what becomes it. None for a single file.
    pub(super) scope: Option<Pair>,
    is_inside_old: FxHashMap<Ino, bool>,
    is_inside_now: FxHashMap<Ino, bool>,
    /// What becomes of the snapshot's directories and files.
    pub(super) dirs: FxHashMap<Ino, Ino>,
    files: FxHashMap<Ino, Ino>,
    /// Directories that have a place in the restored tree.
    pub(super) kept: FxHashSet<Ino>,
    /// Directories that become another one and were not compared with it yet.
    pub(super) pairs: Vec<Pair>,
}

impl<'c, 'n> Successors<'c, 'n> {
    pub(super) fn new(old: At<'c>, edit: Edit<'c, 'n>) -> Self {
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
        }
    }

    /// What a name in a directory of the restored tree names now.
    pub(super) fn present(&self, dir: Ino, name: &Name) -> Result<Option<InodeRow>> {
        if self.edit.is_born(dir) {
            return Ok(None);
        }
        let found = named(self.edit.now.dirent(dir, name))?;
        found.map(|dirent| self.now_row(dirent.ino)).transpose()
    }

    /// What becomes of an inode of the snapshot, with its kind.
    pub(super) fn target(&mut self, ino: Ino) -> Result<(Ino, u8)> {
        let row = self.old_row(ino)?;
        let target = match row.is_dir() {
            true => self.dir(ino)?,
            false => self.file(&row)?,
        };
        Ok((target, row.kind()))
    }

    /// What becomes of a directory of the snapshot: itself if it is still inside, or else the one that has its place, if
    /// that has no place of its own, or else a new one.
    pub(super) fn dir(&mut self, ino: Ino) -> Result<Ino> {
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
        let Some(found) = self.present(parent, &name)? else {
            return Ok(None);
        };
        let is_free =
            found.is_dir() && !self.is_inside_old(found.ino)? && !self.kept.contains(&found.ino);
        Ok(is_free.then_some(found.ino))
    }

    /// What becomes of a file of the snapshot: itself if it is what it was and has no name outside; if it is gone, the one
    /// under its name, if that is the same; or else a new one.
    pub(super) fn file(&mut self, row: &InodeRow) -> Result<Ino> {
        if let Some(found) = self.files.get(&row.ino) {
            return Ok(*found);
        }
        let present = named(self.edit.now.inode(row.ino))?.filter(|r| r.nlink > 0);
        let target = match present {
            Some(present) => {
                let stays = self.is_same(row, &present)? && self.is_wholly_inside(row.ino)?;
                stays.then_some(row.ino)
            }
            None if row.nlink == 1 => self.stand_in_file(row)?,
            None => None,
        };
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
        let Some(found) = self.present(parent, &name)? else {
            return Ok(None);
        };
        // One that the snapshot has too becomes what it was there.
        let is_free = found.nlink == 1 && named(self.old.inode(found.ino))?.is_none();
        Ok((is_free && self.is_same(row, &found)?).then_some(found.ino))
    }

    /// Whether a file is what it was, but for the times of access and of the last change of the inode.
    pub(super) fn is_same(&self, was: &InodeRow, is: &InodeRow) -> Result<bool> {
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

    pub(super) fn is_inside_old(&mut self, dir: Ino) -> Result<bool> {
        let top = self.scope.as_ref().map(|pair| pair.old);
        is_inside(self.old, &mut self.is_inside_old, top, dir)
    }

    fn is_inside_now(&mut self, dir: Ino) -> Result<bool> {
        let top = self.scope_now();
        is_inside(self.edit.now, &mut self.is_inside_now, top, dir)
    }

    pub(super) fn old_row(&self, ino: Ino) -> Result<InodeRow> {
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
