//! Random histories of a whole volume: whatever is done to it, every snapshot shows what was there when it was made, every
//! diff what differs, and a restore brings it back; through crashes, packing, gc, empty caches, lost machines and going
//! back in time. A plain model ([`world::World`]) tells what has to be there.
//!
//! A new kind of operation is a method of [`Run`] and a line in [`OPERATIONS`]. `WELDRFS_PAST_HISTORIES` makes it longer,
//! `WELDRFS_TEST_SEED` repeats one history.

mod content;
mod data;
mod differences;
mod names;
mod onlooker;
mod places;
mod restoring;
mod seen;
mod snapshots;
mod store;
mod world;

use super::gc::Hours;
use super::history::number;
use super::*;
use crate::{Kind, Snapshot};
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use weldrfs_meta::{Epoch, Ino};

use onlooker::Kernel;
use seen::{Depth, compare};
use world::{Body, Node, World};

const HISTORIES: u64 = 4;
/// Histories that go on at a time.
const WORKERS: usize = 4;
const STEPS: u32 = 200;
/// Nothing grows beyond so many inodes.
const MOST_INODES: usize = 90;

type Operation = fn(&mut Run);

/// What happens, and how often.
const OPERATIONS: [(u32, Operation); 37] = [
    // Names.
    (8, Run::create),
    (5, Run::make_dir),
    (3, Run::make_other),
    (6, Run::link),
    (6, Run::unlink),
    (12, Run::rename),
    (3, Run::turn_over),
    (3, Run::put_in_the_place_of),
    (3, Run::remove_tree),
    (4, Run::make_tree),
    (3, Run::replace_by_renaming),
    // Data and attributes.
    (12, Run::write),
    (6, Run::append),
    (3, Run::write_far_away),
    (5, Run::truncate),
    (3, Run::punch),
    (5, Run::copy_range),
    (6, Run::change_attributes),
    (7, Run::change_xattrs),
    (3, Run::hold),
    (2, Run::let_go),
    (2, Run::write_to_held),
    // Snapshots.
    (10, Run::make_snapshot),
    (3, Run::remove_snapshot),
    (9, Run::restore),
    (3, Run::undo),
    (3, Run::restore_what_is_gone),
    (5, Run::clone_dir),
    // What goes on behind it.
    (8, Run::checkpoint),
    (3, Run::drop_caches),
    (4, Run::crash),
    (4, Run::publish),
    (2, Run::publish_under_faults),
    (3, Run::collect),
    (2, Run::empty_the_trash),
    (1, Run::lose_the_machine),
    (1, Run::go_back_in_time),
];

/// A snapshot, and what it has to show.
#[derive(Clone)]
struct Past {
    snapshot: Snapshot,
    world: World,
}

/// What a volume has to show.
#[derive(Clone)]
struct State {
    live: World,
    snapshots: BTreeMap<Epoch, Arc<Past>>,
}

struct Run {
    rng: SmallRng,
    hours: Hours,
    volume: Arc<Volume>,
    kernel: Arc<Kernel>,
    /// The name of the machine's state folder.
    state: String,
    machines: u32,
    checkpoint_interval: Duration,
    now: State,
    /// What there was after an operation, since the machine came.
    by_lsn: BTreeMap<u64, State>,
    /// What there was at a time, milliseconds since 1970.
    by_ms: BTreeMap<u64, Vec<State>>,
    /// Files that somebody has open, and those of them without a name.
    held: BTreeSet<Ino>,
    unnamed: BTreeMap<Ino, Arc<Node>>,
    /// Files that were written to after they had lost their names.
    late: BTreeMap<Ino, Arc<Node>>,
    /// The snapshots that the last restores made.
    safeties: Vec<Epoch>,
    step: u32,
    doing: String,
    counts: Counts,
}

