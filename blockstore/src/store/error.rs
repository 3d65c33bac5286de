//! The store's errors: few kinds, each with one thing to do about it.

use std::io;

use crate::error::Advice;

/// Why a request failed. Cheap to clone, so that everybody who waits for one request can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{key} does not exist in the store")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The condition of a put did not hold.
    #[error("the condition on {key} does not hold")]
    PreconditionFailed {
        /// The key.
        key: String,
    },
    /// The store cannot be reached or is overloaded.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// What was seen.
        what: String,
    },
    /// No answer within a deadline.
    #[error("the store did not answer in time: {what}")]
    Timeout {
        /// What was waited for.
        what: String,
    },
    /// The store refuses these credentials or permissions.
    #[error("the store denies access: {what}")]
    Denied {
        /// What was refused.
        what: String,
    },
    /// The request makes no sense to the store.
    #[error("the store refuses the request: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// The answer contradicts itself.
    #[error("the store's answer is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// The disk below a directory store failed.
    #[error("the store's disk failed: {what}")]
    Io {
        /// What was done and the system's answer.
        what: String,
        /// Its kind.
        kind: io::ErrorKind,
    },
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } => Advice::Retry,
            Self::Denied { .. } | Self::Invalid { .. } => Advice::Fix,
            Self::Io { kind, .. } => match kind {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem => Advice::Fix,
                _ => Advice::Retry,
            },
            Self::NotFound { .. } | Self::PreconditionFailed { .. } | Self::Damaged { .. } => {
                Advice::GiveUp
            }
        }
    }

    /// True when the request may have taken effect although it failed.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Io { .. }
        )
    }

    /// True when the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(crate) fn not_found(key: &str) -> Self {
        Self::NotFound {
            key: key.to_owned(),
        }
    }

    pub(crate) fn precondition(key: &str) -> Self {
        Self::PreconditionFailed {
            key: key.to_owned(),
        }
    }

    /// Makes a store's error of a system's error, for `map_err`.
    pub(crate) fn io(action: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let what = format!("cannot {action}: {error}");
            match error.kind() {
                io::ErrorKind::PermissionDenied => Self::Denied { what },
                io::ErrorKind::TimedOut => Self::Timeout { what },
                kind => Self::Io { what, kind },
            }
        }
    }
}
