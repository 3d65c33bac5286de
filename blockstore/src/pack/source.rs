//! Where the stored bytes of a pack are read from: a local file, or a pack in memory. Caches nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::fetch::Fetched;
use super::frame::decode_frame;
use super::index::{Codec, FrameEntry, PACK_TRAILER_BYTES, PackIndex};
use crate::ids::PackId;

/// First guess at how much of a pack's end is its index.
const TAIL_GUESS: u64 = 64 << 10;

/// Where stored bytes of a pack are read from.
pub(super) enum Source {
    File(Arc<File>),
    Memory(Arc<Fetched>),
}

impl Source {
    /// Reads and decodes a frame; on failure says what is wrong.
    pub(super) fn decode(&self, entry: &FrameEntry) -> Result<Bytes, String> {
        let (at, len) = (entry.stored_offset, entry.stored_len as usize);
        let stored = match self {
            Self::File(file) => read_range(file, at, len).map_err(|error| error.to_string())?,
            Self::Memory(pack) => {
                let at = at as usize;
                let range = at..at.saturating_add(len);
                let stored = pack.bytes.get(range).ok_or("it is cut off")?;
                match entry.codec {
                    // A slice would keep the whole pack in memory for as long as the frame is cached.
                    Codec::Stored => Bytes::copy_from_slice(stored),
                    Codec::Zstd => pack.bytes.slice_ref(stored),
                }
            }
        };
        decode_frame(entry, stored).map_err(str::to_owned)
    }
}

/// Reads the index of a local copy, without its extents.
pub(super) fn read_index(id: PackId, file: &File, len: u64) -> Result<PackIndex, String> {
    let tail = |bytes: u64| {
        let bytes = bytes.min(len);
        read_range(file, len - bytes, bytes as usize).map_err(|error| error.to_string())
    };
    let mut end = tail(TAIL_GUESS.max(PACK_TRAILER_BYTES as u64))?;
    let needed = PackIndex::tail_len(len, &end).map_err(|error| error.to_string())?;
    if needed > end.len() as u64 {
        end = tail(needed)?;
    }
    let index = PackIndex::parse_tail(len, &end).map_err(|error| error.to_string())?;
    if index.id() != id {
        return Err(format!("it is pack {}", index.id()));
    }
    Ok(index.without_extents())
}

pub(super) fn read_range(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(len);
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.freeze())
}
