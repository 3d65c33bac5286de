//! The packer: live bytes of sealed segments become packs, packs go to the store, and only then does the location
//! table say so and the segment go. What died before that is never uploaded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::task::JoinHandle;
use weldrfs_blockstore::{PackBuilder, PackId, PackSettings, SegmentId};
use weldrfs_meta::{ExtentId, PackRow, Pause, Piece};

use super::worker::Waker;
use crate::engine::Engine;
use crate::error::FsError;

/// A segment rests this long before it is packed: much of what is written dies young.
const REST: Duration = Duration::from_secs(10);
/// Above this share of the staging limit nothing rests.
const PRESSURE: f64 = 0.5;
/// Segments that are packed in one go before the next look at the queue.
const SEGMENTS_A_ROUND: usize = 4;

/// How long one pack may take to go up, all attempts together.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(300);
/// Pause after a failed round, and the longest one after many.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often in a row packing has failed, and when it may be tried again.
#[derive(Clone, Copy)]
struct Failing {
    times: u32,
    next: Instant,
}

/// What a pack in the making holds.
struct Making {
    builder: PackBuilder,
    id: PackId,
    moved: Vec<(ExtentId, u64, u64)>,
}

/// What becomes of extents that no file uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// Their rows go with the segment.
    Drop,
    /// They stay for the round that releases the segment.
    Keep,
}

/// A pack on its way to the store.
struct Flying {
    id: PackId,
    row: PackRow,
    moved: Vec<(ExtentId, u64, u64)>,
    upload: JoinHandle<Result<(), FsError>>,
}

/// What one round has begun: the pack that is being filled, and those on their way, oldest first.
#[derive(Default)]
struct Round {
    making: Option<Making>,
    flying: VecDeque<Flying>,
}

/// When and how much the packer works.
#[derive(Clone, Debug)]
pub(crate) struct PackPlan {
    pub(crate) staging_limit_bytes: u64,
    /// Data rests this long, and at least [`REST`].
    pub(crate) upload_delay: Duration,
    /// Uploads at a time.
    pub(crate) max_uploads: usize,
}

/// The right to pack.
pub(crate) struct Turn<'a>(MutexGuard<'a, SmallRng>);

/// See the module.
pub(crate) struct Packer {
    engine: Arc<Engine>,
    runtime: tokio::runtime::Handle,
    settings: PackSettings,
    plan: PackPlan,
    /// One round at a time; the ids' randomness.
    turn: Mutex<SmallRng>,
    /// When a sealed segment was first seen.
    seen: Mutex<FxHashMap<SegmentId, Instant>>,
    next_pack: AtomicU64,
    /// When dead segments were last looked for while packing fails.
    last_dead: Mutex<Instant>,
    /// Segments that keep something after they were packed. Only a sync looks at them again, so that they take no turns
    /// from others.
    stuck: Mutex<FxHashSet<SegmentId>>,
    /// Extents that cannot be read.
    damaged: Mutex<FxHashSet<ExtentId>>,
    /// Set while the last attempt was a failure.
    failing: Mutex<Option<Failing>>,
    /// When the segment that is written to was first seen with this many bytes.
    active: Mutex<(u64, Instant)>,
}

impl Packer {
    pub(crate) fn new(
        engine: Arc<Engine>,
        runtime: tokio::runtime::Handle,
        seed: u64,
        plan: PackPlan,
    ) -> Self {
        let last = engine.pack_ids.read().keys().max().copied().unwrap_or(0);
        Self {
            engine,
            runtime,
            settings: PackSettings::default(),
            plan,
            turn: Mutex::new(SmallRng::seed_from_u64(seed)),
            seen: Mutex::default(),
            last_dead: Mutex::new(Instant::now()),
            stuck: Mutex::default(),
            damaged: Mutex::default(),
            failing: Mutex::default(),
            next_pack: AtomicU64::new(last + 1),
            active: Mutex::new((0, Instant::now())),
        }
    }

    fn rest(&self) -> Duration {
        self.plan.upload_delay.max(REST)
    }

    /// Packs what has rested long enough, or everything sealed when staging is short.
    pub(crate) fn round(&self, stop: &Waker) -> Result<(), FsError> {
        let segments = &self.engine.segments;
        let short =
            segments.staged_bytes() as f64 > self.plan.staging_limit_bytes as f64 * PRESSURE;
        if short || self.active_rests() {
            segments.seal_active();
        }
        let now = Instant::now();
        let ready: Vec<SegmentId> = {
            let mut seen = self.seen.lock();
            let sealed = segments.sealed();
            seen.retain(|id, _| sealed.iter().any(|s| s.id == *id));
            let stuck = self.stuck.lock();
            sealed
                .iter()
                .filter(|s| !stuck.contains(&s.id))
                .filter(|s| {
                    now.duration_since(*seen.entry(s.id).or_insert(now)) >= self.rest() || short
                })
                .map(|s| s.id)
                .collect()
        };
        if !self.may_try(now) {
            let mut last = self.last_dead.lock();
            if now.duration_since(*last) < FIRST_PAUSE {
                return Ok(());
            }
            *last = now;
            return self.release_dead(&ready);
        }
        let some = &ready[..ready.len().min(SEGMENTS_A_ROUND)];
        let packed = self.pack(some, None, || stop.stopping());
        self.note(&packed);
        packed
    }

