//! The header of a segment file, as it came and with the right checksum. What parses is encoded to the same fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_blockstore::SegmentHeader;

fn check(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::parse(bytes) {
        assert_eq!(header.encode()[..32], bytes[..32]);
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&weldrfs_fuzz::segment_header(bytes));
});
