//! [`SandboxHost`] with the processes of this machine: starts shims, finds those of earlier sidecars, and removes what is
//! left of sandboxes.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use weldrfs_control::{
    ApiError, ENDED_NAME, FoundSandbox, NOTE_NAME, Note, ORDER_NAME, ProjectFolder, Sandbox,
    SandboxHost, SandboxNetwork, SandboxOrder, SandboxUse, is_sandbox_id,
};

use super::network::Inside;
use super::project::Folder;
use super::start::program;
use crate::registry::is_process;
use crate::shim;

/// Folder of all sandboxes in the run folder and in the sidecar's.
const FOLDER: &str = "sandboxes";
/// How long a shim that was just started may take until it notes that its command runs, or has ended.
const STARTING: Duration = Duration::from_secs(30);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Most bytes of a note, and of what a shim says that does not start.
const NOTE_MAX: u64 = 64 * 1024;
/// Runtimes that may have been used when nobody noted which.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// How often what is left of a sandbox is killed before it is given up.
const KILLS: usize = 50;

/// The sandboxes of this machine.
pub(crate) struct Sandboxes {
    run: PathBuf,
    kept: PathBuf,
    private: Vec<PathBuf>,
    /// Those that this process has started and not removed.
    started: Mutex<BTreeSet<String>>,
}

impl Sandboxes {
    /// Sandboxes below `run_dir`, a tmpfs; what outlives the sidecar keeps its output and its end below `folder`.
    /// `private` is hidden from all of them.
    pub(crate) fn new(run_dir: &Path, folder: &Path, private: Vec<PathBuf>) -> Self {
        Self {
            run: run_dir.join(FOLDER),
            kept: folder.join(FOLDER),
            private,
            started: Mutex::default(),
        }
    }

    /// Whether this process is about to start it: nobody else has a say in it yet.
    fn starts(&self, sandbox: &Sandbox) -> bool {
        self.started.lock().contains(&sandbox.id) && !is_noted(sandbox)
    }

    fn sandbox(&self, id: &str) -> Sandbox {
        let folder = self.run.join(id);
        let kept = self.kept.join(id);
        let kept = if kept.is_dir() { kept } else { folder.clone() };
        Sandbox {
            id: id.to_owned(),
            folder,
            kept,
        }
    }

    async fn look_at(&self, sandbox: Sandbox) -> FoundSandbox {
        let deadline = Instant::now() + STARTING;
        // It may not have got far enough to write a note.
        while !is_noted(&sandbox) && Instant::now() < deadline && is_starting(&sandbox).await {
            sleep(POLL).await;
        }
        // Read after that: who is gone by now has written what it will.
        let note: Option<Note> = read(&sandbox.kept.join(NOTE_NAME));
        let runs = note
            .as_ref()
            .is_some_and(|note| is_process(note.shim_pid, note.shim_mark));
        if let Some(ended) = read(&sandbox.kept.join(ENDED_NAME)) {
            return FoundSandbox::Ended(sandbox, note, ended);
        }
        match note {
            Some(note) if runs => FoundSandbox::Running(sandbox, note),
            note => {
                clear(&sandbox, note.as_ref()).await;
                FoundSandbox::Lost(sandbox, note)
            }
        }
    }
}

/// Whether it is written down that it runs, or that it has ended.
fn is_noted(sandbox: &Sandbox) -> bool {
    [NOTE_NAME, ENDED_NAME]
        .iter()
        .any(|name| sandbox.kept.join(name).exists())
}

#[async_trait]
impl SandboxHost for Sandboxes {
    async fn start(&self, order: SandboxOrder) -> Result<Sandbox, ApiError> {
        let id = order.id.clone();
        if !is_sandbox_id(&id) {
            return Err(ApiError::Internal("that is no name of a sandbox".into()));
        }
        let folder = self.run.join(&id);
        let kept = match order.outlives {
            true => self.kept.join(&id),
            false => folder.clone(),
        };
        let sandbox = Sandbox { id, folder, kept };
        // Before there is anything of it to be found.
        self.started.lock().insert(sandbox.id.clone());
        let starting = sandbox.clone();
        let started = tokio::task::spawn_blocking(move || start(&starting, &order)).await;
        let started = started.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = started {
            tracing::error!(%error, id = sandbox.id, "a sandbox's process cannot be started");
            self.remove(&sandbox).await;
            return Err(ApiError::Internal(
                "the process that keeps the command cannot be started; the sidecar's log says why"
                    .into(),
            ));
        }
        Ok(sandbox)
    }

