//! What can go wrong in a benchmark, in words that say what to look at.

use std::path::Path;
use std::time::Duration;

/// Shorthand for results here.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Trouble of a run. A step's trouble is recorded and the run goes on; trouble of the harness itself ends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program ended badly: read what it said.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        program: String,
        status: String,
        said: String,
    },
    /// A program did not end in time; a longer `--step-deadline` may help.
    #[error("not done after {}", humantime::format_duration(*.0))]
    Deadline(Duration),
    /// A result is not what it has to be: a bug of the file system or of the workload.
    #[error("{0}")]
    Wrong(String),
    /// It cannot be had on this machine; the text says why.
    #[error("{0}")]
    Missing(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
    /// A record cannot be read or written.
    #[error("{what}: {source}")]
    Json {
        what: String,
        source: serde_json::Error,
    },
}

/// Says which file an error of the system was about.
pub(crate) trait At<T> {
    fn at(self, what: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, what: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what.as_ref().display().to_string(),
            source,
        })
    }
}

impl<T> At<T> for std::result::Result<T, rustix::io::Errno> {
    fn at(self, what: impl AsRef<Path>) -> Result<T> {
        self.map_err(std::io::Error::from).at(what)
    }
}

/// `Wrong` unless it holds.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::Wrong(otherwise())),
    }
}
