//! Taking back the previews that earlier sidecars started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::life::Life;
use super::request::Wanted;
use super::types::PreviewState;
use super::{PREFIX, Parts, Previews};
use crate::error::ApiError;
use crate::sandbox::FoundSandbox;

impl Previews {
    /// Takes back what earlier sidecars started.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn take_back(parts: Parts) -> Result<Self, ApiError> {
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
    pub(super) async fn found(&self) -> BTreeMap<String, FoundSandbox> {
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

    pub(super) fn keep_again(&self, wanted: Wanted, found: Option<FoundSandbox>) {
        let (shared, mut keeper, commands) = self.keeper(&wanted, |wanted| {
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
                // Before anybody is answered, who may hear that it is ready.
                keeper.takes(sandbox.clone(), note);
                keeper.listen();
                tokio::spawn(keeper.adopt(sandbox, commands));
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
}
