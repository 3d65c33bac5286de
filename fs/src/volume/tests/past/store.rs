//! What goes on behind a volume: checkpoints, crashes, packing, publishing, gc, lost machines, going back in time.

use super::*;
use crate::volume::fsck_local;
use crate::volume::gc::GRACE_MS;
use crate::volume::restore::{look, restore_with, volume as published};

/// A budget that nothing fits into, bytes.
const NO_CACHE_BYTES: u64 = 1 << 12;
/// What the caches have otherwise, bytes.
const CACHE_BYTES: u64 = 1 << 20;

fn config(hours: &Hours, state: &str, checkpoint_interval: Duration) -> VolumeConfig {
    VolumeConfig {
        source: hours.source(),
        checkpoint_interval,
        // Only the campaign publishes: a thread that did would find states between two of its steps.
        upload_delay: Duration::from_secs(24 * 3_600),
        ..hours.machine.config(state)
    }
}

pub(super) fn open(hours: &Hours, state: &str, checkpoint_interval: Duration) -> Arc<Volume> {
    hours
        .open_with(config(hours, state, checkpoint_interval))
        .unwrap()
}

impl Run {
    pub(super) fn checkpoint(&mut self) {
        self.doing = "checkpoint".to_owned();
        let ns = &self.engine().ns;
        ns.checkpoint(ns.acknowledged()).unwrap();
    }

    pub(super) fn drop_caches(&mut self) {
        self.doing = "drop the caches".to_owned();
        let small = self.rng.random();
        let bytes = if small { NO_CACHE_BYTES } else { CACHE_BYTES };
        self.volume.set_budget(None, Some(bytes));
        self.volume.drop_caches();
        if small {
            self.compare_all();
        }
    }

    /// Opens the volume again, here or on a new machine. Nobody has anything open any more.
    fn open_again(&mut self) {
        self.held.clear();
        self.unnamed.clear();
        self.volume = open(&self.hours, &self.state, self.checkpoint_interval);
        self.kernel = Kernel::of(&self.volume);
    }

    /// The process dies; the disk is as it was.
    pub(super) fn crash(&mut self) {
        self.doing = "crash".to_owned();
        self.volume.abandon();
        if self.rng.random_ratio(1, 3) {
            let config = config(&self.hours, &self.state, self.checkpoint_interval);
            let handle = self.hours.machine.runtime.handle();
            let report = fsck_local(&config, true, handle).unwrap();
            assert_eq!(report.findings, vec![], "{}", self.what());
        }
        self.open_again();
        self.counts.crashes += 1;
        self.compare_all();
    }

    /// What was acknowledged is packed and goes to the store, and no diff shows it.
    pub(super) fn publish(&mut self) {
        self.doing = "publish".to_owned();
        let before = self.all_diffs();
        self.volume.sync(LONG).unwrap();
        assert_eq!(self.volume.status().staged_bytes, 0, "{}", self.what());
        assert_eq!(
            self.all_diffs(),
            before,
            "{}: packing is no change",
            self.what()
        );
        if self.rng.random() {
            self.volume.drop_caches();
        }
        self.compare_all();
    }

    /// Whatever becomes of it: nothing is lost.
    pub(super) fn publish_under_faults(&mut self) {
        self.doing = "publish under faults".to_owned();
        self.break_the_store();
        drop(self.volume.sync(LONG));
        self.hours.store.heal();
    }

    fn break_the_store(&self) {
        let faults = [
            Fault::ErrorBefore(FaultKind::Denied),
            Fault::ErrorAfter(FaultKind::Denied),
        ];
        for fault in faults {
            self.hours.store.add(FaultRule::always(fault).chance(0.15));
        }
    }

