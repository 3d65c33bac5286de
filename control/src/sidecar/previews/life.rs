//! The life of one preview as a state machine: what it is told goes in, what is to be done comes out. Touches nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::types::{PreviewState, RestartPolicy};

/// Pause after the first of several failures; each further one waits twice as long.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// An app that was ready for so long works; what failed before does not count any more.
const STEADY: Duration = Duration::from_secs(60);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its sandbox is being put together.
    Starting,
    /// The app runs; its port has to answer until then. `was_ready` when it did before.
    Probing { until: Instant, was_ready: bool },
    /// Its port answers.
    Ready { since: Instant },
    /// It ended and is started again then.
    Waiting { until: Instant },
    /// It was told to end.
    Stopping { then: Then },
    /// It was ended, or ended by itself with status 0.
    Stopped,
    /// It did not work.
    Failed,
}

/// What comes after the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Stop,
    /// It is started anew.
    Start,
    /// It has failed, for this reason.
    Fail(String),
}

/// How an app ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) status: Option<i32>,
    pub(super) out_of_memory: bool,
    /// Why there is no status.
    pub(super) failure: Option<String>,
}

/// What it is told.
#[derive(Debug, Clone)]
pub(super) enum Input {
    /// The app runs.
    Launched,
    /// The sandbox did not come, or the order was refused.
    NotLaunched(String),
    /// Its port answers.
    Listens,
    /// Nothing listens on its port any more.
    Silent,
    /// It has ended.
    Ended(End),
    /// Time has passed.
    Tick,
    /// It is to end.
    Stop,
    /// It is to end, and to be started anew.
    Restart,
    /// What it works on is not there any more.
    MountIsGone,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Put a sandbox together and start the app in it.
    Launch,
    /// Look whether its port answers.
    Probe,
    /// End the app.
    End,
    /// Say what has happened, and how it ended.
    Say(Happened),
}

/// What others hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    Starting,
    Ready,
    /// It is not ready any more, and is probed again.
    Silent,
    Stopping,
    /// It ended, for this reason, and is started again.
    Restarting(String, End),
    Stopped(String, End),
    Failed(String, End),
}

/// One preview.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) phase: Phase,
    pub(super) restarts: u32,
    policy: RestartPolicy,
    ready_timeout: Duration,
    /// Failures in a row.
    failures: u32,
}

impl Life {
    /// One that is about to be launched.
    pub(super) fn new(policy: RestartPolicy, ready_timeout: Duration) -> Self {
        Self {
            phase: Phase::Starting,
            restarts: 0,
            policy,
            ready_timeout,
            failures: 0,
        }
    }

    /// One that an earlier sidecar started and left in `state`; it runs, or its end is told next.
    pub(super) fn found(
        policy: RestartPolicy,
        ready_timeout: Duration,
        state: PreviewState,
        now: Instant,
    ) -> Self {
        let phase = match state {
            PreviewState::Stopping => Phase::Stopping { then: Then::Stop },
            PreviewState::Ready => Phase::Ready { since: now },
            PreviewState::Stopped => Phase::Stopped,
            PreviewState::Failed => Phase::Failed,
            PreviewState::Starting | PreviewState::Probing => Phase::Probing {
                until: now + ready_timeout,
                was_ready: false,
            },
        };
        Self {
            phase,
            ..Self::new(policy, ready_timeout)
        }
    }

    /// The state, as the API names it.
    pub(super) fn state(&self) -> PreviewState {
        match self.phase {
            Phase::Starting | Phase::Waiting { .. } => PreviewState::Starting,
            Phase::Probing { .. } => PreviewState::Probing,
            Phase::Ready { .. } => PreviewState::Ready,
            Phase::Stopping { .. } => PreviewState::Stopping,
            Phase::Stopped => PreviewState::Stopped,
            Phase::Failed => PreviewState::Failed,
        }
    }

    /// The moment at which [`Input::Tick`] does something.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Probing { until, .. } | Phase::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// What it does from now on when it ends by itself.
    pub(super) fn set_manners(&mut self, policy: RestartPolicy, ready_timeout: Duration) {
        (self.policy, self.ready_timeout) = (policy, ready_timeout);
        self.failures = 0;
    }

