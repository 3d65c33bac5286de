//! Collecting garbage: nothing goes that a state uses which can be restored, and everything else does, in time.

use super::*;
use crate::SnapshotNames;
use crate::volume::fsck::fsck_at;
use crate::volume::gc::GRACE_MS;
use weldrfs_blockstore::PackId;

mod campaign;

pub(super) const HOUR_MS: u64 = 3_600_000;
const MS_NS: i64 = 1_000_000;
/// Any time; machines and store agree on it here.
const BEGIN_NS: i64 = 1_000_000_000_000_000_000;

const TAKE_OVER: Claim = Claim {
    take_over: true,
    set_aside: true,
};

/// A store with a clock, and machines that live by the same.
pub(super) struct Hours {
    pub(super) machine: Machine,
    pub(super) memory: Arc<MemoryStore>,
    pub(super) store: Arc<FaultStore>,
    pub(super) clock: Arc<ManualClock>,
}

impl Hours {
    pub(super) fn new(seed: u64) -> Self {
        let memory = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::at(BEGIN_NS));
        memory.set_now_ms(clock.now_ms());
        let store = FaultStore::new(Arc::clone(&memory) as Arc<dyn ObjectStore>, seed);
        Self {
            machine: Machine::new(),
            memory,
            store: Arc::new(store),
            clock,
        }
    }

    pub(super) fn source(&self) -> Source {
        Source::Own(Arc::clone(&self.store) as Arc<dyn ObjectStore>)
    }

    pub(super) fn open_with(&self, config: VolumeConfig) -> Result<Arc<Volume>, OpenError> {
        self.open_at(config, &self.clock)
    }

    fn open_at(
        &self,
        config: VolumeConfig,
        clock: &Arc<ManualClock>,
    ) -> Result<Arc<Volume>, OpenError> {
        let config = VolumeConfig {
            source: self.source(),
            claim: TAKE_OVER,
            ..config
        };
        let handle = self.machine.runtime.handle().clone();
        Volume::open_with(config, handle, Arc::clone(clock) as Arc<dyn Clock>)
    }

    pub(super) fn open(&self, state: &str) -> Arc<Volume> {
        self.open_with(self.machine.config(state)).unwrap()
    }

    pub(super) fn pass(&self, ms: u64) {
        self.clock.advance(i64::try_from(ms).unwrap() * MS_NS);
        self.memory.set_now_ms(self.clock.now_ms());
    }

    pub(super) fn packs(&self) -> Vec<String> {
        let keys = self.memory.keys();
        keys.into_iter()
            .filter(|key| key.starts_with("packs/"))
            .collect()
    }

    /// Everything in the store is whole, every restore point included.
    pub(super) fn check(&self, story: &str) {
        let scratch = self.machine.path("");
        let handle = self.machine.runtime.handle();
        let now_ms = self.clock.now_ms();
        let report = fsck_at(&self.source(), true, &scratch, handle, now_ms).unwrap();
        assert_eq!(report.findings, vec![], "{story}");
    }
}

fn fill(volume: &Volume, name: &str, data: &[u8]) {
    let ino = file(volume, name);
    volume.engine().write(ino, 0, data, false).unwrap();
}

fn read(volume: &Volume, name: &str) -> Vec<u8> {
    let ino = volume
        .engine()
        .lookup(ROOT_INO, name.as_bytes())
        .unwrap()
        .ino;
    volume.engine().read(ino, 0, 1 << 24).unwrap().to_vec()
}

/// Removes a file for good: what is in the trash is used.
fn remove(volume: &Volume, name: &str) {
    volume.engine().unlink(ROOT_INO, name.as_bytes()).unwrap();
    volume.empty_trash(0).unwrap();
}

