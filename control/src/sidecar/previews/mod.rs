//! Previews: apps that run on mounts, each in a sandbox of its own, and are reached at ports of the machine.
//!
//! One task keeps each preview ([`keeper`]) and is the only writer of its row; what it does is decided by a state machine
//! ([`life`]). A row is written before a process is started. The process outlives this one, and the next sidecar finds it by
//! its row and its folder.

mod detect;
mod follower;
mod forward;
mod keeper;
mod life;
mod log;
mod proxy;
mod request;
mod shared;
mod start;
mod take_back;
mod types;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::events::EventLog;
use super::host::Clock;
use super::mounts::Mounts;
use super::sandboxing::SandboxSettings;
use super::secret_folder::SecretFolder;
use super::store::Store;
use super::types::{HealthStatus, PartHealth};
use crate::error::ApiError;
use crate::sandbox::SandboxHost;
use follower::LogFollower;
use keeper::{Command, Keeper};
use life::Life;
use request::Wanted;
use shared::Shared;

pub(super) use detect::package_manager;
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
/// Commands that wait for a keeper.
const INBOX: usize = 16;

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

    /// The one that has the mark `by`, if it is there.
    pub(super) fn started_by(&self, by: &str) -> Option<Preview> {
        let kept: Vec<Kept> = self.all.lock().values().cloned().collect();
        kept.iter()
            .find(|kept| kept.shared.wanted().by.as_deref() == Some(by))
            .map(|kept| self.shown(kept))
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
        Ok(LogFollower::new(self.kept(id)?.shared, lines))
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
