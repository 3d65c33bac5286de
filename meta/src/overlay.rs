//! What has happened since the last checkpoint, by row: the newest value of every row that SQLite does not have yet.
//!
//! There are two generations: one that takes changes and one that the checkpointer is writing. Reading asks the young
//! one, then the old one, then SQLite. No I/O here.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::{ExtentId, Ino, Lsn};
use crate::rows::{Dirent, ExtentRow, InodeRow, Location, Name, Place};

/// Rough bytes of a row in memory beyond its payload.
const ROW_BYTES: usize = 96;

/// The changed runs of a file: everything at and behind `cut` is gone from older generations, then `runs` apply.
#[derive(Default, Debug, Clone)]
pub(crate) struct FileOverlay {
    pub(crate) cut: Option<u64>,
    pub(crate) runs: BTreeMap<u64, Option<ExtentRow>>,
}

/// One generation.
#[derive(Default, Debug)]
pub(crate) struct Generation {
    pub(crate) inodes: FxHashMap<Ino, Option<InodeRow>>,
    pub(crate) dirents: FxHashMap<Ino, FxHashMap<Name, Option<Dirent>>>,
    pub(crate) files: FxHashMap<Ino, FileOverlay>,
    pub(crate) locations: FxHashMap<ExtentId, Arc<Location>>,
    pub(crate) xattrs: FxHashMap<Ino, FxHashMap<Name, Option<Vec<u8>>>>,
    pub(crate) symlinks: FxHashMap<Ino, Vec<u8>>,
    pub(crate) orphans: FxHashMap<Ino, bool>,
    /// Inodes that no older generation has ever heard of, so that their end leaves no trace.
    born: FxHashSet<Ino>,
    pub(crate) last: Lsn,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl Generation {
    fn apply(
        &mut self,
        change: &Change,
        base: impl FnOnce(ExtentId) -> Result<Option<Arc<Location>>>,
    ) -> Result<()> {
        match change {
            Change::PutInode(row) => {
                if self.inodes.insert(row.ino, Some(*row)).is_none() {
                    self.bytes += ROW_BYTES + size_of::<InodeRow>();
                }
            }
            Change::DropInode(ino) => self.drop_inode(*ino),
            Change::PutDirent {
                parent,
                name,
                dirent,
            } => self.put_dirent(*parent, name, Some(*dirent)),
            Change::DelDirent { parent, name } => self.put_dirent(*parent, name, None),
            Change::PutExtent(row) => self.put_run(row.ino, row.offset, Some(*row)),
            Change::DelExtent { ino, offset } => self.put_run(*ino, *offset, None),
            Change::CutExtents { ino, from } => {
                let file = self.files.entry(*ino).or_default();
                drop(file.runs.split_off(from));
                file.cut = Some(file.cut.map_or(*from, |cut| cut.min(*from)));
                self.bytes += ROW_BYTES;
            }
            Change::PutLocation { extent, location } => {
                self.bytes += ROW_BYTES + location.sums.len() * 4;
                self.locations.insert(*extent, Arc::new(location.clone()));
            }
            Change::GrowLocation {
                extent,
                len,
                from_block,
                sums,
            } => {
                if !self.locations.contains_key(extent)
                    && let Some(found) = base(*extent)?
                {
                    self.locations.insert(*extent, found);
                }
                let grows = self
                    .locations
                    .get_mut(extent)
                    .filter(|l| matches!(l.place, Place::Segment { .. }));
                let Some(location) = grows else {
                    return Err(MetaError::damaged(
                        "journal",
                        format!("{extent} grows and is in no segment"),
                    ));
                };
                {
                    let location = Arc::make_mut(location);
                    location.len = *len;
                    location.sums.truncate(*from_block as usize);
                    location.sums.extend_from_slice(sums);
                }
                self.bytes += sums.len() * 4;
            }
            Change::PutXattr { ino, name, value } => {
                self.put_xattr(*ino, name, Some(value.clone()))
            }
            Change::DelXattr { ino, name } => self.put_xattr(*ino, name, None),
            Change::PutSymlink { ino, target } => {
                self.bytes += ROW_BYTES + target.len();
                self.symlinks.insert(*ino, target.clone());
            }
            Change::PutOrphan(ino) => {
                self.orphans.insert(*ino, true);
            }
            Change::DelOrphan(ino) => {
                self.orphans.insert(*ino, false);
            }
        }
        Ok(())
    }

    fn drop_inode(&mut self, ino: Ino) {
        self.files.remove(&ino);
        self.xattrs.remove(&ino);
        self.symlinks.remove(&ino);
        self.orphans.remove(&ino);
        if self.born.remove(&ino) {
            self.inodes.remove(&ino);
        } else {
            self.inodes.insert(ino, None);
        }
    }

    fn put_dirent(&mut self, parent: Ino, name: &Name, dirent: Option<Dirent>) {
        let names = self.dirents.entry(parent).or_default();
        if names.insert(Arc::clone(name), dirent).is_none() {
            self.bytes += ROW_BYTES + name.len();
        }
    }

    fn put_run(&mut self, ino: Ino, offset: u64, row: Option<ExtentRow>) {
        if self
            .files
            .entry(ino)
            .or_default()
            .runs
            .insert(offset, row)
            .is_none()
        {
            self.bytes += ROW_BYTES;
        }
    }

    fn put_xattr(&mut self, ino: Ino, name: &Name, value: Option<Vec<u8>>) {
        self.bytes += ROW_BYTES + name.len() + value.as_ref().map_or(0, Vec::len);
        self.xattrs
            .entry(ino)
            .or_default()
            .insert(Arc::clone(name), value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }
}

#[derive(Default, Debug)]
struct Generations {
    young: Generation,
    old: Option<Arc<Generation>>,
}

/// Both generations.
#[derive(Default, Debug)]
pub(crate) struct Overlay {
    generations: RwLock<Generations>,
}

/// What the overlay knows of a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<T> {
    /// The row is this.
    Is(T),
    /// There is no such row.
    Gone,
    /// Ask SQLite.
    Unknown,
}

impl<T> From<Option<Option<T>>> for Known<T> {
    fn from(found: Option<Option<T>>) -> Self {
        match found {
            Some(Some(row)) => Self::Is(row),
            Some(None) => Self::Gone,
            None => Self::Unknown,
        }
    }
}

impl Overlay {
    /// Applies one record. `base` reads a location from SQLite.
    pub(crate) fn apply(
        &self,
        lsn: Lsn,
        changes: &[Change],
        new_inode: Option<Ino>,
        base: impl Fn(ExtentId) -> Result<Option<Arc<Location>>>,
    ) -> Result<()> {
        let mut generations = self.generations.write();
        let Generations { young, old } = &mut *generations;
        young.born.extend(new_inode);
        for change in changes {
            young.apply(change, |extent| {
                match old.as_ref().and_then(|o| o.locations.get(&extent)) {
                    Some(found) => Ok(Some(Arc::clone(found))),
                    None => base(extent),
                }
            })?;
        }
        young.last = lsn;
        young.records += 1;
        Ok(())
    }

