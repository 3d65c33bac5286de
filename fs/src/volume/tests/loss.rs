//! Machines that vanish: what the store holds is a prefix of the history, in full, and not older than it was said to be.
//!
//! `WELDRFS_LOSS_ROUNDS` makes the campaign longer, `WELDRFS_TEST_SEED` repeats it.

use super::history::{History, differing, files_of, number};
use super::*;
use crate::volume::fsck;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Changes during one sync, at most.
const MOST_MEANWHILE: usize = 100;

const TAKE_OVER: Claim = Claim {
    take_over: true,
    set_aside: false,
};

/// A store, and what should be in it.
struct World {
    machine: Machine,
    store: Arc<FaultStore>,
    history: History,
    machines: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let memory = Arc::new(MemoryStore::new());
        Self {
            machine: Machine::new(),
            store: Arc::new(FaultStore::new(memory, seed)),
            history: History::default(),
            machines: 0,
        }
    }

    fn source(&self) -> Source {
        Source::Own(Arc::clone(&self.store) as Arc<dyn ObjectStore>)
    }

    /// A machine without local state.
    fn arrive(&mut self) -> Arc<Volume> {
        self.machines += 1;
        let config = VolumeConfig {
            source: self.source(),
            claim: TAKE_OVER,
            ..self.machine.config(&format!("machine{}", self.machines))
        };
        Volume::open(config, self.machine.runtime.handle().clone()).unwrap()
    }

    /// The machine vanishes with its disk. Returns the one after it, once that was found to hold what it must.
    fn lose(&mut self, volume: Arc<Volume>, promised: u64, story: &str) -> Arc<Volume> {
        volume.abandon();
        drop(volume);
        let gone = self.machine.path(&format!("machine{}", self.machines));
        std::fs::remove_dir_all(gone).unwrap();
        self.store.heal();
        let volume = self.arrive();
        let lsn = volume.status().in_store_lsn;
        assert!(lsn >= promised, "{story}: {lsn} is older than {promised}");
        let wanted = self.history.cut_at(lsn);
        let differ = differing(&wanted, &files_of(&volume));
        assert!(differ.is_empty(), "{story}: at {lsn} {differ:?} differ");
        healthy(&volume);
        self.history.note(&volume);
        volume
    }

    /// A sync beside a writer: where the cut is made is open. Also returns what was acknowledged before it began.
    fn sync_while_writing(
        &mut self,
        volume: &Volume,
        rng: &mut SmallRng,
        patience: Duration,
    ) -> (Result<SyncReport, FsError>, u64) {
        let begun_at = volume.status().acknowledged_lsn;
        let outcome = std::thread::scope(|scope| {
            let syncing = scope.spawn(|| volume.sync(patience));
            for _ in 0..MOST_MEANWHILE {
                if syncing.is_finished() {
                    break;
                }
                self.history.step(volume, rng).unwrap();
            }
            syncing.join().unwrap()
        });
        (outcome, begun_at)
    }

    fn check(&self, story: &str) {
        let scratch = self.machine.path("");
        let report = fsck(
            &self.source(),
            true,
            &scratch,
            self.machine.runtime.handle(),
        );
        assert_eq!(report.unwrap().findings, vec![], "{story}");
    }
}

