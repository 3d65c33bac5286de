//! `weldrfs trash`: what it may say.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Invocation, StateDir};
use crate::commands::trash::Request;
use crate::options;

#[derive(Debug, Subcommand)]
pub(super) enum TrashCommand {
    /// List what was removed, oldest first; a directory that was removed with what was in it is one line
    #[command(visible_alias = "list")]
    Ls {
        /// Where the volume is mounted, or a path there: only what was at and below it
        path: PathBuf,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Bring back a file or directory that was removed
    Restore {
        /// Where it was
        path: PathBuf,
        /// Bring it back under another path, where nothing is yet
        #[arg(long = "as", value_name = "NEWPATH")]
        to: Option<PathBuf>,
        /// Of several that had this path, the last one that was removed up to this time: in UTC (2026-11-22T10:15:00Z), or
        /// how long ago (30m)
        #[arg(long, value_name = "TIME", value_parser = until)]
        at: Option<u64>,
        #[command(flatten)]
        state: StateDir,
    },
    /// Delete for good what is in the trash
    Empty {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Only what was removed this long ago, like 12h or 2d
        #[arg(long, value_name = "AGE", value_parser = age)]
        older_than: Option<u64>,
        #[command(flatten)]
        state: StateDir,
    },
}

/// A listing shows whole seconds: one of them means all of it.
fn until(text: &str) -> Result<u64, String> {
    let at_ms = super::stores::moment_of(text)?;
    Ok(match at_ms % 1000 {
        0 => at_ms + 999,
        _ => at_ms,
    })
}

fn age(text: &str) -> Result<u64, String> {
    let age = options::span(text).and_then(|age| u64::try_from(age.as_millis()).ok());
    age.ok_or_else(|| "it takes seconds, or a time with a unit (ms, s, m, h, d)".to_owned())
}

impl From<TrashCommand> for Invocation {
    fn from(command: TrashCommand) -> Self {
        let (path, request, state) = match command {
            TrashCommand::Ls {
                path,
                json: as_json,
                state,
            } => (path, Request::List { as_json }, state),
            TrashCommand::Restore {
                path,
                to,
                at: at_ms,
                state,
            } => (path, Request::Restore { to, at_ms }, state),
            TrashCommand::Empty {
                mountpoint,
                older_than: older_than_ms,
                state,
            } => (mountpoint, Request::Empty { older_than_ms }, state),
        };
        Self::Trash {
            path,
            request,
            state_dir: state.state_dir,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_that_a_listing_shows_means_all_of_it() {
        assert_eq!(until("1970-01-01T00:00:05Z"), Ok(5_999));
        assert_eq!(until("1970-01-01T00:00:05.250Z"), Ok(5_250));
        assert!(until("noon").unwrap_err().contains(crate::moment::FORMS));
        assert_eq!(age("2d"), Ok(172_800_000));
        assert!(age("old").is_err());
    }
}
