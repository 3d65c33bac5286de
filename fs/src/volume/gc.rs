//! Collecting garbage: packs that nothing uses any more, and objects that nothing names.
//!
//! Nothing is deleted that any state uses which can still be restored. A pack goes through these steps, each of which may
//! be the last one of a process:
//!
//! 1. It is **dead**: no row of the present tables uses an extent in it, those that snapshots have kept included. Nothing
//!    can come to use one again, because runs are only ever copied from runs. It is marked with the store's time and with the publication `seq + 2`: at most one
//!    publication that was begun before the mark can still arrive, as `seq + 1`; every later one says that it is dead.
//! 2. The mark is published, as that publication or a later one, with all of the metadata: the states that use the pack
//!    become a chain, whose time runs.
//! 3. It is deleted once [`GRACE_MS`] have passed since the mark by the store's clock, and no state that the head still
//!    names is older than that publication. Readers that were given an older state have had as long to read it, unless
//!    publishing the mark took long.
//! 4. Its row goes, which is published with whatever comes next. Until then it may be deleted again.
//!
//! Every pack that a state which can be restored uses has a row in the newest state (`pack-known`): rows go last, and
//! going back takes the rows of the state that is left along, as dead ones. So an object that has no row is of an upload
//! that was cut off, and is deleted when it is as old as the grace. A machine that was cut off before it could publish
//! keeps local copies of what it has uploaded (see `Packs::kept`).
//!
//! Only the holder of the lease deletes, and only what no later holder can come to need. Dead packs are such for ever.
//! What has no name is told from the newest state, so the head is read again after the objects were listed.

use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;
use weldrfs_blockstore::{ObjectStore, PackId};
use weldrfs_meta::{Dead, MetaError, PackRow, PackUsage, Permit};

use super::admission::store_now_ms;
use super::inventory::DELETE_KEYS;
use super::keeper::Keeper;
use super::publish::{AFTER_MARKS, Shape};
use super::{Volume, note_trouble, unnamed};
use crate::engine::Engine;
use crate::error::FsError;

/// How long what is dead stays, by the store's clock. Longer than restore points are kept.
pub(crate) const GRACE_MS: u64 = 6 * 3_600_000;
/// Packs of which less than this share is used are written anew.
const SPARSE: f64 = 0.3;
/// But not in their first hour: what is young goes on dying.
const SPARSE_AGE_MS: u64 = 3_600_000;
/// Bytes that are written anew in one round, before compression.
const REWRITE_BYTES: u64 = 256 << 20;
/// How long each of the steps of a round may take.
pub(super) const STEP_DEADLINE: Duration = Duration::from_secs(60);
/// Between two rounds, and before the first.
pub(super) const INTERVAL: Duration = Duration::from_secs(3600);
pub(super) const FIRST_AFTER: Duration = Duration::from_secs(300);
/// How often it is looked whether it is time.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// What one round did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Packs that something uses.
    pub used: Amount,
    /// Packs found dead.
    pub marked: Amount,
    /// Dead packs that stay until their time is over, those just marked included.
    pub waiting: Amount,
    /// Dead packs deleted.
    pub deleted: Amount,
    /// Packs of which little was used; what was is in other packs now.
    pub rewritten: Amount,
    /// Objects that nothing names, deleted.
    pub unnamed: Amount,
}

/// What the last round left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    /// The last operation before it.
    acknowledged: Option<u64>,
    /// Dead packs.
    waiting: u64,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }

    fn of<'a>(rows: impl IntoIterator<Item = &'a PackRow>) -> Self {
        let mut amount = Self::default();
        rows.into_iter().for_each(|row| amount.add(row.bytes));
        amount
    }
}

