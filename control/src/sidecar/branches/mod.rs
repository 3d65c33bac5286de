//! Branches: copies of directories of mounts that share their content. They are directories of the volume, below
//! [`FOLDER`], so they are in the bucket like everything else; a row says what nobody can see there.
//!
//! A row is written before its branch is made and before it is removed. What rows and directories say is brought together
//! (`reconcile`) when a mount comes, and when somebody asks for the list.

mod local;
mod reconcile;
mod removal;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::events::{EventLog, kinds};
use super::host::{Clock, FoundMount, MountHost};
use super::mounts::{Mounts, without_places};
use super::names;
use super::store::{BranchRow, Mark, RowState, Store};
use super::types::MountSyncRequest;
use crate::error::ApiError;
use crate::volume::{VolumeBranchRequest, VolumeClient};

pub(super) use local::keep_room;
pub use types::{Branch, BranchList, BranchMade, BranchRequest, BranchState, BranchSynced};

/// Where branches lie, below a mount.
pub const FOLDER: &str = ".weldr/branches";
/// Most branches that are remembered.
const BRANCHES_MAX: usize = 10_000;
/// How long a request to remove a branch waits for its end.
const REMOVAL_WAIT: Duration = Duration::from_secs(2);

/// The branch that a folder of a mount belongs to.
pub(super) fn branch_of(folder: &Path) -> Option<&str> {
    let below = folder.strip_prefix(FOLDER).ok()?;
    below.iter().next()?.to_str()
}

fn folder_of(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// What branches are made with.
pub(super) struct Parts {
    pub(super) mounts: Mounts,
    pub(super) host: Arc<dyn MountHost>,
    pub(super) store: Store,
    pub(super) events: EventLog,
    pub(super) clock: Arc<dyn Clock>,
}

/// The branches of all mounts; clones are the same.
#[derive(Clone)]
pub(super) struct Branches(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// One change to the branches of a mount at a time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Those that are being removed by this process.
    removing: Mutex<BTreeSet<(String, String)>>,
}

impl Branches {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            turns: Mutex::default(),
            removing: Mutex::default(),
        }))
    }

    /// Makes a branch, or finds it.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`], [`ApiError::NotFound`] and [`ApiError::NotMounted`] about the mount,
    /// [`ApiError::Conflict`] when the branch was made from another directory, is being removed, or the mount does not know
    /// branches; what the volume says.
    pub(super) async fn create(&self, request: BranchRequest) -> Result<BranchMade, ApiError> {
        let BranchRequest { mount, path, name } = request;
        names::check_branch(&name)?;
        let project = names::below_mount(path.as_deref().unwrap_or_default())?;
        let project = project.to_string_lossy().into_owned();
        let parts = &self.0.parts;
        let found = parts.mounts.running(&mount)?;
        let _turn = self.turn(&mount).await;
        let row = self.row(&mount, &name, &found).await?;
        let now_ms = parts.clock.now_ms();
        let wanted = match &row {
            None => {
                self.has_room().await?;
                BranchRow {
                    mount: mount.clone(),
                    name: name.clone(),
                    place: found.place.clone(),
                    project: Some(project.clone()),
                    state: RowState::Creating,
                    created_ms: now_ms,
                    used_ms: now_ms,
                    dropped_ms: None,
                }
            }
            Some(row) => again(row, &project)?,
        };
        let who = format!("the new branch {name}");
        let _occupied = parts.mounts.occupy(&mount, Path::new(""), who).await?;
        // Before anything is made: a sidecar that is killed now leaves a trace.
        parts.store.put_branch(wanted.clone()).await?;
        let asked = VolumeBranchRequest {
            project: project.clone(),
            name: name.clone(),
        };
        let made = VolumeClient::new(&found.socket).branch(&asked).await;
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                // One that did not answer may have made it.
                if row.is_none() && error.advice() == crate::error::Advice::Fix {
                    parts.store.remove_branch(&mount, &name).await?;
                }
                return Err(not_made(&project, error));
            }
        };
        let ready = BranchRow {
            state: RowState::Ready,
            used_ms: parts.clock.now_ms().max(wanted.used_ms),
            dropped_ms: None,
            ..wanted
        };
        parts.store.put_branch(ready.clone()).await?;
        if made.is_new || row.is_none() {
            let of = match project.as_str() {
                "" => "all of the mount".to_owned(),
                project => project.to_owned(),
            };
            let text = format!("the branch {name} of {of} is at {}", made.path);
            let kind = kinds::BRANCH_CREATED;
            parts.events.add(kind, Some(&mount), text).await;
        }
        Ok(BranchMade {
            branch: self.shown(&ready, Some(&found)),
            is_new: made.is_new,
        })
    }

    /// The branches of `mount`, or of all, after a look at those of the mounts that run.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when there is no such mount, [`ApiError::DatabaseUnavailable`].
    pub(super) async fn list(&self, mount: Option<&str>) -> Result<BranchList, ApiError> {
        let views = self.0.parts.mounts.views();
        let wanted = |name: &str| mount.is_none_or(|mount| mount == name);
        if let Some(mount) = mount
            && views.iter().all(|view| view.mount.name != mount)
        {
            return Err(super::mounts::no_such_mount(mount));
        }
        let running = views.iter().filter(|view| wanted(&view.mount.name));
        let looks = running.filter_map(|view| {
            let found = view.running()?;
            Some(self.reconcile(&view.mount.name, found))
        });
        // One that does not answer is shown as it was.
        drop(join_all(looks).await);
        let rows = self.0.parts.store.branches().await?;
        let shown = rows.iter().filter_map(|row| {
            let view = views.iter().find(|view| view.mount.name == row.mount)?;
            wanted(&row.mount).then(|| self.shown(row, view.running()))
        });
        Ok(BranchList {
            branches: shown.collect(),
        })
    }

    /// One branch.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::DatabaseUnavailable`].
    pub(super) async fn get(&self, id: &str) -> Result<Branch, ApiError> {
        let (mount, _) = parsed(id)?;
        let list = self.list(Some(mount)).await.map_err(|error| match error {
            ApiError::NotFound(_) => no_such(id),
            other => other,
        })?;
        let mut there = list.branches.into_iter();
        there
            .find(|branch| branch.id == id)
            .ok_or_else(|| no_such(id))
    }

    /// Waits until everything of a branch is in the store, and with it everything of its mount.
    ///
    /// # Errors
    /// As [`Branches::get`], and as the sync of a mount.
    pub(super) async fn sync(
        &self,
        id: &str,
        request: MountSyncRequest,
    ) -> Result<BranchSynced, ApiError> {
        let branch = self.get(id).await?;
        let parts = &self.0.parts;
        let used = Mark::Used(parts.clock.now_ms());
        parts
            .store
            .mark_branch(&branch.mount, &branch.name, used)
            .await?;
        let synced = parts.mounts.sync(&branch.mount, request).await?;
        Ok(BranchSynced {
            id: branch.id,
            in_store_lsn: synced.in_store_lsn,
            waited_ms: synced.waited_ms,
        })
    }

    /// Waits for the turn to change the branches of a mount.
    async fn turn(&self, mount: &str) -> OwnedMutexGuard<()> {
        let turns = {
            let mut turns = self.0.turns.lock();
            // Those that nobody waits for are as good as new ones.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(mount.to_owned()).or_default())
        };
        turns.lock_owned().await
    }

    /// The row of a branch of the volume that is mounted now.
    async fn row(
        &self,
        mount: &str,
        name: &str,
        found: &FoundMount,
    ) -> Result<Option<BranchRow>, ApiError> {
        let mut rows = self.0.parts.store.branches().await?.into_iter();
        let is_it = |row: &BranchRow| row.mount == mount && row.name == name;
        Ok(rows.find(|row| is_it(row) && row.place == found.place))
    }

    async fn has_room(&self) -> Result<(), ApiError> {
        let rows = self.0.parts.store.branches().await?.len();
        if rows < BRANCHES_MAX {
            return Ok(());
        }
        Err(ApiError::LimitReached(format!(
            "there are {BRANCHES_MAX} branches, as many as there may be; remove some"
        )))
    }

    /// A row as others see it; `found` is its mount's process.
    fn shown(&self, row: &BranchRow, found: Option<&FoundMount>) -> Branch {
        let folder = folder_of(&row.name);
        let mounts = &self.0.parts.mounts;
        let views = mounts.views();
        let view = views.iter().find(|view| view.mount.name == row.mount);
        let at = view.map_or("", |view| view.mount.path.as_str());
        Branch {
            id: id_of(&row.mount, &row.name),
            mount: row.mount.clone(),
            name: row.name.clone(),
            project: row.project.clone(),
            folder: Path::new(at).join(&folder).to_string_lossy().into_owned(),
            state: match row.state {
                RowState::Removing => BranchState::Removing,
                _ if found.is_none() => BranchState::Unavailable,
                RowState::Creating => BranchState::Creating,
                RowState::Ready => BranchState::Ready,
            },
            created_ms: row.created_ms,
            used_ms: row.used_ms,
            dropped: row.dropped_ms.is_some(),
            in_use: mounts.occupants().names(&row.mount, &folder),
            path: folder.to_string_lossy().into_owned(),
        }
    }
}

