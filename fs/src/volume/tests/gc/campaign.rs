//! A random history: files, snapshots, restores and clones, publications, hours that pass, rounds of gc under faults,
//! machines that are lost, and going back. Whatever can be restored shows a state that there was, its snapshots included.
//!
//! `WELDRFS_GC_ROUNDS` makes it longer, `WELDRFS_TEST_SEED` repeats it.

use super::*;
use crate::volume::restore::{look, restore_with, volume as published};
use crate::{Kind, RenameFlags};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use weldrfs_meta::Ino;

type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// More are not kept, so that what they need dies, too.
const MOST_SNAPSHOTS: usize = 5;
/// What has more is not cloned: clones are cloned along.
const MOST_CLONED: usize = 30;
/// Rounds after which something has been deleted, whatever the snapshots keep.
const ROUNDS_THAT_DELETE: u64 = 600;

/// What a volume shows: its files by path, and those of its snapshots by name.
#[derive(Clone, Default, PartialEq, Debug)]
struct State {
    live: Files,
    snapshots: BTreeMap<String, Files>,
}

impl State {
    fn of(volume: &Volume) -> Self {
        let engine = volume.engine();
        let snapshots = engine.snapshots().into_iter().map(|snapshot| {
            let root = engine.walk(format!(".snapshots/{}", snapshot.name).as_bytes());
            (snapshot.name, files_below(volume, root.unwrap().ino))
        });
        Self {
            live: files_below(volume, ROOT_INO),
            snapshots: snapshots.collect(),
        }
    }

    /// Where the two differ, without what is in the files.
    fn differs(&self, other: &Self) -> Vec<String> {
        let flat = |state: &Self| -> BTreeMap<String, Arc<Vec<u8>>> {
            let past = state.snapshots.iter().flat_map(|(name, files)| {
                let paths = files.iter();
                paths.map(move |(path, data)| (format!("{name}: {path}"), Arc::clone(data)))
            });
            past.chain(state.live.clone()).collect()
        };
        let (wanted, found) = (flat(self), flat(other));
        let all = wanted.keys().chain(found.keys());
        all.filter(|path| wanted.get(*path) != found.get(*path))
            .cloned()
            .collect()
    }
}

fn files_below(volume: &Volume, top: Ino) -> Files {
    let engine = volume.engine();
    let mut found = Files::new();
    let mut dirs = vec![(top, String::new())];
    while let Some((dir, above)) = dirs.pop() {
        for entry in engine.readdir(dir, 0, 1_000).unwrap() {
            let path = format!("{above}{}", String::from_utf8_lossy(&entry.name));
            if entry.kind == Kind::Dir {
                dirs.push((entry.ino, format!("{path}/")));
                continue;
            }
            let data = engine.read(entry.ino, 0, 1 << 20).unwrap();
            found.insert(path, Arc::new(data.to_vec()));
        }
    }
    found
}

fn remove_tree(volume: &Volume, parent: Ino, name: &[u8]) {
    let engine = volume.engine();
    let dir = engine.lookup(parent, name).unwrap().ino;
    for entry in engine.readdir(dir, 0, 1_000).unwrap() {
        match entry.kind {
            Kind::Dir => remove_tree(volume, dir, &entry.name),
            _ => engine.unlink(dir, &entry.name).unwrap(),
        }
    }
    engine.rmdir(parent, name).unwrap();
}

/// What the volume was at any time, and what happened.
struct Campaign {
    hours: Hours,
    rng: SmallRng,
    now: State,
    /// Every state there was, by the time: a head is made at one of them.
    states: BTreeMap<u64, Vec<State>>,
    machines: u64,
    snapshots: u64,
    deleted: u64,
    rewritten: u64,
    looked_at: u64,
    restored: u64,
}

impl Campaign {
    fn note(&mut self) {
        let now_ms = self.hours.clock.now_ms();
        self.states
            .entry(now_ms)
            .or_default()
            .push(self.now.clone());
    }

    /// Only the campaign publishes: a thread that did would find states between two of its steps.
    fn open(&self, state: &str) -> Arc<Volume> {
        let config = VolumeConfig {
            upload_delay: Duration::from_secs(24 * 3_600),
            ..self.hours.machine.config(state)
        };
        self.hours.open_with(config).unwrap()
    }

