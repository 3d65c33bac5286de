use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::runtime::Runtime;

use super::*;
use crate::error::{Advice, Error};
use crate::ids::PackId;
use crate::settings::{MAX_FRAME_BYTES, PackSettings, PacksConfig, RetrySettings};
use crate::store::{
    CountingStore, Fault, FaultKind, FaultRule, FaultStore, MemoryStore, ObjectStore, Outage,
    PutCondition, Verb,
};

const FRAME: usize = 4096;

fn random(rng: &mut SmallRng, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    rng.fill_bytes(&mut data);
    data
}

/// Text-like bytes, which compress.
fn text(rng: &mut SmallRng, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| b"abcdefgh "[rng.random_range(0..9)])
        .collect()
}

fn settings() -> PackSettings {
    PackSettings {
        pack_bytes: 100_000,
        frame_bytes: FRAME,
        ..PackSettings::default()
    }
}

/// A pack and its raw space: frames that compress, frames that do not, small and empty extents.
fn build(seed: u64) -> (BuiltPack, Vec<u8>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut builder = PackBuilder::new(PackId::random(&mut rng), &settings());
    let mut raw = Vec::new();
    for extent in 0..12 {
        let len = rng.random_range(0..9000);
        let data = match extent {
            5 => Vec::new(),
            n if n % 2 == 0 => text(&mut rng, len),
            _ => random(&mut rng, len),
        };
        assert_eq!(builder.push(extent, &data), raw.len() as u64);
        raw.extend(data);
    }
    assert_eq!(builder.raw_len(), raw.len() as u64);
    (builder.finish(), raw)
}

struct Rig {
    memory: Arc<MemoryStore>,
    faults: Arc<FaultStore>,
    counting: Arc<CountingStore>,
    packs: Packs,
    runtime: Runtime,
    dir: tempfile::TempDir,
}

fn config(dir: &Path) -> PacksConfig {
    PacksConfig {
        read_deadline: Duration::from_secs(20),
        retry: RetrySettings {
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
            ..RetrySettings::default()
        },
        free_floor_ratio: 0.0,
        ..PacksConfig::new(dir)
    }
}

