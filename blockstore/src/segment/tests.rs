use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;
use crate::error::{Advice, Error};
use crate::ids::SegmentId;
use crate::settings::SegmentSettings;

const SMALL: u64 = 64 << 10;

fn settings() -> SegmentSettings {
    SegmentSettings {
        segment_bytes: SMALL,
        writeout_bytes: 16 << 10,
        spare_files: 2,
        staging_limit_bytes: u64::MAX,
    }
}

fn open(dir: &Path) -> SegmentStore {
    SegmentStore::open(dir, settings(), 0, 1).unwrap()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

#[test]
fn nothing_is_created_before_the_first_append_and_bytes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(names(dir.path()).is_empty());
    let first = store.append(b"hello").unwrap();
    let second = store.append(b"world!").unwrap();
    assert_eq!(
        (first.segment, first.offset),
        (SegmentId(1), SEGMENT_HEADER_BYTES)
    );
    assert_eq!(
        (second.segment, second.offset),
        (SegmentId(1), SEGMENT_HEADER_BYTES + 5)
    );
    assert_eq!(
        &store.read(SegmentId(1), first.offset, 11).unwrap()[..],
        b"helloworld!"
    );
    assert_eq!(store.staged_bytes(), 11);
    let file = std::fs::read(dir.path().join("seg-0000000000000001")).unwrap();
    assert_eq!(file.len() as u64, SMALL);
    assert_eq!(SegmentHeader::parse(&file).unwrap().id, SegmentId(1));
    assert_eq!(&file[4096..4107], b"helloworld!");
}

#[test]
fn reads_outside_of_the_written_bytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let at = store.append(&[7; 100]).unwrap();
    for (offset, len) in [
        (0, 10),
        (4095, 1),
        (at.offset, 101),
        (at.offset + 101, 0),
        (u64::MAX, 2),
    ] {
        let error = store.read(at.segment, offset, len).unwrap_err();
        assert!(
            matches!(error, Error::OutOfRange { limit, .. } if limit == 4196),
            "{error}"
        );
    }
    assert!(
        store
            .read(at.segment, at.offset + 100, 0)
            .unwrap()
            .is_empty()
    );
    assert!(matches!(
        store.read(SegmentId(99), 4096, 1),
        Err(Error::SegmentNotFound(SegmentId(99)))
    ));
}

#[test]
fn an_append_never_crosses_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let room = (SMALL - SEGMENT_HEADER_BYTES) as usize;
    let first = store.append(&pattern(1, room - 10)).unwrap();
    let second = store.append(&pattern(2, 11)).unwrap();
    assert_ne!(first.segment, second.segment);
    assert_eq!(second.offset, SEGMENT_HEADER_BYTES);
    let whole = store.append(&pattern(3, room)).unwrap();
    assert_eq!(
        store.read(whole.segment, whole.offset, room).unwrap(),
        pattern(3, room)
    );
    let error = store.append(&vec![0; room + 1]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit, .. } if limit == room as u64));
}

#[test]
fn pinned_and_active_segments_are_not_offered_and_not_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.seal_active(), None);
    let at = store.append(b"x").unwrap();
    assert!(store.sealed().is_empty());
    assert!(matches!(
        store.release(at.segment),
        Err(Error::SegmentBusy(_))
    ));
    assert_eq!(store.seal_active(), Some(at.segment));
    assert_eq!(store.seal_active(), None);
    assert!(store.sealed().is_empty(), "still pinned");
    let other = at.pin.clone();
    assert_eq!(other.segment(), at.segment);
    drop(at.pin);
    let busy = store.release(at.segment).unwrap_err();
    assert!(matches!(busy, Error::SegmentBusy(_)));
    assert_eq!(busy.advice(), Advice::Retry);
    drop(other);
    let info = SegmentInfo {
        id: at.segment,
        used_bytes: 1,
    };
    assert_eq!(store.sealed(), [info]);
    store.release(at.segment).unwrap();
    assert!(!store.exists(at.segment));
    assert_eq!(store.staged_bytes(), 0);
    assert!(matches!(
        store.release(at.segment),
        Err(Error::SegmentNotFound(_))
    ));
    assert!(matches!(
        store.read(at.segment, 4096, 1),
        Err(Error::SegmentNotFound(_))
    ));
}

