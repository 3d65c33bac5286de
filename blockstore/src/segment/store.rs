//! The store of segments: which one is appended to, which are sealed, what is staged, when it is durable.
//!
//! Must not block appends on the disk except where a new file is needed and none was prepared in time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex, RwLock};

use super::file::SegmentPin;
use super::files::SegmentFiles;
use super::head::{Head, Inner};
use super::header::SEGMENT_HEADER_BYTES;
use crate::error::{Error, Result, io_at};
use crate::ids::SegmentId;
use crate::settings::SegmentSettings;

/// How often an append that finds each new segment filled by others takes another one.
const ROLL_OVER_TRIES: usize = 64;

/// Where appended bytes are.
#[derive(Debug)]
pub struct Appended {
    /// The segment.
    pub segment: SegmentId,
    /// Offset in the segment's file in bytes, at least [`SEGMENT_HEADER_BYTES`].
    pub offset: u64,
    /// Drop it when the metadata that names the bytes is committed.
    pub pin: SegmentPin,
}

/// A sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The segment.
    pub id: SegmentId,
    /// Bytes appended to it, dead ranges included; for a file found at start the most it can hold.
    pub used_bytes: u64,
}

/// Local append-only staging of new bytes. All methods may be called from many threads at once.
#[derive(Debug)]
pub struct SegmentStore {
    inner: Arc<Inner>,
    /// The thread that prepares the next file; at most one.
    preparer: Mutex<Option<JoinHandle<()>>>,
}

