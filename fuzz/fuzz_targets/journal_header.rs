//! The header of a journal file, as it came and with the right checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_meta::JournalHeader;

fn check(bytes: &[u8]) {
    if let Ok(header) = JournalHeader::parse(bytes) {
        assert_eq!(header.key_id, 0);
        assert_eq!(header.number.to_le_bytes(), bytes[16..24]);
        assert_eq!(header.durable.0.to_le_bytes(), bytes[56..64]);
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&weldrfs_fuzz::journal_header(bytes));
});
