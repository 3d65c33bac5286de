//! The engine: file-system operations on a volume, free of FUSE. One file per family of operations.

mod ahead;
mod attr;
mod branches;
mod data;
mod lookups;
mod names;
mod past;
mod shipping;
mod snapshots;
mod trash;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use weldrfs_blockstore::{PackId, Packs, SegmentStore};
use weldrfs_meta::{Ino, Namespace};

use crate::clock::Clock;
use crate::error::FsError;

use lookups::Lookups;
use shipping::Shipping;

pub use attr::{Attr, Caller, Kind, StatFs};
pub use branches::{BRANCHES, Branched};
pub use names::DirEntry;
pub use shipping::StoreWait;
pub use snapshots::SnapshotNames;
pub(crate) use snapshots::{Aside, Onlooker};
pub use trash::{TrashFigures, TrashTarget};

/// Shorthand for the engine's results.
pub(crate) type Result<T> = std::result::Result<T, FsError>;

/// How long a writer waits for staging to be emptied before it is told that there is no space.
const STAGING_WAIT: Duration = Duration::from_secs(60);
/// How long it waits when emptying staging has just failed.
const HOPELESS_WAIT: Duration = Duration::from_secs(2);

/// Called by a writer that found staging full.
pub(crate) type Pressure = Box<dyn Fn() -> bool + Send + Sync>;

/// The operations of a volume.
pub struct Engine {
    pub(crate) ns: Arc<Namespace>,
    pub(crate) segments: Arc<SegmentStore>,
    pub(crate) packs: Arc<Packs>,
    /// Pack row numbers to object ids.
    pub(crate) pack_ids: RwLock<FxHashMap<u64, PackId>>,
    pub(crate) clock: Arc<dyn Clock>,
    lookups: Lookups,
    /// Sessions that serve the kernel.
    sessions: AtomicUsize,
    positions: ahead::Positions,
    shipping: Shipping,
    /// Who is told of changes that nobody asked for.
    onlooker: OnceLock<Arc<dyn Onlooker>>,
    /// Held from before a restore until nobody finds what it replaced any more.
    restoring: Mutex<()>,
    /// Whether the root lists `.snapshots`.
    shows_snapshots: AtomicBool,
    /// Whether the directory of snapshots was ever found by anybody.
    list_was_shown: AtomicBool,
    /// Wakes whoever empties staging, and says whether that is going well.
    pressure: OnceLock<Pressure>,
    /// Where appends have to wait, bytes.
    pub(crate) staging_limit_bytes: u64,
    /// How long a read waits for the store.
    pub(crate) read_deadline: Duration,
    /// A folder of the file system that bounds what can be stored.
    pub(crate) space: std::path::PathBuf,
    /// Whether the store is on that file system.
    store_is_local: bool,
    given_way: Mutex<trash::GivenWay>,
    gave_way: trash::GaveWay,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("namespace", &self.ns)
            .finish_non_exhaustive()
    }
}

/// The parts an engine is made of.
pub(crate) struct Parts {
    pub(crate) ns: Arc<Namespace>,
    pub(crate) segments: Arc<SegmentStore>,
    pub(crate) packs: Arc<Packs>,
    pub(crate) pack_ids: FxHashMap<u64, PackId>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_deadline: Duration,
    pub(crate) staging_limit_bytes: u64,
    pub(crate) space: std::path::PathBuf,
    pub(crate) store_is_local: bool,
    pub(crate) store_wait: StoreWait,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            ns,
            segments,
            packs,
            pack_ids,
            clock,
            read_deadline,
            staging_limit_bytes,
            space,
            store_is_local,
            store_wait,
        } = parts;
        let pack_ids = RwLock::new(pack_ids);
        Self {
            ns,
            segments,
            packs,
            pack_ids,
            clock,
            read_deadline,
            staging_limit_bytes,
            lookups: Lookups::default(),
            sessions: AtomicUsize::new(0),
            positions: ahead::Positions::default(),
            shipping: Shipping::new(store_wait),
            onlooker: OnceLock::new(),
            restoring: Mutex::new(()),
            shows_snapshots: AtomicBool::new(false),
            list_was_shown: AtomicBool::new(false),
            pressure: OnceLock::new(),
            space,
            store_is_local,
            given_way: Mutex::default(),
            gave_way: Mutex::default(),
        }
    }

    /// When a read that begins now has waited long enough for the store.
    pub fn read_deadline(&self) -> Instant {
        Instant::now() + self.read_deadline
    }

    /// Says how staging gets emptied. Until then, and without it, nobody waits for that.
    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        // A second one would be a second packer, which there is not.
        let _ = self.pressure.set(pressure);
    }

    /// Counts sessions that serve the kernel: `true` begins one, `false` ends it.
    pub(crate) fn serve(&self, begins: bool) {
        match begins {
            true => self.sessions.fetch_add(1, Ordering::AcqRel),
            false => self.sessions.fetch_sub(1, Ordering::AcqRel),
        };
    }

    /// Whether the kernel may still send requests.
    pub(crate) fn is_served(&self) -> bool {
        self.sessions.load(Ordering::Acquire) > 0
    }

    fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }

    /// Makes everything acknowledged before the call durable, on this machine or, if asked for, in the store. Which file
    /// was named does not matter: what is on the disk is always a prefix of the history.
    ///
    /// # Errors
    /// `ENOENT`; `EROFS` once a flush has failed; `EIO` when the store did not take it.
    pub fn fsync(&self, ino: Ino, datasync: bool) -> Result<()> {
        let _ = datasync;
        self.getattr(ino)?;
        self.ns.flush(self.ns.acknowledged())?;
        self.ship_synced()
    }
}

/// The bytes of a hole.
fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; 128 << 10] = [0; 128 << 10];
    match len {
        0..=131_072 => Bytes::from_static(&ZEROS[..len]),
        _ => Bytes::from(vec![0; len]),
    }
}
