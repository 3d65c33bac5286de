//! The client of the volume API: one request per connection over the volume's socket, every wait with a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{
    API_VERSION, BudgetRequest, DropRequest, GC_DEADLINE, GcRequest, SYNC_DEADLINE_DEFAULT,
    SyncRequest,
};
use super::branches::{VolumeBranch, VolumeBranchDrop, VolumeBranchRequest, VolumeBranches};
use super::snapshots::{
    CloneReport, CloneRequest, DiffReport, DiffRequest, RemoveReport, RemoveRequest,
    SNAPSHOT_DEADLINE, SnapshotInfo, SnapshotList, SnapshotRequest, SnapshotRestoreReport,
    SnapshotRestoreRequest,
};
use super::status::{BudgetReport, DropReport, GcReport, SyncReport, VolumeStatus};
use super::trash::{
    TrashEmptyReport, TrashEmptyRequest, TrashList, TrashListRequest, TrashRestoreReport,
    TrashRestoreRequest,
};
use crate::error::ApiError;
use crate::wire::Exchange;

/// How long an answer may take; a little longer than the volume's own limit, so that its message wins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// How much longer than its deadline a sync may take to answer, for the same reason.
const SYNC_MARGIN: Duration = Duration::from_secs(10);

/// A volume, reached over its socket.
#[derive(Debug, Clone)]
pub struct VolumeClient {
    exchange: Exchange,
}

impl VolumeClient {
    /// A client of the volume that listens on `socket`. Nothing is sent before the first call.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            exchange: Exchange::new(socket, "volume"),
        }
    }

    /// What the volume says about itself.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn status(&self) -> Result<VolumeStatus, ApiError> {
        self.ask(Method::GET, "status", None::<&()>, ANSWER_TIMEOUT)
            .await
    }

    /// Waits until everything acknowledged before the call can be restored from the store alone.
    ///
    /// # Errors
    /// [`ApiError::DeadlineExceeded`] with what is left when `deadline` (default: ten minutes) passes first.
    pub async fn sync(&self, deadline: Option<Duration>) -> Result<SyncReport, ApiError> {
        let deadline_ms =
            deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        let limit = deadline
            .unwrap_or(SYNC_DEADLINE_DEFAULT)
            .saturating_add(SYNC_MARGIN);
        self.ask(
            Method::POST,
            "sync",
            Some(&SyncRequest { deadline_ms }),
            limit,
        )
        .await
    }

    /// Empties the volume's local caches of file content.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn drop_caches(&self) -> Result<DropReport, ApiError> {
        self.ask(
            Method::POST,
            "drop-caches",
            Some(&DropRequest {}),
            ANSWER_TIMEOUT,
        )
        .await
    }

    /// Changes how much the volume's local caches may hold.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] from a volume that is too old to know this, else what the volume answered.
    pub async fn set_budget(&self, budget: BudgetRequest) -> Result<BudgetReport, ApiError> {
        self.ask(Method::PUT, "budget", Some(&budget), ANSWER_TIMEOUT)
            .await
    }

    /// Collects garbage, or tells what it would do.
    ///
    /// # Errors
    /// [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError> {
        let request = GcRequest { dry_run };
        self.ask(Method::POST, "gc", Some(&request), GC_DEADLINE)
            .await
    }

    /// All snapshots.
    ///
    /// # Errors
    /// As all of these: [`ApiError::Unreachable`] when nothing listens, else what the volume answered.
    pub async fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        self.ask(Method::GET, "snapshots", None::<&()>, ANSWER_TIMEOUT)
            .await
    }

    /// Makes a snapshot.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        self.ask_long("snapshots", request).await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn remove_snapshot(&self, request: &RemoveRequest) -> Result<RemoveReport, ApiError> {
        self.ask_long("snapshots/remove", request).await
    }

    /// What differs between a snapshot and a newer one, or the present.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn diff(&self, request: &DiffRequest) -> Result<DiffReport, ApiError> {
        self.ask_long("snapshots/diff", request).await
    }

    /// Brings back what a snapshot has.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn restore(
        &self,
        request: &SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        self.ask_long("snapshots/restore", request).await
    }

    /// Copies a directory without copying its content.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn clone_tree(&self, request: &CloneRequest) -> Result<CloneReport, ApiError> {
        self.ask_long("clone", request).await
    }

    /// The names of the branches.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] from a volume that is too old to know them, else as [`VolumeClient::snapshots`].
    pub async fn branches(&self) -> Result<VolumeBranches, ApiError> {
        self.ask(Method::GET, "branches", None::<&()>, ANSWER_TIMEOUT)
            .await
    }

    /// Makes a branch, or finds it.
    ///
    /// # Errors
    /// See [`VolumeClient::branches`].
    pub async fn branch(&self, request: &VolumeBranchRequest) -> Result<VolumeBranch, ApiError> {
        self.ask_long("branches", request).await
    }

    /// Drops the local copies of what only a branch uses.
    ///
    /// # Errors
    /// See [`VolumeClient::branches`].
    pub async fn drop_branch(&self, request: &VolumeBranchDrop) -> Result<DropReport, ApiError> {
        self.ask_long("branches/drop", request).await
    }

    /// What is in the trash.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn trash(&self, request: &TrashListRequest) -> Result<TrashList, ApiError> {
        self.ask_long("trash/ls", request).await
    }

    /// Brings something back from the trash.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn restore_trash(
        &self,
        request: &TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError> {
        self.ask_long("trash/restore", request).await
    }

    /// Ends what is in the trash, for good.
    ///
    /// # Errors
    /// See [`VolumeClient::snapshots`].
    pub async fn empty_trash(
        &self,
        request: &TrashEmptyRequest,
    ) -> Result<TrashEmptyReport, ApiError> {
        self.ask_long("trash/empty", request).await
    }

    async fn ask_long<A: DeserializeOwned>(
        &self,
        name: &str,
        body: &impl Serialize,
    ) -> Result<A, ApiError> {
        let limit = SNAPSHOT_DEADLINE.saturating_add(SYNC_MARGIN);
        self.ask(Method::POST, name, Some(body), limit).await
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        name: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<A, ApiError> {
        let path = format!("/v{API_VERSION}/{name}");
        self.exchange.ask(method, &path, body, limit).await
    }
}