#[test]
fn released_files_are_used_again_with_a_new_header() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let old = store.append(&[1; 5000]).unwrap().segment;
    let old_header =
        SegmentHeader::parse(&std::fs::read(dir.path().join(format!("seg-{old}"))).unwrap())
            .unwrap();
    store.seal_active();
    store.release(old).unwrap();
    assert_eq!(names(dir.path()), BTreeSet::from([format!("spare-{old}")]));
    let new = store.append(&[2; 10]).unwrap();
    assert_eq!(
        names(dir.path()),
        BTreeSet::from([format!("seg-{}", new.segment)])
    );
    assert!(new.segment > old);
    let file = std::fs::read(dir.path().join(format!("seg-{}", new.segment))).unwrap();
    let header = SegmentHeader::parse(&file).unwrap();
    assert_eq!(header.id, new.segment);
    assert_ne!(header.salt, old_header.salt);
    assert_eq!(file[4106], 1, "the old bytes are still behind the new ones");
    assert!(
        store.read(new.segment, new.offset, 11).is_err(),
        "and cannot be read through the store"
    );
}

#[test]
fn spares_are_bounded_and_can_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids: Vec<_> = (0..4)
        .map(|_| {
            let id = store.append(&[0; 100]).unwrap().segment;
            store.seal_active();
            id
        })
        .collect();
    for id in ids {
        store.release(id).unwrap();
    }
    assert_eq!(names(dir.path()).len(), 2, "{:?}", names(dir.path()));
    assert_eq!(store.drop_spares().unwrap(), 2 * SMALL);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_reader_keeps_the_bytes_of_a_released_segment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let at = store.append(&[5; 64]).unwrap().segment;
    store.seal_active();
    let reader = store.segment(at).unwrap();
    store.release(at).unwrap();
    assert!(
        names(dir.path()).is_empty(),
        "a file that is being read is not recycled"
    );
    store.append(&[6; 64]).unwrap();
    let mut out = [0; 64];
    reader.read(SEGMENT_HEADER_BYTES, &mut out).unwrap();
    assert_eq!(out, [5; 64]);
}

#[test]
fn reopening_seals_what_is_there_and_continues_the_ids() {
    let dir = tempfile::tempdir().unwrap();
    let data = pattern(9, 3000);
    let (segment, offset) = {
        let store = open(dir.path());
        let at = store.append(&data).unwrap();
        (at.segment, at.offset)
    };
    std::fs::write(dir.path().join("new-0000000000000009"), b"half made").unwrap();
    std::fs::write(dir.path().join("spare-0000000000000008"), b"wrong size").unwrap();
    std::fs::write(dir.path().join("seg-nonsense"), b"not ours").unwrap();
    let store = open(dir.path());
    assert_eq!(store.ids(), [segment]);
    assert_eq!(
        names(dir.path()),
        BTreeSet::from([format!("seg-{segment}"), "seg-nonsense".into()])
    );
    assert_eq!(store.read(segment, offset, data.len()).unwrap(), data);
    let most = SMALL - SEGMENT_HEADER_BYTES;
    assert_eq!(store.staged_bytes(), most);
    store.set_used_bytes(segment, 3000);
    store.set_used_bytes(segment, most);
    assert_eq!(store.staged_bytes(), 3000);
    store.flush().unwrap();
    assert!(store.segment(segment).unwrap().is_clean());
    assert!(store.append(b"more").unwrap().segment > segment);
    drop(store);
    let store = SegmentStore::open(dir.path(), settings(), 1000, 1).unwrap();
    assert_eq!(store.append(b"x").unwrap().segment, SegmentId(1001));
}

#[test]
fn a_damaged_header_is_survived_and_a_newer_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = open(dir.path()).append(b"precious").unwrap();
    let (segment, offset) = (at.segment, at.offset);
    drop(at);
    let path = dir.path().join(format!("seg-{segment}"));
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert_eq!(
        &open(dir.path()).read(segment, offset, 8).unwrap()[..],
        b"precious"
    );
    let mut newer = good;
    newer[8] = 9;
    let crc = crc32c::crc32c(&newer[..4092]);
    newer[4092..4096].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &newer).unwrap();
    let error = SegmentStore::open(dir.path(), settings(), 0, 1).unwrap_err();
    assert!(matches!(error, Error::UnsupportedFormat { found: 9, .. }));
}

