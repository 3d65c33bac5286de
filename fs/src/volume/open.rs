//! Opening a volume: find or make it in the store, bring the local state up, start what works behind the engine.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;
use weldrfs_blockstore::{
    CountingStore, ObjectStore, PackId, Packs, PacksConfig, RetrySettings, RetryStore, SegmentId,
    SegmentSettings, SegmentStore,
};
use weldrfs_meta::{Lsn, MetaError, MetaSettings, Namespace, Permit};

use super::admission::{self, Admitted};
use super::barrier::Barrier;
use super::gc;
use super::keeper::{Desk, Holder, LEASE_INTERVAL};
use super::layout::{Folders, Locks, MARKER_KEY, Marker, is_in_use};
use super::open_error::OpenError;
use super::packer::{PackPlan, Packer};
use super::place::Place;
use super::thinning;
use super::views::{self, View};
use super::worker::{Waker, Worker};
use super::{SHIP_DEADLINE, Volume, VolumeConfig};
use crate::clock::{Clock, SystemClock};
use crate::engine::{Engine, Parts};
use crate::error::FsError;

/// Share of the free disk that staging may use unless a limit is given.
const STAGING_SHARE: u64 = 2;
/// Least staging that makes sense.
const LEAST_STAGING_BYTES: u64 = 64 << 20;
/// Pack rounds, and how often files with too many runs are looked for.
const PACK_INTERVAL: Duration = Duration::from_secs(1);
const REWRITE_INTERVAL: Duration = Duration::from_secs(5);
/// How often what has changed goes to the store, unless `upload_delay` is longer.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);

impl Volume {
    /// Opens a volume, making it on first use.
    ///
    /// # Errors
    /// See [`OpenError`]. When the place is refused nothing has been made, locally or in the store.
    pub fn open(
        config: VolumeConfig,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_with(config, runtime, Arc::new(SystemClock))
    }

