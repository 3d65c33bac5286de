//! A machine for tests: mounts that are only sockets, which come, fail and die as the test says.

mod volume;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::budget::{Budget, Fixed, Machine};
use super::host::{CheckedOrder, Ending, FoundMount, MountHost, MountOrder};
use super::types::LogLines;
use crate::error::ApiError;
use crate::sandbox::{
    FoundSandbox, Note, ProjectFolder, Sandbox, SandboxHost, SandboxNetwork, SandboxOrder,
    SandboxUse,
};
use crate::socket::bind_volume_socket;
use crate::volume::{BudgetRequest, serve_volume};

pub(super) use volume::FakeTree;
use volume::FakeVolume;

/// How long anything may take before it counts as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What was started.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) order: MountOrder,
    /// What the file with the keys held.
    pub(super) keys: Option<String>,
    pub(super) budget: Budget,
}

struct Running {
    found: FoundMount,
    volume: Arc<FakeVolume>,
    _stop: oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    ended_in_order: BTreeSet<u64>,
    next_pid: u32,
    started: Vec<Started>,
    failures: VecDeque<ApiError>,
    in_use: bool,
    is_old: bool,
    log_is_broken: bool,
    sync_failure: Arc<Mutex<Option<ApiError>>>,
    /// What volumes hold, by their sources: it outlives their mounts.
    trees: BTreeMap<String, Arc<Mutex<FakeTree>>>,
    users: Vec<String>,
    disk_free_bytes: u64,
}

/// The machine.
pub(super) struct FakeHost {
    dir: tempfile::TempDir,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    pub(super) boot: Mutex<String>,
    /// While it is taken, mounts do not come.
    pub(super) gate: tokio::sync::Mutex<()>,
    /// While it is taken, nothing is removed.
    pub(super) removing: tokio::sync::Mutex<()>,
    /// The next removal fails.
    pub(super) fail_removal: Mutex<bool>,
}

impl FakeHost {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            dir: tempfile::tempdir().unwrap(),
            state: Mutex::new(State {
                disk_free_bytes: 4 << 30,
                ..State::default()
            }),
            changed: watch::Sender::new(0),
            boot: Mutex::new("boot-1".into()),
            gate: tokio::sync::Mutex::new(()),
            removing: tokio::sync::Mutex::new(()),
            fail_removal: Mutex::new(false),
        })
    }

    /// A folder that lasts as long as the machine.
    pub(super) fn folder(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub(super) fn started(&self) -> Vec<Started> {
        self.state.lock().started.clone()
    }

    /// The next attempt to mount fails so.
    pub(super) fn fail_next(&self, error: ApiError) {
        self.state.lock().failures.push_back(error);
    }

    /// Whether a program uses all of the mounts.
    pub(super) fn set_in_use(&self, in_use: bool) {
        self.state.lock().in_use = in_use;
    }

    /// What the volume at `source` holds.
    pub(super) fn tree(&self, source: &str) -> Arc<Mutex<FakeTree>> {
        let mut state = self.state.lock();
        Arc::clone(state.trees.entry(source.to_owned()).or_default())
    }

    /// Programs that use everything, as far as the machine can see.
    pub(super) fn set_users(&self, users: &[&str]) {
        self.state.lock().users = users.iter().map(|&user| user.to_owned()).collect();
    }

    /// How much of the disk is free, but for what volumes give back.
    pub(super) fn set_disk_free(&self, bytes: u64) {
        self.state.lock().disk_free_bytes = bytes;
    }

    /// The next request to sync any mount fails so.
    pub(super) fn fail_sync(&self, error: ApiError) {
        *self.state.lock().sync_failure.lock() = Some(error);
    }

    /// From now on no log can be read.
    pub(super) fn break_logs(&self) {
        self.state.lock().log_is_broken = true;
    }

    /// Mounts that are started from now on do not know budgets.
    pub(super) fn start_old_ones(&self) {
        self.state.lock().is_old = true;
    }

    /// The budget that the mount on `path` was told last.
    pub(super) fn told(&self, path: &str) -> Option<BudgetRequest> {
        let state = self.state.lock();
        let running = state
            .running
            .iter()
            .find(|r| r.found.path == Path::new(path))?;
        *running.volume.budget.lock()
    }

    /// Mounts beside the sidecar.
    pub(super) fn mount_by_hand(&self, source: &str, path: &str) -> FoundMount {
        let mut state = self.state.lock();
        state.next_pid += 1;
        let pid = state.next_pid;
        let state_dir = self.dir.path().join(format!("volume-{pid}"));
        std::fs::create_dir(&state_dir).unwrap();
        let found = FoundMount {
            source: source.into(),
            place: source.into(),
            is_view: false,
            path: path.into(),
            socket: state_dir.join("volume.sock"),
            state_dir,
            pid,
            pid_mark: u64::from(pid) * 100,
            started_ms: 1,
        };
        let volume = Arc::new(FakeVolume {
            budget: Mutex::new(None),
            is_old: state.is_old,
            sync_failure: Arc::clone(&state.sync_failure),
            tree: Arc::clone(state.trees.entry(source.to_owned()).or_default()),
        });
        let listener = bind_volume_socket(&found.socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve_volume(listener, Arc::clone(&volume) as _, async {
            drop(stopped.await)
        }));
        state.running.push(Running {
            found: found.clone(),
            volume,
            _stop: stop,
        });
        found
    }

    /// Ends the mount on `path`.
    pub(super) fn end(&self, path: &str, ending: Ending) {
        let mut state = self.state.lock();
        let at = state
            .running
            .iter()
            .position(|r| r.found.path == Path::new(path));
        let ended = state.running.remove(at.expect("it runs"));
        if ending == Ending::Orderly {
            state.ended_in_order.insert(ended.found.pid_mark);
        }
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }
}

