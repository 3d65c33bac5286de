//! The layout of a pack, byte by byte: header, frame table, extent table, trailer. Reads and writes these; the frames
//! between them are `frame`'s.
//!
//! Decoding is total: any bytes give an index or an error, and nothing is allocated that the object's length does not
//! justify.

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::ids::PackId;
use crate::pack::frame::check_frames;
use crate::settings::MAX_FRAME_BYTES;

/// Bytes of the header; the first frame begins here.
pub const PACK_HEADER_BYTES: usize = 64;
/// Bytes of the trailer at the end of the object.
pub const PACK_TRAILER_BYTES: usize = 80;
/// The format version written.
pub const PACK_FORMAT_VERSION: u32 = 1;

pub(super) const HEADER_MAGIC: [u8; 8] = *b"WFPACK01";
pub(super) const TRAILER_MAGIC: [u8; 8] = *b"WFPKEND1";
pub(super) const HEADER_CRC_AT: usize = PACK_HEADER_BYTES - 4;
const TRAILER_CRC_AT: usize = PACK_TRAILER_BYTES - 12;
const FRAME_ROW_BYTES: usize = 40;
const EXTENT_ROW_BYTES: usize = 24;

/// How a frame is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Stored,
    /// One zstd frame.
    Zstd,
}

/// One row of the frame table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where its raw bytes begin in the pack's raw space.
    pub raw_start: u64,
    /// How many raw bytes it has.
    pub raw_len: u64,
    /// Where its stored bytes begin in the object.
    pub stored_offset: u64,
    /// How many stored bytes it has.
    pub stored_len: u32,
    /// How it is stored.
    pub codec: Codec,
    /// CRC-32C of the stored bytes.
    pub stored_crc: u32,
    /// CRC-32C of the raw bytes.
    pub raw_crc: u32,
}

/// One row of the extent table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackExtent {
    /// The extent's id, as the builder was given it.
    pub id: u64,
    /// Where it begins in the pack's raw space.
    pub raw_offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// What is in a pack and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    id: PackId,
    raw_len: u64,
    frames: Vec<FrameEntry>,
    extents: Vec<PackExtent>,
}

impl PackIndex {
    /// Reads the index of a whole object. The frames' contents are not looked at; [`verify_pack`] does that.
    ///
    /// # Errors
    /// [`Error::Damaged`], or [`Error::UnsupportedFormat`] / [`Error::Encrypted`] for what a newer program wrote.
    pub fn parse(object: &[u8]) -> Result<Self> {
        let id = parse_header(object)?;
        let index = Self::parse_tail(object.len() as u64, object)?;
        if index.id != id {
            return Err(damaged("its two ends name different packs"));
        }
        Ok(index)
    }

    /// Reads the index from the last bytes of an object of `object_len` bytes: at least as many as
    /// [`PackIndex::tail_len`] says.
    ///
    /// # Errors
    /// As [`PackIndex::parse`].
    pub fn parse_tail(object_len: u64, tail: &[u8]) -> Result<Self> {
        let trailer = Trailer::parse(object_len, tail)?;
        let index = trailer
            .index_of(tail)
            .ok_or_else(|| damaged("it is cut off"))?;
        if crc32c::crc32c(index) != trailer.index_crc {
            return Err(damaged("the checksum of its index does not match"));
        }
        let frame_bytes = trailer.frame_count as usize * FRAME_ROW_BYTES;
        let (frame_rows, extent_rows) = index
            .split_at_checked(frame_bytes)
            .ok_or_else(|| damaged("it is cut off"))?;
        Ok(Self {
            id: trailer.id,
            raw_len: trailer.raw_len,
            frames: parse_frames(frame_rows, trailer.raw_len, trailer.index_offset)?,
            extents: parse_extents(extent_rows, trailer.raw_len)?,
        })
    }

    /// How many bytes at the end of an object hold its index and trailer, from its last [`PACK_TRAILER_BYTES`] or more.
    ///
    /// # Errors
    /// As [`PackIndex::parse`].
    pub fn tail_len(object_len: u64, tail: &[u8]) -> Result<u64> {
        let trailer = Trailer::parse(object_len, tail)?;
        Ok(trailer.index_len + PACK_TRAILER_BYTES as u64)
    }

