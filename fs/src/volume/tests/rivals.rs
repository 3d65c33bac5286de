//! Machines that fight for one volume: whatever they do, the store holds one history, nobody gets the volume who has to
//! wait, and what one of them acknowledged is in that history or in a divergent copy.
//!
//! `WELDRFS_RIVALS_STEPS` makes the campaign longer, `WELDRFS_TEST_SEED` repeats it.

use super::history::{Files, History, differing, files_of, number};
use super::lease::divergent_copies;
use super::*;
use crate::volume::fsck;
use crate::volume::keeper::LEASE;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicI64;

const MINUTE_MS: u64 = 60_000;
const YEAR_NS: i64 = 365 * 24 * 3_600 * 1_000_000_000;
const NOW_MS: u64 = 1_000_000_000_000;
/// No longer than restore points are kept: what deletes them has campaigns of its own.
const MOST_PASSED_MS: u64 = 4 * 60 * MINUTE_MS;
/// How much older than its term a lease must be before another machine takes it.
const MARGIN_MS: u64 = 5_000;

/// The clocks of one machine. Time passes for all of them; only the one on the wall is ever set.
struct Clocks {
    passed_ms: Arc<AtomicU64>,
    wall_ns: AtomicI64,
}

impl Clock for Clocks {
    fn now_ns(&self) -> i64 {
        self.boot_ns() + self.wall_ns.load(Ordering::Relaxed)
    }

    fn boot_ns(&self) -> i64 {
        i64::try_from(self.passed_ms.load(Ordering::Relaxed) * 1_000_000).unwrap()
    }
}

/// What the campaign knows of a local state.
struct Local {
    /// Writers it was; the heads of these epochs are its own.
    epochs: BTreeSet<u64>,
    history: History,
    /// The last operation that it knows to be in the store.
    published: u64,
    /// It may know of later ones: a sync failed, who knows where.
    is_vague: bool,
}

impl Local {
    /// Whether everything that it acknowledged is in the store, as far as it knows.
    fn is_behind(&self) -> Option<bool> {
        let last = self.history.states.keys().next_back();
        match last.is_none_or(|lsn| *lsn <= self.published) {
            false if self.is_vague => None,
            is_behind => Some(is_behind),
        }
    }
}

struct Rival {
    name: String,
    /// Its own line to the store.
    line: Arc<FaultStore>,
    clocks: Arc<Clocks>,
    local: Option<Local>,
    volume: Option<Arc<Volume>>,
    /// Its line is cut.
    is_cut: bool,
    /// Some of its requests fail, with or without an effect.
    is_troubled: bool,
    /// Somebody got the volume who had to wait for the end of its lease, or it was told that it lost the volume.
    is_over: bool,
    copies: Vec<String>,
}

impl Rival {
    fn epoch(&self) -> Option<u64> {
        let volume = self.volume.as_ref();
        volume.map(|volume| volume.status().epoch)
    }

    /// What it has acknowledged.
    fn now(&self) -> Files {
        let local = self.local.as_ref();
        local.map_or_else(Files::new, |local| local.history.now.clone())
    }
}

/// What happened, so that a campaign in which nothing did is seen.
#[derive(Debug, Default)]
struct Tally {
    written: u64,
    refused: u64,
    synced: u64,
    failed: u64,
    fenced: u64,
    opened: u64,
    held: u64,
    diverged: u64,
    copies: u64,
}

/// The machines, their store, and its history.
struct Arena {
    machine: Machine,
    memory: Arc<MemoryStore>,
    passed_ms: Arc<AtomicU64>,
    rivals: Vec<Rival>,
    /// What each writer acknowledged, by its epoch, with what it began with.
    lines: BTreeMap<u64, History>,
    /// The newest state that a sync said is in the store.
    promised: (u64, Files),
    rng: SmallRng,
    tally: Tally,
    story: String,
}

