//! A volume that is only a socket, and what it holds: names of snapshots and branches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::error::ApiError;
use crate::sidecar::branches::FOLDER;
use crate::volume::{
    BudgetReport, BudgetRequest, CloneReport, CloneRequest, DiffReport, DiffRequest,
    DifferenceInfo, DifferenceKind, DropReport, GcReport, LastError, RemoveReport, RemoveRequest,
    SnapshotInfo, SnapshotList, SnapshotRequest, SnapshotRestoreReport, SnapshotRestoreRequest,
    SyncReport, TrashEmptyReport, TrashEmptyRequest, TrashList, TrashListRequest,
    TrashRestoreReport, TrashRestoreRequest, VolumeApi, VolumeBranch, VolumeBranchDrop,
    VolumeBranchRequest, VolumeBranches, VolumeStatus,
};

/// What a volume holds.
#[derive(Default)]
pub(in crate::sidecar) struct FakeTree {
    pub(in crate::sidecar) snapshots: Vec<SnapshotInfo>,
    /// All that is in its files, and was at snapshots.
    pub(in crate::sidecar) present: String,
    pub(in crate::sidecar) contents: BTreeMap<String, String>,
    pub(in crate::sidecar) branches: BTreeSet<String>,
    /// How many paths differ from any snapshot.
    pub(in crate::sidecar) differences: usize,
    /// Bytes of local copies that only a branch uses.
    pub(in crate::sidecar) own_bytes: BTreeMap<String, u64>,
    /// Bytes of branches that are not in the store.
    pub(in crate::sidecar) unsynced_bytes: BTreeMap<String, u64>,
    /// Branches that were asked to drop their local copies, in order.
    pub(in crate::sidecar) dropped: Vec<(String, u64)>,
    /// The next request about snapshots or branches fails so.
    pub(in crate::sidecar) failure: Option<ApiError>,
    /// How many snapshots there may be.
    pub(in crate::sidecar) snapshots_max: Option<usize>,
    /// How many snapshots there ever were.
    made: u64,
}

impl FakeTree {
    /// Bytes that were given back.
    pub(in crate::sidecar) fn freed(&self) -> u64 {
        self.dropped.iter().map(|(_, bytes)| bytes).sum()
    }

    fn fails(&mut self) -> Result<(), ApiError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    fn add(&mut self, name: String, note: String, owner: String) -> SnapshotInfo {
        self.made += 1;
        let made = SnapshotInfo {
            name,
            note,
            owner,
            made_ms: self.made,
            lsn: self.made,
            epoch: self.made,
            kept: true,
        };
        self.contents
            .insert(made.name.clone(), self.present.clone());
        self.snapshots.push(made.clone());
        made
    }

    fn has(&self, name: &str) -> Result<(), ApiError> {
        match self.snapshots.iter().any(|s| s.name == name) {
            true => Ok(()),
            false => Err(ApiError::InvalidRequest(format!(
                "there is no snapshot {name}"
            ))),
        }
    }
}

/// A volume that is only a socket.
pub(super) struct FakeVolume {
    pub(super) budget: Mutex<Option<BudgetRequest>>,
    pub(super) is_old: bool,
    pub(super) sync_failure: Arc<Mutex<Option<ApiError>>>,
    pub(super) tree: Arc<Mutex<FakeTree>>,
}