/// [`VolumeClient`] for callers without a runtime, like the command line.
#[derive(Debug)]
pub struct BlockingVolumeClient {
    client: VolumeClient,
    runtime: tokio::runtime::Runtime,
}

impl BlockingVolumeClient {
    /// A client of the volume that listens on `socket`.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the machine gives no event queue.
    pub fn new(socket: &Path) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ApiError::Internal(format!("cannot start a runtime: {error}")))?;
        Ok(Self {
            client: VolumeClient::new(socket),
            runtime,
        })
    }

    /// See [`VolumeClient::status`].
    ///
    /// # Errors
    /// The same.
    pub fn status(&self) -> Result<VolumeStatus, ApiError> {
        self.runtime.block_on(self.client.status())
    }

    /// See [`VolumeClient::sync`].
    ///
    /// # Errors
    /// The same.
    pub fn sync(&self, deadline: Option<Duration>) -> Result<SyncReport, ApiError> {
        self.runtime.block_on(self.client.sync(deadline))
    }

    /// See [`VolumeClient::drop_caches`].
    ///
    /// # Errors
    /// The same.
    pub fn drop_caches(&self) -> Result<DropReport, ApiError> {
        self.runtime.block_on(self.client.drop_caches())
    }

    /// See [`VolumeClient::gc`].
    ///
    /// # Errors
    /// The same.
    pub fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError> {
        self.runtime.block_on(self.client.gc(dry_run))
    }

    /// See [`VolumeClient::snapshots`].
    ///
    /// # Errors
    /// The same.
    pub fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        self.runtime.block_on(self.client.snapshots())
    }

    /// See [`VolumeClient::snapshot`].
    ///
    /// # Errors
    /// The same.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        self.runtime.block_on(self.client.snapshot(request))
    }

    /// See [`VolumeClient::remove_snapshot`].
    ///
    /// # Errors
    /// The same.
    pub fn remove_snapshot(&self, request: &RemoveRequest) -> Result<RemoveReport, ApiError> {
        self.runtime.block_on(self.client.remove_snapshot(request))
    }

    /// See [`VolumeClient::diff`].
    ///
    /// # Errors
    /// The same.
    pub fn diff(&self, request: &DiffRequest) -> Result<DiffReport, ApiError> {
        self.runtime.block_on(self.client.diff(request))
    }

    /// See [`VolumeClient::restore`].
    ///
    /// # Errors
    /// The same.
    pub fn restore(
        &self,
        request: &SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        self.runtime.block_on(self.client.restore(request))
    }

    /// See [`VolumeClient::clone_tree`].
    ///
    /// # Errors
    /// The same.
    pub fn clone_tree(&self, request: &CloneRequest) -> Result<CloneReport, ApiError> {
        self.runtime.block_on(self.client.clone_tree(request))
    }

    /// See [`VolumeClient::trash`].
    ///
    /// # Errors
    /// The same.
    pub fn trash(&self, request: &TrashListRequest) -> Result<TrashList, ApiError> {
        self.runtime.block_on(self.client.trash(request))
    }

    /// See [`VolumeClient::restore_trash`].
    ///
    /// # Errors
    /// The same.
    pub fn restore_trash(
        &self,
        request: &TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError> {
        self.runtime.block_on(self.client.restore_trash(request))
    }

    /// See [`VolumeClient::empty_trash`].
    ///
    /// # Errors
    /// The same.
    pub fn empty_trash(&self, request: &TrashEmptyRequest) -> Result<TrashEmptyReport, ApiError> {
        self.runtime.block_on(self.client.empty_trash(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listening_is_unreachable_and_names_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume.sock");
        let error = BlockingVolumeClient::new(&path)
            .unwrap()
            .status()
            .unwrap_err();
        assert!(
            matches!(&error, ApiError::Unreachable(text) if text.contains("volume.sock")),
            "{error}"
        );
    }
}
