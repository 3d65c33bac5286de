//! Reverting: making the project what a snapshot has, with what is there kept in another one first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::telling::WRITE_AGAIN;
use super::{CANCELLED, Patience, RunLoop};
use crate::error::ApiError;
use crate::sidecar::at_rest::at_rest;
use crate::sidecar::events::kinds;
use crate::sidecar::store::{NewEvent, RevertRow, RunChange, StepRow};
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::snapshots::{OWNER, may_pass, take};
use crate::sidecar::workflows::steps::{fault, fault_of};
use crate::sidecar::workflows::types::{Fault, RevertReport, RunState, StepState};
use crate::volume::{SnapshotRestoreReport, SnapshotRestoreRequest};

/// How long a revert that nobody waits for is tried while something is in its way, such as a database that runs, and how long
/// after it was.
const IN_THE_WAY_MAX: Duration = Duration::from_secs(10 * 60);
const LOOK_AGAIN: Duration = Duration::from_secs(2);

fn in_the_way(run: &str) -> String {
    format!("run {run} goes on in this project; cancel it first, or wait for its end")
}

impl RunLoop {
    /// Makes the project what it was before a step, or before the first one, or undoes the last time that was done.
    pub(super) async fn revert(
        &mut self,
        step: Option<&str>,
        undo: bool,
        origin: Option<String>,
    ) -> Result<RevertReport, ApiError> {
        let report = self.new_revert(step, undo)?;
        let row = RevertRow {
            origin,
            ..RevertRow::unasked(report)
        };
        let alone = self.parts.projects.enter(&self.project(true));
        let alone = alone.map_err(|other| ApiError::Conflict(in_the_way(&other)))?;
        self.inside = Some(alone);
        self.begin_revert(row.clone(), Vec::new()).await;
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

    /// Writes down that it is begun, with the steps that changed.
    pub(super) async fn begin_revert(&mut self, row: RevertRow, steps: Vec<StepRow>) {
        self.rows.run.releasing = true;
        self.rows.reverts.push(row.clone());
        let message = format!("run {} is being reverted", row.report.run);
        let event = self.event(kinds::RUN_REVERTED, message, json!(row.report));
        self.note_revert(&row, steps, vec![event]).await;
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
    pub(super) async fn go_on_reverting(
        &mut self,
        mut row: RevertRow,
        patience: Patience,
    ) -> Result<RevertReport, ApiError> {
        // Whoever cancelled it waits to hear that it is over.
        let tells_released =
            patience == Patience::UntilMounted && self.rows.run.state == RunState::Cancelled;
        let mut is_known = true;
        match self.restore_at_last(&mut row, patience).await {
            Ok(()) => row.report.done = true,
            Err(Unreverted {
                error,
                is_known: false,
            }) if patience == Patience::None => {
                tracing::warn!(%error, run = row.report.run, "what became of a revert is not known yet");
                // It is not over: it is gone on with once this is answered.
                return Err(ApiError::DeadlineExceeded(format!(
                    "whether the project is reverted is not known yet; it is gone on with, and GET /workflows/{} shows it",
                    row.report.run
                )));
            }
            Err(unreverted) => {
                is_known = unreverted.is_known;
                row.report.error = Some(match is_known {
                    true => fault_of(&unreverted.error),
                    false => unknown(&row.report, &unreverted.error),
                });
            }
        }
        let report = &row.report;
        self.rows.run.releasing = false;
        if report.done && !report.undo {
            self.rows.run.state = RunState::Reverted;
        } else if report.done {
            self.rows.run.state = self.state_of_steps();
        }
        self.end_revert(&row, tells_released).await;
        self.reached(Point::RevertAfter).await;
        let report = row.report;
        match report.error.clone() {
            None => Ok(report),
            Some(fault) => Err(ApiError::Conflict(match is_known {
                true => format!(
                    "the project could not be reverted and is as it was: {}",
                    fault.message
                ),
                false => format!("the project is perhaps not reverted: {}", fault.message),
            })),
        }
    }

    /// What is in its way and may pass is waited for where nobody else does, up to [`IN_THE_WAY_MAX`].
    async fn restore_at_last(
        &mut self,
        row: &mut RevertRow,
        patience: Patience,
    ) -> Result<(), Unreverted> {
        // Others that went on in it would lose their work, and nobody begins to between two tries. This run itself is not in
        // the way.
        let alone = self.parts.projects.enter(&self.project(true));
        let alone = alone.map_err(|other| Unreverted {
            error: ApiError::Conflict(in_the_way(&other)),
            is_known: !row.sent,
        })?;
        self.inside = Some(alone);
        let until_ms = self.now_ms() + IN_THE_WAY_MAX.as_millis() as u64;
        loop {
            let was_sent = row.sent;
            let error = match self.restore(row, patience).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // What was asked for before has perhaps been done, whatever is in the way of asking again.
            let is_known = !was_sent && (!row.sent || is_refusal(&error));
            let unreverted = |error| Unreverted { error, is_known };
            let passes = may_pass(&error) || matches!(error, ApiError::InUse(_)) || !is_known;
            if patience == Patience::None || !passes || self.now_ms() >= until_ms {
                return Err(unreverted(error));
            }
            tracing::warn!(%error, run = row.report.run, "a project is not put back yet");
            if self.unless_cancelled(sleep(LOOK_AGAIN)).await.is_err() {
                return Err(unreverted(error));
            }
        }
    }

    async fn restore(&mut self, row: &mut RevertRow, patience: Patience) -> Result<(), ApiError> {
        let (parts, mount) = (Arc::clone(&self.parts), self.rows.run.mount.clone());
        let who = format!("the revert of run {}", self.rows.run.id);
        let mounted = self.mount(who, patience);
        let Ok(occupied) = self.unless_cancelled(mounted).await else {
            // It is over: nobody can.
            return Err(ApiError::Conflict("the run was cancelled".into()));
        };
        let occupied = occupied?;
        let folder = PathBuf::from(&self.rows.run.path);
        let at_rest = at_rest(&occupied, &folder).await?;
        let report = &row.report;
        let note = format!("before revert {} of run {}", report.number, report.run);
        take(&parts, &mount, (&report.kept, OWNER), &note).await?;
        self.reached(Point::RevertKept).await;
        let is_first = !row.sent;
        if is_first {
            row.sent = true;
            self.note_revert(row, Vec::new(), Vec::new()).await;
        }
        let restored = self.restore_first(&mut row.report).await?;
        self.reached(Point::RevertRestored).await;
        row.report.names = restored.names;
        // What a second one finds is perhaps what the first one made, and what was written onto that.
        row.report.kept_late = restored
            .safety
            .filter(|_| is_first)
            .map(|safety| safety.name);
        drop((at_rest, occupied));
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
                Ok(done) => {
                    report.restored = late;
                    return Ok(done);
                }
                failed => return failed,
            }
        }
        volume.restore(&request(&report.restored)).await
    }

