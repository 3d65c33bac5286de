//! What is held in memory of inodes: rows, directories, file maps, attributes. Only a cache: every entry may be dropped
//! at any time, because what SQLite does not have yet is in the overlay.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::changes::Change;
use crate::error::Result;
use crate::filemap::{FileMap, Piece};
use crate::ids::{ExtentId, Ino};
use crate::rows::{Dirent, InodeRow, Location, Name};
use crate::settings::WHOLE_DIR_ENTRIES;

const SHARDS: usize = 32;
/// Rough bytes of a node without its content.
const NODE_BYTES: usize = 400;
/// Rough bytes of a directory entry beyond its name, in both maps.
const DIRENT_BYTES: usize = 130;
/// Rough bytes of a run of a file.
const RUN_BYTES: usize = 64;
/// Names that are remembered of a directory that is not held whole.
const PARTIAL_NAMES: usize = 16_384;
/// Locations that are remembered.
const LOCATIONS: usize = 32_768;

/// The entries of a directory in memory.
#[derive(Debug, Default)]
pub(crate) enum DirContent {
    #[default]
    Unloaded,
    /// Every entry: a missing name is known to be missing.
    Whole {
        by_name: FxHashMap<Name, Dirent>,
        by_cookie: BTreeMap<u64, Name>,
    },
    /// Some names, found or missing.
    Partial {
        known: FxHashMap<Name, Option<Dirent>>,
    },
}

impl DirContent {
    pub(crate) fn empty() -> Self {
        Self::Whole {
            by_name: FxHashMap::default(),
            by_cookie: BTreeMap::new(),
        }
    }

    pub(crate) fn put(&mut self, name: &Name, dirent: Dirent) {
        match self {
            Self::Unloaded => {}
            Self::Whole { by_name, by_cookie } => {
                if let Some(old) = by_name.insert(Arc::clone(name), dirent) {
                    by_cookie.remove(&old.cookie.0);
                }
                by_cookie.insert(dirent.cookie.0, Arc::clone(name));
                if by_name.len() as u64 > WHOLE_DIR_ENTRIES {
                    *self = Self::Partial {
                        known: FxHashMap::default(),
                    };
                }
            }
            Self::Partial { .. } => self.remember(name, Some(dirent)),
        }
    }

    fn del(&mut self, name: &Name) {
        match self {
            Self::Unloaded => {}
            Self::Whole { by_name, by_cookie } => {
                if let Some(old) = by_name.remove(name) {
                    by_cookie.remove(&old.cookie.0);
                }
            }
            Self::Partial { .. } => self.remember(name, None),
        }
    }

    pub(crate) fn remember(&mut self, name: &Name, found: Option<Dirent>) {
        if let Self::Partial { known } = self {
            if known.len() >= PARTIAL_NAMES {
                known.clear();
            }
            known.insert(Arc::clone(name), found);
        }
    }
}

/// What is known of one inode. Parts that are `None` have not been loaded.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) row: InodeRow,
    /// The inode is gone; whoever still holds the node must not use it.
    pub(crate) dead: bool,
    pub(crate) dir: DirContent,
    pub(crate) runs: Option<FileMap>,
    pub(crate) xattrs: Option<BTreeMap<Name, Arc<[u8]>>>,
    pub(crate) target: Option<Arc<[u8]>>,
}

/// One inode in memory.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ino: Ino,
    pub(crate) state: RwLock<NodeState>,
    used: AtomicBool,
}

impl Node {
    pub(crate) fn new(row: InodeRow) -> Self {
        let state = NodeState {
            row,
            dead: false,
            dir: DirContent::Unloaded,
            runs: None,
            xattrs: None,
            target: None,
        };
        Self {
            ino: row.ino,
            state: RwLock::new(state),
            used: AtomicBool::new(true),
        }
    }

    /// A node nobody has stored anything of yet: everything about it is known.
    pub(crate) fn newborn(row: InodeRow) -> Self {
        let node = Self::new(row);
        let mut state = node.state.write();
        state.runs = Some(FileMap::default());
        state.xattrs = Some(BTreeMap::new());
        if row.is_dir() {
            state.dir = DirContent::empty();
        }
        drop(state);
        node
    }

    fn bytes(&self) -> usize {
        // A node that is being changed is counted by its frame only; it is in use and stays anyway.
        let Some(state) = self.state.try_read() else {
            return NODE_BYTES;
        };
        let entries = match &state.dir {
            DirContent::Unloaded => 0,
            DirContent::Whole { by_name, .. } => by_name.len(),
            DirContent::Partial { known } => known.len(),
        };
        let runs = state.runs.as_ref().map_or(0, FileMap::len);
        let xattrs: usize = state
            .xattrs
            .iter()
            .flatten()
            .map(|(n, v)| n.len() + v.len() + DIRENT_BYTES)
            .sum();
        NODE_BYTES + entries * DIRENT_BYTES + runs * RUN_BYTES + xattrs
    }
}