/// What a campaign came to.
#[derive(Default, Debug)]
struct Counts {
    restores: u64,
    late_writes: u64,
    trash_names: u64,
    differences: u64,
    clones: u64,
    crashes: u64,
    lost: u64,
    went_back: u64,
    packs_deleted: u64,
    packs_rewritten: u64,
}

#[test]
fn random_histories_of_a_volume_agree_with_the_model() {
    let seeds = match std::env::var("WELDRFS_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let first: u64 = SmallRng::from_os_rng().random_range(0..1 << 40);
            let histories = number("WELDRFS_PAST_HISTORIES", HISTORIES);
            (first..first + histories).collect()
        }
    };
    let sum = Mutex::new(Counts::default());
    // Most of the time they wait for the disk.
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (seeds, sum) = (seeds.iter().skip(worker).step_by(WORKERS), &sum);
            scope.spawn(move || {
                for seed in seeds {
                    sum.lock().add(&history(*seed));
                }
            });
        }
    });
    let sum = sum.into_inner();
    println!("{} histories: {sum:?}", seeds.len());
    // One by itself may have none.
    let is_enough = sum.restores > 0 && sum.differences > 0 && sum.crashes > 0;
    assert!(is_enough || seeds.len() == 1, "{sum:?}");
}

fn history(seed: u64) -> Counts {
    let _says = Says(seed);
    let mut run = Run::new(seed);
    for step in 1..=STEPS {
        run.step(step);
    }
    run.end();
    run.counts
}

