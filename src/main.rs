//! The program `weldrfs`: command line and wiring. What a filesystem is lives in the other crates.

mod bucket;
mod cli;
mod commands;
mod daemon;
mod environment;
mod failure;
mod handover;
mod log_file;
mod logging;
mod memory;
mod moment;
mod mount_table;
mod mounting;
mod options;
mod preflight;
mod registry;
mod report;
mod sandbox_init;
mod shim;
mod sidecar;
mod source;
mod unmounting;
mod volume_service;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use cli::Invocation;
use commands::target;
use environment::Environment;
use failure::Failure;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Inside of a sandbox there is nothing else to understand, and no time to lose.
    if arguments.next().is_some_and(|word| word == "sandbox-init") {
        return ExitCode::from(sandbox_init::run(arguments));
    }
    let invocation = match cli::parse(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help and version are no failures; and when even stderr is closed there is nobody to tell.
            drop(error.print());
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(invocation, &Environment::of_this_process()) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            say(&failure.to_string());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Does it. The status is 0, but for a command that ends as another one did.
fn run(invocation: Invocation, environment: &Environment) -> Result<u8, Failure> {
    let registry = |state_dir: Option<PathBuf>| target::registry(state_dir, environment);
    let done = match invocation {
        Invocation::Mount(request) => commands::mount::run(request, environment),
        Invocation::Umount {
            path,
            request,
            state_dir,
        } => commands::umount::run(&path, request, &registry(state_dir), environment),
        Invocation::Sync {
            path,
            timeout,
            state_dir,
        } => commands::sync::run(&path, timeout, &registry(state_dir)),
        Invocation::Status {
            path,
            as_json,
            state_dir,
        } => commands::status::run(path.as_deref(), as_json, &registry(state_dir)),
        Invocation::Volumes {
            store,
            request,
            state_dir,
        } => commands::volumes::run(&store, request, &registry(state_dir), environment),
        Invocation::Restore {
            store,
            request,
            state_dir,
        } => commands::restore::run(&store, &request, &registry(state_dir), environment),
        Invocation::Fsck { store, request } => commands::fsck::run(&store, request, environment),
        Invocation::Gc {
            store,
            dry_run,
            as_json,
            state_dir,
        } => commands::gc::run(&store, dry_run, as_json, &registry(state_dir), environment),
        Invocation::Snapshot {
            path,
            request,
            state_dir,
        } => commands::snapshot::run(&path, request, &registry(state_dir)),
        Invocation::Clone {
            from,
            to,
            state_dir,
        } => commands::snapshot::clone(&from, &to, &registry(state_dir)),
        Invocation::Trash {
            path,
            request,
            state_dir,
        } => commands::trash::run(&path, request, &registry(state_dir)),
        Invocation::Control { request, state_dir } => {
            commands::control::run(request, state_dir, environment)
        }
        Invocation::Token { request, state_dir } => {
            commands::control::token(request, state_dir, environment)
        }
        Invocation::Shim { folder, kept } => shim::run(&folder, &kept),
        Invocation::Exec { request, socket } => {
            return commands::exec::run(request, socket, environment);
        }
        Invocation::Secret { request, state_dir } => {
            commands::control::secret(request, state_dir, environment)
        }
        Invocation::OpenApi => report::print(&weldrfs_control::openapi_text()),
        Invocation::Mounts {
            request,
            socket,
            as_json,
        } => commands::mounts::run(request, socket, as_json, environment),
        Invocation::Previews {
            request,
            socket,
            as_json,
        } => commands::previews::run(request, socket, as_json, environment),
        Invocation::MountSnapshots {
            request,
            socket,
            as_json,
        } => commands::mount_snapshots::run(request, socket, as_json, environment),
        Invocation::Branches {
            request,
            socket,
            as_json,
        } => commands::branches::run(request, socket, as_json, environment),
        Invocation::Events { request, socket } => {
            commands::events::run(&request, socket, environment)
        }
        Invocation::Workflows {
            request,
            socket,
            as_json,
        } => return commands::workflows::run(request, socket, as_json, environment),
        Invocation::Integrations {
            request,
            socket,
            as_json,
        } => return commands::integrations::run(request, socket, as_json, environment),
        Invocation::DropCaches { path, state_dir } => {
            commands::drop_caches::run(&path, &registry(state_dir))
        }
    };
    done.map(|()| 0)
}

/// Says something to whoever started this, in the way of command-line programs. A closed stderr is no reason to fail.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "weldrfs: {text}"));
}
