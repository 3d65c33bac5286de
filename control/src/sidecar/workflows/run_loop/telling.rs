//! What is written of a run, and the events that tell of it: both in one transaction, and nothing goes on before that.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::sleep;

use super::RunLoop;
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::store::{NewEvent, RunChange, StepRow};
use crate::sidecar::workflows::report::summary;
use crate::sidecar::workflows::types::RunSummary;

/// Between two attempts to write a row, when the database does not take it.
pub(super) const WRITE_AGAIN: Duration = Duration::from_secs(1);

impl RunLoop {
    pub(super) fn event(&self, kind: &'static str, message: String, data: Json) -> NewEvent {
        NewEvent {
            at_ms: self.now_ms(),
            kind,
            mount: Some(self.rows.run.mount.clone()),
            run: Some(self.rows.run.id.clone()),
            step: None,
            data: Some(data),
            message,
        }
    }

    pub(super) fn run_event(&self) -> NewEvent {
        let run = &self.rows.run;
        let why = run
            .error
            .as_ref()
            .map_or_else(String::new, |error| format!(": {}", error.message));
        let message = format!("run {} of {} is {}{why}", run.id, run.workflow, run.state);
        let data = json!({"state": run.state, "error": run.error});
        self.event(kinds::RUN, message, data)
    }

    pub(super) fn step_event(&self, number: usize) -> NewEvent {
        let Some(step) = self.rows.steps.get(number) else {
            return self.run_event();
        };
        let what = match (&step.error, &step.doing, step.state.is_over()) {
            (Some(error), None, _) => format!(": {}", error.message),
            (_, Some(doing), false) => format!(": {doing}"),
            _ => String::new(),
        };
        let message = format!("step {} is {}{what}", step.name, step.state);
        let data = json!({
            "state": step.state, "attempt": step.attempt, "doing": step.doing, "times_out": step.times_out_ms,
            "error": step.error, "snapshot": step.snapshot,
        });
        NewEvent {
            step: Some(step.name.clone()),
            ..self.event(kinds::STEP, message, data)
        }
    }

    /// Writes the run as it is now, the step if there is one, and tells of it. Does not return before it is written.
    pub(super) async fn save(&self, step: Option<usize>, events: Vec<NewEvent>) {
        let steps = step.and_then(|number| self.rows.steps.get(number)).cloned();
        self.write(true, steps.into_iter().collect(), events).await;
    }

    pub(super) async fn write(&self, with_run: bool, steps: Vec<StepRow>, events: Vec<NewEvent>) {
        loop {
            let change = RunChange {
                run: with_run.then(|| self.rows.run.clone()),
                steps: steps.clone(),
                revert: None,
                events: events.clone(),
            };
            if self.commit(change).await.is_ok() {
                return;
            }
            // Its disk may be full; nothing goes on before this is written.
            sleep(WRITE_AGAIN).await;
        }
    }

    pub(super) async fn commit(&self, change: RunChange) -> Result<(), ApiError> {
        let is_quiet = |kind: &str| kind == kinds::STEP_OUTPUT || kind == kinds::STEP_AGENT;
        let told: Vec<(&'static str, String)> = change
            .events
            .iter()
            .filter(|event| !is_quiet(event.kind))
            .map(|event| (event.kind, event.message.clone()))
            .collect();
        let run = &self.rows.run.id;
        let written = self.parts.store.change_run(run, change).await?;
        for (kind, message) in told {
            tracing::info!(kind, run, "{message}");
        }
        if let Some(id) = written {
            self.parts.events.wake(id);
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> RunSummary {
        summary(
            &self.rows.run,
            self.rows.steps.iter(),
            self.now_ms(),
            self.parts.stuck_after_ms,
        )
    }
}