impl Rig {
    fn new(change: impl FnOnce(&mut PacksConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let memory = Arc::new(MemoryStore::new());
        let faults = Arc::new(FaultStore::new(Arc::clone(&memory) as _, 5));
        let counting = Arc::new(CountingStore::new(Arc::clone(&faults) as _));
        let mut config = config(dir.path());
        change(&mut config);
        let store = Arc::clone(&counting) as Arc<dyn ObjectStore>;
        let packs = Packs::open(config, store, runtime.handle().clone(), vec![]).unwrap();
        Self {
            memory,
            faults,
            counting,
            packs,
            runtime,
            dir,
        }
    }

    fn plain() -> Self {
        Self::new(|_| ())
    }

    /// Puts a pack where only the store has it.
    fn store_only(&self, pack: &BuiltPack) {
        let (key, body) = (pack.id.object_key(), pack.bytes.clone());
        let put = self.memory.put(&key, body, PutCondition::IfAbsent);
        self.runtime.block_on(put).unwrap();
    }

    fn upload(&self, id: PackId) -> Result<(), Error> {
        self.runtime.block_on(self.packs.upload(id))
    }

    fn gets(&self) -> u64 {
        self.counting.counts().get.requests
    }

    fn local_file(&self, id: PackId) -> std::path::PathBuf {
        self.dir.path().join(format!("pack-{id}"))
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_pack_describes_itself() {
    let (pack, raw) = build(1);
    let index = verify_pack(&pack.bytes).unwrap();
    assert_eq!((index.id(), index.raw_len()), (pack.id, raw.len() as u64));
    assert_eq!(index.extents(), pack.extents);
    let codecs: Vec<_> = index.frames().iter().map(|f| f.codec).collect();
    assert!(codecs.contains(&Codec::Stored) && codecs.contains(&Codec::Zstd));
    let (last, full) = index.frames().split_last().unwrap();
    assert!(full.iter().all(|f| f.raw_len == FRAME as u64));
    assert!(last.raw_len <= FRAME as u64);
    assert_eq!(&pack.bytes[..8], b"WFPACK01");
    assert_eq!(pack.bytes[16..32], pack.id.0);
    assert_eq!(&pack.bytes[pack.bytes.len() - 8..], b"WFPKEND1");
    assert!(pack.bytes.len() < raw.len());
    for at in [0, 1, FRAME as u64 - 1, FRAME as u64, raw.len() as u64 - 1] {
        assert_eq!(index.frame_at(at), Some(at as usize / FRAME));
    }
    assert_eq!(index.frame_at(raw.len() as u64), None);
}

#[test]
fn the_index_can_be_read_from_the_tail_alone() {
    let (pack, _) = build(2);
    let (len, bytes) = (pack.bytes.len() as u64, &pack.bytes);
    let whole = PackIndex::parse(bytes).unwrap();
    let trailer = &bytes[bytes.len() - PACK_TRAILER_BYTES..];
    let needed = PackIndex::tail_len(len, trailer).unwrap() as usize;
    let tail = &bytes[bytes.len() - needed..];
    assert_eq!(PackIndex::parse_tail(len, tail).unwrap(), whole);
    assert!(PackIndex::parse_tail(len, &tail[1..]).is_err());
    assert!(PackIndex::parse_tail(len + 1, tail).is_err());
}

#[test]
fn room_is_what_the_settings_say_and_an_empty_pack_is_a_pack() {
    let mut builder = PackBuilder::new(PackId([3; 16]), &settings());
    assert!(builder.is_empty() && builder.has_room(1 << 40));
    builder.push(1, &[0; 60_000]);
    assert!(builder.has_room(40_000) && !builder.has_room(40_001));
    assert!(!builder.is_empty());
    let empty = PackBuilder::new(PackId([4; 16]), &settings()).finish();
    let index = verify_pack(&empty.bytes).unwrap();
    assert_eq!((index.raw_len(), index.frames().len()), (0, 0));
    assert_eq!(index.frame_at(0), None);
    let odd = PackSettings {
        frame_bytes: 0,
        ..settings()
    };
    let mut builder = PackBuilder::new(PackId([5; 16]), &odd);
    builder.push(1, &[7; 10_000]);
    assert_eq!(
        verify_pack(&builder.finish().bytes).unwrap().frames().len(),
        3
    );
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let mut rng = SmallRng::seed_from_u64(6);
    let mut builder = PackBuilder::new(PackId([9; 16]), &settings());
    builder.push(1, &text(&mut rng, 5000));
    builder.push(2, &random(&mut rng, 50));
    let bytes = builder.finish().bytes;
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify_pack(&bad).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(verify_pack(&bytes[..len]).is_err(), "cut at {len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(verify_pack(&longer).is_err());
}

#[test]
fn hostile_indexes_with_right_checksums_neither_panic_nor_lie() {
    let (pack, raw) = build(7);
    let good = pack.bytes.to_vec();
    let trailer = good.len() - PACK_TRAILER_BYTES;
    let index_at = u64::from_le_bytes(good[trailer..trailer + 8].try_into().unwrap()) as usize;
    let mut rng = SmallRng::seed_from_u64(8);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..rng.random_range(1..4) {
            // Index and the trailer's fields, not its checksums and magic: those are made right below.
            let at = rng.random_range(index_at..trailer + 64);
            bad[at] = match rng.random_range(0..3) {
                0 => 0xff,
                1 => 0,
                _ => rng.random(),
            };
        }
        let index_crc = crc32c::crc32c(&bad[index_at..trailer]);
        bad[trailer + 64..trailer + 68].copy_from_slice(&index_crc.to_le_bytes());
        let trailer_crc = crc32c::crc32c(&bad[trailer..trailer + 68]);
        bad[trailer + 68..trailer + 72].copy_from_slice(&trailer_crc.to_le_bytes());
        if let Ok(index) = PackIndex::parse(&bad) {
            accepted += 1;
            assert_eq!(index.raw_len(), raw.len() as u64);
            let end: u64 = index.extents().iter().map(|e| e.len).sum();
            assert_eq!(end, index.raw_len());
        }
        let _ = verify_pack(&bad);
    }
    assert!(
        accepted > 0,
        "some changes, as of an extent's id, are no contradiction"
    );
    for _ in 0..5_000 {
        let len = rng.random_range(0..400);
        let noise = random(&mut rng, len);
        assert!(PackIndex::parse(&noise).is_err());
        assert!(PackIndex::parse_tail(rng.random(), &noise).is_err());
    }
}

/// A pack around 100 stored bytes, with whatever tables.
fn forge(frames: &[FrameEntry], extents: &[PackExtent], raw_len: u64) -> Result<PackIndex, Error> {
    let id = PackId([7; 16]);
    let mut object = encode::encode_header(id);
    object.extend([5; 100]);
    encode::append_index(&mut object, id, frames, extents, raw_len);
    PackIndex::parse(&object)
}

#[test]
fn tables_that_contradict_themselves_are_refused() {
    let frame = |raw_start, raw_len, at, stored_len| FrameEntry {
        raw_start,
        raw_len,
        stored_offset: PACK_HEADER_BYTES as u64 + at,
        stored_len,
        codec: Codec::Zstd,
        stored_crc: 0,
        raw_crc: 0,
    };
    let extent = |raw_offset, len| PackExtent {
        id: 1,
        raw_offset,
        len,
    };
    let two = [frame(0, 300, 0, 60), frame(300, 200, 60, 40)];
    let whole = [extent(0, 500)];
    assert_eq!(forge(&two, &whole, 500).unwrap().frame_at(300), Some(1));
    let most = MAX_FRAME_BYTES as u64;
    assert!(forge(&[frame(0, most, 0, 100)], &[extent(0, most)], most).is_ok());
    let as_it_is = FrameEntry {
        codec: Codec::Stored,
        ..frame(0, 500, 0, 100)
    };
    for (what, frames) in [
        ("too large", vec![frame(0, most + 1, 0, 100)]),
        ("no raw bytes", vec![two[0], frame(300, 0, 60, 40)]),
        ("no stored bytes", vec![two[0], frame(300, 200, 60, 0)]),
        (
            "stored bytes left over",
            vec![two[0], frame(300, 200, 60, 39)],
        ),
        (
            "stored bytes missing",
            vec![two[0], frame(300, 200, 60, 41)],
        ),
        (
            "a gap in the raw space",
            vec![two[0], frame(301, 199, 60, 40)],
        ),
        (
            "overlapping stored bytes",
            vec![two[0], frame(300, 200, 59, 41)],
        ),
        ("raw bytes missing", vec![two[0], frame(300, 199, 60, 40)]),
        ("stored as it is, shorter", vec![as_it_is]),
        ("nothing", vec![]),
    ] {
        let raw_len = if what == "too large" { most + 1 } else { 500 };
        let refused = forge(&frames, &[extent(0, raw_len)], raw_len);
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{what}");
    }
    for extents in [
        vec![],
        vec![extent(0, 499)],
        vec![extent(0, 501)],
        vec![extent(1, 499)],
        vec![extent(0, 300), extent(299, 201)],
        vec![extent(0, 300), extent(300, u64::MAX)],
    ] {
        let refused = forge(&two, &extents, 500);
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{extents:?}");
    }
}

#[test]
fn a_frame_is_checked_against_all_that_its_entry_says() {
    let (pack, raw) = build(9);
    let index = PackIndex::parse(&pack.bytes).unwrap();
    for entry in index.frames() {
        let start = entry.stored_offset as usize;
        let stored = pack.bytes.slice(start..start + entry.stored_len as usize);
        let at = entry.raw_start as usize;
        let good = frame::decode_frame(entry, stored.clone()).unwrap();
        assert_eq!(good, raw[at..at + entry.raw_len as usize]);
        for change in [
            (|e| e.raw_crc ^= 1) as fn(&mut FrameEntry),
            |e| e.stored_crc ^= 1,
            |e| e.raw_len += 1,
            |e| e.raw_len -= 1,
            |e| e.stored_len += 1,
        ] {
            let mut bad = *entry;
            change(&mut bad);
            assert!(frame::decode_frame(&bad, stored.clone()).is_err());
        }
    }
}

#[test]
fn a_new_pack_is_read_without_the_store_and_any_range_is_right() {
    let rig = Rig::plain();
    let (pack, raw) = build(10);
    rig.packs.put_local(&pack).unwrap();
    let mut rng = SmallRng::seed_from_u64(11);
    for _ in 0..500 {
        let from = rng.random_range(0..=raw.len());
        let len = rng.random_range(0..=(raw.len() - from).min(12_000));
        let got = rig.packs.read(pack.id, from as u64, len).unwrap();
        assert_eq!(got, raw[from..from + len]);
    }
    assert_eq!(rig.packs.read(pack.id, 0, raw.len()).unwrap(), raw);
    assert_eq!(rig.counting.counts().requests(), 0);
    let stats = rig.packs.stats();
    assert_eq!((stats.not_uploaded_packs, stats.local_packs), (1, 1));
    assert_eq!(stats.misses, raw.len().div_ceil(FRAME) as u64);
    assert!(stats.hits > stats.misses && stats.frame_bytes as usize > raw.len());
    for (offset, len) in [(raw.len() as u64, 1), (u64::MAX, 1), (0, raw.len() + 1)] {
        let error = rig.packs.read(pack.id, offset, len).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }));
    }
}

