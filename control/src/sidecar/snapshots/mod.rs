//! Snapshots of mounts: asks the volume that has them, names what went wrong, and tells that something changed. Keeps
//! nothing itself.

mod types;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::at_rest::at_rest;
use super::events::{EventLog, kinds};
use super::idempotency::Attempt;
use super::mounts::{Mounts, without_places};
use super::names;
use crate::error::ApiError;
use crate::volume::{
    DIFFERENCES_MAX, DiffReport, DiffRequest, DifferenceKind, RemoveRequest, SnapshotInfo,
    SnapshotList, SnapshotRequest, SnapshotRestoreRequest, VolumeClient,
};

pub use types::{DiffStat, MountDiff, MountRestoreRequest, MountRestored, MountSnapshotRequest};

/// Differences that are told at a time unless asked otherwise, and at most.
pub(super) const LIMIT: usize = 1_000;
pub(super) const LIMIT_MAX: usize = 10_000;
/// Comparisons at a time: the answer of a volume may be tens of megabytes.
const DIFFS_MAX: usize = 2;

/// What is compared, and which part of the answer is wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct DiffOrder {
    pub(super) to: Option<String>,
    pub(super) path: Option<String>,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

/// Snapshots of all mounts; clones are the same.
#[derive(Clone)]
pub(super) struct Snapshots {
    mounts: Mounts,
    events: EventLog,
    diffs: Arc<Semaphore>,
}

impl Snapshots {
    pub(super) fn new(mounts: Mounts, events: EventLog) -> Self {
        Self {
            mounts,
            events,
            diffs: Arc::new(Semaphore::new(DIFFS_MAX)),
        }
    }

    /// All of a mount, oldest first.
    ///
    /// # Errors
    /// As all of these: [`ApiError::NotFound`], [`ApiError::NotMounted`], and what the volume says.
    pub(super) async fn list(&self, mount: &str) -> Result<SnapshotList, ApiError> {
        all(&self.mounts.volume(mount)?).await
    }

    /// One of them.
    pub(super) async fn get(&self, mount: &str, id: &str) -> Result<SnapshotInfo, ApiError> {
        known(&self.mounts.volume(mount)?, id).await
    }

    /// Makes one. An attempt that may have made it already finds it.
    ///
    /// # Errors
    /// Also [`ApiError::Conflict`] when the name is taken.
    pub(super) async fn create(
        &self,
        mount: &str,
        request: MountSnapshotRequest,
        attempt: Option<Attempt>,
    ) -> Result<SnapshotInfo, ApiError> {
        let volume = self.mounts.volume(mount)?;
        // What it is found by if nobody knows how an attempt ended.
        let owner = attempt
            .as_ref()
            .map(|attempt| format!("request {}", attempt.id));
        if attempt.is_some_and(|attempt| attempt.is_again) {
            let there = all(&volume).await?.snapshots.into_iter();
            if let Some(made) = there.rev().find(|s| Some(&s.owner) == owner.as_ref()) {
                return Ok(made);
            }
        }
        let _occupied = self.occupy(mount, "a new snapshot").await?;
        let asked = SnapshotRequest {
            name: request.name,
            note: request.note,
            owner: owner.unwrap_or_default(),
            automatic: request.automatic,
        };
        let made = match volume.snapshot(&asked).await {
            Ok(made) => made,
            Err(error) => return Err(taken(&volume, asked.name.as_deref(), error).await),
        };
        let text = format!("the snapshot {} was made", made.name);
        let events = &self.events;
        events.add(kinds::SNAPSHOT_CREATED, Some(mount), text).await;
        Ok(made)
    }

    /// Removes one, and returns what it was.
    pub(super) async fn remove(&self, mount: &str, id: &str) -> Result<SnapshotInfo, ApiError> {
        let volume = self.mounts.volume(mount)?;
        let snapshot = known(&volume, id).await?;
        let _occupied = self.occupy(mount, "the removal of a snapshot").await?;
        let name = id.to_owned();
        if let Err(error) = volume.remove_snapshot(&RemoveRequest { name }).await {
            return Err(gone(&volume, &[id], error).await);
        }
        let text = format!("the snapshot {id} was removed");
        let events = &self.events;
        events.add(kinds::SNAPSHOT_REMOVED, Some(mount), text).await;
        Ok(snapshot)
    }

    /// Goes back to one. An attempt whose predecessor ended nobody knows where does nothing if everything is as it was.
    pub(super) async fn restore(
        &self,
        mount: &str,
        id: &str,
        request: MountRestoreRequest,
    ) -> Result<MountRestored, ApiError> {
        let path = path_of(request.path.as_deref())?;
        let volume = self.mounts.volume(mount)?;
        known(&volume, id).await?;
        let occupied = self.occupy(mount, "the restoring of a snapshot").await?;
        let _at_rest = at_rest(&occupied, Path::new(&path)).await?;
        let asked = SnapshotRestoreRequest {
            name: id.to_owned(),
            path: path.clone(),
            path_base64: None,
        };
        let restored = match volume.restore(&asked).await {
            Ok(restored) => restored,
            Err(error) => return Err(gone(&volume, &[id], error).await),
        };
        let what = match path.as_str() {
            "" => "everything",
            path => path,
        };
        let text = match &restored.safety {
            None => format!("{what} was as it was at the snapshot {id}"),
            Some(safety) => format!(
                "{what} is as it was at the snapshot {id}; what was there before is the snapshot {}",
                safety.name
            ),
        };
        let events = &self.events;
        events
            .add(kinds::SNAPSHOT_RESTORED, Some(mount), text)
            .await;
        Ok(MountRestored {
            mount: mount.to_owned(),
            snapshot: id.to_owned(),
            path,
            safety: restored.safety,
            names: restored.names,
            late_writes: restored.late_writes,
        })
    }

