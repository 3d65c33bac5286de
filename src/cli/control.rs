//! What the command line may say about the sidecar itself: starting it, its tokens and its secrets.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Invocation;
use super::common::lifetime;
use crate::commands::control;

/// Most mounts that may be asked for.
const MOUNTS_MAX: u64 = 64;
/// Most commands that may be asked for.
const EXECS_MAX: u64 = 256;

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