#[test]
fn a_truncated_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let at = store.append(&[1; 10_000]).unwrap();
    let path = dir.path().join(format!("seg-{}", at.segment));
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(6000)
        .unwrap();
    assert!(matches!(
        store.read(at.segment, at.offset, 10_000),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn staging_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let limited = SegmentSettings {
        staging_limit_bytes: 1000,
        ..settings()
    };
    let store = SegmentStore::open(dir.path(), limited, 0, 1).unwrap();
    let first = store.append(&[0; 600]).unwrap();
    let error = store.append(&[0; 401]).unwrap_err();
    assert!(matches!(
        error,
        Error::StagingFull {
            staged: 600,
            limit: 1000
        }
    ));
    assert_eq!(error.advice(), Advice::Retry);
    store.append(&[0; 400]).unwrap();
    store.seal_active();
    drop(first.pin);
    store.release(first.segment).unwrap();
    store.append(&[0; 1000]).unwrap();
}

#[test]
fn a_failed_write_is_an_error_and_leaves_a_dead_range() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = store.append(b"aaaa").unwrap();
    let file = store.segment(first.segment).unwrap();
    file.faults.write.store(true, Ordering::SeqCst);
    let error = store.append(b"bbbb").unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    let third = store.append(b"cccc").unwrap();
    assert_eq!(third.offset, first.offset + 8);
    store.flush().unwrap();
    assert!(file.is_clean());
    drop((first.pin, third.pin));
    assert!(
        !file.is_pinned(),
        "the failed append must not pin the segment"
    );
}

#[test]
fn a_failed_flush_is_never_retried_into_success() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let at = store.append(b"data").unwrap();
    let file = store.segment(at.segment).unwrap();
    file.faults.sync.store(true, Ordering::SeqCst);
    assert!(matches!(store.flush(), Err(Error::FlushFailed { .. })));
    assert!(
        !file.faults.sync.load(Ordering::SeqCst),
        "the disk works again"
    );
    assert!(matches!(store.flush(), Err(Error::FlushFailed { .. })));
    let error = store.append(b"more").unwrap_err();
    assert!(matches!(error, Error::FlushFailed { .. }));
    assert_eq!(error.advice(), Advice::GiveUp);
    assert_eq!(&store.read(at.segment, at.offset, 4).unwrap()[..], b"data");
}

#[test]
fn poison_from_outside_stops_appends_and_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(b"data").unwrap();
    store.poison("the journal could not be flushed");
    store.poison("a later reason");
    let error = store.flush().unwrap_err().to_string();
    assert!(error.contains("the journal could not"), "{error}");
    assert!(store.append(b"more").is_err());
}

#[test]
fn flush_waits_for_writes_that_began_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(b"first").unwrap();
    let file = store.segment(SegmentId(1)).unwrap();
    let (offset, _pin) = file.reserve(6).unwrap();
    std::thread::scope(|scope| {
        let flushed = scope.spawn(|| store.flush());
        // Time for a flush that does not wait to end; one that waits passes however slow the machine is.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!flushed.is_finished() && !file.is_clean());
        file.write(offset, b"second", 1 << 20).unwrap();
        flushed.join().unwrap().unwrap();
    });
    assert!(file.is_clean());
    assert_eq!(
        &store.read(SegmentId(1), 4096, 11).unwrap()[..],
        b"firstsecond"
    );
}

#[test]
fn the_next_file_is_prepared_when_half_of_one_is_full_and_kept_as_a_spare() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = store.append(&[0; 40_000]).unwrap().segment;
    assert_eq!(store.ids(), [first], "a prepared file is no segment yet");
    drop(store);
    let spare = SegmentId(first.0 + 1);
    assert_eq!(
        names(dir.path()),
        BTreeSet::from([format!("seg-{first}"), format!("spare-{spare}")])
    );
}

#[test]
fn many_threads_append_read_flush_and_recycle() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(thread);
                let mut kept: Vec<(Appended, u64, usize)> = Vec::new();
                for round in 0..300u64 {
                    let (seed, len) = (thread << 32 | round, rng.random_range(1..9000));
                    let at = store.append(&pattern(seed, len)).unwrap();
                    kept.push((at, seed, len));
                    if rng.random_range(0..4) == 0 {
                        let (at, seed, len) = &kept[rng.random_range(0..kept.len())];
                        let got = store.read(at.segment, at.offset, *len).unwrap();
                        assert_eq!(got, pattern(*seed, *len));
                    }
                    if rng.random_range(0..16) == 0 {
                        store.flush().unwrap();
                    }
                    if kept.len() > 40 {
                        for (at, seed, len) in kept.drain(..20) {
                            let got = store.read(at.segment, at.offset, len).unwrap();
                            assert_eq!(got, pattern(seed, len));
                        }
                        for info in store.sealed() {
                            // Another thread may have been faster.
                            let _ = store.release(info.id);
                        }
                    }
                }
            });
        }
    });
    store.seal_active();
    for info in store.sealed() {
        store.release(info.id).unwrap();
    }
    assert_eq!((store.staged_bytes(), store.ids().len()), (0, 0));
    store.flush().unwrap();
    drop(store);
    let left = names(dir.path());
    assert!(
        left.len() <= 2 && left.iter().all(|n| n.starts_with("spare-")),
        "{left:?}"
    );
}
