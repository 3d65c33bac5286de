//! What has happened since the last checkpoint, by row: the newest value of every row that SQLite does not have yet.
//!
//! The young generation takes changes. The sealed ones behind it wait for the checkpointer, which writes one at a time:
//! a snapshot seals the young one, so that no batch spans it. Reading asks the young one, then the sealed ones from the
//! newest to the oldest, then SQLite. No I/O here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::ids::{ExtentId, Ino, Lsn};
use crate::rows::{Dirent, ExtentRow, InodeRow, Location, Name, Place};
use crate::snapshot::Snapshot;

/// Rough bytes of a row in memory beyond its payload.
const ROW_BYTES: usize = 96;

/// The changed runs of a file: everything at and behind `cut` is gone from older generations, then `runs` apply.
#[derive(Default, Debug, Clone)]
pub(crate) struct FileOverlay {
    pub(crate) cut: Option<u64>,
    pub(crate) runs: BTreeMap<u64, Option<ExtentRow>>,
}

/// When a name was removed, see [`TrashRow`](crate::rows::TrashRow).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removed {
    pub(crate) deleted_ms: u64,
    pub(crate) dir_mtime_ns: i64,
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
    /// By what they named, their directory and the name: the rest of the row, if the name is in the trash.
    pub(crate) trash: BTreeMap<(Ino, Ino, Name), Option<Removed>>,
    /// Inodes that no older generation has ever heard of, so that their end leaves no trace.
    born: FxHashSet<Ino>,
    /// A snapshot that was made just before everything else in it.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) last: Lsn,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl Generation {
    /// Rows that are to be written as a whole, without a place in the history of their own.
    pub(crate) fn of(changes: &[Change]) -> Result<Self> {
        let mut generation = Self::default();
        for change in changes {
            generation.apply(change, |_| Ok(None))?;
        }
        Ok(generation)
    }

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
            Change::PutTrash(row) => {
                let removed = Removed {
                    deleted_ms: row.deleted_ms,
                    dir_mtime_ns: row.dir_mtime_ns,
                };
                self.put_trash(row.ino, row.parent, &row.name, Some(removed));
            }
            Change::DelTrash { ino, parent, name } => self.put_trash(*ino, *parent, name, None),
            // Its generation is sealed by whoever holds them all.
            Change::PutSnapshot { .. } | Change::Bulk(_) => {}
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

    fn put_trash(&mut self, ino: Ino, parent: Ino, name: &Name, row: Option<Removed>) {
        let key = (ino, parent, Arc::clone(name));
        if self.trash.insert(key, row).is_none() {
            self.bytes += ROW_BYTES + name.len();
        }
    }

    /// Whether there is anything about an inode's names in the trash.
    fn has_trash(&self, ino: Ino) -> bool {
        let least = (ino, Ino(0), Name::from(&[][..]));
        let next = self.trash.range(least..).next();
        next.is_some_and(|((found, ..), _)| *found == ino)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }
}

#[derive(Default, Debug)]
struct Generations {
    young: Generation,
    /// Oldest first; the first one is what the checkpointer writes.
    sealed: VecDeque<Arc<Generation>>,
}

impl Generations {
    /// What `look` finds, the newest first.
    fn newest<T>(&self, look: impl Fn(&Generation) -> Option<T>) -> Option<T> {
        look(&self.young).or_else(|| self.sealed.iter().rev().find_map(|g| look(g)))
    }

    fn seal(&mut self) {
        let sealed = Arc::new(std::mem::take(&mut self.young));
        self.young.last = sealed.last;
        self.sealed.push_back(sealed);
    }
}

/// All generations.
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
        if let [
            Change::PutSnapshot {
                epoch,
                next_ino,
                new,
            },
        ] = changes
        {
            if !generations.young.is_empty() {
                generations.seal();
            }
            generations.young.snapshot = Some(new.clone().made(*epoch, *next_ino, lsn));
        }
        let Generations { young, sealed } = &mut *generations;
        young.born.extend(new_inode);
        for change in changes {
            young.apply(change, |extent| {
                match sealed.iter().rev().find_map(|g| g.locations.get(&extent)) {
                    Some(found) => Ok(Some(Arc::clone(found))),
                    None => base(extent),
                }
            })?;
        }
        young.last = lsn;
        young.records += 1;
        Ok(())
    }

    /// Records and bytes that wait in all generations.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let g = self.generations.read();
        g.sealed.iter().fold(
            (g.young.records, g.young.bytes),
            |(records, bytes), sealed| (records + sealed.records, bytes + sealed.bytes),
        )
    }

    /// Sealed generations that wait.
    pub(crate) fn sealed(&self) -> usize {
        self.generations.read().sealed.len()
    }

    /// The oldest generation, sealed if need be, for the checkpointer to write. `None` when nothing waits. One that could
    /// not be written is handed out again.
    pub(crate) fn begin_checkpoint(&self) -> Option<Arc<Generation>> {
        let mut g = self.generations.write();
        if g.sealed.is_empty() && !g.young.is_empty() {
            g.seal();
        }
        g.sealed.front().map(Arc::clone)
    }

    /// The oldest generation is in SQLite.
    pub(crate) fn end_checkpoint(&self) {
        let old = self.generations.write().sealed.pop_front();
        // A large generation takes a while to free; not under the lock.
        drop(old);
    }

    fn find<T>(&self, look: impl Fn(&Generation) -> Option<Option<T>>) -> Known<T> {
        self.generations.read().newest(look).into()
    }

    pub(crate) fn inode(&self, ino: Ino) -> Known<InodeRow> {
        self.find(|g| g.inodes.get(&ino).copied())
    }

    pub(crate) fn dirent(&self, parent: Ino, name: &[u8]) -> Known<Dirent> {
        self.find(|g| g.dirents.get(&parent)?.get(name).copied())
    }

    pub(crate) fn location(&self, extent: ExtentId) -> Option<Arc<Location>> {
        let g = self.generations.read();
        g.newest(|g| g.locations.get(&extent).cloned())
    }

    /// Whether anything about an inode's names in the trash is not in SQLite yet.
    pub(crate) fn has_trash(&self, ino: Ino) -> bool {
        let g = self.generations.read();
        g.newest(|g| g.has_trash(ino).then_some(())).is_some()
    }

    pub(crate) fn symlink(&self, ino: Ino) -> Option<Vec<u8>> {
        let g = self.generations.read();
        g.newest(|g| g.symlinks.get(&ino).cloned())
    }

    /// Runs `visit` on every generation, the young one last: later visits win. All are seen as of one instant.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&Generation)) {
        let g = self.generations.read();
        for sealed in &g.sealed {
            visit(sealed);
        }
        visit(&g.young);
    }
}
