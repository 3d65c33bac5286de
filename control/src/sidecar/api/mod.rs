//! The endpoints: from HTTP to the parts of the sidecar and back. No logic of their own.

pub(super) mod branches;
mod events;
mod exec;
mod health;
mod integrations;
mod mounts;
pub(super) mod page;
mod previews;
pub(super) mod snapshots;
mod workflows;

pub(super) use events::{__path_events, events};
pub(super) use exec::{__path_exec, exec};
pub(super) use health::{__path_health, __path_metrics, health, metrics, openapi};
pub(super) use integrations::{
    __path_install_integrations, __path_integration_schema, __path_list_integrations,
    __path_show_integration, install_integrations, integration_schema, list_integrations,
    show_integration,
};
pub(super) use mounts::{
    __path_add, __path_details, __path_list, __path_logs, __path_sync, __path_unmount, add,
    details, list, logs, sync, unmount,
};
pub(super) use previews::{
    __path_get_preview, __path_list_previews, __path_preview_logs, __path_start_preview,
    __path_stop_preview, get_preview, list_previews, preview_logs, start_preview, stop_preview,
};

pub(super) use workflows::{
    __path_cancel_run, __path_diff_run, __path_retry_run, __path_revert, __path_runs,
    __path_show_run, __path_skip_step, __path_trigger, __path_workflow_schema, cancel_run,
    diff_run, retry_run, revert, runs, show_run, skip_step, trigger, workflow_schema,
};

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request};
use axum::http::Uri;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::idempotency::{Answered, Asked, Attempt};
use super::server::App;
use crate::error::ApiError;
use crate::wire::{self, BodyLimits};

/// Most bytes of a request's body.
pub(super) const BODY_MAX: usize = 256 * 1024;
/// How long a body may take to arrive, and an answer that needs no mount.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let limits = BodyLimits {
        bytes: BODY_MAX,
        time: REQUEST_TIMEOUT,
    };
    wire::read_json(request, limits).await
}

/// What follows the question mark.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let Query(query) = Query::try_from_uri(uri).map_err(|rejection| {
        ApiError::InvalidRequest(format!(
            "the query is not understood: {}",
            rejection.body_text()
        ))
    })?;
    Ok(query)
}

fn name_of(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let Path(name) = path.map_err(|_| ApiError::NotFound("that is no name of a mount".into()))?;
    Ok(name)
}

/// Does `work`, which changes something, in a task of its own: it comes to its end, and is told of, when its client goes
/// away.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request broke down");
        Err(ApiError::Internal(
            "the request broke down; the sidecar's log says why".into(),
        ))
    })
}

/// The same for work that may be asked for with an `Idempotency-Key`: with one it is done once.
async fn once<T, W>(
    app: &App,
    asked: Option<Asked>,
    work: impl FnOnce(Option<Attempt>) -> W + Send + 'static,
) -> Result<Answered<T>, ApiError>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    W: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    match asked {
        None => apart(work(None)).await.map(Answered::now),
        Some(asked) => {
            app.idempotency
                .run(asked, |attempt| work(Some(attempt)))
                .await
        }
    }
}

/// `work`, but not for longer than `limit`.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(ApiError::DeadlineExceeded(format!(
            "it is not done after {} s and goes on; GET /mounts shows how far it is",
            limit.as_secs()
        )))
    })
}
