//! What can go wrong in the namespace, and what a caller can do about it.

use std::io;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, MetaError>;

/// What a caller should do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// The same call may succeed later.
    Retry,
    /// The call, or something on the machine, has to be changed first.
    Fix,
    /// Nothing a caller does will help.
    GiveUp,
}

/// Every error of the namespace.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// No such inode or name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDir,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDir,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name is longer than 255 bytes, or a symbolic link's target longer than 4095.
    #[error("name too long")]
    NameTooLong,
    /// An argument that no state of the volume could make right.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The file would pass the greatest size there is.
    #[error("file too large")]
    TooLarge,
    /// An inode has as many links as it can have.
    #[error("too many links")]
    TooManyLinks,
    /// The operation is never allowed on this kind of inode.
    #[error("operation not permitted")]
    NotPermitted,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The extended attributes of an inode would not fit.
    #[error("extended attribute too large")]
    XattrTooLarge,
    /// `lseek` found no data or hole at or after the offset.
    #[error("no such data or hole")]
    NoSuchOffset,
    /// The local disk is full.
    #[error("no space left on the local disk")]
    NoSpace,
    /// The volume takes no writes any more; the reason says why.
    #[error("volume is read-only: {0}")]
    ReadOnly(String),
    /// There are as many snapshots as there can be.
    #[error("there are {0} snapshots, the most that a volume can have; remove some")]
    TooManySnapshots(usize),
    /// Whoever asked for it has taken it back in time, or is gone; nothing was changed.
    #[error("it was taken back before it began; nothing was changed")]
    TakenBack,
    /// The checkpointer did not make room within the deadline.
    #[error("waited {0} s for the checkpointer to make room")]
    Overloaded(u64),
    /// The checkpointer is gone: the volume is being closed.
    #[error("the volume is being closed")]
    Closed,
    /// What was read back is not what was written.
    #[error("damaged {what}: {detail}")]
    Damaged {
        /// The thing that is damaged, for example `journal`.
        what: &'static str,
        /// Where and how.
        detail: String,
    },
    /// The files were made by a newer WeldrFS.
    #[error(
        "{what} has format version {found}, this program knows up to {known}: use a newer weldrfs"
    )]
    NewerFormat {
        /// Which file.
        what: &'static str,
        /// The version found.
        found: u64,
        /// The newest version known.
        known: u64,
    },
    /// The local disk failed.
    #[error("local disk: {0}")]
    Io(#[from] io::Error),
    /// SQLite failed.
    #[error("metadata database: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl MetaError {
    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Overloaded(_) => Advice::Retry,
            Self::Damaged { .. } | Self::Io(_) | Self::Sqlite(_) | Self::Closed => Advice::GiveUp,
            _ => Advice::Fix,
        }
    }

    pub(crate) fn damaged(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Damaged {
            what,
            detail: detail.into(),
        }
    }

    /// An I/O error on the local disk, with a full disk told apart.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC) | Some(libc::EDQUOT) => Self::NoSpace,
            _ => Self::Io(error),
        }
    }
}
