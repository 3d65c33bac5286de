//! What the command line may say about integrations.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Invocation;
use crate::commands::integrations::Request;

/// Asking the sidecar about integrations.
#[derive(Debug, Args)]
pub(super) struct IntegrationsArgs {
    /// The sidecar's socket (default: control.sock in the run folder, /run/weldrfs for root)
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// Answer with JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: IntegrationsCommand,
}

#[derive(Debug, Subcommand)]
enum IntegrationsCommand {
    /// List those that there are, and what is installed in a project
    Ls {
        /// The mount, and the project's folder below it
        #[arg(value_name = "MOUNT[:PATH]")]
        place: Option<String>,
    },
    /// Show what one takes and does
    Show {
        name: String,
        /// The mount, and the project's folder below it: for one of its own, and for what was changed since
        #[arg(value_name = "MOUNT[:PATH]")]
        place: Option<String>,
    },
    /// Put some into a project, all of them or nothing, and print the run's id
    Install {
        /// The mount, and the project's folder below it
        #[arg(value_name = "MOUNT[:PATH]")]
        place: String,
        /// Which ones
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// What they take
        #[arg(short, long = "input", value_name = "NAME.INPUT=VALUE", value_parser = input)]
        input: Vec<(String, String, String)>,
        /// Show what happens until its end; the status says whether it succeeded
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the JSON schema of manifests
    Schema,
}

/// Understands what an integration is given.
fn input(text: &str) -> Result<(String, String, String), String> {
    let parts = text.split_once('=').and_then(|(name, value)| {
        let (integration, input) = name.split_once('.')?;
        Some((integration.to_owned(), input.to_owned(), value.to_owned()))
    });
    parts.ok_or_else(|| "it takes NAME.INPUT=VALUE, such as postgresql.database=shop".into())
}

impl From<IntegrationsArgs> for Invocation {
    fn from(args: IntegrationsArgs) -> Self {
        let request = match args.command {
            IntegrationsCommand::Ls { place } => Request::List {
                place: place.map(super::common::place),
            },
            IntegrationsCommand::Show { name, place } => Request::Show {
                name,
                place: place.map(super::common::place),
            },
            IntegrationsCommand::Install {
                place,
                names,
                input,
                follow,
            } => Request::Install {
                place: super::common::place(place),
                names,
                inputs: input,
                follow,
            },
            IntegrationsCommand::Schema => Request::Schema,
        };
        Self::Integrations {
            request,
            socket: args.socket,
            as_json: args.json,
        }
    }
}
