//! Loading what is not in memory: nodes, directories, runs, attributes, locations. Overlay first, then SQLite.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::{DirContent, Node, NodeState};
use crate::error::{MetaError, Result};
use crate::filemap::{FileMap, Piece};
use crate::ids::{Cookie, ExtentId, Ino};
use crate::overlay::Known;
use crate::rows::{Dirent, InodeRow, Location, MAX_NAME_BYTES, Name};
use crate::settings::WHOLE_DIR_ENTRIES;
use crate::sqlite::read;

use super::Namespace;

impl Namespace {
    pub(crate) fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        self.cache
            .node(ino, || self.load_row(ino))?
            .ok_or(MetaError::NotFound)
    }

    fn load_row(&self, ino: Ino) -> Result<Option<InodeRow>> {
        match self.overlay.inode(ino) {
            Known::Is(row) => Ok(Some(row)),
            Known::Gone => Ok(None),
            Known::Unknown => self.readers.with(|c| read::inode(c, ino)),
        }
    }

    /// Looks at an inode that is alive.
    pub(super) fn read<T>(&self, ino: Ino, look: impl FnOnce(&NodeState) -> T) -> Result<T> {
        let node = self.node(ino)?;
        let state = node.state.read();
        if state.dead {
            return Err(MetaError::NotFound);
        }
        Ok(look(&state))
    }

    /// Finds a name in a directory.
    pub(super) fn find(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        let node = self.node(parent)?;
        self.find_in(&node, name)
    }

    pub(super) fn find_in(&self, node: &Node, name: &[u8]) -> Result<Option<Dirent>> {
        {
            let state = node.state.read();
            if state.dead {
                return Err(MetaError::NotFound);
            }
            if !state.row.is_dir() {
                return Err(MetaError::NotDir);
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(MetaError::NameTooLong);
            }
            if let Some(found) = known_name(&state.dir, name) {
                return Ok(found);
            }
        }
        let mut state = node.state.write();
        self.load_dir(&mut state)?;
        if let Some(found) = known_name(&state.dir, name) {
            return Ok(found);
        }
        let found = match self.overlay.dirent(node.ino, name) {
            Known::Is(dirent) => Some(dirent),
            Known::Gone => None,
            Known::Unknown => self.readers.with(|c| read::dirent(c, node.ino, name))?,
        };
        state.dir.remember(&Name::from(name), found);
        Ok(found)
    }

    /// Loads a directory, whole when it is small enough. The caller holds its lock for writing.
    pub(super) fn load_dir(&self, state: &mut NodeState) -> Result<()> {
        if !matches!(state.dir, DirContent::Unloaded) {
            return Ok(());
        }
        let row = state.row;
        if row.size > WHOLE_DIR_ENTRIES {
            state.dir = DirContent::Partial {
                known: Default::default(),
            };
            return Ok(());
        }
        let mut changed: BTreeMap<Name, Option<Dirent>> = BTreeMap::new();
        self.overlay.visit(|g| {
            if let Some(names) = g.dirents.get(&row.ino) {
                changed.extend(names.iter().map(|(n, d)| (Arc::clone(n), *d)));
            }
        });
        let mut dir = DirContent::empty();
        for (name, dirent) in self
            .readers
            .with(|c| read::dirents(c, row.ino, Cookie(0), usize::MAX))?
        {
            if !changed.contains_key(&name) {
                dir.put(&name, dirent);
            }
        }
        for (name, dirent) in changed {
            if let Some(dirent) = dirent {
                dir.put(&name, dirent);
            }
        }
        check_whole(&row, &dir)?;
        state.dir = dir;
        Ok(())
    }

    /// Loads a file's runs. The caller holds its lock for writing.
    pub(super) fn load_runs<'a>(&self, state: &'a mut NodeState) -> Result<&'a FileMap> {
        if state.runs.is_none() {
            let ino = state.row.ino;
            let mut cut_at = None;
            let mut runs: BTreeMap<u64, Option<Piece>> = BTreeMap::new();
            self.overlay.visit(|g| {
                if let Some(file) = g.files.get(&ino) {
                    if let Some(cut) = file.cut {
                        drop(runs.split_off(&cut));
                        cut_at = Some(cut_at.map_or(cut, |c: u64| c.min(cut)));
                    }
                    runs.extend(file.runs.iter().map(|(o, r)| (*o, r.map(|r| piece(&r)))));
                }
            });
            let mut map = FileMap::default();
            for run in self.readers.with(|c| read::extents(c, ino))? {
                if cut_at.is_none_or(|cut| run.offset < cut) && !runs.contains_key(&run.offset) {
                    map.insert(run);
                }
            }
            runs.into_values().flatten().for_each(|run| map.insert(run));
            state.runs = Some(map);
        }
        state.runs.as_ref().ok_or(MetaError::NotFound)
    }

    /// Loads an inode's extended attributes. The caller holds its lock for writing.
    pub(super) fn load_xattrs<'a>(
        &self,
        state: &'a mut NodeState,
    ) -> Result<&'a BTreeMap<Name, Arc<[u8]>>> {
        if state.xattrs.is_none() {
            let ino = state.row.ino;
            let mut changed: BTreeMap<Name, Option<Vec<u8>>> = BTreeMap::new();
            self.overlay.visit(|g| {
                if let Some(xattrs) = g.xattrs.get(&ino) {
                    changed.extend(xattrs.iter().map(|(n, v)| (Arc::clone(n), v.clone())));
                }
            });
            let mut all: BTreeMap<Name, Arc<[u8]>> = BTreeMap::new();
            for (name, value) in self.readers.with(|c| read::xattrs(c, ino))? {
                all.insert(name, value.into());
            }
            for (name, value) in changed {
                match value {
                    Some(value) => all.insert(name, value.into()),
                    None => all.remove(&name),
                };
            }
            state.xattrs = Some(all);
        }
        state.xattrs.as_ref().ok_or(MetaError::NotFound)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when it is no symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Arc<[u8]>> {
        let node = self.node(ino)?;
        let mut state = node.state.write();
        if state.dead {
            return Err(MetaError::NotFound);
        }
        if !state.row.is_symlink() {
            return Err(MetaError::Invalid("not a symbolic link"));
        }
        if let Some(target) = &state.target {
            return Ok(Arc::clone(target));
        }
        let target = match self.overlay.symlink(ino) {
            Some(target) => Some(target),
            None => self.readers.with(|c| read::symlink(c, ino))?,
        };
        let target: Arc<[u8]> = target
            .ok_or_else(|| MetaError::damaged("symlink table", format!("{ino} has no target")))?
            .into();
        state.target = Some(Arc::clone(&target));
        Ok(target)
    }

    /// Where an extent lies.
    ///
    /// # Errors
    /// `Damaged` when the extent is unknown although a file names it.
    pub fn location(&self, extent: ExtentId) -> Result<Arc<Location>> {
        let found = self
            .cache
            .location_or(extent, || match self.overlay.location(extent) {
                Some(found) => Ok(Some(found)),
                None => Ok(self
                    .readers
                    .with(|c| read::location(c, extent))?
                    .map(Arc::new)),
            })?;
        found.ok_or_else(|| MetaError::damaged("location table", format!("{extent} is missing")))
    }

    /// Forgets a remembered location that turned out to be stale: the next call asks the tables again.
    pub fn forget_location(&self, extent: ExtentId) {
        self.cache.forget_location(extent);
    }
}

