//! `/integrations` and `/install-integrations`.

use std::path::PathBuf;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;

use super::{once, query, read_json};
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::idempotency::{Answered, Asked};
use crate::sidecar::integrations::{self, InstallRequest, IntegrationDetails, IntegrationList};
use crate::sidecar::names;
use crate::sidecar::server::App;
use crate::sidecar::workflows::{RunSummary, integration_schema_text};

/// Put integrations into a project: all of them, or nothing
///
/// Answers once the run is written down, as `/trigger` does; `GET /workflows/{run}` says how it goes. When it fails or is
/// cancelled, the project is made what it was. `Idempotency-Key` is taken.
#[utoipa::path(
    post, path = "/install-integrations", tag = "integrations", operation_id = "install_integrations",
    request_body = InstallRequest,
    responses(
        (status = 200, description = "It is queued, or was by the first request with this key", body = RunSummary),
        (status = 400, description = "`invalid_request`: for a manifest with line, column and what was expected; nothing has started", body = ErrorBody),
        (status = 404, description = "`not_found`: no such mount or integration", body = ErrorBody),
        (status = 409, description = "`files_changed`: files that somebody changed would be overwritten, and the message lists them; `not_mounted`; `limit_reached`; `conflict`", body = ErrorBody),
        (status = 422, description = "`key_reused`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn install_integrations(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answered<RunSummary>, ApiError> {
    let body: InstallRequest = read_json(request).await?;
    let asked = Asked::of(&headers, &identity, "POST /install-integrations", &body)?;
    let workflows = app.workflows.clone();
    once(&app, asked, move |attempt| async move {
        integrations::install(&workflows, body, attempt).await
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectQuery {
    mount: Option<String>,
    path: Option<String>,
}

impl ProjectQuery {
    fn project(self) -> Result<Option<(String, PathBuf)>, ApiError> {
        let below = names::below_mount(self.path.as_deref().unwrap_or_default())?;
        match (self.mount, self.path) {
            (Some(mount), _) => Ok(Some((mount, below))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(ApiError::InvalidRequest(
                "path is below a mount; name that, too".into(),
            )),
        }
    }
}

/// The integrations that there are
///
/// Those that come with the sidecar, and, of a project that is named, its own and what is installed in it.
#[utoipa::path(
    get, path = "/integrations", tag = "integrations", operation_id = "list_integrations",
    params(
        ("mount" = Option<String>, Query, description = "The mount of a project"),
        ("path" = Option<String>, Query, description = "Its folder below the mount; all of it when absent"),
    ),
    responses(
        (status = 200, description = "Integrations", body = IntegrationList),
        (status = 400, description = "`invalid_request`", body = ErrorBody),
        (status = 404, description = "`not_found`: no such mount", body = ErrorBody),
        (status = 409, description = "`not_mounted`; `conflict`: the note of what is installed cannot be understood", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn list_integrations(
    State(app): State<App>,
    uri: Uri,
) -> Result<Json<IntegrationList>, ApiError> {
    let asked: ProjectQuery = query(&uri)?;
    integrations::list(&app.workflows, asked.project()?)
        .await
        .map(Json)
}

/// An integration
#[utoipa::path(
    get, path = "/integrations/{integration}", tag = "integrations", operation_id = "show_integration",
    params(
        ("mount" = Option<String>, Query, description = "The mount of a project"),
        ("path" = Option<String>, Query, description = "Its folder below the mount; all of it when absent"),
    ),
    responses(
        (status = 200, description = "What it takes and does", body = IntegrationDetails),
        (status = 400, description = "`invalid_request`: also for a manifest that cannot be followed, with line and column", body = ErrorBody),
        (status = 404, description = "`not_found`: no such mount or integration", body = ErrorBody),
        (status = 409, description = "`not_mounted`; `conflict`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn show_integration(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<IntegrationDetails>, ApiError> {
    let Path(name) =
        name.map_err(|_| ApiError::NotFound("that is no name of an integration".into()))?;
    let asked: ProjectQuery = query(&uri)?;
    integrations::show(&app.workflows, name, asked.project()?)
        .await
        .map(Json)
}

/// The JSON schema of manifests
#[utoipa::path(
    get, path = "/integration.schema.json", tag = "integrations", operation_id = "integration_schema",
    responses((status = 200, description = "The schema", body = serde_json::Value, content_type = "application/schema+json"))
)]
pub(in crate::sidecar) async fn integration_schema() -> Response {
    (
        [(header::CONTENT_TYPE, "application/schema+json")],
        integration_schema_text(),
    )
        .into_response()
}
