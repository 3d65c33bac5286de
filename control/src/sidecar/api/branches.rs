//! `/branches` and below.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::{Extension, Json};
use serde::Deserialize;

use super::mounts::{SYNC_MARGIN, SYNC_MAX};
use super::{apart, once, query, read_json, within};
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::branches::{Branch, BranchList, BranchMade, BranchRequest, BranchSynced};
use crate::sidecar::idempotency::{Answered, Asked};
use crate::sidecar::server::App;
use crate::sidecar::types::MountSyncRequest;

type Id = Result<Path<String>, PathRejection>;

fn id_of(path: Id) -> Result<String, ApiError> {
    let Path(id) = path.map_err(|_| ApiError::NotFound("that is no branch".into()))?;
    Ok(id)
}

/// Branch a directory of a mount
///
/// All of it at once, without copying content. The same request again answers with the same branch.
#[utoipa::path(
    post, path = "/branches", tag = "branches", operation_id = "create_branch",
    request_body = BranchRequest,
    responses(
        (status = 200, description = "It can be worked on", body = BranchMade),
        (status = 404, description = "`not_found`: no such mount", body = ErrorBody),
        (status = 409, description = "`conflict`: it is one of another directory, or is being removed; `limit_reached`; `not_mounted`; `read_only`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn create(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answered<BranchMade>, ApiError> {
    let request: BranchRequest = read_json(request).await?;
    let asked = Asked::of(&headers, &identity, "POST /branches", &request)?;
    let branches = app.branches.clone();
    // A branch that is asked for again is the same branch.
    once(
        &app,
        asked,
        |_| async move { branches.create(request).await },
    )
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    mount: Option<String>,
}

/// The branches of all mounts
#[utoipa::path(
    get, path = "/branches", tag = "branches", operation_id = "list_branches",
    params(("mount" = Option<String>, Query, description = "Only those of this mount", max_length = 63)),
    responses(
        (status = 200, description = "By mount and name", body = BranchList),
        (status = 404, description = "`not_found`: no such mount", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn list(
    State(app): State<App>,
    uri: Uri,
) -> Result<Json<BranchList>, ApiError> {
    let ListQuery { mount } = query(&uri)?;
    app.branches.list(mount.as_deref()).await.map(Json)
}

/// One branch
#[utoipa::path(
    get, path = "/branches/{id}", tag = "branches", operation_id = "get_branch",
    responses((status = 200, description = "The branch", body = Branch))
)]
pub(in crate::sidecar) async fn get(
    State(app): State<App>,
    id: Id,
) -> Result<Json<Branch>, ApiError> {
    app.branches.get(&id_of(id)?).await.map(Json)
}

/// Remove a branch, with everything in it
///
/// Refused while something uses it. A large one is `removing` for a while; `branch.removed` says that it is gone.
#[utoipa::path(
    delete, path = "/branches/{id}", tag = "branches", operation_id = "remove_branch",
    responses(
        (status = 200, description = "`removed`, or `removing`", body = Branch),
        (status = 409, description = "`in_use`: by what the message names; `not_mounted`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn remove(
    State(app): State<App>,
    id: Id,
) -> Result<Json<Branch>, ApiError> {
    let id = id_of(id)?;
    let branches = app.branches.clone();
    let removing = async move { branches.remove(&id).await };
    apart(removing).await.map(Json)
}

/// Wait until everything of a branch can be restored from the store alone
///
/// And with it everything else of its mount that was acknowledged so far.
#[utoipa::path(
    post, path = "/branches/{id}/sync", tag = "branches", operation_id = "sync_branch",
    request_body = MountSyncRequest,
    responses(
        (status = 200, description = "It can", body = BranchSynced),
        (status = 409, description = "`not_mounted`", body = ErrorBody),
        (status = 504, description = "`deadline_exceeded`: the message says what is left; nothing is lost by it", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn sync(
    State(app): State<App>,
    id: Id,
    request: Request,
) -> Result<Json<BranchSynced>, ApiError> {
    let id = id_of(id)?;
    let request: MountSyncRequest = read_json(request).await?;
    let syncing = app.branches.sync(&id, request);
    within(SYNC_MAX + SYNC_MARGIN, syncing).await.map(Json)
}
