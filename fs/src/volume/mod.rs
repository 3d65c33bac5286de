//! A volume: its place in the store, its local state, and what works behind the engine.

mod admission;
mod barrier;
mod figures;
mod fsck;
mod gc;
mod head;
mod inventory;
mod keeper;
mod layer;
mod layers;
mod layout;
mod lineage;
mod local_check;
mod open;
mod open_error;
mod packer;
mod pages;
mod place;
mod points;
mod publish;
mod repack;
mod restore;
mod rewrite;
mod sealed;
mod thinning;
mod transfer;
mod trash;
mod unnamed;
mod uploads;
mod views;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use weldrfs_blockstore::{CountingStore, PackId};
use weldrfs_meta::MetaError;

use crate::awake::Awake;
use crate::engine::{Engine, StoreWait};
use crate::error::FsError;

pub use admission::Claim;
pub use figures::{LastError, Status, SyncReport};
pub use fsck::{FsckFinding, FsckReport, fsck};
pub use gc::{Amount, GcReport};
pub use inventory::{Destroyed, VolumeFound, destroy_volume, find_volumes};
pub use keeper::LeaseTerm;
pub use local_check::fsck_local;
pub use open_error::OpenError;
pub use place::Source;
pub use points::RestorePoint;
pub use restore::{restore_points, restore_to};
pub use thinning::SnapshotCare;

use gc::Collected;
use keeper::Keeper;
use layout::{Locks, Marker};
use packer::Packer;
use worker::{Waker, Worker};

/// How long an operation that waits for the store waits.
const SHIP_DEADLINE: Duration = Duration::from_secs(60);
/// How long `close` goes on uploading before it leaves the rest for the next mount.
const CLOSE_UPLOAD: Duration = Duration::from_secs(30);

/// How long `close` goes on giving the lease back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);

/// What a volume is opened with.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// The store.
    pub source: Source,
    /// Local state: one folder per volume is made below it.
    pub state_base: PathBuf,
    /// Where packs are cached; below the state folder when `None`.
    pub cache_dir: Option<PathBuf>,
    /// Budget of the pack cache, bytes.
    pub cache_bytes: u64,
    /// Budget of decoded frames in memory, bytes.
    pub frame_cache_bytes: u64,
    /// Share of the local file system that the cache leaves free.
    pub free_floor_ratio: f64,
    /// Most bytes that wait for upload; half of what is free when `None`.
    pub staging_limit_bytes: Option<u64>,
    /// Longest time between checkpoints.
    pub checkpoint_interval: Duration,
    /// How long a read waits for the store.
    pub read_deadline: Duration,
    /// Refuse mutations.
    pub read_only: bool,
    /// Uploads at a time.
    pub max_uploads: usize,
    /// How long data rests before it is uploaded; the packer's own rest when that is longer.
    pub upload_delay: Duration,
    /// Mount for writing although the store ignores conditions, so that nothing keeps two machines apart.
    pub trust_store: bool,
    /// What waits for the store.
    pub store_wait: StoreWait,
    /// How long the right to write is kept without the store.
    pub lease: LeaseTerm,
    /// What may be done to get it.
    pub claim: Claim,
    /// How long what is removed stays in the trash; zero: it does not go there, and what is there ends.
    pub trash: Duration,
    /// Show this divergent copy of the local state, read-only.
    pub divergent: Option<String>,
    /// Show the newest restore point that is not younger than this, milliseconds since 1970; read-only.
    pub at_ms: Option<u64>,
}

/// An open volume.
pub struct Volume {
    pub(crate) engine: Arc<Engine>,
    pub(crate) marker: Marker,
    pub(crate) state_dir: PathBuf,
    pub(crate) store: Arc<CountingStore>,
    pub(crate) packer: Arc<Packer>,
    pub(crate) staging_limit_bytes: u64,
    /// Last operation that the store alone can restore.
    pub(crate) in_store: AtomicU64,
    /// One publication at a time; since when something is behind.
    pub(crate) publishing: Mutex<()>,
    /// Keeps the head and the lease; none for a volume that is only read.
    keeper: Option<Arc<Keeper>>,
    /// What is done about automatic snapshots, one round at a time; and what wakes whoever does it.
    tended: Mutex<thinning::Tended>,
    thinning: Waker,
    /// One round of gc at a time.
    collecting: Mutex<Collected>,
    pub(crate) behind_since: Mutex<Option<Instant>>,
    pub(crate) last_error: Arc<Mutex<Option<LastError>>>,
    pub(crate) read_only: bool,
    /// How often what has changed goes to the store.
    sync_interval: Duration,
    /// How long what is removed stays in the trash.
    trash_kept: Duration,
    awake: OnceLock<Arc<Awake>>,
    workers: Mutex<Vec<Worker>>,
    locks: Mutex<Option<Locks>>,
}

