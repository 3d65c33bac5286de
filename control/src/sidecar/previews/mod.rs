//! Previews: apps that run on mounts, each in a sandbox of its own, and are reached at ports of the machine.
//!
//! One task keeps each preview ([`keeper`]) and is the only writer of its row; what it does is decided by a state machine
//! ([`life`]). A row is written before a process is started. The process outlives this one, and the next sidecar finds it by
//! its row and its folder.

mod detect;
mod forward;
mod keeper;
mod life;
mod log;
mod proxy;
mod request;
mod shared;
mod types;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::events::EventLog;
use super::host::Clock;
use super::mounts::Mounts;
use super::sandboxing::SandboxSettings;
use super::secret_folder::SecretFolder;
use super::store::Store;
use super::types::{HealthStatus, PartHealth};
use crate::error::ApiError;
use crate::sandbox::{FoundSandbox, Network, SandboxHost};
use forward::Forward;
use keeper::{Command, Keeper};
use life::Life;
use request::{Checked, Wanted, check};
use shared::Shared;

pub use proxy::AllowedHost;
pub use types::{
    Preview, PreviewEnd, PreviewList, PreviewLog, PreviewLogLine, PreviewRequest, PreviewState,
    PreviewStopRequest, PreviewUse, RestartPolicy,
};

/// Lines of a log when nothing is said, and at most.
pub(super) const LOG_LINES: usize = 200;
/// See [`LOG_LINES`].
pub(super) const LOG_LINES_MAX: usize = 5000;
/// Beginning of the ids of previews.
const PREFIX: &str = "preview-";
/// Previews that are over and still listed.
const OVER_MAX: usize = 100;
/// Commands that wait for a keeper.
const INBOX: usize = 16;
/// How long the look at a project's files may take.
const DETECTION: Duration = Duration::from_secs(20);

/// The ports of the machine that previews get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviewPorts {
    /// The address that they are opened on.
    pub address: IpAddr,
    /// The first port.
    pub first: u16,
    /// And the last one.
    pub last: u16,
}

/// What previews get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewSettings {
    /// Their ports.
    pub ports: PreviewPorts,
    /// The hosts that those may reach that are isolated.
    pub allowed: Vec<AllowedHost>,
}

/// What previews are started with.
pub(super) struct Parts {
    pub(super) host: Arc<dyn SandboxHost>,
    pub(super) mounts: Mounts,
    pub(super) events: EventLog,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Store,
    pub(super) settings: SandboxSettings,
    pub(super) secrets: SecretFolder,
    pub(super) ports: PreviewPorts,
    pub(super) allowed: Arc<[AllowedHost]>,
    pub(super) stop: watch::Receiver<bool>,
}

/// The previews of this machine.
pub(super) struct Previews {
    parts: Arc<Parts>,
    all: Mutex<BTreeMap<String, Kept>>,
    /// Requests to start one take turns: each looks at what the others have taken.
    starting: tokio::sync::Mutex<()>,
    /// The same in no two sidecars.
    run: u64,
    next: AtomicU64,
}

/// A preview, and who keeps it.
#[derive(Clone)]
struct Kept {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Kept {
    fn is_over(&self) -> bool {
        self.shared.view().state.is_over()
    }

    async fn tell(&self, command: Command) {
        // A keeper that has ended has nothing to end.
        drop(self.commands.send(command).await);
    }
}

impl Previews {
    /// Takes back what earlier sidecars started.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn take_back(parts: Parts) -> Result<Self, ApiError> {
        let run = parts.clock.now_ms();
        let previews = Self {
            parts: Arc::new(parts),
            all: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            run,
            next: AtomicU64::new(1),
        };
        let rows = previews.parts.store.previews().await?;
        let mut found = previews.found().await;
        for row in rows {
            let wanted: Wanted = match serde_json::from_str(&row.data) {
                Ok(wanted) => wanted,
                Err(error) => {
                    tracing::error!(%error, id = row.id, "what is kept of a preview is not understood; it is forgotten");
                    previews.parts.store.remove_preview(&row.id).await?;
                    continue;
                }
            };
            let sandbox = wanted.sandbox.as_ref().and_then(|id| found.remove(id));
            previews.keep_again(wanted, sandbox);
        }
        for (_, found) in found {
            let (FoundSandbox::Running(sandbox, _)
            | FoundSandbox::Ended(sandbox, ..)
            | FoundSandbox::Lost(sandbox, _)) = found;
            tracing::warn!(id = sandbox.id, "a sandbox of no preview is removed");
            previews.parts.host.remove(&sandbox).await;
        }
        Ok(previews)
    }

