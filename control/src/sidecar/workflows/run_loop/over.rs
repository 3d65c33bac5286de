//! What is done with a run that is over: giving back what it used, trying again, skipping, reverting.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::telling::WRITE_AGAIN;
use super::{Patience, RunLoop};
use crate::error::ApiError;
use crate::sandbox::FoundSandbox;
use crate::sidecar::at_rest::at_rest;
use crate::sidecar::events::kinds;
use crate::sidecar::store::{RevertRow, RunChange};
use crate::sidecar::workflows::definition::is_install;
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::registry::Message;
use crate::sidecar::workflows::snapshots::{OWNER, may_pass, take};
use crate::sidecar::workflows::steps::{end_sandbox, fault_of, give_back_preview, sandbox_id};
use crate::sidecar::workflows::types::{RevertReport, RunState, StepState};
use crate::volume::{SnapshotRestoreReport, SnapshotRestoreRequest};

/// How long a revert that nobody waits for is tried while something is in its way, such as a database that runs, and how long
/// after it was.
const IN_THE_WAY_MAX: Duration = Duration::from_secs(10 * 60);
const LOOK_AGAIN: Duration = Duration::from_secs(2);

fn in_the_way(run: &str) -> String {
    format!("run {run} goes on in this project; cancel it first, or wait for its end")
}

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
            self.begin_revert(RevertRow::unasked(report)).await;
        }
        let open = self.rows.reverts.last().cloned();
        if let Some(open) = open.filter(|open| !open.report.done && open.report.error.is_none()) {
            // What comes of it is in the rows and events of the run.
            drop(self.go_on_reverting(open, Patience::UntilMounted).await);
            return;
        }
        self.rows.run.releasing = false;
        let message = format!("everything of run {} was given back", self.rows.run.id);
        let data = json!({"state": self.rows.run.state});
        self.save(None, vec![self.event(kinds::RUN_RELEASED, message, data)])
            .await;
        self.reached(Point::ReleaseAfter).await;
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
    async fn end_preview(&self, number: usize) {
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

    /// Makes the project what it was before a step, or before the first one, or undoes the last time that was done.
    pub(super) async fn revert(
        &mut self,
        step: Option<&str>,
        undo: bool,
        origin: Option<String>,
    ) -> Result<RevertReport, ApiError> {
        let report = self.new_revert(step, undo)?;
        let row = RevertRow { report, origin };
        let alone = self.parts.projects.enter(&self.project(true));
        let alone = alone.map_err(|other| ApiError::Conflict(in_the_way(&other)))?;
        self.inside = Some(alone);
        self.begin_revert(row.clone()).await;
        self.go_on_reverting(row, Patience::None).await
    }

    /// A revert that is not written down.
    pub(super) fn new_revert(
        &self,
        step: Option<&str>,
        undo: bool,
    ) -> Result<RevertReport, ApiError> {
        let restored = self.target(step, undo)?;
        let run = &self.rows.run;
        let last = self.rows.reverts.last();
        let number = last.map_or(0, |last| last.report.number) + 1;
        Ok(RevertReport {
            run: run.id.clone(),
            number,
            step: step.map(str::to_owned),
            undo,
            restored,
            kept: format!("run-{}.before-revert-{number}", run.id),
            kept_late: None,
            names: 0,
            at: self.now_ms(),
            done: false,
            error: None,
        })
    }

    pub(super) async fn begin_revert(&mut self, row: RevertRow) {
        self.rows.run.releasing = true;
        self.rows.reverts.push(row.clone());
        self.put_revert(&row, false).await;
        self.reached(Point::RevertBegun).await;
    }

    /// The snapshot to go back to.
    fn target(&self, step: Option<&str>, undo: bool) -> Result<String, ApiError> {
        let gone = || {
            ApiError::Conflict(
                "the snapshot to go back to is not kept any more: those of older runs are removed"
                    .into(),
            )
        };
        if undo {
            if step.is_some() {
                return Err(ApiError::InvalidRequest(
                    "undo takes no step: it undoes the last revert of the run".into(),
                ));
            }
            let last = self.last_done();
            return last.map(|last| last.kept.clone()).ok_or_else(|| {
                ApiError::Conflict("the run was not reverted, so there is nothing to undo".into())
            });
        }
        let before = match step {
            None => 0,
            Some(name) => {
                let number = self.rows.steps.iter().position(|step| step.name == name);
                number.ok_or_else(|| {
                    let names: Vec<&str> = self
                        .rows
                        .steps
                        .iter()
                        .map(|step| step.name.as_str())
                        .collect();
                    ApiError::NotFound(format!(
                        "the run has no step {name:?}; it has {}",
                        names.join(", ")
                    ))
                })?
            }
        };
        let mut earlier = self.rows.steps.iter().take(before).rev();
        // The last one that did anything: what is before another one is not before this one.
        let snapshot = match earlier.find(|step| step.attempt > 0) {
            Some(step) => step.snapshot.clone(),
            None => self.rows.run.snapshot.clone(),
        };
        snapshot.ok_or_else(gone)
    }

    /// The last revert that was done.
    fn last_done(&self) -> Option<&RevertReport> {
        let reports = self.rows.reverts.iter().rev().map(|row| &row.report);
        reports.into_iter().find(|report| report.done)
    }

    /// Everything of a revert behind its row: what is there is kept first, and all of it may be done again.
    async fn go_on_reverting(
        &mut self,
        mut row: RevertRow,
        patience: Patience,
    ) -> Result<RevertReport, ApiError> {
        let report = &mut row.report;
        match self.restore_at_last(report, patience).await {
            Ok(()) => report.done = true,
            Err(error) => report.error = Some(fault_of(&error)),
        }
        self.rows.run.releasing = false;
        if report.done && !report.undo {
            self.rows.run.state = RunState::Reverted;
        } else if report.done {
            self.rows.run.state = self.state_of_steps();
        }
        if let Some(last) = self.rows.reverts.last_mut() {
            last.clone_from(&row);
        }
        self.put_revert(&row, true).await;
        self.reached(Point::RevertAfter).await;
        let report = row.report;
        match report.error.clone() {
            None => Ok(report),
            Some(fault) => Err(ApiError::Conflict(format!(
                "the project could not be reverted and is as it was: {}",
                fault.message
            ))),
        }
    }

    /// What is in its way and may pass is waited for where nobody else does, up to [`IN_THE_WAY_MAX`].
    async fn restore_at_last(
        &mut self,
        report: &mut RevertReport,
        patience: Patience,
    ) -> Result<(), ApiError> {
        let until_ms = self.now_ms() + IN_THE_WAY_MAX.as_millis() as u64;
        loop {
            let error = match self.restore(report, patience).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let passes = may_pass(&error) || matches!(error, ApiError::InUse(_));
            if patience == Patience::None || !passes || self.now_ms() >= until_ms {
                return Err(error);
            }
            tracing::warn!(%error, run = report.run, "a project is not put back yet");
            if self.unless_cancelled(sleep(LOOK_AGAIN)).await.is_err() {
                return Err(error);
            }
        }
    }

    async fn restore(
        &mut self,
        report: &mut RevertReport,
        patience: Patience,
    ) -> Result<(), ApiError> {
        let (parts, mount) = (Arc::clone(&self.parts), self.rows.run.mount.clone());
        // Others that went on in it would lose their work. This run itself is not in the way.
        let alone = parts.projects.enter(&self.project(true));
        let alone = alone.map_err(|other| ApiError::Conflict(in_the_way(&other)))?;
        let who = format!("the revert of run {}", self.rows.run.id);
        let mounted = self.mount(who, patience);
        let Ok(occupied) = self.unless_cancelled(mounted).await else {
            // It is over: nobody can.
            return Err(ApiError::Conflict("the run was cancelled".into()));
        };
        let occupied = occupied?;
        let folder = PathBuf::from(&self.rows.run.path);
        let at_rest = at_rest(&occupied, &folder).await?;
        let note = format!("before revert {} of run {}", report.number, report.run);
        take(&parts, &mount, (&report.kept, OWNER), &note).await?;
        self.reached(Point::RevertKept).await;
        let restored = self.restore_first(report).await?;
        self.reached(Point::RevertRestored).await;
        report.names = restored.names;
        report.kept_late = restored.safety.map(|safety| safety.name);
        drop((at_rest, occupied, alone));
        Ok(())
    }

    /// Restores what the report says. For an undo that is, as long as it is there, what also has the last writes.
    async fn restore_first(
        &self,
        report: &mut RevertReport,
    ) -> Result<SnapshotRestoreReport, ApiError> {
        let volume = self.parts.mounts.volume(&self.rows.run.mount)?;
        let late = self.last_done().and_then(|last| last.kept_late.clone());
        let request = |name: &str| SnapshotRestoreRequest {
            name: name.to_owned(),
            path: self.rows.run.path.clone(),
            ..SnapshotRestoreRequest::default()
        };
        if let Some(late) = late.filter(|_| report.undo) {
            match volume.restore(&request(&late)).await {
                Err(ApiError::InvalidRequest(_)) => {}
                done => {
                    report.restored = late;
                    return done;
                }
            }
        }
        volume.restore(&request(&report.restored)).await
    }

    /// What the run is when it is not reverted.
    fn state_of_steps(&self) -> RunState {
        let steps = &self.rows.steps;
        let any = |state| steps.iter().any(|step| step.state == state);
        match () {
            () if any(StepState::Cancelled) => RunState::Cancelled,
            () if any(StepState::Interrupted) => RunState::Interrupted,
            () if any(StepState::Failed) || self.rows.run.error.is_some() => RunState::Failed,
            () => RunState::Succeeded,
        }
    }

    async fn put_revert(&self, row: &RevertRow, is_end: bool) {
        let report = &row.report;
        let message = match (&report.error, is_end) {
            (Some(error), _) => format!("run {} is not reverted: {}", report.run, error.message),
            (None, true) => format!(
                "the project is what {} has; what was there is in {}",
                report.restored, report.kept
            ),
            (None, false) => format!("run {} is being reverted", report.run),
        };
        let mut events = vec![self.event(kinds::RUN_REVERTED, message, json!(report))];
        if is_end {
            events.push(self.run_event());
        }
        loop {
            let change = RunChange {
                run: Some(self.rows.run.clone()),
                steps: Vec::new(),
                revert: Some(row.clone()),
                events: events.clone(),
            };
            if self.commit(change).await.is_ok() {
                return;
            }
            sleep(WRITE_AGAIN).await;
        }
    }
}