impl Arena {
    fn new(seed: u64, rivals: usize) -> Self {
        let memory = Arc::new(MemoryStore::new());
        memory.set_now_ms(NOW_MS);
        let passed_ms = Arc::new(AtomicU64::new(MINUTE_MS));
        let rival = |n: usize| Rival {
            name: format!("rival{n}"),
            line: Arc::new(FaultStore::new(
                Arc::clone(&memory) as Arc<dyn ObjectStore>,
                seed + n as u64,
            )),
            clocks: Arc::new(Clocks {
                passed_ms: Arc::clone(&passed_ms),
                wall_ns: AtomicI64::new(i64::try_from(NOW_MS * 1_000_000).unwrap()),
            }),
            local: None,
            volume: None,
            is_cut: false,
            is_troubled: false,
            is_over: false,
            copies: Vec::new(),
        };
        Self {
            machine: Machine::new(),
            rivals: (0..rivals).map(rival).collect(),
            memory,
            passed_ms,
            lines: BTreeMap::new(),
            promised: (0, Files::new()),
            rng: SmallRng::seed_from_u64(seed),
            tally: Tally::default(),
            story: format!("WELDRFS_TEST_SEED={seed}"),
        }
    }

    fn config(&self, who: usize, claim: Claim) -> VolumeConfig {
        let rival = &self.rivals[who];
        VolumeConfig {
            source: Source::Own(Arc::clone(&rival.line) as Arc<dyn ObjectStore>),
            claim,
            // Only the campaign publishes.
            upload_delay: Duration::from_secs(24 * 3_600),
            ..self.machine.config(&rival.name)
        }
    }

    fn open_with(&self, who: usize, config: VolumeConfig) -> Result<Arc<Volume>, OpenError> {
        let clock = Arc::clone(&self.rivals[who].clocks) as Arc<dyn Clock>;
        Volume::open_with(config, self.machine.runtime.handle().clone(), clock)
    }

    /// The head, and for how long it has been there.
    fn head(&self) -> Option<(Head, u64)> {
        let runtime = &self.machine.runtime;
        let seen = runtime.block_on(head::read_head(&*self.memory)).unwrap()?;
        let info = runtime.block_on(self.memory.head(HEAD_KEY)).unwrap();
        let now_ms = NOW_MS + self.passed_ms.load(Ordering::Relaxed) - MINUTE_MS;
        Some((seen.head, now_ms - info.modified_ms))
    }

    /// Whether the lease in the head holds, by the store's clock; `None` when there is none, or it was given back.
    fn is_held(&self) -> Option<bool> {
        let (head, age_ms) = self.head()?;
        let lease = head.lease.filter(|lease| !lease.released)?;
        Some(age_ms < lease.term_ms? + MARGIN_MS)
    }

    /// What the store holds.
    fn in_store(&self) -> (u64, Files) {
        let Some((head, _)) = self.head() else {
            return (0, Files::new());
        };
        let line = self.lines.get(&head.epoch);
        let line = line.unwrap_or_else(|| panic!("{}: nobody is epoch {}", self.story, head.epoch));
        (head.lsn, line.at(head.lsn))
    }

    /// Whatever was promised is in what the store holds by now.
    fn check_promise(&self) {
        let Some((head, _)) = self.head() else { return };
        let (lsn, files) = &self.promised;
        let there = self.lines[&head.epoch].at(*lsn);
        let differ = differing(files, &there);
        assert!(
            head.lsn >= *lsn && differ.is_empty(),
            "{}: there are two histories: a sync promised operation {lsn}, and the head of epoch {} at operation {} goes \
             without {differ:?}",
            self.story,
            head.epoch,
            head.lsn
        );
    }

    fn pass(&self, ms: u64) {
        if self.passed_ms.load(Ordering::Relaxed) > MOST_PASSED_MS {
            return;
        }
        let passed = self.passed_ms.fetch_add(ms, Ordering::Relaxed) + ms;
        self.memory.set_now_ms(NOW_MS + passed - MINUTE_MS);
    }