impl SegmentStore {
    /// Opens the directory, making it if needed. Files in it become sealed segments; no new one is made before the
    /// first append. New ids are above those found and above `floor`. `seed` is for the salts in the headers.
    ///
    /// What was found counts as not durable: recovery calls [`SegmentStore::flush`] before it relies on it.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Io`], or files of a newer program.
    pub fn open(
        dir: impl AsRef<Path>,
        settings: SegmentSettings,
        floor: u64,
        seed: u64,
    ) -> Result<Self> {
        settings.check()?;
        let (files, found) = SegmentFiles::open(
            dir.as_ref(),
            settings.segment_bytes,
            settings.spare_files,
            seed,
        )?;
        let live: BTreeMap<_, _> = found.into_iter().map(|s| (s.id, Arc::new(s))).collect();
        let greatest = live.last_key_value().map_or(0, |(id, _)| id.0).max(floor);
        let staged = live.values().map(|s| s.used_bytes()).sum();
        let head = Head {
            active: None,
            standby: None,
            preparing: false,
            next_id: greatest.saturating_add(1),
        };
        let inner = Inner {
            settings,
            files,
            head: Mutex::new(head),
            prepared: Condvar::new(),
            unsynced: Mutex::new(live.clone()),
            live: RwLock::new(live),
            staged: AtomicU64::new(staged),
            poison: OnceLock::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            preparer: Mutex::new(None),
        })
    }

    /// Appends `data` to the current segment, or to a new one when it does not fit. The bytes are in the page cache
    /// when this returns; they are durable after the next flush. A failed write leaves a dead range behind.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::StagingFull`], [`Error::FlushFailed`], [`Error::Io`].
    pub fn append(&self, data: &[u8]) -> Result<Appended> {
        let inner = &self.inner;
        let (len, limit) = (data.len() as u64, inner.settings.max_append());
        if len > limit {
            return Err(Error::TooLarge {
                what: "an append",
                len,
                limit,
            });
        }
        inner.check_poison()?;
        let (offset, pin) = self.reserve(len)?;
        let file = pin.file();
        file.write(offset, data, inner.settings.writeout_bytes)
            .map_err(io_at("append to", &file.path))?;
        Ok(Appended {
            segment: pin.segment(),
            offset,
            pin,
        })
    }

    fn reserve(&self, len: u64) -> Result<(u64, SegmentPin)> {
        let inner = &self.inner;
        let mut head = inner.head.lock();
        let (staged, limit) = (
            inner.staged.load(Ordering::SeqCst),
            inner.settings.staging_limit_bytes,
        );
        if staged.saturating_add(len) > limit {
            return Err(Error::StagingFull { staged, limit });
        }
        let mut taken = None;
        for _ in 0..ROLL_OVER_TRIES {
            taken = head.active.as_ref().and_then(|active| active.reserve(len));
            if taken.is_some() {
                break;
            }
            head = inner.roll_over(head)?;
        }
        let Some((offset, pin)) = taken else {
            return Err(Error::StagingFull { staged, limit });
        };
        inner.staged.fetch_add(len, Ordering::SeqCst);
        let half_full = offset + len > inner.settings.segment_bytes / 2;
        if half_full && head.standby.is_none() && !head.preparing {
            self.prepare_next(&mut head);
        }
        Ok((offset, pin))
    }

    /// Starts making the next file, so that the roll-over does not wait for the disk.
    fn prepare_next(&self, head: &mut Head) {
        let id = head.take_id();
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let made = inner.files.create(id);
            let mut head = inner.head.lock();
            match made {
                Ok(segment) => head.standby = Some(segment),
                // The append that needs the file tries again and reports.
                Err(error) => tracing::debug!(%error, "no segment file prepared"),
            }
            head.preparing = false;
            inner.prepared.notify_all();
        };
        let spawned = std::thread::Builder::new()
            .name("segment-prepare".into())
            .spawn(work);
        match spawned {
            Ok(handle) => {
                head.preparing = true;
                // The one before has cleared `preparing` as its last act.
                *self.preparer.lock() = Some(handle);
            }
            Err(error) => tracing::debug!(%error, "no thread to prepare a segment file"),
        }
    }

    /// Reads a range of a segment.
    ///
    /// # Errors
    /// [`Error::SegmentNotFound`] when it was released, [`Error::OutOfRange`], [`Error::Damaged`] when the file is
    /// shorter than it must be, [`Error::Io`].
    pub fn read(&self, segment: SegmentId, offset: u64, len: usize) -> Result<Bytes> {
        let found = self.inner.live.read().get(&segment).cloned();
        let file = found.ok_or(Error::SegmentNotFound(segment))?;
        let end = file.end();
        let fits = offset
            .checked_add(len as u64)
            .is_some_and(|last| last <= end);
        if offset < SEGMENT_HEADER_BYTES || !fits {
            return Err(Error::OutOfRange {
                what: format!("segment {segment}"),
                offset,
                len: len as u64,
                limit: end,
            });
        }
        let mut out = BytesMut::zeroed(len);
        match file.read(offset, &mut out) {
            Ok(()) => Ok(out.freeze()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::damaged(
                file.path.display().to_string(),
                "it is shorter than it must be",
            )),
            Err(error) => Err(io_at("read", &file.path)(error)),
        }
    }

    /// Makes everything appended before the call durable. Segments that are clean cost nothing.
    ///
    /// # Errors
    /// [`Error::FlushFailed`], at once and for ever, when the disk failed to flush once.
    pub fn flush(&self) -> Result<()> {
        let inner = &self.inner;
        inner.check_poison()?;
        let targets: Vec<_> = inner.unsynced.lock().values().cloned().collect();
        for segment in targets {
            let failed = |error: &std::io::Error| {
                inner.poison(format!("fdatasync of {}: {error}", segment.path.display()));
            };
            if let Err(error) = segment.sync(failed) {
                inner.poison(format!("flush of {}: {error}", segment.path.display()));
            }
            let mut unsynced = inner.unsynced.lock();
            if segment.is_sealed() && segment.is_clean() {
                unsynced.remove(&segment.id);
            }
        }
        inner.check_poison()
    }

    /// Whether a flush would have nothing to do.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let unsynced = self.inner.unsynced.lock();
        self.inner.poison.get().is_none() && unsynced.values().all(|segment| segment.is_clean())
    }

    /// Stops all further appends and flushes, for whoever learns elsewhere that the local disk cannot be trusted.
    pub fn poison(&self, reason: &str) {
        self.inner.poison(reason.to_owned());
    }

    /// Seals the segment being appended to, if it holds anything; returns it.
    pub fn seal_active(&self) -> Option<SegmentId> {
        let mut head = self.inner.head.lock();
        let active = head.active.take_if(|active| active.used_bytes() > 0)?;
        active.seal();
        Some(active.id)
    }

    /// The segments that are sealed and not pinned, oldest first.
    #[must_use]
    pub fn sealed(&self) -> Vec<SegmentInfo> {
        let live = self.inner.live.read();
        let ready = live.values().filter(|s| s.is_sealed() && !s.is_pinned());
        ready
            .map(|s| SegmentInfo {
                id: s.id,
                used_bytes: s.used_bytes(),
            })
            .collect()
    }

    /// True while bytes of the segment can be read.
    #[must_use]
    pub fn exists(&self, segment: SegmentId) -> bool {
        self.inner.live.read().contains_key(&segment)
    }

    /// All segments that can be read, oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<SegmentId> {
        self.inner.live.read().keys().copied().collect()
    }

    /// Gives up a sealed segment whose bytes nobody needs any more. Its file is kept for reuse, or removed.
    ///
    /// # Errors
    /// [`Error::SegmentNotFound`], [`Error::SegmentBusy`], [`Error::Io`].
    pub fn release(&self, segment: SegmentId) -> Result<()> {
        let inner = &self.inner;
        let file = {
            let mut live = inner.live.write();
            let file = live.get(&segment).ok_or(Error::SegmentNotFound(segment))?;
            if !file.is_sealed() || file.is_pinned() {
                return Err(Error::SegmentBusy(segment));
            }
            inner.unsynced.lock().remove(&segment);
            live.remove(&segment)
                .ok_or(Error::SegmentNotFound(segment))?
        };
        inner.staged.fetch_sub(file.used_bytes(), Ordering::SeqCst);
        // Nobody can get at it through the map any more: a sole owner is nobody reading, now or later.
        match Arc::try_unwrap(file) {
            Ok(sole) => {
                let (id, path, size) = sole.into_parts();
                inner.files.retire(id, &path, size, true)
            }
            Err(shared) => inner
                .files
                .retire(shared.id, &shared.path, shared.size(), false),
        }
    }

    /// Tells how much of a segment found at start is used, which only the metadata knows. Never grows it.
    pub fn set_used_bytes(&self, segment: SegmentId, used: u64) {
        let live = self.inner.live.read();
        if let Some(file) = live.get(&segment).filter(|s| s.is_sealed()) {
            self.inner
                .staged
                .fetch_sub(file.shrink_used(used), Ordering::SeqCst);
        }
    }

    /// Bytes in all live segments: what the staging limit is compared with.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.inner.staged.load(Ordering::SeqCst)
    }

    /// Removes the files kept for reuse, when the disk is short of space; returns the bytes given back.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_spares(&self) -> Result<u64> {
        self.inner.files.drop_spares()
    }

    #[cfg(test)]
    pub(super) fn segment(&self, id: SegmentId) -> Option<Arc<super::file::Segment>> {
        self.inner.live.read().get(&id).cloned()
    }
}

impl Drop for SegmentStore {
    fn drop(&mut self) {
        if let Some(handle) = self.preparer.lock().take() {
            // It only makes one file; a panic in it was reported by the panic itself.
            let _ = handle.join();
        }
        if let Some(standby) = self.inner.head.lock().standby.take() {
            let (id, path, size) = standby.into_parts();
            if let Err(error) = self.inner.files.retire(id, &path, size, true) {
                tracing::debug!(%error, "prepared segment file left behind");
            }
        }
    }
}
