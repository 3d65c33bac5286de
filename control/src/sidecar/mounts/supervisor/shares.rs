//! Shares: who may have how much of the disk and the memory, and who has been told.

use std::collections::BTreeMap;

use super::super::entry::{Entry, asked};
use super::super::life::Phase;
use super::super::work;
use super::Supervisor;
use crate::error::ApiError;
use crate::sidecar::budget::{self, Budget, Fixed};
use crate::sidecar::events::kinds;
use crate::sidecar::types::MountBudget;

/// What is said of a mount whose program does not know budgets.
const TOO_OLD: &str = "its version cannot be told while it runs; it keeps what it was mounted with";

impl Supervisor {
    /// The shares of all that run or are to run, by name.
    pub(super) fn shares(&self) -> BTreeMap<String, Budget> {
        let is_there =
            |entry: &&Entry| !matches!(entry.life.phase, Phase::Stopped | Phase::Unmounting { .. });
        let there: Vec<&Entry> = self.entries.values().filter(is_there).collect();
        let cached = there
            .iter()
            .filter_map(|entry| entry.status.as_ref()?.as_ref().ok())
            .map(|status| status.cache.pack_bytes)
            .fold(0, u64::saturating_add);
        let wishes: Vec<Fixed> = there.iter().map(|entry| entry.fixed).collect();
        let shares = budget::split(self.parts.host.machine(), cached, &wishes);
        let names = there.iter().map(|entry| entry.name.clone());
        names.zip(shares).collect()
    }

    /// Tells every mount its share: all of them after one has come or gone, else those that could not be told before.
    pub(super) fn balance(&mut self) {
        let changed = std::mem::take(&mut self.balancing);
        let shares = self.shares();
        for entry in self.entries.values_mut() {
            let Some(share) = shares.get(&entry.name) else {
                continue;
            };
            let budget = match &entry.budget {
                Some(known) if known.applied || known.reason.as_deref() == Some(TOO_OLD) => {
                    let same = (known.cache_bytes, known.buffer_bytes)
                        == (share.cache_bytes, share.buffer_bytes);
                    if same || !changed {
                        continue;
                    }
                    *share
                }
                Some(known) if !changed => Budget {
                    cache_bytes: known.cache_bytes,
                    buffer_bytes: known.buffer_bytes,
                },
                _ => *share,
            };
            let Some(asked) =
                asked(entry).filter(|_| matches!(entry.life.phase, Phase::Mounted { .. }))
            else {
                continue;
            };
            entry.budget = Some(MountBudget {
                cache_bytes: budget.cache_bytes,
                buffer_bytes: budget.buffer_bytes,
                applied: false,
                reason: entry.budget.take().and_then(|known| known.reason),
            });
            self.work.set_budget(asked, budget);
        }
    }

    pub(super) async fn budgeted(
        &mut self,
        name: &str,
        pid_mark: u64,
        budget: Budget,
        applied: Result<(), ApiError>,
    ) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let is_same = entry
            .life
            .found()
            .is_some_and(|found| found.pid_mark == pid_mark);
        let Some(known) = entry.budget.as_mut().filter(|_| is_same) else {
            return;
        };
        if (known.cache_bytes, known.buffer_bytes) != (budget.cache_bytes, budget.buffer_bytes) {
            return;
        }
        let before = known.reason.take();
        known.applied = applied.is_ok();
        known.reason = applied.err().map(|error| match error {
            ApiError::NotFound(_) => TOO_OLD.to_owned(),
            other => work::without_places(other).to_string(),
        });
        let text = match &known.reason {
            None => format!(
                "its caches may hold {} MiB on the disk and {} MiB in memory",
                budget.cache_bytes >> 20,
                budget.buffer_bytes >> 20
            ),
            // Tried again with every look at it; once is enough to say so.
            Some(_) if known.reason == before => return,
            Some(reason) => format!("its share of the caches could not be changed: {reason}"),
        };
        self.parts.events.add(kinds::BUDGET, Some(name), text).await;
    }
}
