//! A program that writes without pause, and how long each of its operations took: what somebody at work notices of what
//! happens beside it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Said;
use super::content::BLOCK;
use crate::error::{At, Result, ensure};

/// Bytes of an appended line.
const LINE: usize = 256;
/// New files are removed again once there are so many.
const FILES: u64 = 1_000;

/// Appends a line, creates a file of 4 KiB, and so on for a while in a new folder. Says milliseconds: `p50`, `p99`, `worst`.
pub(super) fn write(folder: &Path, seconds: f64) -> Result<Said> {
    std::fs::create_dir(folder).at(folder)?;
    let log_path = folder.join("log");
    let mut log = OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(&log_path)
        .at(&log_path)?;
    let (line, block) = (vec![b'x'; LINE], vec![b'y'; BLOCK]);
    let limit = Duration::from_secs_f64(seconds);
    let began = Instant::now();
    let mut took = Vec::new();
    let mut created = 0;
    while began.elapsed() < limit {
        let at = Instant::now();
        log.write_all(&line).at(&log_path)?;
        took.push(at.elapsed());
        let path = folder.join(format!("file-{}", created % FILES));
        if created >= FILES {
            std::fs::remove_file(&path).at(&path)?;
        }
        let at = Instant::now();
        let mut file = File::create_new(&path).at(&path)?;
        file.write_all(&block).at(&path)?;
        drop(file);
        took.push(at.elapsed());
        created += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(log);
    let len = log_path.metadata().at(&log_path)?.len();
    ensure(len == created * LINE as u64, || {
        format!("the log has {len} bytes after {created} lines")
    })?;
    let files = std::fs::read_dir(folder).at(folder)?.count() as u64;
    ensure(files == created.min(FILES) + 1, || {
        format!("{files} files are there after {created}")
    })?;
    std::fs::remove_dir_all(folder).at(folder)?;
    took.sort_unstable();
    let ms = |share: f64| {
        let at = (took.len() as f64 * share) as usize;
        took[at.min(took.len() - 1)].as_secs_f64() * 1e3
    };
    let mut said = Said::in_seconds(seconds, took.len() as u64);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("worst", 1.0)] {
        said.figures.insert(name.into(), ms(share));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_says_how_long_its_operations_took() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        let said = write(&place, 0.05).unwrap();
        let of = |name: &str| said.figures[name];
        assert!(said.done > 0 && of("p50") <= of("p99") && of("p99") <= of("worst"));
        assert!(!place.exists());
    }
}
