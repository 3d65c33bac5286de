//! The volume API as this process answers it: the engine's figures, and what belongs to the process and its mount.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use weldrfs_control::{
    API_VERSION, ApiError, BudgetReport, BudgetRequest, CloneReport, CloneRequest, DiffReport,
    DiffRequest, DropReport, GcReport, RemoveReport, RemoveRequest, SNAPSHOT_DEADLINE,
    SnapshotInfo, SnapshotList, SnapshotRequest, SnapshotRestoreReport, SnapshotRestoreRequest,
    SyncReport, TrashEmptyReport, TrashEmptyRequest, TrashList, TrashListRequest,
    TrashRestoreReport, TrashRestoreRequest, VolumeApi, VolumeBranch, VolumeBranchDrop,
    VolumeBranchRequest, VolumeBranches, VolumeStatus,
};

use weldrfs_fs::Order;

use crate::mounting::OpenVolume;
use crate::preflight::Plan;

/// How long a change may take to begin; well below what its answer may take.
const ORDER_DEADLINE: Duration = Duration::from_secs(SNAPSHOT_DEADLINE.as_secs() / 2);

/// When this process began to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    wall: SystemTime,
    monotonic: Instant,
}

impl Started {
    /// Now.
    pub(crate) fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            monotonic: Instant::now(),
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn since_1970_ms(self) -> u64 {
        milliseconds(self.wall.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// Answers the control plane for one mounted volume.
pub(crate) struct VolumeService {
    volume: OpenVolume,
    source: String,
    mountpoint: String,
    started: Started,
}

impl VolumeService {
    /// Answers for `volume`, mounted as `plan` says.
    pub(crate) fn new(volume: OpenVolume, plan: &Plan, started: Started) -> Self {
        Self {
            volume,
            source: plan.source.text.clone(),
            mountpoint: plan.mountpoint.to_string_lossy().into_owned(),
            started,
        }
    }

    fn of_the_process(&self, engine: VolumeStatus) -> VolumeStatus {
        let mut status = engine;
        status.api_version = API_VERSION;
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.volume.source.clone_from(&self.source);
        status.volume.mountpoint.clone_from(&self.mountpoint);
        status.pid = std::process::id();
        status.uptime_ms = milliseconds(self.started.monotonic.elapsed());
        status.started_at = humantime::format_rfc3339_millis(self.started.wall).to_string();
        let process = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.memory_resident_bytes = resident_bytes(&process).unwrap_or(0);
        status
    }
}

#[async_trait]
impl VolumeApi for VolumeService {
    async fn status(&self) -> Result<VolumeStatus, ApiError> {
        let volume = self.volume.clone();
        Ok(self.of_the_process(blocking(move || volume.status()).await?))
    }

    async fn sync(&self, deadline: Duration) -> Result<SyncReport, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.sync(deadline))
            .await?
            .map_err(ApiError::DeadlineExceeded)
    }

    async fn drop_caches(&self) -> Result<DropReport, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.drop_caches()).await
    }

    async fn gc(&self, dry_run: bool) -> Result<GcReport, ApiError> {
        let volume = self.volume.clone();
        let collected = blocking(move || volume.gc(dry_run)).await?;
        collected.map_err(|why| {
            tracing::warn!(why, "a round of gc did not end");
            ApiError::Internal(why)
        })
    }

    async fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.snapshots()).await
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        let volume = self.volume.clone();
        ordered(move |order| volume.snapshot(order, request)).await
    }

    async fn remove_snapshot(&self, request: RemoveRequest) -> Result<RemoveReport, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.remove_snapshot(&request)).await?
    }

    async fn diff(&self, request: DiffRequest) -> Result<DiffReport, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.diff(&request)).await?
    }

    async fn restore(
        &self,
        request: SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        let volume = self.volume.clone();
        ordered(move |order| volume.restore(order, &request)).await
    }

    async fn clone_tree(&self, request: CloneRequest) -> Result<CloneReport, ApiError> {
        let volume = self.volume.clone();
        ordered(move |order| volume.clone_tree(order, &request)).await
    }

    async fn branches(&self) -> Result<VolumeBranches, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.branches()).await?
    }

    async fn branch(&self, request: VolumeBranchRequest) -> Result<VolumeBranch, ApiError> {
        let volume = self.volume.clone();
        ordered(move |order| volume.branch(order, &request)).await
    }

    async fn drop_branch(&self, request: VolumeBranchDrop) -> Result<DropReport, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.drop_branch(&request)).await?
    }

    async fn trash(&self, request: TrashListRequest) -> Result<TrashList, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.trash(&request)).await?
    }

    async fn restore_trash(
        &self,
        request: TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError> {
        let volume = self.volume.clone();
        ordered(move |order| volume.restore_trash(order, &request)).await
    }

    async fn empty_trash(&self, request: TrashEmptyRequest) -> Result<TrashEmptyReport, ApiError> {
        let volume = self.volume.clone();
        blocking(move || volume.empty_trash(request)).await?
    }

    async fn set_budget(&self, budget: BudgetRequest) -> Result<BudgetReport, ApiError> {
        let volume = self.volume.clone();
        // A smaller budget deletes files.
        let report = blocking(move || volume.set_budget(budget)).await?;
        tracing::info!(
            cache_bytes = report.cache_bytes,
            frame_cache_bytes = report.frame_cache_bytes,
            "the caches have another size"
        );
        Ok(report)
    }
}

/// Runs `work`, which may wait for disks, where that holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a control request broke down");
        ApiError::Internal("the request broke down; the volume's log says why".into())
    })
}

/// Takes an order back when nobody waits for it any more.
struct Waiting(Arc<Order>);

impl Drop for Waiting {
    fn drop(&mut self) {
        // When it has begun it is carried out.
        let _ = self.0.take_back();
    }
}

/// The same for a change that nobody may hear of: it does not happen once whoever asked for it is gone or has waited too
/// long, unless it has begun by then. What has begun is waited for.
async fn ordered<T: Send + 'static>(
    work: impl FnOnce(&Order) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let order = Arc::new(Order::default());
    let waiting = Waiting(Arc::clone(&order));
    let mut done = std::pin::pin!(blocking(move || work(&order)));
    match tokio::time::timeout(ORDER_DEADLINE, &mut done).await {
        Ok(result) => result?,
        Err(_) if waiting.0.take_back() => Err(ApiError::DeadlineExceeded(format!(
            "it did not begin within {} s; nothing was changed",
            ORDER_DEADLINE.as_secs()
        ))),
        Err(_) => done.await?,
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Resident memory from `/proc/PID/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_taken_back() {
        let (begin, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        let asked = ordered(move |order| {
            let _ = wait.recv();
            let _ = tell.send(order.take_back());
            Ok(())
        });
        drop(tokio::time::timeout(Duration::from_millis(1), asked).await);
        begin.send(()).unwrap();
        assert!(told.await.unwrap(), "it can no longer begin");
        let done = ordered(|_| Ok(7)).await;
        assert_eq!(done.unwrap(), 7);
    }

    #[test]
    fn memory_is_read_from_the_process() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"),
            Some(1234 * 1024)
        );
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(resident_bytes(&own).unwrap() > 100 * 1024);
    }
}
