//! Building a pack: extents in, one immutable object out. Touches neither disk nor store.

use bytes::Bytes;

use super::encode::{append_index, encode_header};
use super::frame::FrameEncoder;
use super::index::{FrameEntry, PackExtent};
use crate::ids::PackId;
use crate::settings::{MAX_FRAME_BYTES, MIN_FRAME_BYTES, PackSettings};

/// Gathers extents into a pack. Frames are compressed as they fill.
pub struct PackBuilder {
    id: PackId,
    pack_bytes: u64,
    frame_bytes: usize,
    encoder: FrameEncoder,
    /// Header and finished frames.
    object: Vec<u8>,
    /// Raw bytes of the frame being filled.
    open_frame: Vec<u8>,
    frames: Vec<FrameEntry>,
    extents: Vec<PackExtent>,
    raw_len: u64,
}

/// A finished pack.
#[derive(Debug, Clone)]
pub struct BuiltPack {
    /// Its id.
    pub id: PackId,
    /// The object.
    pub bytes: Bytes,
    /// Bytes of its raw space.
    pub raw_len: u64,
    /// What is in it, in order.
    pub extents: Vec<PackExtent>,
}

impl PackBuilder {
    /// An empty pack.
    #[must_use]
    pub fn new(id: PackId, settings: &PackSettings) -> Self {
        let frame_bytes = settings.frame_bytes.clamp(MIN_FRAME_BYTES, MAX_FRAME_BYTES);
        Self {
            id,
            pack_bytes: settings.pack_bytes,
            frame_bytes,
            encoder: FrameEncoder::new(settings.zstd_level),
            object: encode_header(id),
            open_frame: Vec::with_capacity(frame_bytes),
            frames: Vec::new(),
            extents: Vec::new(),
            raw_len: 0,
        }
    }

    /// Adds an extent; returns its raw offset, which together with the pack's id is its location.
    pub fn push(&mut self, extent: u64, data: &[u8]) -> u64 {
        let raw_offset = self.raw_len;
        self.extents.push(PackExtent {
            id: extent,
            raw_offset,
            len: data.len() as u64,
        });
        self.raw_len += data.len() as u64;
        let mut rest = data;
        while !rest.is_empty() {
            let room = self.frame_bytes - self.open_frame.len();
            let (now, later) = rest.split_at(rest.len().min(room));
            self.open_frame.extend_from_slice(now);
            if self.open_frame.len() == self.frame_bytes {
                self.close_frame();
            }
            rest = later;
        }
        raw_offset
    }

    /// Whether an extent of `len` bytes still belongs into this pack. An empty pack takes any.
    #[must_use]
    pub fn has_room(&self, len: u64) -> bool {
        self.is_empty() || self.raw_len.saturating_add(len) <= self.pack_bytes
    }

    /// Bytes of the raw space so far.
    #[must_use]
    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    /// True while no extent was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Closes the pack.
    #[must_use]
    pub fn finish(mut self) -> BuiltPack {
        if !self.open_frame.is_empty() {
            self.close_frame();
        }
        append_index(
            &mut self.object,
            self.id,
            &self.frames,
            &self.extents,
            self.raw_len,
        );
        BuiltPack {
            id: self.id,
            bytes: self.object.into(),
            raw_len: self.raw_len,
            extents: self.extents,
        }
    }

    fn close_frame(&mut self) {
        let raw_start = self.frames.last().map_or(0, |f| f.raw_start + f.raw_len);
        let entry = self
            .encoder
            .append(raw_start, &self.open_frame, &mut self.object);
        self.frames.push(entry);
        self.open_frame.clear();
    }
}

impl std::fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackBuilder")
            .field("id", &self.id)
            .field("raw_len", &self.raw_len)
            .field("extents", &self.extents.len())
            .finish_non_exhaustive()
    }
}
