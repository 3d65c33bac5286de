//! The life of one mount as a state machine: what it is told goes in, what is to be done comes out. Touches nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::sidecar::events::kinds;
use crate::sidecar::host::{Ending, FoundMount};
use crate::sidecar::types::MountState;

/// Pause after the first of several failures; each further one waits twice as long.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A mount that ran for so long works; what failed before does not count any more.
const STEADY: Duration = Duration::from_secs(60);

/// So many failures in a row are no accident. After a sidecar was killed in the middle of a mount, the next one's first
/// attempts meet the process that it had started, and then find it.
const FAILING: u32 = 3;

/// How far a mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// A process is being started.
    Mounting,
    /// It runs.
    Mounted { found: FoundMount, since: Instant },
    /// It does not, and is tried again.
    Waiting { until: Instant, reason: String },
    /// It is being taken away.
    Unmounting { found: Option<FoundMount> },
    /// Somebody took it away beside us.
    Stopped,
}

/// What a mount is told.
#[derive(Debug, Clone)]
pub(super) enum Input {
    /// It is wanted, now.
    Asked,
    /// How an attempt to mount went.
    Came(Result<FoundMount, String>),
    /// It was seen running.
    Seen(FoundMount),
    /// A process of it ended.
    Ended { pid_mark: u64, ending: Ending },
    /// Time has passed.
    Tick,
    /// It is wanted no more.
    Unwanted,
    /// How an attempt to unmount went.
    Left(Result<(), String>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start a process.
    Mount,
    /// Take it away.
    Unmount(Option<FoundMount>),
    /// Tell when this process ends.
    Watch(FoundMount),
    /// Say what has happened.
    Event(&'static str, String),
    /// Remember in the database that somebody unmounted it.
    NoteStopped,
    /// It is no more.
    Gone,
    /// Others may have more, or have to do with less.
    Rebalance,
}

/// One mount.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) phase: Phase,
    /// Whether it is kept mounted, or only watched.
    pub(super) managed: bool,
    /// How often it was mounted again after its process died.
    pub(super) restarts: u32,
    /// Failures in a row.
    failures: u32,
}

impl Life {
    /// A mount that is not there yet.
    pub(super) fn new(managed: bool, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting {
                until: now,
                reason: "not tried yet".into(),
            },
            managed,
            restarts: 0,
            failures: 0,
        }
    }

    /// Its process, while it runs.
    pub(super) fn found(&self) -> Option<&FoundMount> {
        match &self.phase {
            Phase::Mounted { found, .. } => Some(found),
            Phase::Unmounting { found } => found.as_ref(),
            _ => None,
        }
    }

    /// Whether it has failed so often in a row that whoever waits for it should be told.
    pub(super) fn is_failing(&self) -> bool {
        self.failures >= FAILING
    }

