//! File contents: reading, writing, holes, sharing.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weldrfs_blockstore::{
    Appended, BLOCK_BYTES, Error as BytesError, SegmentId, block_sums, extend_sums, verify_sums,
};
use weldrfs_meta::{FallocMode, Ino, Location, MetaError, Piece, Place, SeekTo, WriteAt};

use super::{Engine, HOPELESS_WAIT, Result, STAGING_WAIT, zeros};
use crate::error::FsError;

/// Most bytes of one extent as it is born.
pub(crate) const MAX_EXTENT_BYTES: usize = 1 << 20;
/// How often a read asks again where an extent lies: it may be moved to a pack between asking and reading.
const MOVED_TRIES: usize = 5;
/// How often a writer that waits for staging looks again.
const STAGING_POLL: Duration = Duration::from_millis(20);

impl Engine {
    /// Reads up to `len` bytes; fewer at the end of the file. May wait for the store.
    ///
    /// # Errors
    /// `EIO` for damage, `ETIMEDOUT` when the store does not answer, `EISDIR`, `EINVAL`.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Bytes> {
        self.read_until(ino, offset, len, self.read_deadline())
    }

    /// The same with a deadline of one's own.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub fn read_until(&self, ino: Ino, offset: u64, len: usize, until: Instant) -> Result<Bytes> {
        let read = self.read_within(ino, offset, len, Some(until));
        read.map(Option::unwrap_or_default)
    }

    /// The same without ever waiting for the store: `None` when that would be needed.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub fn read_local(&self, ino: Ino, offset: u64, len: usize) -> Result<Option<Bytes>> {
        self.read_within(ino, offset, len, None)
    }

    fn read_within(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        until: Option<Instant>,
    ) -> Result<Option<Bytes>> {
        let mut tries = 0;
        loop {
            let (size, pieces) = self.map(ino, offset, len as u64)?;
            let wanted = (size.saturating_sub(offset)).min(len as u64) as usize;
            self.read_ahead(ino, offset, wanted as u64, &pieces);
            let read = self.read_pieces(offset, wanted, &pieces, until);
            tries += 1;
            match read {
                // An extent may die while another one is fetched: the file has other bytes there by now.
                Err(FsError::Damaged(_) | FsError::Meta(MetaError::Damaged { .. }))
                    if tries < MOVED_TRIES && self.map(ino, offset, len as u64)?.1 != pieces => {}
                other => return other,
            }
        }
    }

    fn read_pieces(
        &self,
        offset: u64,
        len: usize,
        pieces: &[Piece],
        until: Option<Instant>,
    ) -> Result<Option<Bytes>> {
        match pieces {
            [] => return Ok(Some(zeros(len))),
            [one] if one.len == len as u64 => return self.read_piece(one, until),
            _ => {}
        }
        let mut out = BytesMut::zeroed(len);
        for piece in pieces {
            let Some(bytes) = self.read_piece(piece, until)? else {
                return Ok(None);
            };
            let at = (piece.offset - offset) as usize;
            out[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(Some(out.freeze()))
    }

    pub(crate) fn read_piece(
        &self,
        piece: &Piece,
        until: Option<Instant>,
    ) -> Result<Option<Bytes>> {
        for _ in 0..MOVED_TRIES {
            let location = self.ns.location(piece.extent)?;
            if piece.extent_offset + piece.len > location.len {
                self.ns.forget_location(piece.extent);
                continue;
            }
            match location.place {
                Place::Segment { segment, offset } => {
                    match self.read_segment(piece, &location, SegmentId(segment), offset) {
                        Err(FsError::Bytes(BytesError::SegmentNotFound(_))) => {
                            self.ns.forget_location(piece.extent)
                        }
                        other => return other.map(Some),
                    }
                }
                Place::Pack { pack, offset } => return self.read_pack(piece, pack, offset, until),
            }
        }
        Err(FsError::Damaged(format!(
            "{} is not where the location table says",
            piece.extent
        )))
    }

    fn read_pack(
        &self,
        piece: &Piece,
        pack: u64,
        offset: u64,
        until: Option<Instant>,
    ) -> Result<Option<Bytes>> {
        let id = self.pack_ids.read().get(&pack).copied();
        let id = id.ok_or_else(|| {
            FsError::Damaged(format!(
                "{} is in pack row {pack}, which is unknown",
                piece.extent
            ))
        })?;
        let (at, len) = (offset + piece.extent_offset, piece.len as usize);
        match until {
            Some(until) => Ok(Some(self.packs.read_until(id, at, len, until)?)),
            None => Ok(self.packs.read_cached(id, at, len)?),
        }
    }

    /// Reads a piece where it lay in a segment at some time, whatever the location table says of it now. The segment must
    /// be there still.
    pub(crate) fn read_located(&self, piece: &Piece, location: &Location) -> Result<Bytes> {
        match location.place {
            Place::Segment { segment, offset } => {
                self.read_segment(piece, location, SegmentId(segment), offset)
            }
            Place::Pack { .. } => Err(FsError::NotSupported),
        }
    }

    /// Reads whole checksummed blocks around the piece and cuts it out.
    fn read_segment(
        &self,
        piece: &Piece,
        location: &Location,
        segment: SegmentId,
        at: u64,
    ) -> Result<Bytes> {
        let block = BLOCK_BYTES as u64;
        let first = piece.extent_offset / block;
        let start = first * block;
        let end = (piece.extent_offset + piece.len)
            .next_multiple_of(block)
            .min(location.len);
        let bytes = self
            .segments
            .read(segment, at + start, (end - start) as usize)?;
        let blocks = first as usize..end.div_ceil(block) as usize;
        let sums = location.sums.get(blocks).ok_or_else(|| {
            FsError::Damaged(format!(
                "{}: its location has {} checksums",
                piece.extent,
                location.sums.len()
            ))
        })?;
        if let Err(bad) = verify_sums(&bytes, 0, sums) {
            return Err(FsError::Damaged(format!(
                "{} is damaged in segment {segment}: block {} has the wrong checksum",
                piece.extent,
                first as usize + bad
            )));
        }
        let from = (piece.extent_offset - start) as usize;
        Ok(bytes.slice(from..from + piece.len as usize))
    }

    /// Writes all of `data`. `kill_suid`: the writer may not keep set-id bits.
    ///
    /// # Errors
    /// `ENOSPC` when the local disk or staging stays full, `EFBIG`, `EROFS`.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], kill_suid: bool) -> Result<usize> {
        let ino = self.present(ino)?;
        let mut at = offset;
        for chunk in data.chunks(MAX_EXTENT_BYTES) {
            let appended = self.append(chunk)?;
            let extend = |sums: &[u32], old_len: u64| extend_sums(sums, old_len, chunk);
            let write = WriteAt {
                ino,
                offset: at,
                len: chunk.len() as u64,
                segment: appended.segment.0,
                segment_offset: appended.offset,
                sums: block_sums(chunk),
                extend: &extend,
                kill_priv: kill_suid,
            };
            self.ns.write(write, self.now_ns())?;
            // The segment must not be packed before the namespace names what is in it.
            drop(appended.pin);
            at += chunk.len() as u64;
        }
        self.changed(ino);
        Ok(data.len())
    }

    /// Appends to staging, waiting for the packer while it is full.
    pub(crate) fn append(&self, data: &[u8]) -> Result<Appended> {
        let began = Instant::now();
        loop {
            match self.segments.append(data) {
                Err(BytesError::StagingFull { .. })
                    if self.worth_waiting(began) || self.trash_gives_way() =>
                {
                    std::thread::sleep(STAGING_POLL);
                }
                Err(error)
                    if error.is_disk_full()
                        && (self.worth_waiting(began) || self.trash_gives_way()) =>
                {
                    // What the store has too is only in the way now.
                    self.packs.evict_all();
                    let _ = self.segments.drop_spares();
                    std::thread::sleep(STAGING_POLL);
                }
                other => return Ok(other?),
            }
        }
    }

    /// Whether a write of `len` bytes would have to wait for staging or for a checkpoint.
    pub fn would_wait(&self, len: usize) -> bool {
        self.segments.staged_bytes().saturating_add(len as u64) > self.staging_limit_bytes
            || !self.ns.has_room()
    }

    fn worth_waiting(&self, began: Instant) -> bool {
        let hopeful = self.pressure.get().is_some_and(|press| press());
        let patience = if hopeful { STAGING_WAIT } else { HOPELESS_WAIT };
        began.elapsed() < patience
    }

    /// `fallocate`. `kill_suid`: the caller may not keep set-id bits.
    ///
    /// # Errors
    /// `EINVAL`, `EFBIG`, `ENOENT`.
    pub fn fallocate(
        &self,
        ino: Ino,
        mode: FallocMode,
        offset: u64,
        len: u64,
        kill_suid: bool,
    ) -> Result<()> {
        let ino = self.present(ino)?;
        self.ns
            .fallocate(ino, mode, offset, len, kill_suid, self.now_ns())?;
        self.changed(ino);
        Ok(())
    }

    /// `lseek` with `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// `ENXIO`.
    pub fn lseek(&self, ino: Ino, offset: u64, whence: SeekTo) -> Result<u64> {
        match self.past_seek(ino, offset, whence) {
            None => Ok(self.ns.seek(ino, offset, whence)?),
            Some(found) => found,
        }
    }

    /// Copies a range by sharing extents. Returns how many bytes, fewer at the source's end.
    ///
    /// # Errors
    /// `EINVAL` for overlapping ranges, `EFBIG`, `EISDIR`.
    pub fn copy_file_range(
        &self,
        from: Ino,
        from_at: u64,
        to: Ino,
        to_at: u64,
        len: u64,
        kill_suid: bool,
    ) -> Result<u64> {
        let to = self.present(to)?;
        // The kernel copies then.
        let from = self.present(from).map_err(|_| FsError::OtherState)?;
        let now = self.now_ns();
        let copied = self
            .ns
            .share((from, from_at), (to, to_at), len, kill_suid, now)?;
        self.changed(to);
        Ok(copied)
    }
}