    fn change(&mut self, volume: &Volume) {
        let name = format!("f{}", self.rng.random_range(0..12));
        let engine = volume.engine();
        let live = &mut self.now.live;
        match (live.get(&name).cloned(), self.rng.random_range(0..7)) {
            (Some(_), 0..3) => {
                engine.unlink(ROOT_INO, name.as_bytes()).unwrap();
                live.remove(&name);
            }
            (Some(data), 3) => {
                let to = format!("copy{}", self.rng.random_range(0..3));
                if live.contains_key(&to) {
                    engine.unlink(ROOT_INO, to.as_bytes()).unwrap();
                }
                let from = engine.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
                let into = file(volume, &to);
                let len = data.len() as u64;
                let done = engine.copy_file_range(from, 0, into, 0, len, false);
                assert_eq!(done.unwrap(), len);
                live.insert(to, data);
            }
            (Some(data), 4) => {
                let ino = engine.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
                let at = self.rng.random_range(0..=data.len());
                let bytes = content(self.rng.random(), self.rng.random_range(1..20_000));
                engine.write(ino, at as u64, &bytes, false).unwrap();
                let mut whole = data.to_vec();
                whole.resize(whole.len().max(at + bytes.len()), 0);
                whole[at..at + bytes.len()].copy_from_slice(&bytes);
                live.insert(name, Arc::new(whole));
            }
            (Some(data), 5) => {
                let ino = engine.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
                let len = self.rng.random_range(0..=data.len());
                let shorter = crate::AttrChange {
                    size: Some(len as u64),
                    ..crate::AttrChange::default()
                };
                engine.setattr(ino, shorter).unwrap();
                live.insert(name, Arc::new(data[..len].to_vec()));
            }
            (Some(data), _) => {
                let to = format!("f{}", self.rng.random_range(12..16));
                let (from, into) = (name.as_bytes(), to.as_bytes());
                let flags = RenameFlags::default();
                engine
                    .rename(ROOT_INO, from, ROOT_INO, into, flags)
                    .unwrap();
                live.remove(&name);
                live.insert(to, data);
            }
            (None, _) => {
                let data = content(self.rng.random(), self.rng.random_range(1..60_000));
                fill(volume, &name, &data);
                live.insert(name, Arc::new(data));
            }
        }
        self.note();
    }

    fn snapshot(&mut self, volume: &Volume, story: &str) {
        let engine = volume.engine();
        let names: Vec<String> = self.now.snapshots.keys().cloned().collect();
        let what = match names.len() > MOST_SNAPSHOTS {
            true => 0,
            false => self.rng.random_range(0..8),
        };
        match (names.choose(&mut self.rng).cloned(), what) {
            (Some(name), 0..2) => {
                engine.remove_snapshot(&name).unwrap();
                self.now.snapshots.remove(&name);
            }
            (Some(name), 2) => {
                let before = self.now.live.clone();
                let restored = engine.restore(&name, b"").unwrap();
                self.now.live = self.now.snapshots[&name].clone();
                self.went_back(restored.safety, before, story);
            }
            (Some(name), 3) => {
                let files = self.now.snapshots[&name].clone();
                let files: Vec<_> = files.into_iter().collect();
                let Some((path, data)) = files.choose(&mut self.rng).cloned() else {
                    return;
                };
                let before = self.now.live.clone();
                let restored = engine.restore(&name, path.as_bytes()).unwrap();
                self.now.live.insert(path, data);
                self.went_back(restored.safety, before, story);
            }
            (Some(name), 4) => self.clone_of(volume, &name),
            _ => {
                self.snapshots += 1;
                let name = format!("s{}", self.snapshots);
                let names = SnapshotNames {
                    name: Some(name.clone()),
                    ..SnapshotNames::default()
                };
                engine.create_snapshot(names).unwrap();
                self.now.snapshots.insert(name, self.now.live.clone());
            }
        }
        self.note();
        assert_eq!(self.now.differs(&State::of(volume)), [""; 0], "{story}");
    }

    fn went_back(&mut self, safety: Option<crate::Snapshot>, before: Files, story: &str) {
        self.restored += 1;
        match safety {
            Some(safety) => drop(self.now.snapshots.insert(safety.name, before)),
            None => assert!(before == self.now.live, "{story}: nothing was restored"),
        }
    }