    /// The moment at which [`Input::Tick`] does something.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Waiting { until, .. } if self.managed => Some(*until),
            _ => None,
        }
    }

    /// The state, as the API names it.
    pub(super) fn state(&self) -> MountState {
        match self.phase {
            Phase::Mounting => MountState::Mounting,
            Phase::Mounted { .. } => MountState::Mounted,
            Phase::Waiting { .. } => MountState::Waiting,
            Phase::Unmounting { .. } => MountState::Unmounting,
            Phase::Stopped => MountState::Stopped,
        }
    }

    /// Takes `input` at `now`.
    pub(super) fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        match input {
            Input::Asked => match self.phase {
                Phase::Waiting { .. } | Phase::Stopped => self.mount(),
                _ => Vec::new(),
            },
            Input::Tick => match self.due() {
                Some(due) if due <= now => self.mount(),
                _ => Vec::new(),
            },
            Input::Came(came) => self.came(came, now),
            Input::Seen(found) => match self.phase {
                Phase::Waiting { .. } | Phase::Stopped => {
                    let text = format!("process {} serves it and is watched", found.pid);
                    self.mounted(found, kinds::ADOPTED, text, now)
                }
                _ => Vec::new(),
            },
            Input::Ended { pid_mark, ending } => self.ended(pid_mark, ending, now),
            Input::Unwanted => self.unwanted(),
            Input::Left(left) => self.left(left, now),
        }
    }

    fn mount(&mut self) -> Vec<Effect> {
        self.phase = Phase::Mounting;
        vec![
            Effect::Event(kinds::MOUNTING, "it is being mounted".into()),
            Effect::Mount,
        ]
    }

    fn mounted(
        &mut self,
        found: FoundMount,
        kind: &'static str,
        text: String,
        now: Instant,
    ) -> Vec<Effect> {
        self.phase = Phase::Mounted {
            found: found.clone(),
            since: now,
        };
        vec![
            Effect::Event(kind, text),
            Effect::Watch(found),
            Effect::Rebalance,
        ]
    }

    fn came(&mut self, came: Result<FoundMount, String>, now: Instant) -> Vec<Effect> {
        if self.phase != Phase::Mounting {
            return Vec::new();
        }
        match came {
            Ok(found) => {
                let text = format!("it is mounted, by process {}", found.pid);
                self.mounted(found, kinds::MOUNTED, text, now)
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                self.wait(self.failures, reason.clone(), now);
                vec![Effect::Event(kinds::FAILED, reason)]
            }
        }
    }

    fn ended(&mut self, ended: u64, ending: Ending, now: Instant) -> Vec<Effect> {
        let Phase::Mounted { found, since } = &self.phase else {
            return Vec::new();
        };
        if found.pid_mark != ended {
            return Vec::new();
        }
        let (pid, lasted) = (found.pid, now.duration_since(*since));
        match ending {
            Ending::Orderly => {
                self.phase = Phase::Stopped;
                let text = "it was unmounted, and not by the sidecar".to_owned();
                let note = if self.managed {
                    Effect::NoteStopped
                } else {
                    Effect::Gone
                };
                vec![Effect::Event(kinds::STOPPED, text), note, Effect::Rebalance]
            }
            Ending::Died => {
                let text = format!("its process {pid} died; what it had acknowledged is kept");
                let mut effects = vec![Effect::Event(kinds::DIED, text.clone())];
                if self.managed {
                    if lasted >= STEADY {
                        self.failures = 0;
                    }
                    self.restarts = self.restarts.saturating_add(1);
                    self.wait(self.failures, text, now);
                    self.failures = self.failures.saturating_add(1);
                } else {
                    self.phase = Phase::Stopped;
                    effects.extend([Effect::Gone, Effect::Rebalance]);
                }
                effects
            }
        }
    }

    fn unwanted(&mut self) -> Vec<Effect> {
        let found = match &self.phase {
            Phase::Mounted { found, .. } => Some(found.clone()),
            Phase::Waiting { .. } | Phase::Stopped => None,
            Phase::Mounting | Phase::Unmounting { .. } => return Vec::new(),
        };
        self.phase = Phase::Unmounting {
            found: found.clone(),
        };
        vec![
            Effect::Event(kinds::UNMOUNTING, "it is being unmounted".into()),
            Effect::Unmount(found),
        ]
    }

    fn left(&mut self, left: Result<(), String>, now: Instant) -> Vec<Effect> {
        let Phase::Unmounting { found } = &self.phase else {
            return Vec::new();
        };
        let found = found.clone();
        match left {
            Ok(()) => vec![
                Effect::Event(kinds::UNMOUNTED, "it is unmounted".into()),
                Effect::Gone,
                Effect::Rebalance,
            ],
            Err(reason) => {
                let event = Effect::Event(kinds::FAILED, reason.clone());
                match found {
                    // Watched anew: its end during the attempt was not listened to.
                    Some(found) => {
                        self.phase = Phase::Mounted {
                            found: found.clone(),
                            since: now,
                        };
                        vec![event, Effect::Watch(found)]
                    }
                    None => {
                        self.wait(1, reason, now);
                        vec![event]
                    }
                }
            }
        }
    }

    fn wait(&mut self, failures: u32, reason: String, now: Instant) {
        self.phase = Phase::Waiting {
            until: now + backoff(failures),
            reason,
        };
    }
}

