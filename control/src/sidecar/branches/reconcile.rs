//! Brings rows and directories together: the directories of a volume are what is there, rows are what was wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::{Branches, folder_of, too_old};
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::host::FoundMount;
use crate::sidecar::mounts::without_places;
use crate::sidecar::names;
use crate::sidecar::store::{BranchRow, RowState};
use crate::volume::VolumeClient;

/// How long a volume may take to say what branches it has, and how long a look waits for a change that is under way.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

fn late(_: Elapsed) -> ApiError {
    ApiError::DeadlineExceeded("the mount does not say which branches it has".into())
}

/// What a row and a directory come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The directory is there and has no row.
    Found(String),
    /// It was being made when a sidecar was killed, and was.
    Made(BranchRow),
    /// It was being made and was not, or its directory is gone.
    Lost(BranchRow),
    /// Its removal was begun.
    Remove(BranchRow),
    /// Its removal was begun, and is done.
    Removed(BranchRow),
    /// The mount of this name is of another volume now.
    Other(BranchRow),
}

/// What has to be done about `rows`, those of the mount of the volume at `place`, which has the branches `there`.
pub(super) fn steps(rows: &[BranchRow], there: &BTreeSet<String>, place: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for row in rows {
        let row = row.clone();
        let is_there = there.contains(&row.name);
        steps.push(match row.state {
            _ if row.place != place => Step::Other(row),
            RowState::Ready if is_there => continue,
            RowState::Creating if is_there => Step::Made(row),
            RowState::Removing if is_there => Step::Remove(row),
            RowState::Ready | RowState::Creating => Step::Lost(row),
            RowState::Removing => Step::Removed(row),
        });
    }
    let known: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.place == place)
        .map(|row| row.name.as_str())
        .collect();
    let unknown = there.iter().filter(|name| !known.contains(name.as_str()));
    // Others are directories that no request could name.
    let unknown = unknown.filter(|name| names::check_branch(name).is_ok());
    steps.extend(unknown.map(|name| Step::Found(name.clone())));
    steps
}

impl Branches {
    /// Brings the rows of `mount` and the directories of its volume together.
    ///
    /// # Errors
    /// When the volume or the database does not answer: nothing is concluded from silence.
    pub(super) async fn reconcile(&self, mount: &str, found: &FoundMount) -> Result<(), ApiError> {
        let _turn = timeout(LOOK_DEADLINE, self.turn(mount))
            .await
            .map_err(late)?;
        let volume = VolumeClient::new(&found.socket);
        let there = timeout(LOOK_DEADLINE, volume.branches()).await;
        let there = there.map_err(late)?.map_err(|error| match error {
            ApiError::NotFound(_) => too_old(),
            other => without_places(other),
        })?;
        let there: BTreeSet<String> = there.names.into_iter().collect();
        let mut rows = self.0.parts.store.branches().await?;
        rows.retain(|row| row.mount == mount);
        for step in steps(&rows, &there, &found.place) {
            self.take(mount, found, step).await?;
        }
        Ok(())
    }

    async fn take(&self, mount: &str, found: &FoundMount, step: Step) -> Result<(), ApiError> {
        let parts = &self.0.parts;
        let now_ms = parts.clock.now_ms();
        let (kind, text) = match step {
            Step::Found(name) => {
                let path = folder_of(&name);
                let text = format!("there is a branch {name} at {}", path.display());
                let row = BranchRow {
                    mount: mount.to_owned(),
                    name,
                    place: found.place.clone(),
                    project: None,
                    state: RowState::Ready,
                    created_ms: now_ms,
                    used_ms: now_ms,
                    dropped_ms: None,
                };
                parts.store.put_branch(row).await?;
                (kinds::BRANCH_FOUND, text)
            }
            Step::Made(row) => {
                let text = format!("the branch {} was made", row.name);
                let state = RowState::Ready;
                parts.store.put_branch(BranchRow { state, ..row }).await?;
                (kinds::BRANCH_CREATED, text)
            }
            Step::Lost(row) => {
                parts.store.remove_branch(mount, &row.name).await?;
                let text = match row.state {
                    RowState::Creating => "was not made; the sidecar that was asked for it ended",
                    _ => "is gone; its directory was removed beside the sidecar",
                };
                (
                    kinds::BRANCH_LOST,
                    format!("the branch {} {text}", row.name),
                )
            }
            Step::Remove(row) => {
                self.go_on_removing(&row, found).await;
                return Ok(());
            }
            Step::Removed(row) => {
                if self.is_removing(mount, &row.name) {
                    // Whoever removes it says so.
                    return Ok(());
                }
                parts.store.remove_branch(mount, &row.name).await?;
                let text = format!("the branch {} was removed", row.name);
                (kinds::BRANCH_REMOVED, text)
            }
            Step::Other(row) => {
                parts.store.remove_branch(mount, &row.name).await?;
                let text = "was one of another volume, which had this mount's name";
                (
                    kinds::BRANCH_LOST,
                    format!("the branch {} {text}", row.name),
                )
            }
        };
        parts.events.add(kind, Some(mount), text).await;
        Ok(())
    }
}
