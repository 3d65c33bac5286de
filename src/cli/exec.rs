//! What the command line may say about commands in sandboxes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Invocation;
use super::common::{lifetime, place};
use crate::commands::exec;

/// Running a command.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// The sidecar's socket (default: control.sock in the run folder, /run/weldrfs for root)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A variable of the command
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A secret of this machine that the command gets as a variable
    #[arg(short, long, value_name = "NAME")]
    secret: Vec<String>,
    /// How it is connected: isolated, none or host
    #[arg(long, value_name = "MODE", default_value = "isolated", value_parser = exec::network)]
    network: weldrfs_control::Network,
    /// When it is ended: like 30s or 2h (default: after ten minutes)
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    timeout: Option<Duration>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Processors, also parts of one
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    processes: Option<u32>,
    /// Give it the standard input of this one, read to its end first
    #[arg(short, long)]
    input: bool,
    /// The mount, and a folder of it
    #[arg(value_name = "MOUNT[:PATH]")]
    place: String,
    /// Program and arguments, after --
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("it takes NAME=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

impl From<ExecArgs> for Invocation {
    fn from(args: ExecArgs) -> Self {
        let (mount, path) = place(args.place);
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let request = weldrfs_control::ExecRequest {
            mount,
            path,
            command: weldrfs_control::CommandLine::Words(args.command),
            env: args.env.into_iter().collect(),
            secrets: args.secret,
            limits: weldrfs_control::LimitsRequest {
                memory_mb: args.memory,
                cpus: args.cpus,
                processes: args.processes,
                tmp_mb: None,
            },
            network: args.network,
            timeout_ms: args.timeout.map(millis),
            stdin: None,
        };
        Self::Exec {
            request: exec::Request {
                request,
                input: args.input,
            },
            socket: args.socket,
        }
    }
}
