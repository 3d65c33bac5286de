//! Who may write: leases that are held, given back, taken over and run out; states that were left behind.

use super::*;
use weldrfs_meta::ROOT_INO;

const MINUTE_NS: i64 = 60_000_000_000;
const NOW_NS: i64 = 1_000_000_000_000_000_000;

/// A store in memory and its clock, and machines with clocks of their own.
struct Bench {
    machine: Machine,
    memory: Arc<MemoryStore>,
    store: Arc<FaultStore>,
}

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FaultStore::new(
            Arc::clone(&memory) as Arc<dyn ObjectStore>,
            1,
        ));
        Self {
            machine: Machine::new(),
            memory,
            store,
        }
    }

    fn open(&self, state: &str, claim: Claim) -> Result<Arc<Volume>, OpenError> {
        self.open_at(state, claim, &Arc::new(ManualClock::at(NOW_NS)))
    }

    fn open_at(
        &self,
        state: &str,
        claim: Claim,
        clock: &Arc<ManualClock>,
    ) -> Result<Arc<Volume>, OpenError> {
        let config = VolumeConfig {
            source: Source::Own(Arc::clone(&self.store) as Arc<dyn ObjectStore>),
            claim,
            ..self.machine.config(state)
        };
        let handle = self.machine.runtime.handle().clone();
        Volume::open_with(config, handle, Arc::clone(clock) as Arc<dyn Clock>)
    }

    fn head(&self) -> Head {
        newest_head(&self.machine, &self.store)
    }
}

const ASK: Claim = Claim {
    take_over: false,
    set_aside: false,
};
const TAKE_OVER: Claim = Claim {
    take_over: true,
    set_aside: false,
};
const SET_ASIDE: Claim = Claim {
    take_over: false,
    set_aside: true,
};

fn has(volume: &Volume, name: &str) -> bool {
    volume.engine().lookup(ROOT_INO, name.as_bytes()).is_ok()
}

fn make(volume: &Volume, name: &str) -> Result<(), i32> {
    let made = volume
        .engine()
        .mknod(ROOT_INO, name.as_bytes(), crate::Kind::File, 0o644, 0, &ME);
    made.map(drop).map_err(|error| error.errno())
}

/// The thread that looks after the lease does it every few seconds by the real clock; a test does not wait for it.
fn look_after(volume: &Volume) {
    let acknowledged = volume.engine.ns.acknowledged().0;
    volume.keeper().unwrap().look_after(acknowledged);
}

#[test]
fn a_volume_that_is_held_is_refused_until_it_is_given_back() {
    let bench = Bench::new();
    let volume = bench.open("a", ASK).unwrap();
    file(&volume, "f");
    let error = bench.open("b", ASK).unwrap_err();
    assert!(matches!(&error, OpenError::Held { .. }), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("take_over") && said.contains(&std::process::id().to_string()),
        "{said}"
    );
    volume.close().unwrap();
    let other = bench.open("b", ASK).unwrap();
    assert!(has(&other, "f"));
    assert_eq!((volume.status().epoch, other.status().epoch), (1, 2));
    other.close().unwrap();
}

#[test]
fn a_lease_is_kept_for_what_is_not_in_the_store() {
    let bench = Bench::new();
    let volume = bench.open("a", ASK).unwrap();
    file(&volume, "kept");
    let refused = FaultRule::on(Verb::Put, Fault::ErrorBefore(FaultKind::Denied)).prefix("meta/");
    let rule = bench.store.add(refused);
    volume.close().unwrap();
    bench.store.remove(rule);
    let error = bench.open("b", ASK).unwrap_err();
    assert!(matches!(&error, OpenError::Held { .. }), "{error}");
    let volume = bench.open("a", ASK).unwrap();
    assert!(has(&volume, "kept"));
    volume.close().unwrap();
    bench.open("b", ASK).unwrap().close().unwrap();
}