#[test]
fn an_uploaded_pack_comes_back_after_eviction_with_one_request() {
    let rig = Rig::plain();
    let (pack, raw) = build(12);
    rig.packs.put_local(&pack).unwrap();
    assert_eq!(rig.packs.evict_all(), 0, "the only copy stays");
    assert_eq!(rig.packs.not_uploaded(), [pack.id]);
    rig.upload(pack.id).unwrap();
    rig.upload(pack.id).unwrap();
    assert_eq!(rig.counting.counts().put.requests, 1);
    assert!(rig.packs.not_uploaded().is_empty());
    assert_eq!(rig.packs.evict_all(), pack.bytes.len() as u64);
    assert!(!rig.packs.is_local(pack.id));
    assert_eq!(rig.packs.read_cached(pack.id, 0, 10).unwrap(), None);
    assert_eq!(rig.packs.read(pack.id, 0, raw.len()).unwrap(), raw);
    assert_eq!(rig.packs.read(pack.id, 5, 9000).unwrap(), raw[5..9005]);
    assert_eq!(rig.gets(), 1);
    assert!(rig.packs.is_local(pack.id));
    let cached = rig.packs.read_cached(pack.id, 7, 10).unwrap();
    assert_eq!(cached.unwrap(), raw[7..17]);
    assert_eq!(rig.packs.stats().uploads, 1);
}

