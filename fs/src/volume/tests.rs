//! Volumes without a mount: publishing, restoring, packing, rewriting, recovery.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::engine::Caller;
use bytes::Bytes;
use weldrfs_blockstore::{
    Fault, FaultKind, FaultRule, FaultStore, ListPage, MemoryStore, Object, ObjectInfo,
    ObjectStore, Outage, PutCondition, StoreError, Verb, Version,
};
use weldrfs_meta::ROOT_INO;

use super::head::{HEAD_KEY, Head};
use super::layout::MARKER_KEY;
use crate::clock::{Clock, ManualClock};

mod automatic;
mod branches;
mod fsck;
mod gc;
mod history;
mod kept;
mod lease;
mod loss;
mod past;
mod points;
mod rivals;
mod snapshots;
mod trash;

struct Machine {
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            runtime,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, state: &str) -> VolumeConfig {
        VolumeConfig {
            source: Source::Directory(self.path("store")),
            state_base: self.path(state),
            cache_dir: None,
            cache_bytes: 1 << 30,
            frame_cache_bytes: 1 << 20,
            free_floor_ratio: 0.0,
            staging_limit_bytes: Some(256 << 20),
            checkpoint_interval: Duration::from_millis(50),
            read_deadline: Duration::from_secs(10),
            read_only: false,
            max_uploads: 5,
            upload_delay: Duration::ZERO,
            trust_store: false,
            store_wait: StoreWait::Never,
            lease: LeaseTerm::Auto,
            // Most of these tests lose a machine, or two.
            claim: Claim {
                take_over: true,
                set_aside: false,
            },
            trash: Duration::from_secs(7 * 86_400),
            divergent: None,
            at_ms: None,
        }
    }

    /// A volume in a store of its own.
    fn open_in(&self, store: &Arc<FaultStore>, state: &str) -> Result<Arc<Volume>, OpenError> {
        let config = VolumeConfig {
            source: Source::Own(Arc::clone(store) as Arc<dyn ObjectStore>),
            ..self.config(state)
        };
        Volume::open(config, self.runtime.handle().clone())
    }

    fn open(&self, state: &str) -> Arc<Volume> {
        Volume::open(self.config(state), self.runtime.handle().clone()).unwrap()
    }
}

const ME: Caller = Caller { uid: 0, gid: 0 };
const LONG: Duration = Duration::from_secs(60);

fn file(volume: &Volume, name: &str) -> weldrfs_meta::Ino {
    volume
        .engine()
        .mknod(ROOT_INO, name.as_bytes(), crate::Kind::File, 0o644, 0, &ME)
        .unwrap()
        .ino
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn healthy(volume: &Volume) {
    assert_eq!(volume.check().unwrap().findings, vec![]);
}

#[test]
fn everything_comes_back_from_the_store_alone() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let names: Vec<String> = (0..300).map(|i| format!("f{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        let ino = file(&volume, name);
        volume
            .engine()
            .write(ino, 0, &content(i as u64, 10 + i * 37), false)
            .unwrap();
    }
    let big = file(&volume, "big");
    volume
        .engine()
        .write(big, 5_000_000, &content(9, 9_000_000), false)
        .unwrap();
    let report = volume.sync(LONG).unwrap();
    assert_eq!(report.in_store_lsn, volume.status().acknowledged_lsn);
    assert_eq!(volume.status().staged_bytes, 0);
    volume.close().unwrap();

    let other = machine.open("elsewhere");
    for (i, name) in names.iter().enumerate() {
        let attr = other.engine().lookup(ROOT_INO, name.as_bytes()).unwrap();
        let read = other.engine().read(attr.ino, 0, 1 << 20).unwrap();
        assert_eq!(&read[..], content(i as u64, 10 + i * 37), "{name}");
    }
    let attr = other.engine().lookup(ROOT_INO, b"big").unwrap();
    assert_eq!(attr.size, 14_000_000);
    assert_eq!(
        &other.engine().read(attr.ino, 5_000_000, 9_000_000).unwrap()[..],
        content(9, 9_000_000)
    );
    assert!(
        other
            .engine()
            .read(attr.ino, 0, 5_000_000)
            .unwrap()
            .iter()
            .all(|b| *b == 0)
    );
    healthy(&other);
    other.close().unwrap();
}

#[test]
fn a_sync_under_constant_writing_still_ends_and_holds_what_was_there() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|w| {
            let (volume, stop) = (Arc::clone(&volume), Arc::clone(&stop));
            let ino = file(&volume, &format!("log{w}"));
            std::thread::spawn(move || {
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    volume
                        .engine()
                        .write(ino, at, &content(at, 700), false)
                        .unwrap();
                    at += 700;
                }
            })
        })
        .collect();
    let kept = file(&volume, "kept");
    for round in 0..5_u64 {
        volume
            .engine()
            .write(kept, 0, &content(round, 5000), false)
            .unwrap();
        let upto = volume.status().acknowledged_lsn;
        assert!(volume.sync(LONG).unwrap().in_store_lsn >= upto);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    // What the store holds stands alone, whatever became of this machine.
    volume.abandon();
    let other = machine.open("elsewhere");
    let attr = other.engine().lookup(ROOT_INO, b"kept").unwrap();
    assert_eq!(
        &other.engine().read(attr.ino, 0, 5000).unwrap()[..],
        content(4, 5000)
    );
    for w in 0..2 {
        let attr = other
            .engine()
            .lookup(ROOT_INO, format!("log{w}").as_bytes())
            .unwrap();
        for at in (0..attr.size).step_by(700) {
            assert_eq!(
                &other.engine().read(attr.ino, at, 700).unwrap()[..],
                content(at, 700),
                "log{w} at {at}"
            );
        }
    }
    healthy(&other);
    other.close().unwrap();
}

