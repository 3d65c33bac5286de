//! How a command fails: one error, with mount(8)'s exit codes. Messages say what to do, not only what went wrong.

use std::fmt::Display;

/// Why a command failed. The variant decides the exit code, as in mount(8) and umount(8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Wrong invocation or missing permission. Fix it and run again.
    #[error("{0}")]
    Invocation(String),
    /// The system refused something (memory, a fork, a deadline of the control socket). Retrying may help.
    #[error("{0}")]
    System(String),
    /// A volume is damaged; the code is that of fsck(8) for errors that were left.
    #[error("{0}")]
    Damage(String),
    /// The mount or the unmount failed. Fix what the message names.
    #[error("{0}")]
    Mount(String),
}

impl Failure {
    /// The exit code for this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Invocation(_) => 1,
            Self::System(_) => 2,
            Self::Damage(_) => 4,
            Self::Mount(_) => 32,
        }
    }

    /// The failure that `message` and `code` describe, as a mount process reported them to the one that started it.
    pub(crate) fn from_report(code: u8, message: String) -> Self {
        match code {
            1 => Self::Invocation(message),
            2 => Self::System(message),
            4 => Self::Damage(message),
            _ => Self::Mount(message),
        }
    }

    /// A [`Failure::System`] from what was attempted and how it failed.
    pub(crate) fn system(attempt: &str, error: &dyn Display) -> Self {
        Self::System(format!("{attempt}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reported_failure_keeps_its_exit_code() {
        for failure in [
            Failure::Invocation("a".into()),
            Failure::System("b".into()),
            Failure::Damage("d".into()),
            Failure::Mount("c".into()),
        ] {
            assert_eq!(
                Failure::from_report(failure.exit_code(), failure.to_string()),
                failure
            );
        }
    }
}