#[test]
fn what_is_written_up_to_the_close_is_in_the_store_and_keeps_no_lease() {
    for round in 0..8 {
        let bench = Bench::new();
        let volume = bench.open("a", ASK).unwrap();
        // The close falls into the middle of it: a sync takes this long at least.
        let slow = FaultRule::on(Verb::Put, Fault::Delay(Duration::from_millis(20)));
        bench.store.add(slow);
        let made = std::thread::scope(|scope| {
            let volume = &*volume;
            let writer = scope.spawn(move || {
                (0..)
                    .take_while(|i| make(volume, &format!("f{i}")).is_ok())
                    .count()
            });
            std::thread::sleep(Duration::from_millis(round * 5));
            volume.close().unwrap();
            writer.join().unwrap()
        });
        let other = bench.open("b", ASK).unwrap();
        assert!((0..made).all(|i| has(&other, &format!("f{i}"))));
        other.close().unwrap();
    }
}

#[test]
fn a_state_takes_its_own_lease_back_at_once() {
    let bench = Bench::new();
    for round in 0..3 {
        let volume = bench.open("a", ASK).unwrap();
        file(&volume, &format!("f{round}"));
        volume.abandon();
    }
    let volume = bench.open("a", ASK).unwrap();
    assert!((0..3).all(|round| has(&volume, &format!("f{round}"))));
    assert_eq!(bench.head().epoch, 4);
    volume.close().unwrap();
}

#[test]
fn a_lease_ends_by_the_stores_clock_and_by_no_machines() {
    let bench = Bench::new();
    bench.memory.set_now_ms(1_000_000_000);
    let volume = bench.open("a", ASK).unwrap();
    volume.abandon();
    // The challenger's clock is a year ahead.
    let ahead = Arc::new(ManualClock::at(NOW_NS + 525_600 * MINUTE_NS));
    assert!(bench.open_at("b", ASK, &ahead).is_err());
    bench.memory.set_now_ms(1_000_000_000 + 15 * 60_000);
    assert!(bench.open("b", ASK).is_err());
    bench.memory.set_now_ms(1_000_000_000 + 15 * 60_000 + 5_000);
    bench.open("b", ASK).unwrap().close().unwrap();
}

#[test]
fn a_manual_lease_does_not_end() {
    let bench = Bench::new();
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&bench.store) as Arc<dyn ObjectStore>),
        claim: ASK,
        lease: LeaseTerm::Manual,
        ..bench.machine.config("a")
    };
    let clock = Arc::new(ManualClock::at(NOW_NS));
    let handle = bench.machine.runtime.handle().clone();
    let volume = Volume::open_with(config, handle, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    bench.store.set_outage(Outage::Refused);
    clock.advance(1_000 * MINUTE_NS);
    assert_eq!(make(&volume, "f"), Ok(()));
    bench.store.set_outage(Outage::None);
    bench.memory.set_now_ms(1_000_000_000_000);
    let error = bench.open("b", ASK).unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
    volume.close().unwrap();
}

#[test]
fn whoever_is_overruled_writes_nothing_more_and_keeps_what_it_has() {
    let bench = Bench::new();
    let old = bench.open("a", ASK).unwrap();
    file(&old, "shipped");
    old.sync(LONG).unwrap();
    let ino = file(&old, "kept");
    let text = content(1, 20_000);
    old.engine().write(ino, 0, &text, false).unwrap();

    let new = bench.open("b", TAKE_OVER).unwrap();
    assert!(has(&new, "shipped") && !has(&new, "kept"));
    file(&new, "later");
    new.sync(LONG).unwrap();

    let error = old.sync(LONG).unwrap_err();
    assert!(matches!(error, FsError::Foreign), "{error}");
    assert_eq!(make(&old, "no"), Err(libc::EROFS));
    assert!(old.status().read_only.unwrap().contains("another machine"));
    old.close().unwrap();
    new.close().unwrap();

    // The mount says what there is to choose, and changes nothing.
    let error = bench.open("a", TAKE_OVER).unwrap_err();
    assert!(error.to_string().contains("diverged=keep"), "{error}");
    let volume = bench.open("a", SET_ASIDE).unwrap();
    assert!(has(&volume, "later") && !has(&volume, "kept"));
    healthy(&volume);
    let copies = divergent_copies(&volume);
    assert_eq!(copies.len(), 1);
    volume.close().unwrap();

    let copy = VolumeConfig {
        source: Source::Own(Arc::clone(&bench.store) as Arc<dyn ObjectStore>),
        read_only: true,
        divergent: Some(copies[0].clone()),
        ..bench.machine.config("a")
    };
    let copy = Volume::open(copy, bench.machine.runtime.handle().clone()).unwrap();
    let kept = copy.engine().lookup(ROOT_INO, b"kept").unwrap();
    assert_eq!(&copy.engine().read(kept.ino, 0, 1 << 20).unwrap()[..], text);
    assert!(has(&copy, "shipped") && !has(&copy, "later"));
    healthy(&copy);
    copy.close().unwrap();
}