/// What dropping local copies did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Bytes given back on the local disk.
    pub freed_bytes: u64,
    /// Bytes that the store does not have yet, or that nothing there names.
    pub kept_bytes: u64,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("id", &self.marker.volume)
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Says what keeps the processors awake for the mount, for [`Volume::status`].
    pub(crate) fn set_awake(&self, awake: Arc<Awake>) {
        // A volume has one mount.
        let _ = self.awake.set(awake);
    }

    /// Folder of the volume's local state.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The volume's id, 32 hex digits.
    pub fn id(&self) -> String {
        self.marker.volume.clone()
    }

    /// # Errors
    /// `ReadOnly` for a volume that is only read.
    fn keeper(&self) -> Result<&Keeper, FsError> {
        self.keeper.as_deref().ok_or_else(|| {
            FsError::Meta(MetaError::ReadOnly(
                "nothing is published from a read-only mount".into(),
            ))
        })
    }

    /// Empties the caches of clean data and metadata. Returns the bytes given back.
    pub fn drop_caches(&self) -> u64 {
        self.engine.ns.drop_caches();
        self.engine.packs.evict_all()
    }

    /// Drops the local copies of what nothing of the present but the branch `name` uses. If any of its content is not in
    /// the store yet, or nothing there names it, all of it stays.
    ///
    /// # Errors
    /// `ENOENT` when there is no such branch, `EIO`.
    pub fn drop_branch(&self, name: &str) -> Result<Dropped, FsError> {
        let branch = self.engine.find_branch(name)?;
        let branch = branch.ok_or(FsError::Meta(MetaError::NotFound))?;
        let own = self.engine.ns.own_of(branch.ino)?;
        let packs: Vec<PackId> = own.packs.into_iter().map(PackId).collect();
        let kept_bytes = own.staged_bytes + self.engine.packs.bytes_not_evictable(&packs);
        let freed_bytes = match kept_bytes {
            0 => self.engine.packs.evict_these(&packs),
            _ => 0,
        };
        Ok(Dropped {
            freed_bytes,
            kept_bytes,
        })
    }

    /// Changes how many bytes of packs the local disk and of decoded frames the memory may hold, at once. `None` leaves
    /// one as it is.
    pub fn set_budget(&self, cache_bytes: Option<u64>, frame_cache_bytes: Option<u64>) {
        if let Some(bytes) = cache_bytes {
            self.engine.packs.set_budget(bytes);
        }
        if let Some(bytes) = frame_cache_bytes {
            self.engine.packs.set_frame_budget(bytes);
        }
    }

    /// Checks every invariant of the metadata.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn check(&self) -> Result<weldrfs_meta::CheckReport, FsError> {
        Ok(self.engine.ns.check()?)
    }

    /// Brings everything local to the disk, uploads what it can in 30 s, stops the threads and gives the locks back.
    /// Mutations that arrive later are refused.
    ///
    /// # Errors
    /// When something acknowledged could not be brought to the local disk. What could not be uploaded is no error: it
    /// is kept and goes up at the next mount.
    pub fn close(&self) -> Result<(), FsError> {
        if self.locks.lock().is_none() {
            return Ok(());
        }
        if !self.read_only && self.engine.ns.read_only().is_none() {
            // Before the sync: what is acknowledged during it would be missing from what it brings to the store.
            self.engine
                .ns
                .set_read_only(Some("it is being unmounted".into()));
            if let Err(error) = self.sync(CLOSE_UPLOAD) {
                tracing::warn!(%error, "not everything is in the store; it is kept locally and goes up at the next mount");
            }
        }
        self.stop_workers();
        self.release();
        let closed = self.engine.ns.close();
        self.give_locks_back();
        Ok(closed?)
    }

    /// Gives the lease back, unless something is here that the store does not have: another machine would go on without
    /// it at once.
    fn release(&self) {
        let Some(keeper) = self
            .keeper
            .as_ref()
            .filter(|keeper| keeper.barred().is_none())
        else {
            return;
        };
        if self.in_store.load(Ordering::Acquire) < self.engine.ns.acknowledged().0 {
            tracing::warn!(
                "the lease is kept for what is not in the store yet: mount here again, or wait for its end elsewhere"
            );
            return;
        }
        if let Err(error) = keeper.release(Instant::now() + RELEASE_DEADLINE) {
            tracing::warn!(%error, "the lease could not be given back; another machine has to wait for its end");
        }
    }

    /// Ends at once, as a crash would, but for the locks: for tests of recovery.
    pub fn abandon(&self) {
        self.engine
            .ns
            .set_read_only(Some("it was abandoned".into()));
        self.stop_workers();
        self.engine.ns.abandon();
        *self.locks.lock() = None;
    }

    /// While the kernel may still send requests nobody else may have the volume: the locks then end with the process.
    fn give_locks_back(&self) {
        let locks = self.locks.lock().take();
        if self.engine.is_served() {
            tracing::warn!("the mount was cut off; its locks are held until the process ends");
            std::mem::forget(locks);
        }
    }

    fn stop_workers(&self) {
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            worker.stop();
        }
    }
}

/// Remembers trouble for `status`, and logs it.
pub(crate) fn note_trouble(
    last: &Mutex<Option<LastError>>,
    what: &str,
    error: &dyn std::fmt::Display,
) {
    let at_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    tracing::error!(%error, "{what}");
    *last.lock() = Some(LastError {
        at_ms,
        message: format!("{what}: {error}"),
    });
}

#[cfg(test)]
mod tests;
