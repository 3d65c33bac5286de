//! Reads the JSON body of a request, within bounds of size and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Most bytes of a body that are read at all, when it is too large.
const DRAIN_MAX: usize = 1024 * 1024;

/// How large a body may be and how long it may take to arrive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Most bytes.
    pub(crate) bytes: usize,
    /// Longest time until all of it is there.
    pub(crate) time: Duration,
}

/// The request's body as JSON; an empty body is an empty object.
pub(crate) async fn read_json<T: DeserializeOwned>(
    request: Request,
    limits: BodyLimits,
) -> Result<T, ApiError> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(limits.time, read_body(body, limits.bytes))
        .await
        .map_err(|_| {
            ApiError::DeadlineExceeded(format!(
                "the request's body did not arrive within {} s",
                limits.time.as_secs()
            ))
        })??;
    if body.is_empty() {
        return serde_json::from_slice(b"{}").map_err(|error| not_understood(&error));
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
    serde_json::from_slice(&body).map_err(|error| not_understood(&error))
}

fn not_understood(error: &serde_json::Error) -> ApiError {
    ApiError::InvalidRequest(format!(
        "the body of the request is not understood: {error}"
    ))
}

/// The body of a request. One that is too large is read on for a while and thrown away: closing a socket with unread
/// bytes resets it, and the client would see that instead of the answer.
async fn read_body(mut body: Body, most: usize) -> Result<Vec<u8>, ApiError> {
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
        if length <= most {
            kept.extend_from_slice(data);
        } else if length > DRAIN_MAX {
            break;
        }
    }
    if length > most {
        return Err(ApiError::TooLarge(format!(
            "a request's body may have {most} bytes"
        )));
    }
    Ok(kept)
}
