//! File contents as far as the namespace knows them: which extents make up a file.

use std::sync::Arc;

use crate::changes::Change;
use crate::error::{MetaError, Result};
use crate::filemap::{FileMap, Piece};
use crate::ids::Ino;
use crate::rows::{Location, MAX_FILE_BYTES, Place};
use crate::settings::MAX_GROWN_EXTENT_BYTES;

use super::Namespace;
use super::tx::Tx;

/// Pieces that one `share` copies at most; a caller asks again for the rest.
const SHARED_PIECES: usize = 4096;
/// A file with more runs than this, shorter than [`SMALL_RUN_BYTES`] on average, is worth rewriting.
const MANY_RUNS: usize = 1024;
const SMALL_RUN_BYTES: u64 = 64 << 10;

/// Continues an extent's checksums: given those it has and its length, the first block that changes and the values
/// from there on.
pub type ExtendSums<'a> = &'a dyn Fn(&[u32], u64) -> (usize, Vec<u32>);

/// Bytes that were appended to a segment and are to become part of a file.
pub struct WriteAt<'a> {
    /// The file.
    pub ino: Ino,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Length, bytes; not 0.
    pub len: u64,
    /// The segment they were appended to.
    pub segment: u64,
    /// Where in the segment, bytes.
    pub segment_offset: u64,
    /// Their checksums as an extent of their own.
    pub sums: Vec<u32>,
    /// Their checksums as the continuation of another.
    pub extend: ExtendSums<'a>,
    /// The writer may not keep set-id bits.
    pub kill_priv: bool,
}

