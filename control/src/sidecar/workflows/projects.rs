//! Who works in which project of a mount: runs beside each other, a revert alone. A revert makes a project what it was; a run
//! that went on in it meanwhile would lose its work.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The projects; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Projects(Arc<Inner>);

#[derive(Default)]
struct Inner {
    held: Mutex<Held>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    last: u64,
    all: Vec<(u64, Project)>,
}

/// A folder of a mount, and who works in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Project {
    pub(super) run: String,
    pub(super) mount: String,
    pub(super) path: String,
    /// Nobody else may be in it.
    pub(super) alone: bool,
}

impl Project {
    /// Whether both cannot be there at the same time. A run is never in its own way.
    fn excludes(&self, other: &Self) -> bool {
        let within = |a: &str, b: &str| Path::new(a).starts_with(b);
        self.run != other.run
            && self.mount == other.mount
            && (self.alone || other.alone)
            && (within(&self.path, &other.path) || within(&other.path, &self.path))
    }
}

/// A project that is worked in until this is dropped.
pub(super) struct Inside {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.inner.held.lock().all.retain(|(id, _)| *id != self.id);
        self.inner.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl Projects {
    /// Goes in.
    ///
    /// # Errors
    /// The run that is in the way.
    pub(super) fn enter(&self, project: &Project) -> Result<Inside, String> {
        let mut held = self.0.held.lock();
        let other = held.all.iter().find(|(_, other)| project.excludes(other));
        if let Some((_, other)) = other {
            return Err(other.run.clone());
        }
        held.last += 1;
        let id = held.last;
        held.all.push((id, project.clone()));
        Ok(Inside {
            inner: Arc::clone(&self.0),
            id,
        })
    }

    /// Goes in once nobody is in the way.
    pub(super) async fn wait(&self, project: &Project) -> Inside {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Ok(inside) = self.enter(project) {
                return inside;
            }
            // The sender is a part of what is borrowed here.
            drop(changed.changed().await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(run: &str, path: &str, alone: bool) -> Project {
        Project {
            run: run.into(),
            mount: "m".into(),
            path: path.into(),
            alone,
        }
    }

    #[tokio::test]
    async fn runs_are_beside_each_other_and_a_revert_is_alone() {
        let projects = Projects::default();
        let first = projects.enter(&project("1", "app", false)).ok().unwrap();
        let second = projects.enter(&project("2", "app", false)).ok().unwrap();
        for path in ["", "app", "app/deep"] {
            let refused = projects.enter(&project("3", path, true)).err();
            assert!(refused.is_some(), "{path}");
        }
        let other = projects.enter(&project("3", "apple", true)).ok().unwrap();
        assert!(projects.enter(&project("4", "apple", false)).is_err());
        drop(other);
        // Its own run is not in the way of a revert.
        drop(second);
        let revert = projects.enter(&project("1", "app", true)).ok().unwrap();
        drop(first);
        let waits = project("2", "", false);
        let waiting = projects.wait(&waits);
        tokio::pin!(waiting);
        let soon = tokio::time::timeout(std::time::Duration::ZERO, &mut waiting);
        assert!(soon.await.is_err());
        drop(revert);
        waiting.await;
    }
}