impl Volume {
    /// Deletes what nothing needs, as far as its time is over, and brings together what is left of packs that are mostly
    /// dead. With `dry_run` only tells what it would do.
    ///
    /// # Errors
    /// When another round is under way, the lease is lost, or the store fails. What was done stays done; the next round
    /// goes on.
    pub fn gc(&self, dry_run: bool) -> Result<GcReport, FsError> {
        let keeper = self.keeper()?;
        if keeper.desk.unconditional {
            return Err(FsError::Meta(MetaError::ReadOnly(
                "the store ignores conditions, so that nothing says whether somebody else needs what is deleted".into(),
            )));
        }
        let one = self.collecting.try_lock();
        let mut collected = one.ok_or(FsError::Late("another round of gc is under way"))?;
        let acknowledged = self.engine.ns.acknowledged().0;
        keeper.look_after(acknowledged);
        if !dry_run {
            self.sync(STEP_DEADLINE)?;
            self.drop_chains(keeper)?;
        }
        let now_ms = keeper
            .desk
            .within(Instant::now() + STEP_DEADLINE, store_now_ms(&keeper.desk))?;
        let mut report = GcReport::default();
        let due = self.due(keeper, now_ms)?;
        report.deleted = Amount::of(&due);
        let sparse = self.sparse()?;
        report.rewritten = Amount::of(sparse.iter().map(|pack| &pack.row));
        if dry_run {
            report.marked = Amount::of(self.unused()?.iter().map(|pack| &pack.row));
        } else {
            self.sweep(keeper, &due)?;
            self.check_open()?;
            let rewritten = self.packer.repack(&sparse, Instant::now() + STEP_DEADLINE);
            report.marked = self.mark(keeper, now_ms)?;
            rewritten?;
            self.check_open()?;
            if self.waits_for_states(keeper)? {
                self.publish_now(Shape::Full, STEP_DEADLINE)?;
            } else if report != GcReport::default() {
                self.publish_now(Shape::Least, STEP_DEADLINE)?;
            }
        }
        report.unnamed = unnamed::sweep(self, keeper, now_ms, dry_run)?;
        let packs = self.engine.ns.packs()?;
        let (dead, used): (Vec<_>, Vec<_>) = packs.iter().partition(|row| row.dead.is_some());
        report.used = Amount::of(used);
        report.waiting = Amount::of(dead);
        if !dry_run {
            *collected = Collected {
                acknowledged: Some(acknowledged),
                waiting: report.waiting.objects,
            };
        }
        Ok(report)
    }

    /// An unmount waits for the step that is under way, not for the whole round.
    fn check_open(&self) -> Result<(), FsError> {
        match self.engine.ns.read_only() {
            None => Ok(()),
            Some(why) => Err(FsError::Meta(MetaError::ReadOnly(why))),
        }
    }

    /// The regular round, if there can be anything to do.
    pub(super) fn gc_if_changed(&self) {
        let now = Collected {
            acknowledged: Some(self.engine.ns.acknowledged().0),
            waiting: 0,
        };
        if self.collecting.try_lock().is_none_or(|last| *last == now) {
            return;
        }
        match self.gc(false) {
            Ok(report) => tracing::debug!(?report, "collected garbage"),
            Err(FsError::Meta(MetaError::ReadOnly(_))) => {}
            Err(error) => note_trouble(
                &self.last_error,
                "collecting garbage failed and will be tried again",
                &error,
            ),
        }
    }

    /// Sees to it that the head does not name states whose time is over: the next publication may be far away.
    fn drop_chains(&self, keeper: &Keeper) -> Result<(), FsError> {
        let head = keeper.newest(Instant::now() + STEP_DEADLINE)?.head;
        let now_ms = self.engine.clock.now_ms();
        match head.chains.iter().any(|chain| chain.is_over(now_ms)) {
            true => self.publish_now(Shape::Least, STEP_DEADLINE),
            false => Ok(()),
        }
    }

    /// Whether a dead pack is one that states of the present chain of layers use: unless that comes to its end, they can
    /// be restored for ever.
    fn waits_for_states(&self, keeper: &Keeper) -> Result<bool, FsError> {
        let head = keeper.newest(Instant::now() + STEP_DEADLINE)?.head;
        let base = head.layers.first().map_or(0, |layer| layer.seq);
        let packs = self.engine.ns.packs()?;
        Ok(packs
            .iter()
            .any(|row| row.dead.is_some_and(|dead| dead.seq > base)))
    }

    /// Dead packs whose time is over.
    fn due(&self, keeper: &Keeper, now_ms: u64) -> Result<Vec<PackRow>, FsError> {
        let head = keeper.newest(Instant::now() + STEP_DEADLINE)?.head;
        let Some(oldest) = head.oldest_seq() else {
            return Ok(Vec::new());
        };
        let mut packs = self.engine.ns.packs()?;
        packs.retain(|row| row.dead.is_some_and(|dead| is_over(dead, oldest, now_ms)));
        Ok(packs)
    }