    /// Records and bytes that wait in both generations.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let g = self.generations.read();
        let old = g.old.as_ref().map_or((0, 0), |o| (o.records, o.bytes));
        (g.young.records + old.0, g.young.bytes + old.1)
    }

    /// Makes the young generation the old one, for the checkpointer to write. `None` when nothing waits. An old one
    /// that could not be written is handed out again.
    pub(crate) fn begin_checkpoint(&self) -> Option<Arc<Generation>> {
        let mut g = self.generations.write();
        if let Some(old) = &g.old {
            return Some(Arc::clone(old));
        }
        if g.young.is_empty() {
            return None;
        }
        let old = Arc::new(std::mem::take(&mut g.young));
        g.young.last = old.last;
        g.old = Some(Arc::clone(&old));
        Some(old)
    }

    /// The old generation is in SQLite.
    pub(crate) fn end_checkpoint(&self) {
        let old = self.generations.write().old.take();
        // A large generation takes a while to free; not under the lock.
        drop(old);
    }

    fn find<T>(&self, look: impl Fn(&Generation) -> Option<Option<T>>) -> Known<T> {
        let g = self.generations.read();
        look(&g.young)
            .or_else(|| g.old.as_ref().and_then(|o| look(o)))
            .into()
    }

    pub(crate) fn inode(&self, ino: Ino) -> Known<InodeRow> {
        self.find(|g| g.inodes.get(&ino).copied())
    }

    pub(crate) fn dirent(&self, parent: Ino, name: &[u8]) -> Known<Dirent> {
        self.find(|g| g.dirents.get(&parent)?.get(name).copied())
    }

    pub(crate) fn location(&self, extent: ExtentId) -> Option<Arc<Location>> {
        let g = self.generations.read();
        let find = |g: &Generation| g.locations.get(&extent).cloned();
        find(&g.young).or_else(|| g.old.as_ref().and_then(|o| find(o)))
    }

    pub(crate) fn symlink(&self, ino: Ino) -> Option<Vec<u8>> {
        let g = self.generations.read();
        let find = |g: &Generation| g.symlinks.get(&ino).cloned();
        find(&g.young).or_else(|| g.old.as_ref().and_then(|o| find(o)))
    }

    /// Runs `visit` on the old generation, then on the young one: later visits win. Both are seen as of one instant.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&Generation)) {
        let g = self.generations.read();
        if let Some(old) = &g.old {
            visit(old);
        }
        visit(&g.young);
    }
}
