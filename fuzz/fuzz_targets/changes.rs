//! The payload of a journal record. What decodes is encoded to the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weldrfs_meta::{decode_changes, encode_changes};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(changes) = decode_changes(bytes) {
        let mut again = Vec::new();
        encode_changes(&changes, &mut again);
        assert_eq!(again, bytes);
    }
});
