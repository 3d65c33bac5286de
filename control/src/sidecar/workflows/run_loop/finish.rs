//! The end of a run: what became of it, by what became of its steps.

use super::RunLoop;
use crate::sidecar::store::RevertRow;
use crate::sidecar::workflows::definition::{OnFailure, Workflow};
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::steps::fault;
use crate::sidecar::workflows::types::{Fault, RunState, StepState};

impl RunLoop {
    pub(super) async fn finish(&mut self, workflow: &Workflow) {
        let failed = self
            .rows
            .steps
            .iter()
            .find(|step| step.state.is_failure())
            .map(|step| {
                let error = step
                    .error
                    .clone()
                    .unwrap_or_else(|| fault("internal", "why it failed is not known"));
                let state = match step.state {
                    StepState::Interrupted => RunState::Interrupted,
                    _ => RunState::Failed,
                };
                (
                    state,
                    fault(
                        &error.code,
                        format!("step {}: {}", step.name, error.message),
                    ),
                )
            });
        let Some((state, fault)) = failed else {
            self.finish_with(RunState::Succeeded, None).await;
            return;
        };
        if workflow.definition.on_failure == OnFailure::Revert
            && let Ok(report) = self.new_revert(None, false)
        {
            self.reached(Point::FinishBefore).await;
            self.rows.run.state = state;
            self.rows.run.error = Some(fault);
            self.rows.run.ended_ms = Some(self.now_ms());
            // Both at once: the next sidecar must not find a run that is over and has nothing left to be done.
            self.begin_revert(RevertRow::unasked(report)).await;
            self.parts.metrics.ended(state);
            self.release().await;
            return;
        }
        self.finish_with(state, Some(fault)).await;
    }

    pub(super) async fn finish_with(&mut self, state: RunState, error: Option<Fault>) {
        self.reached(Point::FinishBefore).await;
        let now = self.now_ms();
        self.rows.run.state = state;
        self.rows.run.error.clone_from(&error);
        self.rows.run.ended_ms = Some(now);
        let mut changed = Vec::new();
        // Of a run that cannot be gone on with.
        for step in &mut self.rows.steps {
            match step.state {
                StepState::Running | StepState::Waiting => {
                    step.state = StepState::Failed;
                    step.error.clone_from(&error);
                }
                StepState::Queued => step.state = StepState::Skipped,
                _ => continue,
            }
            step.ended_ms = Some(now);
            (step.doing, step.attempt_ms, step.times_out_ms) = (None, None, None);
            changed.push(step.clone());
        }
        self.write(true, changed, vec![self.run_event()]).await;
        self.parts.metrics.ended(state);
        self.reached(Point::FinishAfter).await;
    }
}