    fn write(&mut self, who: usize, times: u64) {
        let rival = &mut self.rivals[who];
        let Some(volume) = &rival.volume else { return };
        let epoch = volume.status().epoch;
        let local = rival.local.as_mut().unwrap();
        for _ in 0..times {
            let acknowledged = volume.status().acknowledged_lsn;
            match local.history.step(volume, &mut self.rng) {
                Ok(()) => {
                    assert!(
                        !rival.is_over,
                        "{}: {} acknowledged something after its lease",
                        self.story, rival.name
                    );
                    self.tally.written += 1;
                }
                Err(error) => {
                    assert_eq!(error.errno(), libc::EROFS, "{}: {error}", self.story);
                    assert_eq!(volume.status().acknowledged_lsn, acknowledged);
                    self.tally.refused += 1;
                    break;
                }
            }
        }
        self.lines.insert(epoch, local.history.clone());
    }

    /// Two machines publish operations of the same number, in whatever order: only one of them may.
    fn meet(&mut self, who: usize) {
        let last = |rival: &Rival| {
            let volume = rival.volume.as_ref();
            volume.map(|volume| volume.status().acknowledged_lsn)
        };
        let others = (0..self.rivals.len()).filter(|other| *other != who);
        let other = others.max_by_key(|other| last(&self.rivals[*other]));
        let pair = other.map(|other| (other, last(&self.rivals[who]), last(&self.rivals[other])));
        let Some((other, Some(mine), Some(theirs))) = pair else {
            return;
        };
        self.write(who, theirs.saturating_sub(mine).min(8));
        let mut both = [who, other];
        both.shuffle(&mut self.rng);
        for one in both {
            self.sync(one);
        }
    }

    fn sync(&mut self, who: usize) {
        let rival = &self.rivals[who];
        let Some(volume) = rival.volume.clone() else {
            return;
        };
        let is_newest = self.head().map(|(head, _)| head.epoch) == rival.epoch();
        let acknowledged = volume.status().acknowledged_lsn;
        let patience = match (rival.is_cut, rival.is_troubled) {
            (true, _) => Duration::from_millis(100),
            (_, true) => Duration::from_millis(self.rng.random_range(1..1_000)),
            _ => LONG,
        };
        let has_work = volume.status().in_store_lsn < acknowledged;
        let synced = volume.sync(patience);
        let (name, story) = (&rival.name, &self.story);
        match synced {
            Ok(report) => {
                let lsn = report.in_store_lsn;
                assert_eq!(lsn, acknowledged, "{story}: {name}");
                if !has_work {
                    return;
                }
                self.tally.synced += 1;
                // Before this becomes the newest promise: it must keep the one before.
                self.check_promise();
                assert!(
                    is_newest,
                    "{story}: there are two histories: {name} was overruled and published"
                );
                assert!(!rival.is_cut, "{story}: {name} has no line to the store");
                self.promised = (lsn, rival.now());
                self.rivals[who].local.as_mut().unwrap().published = lsn;
            }
            Err(FsError::Foreign) => {
                assert!(!is_newest, "{story}: {name} was not overruled");
                self.rivals[who].is_over = true;
                self.tally.fenced += 1;
            }
            Err(error) => {
                let may_fail = rival.is_cut || rival.is_troubled;
                assert!(may_fail, "{story}: {name} cannot publish: {error}");
                self.rivals[who].local.as_mut().unwrap().is_vague = true;
                self.tally.failed += 1;
            }
        }
        self.check_promise();
    }

    fn heal(&mut self, who: usize) {
        let rival = &mut self.rivals[who];
        rival.line.heal();
        (rival.is_cut, rival.is_troubled) = (false, false);
    }

    /// Something happens to the line of a machine, or is over.
    fn disturb(&mut self, who: usize) {
        let rival = &mut self.rivals[who];
        if rival.is_cut || rival.is_troubled {
            return self.heal(who);
        }
        rival.is_cut = self.rng.random_bool(0.5);
        rival.is_troubled = !rival.is_cut;
        if rival.is_cut {
            return rival.line.set_outage(Outage::Refused);
        }
        for fault in [
            Fault::ErrorBefore(FaultKind::Unavailable),
            Fault::ErrorAfter(FaultKind::Timeout),
            Fault::DamagedBody,
        ] {
            rival.line.add(FaultRule::always(fault).chance(0.15));
        }
    }

