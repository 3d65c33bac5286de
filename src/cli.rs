//! The command line: what it may say, in any of the ways this program is called. Turns it into one [`Invocation`] and
//! runs nothing. Each
//! family of commands is a file below.
//!
//! mount.fuse3 calls `weldrfs SOURCE MOUNTPOINT -o OPTIONS`; mount(8) calls a helper by the name `mount.fuse.weldrfs`.

mod branches;
mod common;
mod control;
mod events;
mod exec;
mod integrations;
mod mount_snapshots;
mod mounts;
mod previews;
mod snapshots;
mod stores;
mod trash;
mod workflows;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    self, control as sidecar, fsck, mount, restore, snapshot, trash as trash_command, umount,
    volumes,
};
use crate::options;

/// Seconds that `umount --sync` waits unless told otherwise.
const UMOUNT_SYNC_SECONDS: &str = "30";
/// Seconds that `sync` waits unless told otherwise.
const SYNC_SECONDS: &str = "600";
/// Longest wait that may be asked for, in seconds: a day.
const WAIT_MAX_SECONDS: u64 = 86_400;

/// What to do.
#[derive(Debug, Clone)]
pub(crate) enum Invocation {
    Mount(mount::Request),
    Umount {
        path: PathBuf,
        request: umount::Request,
        state_dir: Option<PathBuf>,
    },
    Sync {
        path: PathBuf,
        timeout: Duration,
        state_dir: Option<PathBuf>,
    },
    Status {
        path: Option<PathBuf>,
        as_json: bool,
        state_dir: Option<PathBuf>,
    },
    DropCaches {
        path: PathBuf,
        state_dir: Option<PathBuf>,
    },
    Volumes {
        store: volumes::Store,
        request: volumes::Request,
        state_dir: Option<PathBuf>,
    },
    Fsck {
        store: volumes::Store,
        request: fsck::Request,
    },
    Gc {
        store: volumes::Store,
        dry_run: bool,
        as_json: bool,
        state_dir: Option<PathBuf>,
    },
    Snapshot {
        path: PathBuf,
        request: snapshot::Request,
        state_dir: Option<PathBuf>,
    },
    Clone {
        from: PathBuf,
        to: PathBuf,
        state_dir: Option<PathBuf>,
    },
    Trash {
        path: PathBuf,
        request: trash_command::Request,
        state_dir: Option<PathBuf>,
    },
    Restore {
        store: volumes::Store,
        request: restore::Request,
        state_dir: Option<PathBuf>,
    },
    Control {
        request: sidecar::Request,
        state_dir: Option<PathBuf>,
    },
    Token {
        request: sidecar::TokenRequest,
        state_dir: Option<PathBuf>,
    },
    Secret {
        request: sidecar::SecretRequest,
        state_dir: Option<PathBuf>,
    },
    OpenApi,
    /// Of the sidecar's own, see `shim`.
    Shim {
        folder: PathBuf,
        kept: PathBuf,
    },
    Exec {
        request: commands::exec::Request,
        socket: Option<PathBuf>,
    },
    Mounts {
        request: commands::mounts::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
    MountSnapshots {
        request: commands::mount_snapshots::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
    Branches {
        request: commands::branches::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
    Events {
        request: commands::events::Request,
        socket: Option<PathBuf>,
    },
    Workflows {
        request: commands::workflows::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
    Integrations {
        request: commands::integrations::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
    Previews {
        request: commands::previews::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
}

/// A filesystem for the machines coding agents work on: local speed, kept in an object store.
#[derive(Debug, Parser)]
#[command(
    name = "weldrfs",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount a volume; it is created on first use
    Mount(MountArgs),
    /// Unmount a volume and wait until its state is saved
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    /// Wait until all that was acknowledged can be restored from the store
    Sync(SyncArgs),
    /// Show lag, caches, requests and errors of a volume, or list all mounts
    Status(StatusArgs),
    /// Empty the local caches of file content; what is not in the store yet stays
    DropCaches(DropCachesArgs),
    /// List the volumes in a store, or destroy one
    #[command(subcommand)]
    Volumes(stores::VolumesCommand),
    /// List the states that a volume can go back to, or go back to one
    Restore(stores::RestoreArgs),
    /// Make snapshots of a mounted volume, compare them and go back to them
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(snapshots::SnapshotCommand),
    /// Copy a directory of a mount at once, sharing its content
    Clone(snapshots::CloneArgs),
    /// List what was removed from a mounted volume, bring it back, or end it for good
    #[command(subcommand)]
    Trash(trash::TrashCommand),
    /// Check whether a volume is whole, in its store or in the local state; repairs nothing
    Fsck(stores::FsckArgs),
    /// Delete from the store what nothing needs any more; a mount does so every hour
    Gc(stores::GcArgs),
    /// Run the sidecar: an API that mounts volumes, keeps them mounted and tells what happens
    Control(Box<control::ControlArgs>),
    /// Ask the sidecar to mount, unmount and sync volumes
    Mounts(mounts::MountsArgs),
    /// Copy directories of mounts at once, as branches to work on; ask the sidecar for them
    Branches(branches::BranchesArgs),
    /// Run a command in a sandbox on a mount of the sidecar; its output and status are this one's
    Exec(Box<exec::ExecArgs>),
    /// Run apps on mounts of the sidecar, at ports of this machine
    Previews(previews::PreviewsArgs),
    /// Follow what the sidecar tells
    Events(events::EventsArgs),
    /// Run workflows on a mount of the sidecar, see what they did, and revert it
    Workflows(workflows::WorkflowsArgs),
    /// Put integrations into a project on a mount of the sidecar: several at once, all or nothing
    Integrations(integrations::IntegrationsArgs),
    /// Keep one sandbox; started by the sidecar
    #[command(hide = true)]
    Shim { folder: PathBuf, kept: PathBuf },
}

#[derive(Debug, Args)]
struct MountArgs {
    /// Where the volume is kept: s3://BUCKET[/PREFIX] or file:///DIR
    source: OsString,
    /// The directory to mount it on
    mountpoint: PathBuf,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    foreground: bool,
}

#[derive(Debug, Args)]
struct StateDir {
    /// Where to look for the state of mounts, beside the usual places
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct UmountArgs {
    /// Where the volume is mounted
    mountpoint: PathBuf,
    /// First wait until everything is in the store; stay mounted if that fails
    #[arg(long)]
    sync: bool,
    /// How long --sync waits
    #[arg(long, value_name = "SECONDS", default_value = UMOUNT_SYNC_SECONDS, requires = "sync",
          value_parser = clap::value_parser!(u64).range(1..=WAIT_MAX_SECONDS))]
    timeout: u64,
    /// Take the mount away at once; files that are open stay usable until they are closed
    #[arg(long)]
    lazy: bool,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// Where the volume is mounted
    mountpoint: PathBuf,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value = SYNC_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=WAIT_MAX_SECONDS))]
    timeout: u64,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Where the volume is mounted; all mounts without it
    mountpoint: Option<PathBuf>,
    /// Answer with JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Debug, Args)]
struct DropCachesArgs {
    /// Where the volume is mounted
    mountpoint: PathBuf,
    #[command(flatten)]
    state: StateDir,
}

/// Understands the arguments of this process, its name first.
///
/// # Errors
/// What clap prints: usage errors, and the texts of `--help` and `--version`.
pub(crate) fn parse(mut arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
    let name = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_owned();
    if name.to_str().is_some_and(|name| name.starts_with("mount.")) {
        return Helper::parse(arguments);
    }
    if is_bare_mount(&arguments) {
        arguments.insert(1, "mount".into());
    }
    let help = format!("{}\n{}", options::help(), ENVIRONMENT_HELP);
    let command = Cli::command().mut_subcommand("mount", |mount| mount.after_help(help));
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
    Ok(cli.command.into())
}

const ENVIRONMENT_HELP: &str = "\
Environment:
  WELDR_ENV_VOL    base of the local state, unless state_dir is given
                   (default: /var/lib/weldrfs; for users $XDG_STATE_HOME/weldrfs
                   or ~/.local/state/weldrfs)
  S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_SESSION_TOKEN
                   the way to the bucket; after them the AWS_* ones
  WELDRFS_RUN_DIR  where running mounts are noted
                   (default: /run/weldrfs; for users $XDG_RUNTIME_DIR/weldrfs)

Exit codes are those of mount(8): 0, 1 wrong invocation or permission,
2 system error, 32 mount failure.";

/// Whether this is `weldrfs SOURCE MOUNTPOINT ...`: the first argument looks like a place rather than a command.
fn is_bare_mount(arguments: &[OsString]) -> bool {
    let is_place = |text: &OsStr| {
        text.as_encoded_bytes()
            .iter()
            .any(|byte| matches!(byte, b'/' | b':'))
    };
    let Some(first) = arguments
        .get(1)
        .filter(|first| !first.as_encoded_bytes().starts_with(b"-"))
    else {
        return false;
    };
    let is_command = Cli::command().find_subcommand(first).is_some() || first == "help";
    let second_is_folder = arguments
        .get(2)
        .is_some_and(|second| Path::new(second).is_absolute());
    !is_command && (is_place(first) || second_is_folder)
}

impl From<Command> for Invocation {
    fn from(command: Command) -> Self {
        let seconds = Duration::from_secs;
        match command {
            Command::Mount(MountArgs {
                source,
                mountpoint,
                options,
                foreground,
            }) => Self::Mount(mount::Request {
                source,
                mountpoint,
                options,
                foreground,
                fake: false,
                sloppy: false,
                namespace: None,
            }),
            Command::Umount(UmountArgs {
                mountpoint,
                sync,
                timeout,
                lazy,
                state,
            }) => Self::Umount {
                path: mountpoint,
                request: umount::Request {
                    sync: sync.then(|| seconds(timeout)),
                    lazy,
                },
                state_dir: state.state_dir,
            },
            Command::Sync(SyncArgs {
                mountpoint,
                timeout,
                state,
            }) => Self::Sync {
                path: mountpoint,
                timeout: seconds(timeout),
                state_dir: state.state_dir,
            },
            Command::Status(StatusArgs {
                mountpoint,
                json,
                state,
            }) => Self::Status {
                path: mountpoint,
                as_json: json,
                state_dir: state.state_dir,
            },
            Command::Snapshot(command) => command.into(),
            Command::Clone(clone) => clone.into(),
            Command::Trash(command) => command.into(),
            Command::Volumes(volumes) => volumes.into(),
            Command::Restore(restore) => restore.into(),
            Command::Fsck(fsck) => fsck.into(),
            Command::Gc(gc) => gc.into(),
            Command::Control(control) => (*control).into(),
            Command::Mounts(mounts) => mounts.into(),
            Command::Branches(branches) => branches.into(),
            Command::Events(events) => events.into(),
            Command::Previews(previews) => previews.into(),
            Command::Workflows(workflows) => workflows.into(),
            Command::Integrations(integrations) => integrations.into(),
            Command::Exec(exec) => (*exec).into(),
            Command::Shim { folder, kept } => Self::Shim { folder, kept },
            Command::DropCaches(DropCachesArgs { mountpoint, state }) => Self::DropCaches {
                path: mountpoint,
                state_dir: state.state_dir,
            },
        }
    }
}

/// How mount(8) calls its helpers: `mount.fuse.weldrfs SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
#[derive(Debug, Parser)]
#[command(name = "mount.fuse.weldrfs", version)]
struct Helper {
    /// Where the volume is kept: s3://BUCKET[/PREFIX] or file:///DIR
    source: OsString,
    /// The directory to mount it on
    mountpoint: PathBuf,
    /// Tolerate unknown mount options
    #[arg(short)]
    sloppy: bool,
    /// Check everything, mount nothing
    #[arg(short)]
    fake: bool,
    /// Accepted; there is no mtab to write
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Accepted; there is nothing to add
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Work in this mount namespace: a process id or a file
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<OsString>,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// The type: fuse.weldrfs
    #[arg(short = 't', value_name = "TYPE", value_parser = ["fuse.weldrfs", "weldrfs", "fuse"])]
    kind: Option<String>,
}

impl Helper {
    fn parse(arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
        let Self {
            source,
            mountpoint,
            sloppy,
            fake,
            namespace,
            options,
            ..
        } = Self::try_parse_from(arguments)?;
        Ok(Invocation::Mount(mount::Request {
            source,
            mountpoint,
            options,
            foreground: false,
            fake,
            sloppy,
            namespace,
        }))
    }
}

#[cfg(test)]
mod tests;
