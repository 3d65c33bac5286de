//! The mounts of this machine: wanted ones are kept mounted, all are watched and share its disk and memory.

mod entry;
mod life;
mod occupants;
mod orders;
mod supervisor;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::host::{FoundMount, MountHost};
use super::public::without_places as text_without_places;
use super::types::{
    HealthStatus, LogLines, Mount, MountDetails, MountRequest, MountState, MountSyncRequest,
    MountSynced, PartHealth, UnmountRequest,
};
use crate::error::ApiError;
use crate::volume::{SyncRequest, VolumeClient, VolumeStatus};

pub(super) use entry::View;
pub(super) use occupants::{Occupants, Occupied, Vacated};
pub(super) use supervisor::Parts;
pub(super) use supervisor::no_such_mount;
use supervisor::{Message, Supervisor};
pub(super) use work::without_places;

/// Messages that wait for the supervisor; whoever sends one more waits itself.
const INBOX: usize = 256;
/// How long a list waits for a look at the machine before it shows what is known.
const REFRESH_DEADLINE: Duration = Duration::from_secs(5);
/// Longest log that is handed out, and how much when nothing is said.
pub(super) const LOG_LINES_MAX: usize = 5_000;
pub(super) const LOG_LINES: usize = 200;

/// The mounts, for those who ask; clones are the same.
#[derive(Clone)]
pub(super) struct Mounts {
    inbox: mpsc::Sender<Message>,
    views: watch::Receiver<Arc<Vec<View>>>,
    host: Arc<dyn MountHost>,
    occupants: Occupants,
}