#[test]
fn what_is_dead_goes_when_its_time_is_over_and_not_before() {
    let hours = Hours::new(1);
    let volume = hours.open("a");
    fill(&volume, "dies", &content(1, 300_000));
    volume.sync(LONG).unwrap();
    let dying = hours.packs();
    fill(&volume, "lives", &content(2, 300_000));
    volume.sync(LONG).unwrap();
    assert_eq!(volume.gc(false).unwrap().marked.objects, 0);
    remove(&volume, "dies");

    let planned = volume.gc(true).unwrap();
    assert_eq!((planned.marked.objects, planned.waiting.objects), (1, 0));
    assert_eq!(volume.gc(false).unwrap().marked, planned.marked);
    let mut elapsed = 0;
    while elapsed < GRACE_MS {
        let report = volume.gc(false).unwrap();
        assert_eq!(
            (report.deleted.objects, report.waiting.objects),
            (0, 1),
            "{elapsed} ms"
        );
        assert!(dying.iter().all(|key| hours.packs().contains(key)));
        hours.check("while it waits");
        hours.pass(HOUR_MS / 2);
        elapsed += HOUR_MS / 2;
    }
    assert_eq!(volume.gc(true).unwrap().deleted, planned.marked);
    assert_eq!(volume.gc(false).unwrap().deleted, planned.marked);
    assert!(dying.iter().all(|key| !hours.packs().contains(key)));
    let after = volume.gc(false).unwrap();
    assert_eq!((after.waiting.objects, after.used.objects), (0, 1));
    assert_eq!(read(&volume, "lives"), content(2, 300_000));
    healthy(&volume);
    volume.close().unwrap();
    hours.check("at the end");
}

#[test]
fn a_pack_that_anything_uses_stays_whole() {
    let hours = Hours::new(2);
    let volume = hours.open("a");
    // In one pack.
    for n in 0..10 {
        fill(&volume, &format!("f{n}"), &content(n, 100_000));
    }
    let kept = file(&volume, "share");
    let first = volume.engine().lookup(ROOT_INO, b"f0").unwrap().ino;
    volume.sync(LONG).unwrap();
    assert_eq!(hours.packs().len(), 1);
    volume
        .engine()
        .copy_file_range(first, 0, kept, 0, 100_000, false)
        .unwrap();
    // Open, and without a name.
    let orphan = volume.engine().lookup(ROOT_INO, b"f1").unwrap().ino;
    volume.engine().retain(orphan, 1);
    (0..10).for_each(|n| remove(&volume, &format!("f{n}")));
    for _ in 0..20 {
        hours.pass(HOUR_MS / 2);
        volume.gc(false).unwrap();
        volume.drop_caches();
        let read_orphan = volume.engine().read(orphan, 0, 1 << 20).unwrap();
        assert_eq!(read_orphan, content(1, 100_000));
        assert_eq!(read(&volume, "share"), content(0, 100_000));
    }
    // Little of it was used: the rest went, in a new pack or with the last of its own.
    let left: u64 = volume.gc(false).unwrap().used.bytes;
    assert!(left < 250_000, "{left} bytes are used");
    volume.engine().forget(orphan, 1);
    healthy(&volume);
    volume.close().unwrap();
    hours.check("at the end");
}

#[test]
fn what_is_left_of_a_pack_that_is_mostly_dead_is_written_anew() {
    let hours = Hours::new(3);
    let volume = hours.open("a");
    for n in 0..20 {
        fill(&volume, &format!("f{n}"), &content(n, 100_000));
    }
    volume.sync(LONG).unwrap();
    let old = hours.packs();
    (0..16).for_each(|n| remove(&volume, &format!("f{n}")));
    assert_eq!(
        volume.gc(false).unwrap().rewritten.objects,
        0,
        "it is young"
    );
    hours.pass(2 * HOUR_MS);
    let report = volume.gc(false).unwrap();
    assert_eq!((report.rewritten.objects, report.marked.objects), (1, 1));
    for _ in 0..16 {
        hours.pass(HOUR_MS);
        volume.gc(false).unwrap();
    }
    assert!(old.iter().all(|key| !hours.packs().contains(key)));
    volume.drop_caches();
    (16..20).for_each(|n| assert_eq!(read(&volume, &format!("f{n}")), content(n, 100_000)));
    volume.close().unwrap();
    hours.check("at the end");
    let elsewhere = hours.open("b");
    (16..20).for_each(|n| assert_eq!(read(&elsewhere, &format!("f{n}")), content(n, 100_000)));
    elsewhere.close().unwrap();
}

