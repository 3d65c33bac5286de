//! Writing what is around the frames of a pack: header, frame table, extent table, trailer. `index` reads it.

use super::index::{
    Codec, FrameEntry, HEADER_CRC_AT, HEADER_MAGIC, PACK_FORMAT_VERSION, PACK_HEADER_BYTES,
    PackExtent, TRAILER_MAGIC,
};
use crate::ids::PackId;

/// The header of a pack.
pub(super) fn encode_header(id: PackId) -> Vec<u8> {
    let mut out = Vec::with_capacity(PACK_HEADER_BYTES);
    out.extend_from_slice(&HEADER_MAGIC);
    out.extend_from_slice(&PACK_FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes()); // key id: not encrypted
    out.extend_from_slice(&id.0);
    out.resize(HEADER_CRC_AT, 0);
    push_crc(&mut out, 0);
    out
}

/// Adds index and trailer to an object that so far is header and frames.
pub(super) fn append_index(
    out: &mut Vec<u8>,
    id: PackId,
    frames: &[FrameEntry],
    extents: &[PackExtent],
    raw_len: u64,
) {
    let index_offset = out.len();
    for frame in frames {
        for field in [frame.raw_start, frame.raw_len, frame.stored_offset] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&frame.stored_len.to_le_bytes());
        let codec = match frame.codec {
            Codec::Stored => 0,
            Codec::Zstd => 1,
        };
        out.extend_from_slice(&[codec, 0, 0, 0]);
        out.extend_from_slice(&frame.stored_crc.to_le_bytes());
        out.extend_from_slice(&frame.raw_crc.to_le_bytes());
    }
    for extent in extents {
        for field in [extent.id, extent.raw_offset, extent.len] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    let index_crc = crc32c::crc32c(&out[index_offset..]);
    let trailer = out.len();
    for field in [
        index_offset as u64,
        (trailer - index_offset) as u64,
        raw_len,
    ] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    out.extend_from_slice(&(extents.len() as u32).to_le_bytes());
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&PACK_FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 12]); // key id, reserved
    out.extend_from_slice(&index_crc.to_le_bytes());
    push_crc(out, trailer);
    out.extend_from_slice(&TRAILER_MAGIC);
}

fn push_crc(out: &mut Vec<u8>, from: usize) {
    let crc = crc32c::crc32c(&out[from..]);
    out.extend_from_slice(&crc.to_le_bytes());
}