#[test]
fn a_file_of_very_many_runs_is_brought_together() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let ino = file(&volume, "db");
    let mut expected = content(1, 16 << 20);
    volume.engine().write(ino, 0, &expected, false).unwrap();
    for i in 0..3000_u64 {
        let at = (i.wrapping_mul(2_654_435_761) % 4096) * 4096;
        let page = content(i, 4096);
        expected[at as usize..at as usize + 4096].copy_from_slice(&page);
        volume.engine().write(ino, at, &page, false).unwrap();
    }
    let before = volume.engine.ns.map(ino, 0, 1 << 30).unwrap().1.len();
    assert!(before > 2000, "{before} runs");
    let stamps = volume.engine().getattr(ino).unwrap();
    rewrite::round(&volume.engine);
    let after = volume.engine.ns.map(ino, 0, 1 << 30).unwrap().1.len();
    assert!(after < 100, "{after} runs");
    assert_eq!(volume.engine().getattr(ino).unwrap(), stamps);
    assert!(volume.engine().read(ino, 0, 16 << 20).unwrap() == expected);
    volume.abandon();
    let volume = machine.open("here");
    assert!(volume.engine().read(ino, 0, 16 << 20).unwrap() == expected);
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn what_died_before_it_was_packed_is_not_uploaded() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let ino = file(&volume, "dead");
    volume
        .engine()
        .write(ino, 0, &content(1, 20 << 20), false)
        .unwrap();
    volume.engine().unlink(ROOT_INO, b"dead").unwrap();
    volume.sync(LONG).unwrap();
    assert!(
        volume.status().store.put.bytes < 1 << 20,
        "{:?}",
        volume.status().store
    );
    assert_eq!(volume.status().staged_bytes, 0);
    volume.close().unwrap();
}

#[test]
fn a_place_that_holds_something_else_is_left_alone() {
    let machine = Machine::new();
    std::fs::create_dir(machine.path("store")).unwrap();
    std::fs::write(machine.path("store/precious"), "x").unwrap();
    let error = Volume::open(machine.config("here"), machine.runtime.handle().clone()).unwrap_err();
    assert!(matches!(&error, OpenError::NotAVolume { .. }), "{error}");
    assert!(error.to_string().contains("precious"), "{error}");
    assert!(!machine.path("here").exists());
    let inside: Vec<_> = std::fs::read_dir(machine.path("store")).unwrap().collect();
    assert_eq!(inside.len(), 1);
}

#[test]
fn attributes_of_known_classes_are_kept_and_trusted_ones_shown_to_the_privileged() {
    let machine = Machine::new();
    let volume = machine.open("state");
    let (engine, ino) = (volume.engine(), file(&volume, "f"));
    let set = |name: &[u8]| engine.setxattr(ino, name, b"v", weldrfs_meta::XattrMode::Any);
    for name in [&b"user.a"[..], b"trusted.b", b"security.c"] {
        set(name).unwrap();
    }
    for (name, errno) in [
        (&b"user."[..], libc::EINVAL),
        (b"user", libc::EOPNOTSUPP),
        (b"other.d", libc::EOPNOTSUPP),
        (b"system.posix_acl_access", libc::EOPNOTSUPP),
    ] {
        assert_eq!(set(name).unwrap_err().errno(), errno);
        assert_eq!(engine.getxattr(ino, name).unwrap_err().errno(), errno);
        assert_eq!(engine.removexattr(ino, name).unwrap_err().errno(), errno);
    }
    let listed = |privileged| {
        let mut names = engine.listxattr(ino, privileged).unwrap();
        names.sort();
        names
    };
    assert_eq!(listed(true), [&b"security.c"[..], b"trusted.b", b"user.a"]);
    assert_eq!(listed(false), [&b"security.c"[..], b"user.a"]);
    volume.close().unwrap();
}