    /// Rounds of gc, hours apart: what no state needs that can be restored goes.
    pub(super) fn collect(&mut self) {
        self.doing = "collect garbage".to_owned();
        for _ in 0..self.rng.random_range(1..4) {
            let is_faulty = self.rng.random_ratio(1, 5);
            if is_faulty {
                self.break_the_store();
            }
            let collected = self.volume.gc(false);
            self.hours.store.heal();
            match collected {
                Ok(report) => {
                    self.counts.packs_deleted += report.deleted.objects;
                    self.counts.packs_rewritten += report.rewritten.objects;
                }
                Err(error) => assert!(is_faulty, "{}: {error}", self.what()),
            }
            self.note();
            let hours = self.rng.random_range(GRACE_MS / 4..GRACE_MS);
            self.hours.pass(hours);
            self.keep_the_lease();
        }
        self.hours.check(&self.what());
        self.volume.drop_caches();
        self.compare_all();
    }

    /// What was removed some time ago ends; snapshots still have it.
    pub(super) fn empty_the_trash(&mut self) {
        let older_than_ms = match self.rng.random() {
            true => 0,
            false => self.rng.random_range(0..GRACE_MS),
        };
        self.doing = format!("empty the trash of what is older than {older_than_ms} ms");
        let ended = self.volume.empty_trash(older_than_ms).unwrap();
        self.counts.trash_names += ended.names;
        self.compare_all();
    }

    /// The thread that does it goes by the real clock.
    fn keep_the_lease(&self) {
        let acknowledged = self.engine().ns.acknowledged().0;
        self.volume.keeper().unwrap().look_after(acknowledged);
    }

    /// The machine vanishes with its disk: another one finds what was published last, its snapshots included.
    pub(super) fn lose_the_machine(&mut self) {
        self.doing = "lose the machine".to_owned();
        self.volume.abandon();
        let gone = self.hours.machine.path(&self.state);
        std::fs::remove_dir_all(gone).unwrap();
        self.machines += 1;
        self.state = format!("machine{}", self.machines);
        self.open_again();
        let lsn = self.volume.status().in_store_lsn;
        let last = self.by_lsn.range(..=lsn).next_back();
        let state = last.map(|(_, state)| state.clone());
        self.now = state.unwrap_or_else(|| panic!("{}: at {lsn} there was nothing", self.what()));
        self.begin_anew();
        self.counts.lost += 1;
    }

    /// What comes after the present did not happen.
    fn begin_anew(&mut self) {
        // Opening may have done something that is not to be seen.
        let lsn = self.volume.status().in_store_lsn;
        self.by_lsn = BTreeMap::from([(lsn, self.now.clone())]);
        self.safeties.clear();
        self.note();
        self.compare_all();
    }

    /// A restore point becomes the newest state.
    pub(super) fn go_back_in_time(&mut self) {
        self.doing = "go back in time".to_owned();
        self.note();
        self.volume.close().unwrap();
        let hours = &self.hours;
        let (scratch, handle) = (hours.machine.dir.path(), hours.machine.runtime.handle());
        let source = hours.source();
        let desk = look(&source, scratch, handle).unwrap();
        let seen = published(&desk).unwrap().unwrap();
        let now_ms = hours.clock.now_ms();
        let points = crate::volume::points::list(&desk, &seen.head, now_ms).unwrap();
        let at_ms = points.choose(&mut self.rng).unwrap().at_ms;
        self.doing = format!("go back in time, to {at_ms}");
        let clock = &*self.hours.clock;
        restore_with(&source, at_ms, true, scratch, handle, clock).unwrap();
        self.open_again();
        self.now = self.state_at(at_ms);
        self.begin_anew();
        self.counts.went_back += 1;
    }

    /// Of the states there were at that time, the one that has these snapshots and these names.
    fn state_at(&self, at_ms: u64) -> State {
        let states = self.by_ms.get(&at_ms).cloned().unwrap_or_default();
        states
            .into_iter()
            .next_back()
            .unwrap_or_else(|| panic!("{}: there was nothing", self.what()))
    }
}
