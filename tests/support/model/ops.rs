//! The vocabulary that model, generator and engine share: operations and their answers.

use std::collections::BTreeMap;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Char,
    Block,
}

/// The model's name for an inode; the engine's numbers are mapped to it.
pub(crate) type Id = u64;

/// The root directory.
pub(crate) const ROOT: Id = 1;

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Time {
    Now,
    At(i64),
}

/// Attribute changes of one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<Time>,
    pub(crate) mtime: Option<Time>,
    pub(crate) kill_suid: bool,
}

/// What fallocate is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Falloc {
    Allocate { keep_size: bool },
    PunchHole,
    ZeroRange { keep_size: bool },
}

/// When setxattr may write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum XattrWhen {
    Any,
    Create,
    Replace,
}

/// One call to the engine. Inodes are named by the model's ids.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Lookup {
        dir: Id,
        name: Vec<u8>,
    },
    Getattr {
        node: Id,
    },
    Setattr {
        node: Id,
        change: Change,
    },
    Readlink {
        node: Id,
    },
    Make {
        dir: Id,
        name: Vec<u8>,
        kind: Kind,
        mode: u32,
        rdev: u32,
        uid: u32,
        gid: u32,
    },
    Mkdir {
        dir: Id,
        name: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Symlink {
        dir: Id,
        name: Vec<u8>,
        target: Vec<u8>,
        uid: u32,
        gid: u32,
    },
    Link {
        node: Id,
        dir: Id,
        name: Vec<u8>,
    },
    Unlink {
        dir: Id,
        name: Vec<u8>,
    },
    Rmdir {
        dir: Id,
        name: Vec<u8>,
    },
    Rename {
        from: (Id, Vec<u8>),
        to: (Id, Vec<u8>),
        noreplace: bool,
        exchange: bool,
    },
    Read {
        node: Id,
        offset: u64,
        len: usize,
    },
    Write {
        node: Id,
        offset: u64,
        data: Vec<u8>,
        kill_suid: bool,
    },
    Fallocate {
        node: Id,
        mode: Falloc,
        offset: u64,
        len: u64,
    },
    Seek {
        node: Id,
        offset: u64,
        hole: bool,
    },
    CopyRange {
        from: (Id, u64),
        to: (Id, u64),
        len: u64,
    },
    Fsync {
        node: Id,
        datasync: bool,
    },
    Readdir {
        dir: Id,
        page: usize,
    },
    Setxattr {
        node: Id,
        name: Vec<u8>,
        value: Vec<u8>,
        when: XattrWhen,
    },
    Getxattr {
        node: Id,
        name: Vec<u8>,
    },
    Listxattr {
        node: Id,
    },
    Removexattr {
        node: Id,
        name: Vec<u8>,
    },
    Retain {
        node: Id,
        times: u64,
    },
    Forget {
        node: Id,
        times: u64,
    },
}

/// What is known about a time. The number in `Clock` and `Unknown` is the step that last touched
/// it: while that stays the same, the value must stay the same too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// This very value, in nanoseconds since 1970.
    Exact(i64),
    /// The clock's time at that step.
    Clock(u64),
    /// Some time: the rules leave it open.
    Unknown(u64),
}

/// Attributes as answered. In the engine's answers `id` is its inode number and all times are exact.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) size: u64,
    pub(crate) atime: Stamp,
    pub(crate) mtime: Stamp,
    pub(crate) ctime: Stamp,
}

/// What a successful operation answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Attr(Seen),
    Bytes(Vec<u8>),
    Count(u64),
    Names(Vec<Vec<u8>>),
    Entries(BTreeMap<Vec<u8>, (u64, Kind)>),
}

/// The engine's answer, or its errno.
pub(crate) type Observed = Result<Answer, i32>;

/// The model's answer, or every errno that would be right: where several apply, the order in
/// which a file system looks for them is its own business.
pub(crate) type Expected = Result<Answer, Vec<i32>>;