    /// Deletes packs, and then what is said of them.
    fn sweep(&self, keeper: &Keeper, due: &[PackRow]) -> Result<(), FsError> {
        for batch in due.chunks(DELETE_KEYS) {
            let keys: Vec<String> = batch
                .iter()
                .map(|row| PackId(row.id).object_key())
                .collect();
            delete(keeper, &keys)?;
            let rows: Vec<u64> = batch.iter().map(|row| row.pack).collect();
            self.engine.ns.forget_packs(rows.clone())?;
            let mut known = self.engine.pack_ids.write();
            known.retain(|row, _| !rows.contains(row));
            drop(known);
            for row in batch {
                self.engine.packs.forget(PackId(row.id))?;
            }
        }
        Ok(())
    }

    /// How much is used of each pack that is not marked, by everything acknowledged so far.
    fn usage(&self) -> Result<Vec<PackUsage>, FsError> {
        let ns = &self.engine.ns;
        ns.checkpoint(ns.acknowledged())?;
        Ok(ns.pack_usage()?)
    }

    /// Packs that nothing uses and that are not marked.
    fn unused(&self) -> Result<Vec<PackUsage>, FsError> {
        let mut usage = self.usage()?;
        usage.retain(|pack| pack.live_bytes == 0);
        Ok(usage)
    }

    /// Marks what is dead. No publication is under way meanwhile.
    fn mark(&self, keeper: &Keeper, now_ms: u64) -> Result<Amount, FsError> {
        let deadline = Instant::now() + STEP_DEADLINE;
        let one = self.publishing.try_lock_until(deadline);
        let _one = one.ok_or(FsError::Late("another sync is still under way"))?;
        let unused = self.unused()?;
        let dead = Dead {
            at_ms: now_ms,
            seq: keeper.newest(deadline)?.head.seq + AFTER_MARKS,
        };
        let rows = unused.iter().map(|pack| pack.row.pack).collect();
        let marked: FxHashSet<u64> = self
            .engine
            .ns
            .mark_dead_packs(rows, dead)?
            .into_iter()
            .collect();
        let marked = unused.iter().filter(|pack| marked.contains(&pack.row.pack));
        Ok(Amount::of(marked.map(|pack| &pack.row)))
    }

    /// Packs of which little is used, those with the least first.
    fn sparse(&self) -> Result<Vec<PackUsage>, FsError> {
        let made_before_ms = self.engine.clock.now_ms().saturating_sub(SPARSE_AGE_MS);
        let mut usage = self.usage()?;
        usage.retain(|pack| {
            let most = (pack.row.raw_len as f64 * SPARSE) as u64;
            (1..most).contains(&pack.live_bytes) && pack.row.made_ms < made_before_ms
        });
        usage.sort_unstable_by_key(|pack| pack.live_bytes);
        let mut bytes = 0;
        usage.retain(|pack| {
            bytes += pack.live_bytes;
            bytes <= REWRITE_BYTES
        });
        Ok(usage)
    }
}

/// Takes back what an earlier process marked and did not publish. It may have been gone for long, and the grace begins with a
/// mark: who begins to read until that is published may use what it is about.
pub(super) fn forget_late_marks(engine: &Engine, keeper: &Keeper) -> Result<(), MetaError> {
    // A volume that has just been opened knows its head, unless that is being renewed in this moment; then the marks stay.
    let Some(published) = keeper.known_seq() else {
        return Ok(());
    };
    let taken_back = engine.ns.unmark_packs_after(published)?;
    if taken_back > 0 {
        tracing::info!(
            packs = taken_back,
            "marks of dead packs that were not published are taken back"
        );
    }
    Ok(())
}

/// Whether no state uses a pack that can be restored, or that a reader was given a while ago.
#[cfg(not(feature = "planted-gc-without-grace"))]
fn is_over(dead: Dead, oldest_seq: u64, now_ms: u64) -> bool {
    dead.seq <= oldest_seq && dead.at_ms + GRACE_MS <= now_ms
}

/// The planted bug.
#[cfg(feature = "planted-gc-without-grace")]
fn is_over(_: Dead, _: u64, _: u64) -> bool {
    true
}

/// Deletes objects, as long as the lease holds.
pub(super) fn delete(keeper: &Keeper, keys: &[String]) -> Result<(), FsError> {
    if !keeper.holds() {
        return Err(FsError::Late(
            "the lease has ended; nothing is deleted before it is renewed",
        ));
    }
    let deadline = Instant::now() + STEP_DEADLINE;
    keeper.desk.within(deadline, keeper.desk.store.delete(keys))
}
