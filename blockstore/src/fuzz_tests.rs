//! The decoders against damaged and hostile bytes, on the stable compiler: seeded changes of valid encodings.
//! `fuzz/` has the same decoders for cargo-fuzz. `WELDRFS_FUZZ_ROUNDS` sets the number of cases of each target.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::{
    MAX_FRAME_BYTES, PACK_HEADER_BYTES, PACK_TRAILER_BYTES, PackBuilder, PackId, PackIndex,
    PackSettings, SegmentHeader, SegmentId, validate_key, verify_pack,
};

const ROUNDS: usize = 20_000;
const SEED: u64 = 0x5eed;
const TRAILER_SUMMED: usize = 68;

fn rounds() -> usize {
    match std::env::var("WELDRFS_FUZZ_ROUNDS") {
        Ok(text) => text.parse().expect("WELDRFS_FUZZ_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

/// Changes bytes in one to four places from `from` on: bits, numbers that are likely to hurt, noise, cuts, splices.
fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>, from: usize) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.len() <= from {
            bytes.push(rng.random());
        }
        let at = rng.random_range(from.min(bytes.len() - 1)..bytes.len());
        match rng.random_range(0..10) {
            0..3 => bytes[at] ^= 1 << rng.random_range(0..8),
            3..5 => bytes[at] = rng.random(),
            5..7 => {
                let odd = [0, 1, 40, 64, 0xffff_ffff, 1 << 20, (1 << 20) + 1];
                let number: u64 = odd[rng.random_range(0..odd.len())];
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            7 => bytes.truncate(at),
            8 => {
                let copied = rng.random_range(0..bytes.len());
                let piece = bytes[copied..bytes.len().min(copied + 40)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = bytes.len().min(at + rng.random_range(1..40));
                bytes.drain(at..end);
            }
        }
    }
}

/// A small pack: three frames of one that compresses and one that does not.
fn pack(rng: &mut SmallRng) -> Vec<u8> {
    let settings = PackSettings {
        frame_bytes: 4096,
        ..PackSettings::default()
    };
    let mut builder = PackBuilder::new(PackId::random(rng), &settings);
    let mut noise = vec![0; 5000];
    rng.fill_bytes(&mut noise);
    builder.push(1, &[7; 5000]);
    builder.push(2, b"");
    builder.push(3, &noise);
    builder.finish().bytes.to_vec()
}

fn put_sum(bytes: &mut [u8], from: usize, to: usize, at: usize) {
    let sum = crc32c::crc32c(&bytes[from..to]);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

/// The checksums of header, index and trailer, made anew after a change: what is behind them must hold by itself.
fn resum(object: &mut [u8]) {
    let Some(trailer) = object.len().checked_sub(PACK_TRAILER_BYTES) else {
        return;
    };
    if trailer >= PACK_HEADER_BYTES {
        put_sum(object, 0, PACK_HEADER_BYTES - 4, PACK_HEADER_BYTES - 4);
    }
    let mut raw = [0; 8];
    raw.copy_from_slice(&object[trailer..trailer + 8]);
    let index = usize::try_from(u64::from_le_bytes(raw)).map_or(trailer, |at| at.min(trailer));
    put_sum(object, index, trailer, trailer + 64);
    put_sum(
        object,
        trailer,
        trailer + TRAILER_SUMMED,
        trailer + TRAILER_SUMMED,
    );
}

/// What an index promises to whoever reads by it.
fn assert_sound(index: &PackIndex, object_len: usize) {
    let (mut raw, mut stored) = (0, PACK_HEADER_BYTES as u64);
    for frame in index.frames() {
        assert_eq!((frame.raw_start, frame.stored_offset), (raw, stored));
        assert!((1..=MAX_FRAME_BYTES as u64).contains(&frame.raw_len));
        raw += frame.raw_len;
        stored += u64::from(frame.stored_len);
    }
    assert_eq!(raw, index.raw_len());
    assert!(stored <= object_len as u64);
    let mut at = 0;
    for extent in index.extents() {
        assert_eq!(extent.raw_offset, at);
        at += extent.len;
    }
    assert_eq!(at, index.raw_len());
}

#[test]
fn fuzz_segment_header() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let mut taken = 0;
    for round in 0..rounds() {
        let header = SegmentHeader {
            id: SegmentId(rng.random()),
            salt: rng.random(),
        };
        let mut bytes = header.encode();
        let summed = bytes.len() - 4;
        if rng.random() {
            // In the fields, with the right checksum.
            let at = rng.random_range(0..40);
            bytes[at] = rng.random();
            put_sum(&mut bytes, 0, summed, summed);
        } else {
            mutate(&mut rng, &mut bytes, 0);
        }
        if let Ok(found) = SegmentHeader::parse(&bytes) {
            assert_eq!(found.encode()[..32], bytes[..32], "round {round}");
            taken += 1;
        }
    }
    assert!(taken > 0);
}

#[test]
fn fuzz_pack_index() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let good = pack(&mut rng);
    let trailer = good.len() - PACK_TRAILER_BYTES;
    let index = good.len() - PackIndex::tail_len(good.len() as u64, &good).unwrap() as usize;
    let mut taken = 0;
    for round in 0..rounds() {
        let mut bytes = good.clone();
        let is_summed: bool = rng.random();
        if is_summed && rng.random() {
            // One field in place: most others are refused for their length alone.
            let at = rng.random_range(index..trailer + 64);
            bytes[at] ^= 1 << rng.random_range(0..8);
        } else {
            mutate(&mut rng, &mut bytes, index);
        }
        if is_summed {
            resum(&mut bytes);
        }
        let parsed = PackIndex::parse(&bytes);
        let len = bytes.len() as u64;
        if let Ok(found) = &parsed {
            assert_sound(found, bytes.len());
            assert_eq!(&PackIndex::parse_tail(len, &bytes).unwrap(), found);
            taken += 1;
        }
        // From a part of the end, and with a length that is not the object's.
        let tail = &bytes[rng.random_range(0..=bytes.len())..];
        let needed = PackIndex::tail_len(len, tail);
        if let Ok(found) = PackIndex::parse_tail(len, tail) {
            assert_sound(&found, bytes.len());
            assert!(
                needed.is_ok_and(|n| n <= tail.len() as u64),
                "round {round}"
            );
        }
        assert!(
            PackIndex::parse_tail(rng.random(), tail).is_err(),
            "round {round}"
        );
    }
    assert!(taken > 0, "an extent's id may be anything");
}

/// Frames too: what verifies has the content that was packed, whatever happened to the rest.
#[test]
fn fuzz_pack_verify() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let good = pack(&mut rng);
    let whole = PackIndex::parse(&good).unwrap();
    let mut refused = 0;
    for round in 0..rounds() / 4 {
        let mut bytes = good.clone();
        mutate(&mut rng, &mut bytes, 0);
        if rng.random() {
            resum(&mut bytes);
        }
        match verify_pack(&bytes) {
            Ok(found) => {
                assert_sound(&found, bytes.len());
                let sums = |index: &PackIndex| -> Vec<u32> {
                    index.frames().iter().map(|frame| frame.raw_crc).collect()
                };
                assert_eq!(sums(&found), sums(&whole), "round {round}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

/// Names: what parses is spelt in one way, and no key leaves its directory.
#[test]
fn fuzz_names() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let (mut ids, mut keys) = (0, 0);
    for _ in 0..rounds() {
        let mut text = PackId::random(&mut rng).object_key().into_bytes();
        mutate(&mut rng, &mut text, 0);
        let Ok(text) = String::from_utf8(text) else {
            continue;
        };
        if let Some(id) = PackId::from_object_key(&text) {
            assert_eq!(id.object_key(), text);
            ids += 1;
        }
        if validate_key(&text).is_ok() {
            let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
            assert!(text.split('/').all(is_plain), "{text}");
            assert!(!text.contains(['\0', '\\']), "{text}");
            keys += 1;
        }
        let name = text.rsplit('/').next().unwrap_or_default();
        if let Ok(id) = name.parse::<PackId>() {
            assert_eq!(id.to_string(), name);
        }
        if let Ok(id) = name.parse::<SegmentId>() {
            assert_eq!(id.to_string(), name);
        }
    }
    assert!(ids > 0 && keys > ids, "{ids} ids, {keys} keys");
}
