//! Reading from packs: decoded frames in memory, then the local copy, then the store.
//!
//! Called from threads that may block; must not be called from a thread of the store's runtime.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashSet;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::builder::BuiltPack;
use super::fetch::{Arrival, Fetcher};
use super::index::{FrameEntry, PackIndex};
use super::local::{Copy, LocalPacks, disk_space, only_copy_damaged};
use super::source::{Source, read_index};
use super::stats::PackCacheStats;
use crate::error::{Error, Result, io_at};
use crate::ids::PackId;
use crate::settings::PacksConfig;
use crate::store::{ObjectStore, RetryPolicy, RetryStore};

/// Frame tables kept in memory; one of a full pack is about 7 KiB.
const MAX_TABLES: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not 0");
/// How often a read looks again when a pack came and went while it looked.
const SOURCE_TRIES: usize = 8;
/// What a cached frame costs beside its bytes.
const FRAME_OVERHEAD: usize = 128;

type Frames = moka::sync::Cache<(PackId, usize), Bytes>;

/// Packs: reading them, keeping local copies, uploading.
#[derive(Debug)]
pub struct Packs {
    pub(super) config: PacksConfig,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) retry: RetryPolicy,
    pub(super) local: Arc<LocalPacks>,
    pub(super) upload_turns: Semaphore,
    pub(super) uploads: AtomicU64,
    fetcher: Arc<Fetcher>,
    /// Replaced by an empty one when its size changes: a cache of moka keeps the one it was made with.
    frames: RwLock<Frames>,
    tables: Mutex<LruCache<PackId, Arc<PackIndex>>>,
    missing: Vec<PackId>,
    frame_hits: AtomicU64,
    frame_misses: AtomicU64,
    local_loads: AtomicU64,
    local_damaged: AtomicU64,
}

fn frame_cache(bytes: u64) -> Frames {
    let weigher = |_: &(PackId, usize), frame: &Bytes| (frame.len() + FRAME_OVERHEAD) as u32;
    moka::sync::Cache::builder()
        .max_capacity(bytes)
        .weigher(weigher)
        .build()
}

/// How far a read may go.
#[derive(Clone, Copy)]
enum Reach {
    Local,
    Store(Instant),
}

impl Packs {
    /// Opens the local copies. `store` is used with retries of its own, so it should have none. Packs in
    /// `not_uploaded` are the only copies; the rest of what is in the directory is evictable.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Io`].
    pub fn open(
        config: PacksConfig,
        store: Arc<dyn ObjectStore>,
        runtime: Handle,
        not_uploaded: Vec<PackId>,
    ) -> Result<Self> {
        config.check()?;
        let only: FxHashSet<_> = not_uploaded.iter().copied().collect();
        let local = Arc::new(LocalPacks::open(
            config.dir.clone(),
            config.cache_bytes,
            config.free_floor_ratio,
            Box::new(disk_space),
            &only,
        )?);
        let mut missing = not_uploaded;
        missing.retain(|id| !local.contains(*id));
        for pack in &missing {
            tracing::error!(%pack, "a pack that was not uploaded is not in the local directory");
        }
        let retrying = RetryStore::new(Arc::clone(&store), config.retry.clone());
        let fetcher = Fetcher::new(
            Arc::new(retrying),
            runtime,
            Arc::clone(&local),
            config.max_downloads,
        );
        let frames = frame_cache(config.frame_cache_bytes);
        Ok(Self {
            retry: RetryPolicy::new(config.retry.clone()),
            upload_turns: Semaphore::new(config.max_uploads),
            uploads: AtomicU64::new(0),
            config,
            store,
            local,
            fetcher: Arc::new(fetcher),
            frames: RwLock::new(frames),
            tables: Mutex::new(LruCache::new(MAX_TABLES)),
            missing,
            frame_hits: AtomicU64::new(0),
            frame_misses: AtomicU64::new(0),
            local_loads: AtomicU64::new(0),
            local_damaged: AtomicU64::new(0),
        })
    }