    /// The sandboxes of previews that are on this machine.
    async fn found(&self) -> BTreeMap<String, FoundSandbox> {
        let found = self.parts.host.found().await.unwrap_or_else(|error| {
            tracing::error!(%error, "previews of an earlier sidecar cannot be found");
            Vec::new()
        });
        let id = |found: &FoundSandbox| match found {
            FoundSandbox::Running(sandbox, _)
            | FoundSandbox::Ended(sandbox, ..)
            | FoundSandbox::Lost(sandbox, _) => sandbox.id.clone(),
        };
        let with_id = found.into_iter().map(|found| (id(&found), found));
        with_id.filter(|(id, _)| id.starts_with(PREFIX)).collect()
    }

    fn keep_again(&self, wanted: Wanted, found: Option<FoundSandbox>) {
        let (shared, keeper, commands) = self.keeper(&wanted, |wanted| {
            let policy = wanted.request.restart;
            let mut life = match (&found, wanted.state) {
                // It was never started, and is now.
                (None | Some(FoundSandbox::Lost(_, None)), PreviewState::Starting) => {
                    Life::new(policy, wanted.ready_timeout())
                }
                _ => Life::found(policy, wanted.ready_timeout(), wanted.state, Instant::now()),
            };
            life.restarts = wanted.restarts;
            life
        });
        match (wanted.state.is_over(), found) {
            (true, Some(FoundSandbox::Ended(sandbox, _, ended))) => {
                keeper.read_back(&sandbox, &ended, 0);
                shared.log.finish();
            }
            (true, _) => {}
            (false, Some(FoundSandbox::Running(sandbox, note))) => {
                // Before anybody is answered.
                keeper.listen();
                tokio::spawn(keeper.adopt(sandbox, note, commands));
            }
            (false, Some(FoundSandbox::Ended(sandbox, _, ended))) => {
                tokio::spawn(keeper.report(Some((sandbox, Some(ended))), commands));
            }
            (false, Some(FoundSandbox::Lost(sandbox, None)))
                if wanted.state == PreviewState::Starting =>
            {
                tokio::spawn(keeper.start_late(Some(sandbox), commands));
            }
            (false, Some(FoundSandbox::Lost(sandbox, _))) => {
                tokio::spawn(keeper.report(Some((sandbox, None)), commands));
            }
            (false, None) if wanted.state == PreviewState::Starting => {
                tokio::spawn(keeper.start_late(None, commands));
            }
            (false, None) => {
                tokio::spawn(keeper.report(None, commands));
            }
        }
    }

    fn keeper(
        &self,
        wanted: &Wanted,
        life: impl FnOnce(&Wanted) -> Life,
    ) -> (Arc<Shared>, Keeper, mpsc::Receiver<Command>) {
        let shared = Arc::new(Shared::new(wanted.clone()));
        let (commands, inbox) = mpsc::channel(INBOX);
        let kept = Kept {
            shared: Arc::clone(&shared),
            commands,
        };
        self.all.lock().insert(wanted.id.clone(), kept);
        let keeper = Keeper::new(
            Arc::clone(&self.parts),
            Arc::clone(&shared),
            wanted.clone(),
            life(wanted),
        );
        (shared, keeper, inbox)
    }

