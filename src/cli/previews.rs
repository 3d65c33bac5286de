//! What the command line may say about previews.

use std::time::Duration;

use clap::{Args, Subcommand};
use weldrfs_control::{CommandLine, LimitsRequest, Network, PreviewRequest, RestartPolicy};

use super::Invocation;
use super::common::{Json, Socket, lifetime, place};
use super::exec::variable;
use crate::commands::{exec, previews};

/// Most lines of a log that may be asked for.
const LINES_MAX: u64 = 5_000;

/// Apps that run on mounts.
#[derive(Debug, Args)]
pub(super) struct PreviewsArgs {
    #[command(flatten)]
    socket: Socket,
    #[command(subcommand)]
    command: PreviewsCommand,
}

#[derive(Debug, Subcommand)]
enum PreviewsCommand {
    /// Start an app, and wait until it is ready
    Start(Box<StartArgs>),
    /// List the previews of this machine, or show one
    Ls {
        /// Its id, its port, or MOUNT[:PATH]
        preview: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show the newest lines that an app wrote
    Logs {
        /// Its id, its port, or MOUNT[:PATH]
        preview: String,
        /// Go on with what it writes, until it is over
        #[arg(short, long)]
        follow: bool,
        /// How many
        #[arg(long, value_name = "N", default_value = "200",
              value_parser = clap::value_parser!(u64).range(1..=LINES_MAX))]
        lines: u64,
        #[command(flatten)]
        json: Json,
    },
    /// End an app, and wait until it has ended
    Stop {
        /// Its id, its port, or MOUNT[:PATH]
        preview: String,
        #[command(flatten)]
        json: Json,
    },
    /// Print where an app is reached
    Open {
        /// Its id, its port, or MOUNT[:PATH]
        preview: String,
    },
}

#[derive(Debug, Args)]
struct StartArgs {
    /// The mount, and a folder of it
    #[arg(value_name = "MOUNT[:PATH]")]
    place: String,
    /// The port that the app listens on (default: 3000, or another one that it listens on)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The port of this machine (default: the first free one)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    host_port: Option<u16>,
    /// A variable of the app
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A secret of this machine that the app gets as a variable
    #[arg(short, long, value_name = "NAME")]
    secret: Vec<String>,
    /// How it is connected: isolated, none or host
    #[arg(long, value_name = "MODE", default_value = "isolated", value_parser = exec::network)]
    network: Network,
    /// Whether it is started again when it ends by itself: never, on-failure or always
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = restart)]
    restart: RestartPolicy,
    /// How long its port may take to answer: like 30s or 5m (default: two minutes)
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    ready_timeout: Option<Duration>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Processors, also parts of one
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    processes: Option<u32>,
    /// If an app runs there already, end it and start this one in its place
    #[arg(long)]
    replace: bool,
    /// Do not wait until it is ready
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    json: Json,
    /// Program and arguments, after -- (default: found from the project)
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
}

fn restart(text: &str) -> Result<RestartPolicy, String> {
    match text {
        "never" => Ok(RestartPolicy::Never),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        "always" => Ok(RestartPolicy::Always),
        _ => Err("it takes never, on-failure or always".into()),
    }
}

impl From<StartArgs> for PreviewRequest {
    fn from(args: StartArgs) -> Self {
        let (mount, path) = place(args.place);
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let is_given = !args.command.is_empty();
        Self {
            mount,
            path,
            command: is_given.then_some(CommandLine::Words(args.command)),
            port: args.port,
            host_port: args.host_port,
            env: args.env.into_iter().collect(),
            secrets: args.secret,
            limits: LimitsRequest {
                memory_mb: args.memory,
                cpus: args.cpus,
                processes: args.processes,
                tmp_mb: None,
            },
            network: args.network,
            restart: args.restart,
            ready_timeout_ms: args.ready_timeout.map(millis),
            replace: args.replace,
        }
    }
}

impl From<PreviewsArgs> for Invocation {
    fn from(args: PreviewsArgs) -> Self {
        let (request, as_json) = match args.command {
            PreviewsCommand::Start(start) => {
                let (waits, as_json) = (!start.no_wait, start.json.json);
                let request = Box::new(PreviewRequest::from(*start));
                (previews::Request::Start { request, waits }, as_json)
            }
            PreviewsCommand::Ls { preview, json } => {
                (previews::Request::List { preview }, json.json)
            }
            PreviewsCommand::Logs {
                preview,
                follow,
                lines,
                json,
            } => {
                let lines = usize::try_from(lines).unwrap_or(usize::MAX);
                let request = previews::Request::Logs {
                    preview,
                    follows: follow,
                    lines,
                };
                (request, json.json)
            }
            PreviewsCommand::Stop { preview, json } => {
                (previews::Request::Stop { preview }, json.json)
            }
            PreviewsCommand::Open { preview } => (previews::Request::Open { preview }, false),
        };
        Self::Previews {
            request,
            socket: args.socket.socket,
            as_json,
        }
    }
}