#[test]
fn a_lost_machine_comes_back_as_a_prefix_of_its_history() {
    let seed = number("WELDRFS_TEST_SEED", SmallRng::from_os_rng().random());
    let rounds = number("WELDRFS_LOSS_ROUNDS", 10);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::new(seed);
    let mut volume = world.arrive();
    let (mut synced, mut failed) = (0, 0);
    for round in 0..rounds {
        let story = format!("WELDRFS_TEST_SEED={seed}, round {round}");
        let mut promised = volume.status().in_store_lsn;
        for fault in [
            Fault::ErrorBefore(FaultKind::Unavailable),
            Fault::ErrorAfter(FaultKind::Timeout),
            Fault::ErrorAfter(FaultKind::Unavailable),
            Fault::ShortBody,
            Fault::DamagedBody,
        ] {
            let chance = rng.random_range(0.0..0.2);
            world.store.add(FaultRule::always(fault).chance(chance));
        }
        for _ in 0..rng.random_range(1..8) {
            for _ in 0..rng.random_range(0..60) {
                world.history.step(&volume, &mut rng).unwrap();
            }
            // One in three is as patient as a user is.
            let patience = match rng.random_range(0..3) {
                0 => LONG,
                _ => Duration::from_millis(rng.random_range(1..3_000)),
            };
            let (outcome, begun_at) = match rng.random_bool(0.5) {
                true => world.sync_while_writing(&volume, &mut rng, patience),
                false => (volume.sync(patience), volume.status().acknowledged_lsn),
            };
            match outcome {
                Ok(report) => {
                    let lsn = report.in_store_lsn;
                    assert!(
                        lsn >= begun_at,
                        "{story}: a sync ended at {lsn}, before {begun_at}"
                    );
                    synced += 1;
                }
                Err(_) => failed += 1,
            }
            // Whatever became of it: what the status says is a promise.
            promised = volume.status().in_store_lsn;
        }
        volume = world.lose(volume, promised, &story);
        world.check(&story);
    }
    println!(
        "WELDRFS_TEST_SEED={seed}: {rounds} machines lost, {synced} syncs succeeded, {failed} did not"
    );
    assert!(
        synced > 0,
        "WELDRFS_TEST_SEED={seed}: no sync ever succeeded"
    );
    volume.close().unwrap();
}

#[test]
fn a_writer_is_killed_between_any_two_requests_of_a_sync() {
    let begun = |world: &mut World| {
        let mut rng = SmallRng::seed_from_u64(7);
        let volume = world.arrive();
        for _ in 0..30 {
            world.history.step(&volume, &mut rng).unwrap();
        }
        let promised = volume.sync(LONG).unwrap().in_store_lsn;
        for _ in 0..30 {
            world.history.step(&volume, &mut rng).unwrap();
        }
        (volume, promised)
    };
    let mut whole = World::new(7);
    let (volume, _) = begun(&mut whole);
    let before = whole.store.counts().requests();
    volume.sync(LONG).unwrap();
    let requests = whole.store.counts().requests() - before;
    volume.close().unwrap();
    assert!(
        requests >= 3,
        "data, a layer and the head are {requests} requests"
    );
    // How many are answered, and whether the next one takes effect.
    for last in 0..requests {
        for takes_effect in [false, true] {
            let mut world = World::new(7);
            let (volume, promised) = begun(&mut world);
            let lost = FaultRule::always(Fault::ErrorAfter(FaultKind::Timeout));
            let refused = FaultRule::always(Fault::ErrorBefore(FaultKind::Unavailable));
            if takes_effect {
                world.store.add(lost.skip(last).times(1));
            }
            let passed = last + u64::from(takes_effect);
            world.store.add(refused.skip(passed));
            // What the status says is a promise, whatever became of the sync.
            drop(volume.sync(Duration::from_millis(700)));
            let promised = promised.max(volume.status().in_store_lsn);
            let reached = volume.status().acknowledged_lsn;
            let story =
                format!("{last} requests were answered, the next takes effect: {takes_effect}");
            let volume = world.lose(volume, promised, &story);
            world.check(&story);
            // The one after it gets as far as the lost one did, with another history, and is lost as well.
            let mut rng = SmallRng::seed_from_u64(8);
            while volume.status().acknowledged_lsn < reached.max(promised + 1) {
                world.history.step(&volume, &mut rng).unwrap();
            }
            let promised = volume.sync(LONG).unwrap().in_store_lsn;
            let story = format!("{story}; its successor");
            let volume = world.lose(volume, promised, &story);
            world.check(&story);
            volume.close().unwrap();
        }
    }
}
