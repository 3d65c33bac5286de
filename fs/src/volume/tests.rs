//! Volumes without a mount: publishing, restoring, packing, rewriting, recovery.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::engine::Caller;
use weldrfs_meta::ROOT_INO;

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
        }
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
fn a_local_state_that_the_store_has_left_behind_is_refused() {
    let machine = Machine::new();
    let volume = machine.open("a");
    file(&volume, "from-a");
    volume.close().unwrap();
    let volume = machine.open("b");
    file(&volume, "from-b");
    volume.close().unwrap();
    let error = Volume::open(machine.config("a"), machine.runtime.handle().clone()).unwrap_err();
    assert!(matches!(&error, OpenError::Diverged { .. }), "{error}");
    // It can still be looked at, and the newer one goes on.
    let config = VolumeConfig {
        read_only: true,
        ..machine.config("a")
    };
    let old = Volume::open(config, machine.runtime.handle().clone()).unwrap();
    assert!(old.engine().lookup(ROOT_INO, b"from-a").is_ok());
    assert!(old.engine().lookup(ROOT_INO, b"from-b").is_err());
    old.close().unwrap();
    let volume = machine.open("b");
    assert!(volume.engine().lookup(ROOT_INO, b"from-a").is_ok());
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
    let text = std::fs::read_to_string(&head).unwrap();
    let taken = text.replace("meta/", "meta/taken-");
    std::fs::write(&head, &taken).unwrap();
    file(&volume, "g");
    let error = volume.sync(Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("gone on without"), "{error}");
    assert_eq!(std::fs::read_to_string(&head).unwrap(), taken);
    volume.close().unwrap();
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
