//! What the command line may say about the sidecar: starting it, its tokens, and asking it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Invocation, SYNC_SECONDS, WAIT_MAX_SECONDS};
use crate::commands::{control, events, exec, mounts};
use crate::options::span;

/// Most mounts that may be asked for.
const MOUNTS_MAX: u64 = 64;
/// Most commands that may be asked for.
const EXECS_MAX: u64 = 256;
/// Most lines of a log that may be asked for.
const LINES_MAX: u64 = 5_000;

/// Starting the sidecar, and what belongs to it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ControlArgs {
    #[command(subcommand)]
    command: Option<ControlCommand>,
    /// The Unix socket (default: control.sock in the run folder, /run/weldrfs for root)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Group whose members may use the socket: a name or number (default: that of the process)
    #[arg(long)]
    group: Option<String>,
    /// Listen on TCP too, for those who have a token: ADDR:PORT, :PORT, or nothing for port PORT, else 8080
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "")]
    listen: Option<String>,
    /// Public keys of signed sessions (EdDSA, RS256), a JSON web key set
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// How many mounts there may be
    #[arg(long, value_name = "N", default_value_t = weldrfs_control::MOUNTS_MAX as u64,
          value_parser = clap::value_parser!(u64).range(1..=MOUNTS_MAX))]
    max_mounts: u64,
    /// Where mounts go that do not say where (default: WORKSPACE_BASE, else /workspace)
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Requests in a second, in all
    #[arg(long, value_name = "N", default_value = "100")]
    rate: NonZeroU32,
    /// Requests in a second with one token
    #[arg(long, value_name = "N", default_value = "50")]
    token_rate: NonZeroU32,
    /// Attempts to authenticate in a second, from one address
    #[arg(long, value_name = "N", default_value = "10")]
    auth_rate: NonZeroU32,
    /// Keep keys that were given with a mount on the tmpfs only: after a restart of the machine it needs them again
    #[arg(long)]
    forget_credentials: bool,
    /// How many commands may run at a time
    #[arg(long, value_name = "N", default_value_t = weldrfs_control::EXECS_MAX as u64,
          value_parser = clap::value_parser!(u64).range(1..=EXECS_MAX))]
    max_execs: u64,
    /// Container runtime for sandboxes; several are tried in this order (default: crun, runc)
    #[arg(long, value_name = "PROGRAM")]
    runtime: Vec<String>,
    /// Another folder of the machine that sandboxes see as an empty one; may be given several times
    #[arg(long, value_name = "DIR")]
    hide: Vec<PathBuf>,
    /// Address that the ports of previews are opened on; 0.0.0.0 for all
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    preview_address: std::net::IpAddr,
    /// The ports of this machine that previews get
    #[arg(long, value_name = "FIRST-LAST", default_value = "3000-3019", value_parser = control::ports)]
    preview_ports: (u16, u16),
    /// A host that isolated previews may reach: NAME, *.NAME, or with :PORT for another one than 443; may be given several times
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<weldrfs_control::AllowedHost>,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = control::log_level)]
    log_level: crate::options::LogLevel,
    #[command(flatten)]
    state: super::StateDir,
}

#[derive(Debug, Subcommand)]
enum ControlCommand {
    /// Make, list and revoke the tokens for TCP
    #[command(subcommand)]
    Token(TokenCommand),
    /// Keep, list and forget secrets that commands get as variables
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Print the description of the API
    Openapi,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Keep a secret; its value is read from standard input
    Set {
        /// The variable it becomes
        name: String,
        #[command(flatten)]
        state: super::StateDir,
    },
    /// List the names
    List {
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: super::StateDir,
    },
    /// Forget a secret
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        state: super::StateDir,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown once
    Create {
        /// What it is for
        #[arg(long, default_value = "unnamed")]
        name: String,
        /// When it ends, from now: like 12h or 30d (default: never)
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires: Option<Duration>,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: super::StateDir,
    },
    /// List the tokens, without the tokens themselves
    List {
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: super::StateDir,
    },
    /// Take a token away, at once
    Revoke {
        /// Its id, as listed
        id: String,
        #[command(flatten)]
        state: super::StateDir,
    },
}

pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    span(text)
        .filter(|span| !span.is_zero())
        .ok_or_else(|| "it takes a time with a unit (s, m, h, d)".into())
}

#[derive(Debug, Args)]
struct Socket {
    /// The sidecar's socket (default: control.sock in the run folder, /run/weldrfs for root)
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Json {
    /// Answer with JSON
    #[arg(long)]
    json: bool,
}

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
        let (mount, path) = match args.place.split_once(':') {
            Some((mount, path)) => (mount.to_owned(), Some(path.to_owned())),
            None => (args.place, None),
        };
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

/// Following what happens.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    socket: Socket,
    /// Only what is about this mount
    #[arg(long, value_name = "NAME")]
    mount: Option<String>,
    /// Begin after the event with this number; 0 for the oldest that is kept (default: with what happens from now on)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
    #[command(flatten)]
    json: Json,
}

impl From<ControlArgs> for Invocation {
    fn from(args: ControlArgs) -> Self {
        let state_dir = |state: super::StateDir| state.state_dir;
        match args.command {
            None => Self::Control {
                request: control::Request {
                    socket: args.socket,
                    group: args.group,
                    listen: args.listen,
                    jwks: args.jwks,
                    max_mounts: usize::try_from(args.max_mounts).unwrap_or(usize::MAX),
                    workspace: args.workspace,
                    rates: weldrfs_control::Rates {
                        all: args.rate,
                        token: args.token_rate,
                        authentication: args.auth_rate,
                    },
                    keep_credentials: !args.forget_credentials,
                    max_execs: usize::try_from(args.max_execs).unwrap_or(usize::MAX),
                    runtimes: args.runtime,
                    hidden: args.hide,
                    previews: weldrfs_control::PreviewSettings {
                        ports: weldrfs_control::PreviewPorts {
                            address: args.preview_address,
                            first: args.preview_ports.0,
                            last: args.preview_ports.1,
                        },
                        allowed: args.allow_host,
                    },
                    log_level: args.log_level,
                },
                state_dir: args.state.state_dir,
            },
            Some(ControlCommand::Openapi) => Self::OpenApi,
            Some(ControlCommand::Secret(command)) => {
                let (request, state) = match command {
                    SecretCommand::Set { name, state } => {
                        (control::SecretRequest::Set { name }, state)
                    }
                    SecretCommand::List { json, state } => {
                        (control::SecretRequest::List { as_json: json }, state)
                    }
                    SecretCommand::Rm { name, state } => {
                        (control::SecretRequest::Remove { name }, state)
                    }
                };
                Self::Secret {
                    request,
                    state_dir: state_dir(state),
                }
            }
            Some(ControlCommand::Token(command)) => {
                let (request, state) = match command {
                    TokenCommand::Create {
                        name,
                        expires,
                        json,
                        state,
                    } => (
                        control::TokenRequest::Create {
                            name,
                            expires,
                            as_json: json,
                        },
                        state,
                    ),
                    TokenCommand::List { json, state } => {
                        (control::TokenRequest::List { as_json: json }, state)
                    }
                    TokenCommand::Revoke { id, state } => {
                        (control::TokenRequest::Revoke { id }, state)
                    }
                };
                Self::Token {
                    request,
                    state_dir: state_dir(state),
                }
            }
        }
    }
}

impl From<MountsArgs> for Invocation {
    fn from(args: MountsArgs) -> Self {
        let (request, json) = match args.command {
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
            socket: args.socket.socket,
            as_json: json.json,
        }
    }
}

impl From<EventsArgs> for Invocation {
    fn from(args: EventsArgs) -> Self {
        Self::Events {
            request: events::Request {
                mount: args.mount,
                after: args.after,
                as_json: args.json.json,
            },
            socket: args.socket.socket,
        }
    }
}