    async fn found(&self) -> io::Result<Vec<FoundSandbox>> {
        let mut ids: Vec<String> = [&self.run, &self.kept]
            .into_iter()
            .flat_map(|folder| names(folder))
            .filter(|name| is_sandbox_id(name))
            .collect();
        ids.sort();
        ids.dedup();
        let mut found = Vec::new();
        for id in ids {
            let sandbox = self.sandbox(&id);
            if !self.starts(&sandbox) {
                found.push(self.look_at(sandbox).await);
            }
        }
        Ok(found)
    }

    fn usage(&self, id: &str) -> Option<SandboxUse> {
        shim::usage(&self.sandbox(id).folder)
    }

    async fn remove(&self, sandbox: &Sandbox) {
        let note = read(&sandbox.kept.join(NOTE_NAME));
        clear(sandbox, note.as_ref()).await;
        for folder in [&sandbox.folder, &sandbox.kept] {
            if let Err(error) = std::fs::remove_dir_all(folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, id = sandbox.id, "a sandbox's folder stays behind");
            }
        }
        self.started.lock().remove(&sandbox.id);
    }

    fn network(&self, note: &Note) -> io::Result<Arc<dyn SandboxNetwork>> {
        Ok(Arc::new(Inside::enter(
            &self.sandbox(&note.id).folder,
            note,
        )?))
    }

    fn project(
        &self,
        mountpoint: &Path,
        folder: &Path,
    ) -> Result<Box<dyn ProjectFolder>, ApiError> {
        Ok(Box::new(Folder::open(mountpoint, folder)?))
    }

    fn private(&self) -> Vec<PathBuf> {
        self.private.clone()
    }
}

/// Starts the shim and returns once it can be attached to.
fn start(sandbox: &Sandbox, order: &SandboxOrder) -> io::Result<()> {
    for folder in [&sandbox.folder, &sandbox.kept] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(sandbox.folder.join(ORDER_NAME))?;
    file.write_all(&serde_json::to_vec(order).map_err(io::Error::other)?)?;
    drop(file);
    let mut child = Command::new(program())
        .arg0("weldrfs")
        .arg("shim")
        .arg(&sandbox.folder)
        .arg(&sandbox.kept)
        // Keys of the sidecar's mounts are no business of what runs in sandboxes.
        .env_clear()
        .env("PATH", weldrfs_control::PATH_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        drop(stderr.take(NOTE_MAX).read_to_string(&mut said));
    }
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(said.trim().to_owned())),
    }
}

/// Whether its shim is about to start the command. Of one that has not come to its order yet the order is taken away: either
/// this process or the shim gets it, and a shim without one starts nothing.
async fn is_starting(sandbox: &Sandbox) -> bool {
    if std::fs::remove_file(sandbox.folder.join(ORDER_NAME)).is_ok() {
        return false;
    }
    sandbox.attach(0).await.is_ok() || has_shim(sandbox)
}

/// Whether there is a process that was started to keep it, as [`start`] starts them.
fn has_shim(sandbox: &Sandbox) -> bool {
    let folder = sandbox.folder.as_os_str().as_encoded_bytes();
    names(Path::new("/proc")).iter().any(|name| {
        let line = std::fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"shim") && words.next() == Some(folder)
    })
}

