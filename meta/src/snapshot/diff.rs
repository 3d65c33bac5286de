//! What differs between a snapshot and a newer one, or the present.
//!
//! Only rows that were kept in between are looked at, so it costs what changed, not what there is. Content is judged by
//! its extents: packing shows nothing.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{MetaError, Result};
use crate::filemap::Piece;
use crate::ids::{Cookie, Epoch, Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::rows::{InodeRow, Name};
use crate::sqlite::at::At;
use crate::sqlite::changed;

type Sql<T> = rusqlite::Result<T>;

/// One path that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where it is in the newer state, or was if it is not there any more; below the root, without a slash in front.
    pub path: Vec<u8>,
    /// Renamed: where it was.
    pub from: Option<Vec<u8>>,
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
        let found = self.readers.with(|c| {
            // One state of the database for all of it.
            let t = c.unchecked_transaction()?;
            let new = new.map_or(At::present(&t), |new| At::snapshot(&t, new));
            Differ::new(At::snapshot(&t, old), new).run(&t)
        })?;
        let snapshots = self.snapshots.lock();
        let is_there = |epoch: Epoch| snapshots.get(epoch).is_some();
        match is_there(older) && newer.is_none_or(is_there) {
            true => Ok(found),
            false => Err(MetaError::NotFound),
        }
    }
}

/// An entry of a directory: its key.
type Key = (Ino, Name);

struct Differ<'c> {
    old: Paths<'c>,
    new: Paths<'c>,
    /// Inodes whose runs, and whose attributes, have rows that were kept.
    runs: FxHashSet<Ino>,
    xattrs: FxHashSet<Ino>,
    deleted: BTreeMap<Vec<u8>, InodeRow>,
    created: BTreeMap<Vec<u8>, InodeRow>,
    found: Vec<Difference>,
}

impl<'c> Differ<'c> {
    fn new(old: At<'c>, new: At<'c>) -> Self {
        Self {
            old: Paths::new(old),
            new: Paths::new(new),
            runs: FxHashSet::default(),
            xattrs: FxHashSet::default(),
            deleted: BTreeMap::new(),
            created: BTreeMap::new(),
            found: Vec::new(),
        }
    }

    fn run(mut self, c: &Connection) -> Sql<Vec<Difference>> {
        let span = (self.old.at.epoch(), self.new.at.epoch());
        self.runs.extend(changed::inos(c, "extent", span)?);
        self.xattrs.extend(changed::inos(c, "xattr", span)?);
        let mut subjects: FxHashSet<Ino> = changed::inos(c, "inode", span)?.into_iter().collect();
        subjects.extend(&self.runs);
        subjects.extend(&self.xattrs);
        let (mut lost, mut gained) = (Names::default(), Names::default());
        for (parent, name) in changed::entries(c, span)? {
            // What is in new directories is seen there.
            if self.old.at.is_later(parent) {
                continue;
            }
            let was = self.old.at.dirent(parent, &name)?.map(|d| d.ino);
            let is = self.new.at.dirent(parent, &name)?.map(|d| d.ino);
            if was != is {
                lost.add(was, (parent, Name::clone(&name)));
                gained.add(is, (parent, name));
            }
        }
        self.look_into_new(&mut gained)?;
        subjects.extend(lost.0.keys().chain(gained.0.keys()));
        for ino in subjects {
            let (lost, gained) = (lost.take(ino), gained.take(ino));
            self.subject(ino, lost, gained)?;
        }
        self.match_paths()?;
        self.found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(self.found)
    }

    /// Nothing is kept of what is in directories that are new: all of it was gained.
    fn look_into_new(&self, gained: &mut Names) -> Sql<()> {
        let old = self.old.at;
        let mut dirs: Vec<Ino> = gained.0.keys().copied().collect();
        dirs.retain(|ino| old.is_later(*ino));
        while let Some(dir) = dirs.pop() {
            for (name, dirent) in self.new.at.dirents(dir, Cookie(0), usize::MAX)? {
                if dirent.kind == libc::DT_DIR && old.is_later(dirent.ino) {
                    dirs.push(dirent.ino);
                }
                gained.add(Some(dirent.ino), (dir, name));
            }
        }
        Ok(())
    }

