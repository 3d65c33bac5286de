//! What branches take of the local disk. When that runs low, those that were not used for longest lose their local copies:
//! of what only they use, and only if the store has everything of them and nothing runs on them. They stay in the store,
//! and what is read of them comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{Branches, folder_of};
use crate::sidecar::budget::{Machine, kept_free};
use crate::sidecar::events::kinds;
use crate::sidecar::host::FoundMount;
use crate::sidecar::store::{BranchRow, Mark, RowState};
use crate::volume::{VolumeBranchDrop, VolumeClient};

/// How often the disk is looked at, and uses are written down.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Most branches that lose their local copies at one look.
const DROPS_MAX: usize = 16;
/// How long the row of a branch is kept whose mount is not known, in milliseconds.
const FORGET_AFTER: u64 = 30 * 24 * 60 * 60 * 1000;

/// Whether the disk is so full that branches give way.
fn is_low(machine: Machine) -> bool {
    machine.disk_bytes > 0 && machine.disk_free_bytes < kept_free(machine)
}

/// Whether there is enough room again: as much more as is kept free, so that it does not begin anew at once.
fn has_enough(machine: Machine) -> bool {
    machine.disk_free_bytes >= kept_free(machine).saturating_mul(2)
}

/// The branches that may lose their local copies, that which was not used for longest first.
fn candidates(rows: Vec<BranchRow>, is_in_use: impl Fn(&BranchRow) -> bool) -> Vec<BranchRow> {
    let mut rows: Vec<BranchRow> = rows
        .into_iter()
        .filter(|row| row.state == RowState::Ready && row.dropped_ms.is_none() && !is_in_use(row))
        .collect();
    rows.sort_by(|a, b| (a.used_ms, &a.mount, &a.name).cmp(&(b.used_ms, &b.mount, &b.name)));
    rows
}

/// Looks after the branches until `stop` says so: of mounts that come, and of the disk.
pub(in crate::sidecar) async fn keep_room(branches: Branches, mut stop: watch::Receiver<bool>) {
    let mut changes = branches.0.parts.mounts.changes();
    changes.mark_changed();
    let mut looked = BTreeMap::new();
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => {
                    changes.borrow_and_update();
                    branches.look_at_new(&mut looked).await;
                }
                Err(_) => return,
            },
            _ = tick.tick() => branches.look_at_disk().await,
            () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
        }
    }
}

impl Branches {
    /// Reconciles mounts that have come since `looked`.
    async fn look_at_new(&self, looked: &mut BTreeMap<String, u64>) {
        let views = self.0.parts.mounts.views();
        let running: Vec<(&str, &FoundMount)> = views
            .iter()
            .filter_map(|view| Some((view.mount.name.as_str(), view.running()?)))
            .collect();
        looked.retain(|name, mark| {
            running
                .iter()
                .any(|(mount, found)| mount == name && found.pid_mark == *mark)
        });
        for (mount, found) in running {
            if looked.contains_key(mount) {
                continue;
            }
            match self.reconcile(mount, found).await {
                Ok(()) => drop(looked.insert(mount.to_owned(), found.pid_mark)),
                Err(crate::error::ApiError::Conflict(_)) => {
                    // Too old to have branches, and stays so.
                    looked.insert(mount.to_owned(), found.pid_mark);
                }
                Err(error) => tracing::warn!(%error, mount, "its branches are not known yet"),
            }
        }
    }

    /// Writes down what was used, and makes room if the disk is full.
    pub(super) async fn look_at_disk(&self) {
        let parts = &self.0.parts;
        let now_ms = parts.clock.now_ms();
        for (mount, name) in parts.mounts.occupants().take_used() {
            // What cannot be written is less exact, no more.
            drop(
                parts
                    .store
                    .mark_branch(&mount, &name, Mark::Used(now_ms))
                    .await,
            );
        }
        if is_low(parts.host.machine()) {
            self.make_room().await;
        }
    }

