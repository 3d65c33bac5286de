//! The container's runtime: finds out by trying which one works here, and removes what it keeps.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit};
use weldrfs_control::{Ground, Identity, SandboxOrder, oci_config};

use super::{cgroup, idmap, root};

/// Folder of the bundle in the sandbox's folder.
const BUNDLE: &str = "bundle";
/// The bundle's configuration. It holds the secrets, so it is there only until the container runs.
const CONFIG: &str = "config.json";
/// Folder of the runtime's own notes.
const NOTES: &str = "runtime";
/// The empty folder that the root is put together on.
const ROOT: &str = "root";
/// How long the runtime may take to remove a container.
const REMOVE_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(5);
/// Most bytes of what a runtime says.
const SAYS_MAX: usize = 4096;

/// A container that runs.
pub(super) struct Running {
    /// Its first process.
    pub(super) pid: u32,
    pub(super) runtime: String,
    pub(super) user_namespace: bool,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Starts the container with the first runtime that can.
///
/// # Errors
/// What each of them said; and whether it is the order that is at fault.
pub(super) fn start(order: &SandboxOrder, folder: &Path) -> Result<Running, (String, bool)> {
    let project = root::open_project(order).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP | libc::EXDEV) => {
            let text =
                "path leads through a symbolic link or out of the mount; give the folder itself";
            (text.to_owned(), true)
        }
        Some(libc::ENOENT | libc::ENOTDIR) => ("path is no folder of the mount".to_owned(), true),
        _ => (format!("the folder cannot be opened: {error}"), false),
    })?;
    let found = File::from(project)
        .metadata()
        .map_err(|error| (format!("the folder cannot be looked at: {error}"), false))?;
    let owner = Identity {
        uid: found.uid(),
        gid: found.gid(),
    };
    let idmap = idmap::namespace();
    if let Err(error) = &idmap {
        tracing::warn!(%error, "the owners of the machine's files are shown as they are");
    }
    let mut said = Vec::new();
    for user_namespace in [true, false] {
        for runtime in &order.runtimes {
            let ground = Ground {
                rootfs: folder.join(ROOT),
                owner,
                user_namespace,
                limits_swap: cgroup::limits_swap(),
                // To have more than oneself takes a right that not every root has.
                open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            };
            match attempt(order, folder, &ground, runtime, idmap.as_ref().ok()) {
                Ok(running) => return Ok(running),
                Err(error) => said.push(format!("{runtime}: {error}")),
            }
            remove(runtime, folder, &order.id);
        }
    }
    let text = format!("no container runtime works here: {}", said.join("; "));
    Err((text, false))
}

fn attempt(
    order: &SandboxOrder,
    folder: &Path,
    ground: &Ground,
    runtime: &str,
    idmap: Option<&OwnedFd>,
) -> Result<Running, String> {
    let failed = |error: io::Error| error.to_string();
    let bundle = folder.join(BUNDLE);
    for made in [&bundle, &ground.rootfs, &folder.join(NOTES)] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(made)
            .map_err(failed)?;
    }
    let config = bundle.join(CONFIG);
    write_private(&config, &oci_config(order, ground)).map_err(failed)?;
    let started = run(order, folder, ground, runtime, idmap);
    // Whatever came of it: nobody reads it any more.
    std::fs::remove_file(&config).map_err(failed)?;
    started
}

fn run(
    order: &SandboxOrder,
    folder: &Path,
    ground: &Ground,
    runtime: &str,
    idmap: Option<&OwnedFd>,
) -> Result<Running, String> {
    let failed = |error: io::Error| error.to_string();
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let plan = root::Plan {
        order: order.clone(),
        rootfs: ground.rootfs.clone(),
        folder: folder.to_owned(),
        idmap: idmap.and_then(|idmap| idmap.try_clone().ok()),
        owner: ground.owner,
        inside: ground.inside(),
        program: std::env::current_exe().map_err(failed)?,
    };
    let pid_file = folder.join("pid");
    let mut command = Command::new(runtime);
    command
        .arg("--root")
        .arg(folder.join(NOTES))
        .args(["run", "--detach", "--pid-file"])
        .arg(&pid_file)
        .arg("--bundle")
        .arg(folder.join(BUNDLE))
        .arg(&order.id)
        .env_clear()
        .env("PATH", weldrfs_control::PATH_VARIABLE)
        .stdin(input(order, folder).map_err(failed)?)
        .stdout(stdout_end)
        .stderr(stderr_end);
    let compose = move || {
        root::compose(&plan).map_err(|error| {
            // Its reader is the shim, which has nothing but the error's number otherwise.
            drop(writeln!(io::stderr(), "{error}"));
            io::Error::other("no root")
        })
    };
    // SAFETY: this process has one thread, so what runs after the fork may do everything.
    unsafe { command.pre_exec(compose) };
    let status = command.status();
    drop(command);
    let pid = std::fs::read_to_string(&pid_file).ok();
    let pid = pid.and_then(|text| text.trim().parse().ok());
    match (status, pid) {
        (Ok(status), Some(pid)) if status.success() => Ok(Running {
            pid,
            runtime: runtime.to_owned(),
            user_namespace: ground.user_namespace,
            stdout,
            stderr,
        }),
        (status, _) => {
            let said = say(&stderr);
            Err(match status {
                Err(error) if said.is_empty() => error.to_string(),
                Ok(status) if said.is_empty() => status.to_string(),
                _ => said,
            })
        }
    }
}

/// What comes to the command's standard input.
fn input(order: &SandboxOrder, folder: &Path) -> io::Result<Stdio> {
    let Some(text) = &order.input else {
        return Ok(Stdio::null());
    };
    let path = folder.join("input");
    let mut file = private(&path)?;
    file.write_all(text.as_bytes())?;
    let file = File::open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}

fn private(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn write_private(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value).map_err(io::Error::other)?;
    private(path)?.write_all(&text)
}

/// What is in a pipe by now.
fn say(pipe: &OwnedFd) -> String {
    let mut text = vec![0; SAYS_MAX];
    let Ok(copy) = pipe.try_clone() else {
        return String::new();
    };
    if rustix::io::ioctl_fionbio(&copy, true).is_err() {
        return String::new();
    }
    let length = File::from(copy).read(&mut text).unwrap_or(0);
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Removes a container with everything that its runtime keeps of it; one that is not there is no error.
pub(crate) fn remove(runtime: &str, folder: &Path, id: &str) {
    let notes: PathBuf = folder.join(NOTES);
    if !notes.exists() {
        return;
    }
    let child = Command::new(runtime)
        .arg("--root")
        .arg(&notes)
        .args(["delete", "--force", id])
        .env_clear()
        .env("PATH", weldrfs_control::PATH_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return };
    let deadline = Instant::now() + REMOVE_DEADLINE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            tracing::error!(runtime, id, "the runtime does not remove a container");
            drop(child.kill());
            drop(child.wait());
            return;
        }
        std::thread::sleep(POLL);
    }
}
