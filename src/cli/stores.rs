//! What the command line may say about volumes in their stores, without a mount.

use std::ffi::OsString;
use std::time::SystemTime;

use clap::{Args, Subcommand};

use super::{Invocation, StateDir};
use crate::commands::{fsck, restore, volumes};
use crate::moment;

#[derive(Debug, Subcommand)]
pub(super) enum VolumesCommand {
    /// List the volumes at SOURCE and below it
    Ls {
        #[command(flatten)]
        store: StoreArgs,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
    },
    /// Destroy the volume at SOURCE, for all machines; nothing else there is deleted
    Destroy {
        #[command(flatten)]
        store: StoreArgs,
        /// The volume's id, instead of being asked for it
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        state: StateDir,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["list", "at"]))]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// List the restore points, oldest first
    #[arg(long)]
    list: bool,
    /// Answer with JSON
    #[arg(long, requires = "list")]
    json: bool,
    /// Go back to the newest restore point that is not younger than this: a time in UTC (2026-11-22T10:15:00Z), or how
    /// long ago (30m)
    #[arg(long, value_name = "TIME", value_parser = moment_of)]
    at: Option<u64>,
    /// Also when another machine has the volume: it cannot write any more then
    #[arg(long, requires = "at")]
    take_over: bool,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Debug, Args)]
pub(super) struct FsckArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Check the local state on this machine instead, while the volume is not mounted
    #[arg(long)]
    local: bool,
    /// Read everything: every pack and every restore point; of the local state everything that is not in packs yet
    #[arg(long)]
    deep: bool,
    /// Answer with JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Answer with JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateDir,
}

pub(super) fn moment_of(text: &str) -> Result<u64, String> {
    moment::parse(text, SystemTime::now()).ok_or_else(|| format!("it takes {}", moment::FORMS))
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Where to look: s3://BUCKET[/PREFIX] or file:///DIR
    source: OsString,
    /// Options about the bucket, as for mount
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
}

impl From<StoreArgs> for volumes::Store {
    fn from(StoreArgs { source, options }: StoreArgs) -> Self {
        Self { source, options }
    }
}

impl From<VolumesCommand> for Invocation {
    fn from(command: VolumesCommand) -> Self {
        match command {
            VolumesCommand::Ls { store, json } => Self::Volumes {
                store: store.into(),
                request: volumes::Request::List { as_json: json },
                state_dir: None,
            },
            VolumesCommand::Destroy { store, id, state } => Self::Volumes {
                store: store.into(),
                request: volumes::Request::Destroy { id },
                state_dir: state.state_dir,
            },
        }
    }
}

impl From<RestoreArgs> for Invocation {
    fn from(restore: RestoreArgs) -> Self {
        Self::Restore {
            store: restore.store.into(),
            request: match restore.at {
                None => restore::Request::List {
                    as_json: restore.json,
                },
                Some(at_ms) => restore::Request::To {
                    at_ms,
                    take_over: restore.take_over,
                },
            },
            state_dir: restore.state.state_dir,
        }
    }
}

impl From<FsckArgs> for Invocation {
    fn from(fsck: FsckArgs) -> Self {
        Self::Fsck {
            store: fsck.store.into(),
            request: fsck::Request {
                local: fsck.local,
                deep: fsck.deep,
                as_json: fsck.json,
            },
        }
    }
}

impl From<GcArgs> for Invocation {
    fn from(gc: GcArgs) -> Self {
        Self::Gc {
            store: gc.store.into(),
            dry_run: gc.dry_run,
            as_json: gc.json,
            state_dir: gc.state.state_dir,
        }
    }
}
