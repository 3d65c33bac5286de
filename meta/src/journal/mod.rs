//! The journal: the order of operations, on the local disk before anybody is told of success.
//!
//! Owns its files (making, rolling, recycling, flushing). It does not know what a payload means.

mod files;
mod format;
mod replay;

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::error::{MetaError, Result};
use crate::ids::Lsn;
use crate::settings::JOURNAL_FILE_BYTES;

pub use format::{JournalHeader, RecordHeader, parse_record};
pub(crate) use replay::{Inherited, Record};

use files::MakeError;
use format::{HEADER_BYTES, begin_record, finish_record, record_bytes};

/// A journal file that records are, or were, appended to.
#[derive(Debug)]
struct Segment {
    number: u64,
    salt: u64,
    file: Arc<File>,
    /// Last LSN in it; the file may be freed once a checkpoint covers it.
    last: Lsn,
    end: u64,
    /// Whether it holds bytes that were not flushed since.
    dirty: bool,
}

#[derive(Debug)]
struct State {
    /// Oldest first; the last one is appended to.
    files: VecDeque<Segment>,
    next_number: u64,
    durable: Lsn,
    last: Lsn,
    rng: SmallRng,
    buffer: Vec<u8>,
    failed: Option<String>,
    /// The planted bug: a record that was acknowledged and not written yet.
    #[cfg(feature = "planted-ack-before-journal")]
    late: Option<(Arc<File>, Vec<u8>, u64)>,
}

/// The append side of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    boot_id: [u8; 16],
    state: Mutex<State>,
    /// One flush at a time: a second one must not return while the first still waits for the disk.
    flushing: Mutex<()>,
}

impl Journal {
    /// Starts a new journal behind `last`. Inherited files are freed by the checkpoint that covers them.
    pub(crate) fn start(
        dir: PathBuf,
        boot_id: [u8; 16],
        last: Lsn,
        inherited: &Inherited,
        seed: u64,
    ) -> Result<Self> {
        let state = State {
            files: VecDeque::new(),
            next_number: inherited.next_number,
            durable: last,
            last,
            rng: SmallRng::seed_from_u64(seed ^ last.0.rotate_left(32) ^ inherited.next_number),
            buffer: Vec::with_capacity(4096),
            failed: None,
            #[cfg(feature = "planted-ack-before-journal")]
            late: None,
        };
        let journal = Self {
            dir,
            boot_id,
            state: Mutex::new(state),
            flushing: Mutex::new(()),
        };
        journal.roll(&mut journal.state.lock())?;
        Ok(journal)
    }

