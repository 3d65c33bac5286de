//! What the namespace asks of the bytes: make them durable, and are they there.

use std::io;
use std::sync::Arc;

use weldrfs_blockstore::{BLOCK_BYTES, SegmentId, SegmentStore, verify_sums};
use weldrfs_meta::{DataBarrier, Location, Place};

/// The namespace's view of the segments.
pub(crate) struct Barrier(pub(crate) Arc<SegmentStore>);

impl DataBarrier for Barrier {
    fn flush(&self) -> io::Result<()> {
        self.0.flush().map_err(io::Error::other)
    }

    fn is_flushed(&self) -> bool {
        self.0.is_flushed()
    }

    fn verify(&self, location: &Location, from_block: u64) -> bool {
        let Place::Segment { segment, offset } = location.place else {
            return true;
        };
        let start = from_block * BLOCK_BYTES as u64;
        let Some(len) = location
            .len
            .checked_sub(start)
            .and_then(|len| usize::try_from(len).ok())
        else {
            return false;
        };
        let Some(sums) = usize::try_from(from_block)
            .ok()
            .and_then(|from| location.sums.get(from..))
        else {
            return false;
        };
        let Some(at) = offset.checked_add(start) else {
            return false;
        };
        match self.0.read(SegmentId(segment), at, len) {
            Ok(bytes) => verify_sums(&bytes, 0, sums).is_ok(),
            Err(_) => false,
        }
    }
}