impl FakeVolume {
    /// What a version answers that does not know a path.
    fn knows(&self, path: &str) -> Result<(), ApiError> {
        match self.is_old {
            true => Err(ApiError::NotFound(format!(
                "this volume's API has no {path}"
            ))),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl VolumeApi for FakeVolume {
    async fn status(&self) -> Result<VolumeStatus, ApiError> {
        let mut status = VolumeStatus {
            memory_resident_bytes: 4321,
            ..VolumeStatus::default()
        };
        status.volume.state_dir = "/secret/place".into();
        status.store.put.requests = 17;
        status.last_error = Some(LastError {
            at_ms: 1,
            message: "cannot read /secret/place/meta from s3://bucket".into(),
        });
        Ok(status)
    }

    async fn sync(&self, deadline: Duration) -> Result<SyncReport, ApiError> {
        if let Some(error) = self.sync_failure.lock().take() {
            return Err(error);
        }
        if deadline < Duration::from_millis(10) {
            return Err(ApiError::DeadlineExceeded("3 records are left".into()));
        }
        Ok(SyncReport {
            in_store_lsn: 9,
            waited_ms: 1,
        })
    }

    async fn drop_caches(&self) -> Result<DropReport, ApiError> {
        Ok(DropReport::default())
    }

    async fn gc(&self, _dry_run: bool) -> Result<GcReport, ApiError> {
        Ok(GcReport::default())
    }

    async fn snapshots(&self) -> Result<SnapshotList, ApiError> {
        Ok(SnapshotList {
            snapshots: self.tree.lock().snapshots.clone(),
        })
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotInfo, ApiError> {
        let mut tree = self.tree.lock();
        tree.fails()?;
        let name = request
            .name
            .unwrap_or_else(|| format!("time-{}", tree.made + 1));
        if tree.has(&name).is_ok() {
            let text = format!("there is a snapshot {name} already");
            return Err(ApiError::InvalidRequest(text));
        }
        if name.is_empty() || name.contains('/') {
            return Err(ApiError::InvalidRequest("that is no name".into()));
        }
        if tree
            .snapshots_max
            .is_some_and(|most| tree.snapshots.len() >= most)
        {
            return Err(ApiError::LimitReached(
                "there are too many snapshots".into(),
            ));
        }
        Ok(tree.add(name, request.note, request.owner))
    }

    async fn remove_snapshot(&self, request: RemoveRequest) -> Result<RemoveReport, ApiError> {
        let mut tree = self.tree.lock();
        tree.fails()?;
        tree.has(&request.name)?;
        tree.snapshots.retain(|s| s.name != request.name);
        Ok(RemoveReport {})
    }

    async fn diff(&self, request: DiffRequest) -> Result<DiffReport, ApiError> {
        let mut tree = self.tree.lock();
        tree.fails()?;
        tree.has(&request.older)?;
        let kinds = [
            DifferenceKind::Created,
            DifferenceKind::Deleted,
            DifferenceKind::Renamed,
            DifferenceKind::Changed,
        ];
        let differences = (0..tree.differences).zip(kinds.into_iter().cycle());
        let differences = differences.map(|(n, kind)| DifferenceInfo {
            path: format!("{}file-{n:06}", request.path),
            kind,
            bytes_before: Some(1),
            bytes_after: Some(3),
            ..DifferenceInfo::default()
        });
        Ok(DiffReport {
            differences: differences.collect(),
            left_out: 0,
        })
    }

    async fn restore(
        &self,
        request: SnapshotRestoreRequest,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        let mut tree = self.tree.lock();
        tree.fails()?;
        tree.has(&request.name)?;
        let mut names = std::mem::take(&mut tree.differences) as u64;
        let content = tree
            .contents
            .get(&request.name)
            .cloned()
            .unwrap_or_default();
        names += u64::from(content != tree.present);
        let safety = (names > 0).then(|| {
            let name = format!("before-restore-{}", tree.made + 1);
            tree.add(name, String::new(), "restore".into())
        });
        tree.present = content;
        Ok(SnapshotRestoreReport {
            safety,
            names,
            late_writes: 0,
        })
    }

    async fn clone_tree(&self, _request: CloneRequest) -> Result<CloneReport, ApiError> {
        Ok(CloneReport::default())
    }

    async fn branches(&self) -> Result<VolumeBranches, ApiError> {
        self.knows("/v1/branches")?;
        Ok(VolumeBranches {
            names: self.tree.lock().branches.iter().cloned().collect(),
        })
    }

    async fn branch(&self, request: VolumeBranchRequest) -> Result<VolumeBranch, ApiError> {
        self.knows("/v1/branches")?;
        let mut tree = self.tree.lock();
        tree.fails()?;
        if request.project == "missing" {
            return Err(ApiError::InvalidRequest("no such file".into()));
        }
        Ok(VolumeBranch {
            path: format!("{FOLDER}/{}", request.name),
            is_new: tree.branches.insert(request.name),
        })
    }

    async fn drop_branch(&self, request: VolumeBranchDrop) -> Result<DropReport, ApiError> {
        let mut tree = self.tree.lock();
        let name = request.name;
        let kept_bytes = tree.unsynced_bytes.get(&name).copied().unwrap_or(0);
        let freed_bytes = match kept_bytes {
            0 => tree.own_bytes.remove(&name).unwrap_or(0),
            _ => 0,
        };
        tree.dropped.push((name, freed_bytes));
        Ok(DropReport {
            freed_bytes,
            kept_bytes,
        })
    }

    async fn trash(&self, _request: TrashListRequest) -> Result<TrashList, ApiError> {
        Err(no_trash())
    }

    async fn restore_trash(
        &self,
        _request: TrashRestoreRequest,
    ) -> Result<TrashRestoreReport, ApiError> {
        Err(no_trash())
    }

    async fn empty_trash(&self, _request: TrashEmptyRequest) -> Result<TrashEmptyReport, ApiError> {
        Err(no_trash())
    }

    async fn set_budget(&self, budget: BudgetRequest) -> Result<BudgetReport, ApiError> {
        self.knows("/v1/budget")?;
        *self.budget.lock() = Some(budget);
        Ok(BudgetReport::default())
    }
}

/// The sidecar asks nobody for their trash.
fn no_trash() -> ApiError {
    ApiError::Internal("this volume has no trash".into())
}
