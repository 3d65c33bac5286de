//! A log file of bounded size: when it is full it is renamed and a new one begun. Losing lines is better than failing
//! a mount, so nothing in here reports an error.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes after which a log file is full.
pub(crate) const LOG_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// How many log files there are at most, the current one included.
pub(crate) const LOG_FILES: usize = 3;

/// `NAME`, then `NAME.1`, `NAME.2`, from newest to oldest.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    limit: u64,
    file: Option<File>,
    written: u64,
}

impl LogFile {
    /// Appends to `path`, which may exist, and begins a new file after `limit` bytes.
    pub(crate) fn append_to(path: PathBuf, limit: u64) -> Self {
        let mut log = Self {
            path,
            limit,
            file: None,
            written: 0,
        };
        log.open();
        log
    }

    /// Opens the file by its name again, in case somebody else renamed or removed it.
    pub(crate) fn open(&mut self) {
        self.file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .ok();
        self.written = self
            .file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |found| found.len());
    }

    /// Appends one or more whole lines.
    pub(crate) fn write(&mut self, lines: &[u8]) {
        if self.written > 0 && self.written + lines.len() as u64 > self.limit {
            self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(lines).is_ok()
        {
            self.written += lines.len() as u64;
        }
    }

    fn rotate(&mut self) {
        for number in (1..LOG_FILES).rev() {
            let older = numbered(&self.path, number);
            let newer = if number == 1 {
                self.path.clone()
            } else {
                numbered(&self.path, number - 1)
            };
            // The first time there is nothing to rename yet.
            drop(std::fs::rename(newer, older));
        }
        self.open();
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_move_up_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        let mut log = LogFile::append_to(path.clone(), 10);
        for line in [
            "one12345\n",
            "two12345\n",
            "three345\n",
            "four2345\n",
            "x\n",
        ] {
            log.write(line.as_bytes());
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "x\n");
        assert_eq!(read(&numbered(&path, 1)), "four2345\n");
        assert_eq!(read(&numbered(&path, 2)), "three345\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), LOG_FILES);
    }

    #[test]
    fn what_was_there_counts_and_a_line_longer_than_a_file_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        std::fs::write(&path, "12345678\n").unwrap();
        let mut log = LogFile::append_to(path.clone(), 10);
        log.write(b"a line longer than the limit\n");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "a line longer than the limit\n"
        );
        assert_eq!(
            std::fs::read_to_string(numbered(&path, 1)).unwrap(),
            "12345678\n"
        );
    }

    #[test]
    fn a_file_renamed_by_others_is_begun_anew_on_opening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        let mut log = LogFile::append_to(path.clone(), 1000);
        log.write(b"before\n");
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        log.open();
        log.write(b"after\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn a_folder_that_is_gone_stops_the_log_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::append_to(dir.path().join("missing/w.log"), 10);
        log.write(b"lost\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
