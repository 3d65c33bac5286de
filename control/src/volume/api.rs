//! What a volume answers: the trait that the binary implements, and the requests. No transport in here.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::branches::{VolumeBranch, VolumeBranchDrop, VolumeBranchRequest, VolumeBranches};
use super::snapshots::{
    CloneReport, CloneRequest, DiffReport, DiffRequest, RemoveReport, RemoveRequest, SnapshotInfo,
    SnapshotList, SnapshotRequest, SnapshotRestoreReport, SnapshotRestoreRequest,
};
use super::status::{BudgetReport, DropReport, GcReport, SyncReport, VolumeStatus};
use super::trash::{
    TrashEmptyReport, TrashEmptyRequest, TrashList, TrashListRequest, TrashRestoreReport,
    TrashRestoreRequest,
};
use crate::error::ApiError;

/// Version of the API; the first part of every path (`/v1/...`).
pub const API_VERSION: u32 = 1;

/// How long a sync waits when the request names no deadline.
pub const SYNC_DEADLINE_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// Least budget of packs on the local disk, in bytes: one pack that is read and a few beside it.
pub const CACHE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Least budget of decoded content in memory, in bytes.
pub const FRAME_CACHE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Most that any budget may be, in bytes.
const BUDGET_MAX: u64 = 1 << 50;

