//! The index of a whole pack, as it came and with the right checksums. What parses has no gap and no overlap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_blockstore::PackIndex;

fn check(bytes: &[u8]) {
    if let Ok(index) = PackIndex::parse(bytes) {
        let frames: u64 = index.frames().iter().map(|frame| frame.raw_len).sum();
        let extents: u64 = index.extents().iter().map(|extent| extent.len).sum();
        assert_eq!((frames, extents), (index.raw_len(), index.raw_len()));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&weldrfs_fuzz::pack(0, bytes));
});
