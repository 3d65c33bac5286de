//! `/exec`: one command in a sandbox, its output line by line.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;

use super::read_json;
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::exec::{ExecLine, ExecRequest};
use crate::sidecar::server::App;

/// Lines of JSON: unlike server-sent events, which browsers can only GET, they need no framing that a client of a POST
/// would have to know, and `curl | jq` reads them.
const LINES: &str = "application/x-ndjson";

/// Run a command in a sandbox on a mount
///
/// Answers once it runs, with lines of JSON: `started`, then `output` as it comes, then `exit`. `alive` is sent when there
/// is nothing else for 15 s. The command is ended when the client closes the connection, and when the sidecar ends. It
/// waits for a client that reads slowly.
#[utoipa::path(
    post, path = "/exec", tag = "exec", operation_id = "exec",
    request_body = ExecRequest,
    responses(
        (status = 200, description = "It runs; one `ExecLine` in each line", body = ExecLine, content_type = "application/x-ndjson"),
        (status = 400, description = "`invalid_request`: the message names the field and what it takes", body = ErrorBody),
        (status = 404, description = "`not_found`: no such mount", body = ErrorBody),
        (status = 409, description = "`not_mounted`; `limit_reached`: as many commands run as may", body = ErrorBody),
        (status = 422, description = "`sandbox_failed`: the message says why and what to do", body = ErrorBody),
        (status = 500, description = "`internal`", body = ErrorBody),
        (status = 504, description = "`deadline_exceeded`: the sandbox did not start in time, and is ended", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn exec(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let request: ExecRequest = read_json(request).await?;
    // In a task of its own: a client that goes away meanwhile leaves nothing half started.
    let starting = tokio::spawn(async move { app.execs.start(&request).await });
    let lines = starting.await.map_err(|error| {
        tracing::error!(%error, "starting a command broke down");
        ApiError::Internal("starting the command broke down; the sidecar's log says why".into())
    })??;
    let body = unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        // Numbers and text, which JSON can hold.
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(text)), lines))
    });
    Ok(([(header::CONTENT_TYPE, LINES)], Body::from_stream(body)).into_response())
}
