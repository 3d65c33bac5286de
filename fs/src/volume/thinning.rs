//! Automatic snapshots: making them every so often, if asked to, and thinning them out by age. Snapshots that somebody wants to
//! keep are never touched.

use std::collections::BTreeSet;
use std::time::Duration;

use weldrfs_meta::{Lsn, MetaError, Snapshot};

use super::{Volume, note_trouble};
use crate::error::FsError;

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// All automatic snapshots that are not older than this stay.
const ALL_MS: u64 = HOUR_MS;
/// After that the last one of each hour, up to this age.
const HOURLY_MS: u64 = DAY_MS;
/// After that the last one of each day, up to this age; no older one stays.
const DAILY_MS: u64 = 7 * DAY_MS;
/// Most automatic snapshots, unless asked for another number.
const MOST: usize = 1000;
/// Who makes snapshots that somebody counts on, be they asked for or not: what was there before a restore, and the present of a
/// diff that is under way. They stay for [`ALL_MS`], the newest of them, whatever [`SnapshotCare::most`] says.
const COUNTED_ON: [&str; 2] = ["restore", "diff"];
const COUNTED_ON_MOST: usize = 100;
/// How often it is looked whether there is anything to do.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// What is done about automatic snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotCare {
    /// How often one is made of what has changed; `None`: none is.
    pub interval: Option<Duration>,
    /// The most that are kept, however young they are: the oldest go first.
    pub most: usize,
}

impl Default for SnapshotCare {
    fn default() -> Self {
        Self {
            interval: None,
            most: MOST,
        }
    }
}

/// What has been done.
#[derive(Debug, Default)]
pub(super) struct Tended {
    /// None: nothing is done.
    care: Option<SnapshotCare>,
    /// When the last one was made, or would have been, milliseconds since 1970.
    last_ms: Option<u64>,
    /// The last operation that is in a snapshot or that removed one: nothing else has happened up to it.
    covered: Option<Lsn>,
}

/// The automatic snapshots that have had their time, oldest first. Hours and days are those of UTC.
fn superfluous(snapshots: &[Snapshot], now_ms: u64, most: usize) -> Vec<&Snapshot> {
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut stay = 0;
    let mut counted_on = 0;
    let automatic = snapshots.iter().rev().filter(|s| !s.kept);
    let mut gone: Vec<&Snapshot> = automatic
        .filter(|snapshot| {
            // One from the future, by a clock that was set back, is young.
            let age_ms = now_ms.saturating_sub(snapshot.made_ms);
            if age_ms <= ALL_MS && COUNTED_ON.contains(&snapshot.owner.as_str()) {
                counted_on += 1;
                return counted_on > COUNTED_ON_MOST;
            }
            let mut is_last_of = |span_ms: u64| taken.insert((span_ms, snapshot.made_ms / span_ms));
            let stays = if age_ms <= ALL_MS {
                true
            } else if age_ms <= HOURLY_MS {
                is_last_of(HOUR_MS)
            } else {
                age_ms <= DAILY_MS && is_last_of(DAY_MS)
            };
            stay += usize::from(stays);
            !stays || stay > most
        })
        .collect();
    gone.reverse();
    gone
}

impl Volume {
    /// Says what is to be done about automatic snapshots; before that, nothing is.
    pub fn care_for_snapshots(&self, care: SnapshotCare) {
        self.tended.lock().care = Some(care);
        self.thin_soon();
    }

    /// Looks soon whether an automatic snapshot has had its time: a new one has come.
    pub fn thin_soon(&self) {
        self.thinning.wake();
    }

    /// Makes an automatic snapshot if it is time for one, and removes those that have had theirs.
    pub(super) fn tend_snapshots(&self) {
        let mut tended = self.tended.lock();
        let Some(care) = tended.care.filter(|_| self.engine.ns.read_only().is_none()) else {
            return;
        };
        let made = self.make_if_due(care.interval, &mut tended);
        match made.and_then(|()| self.thin(care.most, &mut tended)) {
            Ok(()) | Err(FsError::Meta(MetaError::ReadOnly(_))) => {}
            Err(error) => note_trouble(
                &self.last_error,
                "automatic snapshots could not be made or thinned out; this will be tried again",
                &error,
            ),
        }
    }

    fn make_if_due(&self, interval: Option<Duration>, tended: &mut Tended) -> Result<(), FsError> {
        let Some(interval) = interval else {
            return Ok(());
        };
        let now_ms = self.engine.clock.now_ms();
        // The clock may have been set back.
        let last_ms = tended.last_ms.unwrap_or(now_ms).min(now_ms);
        tended.last_ms = Some(last_ms);
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        if now_ms - last_ms < interval_ms {
            return Ok(());
        }
        tended.last_ms = Some(now_ms);
        let newest = self.engine.snapshots().last().map(|s| s.lsn);
        if newest.max(tended.covered) < Some(self.engine.ns.acknowledged()) {
            let made = self.engine.automatic_snapshot()?;
            tended.covered = Some(made.lsn);
        }
        Ok(())
    }

