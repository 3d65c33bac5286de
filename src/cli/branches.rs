//! What the command line may ask the sidecar about branches.

use std::time::Duration;

use clap::{Args, Subcommand};
use weldrfs_control::BranchRequest;

use super::common::{Json, Socket, place};
use super::{Invocation, SYNC_SECONDS, WAIT_MAX_SECONDS};
use crate::commands::branches;

/// Asking the sidecar about branches.
#[derive(Debug, Args)]
pub(super) struct BranchesArgs {
    #[command(flatten)]
    socket: Socket,
    #[command(subcommand)]
    command: BranchesCommand,
}

#[derive(Debug, Subcommand)]
enum BranchesCommand {
    /// Branch a mount or a directory of it, or find the branch of that name
    Create {
        /// The mount, and a directory of it
        #[arg(value_name = "MOUNT[:PATH]")]
        place: String,
        /// What it is called
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// List the branches of all mounts, or of one
    #[command(visible_alias = "list")]
    Ls {
        mount: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show one branch
    Show {
        #[arg(value_name = "MOUNT:NAME")]
        branch: String,
        #[command(flatten)]
        json: Json,
    },
    /// Remove a branch, with everything in it
    Rm {
        #[arg(value_name = "MOUNT:NAME")]
        branch: String,
        #[command(flatten)]
        json: Json,
    },
    /// Wait until everything of a branch can be restored from the store
    Sync {
        #[arg(value_name = "MOUNT:NAME")]
        branch: String,
        /// How long to wait
        #[arg(long, value_name = "SECONDS", default_value = SYNC_SECONDS,
              value_parser = clap::value_parser!(u64).range(1..=WAIT_MAX_SECONDS))]
        timeout: u64,
        #[command(flatten)]
        json: Json,
    },
}

impl From<BranchesArgs> for Invocation {
    fn from(args: BranchesArgs) -> Self {
        use branches::Request;
        let (request, json) = match args.command {
            BranchesCommand::Create {
                place: at,
                name,
                json,
            } => {
                let (mount, path) = place(at);
                (Request::Create(BranchRequest { mount, path, name }), json)
            }
            BranchesCommand::Ls { mount, json } => (Request::List { mount }, json),
            BranchesCommand::Show { branch: id, json } => (Request::Show { id }, json),
            BranchesCommand::Rm { branch: id, json } => (Request::Remove { id }, json),
            BranchesCommand::Sync {
                branch: id,
                timeout,
                json,
            } => {
                let timeout = Duration::from_secs(timeout);
                (Request::Sync { id, timeout }, json)
            }
        };
        Self::Branches {
            request,
            socket: args.socket.socket,
            as_json: json.json,
        }
    }
}