    async fn make_room(&self) {
        let parts = &self.0.parts;
        let Ok(rows) = parts.store.branches().await else {
            return;
        };
        let occupants = parts.mounts.occupants();
        let is_in_use = |row: &BranchRow| {
            let names = occupants.names(&row.mount, &folder_of(&row.name));
            !names.is_empty()
        };
        for row in candidates(rows, is_in_use).into_iter().take(DROPS_MAX) {
            self.drop_local(&row).await;
            if has_enough(parts.host.machine()) {
                return;
            }
        }
    }

    async fn drop_local(&self, row: &BranchRow) {
        let parts = &self.0.parts;
        let (mount, name) = (row.mount.as_str(), row.name.as_str());
        let Ok(found) = parts.mounts.running(mount) else {
            return;
        };
        let folder = found.path.join(folder_of(name));
        if found.place != row.place || !parts.host.users(&folder).await.is_empty() {
            return;
        }
        let asked = VolumeBranchDrop {
            name: name.to_owned(),
        };
        let dropped = VolumeClient::new(&found.socket).drop_branch(&asked).await;
        match dropped {
            Err(error) => tracing::warn!(%error, mount, branch = name, "its local copies stay"),
            // Not all of it is in the store.
            Ok(report) if report.kept_bytes > 0 => {}
            Ok(report) => {
                let mark = Mark::Dropped(parts.clock.now_ms());
                drop(parts.store.mark_branch(mount, name, mark).await);
                if report.freed_bytes > 0 {
                    let text = format!(
                        "the disk is nearly full: the branch {name} gave back {} MiB of local copies; it is in the store",
                        report.freed_bytes.div_ceil(1 << 20)
                    );
                    let kind = kinds::BRANCH_DROPPED;
                    parts.events.add(kind, Some(mount), text).await;
                }
            }
        }
    }

    /// Forgets branches of mounts that nobody has asked for in a long time. Their directories stay what they are.
    ///
    /// # Errors
    /// [`crate::error::ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn forget_old(&self) -> Result<(), crate::error::ApiError> {
        let parts = &self.0.parts;
        let views = parts.mounts.views();
        let oldest = parts.clock.now_ms().saturating_sub(FORGET_AFTER);
        for row in parts.store.branches().await? {
            let is_known = views.iter().any(|view| view.mount.name == row.mount);
            if !is_known && row.used_ms < oldest {
                parts.store.remove_branch(&row.mount, &row.name).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn branches_give_way_when_the_disk_is_nearly_full_and_until_there_is_room_again() {
        let with = |free: u64| Machine {
            disk_bytes: 100 * GB,
            disk_free_bytes: free,
            memory_bytes: GB,
        };
        let mib = 1 << 20;
        assert!(is_low(with(499 * mib)) && !is_low(with(500 * mib)));
        assert!(has_enough(with(1000 * mib)) && !has_enough(with(999 * mib)));
        // A machine that does not say is not full.
        let unknown = Machine {
            disk_bytes: 0,
            disk_free_bytes: 0,
            memory_bytes: 0,
        };
        assert!(!is_low(unknown));
    }

    #[test]
    fn least_recently_used_first_and_none_that_is_used_or_has_nothing_to_give() {
        let row = |name: &str, used_ms, state, dropped_ms| BranchRow {
            mount: "m".into(),
            name: name.into(),
            place: "p".into(),
            project: None,
            state,
            created_ms: 0,
            used_ms,
            dropped_ms,
        };
        let rows = vec![
            row("new", 9, RowState::Ready, None),
            row("old", 1, RowState::Ready, None),
            row("used", 2, RowState::Ready, None),
            row("dropped", 3, RowState::Ready, Some(4)),
            row("going", 4, RowState::Removing, None),
            row("coming", 5, RowState::Creating, None),
            row("middle", 6, RowState::Ready, None),
        ];
        let chosen = candidates(rows, |row| row.name == "used");
        let names: Vec<&str> = chosen.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["old", "middle", "new"]);
    }
}
