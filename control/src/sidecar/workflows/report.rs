//! From rows to what the endpoints answer.

use super::types::{RunDetails, RunSummary, StepReport, StepState};
use crate::sidecar::store::{RunRow, RunRows, StepRow};

/// A run as lists show it.
pub(super) fn summary<'r>(
    run: &RunRow,
    steps: impl Iterator<Item = &'r StepRow>,
    now_ms: u64,
    stuck_after_ms: u64,
) -> RunSummary {
    let mut steps = steps;
    let at_work = steps.find(|step| matches!(step.state, StepState::Running | StepState::Waiting));
    RunSummary {
        run: run.id.clone(),
        workflow: run.workflow.clone(),
        mount: run.mount.clone(),
        path: run.path.clone(),
        state: run.state,
        created: run.created_ms,
        started: run.started_ms,
        ended: run.ended_ms,
        error: run.error.clone(),
        step: at_work.map(|step| step.name.clone()),
        stuck: at_work.is_some_and(|step| is_stuck(step, now_ms, stuck_after_ms)),
        releasing: run.releasing,
    }
}

/// A run with everything of it.
pub(super) fn details(rows: &RunRows, now_ms: u64, stuck_after_ms: u64) -> RunDetails {
    RunDetails {
        run: summary(&rows.run, rows.steps.iter(), now_ms, stuck_after_ms),
        definition_sha256: rows.run.definition.clone(),
        inputs: rows.run.inputs.clone(),
        snapshot: rows.run.snapshot.clone(),
        steps: rows
            .steps
            .iter()
            .map(|step| report(step, now_ms, stuck_after_ms))
            .collect(),
        reverts: rows.reverts.iter().map(|row| row.report.clone()).collect(),
    }
}

fn report(step: &StepRow, now_ms: u64, stuck_after_ms: u64) -> StepReport {
    StepReport {
        name: step.name.clone(),
        kind: step.kind.clone(),
        state: step.state,
        attempt: step.attempt,
        started: step.started_ms,
        ended: step.ended_ms,
        last_progress: step.progress_ms,
        doing: step.doing.clone(),
        times_out: step.times_out_ms,
        stuck: is_stuck(step, now_ms, stuck_after_ms),
        outputs: step.outputs.clone(),
        error: step.error.clone(),
        attempts: step.attempts.clone(),
        log: step.log.clone(),
        snapshot: step.snapshot.clone(),
    }
}

/// One that only waits is not.
fn is_stuck(step: &StepRow, now_ms: u64, stuck_after_ms: u64) -> bool {
    let since = step
        .progress_ms
        .map_or(0, |progress| now_ms.saturating_sub(progress));
    step.state == StepState::Running && since >= stuck_after_ms
}