#[test]
fn many_readers_of_a_cold_pack_make_one_request() {
    let rig = Rig::plain();
    let (pack, raw) = build(13);
    rig.store_only(&pack);
    rig.faults.add(FaultRule::on(
        Verb::Get,
        Fault::Delay(Duration::from_millis(30)),
    ));
    std::thread::scope(|scope| {
        for n in 0..8usize {
            let (rig, raw, pack) = (&rig, &raw, &pack);
            scope.spawn(move || {
                let got = rig.packs.read(pack.id, n as u64 * 1000, 3000).unwrap();
                assert_eq!(got, raw[n * 1000..n * 1000 + 3000]);
            });
        }
    });
    assert_eq!(rig.gets(), 1);
}

#[test]
fn reading_ahead_brings_the_pack_once() {
    let rig = Rig::plain();
    let (pack, raw) = build(14);
    rig.store_only(&pack);
    assert!(rig.packs.prefetch(pack.id));
    assert_eq!(rig.packs.read(pack.id, 0, 100).unwrap(), raw[..100]);
    assert!(rig.packs.prefetch(pack.id), "there already");
    assert_eq!(rig.gets(), 1);
    assert!(
        rig.packs.prefetch(PackId([0; 16])),
        "a missing pack is found out by reading"
    );
}