#[async_trait]
impl MountHost for FakeHost {
    fn check(&self, order: &MountOrder, _: bool) -> Result<CheckedOrder, ApiError> {
        if !order.source.contains("://") {
            return Err(ApiError::InvalidRequest("SOURCE has no scheme".into()));
        }
        let fixed = order
            .options
            .iter()
            .find_map(|o| o.strip_prefix("cache_size="));
        Ok(CheckedOrder {
            path: order.path.clone(),
            place: order.source.clone(),
            is_view: order.options.iter().any(|option| option.starts_with("at=")),
            fixed: Fixed {
                cache_bytes: fixed.and_then(|text| text.parse().ok()),
                buffer_bytes: None,
            },
        })
    }

    async fn discover(&self) -> io::Result<Vec<FoundMount>> {
        Ok(self
            .state
            .lock()
            .running
            .iter()
            .map(|r| r.found.clone())
            .collect())
    }

    fn is_running(&self, found: &FoundMount) -> bool {
        self.state.lock().running.iter().any(|r| r.found == *found)
    }

    async fn ended(&self, found: &FoundMount) {
        let mut changed = self.changed.subscribe();
        while self.is_running(found) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn ending(&self, found: &FoundMount) -> Ending {
        match self.state.lock().ended_in_order.contains(&found.pid_mark) {
            true => Ending::Orderly,
            false => Ending::Died,
        }
    }

    async fn mount(
        &self,
        order: &MountOrder,
        credentials: Option<&Path>,
        budget: Budget,
    ) -> Result<FoundMount, ApiError> {
        drop(self.gate.lock().await);
        let keys = credentials.map(|path| std::fs::read_to_string(path).unwrap());
        let started = Started {
            order: order.clone(),
            keys,
            budget,
        };
        let failure = {
            let mut state = self.state.lock();
            state.started.push(started);
            state.failures.pop_front()
        };
        match failure {
            Some(error) => Err(error),
            None => Ok(self.mount_by_hand(&order.source, order.path.to_str().unwrap())),
        }
    }

    async fn unmount(&self, path: &Path, found: Option<&FoundMount>) -> Result<(), ApiError> {
        if self.state.lock().in_use {
            return Err(ApiError::InUse("it is used by vim (process 7)".into()));
        }
        if found.is_some() {
            self.end(path.to_str().unwrap(), Ending::Orderly);
        }
        Ok(())
    }

    async fn users(&self, _: &Path) -> Vec<String> {
        self.state.lock().users.clone()
    }

    async fn remove_folder(&self, mountpoint: &Path, folder: &Path) -> io::Result<()> {
        drop(self.removing.lock().await);
        if std::mem::take(&mut *self.fail_removal.lock()) {
            return Err(io::Error::other("cannot remove /secret/place"));
        }
        let state = self.state.lock();
        let mut running = state.running.iter();
        let on = running.find(|r| r.found.path == mountpoint);
        let name = folder.file_name().and_then(|name| name.to_str());
        let tree = &on.expect("it runs").volume.tree;
        tree.lock().branches.remove(name.expect("a name"));
        Ok(())
    }

    fn machine(&self) -> Machine {
        let state = self.state.lock();
        let given_back: u64 = state.trees.values().map(|tree| tree.lock().freed()).sum();
        Machine {
            disk_bytes: 4 << 30,
            disk_free_bytes: state.disk_free_bytes + given_back,
            memory_bytes: 1 << 30,
        }
    }

    fn boot_id(&self) -> String {
        self.boot.lock().clone()
    }

    async fn log(&self, found: &FoundMount, most: usize) -> io::Result<LogLines> {
        if self.state.lock().log_is_broken {
            return Err(io::Error::other("cannot read /secret/place/log"));
        }
        Ok(LogLines {
            name: String::new(),
            lines: vec![format!("line of {}", found.pid); most.min(3)],
            truncated: most < 3,
        })
    }
}

/// A machine without a container runtime.
pub(super) struct NoSandboxes;

#[async_trait]
impl SandboxHost for NoSandboxes {
    async fn start(&self, _: SandboxOrder) -> Result<Sandbox, ApiError> {
        Err(ApiError::SandboxFailed("there is no runtime".into()))
    }

    async fn found(&self) -> io::Result<Vec<FoundSandbox>> {
        Ok(Vec::new())
    }

    fn usage(&self, _: &str) -> Option<SandboxUse> {
        None
    }

    async fn remove(&self, _: &Sandbox) {}

    fn network(&self, _: &Note) -> io::Result<Arc<dyn SandboxNetwork>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn project(&self, _: &Path, _: &Path) -> Result<Box<dyn ProjectFolder>, ApiError> {
        Err(ApiError::InvalidRequest(
            "path is no folder of the mount".into(),
        ))
    }

    fn private(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Waits for `condition`; fails when it does not come.
#[track_caller]
pub(super) fn until(
    what: &'static str,
    mut condition: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: waited {PATIENCE:?} at {caller}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
