//! The newest lines of a log, without reading all of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use weldrfs_control::LogLines;

/// Most bytes that are read.
const BYTES_MAX: u64 = 1024 * 1024;

/// The newest `most` lines of the log at `path`; none of one that is not there.
pub(super) fn newest_lines(path: &Path, most: usize) -> io::Result<LogLines> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LogLines::default()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let from = length.saturating_sub(BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Most likely the first of them is half a line.
    let text = match from {
        0 => &*text,
        _ => text.split_once('\n').map_or("", |(_, rest)| rest),
    };
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(most);
    Ok(LogLines {
        name: String::new(),
        lines: lines[first..].iter().map(|&line| line.to_owned()).collect(),
        truncated: from > 0 || first > 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_read_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(newest_lines(&path, 5).unwrap(), LogLines::default());
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let two = newest_lines(&path, 2).unwrap();
        assert_eq!(
            (two.lines, two.truncated),
            (vec!["two".to_owned(), "three".to_owned()], true)
        );
        let all = newest_lines(&path, 3).unwrap();
        assert_eq!((all.lines.len(), all.truncated), (3, false));

        let long = format!("{}\n", "x".repeat(99)).repeat(20_000);
        std::fs::write(&path, long).unwrap();
        let lines = newest_lines(&path, usize::MAX).unwrap();
        assert!(lines.truncated && lines.lines.len() < 20_000);
        assert!(lines.lines.iter().all(|line| line.len() == 99));
    }
}
