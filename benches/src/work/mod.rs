//! Work on files that the harness does itself, each piece in a process of its own: it can be killed when a file system
//! hangs, and says how long only the work took.

mod big;
mod content;
mod edits;
mod ops;
mod trees;

use std::path::PathBuf;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::error::Result;

pub(crate) use ops::SmallOp;
pub(crate) use trees::tree_sum;

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
}

impl Said {
    fn in_seconds(seconds: f64, done: u64) -> Self {
        Self {
            seconds,
            done,
            sum: String::new(),
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
    }
}