    /// Takes `input` at `now`.
    pub(super) fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        match input {
            Input::Launched => self.launched(now),
            Input::NotLaunched(reason) => self.not_launched(reason, now),
            Input::Listens => match self.phase {
                Phase::Probing { .. } => {
                    self.phase = Phase::Ready { since: now };
                    vec![Effect::Say(Happened::Ready)]
                }
                _ => Vec::new(),
            },
            Input::Silent => self.silent(now),
            Input::Ended(end) => self.ended(end, now),
            Input::Tick => self.tick(now),
            Input::Stop => self.stop(),
            Input::Restart => self.restart(),
            Input::MountIsGone => match self.phase {
                Phase::Probing { .. } | Phase::Ready { .. } => {
                    let reason = "its mount went away".to_owned();
                    self.phase = Phase::Stopping {
                        then: Then::Fail(reason),
                    };
                    vec![Effect::End]
                }
                _ => Vec::new(),
            },
        }
    }

    fn launched(&mut self, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Probing {
                    until: now + self.ready_timeout,
                    was_ready: false,
                };
                vec![Effect::Probe]
            }
            Phase::Stopping { .. } => vec![Effect::End],
            _ => Vec::new(),
        }
    }

    /// An app may listen anew in a moment, such as a server that has read its settings again.
    fn silent(&mut self, now: Instant) -> Vec<Effect> {
        let Phase::Ready { since } = self.phase else {
            return Vec::new();
        };
        self.was_steady(since, now);
        self.phase = Phase::Probing {
            until: now + self.ready_timeout,
            was_ready: true,
        };
        vec![Effect::Say(Happened::Silent), Effect::Probe]
    }

    fn was_steady(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= STEADY {
            self.failures = 0;
        }
    }

    fn not_launched(&mut self, reason: String, now: Instant) -> Vec<Effect> {
        let end = End {
            failure: Some(reason.clone()),
            ..End::default()
        };
        match self.phase {
            // What does not come the first time would not the second; after it ran it may be an accident.
            Phase::Starting if self.restarts == 0 => self.fail(reason, end),
            Phase::Starting => self.again(reason, end, now),
            Phase::Stopping { .. } => self.ended(end, now),
            _ => Vec::new(),
        }
    }

    fn ended(&mut self, end: End, now: Instant) -> Vec<Effect> {
        if let Phase::Ready { since } = self.phase {
            self.was_steady(since, now);
        }
        let how = how(&end);
        match self.phase.clone() {
            Phase::Starting => self.by_itself(format!("{how} at once"), end, now),
            Phase::Probing {
                was_ready: false, ..
            } => self.by_itself(format!("{how} before its port answered"), end, now),
            Phase::Probing { .. } | Phase::Ready { .. } => self.by_itself(how, end, now),
            Phase::Stopping { then: Then::Stop } => {
                self.phase = Phase::Stopped;
                vec![Effect::Say(Happened::Stopped("it was ended".into(), end))]
            }
            Phase::Stopping { then: Then::Start } => self.launch(),
            Phase::Stopping {
                then: Then::Fail(reason),
            } => match self.policy {
                RestartPolicy::Never => self.fail(reason, end),
                RestartPolicy::OnFailure | RestartPolicy::Always => self.again(reason, end, now),
            },
            Phase::Waiting { .. } | Phase::Stopped | Phase::Failed => Vec::new(),
        }
    }

    /// It ended although nobody had told it to.
    fn by_itself(&mut self, reason: String, end: End, now: Instant) -> Vec<Effect> {
        let has_worked = matches!(
            self.phase,
            Phase::Ready { .. }
                | Phase::Probing {
                    was_ready: true,
                    ..
                }
        );
        let is_success = end.status == Some(0) && has_worked;
        match self.policy {
            RestartPolicy::Always => self.again(reason, end, now),
            RestartPolicy::OnFailure if !is_success => self.again(reason, end, now),
            _ if is_success => {
                self.phase = Phase::Stopped;
                vec![Effect::Say(Happened::Stopped(reason, end))]
            }
            _ => self.fail(reason, end),
        }
    }

    fn tick(&mut self, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Probing { until, was_ready } if until <= now => {
                let seconds = self.ready_timeout.as_secs();
                let reason = match was_ready {
                    false => format!("its port did not answer within {seconds} s"),
                    true => format!("its port has not answered for {seconds} s"),
                };
                self.phase = Phase::Stopping {
                    then: Then::Fail(reason),
                };
                vec![Effect::End]
            }
            Phase::Waiting { until } if until <= now => self.launch(),
            _ => Vec::new(),
        }
    }

    fn stop(&mut self) -> Vec<Effect> {
        let then = Then::Stop;
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Stopping { then };
                vec![Effect::Say(Happened::Stopping)]
            }
            Phase::Probing { .. } | Phase::Ready { .. } => {
                self.phase = Phase::Stopping { then };
                vec![Effect::Say(Happened::Stopping), Effect::End]
            }
            Phase::Waiting { .. } => {
                self.phase = Phase::Stopped;
                let end = End::default();
                vec![Effect::Say(Happened::Stopped("it was ended".into(), end))]
            }
            Phase::Stopping { .. } => {
                self.phase = Phase::Stopping { then };
                Vec::new()
            }
            Phase::Stopped | Phase::Failed => Vec::new(),
        }
    }

    fn restart(&mut self) -> Vec<Effect> {
        let then = Then::Start;
        match self.phase {
            Phase::Starting | Phase::Stopping { .. } => {
                self.phase = Phase::Stopping { then };
                Vec::new()
            }
            Phase::Probing { .. } | Phase::Ready { .. } => {
                self.phase = Phase::Stopping { then };
                vec![Effect::End]
            }
            Phase::Waiting { .. } | Phase::Stopped | Phase::Failed => self.launch(),
        }
    }

    fn launch(&mut self) -> Vec<Effect> {
        self.phase = Phase::Starting;
        vec![Effect::Say(Happened::Starting), Effect::Launch]
    }

    fn fail(&mut self, reason: String, end: End) -> Vec<Effect> {
        self.phase = Phase::Failed;
        vec![Effect::Say(Happened::Failed(reason, end))]
    }

    /// After a pause.
    fn again(&mut self, reason: String, end: End, now: Instant) -> Vec<Effect> {
        let doublings = self.failures.min(16);
        let pause = BACKOFF_FIRST
            .saturating_mul(1 << doublings)
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.restarts = self.restarts.saturating_add(1);
        self.phase = Phase::Waiting { until: now + pause };
        vec![Effect::Say(Happened::Restarting(reason, end))]
    }
}

