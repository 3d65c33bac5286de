//! What follows from the end of an attempt: another one, or the end of its step.

use super::RunLoop;
use crate::sidecar::store::StepRow;
use crate::sidecar::workflows::definition::Planned;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::steps::{Ending, Outcome, bounded, fault, fitting};
use crate::sidecar::workflows::types::{AttemptReport, Fault, RunState, StepState};

/// How often a step may be cut off and tried again, beside its attempts.
const INTERRUPTIONS_MAX: usize = 3;
/// The code of an attempt that was cut off.
const INTERRUPTED: &str = "interrupted";

impl RunLoop {
    /// What came of an attempt, with an end to what it says.
    pub(super) fn bounded(&self, number: usize, outcome: Outcome) -> Outcome {
        let others = self.rows.steps.iter().enumerate();
        let others = others.filter(|(other, _)| *other != number);
        match outcome {
            Outcome::Done(outputs) => {
                Outcome::Done(fitting(outputs, others.map(|(_, step)| &step.outputs)))
            }
            Outcome::Failed(fault) => Outcome::Failed(bounded(fault)),
            Outcome::Interrupted(fault) => Outcome::Interrupted(bounded(fault)),
        }
    }

    /// What follows from the end of an attempt.
    pub(super) async fn conclude(
        &mut self,
        (number, planned): (usize, &Planned),
        ending: Ending,
        was_cancelled: bool,
        run_ends_ms: Option<u64>,
    ) {
        let now = self.now_ms();
        let outcome = self.bounded(number, ending.outcome);
        let Some(step) = self.rows.steps.get_mut(number) else {
            return;
        };
        let began_ms = step.attempt_ms.take().unwrap_or(now);
        step.times_out_ms = None;
        step.progress_ms = Some(now);
        step.log = ending.log;
        let (outcome, error) = match outcome {
            Outcome::Done(outputs) => {
                step.outputs = outputs;
                ("succeeded", None)
            }
            Outcome::Failed(fault) => ("failed", Some(fault)),
            Outcome::Interrupted(cause) => (INTERRUPTED, Some(fault(INTERRUPTED, cause.message))),
        };
        let outcome = if was_cancelled { "cancelled" } else { outcome };
        self.parts.metrics.attempted(planned.kind.name(), outcome);
        step.attempts.push(AttemptReport {
            attempt: step.attempt,
            started_ms: began_ms,
            ended_ms: now,
            error: error.clone(),
        });
        if was_cancelled {
            self.save(Some(number), Vec::new()).await;
            return;
        }
        step.error.clone_from(&error);
        step.doing = None;
        let next = error
            .as_ref()
            .and_then(|error| next_attempt(step, planned, error, now))
            // After the end of the run there is none.
            .filter(|pause_ms| run_ends_ms.is_none_or(|ends| now.saturating_add(*pause_ms) < ends));
        match (&error, next) {
            (None, _) => step.state = StepState::Succeeded,
            (Some(error), Some(pause_ms)) => {
                step.state = StepState::Waiting;
                step.next_ms = Some(now.saturating_add(pause_ms));
                step.doing = Some(format!(
                    "waits {} ms for attempt {}, after: {}",
                    pause_ms,
                    step.attempt + 1,
                    error.message
                ));
            }
            (Some(error), None) if error.code == INTERRUPTED => {
                step.state = StepState::Interrupted;
            }
            (Some(_), None) => step.state = StepState::Failed,
        }
        if step.state.is_over() {
            step.ended_ms = Some(now);
        }
        let is_again = step.state == StepState::Waiting;
        self.rows.run.state = match is_again {
            true => RunState::Waiting,
            false => RunState::Running,
        };
        self.save(Some(number), vec![self.step_event(number)]).await;
        self.reached(match is_again {
            true => Point::RetryAfter,
            false => Point::OutcomeAfter,
        })
        .await;
    }
}

/// In how many milliseconds there is another attempt; none when this was the last.
fn next_attempt(step: &StepRow, planned: &Planned, error: &Fault, now_ms: u64) -> Option<u64> {
    let is_interruption = |one: &&AttemptReport| {
        one.error
            .as_ref()
            .is_some_and(|error| error.code == INTERRUPTED)
    };
    let interruptions = step.attempts.iter().filter(is_interruption).count();
    let failures = u32::try_from(step.attempts.len() - interruptions).unwrap_or(u32::MAX);
    let pause_ms = match error.code == INTERRUPTED {
        true if planned.idempotent && interruptions <= INTERRUPTIONS_MAX => 0,
        false if planned.idempotent && failures < planned.attempts => {
            let pause = planned.retry.as_ref().map(|retry| retry.pause(failures));
            pause.map_or(0, |pause| {
                u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
            })
        }
        _ => return None,
    };
    let ends_ms = step
        .started_ms
        .unwrap_or(now_ms)
        .saturating_add(planned.total_ms);
    (now_ms.saturating_add(pause_ms) < ends_ms).then_some(pause_ms)
}