pub(super) fn divergent_copies(volume: &Volume) -> Vec<String> {
    let names = std::fs::read_dir(volume.state_dir()).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("divergent-"))
        .collect()
}

#[test]
fn who_has_only_looked_at_a_volume_has_no_right_to_it() {
    let bench = Bench::new();
    let volume = bench.open("a", ASK).unwrap();
    file(&volume, "f");
    volume.sync(LONG).unwrap();
    // The head that it then knows is the newest, and another machine's.
    let looking = VolumeConfig {
        source: Source::Own(Arc::clone(&bench.store) as Arc<dyn ObjectStore>),
        read_only: true,
        ..bench.machine.config("b")
    };
    let handle = bench.machine.runtime.handle().clone();
    Volume::open(looking, handle).unwrap().close().unwrap();
    let error = bench.open("b", ASK).unwrap_err();
    assert!(matches!(&error, OpenError::Held { .. }), "{error}");
    assert_eq!(make(&volume, "g"), Ok(()));
    volume.close().unwrap();
    let volume = bench.open("b", ASK).unwrap();
    assert!(has(&volume, "f") && has(&volume, "g"));
    volume.close().unwrap();
}

#[test]
fn two_copies_of_one_second_are_two() {
    let bench = Bench::new();
    for round in 0..3 {
        let volume = bench.open("a", SET_ASIDE).unwrap();
        assert_eq!(divergent_copies(&volume).len(), round);
        file(&volume, &format!("only{round}"));
        volume.abandon();
        bench.open("b", TAKE_OVER).unwrap().close().unwrap();
    }
}

#[test]
fn setting_aside_goes_on_where_it_was_cut_off() {
    let bench = Bench::new();
    let old = bench.open("a", ASK).unwrap();
    let ino = file(&old, "kept");
    old.engine()
        .write(ino, 0, &content(1, 9000), false)
        .unwrap();
    let state = old.state_dir().to_owned();
    old.abandon();
    drop(old);
    bench.open("b", TAKE_OVER).unwrap().close().unwrap();
    let copy = state.join("divergent-2026-01-01T000000Z");
    std::fs::create_dir(&copy).unwrap();
    std::fs::rename(state.join("segments"), copy.join("segments")).unwrap();

    let volume = bench.open("a", ASK).unwrap();
    assert!(!has(&volume, "kept"));
    volume.close().unwrap();
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&bench.store) as Arc<dyn ObjectStore>),
        read_only: true,
        divergent: Some("divergent-2026-01-01T000000Z".into()),
        ..bench.machine.config("a")
    };
    let copy = Volume::open(config, bench.machine.runtime.handle().clone()).unwrap();
    let kept = copy.engine().lookup(ROOT_INO, b"kept").unwrap();
    assert_eq!(
        &copy.engine().read(kept.ino, 0, 1 << 20).unwrap()[..],
        content(1, 9000)
    );
    copy.close().unwrap();
}

#[test]
fn without_the_store_writing_ends_with_the_lease_and_goes_on_with_the_store() {
    let bench = Bench::new();
    let clock = Arc::new(ManualClock::at(NOW_NS));
    let volume = bench.open_at("a", ASK, &clock).unwrap();
    file(&volume, "before");
    bench.store.set_outage(Outage::Refused);
    clock.advance(14 * MINUTE_NS);
    look_after(&volume);
    assert_eq!(make(&volume, "within"), Ok(()));
    clock.advance(2 * MINUTE_NS);
    look_after(&volume);
    assert_eq!(make(&volume, "after"), Err(libc::EROFS));
    assert!(volume.status().read_only.unwrap().contains("lease"));
    assert!(has(&volume, "within"), "reading goes on");

    bench.store.set_outage(Outage::None);
    look_after(&volume);
    assert_eq!(make(&volume, "healed"), Ok(()));
    assert_eq!(volume.status().read_only, None);
    volume.sync(LONG).unwrap();
    volume.close().unwrap();
}

