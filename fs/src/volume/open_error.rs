//! Why a volume cannot be opened, and what to do about it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use weldrfs_blockstore::{SegmentId, StoreError};
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
    /// There is no local state to look at.
    #[error("there is no local state of the volume in {}; -o state_dir= says where else to look", dir.display())]
    NoState {
        /// The volume's state folder.
        dir: PathBuf,
    },
    /// A segment that files have bytes in is gone.
    #[error(
        "segment {0} is missing although files have bytes in it: bring it back, or restore from the store"
    )]
    LostSegment(SegmentId),
    /// The head in the store was not written by this local state.
    #[error("the store has gone on without the local state in {}, which has operations that were never published (the store holds others, up to {lsn}): mount with -o diverged=keep to take what the store holds and keep the local state beside it as a divergent copy; `-o ro` still shows the local state", dir.display())]
    Diverged {
        /// The folder.
        dir: PathBuf,
        /// The last operation the store holds.
        lsn: u64,
    },
    /// Nothing was published by then.
    #[error("no restore point is as old as that; {}", oldest(*oldest_ms))]
    NoPoint {
        /// When the oldest one was published, milliseconds since 1970.
        oldest_ms: Option<u64>,
    },
    /// There is no such divergent copy.
    #[error("there is no divergent copy {copy:?} in {}; {}", dir.display(), those(copies))]
    NoCopy {
        /// The name that was given.
        copy: String,
        /// The volume's state folder.
        dir: PathBuf,
        /// Those there are.
        copies: Vec<String>,
    },
    /// Somebody else may write it.
    #[error(
        "the volume is held by {host} (process {pid}), which last renewed its lease {} ago by the store's clock{}: unmount \
         it there; if that machine is gone for good, mount with -o take_over", whole_seconds(*age), ends(*left)
    )]
    Held {
        /// Name of the machine.
        host: String,
        /// The process there.
        pid: u32,
        /// How long ago it renewed its lease.
        age: Duration,
        /// How long the lease holds yet; `None` for one that does not end.
        left: Option<Duration>,
    },
    /// The store failed.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// Anything else about the local state.
    #[error("{0}")]
    State(String),
}

fn oldest(at_ms: Option<u64>) -> String {
    match at_ms {
        None => "nothing was published yet".into(),
        Some(at_ms) => {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
            format!("the oldest is of {}", humantime::format_rfc3339_seconds(at))
        }
    }
}

fn those(copies: &[String]) -> String {
    match copies {
        [] => "there is none at all".into(),
        copies => format!("there is {}", copies.join(", ")),
    }
}

fn whole_seconds(span: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(span.as_secs()))
}

fn ends(left: Option<Duration>) -> String {
    match left {
        Some(left) => format!(" (it ends in {} unless it is renewed)", whole_seconds(left)),
        None => " (it does not end)".into(),
    }
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
