//! Who works in which project of a mount: runs beside each other, a revert alone. A revert makes a project what it was; a run
//! that went on in it meanwhile would lose its work. Who waits has its turn before those who come after it.

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
    /// In the order in which they came.
    waiting: Vec<(u64, Project)>,
}

impl Held {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The run that is in the way of `project`: one that is in it, or one that waited for it before `since`. A run that is in
    /// a project already has nobody to wait for, who may wait for it.
    fn in_the_way(&self, project: &Project, since: u64) -> Option<String> {
        let is_in = self.all.iter().any(|(_, other)| other.run == project.run);
        let waiting = self.waiting.iter();
        let before = waiting.filter(|(at, _)| *at < since && !is_in);
        let others = self.all.iter().chain(before);
        let mut others = others.filter(|(_, other)| project.excludes(other));
        others.next().map(|(_, other)| other.run.clone())
    }

    fn put(&mut self, project: &Project) -> u64 {
        let id = self.next();
        self.all.push((id, project.clone()));
        id
    }
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

/// A place among those who wait, until this is dropped.
struct Place {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.inner.held.lock();
        held.waiting.retain(|(id, _)| *id != self.id);
        drop(held);
        self.inner.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl Projects {
    /// Goes in at once.
    ///
    /// # Errors
    /// The run that is in the way, or that waits for the project already.
    pub(super) fn enter(&self, project: &Project) -> Result<Inside, String> {
        self.enter_before(project, u64::MAX)
    }

    /// Goes in if nobody is in the way but those who wait since `since` or later.
    fn enter_before(&self, project: &Project, since: u64) -> Result<Inside, String> {
        let mut held = self.0.held.lock();
        if let Some(other) = held.in_the_way(project, since) {
            return Err(other);
        }
        let id = held.put(project);
        Ok(Inside {
            inner: Arc::clone(&self.0),
            id,
        })
    }

    /// Goes in once nobody is in the way, those who wait already included.
    pub(super) async fn wait(&self, project: &Project) -> Inside {
        let mut changed = self.0.changed.subscribe();
        let id = {
            let mut held = self.0.held.lock();
            let id = held.next();
            held.waiting.push((id, project.clone()));
            id
        };
        let place = Place {
            inner: Arc::clone(&self.0),
            id,
        };
        loop {
            changed.borrow_and_update();
            if let Ok(inside) = self.enter_before(project, place.id) {
                return inside;
            }
            // The sender is a part of what is borrowed here.
            drop(changed.changed().await);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::error::Elapsed;
    use tokio::time::timeout;

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

    async fn soon(waiting: &mut (impl Future<Output = Inside> + Unpin)) -> Result<Inside, Elapsed> {
        timeout(std::time::Duration::ZERO, waiting).await
    }

    #[tokio::test]
    async fn who_waits_has_its_turn_before_those_who_come_after() {
        let projects = Projects::default();
        let first = projects.enter(&project("1", "app", false)).ok().unwrap();
        let install = project("2", "app", true);
        let mut installing = Box::pin(projects.wait(&install));
        assert!(soon(&mut installing).await.is_err());
        // New ones would go on for ever, one after the other.
        let late = project("3", "app", false);
        assert_eq!(projects.enter(&late).err().as_deref(), Some("2"));
        let mut later = Box::pin(projects.wait(&late));
        assert!(soon(&mut later).await.is_err());
        // What it waits for does not wait for it, nor do others elsewhere.
        drop(projects.enter(&project("1", "app", true)).ok().unwrap());
        drop(projects.enter(&project("4", "web", true)).ok().unwrap());
        drop(first);
        assert!(soon(&mut later).await.is_err());
        let inside = soon(&mut installing).await.ok().unwrap();
        assert!(soon(&mut later).await.is_err());
        drop(inside);
        drop(soon(&mut later).await.ok().unwrap());
        // Who gives up is in nobody's way.
        let first = projects.enter(&project("1", "app", false)).ok().unwrap();
        let mut gives_up = Box::pin(projects.wait(&install));
        assert!(soon(&mut gives_up).await.is_err());
        drop(gives_up);
        drop(projects.enter(&late).ok().unwrap());
        drop(first);
    }
}