    /// Starts an app, or says that it is there already; answers before it is ready.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`], [`ApiError::NotFound`], [`ApiError::NotMounted`], [`ApiError::Conflict`],
    /// [`ApiError::LimitReached`].
    pub(super) async fn start(&self, request: PreviewRequest) -> Result<Preview, ApiError> {
        let parts = &self.parts;
        let checked = check(request, &parts.settings, &parts.secrets)?;
        let _turn = self.starting.lock().await;
        let there = self.at(&checked);
        if let Some(there) = there.as_ref().filter(|there| !there.is_over()) {
            let wanted = there.shared.wanted();
            if !checked.request.replace {
                return match checked.is(&wanted) {
                    true => Ok(self.shown(there)),
                    false => Err(ApiError::Conflict(format!(
                        "{} runs on this folder with other settings; stop it, or send \"replace\": true to restart it with \
                         these",
                        wanted.id
                    ))),
                };
            }
            if checked
                .host_port()
                .is_some_and(|port| port != wanted.host_port)
            {
                return Err(ApiError::Conflict(format!(
                    "{} has port {} and keeps it while it is replaced; stop it to give it another one",
                    wanted.id, wanted.host_port
                )));
            }
        }
        let mount = checked.request.mount.clone();
        // Held until the app's own: the mount does not go in between.
        let who = "a preview that starts".to_owned();
        let occupied = parts.mounts.occupy(&mount, &checked.folder, who).await?;
        let live = there.filter(|there| !there.is_over());
        let host_port = match &live {
            Some(there) => there.shared.wanted().host_port,
            None => self.port(&checked)?,
        };
        let port = checked.port(host_port);
        let (command, because) = self.command(&checked, occupied.path.clone(), port).await?;
        let id = match &live {
            Some(there) => there.shared.wanted().id,
            None => self.id(),
        };
        let wanted = Wanted {
            id,
            folder: checked.folder,
            request: PreviewRequest {
                replace: false,
                ..checked.request
            },
            command,
            because,
            port,
            host_port,
            state: PreviewState::Starting,
            created_ms: parts.clock.now_ms(),
            sandbox: None,
            starts: 0,
            restarts: 0,
            mount_pid: None,
            ready_after_ms: None,
            ended: None,
        };
        if let Some(there) = live {
            there.tell(Command::Replace(Box::new(wanted))).await;
            return Ok(self.shown(&there));
        }
        // Before anything is started; what it replaces goes with its log.
        let old = self.take_over(&wanted);
        parts.store.put_preview(wanted.kept()).await?;
        for old in old {
            self.remove_sandbox_of(&old).await;
        }
        let is_host = wanted.request.network == Network::Host;
        let (shared, keeper, commands) = self.keeper(&wanted, |wanted| {
            Life::new(wanted.request.restart, wanted.ready_timeout())
        });
        if !is_host {
            let address = SocketAddr::new(parts.ports.address, host_port);
            match Forward::listen(address) {
                Ok(forward) => shared.open_port(forward),
                // It was free a moment ago.
                Err(_) => shared.port_is_taken(),
            }
        }
        tokio::spawn(async move {
            keeper.begin(commands).await;
        });
        drop(occupied);
        self.forget_oldest().await;
        Ok(shared.view())
    }

    /// What runs or ran on the folder.
    fn at(&self, checked: &Checked) -> Option<Kept> {
        let all = self.all.lock();
        let found = all.values().find(|kept| {
            let wanted = kept.shared.wanted();
            wanted.request.mount == checked.request.mount && wanted.folder == checked.folder
        });
        found.cloned()
    }

    /// Forgets what was on the folder before; its ids.
    fn take_over(&self, wanted: &Wanted) -> Vec<Wanted> {
        let mut old = Vec::new();
        self.all.lock().retain(|_, kept| {
            let there = kept.shared.wanted();
            let is_same =
                there.request.mount == wanted.request.mount && there.folder == wanted.folder;
            if is_same {
                old.push(there);
            }
            !is_same
        });
        old
    }

    /// Removes the folder of a preview that is over.
    async fn remove_sandbox_of(&self, old: &Wanted) {
        let mut found = self.found().await;
        if let Some(
            FoundSandbox::Running(sandbox, _)
            | FoundSandbox::Ended(sandbox, ..)
            | FoundSandbox::Lost(sandbox, _),
        ) = old.sandbox.as_ref().and_then(|id| found.remove(id))
        {
            self.parts.host.remove(&sandbox).await;
        }
    }

