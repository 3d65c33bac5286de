//! The command line: what it may say, in any of the ways this program is called. Turns it into one [`Invocation`] and
//! runs nothing.
//!
//! mount.fuse3 calls `weldrfs SOURCE MOUNTPOINT -o OPTIONS`; mount(8) calls a helper by the name `mount.fuse.weldrfs`.

mod control;
mod previews_args;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    control as sidecar, events, exec, fsck, mount, mounts, previews, restore, snapshot, umount,
    volumes,
};
use crate::{moment, options};

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
        request: exec::Request,
        socket: Option<PathBuf>,
    },
    Mounts {
        request: mounts::Request,
        socket: Option<PathBuf>,
        as_json: bool,
    },
    Events {
        request: events::Request,
        socket: Option<PathBuf>,
    },
    Previews {
        request: previews::Request,
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
    Volumes(VolumesCommand),
    /// List the states that a volume can go back to, or go back to one
    Restore(RestoreArgs),
    /// Make snapshots of a mounted volume, compare them and go back to them
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(SnapshotCommand),
    /// Copy a directory of a mount at once, sharing its content
    Clone(CloneArgs),
    /// Check whether a volume is whole, in its store or in the local state; repairs nothing
    Fsck(FsckArgs),
    /// Delete from the store what nothing needs any more; a mount does so every hour
    Gc(GcArgs),
    /// Run the sidecar: an API that mounts volumes, keeps them mounted and tells what happens
    Control(Box<control::ControlArgs>),
    /// Ask the sidecar to mount, unmount and sync volumes
    Mounts(control::MountsArgs),
    /// Run a command in a sandbox on a mount of the sidecar; its output and status are this one's
    Exec(Box<control::ExecArgs>),
    /// Run apps on mounts of the sidecar, at ports of this machine
    Previews(previews_args::PreviewsArgs),
    /// Follow what the sidecar tells
    Events(control::EventsArgs),
    /// Keep one sandbox; started by the sidecar
    #[command(hide = true)]
    Shim { folder: PathBuf, kept: PathBuf },
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Make a snapshot and print its name
    Create {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// What to call it (default: the time)
        name: Option<String>,
        /// Why it is made
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Let it be thinned out by age, instead of keeping it until it is removed
        #[arg(long)]
        automatic: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// List the snapshots, oldest first
    #[command(visible_alias = "list")]
    Ls {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Show one snapshot
    Show {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Which
        name: String,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Remove a snapshot; the volume and the other snapshots stay as they are
    Rm {
        /// Where the volume is mounted
        mountpoint: PathBuf,
        /// Which
        name: String,
        #[command(flatten)]
        state: StateDir,
    },
    /// Show what changed since a snapshot, or between two
    Diff {
        /// Where the volume is mounted, or a path there: only what is at and below it
        path: PathBuf,
        /// The older snapshot
        a: String,
        /// The newer one (default: the present)
        b: Option<String>,
        /// Show sizes and how much changed
        #[arg(long, conflicts_with = "json")]
        stat: bool,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
        /// Show the changes of the files' text, as a patch that `git apply` takes
        #[arg(long, conflicts_with_all = ["json", "stat"])]
        patch: bool,
        #[command(flatten)]
        state: StateDir,
    },
    /// Go back to a snapshot, all at once; what was there before becomes a snapshot, too
    Restore {
        /// Where the volume is mounted, or a path there: only what is at and below it
        path: PathBuf,
        /// Which
        name: String,
        #[command(flatten)]
        state: StateDir,
    },
}

impl From<SnapshotCommand> for Invocation {
    fn from(command: SnapshotCommand) -> Self {
        use snapshot::{Form, Request};
        let (path, request, state) = match command {
            SnapshotCommand::Create {
                mountpoint,
                name,
                note,
                automatic,
                state,
            } => {
                let request = Request::Create {
                    name,
                    note,
                    automatic,
                };
                (mountpoint, request, state)
            }
            SnapshotCommand::Ls {
                mountpoint,
                json: as_json,
                state,
            } => (mountpoint, Request::List { as_json }, state),
            SnapshotCommand::Show {
                mountpoint,
                name,
                json: as_json,
                state,
            } => (mountpoint, Request::Show { name, as_json }, state),
            SnapshotCommand::Rm {
                mountpoint,
                name,
                state,
            } => (mountpoint, Request::Remove { name }, state),
            SnapshotCommand::Diff {
                path,
                a: older,
                b: newer,
                stat,
                json,
                patch,
                state,
            } => {
                let form = match (stat, json, patch) {
                    (_, true, _) => Form::Json,
                    (true, ..) => Form::Stat,
                    (.., true) => Form::Patch,
                    _ => Form::Names,
                };
                (path, Request::Diff { older, newer, form }, state)
            }
            SnapshotCommand::Restore { path, name, state } => {
                (path, Request::Restore { name }, state)
            }
        };
        Self::Snapshot {
            path,
            request,
            state_dir: state.state_dir,
        }
    }
}

#[derive(Debug, Args)]
struct CloneArgs {
    /// The directory; also one below .snapshots/NAME
    src: PathBuf,
    /// The copy: a path on the same mount where nothing is yet
    dst: PathBuf,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Debug, Subcommand)]
enum VolumesCommand {
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
struct RestoreArgs {
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
struct FsckArgs {
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
struct GcArgs {
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

fn moment_of(text: &str) -> Result<u64, String> {
    moment::parse(text, SystemTime::now()).ok_or_else(|| format!("it takes {}", moment::FORMS))
}

#[derive(Debug, Args)]
struct StoreArgs {
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
            Command::Volumes(VolumesCommand::Ls { store, json }) => Self::Volumes {
                store: store.into(),
                request: volumes::Request::List { as_json: json },
                state_dir: None,
            },
            Command::Volumes(VolumesCommand::Destroy { store, id, state }) => Self::Volumes {
                store: store.into(),
                request: volumes::Request::Destroy { id },
                state_dir: state.state_dir,
            },
            Command::Snapshot(command) => command.into(),
            Command::Clone(CloneArgs { src, dst, state }) => Self::Clone {
                from: src,
                to: dst,
                state_dir: state.state_dir,
            },
            Command::Fsck(fsck) => Self::Fsck {
                store: fsck.store.into(),
                request: fsck::Request {
                    local: fsck.local,
                    deep: fsck.deep,
                    as_json: fsck.json,
                },
            },
            Command::Gc(gc) => Self::Gc {
                store: gc.store.into(),
                dry_run: gc.dry_run,
                as_json: gc.json,
                state_dir: gc.state.state_dir,
            },
            Command::Restore(restore) => Self::Restore {
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
            },
            Command::Control(control) => (*control).into(),
            Command::Mounts(mounts) => mounts.into(),
            Command::Events(events) => events.into(),
            Command::Previews(previews) => previews.into(),
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
