//! Work on files that the harness does itself, each piece in a process of its own: it can be killed when a file system
//! hangs, and says how long only the work took.

mod big;
mod content;
mod edits;
mod made;
mod ops;
mod trees;
mod writer;
mod writes;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::error::Result;

pub(crate) use ops::SmallOp;
pub(crate) use trees::tree_sum;
pub(crate) use writes::WriteOp;

/// One piece of work. Prints what it found as JSON.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Work {
    /// Write a temporary file, fsync it, rename it over another; again and again
    Edits { folder: PathBuf, count: u64 },
    /// Append many small lines to one open file
    Appends { file: PathBuf, count: u64 },
    /// Write a large file and fsync it
    WriteBig { file: PathBuf, mebibytes: u64 },
    /// Read a large file from its beginning to its end
    ReadBig { file: PathBuf, mebibytes: u64 },
    /// Overwrite random blocks of a large file and fsync it
    WriteRandom {
        file: PathBuf,
        mebibytes: u64,
        count: u64,
    },
    /// Read random blocks of a large file
    ReadRandom {
        file: PathBuf,
        mebibytes: u64,
        count: u64,
    },
    /// Unpack one archive in four processes at once
    Four { archive: PathBuf, folder: PathBuf },
    /// Read every file below a folder
    ReadAll { folder: PathBuf },
    /// One small operation, as often as told or as time allows
    Op {
        op: SmallOp,
        folder: PathBuf,
        threads: u64,
        files: u64,
        seconds: f64,
    },
    /// Write the tree of a model into a new folder
    MakeTree { model: PathBuf, root: PathBuf },
    /// Typical turns in a made tree; with a volume's socket each ends with a snapshot
    Turns {
        model: PathBuf,
        root: PathBuf,
        count: u64,
        #[arg(requires = "first")]
        socket: Option<PathBuf>,
        /// Number of the first snapshot
        first: Option<u64>,
    },
    /// One turn that changes many files of a made tree
    ChangeTree {
        model: PathBuf,
        root: PathBuf,
        files: u64,
    },
    /// Compare a made tree with its model
    CheckTree {
        model: PathBuf,
        root: PathBuf,
        /// The content of every so many files is read
        every: u64,
        /// And of those that this model does not have just so
        unlike: Option<PathBuf>,
    },
    /// Write without pause and note how long each operation took
    Writer { folder: PathBuf, seconds: f64 },
    /// One kind of writing
    Write {
        op: WriteOp,
        folder: PathBuf,
        count: u64,
        /// How often this was done before in this folder
        round: u64,
    },
}

/// What a piece of work says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// How long the work took, without preparing and checking.
    pub(crate) seconds: f64,
    /// How many were done.
    #[serde(default)]
    pub(crate) done: u64,
    /// Of a tree: its checksum.
    #[serde(default)]
    pub(crate) sum: String,
    /// Of a writer: its figures by name.
    #[serde(default)]
    pub(crate) figures: BTreeMap<String, f64>,
}

impl Said {
    fn in_seconds(seconds: f64, done: u64) -> Self {
        Self {
            seconds,
            done,
            ..Self::default()
        }
    }
}

/// Does the work.
pub(crate) fn perform(work: &Work) -> Result<Said> {
    match work {
        Work::Edits { folder, count } => edits::edits(folder, *count),
        Work::Appends { file, count } => edits::appends(file, *count),
        Work::WriteBig { file, mebibytes } => big::write(file, *mebibytes),
        Work::ReadBig { file, mebibytes } => big::read(file, *mebibytes),
        Work::WriteRandom {
            file,
            mebibytes,
            count,
        } => big::write_random(file, *mebibytes, *count),
        Work::ReadRandom {
            file,
            mebibytes,
            count,
        } => big::read_random(file, *mebibytes, *count),
        Work::Four { archive, folder } => trees::four(archive, folder),
        Work::ReadAll { folder } => trees::read_all(folder),
        Work::Op {
            op,
            folder,
            threads,
            files,
            seconds,
        } => ops::perform(*op, folder, *threads, *files, *seconds),
        Work::MakeTree { model, root } => made::make(model, root),
        Work::Turns {
            model,
            root,
            count,
            socket,
            first,
        } => {
            let socket = socket.as_deref().zip(*first);
            made::turns(model, root, *count, socket)
        }
        Work::ChangeTree { model, root, files } => made::change(model, root, *files),
        Work::CheckTree {
            model,
            root,
            every,
            unlike,
        } => made::check(model, root, *every, unlike.as_deref()),
        Work::Writer { folder, seconds } => writer::write(folder, *seconds),
        Work::Write {
            op,
            folder,
            count,
            round,
        } => writes::perform(*op, folder, *count, *round),
    }
}
