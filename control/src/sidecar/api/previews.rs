//! `/previews` and below.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream::unfold;
use serde::Deserialize;

use super::{query, read_json};
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::idempotency::{Answered, Asked};
use crate::sidecar::previews::{
    LOG_LINES, LOG_LINES_MAX, Preview, PreviewList, PreviewLog, PreviewRequest, PreviewStopRequest,
};
use crate::sidecar::server::App;

/// Type of a log that is followed: lines of JSON.
const LINES: &str = "application/x-ndjson";
/// How long a start may take to be answered: the look at the project, and the database.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a follower hears something; an empty line.
const ALIVE: Duration = Duration::from_secs(15);

/// Start an app on a mount
///
/// Answers at once; `GET /previews/{id}` and events say when it is ready. The same request again is the same preview.
#[utoipa::path(
    post, path = "/previews/start", tag = "previews", operation_id = "start_preview",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "1 to 255 visible characters: the same request with the same key is done once and answered the same for a day, with `idempotency-replayed: true`")),
    request_body = PreviewRequest,
    responses(
        (status = 200, description = "It starts, or is there already", body = Preview),
        (status = 400, description = "`invalid_request`: the message names the field and what it takes", body = ErrorBody),
        (status = 404, description = "`not_found`: no such mount", body = ErrorBody),
        (status = 409, description = "`conflict`: another app runs there, or the port is taken; `limit_reached`: no port is left; `not_mounted`", body = ErrorBody),
        (status = 422, description = "`key_reused`: the key came with another request before", body = ErrorBody),
        (status = 503, description = "`database_unavailable`", body = ErrorBody),
        (status = 504, description = "`deadline_exceeded`: the mount does not answer", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn start_preview(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answered<Preview>, ApiError> {
    let request: PreviewRequest = read_json(request).await?;
    let asked = Asked::of(&headers, &identity, "POST /previews/start", &request)?;
    let starting = {
        let app = app.clone();
        // In a task of its own: a client that goes away leaves nothing half started.
        async move {
            let starting = tokio::spawn(async move {
                let starting = app.previews.start(request, None);
                tokio::time::timeout(START_TIMEOUT, starting)
                    .await
                    .unwrap_or_else(|_| {
                        Err(ApiError::DeadlineExceeded(
                            "it is not started; GET /previews shows what runs".into(),
                        ))
                    })
            });
            starting.await.map_err(|error| {
                tracing::error!(%error, "starting a preview broke down");
                ApiError::Internal("starting it broke down; the sidecar's log says why".into())
            })?
        }
    };
    match asked {
        None => starting.await.map(Answered::now),
        // One that is asked for again is the same preview: a second attempt needs to know nothing of the first.
        Some(asked) => app.idempotency.run(asked, |_| starting).await,
    }
}

/// End an app
///
/// Answers at once, and the app ends behind that: it gets SIGTERM, and SIGKILL 5 s later. An event says when it has ended.
#[utoipa::path(
    post, path = "/previews/stop", tag = "previews", operation_id = "stop_preview",
    request_body = PreviewStopRequest,
    responses(
        (status = 200, description = "It is being ended, or has", body = Preview),
        (status = 404, description = "`not_found`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn stop_preview(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Preview>, ApiError> {
    let request: PreviewStopRequest = read_json(request).await?;
    app.previews.stop(&request.id).await.map(Json)
}

/// The previews of this machine
#[utoipa::path(
    get, path = "/previews", tag = "previews", operation_id = "list_previews",
    responses((status = 200, description = "By port; those that are over last, newest first", body = PreviewList))
)]
pub(in crate::sidecar) async fn list_previews(State(app): State<App>) -> Json<PreviewList> {
    Json(PreviewList {
        previews: app.previews.list(),
    })
}

/// One preview
#[utoipa::path(
    get, path = "/previews/{id}", tag = "previews", operation_id = "get_preview",
    params(("id" = String, Path, description = "What it is called", max_length = 63, pattern = "^[a-z0-9-]+$")),
    responses(
        (status = 200, description = "The preview", body = Preview),
        (status = 404, description = "`not_found`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn get_preview(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Preview>, ApiError> {
    app.previews.get(&id_of(id)?).map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// The newest lines that an app wrote
///
/// With `follow`, lines of JSON (`application/x-ndjson`), each a `PreviewLogLine`, as they come, until the app is over; an empty
/// line is sent when there is nothing else for 15 s.
#[utoipa::path(
    get, path = "/previews/{id}/logs", tag = "previews", operation_id = "get_preview_log",
    params(
        ("id" = String, Path, description = "What it is called", max_length = 63, pattern = "^[a-z0-9-]+$"),
        ("lines" = Option<usize>, Query, description = "How many, 1 to 5000; 200 when absent", minimum = 1, maximum = 5000),
        ("follow" = Option<bool>, Query, description = "Go on with what comes"),
    ),
    responses(
        (status = 200, description = "Oldest first", content(
            (PreviewLog = "application/json"),
            (String = "application/x-ndjson"),
        )),
        (status = 404, description = "`not_found`", body = ErrorBody),
        (status = 409, description = "`limit_reached`: too many follow", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn preview_logs(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let id = id_of(id)?;
    let LogQuery { lines, follow } = query(&uri)?;
    let lines = lines.unwrap_or(LOG_LINES);
    if !(1..=LOG_LINES_MAX).contains(&lines) {
        return Err(ApiError::InvalidRequest(format!(
            "lines takes 1 to {LOG_LINES_MAX}"
        )));
    }
    if !follow {
        let lines = app.previews.log(&id, lines)?;
        return Ok(Json(PreviewLog { lines }).into_response());
    }
    let follower = app.previews.follow(&id, lines)?;
    let slot = std::sync::Arc::clone(&app.streams).try_acquire_owned();
    let slot = slot.map_err(|_| {
        ApiError::LimitReached("as many clients listen as may; close one of them".into())
    })?;
    let stop = app.stop.clone();
    let body = unfold(
        (follower, stop, slot),
        |(mut follower, mut stop, slot)| async move {
            let lines = tokio::select! {
                lines = tokio::time::timeout(ALIVE, follower.next()) => lines,
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return None,
            };
            let mut text = Vec::new();
            match lines {
                Err(_) => text.push(b'\n'),
                Ok(None) => return None,
                Ok(Some(lines)) => {
                    for line in lines {
                        // Numbers and text, which JSON can hold.
                        text.extend(serde_json::to_vec(&line).unwrap_or_default());
                        text.push(b'\n');
                    }
                }
            }
            Some((
                Ok::<_, Infallible>(Bytes::from(text)),
                (follower, stop, slot),
            ))
        },
    );
    Ok(([(header::CONTENT_TYPE, LINES)], Body::from_stream(body)).into_response())
}

fn id_of(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let Path(id) = path.map_err(|_| ApiError::NotFound("that is no id of a preview".into()))?;
    Ok(id)
}