#[test]
fn a_damaged_copy_in_the_store_is_refused() {
    let machine = Machine::new();
    let volume = machine.open("here");
    file(&volume, "f");
    volume.close().unwrap();
    let copy = find(&machine.path("store/meta"));
    let mut bytes = std::fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    let error = Volume::open(
        machine.config("elsewhere"),
        machine.runtime.handle().clone(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("wrong checksum"), "{error}");
}

fn find(dir: &Path) -> std::path::PathBuf {
    let mut inside = std::fs::read_dir(dir).unwrap();
    inside.next().unwrap().unwrap().path()
}

#[test]
fn a_read_only_volume_takes_no_changes_but_a_flush() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let ino = file(&volume, "f");
    volume.close().unwrap();
    let config = VolumeConfig {
        read_only: true,
        ..machine.config("here")
    };
    let volume = Volume::open(config, machine.runtime.handle().clone()).unwrap();
    let error = volume.engine().write(ino, 0, b"x", false).unwrap_err();
    assert_eq!(error.errno(), libc::EROFS);
    volume.engine().fsync(ino, false).unwrap();
    volume.close().unwrap();
}

#[test]
fn a_read_only_mount_of_nothing_makes_nothing() {
    let machine = Machine::new();
    let config = VolumeConfig {
        read_only: true,
        ..machine.config("here")
    };
    let error = Volume::open(config.clone(), machine.runtime.handle().clone()).unwrap_err();
    assert!(matches!(&error, OpenError::NoVolume(_)), "{error}");
    // A volume that was made and never published has nothing to show to another state folder.
    let volume = machine.open("elsewhere");
    volume.abandon();
    drop(volume);
    let error = Volume::open(config, machine.runtime.handle().clone()).unwrap_err();
    assert!(matches!(&error, OpenError::NoVolume(_)), "{error}");
}

#[test]
fn files_that_come_and_go_during_a_sync_do_not_spoil_what_is_published() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (volume, stop) = (Arc::clone(&volume), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                let name = format!("t{}", turn % 3);
                let ino = file(&volume, &name);
                volume
                    .engine()
                    .write(ino, 0, &content(turn, 9000), false)
                    .unwrap();
                volume.engine().unlink(ROOT_INO, name.as_bytes()).unwrap();
                turn += 1;
            }
        })
    };
    for _ in 0..4 {
        volume.sync(LONG).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
    volume.abandon();
    let other = machine.open("elsewhere");
    healthy(&other);
    other.close().unwrap();
}

#[test]
fn segments_are_recycled_over_many_mounts() {
    let machine = Machine::new();
    for round in 0..4_u64 {
        let volume = machine.open("here");
        let ino = file(&volume, &format!("f{round}"));
        for part in 0..5 {
            let data = content(round * 10 + part, 1 << 20);
            for i in 0..40 {
                volume
                    .engine()
                    .write(ino, (part * 40 + i) << 20, &data, false)
                    .unwrap();
            }
        }
        volume.sync(LONG).unwrap();
        let read = volume.engine().read(ino, 41 << 20, 1 << 20).unwrap();
        assert!(read[..] == content(round * 10 + 1, 1 << 20));
        volume.close().unwrap();
    }
}

