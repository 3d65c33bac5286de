//! The engine's error and the one place that maps it to an errno.

use weldrfs_blockstore::{Error as BytesError, StoreError};
use weldrfs_meta::MetaError;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The namespace said no, or is in trouble.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The bytes cannot be had or kept.
    #[error(transparent)]
    Bytes(#[from] BytesError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(StoreError),
    /// Somebody else has published to the store.
    #[error(
        "the store has gone on without this machine; what is here is kept locally and is not published any more"
    )]
    Foreign,
    /// It did not come about before its deadline.
    #[error("{0}")]
    Late(&'static str),
    /// A publication that was given up has arrived while the next one was made from what was there before it.
    #[error("an earlier publication arrived late; the next one has all of this")]
    Outrun,
    /// What is in a snapshot does not change.
    #[error("a snapshot does not change")]
    InSnapshot,
    /// One of two files is in a snapshot.
    #[error("one of the two is in a snapshot")]
    OtherState,
    /// There is no such snapshot.
    #[error("there is no snapshot {0}")]
    NoSnapshot(String),
    /// There is such a snapshot already.
    #[error("there is a snapshot {0} already")]
    SnapshotExists(String),
    /// A snapshot does not have what was asked for.
    #[error("the snapshot {snapshot} has no {path}")]
    NotInSnapshot {
        /// Its name.
        snapshot: String,
        /// The path, below the root.
        path: String,
    },
    /// The trash does not have what was asked for.
    #[error("the trash has no {0}")]
    NotInTrash(String),
    /// Something is where a thing from the trash would go.
    #[error("something is at {0} now; give another name, or move it away")]
    TrashPlaceTaken(String),
    /// Something was restored, and what was written into replaced files meanwhile is not in the snapshot of what was before.
    #[error(
        "the restore is done, but what programs wrote into replaced files meanwhile could not be put into the snapshot \
         {snapshot}: {error}"
    )]
    LateWrites {
        /// The snapshot of what was there before.
        snapshot: String,
        /// Why not.
        error: MetaError,
    },
    /// The operation is not supported for this kind of file or with these flags.
    #[error("operation not supported")]
    NotSupported,
    /// What an extent should be is not what was read.
    #[error("{0}")]
    Damaged(String),
}

impl FsError {
    /// The errno a program sees. Every kind of error is named here, so that a new one has to be thought about.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Meta(error) | Self::LateWrites { error, .. } => meta_errno(error),
            Self::Bytes(error) => bytes_errno(error),
            Self::Store(_) | Self::Foreign => libc::EIO,
            Self::Late(_) | Self::Outrun => libc::ETIMEDOUT,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::Damaged(_) => libc::EIO,
            Self::InSnapshot => libc::EROFS,
            Self::OtherState => libc::EXDEV,
            Self::NoSnapshot(_) | Self::NotInSnapshot { .. } | Self::NotInTrash(_) => libc::ENOENT,
            Self::SnapshotExists(_) | Self::TrashPlaceTaken(_) => libc::EEXIST,
        }
    }

    /// Whether this is trouble of ours, to be logged, rather than an answer to the caller.
    pub fn is_trouble(&self) -> bool {
        !matches!(self, Self::InSnapshot)
            && matches!(
                self.errno(),
                libc::EIO | libc::EROFS | libc::ETIMEDOUT | libc::EUCLEAN
            )
    }
}

fn meta_errno(error: &MetaError) -> i32 {
    match error {
        MetaError::NotFound => libc::ENOENT,
        MetaError::Exists => libc::EEXIST,
        MetaError::NotDir => libc::ENOTDIR,
        MetaError::IsDir => libc::EISDIR,
        MetaError::NotEmpty => libc::ENOTEMPTY,
        MetaError::NameTooLong => libc::ENAMETOOLONG,
        MetaError::Invalid(_) => libc::EINVAL,
        MetaError::TooLarge => libc::EFBIG,
        MetaError::TooManyLinks => libc::EMLINK,
        MetaError::NotPermitted => libc::EPERM,
        MetaError::NoAttribute => libc::ENODATA,
        MetaError::XattrTooLarge | MetaError::NoSpace => libc::ENOSPC,
        MetaError::NoSuchOffset => libc::ENXIO,
        MetaError::ReadOnly(_) => libc::EROFS,
        MetaError::Overloaded(_) => libc::ETIMEDOUT,
        MetaError::TooManySnapshots(_) => libc::EDQUOT,
        MetaError::TakenBack => libc::ECANCELED,
        MetaError::Closed
        | MetaError::Damaged { .. }
        | MetaError::NewerFormat { .. }
        | MetaError::Io(_)
        | MetaError::Sqlite(_) => libc::EIO,
    }
}

fn bytes_errno(error: &BytesError) -> i32 {
    match error {
        BytesError::StagingFull { .. } => libc::ENOSPC,
        BytesError::Io { .. } if error.is_disk_full() => libc::ENOSPC,
        BytesError::FlushFailed { .. } => libc::EROFS,
        BytesError::TooLarge { .. } => libc::EFBIG,
        BytesError::Unavailable { .. } => libc::ETIMEDOUT,
        _ => libc::EIO,
    }
}