impl NodeState {
    /// Brings the cached content up to a change that was committed.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::PutInode(row) => self.row = *row,
            Change::DropInode(_) => self.dead = true,
            Change::PutDirent { name, dirent, .. } => self.dir.put(name, *dirent),
            Change::DelDirent { name, .. } => self.dir.del(name),
            Change::PutExtent(row) => self.runs_mut(|runs| {
                runs.insert(Piece {
                    offset: row.offset,
                    len: row.len,
                    extent: row.extent,
                    extent_offset: row.extent_offset,
                });
            }),
            Change::DelExtent { offset, .. } => self.runs_mut(|runs| runs.remove(*offset)),
            Change::CutExtents { from, .. } => self.runs_mut(|runs| runs.cut(*from)),
            Change::PutXattr { name, value, .. } => {
                if let Some(xattrs) = &mut self.xattrs {
                    xattrs.insert(Arc::clone(name), value.as_slice().into());
                }
            }
            Change::DelXattr { name, .. } => {
                if let Some(xattrs) = &mut self.xattrs {
                    xattrs.remove(name);
                }
            }
            Change::PutSymlink { target, .. } => self.target = Some(target.as_slice().into()),
            Change::PutLocation { .. }
            | Change::GrowLocation { .. }
            | Change::PutOrphan(_)
            | Change::DelOrphan(_)
            | Change::PutTrash(_)
            | Change::DelTrash { .. }
            | Change::PutSnapshot { .. }
            | Change::Bulk(_) => {}
        }
    }

    fn runs_mut(&mut self, edit: impl FnOnce(&mut FileMap)) {
        if let Some(runs) = &mut self.runs {
            edit(runs);
        }
    }
}

#[derive(Debug, Default)]
struct Shard {
    nodes: FxHashMap<Ino, Arc<Node>>,
    /// Nodes added since the shard was last weighed.
    added: usize,
}

/// Nodes by inode number, and locations by extent.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Vec<Mutex<Shard>>,
    budget_bytes: AtomicUsize,
    locations: Vec<Mutex<LruCache<ExtentId, Arc<Location>>>>,
}

impl Cache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let each = NonZeroUsize::new(LOCATIONS / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            budget_bytes: AtomicUsize::new(budget_bytes),
            locations: (0..SHARDS)
                .map(|_| Mutex::new(LruCache::new(each)))
                .collect(),
        }
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// The node of an inode, loaded with `load` when it is not there.
    ///
    /// The shard is locked while loading: a node is never put in beside a change that its loader has not seen.
    pub(crate) fn node(
        &self,
        ino: Ino,
        load: impl FnOnce() -> Result<Option<InodeRow>>,
    ) -> Result<Option<Arc<Node>>> {
        let mut shard = self.shard(ino).lock();
        if let Some(node) = shard.nodes.get(&ino) {
            node.used.store(true, Ordering::Relaxed);
            return Ok(Some(Arc::clone(node)));
        }
        let Some(row) = load()? else { return Ok(None) };
        let node = Arc::new(Node::new(row));
        self.put(&mut shard, Arc::clone(&node));
        Ok(Some(node))
    }

    /// The node of an inode, if it is in memory.
    pub(crate) fn known(&self, ino: Ino) -> Option<Arc<Node>> {
        self.shard(ino).lock().nodes.get(&ino).cloned()
    }

    pub(crate) fn insert(&self, node: Arc<Node>) {
        let mut shard = self.shard(node.ino).lock();
        self.put(&mut shard, node);
    }

    fn put(&self, shard: &mut Shard, node: Arc<Node>) {
        shard.nodes.insert(node.ino, node);
        shard.added += 1;
        // Weighing costs a look at every node of the shard: not more often than it grows by an eighth.
        if shard.added * 8 > shard.nodes.len() + 64 {
            shard.added = 0;
            self.trim(shard);
        }
    }

    /// Drops nodes that were not used since the last look until the shard is within its share. A node somebody holds
    /// stays: a change to it must not miss the map.
    fn trim(&self, shard: &mut Shard) {
        let share = self.budget_bytes.load(Ordering::Relaxed) / SHARDS;
        let mut total: usize = shard.nodes.values().map(|n| n.bytes()).sum();
        if total <= share {
            return;
        }
        for spare_used in [true, false] {
            shard.nodes.retain(|_, node| {
                let keep = total <= share * 3 / 4
                    || Arc::strong_count(node) > 1
                    || (node.used.swap(false, Ordering::Relaxed) && spare_used);
                if !keep {
                    total -= node.bytes().min(total);
                }
                keep
            });
        }
    }

    pub(crate) fn remove(&self, ino: Ino) {
        self.shard(ino).lock().nodes.remove(&ino);
    }

    /// Drops every node and location nobody holds.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            shard
                .lock()
                .nodes
                .retain(|_, node| Arc::strong_count(node) > 1);
        }
        for shard in &self.locations {
            shard.lock().clear();
        }
    }

    /// Rough bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.lock().nodes.values().map(|n| n.bytes()).sum::<usize>())
            .sum()
    }

    /// The location of an extent, loaded with `load` when it is not remembered. The shard is locked while loading: a
    /// location is never put in beside a move that its loader has not seen.
    pub(crate) fn location_or(
        &self,
        extent: ExtentId,
        load: impl FnOnce() -> Result<Option<Arc<Location>>>,
    ) -> Result<Option<Arc<Location>>> {
        let mut shard = self.location_shard(extent).lock();
        if let Some(found) = shard.get(&extent) {
            return Ok(Some(Arc::clone(found)));
        }
        let found = load()?;
        if let Some(found) = &found {
            shard.put(extent, Arc::clone(found));
        }
        Ok(found)
    }

    pub(crate) fn put_location(&self, extent: ExtentId, location: Arc<Location>) {
        self.location_shard(extent).lock().put(extent, location);
    }

    pub(crate) fn forget_location(&self, extent: ExtentId) {
        self.location_shard(extent).lock().pop(&extent);
    }

    fn location_shard(&self, extent: ExtentId) -> &Mutex<LruCache<ExtentId, Arc<Location>>> {
        &self.locations[extent.0 as usize % SHARDS]
    }
}