fn id_of(mount: &str, name: &str) -> String {
    format!("{mount}:{name}")
}

/// The mount and the name of a branch.
fn parsed(id: &str) -> Result<(&str, &str), ApiError> {
    id.split_once(':').ok_or_else(|| no_such(id))
}

fn no_such(id: &str) -> ApiError {
    ApiError::NotFound(format!(
        "there is no branch {id:?}; GET /branches lists those there are"
    ))
}

/// What a branch that is known becomes when it is asked for again.
fn again(row: &BranchRow, project: &str) -> Result<BranchRow, ApiError> {
    if row.state == RowState::Removing {
        return Err(ApiError::Conflict(format!(
            "the branch {} is being removed; ask again once it is gone",
            row.name
        )));
    }
    if let Some(of) = row.project.as_deref().filter(|of| *of != project) {
        return Err(ApiError::Conflict(format!(
            "the branch {} is one of {of:?}, not of {project:?}; give another name",
            row.name
        )));
    }
    Ok(BranchRow {
        project: Some(project.to_owned()),
        ..row.clone()
    })
}

fn not_made(project: &str, error: ApiError) -> ApiError {
    match error {
        ApiError::NotFound(_) => too_old(),
        ApiError::InvalidRequest(text) => ApiError::InvalidRequest(format!(
            "{project:?} cannot be branched, path takes a directory of the mount: {text}"
        )),
        other => without_places(other),
    }
}

fn too_old() -> ApiError {
    ApiError::Conflict(
        "the mount runs an older version, which knows no branches; unmount and mount it again"
            .into(),
    )
}
