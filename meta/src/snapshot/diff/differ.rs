//! Finds what differs, a piece of the work at a time: which rows were kept, which names they concern, what these name in
//! both states, and which of what was deleted and created is one thing that moved or changed.
//!
//! Keeps nothing of the database between two pieces: both states must stay what they are.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::ids::{Cookie, Ino, ROOT_INO};
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::changed;

use super::content::same_content;
use super::names::{Key, Names, Paths};
use super::{Difference, Sql};

/// The two states.
#[derive(Clone, Copy)]
pub(super) struct Both<'c> {
    pub(super) old: At<'c>,
    pub(super) new: At<'c>,
}

/// What is to be looked at next.
#[derive(Default)]
enum Todo {
    /// Which keys were kept.
    #[default]
    Keys,
    /// Entries, which may name something else.
    Entries,
    /// Directories that are new: nothing is kept of what is in them, all of it was gained.
    Dirs,
    /// Inodes.
    Subjects,
    /// Paths that were deleted, and perhaps created anew.
    Deleted,
    /// Paths that were created, perhaps for a name that was deleted in a directory with another path.
    Created,
}

/// How many of them are looked at before somebody else may have a turn.
const PIECE: usize = 1000;

/// The work, as far as it has come.
#[derive(Default)]
pub(super) struct Differ {
    todo: Todo,
    old: Paths,
    new: Paths,
    /// Inodes whose runs, and whose attributes, have rows that were kept.
    runs: FxHashSet<Ino>,
    xattrs: FxHashSet<Ino>,
    entries: Vec<Key>,
    dirs: Vec<Ino>,
    subjects: Vec<Ino>,
    lost: Names,
    gained: Names,
    deleted: BTreeMap<Vec<u8>, (InodeRow, Key)>,
    created: BTreeMap<Vec<u8>, (InodeRow, Key)>,
    /// Those that were deleted and not created anew, by their names.
    left: FxHashMap<Key, (Vec<u8>, InodeRow)>,
    found: Vec<Difference>,
}

/// Takes some of the last ones.
fn some<T>(of: &mut Vec<T>) -> Vec<T> {
    of.split_off(of.len().saturating_sub(PIECE))
}

impl Differ {
    /// Does some of it. Returns whether there is more.
    pub(super) fn some(&mut self, both: Both<'_>) -> Sql<bool> {
        match self.todo {
            Todo::Keys => {
                self.keys(both)?;
                self.todo = Todo::Entries;
            }
            Todo::Entries if self.entries.is_empty() => {
                let dirs = self.gained.0.keys().copied();
                self.dirs = dirs.filter(|ino| both.old.is_later(*ino)).collect();
                self.todo = Todo::Dirs;
            }
            Todo::Entries => {
                for key in some(&mut self.entries) {
                    self.entry(both, key)?;
                }
            }
            Todo::Dirs if self.dirs.is_empty() => {
                let mut subjects: FxHashSet<Ino> = self.subjects.drain(..).collect();
                subjects.extend(self.lost.0.keys().chain(self.gained.0.keys()));
                self.subjects = subjects.into_iter().collect();
                self.todo = Todo::Subjects;
            }
            Todo::Dirs => {
                let mut seen = 0;
                while seen < PIECE
                    && let Some(dir) = self.dirs.pop()
                {
                    seen += 1 + self.look_into(both, dir)?;
                }
            }
            Todo::Subjects if self.subjects.is_empty() => self.todo = Todo::Deleted,
            Todo::Subjects => {
                for ino in some(&mut self.subjects) {
                    let (lost, gained) = (self.lost.take(ino), self.gained.take(ino));
                    self.subject(both, ino, lost, gained)?;
                }
            }
            Todo::Deleted => {
                for _ in 0..PIECE {
                    let Some((path, (before, key))) = self.deleted.pop_first() else {
                        self.todo = Todo::Created;
                        break;
                    };
                    self.match_path(both, path, before, key)?;
                }
            }
            Todo::Created => {
                for _ in 0..PIECE {
                    let Some((path, (after, key))) = self.created.pop_first() else {
                        return Ok(false);
                    };
                    self.match_name(both, path, after, &key)?;
                }
            }
        }
        Ok(true)
    }

    /// What it came to.
    pub(super) fn end(mut self) -> Vec<Difference> {
        let left = self.left.into_values();
        self.found
            .extend(left.map(|(path, before)| whole(path, Some(before), None)));
        // What went comes before what came in its place.
        self.found
            .sort_by(|a, b| (&a.path, a.after.is_some()).cmp(&(&b.path, b.after.is_some())));
        self.found
    }

    fn keys(&mut self, both: Both<'_>) -> Sql<()> {
        let c = both.old.connection();
        let span = (both.old.epoch(), both.new.epoch());
        self.runs.extend(changed::inos(c, "extent", span)?);
        self.xattrs.extend(changed::inos(c, "xattr", span)?);
        let mut subjects: FxHashSet<Ino> = changed::inos(c, "inode", span)?.into_iter().collect();
        subjects.extend(&self.runs);
        subjects.extend(&self.xattrs);
        self.subjects = subjects.into_iter().collect();
        self.entries = changed::entries(c, span)?;
        Ok(())
    }

