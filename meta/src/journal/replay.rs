//! Reading the journal that a former process left behind.
//!
//! Where the log may end is the whole question: only where a tail may be torn. Anywhere else it is damage, with a name.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{MetaError, Result};
use crate::ids::Lsn;
use crate::settings::JOURNAL_FILE_BYTES;

use super::files;
use super::format::{
    ALIGN, HEADER_BYTES, JournalHeader, RecordHeader, claimed_lsn, parse_record, record_bytes,
};

/// A record that was read back.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) payload: &'a [u8],
    /// Whether the record was written in this boot of the machine, or is known to have been flushed: then its bytes,
    /// and those it names, cannot have been lost with the power.
    pub(crate) safe: bool,
}

/// What a former process left.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// The number the next file gets.
    pub(crate) next_number: u64,
    /// Inherited files, oldest first.
    numbers: Vec<u64>,
    durable: Lsn,
}

struct Walk<'a> {
    boot_id: &'a [u8; 16],
    durable: Lsn,
    last: Option<Lsn>,
    ended: bool,
}

impl Inherited {
    /// Lists the journal files in `dir`, flushes them and finds the greatest LSN known durable.
    ///
    /// They are flushed first, because what is replayed from the page cache must not be lost by a power failure after
    /// something newer was built on it.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let found = files::numbers(dir)?;
        let next_number = found.last().map_or(1, |n| n + 1);
        let mut numbers = Vec::new();
        let mut durable = Lsn(0);
        for number in found {
            let path = files::path(dir, number);
            File::open(&path)?.sync_all()?;
            let bytes = fs::read(&path)?;
            let header = JournalHeader::parse(&bytes)?;
            // Journal files have their full length from the day they are made.
            if bytes.len() as u64 != JOURNAL_FILE_BYTES {
                return Err(MetaError::damaged(
                    "journal",
                    format!(
                        "file {number:016x} has {} bytes instead of {JOURNAL_FILE_BYTES}",
                        bytes.len()
                    ),
                ));
            }
            if header.number != number {
                // It was freed and about to be used again when the power failed: the new header was on the disk
                // before the new name. Its records had long been covered.
                tracing::warn!(file = %path.display(), "a freed journal file still has its old name");
                fs::remove_file(&path)?;
                continue;
            }
            numbers.push(number);
            durable = durable.max(header.durable);
            for_each_record(&header, &bytes, |record| {
                durable = durable.max(record.durable)
            });
        }
        Ok(Self {
            next_number,
            numbers,
            durable,
        })
    }

    /// Hands every record above `after` to `apply`, in order, until the log ends. `apply` returns false to end the log
    /// there: a record whose data did not survive the power loss. Returns the last LSN of the history.
    pub(crate) fn replay(
        &self,
        dir: &Path,
        boot_id: &[u8; 16],
        after: Lsn,
        mut apply: impl FnMut(Record<'_>) -> Result<bool>,
    ) -> Result<Lsn> {
        let mut walk = Walk {
            boot_id,
            durable: self.durable,
            last: None,
            ended: false,
        };
        for number in &self.numbers {
            let bytes = fs::read(files::path(dir, *number))?;
            walk.file(*number, &bytes, after, &mut apply)?;
        }
        let last = walk.last.unwrap_or(after).max(after);
        if self.durable > last {
            return Err(MetaError::damaged(
                "journal",
                format!(
                    "it ends at operation {last} although operation {} was flushed",
                    self.durable
                ),
            ));
        }
        Ok(last)
    }

    /// Frees the inherited files, once a checkpoint covers all of them: the newest first, so that what is left after a
    /// crash in the middle never begins behind a gap.
    pub(crate) fn free(&self, dir: &Path) {
        for number in self.numbers.iter().rev() {
            if !files::recycle(dir, *number) {
                return;
            }
        }
    }
}

impl Walk<'_> {
    fn file(
        &mut self,
        number: u64,
        bytes: &[u8],
        after: Lsn,
        apply: &mut impl FnMut(Record<'_>) -> Result<bool>,
    ) -> Result<()> {
        let header = JournalHeader::parse(bytes)?;
        let same_boot = &header.boot_id == self.boot_id;
        if self.ended {
            return self.must_be_tail(number, &header, same_boot);
        }
        if self.last.is_none() && header.first.0 > after.0 + 1 {
            return Err(MetaError::damaged(
                "journal",
                format!(
                    "operations {} to {} are missing before file {number:016x}",
                    after.0 + 1,
                    header.first.0 - 1
                ),
            ));
        }
        if let Some(last) = self.last
            && header.first.0 != last.0 + 1
        {
            self.ended = true;
            return self.must_be_tail(number, &header, same_boot);
        }
        let mut next = header.first;
        let mut at = HEADER_BYTES;
        while let Some((record, payload)) = bytes
            .get(at as usize..)
            .and_then(|b| parse_record(header.salt, b))
        {
            if record.lsn != next {
                break;
            }
            let safe = same_boot || record.lsn <= self.durable;
            if record.lsn > after
                && !apply(Record {
                    header: record,
                    payload,
                    safe,
                })?
            {
                self.ended = true;
                self.last = Some(Lsn(next.0 - 1));
                return Ok(());
            }
            next = Lsn(next.0 + 1);
            at += record_bytes(payload.len());
        }
        self.last = Some(Lsn(next.0 - 1));
        self.check_behind(number, &header, bytes, at, same_boot)
    }

    /// Nothing valid may follow the last good record of a file, unless the power failed and it was never flushed.
    fn check_behind(
        &self,
        number: u64,
        header: &JournalHeader,
        bytes: &[u8],
        at: u64,
        same_boot: bool,
    ) -> Result<()> {
        let found = later_record(header, bytes, at, self.last).map(|(_, record)| record.lsn);
        match found {
            Some(lsn) if same_boot || lsn <= self.durable => Err(MetaError::damaged(
                "journal",
                format!(
                    "file {number:016x} is unreadable at byte {at}, but operation {lsn} follows"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn must_be_tail(&self, number: u64, header: &JournalHeader, same_boot: bool) -> Result<()> {
        if same_boot || header.first <= self.durable {
            return Err(MetaError::damaged(
                "journal",
                format!(
                    "operations before {} (file {number:016x}) are missing",
                    header.first
                ),
            ));
        }
        Ok(())
    }
}

/// Visits every valid record of a file, those behind an unreadable place too.
fn for_each_record(header: &JournalHeader, bytes: &[u8], mut visit: impl FnMut(&RecordHeader)) {
    let mut at = HEADER_BYTES;
    let mut last = None;
    while let Some((found, record)) = later_record(header, bytes, at, last) {
        visit(&record);
        last = Some(record.lsn);
        at = found + record_bytes(record.len as usize);
    }
}

/// The first valid record at or behind `at` whose operation is later than `last`, and where it is.
fn later_record(
    header: &JournalHeader,
    bytes: &[u8],
    at: u64,
    last: Option<Lsn>,
) -> Option<(u64, RecordHeader)> {
    let mut probe = at;
    while let Some(rest) = bytes.get(probe as usize..).filter(|rest| !rest.is_empty()) {
        // Only what claims to be a later operation is worth a checksum: recycled files are full of old records.
        if claimed_lsn(rest).is_some_and(|lsn| last.is_none_or(|last| lsn > last))
            && let Some((record, _)) = parse_record(header.salt, rest)
        {
            return Some((probe, record));
        }
        probe += ALIGN;
    }
    None
}