    /// The pack.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Bytes of the raw space.
    #[must_use]
    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    /// The frames, in the order of the raw space, without gaps.
    #[must_use]
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// The extents, in the order of the raw space, without gaps.
    #[must_use]
    pub fn extents(&self) -> &[PackExtent] {
        &self.extents
    }

    /// The number of the frame that holds a raw offset, or `None` at or beyond the end.
    #[must_use]
    pub fn frame_at(&self, raw_offset: u64) -> Option<usize> {
        if raw_offset >= self.raw_len {
            return None;
        }
        let after = self.frames.partition_point(|f| f.raw_start <= raw_offset);
        after.checked_sub(1)
    }

    /// Without the extent table, which reading does not need.
    pub(super) fn without_extents(mut self) -> Self {
        self.extents = Vec::new();
        self
    }
}

/// Checks a whole object: index and every frame, stored and raw. Returns the index.
///
/// # Errors
/// As [`PackIndex::parse`]; [`Error::DamagedPack`] names the first bad frame.
pub fn verify_pack(object: &[u8]) -> Result<PackIndex> {
    let index = PackIndex::parse(object)?;
    check_frames(&index, object, true).map_err(|(frame, detail)| Error::DamagedPack {
        pack: index.id,
        frame: Some(frame),
        detail: detail.into(),
    })?;
    Ok(index)
}

struct Trailer {
    index_offset: u64,
    index_len: u64,
    raw_len: u64,
    frame_count: u32,
    id: PackId,
    index_crc: u32,
}

impl Trailer {
    /// Reads the trailer from the end of an object, and checks that its numbers fit the object's length.
    fn parse(object_len: u64, tail: &[u8]) -> Result<Self> {
        let short = || damaged("it is cut off");
        let start = tail.len().checked_sub(PACK_TRAILER_BYTES);
        let bytes = start.and_then(|at| tail.get(at..)).ok_or_else(short)?;
        let (covered, ending) = bytes.split_at(TRAILER_CRC_AT);
        let mut ending = Fields::new(ending);
        let crc = ending.u32().ok_or_else(short)?;
        if ending.array() != Some(TRAILER_MAGIC) {
            return Err(damaged("it does not end with the magic"));
        }
        if crc != crc32c::crc32c(covered) {
            return Err(damaged("the checksum of its trailer does not match"));
        }
        let mut fields = Fields::new(covered);
        let mut next = || fields.u64().ok_or_else(short);
        let (index_offset, index_len, raw_len) = (next()?, next()?, next()?);
        let frame_count = fields.u32().ok_or_else(short)?;
        let extent_count = fields.u32().ok_or_else(short)?;
        let id = PackId(fields.array().ok_or_else(short)?);
        check_version(&mut fields)?;
        let reserved: [u8; 8] = fields.array().ok_or_else(short)?;
        let index_crc = fields.u32().ok_or_else(short)?;
        let rows = u64::from(frame_count) * FRAME_ROW_BYTES as u64
            + u64::from(extent_count) * EXTENT_ROW_BYTES as u64;
        let end = index_offset
            .checked_add(index_len)
            .and_then(|end| end.checked_add(PACK_TRAILER_BYTES as u64));
        let fits = index_offset >= PACK_HEADER_BYTES as u64
            && index_len == rows
            && end == Some(object_len)
            && reserved == [0; 8];
        if !fits {
            return Err(damaged("its trailer contradicts itself"));
        }
        Ok(Self {
            index_offset,
            index_len,
            raw_len,
            frame_count,
            id,
            index_crc,
        })
    }

    fn index_of<'a>(&self, tail: &'a [u8]) -> Option<&'a [u8]> {
        let end = tail.len().checked_sub(PACK_TRAILER_BYTES)?;
        let start = end.checked_sub(usize::try_from(self.index_len).ok()?)?;
        tail.get(start..end)
    }
}

