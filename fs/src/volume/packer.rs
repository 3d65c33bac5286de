//! The packer: live bytes of sealed segments become packs, packs go to the store, and only then does the location
//! table say so and the segment go. What died before that is never uploaded.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustc_hash::{FxHashMap, FxHashSet};
use weldrfs_blockstore::{PackSettings, SegmentId};
use weldrfs_meta::{ExtentId, Location, Packed, Piece, Place};

use super::uploads::{Limits, Round};
use super::worker::Waker;
use crate::engine::Engine;
use crate::error::FsError;

/// A segment rests this long before it is packed: much of what is written dies young.
const REST: Duration = Duration::from_secs(10);
/// Above this share of the staging limit nothing rests.
const PRESSURE: f64 = 0.5;
/// Segments that are packed in one go before the next look at the queue.
const SEGMENTS_A_ROUND: usize = 4;

/// Pause after a failed round, and the longest one after many.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often in a row packing has failed, and when it may be tried again.
#[derive(Clone, Copy)]
struct Failing {
    times: u32,
    next: Instant,
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
pub(crate) struct Turn<'a>(pub(super) MutexGuard<'a, SmallRng>);

/// See the module.
pub(crate) struct Packer {
    pub(super) engine: Arc<Engine>,
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
    /// Segments that keep something after they were packed. Only a publication looks at them again, so that they take
    /// no turns from others.
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
        let packed = self.pack(some, || stop.stopping());
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
        self.release_each(ids.iter().copied())
    }

    /// The same for whoever has the turn, and for segments that nobody appends to and whose changes are in SQLite.
    fn release_each(&self, ids: impl Iterator<Item = SegmentId>) -> Result<(), FsError> {
        for id in ids.filter(|id| self.engine.segments.exists(*id)) {
            let extents = self.engine.ns.segment_extents(id.0)?;
            if extents.iter().any(|(_, _, live)| *live) {
                continue;
            }
            let dead = extents.into_iter().map(|(e, _, _)| e).collect();
            self.engine.ns.move_extents(None, Vec::new(), dead)?;
            self.engine.segments.release(id)?;
        }
        Ok(())
    }

    /// Waits until nobody packs, and keeps it so: what a cut names then stays where it is.
    pub(crate) fn turn(&self, until: Instant) -> Option<Turn<'_>> {
        self.turn.try_lock_until(until).map(Turn)
    }

    /// Packs what a cut has in segments, dead by now or not: all of it belongs to the cut. Returns where it went.
    pub(crate) fn pack_listed(
        &self,
        turn: &mut Turn<'_>,
        listed: &[(ExtentId, Location)],
        until: Instant,
    ) -> Result<Vec<Packed>, FsError> {
        let ns = &self.engine.ns;
        // Extents grow in the segment that is written to. Once it is sealed, and what was under way is in SQLite, a
        // move sees the length that an extent has for good.
        self.engine.segments.seal_active();
        let settled: FxHashSet<u64> = self
            .engine
            .segments
            .sealed()
            .iter()
            .map(|s| s.id.0)
            .collect();
        ns.checkpoint(ns.acknowledged())?;
        let mut round = self.begin(Some(until));
        let packed = listed.iter().try_for_each(|(extent, location)| {
            let moves = matches!(location.place, Place::Segment { segment, .. } if settled.contains(&segment));
            match self.read_whole(*extent, location)? {
                Some(data) => round.push(&mut turn.0, *extent, &data, moves),
                None => Ok(()),
            }
        });
        let packed = round.finish(packed)?;
        self.release_each(settled.into_iter().map(SegmentId))?;
        Ok(packed)
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

    fn pack(&self, ids: &[SegmentId], enough: impl Fn() -> bool) -> Result<(), FsError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.release_dead(ids)?;
        let mut rng = self.turn.lock();
        let ns = &self.engine.ns;
        // Everything that names these segments is in SQLite afterwards: they are sealed and nobody appends to them.
        ns.checkpoint(ns.acknowledged())?;
        let mut round = self.begin(None);
        let mut packed = Ok(());
        let mut emptied = Vec::new();
        for id in ids {
            if enough() {
                break;
            }
            if !self.engine.segments.exists(*id) {
                continue;
            }
            packed = self.pack_segment(*id, &mut round, &mut rng);
            if packed.is_err() {
                break;
            }
            emptied.push(*id);
        }
        round.finish(packed)?;
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

    /// All bytes of an extent; `None` when they are damaged: that must not keep everything else from the store.
    fn read_whole(&self, extent: ExtentId, location: &Location) -> Result<Option<Bytes>, FsError> {
        let whole = Piece {
            offset: 0,
            len: location.len,
            extent,
            extent_offset: 0,
        };
        match self.engine.read_located(&whole, location) {
            Ok(data) => Ok(Some(data)),
            Err(FsError::Damaged(what)) => {
                self.note_damaged(extent, &what);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Says once that an extent is damaged.
    pub(super) fn note_damaged(&self, extent: ExtentId, what: &str) {
        if self.damaged.lock().insert(extent) {
            tracing::error!(what, "damaged data is not uploaded; reading it is an error");
        }
    }

    pub(super) fn begin(&self, until: Option<Instant>) -> Round<'_> {
        let limits = Limits {
            until,
            max_uploads: self.plan.max_uploads,
        };
        Round::begin(
            &self.engine,
            &self.runtime,
            &self.settings,
            &self.next_pack,
            limits,
        )
    }

    /// Puts the live extents of a segment into packs.
    fn pack_segment(
        &self,
        id: SegmentId,
        round: &mut Round<'_>,
        rng: &mut SmallRng,
    ) -> Result<(), FsError> {
        let mut dead = Vec::new();
        for (extent, location, live) in self.engine.ns.segment_extents(id.0)? {
            if !live {
                dead.push(extent);
                continue;
            }
            if let Some(data) = self.read_whole(extent, &location)? {
                round.push(rng, extent, &data, true)?;
            }
        }
        if !dead.is_empty() {
            self.engine.ns.move_extents(None, Vec::new(), dead)?;
        }
        Ok(())
    }
}
