//! One segment file in use: reservation of ranges, writing them, write-out, flushing, pins.
//!
//! Does not know which segment is being appended to, nor how files are named, created or recycled.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::header::SEGMENT_HEADER_BYTES;
use crate::ids::SegmentId;

/// How long a flush waits for writes that began before it, and for a flush that is under way.
const FLUSH_WAIT: Duration = Duration::from_secs(120);

/// A segment file that is open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) path: PathBuf,
    file: File,
    /// Size of the file in bytes.
    size: u64,
    progress: Mutex<Progress>,
    finished: Condvar,
    /// Everything below this offset is durable.
    synced: AtomicU64,
    /// Held from fdatasync to the recording of its outcome: the kernel reports a write error to one caller only, so a
    /// second one must not take its own success for everybody's.
    sync_turn: Mutex<()>,
    sealed: AtomicBool,
    pins: AtomicUsize,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// Makes the disk fail, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) write: AtomicBool,
    pub(super) sync: AtomicBool,
}

#[derive(Debug)]
struct Progress {
    /// End of the last reserved range.
    reserved: u64,
    /// Starts of reserved ranges that are not written yet; as many as there are writers.
    unfinished: Vec<u64>,
    /// Write-out was started below this offset.
    written_out: u64,
}

impl Segment {
    /// A file that holds nothing yet but its header.
    pub(super) fn fresh(id: SegmentId, path: PathBuf, file: File, size: u64) -> Self {
        Self::with(
            id,
            path,
            file,
            size,
            SEGMENT_HEADER_BYTES,
            SEGMENT_HEADER_BYTES,
        )
    }

    /// A file found at start. How much of it is used is not known, and whether it is durable neither.
    pub(super) fn inherited(id: SegmentId, path: PathBuf, file: File, size: u64) -> Self {
        let segment = Self::with(id, path, file, size, size.max(SEGMENT_HEADER_BYTES), 0);
        segment.sealed.store(true, Ordering::SeqCst);
        segment
    }