/// The longest deadline a sync may ask for.
pub const SYNC_DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A mounted volume, as the control plane sees it.
///
/// Implementations answer from their own threads where the work blocks; the server runs these futures on its runtime.
#[async_trait]
pub trait VolumeApi: Send + Sync + 'static {
    /// What the volume says about itself. Cheap: callers poll it.
    async fn status(&self) -> Result<VolumeStatus, ApiError>;

    /// Waits until everything acknowledged before the call can be restored from the store alone.
    ///
    /// # Errors
    /// [`ApiError::DeadlineExceeded`] with what is left when `deadline` passes first; nothing is lost by it.
    async fn sync(&self, deadline: Duration) -> Result<SyncReport, ApiError>;

    /// Empties the local caches of file content (packs and frames), never what the store does not hold yet.
    async fn drop_caches(&self) -> Result<DropReport, ApiError>;

    /// Deletes from the store what nothing needs any more, or only tells what it would delete.
    ///
    /// # Errors
    /// [`ApiError::Internal`] with what stopped it; what was done stays done, and the next time goes on.
    async fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError>;

    /// All snapshots.
    async fn snapshots(&self) -> Result<SnapshotList, ApiError>;

    /// Makes a snapshot.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] for a name that is taken or cannot be one.
    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotInfo, ApiError>;

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when there is none of this name.
    async fn remove_snapshot(&self, request: RemoveRequest) -> Result<RemoveReport, ApiError>;

    /// What differs between a snapshot and a newer one, or the present.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when there is no such snapshot, or they are in the wrong order.
    async fn diff(&self, request: DiffRequest) -> Result<DiffReport, ApiError>;

    /// Makes everything at and below a path what it was at a snapshot, all at once.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when there is no such snapshot or it has no such path.
    async fn restore(
        &self,
        request: SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError>;

    /// Copies a directory without copying its content.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when one of the paths cannot be used.
    async fn clone_tree(&self, request: CloneRequest) -> Result<CloneReport, ApiError>;

    /// The names of the branches.
    async fn branches(&self) -> Result<VolumeBranches, ApiError>;

    /// Copies a directory to a branch, all at once and without copying its content, or finds the branch of that name.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when there is no such directory, or the name cannot be one.
    async fn branch(&self, request: VolumeBranchRequest) -> Result<VolumeBranch, ApiError>;

    /// Drops the local copies of what only a branch uses; nothing of a branch of which something is not in the store.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when there is no such branch.
    async fn drop_branch(&self, request: VolumeBranchDrop) -> Result<DropReport, ApiError>;
    /// What is in the trash.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] for a path that makes no sense.
    async fn trash(&self, request: TrashListRequest) -> Result<TrashList, ApiError>;

    /// Brings something back from the trash, all at once.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] when the trash has nothing of this path, or something is there now.
    async fn restore_trash(
        &self,
        request: TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError>;

    /// Ends what is in the trash, for good.
    ///
    /// # Errors
    /// [`ApiError::ReadOnly`] when nothing may be changed.
    async fn empty_trash(&self, request: TrashEmptyRequest) -> Result<TrashEmptyReport, ApiError>;

    /// Changes how much the local caches may hold, at once; what is above it is evicted. Holds until the unmount.
    async fn set_budget(&self, budget: BudgetRequest) -> Result<BudgetReport, ApiError>;
}

/// Body of `POST /v1/sync`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// How long to wait, in milliseconds; [`SYNC_DEADLINE_DEFAULT`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

impl SyncRequest {
    /// The deadline to wait for.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] for zero and for more than [`SYNC_DEADLINE_MAX`].
    pub fn deadline(&self) -> Result<Duration, ApiError> {
        let Some(milliseconds) = self.deadline_ms else {
            return Ok(SYNC_DEADLINE_DEFAULT);
        };
        let deadline = Duration::from_millis(milliseconds);
        if deadline.is_zero() || deadline > SYNC_DEADLINE_MAX {
            return Err(ApiError::InvalidRequest(format!(
                "deadline_ms takes 1 to {} milliseconds, not {milliseconds}",
                SYNC_DEADLINE_MAX.as_millis()
            )));
        }
        Ok(deadline)
    }
}

/// The longest that collecting garbage may take.
pub const GC_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Body of `POST /v1/gc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `POST /v1/drop-caches`: nothing to choose yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {}

/// Body of `PUT /v1/budget`. What is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetRequest {
    /// Most bytes of packs on the local disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// Most bytes of decoded file content in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_cache_bytes: Option<u64>,
}

impl BudgetRequest {
    /// # Errors
    /// [`ApiError::InvalidRequest`] with the range, for budgets that no mount would take as an option either.
    pub fn check(&self) -> Result<(), ApiError> {
        for (name, asked, least) in [
            ("cache_bytes", self.cache_bytes, CACHE_BYTES_MIN),
            (
                "frame_cache_bytes",
                self.frame_cache_bytes,
                FRAME_CACHE_BYTES_MIN,
            ),
        ] {
            if let Some(bytes) = asked.filter(|bytes| !(least..=BUDGET_MAX).contains(bytes)) {
                return Err(ApiError::InvalidRequest(format!(
                    "{name} takes {least} to {BUDGET_MAX} bytes, not {bytes}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_without_a_deadline_waits_for_the_default() {
        assert_eq!(
            SyncRequest::default().deadline().unwrap(),
            SYNC_DEADLINE_DEFAULT
        );
    }

    #[test]
    fn senseless_deadlines_are_refused_with_the_range() {
        for deadline_ms in [0, SYNC_DEADLINE_MAX.as_millis() as u64 + 1, u64::MAX] {
            let error = SyncRequest {
                deadline_ms: Some(deadline_ms),
            }
            .deadline()
            .unwrap_err();
            assert!(error.to_string().contains("1 to 86400000"), "{error}");
        }
        assert_eq!(
            SyncRequest {
                deadline_ms: Some(1)
            }
            .deadline()
            .unwrap(),
            Duration::from_millis(1)
        );
    }

    #[test]
    fn budgets_below_what_a_mount_can_work_with_are_refused() {
        let of = |cache_bytes, frame_cache_bytes| BudgetRequest {
            cache_bytes,
            frame_cache_bytes,
        };
        for (budget, name) in [
            (of(Some(CACHE_BYTES_MIN - 1), None), "cache_bytes takes"),
            (of(Some(u64::MAX), None), "cache_bytes takes"),
            (of(None, Some(0)), "frame_cache_bytes takes"),
        ] {
            let error = budget.check().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        of(Some(CACHE_BYTES_MIN), Some(FRAME_CACHE_BYTES_MIN))
            .check()
            .unwrap();
        of(None, None).check().unwrap();
    }
}