#[test]
fn a_store_that_takes_nothing_leaves_nothing_behind_locally_and_heals() {
    let machine = Machine::new();
    let config = VolumeConfig {
        staging_limit_bytes: Some(80 << 20),
        ..machine.config("here")
    };
    let volume = Volume::open(config, machine.runtime.handle().clone()).unwrap();
    // Where packs should go there is a file.
    std::fs::write(machine.path("store/packs"), "x").unwrap();
    let ino = file(&volume, "f");
    let data = content(1, 1 << 20);
    let mut full = None;
    for i in 0..100_u64 {
        if let Err(error) = volume.engine().write(ino, i << 20, &data, false) {
            assert_eq!(error.errno(), libc::ENOSPC, "{error}");
            full = Some(i);
            break;
        }
    }
    let full = full.expect("staging is bounded");
    assert!(full > 50, "full after {full} MiB");
    assert!(volume.sync(Duration::from_secs(5)).is_err());
    let packs = volume.engine.packs.stats();
    assert_eq!((packs.local_bytes, packs.not_uploaded_bytes), (0, 0));
    // What is there can be read, and removing it makes room without the store.
    assert!(volume.engine().read(ino, 0, 1 << 20).unwrap()[..] == data[..]);
    std::fs::remove_file(machine.path("store/packs")).unwrap();
    volume.sync(LONG).unwrap();
    assert_eq!(volume.status().staged_bytes, 0);
    volume.engine().write(ino, 0, &data, false).unwrap();
    assert!(
        volume
            .engine()
            .read(ino, (full - 1) << 20, 1 << 20)
            .unwrap()[..]
            == data[..]
    );
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn who_reads_in_order_finds_the_next_pack_on_its_way() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let ino = file(&volume, "f");
    for i in 0..64_u64 {
        volume
            .engine()
            .write(ino, i << 20, &content(i, 1 << 20), false)
            .unwrap();
    }
    volume.sync(LONG).unwrap();
    volume.drop_caches();
    let gets = || volume.status().store.get.requests;
    let (before, part) = (gets(), 128 << 10);
    // The first 16 MiB are one pack; in order, the second one is asked for before anybody reads it.
    for i in 0..100_u64 {
        volume.engine().read(ino, i * part, part as usize).unwrap();
    }
    let deadline = Instant::now() + LONG;
    while gets() < before + 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(gets() >= before + 2, "{} packs fetched", gets() - before);
    volume.close().unwrap();
}

#[test]
fn publications_that_fail_do_not_make_a_volume_foreign_to_itself() {
    let machine = Machine::new();
    let volume = machine.open("here");
    file(&volume, "f");
    volume.sync(LONG).unwrap();
    // Where copies of the metadata should go there is a file: heads can be read, and nothing can be published.
    let (meta, away) = (machine.path("store/meta"), machine.path("away"));
    std::fs::rename(&meta, &away).unwrap();
    std::fs::write(&meta, "x").unwrap();
    for n in 0..3 {
        file(&volume, &format!("g{n}"));
        assert!(volume.sync(Duration::from_secs(2)).is_err());
    }
    volume.abandon();
    drop(volume);
    std::fs::remove_file(&meta).unwrap();
    std::fs::rename(&away, &meta).unwrap();
    let volume = machine.open("here");
    assert!(volume.engine().lookup(ROOT_INO, b"g2").is_ok());
    volume.close().unwrap();
}

#[test]
fn a_volume_whose_place_was_taken_stops_publishing() {
    let machine = Machine::new();
    let volume = machine.open("here");
    file(&volume, "f");
    volume.sync(LONG).unwrap();
    let head = machine.path("store/head.json");
    let mut taken: Head = super::sealed::read(&std::fs::read(&head).unwrap()).unwrap();
    taken.nonce = "00000000000000aa".into();
    let taken = super::sealed::write(&taken).unwrap();
    std::fs::write(&head, &taken).unwrap();
    file(&volume, "g");
    let error = volume.sync(Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("gone on without"), "{error}");
    assert_eq!(std::fs::read(&head).unwrap(), taken);
    volume.close().unwrap();
}

#[test]
fn closing_and_fsync_wait_for_the_store_when_told_to() {
    let machine = Machine::new();
    let store = faulty();
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&store) as Arc<dyn ObjectStore>),
        store_wait: StoreWait::FsyncAndClose,
        ..machine.config("here")
    };
    let volume = Volume::open(config, machine.runtime.handle().clone()).unwrap();
    let engine = volume.engine();
    let puts = || store.counts().put.requests;
    let restorable = || volume.status().in_store_lsn == volume.status().acknowledged_lsn;
    let ino = file(&volume, "f");
    engine.write(ino, 0, &content(1, 5000), false).unwrap();
    engine.close(ino).unwrap();
    assert!(restorable());
    // Nothing has changed since: neither asks for anything.
    let before = puts();
    engine.close(ino).unwrap();
    engine.fsync(ino, false).unwrap();
    assert_eq!(puts(), before);
    // A change of the file that is no write, and one of another file: closing waits for the first, fsync for both.
    let shorter = weldrfs_meta::AttrChange {
        size: Some(100),
        ..weldrfs_meta::AttrChange::default()
    };
    engine.setattr(ino, shorter).unwrap();
    engine.close(ino).unwrap();
    assert!(restorable());
    let other = file(&volume, "other");
    engine.close(ino).unwrap();
    assert!(!restorable());
    engine.fsync(ino, false).unwrap();
    assert!(restorable());
    // The store is away: closing says so, and later it is made good.
    store.add(FaultRule::on(
        Verb::Put,
        Fault::ErrorBefore(FaultKind::Denied),
    ));
    engine.write(other, 0, b"x", false).unwrap();
    assert_eq!(engine.close(other).unwrap_err().errno(), libc::EIO);
    store.heal();
    engine.close(other).unwrap();
    assert!(restorable());
    volume.close().unwrap();
}

