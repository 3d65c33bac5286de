//! What commands that ask the sidecar have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::options::span;

/// Understands a time with a unit.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    span(text)
        .filter(|span| !span.is_zero())
        .ok_or_else(|| "it takes a time with a unit (s, m, h, d)".into())
}

/// Where the sidecar is.
#[derive(Debug, Args)]
pub(super) struct Socket {
    /// The sidecar's socket (default: control.sock in the run folder, /run/weldrfs for root)
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) socket: Option<PathBuf>,
}

/// How to answer.
#[derive(Debug, Args)]
pub(super) struct Json {
    /// Answer with JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A mount and a path of it: `MOUNT[:PATH]`.
pub(super) fn place(text: String) -> (String, Option<String>) {
    match text.split_once(':') {
        Some((mount, path)) => (mount.to_owned(), Some(path.to_owned())),
        None => (text, None),
    }
}
