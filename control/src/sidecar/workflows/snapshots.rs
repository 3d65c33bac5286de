//! Snapshots for runs: made under a name that is known before, so that one that was made and not written down is found
//! again. Older ones of the same project go by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::Parts;
use crate::error::{Advice, ApiError};
use crate::volume::{RemoveRequest, SnapshotInfo, SnapshotRequest, VolumeClient};

/// Who makes those that go with their run.
pub(super) const OWNER: &str = "workflow";
/// Who makes those that a step asks for, and that stay.
pub(super) const STEP_OWNER: &str = "workflow step";
/// Of how many runs of a project, the newest, the snapshots are kept.
pub(super) const RUNS_KEPT: i64 = 20;
/// Of how many runs they are removed for one list of all: a list of many is long.
const REMOVED: u32 = 64;
/// Of how many runs they are removed when a volume can have no more.
const MADE_ROOM: u32 = 16;
/// How many snapshots the runs of a mount may come to that go on at the same time. A volume has 10,000 at most, and there are
/// those of people and of runs that are over.
const ROOM: usize = 8000;
/// How long a volume that does not answer is waited for: its process is started again when it dies.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(500);

/// Makes the snapshot `name` of `owner` with `note`, or finds it made.
///
/// # Errors
/// What the volume says; [`ApiError::Conflict`] when another one has the name.
pub(super) async fn take(
    parts: &Parts,
    mount: &str,
    (name, owner): (&str, &str),
    note: &str,
) -> Result<(), ApiError> {
    let request = SnapshotRequest {
        name: Some(name.to_owned()),
        note: note.to_owned(),
        owner: owner.to_owned(),
        // They go with the runs, not by their age: a run must be able to go back.
        automatic: false,
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = async {
            let volume = parts.mounts.volume(mount)?;
            match volume.snapshot(&request).await {
                Err(ApiError::InvalidRequest(text)) => {
                    let all = volume.snapshots().await?.snapshots;
                    let same = all.iter().find(|one| one.name == name);
                    match same {
                        Some(same) if same.owner == owner && same.note == note => Ok(()),
                        Some(_) => Err(ApiError::Conflict(format!(
                            "there is a snapshot {name} already, and it is another one"
                        ))),
                        None => Err(ApiError::InvalidRequest(text)),
                    }
                }
                done => done.map(drop),
            }
        };
        match asked.await {
            Err(ApiError::LimitReached(_)) if Instant::now() < deadline => {
                if make_room(parts, mount).await == 0 {
                    sleep(AGAIN).await;
                }
            }
            Err(error) if may_pass(&error) && Instant::now() < deadline => sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// Room for the snapshots of runs that go on at the same time, by mount; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

impl Room {
    /// Waits until there is room for a run of so many steps on `mount`; those who asked before have theirs first. It is given
    /// back when this is dropped.
    pub(super) async fn take(&self, mount: &str, steps: usize) -> Option<OwnedSemaphorePermit> {
        let all = {
            let mut mounts = self.0.lock();
            let all = mounts.entry(mount.to_owned());
            Arc::clone(all.or_insert_with(|| Arc::new(Semaphore::new(ROOM))))
        };
        // Before the first step, and after each.
        let own = u32::try_from((steps + 1).min(ROOM)).unwrap_or(1);
        // Nobody closes it.
        all.acquire_many_owned(own).await.ok()
    }
}

/// A volume can have no more: those of the oldest runs on it go before their time. Of how many runs.
async fn make_room(parts: &Parts, mount: &str) -> usize {
    let Ok(_turn) = parts.removing.acquire().await else {
        return 0;
    };
    let now_ms = parts.clock.now_ms();
    let oldest = parts
        .store
        .oldest_with_snapshots(mount, now_ms, MADE_ROOM)
        .await;
    let oldest = oldest.unwrap_or_default();
    let removed = remove_of(parts, mount, (&oldest, now_ms), None).await.len();
    if removed > 0 {
        tracing::warn!(
            mount,
            removed,
            "the volume can have no more snapshots: those of the oldest runs are removed"
        );
    }
    removed
}

/// Whether the same question may go better later.
pub(super) fn may_pass(error: &ApiError) -> bool {
    error.advice() == Advice::Retry || matches!(error, ApiError::Unreachable(_))
}

/// Whether a run's own snapshots are among those that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Kept,
    Removed,
}

/// Removes snapshots of older runs of a project, for the run `own`. What goes wrong is for the next time.
pub(super) async fn remove_old(parts: &Parts, mount: &str, path: &str, own: &str) -> Own {
    // One after the other: many runs end at the same time, and each would have a list of all snapshots in memory. Who comes
    // later finds nothing left.
    let Ok(_turn) = parts.removing.acquire().await else {
        return Own::Kept;
    };
    let now_ms = parts.clock.now_ms();
    let asked = parts
        .store
        .old_snapshots(mount, path, RUNS_KEPT, REMOVED)
        .await;
    let old = asked.unwrap_or_default();
    let removed = remove_of(parts, mount, (&old, now_ms), Some(own)).await;
    match removed.iter().any(|run| run == own) {
        true => Own::Removed,
        false => Own::Kept,
    }
}

/// Removes snapshots of runs that are too many, wherever they ran; of how many runs. Of a mount that does not run, they are
/// for the next time; of one that the sidecar does not know any more, they stay where they are.
pub(super) async fn remove_surplus(parts: &Parts) -> usize {
    let Ok(_turn) = parts.removing.acquire().await else {
        return 0;
    };
    let now_ms = parts.clock.now_ms();
    let store = &parts.store;
    let mut removed = 0;
    for mount in store.mounts_with_surplus(now_ms).await.unwrap_or_default() {
        let asked = store.surplus_with_snapshots(&mount, now_ms, REMOVED);
        let runs = asked.await.unwrap_or_default();
        removed += remove_of(parts, &mount, (&runs, now_ms), None).await.len();
    }
    removed
}

/// Removes the snapshots of `runs`, which were over and not just reverted at `since_ms`; of which of them. `own` is the
/// caller's.
async fn remove_of(
    parts: &Parts,
    mount: &str,
    (runs, since_ms): (&[String], u64),
    own: Option<&str>,
) -> Vec<String> {
    let mut removed = Vec::new();
    if runs.is_empty() {
        return removed;
    }
    let all = match parts.mounts.volume(mount) {
        Ok(volume) => match volume.snapshots().await {
            Ok(all) => Some((volume, all.snapshots)),
            Err(_) => return removed,
        },
        Err(ApiError::NotFound(_)) if own.is_none() => None,
        Err(_) => return removed,
    };
    for run in runs {
        // Somebody may be about to try it again or to revert it; what cannot be asked is for the next time.
        let reserved = parts.registry.reserve(run);
        let is_ours = reserved.is_some() || own == Some(run);
        let rests = parts.store.is_at_rest(run, since_ms);
        if !is_ours || !rests.await.unwrap_or(false) {
            continue;
        }
        if let Some((volume, all)) = &all
            && let Err(error) = remove_its(volume, all, run).await
        {
            tracing::warn!(%error, run, "snapshots of an older run stay");
            return removed;
        }
        // An error leaves names of snapshots that are gone; they are looked for again the next time.
        if parts.store.forget_snapshots(run).await.is_ok() {
            removed.push(run.clone());
        }
        drop(reserved);
    }
    removed
}

async fn remove_its(
    volume: &VolumeClient,
    all: &[SnapshotInfo],
    run: &str,
) -> Result<(), ApiError> {
    let its = all
        .iter()
        .filter(|one| one.owner == OWNER && is_of(&one.name, run));
    for one in its {
        let name = one.name.clone();
        match volume.remove_snapshot(&RemoveRequest { name }).await {
            // Somebody removed it before.
            Ok(_) | Err(ApiError::InvalidRequest(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a run made the snapshot `name` for itself: before a step, after one, or before it was reverted.
fn is_of(name: &str, run: &str) -> bool {
    let rest = name
        .strip_prefix("run-")
        .and_then(|rest| rest.strip_prefix(run));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_told_apart_by_their_run() {
        for (name, is_its) in [
            ("run-1a-2", true),
            ("run-1a-2-build", true),
            ("run-1a-2-build.3", true),
            ("run-1a-2.before-revert-1", true),
            ("run-1a-21", false),
            ("run-1a-21-build", false),
            ("release-1", false),
            ("1a-2", false),
        ] {
            assert_eq!(is_of(name, "1a-2"), is_its, "{name}");
        }
    }
}
