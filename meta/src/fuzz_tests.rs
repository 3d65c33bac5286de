//! The decoders against damaged and hostile bytes, on the stable compiler: seeded changes of valid encodings.
//! `fuzz/` has the same decoders for cargo-fuzz. `WELDRFS_FUZZ_ROUNDS` sets the number of cases of each target.

use std::fs;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::changes::Change;
use crate::codec::tests::one_of_each;
use crate::codec::{decode_changes, encode_changes};
use crate::error::MetaError;
use crate::ids::{Ino, Lsn};
use crate::journal::{Inherited, Journal, JournalHeader, parse_record};
use crate::settings::JOURNAL_FILE_BYTES;

const ROUNDS: usize = 20_000;
const SEED: u64 = 0x5eed;
/// Bytes of a journal file before its first record, and of a record before its payload.
const FILE_HEADER: usize = 4096;
const RECORD_HEADER: usize = 40;

fn rounds() -> usize {
    match std::env::var("WELDRFS_FUZZ_ROUNDS") {
        Ok(text) => text.parse().expect("WELDRFS_FUZZ_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

/// Changes bytes in one to four places: bits, numbers that are likely to hurt, noise, cuts, splices.
fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..=4) {
        match rng.random() {
            true => damage(rng, bytes),
            false => reshape(rng, bytes),
        }
    }
}

/// Changes bytes in one place.
fn damage(rng: &mut SmallRng, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..4) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => {
            let odd = [0, 1, 0x7fff_ffff, 0xffff_ffff, 0x1_0000, 255, 256];
            let number: u32 = odd[rng.random_range(0..odd.len())];
            let end = bytes.len().min(at + 4);
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        _ => {
            let end = bytes.len().min(at + rng.random_range(1..16));
            rng.fill_bytes(&mut bytes[at..end]);
        }
    }
}

/// Cuts bytes off, takes some out or puts a copy of some in.
fn reshape(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(rng.random());
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..3) {
        0 => bytes.truncate(at),
        1 => {
            let from = rng.random_range(0..bytes.len());
            let piece = bytes[from..bytes.len().min(from + 64)].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let end = bytes.len().min(at + rng.random_range(1..64));
            bytes.drain(at..end);
        }
    }
}

fn encoded(rng: &mut SmallRng) -> Vec<u8> {
    let all = one_of_each();
    let mut out = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let one = rng.random_range(0..all.len());
        encode_changes(&all[one..=one], &mut out);
    }
    if rng.random_ratio(1, 8) {
        // A name of a length that may not be, well formed otherwise.
        let name = vec![b'n'; rng.random_range(0..400)].into();
        let parent = Ino(1);
        encode_changes(&[Change::DelDirent { parent, name }], &mut out);
    }
    out
}

fn has_good_name(change: &Change) -> bool {
    match change {
        Change::PutDirent { name, .. }
        | Change::DelDirent { name, .. }
        | Change::PutXattr { name, .. }
        | Change::DelXattr { name, .. } => (1..=255).contains(&name.len()),
        _ => true,
    }
}