    /// One inode, with the names it lost and gained.
    fn subject(&mut self, ino: Ino, lost: Vec<Key>, gained: Vec<Key>) -> Sql<()> {
        let before = self.old.alive(ino)?;
        let after = self.new.alive(ino)?;
        let mut deleted = self.old.paths(&lost)?;
        let mut created = self.new.paths(&gained)?;
        if let (Some(before), Some(after)) = (before, after) {
            let compared = self.compare(before, after)?;
            // Where a directory above was replaced by another one, the name is a new one and the path is not.
            let mut same: Vec<Vec<u8>> = Vec::new();
            deleted.retain(|path| match created.iter().position(|p| p == path) {
                Some(at) => {
                    same.push(created.swap_remove(at));
                    false
                }
                None => true,
            });
            if compared.is_any() {
                let mut stayed = self.new.at.names(ino)?;
                stayed.retain(|key| !gained.contains(key));
                same.extend(self.new.paths(&stayed)?);
                if ino == ROOT_INO {
                    same.push(Vec::new());
                }
                self.found.extend(same.into_iter().map(|path| Difference {
                    path,
                    ..compared.clone()
                }));
            }
            deleted.sort_unstable();
            created.sort_unstable();
            // As many as were lost and gained have moved.
            let moved = deleted.len().min(created.len());
            let pairs = deleted.drain(..moved).zip(created.drain(..moved));
            self.found.extend(pairs.map(|(from, path)| Difference {
                path,
                from: Some(from),
                ..compared.clone()
            }));
        }
        if let Some(row) = before {
            self.deleted
                .extend(deleted.into_iter().map(|path| (path, row)));
        }
        if let Some(row) = after {
            self.created
                .extend(created.into_iter().map(|path| (path, row)));
        }
        Ok(())
    }

    /// What was deleted and created under one path is one thing that changed, if it is of the same kind.
    fn match_paths(&mut self) -> Sql<()> {
        let mut created = std::mem::take(&mut self.created);
        for (path, before) in std::mem::take(&mut self.deleted) {
            let after = created.get(&path).filter(|r| r.kind() == before.kind());
            let Some(after) = after.copied() else {
                self.found.push(whole(path, Some(before), None));
                continue;
            };
            created.remove(&path);
            let compared = self.compare(before, after)?;
            if compared.is_any() {
                self.found.push(Difference { path, ..compared });
            }
        }
        let created = created.into_iter();
        self.found
            .extend(created.map(|(path, after)| whole(path, None, Some(after))));
        Ok(())
    }

    /// Compares two inodes; the path is left empty.
    fn compare(&self, before: InodeRow, after: InodeRow) -> Sql<Difference> {
        let is_one = before.ino == after.ino;
        let content = (!is_one || self.runs.contains(&before.ino) || before.size != after.size)
            && !same_content(self.old.at, &before, self.new.at, &after)?;
        let xattrs = (!is_one || self.xattrs.contains(&before.ino))
            && self.old.at.xattrs(before.ino)? != self.new.at.xattrs(after.ino)?;
        Ok(Difference {
            content,
            mode: before.mode != after.mode,
            owner: (before.uid, before.gid) != (after.uid, after.gid),
            xattrs,
            ..whole(Vec::new(), Some(before), Some(after))
        })
    }
}

fn whole(path: Vec<u8>, before: Option<InodeRow>, after: Option<InodeRow>) -> Difference {
    Difference {
        path,
        from: None,
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

/// Paths in one state.
struct Paths<'c> {
    at: At<'c>,
    dirs: FxHashMap<Ino, Option<Vec<u8>>>,
}

impl<'c> Paths<'c> {
    fn new(at: At<'c>) -> Self {
        let root = (ROOT_INO, Some(Vec::new()));
        Self {
            at,
            dirs: FxHashMap::from_iter([root]),
        }
    }

    fn alive(&self, ino: Ino) -> Sql<Option<InodeRow>> {
        Ok(self.at.inode(ino)?.filter(|row| row.nlink > 0))
    }

    /// The paths of entries that are in the tree.
    fn paths(&mut self, keys: &[Key]) -> Sql<Vec<Vec<u8>>> {
        let paths = keys.iter().map(|(parent, name)| self.path(*parent, name));
        Ok(paths
            .collect::<Sql<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// The path of an entry; `None` where its directory is in no tree.
    fn path(&mut self, parent: Ino, name: &[u8]) -> Sql<Option<Vec<u8>>> {
        let Some(mut path) = self.dir(parent)? else {
            return Ok(None);
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(Some(path))
    }

    fn dir(&mut self, dir: Ino) -> Sql<Option<Vec<u8>>> {
        // Up to a directory that is known, then down again.
        let mut steps: Vec<(Ino, Name)> = Vec::new();
        let mut at = dir;
        while !self.dirs.contains_key(&at) {
            let Some((parent, name)) = self.at.names(at)?.pop() else {
                self.dirs.insert(at, None);
                break;
            };
            steps.push((at, name));
            at = parent;
        }
        let mut path = self.dirs.get(&at).cloned().flatten();
        for (ino, name) in steps.into_iter().rev() {
            if let Some(path) = &mut path {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
            }
            self.dirs.insert(ino, path.clone());
        }
        Ok(path)
    }
}