#[test]
fn passing_errors_are_hidden_and_a_missing_pack_is_named() {
    let rig = Rig::plain();
    let (pack, raw) = build(15);
    rig.store_only(&pack);
    let fault = Fault::ErrorBefore(FaultKind::Unavailable);
    rig.faults.add(FaultRule::on(Verb::Get, fault).times(7));
    assert_eq!(rig.packs.read(pack.id, 0, 100).unwrap(), raw[..100]);
    assert_eq!(rig.gets(), 8);
    let missing = PackId([0xee; 16]);
    let error = rig.packs.read(missing, 0, 1).unwrap_err();
    assert!(matches!(error, Error::PackNotFound(id) if id == missing));
    assert_eq!(error.advice(), Advice::GiveUp);
    let denied = Fault::ErrorBefore(FaultKind::Denied);
    rig.faults.add(FaultRule::on(Verb::Get, denied));
    let error = rig.packs.read(missing, 0, 1).unwrap_err();
    assert_eq!(error.advice(), Advice::Fix);
}

#[test]
fn an_outage_ends_a_read_at_its_deadline_and_spares_what_is_local() {
    for outage in [Outage::Refused, Outage::Hanging] {
        let rig = Rig::new(|config| config.read_deadline = Duration::from_millis(200));
        let ((cold, raw), (warm, warm_raw)) = (build(16), build(17));
        rig.store_only(&cold);
        rig.packs.put_local(&warm).unwrap();
        rig.faults.set_outage(outage);
        let error = rig.packs.read(cold.id, 0, 10).unwrap_err();
        assert!(
            matches!(&error, Error::Unavailable { pack, waited, .. }
                if *pack == cold.id && *waited >= Duration::from_millis(200)),
            "{error}"
        );
        assert_eq!(error.advice(), Advice::Retry);
        assert_eq!(rig.packs.read(warm.id, 0, 10).unwrap(), warm_raw[..10]);
        assert_eq!(rig.packs.read_cached(cold.id, 0, 10).unwrap(), None);
        rig.faults.heal();
        let healed = (0..50).find_map(|_| rig.packs.read(cold.id, 0, 10).ok());
        assert_eq!(healed.unwrap(), raw[..10], "it heals by itself");
    }
}

#[test]
fn a_read_that_waits_gets_its_bytes_when_the_outage_ends() {
    let rig = Rig::plain();
    let (pack, raw) = build(18);
    rig.store_only(&pack);
    rig.faults.set_outage(Outage::Refused);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| rig.packs.read(pack.id, 0, 10));
        while rig.gets() < 6 {
            std::thread::sleep(Duration::from_millis(5));
        }
        rig.faults.heal();
        assert_eq!(read.join().unwrap().unwrap(), raw[..10]);
    });
}

#[test]
fn a_body_damaged_or_cut_on_its_way_is_asked_for_again() {
    for fault in [Fault::DamagedBody, Fault::ShortBody] {
        let rig = Rig::plain();
        let (pack, raw) = build(19);
        rig.store_only(&pack);
        rig.faults.add(FaultRule::on(Verb::Get, fault).times(1));
        assert_eq!(rig.packs.read(pack.id, 0, raw.len()).unwrap(), raw);
        assert_eq!((rig.gets(), rig.packs.stats().damaged), (2, 1));
    }
}