    /// A clone of a whole snapshot, in a directory of its own; or a former one goes.
    fn clone_of(&mut self, volume: &Volume, name: &str) {
        let files = self.now.snapshots[name].clone();
        let top = |path: &String| path.split_once('/').map(|(top, _)| top.to_owned());
        if let Some(old) = self.now.live.keys().find_map(top) {
            remove_tree(volume, ROOT_INO, old.as_bytes());
            let below = format!("{old}/");
            self.now.live.retain(|path, _| !path.starts_with(&below));
            return;
        }
        if files.is_empty() || files.len() > MOST_CLONED {
            return;
        }
        self.snapshots += 1;
        let to = format!("clone{}", self.snapshots);
        let engine = volume.engine();
        let from = engine.walk(format!(".snapshots/{name}").as_bytes());
        let from = from.unwrap().ino;
        engine.clone_tree(from, ROOT_INO, to.as_bytes()).unwrap();
        let cloned = files.into_iter();
        self.now
            .live
            .extend(cloned.map(|(path, data)| (format!("{to}/{path}"), data)));
    }

    /// The state that a volume shows, which must be one of those there were at that time.
    fn take_for(&mut self, volume: &Volume, at_ms: u64, story: &str) -> State {
        let found = State::of(volume);
        let states = self.states.get(&at_ms).map_or(&[][..], Vec::as_slice);
        let nearest = states.iter().map(|state| state.differs(&found));
        let nearest = nearest.min_by_key(Vec::len);
        assert_eq!(
            nearest,
            Some(vec![]),
            "{story}: at {at_ms} there was no such state"
        );
        found
    }

    fn points(&self) -> Vec<u64> {
        let hours = &self.hours;
        let handle = hours.machine.runtime.handle();
        let desk = look(&hours.source(), hours.machine.dir.path(), handle).unwrap();
        let seen = published(&desk).unwrap().unwrap();
        let points = crate::volume::points::list(&desk, &seen.head, hours.clock.now_ms());
        points.unwrap().into_iter().map(|p| p.at_ms).collect()
    }

    /// The oldest restore point and some others can be read in full.
    fn look_at_points(&mut self, state: &str, story: &str) {
        let points = self.points();
        let mut some: Vec<u64> = points.choose_multiple(&mut self.rng, 3).copied().collect();
        some.extend(points.first());
        for at_ms in some {
            let view = VolumeConfig {
                at_ms: Some(at_ms),
                ..self.hours.machine.config(state)
            };
            let view = self.hours.open_with(view).unwrap();
            view.drop_caches();
            self.take_for(&view, at_ms, story);
            view.close().unwrap();
            self.looked_at += 1;
        }
    }

    fn collect(&mut self, volume: &Volume, state: &str, story: &str) {
        let faulty = self.rng.random_bool(0.3);
        if faulty {
            for fault in [
                Fault::ErrorBefore(FaultKind::Denied),
                Fault::ErrorAfter(FaultKind::Denied),
            ] {
                self.hours.store.add(FaultRule::always(fault).chance(0.1));
            }
        }
        let collected = volume.gc(false);
        self.hours.store.heal();
        match collected {
            Ok(report) => {
                self.deleted += report.deleted.objects;
                self.rewritten += report.rewritten.objects;
            }
            Err(error) => assert!(faulty, "{story}: {error}"),
        }
        self.hours.check(story);
        self.look_at_points(state, story);
        volume.drop_caches();
    }

    fn round(&mut self, volume: Arc<Volume>, state: &mut String, story: &str) -> Arc<Volume> {
        match self.rng.random_range(0..12) {
            0..4 => {
                for _ in 0..self.rng.random_range(1..10) {
                    match self.rng.random_bool(0.25) {
                        true => self.snapshot(&volume, story),
                        false => self.change(&volume),
                    }
                }
            }
            4 => {
                volume.sync(LONG).unwrap();
            }
            // Not all at once, so that the trash holds something most of the time.
            5 => {
                let older_than_ms = self.rng.random_range(1..24 * HOUR_MS);
                volume.empty_trash(older_than_ms).unwrap();
                self.note();
            }
            6..8 => {
                let ms = self.rng.random_range(1..3 * HOUR_MS);
                self.hours.pass(ms);
                // The thread that does it goes by the real clock.
                let acknowledged = volume.engine.ns.acknowledged().0;
                volume.keeper().unwrap().look_after(acknowledged);
                self.note();
            }
            8..10 => self.collect(&volume, state, story),
            10 => {
                volume.abandon();
                let lost = self.rng.random_bool(0.5);
                if lost {
                    self.machines += 1;
                    *state = format!("machine{}", self.machines);
                }
                let volume = self.open(state);
                if lost {
                    let head = newest_head(&self.hours.machine, &self.hours.store);
                    self.now = self.take_for(&volume, head.created_ms, story);
                    self.note();
                }
                let found = State::of(&volume);
                assert_eq!(self.now.differs(&found), [""; 0], "{story}");
                return volume;
            }
            _ => {
                volume.close().unwrap();
                let points = self.points();
                let at_ms = *points.choose(&mut self.rng).unwrap();
                let scratch = self.hours.machine.dir.path();
                let handle = self.hours.machine.runtime.handle();
                let source = self.hours.source();
                restore_with(&source, at_ms, true, scratch, handle, &*self.hours.clock).unwrap();
                let volume = self.open(state);
                self.now = self.take_for(&volume, at_ms, story);
                self.note();
                return volume;
            }
        }
        assert_eq!(self.now.differs(&State::of(&volume)), [""; 0], "{story}");
        volume
    }

