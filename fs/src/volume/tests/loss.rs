//! Machines that vanish: what the store holds is a prefix of the history, in full, and not older than it was said to be.
//!
//! `WELDRFS_LOSS_ROUNDS` makes the campaign longer, `WELDRFS_TEST_SEED` repeats it.

use super::*;
use crate::volume::fsck;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use weldrfs_meta::ROOT_INO;

type Files = BTreeMap<String, Arc<Vec<u8>>>;

const TAKE_OVER: Claim = Claim {
    take_over: true,
    set_aside: false,
};

/// Every state there was, by the last operation in it.
#[derive(Default)]
struct History {
    states: BTreeMap<u64, Files>,
    now: Files,
}

impl History {
    fn note(&mut self, volume: &Volume) {
        let lsn = volume.engine.ns.acknowledged().0;
        self.states.insert(lsn, self.now.clone());
    }

    /// The state after the last operation up to `lsn`. What comes after it did not happen.
    fn cut_at(&mut self, lsn: u64) -> Files {
        self.states.split_off(&(lsn + 1));
        let last = self.states.last_key_value();
        self.now = last.map(|(_, files)| files.clone()).unwrap_or_default();
        self.now.clone()
    }

    /// One change of one file: one operation.
    fn step(&mut self, volume: &Volume, rng: &mut SmallRng) {
        let name = format!("f{}", rng.random_range(0..12));
        let engine = volume.engine();
        let there = self.now.get(&name).cloned();
        match (there, rng.random_range(0..10)) {
            (None, _) => {
                file(volume, &name);
                self.now.insert(name, Arc::default());
            }
            (Some(_), 0..2) => {
                engine.unlink(ROOT_INO, name.as_bytes()).unwrap();
                self.now.remove(&name);
            }
            (Some(data), 2) => {
                let to = format!("f{}", rng.random_range(12..16));
                let (from, into) = (name.as_bytes(), to.as_bytes());
                let flags = crate::RenameFlags {
                    noreplace: false,
                    exchange: false,
                };
                engine
                    .rename(ROOT_INO, from, ROOT_INO, into, flags)
                    .unwrap();
                self.now.remove(&name);
                self.now.insert(to, data);
            }
            (Some(data), _) => {
                let ino = engine.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
                let at = rng.random_range(0..=data.len().min(40_000));
                let bytes = content(rng.random(), rng.random_range(1..30_000));
                engine.write(ino, at as u64, &bytes, false).unwrap();
                let mut whole = data.to_vec();
                whole.resize(whole.len().max(at + bytes.len()), 0);
                whole[at..at + bytes.len()].copy_from_slice(&bytes);
                self.now.insert(name, Arc::new(whole));
            }
        }
        self.note(volume);
    }
}

fn files_of(volume: &Volume) -> Files {
    let mut found = Files::new();
    let mut cookie = 0;
    loop {
        let listed = volume.engine().readdir(ROOT_INO, cookie, 100).unwrap();
        let Some(last) = listed.last() else {
            return found;
        };
        cookie = last.cookie;
        for entry in listed {
            let data = volume.engine().read(entry.ino, 0, 1 << 20).unwrap();
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            found.insert(name, Arc::new(data.to_vec()));
        }
    }
}

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
        let found = files_of(&volume);
        let differ: Vec<_> = wanted
            .iter()
            .filter(|(name, data)| found.get(*name) != Some(data))
            .map(|(name, _)| name)
            .chain(found.keys().filter(|name| !wanted.contains_key(*name)))
            .collect();
        assert!(differ.is_empty(), "{story}: at {lsn} {differ:?} differ");
        healthy(&volume);
        self.history.note(&volume);
        volume
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

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
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
                world.history.step(&volume, &mut rng);
            }
            // One in three is as patient as a user is.
            let patience = match rng.random_range(0..3) {
                0 => LONG,
                _ => Duration::from_millis(rng.random_range(1..3_000)),
            };
            match volume.sync(patience) {
                Ok(report) => {
                    promised = report.in_store_lsn;
                    synced += 1;
                }
                Err(_) => failed += 1,
            }
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
            world.history.step(&volume, &mut rng);
        }
        let promised = volume.sync(LONG).unwrap().in_store_lsn;
        for _ in 0..30 {
            world.history.step(&volume, &mut rng);
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
            let promised = match volume.sync(Duration::from_millis(700)) {
                Ok(report) => report.in_store_lsn,
                Err(_) => promised,
            };
            let story =
                format!("{last} requests were answered, the next takes effect: {takes_effect}");
            let volume = world.lose(volume, promised, &story);
            world.check(&story);
            volume.close().unwrap();
        }
    }
}
