//! What the command line may ask the sidecar about mounts.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::common::{Json, Socket};
use super::mount_snapshots::MountSnapshotCommand;
use super::{Invocation, SYNC_SECONDS, WAIT_MAX_SECONDS};
use crate::commands::mounts;

/// Most lines of a log that may be asked for.
const LINES_MAX: u64 = 5_000;

/// Asking the sidecar about mounts.
#[derive(Debug, Args)]
pub(super) struct MountsArgs {
    #[command(flatten)]
    socket: Socket,
    #[command(subcommand)]
    command: MountsCommand,
}

#[derive(Debug, Subcommand)]
enum MountsCommand {
    /// List the mounts of this machine, or show one
    Ls {
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Mount a volume and keep it mounted
    Add {
        /// Where the volume is kept: s3://BUCKET[/PREFIX] or file:///DIR
        source: String,
        /// The directory to mount it on (default: NAME in the workspace)
        path: Option<String>,
        /// What it is called (default: from SOURCE)
        #[arg(long)]
        name: Option<String>,
        /// Mount options, separated by commas
        #[arg(short = 'o', value_name = "OPTIONS")]
        options: Vec<String>,
        /// Give it the keys that are in the environment here (S3_ACCESS_KEY_ID and so on)
        #[arg(long)]
        env_keys: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Unmount a volume, for good
    Rm {
        name: String,
        /// First wait until everything is in the store; it stays mounted if that fails
        #[arg(long)]
        sync: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Wait until all that was acknowledged can be restored from the store
    Sync {
        name: String,
        /// How long to wait
        #[arg(long, value_name = "SECONDS", default_value = SYNC_SECONDS,
              value_parser = clap::value_parser!(u64).range(1..=WAIT_MAX_SECONDS))]
        timeout: u64,
        #[command(flatten)]
        json: Json,
    },
    /// Make snapshots of a mount, compare them and go back to them
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(MountSnapshotCommand),
    /// Show the newest lines of a mount's log
    Logs {
        name: String,
        /// How many
        #[arg(long, value_name = "N", default_value = "200",
              value_parser = clap::value_parser!(u64).range(1..=LINES_MAX))]
        lines: u64,
        #[command(flatten)]
        json: Json,
    },
}

impl From<MountsArgs> for Invocation {
    fn from(args: MountsArgs) -> Self {
        let socket = args.socket.socket;
        let (request, json) = match args.command {
            MountsCommand::Snapshot(command) => {
                let (request, json) = command.request();
                return Self::MountSnapshots {
                    request,
                    socket,
                    as_json: json.json,
                };
            }
            MountsCommand::Ls { name, json } => (mounts::Request::List { name }, json),
            MountsCommand::Add {
                source,
                path,
                name,
                options,
                env_keys,
                json,
            } => {
                let add = mounts::Request::Add {
                    source,
                    path,
                    name,
                    options,
                    env_keys,
                };
                (add, json)
            }
            MountsCommand::Rm { name, sync, json } => {
                (mounts::Request::Remove { name, sync }, json)
            }
            MountsCommand::Sync {
                name,
                timeout,
                json,
            } => {
                let timeout = Duration::from_secs(timeout);
                (mounts::Request::Sync { name, timeout }, json)
            }
            MountsCommand::Logs { name, lines, json } => {
                let lines = usize::try_from(lines).unwrap_or(usize::MAX);
                (mounts::Request::Logs { name, lines }, json)
            }
        };
        Self::Mounts {
            request,
            socket,
            as_json: json.json,
        }
    }
}
