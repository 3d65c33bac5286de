//! Names and life of segment files in their directory: found at start, created, recycled, removed.
//!
//! A file gets its final name only when its header is durable, and is used only when its name is. Knows nothing of
//! appends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::FallocateFlags;

use super::file::Segment;
use super::header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::disk::{remove_if_there, sync_dir};
use crate::error::{Error, Result, io_at};
use crate::ids::SegmentId;

const SEGMENT_PREFIX: &str = "seg-";
const SPARE_PREFIX: &str = "spare-";
const NEW_PREFIX: &str = "new-";

/// The directory of segment files.
#[derive(Debug)]
pub(super) struct SegmentFiles {
    dir: PathBuf,
    segment_bytes: u64,
    max_spares: usize,
    state: Mutex<FilesState>,
}

#[derive(Debug)]
struct FilesState {
    /// Files written before, of the right size, ready for a new header.
    spares: Vec<PathBuf>,
    salts: SmallRng,
}

impl SegmentFiles {
    /// Opens (or makes) the directory, removes half-made files, and returns the segments in it.
    pub(super) fn open(
        dir: &Path,
        segment_bytes: u64,
        max_spares: usize,
        seed: u64,
    ) -> Result<(Self, Vec<Segment>)> {
        std::fs::create_dir_all(dir).map_err(io_at("create", dir))?;
        let (mut spares, mut segments) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(dir).map_err(io_at("list", dir))? {
            let entry = entry.map_err(io_at("list", dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if let Some(id) = name.strip_prefix(SEGMENT_PREFIX) {
                if let Ok(id) = id.parse() {
                    segments.push(inherit(id, path)?);
                }
            } else if name.starts_with(SPARE_PREFIX) {
                let size = entry.metadata().map_err(io_at("look at", &path))?.len();
                if size == segment_bytes && spares.len() < max_spares {
                    spares.push(path);
                } else {
                    remove_if_there(&path).map_err(io_at("remove", &path))?;
                }
            } else if name.starts_with(NEW_PREFIX) {
                remove_if_there(&path).map_err(io_at("remove", &path))?;
            }
        }
        let state = Mutex::new(FilesState {
            spares,
            salts: SmallRng::seed_from_u64(seed),
        });
        let files = Self {
            dir: dir.to_owned(),
            segment_bytes,
            max_spares,
            state,
        };
        Ok((files, segments))
    }

    /// A segment ready for appends: a spare when there is one, else a new file.
    pub(super) fn create(&self, id: SegmentId) -> Result<Segment> {
        let (spare, salt) = {
            let mut state = self.state.lock();
            (state.spares.pop(), state.salts.random())
        };
        let header = SegmentHeader { id, salt }.encode();
        let (draft, file) = match spare {
            Some(path) => {
                let file = open_for_use(&path)?;
                // The file must have lost its old name for good before its header says something else.
                sync_dir(&self.dir).map_err(io_at("flush", &self.dir))?;
                (path, file)
            }
            None => self.create_new(id)?,
        };
        let path = self.dir.join(format!("{SEGMENT_PREFIX}{id}"));
        let named = file
            .write_all_at(&header, 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| std::fs::rename(&draft, &path))
            .and_then(|()| sync_dir(&self.dir));
        if let Err(error) = named {
            for left in [&draft, &path] {
                // The first error is reported; a left-over is an unreferenced file at the next start.
                let _ = std::fs::remove_file(left);
            }
            return Err(io_at("prepare", &path)(error));
        }
        Ok(Segment::fresh(id, path, file, self.segment_bytes))
    }

    fn create_new(&self, id: SegmentId) -> Result<(PathBuf, File)> {
        let path = self.dir.join(format!("{NEW_PREFIX}{id}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_at("create", &path))?;
        if let Err(error) = allocate(&file, self.segment_bytes) {
            let _ = std::fs::remove_file(&path);
            return Err(io_at("allocate", &path)(error));
        }
        Ok((path, file))
    }

    /// Takes back the file of a released segment. `reusable` says that nobody can still be reading it.
    pub(super) fn retire(
        &self,
        id: SegmentId,
        path: &Path,
        size: u64,
        reusable: bool,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let spare = self.dir.join(format!("{SPARE_PREFIX}{id}"));
        // A spare of the same name would be replaced under somebody who is about to open it.
        let taken = state.spares.contains(&spare);
        let wanted = reusable && size == self.segment_bytes && !taken;
        if wanted && state.spares.len() < self.max_spares {
            std::fs::rename(path, &spare).map_err(io_at("recycle", path))?;
            state.spares.push(spare);
            return Ok(());
        }
        drop(state);
        remove_if_there(path).map_err(io_at("remove", path))
    }

    /// Removes the spares; returns the bytes this gave back to the disk.
    pub(super) fn drop_spares(&self) -> Result<u64> {
        let spares = std::mem::take(&mut self.state.lock().spares);
        let mut freed = 0;
        for path in spares {
            remove_if_there(&path).map_err(io_at("remove", &path))?;
            freed += self.segment_bytes;
        }
        Ok(freed)
    }
}

fn open_for_use(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io_at("open", path))
}

/// Blocks for the whole file; where the file system has no such call, at least its size.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        outcome => Ok(outcome?),
    }
}

/// A segment file found at start. A damaged header is reported and the bytes stay readable: every extent in them has
/// its own checksums in the metadata. What a newer program wrote is refused.
fn inherit(id: SegmentId, path: PathBuf) -> Result<Segment> {
    let file = open_for_use(&path)?;
    let size = file.metadata().map_err(io_at("look at", &path))?.len();
    let mut header = vec![0; size.min(SEGMENT_HEADER_BYTES) as usize];
    file.read_exact_at(&mut header, 0)
        .map_err(io_at("read", &path))?;
    match SegmentHeader::parse(&header) {
        Ok(header) if header.id == id => {}
        Ok(header) => {
            tracing::error!(path = %path.display(), says = %header.id, "segment header names another segment");
        }
        Err(error @ Error::Damaged { .. }) => {
            tracing::error!(path = %path.display(), %error, "segment header");
        }
        Err(error) => return Err(error),
    }
    Ok(Segment::inherited(id, path, file, size))
}
