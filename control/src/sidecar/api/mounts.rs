//! `/mounts` and below.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::{Extension, Json};
use serde::Deserialize;

use super::{REQUEST_TIMEOUT, name_of, once, query, read_json, within};
use crate::error::{ApiError, ErrorBody};
use crate::sidecar::auth::Identity;
use crate::sidecar::idempotency::{Answered, Asked};
use crate::sidecar::mounts::{LOG_LINES, LOG_LINES_MAX};
use crate::sidecar::server::App;
use crate::sidecar::types::{
    LogLines, Mount, MountDetails, MountList, MountRequest, MountSyncRequest, MountSynced,
    UnmountRequest,
};
pub(super) use crate::volume::SYNC_DEADLINE_MAX as SYNC_MAX;

/// How long a mount or an unmount may take: replaying a full journal, and saving one, take a while.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(180);
/// How much longer than its deadline a sync may take to answer, so that the volume's own message wins.
pub(super) const SYNC_MARGIN: Duration = Duration::from_secs(20);

/// Mount a volume
///
/// Answers once it is mounted. The same request again answers with the same mount.
#[utoipa::path(
    post, path = "/mounts", tag = "mounts", operation_id = "mount",
    request_body = MountRequest,
    responses(
        (status = 200, description = "It is mounted", body = Mount),
        (status = 409, description = "`conflict`: something there contradicts it; `limit_reached`: as many as there may be are there", body = ErrorBody),
        (status = 422, description = "`mount_failed`: the message says why and what to do; `key_reused`: the key came with another request before", body = ErrorBody),
        (status = 504, description = "`deadline_exceeded`: it goes on", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn add(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answered<Mount>, ApiError> {
    let request: MountRequest = read_json(request).await?;
    let asked = Asked::of(&headers, &identity, "POST /mounts", &request)?;
    let mounts = app.mounts.clone();
    let mounting = async move { within(MOUNT_TIMEOUT, mounts.add(request)).await };
    // A mount that is asked for again is the same mount: a second attempt needs to know nothing of the first.
    once(&app, asked, |_| mounting).await
}

/// The mounts of this machine
///
/// Those that the sidecar keeps mounted, and those that were made beside it.
#[utoipa::path(
    get, path = "/mounts", tag = "mounts", operation_id = "list_mounts",
    responses((status = 200, description = "By name", body = MountList))
)]
pub(in crate::sidecar) async fn list(State(app): State<App>) -> Json<MountList> {
    Json(MountList {
        mounts: app.mounts.list().await,
    })
}

/// One mount, with what its volume says of itself
#[utoipa::path(
    get, path = "/mounts/{name}", tag = "mounts", operation_id = "get_mount",
    responses(
        (status = 200, description = "The mount", body = MountDetails),
    )
)]
pub(in crate::sidecar) async fn details(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<MountDetails>, ApiError> {
    let name = name_of(name)?;
    within(REQUEST_TIMEOUT, app.mounts.details(&name))
        .await
        .map(Json)
}

/// Unmount a volume
///
/// Answers once everything is saved on this machine. What the store does not have yet goes up at the next mount; with
/// `sync` it goes up first.
#[utoipa::path(
    post, path = "/mounts/unmount", tag = "mounts", operation_id = "unmount",
    request_body = UnmountRequest,
    responses(
        (status = 200, description = "It is gone", body = Mount),
        (status = 404, description = "`not_found`", body = ErrorBody),
        (status = 409, description = "`in_use`: by the programs that the message names; `conflict`: it is being mounted; `not_mounted`: nothing can be synced", body = ErrorBody),
        (status = 504, description = "`deadline_exceeded`: not everything is in the store, and it stays mounted", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn unmount(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Mount>, ApiError> {
    let request: UnmountRequest = read_json(request).await?;
    within(MOUNT_TIMEOUT, app.mounts.remove(request))
        .await
        .map(Json)
}

/// Wait until everything acknowledged so far can be restored from the store alone
#[utoipa::path(
    post, path = "/mounts/{name}/sync", tag = "mounts", operation_id = "sync_mount",
    request_body = MountSyncRequest,
    responses(
        (status = 200, description = "It can", body = MountSynced),
        (status = 409, description = "`not_mounted`", body = ErrorBody),
        (status = 504, description = "`deadline_exceeded`: the message says what is left; nothing is lost by it", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn sync(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<MountSynced>, ApiError> {
    let name = name_of(name)?;
    let request: MountSyncRequest = read_json(request).await?;
    let limit = SYNC_MAX + SYNC_MARGIN;
    within(limit, app.mounts.sync(&name, request))
        .await
        .map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    lines: Option<usize>,
}

/// The newest lines of a mount's log
#[utoipa::path(
    get, path = "/mounts/{name}/logs", tag = "mounts", operation_id = "get_mount_log",
    params(
        ("lines" = Option<usize>, Query, description = "How many, 1 to 5000; 200 when absent", minimum = 1, maximum = 5000),
    ),
    responses(
        (status = 200, description = "Oldest first", body = LogLines),
        (status = 409, description = "`not_mounted`: it has not run yet", body = ErrorBody),
    )
)]
pub(in crate::sidecar) async fn logs(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<LogLines>, ApiError> {
    let name = name_of(name)?;
    let LogQuery { lines } = query(&uri)?;
    let lines = lines.unwrap_or(LOG_LINES);
    if !(1..=LOG_LINES_MAX).contains(&lines) {
        return Err(ApiError::InvalidRequest(format!(
            "lines takes 1 to {LOG_LINES_MAX}"
        )));
    }
    within(REQUEST_TIMEOUT, app.mounts.log(&name, lines))
        .await
        .map(Json)
}