#[test]
fn a_machine_that_slept_past_its_lease_asks_before_it_acknowledges_anything() {
    let bench = Bench::new();
    let clock = Arc::new(ManualClock::at(NOW_NS));
    let volume = bench.open_at("a", ASK, &clock).unwrap();
    clock.advance(16 * MINUTE_NS);
    // Nobody came: it is renewed by the mutation itself.
    let before = bench.head().nonce;
    assert_eq!(make(&volume, "f"), Ok(()));
    assert_ne!(bench.head().nonce, before);
    clock.advance(16 * MINUTE_NS);
    let other = bench.open("b", TAKE_OVER).unwrap();
    let acknowledged = volume.status().acknowledged_lsn;
    assert_eq!(make(&volume, "g"), Err(libc::EROFS));
    assert_eq!(volume.status().acknowledged_lsn, acknowledged);
    volume.close().unwrap();
    other.close().unwrap();
}

#[test]
fn a_lease_is_renewed_as_often_as_it_must_be() {
    let bench = Bench::new();
    let clock = Arc::new(ManualClock::at(NOW_NS));
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&bench.store) as Arc<dyn ObjectStore>),
        claim: ASK,
        // Nothing is published meanwhile.
        upload_delay: Duration::from_secs(3_600),
        ..bench.machine.config("a")
    };
    let handle = bench.machine.runtime.handle().clone();
    let volume = Volume::open_with(config, handle, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    volume.sync(LONG).unwrap();
    look_after(&volume);
    let puts_in = |minutes: i64, write: bool| {
        let before = bench.store.counts().put.requests;
        for minute in 0..minutes {
            clock.advance(MINUTE_NS);
            if write {
                assert_eq!(make(&volume, &format!("f{minute}")), Ok(()));
            }
            look_after(&volume);
        }
        bench.store.counts().put.requests - before
    };
    // The first of them is for what was written before.
    assert!((12..=13).contains(&puts_in(60, false)));
    assert_eq!(puts_in(10, true), 10);
    assert_eq!(bench.head().layers.len(), 1, "a renewal publishes nothing");
    volume.close().unwrap();
}

#[test]
fn a_publication_goes_on_over_renewals() {
    let bench = Bench::new();
    let clock = Arc::new(ManualClock::at(NOW_NS));
    let volume = bench.open_at("a", ASK, &clock).unwrap();
    for i in 0..3_000 {
        file(&volume, &format!("many{i}"));
    }
    for round in 0..5 {
        file(&volume, &format!("f{round}"));
        volume.sync(LONG).unwrap();
        clock.advance(2 * MINUTE_NS);
        file(&volume, &format!("g{round}"));
        look_after(&volume);
    }
    assert!(bench.head().layers.len() > 1, "deltas go on over renewals");
    volume.sync(LONG).unwrap();
    volume.abandon();
    let other = bench.open("b", TAKE_OVER).unwrap();
    assert!((0..5).all(|round| has(&other, &format!("g{round}"))));
    healthy(&other);
    other.close().unwrap();
}

#[test]
fn a_state_that_has_nothing_of_its_own_follows_the_store() {
    let bench = Bench::new();
    for (state, name) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("c", "5")] {
        let volume = bench.open(state, ASK).unwrap();
        let ino = file(&volume, name);
        volume
            .engine()
            .write(ino, 0, &content(1, 5000), false)
            .unwrap();
        volume.close().unwrap();
    }
    let volume = bench.open("a", ASK).unwrap();
    for name in ["1", "2", "3", "4", "5"] {
        let attr = volume.engine().lookup(ROOT_INO, name.as_bytes()).unwrap();
        assert_eq!(
            &volume.engine().read(attr.ino, 0, 1 << 20).unwrap()[..],
            content(1, 5000)
        );
    }
    assert_eq!(divergent_copies(&volume), Vec::<String>::new());
    healthy(&volume);
    volume.close().unwrap();
}
