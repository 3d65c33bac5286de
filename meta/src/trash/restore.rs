//! Bringing back what was removed: a name, or a directory with what was removed together with it, all at once.
//!
//! What is no directory comes back as the inode that it was. Directories come back as new ones that look the same: to the
//! kernel a directory that was removed is dead for good, and whoever works in one must not find it alive without a way up.

use rustc_hash::FxHashMap;

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::{Ino, ROOT_INO};
use crate::namespace::{Namespace, check_name};
use crate::rows::{Name, TrashRow, kind_of_mode};
use crate::snapshot::edit::{Edit, Edited};
use crate::snapshot::{EntryChange, Order};
use crate::sqlite::at::At;
use crate::sqlite::open::named;
use crate::sqlite::trash::{self, TrashedName};

use super::Rows;

/// What is brought back.
#[derive(Clone, Copy, Debug)]
pub struct TrashRestore<'a> {
    /// Where it was, below the root. Of several under one path the one that was removed last.
    pub path: &'a [u8],
    /// The directory and the name that it gets; where it was when `None`.
    pub to: Option<(Ino, &'a [u8])>,
    /// Nothing that was removed later, milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// What a restore from the trash did, for whoever has to tell the kernel.
#[derive(Clone, Debug, Default)]
pub struct RestoredTrash {
    /// When it had been removed, milliseconds since 1970.
    pub deleted_ms: u64,
    /// Names that are there again.
    pub names: u64,
    /// Entries that were added in directories that were there before.
    pub entries: Vec<EntryChange>,
    /// Inodes from before whose attributes have changed.
    pub inodes: Vec<Ino>,
    /// Directories that others have taken the place of: to be reclaimed when nobody holds them.
    pub orphans: Vec<Ino>,
}

impl Namespace {
    /// Brings back a name from the trash, and if it is a directory what was removed together with it, all at once.
    /// Directories above it that are gone are made again.
    ///
    /// # Errors
    /// `NotFound` when the trash has nothing of this path; `Exists` when something is there now; `NotDir` when a file is
    /// in the way of a directory above it. Nothing has happened then.
    pub fn restore_trash(&self, what: TrashRestore<'_>, now_ns: i64) -> Result<RestoredTrash> {
        self.restore_trash_on(&Order::default(), what, now_ns)
    }

    /// The same, unless it is taken back before it begins.
    ///
    /// # Errors
    /// The same, and `TakenBack`.
    pub fn restore_trash_on(
        &self,
        order: &Order,
        what: TrashRestore<'_>,
        now_ns: i64,
    ) -> Result<RestoredTrash> {
        let _held = self.holding.lock();
        // Most of it while others go on.
        self.checkpoint(self.acknowledged())?;
        let mut tx = self.begin_growing(now_ns)?;
        if let Some((dir, name)) = what.to {
            tx.dir(dir)?;
            check_name(name)?;
        }
        tx.rest()?;
        let (edited, mut restored) = {
            let mut number = || tx.next_ino();
            self.look(|c| {
                let now = At::present(c);
                let plan = Plan {
                    edit: Edit::new(now, now_ns, &mut number),
                    now,
                    now_ns,
                    restored: RestoredTrash::default(),
                };
                plan.carry_out(what)
            })?
        };
        // Working it out may have taken longer than the lease holds.
        self.wait_for_permit()?;
        order.begin()?;
        tx.commit_bulk(&edited, ROOT_INO)?;
        restored.entries = edited.entries;
        restored.inodes = edited.inodes;
        Ok(restored)
    }
}

struct Plan<'c, 'n> {
    edit: Edit<'c, 'n>,
    now: At<'c>,
    now_ns: i64,
    restored: RestoredTrash,
}

impl Plan<'_, '_> {
    fn carry_out(mut self, what: TrashRestore<'_>) -> Result<(Edited, RestoredTrash)> {
        let top = self.find(what.path, what.until_ms)?;
        let (dir, name) = match what.to {
            Some((dir, name)) => (dir, Name::from(name)),
            None => (self.above(&top)?, Name::clone(&top.name)),
        };
        if !self.edit.is_born(dir) && named(self.now.dirent(dir, &name))?.is_some() {
            return Err(MetaError::Exists);
        }
        self.restored.deleted_ms = top.deleted_ms;
        let rows = self.with_inside(top)?;
        self.bring_back(&rows, dir, name)?;
        Ok((self.edit.finish()?, self.restored))
    }

    /// What was removed last under a path. Every directory that had the path above it, in the tree or in the trash, may
    /// have been the one.
    fn find(&self, path: &[u8], until_ms: Option<u64>) -> Result<TrashedName> {
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let last = names.next_back().ok_or(MetaError::NotFound)?;
        let c = self.now.connection();
        let mut dirs = vec![ROOT_INO];
        for name in names {
            let mut next = Vec::new();
            for dir in dirs {
                let entry = named(self.now.dirent(dir, name))?;
                next.extend(entry.filter(|e| e.kind == libc::DT_DIR).map(|e| e.ino));
                let removed = named(trash::of_name(c, dir, name))?;
                next.extend(removed.iter().filter(|r| r.is_dir()).map(|r| r.ino));
            }
            dirs = next;
        }
        let mut found = Vec::new();
        for dir in dirs {
            found.extend(named(trash::of_name(c, dir, last))?);
        }
        found.retain(|row| until_ms.is_none_or(|until_ms| row.deleted_ms <= until_ms));
        let newest = found
            .into_iter()
            .max_by_key(|row| (row.deleted_ms, row.ino));
        newest.ok_or(MetaError::NotFound)
    }

    /// The directory that something was in, or the one that has its place now, or a new one.
    fn above(&mut self, top: &TrashedName) -> Result<Ino> {
        let c = self.now.connection();
        let mut removed = Vec::new();
        let mut at = top.parent;
        while let Some(row) = named(trash::of_removed_dir(c, at))? {
            at = row.parent;
            removed.push(row);
        }
        let mut dir = at;
        while let Some(row) = removed.pop() {
            let present = match self.edit.is_born(dir) {
                true => None,
                false => named(self.now.dirent(dir, &row.name))?,
            };
            dir = match present {
                Some(entry) if entry.kind == libc::DT_DIR => entry.ino,
                Some(_) => return Err(MetaError::NotDir),
                None => self.make_like(&row, dir)?,
            };
        }
        Ok(dir)
    }

    /// Makes a directory like one that was removed, under its name and empty.
    fn make_like(&mut self, row: &TrashedName, into: Ino) -> Result<Ino> {
        let made = self.copy_of_dir(row)?;
        self.edit
            .set_entry(into, &row.name, Some((made, kind_of_mode(row.mode))))?;
        self.edit.row(into)?.mtime_ns = self.now_ns;
        Ok(made)
    }

    fn copy_of_dir(&mut self, row: &TrashedName) -> Result<Ino> {
        let of = named(self.now.inode(row.ino))?.ok_or_else(|| gone(row.ino))?;
        self.edit.copy(self.now, &of)
    }

    /// A name, and everything that was in it.
    fn with_inside(&self, top: TrashedName) -> Result<Rows> {
        let c = self.now.connection();
        let mut dirs: Vec<Ino> = top.is_dir().then_some(top.ino).into_iter().collect();
        let mut all = vec![top];
        while let Some(dir) = dirs.pop() {
            let inside = named(trash::of_dir(c, dir))?;
            dirs.extend(inside.iter().filter(|r| r.is_dir()).map(|r| r.ino));
            all.extend(inside);
        }
        Ok(Rows::new(all))
    }

    fn bring_back(&mut self, rows: &Rows, dir: Ino, name: Name) -> Result<()> {
        // The top is the first row.
        let (together, _) = rows.together(0, |_| true);
        let mut dirs: FxHashMap<Ino, Ino> = FxHashMap::default();
        let mut mtimes: FxHashMap<Ino, (u64, i64)> = FxHashMap::default();
        for (nth, row) in together.iter().map(|at| &rows.all[*at]).enumerate() {
            let (into, name) = match nth {
                0 => (dir, &name),
                _ => {
                    let mtime = (row.deleted_ms, row.dir_mtime_ns);
                    let first = mtimes.entry(row.parent).or_insert(mtime);
                    *first = (*first).min(mtime);
                    // What was removed together comes after the directory that it was in.
                    let into = *dirs.get(&row.parent).ok_or_else(|| gone(row.parent))?;
                    (into, &row.name)
                }
            };
            let ino = match row.is_dir() {
                true => {
                    let made = self.copy_of_dir(row)?;
                    dirs.insert(row.ino, made);
                    made
                }
                false => {
                    self.edit.row(row.ino)?.parent = Ino(0);
                    row.ino
                }
            };
            self.edit
                .set_entry(into, name, Some((ino, kind_of_mode(row.mode))))?;
            self.edit.push(del(row))?;
            self.restored.names += 1;
        }
        if !self.edit.is_born(dir) {
            self.edit.row(dir)?.mtime_ns = self.now_ns;
        }
        for (was, (_, mtime_ns)) in mtimes {
            if let Some(made) = dirs.get(&was) {
                self.edit.row(*made)?.mtime_ns = mtime_ns;
            }
        }
        self.move_rest(rows, &dirs)?;
        for was in dirs.keys() {
            self.edit.push(Change::PutOrphan(*was))?;
            self.restored.orphans.push(*was);
        }
        self.restored.orphans.sort_unstable();
        self.edit.count_trash(-(dirs.len() as i64));
        Ok(())
    }

    /// What was removed before belongs to the new directories from now on.
    fn move_rest(&mut self, rows: &Rows, dirs: &FxHashMap<Ino, Ino>) -> Result<()> {
        let (together, _) = rows.together(0, |_| true);
        let is_back: rustc_hash::FxHashSet<usize> = together.into_iter().collect();
        for (at, row) in rows.all.iter().enumerate() {
            let Some(parent) = dirs.get(&row.parent).filter(|_| !is_back.contains(&at)) else {
                continue;
            };
            self.edit.push(del(row))?;
            self.edit.push(Change::PutTrash(TrashRow {
                ino: row.ino,
                parent: *parent,
                name: Name::clone(&row.name),
                deleted_ms: row.deleted_ms,
                dir_mtime_ns: row.dir_mtime_ns,
            }))?;
            // Of a directory too: going up from it leads there.
            let inode = self.edit.row(row.ino)?;
            if inode.nlink == 0 && inode.parent == row.parent {
                inode.parent = *parent;
            }
        }
        Ok(())
    }
}

fn del(row: &TrashedName) -> Change {
    Change::DelTrash {
        ino: row.ino,
        parent: row.parent,
        name: Name::clone(&row.name),
    }
}

fn gone(ino: Ino) -> MetaError {
    MetaError::damaged(
        "metadata database",
        format!("{ino} is in the trash and missing"),
    )
}
