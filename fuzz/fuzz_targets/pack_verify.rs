//! A whole pack with its frames: checksums and decompression.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_blockstore::{PackIndex, verify_pack};

fn check(bytes: &[u8]) {
    if let Ok(index) = verify_pack(bytes) {
        assert_eq!(PackIndex::parse(bytes).ok(), Some(index));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&weldrfs_fuzz::pack(0, bytes));
});
