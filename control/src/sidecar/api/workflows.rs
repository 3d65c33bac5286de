//! `/trigger`, `/workflows` and `/revert`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;

use super::{query, read_json};
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::idempotency::{Answered, Asked};
use crate::sidecar::server::App;
use crate::sidecar::store::RunFilter;
use crate::sidecar::workflows::{
    CancelRequest, LIST, LIST_MAX, RevertReport, RevertRequest, RunDetails, RunDiff, RunList,
    RunState, RunSummary, StepRequest, TriggerRequest, schema_text,
};

/// Begin a run of a workflow
///
/// Answers once the run is written down; it goes on whatever happens to the sidecar. The definition is that of the project
/// at this moment, or the one that is sent. `Idempotency-Key` is taken.
#[utoipa::path(
    post, path = "/trigger", tag = "workflows", operation_id = "trigger_workflow",
    request_body = TriggerRequest,
    responses(
        (status = 200, description = "It is queued, or was by the first request with this key", body = RunSummary),
        (status = 400, description = "`invalid_request`: for a definition with line, column and what was expected; nothing has started", body = ErrorBody),
        (status = 404, description = "`not_found`: no such mount or workflow", body = ErrorBody),
        (status = 409, description = "`not_mounted`; `limit_reached`: too many runs are not over", body = ErrorBody),
        (status = 422, description = "`key_reused`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn trigger(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answered<RunSummary>, ApiError> {
    let body: TriggerRequest = read_json(request).await?;
    let Some(asked) = Asked::of(&headers, &identity, "POST /trigger", &body)? else {
        return app.workflows.trigger(body, None).await.map(Answered::now);
    };
    let workflows = app.workflows.clone();
    let work = |attempt| async move { workflows.trigger(body, Some(attempt)).await };
    app.idempotency.run(asked, work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    mount: Option<String>,
    workflow: Option<String>,
    state: Option<RunState>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// The runs of workflows, newest first
#[utoipa::path(
    get, path = "/workflows", tag = "workflows", operation_id = "list_runs",
    params(
        ("mount" = Option<String>, Query, description = "Only those on this mount"),
        ("workflow" = Option<String>, Query, description = "Only those of this workflow"),
        ("state" = Option<RunState>, Query, description = "Only those in this state"),
        ("before" = Option<i64>, Query, description = "`next` of the answer before"),
        ("limit" = Option<u32>, Query, description = "How many; 50 when absent", minimum = 1, maximum = 200),
    ),
    responses(
        (status = 200, description = "Runs", body = RunList),
        (status = 400, description = "`invalid_request`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn runs(
    State(app): State<App>,
    uri: Uri,
) -> Result<Json<RunList>, ApiError> {
    let asked: ListQuery = query(&uri)?;
    let most = asked.limit.unwrap_or(LIST);
    if !(1..=LIST_MAX).contains(&most) {
        return Err(ApiError::InvalidRequest(format!(
            "limit takes 1 to {LIST_MAX}"
        )));
    }
    let filter = RunFilter {
        mount: asked.mount,
        workflow: asked.workflow,
        state: asked.state,
        before: asked.before,
        most,
    };
    app.workflows.list(filter).await.map(Json)
}

/// A run, with its steps
#[utoipa::path(
    get, path = "/workflows/{run}", tag = "workflows", operation_id = "show_run",
    responses(
        (status = 200, description = "How it goes", body = RunDetails),
        (status = 404, description = "`not_found`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn show_run(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Json<RunDetails>, ApiError> {
    app.workflows.show(&run_of(run)?).await.map(Json)
}

/// End a run
///
/// Answers at once; what the run used is given back behind that, and `workflow.released` says when that is done. A run
/// that is over stays as it is.
#[utoipa::path(
    post, path = "/workflows/{run}/cancel", tag = "workflows", operation_id = "cancel_run",
    request_body = CancelRequest,
    responses(
        (status = 200, description = "It is cancelled, or was over", body = RunSummary),
        (status = 404, description = "`not_found`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn cancel_run(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<RunSummary>, ApiError> {
    let CancelRequest {} = read_json(request).await?;
    app.workflows.cancel(&run_of(run)?).await.map(Json)
}

/// Let a run that did not succeed go on from a step
///
/// Also a step with `idempotent: false`: whoever asks for it has looked whether it may be done again.
#[utoipa::path(
    post, path = "/workflows/{run}/retry", tag = "workflows", operation_id = "retry_run",
    request_body = StepRequest,
    responses(
        (status = 200, description = "It goes on", body = RunSummary),
        (status = 404, description = "`not_found`: no such run or step", body = ErrorBody),
        (status = 409, description = "`conflict`: it goes on, or succeeded, or was reverted", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn retry_run(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<RunSummary>, ApiError> {
    let request = read_json(request).await?;
    app.workflows
        .again(&run_of(run)?, request, false)
        .await
        .map(Json)
}

/// Let a run that did not succeed go on behind a step
#[utoipa::path(
    post, path = "/workflows/{run}/skip", tag = "workflows", operation_id = "skip_step",
    request_body = StepRequest,
    responses(
        (status = 200, description = "It goes on", body = RunSummary),
        (status = 404, description = "`not_found`: no such run or step", body = ErrorBody),
        (status = 409, description = "`conflict`: it goes on, or succeeded, or was reverted", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn skip_step(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<RunSummary>, ApiError> {
    let request = read_json(request).await?;
    app.workflows
        .again(&run_of(run)?, request, true)
        .await
        .map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    step: Option<String>,
}

/// What a run, or one of its steps, changed
#[utoipa::path(
    get, path = "/workflows/{run}/diff", tag = "workflows", operation_id = "diff_run",
    params(
        ("step" = Option<String>, Query, description = "Only this step"),
    ),
    responses(
        (status = 200, description = "The differences between two snapshots", body = RunDiff),
        (status = 404, description = "`not_found`: no such run or step", body = ErrorBody),
        (status = 409, description = "`conflict`: its snapshots are not there; `not_mounted`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn diff_run(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<RunDiff>, ApiError> {
    let DiffQuery { step } = query(&uri)?;
    app.workflows
        .diff(&run_of(run)?, step.as_deref())
        .await
        .map(Json)
}

/// Make a project what it was before a run, or before one of its steps
///
/// All at once, files that are not tracked included. What was there is in a snapshot, which the answer names; `undo` goes
/// back to it. `Idempotency-Key` is taken.
#[utoipa::path(
    post, path = "/revert", tag = "workflows", operation_id = "revert_run",
    request_body = RevertRequest,
    responses(
        (status = 200, description = "It is reverted", body = RevertReport),
        (status = 404, description = "`not_found`: no such run or step", body = ErrorBody),
        (status = 409, description = "`conflict`: a run goes on in the project, or the snapshot is gone; `not_mounted`", body = ErrorBody),
        (status = 422, description = "`key_reused`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn revert(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answered<RevertReport>, ApiError> {
    let body: RevertRequest = read_json(request).await?;
    let Some(asked) = Asked::of(&headers, &identity, "POST /revert", &body)? else {
        return app.workflows.revert(body, None).await.map(Answered::now);
    };
    let workflows = app.workflows.clone();
    let work = |attempt| async move { workflows.revert(body, Some(attempt)).await };
    app.idempotency.run(asked, work).await
}

/// The JSON schema of definitions
#[utoipa::path(
    get, path = "/workflow.schema.json", tag = "workflows", operation_id = "workflow_schema",
    responses((status = 200, description = "The schema", body = serde_json::Value, content_type = "application/schema+json"))
)]
pub(in crate::sidecar) async fn workflow_schema() -> Response {
    (
        [(header::CONTENT_TYPE, "application/schema+json")],
        schema_text(),
    )
        .into_response()
}

fn run_of(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let Path(run) = path.map_err(|_| ApiError::NotFound("that is no id of a run".into()))?;
    Ok(run)
}