fn faulty() -> Arc<FaultStore> {
    Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 1))
}

#[test]
fn one_failed_request_does_not_fail_a_sync_and_a_lost_answer_is_found_out() {
    let machine = Machine::new();
    let store = faulty();
    let volume = machine.open_in(&store, "here").unwrap();
    for (n, fault) in [
        Fault::ErrorBefore(FaultKind::Unavailable),
        Fault::ErrorAfter(FaultKind::Timeout),
    ]
    .into_iter()
    .enumerate()
    {
        // The first publication and a later one: the head is put on two different conditions.
        for name in ["a", "b"] {
            for key in ["head.json", "meta/", "packs/"] {
                let rule = FaultRule::on(Verb::Put, fault).prefix(key).times(1);
                store.add(rule);
            }
            let ino = file(&volume, &format!("{name}{n}"));
            volume
                .engine()
                .write(ino, 0, &content(n as u64, 5000), false)
                .unwrap();
            let struck = || store.injected().values().sum::<u64>();
            let before = struck();
            volume.sync(LONG).unwrap();
            assert_eq!(struck() - before, 3);
        }
    }
    volume.abandon();
    let other = machine.open_in(&store, "elsewhere").unwrap();
    for name in [b"a0", b"b0", b"a1", b"b1"] {
        other.engine().lookup(ROOT_INO, name).unwrap();
    }
    other.close().unwrap();
}

fn newest_head(machine: &Machine, store: &Arc<FaultStore>) -> Head {
    let seen = machine.runtime.block_on(head::read_head(&**store)).unwrap();
    seen.unwrap().head
}

#[test]
fn what_changed_little_is_published_as_a_delta_and_every_state_comes_back() {
    let machine = Machine::new();
    let store = faulty();
    let volume = machine.open_in(&store, "here").unwrap();
    for i in 0..5_000_u64 {
        file(&volume, &format!("f{i}"));
    }
    volume.sync(LONG).unwrap();
    let full = newest_head(&machine, &store).layers;
    assert_eq!(full.len(), 1);
    for round in 0..4_u64 {
        let attr = volume.engine().lookup(ROOT_INO, b"f7").unwrap();
        volume
            .engine()
            .write(attr.ino, 0, &content(100 + round, 100), false)
            .unwrap();
        volume
            .engine()
            .unlink(ROOT_INO, format!("f{}", 100 + round).as_bytes())
            .unwrap();
        volume.sync(LONG).unwrap();
        let head = newest_head(&machine, &store);
        assert_eq!(head.layers.len() as u64, round + 2);
        assert!(head.layers.last().unwrap().bytes * 8 < full[0].bytes);
        let looking = VolumeConfig {
            source: Source::Own(Arc::clone(&store) as Arc<dyn ObjectStore>),
            read_only: true,
            ..machine.config(&format!("elsewhere{round}"))
        };
        let other = Volume::open(looking, machine.runtime.handle().clone()).unwrap();
        let attr = other.engine().lookup(ROOT_INO, b"f7").unwrap();
        assert_eq!(
            &other.engine().read(attr.ino, 0, 100).unwrap()[..],
            content(100 + round, 100)
        );
        assert!(
            other
                .engine()
                .lookup(ROOT_INO, format!("f{}", 100 + round).as_bytes())
                .is_err()
        );
        assert!(other.check().unwrap().findings.is_empty());
        other.abandon();
    }
    // A machine that was restored goes on with deltas to the same head.
    volume.abandon();
    let other = machine.open_in(&store, "another").unwrap();
    file(&other, "more");
    other.sync(LONG).unwrap();
    assert_eq!(newest_head(&machine, &store).layers.len(), 6);
    other.close().unwrap();
    let third = machine.open_in(&store, "third").unwrap();
    assert!(third.engine().lookup(ROOT_INO, b"more").is_ok());
    assert!(third.check().unwrap().findings.is_empty());
    third.close().unwrap();
}

