//! The index read from the end of a pack. The first eight bytes are the length of the object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_blockstore::PackIndex;

fn check(len: u64, tail: &[u8]) {
    let needed = PackIndex::tail_len(len, tail);
    if let Ok(index) = PackIndex::parse_tail(len, tail) {
        assert!(needed.is_ok_and(|needed| needed <= tail.len() as u64));
        assert_eq!(index.frame_at(index.raw_len()), None);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((len, tail)) = bytes.split_first_chunk() else {
        return;
    };
    let len = u64::from_le_bytes(*len);
    check(len, tail);
    let start = len.saturating_sub(tail.len() as u64);
    check(len, &weldrfs_fuzz::pack(start, tail));
});
