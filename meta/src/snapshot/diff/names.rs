//! Names of inodes that were lost or gained, and the paths of directories in one state.

use rustc_hash::FxHashMap;

use crate::ids::{Ino, ROOT_INO};
use crate::rows::Name;
use crate::sqlite::at::At;

use super::Sql;

/// An entry of a directory: its key.
pub(super) type Key = (Ino, Name);

/// Names by inode.
#[derive(Default)]
pub(super) struct Names(pub(super) FxHashMap<Ino, Vec<Key>>);

impl Names {
    pub(super) fn add(&mut self, ino: Option<Ino>, key: Key) {
        if let Some(ino) = ino {
            self.0.entry(ino).or_default().push(key);
        }
    }

    pub(super) fn take(&mut self, ino: Ino) -> Vec<Key> {
        self.0.remove(&ino).unwrap_or_default()
    }
}

/// The paths of directories in one state, as far as they were asked for.
pub(super) struct Paths(FxHashMap<Ino, Option<Vec<u8>>>);

impl Default for Paths {
    fn default() -> Self {
        let root = (ROOT_INO, Some(Vec::new()));
        Self(FxHashMap::from_iter([root]))
    }
}

impl Paths {
    /// The paths of entries that are in the tree.
    pub(super) fn paths(&mut self, at: At<'_>, keys: &[Key]) -> Sql<Vec<(Vec<u8>, Key)>> {
        let mut paths = Vec::with_capacity(keys.len());
        for key in keys {
            let path = self.path(at, key.0, &key.1)?;
            paths.extend(path.map(|path| (path, key.clone())));
        }
        Ok(paths)
    }

    /// The path of an entry; `None` where its directory is in no tree.
    pub(super) fn path(&mut self, at: At<'_>, parent: Ino, name: &[u8]) -> Sql<Option<Vec<u8>>> {
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
