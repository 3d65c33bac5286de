//! Frames: compressing a cut of the raw space, and getting it back verified. Knows nothing of where frames are kept.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::index::{Codec, FrameEntry, PackIndex};

/// A frame is compressed only when it becomes smaller than this share of itself, in percent.
const WORTH_PERCENT: usize = 94;

/// What is wrong with a frame.
pub(super) type Fault = &'static str;

/// Compresses frames with one context.
pub(super) struct FrameEncoder {
    /// Absent when there is no memory for a context; frames are then stored as they are.
    compressor: Option<Compressor<'static>>,
}

impl FrameEncoder {
    pub(super) fn new(level: i32) -> Self {
        Self {
            compressor: Compressor::new(level).ok(),
        }
    }

    /// Adds a frame to the object in `out`, whose raw bytes begin at `raw_start`.
    pub(super) fn append(&mut self, raw_start: u64, raw: &[u8], out: &mut Vec<u8>) -> FrameEntry {
        let packed = self
            .compressor
            .as_mut()
            .and_then(|compressor| compressor.compress(raw).ok())
            .filter(|packed| packed.len() * 100 <= raw.len() * WORTH_PERCENT);
        let (codec, stored) = match &packed {
            Some(packed) => (Codec::Zstd, packed.as_slice()),
            None => (Codec::Stored, raw),
        };
        let raw_crc = crc32c::crc32c(raw);
        let stored_crc = match codec {
            Codec::Stored => raw_crc,
            Codec::Zstd => crc32c::crc32c(stored),
        };
        let entry = FrameEntry {
            raw_start,
            raw_len: raw.len() as u64,
            stored_offset: out.len() as u64,
            // A frame is at most MAX_FRAME_BYTES, and stored as it is when compression makes it longer.
            stored_len: stored.len() as u32,
            codec,
            stored_crc,
            raw_crc,
        };
        out.extend_from_slice(stored);
        entry
    }
}

/// The raw bytes of a frame from its stored ones, both verified.
pub(super) fn decode_frame(entry: &FrameEntry, stored: Bytes) -> Result<Bytes, Fault> {
    check_stored(entry, &stored)?;
    let raw = match entry.codec {
        Codec::Stored => stored,
        Codec::Zstd => decompress(&stored, entry.raw_len as usize)
            .ok_or("its compressed bytes cannot be decompressed")?
            .into(),
    };
    if raw.len() as u64 != entry.raw_len {
        return Err("it has another length than its entry says");
    }
    if crc32c::crc32c(&raw) != entry.raw_crc {
        return Err("the checksum of its raw bytes does not match");
    }
    Ok(raw)
}

/// Verifies the stored bytes of all frames of an object and, if `deep`, their raw bytes. Names the first bad frame.
pub(super) fn check_frames(
    index: &PackIndex,
    object: &[u8],
    deep: bool,
) -> Result<(), (usize, Fault)> {
    for (n, entry) in index.frames().iter().enumerate() {
        let start = entry.stored_offset as usize;
        let stored = object
            .get(start..start.saturating_add(entry.stored_len as usize))
            .ok_or((n, "it is cut off"))?;
        check_stored(entry, stored).map_err(|fault| (n, fault))?;
        if deep {
            decode_frame(entry, Bytes::copy_from_slice(stored)).map_err(|fault| (n, fault))?;
        }
    }
    Ok(())
}

fn check_stored(entry: &FrameEntry, stored: &[u8]) -> Result<(), Fault> {
    if stored.len() != entry.stored_len as usize {
        return Err("it is cut off");
    }
    if crc32c::crc32c(stored) != entry.stored_crc {
        return Err("the checksum of its stored bytes does not match");
    }
    Ok(())
}

/// At most `capacity` bytes, which the index has bounded by `MAX_FRAME_BYTES`.
fn decompress(stored: &[u8], capacity: usize) -> Option<Vec<u8>> {
    thread_local! {
        /// One context for each reading thread: making one costs more than decoding a small frame.
        static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        if context.is_none() {
            *context = Decompressor::new().ok();
        }
        context.as_mut()?.decompress(stored, capacity).ok()
    })
}