    fn entry(&mut self, both: Both<'_>, (parent, name): Key) -> Sql<()> {
        // What is in new directories is seen there.
        if both.old.is_later(parent) {
            return Ok(());
        }
        let was = both.old.dirent(parent, &name)?.map(|d| d.ino);
        let is = both.new.dirent(parent, &name)?.map(|d| d.ino);
        if was != is {
            self.lost.add(was, (parent, Name::clone(&name)));
            self.gained.add(is, (parent, name));
        }
        Ok(())
    }

    /// Returns how many entries a new directory has.
    fn look_into(&mut self, both: Both<'_>, dir: Ino) -> Sql<usize> {
        let entries = both.new.dirents(dir, Cookie(0), usize::MAX)?;
        let count = entries.len();
        for (name, dirent) in entries {
            if dirent.kind == libc::DT_DIR && both.old.is_later(dirent.ino) {
                self.dirs.push(dirent.ino);
            }
            self.gained.add(Some(dirent.ino), (dir, name));
        }
        Ok(count)
    }

    /// One inode, with the names it lost and gained.
    fn subject(&mut self, both: Both<'_>, ino: Ino, lost: Vec<Key>, gained: Vec<Key>) -> Sql<()> {
        let before = alive(both.old, ino)?;
        let after = alive(both.new, ino)?;
        let mut deleted = self.old.paths(both.old, &lost)?;
        let mut created = self.new.paths(both.new, &gained)?;
        if let (Some(before), Some(after)) = (before, after) {
            let compared = self.compare(both, before, after)?;
            // Where a directory above was replaced by another one, the name is a new one and the path is not.
            let mut same: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
            deleted.retain(
                |(path, _)| match created.iter().position(|(p, _)| p == path) {
                    Some(at) => {
                        same.push((created.swap_remove(at).0, None));
                        false
                    }
                    None => true,
                },
            );
            if compared.is_any() {
                let mut stayed = both.new.names(ino)?;
                stayed.retain(|key| !gained.contains(key));
                for (dir, name) in &stayed {
                    if let Some(path) = self.new.path(both.new, *dir, name)? {
                        let was = self.old.path(both.old, *dir, name)?;
                        let was = was.filter(|was| *was != path);
                        same.push((path, was));
                    }
                }
                if ino == ROOT_INO {
                    same.push((Vec::new(), None));
                }
                let same = same.into_iter();
                self.found.extend(same.map(|(path, old_path)| Difference {
                    path,
                    old_path,
                    ..compared.clone()
                }));
            }
            deleted.sort_unstable();
            created.sort_unstable();
            // As many as were lost and gained have moved.
            let moved = deleted.len().min(created.len());
            let pairs = deleted.drain(..moved).zip(created.drain(..moved));
            self.found
                .extend(pairs.map(|((from, _), (path, _))| Difference {
                    path,
                    from: Some(from),
                    ..compared.clone()
                }));
        }
        if let Some(row) = before {
            self.deleted
                .extend(deleted.into_iter().map(|(path, key)| (path, (row, key))));
        }
        if let Some(row) = after {
            self.created
                .extend(created.into_iter().map(|(path, key)| (path, (row, key))));
        }
        Ok(())
    }

    /// What was deleted and created under one path is one thing that changed, if it is of the same kind.
    fn match_path(&mut self, both: Both<'_>, path: Vec<u8>, before: InodeRow, key: Key) -> Sql<()> {
        let after = self.created.get(&path).map(|(row, _)| *row);
        let Some(after) = after.filter(|r| r.kind() == before.kind()) else {
            self.left.insert(key, (path, before));
            return Ok(());
        };
        self.created.remove(&path);
        let compared = self.compare(both, before, after)?;
        if compared.is_any() {
            self.found.push(Difference { path, ..compared });
        }
        Ok(())
    }

    /// The same for one name in one directory, which has another path.
    fn match_name(&mut self, both: Both<'_>, path: Vec<u8>, after: InodeRow, key: &Key) -> Sql<()> {
        let before = self.left.get(key).map(|(_, row)| *row);
        if before.is_none_or(|before| before.kind() != after.kind()) {
            self.found.push(whole(path, None, Some(after)));
        } else if let Some((old_path, before)) = self.left.remove(key) {
            let compared = self.compare(both, before, after)?;
            if compared.is_any() {
                self.found.push(Difference {
                    path,
                    old_path: Some(old_path),
                    ..compared
                });
            }
        }
        Ok(())
    }

    /// Compares two inodes; the path is left empty.
    fn compare(&self, both: Both<'_>, before: InodeRow, after: InodeRow) -> Sql<Difference> {
        let Both { old, new } = both;
        let is_one = before.ino == after.ino;
        let content = (!is_one || self.runs.contains(&before.ino) || before.size != after.size)
            && !same_content(old, &before, new, &after)?;
        let xattrs = (!is_one || self.xattrs.contains(&before.ino))
            && old.xattrs(before.ino)? != new.xattrs(after.ino)?;
        Ok(Difference {
            content,
            mode: before.mode != after.mode,
            owner: (before.uid, before.gid) != (after.uid, after.gid),
            xattrs,
            ..whole(Vec::new(), Some(before), Some(after))
        })
    }
}

fn alive(at: At<'_>, ino: Ino) -> Sql<Option<InodeRow>> {
    Ok(at.inode(ino)?.filter(|row| row.nlink > 0))
}

fn whole(path: Vec<u8>, before: Option<InodeRow>, after: Option<InodeRow>) -> Difference {
    Difference {
        path,
        from: None,
        old_path: None,
        before,
        after,
        content: false,
        mode: false,
        owner: false,
        xattrs: false,
    }
}
