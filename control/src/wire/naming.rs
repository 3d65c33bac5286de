//! The outermost layer of a server: names the request, logs it, and writes the body of every error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::error::ApiError;

/// The header that names a request.
const REQUEST_ID: &str = "x-request-id";

/// Names for requests, unique as long as the prefix is.
#[derive(Debug)]
pub(crate) struct RequestNames {
    prefix: String,
    next: AtomicU64,
}

impl RequestNames {
    /// Names that begin with `prefix`.
    pub(crate) fn new(prefix: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            prefix: prefix.into(),
            next: AtomicU64::new(1),
        })
    }

    fn take(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}", self.prefix)
    }
}

/// Runs the rest with every log line marked with the request's name.
pub(crate) async fn name_request(
    State(names): State<Arc<RequestNames>>,
    request: Request,
    next: Next,
) -> Response {
    let id = names.take();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", id);
    let mut response = next.run(request).instrument(span).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if matches!(error, ApiError::RateLimited { .. }) {
            // Whoever sends too much must not fill the log as well.
            tracing::debug!(request = id, %method, path, "too many requests");
        } else {
            tracing::warn!(request = id, %method, path, code = error.code(), %error, "control request failed");
        }
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
