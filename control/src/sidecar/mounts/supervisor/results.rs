//! Results: how work went, what runs, and what the mounts say.

use std::io;

use super::super::entry::{Entry, row, shown};
use super::super::life::{Input, Phase};
use super::super::work::Asked;
use super::Supervisor;
use crate::error::ApiError;
use crate::sidecar::budget::Fixed;
use crate::sidecar::host::{CheckedOrder, FoundMount, MountOrder};
use crate::sidecar::names;
use crate::sidecar::types::{Mount, MountState};
use crate::volume::VolumeStatus;

impl Supervisor {
    pub(super) async fn came(&mut self, name: &str, came: Result<FoundMount, ApiError>) {
        let told = came.clone().map_err(|error| error.to_string());
        self.tell(name, Input::Came(told)).await;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let error = match came {
            Ok(_) => {
                entry.confirmed = true;
                return self.answer_mounted(name);
            }
            Err(error) => error,
        };
        // Somebody else may have mounted it.
        self.scan();
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if entry.confirmed && !entry.life.is_failing() {
            return;
        }
        let waiting = std::mem::take(&mut entry.waiting);
        if !entry.confirmed {
            self.forget(name).await;
        }
        self.publish();
        for reply in waiting {
            drop(reply.send(Err(error.clone())));
        }
    }

    /// Answers those who wait for a mount that is there; what they ask next finds it.
    fn answer_mounted(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if entry.waiting.is_empty() || !matches!(entry.life.phase, Phase::Mounted { .. }) {
            return;
        }
        let (mount, waiting) = (shown(entry), std::mem::take(&mut entry.waiting));
        self.publish();
        for reply in waiting {
            drop(reply.send(Ok(mount.clone())));
        }
    }

    pub(super) async fn left(&mut self, name: &str, left: Result<(), ApiError>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let waiting = std::mem::take(&mut entry.waiting);
        let answer = match &left {
            Ok(()) => Ok(Mount {
                state: MountState::Unmounted,
                pid: None,
                started_ms: None,
                budget: None,
                ..shown(entry)
            }),
            Err(error) => Err(error.clone()),
        };
        if left.is_err() && entry.life.managed {
            let row = row(entry, false, None);
            // If that fails it goes at the next start of the sidecar, as it was asked to.
            drop(self.parts.store.put_mount(row).await);
        }
        let told = left.map_err(|error| error.to_string());
        self.tell(name, Input::Left(told)).await;
        self.publish();
        for reply in waiting {
            drop(reply.send(answer.clone()));
        }
    }

    pub(super) async fn scanned(&mut self, found: io::Result<Vec<FoundMount>>) {
        self.scanning = false;
        match found {
            Ok(found) => self.seen(found).await,
            Err(error) => tracing::error!(%error, "the mounts that run cannot be found"),
        }
        self.publish();
        for reply in self.refreshing.drain(..) {
            // Whoever asked has given up waiting.
            let _ = reply.send(());
        }
    }

    /// Takes in what runs.
    pub(super) async fn seen(&mut self, found: Vec<FoundMount>) {
        for found in found {
            // It was looked for a while ago, and may have ended since.
            if !self.parts.host.is_running(&found) {
                continue;
            }
            let at_path = self
                .entries
                .values()
                .find(|entry| entry.order.path == found.path);
            let name = match at_path {
                // An older mount may not have noted what serves its bucket.
                Some(entry) if entry.place == found.place || entry.order.source == found.source => {
                    entry.name.clone()
                }
                Some(entry) => {
                    tracing::debug!(mount = entry.name, "another volume is mounted on its path");
                    continue;
                }
                None => self.watch_only(&found),
            };
            let mark = found.pid_mark;
            let is_new = |entry: &Entry| entry.life.found().is_none_or(|f| f.pid_mark != mark);
            let was_new = self.entries.get(&name).is_some_and(is_new);
            self.tell(&name, Input::Seen(found)).await;
            if let Some(entry) = self.entries.get_mut(&name).filter(|_| was_new) {
                // What an earlier process was told does not hold for this one.
                entry.budget = None;
            }
            self.answer_mounted(&name);
        }
    }

    /// Begins to watch a mount that nobody asked the sidecar for.
    fn watch_only(&mut self, found: &FoundMount) -> String {
        let last = found.path.file_name().unwrap_or_default().to_string_lossy();
        let wanted = names::fitted(&last).unwrap_or_else(|| "mount".into());
        let name = names::unused(&wanted, |name| self.entries.contains_key(name));
        let order = MountOrder {
            source: found.source.clone(),
            path: found.path.clone(),
            options: Vec::new(),
        };
        let checked = CheckedOrder {
            path: found.path.clone(),
            place: found.place.clone(),
            is_view: found.is_view,
            fixed: Fixed::default(),
        };
        let entry = self.unmounted(name.clone(), order, checked);
        self.entries.insert(name.clone(), entry);
        name
    }

    pub(super) fn probed(&mut self, answers: Vec<(Asked, Result<VolumeStatus, String>)>) {
        self.probing = false;
        for (asked, answer) in answers {
            if let Some(entry) = self.entries.get_mut(&asked.name)
                && entry
                    .life
                    .found()
                    .is_some_and(|found| found.pid_mark == asked.pid_mark)
            {
                entry.status = Some(answer);
            }
        }
        self.balance();
    }
}
