//! Publishing: a cut of the database, with every byte its files use in packs, and then the head that names it.
//!
//! Data goes first: a head never names what is not there. A cut that could not be brought to the store is dropped; the
//! next one has all that it had.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::figures::SyncReport;
use super::head::{Head, Layer};
use super::layer::Header;
use super::layers;
use super::pages::{self, PageTable};
use super::points::{self, Chain};
use super::{Volume, note_trouble};
use crate::error::FsError;

/// How long the regular publication may take before it leaves the rest to the next one.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(60);
/// Deltas after one full layer; a machine that restores fetches all of them.
const MOST_DELTAS: usize = 64;
/// A new full layer is made when the deltas have more than this share of the full one.
const DELTA_SHARE: u64 = 2;
/// And when the full one is older than this.
const FULL_LIFE_MS: u64 = 3_600_000;

/// How many publications further one that follows marks of gc is than the one before the marks: one that was given up
/// before them may still arrive, as the next.
pub(super) const AFTER_MARKS: u64 = 2;

/// What a publication brings to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// Only what has changed, if that is little.
    Least,
    /// All of the metadata, after marks of gc: the states before it become a chain, whose time runs from now on.
    Full,
}

impl Volume {
    /// Waits until everything acknowledged before the call can be restored from the store alone.
    ///
    /// # Errors
    /// What kept it from getting there before the deadline; what is missing goes up later.
    pub fn sync(&self, deadline: Duration) -> Result<SyncReport, FsError> {
        let started = Instant::now();
        let upto = self.engine.ns.acknowledged().0;
        self.keeper()?;
        if self.in_store.load(Ordering::Acquire) < upto {
            let one = self.publishing.try_lock_until(started + deadline);
            let _one = one.ok_or(FsError::Late("another sync is still under way"))?;
            if self.in_store.load(Ordering::Acquire) < upto {
                self.publish(started + deadline, Shape::Least)?;
            }
        }
        let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(SyncReport {
            in_store_lsn: self.in_store.load(Ordering::Acquire),
            waited_ms,
        })
    }

    /// Publishes, although no operation may have come since the last time: what became of packs is no operation.
    pub(super) fn publish_now(&self, shape: Shape, deadline: Duration) -> Result<(), FsError> {
        let deadline = Instant::now() + deadline;
        let one = self.publishing.try_lock_until(deadline);
        let _one = one.ok_or(FsError::Late("another sync is still under way"))?;
        self.publish(deadline, shape)
    }

    /// The regular publication.
    pub(super) fn publish_if_changed(&self) {
        if self.in_store.load(Ordering::Acquire) < self.engine.ns.acknowledged().0
            && let Err(error) = self.sync(PUBLISH_DEADLINE)
        {
            note_trouble(
                &self.last_error,
                "publishing the metadata failed and will be tried again",
                &error,
            );
        }
    }

    /// The caller holds `publishing`.
    fn publish(&self, deadline: Instant, shape: Shape) -> Result<(), FsError> {
        loop {
            match self.publish_once(deadline, shape) {
                Err(FsError::Outrun) if Instant::now() < deadline => {}
                published => return published,
            }
        }
    }

    fn publish_once(&self, deadline: Instant, shape: Shape) -> Result<(), FsError> {
        let io = |error: std::io::Error| FsError::Meta(error.into());
        let keeper = self.keeper()?;
        // Before anything is put: whoever has lost the volume leaves nothing behind in it.
        let newest = keeper.newest(deadline)?.head;
        let now_ms = self.engine.clock.now_ms();
        let before = newest
            .layers
            .last()
            .filter(|_| shape == Shape::Least && takes_a_delta(&newest, now_ms))
            .and_then(|layer| PageTable::load(&self.state_dir, &layer.image));
        let is_delta = before.is_some();
        let late =
            || FsError::Late("the store is too slow to keep up; what is missing goes up later");
        // From the cut on nobody else packs, so the segments that it names stay.
        let mut turn = self.packer.turn(deadline).ok_or_else(late)?;
        self.engine.segments.seal_active();
        let spool = self.state_dir.join("cut.pages");
        let taken = self
            .engine
            .ns
            .cut(move |cut| pages::take(cut, before.as_ref(), &spool))?
            .map_err(io)?;
        let packed = self
            .packer
            .pack_listed(&mut turn, &taken.in_segments, deadline)?;
        // All of these are in the cut, or listed with it.
        let kept = self.engine.packs.kept();
        drop(turn);
        let header = Header {
            page_bytes: taken.page_bytes,
            pages_after: taken.table.pages(),
            lsn: taken.lsn.0,
        };
        let (table, spool) = (&taken.table, &taken.spool);
        #[cfg(feature = "planted-head-before-data")]
        let (layer, held_back) = layers::held_back::make(header, table, spool, &packed, now_ms)?;
        #[cfg(not(feature = "planted-head-before-data"))]
        let layer = layers::put(
            &keeper.desk,
            header,
            table,
            spool,
            &packed,
            now_ms,
            deadline,
        )?;
        taken.table.save(&self.state_dir).map_err(io)?;
        // Whoever renewed the lease meanwhile has left the layers as they were: only this thread changes them.
        let chain = match is_delta {
            true => None,
            false => points::archive(&keeper.desk, &newest, now_ms, deadline)?,
        };
        let gone = points::delete_old(&keeper.desk, &newest, now_ms, deadline);
        // The planted bug: what is only about to be published counts as published.
        #[cfg(feature = "planted-watermark-ahead")]
        self.in_store.store(taken.lsn.0, Ordering::Release);
        keeper.replace(deadline, false, |head| {
            // The layer was made for those before it.
            if head.layers.last().map(|l| &l.key) != newest.layers.last().map(|l| &l.key) {
                return Err(FsError::Outrun);
            }
            let mut head = succeed(head, layer.clone(), is_delta, chain.clone(), shape);
            head.chains.retain(|chain| !gone.contains(&chain.key));
            Ok(head)
        })?;
        #[cfg(feature = "planted-head-before-data")]
        layers::held_back::put(&keeper.desk, held_back, deadline)?;
        PageTable::keep_only(&self.state_dir, &layer.image);
        self.engine.packs.release_kept(&kept);
        let published = match cfg!(feature = "planted-watermark-past-the-cut") {
            // The planted bug: what came after the cut counts as well.
            true => self.engine.ns.acknowledged(),
            false => taken.lsn,
        };
        self.in_store.store(published.0, Ordering::Release);
        *self.behind_since.lock() = None;
        Ok(())
    }
}

/// Whether the next layer may be a delta to what this head names.
fn takes_a_delta(head: &Head, now_ms: u64) -> bool {
    let Some((full, deltas)) = head.layers.split_first() else {
        return false;
    };
    let size: u64 = deltas.iter().map(|delta| delta.bytes).sum();
    deltas.len() < MOST_DELTAS
        && size * DELTA_SHARE <= full.bytes
        && now_ms.saturating_sub(full.created_ms) < FULL_LIFE_MS
}

/// The head after `old` with one more layer, or with a new full one, which leaves those before it as a chain.
fn succeed(old: &Head, layer: Layer, is_delta: bool, chain: Option<Chain>, shape: Shape) -> Head {
    let mut head = old.clone();
    if !is_delta {
        head.layers.clear();
        head.chains.extend(chain);
    }
    head.seq += match shape {
        Shape::Least => 1,
        Shape::Full => AFTER_MARKS,
    };
    head.lsn = layer.lsn;
    head.created_ms = layer.created_ms;
    head.layers.push(Layer {
        seq: head.seq,
        ..layer
    });
    head
}