fn parse_header(object: &[u8]) -> Result<PackId> {
    let short = || damaged("it is cut off");
    let header = object.get(..PACK_HEADER_BYTES).ok_or_else(short)?;
    let (covered, crc) = header.split_at(HEADER_CRC_AT);
    let mut fields = Fields::new(covered);
    if fields.array() != Some(HEADER_MAGIC) {
        return Err(damaged("it does not begin with the magic"));
    }
    if Fields::new(crc).u32() != Some(crc32c::crc32c(covered)) {
        return Err(damaged("the checksum of its header does not match"));
    }
    check_version(&mut fields)?;
    fields.array().map(PackId).ok_or_else(short)
}

fn check_version(fields: &mut Fields<'_>) -> Result<()> {
    let short = || damaged("it is cut off");
    let version = fields.u32().ok_or_else(short)?;
    let key_id = fields.u32().ok_or_else(short)?;
    if version != PACK_FORMAT_VERSION {
        return Err(Error::UnsupportedFormat {
            what: "pack",
            found: version,
            known: PACK_FORMAT_VERSION,
        });
    }
    if key_id != 0 {
        return Err(Error::Encrypted {
            what: "pack",
            key_id,
        });
    }
    Ok(())
}

/// Reads the frame table: both the raw and the stored ranges must follow each other without gaps.
fn parse_frames(rows: &[u8], raw_end: u64, stored_end: u64) -> Result<Vec<FrameEntry>> {
    let mut frames = Vec::with_capacity(rows.len() / FRAME_ROW_BYTES);
    let (mut raw_at, mut stored_at) = (0u64, PACK_HEADER_BYTES as u64);
    for row in rows.chunks_exact(FRAME_ROW_BYTES) {
        let frame = parse_frame(row).ok_or_else(|| damaged("a frame has an unknown codec"))?;
        let lengths = (1..=MAX_FRAME_BYTES as u64).contains(&frame.raw_len)
            && frame.stored_len > 0
            && (frame.codec != Codec::Stored || u64::from(frame.stored_len) == frame.raw_len);
        if !lengths || frame.raw_start != raw_at || frame.stored_offset != stored_at {
            return Err(damaged("a frame contradicts the one before"));
        }
        // Bounded: at most 2^32 frames of at most 2^32 bytes.
        raw_at += frame.raw_len;
        stored_at += u64::from(frame.stored_len);
        frames.push(frame);
    }
    if raw_at != raw_end || stored_at != stored_end {
        return Err(damaged("its frames do not fill it"));
    }
    Ok(frames)
}

fn parse_frame(row: &[u8]) -> Option<FrameEntry> {
    let mut fields = Fields::new(row);
    let (raw_start, raw_len, stored_offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let stored_len = fields.u32()?;
    let codec = match fields.array()? {
        [0, 0, 0, 0] => Codec::Stored,
        [1, 0, 0, 0] => Codec::Zstd,
        _ => return None,
    };
    Some(FrameEntry {
        raw_start,
        raw_len,
        stored_offset,
        stored_len,
        codec,
        stored_crc: fields.u32()?,
        raw_crc: fields.u32()?,
    })
}

/// Reads the extent table: the extents must fill the raw space without gaps.
fn parse_extents(rows: &[u8], raw_end: u64) -> Result<Vec<PackExtent>> {
    let mut extents = Vec::with_capacity(rows.len() / EXTENT_ROW_BYTES);
    let mut at = 0u64;
    for row in rows.chunks_exact(EXTENT_ROW_BYTES) {
        let mut fields = Fields::new(row);
        let mut next = || fields.u64().ok_or_else(|| damaged("it is cut off"));
        let extent = PackExtent {
            id: next()?,
            raw_offset: next()?,
            len: next()?,
        };
        let end = at.checked_add(extent.len).filter(|end| *end <= raw_end);
        let (true, Some(end)) = (extent.raw_offset == at, end) else {
            return Err(damaged("an extent contradicts the one before"));
        };
        at = end;
        extents.push(extent);
    }
    if at != raw_end {
        return Err(damaged("its extents do not fill it"));
    }
    Ok(extents)
}

fn damaged(detail: &str) -> Error {
    Error::damaged("pack", detail)
}