    /// What the run is when it is not reverted.
    fn state_of_steps(&self) -> RunState {
        let steps = &self.rows.steps;
        let any = |state| steps.iter().any(|step| step.state == state);
        // Perhaps between two steps.
        let error = self.rows.run.error.as_ref();
        let was_cancelled = error.is_some_and(|error| error.code == CANCELLED);
        match () {
            () if any(StepState::Cancelled) || was_cancelled => RunState::Cancelled,
            () if any(StepState::Interrupted) => RunState::Interrupted,
            () if any(StepState::Failed) || self.rows.run.error.is_some() => RunState::Failed,
            () => RunState::Succeeded,
        }
    }

    async fn end_revert(&mut self, row: &RevertRow, tells_released: bool) {
        let report = &row.report;
        let message = match &report.error {
            Some(error) => format!("run {} is not reverted: {}", report.run, error.message),
            None => format!(
                "the project is what {} has; what was there is in {}",
                report.restored, report.kept
            ),
        };
        let mut events = vec![
            self.event(kinds::RUN_REVERTED, message, json!(report)),
            self.run_event(),
        ];
        if tells_released {
            events.push(self.released());
        }
        self.note_revert(row, Vec::new(), events).await;
    }

    /// Writes how far a revert is. Does not return before it is written.
    async fn note_revert(&mut self, row: &RevertRow, steps: Vec<StepRow>, events: Vec<NewEvent>) {
        if let Some(last) = self.rows.reverts.last_mut() {
            last.clone_from(row);
        }
        loop {
            let change = RunChange {
                run: Some(self.rows.run.clone()),
                steps: steps.clone(),
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

/// Why a revert did not come to its end.
struct Unreverted {
    error: ApiError,
    /// The project is certainly what it was.
    is_known: bool,
}

/// Whether the volume says by it that it did nothing.
fn is_refusal(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::InvalidRequest(_) | ApiError::ReadOnly(_) | ApiError::NotFound(_)
    )
}

fn unknown(report: &RevertReport, error: &ApiError) -> Fault {
    let kept = &report.kept;
    let text =
        format!("the volume did not say whether it is; what was there is in {kept}: {error}");
    fault(fault_of(error).code.as_str(), text)
}
