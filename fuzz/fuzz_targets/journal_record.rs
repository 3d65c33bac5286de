//! A journal record, as it came and with the right checksum. The first eight bytes are the salt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_meta::{decode_changes, parse_record};

fn check(salt: u64, record: &[u8]) {
    if let Some((header, payload)) = parse_record(salt, record) {
        assert_eq!(payload.len(), header.len as usize);
        assert!(!payload.is_empty());
        let _ = decode_changes(payload);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((salt, record)) = bytes.split_first_chunk() else {
        return;
    };
    let salt = u64::from_le_bytes(*salt);
    check(salt, record);
    check(salt, &weldrfs_fuzz::journal_record(salt, record));
});
