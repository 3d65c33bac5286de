//! What takes time, each in a task of its own that tells the supervisor how it went.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::supervisor::Message;
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::budget::Budget;
use crate::sidecar::host::{FoundMount, MountHost, MountOrder};
use crate::sidecar::public;
use crate::volume::{BudgetRequest, VolumeClient, VolumeStatus};

/// How long a mount may take to say how it is before it counts as silent.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);
/// How long a mount may take to change its budget.
const BUDGET_DEADLINE: Duration = Duration::from_secs(10);
/// How long an unmount that syncs first waits for the store.
const UNMOUNT_SYNC: Duration = Duration::from_secs(60);

/// A mount that is asked how it is.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) pid_mark: u64,
    pub(super) socket: PathBuf,
}

/// Starts work, and sends what comes of it.
#[derive(Clone)]
pub(super) struct Work {
    host: Arc<dyn MountHost>,
    results: mpsc::Sender<Message>,
}

impl Work {
    pub(super) fn new(host: Arc<dyn MountHost>, results: mpsc::Sender<Message>) -> Self {
        Self { host, results }
    }

    fn run(&self, work: impl Future<Output = Message> + Send + 'static) {
        let results = self.results.clone();
        tokio::spawn(async move {
            // Nobody listens any more when the sidecar ends; what was started goes on without it.
            drop(results.send(work.await).await);
        });
    }

    pub(super) fn mount(
        &self,
        name: String,
        order: MountOrder,
        credentials: Option<PathBuf>,
        budget: Budget,
    ) {
        let host = Arc::clone(&self.host);
        self.run(async move {
            let came = host.mount(&order, credentials.as_deref(), budget).await;
            Message::Came { name, came }
        });
    }

    pub(super) fn unmount(
        &self,
        name: String,
        path: PathBuf,
        found: Option<FoundMount>,
        sync: bool,
    ) {
        let host = Arc::clone(&self.host);
        self.run(async move {
            let left = async {
                if let Some(found) = found.as_ref().filter(|_| sync) {
                    VolumeClient::new(&found.socket)
                        .sync(Some(UNMOUNT_SYNC))
                        .await
                        .map_err(not_synced)?;
                }
                host.unmount(&path, found.as_ref()).await
            };
            let left = left.await;
            Message::Left { name, left }
        });
    }

    pub(super) fn watch(&self, name: String, found: FoundMount) {
        let host = Arc::clone(&self.host);
        self.run(async move {
            host.ended(&found).await;
            Message::Ended {
                name,
                pid_mark: found.pid_mark,
                ending: host.ending(&found),
            }
        });
    }

    pub(super) fn scan(&self) {
        let host = Arc::clone(&self.host);
        self.run(async move { Message::Scanned(host.discover().await) });
    }

    /// Asks all of `asked` at the same time.
    pub(super) fn probe(&self, asked: Vec<Asked>) {
        self.run(async move {
            let mut asking = tokio::task::JoinSet::new();
            for one in asked {
                asking.spawn(async move {
                    let status = status_of(&one.socket).await;
                    let status = status.map_err(|error| error.to_string());
                    (one, status)
                });
            }
            Message::Probed(asking.join_all().await)
        });
    }

    pub(super) fn set_budget(&self, asked: Asked, budget: Budget) {
        self.run(async move {
            let request = BudgetRequest {
                cache_bytes: Some(budget.cache_bytes),
                frame_cache_bytes: Some(budget.buffer_bytes),
            };
            let client = VolumeClient::new(&asked.socket);
            let applied = tokio::time::timeout(BUDGET_DEADLINE, client.set_budget(request))
                .await
                .unwrap_or_else(|_| {
                    Err(ApiError::DeadlineExceeded(
                        "the mount does not answer".into(),
                    ))
                })
                .map(drop);
            Message::Budgeted {
                name: asked.name,
                pid_mark: asked.pid_mark,
                budget,
                applied,
            }
        });
    }
}

/// What the volume behind `socket` says of itself.
///
/// # Errors
/// Fit for a client.
pub(super) async fn status_of(socket: &Path) -> Result<VolumeStatus, ApiError> {
    tokio::time::timeout(STATUS_DEADLINE, VolumeClient::new(socket).status())
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::DeadlineExceeded(
                "the mount does not answer; its process may be stopped or overloaded".into(),
            ))
        })
        .map_err(without_places)
}

/// The same error without the places of the machine that its message names; those are in the log.
pub(in crate::sidecar) fn without_places(error: ApiError) -> ApiError {
    match error {
        ApiError::Unreachable(cause) | ApiError::BadAnswer(cause) => {
            tracing::warn!(cause, "a volume does not answer");
            ApiError::NotMounted(
                "the mount's process does not answer, it may be starting or ending; try again"
                    .into(),
            )
        }
        ApiError::Internal(text) => ApiError::Internal(public::without_places(&text, &[])),
        other => {
            let body = other.body("");
            let message = public::without_places(&body.message, &[]);
            if message == body.message {
                return other;
            }
            tracing::warn!(cause = body.message, "a volume refuses");
            ApiError::from_body(ErrorBody { message, ..body })
        }
    }
}

fn not_synced(error: ApiError) -> ApiError {
    let error = without_places(error);
    let text = format!("it stays mounted, because not everything is in the store: {error}");
    match error {
        ApiError::DeadlineExceeded(_) => ApiError::DeadlineExceeded(text),
        ApiError::ReadOnly(_) => ApiError::ReadOnly(text),
        _ => ApiError::StoreUnavailable(text),
    }
}
