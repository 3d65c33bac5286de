//! What is done with a run that is over: giving back what it used, trying again, skipping.

use serde_json::json;

use super::{Patience, RunLoop};
use crate::error::ApiError;
use crate::sandbox::FoundSandbox;
use crate::sidecar::events::kinds;
use crate::sidecar::store::{NewEvent, RevertRow};
use crate::sidecar::workflows::definition::is_install;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::registry::Message;
use crate::sidecar::workflows::steps::{end_sandbox, give_back_preview, sandbox_id};
use crate::sidecar::workflows::types::{RunState, StepState};

impl RunLoop {
    /// Gives back what a run used that was cancelled, or finishes the revert that was under way.
    pub(super) async fn release(&mut self) {
        self.end_found().await;
        for number in 0..self.rows.steps.len() {
            // One that was cut off, or had ended and waited for its snapshot.
            let is_left = self
                .rows
                .steps
                .get(number)
                .is_some_and(|step| step.state.is_over() && !step.settled && step.attempt > 0);
            if is_left {
                self.end_preview(number).await;
                if let Some(step) = self.rows.steps.get_mut(number) {
                    step.attempt_ms = None;
                }
                // One that is over is cancelled by nobody.
                drop(self.settle(number).await);
            }
        }
        // All or nothing: also of an install that was cancelled. Nothing of it is there before its first snapshot.
        let last = self.rows.reverts.last();
        let is_undone = self.rows.run.state == RunState::Cancelled
            && is_install(&self.rows.run.workflow)
            && last.is_none_or(|last| last.report.done || last.report.error.is_some());
        if is_undone && let Ok(report) = self.new_revert(None, false) {
            self.begin_revert(RevertRow::unasked(report), Vec::new())
                .await;
        }
        let open = self.rows.reverts.last().cloned();
        if let Some(open) = open.filter(|open| !open.report.done && open.report.error.is_none()) {
            // What comes of it is in the rows and events of the run.
            drop(self.go_on_reverting(open, Patience::UntilMounted).await);
            return;
        }
        self.rows.run.releasing = false;
        self.save(None, vec![self.released()]).await;
        self.reached(Point::ReleaseAfter).await;
    }

    pub(super) fn released(&self) -> NewEvent {
        let message = format!("everything of run {} was given back", self.rows.run.id);
        let data = json!({"state": self.rows.run.state});
        self.event(kinds::RUN_RELEASED, message, data)
    }

    /// Ends what an earlier sidecar left and nobody went on with.
    pub(super) async fn end_found(&mut self) {
        if let Some(found) = self.found.take() {
            end_sandbox(&found).await;
            let (FoundSandbox::Running(sandbox, _)
            | FoundSandbox::Ended(sandbox, _, _)
            | FoundSandbox::Lost(sandbox, _)) = found;
            self.parts.sandboxes.remove(&sandbox).await;
        }
    }

    /// Ends the app that a step was to start when an earlier sidecar was killed.
    pub(super) async fn end_preview(&self, number: usize) {
        let Some(step) = self.rows.steps.get(number) else {
            return;
        };
        if step.attempt_ms.is_some() && step.kind == "preview" {
            let by = sandbox_id(&self.rows.run.id, step.number, step.attempt);
            give_back_preview(&self.parts.previews, &by).await;
        }
    }

    /// Does what is asked of a run that is over.
    pub(super) async fn operate(&mut self, message: Message) {
        match message {
            Message::Cancel(reply) => drop(reply.send(Ok(self.summary()))),
            Message::Retry(step, reply) => {
                let done = self.again(step.as_deref(), false).await;
                drop(reply.send(done.map(|()| self.summary())));
            }
            Message::Skip(step, reply) => {
                let done = self.again(step.as_deref(), true).await;
                drop(reply.send(done.map(|()| self.summary())));
            }
            Message::Revert {
                step,
                undo,
                origin,
                reply,
            } => {
                let done = self.revert(step.as_deref(), undo, origin).await;
                drop(reply.send(done));
            }
        }
    }

    /// Lets the run go on from a step that did not succeed, or behind it.
    async fn again(&mut self, name: Option<&str>, skips: bool) -> Result<(), ApiError> {
        let run = &self.rows.run;
        if !matches!(
            run.state,
            RunState::Failed | RunState::Cancelled | RunState::Interrupted
        ) {
            return Err(ApiError::Conflict(format!(
                "run {} is {}; only one that failed, was cancelled or was interrupted goes on",
                run.id, run.state
            )));
        }
        if let Err(fault) = &self.workflow {
            return Err(ApiError::Conflict(fault.message.clone()));
        }
        let has_begun = self.rows.steps.iter().any(|step| step.attempt > 0);
        if run.snapshot.is_none() && has_begun {
            return Err(ApiError::Conflict(
                "what was there before the run is not kept any more, so that it could not be gone back from; trigger the \
                 workflow again"
                    .into(),
            ));
        }
        let steps = &self.rows.steps;
        let number = match name {
            Some(name) => steps
                .iter()
                .position(|step| step.name == name)
                .ok_or_else(|| ApiError::NotFound(format!("the run has no step {name:?}")))?,
            None => steps
                .iter()
                .position(|step| step.state.is_failure())
                .ok_or_else(|| {
                    ApiError::Conflict("no step of the run failed; trigger it again".into())
                })?,
        };
        let is_done = |step: &crate::sidecar::store::StepRow| step.state == StepState::Succeeded;
        if steps.get(number).is_some_and(is_done) {
            return Err(ApiError::Conflict(
                "that step succeeded, and what succeeded is not done twice; trigger the workflow again".into(),
            ));
        }
        let now = self.now_ms();
        let mut changed = Vec::new();
        for (at, step) in self.rows.steps.iter_mut().enumerate() {
            // Steps before it that failed are forgiven: whoever names a later one has seen to it.
            let is_skipped = step.state.is_failure() && at < number || skips && at == number;
            if is_skipped {
                step.state = StepState::Skipped;
                (step.settled, step.ended_ms) = (true, Some(now));
            } else if at >= number && step.state != StepState::Succeeded {
                step.state = StepState::Queued;
                step.attempts.clear();
                (step.started_ms, step.ended_ms) = (None, None);
                (step.attempt_ms, step.next_ms, step.error) = (None, None, None);
                (step.settled, step.snapshot) = (false, None);
            } else {
                continue;
            }
            changed.push(step.clone());
        }
        let run = &mut self.rows.run;
        run.state = RunState::Queued;
        // The time of a run counts from here again.
        (run.error, run.ended_ms, run.started_ms) = (None, None, None);
        let events = vec![self.run_event()];
        self.write(true, changed, events).await;
        Ok(())
    }
}