    /// The same with a clock of one's own.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_with(
        config: VolumeConfig,
        runtime: tokio::runtime::Handle,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let config = VolumeConfig {
            read_only: config.read_only || config.divergent.is_some() || config.at_ms.is_some(),
            ..config
        };
        let place = Place::open(&config.source, &runtime)?;
        let store = Arc::new(CountingStore::new(Arc::clone(&place.store)));
        let retrying = Arc::new(RetryStore::new(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            RetrySettings::default(),
        ));
        let asked = Place::impatient(Arc::clone(&store) as Arc<dyn ObjectStore>);
        let marker = find_or_make(&config, &place, &asked, &runtime, &*clock)?;
        let (base, cache) = (&config.state_base, config.cache_dir.as_deref());
        let desk = Desk {
            store: Arc::clone(&retrying),
            runtime: runtime.clone(),
            state_dir: PathBuf::new(),
            // A directory always keeps its conditions.
            unconditional: config.trust_store && config.source.directory().is_none(),
        };
        let now_ms = clock.now_ms();
        views::tidy(&base.join(&marker.volume));
        let view = match config.at_ms {
            Some(at_ms) => Some(View::of(&desk, at_ms, now_ms)?),
            None if config.read_only
                && config.divergent.is_none()
                && is_in_use(&Folders::new(base, &marker.volume, cache)) =>
            {
                Some(View::newest(&desk)?)
            }
            None => None,
        };
        let folders = match (&config.divergent, &view) {
            (Some(copy), _) => Folders::of_copy(base, &marker.volume, copy)?,
            (None, Some(view)) => view.folders(base, &marker.volume),
            (None, None) => Folders::new(base, &marker.volume, cache),
        };
        folders.make()?;
        let locks = Locks::take(&folders, config.source.directory(), config.read_only)?;
        folders.check_whole()?;
        let desk = Desk {
            state_dir: folders.state.clone(),
            ..desk
        };
        admission::finish_setting_aside(&folders)?;
        let acknowledged = || acknowledged(&config, &folders, &store, &runtime, Arc::clone(&clock));
        let Admitted { in_store, keeper } = match (&view, config.read_only) {
            (Some(view), _) => view.bring_home(&desk, &folders)?,
            // It has nothing to do with what the store holds by now.
            (None, true) if config.divergent.is_some() => Admitted::default(),
            (None, true) => admission::for_reading(&desk, &folders, acknowledged)?,
            (None, false) => admission::for_writing(
                desk,
                Holder::here(config.lease),
                &clock,
                &folders,
                config.claim,
                acknowledged,
            )?,
        };
        if config.read_only && !folders.has_metadata() {
            return Err(OpenError::NoVolume(retrying.describe()));
        }
        let staging_limit_bytes = config
            .staging_limit_bytes
            .unwrap_or_else(|| default_staging(&folders.segments));
        let waker = Waker::default();
        let parts = open_parts(
            &config,
            &folders,
            &store,
            &runtime,
            clock,
            staging_limit_bytes,
        )?;
        if let Some(keeper) = &keeper {
            parts.ns.set_permit(Arc::clone(keeper) as Arc<dyn Permit>);
        }
        let engine = Arc::new(Engine::new(parts));
        if let Some(keeper) = &keeper {
            gc::forget_late_marks(&engine, keeper)?;
        }
        let last_error = Arc::new(Mutex::new(None));
        let packer = Arc::new(Packer::new(
            Arc::clone(&engine),
            runtime.clone(),
            seed(),
            PackPlan {
                staging_limit_bytes,
                upload_delay: config.upload_delay,
                max_uploads: config.max_uploads,
            },
        ));
        let (pressure, hope) = (waker.clone(), Arc::downgrade(&packer));
        engine.set_pressure(Box::new(move || {
            pressure.wake();
            hope.upgrade().is_some_and(|packer| packer.hopeful())
        }));
        let volume = Arc::new(Self {
            engine,
            marker,
            state_dir: folders.state,
            store,
            packer,
            staging_limit_bytes,
            in_store: AtomicU64::new(in_store),
            publishing: Mutex::new(()),
            tended: Mutex::default(),
            thinning: Waker::default(),
            collecting: Mutex::default(),
            keeper,
            behind_since: Mutex::new(None),
            last_error,
            read_only: config.read_only,
            sync_interval: config.upload_delay.max(SYNC_INTERVAL),
            trash_kept: config.trash,
            awake: OnceLock::new(),
            workers: Mutex::new(Vec::new()),
            locks: Mutex::new(Some(locks)),
        });
        let shipped = Arc::downgrade(&volume);
        volume.engine.set_ship(Box::new(move || {
            let volume = shipped.upgrade();
            let volume = volume.ok_or(FsError::Late("the volume is being closed"))?;
            Ok(Lsn(volume.sync(SHIP_DEADLINE)?.in_store_lsn))
        }));
        volume
            .start_workers(&waker, config.read_only)
            .map_err(|e| OpenError::State(format!("cannot start a thread: {e}")))?;
        Ok(volume)
    }

    fn start_workers(self: &Arc<Self>, pack_waker: &Waker, read_only: bool) -> std::io::Result<()> {
        if read_only {
            return Ok(());
        }
        let mut workers = self.workers.lock();
        let (packer, last, stop) = (
            Arc::clone(&self.packer),
            Arc::clone(&self.last_error),
            pack_waker.clone(),
        );
        workers.push(Worker::start(
            "weldr-packer",
            pack_waker,
            PACK_INTERVAL,
            move || {
                if let Err(error) = packer.round(&stop) {
                    super::note_trouble(&last, "packing failed and will be tried again", &error);
                }
            },
        )?);
        let engine = Arc::clone(&self.engine);
        workers.push(Worker::start(
            "weldr-rewrite",
            &Waker::default(),
            REWRITE_INTERVAL,
            move || {
                super::rewrite::round(&engine);
            },
        )?);
        if let Some(keeper) = self.keeper.clone() {
            let volume = Arc::downgrade(self);
            workers.push(Worker::start(
                "weldr-lease",
                &keeper.waker().clone(),
                LEASE_INTERVAL,
                move || {
                    if let Some(volume) = volume.upgrade() {
                        keeper.look_after(volume.engine.ns.acknowledged().0);
                    }
                },
            )?);
        }
        let volume = Arc::downgrade(self);
        let mut next = Instant::now() + gc::FIRST_AFTER;
        workers.push(Worker::start(
            "weldr-gc",
            &Waker::default(),
            gc::LOOK,
            move || {
                if Instant::now() >= next
                    && let Some(volume) = volume.upgrade()
                {
                    volume.gc_if_changed();
                    next = Instant::now() + gc::INTERVAL;
                }
            },
        )?);
        let volume = Arc::downgrade(self);
        let waker = Waker::default();
        let stop = waker.clone();
        workers.push(Worker::start(
            "weldr-trash",
            &waker,
            super::trash::INTERVAL,
            move || {
                if let Some(volume) = volume.upgrade() {
                    volume.tidy_trash(&|| stop.stopping());
                }
            },
        )?);
        let volume = Arc::downgrade(self);
        workers.push(Worker::start(
            "weldr-thin",
            &self.thinning,
            thinning::LOOK,
            move || {
                if let Some(volume) = volume.upgrade() {
                    volume.tend_snapshots();
                }
            },
        )?);
        let volume = Arc::downgrade(self);
        workers.push(Worker::start(
            "weldr-publish",
            &Waker::default(),
            self.sync_interval,
            move || {
                if let Some(volume) = volume.upgrade() {
                    volume.publish_if_changed();
                }
            },
        )?);
        Ok(())
    }
}