    /// Keeps the list of what is over short.
    async fn forget_oldest(&self) {
        let mut over: Vec<Wanted> = {
            let all = self.all.lock();
            let over = all.values().filter(|kept| kept.is_over());
            over.map(|kept| kept.shared.wanted()).collect()
        };
        over.sort_by_key(|wanted| std::cmp::Reverse(wanted.created_ms));
        for old in over.into_iter().skip(OVER_MAX) {
            self.all.lock().remove(&old.id);
            // What is left of it is listed again by the next sidecar.
            drop(self.parts.store.remove_preview(&old.id).await);
            self.remove_sandbox_of(&old).await;
        }
    }

    fn id(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{PREFIX}{:x}-{number}", self.run)
    }

    /// A port of the machine that nobody has.
    fn port(&self, checked: &Checked) -> Result<u16, ApiError> {
        let PreviewPorts {
            address,
            first,
            last,
        } = self.parts.ports;
        let taken: BTreeMap<u16, String> = {
            let all = self.all.lock();
            let live = all.values().filter(|kept| !kept.is_over());
            live.map(|kept| kept.shared.wanted())
                .map(|wanted| (wanted.host_port, wanted.id))
                .collect()
        };
        let is_free =
            |port: u16| std::net::TcpListener::bind(SocketAddr::new(address, port)).is_ok();
        if let Some(port) = checked.host_port() {
            if !(first..=last).contains(&port) {
                return Err(ApiError::InvalidRequest(format!(
                    "previews have the ports {first} to {last} of this machine, not {port}"
                )));
            }
            if let Some(id) = taken.get(&port) {
                return Err(ApiError::Conflict(format!(
                    "port {port} is taken by {id}; stop that, or leave the port to be chosen"
                )));
            }
            if !is_free(port) {
                return Err(ApiError::Conflict(format!(
                    "port {port} of this machine is taken by another program; end that, or leave the port to be chosen"
                )));
            }
            return Ok(port);
        }
        let mut ports = (first..=last).filter(|port| !taken.contains_key(port));
        if let Some(port) = ports.find(|port| is_free(*port)) {
            return Ok(port);
        }
        let count = usize::from(last - first) + 1;
        let others = count.saturating_sub(taken.len());
        Err(ApiError::LimitReached(match others {
            0 => format!(
                "{count} previews run, as many as there are ports ({first} to {last}); stop one"
            ),
            others => format!(
                "no port from {first} to {last} is free: {} previews run, and other programs have {others}; stop one of either",
                taken.len()
            ),
        }))
    }

