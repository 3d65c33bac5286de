//! Temporary files of a directory store: written whole and durably before they get a key, swept when left over.
//!
//! Touches only files that are named like its own: the directory may be somebody else's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::{remove_if_there, write_new};

const TEMP_PREFIX: &str = "put-";
/// A temporary file this old belongs to nobody any more.
const TEMP_AGE: Duration = Duration::from_secs(3600);
/// How often a name for a temporary file may be taken already.
const TEMP_TRIES: usize = 16;

/// Makes temporary files in one directory.
#[derive(Debug, Default)]
pub(super) struct Temps {
    /// Makes names differ within this process.
    count: AtomicU64,
}

impl Temps {
    /// Writes a file into `dir`, durably, and returns where.
    pub(super) fn write(&self, dir: &Path, body: &[u8]) -> io::Result<PathBuf> {
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..TEMP_TRIES {
            let temp = dir.join(self.name());
            match write_new(&temp, body, true) {
                Ok(()) => return Ok(temp),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    /// A name no other writer to the directory is likely to use; creation is exclusive, so a clash costs a try only.
    fn name(&self) -> String {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        let process = u64::from(std::process::id()) << 32;
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!(
            "{TEMP_PREFIX}{nanos:016x}-{:016x}",
            process | (count & 0xffff_ffff)
        )
    }
}

/// Removes old temporary files, and only files that are named like ours.
pub(super) fn sweep_temps(dir: &Path, now: SystemTime) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_temp_name) {
            continue;
        }
        let age = match entry.metadata().and_then(|info| info.modified()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            modified => now.duration_since(modified?).unwrap_or_default(),
        };
        if age > TEMP_AGE {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn is_temp_name(name: &str) -> bool {
    let digits = |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
    name.strip_prefix(TEMP_PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(nanos, count)| digits(nanos) && digits(count))
}