    /// Mounts for writing, and checks what came of it against what the head and the local state were before.
    fn open(&mut self, who: usize, claim: Claim) {
        self.heal(who);
        let before = self.head();
        let stored = self.in_store();
        let rival = &self.rivals[who];
        let (name, story) = (rival.name.clone(), self.story.clone());
        let is_own = match (&before, &rival.local) {
            (Some((head, _)), Some(local)) => local.epochs.contains(&head.epoch),
            (None, _) => true,
            (_, None) => false,
        };
        let must_wait = !is_own && self.is_held() == Some(true);
        let has_ended = self.is_held() == Some(false);
        let local = rival.now();
        let is_behind = match &rival.local {
            Some(local) if !is_own => local.is_behind(),
            _ => Some(true),
        };
        let opened = self.open_with(who, self.config(who, claim));
        let volume = match opened {
            Err(OpenError::Held { .. }) => {
                // The holder may have renewed it in the meantime.
                let had_to = must_wait || self.is_held() == Some(true);
                assert!(
                    had_to && !is_own && !claim.take_over,
                    "{story}: {name} need not wait"
                );
                self.tally.held += 1;
                return;
            }
            Err(OpenError::Diverged { .. }) => {
                assert!(
                    is_behind != Some(true) && !claim.set_aside,
                    "{story}: {name} has nothing of its own"
                );
                self.tally.diverged += 1;
                return;
            }
            opened => opened.unwrap_or_else(|error| panic!("{story}: {name} cannot open: {error}")),
        };
        assert!(
            !must_wait || claim.take_over,
            "{story}: {name} got the volume while somebody else's lease held"
        );
        let (wanted, history) = match is_own {
            true => {
                let kept = self.rivals[who].local.as_ref();
                let kept = kept.map(|local| local.history.clone());
                (local.clone(), kept.unwrap_or_default())
            }
            false => {
                let line = before
                    .as_ref()
                    .map(|(head, _)| self.lines[&head.epoch].clone());
                let mut history = line.unwrap_or_default();
                history.states.split_off(&(stored.0 + 1));
                history.now.clone_from(&stored.1);
                (stored.1.clone(), history)
            }
        };
        let differ = differing(&wanted, &files_of(&volume));
        assert!(
            differ.is_empty(),
            "{story}: {name} opened without {differ:?}"
        );
        let mut copies = divergent_copies(&volume);
        copies.retain(|copy| !self.rivals[who].copies.contains(copy));
        let differ = differing(&local, &stored.1);
        assert!(
            copies.len() < 2 && is_behind.is_none_or(|is_behind| copies.is_empty() == is_behind),
            "{story}: {name} keeps what it alone has, and nothing else: {copies:?}, {differ:?} differ"
        );
        if let (None, true, Some(own)) = (is_behind, copies.is_empty(), &self.rivals[who].local) {
            let lsn = own.history.states.keys().next_back().copied();
            let there = history.at(lsn.unwrap_or(0));
            let differ = differing(&local, &there);
            assert!(differ.is_empty(), "{story}: {name} dropped {differ:?}");
        }
        self.take_note(who, &volume, history, is_own, stored.0);
        for copy in copies {
            self.check_copy(who, &copy, &local);
            self.rivals[who].copies.push(copy);
        }
        // Every lease before this one ended earlier.
        for (n, other) in self.rivals.iter_mut().enumerate() {
            other.is_over |= n != who && has_ended;
        }
        self.rivals[who].volume = Some(volume);
        self.check_promise();
    }

    /// What is known of a machine that has the volume now.
    fn take_note(
        &mut self,
        who: usize,
        volume: &Volume,
        mut history: History,
        is_own: bool,
        published: u64,
    ) {
        let epoch = volume.status().epoch;
        history.note(volume);
        let former = self.lines.insert(epoch, history.clone());
        assert!(
            former.is_none(),
            "{}: two writers are epoch {epoch}",
            self.story
        );
        let rival = &mut self.rivals[who];
        let mut epochs = match (is_own, rival.local.take()) {
            (true, Some(local)) => local.epochs,
            _ => BTreeSet::new(),
        };
        epochs.insert(epoch);
        rival.local = Some(Local {
            epochs,
            history,
            published,
            is_vague: false,
        });
        rival.is_over = false;
        self.tally.opened += 1;
    }

