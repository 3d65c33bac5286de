//! What can go wrong with bytes, and what to do about it. The store's own errors are [`StoreError`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ids::{PackId, SegmentId};
use crate::store::StoreError;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What somebody who gets an error can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The same call may succeed later without anybody doing anything.
    Retry,
    /// Somebody has to change something first: free space, a permission, a setting, a newer program.
    Fix,
    /// The answer is final: repeating the call cannot change it.
    GiveUp,
}

/// An error of segments, packs and caches.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The local disk refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Flushing failed once. What the disk holds is unknown, so nothing more is acknowledged by this process.
    #[error("flushing local data failed, no more writes are accepted: {reason}")]
    FlushFailed {
        /// The first failure.
        reason: String,
    },
    /// Staging has reached its limit; packing and uploading make room.
    #[error("staging is full: {staged} of {limit} bytes are used")]
    StagingFull {
        /// Bytes staged at the time.
        staged: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The segment was released, or never existed.
    #[error("segment {0} does not exist")]
    SegmentNotFound(SegmentId),
    /// The segment is being appended to or pinned, and cannot be released.
    #[error("segment {0} is in use")]
    SegmentBusy(SegmentId),
    /// One call carries more than the format allows.
    #[error("{what} of {len} bytes is more than {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A range outside of what exists was asked for: the caller's location is wrong.
    #[error("{what} ends at {limit}, asked for {len} bytes at {offset}")]
    OutOfRange {
        /// What was addressed.
        what: String,
        /// Start of the range in bytes.
        offset: u64,
        /// Length of the range in bytes.
        len: u64,
        /// Where the addressable bytes end.
        limit: u64,
    },
    /// A local file or a structure is not what its checksum says.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// The file or structure.
        what: String,
        /// What does not fit.
        detail: String,
    },
    /// A pack is damaged everywhere it can be read from.
    #[error("pack {pack}{} is damaged: {detail}", frame_text(*frame))]
    DamagedPack {
        /// The pack.
        pack: PackId,
        /// The frame, when the rest of the pack may still be readable.
        frame: Option<usize>,
        /// What does not fit.
        detail: String,
    },
    /// Neither the local cache nor the store has the pack.
    #[error("pack {0} is neither in the local cache nor in the store")]
    PackNotFound(PackId),
    /// The store holds other bytes under the key of this pack.
    #[error("the store holds another object as pack {0}")]
    PackConflict(PackId),
    /// The store did not answer within the deadline.
    #[error("pack {pack} cannot be read from the store for {:.1} s: {reason}", waited.as_secs_f64())]
    Unavailable {
        /// The pack that was wanted.
        pack: PackId,
        /// How long was waited.
        waited: Duration,
        /// The last answer.
        reason: String,
    },
    /// The store gave a final answer that is no success.
    #[error("pack {pack}: {source}")]
    Store {
        /// The pack concerned.
        pack: PackId,
        /// The store's answer.
        source: StoreError,
    },
    /// A setting makes no sense.
    #[error("{name} takes {takes}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it takes.
        takes: String,
    },
    /// Written by a newer program.
    #[error("{what} has format version {found}, this program knows {known}: use a newer one")]
    UnsupportedFormat {
        /// The file or structure.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// Encrypted with a key; this format version has no encryption.
    #[error("{what} is encrypted with key {key_id}, this program knows no encryption")]
    Encrypted {
        /// The file or structure.
        what: &'static str,
        /// The key's id.
        key_id: u32,
    },
    /// Not an id.
    #[error("{text:?} is not an id: it takes {takes}")]
    BadId {
        /// What was given, shortened.
        text: String,
        /// What it takes.
        takes: &'static str,
    },
}

fn frame_text(frame: Option<usize>) -> String {
    frame.map(|n| format!(", frame {n},")).unwrap_or_default()
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::StagingFull { .. } | Self::SegmentBusy(_) | Self::Unavailable { .. } => {
                Advice::Retry
            }
            Self::Io { .. }
            | Self::Setting { .. }
            | Self::UnsupportedFormat { .. }
            | Self::Encrypted { .. } => Advice::Fix,
            Self::Store { source, .. } => source.advice(),
            Self::FlushFailed { .. }
            | Self::SegmentNotFound(_)
            | Self::TooLarge { .. }
            | Self::OutOfRange { .. }
            | Self::Damaged { .. }
            | Self::DamagedPack { .. }
            | Self::PackNotFound(_)
            | Self::PackConflict(_)
            | Self::BadId { .. } => Advice::GiveUp,
        }
    }

    /// True when the local disk (or a quota on it) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    pub(crate) fn damaged(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            detail: detail.into(),
        }
    }
}

/// Makes the crate's error of a system's error at a path, for `map_err`.
pub(crate) fn io_at<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_thing_and_advice_follows_the_kind() {
        let pack = PackId([1; 16]);
        let damaged = Error::DamagedPack {
            pack,
            frame: Some(3),
            detail: "checksum of the raw bytes".into(),
        };
        assert!(
            damaged
                .to_string()
                .contains("01010101010101010101010101010101, frame 3,")
        );
        assert_eq!(damaged.advice(), Advice::GiveUp);
        let full = Error::Io {
            action: "append to",
            path: "seg".into(),
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        assert!(full.is_disk_full());
        assert_eq!(full.advice(), Advice::Fix);
        let away = Error::Store {
            pack,
            source: StoreError::Unavailable {
                what: "refused".into(),
            },
        };
        assert_eq!(away.advice(), Advice::Retry);
    }
}