#[test]
fn uploads_that_nothing_names_go_when_they_are_old() {
    let hours = Hours::new(4);
    let volume = hours.open("a");
    fill(&volume, "f", &content(1, 300_000));
    volume.sync(LONG).unwrap();
    let put = |key: String| {
        let body = Bytes::from_static(b"of an upload that was cut off");
        let put = hours.memory.put(&key, body, PutCondition::IfAbsent);
        hours.machine.runtime.block_on(put).unwrap();
        key
    };
    let ours = [
        put(PackId([7; 16]).object_key()),
        put("meta/00000000000000ff-0123456789abcdef-0000.layer".into()),
        put("meta/00000000000000ff-0123456789abcdef.chain".into()),
        put("time/0123456789abcdef".into()),
    ];
    let others = [put("packs/notes".into()), put("meta/notes".into())];
    hours.pass(GRACE_MS - 1);
    assert_eq!(volume.gc(false).unwrap().unnamed.objects, 0);
    hours.pass(1);
    assert_eq!(volume.gc(true).unwrap().unnamed.objects, 4);
    assert_eq!(volume.gc(false).unwrap().unnamed.objects, 4);
    let keys = hours.memory.keys();
    assert!(ours.iter().all(|key| !keys.contains(key)));
    assert!(others.iter().all(|key| keys.contains(key)));
    assert_eq!(read(&volume, "f"), content(1, 300_000));
    volume.close().unwrap();
    hours.check("at the end");
}

#[test]
fn what_a_fenced_machine_uploaded_and_did_not_publish_is_kept_there() {
    let hours = Hours::new(5);
    let volume = hours.open("a");
    volume.sync(LONG).unwrap();
    let no_head =
        FaultRule::on(Verb::Put, Fault::ErrorBefore(FaultKind::Denied)).prefix("head.json");
    let rule = hours.store.add(no_head);
    fill(&volume, "only here", &content(1, 300_000));
    assert!(volume.sync(Duration::from_secs(5)).is_err());
    assert_eq!(hours.packs().len(), 1, "it is uploaded");
    assert_eq!(volume.drop_caches(), 0, "and kept");
    volume.abandon();
    hours.store.remove(rule);

    let other = hours.open("b");
    hours.pass(GRACE_MS);
    assert_eq!(
        other.gc(false).unwrap().unnamed.objects,
        2,
        "a pack and a layer"
    );
    assert_eq!(hours.packs(), Vec::<String>::new());
    other.close().unwrap();
    let volume = hours.open("a");
    assert!(volume.engine().lookup(ROOT_INO, b"only here").is_err());
    let copies = crate::volume::layout::divergent_copies(volume.state_dir()).unwrap();
    let copy = hours
        .open_with(VolumeConfig {
            divergent: Some(copies[0].clone()),
            ..hours.machine.config("a")
        })
        .unwrap();
    copy.drop_caches();
    assert_eq!(read(&copy, "only here"), content(1, 300_000));
    copy.close().unwrap();
    volume.close().unwrap();
}

#[test]
fn who_slept_while_another_took_over_deletes_nothing_of_it() {
    let hours = Hours::new(8);
    // By the clock of this machine no time passes: it sleeps, or is a copy that was made of it earlier.
    let asleep = Arc::new(ManualClock::at(BEGIN_NS));
    let sleeper = hours.open_at(hours.machine.config("a"), &asleep).unwrap();
    fill(&sleeper, "old", &content(1, 100_000));
    sleeper.sync(LONG).unwrap();
    let other = hours.open("b");
    fill(&other, "new", &content(2, 100_000));
    other.close().unwrap();
    hours.pass(GRACE_MS);
    let error = sleeper.gc(false).unwrap_err();
    assert!(matches!(error, FsError::Foreign), "{error}");
    hours.check("after a round of the sleeper");
    let other = hours.open("b");
    other.drop_caches();
    assert_eq!(read(&other, "new"), content(2, 100_000));
    other.close().unwrap();
    sleeper.abandon();
}