    fn check_copy(&mut self, who: usize, copy: &str, wanted: &Files) {
        let looking = VolumeConfig {
            read_only: true,
            divergent: Some(copy.to_owned()),
            ..self.config(who, Claim::default())
        };
        let volume = self.open_with(who, looking).unwrap();
        let differ = differing(wanted, &files_of(&volume));
        assert!(
            differ.is_empty(),
            "{}: the divergent copy {copy} goes without {differ:?}",
            self.story
        );
        healthy(&volume);
        volume.close().unwrap();
        self.tally.copies += 1;
    }

    /// A machine looks at the volume and leaves, which gives it no right to anything.
    fn look(&mut self, who: usize) {
        self.heal(who);
        let rival = &self.rivals[who];
        let Some((head, _)) = self.head().filter(|(head, _)| head.lsn > 0) else {
            return;
        };
        let (lsn, stored) = self.in_store();
        let looking = VolumeConfig {
            read_only: true,
            ..self.config(who, Claim::default())
        };
        let volume = self.open_with(who, looking).unwrap();
        let found = files_of(&volume);
        let local = rival.local.as_ref();
        let is_shown = |wanted: &Files| differing(wanted, &found).is_empty();
        assert!(
            is_shown(&stored) || local.is_some() && is_shown(&rival.now()),
            "{}: {} is shown something else",
            self.story,
            rival.name
        );
        volume.close().unwrap();
        // What had nothing of its own follows.
        if local.is_none() {
            let mut history = self.lines[&head.epoch].clone();
            history.states.split_off(&(lsn + 1));
            history.now = stored;
            self.rivals[who].local = Some(Local {
                epochs: BTreeSet::new(),
                history,
                published: lsn,
                is_vague: false,
            });
        }
    }

    fn kill(&mut self, who: usize) {
        if let Some(volume) = self.rivals[who].volume.take() {
            volume.abandon();
        }
    }

    fn lose(&mut self, who: usize) {
        self.kill(who);
        let rival = &mut self.rivals[who];
        (rival.local, rival.copies) = (None, Vec::new());
        drop(std::fs::remove_dir_all(self.machine.path(&rival.name)));
    }

    fn leave(&mut self, who: usize) {
        self.sync(who);
        if let Some(volume) = self.rivals[who].volume.take() {
            volume.close().unwrap();
            // It may have got further than the sync.
            self.rivals[who].local.as_mut().unwrap().is_vague = true;
        }
    }

    fn step(&mut self) {
        let who = self.rng.random_range(0..self.rivals.len());
        let is_mounted = self.rivals[who].volume.is_some();
        // Who has lost the volume goes sooner.
        if is_mounted && self.rivals[who].is_over && self.rng.random_bool(0.4) {
            return self.kill(who);
        }
        match (is_mounted, self.rng.random_range(0..100_u32)) {
            (true, 0..38) => {
                let times = self.rng.random_range(1..6);
                self.write(who, times);
            }
            (true, 38..63) => self.sync(who),
            (true, 63..78) => self.meet(who),
            (true, 78..82) => self.kill(who),
            (true, 82..86) => self.leave(who),
            (true, 86..93) => self.disturb(who),
            (_, 93) => self.pass(MINUTE_MS),
            (_, 94) => self.check_store(),
            (_, 95..97) => self.pass(u64::try_from(LEASE.as_millis()).unwrap() + MARGIN_MS),
            (_, 97..) => {
                let year = *[YEAR_NS, -YEAR_NS].choose(&mut self.rng).unwrap();
                let wall = &self.rivals[who].clocks.wall_ns;
                wall.fetch_add(year, Ordering::Relaxed);
            }
            (false, 0..70) => {
                let claim = Claim {
                    take_over: self.rng.random_bool(0.6),
                    set_aside: self.rng.random_bool(0.7),
                };
                self.open(who, claim);
            }
            (false, 70..82) => self.look(who),
            (false, _) => self.lose(who),
        }
    }

