//! Writing, damaging and reading back a journal.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;

const BOOT: [u8; 16] = [1; 16];
const OTHER_BOOT: [u8; 16] = [2; 16];

fn start(dir: &Path, last: u64) -> Journal {
    let inherited = Inherited::open(dir).unwrap();
    Journal::start(dir.to_owned(), BOOT, Lsn(last), &inherited, 7).unwrap()
}

fn append(journal: &Journal, payload: &[u8]) -> Lsn {
    journal
        .append(1, |out| out.extend_from_slice(payload))
        .unwrap()
}

fn replay(dir: &Path, boot: &[u8; 16], after: u64) -> Result<(Vec<Vec<u8>>, Lsn)> {
    let mut out = Vec::new();
    let inherited = Inherited::open(dir)?;
    let last = inherited.replay(dir, boot, Lsn(after), |r| {
        out.push(r.payload.to_vec());
        Ok(true)
    })?;
    Ok((out, last))
}

/// Offset of the n-th record (from 0) of the first file, when every record has a 16-byte payload.
fn nth(n: u64) -> u64 {
    HEADER_BYTES + n * record_bytes(16)
}

fn damage(dir: &Path, number: u64, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(files::path(dir, number))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn ten(dir: &Path) -> Journal {
    let journal = start(dir, 0);
    for i in 0..10_u8 {
        append(&journal, &[i; 16]);
    }
    journal
}

#[test]
fn what_was_appended_is_read_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    let (records, last) = replay(dir.path(), &BOOT, 0).unwrap();
    assert_eq!(last, Lsn(10));
    assert_eq!(records, (0..10_u8).map(|i| vec![i; 16]).collect::<Vec<_>>());
    assert_eq!(replay(dir.path(), &BOOT, 7).unwrap().0.len(), 3);
}

#[test]
fn records_go_on_over_many_files_and_freed_ones_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let journal = start(dir.path(), 0);
    let big = vec![3; 1 << 20];
    for _ in 0..20 {
        append(&journal, &big);
    }
    assert!(journal.bytes() >= 2 * JOURNAL_FILE_BYTES);
    assert_eq!(replay(dir.path(), &BOOT, 0).unwrap().1, Lsn(20));
    journal.free(Lsn(20));
    assert_eq!(journal.bytes(), JOURNAL_FILE_BYTES);
    for _ in 0..20 {
        append(&journal, &big);
    }
    let (records, last) = replay(dir.path(), &BOOT, 20).unwrap();
    assert_eq!((records.len(), last), (20, Lsn(40)));
}

#[test]
fn a_torn_last_record_was_never_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    damage(dir.path(), 1, nth(9) + 45);
    assert_eq!(replay(dir.path(), &BOOT, 0).unwrap().1, Lsn(9));
}

#[test]
fn damage_in_the_middle_is_named_in_the_same_boot() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    damage(dir.path(), 1, nth(4) + 45);
    let error = replay(dir.path(), &BOOT, 0).unwrap_err();
    assert!(
        matches!(
            error,
            MetaError::Damaged {
                what: "journal",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn after_a_power_loss_only_what_was_not_flushed_may_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = ten(dir.path());
    damage(dir.path(), 1, nth(4) + 45);
    assert_eq!(replay(dir.path(), &OTHER_BOOT, 0).unwrap().1, Lsn(4));
    journal.note_durable(journal.flush(Lsn(10)).unwrap());
    // The next record carries the news that ten are durable.
    append(&journal, &[11; 16]);
    let error = replay(dir.path(), &OTHER_BOOT, 0).unwrap_err();
    assert!(error.to_string().contains("follows"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let journal = start(dir.path(), 0);
    let big = vec![3; 1 << 20];
    for _ in 0..20 {
        append(&journal, &big);
    }
    fs::remove_file(files::path(dir.path(), 2)).unwrap();
    let error = replay(dir.path(), &BOOT, 0).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    fs::remove_file(files::path(dir.path(), 1)).unwrap();
    let error = replay(dir.path(), &BOOT, 0).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_damaged_header_is_named() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    damage(dir.path(), 1, 20);
    assert!(matches!(
        replay(dir.path(), &BOOT, 0),
        Err(MetaError::Damaged {
            what: "journal",
            ..
        })
    ));
}

#[test]
fn the_log_ends_where_the_reader_says_so() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    let inherited = Inherited::open(dir.path()).unwrap();
    let last = inherited
        .replay(dir.path(), &OTHER_BOOT, Lsn(0), |r| {
            Ok(r.header.lsn < Lsn(6))
        })
        .unwrap();
    assert_eq!(last, Lsn(5));
}

/// A journal over three files.
fn three_files(dir: &Path) -> Journal {
    let journal = start(dir, 0);
    let big = vec![3; 1 << 20];
    for _ in 0..20 {
        append(&journal, &big);
    }
    assert_eq!(journal.state.lock().files.len(), 3);
    journal
}

/// The power failed while a freed file was made into a new one: its new header was on the disk, its new name was not.
#[test]
fn a_recycled_file_under_its_old_name_is_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let journal = three_files(dir.path());
    journal.note_durable(journal.flush(Lsn(20)).unwrap());
    let covered = journal.state.lock().files[0].last;
    drop(journal);
    let header = JournalHeader {
        key_id: 0,
        number: 4,
        salt: 99,
        boot_id: BOOT,
        first: Lsn(21),
        durable: Lsn(20),
    };
    let file = OpenOptions::new()
        .write(true)
        .open(files::path(dir.path(), 1))
        .unwrap();
    file.write_all_at(&header.encode(), 0).unwrap();
    assert_eq!(
        replay(dir.path(), &OTHER_BOOT, covered.0).unwrap().1,
        Lsn(20)
    );
}

/// A power loss left a tail over several files, and recovery died after it had freed one of them.
#[test]
fn a_crash_while_inherited_files_are_freed_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    drop(three_files(dir.path()));
    damage(
        dir.path(),
        1,
        HEADER_BYTES + 100 + 3 * record_bytes(1 << 20),
    );
    let (_, last) = replay(dir.path(), &OTHER_BOOT, 0).unwrap();
    assert_eq!(last, Lsn(3));
    let inherited = Inherited::open(dir.path()).unwrap();
    // The first one it frees; a folder under the next one's spare name stops it there.
    fs::create_dir(dir.path().join("journal.spare-0000000000000002")).unwrap();
    fs::write(dir.path().join("journal.spare-0000000000000002/x"), "x").unwrap();
    inherited.free(dir.path());
    assert!(!files::path(dir.path(), 3).exists());
    assert!(files::path(dir.path(), 1).exists());
    assert_eq!(replay(dir.path(), &OTHER_BOOT, 3).unwrap().1, Lsn(3));
}

/// A process died while it wrote a new spare.
#[test]
fn half_a_spare_never_becomes_a_journal_file() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("journal.spare-0000000000000001");
    fs::write(&half, vec![0; 1 << 20]).unwrap();
    let journal = start(dir.path(), 0);
    append(&journal, &[1; 16]);
    journal.note_durable(journal.flush(Lsn(1)).unwrap());
    drop(journal);
    assert_eq!(replay(dir.path(), &BOOT, 0).unwrap().1, Lsn(1));
    assert!(!half.exists());
}