#[test]
fn nothing_is_deleted_where_conditions_are_ignored() {
    let hours = Hours::new(6);
    hours.store.add(FaultRule::always(Fault::IgnoreCondition));
    let config = VolumeConfig {
        trust_store: true,
        ..hours.machine.config("a")
    };
    let volume = hours.open_with(config).unwrap();
    let error = volume.gc(false).unwrap_err();
    assert!(error.to_string().contains("conditions"), "{error}");
    volume.close().unwrap();
}

/// A volume with dead packs whose time is over, sparse ones, in which a snapshot has a part, and objects that nothing names.
fn ripe() -> (Hours, Arc<Volume>) {
    let hours = Hours::new(7);
    let volume = hours.open("a");
    for pack in 0..3 {
        for n in 0..10 {
            fill(&volume, &format!("f{pack}-{n}"), &content(n, 50_000));
        }
        volume.sync(LONG).unwrap();
    }
    let body = Bytes::from_static(b"left");
    let key = PackId([7; 16]).object_key();
    let put = hours.memory.put(&key, body, PutCondition::IfAbsent);
    hours.machine.runtime.block_on(put).unwrap();
    (0..10).for_each(|n| remove(&volume, &format!("f0-{n}")));
    volume.gc(false).unwrap();
    hours.pass(GRACE_MS);
    (0..8).for_each(|n| remove(&volume, &format!("f1-{n}")));
    let names = SnapshotNames {
        name: Some("s".into()),
        ..SnapshotNames::default()
    };
    volume.engine().create_snapshot(names).unwrap();
    remove(&volume, "f1-8");
    (hours, volume)
}

#[test]
fn gc_is_killed_between_any_two_requests_and_goes_on() {
    let (hours, volume) = ripe();
    let before = hours.store.counts().requests();
    let whole = volume.gc(false).unwrap();
    let requests = hours.store.counts().requests() - before;
    assert!(
        [whole.deleted, whole.marked, whole.rewritten, whole.unnamed]
            .iter()
            .all(|amount| amount.objects > 0),
        "{whole:?}"
    );
    volume.close().unwrap();
    for last in 0..requests {
        for (takes_effect, same_machine) in [(false, true), (true, true), (true, false)] {
            let story = format!(
                "{last} requests were answered, the next takes effect: {takes_effect}, the machine comes back: {same_machine}"
            );
            let (hours, volume) = ripe();
            let lost = FaultRule::always(Fault::ErrorAfter(FaultKind::Denied));
            let refused = FaultRule::always(Fault::ErrorBefore(FaultKind::Denied));
            if takes_effect {
                hours.store.add(lost.skip(last).times(1));
            }
            hours
                .store
                .add(refused.skip(last + u64::from(takes_effect)));
            assert!(volume.gc(false).is_err() || last + 1 == requests, "{story}");
            volume.abandon();
            hours.store.heal();
            hours.check(&story);
            let volume = hours.open(if same_machine { "a" } else { "b" });
            healthy(&volume);
            for _ in 0..20 {
                volume.gc(false).unwrap();
                hours.pass(HOUR_MS);
            }
            volume.drop_caches();
            for n in 0..10 {
                assert_eq!(
                    read(&volume, &format!("f2-{n}")),
                    content(n, 50_000),
                    "{story}"
                );
            }
            assert_eq!(read(&volume, "f1-9"), content(9, 50_000), "{story}");
            if let Ok(kept) = volume.engine().walk(b".snapshots/s/f1-8") {
                let data = volume.engine().read(kept.ino, 0, 1 << 20).unwrap();
                assert_eq!(data, content(8, 50_000), "{story}");
            } else {
                // It was made last, and the machine was lost before a head could say so.
                assert!(!same_machine, "{story}");
                assert_eq!(read(&volume, "f1-8"), content(8, 50_000), "{story}");
            }
            let report = volume.gc(false).unwrap();
            assert_eq!(report.waiting.objects, 0, "{story}");
            assert_eq!(hours.packs().len() as u64, report.used.objects, "{story}");
            volume.close().unwrap();
            hours.check(&story);
        }
    }
}