    /// Until everything dead is gone, with nothing else going on. Returns how many packs are left, all of which are used.
    fn settle(&self, volume: &Volume, story: &str) -> u64 {
        for _ in 0..20 {
            volume.gc(false).unwrap();
            self.hours.pass(HOUR_MS);
        }
        let left = volume.gc(false).unwrap();
        assert_eq!(left.waiting.objects, 0, "{story}");
        assert_eq!(
            self.hours.packs().len() as u64,
            left.used.objects,
            "{story}"
        );
        self.hours.check(story);
        healthy(volume);
        left.used.objects
    }
}

#[test]
fn every_state_that_can_be_restored_is_there_along_random_histories() {
    let seed = number("WELDRFS_TEST_SEED", SmallRng::from_os_rng().random());
    let rounds = number("WELDRFS_GC_ROUNDS", 150);
    let mut campaign = Campaign {
        hours: Hours::new(seed),
        rng: SmallRng::seed_from_u64(seed),
        now: State::default(),
        states: BTreeMap::new(),
        machines: 0,
        snapshots: 0,
        deleted: 0,
        rewritten: 0,
        looked_at: 0,
        restored: 0,
    };
    let mut state = "machine0".to_owned();
    let mut volume = campaign.open(&state);
    campaign.note();
    volume.sync(LONG).unwrap();
    for round in 0..rounds {
        let story = format!("WELDRFS_TEST_SEED={seed}, round {round}");
        volume = campaign.round(volume, &mut state, &story);
    }
    let story = format!("WELDRFS_TEST_SEED={seed}");
    campaign.settle(&volume, &story);
    volume.drop_caches();
    let found = State::of(&volume);
    assert_eq!(campaign.now.differs(&found), [""; 0], "{story}");

    // What only the snapshots need goes with them, and everything with the files.
    let paths: Vec<String> = campaign.now.live.keys().cloned().collect();
    for path in paths {
        match path.split_once('/') {
            Some((top, _)) => {
                if volume.engine().lookup(ROOT_INO, top.as_bytes()).is_ok() {
                    remove_tree(&volume, ROOT_INO, top.as_bytes());
                }
            }
            None => remove(&volume, &path),
        }
    }
    // Trees are in the trash yet.
    volume.empty_trash(0).unwrap();
    let snapshots = campaign.now.snapshots.values();
    let mut kept = snapshots.flat_map(BTreeMap::values);
    let is_any_kept = kept.any(|data| !data.is_empty());
    let left = campaign.settle(&volume, &story);
    assert_eq!(left > 0, is_any_kept, "{story}: for the snapshots alone");
    for name in campaign.now.snapshots.keys() {
        volume.engine().remove_snapshot(name).unwrap();
    }
    assert_eq!(campaign.settle(&volume, &story), 0, "{story}: with nothing");
    volume.close().unwrap();
    campaign.hours.check("at the end");
    println!(
        "{story}: {rounds} rounds, {} packs deleted and {} written anew, {} restore points read, {} snapshots and clones, {} restores",
        campaign.deleted,
        campaign.rewritten,
        campaign.looked_at,
        campaign.snapshots,
        campaign.restored
    );
    // Few rounds may have nothing to delete before their end.
    assert!(
        campaign.deleted > 0 || rounds < ROUNDS_THAT_DELETE,
        "{story}"
    );
    assert!(campaign.looked_at > 0 && campaign.snapshots > 0, "{story}");
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}
