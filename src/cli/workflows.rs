//! What the command line may say about workflows.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Invocation;
use crate::commands::workflows::Request;

/// Most runs that may be asked for.
const RUNS_MAX: i64 = 200;

/// Asking the sidecar about workflows.
#[derive(Debug, Args)]
pub(super) struct WorkflowsArgs {
    /// The sidecar's socket (default: control.sock in the run folder, /run/weldrfs for root)
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// Answer with JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: WorkflowsCommand,
}

#[derive(Debug, Subcommand)]
enum WorkflowsCommand {
    /// Begin a run, and print its id
    Trigger {
        /// The mount, and the project's folder below it
        #[arg(value_name = "MOUNT[:PATH]")]
        place: String,
        /// A file with a definition (with a slash, or ending with .yaml), or the name of a workflow in the project's
        /// .weldr/workflows
        workflow: String,
        /// What the workflow takes
        #[arg(short, long = "input", value_name = "NAME=VALUE", value_parser = super::exec::variable)]
        input: Vec<(String, String)>,
        /// Show what happens until its end; the status says whether it succeeded
        #[arg(short, long)]
        follow: bool,
    },
    /// List runs, newest first
    Ls {
        /// Only those on this mount
        #[arg(long, value_name = "NAME")]
        mount: Option<String>,
        /// How many
        #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=RUNS_MAX))]
        limit: u32,
    },
    /// Show a run and its steps
    Show { run: String },
    /// Show what happens in a run, from its beginning to its end; the status says whether it succeeded
    Follow { run: String },
    /// Show what a run, or one of its steps, changed
    Diff {
        run: String,
        step: Option<String>,
        /// As a patch that git apply takes
        #[arg(long, conflicts_with = "json")]
        patch: bool,
    },
    /// Let a run that did not succeed go on from a step (default: the first that did not succeed)
    Retry { run: String, step: Option<String> },
    /// Let a run that did not succeed go on behind a step (default: the first that did not succeed)
    Skip { run: String, step: Option<String> },
    /// End a run
    Cancel { run: String },
    /// Make the project what it was before a step (default: before the run)
    Revert {
        run: String,
        step: Option<String>,
        /// Undo the last revert of the run instead
        #[arg(long, conflicts_with = "step")]
        undo: bool,
    },
    /// Print the JSON schema of definitions
    Schema,
}

impl From<WorkflowsArgs> for Invocation {
    fn from(args: WorkflowsArgs) -> Self {
        let request = match args.command {
            WorkflowsCommand::Trigger {
                place,
                workflow,
                input,
                follow,
            } => {
                let (mount, path) = super::common::place(place);
                Request::Trigger {
                    mount,
                    path,
                    workflow,
                    inputs: input,
                    follow,
                }
            }
            WorkflowsCommand::Ls { mount, limit } => Request::List { mount, limit },
            WorkflowsCommand::Show { run } => Request::Show { run },
            WorkflowsCommand::Follow { run } => Request::Follow { run },
            WorkflowsCommand::Diff { run, step, patch } => Request::Diff {
                run,
                step,
                as_patch: patch,
            },
            WorkflowsCommand::Retry { run, step } => Request::Again {
                run,
                step,
                skips: false,
            },
            WorkflowsCommand::Skip { run, step } => Request::Again {
                run,
                step,
                skips: true,
            },
            WorkflowsCommand::Cancel { run } => Request::Cancel { run },
            WorkflowsCommand::Revert { run, step, undo } => Request::Revert { run, step, undo },
            WorkflowsCommand::Schema => Request::Schema,
        };
        Self::Workflows {
            request,
            socket: args.socket,
            as_json: args.json,
        }
    }
}