/// Ends by force what is left of a sandbox: its shim, its container, its processes.
async fn clear(sandbox: &Sandbox, note: Option<&Note>) {
    if let Some(note) = note
        && is_process(note.shim_pid, note.shim_mark)
        && read::<weldrfs_control::Ended>(&sandbox.kept.join(ENDED_NAME)).is_none()
    {
        kill(note.shim_pid);
    }
    for _ in 0..KILLS {
        let left = shim::processes(&sandbox.folder);
        if left.is_empty() {
            break;
        }
        left.into_iter().for_each(kill);
        sleep(POLL).await;
    }
    let runtimes: Vec<String> = match note {
        Some(note) => vec![note.runtime.clone()],
        None => RUNTIMES.map(str::to_owned).to_vec(),
    };
    let (folder, id) = (sandbox.folder.clone(), sandbox.id.clone());
    let removing = tokio::task::spawn_blocking(move || {
        for runtime in runtimes {
            shim::remove(&runtime, &folder, &id);
        }
    });
    // It has a deadline of its own, and says so in the log.
    drop(removing.await);
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that is gone already needs none.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).map_or_else(|_| Vec::new(), |found| found.collect());
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(NOTE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_dead_shim_left_is_found_as_lost_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::new(&dir.path().join("run"), &dir.path().join("s"), Vec::new());
        let lost = dir.path().join("run/sandboxes/exec-1");
        std::fs::create_dir_all(&lost).unwrap();
        std::fs::create_dir_all(dir.path().join("run/sandboxes/Not an id")).unwrap();
        let ended = dir.path().join("s/sandboxes/step-2");
        std::fs::create_dir_all(&ended).unwrap();
        std::fs::write(ended.join(ENDED_NAME), r#"{"status":3}"#).unwrap();
        let found = sandboxes.found().await.unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            matches!(&found[0], FoundSandbox::Lost(s, None) if s.id == "exec-1"),
            "{found:?}"
        );
        let FoundSandbox::Ended(step, None, how) = &found[1] else {
            panic!("{found:?}");
        };
        assert_eq!((how.status, step.kept == ended), (Some(3), true));
        for sandbox in [sandboxes.sandbox("exec-1"), step.clone()] {
            sandboxes.remove(&sandbox).await;
        }
        assert!(!lost.exists() && !ended.exists());
    }

    #[tokio::test]
    async fn an_order_that_no_shim_has_taken_is_taken_away_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::new(&dir.path().join("run"), &dir.path().join("s"), Vec::new());
        let folder = dir.path().join("run/sandboxes/preview-1");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(ORDER_NAME), "{}").unwrap();
        let found = sandboxes.found().await.unwrap();
        assert!(
            matches!(&found[..], [FoundSandbox::Lost(s, None)] if s.id == "preview-1"),
            "{found:?}"
        );
        assert!(!folder.join(ORDER_NAME).exists());
    }

    #[tokio::test]
    async fn what_this_process_is_about_to_start_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::new(&dir.path().join("run"), &dir.path().join("s"), Vec::new());
        let folder = dir.path().join("run/sandboxes/preview-3");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(ORDER_NAME), "{}").unwrap();
        sandboxes.started.lock().insert("preview-3".into());
        assert_eq!(sandboxes.found().await.unwrap(), []);
        assert!(folder.join(ORDER_NAME).exists());
        // Once it has ended it is found as any other.
        std::fs::write(folder.join(ENDED_NAME), r#"{"status":0}"#).unwrap();
        assert_eq!(sandboxes.found().await.unwrap().len(), 1);
        sandboxes.remove(&sandboxes.sandbox("preview-3")).await;
        assert!(sandboxes.started.lock().is_empty());
    }

    #[tokio::test]
    async fn a_shim_that_is_starting_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::new(&dir.path().join("run"), &dir.path().join("s"), Vec::new());
        let folder = dir.path().join("run/sandboxes/preview-2");
        std::fs::create_dir_all(&folder).unwrap();
        // It has its order, and no socket yet; what tells it is how it was started.
        let late = r#"rm "$1/order"; sleep 1; echo '{"failure":"late"}' >"$1/new"; mv "$1/new" "$1/ended.json""#;
        std::fs::write(dir.path().join("shim"), late).unwrap();
        let order = folder.join("order");
        std::fs::write(&order, "").unwrap();
        let mut shim = Command::new("sh")
            .arg("shim")
            .arg(&folder)
            .current_dir(dir.path())
            .spawn()
            .unwrap();
        for _ in 0..1000 {
            if !order.exists() {
                break;
            }
            sleep(POLL).await;
        }
        let found = sandboxes.found().await.unwrap();
        shim.wait().unwrap();
        assert!(
            matches!(&found[..], [FoundSandbox::Ended(_, None, how)] if how.failure.is_some()),
            "{found:?}"
        );
    }
}
