//! `/mounts/{name}/snapshots` and below.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::{Extension, Json};
use serde::Deserialize;

use super::{apart, name_of, once, query, read_json};
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::idempotency::{Answered, Asked};
use crate::sidecar::server::App;
use crate::sidecar::snapshots::{
    DiffOrder, LIMIT, LIMIT_MAX, MountDiff, MountRestoreRequest, MountRestored,
    MountSnapshotRequest, OFFSET_MAX,
};
use crate::volume::{SnapshotInfo, SnapshotList};

type Named = Result<Path<(String, String)>, PathRejection>;

fn names_of(path: Named) -> Result<(String, String), ApiError> {
    let Path(names) =
        path.map_err(|_| ApiError::NotFound("that is no name of a mount and a snapshot".into()))?;
    Ok(names)
}

/// The snapshots of a mount
#[utoipa::path(
    get, path = "/mounts/{name}/snapshots", tag = "snapshots", operation_id = "list_snapshots",
    responses(
        (status = 200, description = "Oldest first", body = SnapshotList),
        (status = 409, description = "`not_mounted`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn list(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<SnapshotList>, ApiError> {
    app.snapshots.list(&name_of(name)?).await.map(Json)
}

/// Make a snapshot of a mount
///
/// It takes as long as making a file, however large the volume is.
#[utoipa::path(
    post, path = "/mounts/{name}/snapshots", tag = "snapshots", operation_id = "create_snapshot",
    request_body = MountSnapshotRequest,
    responses(
        (status = 200, description = "It is made", body = SnapshotInfo),
        (status = 409, description = "`conflict`: the name is taken; `limit_reached`: there are as many as there may be; `not_mounted`; `read_only`: the volume takes no writes", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn create(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Answered<SnapshotInfo>, ApiError> {
    let name = name_of(name)?;
    let request: MountSnapshotRequest = read_json(request).await?;
    let endpoint = format!("POST /mounts/{name}/snapshots");
    let asked = Asked::of(&headers, &identity, &endpoint, &request)?;
    let snapshots = app.snapshots.clone();
    once(&app, asked, |attempt| async move {
        snapshots.create(&name, request, attempt).await
    })
    .await
}

/// One snapshot of a mount
#[utoipa::path(
    get, path = "/mounts/{name}/snapshots/{id}", tag = "snapshots", operation_id = "get_snapshot",
    responses(
        (status = 200, description = "The snapshot", body = SnapshotInfo),
        (status = 409, description = "`not_mounted`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn get(
    State(app): State<App>,
    names: Named,
) -> Result<Json<SnapshotInfo>, ApiError> {
    let (name, id) = names_of(names)?;
    app.snapshots.get(&name, &id).await.map(Json)
}

/// Remove a snapshot
///
/// The volume and the other snapshots stay as they are.
#[utoipa::path(
    delete, path = "/mounts/{name}/snapshots/{id}", tag = "snapshots", operation_id = "remove_snapshot",
    responses(
        (status = 200, description = "What was removed", body = SnapshotInfo),
        (status = 409, description = "`not_mounted`; `read_only`: the volume takes no writes", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn remove(
    State(app): State<App>,
    names: Named,
) -> Result<Json<SnapshotInfo>, ApiError> {
    let (name, id) = names_of(names)?;
    let snapshots = app.snapshots.clone();
    let removing = async move { snapshots.remove(&name, &id).await };
    apart(removing).await.map(Json)
}

/// Go back to a snapshot, while programs run
///
/// All of it happens at once. What was there before becomes a snapshot, so that restoring that one undoes it. Programs keep
/// what they have open.
#[utoipa::path(
    post, path = "/mounts/{name}/snapshots/{id}/restore", tag = "snapshots", operation_id = "restore_snapshot",
    request_body = MountRestoreRequest,
    responses(
        (status = 200, description = "It is as it was", body = MountRestored),
        (status = 409, description = "`limit_reached`: no snapshot can be made of what is there; `not_mounted`; `read_only`: the volume takes no writes", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn restore(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    names: Named,
    request: Request,
) -> Result<Answered<MountRestored>, ApiError> {
    let (name, id) = names_of(names)?;
    let request: MountRestoreRequest = read_json(request).await?;
    let endpoint = format!("POST /mounts/{name}/snapshots/{id}/restore");
    let asked = Asked::of(&headers, &identity, &endpoint, &request)?;
    let snapshots = app.snapshots.clone();
    // Going back twice is going back once: the second time nothing differs, or what was done since is kept as a snapshot.
    once(&app, asked, |_| async move {
        snapshots.restore(&name, &id, request).await
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

/// What changed since a snapshot, or between two
///
/// Each request compares anew: while programs write, pages of what differs from the present need not fit together. A
/// second snapshot as `to` does not change.
#[utoipa::path(
    get, path = "/mounts/{name}/snapshots/{id}/diff", tag = "snapshots", operation_id = "diff_snapshot",
    params(
        ("to" = Option<String>, Query, description = "The newer snapshot; the present when absent"),
        ("path" = Option<String>, Query, description = "Only what is at and below this path of the mount", max_length = 1024),
        ("offset" = Option<usize>, Query, description = "How many to leave out at the beginning", minimum = 0, maximum = 100_000),
        ("limit" = Option<usize>, Query, description = "How many to tell at most; 1000 when absent", minimum = 1, maximum = 10_000),
    ),
    responses(
        (status = 200, description = "By path", body = MountDiff),
        (status = 409, description = "`not_mounted`", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn diff(
    State(app): State<App>,
    names: Named,
    uri: Uri,
) -> Result<Json<MountDiff>, ApiError> {
    let (name, id) = names_of(names)?;
    let DiffQuery {
        to,
        path,
        offset,
        limit,
    } = query(&uri)?;
    let (offset, limit) = (offset.unwrap_or(0), limit.unwrap_or(LIMIT));
    if offset > OFFSET_MAX {
        return Err(ApiError::InvalidRequest(format!(
            "offset takes 0 to {OFFSET_MAX}"
        )));
    }
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::InvalidRequest(format!(
            "limit takes 1 to {LIMIT_MAX}"
        )));
    }
    let order = DiffOrder {
        to,
        path,
        offset,
        limit,
    };
    app.snapshots.diff(&name, &id, order).await.map(Json)
}