#[test]
fn layers_are_folded_into_a_full_one_and_deleted_once_they_are_old() {
    let machine = Machine::new();
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultStore::new(Arc::clone(&memory) as _, 1));
    let clock = Arc::new(ManualClock::at(1_000_000_000_000_000_000));
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&store) as Arc<dyn ObjectStore>),
        ..machine.config("here")
    };
    let handle = machine.runtime.handle().clone();
    let volume = Volume::open_with(config, handle, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let objects = || {
        let listed = machine.runtime.block_on(store.list("meta/", None, 1000));
        listed.unwrap().objects.len()
    };
    let (mut most, mut fulls) = (0, 0);
    for i in 0..200_u64 {
        file(&volume, &format!("f{i}"));
        volume.sync(LONG).unwrap();
        let head = newest_head(&machine, &store);
        most = most.max(head.layers.len());
        fulls += usize::from(head.layers.len() == 1);
        // A layer each and a list; metadata as small as this has one part a layer.
        let kept: u64 = head.chains.iter().map(|chain| chain.layers + 1).sum();
        assert_eq!(objects() as u64, kept + head.layers.len() as u64);
        // Six minutes each: what is kept are the layers of some five hours.
        clock.advance(6 * 60_000_000_000);
        memory.set_now_ms(i * 6 * 60_000);
    }
    assert!((2..=65).contains(&most), "{most}");
    assert!(fulls > 1 && objects() < 150, "{fulls} {}", objects());
    volume.close().unwrap();
}

#[test]
fn a_clock_that_jumps_ahead_deletes_no_restore_points() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let machine = Machine::new();
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultStore::new(Arc::clone(&memory) as _, 1));
    let clock = Arc::new(ManualClock::at(1_000_000_000_000_000_000));
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&store) as Arc<dyn ObjectStore>),
        // The jump ends the lease as well.
        lease: LeaseTerm::Manual,
        ..machine.config("here")
    };
    let handle = machine.runtime.handle().clone();
    let volume = Volume::open_with(config, handle, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let publish = |name: &str| {
        file(&volume, name);
        volume.sync(LONG).unwrap();
        newest_head(&machine, &store).chains
    };
    publish("one");
    clock.advance(2 * HOUR_NS);
    let chains = publish("two");
    assert_eq!(chains.len(), 1);
    let is_there = || memory.keys().contains(&chains[0].key);
    clock.advance(9_000 * HOUR_NS);
    assert!(publish("three").contains(&chains[0]) && is_there());
    // The same number of hours later by the store's clock.
    memory.set_now_ms(5 * 3_600_000);
    assert!(!publish("four").contains(&chains[0]) && !is_there());
    volume.close().unwrap();
}

#[test]
fn what_is_deleted_while_it_is_uploaded_is_whole_in_what_is_published() {
    let machine = Machine::new();
    let store = faulty();
    let volume = machine.open_in(&store, "here").unwrap();
    for i in 0..20_u64 {
        let ino = file(&volume, &format!("f{i}"));
        volume
            .engine()
            .write(ino, 0, &content(i, 50_000), false)
            .unwrap();
    }
    store.set_outage(Outage::Hanging);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| volume.sync(LONG));
        // By then the cut was made: the first request to the store follows it.
        let deadline = Instant::now() + LONG;
        while store.counts().requests() < 6 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(200));
        for i in 0..20 {
            volume
                .engine()
                .unlink(ROOT_INO, format!("f{i}").as_bytes())
                .unwrap();
        }
        let late = file(&volume, "late");
        volume
            .engine()
            .write(late, 0, &content(99, 5_000), false)
            .unwrap();
        store.set_outage(Outage::None);
        syncing.join().unwrap().unwrap();
    });
    volume.abandon();
    let other = machine.open_in(&store, "elsewhere").unwrap();
    for i in 0..20_u64 {
        let attr = other.engine().lookup(ROOT_INO, format!("f{i}").as_bytes());
        let Ok(attr) = attr else { continue };
        assert_eq!(
            &other.engine().read(attr.ino, 0, 50_000).unwrap()[..],
            content(i, 50_000)
        );
    }
    assert!(other.check().unwrap().findings.is_empty());
    other.close().unwrap();
}