/// How an app ended, for people.
fn how(end: &End) -> String {
    match (end.status, &end.failure) {
        _ if end.out_of_memory => "it wanted more memory than it may have, and was killed".into(),
        (_, Some(failure)) => failure.clone(),
        (Some(status), None) => match status - 128 {
            signal @ 1..=64 => format!("it was ended by signal {signal}"),
            _ => format!("it ended with status {status}"),
        },
        (None, None) => "it ended, and nobody saw how".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Duration = Duration::from_secs(30);

    fn life(policy: RestartPolicy) -> (Life, Instant) {
        (Life::new(policy, READY), Instant::now())
    }

    fn end(status: i32) -> Input {
        Input::Ended(End {
            status: Some(status),
            ..End::default()
        })
    }

    fn reason(effects: &[Effect]) -> String {
        match effects {
            [
                Effect::Say(
                    Happened::Failed(reason, _)
                    | Happened::Stopped(reason, _)
                    | Happened::Restarting(reason, _),
                ),
                ..,
            ] => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn it_starts_is_probed_and_ready_and_stops_when_told_to() {
        let (mut life, now) = life(RestartPolicy::Always);
        assert_eq!(life.step(Input::Launched, now), [Effect::Probe]);
        assert_eq!(life.state(), PreviewState::Probing);
        assert_eq!(
            life.step(Input::Listens, now),
            [Effect::Say(Happened::Ready)]
        );
        assert_eq!(
            life.step(Input::Stop, now),
            [Effect::Say(Happened::Stopping), Effect::End]
        );
        assert_eq!(life.state(), PreviewState::Stopping);
        assert_eq!(life.step(Input::Stop, now), []);
        // However it ended, and whatever is done when it ends by itself: it was told to.
        assert_eq!(reason(&life.step(end(137), now)), "it was ended");
        assert_eq!(life.state(), PreviewState::Stopped);
        assert_eq!(life.step(Input::Stop, now), []);
    }

    #[tokio::test]
    async fn what_does_not_work_is_said_with_its_reason() {
        for (inputs, expected) in [
            (vec![Input::NotLaunched("no runtime".into())], "no runtime"),
            (
                vec![Input::Launched, end(127)],
                "it ended with status 127 before its port answered",
            ),
            (
                vec![Input::Launched, end(0)],
                "it ended with status 0 before its port answered",
            ),
            (
                vec![Input::Launched, Input::Listens, end(139)],
                "it was ended by signal 11",
            ),
            (
                vec![
                    Input::Launched,
                    Input::Listens,
                    Input::MountIsGone,
                    end(137),
                ],
                "its mount went away",
            ),
        ] {
            let (mut life, now) = life(RestartPolicy::Never);
            let mut effects = Vec::new();
            for input in inputs {
                effects = life.step(input, now);
            }
            assert_eq!(reason(&effects), expected);
            assert_eq!(life.state(), PreviewState::Failed);
            assert_eq!(life.due(), None);
        }
        let (mut life, now) = life(RestartPolicy::Never);
        life.step(Input::Launched, now);
        let starved = Input::Ended(End {
            status: Some(137),
            out_of_memory: true,
            failure: None,
        });
        assert!(reason(&life.step(starved, now)).contains("memory"));
    }

    #[tokio::test]
    async fn one_that_never_listens_is_ended_at_its_deadline() {
        let (mut life, now) = life(RestartPolicy::Never);
        life.step(Input::Launched, now);
        assert_eq!(life.step(Input::Tick, now + READY / 2), []);
        assert_eq!(life.due(), Some(now + READY));
        assert_eq!(life.step(Input::Tick, now + READY), [Effect::End]);
        // Too late.
        assert_eq!(life.step(Input::Listens, now + READY), []);
        let said = reason(&life.step(end(143), now + READY));
        assert_eq!(said, "its port did not answer within 30 s");
    }

    #[tokio::test]
    async fn one_that_listens_no_longer_gets_time_to_listen_anew() {
        let (mut life, now) = life(RestartPolicy::Never);
        assert_eq!(life.step(Input::Silent, now), []);
        life.step(Input::Launched, now);
        assert_eq!(life.step(Input::Silent, now), []);
        life.step(Input::Listens, now);
        let again = [Effect::Say(Happened::Silent), Effect::Probe];
        assert_eq!(life.step(Input::Silent, now), again);
        assert_eq!(life.state(), PreviewState::Probing);
        assert_eq!(
            life.step(Input::Listens, now),
            [Effect::Say(Happened::Ready)]
        );
        life.step(Input::Silent, now);
        assert_eq!(life.due(), Some(now + READY));
        // One that ends now has worked.
        let mut done = life.clone();
        done.step(end(0), now);
        assert_eq!(done.state(), PreviewState::Stopped);
        assert_eq!(life.step(Input::Tick, now + READY), [Effect::End]);
        let said = reason(&life.step(end(143), now + READY));
        assert_eq!(said, "its port has not answered for 30 s");
        assert_eq!(life.state(), PreviewState::Failed);
    }

    #[tokio::test]
    async fn a_crash_loop_waits_longer_each_time_and_a_steady_app_begins_anew() {
        let (mut life, mut now) = life(RestartPolicy::OnFailure);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            life.step(Input::Launched, now);
            life.step(Input::Listens, now);
            assert!(matches!(
                life.step(end(1), now)[..],
                [Effect::Say(Happened::Restarting(..))]
            ));
            assert_eq!(life.state(), PreviewState::Starting);
            let due = life.due().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
            assert_eq!(
                life.step(Input::Tick, now),
                [Effect::Say(Happened::Starting), Effect::Launch]
            );
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(life.restarts, 8);
        life.step(Input::Launched, now);
        life.step(Input::Listens, now);
        now += STEADY;
        life.step(end(1), now);
        assert_eq!(life.due(), Some(now + BACKOFF_FIRST));
        // Told to stop while it waits.
        assert_eq!(reason(&life.step(Input::Stop, now)), "it was ended");
        assert_eq!(life.step(Input::Tick, now + BACKOFF_MAX), []);
    }

    #[tokio::test]
    async fn an_app_that_is_done_is_no_failure() {
        for (policy, state) in [
            (RestartPolicy::Never, PreviewState::Stopped),
            (RestartPolicy::OnFailure, PreviewState::Stopped),
            (RestartPolicy::Always, PreviewState::Starting),
        ] {
            let (mut life, now) = life(policy);
            life.step(Input::Launched, now);
            life.step(Input::Listens, now);
            life.step(end(0), now);
            assert_eq!(life.state(), state, "{policy:?}");
        }
    }

    #[tokio::test]
    async fn it_can_be_stopped_and_restarted_at_any_moment() {
        // While it is being put together: it ends as soon as there is something to end.
        let (mut life, now) = life(RestartPolicy::Never);
        life.step(Input::Stop, now);
        assert_eq!(life.step(Input::Launched, now), [Effect::End]);
        life.step(end(143), now);
        assert_eq!(life.state(), PreviewState::Stopped);
        assert_eq!(
            life.step(Input::Restart, now),
            [Effect::Say(Happened::Starting), Effect::Launch]
        );
        life.step(Input::Launched, now);
        life.step(Input::Listens, now);
        assert_eq!(life.step(Input::Restart, now), [Effect::End]);
        assert_eq!(
            life.step(end(143), now),
            [Effect::Say(Happened::Starting), Effect::Launch]
        );
        // Stop wins over a restart that is under way, and the other way round: the last word counts.
        life.step(Input::Restart, now);
        life.step(Input::Stop, now);
        life.step(Input::NotLaunched("gone".into()), now);
        assert_eq!(life.state(), PreviewState::Stopped);
    }
}