    /// What to run, and how it was found.
    async fn command(
        &self,
        checked: &Checked,
        mountpoint: std::path::PathBuf,
        port: u16,
    ) -> Result<(Vec<String>, Option<String>), ApiError> {
        let host = Arc::clone(&self.parts.host);
        let folder = checked.folder.clone();
        let given = checked.command.clone();
        let looking = tokio::task::spawn_blocking(move || {
            // Also where nothing has to be found: a folder that is not there is refused at once.
            let project = host.project(&mountpoint, &folder)?;
            if let Some(command) = given {
                return Ok((command, None));
            }
            detect::detect(project.as_ref(), port)
                .map(|found| (found.command, Some(found.because)))
                .ok_or_else(|| {
                    ApiError::InvalidRequest(
                        "it does not show how the app is started: give command, or add a package.json with a script called \
                         dev or start, or an executable run.sh"
                            .into(),
                    )
                })
        });
        match timeout(DETECTION, looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "the look at a project broke down");
                Err(ApiError::Internal(
                    "the look at the project broke down; the sidecar's log says why".into(),
                ))
            }
            Err(_) => Err(ApiError::DeadlineExceeded(
                "the mount did not answer in time".into(),
            )),
        }
    }

    /// Ends an app. Answers at once; it ends behind that.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) async fn stop(&self, id: &str) -> Result<Preview, ApiError> {
        let kept = self.kept(id)?;
        let mut watch = kept.shared.watch();
        if kept.is_over() {
            return Ok(self.shown(&kept));
        }
        kept.tell(Command::Stop).await;
        // The keeper answers as soon as it has heard of it.
        let heard =
            watch.wait_for(|view| view.state == PreviewState::Stopping || view.state.is_over());
        drop(timeout(Duration::from_secs(5), heard).await);
        Ok(self.shown(&kept))
    }

    /// All of them: those that live by port, then those that are over, newest first.
    pub(super) fn list(&self) -> Vec<Preview> {
        let kept: Vec<Kept> = self.all.lock().values().cloned().collect();
        let mut all: Vec<Preview> = kept.iter().map(|kept| self.shown(kept)).collect();
        all.sort_by_key(|preview| match preview.state.is_over() {
            false => (false, u64::from(preview.host_port)),
            true => (true, u64::MAX - preview.created_ms),
        });
        all
    }

    /// How well they work: an app that fails is its own affair, a port that cannot be had is not.
    pub(super) fn health(&self) -> PartHealth {
        let all = self.all.lock();
        let troubled: Vec<String> = all
            .values()
            .map(|kept| kept.shared.view())
            .filter(|view| view.trouble.is_some())
            .map(|view| view.id)
            .collect();
        match troubled.is_empty() {
            true => PartHealth::OK,
            false => PartHealth {
                status: HealthStatus::Degraded,
                reason: Some(format!(
                    "{} cannot be reached; GET /previews says why",
                    troubled.join(", ")
                )),
            },
        }
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) fn get(&self, id: &str) -> Result<Preview, ApiError> {
        Ok(self.shown(&self.kept(id)?))
    }

    /// Tells whenever one of them changes; ends when it is forgotten.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) fn watch(&self, id: &str) -> Result<watch::Receiver<Preview>, ApiError> {
        Ok(self.kept(id)?.shared.watch())
    }

    /// The newest lines of an app's log.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) fn log(&self, id: &str, lines: usize) -> Result<Vec<PreviewLogLine>, ApiError> {
        Ok(self.kept(id)?.shared.log.last(lines))
    }

    /// Follows an app's log, from its newest `lines` lines on, until the app is over.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) fn follow(&self, id: &str, lines: usize) -> Result<LogFollower, ApiError> {
        let shared = self.kept(id)?.shared;
        let next = shared.log.last(lines).first().map_or(0, |line| line.number);
        Ok(LogFollower {
            grows: shared.log.watch(),
            state: shared.watch(),
            next,
            shared,
        })
    }

    fn kept(&self, id: &str) -> Result<Kept, ApiError> {
        let found = self.all.lock().get(id).cloned();
        found.ok_or_else(|| {
            ApiError::NotFound("there is no such preview; GET /previews lists them".into())
        })
    }

    /// As it is now, with what it uses.
    fn shown(&self, kept: &Kept) -> Preview {
        let mut view = kept.shared.view();
        let sandbox = kept.shared.wanted().sandbox;
        if !view.state.is_over()
            && let Some(used) = sandbox.and_then(|id| self.parts.host.usage(&id))
        {
            view.usage = Some(PreviewUse {
                memory_bytes: used.memory_bytes,
                cpu_ms: used.cpu_ms,
                processes: used.processes,
                connections: kept.shared.connections(),
            });
        }
        view
    }
}

/// One who follows a log.
pub(super) struct LogFollower {
    shared: Arc<Shared>,
    grows: watch::Receiver<u64>,
    state: watch::Receiver<Preview>,
    next: u64,
}

impl LogFollower {
    /// Lines handed out at once.
    const BATCH: usize = 64;

    /// The next lines, waiting for them; `None` when the app is over and all was read.
    pub(super) async fn next(&mut self) -> Option<Vec<PreviewLogLine>> {
        loop {
            // Looked at first: what is written before the end is read after it.
            let is_over = self.state.borrow_and_update().state.is_over();
            self.grows.borrow_and_update();
            let lines = self.shared.log.from(self.next, Self::BATCH);
            if let Some(last) = lines.last() {
                self.next = last.number + 1;
                return Some(lines);
            }
            if is_over {
                return None;
            }
            tokio::select! {
                grown = self.grows.changed() => grown.ok()?,
                changed = self.state.changed() => changed.ok()?,
            }
        }
    }
}
