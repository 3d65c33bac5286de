//! The calls and their answers as plain values, so that they can be sent, repeated, printed and compared.

use serde::{Deserialize, Serialize};

/// Open files that a process has at most.
pub(crate) const SLOTS: usize = 6;

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Base {
    /// The folder under test, which the process takes for the root of everything.
    Root,
    /// The process's working directory.
    Cwd,
    /// An open file.
    Slot(usize),
}

/// A path. An empty one on a slot means the open file itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct At {
    pub(crate) base: Base,
    pub(crate) path: String,
}

impl At {
    pub(crate) fn root(path: &str) -> Self {
        Self {
            base: Base::Root,
            path: path.to_owned(),
        }
    }

    pub(crate) fn slot(slot: usize) -> Self {
        Self {
            base: Base::Slot(slot),
            path: String::new(),
        }
    }
}

/// A time for `utimensat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stamp {
    Now,
    Omit,
    /// Seconds and nanoseconds.
    At(i64, i64),
}

/// Whose a record lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Owner {
    /// The process (`F_SETLK`).
    Process,
    /// The open file description (`F_OFD_SETLK`).
    Description,
}

/// A record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) owner: Owner,
    /// `F_RDLCK`, `F_WRLCK`, `F_UNLCK`.
    pub(crate) kind: i32,
    pub(crate) start: i64,
    /// 0: to the end, however long the file gets.
    pub(crate) len: i64,
}

/// One system call. Flags and modes are the kernel's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[rustfmt::skip]
pub(crate) enum Call {
    Open { at: At, flags: u32, mode: u32, slot: usize },
    Close { slot: usize },
    Read { slot: usize, len: usize, at: Option<i64> },
    Write { slot: usize, len: usize, at: Option<i64>, fill: u8 },
    Seek { slot: usize, offset: i64, whence: i32 },
    Sync { slot: usize, data: bool },
    SetLen { slot: usize, len: i64 },
    Truncate { at: At, len: i64 },
    Allocate { slot: usize, mode: i32, offset: i64, len: i64 },
    Copy { from: usize, from_at: i64, to: usize, to_at: i64, len: usize },
    Send { from: usize, from_at: i64, to: usize, len: usize },
    /// Reads or fills a range through a shared mapping.
    Mapped { slot: usize, page: u64, len: usize, fill: Option<u8> },
    Stat { at: At, flags: u32 },
    Link { from: At, to: At, flags: u32 },
    Symlink { target: String, at: At },
    Readlink { at: At },
    Rename { from: At, to: At, flags: u32 },
    Mkdir { at: At, mode: u32 },
    Unlink { at: At, flags: u32 },
    Mknod { at: At, mode: u32, dev: u64 },
    Chmod { at: At, mode: u32 },
    Chown { at: At, uid: Option<u32>, gid: Option<u32>, flags: u32 },
    Times { at: At, accessed: Stamp, modified: Stamp, flags: u32 },
    SetXattr { at: At, follow: bool, name: String, len: usize, fill: u8, flags: u32 },
    GetXattr { at: At, follow: bool, name: String, room: usize },
    ListXattr { at: At, follow: bool, room: usize },
    RemoveXattr { at: At, follow: bool, name: String },
    Flock { slot: usize, operation: i32 },
    Lock { slot: usize, record: Record, wait: bool },
    TestLock { slot: usize, record: Record },
    Access { at: At, mode: u32, flags: u32 },
    Chdir { at: At },
    Getcwd,
    List { at: At },
    Umask { mode: u32 },
}

/// What `stat` told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) rdev: (u32, u32),
    pub(crate) ino: u64,
    pub(crate) atime_ns: i128,
    pub(crate) mtime_ns: i128,
    pub(crate) ctime_ns: i128,
}

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[rustfmt::skip]
pub(crate) enum Answer {
    Done,
    Number(i64),
    /// Bytes, run by run.
    Bytes(Vec<(u8, usize)>),
    Stat(Stat),
    /// Names in order, with the entry's type where there is one.
    Names(Vec<(String, u8)>),
    Text(String),
    /// The lock that is in the way; 0 stands for an open file description.
    Held { kind: i32, start: i64, len: i64, pid: i32 },
}

/// An answer, or an errno.
pub(crate) type Outcome = Result<Answer, i32>;

/// Runs of equal bytes: short, and tells where a difference is.
pub(crate) fn runs(bytes: &[u8]) -> Vec<(u8, usize)> {
    bytes
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0], run.len()))
        .collect()
}
