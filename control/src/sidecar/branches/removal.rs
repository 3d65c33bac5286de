//! Removing a branch: refused while something uses it, begun at once, and done behind the answer.

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Branch, BranchState, Branches, REMOVAL_WAIT, folder_of, no_such, parsed};
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::host::FoundMount;
use crate::sidecar::mounts::{Occupied, Vacated};
use crate::sidecar::public::without_places;
use crate::sidecar::store::{BranchRow, RowState};

/// A branch that nothing runs on, nor begins to, on a mount that is not unmounted meanwhile.
struct Clear {
    occupied: Occupied,
    vacated: Vacated,
}

impl Branches {
    /// Begins to remove a branch, waits a moment for the end, and says how far it is.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::NotMounted`], [`ApiError::InUse`] with what uses it.
    pub(in crate::sidecar) async fn remove(&self, id: &str) -> Result<Branch, ApiError> {
        let (mount, name) = parsed(id)?;
        // Of a branch that is not known yet there is a row afterwards.
        let branch = self.get(id).await?;
        let parts = &self.0.parts;
        let found = parts.mounts.running(mount)?;
        let turn = self.turn(mount).await;
        let row = self.row(mount, name, &found).await?;
        let row = row.ok_or_else(|| no_such(id))?;
        if row.state == RowState::Removing {
            return Ok(self.shown(&row, Some(&found)));
        }
        let clear = self.clear(&row, &found).await?;
        let row = BranchRow {
            state: RowState::Removing,
            ..row
        };
        // Before anything is removed: what a killed sidecar has begun is brought to its end.
        parts.store.put_branch(row.clone()).await?;
        let text = format!("the branch {name} is being removed");
        let kind = kinds::BRANCH_REMOVING;
        parts.events.add(kind, Some(mount), text).await;
        let done = self.begin(row.clone(), found.clone(), clear);
        drop(turn);
        match timeout(REMOVAL_WAIT, done).await {
            Ok(Ok(true)) => Ok(Branch {
                state: BranchState::Removed,
                ..branch
            }),
            _ => Ok(self.shown(&row, Some(&found))),
        }
    }

    /// Goes on with a removal that another sidecar, or a failed attempt, left.
    pub(super) async fn go_on_removing(&self, row: &BranchRow, found: &FoundMount) {
        if self.is_removing(&row.mount, &row.name) {
            return;
        }
        match self.clear(row, found).await {
            Ok(clear) => drop(self.begin(row.clone(), found.clone(), clear)),
            // The next look at the branches tries again.
            Err(error) => {
                tracing::warn!(%error, branch = row.name, "its removal cannot go on yet");
            }
        }
    }

    pub(super) fn is_removing(&self, mount: &str, name: &str) -> bool {
        let removing = self.0.removing.lock();
        removing.contains(&(mount.to_owned(), name.to_owned()))
    }

    /// Sees to it that nothing uses a branch.
    async fn clear(&self, row: &BranchRow, found: &FoundMount) -> Result<Clear, ApiError> {
        let parts = &self.0.parts;
        let folder = folder_of(&row.name);
        let reason = format!("the branch {} is being removed", row.name);
        let occupants = parts.mounts.occupants();
        let vacated = occupants.vacate(&row.mount, &folder, reason)?;
        let users = parts.host.users(&found.path.join(&folder)).await;
        if !users.is_empty() {
            return Err(ApiError::InUse(format!(
                "it is used by {}; end that, then try again",
                users.join(", ")
            )));
        }
        let who = format!("the removal of the branch {}", row.name);
        // All of the mount: the branch itself is closed.
        let all = std::path::Path::new("");
        let occupied = parts.mounts.occupy(&row.mount, all, who).await?;
        Ok(Clear { occupied, vacated })
    }

    /// Removes a branch in a task of its own, which says whether it is gone.
    fn begin(&self, row: BranchRow, found: FoundMount, clear: Clear) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        let key = (row.mount.clone(), row.name.clone());
        self.0.removing.lock().insert(key.clone());
        let branches = self.clone();
        tokio::spawn(async move {
            let is_gone = branches.do_remove(&row, &found).await;
            branches.0.removing.lock().remove(&key);
            drop((clear.occupied, clear.vacated));
            // Whoever asked may have stopped waiting.
            let _ = tell.send(is_gone);
        });
        told
    }

    async fn do_remove(&self, row: &BranchRow, found: &FoundMount) -> bool {
        let parts = &self.0.parts;
        let folder = folder_of(&row.name);
        let removed = parts.host.remove_folder(&found.path, &folder).await;
        let (kind, text) = match removed {
            Ok(()) => {
                // A row that stays is found to be of nothing by the next look.
                drop(parts.store.remove_branch(&row.mount, &row.name).await);
                (kinds::BRANCH_REMOVED, "was removed".to_owned())
            }
            Err(error) => {
                tracing::error!(%error, mount = row.mount, branch = row.name, "a branch is not removed");
                let reason = without_places(&error.to_string(), &[]);
                let text = format!("is not removed yet: {reason}; it is tried again");
                (kinds::BRANCH_FAILED, text)
            }
        };
        let text = format!("the branch {} {text}", row.name);
        parts.events.add(kind, Some(&row.mount), text).await;
        kind == kinds::BRANCH_REMOVED
    }
}