#[test]
fn a_damaged_clean_copy_is_replaced_from_the_store() {
    let rig = Rig::plain();
    let (pack, raw) = build(20);
    rig.packs.put_local(&pack).unwrap();
    rig.upload(pack.id).unwrap();
    for at in [70, pack.bytes.len() - 100, pack.bytes.len() - 3] {
        rig.packs.evict_all();
        assert_eq!(rig.packs.read(pack.id, 0, 10).unwrap(), raw[..10]);
        rig.packs.forget_decoded();
        let gets = rig.gets();
        flip(&rig.local_file(pack.id), at);
        assert_eq!(
            rig.packs.read(pack.id, 0, raw.len()).unwrap(),
            raw,
            "at {at}"
        );
        assert_eq!(rig.gets(), gets + 1);
    }
}

#[test]
fn damage_of_the_only_copy_is_named_and_never_uploaded() {
    let rig = Rig::plain();
    let (pack, raw) = build(21);
    rig.packs.put_local(&pack).unwrap();
    flip(&rig.local_file(pack.id), 70);
    let error = rig.packs.read(pack.id, 0, 10).unwrap_err();
    assert!(
        matches!(&error, Error::DamagedPack { pack: p, frame: Some(0), .. } if *p == pack.id),
        "{error}"
    );
    let last = raw.len() as u64 - 10;
    assert_eq!(
        rig.packs.read(pack.id, last, 10).unwrap(),
        raw[last as usize..]
    );
    assert!(matches!(
        rig.upload(pack.id),
        Err(Error::DamagedPack { frame: Some(0), .. })
    ));
    assert_eq!(rig.counting.counts().requests(), 0);
    assert_eq!(rig.packs.not_uploaded(), [pack.id]);
}

#[test]
fn a_frame_damaged_in_the_store_is_an_error_and_the_others_are_readable() {
    let rig = Rig::plain();
    let (pack, raw) = build(22);
    rig.store_only(&pack);
    let second = PackIndex::parse(&pack.bytes).unwrap().frames()[1];
    rig.memory.tamper(&pack.id.object_key(), |bytes| {
        bytes[second.stored_offset as usize + 3] ^= 1;
    });
    assert_eq!(rig.packs.read(pack.id, 0, 10).unwrap(), raw[..10]);
    assert_eq!(rig.gets(), 2, "damage anywhere in it is asked for again");
    let bad = rig.packs.read(pack.id, FRAME as u64, 10).unwrap_err();
    assert!(
        matches!(bad, Error::DamagedPack { frame: Some(1), .. }),
        "{bad}"
    );
    assert_eq!(rig.packs.read(pack.id, 0, FRAME).unwrap(), raw[..FRAME]);
    let after = 2 * FRAME;
    assert_eq!(
        rig.packs.read(pack.id, after as u64, FRAME).unwrap(),
        raw[after..after + FRAME]
    );
    assert!(rig.packs.read(pack.id, 0, 2 * FRAME).is_err());
}

#[test]
fn a_pack_whose_index_is_damaged_or_that_is_another_one_is_named() {
    let rig = Rig::plain();
    let ((pack, _), (other, _)) = (build(23), build(24));
    rig.store_only(&pack);
    let key = pack.id.object_key();
    rig.memory.tamper(&key, |bytes| bytes.truncate(200));
    let error = rig.packs.read(pack.id, 0, 10).unwrap_err();
    assert!(
        matches!(error, Error::DamagedPack { frame: None, .. }),
        "{error}"
    );
    assert_eq!(rig.gets(), 2);
    rig.memory
        .tamper(&key, |bytes| *bytes = other.bytes.to_vec());
    let error = rig.packs.read(pack.id, 0, 10).unwrap_err();
    assert!(
        matches!(error, Error::DamagedPack { frame: None, .. }),
        "{error}"
    );
    assert!(!rig.packs.is_local(pack.id));
}