    fn with(
        id: SegmentId,
        path: PathBuf,
        file: File,
        size: u64,
        reserved: u64,
        synced: u64,
    ) -> Self {
        Self {
            id,
            path,
            file,
            size,
            progress: Mutex::new(Progress {
                reserved,
                unfinished: Vec::new(),
                written_out: SEGMENT_HEADER_BYTES,
            }),
            finished: Condvar::new(),
            synced: AtomicU64::new(synced),
            sync_turn: Mutex::new(()),
            sealed: AtomicBool::new(false),
            pins: AtomicUsize::new(0),
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes after the header that were reserved.
    pub(super) fn used_bytes(&self) -> u64 {
        self.end() - SEGMENT_HEADER_BYTES
    }

    /// End of what was reserved.
    pub(super) fn end(&self) -> u64 {
        self.progress.lock().reserved
    }

    /// Corrects the used bytes of an inherited file; returns by how many bytes they shrank.
    pub(super) fn shrink_used(&self, used: u64) -> u64 {
        let mut progress = self.progress.lock();
        let end = SEGMENT_HEADER_BYTES.saturating_add(used);
        let shrunk = progress.reserved.saturating_sub(end);
        progress.reserved -= shrunk;
        shrunk
    }

    /// Reserves a range and pins the segment, or `None` when it does not fit.
    pub(super) fn reserve(self: &Arc<Self>, len: u64) -> Option<(u64, SegmentPin)> {
        let mut progress = self.progress.lock();
        let offset = progress.reserved;
        let end = offset.checked_add(len).filter(|end| *end <= self.size)?;
        progress.reserved = end;
        progress.unfinished.push(offset);
        Some((offset, SegmentPin::new(self)))
    }

    /// Writes a reserved range. However it ends, the range counts as finished. Starts write-out when enough has
    /// gathered below the lowest unfinished range.
    pub(super) fn write(&self, offset: u64, data: &[u8], writeout: u64) -> io::Result<()> {
        let outcome = self.write_at(data, offset);
        let range = {
            let mut progress = self.progress.lock();
            if let Some(at) = progress.unfinished.iter().position(|o| *o == offset) {
                progress.unfinished.swap_remove(at);
            }
            let low = progress.low_water();
            let from = progress.written_out;
            let due = low.saturating_sub(from) >= writeout;
            if due {
                progress.written_out = low;
            }
            due.then_some((from, low))
        };
        self.finished.notify_all();
        if let Some((from, to)) = range {
            self.start_writeout(from, to);
        }
        outcome
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.write.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.file.write_all_at(data, offset)
    }

    /// Asks the kernel to begin writing a range to the disk.
    fn start_writeout(&self, from: u64, to: u64) {
        // SAFETY: the descriptor is open for as long as `self.file` lives, and the call takes no pointers.
        let outcome = unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                from as libc::off64_t,
                (to - from) as libc::off64_t,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
        if outcome != 0 {
            // Only a hint; a disk that fails is reported by the flush, which waits for the data.
            tracing::debug!(segment = %self.id, error = %io::Error::last_os_error(), "write-out did not start");
        }
    }

    /// No more appends. Starts write-out of the rest.
    pub(super) fn seal(&self) {
        self.sealed.store(true, Ordering::SeqCst);
        let (from, to) = {
            let mut progress = self.progress.lock();
            let low = progress.low_water();
            (std::mem::replace(&mut progress.written_out, low), low)
        };
        if to > from {
            self.start_writeout(from, to);
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::SeqCst)
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::SeqCst) > 0
    }

    pub(super) fn is_clean(&self) -> bool {
        self.synced.load(Ordering::SeqCst) >= self.end()
    }

    /// Makes everything reserved before the call durable. `failed` is told of a failing disk before another flush of
    /// this segment can begin.
    pub(super) fn sync(&self, failed: impl FnOnce(&io::Error)) -> io::Result<()> {
        let mark = self.end();
        let deadline = Instant::now() + FLUSH_WAIT;
        if self.synced.load(Ordering::SeqCst) >= mark {
            return Ok(());
        }
        self.wait_written(mark, deadline)?;
        let Some(_turn) = self.sync_turn.try_lock_until(deadline) else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        if self.synced.load(Ordering::SeqCst) >= mark {
            return Ok(());
        }
        match self.sync_data() {
            Ok(()) => {
                self.synced.fetch_max(mark, Ordering::SeqCst);
                Ok(())
            }
            Err(error) => {
                failed(&error);
                Err(error)
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.sync.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.file.sync_data()
    }

    /// Waits until no range that begins below `mark` is unfinished.
    fn wait_written(&self, mark: u64, deadline: Instant) -> io::Result<()> {
        let mut progress = self.progress.lock();
        while progress.unfinished.iter().any(|offset| *offset < mark) {
            if self
                .finished
                .wait_until(&mut progress, deadline)
                .timed_out()
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Reads a range that lies within the file.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// The parts a released segment is recycled from.
    pub(super) fn into_parts(self) -> (SegmentId, PathBuf, u64) {
        (self.id, self.path, self.size)
    }
}

impl Progress {
    /// Everything below this offset is written.
    fn low_water(&self) -> u64 {
        self.unfinished
            .iter()
            .copied()
            .min()
            .unwrap_or(self.reserved)
    }
}

/// Keeps a segment from being offered for packing and release, until the metadata that names its bytes is committed.
#[derive(Debug)]
pub struct SegmentPin(Arc<Segment>);

impl SegmentPin {
    fn new(segment: &Arc<Segment>) -> Self {
        segment.pins.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(segment))
    }

    /// The pinned segment.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.0.id
    }

    pub(super) fn file(&self) -> &Segment {
        &self.0
    }
}

impl Clone for SegmentPin {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for SegmentPin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_flush_is_told_before_another_one_can_begin() {
        let file = tempfile::tempfile().unwrap();
        let segment = Arc::new(Segment::fresh(SegmentId(1), "".into(), file, 1 << 20));
        let (offset, _pin) = segment.reserve(4).unwrap();
        segment.write(offset, b"data", 1 << 20).unwrap();
        segment.faults.sync.store(true, Ordering::SeqCst);
        let mut told = false;
        let outcome = segment.sync(|_| {
            told = true;
            assert!(segment.sync_turn.is_locked());
        });
        assert!(outcome.is_err() && told && !segment.is_clean());
    }

    #[test]
    fn ranges_that_do_not_fit_are_not_reserved() {
        let file = tempfile::tempfile().unwrap();
        let segment = Arc::new(Segment::fresh(SegmentId(1), "".into(), file, 5000));
        assert!(segment.reserve(905).is_none());
        assert!(segment.reserve(u64::MAX).is_none());
        assert!(!segment.is_pinned());
        assert_eq!(segment.reserve(904).unwrap().0, SEGMENT_HEADER_BYTES);
        assert!(segment.reserve(1).is_none());
    }
}
