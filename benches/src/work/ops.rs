//! Small operations, as many as told or as time allows, in threads that each have a folder of their own.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::Said;
use super::content::{self, BLOCK};
use crate::error::{At, Result, ensure};

/// The operations, in the order in which they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SmallOp {
    /// Create a file, write 4 KiB, close it
    Create,
    /// stat
    Stat,
    /// Open, read 4 KiB, close
    Read,
    /// List a folder; an entry counts one
    List,
    /// Write 4 KiB into a file that is there and fsync it
    Fsync,
    /// Rename within a folder
    Rename,
    /// Remove a file
    Unlink,
}

/// Files of one thread.
struct Place {
    folder: PathBuf,
    /// First number of its files' contents.
    first: u64,
}

impl Place {
    fn file(&self, n: u64) -> PathBuf {
        self.folder.join(format!("file-{n:06}"))
    }

    fn renamed(&self, n: u64) -> PathBuf {
        self.folder.join(format!("other-{n:06}"))
    }

    fn create(&self, n: u64, block: &mut [u8]) -> Result<()> {
        content::fill(block, self.first + n, 0);
        let path = self.file(n);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .at(&path)?;
        file.write_all(block).at(&path)
    }

    fn stat(&self, n: u64) -> Result<()> {
        let path = self.file(n);
        let len = path.metadata().at(&path)?.len();
        ensure(len == BLOCK as u64, || format!("file {n} has {len} bytes"))
    }

    fn read(&self, n: u64, block: &mut [u8]) -> Result<()> {
        let path = self.file(n);
        let mut file = File::open(&path).at(&path)?;
        file.read_exact(block).at(&path)?;
        ensure(content::is_numbered(block, self.first + n), || {
            format!("file {n} is not what was written")
        })
    }

    fn fsync(&self, n: u64, block: &mut [u8]) -> Result<()> {
        content::fill(block, self.first + n, 0);
        let path = self.file(n);
        let mut file = OpenOptions::new().write(true).open(&path).at(&path)?;
        file.write_all(block).at(&path)?;
        file.sync_all().at(&path)
    }

    fn list(&self, files: u64) -> Result<()> {
        let entries = std::fs::read_dir(&self.folder).at(&self.folder)?;
        let found = entries.filter(|entry| entry.is_ok()).count() as u64;
        ensure(found == files, || {
            format!("{found} of {files} files are listed")
        })
    }
}

/// Does `op` on `files` files in each thread, for at most `seconds`. Says how many were done in all. Only creating may
/// do fewer than told in one thread than in another: then the fewest count, and the rest is removed.
pub(super) fn perform(
    op: SmallOp,
    folder: &Path,
    threads: u64,
    files: u64,
    seconds: f64,
) -> Result<Said> {
    let places: Vec<Place> = (0..threads)
        .map(|t| Place {
            folder: folder.join(format!("thread-{t}")),
            first: t << 32,
        })
        .collect();
    if op == SmallOp::Create {
        for place in &places {
            std::fs::create_dir_all(&place.folder).at(&place.folder)?;
        }
    }
    let limit = Duration::from_secs_f64(seconds);
    let began = Instant::now();
    let each = std::thread::scope(|scope| {
        let run = |place| move || one_thread(op, place, files, limit);
        let running: Vec<_> = places.iter().map(|place| scope.spawn(run(place))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<u64>>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().map(join).collect::<Result<Vec<u64>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    check(op, &places, &each, files)?;
    Ok(Said::in_seconds(seconds, each.iter().sum()))
}

fn one_thread(op: SmallOp, place: &Place, files: u64, limit: Duration) -> Result<u64> {
    let began = Instant::now();
    let mut block = vec![0; BLOCK];
    if op == SmallOp::List {
        // Listing once is soon over; an entry counts one.
        let mut done = 0;
        while done == 0 || (began.elapsed() < limit && done < LISTINGS * files) {
            place.list(files)?;
            done += files;
        }
        return Ok(done);
    }
    for n in 0..files {
        // Whatever is not done in time cannot be done later: names would be missing.
        let may_stop = !matches!(op, SmallOp::Rename | SmallOp::Unlink);
        if may_stop && began.elapsed() > limit {
            return Ok(n);
        }
        match op {
            SmallOp::Create => place.create(n, &mut block)?,
            SmallOp::Stat => place.stat(n)?,
            SmallOp::Read => place.read(n, &mut block)?,
            SmallOp::Fsync => place.fsync(n, &mut block)?,
            SmallOp::Rename => {
                let path = place.file(n);
                std::fs::rename(&path, place.renamed(n)).at(&path)?;
            }
            SmallOp::Unlink => {
                let path = place.renamed(n);
                std::fs::remove_file(&path).at(&path)?;
            }
            SmallOp::List => {}
        }
    }
    Ok(files)
}

/// Most listings of a folder in one measurement.
const LISTINGS: u64 = 20;

/// Looks after the clock has stopped.
fn check(op: SmallOp, places: &[Place], done: &[u64], files: u64) -> Result<()> {
    let fewest = done.iter().copied().min().unwrap_or(0);
    for (place, done) in places.iter().zip(done) {
        match op {
            SmallOp::Create => {
                for n in fewest..*done {
                    let path = place.file(n);
                    std::fs::remove_file(&path).at(&path)?;
                }
                place.list(fewest)?;
            }
            SmallOp::Rename => {
                place.list(files)?;
                let last = place.renamed(files.saturating_sub(1));
                let len = last.metadata().at(&last)?.len();
                ensure(len == BLOCK as u64, || "a renamed file is not whole".into())?;
            }
            SmallOp::Unlink => place.list(0)?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let long = 60.0;
        for op in SmallOp::value_variants() {
            let said = perform(*op, folder.path(), 2, 30, long).unwrap();
            let wanted = if *op == SmallOp::List {
                60 * LISTINGS
            } else {
                60
            };
            assert_eq!(said.done, wanted, "{op:?}");
        }
        assert!(perform(SmallOp::Read, folder.path(), 2, 30, long).is_err());
    }

    #[test]
    fn creating_stops_in_time_with_as_many_files_in_every_folder() {
        let folder = tempfile::tempdir().unwrap();
        let said = perform(SmallOp::Create, folder.path(), 2, u64::MAX, 0.05).unwrap();
        let count = |t| {
            std::fs::read_dir(folder.path().join(format!("thread-{t}")))
                .unwrap()
                .count()
        };
        assert!(count(0) > 0 && count(0) == count(1));
        assert!(said.done >= 2 * count(0) as u64);
    }
}
