//! One step of a run: whether it is due, its attempts until it is over, and the snapshot after it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Cancelled, RunLoop, out_of_time};
use crate::sandbox::Secrets;
use crate::sidecar::events::kinds;
use crate::sidecar::workflows::definition::{Planned, Workflow};
use crate::sidecar::workflows::expression::Scope;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::snapshots::{OWNER, take};
use crate::sidecar::workflows::steps::fault_of;
use crate::sidecar::workflows::types::{RunState, StepState};

/// How long a run whose definition gives it no time waits for what it needs.
const NO_END: Duration = Duration::from_secs(30 * 24 * 3600);

impl RunLoop {
    /// One step, from wherever it is to its end.
    pub(super) async fn step(
        &mut self,
        number: usize,
        planned: &Planned,
        workflow: &Workflow,
    ) -> Result<(), Cancelled> {
        let Some(step) = self.rows.steps.get(number) else {
            return Ok(());
        };
        let is_begun = step.attempt_ms.is_some();
        if !step.state.is_over() && !is_begun && self.time_left(workflow).is_zero() {
            self.has_no_time(number).await;
        }
        let Some(step) = self.rows.steps.get(number) else {
            return Ok(());
        };
        if step.state == StepState::Queued {
            let scope = self.scope(Secrets::default());
            let is_due = match &planned.condition {
                None => scope.goes_well(),
                Some(condition) => {
                    (condition.asks_how_it_goes() || scope.goes_well())
                        && condition.evaluate(&scope).is_true()
                }
            };
            if !is_due {
                self.skip(number).await;
                return Ok(());
            }
        }
        while self
            .rows
            .steps
            .get(number)
            .is_some_and(|step| !step.state.is_over())
        {
            self.attempt(number, planned, workflow).await?;
        }
        self.settle(number).await
    }

    /// What is left of the time of the run; [`NO_END`] when it has none.
    pub(super) fn time_left(&self, workflow: &Workflow) -> Duration {
        self.run_ends_ms(workflow).map_or(NO_END, |ends_ms| {
            Duration::from_millis(ends_ms.saturating_sub(self.now_ms()))
        })
    }

    /// When the time of the run is over, if it has an end.
    pub(super) fn run_ends_ms(&self, workflow: &Workflow) -> Option<u64> {
        let span = workflow.definition.timeout?;
        Some(self.rows.run.started_ms?.saturating_add(span.ms()))
    }

    /// A step that is not begun (again) because the time of the run is over: the first one fails, those behind it are not done.
    pub(super) async fn has_no_time(&mut self, number: usize) {
        if self.rows.steps.iter().any(|step| step.state.is_failure()) {
            self.skip(number).await;
            return;
        }
        let now = self.now_ms();
        if let Some(step) = self.rows.steps.get_mut(number) {
            step.state = StepState::Failed;
            step.error = Some(out_of_time("had not ended its steps"));
            step.ended_ms = Some(now);
            (step.doing, step.next_ms) = (None, None);
        }
        self.rows.run.state = RunState::Running;
        self.save(Some(number), vec![self.step_event(number)]).await;
        self.reached(Point::OutcomeAfter).await;
    }

    pub(super) async fn skip(&mut self, number: usize) {
        let now = self.now_ms();
        if let Some(step) = self.rows.steps.get_mut(number) {
            step.state = StepState::Skipped;
            step.ended_ms = Some(now);
            step.settled = true;
        }
        self.save(Some(number), vec![self.step_event(number)]).await;
        self.reached(Point::SkipAfter).await;
    }

    /// The snapshot after a step, whatever became of it.
    pub(super) async fn settle(&mut self, number: usize) -> Result<(), Cancelled> {
        let run = &self.rows.run;
        let Some(step) = self.rows.steps.get(number) else {
            return Ok(());
        };
        if step.settled || step.attempt == 0 {
            return Ok(());
        }
        // No name of a step has a full stop.
        let name = match step.attempt {
            1 => format!("run-{}-{}", run.id, step.name),
            again => format!("run-{}-{}.{again}", run.id, step.name),
        };
        let note = format!("after step {} of run {}", step.name, run.id);
        let (parts, mount, named) = (Arc::clone(&self.parts), run.mount.clone(), name.clone());
        let taking = async move { take(&parts, &mount, (&named, OWNER), &note).await };
        let taken = self.unless_cancelled(taking).await?;
        self.reached(Point::Snapshot).await;
        let (run, Some(step)) = (&self.rows.run, self.rows.steps.get(number)) else {
            return Ok(());
        };
        let mut events = Vec::new();
        let taken = match taken {
            Ok(()) => Some(name),
            Err(error) => {
                let message = format!("there is no snapshot after step {}: {error}", step.name);
                tracing::warn!(%error, run = run.id, step = step.name, "no snapshot after a step");
                events.push(self.event(kinds::STEP, message, json!({"error": fault_of(&error)})));
                None
            }
        };
        if let Some(step) = self.rows.steps.get_mut(number) {
            step.snapshot = taken;
            step.settled = true;
        }
        events.push(self.step_event(number));
        self.save(Some(number), events).await;
        self.reached(Point::SettledAfter).await;
        Ok(())
    }
}