fn find_or_make(
    config: &VolumeConfig,
    place: &Place,
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
    clock: &dyn Clock,
) -> Result<Marker, OpenError> {
    if let Some(marker) = find(config, place, store, runtime)? {
        return Ok(marker);
    }
    let made = make(config, place, store, runtime, clock);
    made.or_else(|error| match find(config, place, store, runtime)? {
        // Another machine was making it at the same time.
        Some(marker) => Ok(marker),
        None => Err(error),
    })
}

fn find(
    config: &VolumeConfig,
    place: &Place,
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
) -> Result<Option<Marker>, OpenError> {
    match runtime.block_on(store.get(MARKER_KEY, None)) {
        Ok(object) => {
            let marker = Marker::parse(&object.bytes, &store.describe())?;
            if !config.read_only {
                place.check_rights(store, &marker, config.trust_store, runtime)?;
            }
            Ok(Some(marker))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(place.named(error).into()),
    }
}

/// Makes the volume, in a place that is empty.
fn make(
    config: &VolumeConfig,
    place: &Place,
    store: &dyn ObjectStore,
    runtime: &tokio::runtime::Handle,
    clock: &dyn Clock,
) -> Result<Marker, OpenError> {
    place.check_empty(runtime)?;
    if config.read_only {
        return Err(OpenError::NoVolume(store.describe()));
    }
    let id = PackId::random(&mut SmallRng::from_os_rng());
    let marker = Marker::new(id.to_string(), clock.now_ms());
    runtime.block_on(marker.put(store))?;
    place.check_rights(store, &marker, config.trust_store, runtime)?;
    Ok(marker)
}

/// The last operation of the local state; brings its journal into SQLite.
fn acknowledged(
    config: &VolumeConfig,
    folders: &Folders,
    store: &Arc<CountingStore>,
    runtime: &tokio::runtime::Handle,
    clock: Arc<dyn Clock>,
) -> Result<u64, OpenError> {
    let looking = VolumeConfig {
        read_only: true,
        ..config.clone()
    };
    let parts = open_parts(&looking, folders, store, runtime, clock, u64::MAX)?;
    let acknowledged = parts.ns.acknowledged();
    parts.ns.close()?;
    Ok(acknowledged.0)
}

/// Opens what the engine is made of.
pub(super) fn open_parts(
    config: &VolumeConfig,
    folders: &Folders,
    store: &Arc<CountingStore>,
    runtime: &tokio::runtime::Handle,
    clock: Arc<dyn Clock>,
    staging_limit_bytes: u64,
) -> Result<Parts, OpenError> {
    let settings = SegmentSettings {
        staging_limit_bytes,
        ..SegmentSettings::default()
    };
    let floor = next_segment_floor(&folders.segments)?;
    let segments = Arc::new(SegmentStore::open(
        &folders.segments,
        settings,
        floor,
        seed(),
    )?);
    let meta = MetaSettings {
        dir: folders.meta.clone(),
        checkpoint_interval: config.checkpoint_interval,
        boot_id: boot_id(),
        seed: seed(),
        read_only: config.read_only,
        trash: !config.trash.is_zero(),
        ..MetaSettings::default()
    };
    let owner = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let ns = Namespace::open(
        meta,
        Arc::new(Barrier(Arc::clone(&segments))),
        owner,
        clock.now_ns(),
    );
    let ns = ns.map_err(|error| match error {
        MetaError::Damaged { .. } => OpenError::DamagedState {
            dir: folders.meta.clone(),
            error,
        },
        MetaError::NewerFormat { .. } => OpenError::State(error.to_string()),
        other => OpenError::State(format!(
            "cannot open the local state in {}: {other}",
            folders.meta.display()
        )),
    })?;
    tidy_segments(&ns, &segments, config.read_only)?;
    let pack_ids: FxHashMap<u64, PackId> = ns
        .packs()?
        .into_iter()
        .map(|p| (p.pack, PackId(p.id)))
        .collect();
    let packs_config = PacksConfig {
        cache_bytes: config.cache_bytes,
        frame_cache_bytes: config.frame_cache_bytes,
        free_floor_ratio: config.free_floor_ratio,
        read_deadline: config.read_deadline,
        max_uploads: config.max_uploads,
        ..PacksConfig::new(&folders.packs)
    };
    let packs = Packs::open(
        packs_config,
        Arc::clone(store) as Arc<dyn ObjectStore>,
        runtime.clone(),
        Vec::new(),
    )?;
    Ok(Parts {
        ns,
        segments,
        packs: Arc::new(packs),
        pack_ids,
        clock,
        read_deadline: config.read_deadline,
        staging_limit_bytes,
        // What a bucket holds has no end; what limits a mount of it is the local disk.
        space: config
            .source
            .directory()
            .unwrap_or(&folders.segments)
            .to_owned(),
        store_is_local: config.source.directory().is_some(),
        store_wait: config.store_wait,
    })
}

/// Releases the segments nobody names any more and tells the others how much of them is in use.
fn tidy_segments(
    ns: &Namespace,
    segments: &SegmentStore,
    read_only: bool,
) -> Result<(), OpenError> {
    let named: rustc_hash::FxHashSet<u64> = ns.segments()?.into_iter().collect();
    for id in segments.ids() {
        if !named.contains(&id.0) {
            if !read_only {
                let extents = ns.segment_extents(id.0)?;
                let dead = extents.into_iter().map(|(extent, _, _)| extent).collect();
                ns.move_extents(None, Vec::new(), dead)?;
                segments.release(id)?;
            }
            continue;
        }
        let extents = ns.segment_extents(id.0)?;
        let end = extents
            .iter()
            .filter_map(|(_, location, _)| match location.place {
                weldrfs_meta::Place::Segment { offset, .. } => Some(offset + location.len),
                weldrfs_meta::Place::Pack { .. } => None,
            });
        if let Some(end) = end.max() {
            segments.set_used_bytes(id, end);
        }
    }
    if let Some(lost) = named.iter().find(|id| !segments.exists(SegmentId(**id))) {
        return Err(OpenError::LostSegment(SegmentId(*lost)));
    }
    Ok(())
}

/// Segment numbers that one mount can use: 64 TiB of writing.
const SEGMENTS_PER_MOUNT: u64 = 1 << 20;

/// A number that no segment of this volume ever had: every mount starts a range of its own.
fn next_segment_floor(dir: &Path) -> Result<u64, OpenError> {
    let state = |error| OpenError::StateDir {
        dir: dir.to_owned(),
        error,
    };
    let path = dir.join("floor");
    let floor: u64 = match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|e| state(std::io::Error::other(format!("floor: {e}"))))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(state(error)),
    };
    let temporary = dir.join("floor.new");
    std::fs::write(&temporary, (floor + SEGMENTS_PER_MOUNT).to_string()).map_err(state)?;
    std::fs::File::open(&temporary)
        .and_then(|f| f.sync_all())
        .map_err(state)?;
    std::fs::rename(&temporary, &path).map_err(state)?;
    std::fs::File::open(dir)
        .and_then(|f| f.sync_all())
        .map_err(state)?;
    Ok(floor)
}

fn default_staging(dir: &Path) -> u64 {
    let free = rustix::fs::statvfs(dir).map_or(0, |v| v.f_bavail * v.f_frsize);
    (free / STAGING_SHARE).max(LEAST_STAGING_BYTES)
}

/// The machine's boot; all zeros where the kernel does not say, which makes every restart look like the same boot.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16).map_or([0; 16], u128::to_be_bytes)
}

fn seed() -> u64 {
    use rand::Rng;
    SmallRng::from_os_rng().random()
}