#[test]
fn without_room_for_a_copy_reads_are_served_from_memory() {
    let rig = Rig::new(|config| config.cache_bytes = 10);
    let (pack, raw) = build(25);
    rig.store_only(&pack);
    for from in (0..raw.len() - 10).step_by(FRAME) {
        let got = rig.packs.read(pack.id, from as u64, 10).unwrap();
        assert_eq!(got, raw[from..from + 10]);
    }
    assert_eq!(rig.gets(), 1);
    assert_eq!(rig.packs.stats().local_packs, 0);
}

#[test]
fn a_small_budget_evicts_and_every_read_is_still_right() {
    let packs: Vec<_> = (30..36).map(build).collect();
    let most = packs.iter().map(|(p, _)| p.bytes.len()).max().unwrap() as u64;
    let rig = Rig::new(|config| {
        config.cache_bytes = 2 * most;
        config.frame_cache_bytes = 20_000;
    });
    for (pack, _) in &packs {
        rig.packs.put_local(pack).unwrap();
        rig.upload(pack.id).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (rig, packs) = (&rig, &packs);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(thread);
                for _ in 0..150 {
                    let (pack, raw) = &packs[rng.random_range(0..packs.len())];
                    let from = rng.random_range(0..raw.len());
                    let len = rng.random_range(0..=(raw.len() - from).min(9000));
                    let got = rig.packs.read(pack.id, from as u64, len).unwrap();
                    assert_eq!(got, raw[from..from + len]);
                }
            });
        }
    });
    let stats = rig.packs.stats();
    assert!(stats.evicted_packs > 0 && stats.fetches > 0);
    assert!(stats.local_bytes <= 2 * most, "{stats:?}");
    assert!(stats.frame_bytes <= 20_000, "{stats:?}");
    rig.packs.set_budget(0);
    assert_eq!(rig.packs.stats().local_bytes, 0);
}

#[test]
fn the_memory_for_frames_changes_while_it_is_used() {
    let (pack, raw) = build(37);
    let rig = Rig::new(|config| config.frame_cache_bytes = 1 << 20);
    rig.packs.put_local(&pack).unwrap();
    let read = || rig.packs.read(pack.id, 0, raw.len()).unwrap();
    assert_eq!(read(), raw);
    assert!(rig.packs.stats().frame_bytes as usize >= raw.len());
    let decoded = rig.packs.stats().misses;
    // The same budget again costs nothing.
    rig.packs.set_frame_budget(1 << 20);
    assert_eq!(read(), raw);
    assert_eq!(rig.packs.stats().misses, decoded);

    rig.packs.set_frame_budget(20_000);
    let stats = rig.packs.stats();
    assert_eq!((stats.frame_bytes, stats.frame_budget), (0, 20_000));
    assert_eq!(read(), raw);
    assert!(rig.packs.stats().frame_bytes <= 20_000);
}

#[test]
fn uploads_survive_lost_answers_and_never_replace_an_object() {
    let rig = Rig::plain();
    let ((lost, _), (taken, _)) = (build(40), build(41));
    rig.packs.put_local(&lost).unwrap();
    let fault = Fault::ErrorAfter(FaultKind::Timeout);
    rig.faults.add(FaultRule::on(Verb::Put, fault).times(1));
    // The body read back to compare comes damaged once, too.
    rig.faults
        .add(FaultRule::on(Verb::Get, Fault::DamagedBody).times(1));
    rig.upload(lost.id).unwrap();
    assert!(rig.packs.not_uploaded().is_empty());
    let counts = rig.counting.counts();
    assert_eq!((counts.put.requests, counts.get.requests), (1, 2));

    rig.packs.put_local(&taken).unwrap();
    let key = taken.id.object_key();
    let other = Bytes::from_static(b"something else");
    let put = rig.memory.put(&key, other.clone(), PutCondition::Always);
    rig.runtime.block_on(put).unwrap();
    let error = rig.upload(taken.id).unwrap_err();
    assert!(matches!(error, Error::PackConflict(id) if id == taken.id));
    let there = rig.runtime.block_on(rig.memory.get(&key, None)).unwrap();
    assert_eq!(there.bytes, other);
    assert_eq!(rig.packs.not_uploaded(), [taken.id]);
    assert!(matches!(
        rig.upload(PackId([1; 16])),
        Err(Error::PackNotFound(_))
    ));
}

