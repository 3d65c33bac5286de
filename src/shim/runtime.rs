//! The container's runtime: finds out by trying which one works here, and removes what it keeps.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit};
use weldrfs_control::{Ground, Identity, SANDBOX_OWNER, SANDBOX_ROOT, SandboxOrder, oci_config};

use super::{cgroup, feed, idmap, root};
use crate::handover;

/// Folder of the bundle in the sandbox's folder.
const BUNDLE: &str = "bundle";
/// The bundle's configuration, there only until the container runs. Variables and secrets are not in it.
const CONFIG: &str = "config.json";
/// Folder of the runtime's own notes.
const NOTES: &str = "runtime";
/// Root of the machine.
const ROOT: Identity = Identity { uid: 0, gid: 0 };
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
    /// Keeps the command's standard input open.
    pub(super) _feed: Option<OwnedFd>,
}

/// The container that is to be, as far as it is the same whichever runtime runs it.
struct Attempt<'a> {
    order: &'a SandboxOrder,
    folder: &'a Path,
    project: &'a OwnedFd,
    ground: Ground,
    /// How owners of the machine's files are shown.
    owners: Option<&'a OwnedFd>,
    /// How the project's are; as they are when absent.
    shown: Option<&'a OwnedFd>,
}

/// Starts the container with the first runtime that can.
///
/// # Errors
/// What each of them said; and whether it is the order that is at fault.
pub(super) fn start(order: &SandboxOrder, folder: &Path) -> Result<Running, (String, bool)> {
    if !rustix::process::geteuid().is_root() {
        let text = "sandboxes take what only root may do, and root does not run the sidecar";
        return Err((text.to_owned(), false));
    }
    let project = root::open_project(order).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP | libc::EXDEV) => {
            let text =
                "path leads through a symbolic link or out of the mount; give the folder itself";
            (text.to_owned(), true)
        }
        Some(libc::ENOENT | libc::ENOTDIR) => ("path is no folder of the mount".to_owned(), true),
        _ => (format!("the folder cannot be opened: {error}"), false),
    })?;
    let found = rustix::fs::fstat(&project)
        .map_err(|error| (format!("the folder cannot be looked at: {error}"), false))?;
    let owner = Identity {
        uid: found.st_uid,
        gid: found.st_gid,
    };
    let program = std::env::current_exe().unwrap_or_default();
    let rootfs = root::stage(&[folder, &program, &order.mountpoint]);
    let rootfs = rootfs.ok_or_else(|| {
        let text = "the machine has no folder to put a root together on, such as /mnt";
        (text.to_owned(), false)
    })?;
    let owners = namespace(&[(ROOT, SANDBOX_ROOT)], "the machine's files");
    let shown = namespace(
        &[(owner, SANDBOX_OWNER), (others(owner), SANDBOX_ROOT)],
        "the project's files",
    );
    let shown = shown.filter(|shown| {
        let copied = root::copy_project(&project, Some((shown.as_fd(), SANDBOX_OWNER)));
        if let Err(error) = &copied {
            tracing::warn!(%error, "the sandbox's user has the number of the project's owner");
        }
        copied.is_ok()
    });
    let mut said = Vec::new();
    // From the best that can be had to what works anywhere.
    let users = [
        shown
            .as_ref()
            .map(|shown| (SANDBOX_OWNER, true, Some(shown))),
        Some((owner, true, None)),
        Some((owner, false, None)),
    ];
    for (user, user_namespace, shown) in users.into_iter().flatten() {
        let attempt = Attempt {
            order,
            folder,
            project: &project,
            ground: Ground {
                folder: folder.to_owned(),
                rootfs: rootfs.clone(),
                owner,
                user,
                user_namespace,
                limits_swap: cgroup::limits_swap(),
                // To have more than oneself takes a right that not every root has.
                open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            },
            owners: owners.as_ref(),
            shown,
        };
        for runtime in &order.runtimes {
            match attempt.with(runtime) {
                Ok(running) => return Ok(running),
                Err(error) => said.push(format!("{runtime}: {error}")),
            }
            remove(runtime, folder, &order.id);
        }
    }
    let text = format!("no container runtime works here: {}", said.join("; "));
    Err((text, false))
}

/// Whose files in the project show as root's: root's, unless the project is. Somebody has to: a change of owner to nobody at
/// all fails in a way that programs take for damage.
fn others(owner: Identity) -> Identity {
    let other = |id, nobody| if id == 0 { nobody } else { 0 };
    Identity {
        uid: other(owner.uid, SANDBOX_ROOT.uid),
        gid: other(owner.gid, SANDBOX_ROOT.gid),
    }
}

fn namespace(pairs: &[(Identity, Identity)], what: &str) -> Option<OwnedFd> {
    let made = idmap::namespace(pairs);
    if let Err(error) = &made {
        tracing::warn!(%error, "the owners of {what} are shown as they are");
    }
    made.ok()
}

impl Attempt<'_> {
    fn with(&self, runtime: &str) -> Result<Running, String> {
        let failed = |error: io::Error| error.to_string();
        let bundle = self.folder.join(BUNDLE);
        for made in [&bundle, &self.folder.join(NOTES)] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(made)
                .map_err(failed)?;
        }
        let config = bundle.join(CONFIG);
        write_private(&config, &oci_config(self.order, &self.ground)).map_err(failed)?;
        let started = self.run(runtime);
        // Whatever came of it: nobody reads it any more.
        std::fs::remove_file(&config).map_err(failed)?;
        started
    }

    fn run(&self, runtime: &str) -> Result<Running, String> {
        let failed = |error: io::Error| error.to_string();
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let pid_file = self.folder.join("pid");
        let (stdin, feed) = match self.order.takes_input {
            true => feed::pipe(self.order, self.folder).map(|(input, kept)| (input, Some(kept))),
            false => handover::pipe(self.order).map(|input| (input, None)),
        }
        .map_err(failed)?;
        let mut command = Command::new(runtime);
        command
            .arg("--root")
            .arg(self.folder.join(NOTES))
            .args(["run", "--detach", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(self.folder.join(BUNDLE))
            .arg(&self.order.id)
            .env_clear()
            .env("PATH", weldrfs_control::PATH_VARIABLE)
            .stdin(stdin)
            .stdout(stdout_end)
            .stderr(stderr_end);
        let plan = self.plan().map_err(failed)?;
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
                user_namespace: self.ground.user_namespace,
                stdout,
                stderr,
                _feed: feed,
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

    fn plan(&self) -> io::Result<root::Plan> {
        let shown = self.shown.map(|shown| (shown.as_fd(), self.ground.user));
        Ok(root::Plan {
            order: self.order.clone(),
            rootfs: self.ground.rootfs.clone(),
            folder: self.folder.to_owned(),
            owners: self.owners.map(OwnedFd::try_clone).transpose()?,
            project: root::copy_project(self.project, shown)?,
            user: self.ground.user,
            inside: self.ground.inside(),
            program: std::env::current_exe()?,
        })
    }
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
