//! What the command line may say about snapshots and copies of a mount.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Invocation, StateDir};
use crate::commands::snapshot;

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Make a snapshot and print its name
    Create {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// What to call it (default: the time)
        name: Option<String>,
        /// Why it is made
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Let it be thinned out by age, instead of keeping it until it is removed
        #[arg(long)]
        automatic: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// List the snapshots, oldest first
    #[command(visible_alias = "list")]
    Ls {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Show one snapshot
    Show {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Which
        name: String,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Remove a snapshot; the volume and the other snapshots stay as they are
    Rm {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Which
        name: String,
        #[command(flatten)]
        state: StateDir,
    },
    /// Show what changed since a snapshot, or between two
    Diff {
        /// Where the volume is mounted, or a path there: only what is at and below it
        path: PathBuf,
        /// The older snapshot
        a: String,
        /// The newer one (default: the present)
        b: Option<String>,
        /// Show sizes and how much changed
        #[arg(long, conflicts_with = "json")]
        stat: bool,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        /// Show the changes of the files' text, as a patch that `git apply` takes
        #[arg(long, conflicts_with_all = ["json", "stat"])]
        patch: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Go back to a snapshot, all at once; what was there before becomes a snapshot, too
    Restore {
        /// Where the volume is mounted, or a path there: only what is at and below it
        path: PathBuf,
        /// Which
        name: String,
        #[command(flatten)]
        state: StateDir,
    },
}

impl From<SnapshotCommand> for Invocation {
    fn from(command: SnapshotCommand) -> Self {
        use snapshot::{Form, Request};
        let (path, request, state) = match command {
            SnapshotCommand::Create {
                mountpoint,
                name,
                note,
                automatic,
                state,
            } => {
                let request = Request::Create {
                    name,
                    note,
                    automatic,
                };
                (mountpoint, request, state)
            }
            SnapshotCommand::Ls {
                mountpoint,
                json: as_json,
                state,
            } => (mountpoint, Request::List { as_json }, state),
            SnapshotCommand::Show {
                mountpoint,
                name,
                json: as_json,
                state,
            } => (mountpoint, Request::Show { name, as_json }, state),
            SnapshotCommand::Rm {
                mountpoint,
                name,
                state,
            } => (mountpoint, Request::Remove { name }, state),
            SnapshotCommand::Diff {
                path,
                a: older,
                b: newer,
                stat,
                json,
                patch,
                state,
            } => {
                let form = match (stat, json, patch) {
                    (_, true, _) => Form::Json,
                    (true, ..) => Form::Stat,
                    (.., true) => Form::Patch,
                    _ => Form::Names,
                };
                (path, Request::Diff { older, newer, form }, state)
            }
            SnapshotCommand::Restore { path, name, state } => {
                (path, Request::Restore { name }, state)
            }
        };
        Self::Snapshot {
            path,
            request,
            state_dir: state.state_dir,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CloneArgs {
    /// The directory; also one below .snapshots/NAME
    src: PathBuf,
    /// The copy: a path on the same mount where nothing is yet
    dst: PathBuf,
    #[command(flatten)]
    state: StateDir,
}

impl From<CloneArgs> for Invocation {
    fn from(CloneArgs { src, dst, state }: CloneArgs) -> Self {
        Self::Clone {
            from: src,
            to: dst,
            state_dir: state.state_dir,
        }
    }
}