    /// What differs between one and a newer one, or the present.
    pub(super) async fn diff(
        &self,
        mount: &str,
        id: &str,
        order: DiffOrder,
    ) -> Result<MountDiff, ApiError> {
        let path = path_of(order.path.as_deref())?;
        let volume = self.mounts.volume(mount)?;
        let there = all(&volume).await?;
        for name in std::iter::once(id).chain(order.to.as_deref()) {
            if there.snapshots.iter().all(|s| s.name != name) {
                return Err(no_such(name));
            }
        }
        // Never closed.
        let _turn = self.diffs.acquire().await;
        let asked = DiffRequest {
            older: id.to_owned(),
            newer: order.to.clone(),
            path: path.clone(),
            path_base64: None,
        };
        let mut found = match volume.diff(&asked).await {
            Ok(found) => found,
            Err(error) => {
                let named: Vec<&str> = std::iter::once(id).chain(order.to.as_deref()).collect();
                return Err(gone(&volume, &named, error).await);
            }
        };
        let stat = stat(&found);
        let told = found.differences.len();
        let end = order.offset.saturating_add(order.limit).min(told);
        let differences = found.differences.drain(order.offset.min(end)..end);
        Ok(MountDiff {
            differences: differences.collect(),
            mount: mount.to_owned(),
            from: id.to_owned(),
            to: order.to,
            path,
            stat,
            next_offset: (end < told).then_some(end as u64),
        })
    }

    /// The mount is not unmounted as long as the answer lives.
    async fn occupy(&self, mount: &str, who: &str) -> Result<super::mounts::Occupied, ApiError> {
        let all = Path::new("");
        self.mounts.occupy(mount, all, who.to_owned()).await
    }
}

/// How far an `offset` may go.
pub(super) const OFFSET_MAX: usize = DIFFERENCES_MAX;

fn path_of(text: Option<&str>) -> Result<String, ApiError> {
    let path = names::below_mount(text.unwrap_or_default())?;
    Ok(path.to_string_lossy().into_owned())
}

async fn all(volume: &VolumeClient) -> Result<SnapshotList, ApiError> {
    volume.snapshots().await.map_err(without_places)
}

async fn known(volume: &VolumeClient, id: &str) -> Result<SnapshotInfo, ApiError> {
    let mut there = all(volume).await?.snapshots.into_iter();
    there.find(|s| s.name == id).ok_or_else(|| no_such(id))
}

fn no_such(id: &str) -> ApiError {
    ApiError::NotFound(format!(
        "there is no snapshot {id:?}; GET /mounts/NAME/snapshots lists those there are"
    ))
}

/// `error`, or that one of `named` is not there: it may have gone after it was looked for.
async fn gone(volume: &VolumeClient, named: &[&str], error: ApiError) -> ApiError {
    if let ApiError::InvalidRequest(_) = error
        && let Ok(there) = all(volume).await
        && let Some(name) = named
            .iter()
            .find(|name| there.snapshots.iter().all(|s| s.name != **name))
    {
        return no_such(name);
    }
    without_places(error)
}

/// `error`, or that the name is taken.
async fn taken(volume: &VolumeClient, name: Option<&str>, error: ApiError) -> ApiError {
    if let ApiError::InvalidRequest(_) = error
        && let Ok(there) = all(volume).await
        && let Some(same) = there
            .snapshots
            .iter()
            .find(|s| Some(s.name.as_str()) == name)
    {
        return ApiError::Conflict(format!(
            "there is a snapshot {:?} already; give another name, or none",
            same.name
        ));
    }
    without_places(error)
}

fn stat(found: &DiffReport) -> DiffStat {
    let mut stat = DiffStat {
        paths: found.left_out + found.differences.len() as u64,
        counted: found.differences.len() as u64,
        ..DiffStat::default()
    };
    for one in &found.differences {
        let count = match one.kind {
            DifferenceKind::Created => &mut stat.created,
            DifferenceKind::Deleted => &mut stat.deleted,
            DifferenceKind::Renamed => &mut stat.renamed,
            DifferenceKind::Changed => &mut stat.changed,
        };
        *count += 1;
        stat.bytes_before = stat
            .bytes_before
            .saturating_add(one.bytes_before.unwrap_or(0));
        stat.bytes_after = stat
            .bytes_after
            .saturating_add(one.bytes_after.unwrap_or(0));
    }
    stat
}
