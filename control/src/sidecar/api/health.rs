//! `/health`, `/metrics` and `/openapi.json`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::metrics::{CONTENT_TYPE, Now};
use crate::sidecar::openapi;
use crate::sidecar::server::{App, STREAMS_MAX};
use crate::sidecar::types::{Health, HealthParts, HealthStatus, PartHealth};

/// Whether the sidecar works, part by part
///
/// Open to everybody; reasons are shown only to those who have said who they are.
#[utoipa::path(
    get, path = "/health", tag = "sidecar", operation_id = "health", security(()),
    responses(
        (status = 200, description = "It works, as far as the parts say", body = Health),
        (status = 503, description = "A part does not work at all", body = Health),
    )
)]
pub(in crate::sidecar) async fn health(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let store = match app.store.trouble().await {
        None => PartHealth::OK,
        Some(_) => PartHealth {
            status: HealthStatus::Down,
            reason: Some("control.db cannot be used; the sidecar's log says why".into()),
        },
    };
    let mut parts = HealthParts {
        mounts: app.mounts.health(),
        previews: app.previews.health(),
        workflows: app.workflows.health().await,
        store,
    };
    let all = [
        &parts.mounts,
        &parts.previews,
        &parts.workflows,
        &parts.store,
    ];
    let statuses = all.map(|part| part.status);
    let status = statuses.into_iter().max().unwrap_or(HealthStatus::Ok);
    if identity == Identity::Nobody {
        parts.mounts.reason = None;
        parts.previews.reason = None;
        parts.workflows.reason = None;
        parts.store.reason = None;
    }
    let code = match status {
        HealthStatus::Down => StatusCode::SERVICE_UNAVAILABLE,
        HealthStatus::Ok | HealthStatus::Degraded => StatusCode::OK,
    };
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        parts,
    };
    (code, Json(health)).into_response()
}

/// Figures for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "sidecar", operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 500, description = "`internal`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let now = Now {
        // `database_works` says why there are none.
        runs: app.workflows.counts().await.unwrap_or_default(),
        mounts_max: app.mounts_max,
        listeners: STREAMS_MAX.saturating_sub(app.streams.available_permits()),
        database_works: app.store.trouble().await.is_none(),
    };
    // That the database fails is a figure itself.
    let branches = app.store.branches().await.unwrap_or_default();
    let text = app
        .metrics
        .text(&app.mounts.views(), &app.previews.list(), &branches, &now)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// The description of this API. Not part of itself.
pub(in crate::sidecar) async fn openapi() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        openapi::text(),
    )
        .into_response()
}