    /// Keeps a new pack locally, durably, until it is uploaded. It can be read at once.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_local(&self, pack: &BuiltPack) -> Result<()> {
        self.local.put(pack.id, &pack.bytes, Copy::Only).map(|_| ())
    }

    /// Reads `len` bytes at a raw offset of a pack, going to the store if needed and waiting until the read deadline.
    ///
    /// # Errors
    /// [`Error::Unavailable`] at the deadline, [`Error::PackNotFound`], [`Error::DamagedPack`],
    /// [`Error::OutOfRange`], [`Error::Store`], [`Error::Io`].
    pub fn read(&self, id: PackId, offset: u64, len: usize) -> Result<Bytes> {
        self.read_until(id, offset, len, Instant::now() + self.config.read_deadline)
    }

    /// The same with a deadline of one's own.
    ///
    /// # Errors
    /// As [`Packs::read`].
    pub fn read_until(
        &self,
        id: PackId,
        offset: u64,
        len: usize,
        deadline: Instant,
    ) -> Result<Bytes> {
        let read = self.assemble(id, offset, len, Reach::Store(deadline))?;
        read.ok_or(Error::PackNotFound(id))
    }

    /// The same without the store: `None` when it would be needed.
    ///
    /// # Errors
    /// As [`Packs::read`], but for those of the store.
    pub fn read_cached(&self, id: PackId, offset: u64, len: usize) -> Result<Option<Bytes>> {
        self.assemble(id, offset, len, Reach::Local)
    }

    /// Begins to fetch a pack that is likely to be read soon, and does not wait. Returns false when too much is under
    /// way already.
    pub fn prefetch(&self, id: PackId) -> bool {
        self.fetcher.ahead(id)
    }

    /// The packs that were uploaded here, or are being, and were not released yet; after a restart those with a local copy.
    #[must_use]
    pub fn kept(&self) -> Vec<PackId> {
        self.local.kept()
    }

    /// Lets copies be evicted again: whatever names these packs is safe in the store.
    pub fn release_kept(&self, ids: &[PackId]) {
        self.local.release(ids);
    }

    /// Drops all local copies the store has too and that need not be kept, and everything in memory; returns the bytes freed on the disk.
    pub fn evict_all(&self) -> u64 {
        self.frames.read().invalidate_all();
        self.tables.lock().clear();
        self.fetcher.drop_memory(None);
        self.local.evict_all()
    }

    /// The same of these packs only. What of them is decoded in memory goes by itself, when it is not read.
    pub fn evict_these(&self, ids: &[PackId]) -> u64 {
        for id in ids {
            self.fetcher.drop_memory(Some(*id));
        }
        self.local.evict_these(ids)
    }

    /// Bytes of the local copies of these packs that cannot be dropped: the store does not have them, or nothing there names
    /// them yet.
    #[must_use]
    pub fn bytes_not_evictable(&self, ids: &[PackId]) -> u64 {
        self.local.bytes_not_evictable(ids)
    }

    /// Changes the budget of the local copies in bytes.
    pub fn set_budget(&self, bytes: u64) {
        self.local.set_budget(bytes);
    }

    /// Changes the budget of decoded frames in memory, in bytes. Those that are there are dropped; they are decoded
    /// again from the local copies.
    pub fn set_frame_budget(&self, bytes: u64) {
        let mut frames = self.frames.write();
        if frames.policy().max_capacity() != Some(bytes) {
            *frames = frame_cache(bytes);
        }
    }

    /// Drops the local copy of a pack that nothing refers to any more, uploaded or not.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget(&self, id: PackId) -> Result<()> {
        self.tables.lock().pop(&id);
        self.fetcher.drop_memory(Some(id));
        self.local.drop_copy(id, true).map(|_| ())
    }

    /// True when the pack has a local copy.
    #[must_use]
    pub fn is_local(&self, id: PackId) -> bool {
        self.local.contains(id)
    }

    /// The packs whose local copy is the only one.
    #[must_use]
    pub fn not_uploaded(&self) -> Vec<PackId> {
        self.local.not_uploaded()
    }

    /// The packs that were said at the start to be not uploaded, and are not in the local directory: they are lost.
    #[must_use]
    pub fn missing(&self) -> &[PackId] {
        &self.missing
    }

    /// Figures for `status`.
    #[must_use]
    pub fn stats(&self) -> PackCacheStats {
        let frames = self.frames.read().clone();
        frames.run_pending_tasks();
        let local = self.local.totals();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PackCacheStats {
            hits: of(&self.frame_hits),
            misses: of(&self.frame_misses),
            local_loads: of(&self.local_loads),
            fetches: of(&self.fetcher.fetches),
            fetched_bytes: of(&self.fetcher.fetched_bytes),
            uploads: of(&self.uploads),
            local_packs: local.packs,
            local_bytes: local.bytes,
            local_budget: local.budget,
            not_uploaded_packs: local.only_packs,
            not_uploaded_bytes: local.only_bytes,
            frames: frames.entry_count(),
            frame_bytes: frames.weighted_size(),
            frame_budget: frames.policy().max_capacity().unwrap_or(0),
            evicted_packs: local.evicted,
            damaged: of(&self.fetcher.damaged) + of(&self.local_damaged),
        }
    }

    #[cfg(test)]
    pub(super) fn forget_decoded(&self) {
        self.frames.read().invalidate_all();
        self.tables.lock().clear();
    }

    fn assemble(&self, id: PackId, offset: u64, len: usize, reach: Reach) -> Result<Option<Bytes>> {
        let Some(index) = self.index(id, reach)? else {
            return Ok(None);
        };
        let end = offset.checked_add(len as u64);
        let Some(end) = end.filter(|end| *end <= index.raw_len()) else {
            return Err(Error::OutOfRange {
                what: format!("pack {id}"),
                offset,
                len: len as u64,
                limit: index.raw_len(),
            });
        };
        let first = match index.frame_at(offset) {
            Some(first) if len > 0 => first,
            _ => return Ok(Some(Bytes::new())),
        };
        let mut whole = BytesMut::new();
        for (n, entry) in index.frames().iter().enumerate().skip(first) {
            let Some(frame) = self.frame(id, n, entry, reach)? else {
                return Ok(None);
            };
            let from = offset.saturating_sub(entry.raw_start) as usize;
            let to = (end - entry.raw_start).min(entry.raw_len) as usize;
            if n == first && to - from == len {
                return Ok(Some(frame.slice(from..to)));
            }
            if n == first {
                whole.reserve(len);
            }
            whole.extend_from_slice(&frame[from..to]);
            if whole.len() == len {
                break;
            }
        }
        Ok(Some(whole.freeze()))
    }

    /// The frame table of a pack.
    fn index(&self, id: PackId, reach: Reach) -> Result<Option<Arc<PackIndex>>> {
        for _ in 0..SOURCE_TRIES {
            if let Some(index) = self.tables.lock().get(&id) {
                return Ok(Some(Arc::clone(index)));
            }
            if let Some(pack) = self.fetcher.in_memory(id) {
                return Ok(Some(self.keep_table(id, Arc::clone(&pack.index))));
            }
            if let Some((file, len)) = self.local.file(id)? {
                match read_index(id, &file, len) {
                    Ok(index) => return Ok(Some(self.keep_table(id, Arc::new(index)))),
                    Err(error) => self.drop_damaged(id, None, &error)?,
                }
            }
            let Reach::Store(deadline) = reach else {
                return Ok(None);
            };
            if let Arrival::Fetched(pack) = self.fetcher.fetch(id, deadline)? {
                return Ok(Some(self.keep_table(id, Arc::clone(&pack.index))));
            }
        }
        Err(unsettled(id))
    }

    /// One decoded frame.
    fn frame(
        &self,
        id: PackId,
        n: usize,
        entry: &FrameEntry,
        reach: Reach,
    ) -> Result<Option<Bytes>> {
        if let Some(frame) = self.frames.read().get(&(id, n)) {
            self.frame_hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(frame));
        }
        self.frame_misses.fetch_add(1, Ordering::Relaxed);
        for _ in 0..SOURCE_TRIES {
            if let Some(source) = self.source(id)? {
                match source.decode(entry) {
                    Ok(frame) => {
                        self.local_loads.fetch_add(1, Ordering::Relaxed);
                        return Ok(Some(self.keep_frame(id, n, frame)));
                    }
                    Err(fault) => self.drop_damaged(id, Some(n), &fault)?,
                }
            }
            let Reach::Store(deadline) = reach else {
                return Ok(None);
            };
            if let Arrival::Fetched(pack) = self.fetcher.fetch(id, deadline)? {
                let frame =
                    Source::Memory(pack)
                        .decode(entry)
                        .map_err(|detail| Error::DamagedPack {
                            pack: id,
                            frame: Some(n),
                            detail,
                        })?;
                return Ok(Some(self.keep_frame(id, n, frame)));
            }
        }
        Err(unsettled(id))
    }

    fn source(&self, id: PackId) -> Result<Option<Source>> {
        if let Some((file, _)) = self.local.file(id)? {
            return Ok(Some(Source::File(file)));
        }
        Ok(self.fetcher.in_memory(id).map(Source::Memory))
    }

    /// Drops a local copy that is damaged, if the store has another.
    fn drop_damaged(&self, id: PackId, frame: Option<usize>, fault: &str) -> Result<()> {
        self.local_damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(pack = %id, frame, fault, "a local copy is damaged");
        if self.local.copy(id) == Some(Copy::Only) {
            return Err(only_copy_damaged(id, frame, fault));
        }
        self.fetcher.drop_memory(Some(id));
        self.tables.lock().pop(&id);
        self.local.drop_copy(id, false).map(|_| ())
    }

    fn keep_table(&self, id: PackId, index: Arc<PackIndex>) -> Arc<PackIndex> {
        self.tables.lock().put(id, Arc::clone(&index));
        index
    }

    fn keep_frame(&self, id: PackId, n: usize, frame: Bytes) -> Bytes {
        self.frames.read().insert((id, n), frame.clone());
        frame
    }
}

/// A pack that is evicted as fast as it comes: the cache is far too small for what runs.
fn unsettled(id: PackId) -> Error {
    io_at("keep a local copy of", id.object_key().as_ref())(io::ErrorKind::ResourceBusy.into())
}