/// Prints the seed of a history that fails.
struct Says(u64);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("WELDRFS_TEST_SEED={}", self.0);
        }
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.restores += other.restores;
        self.late_writes += other.late_writes;
        self.trash_names += other.trash_names;
        self.differences += other.differences;
        self.clones += other.clones;
        self.crashes += other.crashes;
        self.lost += other.lost;
        self.went_back += other.went_back;
        self.packs_deleted += other.packs_deleted;
        self.packs_rewritten += other.packs_rewritten;
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let hours = Hours::new(seed);
        // By itself, or only when it is asked for.
        let checkpoint_interval = match rng.random() {
            true => Duration::from_millis(20),
            false => Duration::from_secs(3_600),
        };
        let state = "machine0".to_owned();
        let volume = store::open(&hours, &state, checkpoint_interval);
        let root = Node {
            mode: 0o755,
            owner: (0, 0),
            mtime_ns: 0,
            xattrs: BTreeMap::new(),
            body: Body::Dir(BTreeMap::new()),
        };
        let now = State {
            live: World(BTreeMap::from([(ROOT_INO, Arc::new(root))])),
            snapshots: BTreeMap::new(),
        };
        let mut run = Self {
            rng,
            hours,
            kernel: Kernel::of(&volume),
            volume,
            state,
            machines: 0,
            checkpoint_interval,
            now,
            by_lsn: BTreeMap::new(),
            by_ms: BTreeMap::new(),
            held: BTreeSet::new(),
            unnamed: BTreeMap::new(),
            late: BTreeMap::new(),
            safeties: Vec::new(),
            step: 0,
            doing: "beginning".to_owned(),
            counts: Counts::default(),
        };
        run.adopt_attributes(ROOT_INO);
        run.by_lsn.insert(0, run.now.clone());
        run.note();
        run.volume.sync(LONG).unwrap();
        run
    }

    /// For messages.
    fn what(&self) -> String {
        format!("step {}: {}", self.step, self.doing)
    }

    fn engine(&self) -> &Engine {
        self.volume.engine()
    }

    /// Something happens, and what is to be seen afterwards is compared.
    fn step(&mut self, step: u32) {
        self.step = step;
        // Every step has a time of its own.
        let ms = self.rng.random_range(1..4);
        self.hours.pass(ms);
        let before = self.now.live.clone();
        let all: u32 = OPERATIONS.iter().map(|(weight, _)| weight).sum();
        let mut at = self.rng.random_range(0..all);
        let chosen = OPERATIONS.iter().find(|(weight, _)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        self.doing = "nothing".to_owned();
        (chosen.unwrap().1)(self);
        self.let_unnamed_go(&before);
        self.late.clear();
        self.note();
        self.compare_some();
    }

    /// Remembers what there is to be seen, for who comes back to it.
    fn note(&mut self) {
        let lsn = self.engine().ns.acknowledged().0;
        self.by_lsn.insert(lsn, self.now.clone());
        let now_ms = self.hours.clock.now_ms();
        self.by_ms.entry(now_ms).or_default().push(self.now.clone());
    }

    /// Files that lost their last name are there for those who have them open, and for nobody else.
    fn let_unnamed_go(&mut self, before: &World) {
        for (ino, node) in &before.0 {
            if self.now.live.0.contains_key(ino) {
                continue;
            }
            match self.held.contains(ino) {
                true => {
                    let node = self.late.get(ino).unwrap_or(node);
                    self.unnamed.insert(*ino, Arc::clone(node));
                }
                false => self.is_gone(*ino),
            }
        }
    }

    /// Nothing has this number any more, or something without a name.
    fn is_gone(&self, ino: Ino) {
        match self.engine().getattr(ino) {
            Ok(attr) => assert_eq!(attr.nlink, 0, "{}: {ino}", self.what()),
            Err(error) => assert_eq!(error.errno(), libc::ENOENT, "{}: {ino}", self.what()),
        }
    }

    /// The present after every step. Looking at a snapshot brings everything into the database, so that is done less
    /// often: histories of what is not there yet go on meanwhile.
    fn compare_some(&mut self) {
        let what = self.what();
        let depth = match self.rng.random_ratio(1, 6) {
            true => Depth::All,
            false => Depth::Names,
        };
        compare(&self.volume, ROOT_INO, &self.now.live, depth, &what);
        self.compare_unnamed();
        if self.rng.random_ratio(1, 6) {
            healthy(&self.volume);
        }
        if self.rng.random_ratio(3, 4) {
            return;
        }
        if let Some(past) = self.some_snapshot() {
            self.compare_snapshot(&past, depth);
            self.compare_diff(&past, None);
            if let Some(other) = self.some_snapshot() {
                self.compare_diff(&past, Some(&other));
            }
        }
    }

    /// Everything there is to be seen.
    fn compare_all(&mut self) {
        let what = self.what();
        let engine = Arc::clone(self.volume.engine());
        compare(&self.volume, ROOT_INO, &self.now.live, Depth::All, &what);
        self.compare_unnamed();
        let listed = engine.snapshots();
        let known: Vec<Snapshot> = self
            .now
            .snapshots
            .values()
            .map(|p| p.snapshot.clone())
            .collect();
        assert_eq!(listed, known, "{what}");
        for past in self.now.snapshots.clone().into_values() {
            self.compare_snapshot(&past, Depth::All);
            self.compare_diff(&past, None);
        }
        healthy(&self.volume);
    }

    fn compare_unnamed(&self) {
        for (ino, node) in &self.unnamed {
            let what = format!("{}: {ino} that is held", self.what());
            let attr = self.engine().getattr(*ino);
            let attr = attr.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(attr.nlink, 0, "{what}");
            if let Body::File(content) = &node.body {
                assert_eq!(attr.size, content.size, "{what}");
                content.is_in(&self.volume, *ino, &what);
            }
        }
    }

    /// A history ends: nothing that was kept is left once the snapshots are gone, and the store is whole.
    fn end(&mut self) {
        self.doing = "the end".to_owned();
        self.compare_all();
        self.publish();
        self.compare_all();
        for (epoch, past) in self.now.snapshots.clone() {
            self.engine().remove_snapshot(&past.snapshot.name).unwrap();
            self.now.snapshots.remove(&epoch);
            if let Some(past) = self.some_snapshot() {
                self.compare_snapshot(&past, Depth::Names);
            }
        }
        self.compare_all();
        self.volume.close().unwrap();
        self.hours.check(&self.what());
    }
}