/// What `fallocate` is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FallocMode {
    /// Room for the range: the file is at least that long, unless it is to keep its size. Space is not reserved.
    Allocate {
        /// The size stays.
        keep_size: bool,
    },
    /// Make it read as zeros; the size stays.
    PunchHole,
    /// Make it read as zeros; the file is at least that long, unless it is to keep its size.
    ZeroRange {
        /// The size stays.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTo {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

impl Namespace {
    /// Makes appended bytes part of a file. Returns the file's size.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `TooLarge`, and what a commit can fail with. The bytes are dead space then.
    pub fn write(&self, write: WriteAt<'_>, now_ns: i64) -> Result<u64> {
        let end = write
            .offset
            .checked_add(write.len)
            .filter(|end| *end <= MAX_FILE_BYTES);
        let end = end.ok_or(MetaError::TooLarge)?;
        let mut tx = self.begin_growing(now_ns)?;
        let at = tx.file(write.ino)?;
        let node = tx.node(at);
        let (runs, before, freed) = {
            let mut state = node.state.write();
            let runs = self.load_runs(&mut state)?;
            let (changes, freed) = runs.plan_punch(write.ino, write.offset, end);
            tx.changes.extend(changes);
            (runs.len(), runs.ending_at(write.offset), freed)
        };
        let grown = match before {
            Some(before) => self.grow(&mut tx, &write, before)?,
            None => false,
        };
        if !grown {
            self.place(&mut tx, &write);
        }
        let row = tx.row_mut(at);
        row.size = row.size.max(end);
        row.allocated = row.allocated + write.len - freed;
        row.mtime_ns = now_ns;
        row.ctime_ns = now_ns;
        let size = row.size;
        let allocated = row.allocated;
        self.kill_priv(&mut tx, at, write.kill_priv)?;
        if runs > MANY_RUNS && allocated / (runs as u64) < SMALL_RUN_BYTES {
            tx.state.fragmented.insert(write.ino);
        }
        tx.commit()?;
        Ok(size)
    }

    /// Lets the run before the write go on, where its bytes end just where the new ones begin.
    fn grow(&self, tx: &mut Tx<'_>, write: &WriteAt<'_>, before: Piece) -> Result<bool> {
        let location = self.location(before.extent)?;
        let Place::Segment { segment, offset } = location.place else {
            return Ok(false);
        };
        let adjoins = segment == write.segment
            && offset + location.len == write.segment_offset
            && before.extent_offset + before.len == location.len
            && location.len + write.len <= MAX_GROWN_EXTENT_BYTES;
        if !adjoins {
            return Ok(false);
        }
        let (from_block, sums) = (write.extend)(&location.sums, location.len);
        let len = location.len + write.len;
        tx.growing(Arc::clone(&location));
        tx.changes.push(Change::GrowLocation {
            extent: before.extent,
            len,
            from_block: from_block as u64,
            sums,
        });
        let longer = Piece {
            len: before.len + write.len,
            ..before
        };
        tx.changes.push(Change::PutExtent(longer.row(write.ino)));
        Ok(true)
    }

    /// Makes the bytes an extent of their own.
    fn place(&self, tx: &mut Tx<'_>, write: &WriteAt<'_>) {
        let extent = tx.next_extent();
        let place = Place::Segment {
            segment: write.segment,
            offset: write.segment_offset,
        };
        let location = Location {
            place,
            len: write.len,
            sums: write.sums.clone(),
        };
        tx.changes.push(Change::PutLocation { extent, location });
        let piece = Piece {
            offset: write.offset,
            len: write.len,
            extent,
            extent_offset: 0,
        };
        tx.changes.push(Change::PutExtent(piece.row(write.ino)));
    }

    /// The size of a file and its runs in `[offset, offset + len)`, clipped to it and to the size. Gaps are holes.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `Invalid` for what has no content.
    pub fn map(&self, ino: Ino, offset: u64, len: u64) -> Result<(u64, Vec<Piece>)> {
        self.with_runs(ino, |size, runs| {
            (
                size,
                runs.pieces(offset, offset.saturating_add(len).min(size)),
            )
        })
    }

    fn with_runs<T>(&self, ino: Ino, look: impl FnOnce(u64, &FileMap) -> T) -> Result<T> {
        let node = self.node(ino)?;
        {
            let state = node.state.read();
            if state.dead {
                return Err(MetaError::NotFound);
            }
            if state.row.is_dir() {
                return Err(MetaError::IsDir);
            }
            if !state.row.is_file() {
                return Err(MetaError::Invalid("not a regular file"));
            }
            if let Some(runs) = &state.runs {
                return Ok(look(state.row.size, runs));
            }
        }
        let mut state = node.state.write();
        let size = state.row.size;
        Ok(look(size, self.load_runs(&mut state)?))
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `NoSuchOffset` at or behind the end, or when only a hole follows.
    pub fn seek(&self, ino: Ino, offset: u64, to: SeekTo) -> Result<u64> {
        self.with_runs(ino, |size, runs| {
            if offset >= size {
                return Err(MetaError::NoSuchOffset);
            }
            match to {
                SeekTo::Hole => Ok(runs.next_hole(offset).min(size)),
                SeekTo::Data => runs
                    .next_data(offset)
                    .filter(|at| *at < size)
                    .ok_or(MetaError::NoSuchOffset),
            }
        })?
    }

    /// `fallocate`.
    ///
    /// # Errors
    /// `Invalid` for an empty range, `TooLarge`, `NotFound`.
    pub fn fallocate(
        &self,
        ino: Ino,
        mode: FallocMode,
        offset: u64,
        len: u64,
        kill_priv: bool,
        now_ns: i64,
    ) -> Result<()> {
        if len == 0 {
            return Err(MetaError::Invalid("an empty range"));
        }
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= MAX_FILE_BYTES)
            .ok_or(MetaError::TooLarge)?;
        let mut tx = self.begin(now_ns)?;
        let at = tx.file(ino)?;
        let mut freed = 0;
        if matches!(mode, FallocMode::PunchHole | FallocMode::ZeroRange { .. }) {
            let node = tx.node(at);
            let mut state = node.state.write();
            // The planted bug: the last byte of the hole stays.
            #[cfg(feature = "planted-hole-keeps-a-byte")]
            let end = (end - 1).max(offset + 1);
            let (changes, bytes) = self.load_runs(&mut state)?.plan_punch(ino, offset, end);
            freed = bytes;
            tx.changes.extend(changes);
        }
        let row = tx.row_mut(at);
        if matches!(
            mode,
            FallocMode::Allocate { keep_size: false } | FallocMode::ZeroRange { keep_size: false }
        ) {
            row.size = row.size.max(end);
        }
        row.allocated -= freed.min(row.allocated);
        row.mtime_ns = now_ns;
        row.ctime_ns = now_ns;
        self.kill_priv(&mut tx, at, kill_priv)?;
        tx.commit()?;
        Ok(())
    }

    /// Makes a range of one file share the extents of another's. Returns how many bytes, fewer than asked for at the
    /// source's end or when there are very many pieces.
    ///
    /// # Errors
    /// `Invalid` for overlapping ranges of one file, `TooLarge`, `NotFound`, `IsDir`.
    pub fn share(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        kill_priv: bool,
        now_ns: i64,
    ) -> Result<u64> {
        let ((src, src_at), (dst, dst_at)) = (from, to);
        let mut tx = self.begin_growing(now_ns)?;
        let source = tx.file(src)?;
        let target = tx.file(dst)?;
        let mut len = len.min(tx.row(source).size.saturating_sub(src_at));
        if len == 0 {
            return Ok(0);
        }
        if dst_at
            .checked_add(len)
            .is_none_or(|end| end > MAX_FILE_BYTES)
        {
            return Err(MetaError::TooLarge);
        }
        if src == dst && src_at < dst_at + len && dst_at < src_at + len {
            return Err(MetaError::Invalid("overlapping ranges"));
        }
        let mut pieces = {
            let node = tx.node(source);
            let mut state = node.state.write();
            self.load_runs(&mut state)?.pieces(src_at, src_at + len)
        };
        if pieces.len() > SHARED_PIECES {
            pieces.truncate(SHARED_PIECES);
            len = pieces.last().map_or(len, Piece::end) - src_at;
        }
        let freed = {
            let node = tx.node(target);
            let mut state = node.state.write();
            let (changes, freed) =
                self.load_runs(&mut state)?
                    .plan_punch(dst, dst_at, dst_at + len);
            tx.changes.extend(changes);
            freed
        };
        let mut shared = 0;
        for piece in &pieces {
            let piece = Piece {
                offset: piece.offset - src_at + dst_at,
                ..*piece
            };
            shared += piece.len;
            tx.changes.push(Change::PutExtent(piece.row(dst)));
        }
        let row = tx.row_mut(target);
        row.size = row.size.max(dst_at + len);
        row.allocated = row.allocated + shared - freed;
        row.mtime_ns = now_ns;
        row.ctime_ns = now_ns;
        self.kill_priv(&mut tx, target, kill_priv)?;
        tx.commit()?;
        Ok(len)
    }

    /// Replaces the runs of a range with one new extent, if they are still `expected`; times and size stay. Returns
    /// whether it happened.
    ///
    /// # Errors
    /// What a commit can fail with.
    pub fn rewrite(&self, write: WriteAt<'_>, expected: &[Piece], now_ns: i64) -> Result<bool> {
        let mut tx = self.begin(now_ns)?;
        let at = match tx.file(write.ino) {
            Ok(at) => at,
            Err(MetaError::NotFound) => return Ok(false),
            Err(error) => return Err(error),
        };
        let end = write.offset + write.len;
        let freed = {
            let node = tx.node(at);
            let mut state = node.state.write();
            let runs = self.load_runs(&mut state)?;
            if runs.pieces(write.offset, end) != expected {
                return Ok(false);
            }
            let (changes, freed) = runs.plan_punch(write.ino, write.offset, end);
            tx.changes.extend(changes);
            freed
        };
        self.place(&mut tx, &write);
        let row = tx.row_mut(at);
        row.allocated = row.allocated + write.len - freed;
        tx.commit()?;
        Ok(true)
    }
}