impl Mounts {
    /// Takes up what is wanted and what runs, and goes on until `stop` says so. Mounts outlive it.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn start(
        parts: Parts,
        stop: watch::Receiver<bool>,
    ) -> Result<(Self, tokio::task::JoinHandle<()>), ApiError> {
        let (inbox, messages) = mpsc::channel(INBOX);
        let (publish, views) = watch::channel(Arc::default());
        let host = Arc::clone(&parts.host);
        let mut supervisor = Supervisor::new(parts, inbox.clone(), messages, publish);
        let occupants = supervisor.occupants();
        supervisor.restore().await?;
        let running = tokio::spawn(supervisor.run(stop));
        let mounts = Self {
            inbox,
            views,
            host,
            occupants,
        };
        Ok((mounts, running))
    }

    /// Mounts, or says that it is mounted already; returns once it answers.
    pub(super) async fn add(&self, request: MountRequest) -> Result<Mount, ApiError> {
        self.ask(|reply| Message::Add(request, reply)).await
    }

    /// Unmounts, and returns once everything is saved.
    pub(super) async fn remove(&self, request: UnmountRequest) -> Result<Mount, ApiError> {
        let UnmountRequest { name, sync } = request;
        self.ask(|reply| Message::Remove { name, sync, reply })
            .await
    }

    /// Lets `who` run in a folder of a mount (empty: all of it), which is not unmounted as long as the answer lives.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::NotMounted`], [`ApiError::InUse`] for a branch that is being removed.
    pub(super) async fn occupy(
        &self,
        name: &str,
        folder: &Path,
        who: String,
    ) -> Result<Occupied, ApiError> {
        let (name, folder) = (name.to_owned(), folder.to_owned());
        self.ask(|reply| Message::Occupy {
            name,
            folder,
            who,
            reply,
        })
        .await
    }

    /// What runs on the mounts.
    pub(super) fn occupants(&self) -> &Occupants {
        &self.occupants
    }

    /// Says when anything about the mounts may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Vec<View>>> {
        self.views.clone()
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Message,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let ending = || ApiError::ShuttingDown("the sidecar is ending; ask the next one".into());
        self.inbox
            .send(message(reply))
            .await
            .map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// The mounts by name, after a look at the machine.
    pub(super) async fn list(&self) -> Vec<Mount> {
        self.refresh().await;
        let now = Instant::now();
        self.views().iter().map(|view| timed(view, now)).collect()
    }

    /// One mount, with what its volume says.
    pub(super) async fn details(&self, name: &str) -> Result<MountDetails, ApiError> {
        self.refresh().await;
        let view = self.view(name)?;
        let (status, status_error) = match &view.found {
            None => (None, None),
            Some(found) => match work::status_of(&found.socket).await {
                Ok(status) => (Some(public_status(status, &view.mount)), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        Ok(MountDetails {
            mount: timed(&view, Instant::now()),
            status,
            status_error,
        })
    }

    /// Waits until everything acknowledged before the call can be restored from the store alone.
    pub(super) async fn sync(
        &self,
        name: &str,
        request: MountSyncRequest,
    ) -> Result<MountSynced, ApiError> {
        let deadline = SyncRequest {
            deadline_ms: request.deadline_ms,
        }
        .deadline()?;
        let found = self.running(name)?;
        let report = VolumeClient::new(&found.socket).sync(Some(deadline)).await;
        let report = report.map_err(work::without_places)?;
        Ok(MountSynced {
            name: name.to_owned(),
            in_store_lsn: report.in_store_lsn,
            waited_ms: report.waited_ms,
        })
    }

    /// The volume of a mount that runs, to be asked.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::NotMounted`].
    pub(super) fn volume(&self, name: &str) -> Result<VolumeClient, ApiError> {
        Ok(VolumeClient::new(self.running(name)?.socket))
    }

    /// The newest lines of a mount's log.
    pub(super) async fn log(&self, name: &str, lines: usize) -> Result<LogLines, ApiError> {
        let found = self.view(name)?.last.ok_or_else(|| {
            ApiError::NotMounted(format!(
                "{name} has not run since the sidecar knows it, so it has no log"
            ))
        })?;
        let log = self.host.log(&found, lines).await.map_err(|error| {
            tracing::error!(%error, mount = name, "its log cannot be read");
            ApiError::Internal("the log cannot be read; the sidecar's log says why".into())
        })?;
        Ok(LogLines {
            name: name.to_owned(),
            ..log
        })
    }

    /// How well the mounts work.
    pub(super) fn health(&self) -> PartHealth {
        if self.inbox.is_closed() {
            return PartHealth {
                status: HealthStatus::Down,
                reason: Some(
                    "mounts are not supervised any more; the sidecar's log says why".into(),
                ),
            };
        }
        let views = self.views();
        let troubles: Vec<String> = views.iter().filter_map(trouble).collect();
        match troubles.is_empty() {
            true => PartHealth::OK,
            false => PartHealth {
                status: HealthStatus::Degraded,
                reason: Some(troubles.join("; ")),
            },
        }
    }

    /// The mounts as they were last seen.
    pub(super) fn views(&self) -> Arc<Vec<View>> {
        Arc::clone(&self.views.borrow())
    }

    pub(super) async fn refresh(&self) {
        let (reply, done) = oneshot::channel();
        let look = async {
            if self.inbox.send(Message::Refresh(reply)).await.is_ok() {
                // An error is the end of the sidecar; what is known is shown.
                drop(done.await);
            }
        };
        if tokio::time::timeout(REFRESH_DEADLINE, look).await.is_err() {
            tracing::warn!("looking for mounts takes long; what is known is shown");
        }
    }

    fn view(&self, name: &str) -> Result<View, ApiError> {
        let views = self.views();
        let view = views.iter().find(|view| view.mount.name == name);
        view.cloned().ok_or_else(|| no_such_mount(name))
    }

    /// The process of a mount that runs.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::NotMounted`].
    pub(super) fn running(&self, name: &str) -> Result<FoundMount, ApiError> {
        let view = self.view(name)?;
        let state = view.mount.state;
        view.found.ok_or_else(|| does_not_run(name, state))
    }
}

fn does_not_run(name: &str, state: MountState) -> ApiError {
    ApiError::NotMounted(format!(
        "{name} does not run at the moment, it is {state}; GET /mounts/{name} says why"
    ))
}

/// The status without the places of the machine, which are nobody's business here.
fn public_status(mut status: VolumeStatus, mount: &Mount) -> VolumeStatus {
    let named = [mount.source.as_str(), mount.path.as_str()];
    status.volume.state_dir = String::new();
    if let Some(error) = &mut status.last_error {
        error.message = text_without_places(&error.message, &named);
    }
    status.read_only = status
        .read_only
        .map(|reason| text_without_places(&reason, &named));
    status
}

/// The mount, with the time until it is tried again.
fn timed(view: &View, now: Instant) -> Mount {
    let left = view.retry_at.map(|at| at.saturating_duration_since(now));
    Mount {
        retry_in_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        ..view.mount.clone()
    }
}

/// What is wrong with a mount.
fn trouble(view: &View) -> Option<String> {
    let mount = &view.mount;
    let name = &mount.name;
    match (mount.state, &view.status) {
        (MountState::Waiting, _) => Some(format!(
            "{name} is not mounted: {}",
            mount.error.as_deref().unwrap_or("no reason is known")
        )),
        (MountState::Mounted, Some(Err(error))) => Some(format!("{name}: {error}")),
        // A volume that is only read has no epoch.
        (MountState::Mounted, Some(Ok(status))) if status.epoch > 0 => status
            .read_only
            .as_ref()
            .map(|reason| format!("{name} takes no writes: {reason}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
