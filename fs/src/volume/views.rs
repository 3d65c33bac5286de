//! Read-only looks at one published state, each in a folder of its own beside the state that is written: the volume goes
//! on meanwhile. A view is only a cache, and is taken away by the next mount once nobody uses it.

use std::fs;
use std::path::Path;

use super::admission::{Admitted, bring_home};
use super::head::{Head, read_head};
use super::keeper::Desk;
use super::layout::{Folders, Locks};
use super::open_error::OpenError;
use super::points;
use weldrfs_blockstore::ObjectStore;

/// What the name of a view's folder begins with; the rest is the key of its newest layer.
const VIEW_PREFIX: &str = "at-";

/// One published state.
pub(super) struct View(Head);

impl View {
    /// The newest restore point that is not younger than `at_ms`.
    pub(super) fn of(desk: &Desk, at_ms: u64, now_ms: u64) -> Result<Self, OpenError> {
        let seen = desk.runtime.block_on(read_head(&*desk.store))?;
        let seen = seen.ok_or(OpenError::NoPoint { oldest_ms: None })?;
        let (_, head) = points::find(desk, &seen.head, at_ms, now_ms)?;
        Ok(Self(head))
    }

    /// What was published last, when the local state of that volume is another process'.
    ///
    /// # Errors
    /// [`OpenError::NoVolume`] while nothing was published.
    pub(super) fn newest(desk: &Desk) -> Result<Self, OpenError> {
        let seen = desk.runtime.block_on(read_head(&*desk.store))?;
        match seen {
            Some(seen) if !seen.head.layers.is_empty() => Ok(Self(seen.head)),
            _ => Err(OpenError::NoVolume(desk.store.describe())),
        }
    }

    pub(super) fn folders(&self, base: &Path, volume: &str) -> Folders {
        let key = self.0.layers.last().map_or("", |layer| layer.key.as_str());
        let name = key.rsplit('/').next().unwrap_or_default();
        Folders::below(&base.join(volume).join(format!("{VIEW_PREFIX}{name}")))
    }

    /// Fetches its metadata. What a former mount had of it is gone: see [`tidy`].
    pub(super) fn bring_home(&self, desk: &Desk, folders: &Folders) -> Result<Admitted, OpenError> {
        bring_home(desk, folders, &self.0)?;
        Ok(Admitted {
            in_store: self.0.lsn,
            keeper: None,
        })
    }
}

/// Removes the views in a state folder that nobody has mounted.
pub(super) fn tidy(state: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let is_view = entry.file_name().to_string_lossy().starts_with(VIEW_PREFIX);
        if !is_view {
            continue;
        }
        let folders = Folders::below(&entry.path());
        // Held while it is removed, so that nobody begins to use it.
        if let Ok(_lock) = Locks::take(&folders, None, true)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::debug!(%error, view = %entry.path().display(), "an old view cannot be removed");
        }
    }
}
