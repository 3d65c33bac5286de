//! Writing as programs do it all day, on files that were there before and on new ones: what snapshots that are kept may make
//! slower.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;

use super::Said;
use super::content::{self, BLOCK};
use crate::error::{At, Result, ensure};

/// Files of one folder.
const FOLDER_FILES: u64 = 250;
/// Folders that objects are spread over.
const FANS: u64 = 64;
/// Objects for each new index.
const OBJECTS_OF_INDEX: u64 = 20;
const INDEX_BYTES: usize = 100 << 10;
const OBJECT_BYTES: usize = 700;

/// A kind of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteOp {
    /// Make the files that the others work on
    Prepare,
    /// Create a file, write 4 KiB, close it
    Create,
    /// Open a file that is there, write 4 KiB over its content, close it
    Overwrite,
    /// Rename a file within its folder
    Rename,
    /// Objects written beside their place and renamed, an index now and then, a working file replaced
    Git,
}

/// The files that are there before.
struct Desk<'a> {
    folder: &'a Path,
    /// How often this kind of writing was done before.
    round: u64,
}

impl Desk<'_> {
    fn below(&self, n: u64) -> PathBuf {
        self.folder.join(format!("d-{}", n / FOLDER_FILES))
    }

    fn file(&self, n: u64) -> PathBuf {
        self.below(n).join(format!("file-{n:06}"))
    }

    /// There and back again.
    fn renamed(&self, n: u64) -> (PathBuf, PathBuf) {
        let other = self.below(n).join(format!("other-{n:06}"));
        match self.round % 2 {
            0 => (self.file(n), other),
            _ => (other, self.file(n)),
        }
    }

    fn put(&self, path: &Path, n: u64, block: &mut [u8]) -> Result<()> {
        content::fill(block, n, self.round);
        let mut file = OpenOptions::new().write(true).open(path).at(path)?;
        file.write_all(block).at(path)
    }

    /// What git does for one file of a commit.
    fn git(&self, n: u64, block: &mut [u8], index: &[u8]) -> Result<()> {
        let git = self.folder.join("git");
        let fan = git.join(format!("{:02x}", n % FANS));
        let temporary = fan.join("tmp_obj");
        let mut file = File::create_new(&temporary).at(&temporary)?;
        file.write_all(&block[..OBJECT_BYTES]).at(&temporary)?;
        drop(file);
        let object = fan.join(format!("{}-{n:08x}", self.round));
        std::fs::rename(&temporary, &object).at(&object)?;
        if n.is_multiple_of(OBJECTS_OF_INDEX) {
            let lock = git.join("index.lock");
            std::fs::write(&lock, index).at(&lock)?;
            std::fs::rename(&lock, git.join("index")).at(&lock)?;
        }
        // A checkout replaces the working file.
        let path = self.file(n);
        path.symlink_metadata().at(&path)?;
        std::fs::remove_file(&path).at(&path)?;
        content::fill(block, n, self.round);
        let mut file = File::create_new(&path).at(&path)?;
        file.write_all(block).at(&path)
    }
}

/// Does `op` for `count` files.
pub(super) fn perform(op: WriteOp, folder: &Path, count: u64, round: u64) -> Result<Said> {
    let desk = Desk { folder, round };
    let (mut block, index) = (vec![0; BLOCK], vec![b'i'; INDEX_BYTES]);
    let new = folder.join(format!("new-{round}"));
    if op == WriteOp::Prepare {
        for n in 0..FANS {
            let fan = folder.join("git").join(format!("{n:02x}"));
            std::fs::create_dir_all(&fan).at(&fan)?;
        }
    }
    let began = Instant::now();
    for n in 0..count {
        let starts = n.is_multiple_of(FOLDER_FILES);
        match op {
            WriteOp::Prepare => {
                if starts {
                    std::fs::create_dir_all(desk.below(n)).at(folder)?;
                }
                content::fill(&mut block, n, round);
                let path = desk.file(n);
                std::fs::write(&path, &block).at(&path)?;
            }
            WriteOp::Create => {
                let below = new.join(format!("{}", n / FOLDER_FILES));
                if starts {
                    std::fs::create_dir_all(&below).at(&below)?;
                }
                content::fill(&mut block, n, round);
                let path = below.join(format!("file-{n:06}"));
                let mut file = File::create_new(&path).at(&path)?;
                file.write_all(&block).at(&path)?;
            }
            WriteOp::Overwrite => desk.put(&desk.file(n), n, &mut block)?,
            WriteOp::Rename => {
                let (from, to) = desk.renamed(n);
                std::fs::rename(&from, &to).at(&from)?;
            }
            WriteOp::Git => desk.git(n, &mut block, &index)?,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    check(op, &desk, &new, count)?;
    Ok(Said::in_seconds(seconds, count))
}

/// Looks at the last file, and takes away what was made anew.
fn check(op: WriteOp, desk: &Desk<'_>, new: &Path, count: u64) -> Result<()> {
    let last = count.saturating_sub(1);
    let whole = |path: &Path| {
        let found = std::fs::read(path).at(path)?;
        content::check(&found, last, desk.round)
    };
    match op {
        WriteOp::Prepare | WriteOp::Overwrite | WriteOp::Git => whole(&desk.file(last))?,
        WriteOp::Create => {
            let below = new.join(format!("{}", last / FOLDER_FILES));
            whole(&below.join(format!("file-{last:06}")))?;
            std::fs::remove_dir_all(new).at(new)?;
        }
        WriteOp::Rename => {
            let to = desk.renamed(last).1;
            let len = to.metadata().at(&to)?.len();
            ensure(len == BLOCK as u64, || "a renamed file is not whole".into())?;
        }
    }
    if op == WriteOp::Git {
        let mut objects = 0;
        for n in 0..FANS {
            let fan = desk.folder.join("git").join(format!("{n:02x}"));
            for entry in std::fs::read_dir(&fan).at(&fan)? {
                let path = entry.at(&fan)?.path();
                std::fs::remove_file(&path).at(&path)?;
                objects += 1;
            }
        }
        ensure(objects == count, || {
            format!("{objects} objects are there, not {count}")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_writing_can_be_done_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        perform(WriteOp::Prepare, root, 600, 0).unwrap();
        for round in 0..3 {
            for op in [WriteOp::Create, WriteOp::Overwrite, WriteOp::Git] {
                assert_eq!(perform(op, root, 600, round).unwrap().done, 600, "{op:?}");
            }
            perform(WriteOp::Rename, root, 600, 2 * round).unwrap();
            assert!(perform(WriteOp::Overwrite, root, 600, round).is_err());
            perform(WriteOp::Rename, root, 600, 2 * round + 1).unwrap();
        }
    }
}