/// The pause after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(more) => BACKOFF_FIRST
            .saturating_mul(1_u32.checked_shl(more).unwrap_or(u32::MAX))
            .min(BACKOFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn found(pid: u32) -> FoundMount {
        FoundMount {
            source: "file:///s".into(),
            place: "file:/s".into(),
            is_view: false,
            path: PathBuf::from("/m"),
            state_dir: PathBuf::from("/v"),
            socket: PathBuf::from("/v/volume.sock"),
            pid,
            pid_mark: u64::from(pid) * 10,
            started_ms: 1,
        }
    }

    fn died(pid: u32) -> Input {
        Input::Ended {
            pid_mark: u64::from(pid) * 10,
            ending: Ending::Died,
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn has(effects: &[Effect], kind: &str) -> bool {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Event(found, _) if *found == kind))
    }

    /// A managed mount that runs as process `pid`.
    fn running(pid: u32, now: Instant) -> Life {
        let mut life = Life::new(true, now);
        assert!(life.step(Input::Asked, now).contains(&Effect::Mount));
        let effects = life.step(Input::Came(Ok(found(pid))), now);
        assert!(
            effects.contains(&Effect::Watch(found(pid))) && effects.contains(&Effect::Rebalance)
        );
        life
    }

    #[test]
    fn a_process_that_dies_is_replaced_at_once_and_then_more_and_more_slowly() {
        let mut now = Instant::now();
        let mut life = running(1, now);
        let mut pauses = Vec::new();
        for pid in 1..10 {
            assert!(has(&life.step(died(pid), now), kinds::DIED));
            let due = life.due().expect("it waits");
            pauses.push(due.duration_since(now).as_secs());
            now = due;
            assert!(life.step(Input::Tick, now).contains(&Effect::Mount));
            life.step(Input::Came(Ok(found(pid + 1))), now);
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(life.restarts, 9);
        // It ran for a while: the next death is one of its own.
        now += STEADY;
        life.step(died(10), now);
        assert_eq!(life.due(), Some(now));
    }

    #[test]
    fn an_attempt_that_fails_waits_and_a_request_does_not() {
        let now = Instant::now();
        let mut life = Life::new(true, now);
        life.step(Input::Tick, now);
        let effects = life.step(Input::Came(Err("no such bucket".into())), now);
        assert!(has(&effects, kinds::FAILED));
        assert_eq!(life.due(), Some(now + seconds(1)));
        assert_eq!(life.step(Input::Tick, now), []);
        assert!(life.step(Input::Asked, now).contains(&Effect::Mount));
        assert_eq!(life.step(Input::Asked, now), [], "one attempt at a time");
        life.step(Input::Came(Err("still not".into())), now);
        assert_eq!(life.due(), Some(now + seconds(2)));
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    #[test]
    fn what_somebody_unmounts_stays_away_until_it_is_asked_for() {
        let now = Instant::now();
        let mut life = running(1, now);
        let orderly = Input::Ended {
            pid_mark: 10,
            ending: Ending::Orderly,
        };
        let effects = life.step(orderly, now);
        assert!(has(&effects, kinds::STOPPED) && effects.contains(&Effect::NoteStopped));
        assert_eq!(life.due(), None);
        assert_eq!(life.step(Input::Tick, now + seconds(1000)), []);
        assert!(life.step(Input::Asked, now).contains(&Effect::Mount));
    }

    #[test]
    fn a_mount_seen_running_is_taken_as_it_is() {
        let now = Instant::now();
        let mut life = Life::new(true, now);
        let effects = life.step(Input::Seen(found(4)), now);
        assert!(has(&effects, kinds::ADOPTED) && effects.contains(&Effect::Watch(found(4))));
        assert_eq!(life.step(Input::Seen(found(4)), now), []);
        assert_eq!(life.step(Input::Came(Err("in use".into())), now), []);
        assert_eq!(life.state(), MountState::Mounted);
    }

    #[test]
    fn the_end_of_an_earlier_process_is_not_the_end_of_this_one() {
        let now = Instant::now();
        let mut life = running(2, now);
        assert_eq!(life.step(died(1), now), []);
        assert_eq!(life.state(), MountState::Mounted);
    }

    #[test]
    fn what_is_only_watched_is_not_mounted_again() {
        let now = Instant::now();
        let mut life = Life::new(false, now);
        life.step(Input::Seen(found(1)), now);
        let effects = life.step(died(1), now);
        assert!(has(&effects, kinds::DIED) && effects.contains(&Effect::Gone));
        assert_eq!(life.due(), None);
    }

    #[test]
    fn unmounting_ends_it_or_leaves_it_as_it_was() {
        let now = Instant::now();
        let mut life = running(1, now);
        let effects = life.step(Input::Unwanted, now);
        assert!(effects.contains(&Effect::Unmount(Some(found(1)))));
        assert_eq!(life.step(Input::Unwanted, now), [], "one attempt at a time");
        // Its process ends as part of it, and nobody mounts it again.
        assert_eq!(life.step(died(1), now), []);
        assert_eq!(life.step(Input::Seen(found(1)), now), []);
        let mut busy = life.clone();
        assert!(life.step(Input::Left(Ok(())), now).contains(&Effect::Gone));

        let effects = busy.step(Input::Left(Err("in use".into())), now);
        assert!(
            effects.contains(&Effect::Watch(found(1))),
            "an end that was missed is heard of"
        );
        assert_eq!(busy.state(), MountState::Mounted);

        let mut waiting = Life::new(true, now);
        assert!(
            waiting
                .step(Input::Unwanted, now)
                .contains(&Effect::Unmount(None))
        );
        waiting.step(Input::Left(Err("no".into())), now);
        assert_eq!(waiting.state(), MountState::Waiting);
        waiting.step(Input::Asked, now);
        assert_eq!(
            waiting.step(Input::Unwanted, now),
            [],
            "not while it is being mounted"
        );
    }

    /// Any order of anything: it never wants two things at once, and never forgets a mount that is wanted.
    #[test]
    fn no_order_of_inputs_starts_a_second_attempt() {
        let start = Instant::now();
        for seed in 0_u64..2_000 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut life = Life::new(true, start);
            let (mut attempts, mut now) = (0_i32, start);
            for _ in 0..40 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                now += seconds(state % 7);
                let pid = (state % 3) as u32 + 1;
                let input = match state % 9 {
                    0 => Input::Asked,
                    1 | 2 if attempts > 0 && life.phase == Phase::Mounting => {
                        Input::Came(Ok(found(pid)))
                    }
                    3 if attempts > 0 && life.phase == Phase::Mounting => {
                        Input::Came(Err("no".into()))
                    }
                    4 => Input::Seen(found(pid)),
                    5 => died(pid),
                    6 => Input::Unwanted,
                    7 if attempts > 0 && matches!(life.phase, Phase::Unmounting { .. }) => {
                        Input::Left(Err("busy".into()))
                    }
                    _ => Input::Tick,
                };
                if matches!(input, Input::Came(_) | Input::Left(_)) {
                    attempts -= 1;
                }
                let effects = life.step(input, now);
                let begun = effects
                    .iter()
                    .filter(|e| matches!(e, Effect::Mount | Effect::Unmount(_)));
                attempts += begun.count() as i32;
                let under_way = matches!(life.phase, Phase::Mounting | Phase::Unmounting { .. });
                assert_eq!(
                    attempts,
                    i32::from(under_way),
                    "seed {seed}: {:?}",
                    life.phase
                );
            }
        }
    }
}
