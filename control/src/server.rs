//! Serves the volume API over a Unix socket: routing, limits, timeouts and the one shape of an error.
//!
//! Everything a client can make this side hold is bounded here. What the volume does is behind [`VolumeApi`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::{DropRequest, GC_DEADLINE, GcRequest, SyncRequest, VolumeApi};
use crate::error::ApiError;
use crate::snapshots::{
    CloneReport, DiffReport, RemoveReport, SNAPSHOT_DEADLINE, SnapshotInfo, SnapshotList,
    SnapshotRestoreReport,
};
use crate::status::{DropReport, GcReport, SyncReport, VolumeStatus};

/// Most bytes of a request's body.
const BODY_MAX: usize = 64 * 1024;
/// Most bytes of a body that are read at all, when it is too large.
const DRAIN_MAX: usize = 1024 * 1024;
/// Most bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// Most header lines of a request.
const HEADERS_MAX: usize = 64;
/// How long the head of a request may take, the time between two requests of one connection included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may take, and how long the body of any request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than its deadline a sync may take to answer, so that the volume's own message wins.
const SYNC_MARGIN: Duration = Duration::from_secs(5);
/// Connections served at once; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 32;
/// How long open connections may finish their request once the server is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long to wait after a failed accept (out of descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The header that names a request.
const REQUEST_ID: &str = "x-request-id";

type Api = Arc<dyn VolumeApi>;

/// Serves `api` on `listener` until `shutdown` completes; then open connections get a moment to finish.
pub async fn serve_volume(listener: UnixListener, api: Api, shutdown: impl Future<Output = ()>) {
    let router = router(api);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => {
                let (stream, slot) = accepted;
                connections.spawn(serve_connection(stream, slot, router.clone(), stopping.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stop.send_replace(true);
    let finished = tokio::time::timeout(STOP_GRACE, async {
        while connections.join_next().await.is_some() {}
    });
    if finished.await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "control connections were cut off at shutdown"
        );
        connections.shutdown().await;
    }
}

/// The next connection, once there is room for it. Failures are logged and survived: the socket outlives them.
async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> (UnixStream, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: UnixStream,
    _slot: OwnedSemaphorePermit,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
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
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(
            Arc::new(AtomicU64::new(1)),
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

async fn snapshots(State(api): State<Api>) -> Result<Json<SnapshotList>, ApiError> {
    within(REQUEST_TIMEOUT, api.snapshots()).await.map(Json)
}

async fn snapshot(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<SnapshotInfo>, ApiError> {
    let request = read_json(request).await?;
    let made = within(SNAPSHOT_DEADLINE, api.snapshot(request));
    made.await.map(Json)
}

async fn remove_snapshot(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<RemoveReport>, ApiError> {
    let request = read_json(request).await?;
    let removed = within(SNAPSHOT_DEADLINE, api.remove_snapshot(request));
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
    let restored = within(SNAPSHOT_DEADLINE, api.restore(request));
    restored.await.map(Json)
}

async fn clone_tree(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<CloneReport>, ApiError> {
    let request = read_json(request).await?;
    let made = within(SNAPSHOT_DEADLINE, api.clone_tree(request));
    made.await.map(Json)
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

/// The request's body as JSON; an empty body is an empty object.
async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(REQUEST_TIMEOUT, read_body(body))
        .await
        .map_err(|_| {
            ApiError::DeadlineExceeded(format!(
                "the request's body did not arrive within {} s",
                REQUEST_TIMEOUT.as_secs()
            ))
        })??;
    if body.is_empty() {
        return serde_json::from_slice(b"{}")
            .map_err(|error| ApiError::InvalidRequest(error.to_string()));
    }
    let is_json = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        });
    if !is_json {
        return Err(ApiError::UnsupportedMediaType(
            "send the body as application/json".into(),
        ));
    }
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::InvalidRequest(format!(
            "the body of the request is not understood: {error}"
        ))
    })
}

/// The body of a request. One that is too large is read on for a while and thrown away: closing a socket with unread
/// bytes resets it, and the client would see that instead of the answer.
async fn read_body(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let mut kept = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::InvalidRequest(format!("the request's body broke off: {error}"))
        })?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        length += data.len();
        if length <= BODY_MAX {
            kept.extend_from_slice(data);
        } else if length > DRAIN_MAX {
            break;
        }
    }
    if length > BODY_MAX {
        return Err(ApiError::TooLarge(format!(
            "a request's body may have {BODY_MAX} bytes"
        )));
    }
    Ok(kept)
}

/// Outermost layer: names the request, logs it, and writes the body of every error.
async fn name_request(
    State(next_id): State<Arc<AtomicU64>>,
    request: Request,
    next: Next,
) -> Response {
    let id = format!("r-{}", next_id.fetch_add(1, Ordering::Relaxed));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        tracing::warn!(request = id, %method, path, code = error.code(), %error, "control request failed");
        let mut headers = std::mem::take(response.headers_mut());
        headers.remove(header::CONTENT_LENGTH);
        let status = response.status();
        response = (status, Json(error.body(&id))).into_response();
        headers.extend(std::mem::take(response.headers_mut()));
        *response.headers_mut() = headers;
    } else {
        tracing::debug!(request = id, %method, path, status = response.status().as_u16(), "control request");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.map(Body::new)
}

#[cfg(test)]
mod tests;