    /// Appends one record and returns its LSN. `encode` appends the payload to the buffer it is given.
    ///
    /// When this returns, the record is in the kernel's page cache: process death does not lose it.
    ///
    /// # Errors
    /// On a full disk or a failed write nothing was appended and the LSN is not taken.
    pub(crate) fn append(&self, time_ms: u64, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Lsn> {
        let mut state = self.state.lock();
        if let Some(why) = &state.failed {
            return Err(MetaError::ReadOnly(why.clone()));
        }
        let mut buffer = std::mem::take(&mut state.buffer);
        buffer.clear();
        let start = begin_record(&mut buffer);
        encode(&mut buffer);
        let result = self.append_encoded(&mut state, &mut buffer, start, time_ms);
        state.buffer = buffer;
        result
    }

    fn append_encoded(
        &self,
        state: &mut State,
        buffer: &mut Vec<u8>,
        start: usize,
        time_ms: u64,
    ) -> Result<Lsn> {
        let lsn = Lsn(state.last.0 + 1);
        let size = record_bytes(buffer.len() - start - format::RECORD_HEADER_BYTES);
        if size > JOURNAL_FILE_BYTES - HEADER_BYTES {
            return Err(MetaError::Invalid(
                "an operation too large for one journal record",
            ));
        }
        if state
            .files
            .back()
            .is_none_or(|f| f.end + size > JOURNAL_FILE_BYTES)
        {
            self.roll(state)?;
        }
        let durable = state.durable;
        let file = state.files.back_mut().ok_or(MetaError::Closed)?;
        finish_record(buffer, start, file.salt, lsn, durable, time_ms);
        #[cfg(not(feature = "planted-ack-before-journal"))]
        file.file
            .write_all_at(&buffer[start..], file.end)
            .map_err(MetaError::from_io)?;
        #[cfg(feature = "planted-ack-before-journal")]
        let late = (Arc::clone(&file.file), buffer[start..].to_vec(), file.end);
        file.end += size;
        file.last = lsn;
        file.dirty = true;
        #[cfg(feature = "planted-ack-before-journal")]
        if let Some((file, bytes, at)) = state.late.replace(late) {
            file.write_all_at(&bytes, at).map_err(MetaError::from_io)?;
        }
        state.last = lsn;
        Ok(lsn)
    }

    /// Opens the next file, recycled or new, and makes it the one that is appended to.
    fn roll(&self, state: &mut State) -> Result<()> {
        let header = JournalHeader {
            key_id: 0,
            number: state.next_number,
            salt: state.rng.random(),
            boot_id: self.boot_id,
            first: Lsn(state.last.0 + 1),
            durable: state.durable,
        };
        let file = match files::make(&self.dir, &header) {
            Ok(file) => file,
            Err(MakeError::Plain(error)) => return Err(error),
            Err(MakeError::Fatal(error)) => {
                let why = format!("making a journal file durable failed: {error}");
                tracing::error!(reason = %why, "the volume turns read-only");
                state.failed.get_or_insert(why.clone());
                return Err(MetaError::ReadOnly(why));
            }
        };
        state.next_number += 1;
        state.files.push_back(Segment {
            number: header.number,
            salt: header.salt,
            file: Arc::new(file),
            last: state.last,
            end: HEADER_BYTES,
            dirty: false,
        });
        Ok(())
    }

    /// The last LSN that was appended.
    pub(crate) fn last(&self) -> Lsn {
        self.state.lock().last
    }

    /// The last LSN known durable.
    pub(crate) fn durable(&self) -> Lsn {
        self.state.lock().durable
    }

    /// Bytes of all journal files that hold records.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().files.len() as u64 * JOURNAL_FILE_BYTES
    }

    /// Flushes every record that was appended before the call. They count as durable once [`Journal::note_durable`] says
    /// so: the data they name has to be as well. Returns the last of them.
    ///
    /// # Errors
    /// A failed flush is final: the journal takes nothing more.
    pub(crate) fn flush(&self, upto: Lsn) -> Result<Lsn> {
        let _one = self.flushing.lock();
        let (files, upto) = {
            let mut state = self.state.lock();
            if let Some(why) = &state.failed {
                return Err(MetaError::ReadOnly(why.clone()));
            }
            let upto = upto.min(state.last);
            #[cfg(feature = "planted-ack-before-journal")]
            if let Some((file, bytes, at)) = state.late.take() {
                file.write_all_at(&bytes, at).map_err(MetaError::from_io)?;
            }
            let mut files = Vec::new();
            for file in state.files.iter_mut().filter(|f| f.dirty) {
                file.dirty = false;
                files.push(Arc::clone(&file.file));
            }
            (files, upto)
        };
        for file in files {
            if let Err(error) = file.sync_data() {
                return Err(self.fail(format!("flushing the journal failed: {error}")));
            }
        }
        Ok(upto)
    }

    /// Records up to `upto`, and the data they name, are on the disk.
    pub(crate) fn note_durable(&self, upto: Lsn) {
        let mut state = self.state.lock();
        state.durable = state.durable.max(upto);
    }

    /// Refuses everything from now on.
    pub(crate) fn fail(&self, why: String) -> MetaError {
        tracing::error!(reason = %why, "the volume turns read-only");
        self.state.lock().failed.get_or_insert(why.clone());
        MetaError::ReadOnly(why)
    }

    /// Why the journal takes nothing more, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    /// Frees the files whose records are all covered by a durable checkpoint.
    pub(crate) fn free(&self, covered: Lsn) {
        let freed: Vec<Segment> = {
            let mut state = self.state.lock();
            let mut freed = Vec::new();
            while state.files.len() > 1 && state.files.front().is_some_and(|f| f.last <= covered) {
                freed.extend(state.files.pop_front());
            }
            freed
        };
        for file in freed {
            files::recycle(&self.dir, file.number);
        }
    }
}

#[cfg(test)]
mod tests;