#[test]
fn a_head_that_arrives_after_it_was_given_up_is_this_volumes_own() {
    let machine = Machine::new();
    let store = faulty();
    let volume = machine.open_in(&store, "here").unwrap();
    file(&volume, "f");
    volume.sync(LONG).unwrap();
    let head = || {
        machine
            .runtime
            .block_on(store.get(HEAD_KEY, None))
            .unwrap()
            .bytes
    };
    let (first, rule) = (head(), Fault::ErrorAfter(FaultKind::Timeout));
    // Put, and then no answer to anything about the head any more.
    file(&volume, "g");
    store.add(FaultRule::on(Verb::Put, rule).prefix(HEAD_KEY).times(1));
    store
        .add(FaultRule::on(Verb::Get, Fault::ErrorBefore(FaultKind::Unavailable)).prefix(HEAD_KEY));
    volume.sync(Duration::from_secs(3)).unwrap_err();
    store.heal();
    let second = head();
    assert_ne!(first, second);
    // As if it had arrived only now, after a look at the head that was there before.
    let put = |body: &Bytes| {
        let put = store.put(HEAD_KEY, body.clone(), PutCondition::Always);
        machine.runtime.block_on(put).unwrap();
    };
    put(&first);
    let lineage = |head: &Bytes| {
        let head: serde_json::Value = serde_json::from_slice(head).unwrap();
        let lineage = lineage::Lineage::read(volume.state_dir()).unwrap();
        lineage.knows(head["nonce"].as_str().unwrap())
    };
    store.add(FaultRule::on(Verb::Put, Fault::ErrorBefore(FaultKind::Denied)).prefix("meta/"));
    volume.sync(Duration::from_secs(3)).unwrap_err();
    store.heal();
    put(&second);
    assert!(lineage(&first) || lineage(&second));
    volume.sync(LONG).unwrap();
    volume.close().unwrap();
}

#[test]
fn a_publication_that_arrives_during_the_next_one_is_not_built_upon() {
    let machine = Machine::new();
    let store = faulty();
    let volume = machine.open_in(&store, "here").unwrap();
    file(&volume, "f");
    volume.sync(LONG).unwrap();
    let head = || {
        machine
            .runtime
            .block_on(store.get(HEAD_KEY, None))
            .unwrap()
            .bytes
    };
    let put = |body: &Bytes| {
        let put = store.put(HEAD_KEY, body.clone(), PutCondition::Always);
        machine.runtime.block_on(put).unwrap();
    };
    let first = head();
    file(&volume, "g");
    let lost = FaultRule::on(Verb::Put, Fault::ErrorAfter(FaultKind::Timeout));
    store.add(lost.prefix(HEAD_KEY).times(1));
    let unread = FaultRule::on(Verb::Get, Fault::ErrorBefore(FaultKind::Unavailable));
    store.add(unread.prefix(HEAD_KEY));
    volume.sync(Duration::from_secs(3)).unwrap_err();
    store.heal();
    let second = head();
    put(&first);
    // The next one has read the head, and is at its layer, when the one before it arrives.
    volume.engine().unlink(ROOT_INO, b"g").unwrap();
    let slow = FaultRule::on(Verb::Put, Fault::Delay(Duration::from_secs(1)));
    store.add(slow.prefix("meta/").times(1));
    let delayed = || store.injected().values().sum::<u64>();
    let before = delayed();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| volume.sync(LONG));
        let deadline = std::time::Instant::now() + LONG;
        while delayed() == before && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        put(&second);
        next.join().unwrap().unwrap();
    });
    let layers = newest_head(&machine, &store).layers;
    assert_eq!(layers.len(), 3, "the late one, and one after it");
    let listed = machine
        .runtime
        .block_on(store.list("meta/", None, 100))
        .unwrap();
    assert_eq!(listed.objects.len(), 4, "one was made in vain");
    volume.abandon();
    let elsewhere = machine.open_in(&store, "elsewhere").unwrap();
    assert!(elsewhere.engine().lookup(ROOT_INO, b"g").is_err());
    healthy(&elsewhere);
    elsewhere.close().unwrap();
}