    /// Everybody goes; what the store holds is whole, and whatever else was acknowledged is on some machine.
    fn finish(&mut self) {
        for who in 0..self.rivals.len() {
            self.kill(who);
        }
        for who in 0..self.rivals.len() {
            let claim = Claim {
                take_over: true,
                set_aside: true,
            };
            self.open(who, claim);
            self.write(who, 1);
            self.leave(who);
        }
        self.check_store();
    }

    /// The state that the head names, and every restore point, is whole.
    fn check_store(&self) {
        let scratch = self.machine.path("");
        let source = Source::Own(Arc::clone(&self.memory) as Arc<dyn ObjectStore>);
        let report = fsck(&source, true, &scratch, self.machine.runtime.handle());
        assert_eq!(report.unwrap().findings, vec![], "{}", self.story);
    }
}

#[test]
fn machines_that_fight_for_a_volume_leave_one_history() {
    let seed = number("WELDRFS_TEST_SEED", SmallRng::from_os_rng().random());
    let steps = number("WELDRFS_RIVALS_STEPS", 400);
    let mut arena = Arena::new(seed, 3);
    for step in 0..steps {
        arena.story = format!("WELDRFS_TEST_SEED={seed}, step {step}");
        arena.step();
    }
    arena.finish();
    println!("WELDRFS_TEST_SEED={seed}: {:?}", arena.tally);
    let Tally { synced, opened, .. } = arena.tally;
    assert!(synced > 0 && opened > 3, "{:?}", arena.tally);
}

#[test]
fn a_machine_is_killed_between_any_two_requests_of_a_take_over() {
    let take_over = Claim {
        take_over: true,
        set_aside: false,
    };
    let begun = || {
        let mut arena = Arena::new(7, 2);
        arena.open(0, Claim::default());
        arena.write(0, 5);
        arena.sync(0);
        arena.write(0, 3);
        arena
    };
    let whole = begun();
    let before = whole.rivals[1].line.counts().requests();
    let volume = whole.open_with(1, whole.config(1, take_over)).unwrap();
    let requests = whole.rivals[1].line.counts().requests() - before;
    volume.close().unwrap();
    assert!(requests >= 4, "{requests} requests");
    let mut overruled = 0;
    for last in 0..requests {
        for takes_effect in [false, true] {
            let mut arena = begun();
            arena.story =
                format!("{last} requests were answered, the next takes effect: {takes_effect}");
            let line = &arena.rivals[1].line;
            if takes_effect {
                let lost = Fault::ErrorAfter(FaultKind::Timeout);
                line.add(FaultRule::always(lost).skip(last).times(1));
            }
            let refused = Fault::ErrorBefore(FaultKind::Unavailable);
            let passed = last + u64::from(takes_effect);
            line.add(FaultRule::always(refused).skip(passed));
            match arena.open_with(1, arena.config(1, take_over)) {
                // What it asks for last it may go without.
                Ok(volume) => volume.abandon(),
                Err(error) => assert!(!matches!(error, OpenError::Diverged { .. }), "{error}"),
            }
            // Either the first machine has it as before, and whoever asks has to wait, or it is fenced.
            match arena.head().unwrap().0.epoch {
                1 => {
                    arena.open(1, Claim::default());
                    assert!(arena.rivals[1].volume.is_none(), "{}", arena.story);
                    arena.sync(0);
                }
                _ => {
                    overruled += 1;
                    let history = arena.lines[&1].clone();
                    arena.lines.insert(2, history);
                    arena.sync(0);
                    assert!(arena.rivals[0].is_over, "{}", arena.story);
                    arena.write(0, 1);
                }
            }
            arena.heal(1);
            let wanted = arena.in_store().1;
            let volume = arena.open_with(1, arena.config(1, take_over)).unwrap();
            let differ = differing(&wanted, &files_of(&volume));
            assert!(differ.is_empty(), "{}: {differ:?} differ", arena.story);
            volume.close().unwrap();
            arena.kill(0);
        }
    }
    assert!(overruled > 0, "no take-over took effect");
}