/// What decodes is encoded to the same bytes again, so nothing is read that was not there.
#[test]
fn fuzz_changes() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds() {
        let mut bytes = encoded(&mut rng);
        mutate(&mut rng, &mut bytes);
        match decode_changes(&bytes) {
            Ok(changes) => {
                let mut again = Vec::new();
                encode_changes(&changes, &mut again);
                assert_eq!(again, bytes, "round {round}");
                assert!(changes.iter().all(has_good_name), "round {round}");
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn fuzz_journal_header() {
    let good = JournalHeader {
        key_id: 0,
        number: 3,
        salt: 77,
        boot_id: [5; 16],
        first: Lsn(9),
        durable: Lsn(8),
    };
    let mut rng = SmallRng::seed_from_u64(SEED);
    let mut taken = 0;
    for round in 0..rounds() {
        let mut bytes = good.encode()[..128].to_vec();
        mutate(&mut rng, &mut bytes);
        if rng.random() && bytes.len() >= 68 {
            let sum = crc32c::crc32c(&bytes[..64]);
            bytes[64..68].copy_from_slice(&sum.to_le_bytes());
        }
        if let Ok(header) = JournalHeader::parse(&bytes) {
            let again = header.encode();
            assert_eq!(again[12..64], bytes[12..64], "round {round}");
            assert_eq!(JournalHeader::parse(&again).unwrap(), header);
            taken += 1;
        }
    }
    assert!(taken > 0);
}

/// The checksum of a record, made anew after a change: what is behind it must hold by itself.
fn resum(salt: u64, record: &mut [u8]) {
    if let Some((len, _)) = record.split_first_chunk::<4>() {
        let end = RECORD_HEADER + u32::from_le_bytes(*len) as usize;
        if let Some(rest) = record.get(8..end) {
            let sum = crc32c::crc32c(&salt.to_le_bytes());
            let sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, len), rest);
            record[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

#[test]
fn fuzz_journal_record() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let (mut taken, mut decoded) = (0, 0);
    for round in 0..rounds() {
        let salt = rng.random();
        let payload = encoded(&mut rng);
        let mut record = vec![0; RECORD_HEADER];
        record[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        rng.fill_bytes(&mut record[8..]);
        record.extend_from_slice(&payload);
        mutate(&mut rng, &mut record);
        let is_summed: bool = rng.random();
        if is_summed {
            resum(salt, &mut record);
        }
        let Some((header, found)) = parse_record(salt, &record) else {
            continue;
        };
        assert!(is_summed, "round {round}: taken with a wrong checksum");
        assert_eq!(found.len(), header.len as usize, "round {round}");
        assert!(!found.is_empty() && RECORD_HEADER + found.len() <= record.len());
        assert_eq!(header.lsn.0.to_le_bytes(), record[8..16], "round {round}");
        taken += 1;
        decoded += usize::from(decode_changes(found).is_ok());
    }
    assert!(taken > decoded && decoded > 0, "{taken}, {decoded}");
}

/// A whole journal with damage anywhere, after a crash or after a power loss: what is replayed is a prefix of what was
/// written, or the damage has a name. Where later records still say what was flushed, none of that may be missing; and
/// in the same boot nothing may be missing that has something valid behind it.
#[test]
fn fuzz_replay() {
    const BOOT: [u8; 16] = [1; 16];
    const RECORDS: u8 = 40;
    let dir = tempfile::tempdir().unwrap();
    let inherited = Inherited::open(dir.path()).unwrap();
    let journal = Journal::start(dir.path().to_owned(), BOOT, Lsn(0), &inherited, 7).unwrap();
    for n in 0..RECORDS {
        let payload = vec![n; 1 + usize::from(n) * 3];
        journal
            .append(1, |out| out.extend_from_slice(&payload))
            .unwrap();
        if n == RECORDS / 2 {
            journal.note_durable(journal.flush(Lsn(u64::from(n) + 1)).unwrap());
        }
    }
    drop(journal);
    let path = dir.path().join("journal-0000000000000001");
    let used = FILE_HEADER + usize::from(RECORDS) * 128;
    let good = fs::read(&path).unwrap()[..used].to_vec();

    let mut rng = SmallRng::seed_from_u64(SEED);
    let (mut whole, mut shorter, mut damaged) = (0, 0, 0);
    for round in 0..rounds() / 200 {
        let mut bytes = good.clone();
        // Rarely in the header, which has one checksum for everything.
        let keep = if rng.random_ratio(1, 8) {
            0
        } else {
            FILE_HEADER
        };
        let is_reshaped: bool = rng.random();
        let mut behind = bytes.split_off(keep);
        match is_reshaped {
            true => mutate(&mut rng, &mut behind),
            false => damage(&mut rng, &mut behind),
        }
        bytes.append(&mut behind);
        bytes.truncate(JOURNAL_FILE_BYTES as usize);
        fs::write(&path, &bytes).unwrap();
        // A file of another length is damage by itself, and not what is tried here.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(JOURNAL_FILE_BYTES).unwrap();
        let boot = if rng.random() { BOOT } else { [2; 16] };
        let mut next = 0;
        let replayed = Inherited::open(dir.path()).and_then(|inherited| {
            inherited.replay(dir.path(), &boot, Lsn(0), |record| {
                assert_eq!(record.header.lsn.0, u64::from(next) + 1, "round {round}");
                assert!(
                    record.payload.iter().all(|byte| *byte == next),
                    "round {round}"
                );
                next += 1;
                Ok(true)
            })
        });
        match replayed {
            Ok(last) if last.0 == u64::from(RECORDS) => whole += 1,
            Ok(last) => {
                assert_eq!(last.0, u64::from(next), "round {round}");
                assert!(
                    is_reshaped || last.0 > u64::from(RECORDS / 2),
                    "round {round}: what was flushed is missing without a word"
                );
                // One place of damage is at most 16 bytes: the last record and the end of the one before.
                assert!(
                    is_reshaped || boot != BOOT || last.0 + 2 >= u64::from(RECORDS),
                    "round {round}: records in the middle are missing without a word"
                );
                shorter += 1;
            }
            Err(MetaError::Damaged { .. } | MetaError::NewerFormat { .. }) => damaged += 1,
            Err(other) => panic!("round {round}: {other}"),
        }
    }
    assert!(
        whole > 0 && shorter > 0 && damaged > 0,
        "{whole} whole, {shorter} shorter, {damaged} damaged"
    );
}