#[test]
fn a_failed_upload_keeps_the_only_copy_and_can_be_repeated() {
    let rig = Rig::plain();
    let (pack, raw) = build(42);
    rig.packs.put_local(&pack).unwrap();
    rig.faults.set_outage(Outage::Refused);
    assert_eq!(rig.upload(pack.id).unwrap_err().advice(), Advice::Retry);
    assert_eq!(rig.packs.evict_all(), 0);
    assert_eq!(rig.packs.read(pack.id, 0, 10).unwrap(), raw[..10]);
    rig.faults.heal();
    rig.upload(pack.id).unwrap();
    assert!(rig.packs.evict_all() > 0);
}

#[test]
fn uploads_at_a_time_are_bounded() {
    let rig = Rig::new(|config| config.max_uploads = 2);
    let packs: Vec<_> = (50..54).map(|seed| build(seed).0).collect();
    for pack in &packs {
        rig.packs.put_local(pack).unwrap();
    }
    rig.faults.set_outage(Outage::Hanging);
    let packs_ref = &rig.packs;
    rig.runtime.block_on(async {
        let mut uploads: Vec<_> = packs
            .iter()
            .map(|pack| Box::pin(packs_ref.upload(pack.id)))
            .collect();
        // Give each of them every chance to begin.
        for _ in 0..20 {
            for upload in &mut uploads {
                let pause = Duration::from_millis(1);
                assert!(tokio::time::timeout(pause, upload).await.is_err());
            }
        }
        assert_eq!(packs_ref.upload_turns.available_permits(), 0);
        rig.faults.heal();
        for upload in uploads {
            upload.await.unwrap();
        }
        assert_eq!(packs_ref.upload_turns.available_permits(), 2);
    });
    // Two hung in the outage and were repeated; the others waited for their turn.
    assert_eq!(rig.counting.counts().put.requests, 6);
}

#[test]
fn reopening_knows_what_is_not_uploaded_and_what_is_lost() {
    let rig = Rig::plain();
    let ((kept, raw), (clean, _)) = (build(60), build(61));
    rig.packs.put_local(&kept).unwrap();
    rig.packs.put_local(&clean).unwrap();
    rig.upload(clean.id).unwrap();
    let lost = PackId([0xdd; 16]);
    let store = Arc::clone(&rig.counting) as Arc<dyn ObjectStore>;
    let reopened = Packs::open(
        config(rig.dir.path()),
        store,
        rig.runtime.handle().clone(),
        vec![kept.id, lost],
    )
    .unwrap();
    assert_eq!(reopened.missing(), [lost]);
    assert_eq!(reopened.not_uploaded(), [kept.id]);
    assert_eq!(reopened.evict_all(), clean.bytes.len() as u64);
    assert_eq!(reopened.read(kept.id, 0, raw.len()).unwrap(), raw);
    reopened.forget(kept.id).unwrap();
    reopened.forget(kept.id).unwrap();
    assert!(!rig.local_file(kept.id).exists());
}

#[test]
fn senseless_settings_are_refused() {
    let rig = Rig::plain();
    for change in [
        (|c| c.free_floor_ratio = 1.0) as fn(&mut PacksConfig),
        |c| c.free_floor_ratio = f64::NAN,
        |c| c.max_downloads = 0,
        |c| c.max_uploads = 100_000,
    ] {
        let mut config = config(rig.dir.path());
        change(&mut config);
        let store = Arc::clone(&rig.counting) as Arc<dyn ObjectStore>;
        let opened = Packs::open(config, store, rig.runtime.handle().clone(), vec![]);
        assert!(matches!(opened, Err(Error::Setting { .. })));
    }
}