#[test]
fn a_head_that_cannot_be_read_is_not_replaced() {
    let machine = Machine::new();
    let store = faulty();
    let volume = machine.open_in(&store, "here").unwrap();
    file(&volume, "f");
    let body = Bytes::from_static(b"what is this");
    let put = store.put(HEAD_KEY, body.clone(), PutCondition::Always);
    machine.runtime.block_on(put).unwrap();
    let error = volume.sync(Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let there = machine.runtime.block_on(store.get(HEAD_KEY, None)).unwrap();
    assert_eq!(there.bytes, body);
    volume.close().unwrap();
}

#[test]
fn a_store_that_ignores_conditions_is_refused_and_written_to_without_any_when_told_to() {
    let machine = Machine::new();
    let store = faulty();
    machine.open_in(&store, "here").unwrap().close().unwrap();
    for (key, stumbles) in [
        ("if-absent", false),
        ("if-absent", true),
        ("if-match", false),
        ("if-match", true),
    ] {
        let ignoring = Arc::new(Forgetful {
            inner: Arc::clone(&store),
            ignores: key,
            stumbles: AtomicBool::new(stumbles),
            fallen: AtomicBool::new(false),
        });
        let config = |trust_store| VolumeConfig {
            source: Source::Own(Arc::clone(&ignoring) as Arc<dyn ObjectStore>),
            trust_store,
            ..machine.config("here")
        };
        let refused = Volume::open(config(false), machine.runtime.handle().clone());
        assert!(
            matches!(refused, Err(OpenError::IgnoresConditions(_))),
            "{key} {stumbles}: {refused:?}"
        );
        assert_eq!(ignoring.fallen.swap(false, Ordering::Relaxed), stumbles);
        ignoring.stumbles.store(false, Ordering::Relaxed);
        let volume = Volume::open(config(true), machine.runtime.handle().clone()).unwrap();
        file(&volume, &format!("{key}-{stumbles}"));
        volume.sync(LONG).unwrap();
        volume.close().unwrap();
    }
}

/// A store that ignores one kind of condition, and refuses to hear of it on the head.
#[derive(Debug)]
struct Forgetful {
    inner: Arc<FaultStore>,
    ignores: &'static str,
    /// Whether it fails over the other kind, as one does that cannot take two puts of a key at once, and from then on
    /// cannot read that key.
    stumbles: AtomicBool,
    fallen: AtomicBool,
}

#[async_trait::async_trait]
impl ObjectStore for Forgetful {
    async fn get(
        &self,
        key: &str,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Object, StoreError> {
        if key == MARKER_KEY && self.fallen.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable {
                what: format!("get {key}: the answer broke off"),
            });
        }
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        assert!(key != HEAD_KEY || cond == PutCondition::Always, "{cond:?}");
        let cond = match (&cond, self.ignores) {
            (PutCondition::IfAbsent, "if-absent") | (PutCondition::IfMatch(_), "if-match") => {
                PutCondition::Always
            }
            (PutCondition::IfAbsent | PutCondition::IfMatch(_), _)
                if key == MARKER_KEY && self.stumbles.load(Ordering::Relaxed) =>
            {
                self.fallen.store(true, Ordering::Relaxed);
                return Err(StoreError::Unavailable {
                    what: format!("put {key}: it is being put"),
                });
            }
            _ => cond,
        };
        self.inner.put(key, body, cond).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        self.inner.head(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[test]
fn one_damaged_extent_keeps_nothing_else_from_the_store() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let bad = file(&volume, "bad");
    volume
        .engine()
        .write(bad, 0, &content(1, 100_000), false)
        .unwrap();
    volume.engine().fsync(bad, false).unwrap();
    let state = volume.state_dir().to_owned();
    let mut segments: Vec<_> = std::fs::read_dir(state.join("segments"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    segments.retain(|p| p.file_name().unwrap().to_str().unwrap().starts_with("seg-"));
    segments.sort();
    let segment = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&segments[0])
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&segment, b"damage", 4096 + 50_000).unwrap();
    for i in 0..20_u64 {
        let ino = file(&volume, &format!("good{i}"));
        volume
            .engine()
            .write(ino, 0, &content(i, 3000), false)
            .unwrap();
    }
    volume.sync(LONG).unwrap();
    volume.sync(LONG).unwrap();
    assert_eq!(
        volume.engine().read(bad, 0, 100_000).unwrap_err().errno(),
        libc::EIO
    );
    volume.abandon();
    let other = machine.open("elsewhere");
    for i in 0..20_u64 {
        let attr = other
            .engine()
            .lookup(ROOT_INO, format!("good{i}").as_bytes())
            .unwrap();
        assert_eq!(
            &other.engine().read(attr.ino, 0, 3000).unwrap()[..],
            content(i, 3000)
        );
    }
    // Never wrong bytes, never silently gone.
    let attr = other.engine().lookup(ROOT_INO, b"bad").unwrap();
    assert_eq!(attr.size, 100_000);
    assert_eq!(
        other
            .engine()
            .read(attr.ino, 0, 100_000)
            .unwrap_err()
            .errno(),
        libc::EIO
    );
    other.close().unwrap();
}

#[test]
fn a_store_whose_directory_is_another_one_is_not_written_to() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let ino = file(&volume, "f");
    volume
        .engine()
        .write(ino, 0, &content(1, 5000), false)
        .unwrap();
    // As when the file system below goes away: an empty directory is in its place.
    std::fs::rename(machine.path("store"), machine.path("away")).unwrap();
    std::fs::create_dir(machine.path("store")).unwrap();
    assert!(volume.sync(Duration::from_secs(3)).is_err());
    assert_eq!(std::fs::read_dir(machine.path("store")).unwrap().count(), 0);
    assert_eq!(
        &volume.engine().read(ino, 0, 5000).unwrap()[..],
        content(1, 5000)
    );
    std::fs::remove_dir(machine.path("store")).unwrap();
    std::fs::rename(machine.path("away"), machine.path("store")).unwrap();
    volume.sync(LONG).unwrap();
    volume.close().unwrap();
}
