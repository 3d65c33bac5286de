//! What differs between a snapshot and a newer one, or the present.
//!
//! Only rows that were kept in between are looked at, so it costs what changed, not what there is. Content is judged by
//! its extents: packing shows nothing.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{MetaError, Result};
use crate::filemap::Piece;
use crate::ids::{Cookie, Epoch, Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::changed;
use crate::sqlite::open::named;

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

/// An entry of a directory: its key.
type Key = (Ino, Name);

/// The two states.
#[derive(Clone, Copy)]
struct Both<'c> {
    old: At<'c>,
    new: At<'c>,
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

#[derive(Default)]
struct Differ {
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
    fn some(&mut self, both: Both<'_>) -> Sql<bool> {
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
    fn end(mut self) -> Vec<Difference> {
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

/// Whether two inodes of one kind have the same bytes, target or number.
pub(super) fn same_content(
    old: At<'_>,
    before: &InodeRow,
    new: At<'_>,
    after: &InodeRow,
) -> Sql<bool> {
    if before.is_dir() {
        return Ok(true);
    }
    if before.is_symlink() {
        return Ok(old.symlink(before.ino)? == new.symlink(after.ino)?);
    }
    if !before.is_file() {
        return Ok(before.rdev == after.rdev);
    }
    Ok(before.size == after.size && joined(old.runs(before.ino)?) == joined(new.runs(after.ino)?))
}

/// Runs with those put together that go on in the same extent: how a file was cut up is no difference.
fn joined(runs: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(runs.len());
    for run in runs {
        match out.last_mut() {
            Some(last)
                if last.end() == run.offset
                    && last.extent == run.extent
                    && last.extent_offset + last.len == run.extent_offset =>
            {
                last.len += run.len;
            }
            _ => out.push(run),
        }
    }
    out
}

/// Names by inode.
#[derive(Default)]
struct Names(FxHashMap<Ino, Vec<Key>>);

impl Names {
    fn add(&mut self, ino: Option<Ino>, key: Key) {
        if let Some(ino) = ino {
            self.0.entry(ino).or_default().push(key);
        }
    }

    fn take(&mut self, ino: Ino) -> Vec<Key> {
        self.0.remove(&ino).unwrap_or_default()
    }
}

/// The paths of directories in one state, as far as they were asked for.
struct Paths(FxHashMap<Ino, Option<Vec<u8>>>);

impl Default for Paths {
    fn default() -> Self {
        let root = (ROOT_INO, Some(Vec::new()));
        Self(FxHashMap::from_iter([root]))
    }
}

impl Paths {
    /// The paths of entries that are in the tree.
    fn paths(&mut self, at: At<'_>, keys: &[Key]) -> Sql<Vec<(Vec<u8>, Key)>> {
        let mut paths = Vec::with_capacity(keys.len());
        for key in keys {
            let path = self.path(at, key.0, &key.1)?;
            paths.extend(path.map(|path| (path, key.clone())));
        }
        Ok(paths)
    }

    /// The path of an entry; `None` where its directory is in no tree.
    fn path(&mut self, at: At<'_>, parent: Ino, name: &[u8]) -> Sql<Option<Vec<u8>>> {
        let Some(mut path) = self.dir(at, parent)? else {
            return Ok(None);
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(Some(path))
    }

    fn dir(&mut self, at: At<'_>, dir: Ino) -> Sql<Option<Vec<u8>>> {
        // Up to a directory that is known, then down again.
        let mut steps: Vec<(Ino, Name)> = Vec::new();
        let mut here = dir;
        while !self.0.contains_key(&here) {
            let Some((parent, name)) = at.names(here)?.pop() else {
                self.0.insert(here, None);
                break;
            };
            steps.push((here, name));
            here = parent;
        }
        let mut path = self.0.get(&here).cloned().flatten();
        for (ino, name) in steps.into_iter().rev() {
            if let Some(path) = &mut path {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
            }
            self.0.insert(ino, path.clone());
        }
        Ok(path)
    }
}
