//! Read-ahead from the store: who reads a file in order finds the next pack on its way.
//!
//! Only a hint. Within a pack nothing is needed: packs are fetched whole.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use weldrfs_meta::{Ino, Piece, Place};

use super::Engine;

/// Files whose reading position is remembered.
const FILES: NonZeroUsize = NonZeroUsize::new(256).expect("it is not 0");
/// How far ahead of the reader a pack is asked for, bytes: a pack's worth.
const AHEAD_BYTES: u64 = 16 << 20;

/// Where recent reads ended.
pub(super) struct Positions(Mutex<LruCache<Ino, u64>>);

impl Default for Positions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(FILES)))
    }
}

impl Positions {
    /// Notes a read and says whether it went on where the last one of the file ended.
    fn is_in_order(&self, ino: Ino, offset: u64, end: u64) -> bool {
        self.0.lock().put(ino, end) == Some(offset)
    }
}

impl Engine {
    /// Called by every read, with the runs it is about to read. Asks for the pack that lies ahead of a reader who goes
    /// through a file in order and has come to bytes that are in packs.
    pub(super) fn read_ahead(&self, ino: Ino, offset: u64, len: u64, pieces: &[Piece]) {
        let end = offset + len;
        let Some(last) = pieces.last() else { return };
        let in_pack = |extent| {
            matches!(
                self.ns.location(extent).map(|l| l.place),
                Ok(Place::Pack { .. })
            )
        };
        if !in_pack(last.extent) || !self.positions.is_in_order(ino, offset, end) {
            return;
        }
        // Nothing here is worth an error: the read that comes will tell.
        let Ok((_, pieces)) = self.ns.map(ino, end + AHEAD_BYTES, 1) else {
            return;
        };
        let Some(location) = pieces.first().and_then(|p| self.ns.location(p.extent).ok()) else {
            return;
        };
        let Place::Pack { pack, .. } = location.place else {
            return;
        };
        let id = self.pack_ids.read().get(&pack).copied();
        if let Some(id) = id.filter(|id| !self.packs.is_local(*id)) {
            self.packs.prefetch(id);
        }
    }
}