    fn thin(&self, most: usize, tended: &mut Tended) -> Result<(), FsError> {
        let all = self.engine.snapshots();
        let gone = superfluous(&all, self.engine.clock.now_ms(), most);
        for snapshot in gone {
            if self.thinning.stopping() {
                return Ok(());
            }
            match self.engine.remove_snapshot(&snapshot.name) {
                // Somebody else was faster.
                Err(FsError::NoSnapshot(_)) => {}
                // It is noted as one operation.
                result => {
                    result?;
                    tended.covered = tended.covered.map(|lsn| Lsn(lsn.0 + 1));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weldrfs_meta::{Epoch, Ino};

    const MINUTE_MS: u64 = 60 * 1000;

    fn made(made_ms: u64, kept: bool) -> Snapshot {
        Snapshot {
            epoch: Epoch(made_ms),
            next_ino: Ino(2),
            lsn: Lsn(made_ms),
            name: made_ms.to_string(),
            note: String::new(),
            owner: String::new(),
            kept,
            made_ms,
        }
    }

    /// One every few minutes for a month, thinned out as they come: what is left is what the rule says.
    #[test]
    fn the_older_the_fewer() {
        let mut all: Vec<Snapshot> = Vec::new();
        let step_ms = 7 * MINUTE_MS;
        let start_ms = 1000 * DAY_MS + 5 * MINUTE_MS;
        let (mut now_ms, mut count) = (start_ms, 0);
        while now_ms < start_ms + 30 * DAY_MS {
            count += 1;
            all.push(made(now_ms, count % 500 == 0));
            let gone: BTreeSet<u64> = superfluous(&all, now_ms, MOST)
                .iter()
                .map(|s| s.made_ms)
                .collect();
            all.retain(|s| !gone.contains(&s.made_ms));
            now_ms += step_ms;
        }
        now_ms -= step_ms;
        assert!(superfluous(&all, now_ms, MOST).is_empty());
        let ages = |least_ms: u64, most_ms: u64| -> Vec<u64> {
            let automatic = all.iter().filter(|s| !s.kept).map(|s| s.made_ms);
            automatic
                .filter(|at| (least_ms..=most_ms).contains(&(now_ms - at)))
                .collect()
        };
        assert!(ages(0, ALL_MS).len() >= (ALL_MS / step_ms) as usize);
        let hourly = ages(ALL_MS + 1, HOURLY_MS);
        assert!((23..=24).contains(&hourly.len()), "{hourly:?}");
        let daily = ages(HOURLY_MS + 1, DAILY_MS);
        assert!((6..=7).contains(&daily.len()), "{daily:?}");
        // Each is the last one of its hour or day, but for those that somebody keeps.
        let is_last = |at: &u64, span_ms: u64| {
            let later = (1..).map(|n| at + n * step_ms);
            later
                .take_while(|later| later / span_ms == at / span_ms)
                .all(|later| all.iter().any(|s| s.kept && s.made_ms == later))
        };
        assert!(hourly.iter().all(|at| is_last(at, HOUR_MS)), "{hourly:?}");
        assert!(daily.iter().all(|at| is_last(at, DAY_MS)), "{daily:?}");
        assert!(ages(DAILY_MS + 1, u64::MAX / 2).is_empty());
        assert_eq!(all.iter().filter(|s| s.kept).count(), count / 500);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_and_kept_ones_do_not_count() {
        let all: Vec<_> = (0..20).map(|n| made(n * 1000, n % 4 == 0)).collect();
        let gone = superfluous(&all, 20_000, 10);
        let gone: Vec<u64> = gone.iter().map(|s| s.made_ms).collect();
        assert_eq!(gone, [1000, 2000, 3000, 5000, 6000]);
        assert!(superfluous(&all, 20_000, 15).is_empty());
    }

    /// Whoever restored must be able to go back, also where no automatic snapshots are wanted.
    #[test]
    fn what_was_there_before_a_restore_stays_for_an_hour_whatever_the_most() {
        let by = |made_ms, owner: &str| Snapshot {
            owner: owner.into(),
            ..made(made_ms, false)
        };
        let mut all = vec![by(0, "restore"), by(MINUTE_MS, "automatic")];
        all.extend([by(2 * MINUTE_MS, "restore"), by(3 * MINUTE_MS, "diff")]);
        let names = |now_ms, most| -> Vec<u64> {
            let gone = superfluous(&all, now_ms, most).into_iter();
            gone.map(|snapshot| snapshot.made_ms).collect()
        };
        assert_eq!(names(4 * MINUTE_MS, 0), [MINUTE_MS]);
        // After that they are like all others.
        assert_eq!(names(HOUR_MS + MINUTE_MS, 0), [0, MINUTE_MS]);
        assert_eq!(names(HOUR_MS + 4 * MINUTE_MS, 0).len(), 4);
        // There is an end to it.
        let many = COUNTED_ON_MOST as u64 + 3;
        let all: Vec<Snapshot> = (0..many).map(|n| by(n, "restore")).collect();
        assert_eq!(superfluous(&all, many, 0).len(), 3);
    }

    #[test]
    fn a_clock_that_was_set_back_removes_nothing() {
        let all: Vec<_> = (0..5).map(|n| made(100 * DAY_MS + n, false)).collect();
        assert!(superfluous(&all, 3 * DAY_MS, MOST).is_empty());
    }
}
