//! Why a volume cannot be opened, and what to do about it.

use std::path::PathBuf;

use weldrfs_blockstore::StoreError;
use weldrfs_meta::MetaError;

/// Why a volume cannot be opened. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The place holds something that is no volume.
    #[error("{place} is not a WeldrFS volume ({detail}): give an empty or a new place")]
    NotAVolume {
        /// The place.
        place: String,
        /// What was found.
        detail: String,
    },
    /// Only an existing volume can be mounted read-only.
    #[error("there is no volume in {0}; a mount without `ro` makes one")]
    NoVolume(String),
    /// A newer program made it.
    #[error(
        "the volume has format version {found}, this program knows up to {known}: use a newer weldrfs"
    )]
    NewerFormat {
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The store writes although a condition does not hold.
    #[error(
        "{0} ignores conditional writes, so nothing would keep two machines from writing the same volume: mount it with \
         `ro`, or with -o conditional_writes=off if only one machine ever mounts it"
    )]
    IgnoresConditions(String),
    /// Somebody else has it.
    #[error("the volume is already mounted by another process of this machine ({} is locked): unmount it there first", what.display())]
    InUse {
        /// What is locked.
        what: PathBuf,
    },
    /// The local state cannot be made or written.
    #[error("cannot use {}: {error}: check its permissions, or choose another place with -o state_dir=", dir.display())]
    StateDir {
        /// The folder.
        dir: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Local files are damaged.
    #[error("the local state in {} is damaged ({error}): keep a copy of it; to go back to what the store holds, move the folder away and mount again", dir.display())]
    DamagedState {
        /// The folder.
        dir: PathBuf,
        /// What is damaged.
        error: MetaError,
    },
    /// The head in the store was not written by this local state.
    #[error("the store has gone on without the local state in {} (it holds operations up to {lsn}, published from elsewhere): move that folder away and mount again to take what the store holds; `-o ro` still shows the local state", dir.display())]
    Diverged {
        /// The folder.
        dir: PathBuf,
        /// The last operation the store holds.
        lsn: u64,
    },
    /// The store failed.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// Anything else about the local state.
    #[error("{0}")]
    State(String),
}

impl From<MetaError> for OpenError {
    fn from(error: MetaError) -> Self {
        Self::State(error.to_string())
    }
}

impl From<weldrfs_blockstore::Error> for OpenError {
    fn from(error: weldrfs_blockstore::Error) -> Self {
        Self::State(error.to_string())
    }
}
