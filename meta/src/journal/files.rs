//! Journal files on disk: names, making, recycling. A file under its final name always has a valid header.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{MetaError, Result};
use crate::settings::JOURNAL_FILE_BYTES;

use super::format::JournalHeader;

const PREFIX: &str = "journal-";
const SPARE: &str = "journal.spare-";
/// Spare files that are kept for recycling.
const MAX_SPARES: usize = 4;

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:016x}"))
}

/// The numbers of the journal files in a folder, ascending.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    for name in names(dir)? {
        if let Some(hex) = name.strip_prefix(PREFIX) {
            let number = u64::from_str_radix(hex, 16)
                .map_err(|_| MetaError::damaged("journal", format!("unexpected file {name}")))?;
            out.push(number);
        }
    }
    out.sort_unstable();
    Ok(out)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries
        .into_iter()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect())
}

fn spares(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(names(dir)?
        .iter()
        .filter(|n| n.starts_with(SPARE))
        .map(|n| dir.join(n))
        .collect())
}

/// Why a file could not be made.
pub(super) enum MakeError {
    /// Nothing has happened: it may be tried again.
    Plain(MetaError),
    /// What the disk holds is unknown: nothing may be acknowledged any more.
    Fatal(io::Error),
}

impl From<MetaError> for MakeError {
    fn from(error: MetaError) -> Self {
        Self::Plain(error)
    }
}

impl From<io::Error> for MakeError {
    fn from(error: io::Error) -> Self {
        Self::Plain(MetaError::from_io(error))
    }
}

/// Makes the file a header names, from a spare when there is one, and makes its name durable.
pub(super) fn make(dir: &Path, header: &JournalHeader) -> std::result::Result<File, MakeError> {
    // Opened first: once the file has its name there is nothing left that may fail and be tried again.
    let folder = File::open(dir)?;
    let temporary = match whole_spare(dir)? {
        Some(spare) => spare,
        None => write_spare(dir, header.number)?,
    };
    let file = OpenOptions::new().read(true).write(true).open(&temporary)?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data().map_err(MakeError::Fatal)?;
    fs::rename(&temporary, path(dir, header.number))?;
    folder.sync_all().map_err(MakeError::Fatal)?;
    Ok(file)
}

/// A spare to recycle. One that a killed process did not finish is removed.
fn whole_spare(dir: &Path) -> Result<Option<PathBuf>> {
    for spare in spares(dir)? {
        if fs::metadata(&spare)?.len() == JOURNAL_FILE_BYTES {
            return Ok(Some(spare));
        }
        fs::remove_file(&spare)?;
    }
    Ok(None)
}

/// Writes the whole file once, so that a flush of appended records never has to allocate blocks.
fn write_spare(dir: &Path, number: u64) -> io::Result<PathBuf> {
    let path = dir.join(format!("{SPARE}{number:016x}"));
    let result = (|| {
        let mut file = File::create(&path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..JOURNAL_FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        Ok(())
    })();
    if result.is_err() {
        // Half a spare on a full disk would only make the disk fuller.
        let _ = fs::remove_file(&path);
    }
    result.map(|()| path)
}

/// Puts a file that is no longer needed among the spares, or removes it when there are enough. Returns whether that
/// worked.
pub(super) fn recycle(dir: &Path, number: u64) -> bool {
    let enough = spares(dir).map_or(true, |s| s.len() >= MAX_SPARES);
    let from = path(dir, number);
    let result = if enough {
        fs::remove_file(&from)
    } else {
        fs::rename(&from, dir.join(format!("{SPARE}{number:016x}")))
    };
    if let Err(error) = &result {
        tracing::warn!(file = %from.display(), %error, "could not free a journal file");
    }
    result.is_ok()
}