    /// Whether the last attempt succeeded: then waiting for room makes sense.
    pub(crate) fn hopeful(&self) -> bool {
        self.failing.lock().is_none()
    }

    fn may_try(&self, now: Instant) -> bool {
        self.failing.lock().is_none_or(|f| now >= f.next)
    }

    fn note(&self, packed: &Result<(), FsError>) {
        let mut failing = self.failing.lock();
        *failing = match packed {
            Ok(()) => None,
            Err(_) => {
                let times = failing.map_or(0, |f| f.times.saturating_add(1));
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << times.min(10))
                    .min(LONGEST_PAUSE);
                Some(Failing {
                    times,
                    next: Instant::now() + pause,
                })
            }
        };
    }

    /// Releases the segments in which nothing is alive any more: that needs no store.
    fn release_dead(&self, ids: &[SegmentId]) -> Result<(), FsError> {
        if ids.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock();
        let ns = &self.engine.ns;
        ns.checkpoint(ns.acknowledged())?;
        for id in ids.iter().filter(|id| self.engine.segments.exists(**id)) {
            let extents = ns.segment_extents(id.0)?;
            if extents.iter().any(|(_, _, live)| *live) {
                continue;
            }
            ns.move_extents(
                None,
                Vec::new(),
                extents.into_iter().map(|(e, _, _)| e).collect(),
            )?;
            self.engine.segments.release(*id)?;
        }
        Ok(())
    }

    /// Seals what is being written and packs everything that was there at the call, or until the deadline.
    pub(crate) fn pack_all(&self, deadline: Instant) -> Result<(), FsError> {
        self.engine.segments.seal_active();
        let segments = &self.engine.segments;
        let all: Vec<SegmentId> = segments.sealed().iter().map(|s| s.id).collect();
        for some in all.chunks(SEGMENTS_A_ROUND) {
            let there: Vec<SegmentId> = some
                .iter()
                .filter(|id| segments.exists(**id))
                .copied()
                .collect();
            if Instant::now() >= deadline {
                return Err(FsError::Late(
                    "the store is too slow; what is missing goes up later",
                ));
            }
            self.pack(&there, Some(deadline), || Instant::now() >= deadline)?;
        }
        Ok(())
    }

    /// Waits until nobody packs, and keeps it so. Taken before mutations are held back, not while they are.
    pub(crate) fn turn(&self, until: Instant) -> Option<Turn<'_>> {
        self.turn.try_lock_until(until).map(Turn)
    }

    /// Packs every live extent there is, while mutations are held back. Those that wait have appended already and will
    /// name their bytes later, so no segment is released here.
    pub(crate) fn pack_paused(
        &self,
        turn: &mut Turn<'_>,
        _paused: &Pause<'_>,
        until: Instant,
    ) -> Result<(), FsError> {
        let ns = &self.engine.ns;
        ns.checkpoint(ns.acknowledged())?;
        let mut round = Round::default();
        let packed = ns.segments()?.into_iter().try_for_each(|id| {
            self.pack_segment(
                SegmentId(id),
                &mut round,
                &mut turn.0,
                Dead::Keep,
                Some(until),
            )
        });
        self.finish(round, packed, Some(until))
    }

    /// Whether nothing was appended for a while although something waits.
    fn active_rests(&self) -> bool {
        let staged = self.engine.segments.staged_bytes();
        let mut active = self.active.lock();
        if active.0 != staged {
            *active = (staged, Instant::now());
        }
        staged > 0 && active.1.elapsed() >= self.rest()
    }

    fn pack(
        &self,
        ids: &[SegmentId],
        until: Option<Instant>,
        enough: impl Fn() -> bool,
    ) -> Result<(), FsError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.release_dead(ids)?;
        let mut rng = self.turn.lock();
        let ns = &self.engine.ns;
        // Everything that names these segments is in SQLite afterwards: they are sealed and nobody appends to them.
        ns.checkpoint(ns.acknowledged())?;
        let mut round = Round::default();
        let mut packed = Ok(());
        let mut emptied = Vec::new();
        for id in ids {
            if enough() {
                break;
            }
            if !self.engine.segments.exists(*id) {
                continue;
            }
            packed = self.pack_segment(*id, &mut round, &mut rng, Dead::Drop, until);
            if packed.is_err() {
                break;
            }
            emptied.push(*id);
        }
        self.finish(round, packed, until)?;
        for id in emptied {
            // What could not be read, or was not moved for whatever reason, keeps its segment.
            if self.is_dead(id)? {
                self.engine.segments.release(id)?;
                self.seen.lock().remove(&id);
            } else {
                self.stuck.lock().insert(id);
            }
        }
        Ok(())
    }

    fn is_dead(&self, id: SegmentId) -> Result<bool, FsError> {
        let extents = self.engine.ns.segment_extents(id.0)?;
        Ok(!extents.iter().any(|(_, _, live)| *live))
    }

    /// One damaged extent must not keep everything else from the store.
    fn note_damaged(&self, extent: ExtentId, what: &str) {
        if self.damaged.lock().insert(extent) {
            tracing::error!(what, "damaged data is not uploaded; reading it is an error");
        }
    }

    /// The extents that were found damaged and stay where they are.
    pub(crate) fn damaged(&self) -> FxHashSet<ExtentId> {
        self.damaged.lock().clone()
    }

    /// Puts the live extents of a segment into packs, in time if there is a limit.
    fn pack_segment(
        &self,
        id: SegmentId,
        round: &mut Round,
        rng: &mut SmallRng,
        fate: Dead,
        until: Option<Instant>,
    ) -> Result<(), FsError> {
        let mut dead = Vec::new();
        for (extent, location, live) in self.engine.ns.segment_extents(id.0)? {
            if !live {
                dead.push(extent);
                continue;
            }
            let whole = Piece {
                offset: 0,
                len: location.len,
                extent,
                extent_offset: 0,
            };
            let data = match self
                .engine
                .read_piece(&whole, Some(self.engine.read_deadline()))
            {
                Ok(data) => data.unwrap_or_default(),
                Err(FsError::Damaged(what)) => {
                    self.note_damaged(extent, &what);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(FsError::Late(
                    "packing took too long; the rest goes up later",
                ));
            }
            if round
                .making
                .as_ref()
                .is_some_and(|m| !m.builder.has_room(data.len() as u64))
            {
                self.launch(round, until)?;
            }
            let current = round.making.get_or_insert_with(|| {
                let id = PackId::random(rng);
                Making {
                    builder: PackBuilder::new(id, &self.settings),
                    id,
                    moved: Vec::new(),
                }
            });
            let offset = current.builder.push(extent.0, &data);
            current.moved.push((extent, offset, data.len() as u64));
        }
        if fate == Dead::Drop && !dead.is_empty() {
            self.engine.ns.move_extents(None, Vec::new(), dead)?;
        }
        Ok(())
    }

    /// Begins to upload the pack that was filled, with a deadline; first waits for the oldest when as many as allowed are
    /// on their way.
    fn launch(&self, round: &mut Round, until: Option<Instant>) -> Result<(), FsError> {
        let Some(Making { builder, id, moved }) = round.making.take() else {
            return Ok(());
        };
        while round.flying.len() >= self.plan.max_uploads {
            self.land(round)?;
        }
        let built = builder.finish();
        let made_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        let row = PackRow {
            pack: self.next_pack.fetch_add(1, Ordering::Relaxed),
            id: id.0,
            bytes: built.bytes.len() as u64,
            raw_len: built.raw_len,
            extents: built.extents.len() as u64,
            made_ms,
        };
        let left = until.map_or(UPLOAD_DEADLINE, |until| {
            until.saturating_duration_since(Instant::now())
        });
        let packs = Arc::clone(&self.engine.packs);
        round.flying.push_back(Flying {
            id,
            row,
            moved,
            // The segments still have every byte of it: no local copy has to be made durable first.
            upload: self.runtime.spawn(async move {
                let uploaded = tokio::time::timeout(left, packs.upload_built(&built)).await;
                let late =
                    |_| FsError::Late("the store did not take a pack in time; it goes up later");
                Ok(uploaded.map_err(late)??)
            }),
        });
        Ok(())
    }

    /// Waits for the oldest upload and, once it is confirmed, moves the pack's extents. It has its deadline, so this
    /// ends.
    fn land(&self, round: &mut Round) -> Result<(), FsError> {
        let Some(flying) = round.flying.pop_front() else {
            return Ok(());
        };
        let uploaded = self.runtime.block_on(flying.upload);
        uploaded.map_err(|_| FsError::Late("an upload was abandoned"))??;
        // A reader may meet the new place the moment it is committed.
        let (pack, row) = (flying.row.pack, flying.row);
        self.engine.pack_ids.write().insert(pack, flying.id);
        self.engine
            .ns
            .move_extents(Some(row), flying.moved, Vec::new())?;
        Ok(())
    }

    /// Ends a round that went as `packed` says: what is on its way lands in any case. The first error is returned.
    fn finish(
        &self,
        mut round: Round,
        packed: Result<(), FsError>,
        until: Option<Instant>,
    ) -> Result<(), FsError> {
        let mut outcome = packed.and_then(|()| self.launch(&mut round, until));
        while !round.flying.is_empty() {
            let landed = self.land(&mut round);
            outcome = outcome.and(landed);
        }
        outcome
    }
}
