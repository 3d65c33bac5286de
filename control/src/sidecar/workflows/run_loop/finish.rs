//! The end of a run: what became of it, by what became of its steps.

use super::RunLoop;
use crate::sidecar::store::{RevertRow, StepRow};
use crate::sidecar::workflows::definition::{OnFailure, Workflow, is_install};
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::steps::fault;
use crate::sidecar::workflows::types::{Fault, RevertReport, RunState, StepState};

impl RunLoop {
    pub(super) async fn finish(&mut self, workflow: &Workflow) {
        self.end_found().await;
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
            self.fail_and_undo(state, fault, report, Vec::new()).await;
            return;
        }
        self.finish_with(state, Some(fault)).await;
    }

    /// Ends a run that cannot be gone on with, and undoes it if that is what happens when it fails.
    pub(super) async fn give_up(&mut self, fault: Fault) {
        self.end_found().await;
        for number in 0..self.rows.steps.len() {
            self.end_preview(number).await;
        }
        // What cannot be read does not say it, but for an install it is certain.
        let is_undone = match &self.workflow {
            Ok(workflow) => workflow.definition.on_failure == OnFailure::Revert,
            Err(_) => is_install(&self.rows.run.workflow),
        };
        let report = is_undone.then(|| self.new_revert(None, false));
        if let Some(Ok(report)) = report {
            let changed = self.cut_off(Some(&fault));
            self.fail_and_undo(RunState::Failed, fault, report, changed)
                .await;
            return;
        }
        self.finish_with(RunState::Failed, Some(fault)).await;
    }

    async fn fail_and_undo(
        &mut self,
        state: RunState,
        fault: Fault,
        report: RevertReport,
        changed: Vec<StepRow>,
    ) {
        self.reached(Point::FinishBefore).await;
        self.rows.run.state = state;
        self.rows.run.error = Some(fault);
        self.rows.run.ended_ms = Some(self.now_ms());
        // All at once: the next sidecar must not find a run that is over, or all of its steps, and nothing left to be done.
        self.begin_revert(RevertRow::unasked(report), changed).await;
        self.parts.metrics.ended(state);
        self.release().await;
    }

    async fn finish_with(&mut self, state: RunState, error: Option<Fault>) {
        self.reached(Point::FinishBefore).await;
        self.rows.run.state = state;
        self.rows.run.error.clone_from(&error);
        self.rows.run.ended_ms = Some(self.now_ms());
        let changed = self.cut_off(error.as_ref());
        self.write(true, changed, vec![self.run_event()]).await;
        self.parts.metrics.ended(state);
        self.reached(Point::FinishAfter).await;
    }

    /// Ends the steps of a run that cannot be gone on with; those that changed.
    fn cut_off(&mut self, error: Option<&Fault>) -> Vec<StepRow> {
        let now = self.now_ms();
        let mut changed = Vec::new();
        for step in &mut self.rows.steps {
            match step.state {
                StepState::Running | StepState::Waiting => {
                    step.state = StepState::Failed;
                    step.error = error.cloned();
                }
                StepState::Queued => step.state = StepState::Skipped,
                _ => continue,
            }
            step.ended_ms = Some(now);
            (step.doing, step.attempt_ms, step.times_out_ms) = (None, None, None);
            changed.push(step.clone());
        }
        changed
    }
}
