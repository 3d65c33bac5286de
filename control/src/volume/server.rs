//! Serves the volume API over a Unix socket: routing, limits, timeouts and the one shape of an error.
//!
//! Everything a client can make this side hold is bounded. What the volume does is behind [`VolumeApi`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;

use super::api::{BudgetRequest, DropRequest, GC_DEADLINE, GcRequest, SyncRequest, VolumeApi};
use super::branches::{VolumeBranch, VolumeBranches};
use super::snapshots::{
    CloneReport, DiffReport, RemoveReport, SNAPSHOT_DEADLINE, SnapshotInfo, SnapshotList,
    SnapshotRestoreReport,
};
use super::status::{BudgetReport, DropReport, GcReport, SyncReport, VolumeStatus};
use super::trash::{TrashEmptyReport, TrashList, TrashRestoreReport};
use crate::error::ApiError;
use crate::wire::{self, BodyLimits, ConnectionLimits, RequestNames, name_request};

/// Most bytes of a request's body.
const BODY_MAX: usize = 64 * 1024;
/// Most bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// Most header lines of a request.
const HEADERS_MAX: usize = 64;
/// How long the head of a request may take, the time between two requests of one connection included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of its answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may take, and how long the body of any request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than its deadline a sync may take to answer, so that the volume's own message wins.
const SYNC_MARGIN: Duration = Duration::from_secs(5);
/// Connections served at once; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 32;
/// How long open connections may finish their request once the server is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

const LIMITS: ConnectionLimits = ConnectionLimits {
    connections: CONNECTIONS_MAX,
    head_bytes: HEAD_MAX,
    head_lines: HEADERS_MAX,
    head_time: HEAD_TIMEOUT,
    stall_time: STALL_TIMEOUT,
    stop_grace: STOP_GRACE,
};

type Api = Arc<dyn VolumeApi>;

/// Serves `api` on `listener` until `shutdown` completes; then open connections get a moment to finish.
pub async fn serve_volume(listener: UnixListener, api: Api, shutdown: impl Future<Output = ()>) {
    wire::serve(listener, router(api), LIMITS, shutdown).await;
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sync", post(sync))
        .route("/v1/drop-caches", post(drop_caches))
        .route("/v1/gc", post(gc))
        .route("/v1/snapshots", get(snapshots).post(snapshot))
        .route("/v1/snapshots/remove", post(remove_snapshot))
        .route("/v1/snapshots/diff", post(diff))
        .route("/v1/snapshots/restore", post(restore))
        .route("/v1/clone", post(clone_tree))
        .route("/v1/branches", get(branches).post(branch))
        .route("/v1/branches/drop", post(drop_branch))
        .route("/v1/trash/ls", post(trash))
        .route("/v1/trash/restore", post(restore_trash))
        .route("/v1/trash/empty", post(empty_trash))
        .route("/v1/budget", put(budget))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(
            RequestNames::new("r-"),
            name_request,
        ))
        .with_state(api)
}

async fn status(State(api): State<Api>) -> Result<Json<VolumeStatus>, ApiError> {
    within(REQUEST_TIMEOUT, api.status()).await.map(Json)
}

async fn sync(State(api): State<Api>, request: Request) -> Result<Json<SyncReport>, ApiError> {
    let request: SyncRequest = read_json(request).await?;
    let deadline = request.deadline()?;
    within(deadline + SYNC_MARGIN, api.sync(deadline))
        .await
        .map(Json)
}

async fn drop_caches(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<DropReport>, ApiError> {
    let DropRequest {} = read_json(request).await?;
    within(REQUEST_TIMEOUT, api.drop_caches()).await.map(Json)
}

async fn gc(State(api): State<Api>, request: Request) -> Result<Json<GcReport>, ApiError> {
    let GcRequest { dry_run } = read_json(request).await?;
    within(GC_DEADLINE, api.gc(dry_run)).await.map(Json)
}

async fn budget(State(api): State<Api>, request: Request) -> Result<Json<BudgetReport>, ApiError> {
    let budget: BudgetRequest = read_json(request).await?;
    budget.check()?;
    within(REQUEST_TIMEOUT, api.set_budget(budget))
        .await
        .map(Json)
}

async fn snapshots(State(api): State<Api>) -> Result<Json<SnapshotList>, ApiError> {
    within(REQUEST_TIMEOUT, api.snapshots()).await.map(Json)
}

async fn snapshot(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<SnapshotInfo>, ApiError> {
    let request = read_json(request).await?;
    let made = ordered(api.snapshot(request));
    made.await.map(Json)
}

async fn remove_snapshot(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<RemoveReport>, ApiError> {
    let request = read_json(request).await?;
    let removed = ordered(api.remove_snapshot(request));
    removed.await.map(Json)
}

async fn diff(State(api): State<Api>, request: Request) -> Result<Json<DiffReport>, ApiError> {
    let request = read_json(request).await?;
    within(SNAPSHOT_DEADLINE, api.diff(request)).await.map(Json)
}

async fn restore(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<SnapshotRestoreReport>, ApiError> {
    let request = read_json(request).await?;
    let restored = ordered(api.restore(request));
    restored.await.map(Json)
}

async fn clone_tree(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<CloneReport>, ApiError> {
    let request = read_json(request).await?;
    let made = ordered(api.clone_tree(request));
    made.await.map(Json)
}

async fn branches(State(api): State<Api>) -> Result<Json<VolumeBranches>, ApiError> {
    within(REQUEST_TIMEOUT, api.branches()).await.map(Json)
}

async fn branch(State(api): State<Api>, request: Request) -> Result<Json<VolumeBranch>, ApiError> {
    let request = read_json(request).await?;
    let made = within(SNAPSHOT_DEADLINE, api.branch(request));
    made.await.map(Json)
}

async fn drop_branch(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<DropReport>, ApiError> {
    let request = read_json(request).await?;
    let dropped = within(SNAPSHOT_DEADLINE, api.drop_branch(request));
    dropped.await.map(Json)
}

async fn trash(State(api): State<Api>, request: Request) -> Result<Json<TrashList>, ApiError> {
    let request = read_json(request).await?;
    within(SNAPSHOT_DEADLINE, api.trash(request))
        .await
        .map(Json)
}

async fn restore_trash(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<TrashRestoreReport>, ApiError> {
    let request = read_json(request).await?;
    let restored = within(SNAPSHOT_DEADLINE, api.restore_trash(request));
    restored.await.map(Json)
}

async fn empty_trash(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<TrashEmptyReport>, ApiError> {
    let request = read_json(request).await?;
    let emptied = within(SNAPSHOT_DEADLINE, api.empty_trash(request));
    emptied.await.map(Json)
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::NotFound(format!("this volume's API has no {}", request.uri().path()))
}

async fn unknown_method(request: Request) -> ApiError {
    ApiError::MethodNotAllowed(format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    ))
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(ApiError::DeadlineExceeded(format!(
            "the volume did not answer within {} s; try again",
            limit.as_secs()
        )))
    })
}

/// The same for what changes a volume, and may have begun.
async fn ordered<T>(work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let done = tokio::time::timeout(SNAPSHOT_DEADLINE, work).await;
    done.unwrap_or_else(|_| {
        Err(ApiError::DeadlineExceeded(format!(
            "this is still under way after {} s, and is not stopped: look what has become of it before asking again",
            SNAPSHOT_DEADLINE.as_secs()
        )))
    })
}

async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let limits = BodyLimits {
        bytes: BODY_MAX,
        time: REQUEST_TIMEOUT,
    };
    wire::read_json(request, limits).await
}

#[cfg(test)]
mod tests;