fn piece(row: &crate::rows::ExtentRow) -> Piece {
    Piece {
        offset: row.offset,
        len: row.len,
        extent: row.extent,
        extent_offset: row.extent_offset,
    }
}

/// What a loaded directory says of a name; `None` when the tables have to be asked.
fn known_name(dir: &DirContent, name: &[u8]) -> Option<Option<Dirent>> {
    match dir {
        DirContent::Unloaded => None,
        DirContent::Whole { by_name, .. } => Some(by_name.get(name).copied()),
        DirContent::Partial { known } => known.get(name).copied(),
    }
}

/// Invariant `dir-complete`: a directory that was loaded whole has as many entries as its row says, with its hash.
fn check_whole(row: &InodeRow, dir: &DirContent) -> Result<()> {
    let DirContent::Whole { by_name, .. } = dir else {
        return Ok(());
    };
    let hash = by_name.iter().fold(0_u64, |sum, (name, dirent)| {
        sum.wrapping_add(dirent.hash(name))
    });
    if by_name.len() as u64 != row.size || hash != row.entries_hash {
        return Err(MetaError::damaged(
            "directory",
            format!(
                "{}: {} entries found, {} expected, or one of them is not the right one",
                row.ino,
                by_name.len(),
                row.size
            ),
        ));
    }
    Ok(())
}
