//! One run: the only one who writes its rows. Results, timers and what people ask for reach it as messages; the work itself
//! is done beside it. Every transition is a row, with the event that tells of it, before anything follows from it.

mod attempt;
mod entering;
mod finish;
mod heard;
mod outcome;
mod over;
mod pinned;
mod revert;
mod scope;
mod step;
mod telling;

pub(super) use scope::value;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::sleep;

use self::pinned::{mask, understood};
use self::telling::WRITE_AGAIN;
use super::Parts;
use super::definition::{Workflow, is_install};
use super::mask::Mask;
use super::points::Point;
use super::projects::{Inside, Project};
use super::registry::{Group, Message, Turn};
use super::snapshots::{Own, remove_old};
use super::steps::fault;
use super::types::{Fault, RunState, StepState};
use crate::error::ApiError;
use crate::sandbox::FoundSandbox;
use crate::sidecar::mounts::Occupied;
use crate::sidecar::store::{RunRow, RunRows};

/// How long a mount that does not run is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Somebody waits for the answer.
    None,
    /// Nobody does, and it has to be done.
    UntilMounted,
}

/// The error of a run that somebody cancelled.
const CANCELLED: &str = "cancelled";

/// Somebody cancelled the run: what was waited for is of no use any more.
struct Cancelled;

/// The loop of a run.
pub(super) struct RunLoop {
    parts: Arc<Parts>,
    rows: RunRows,
    workflow: Result<Workflow, Fault>,
    inbox: mpsc::Receiver<Message>,
    /// What an earlier sidecar left of the attempt that was under way.
    found: Option<FoundSandbox>,
    mask: Mask,
    /// Bytes that were told of what its programs say; unknown of what an earlier sidecar told.
    said: Option<u64>,
    occupied: Option<Occupied>,
    /// Among runs that may not go on at the same time. Kept until what it used is given back.
    turn: Option<Turn>,
    /// In the project, beside other runs; alone while it is to be reverted.
    inside: Option<Inside>,
    /// For its snapshots. Kept until those of older ones were removed.
    room: Option<OwnedSemaphorePermit>,
}

/// What an earlier sidecar left of a run.
#[derive(Default)]
pub(super) struct Left {
    /// Of the attempt that was under way.
    pub(super) found: Option<FoundSandbox>,
    pub(super) turn: Option<Turn>,
    pub(super) inside: Option<Inside>,
}

/// Works on `run` until nothing is left to be done and nobody asks for anything.
pub(super) async fn work(
    parts: Arc<Parts>,
    run: String,
    mut inbox: mpsc::Receiver<Message>,
    left: Left,
) {
    let rows = loop {
        match parts.store.run_rows(&run).await {
            Ok(Some(rows)) => break rows,
            Ok(None) => {
                while let Some(message) = parts.registry.next_or_leave(&run, &mut inbox) {
                    refuse(message, || no_such_run(&run));
                }
                return;
            }
            Err(_) => sleep(WRITE_AGAIN).await,
        }
    };
    let workflow = understood(&parts, &rows).await;
    let mask = mask(&parts, workflow.as_ref().ok());
    let said = rows.run.started_ms.is_none().then_some(0);
    let mut run_loop = RunLoop {
        parts,
        rows,
        workflow,
        inbox,
        found: left.found,
        mask,
        said,
        occupied: None,
        turn: left.turn,
        inside: left.inside,
        room: None,
    };
    loop {
        if run_loop.is_live() {
            run_loop.live().await;
        }
        (run_loop.occupied, run_loop.inside, run_loop.turn) = (None, None, None);
        run_loop.room = None;
        let registry = run_loop.parts.registry.clone();
        match registry.next_or_leave(&run, &mut run_loop.inbox) {
            Some(message) => run_loop.operate(message).await,
            None => return,
        }
    }
}

/// The runs that `run` may have to wait for.
pub(super) fn group_of(run: &RunRow) -> Group {
    (run.mount.clone(), run.path.clone(), run.workflow.clone())
}

/// The project of `run`, for it and others, or for it alone.
pub(super) fn project_of(run: &RunRow, alone: bool) -> Project {
    Project {
        run: run.id.clone(),
        mount: run.mount.clone(),
        path: run.path.clone(),
        // Putting back what an install did must not take the work of others.
        alone: alone || is_install(&run.workflow),
    }
}

fn out_of_time(what: &str) -> Fault {
    fault(
        "timed_out",
        format!("the time of the whole run was over when it {what}"),
    )
}

pub(super) fn no_such_run(run: &str) -> ApiError {
    ApiError::NotFound(format!(
        "there is no run {run:?}; GET /workflows lists those there are"
    ))
}

fn refuse(message: Message, error: impl Fn() -> ApiError) {
    match message {
        Message::Cancel(reply) | Message::Retry(_, reply) | Message::Skip(_, reply) => {
            drop(reply.send(Err(error())));
        }
        Message::Revert { reply, .. } => drop(reply.send(Err(error()))),
    }
}

impl RunLoop {
    fn is_live(&self) -> bool {
        !self.rows.run.state.is_over() || self.rows.run.releasing
    }

    /// Whether nothing of its steps is left to be done.
    fn is_done(&self) -> bool {
        let mut steps = self.rows.steps.iter();
        steps.all(|step| step.state.is_over() && (step.settled || step.attempt == 0))
    }

    fn now_ms(&self) -> u64 {
        self.parts.clock.now_ms()
    }

    async fn reached(&self, point: Point) {
        self.parts.points.reached(point).await;
    }

    /// Waits for `work`, and takes what people ask for meanwhile.
    async fn unless_cancelled<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(message) = self.inbox.recv() => {
                    if self.asked_while_live(message).await {
                        return Err(Cancelled);
                    }
                }
            }
        }
    }

    /// Answers a message to a run that is not over; whether it was cancelled.
    async fn asked_while_live(&mut self, message: Message) -> bool {
        let Message::Cancel(reply) = message else {
            let id = self.rows.run.id.clone();
            refuse(message, || {
                ApiError::Conflict(format!(
                    "run {id} is not over; cancel it first, or wait for its end"
                ))
            });
            return false;
        };
        if self.rows.run.state.is_over() {
            drop(reply.send(Ok(self.summary())));
            return false;
        }
        let now = self.now_ms();
        self.rows.run.state = RunState::Cancelled;
        self.rows.run.ended_ms = Some(now);
        self.rows.run.releasing = true;
        self.rows.run.error = Some(fault(CANCELLED, "somebody cancelled it"));
        let mut changed = Vec::new();
        let mut events = Vec::new();
        for number in 0..self.rows.steps.len() {
            let Some(step) = self.rows.steps.get_mut(number) else {
                continue;
            };
            match step.state {
                StepState::Running | StepState::Waiting => {
                    step.state = StepState::Cancelled;
                    step.error = Some(fault("cancelled", "the run was cancelled"));
                }
                StepState::Queued => step.state = StepState::Skipped,
                _ => continue,
            }
            step.ended_ms = Some(now);
            (step.doing, step.times_out_ms, step.next_ms) = (None, None, None);
            changed.push(step.clone());
            if step.state == StepState::Cancelled {
                events.push(self.step_event(number));
            }
        }
        events.push(self.run_event());
        self.write(true, changed, events).await;
        self.parts.metrics.ended(RunState::Cancelled);
        self.reached(Point::CancelAfter).await;
        drop(reply.send(Ok(self.summary())));
        true
    }

    /// Everything until the run is over and what it used is given back.
    async fn live(&mut self) {
        if self.rows.run.state.is_over() {
            self.release().await;
            return;
        }
        if let Err(Cancelled) = self.drive().await {
            self.release().await;
        }
        // Nothing of it is used any more, and others may wait for that; many old snapshots take a while.
        (self.occupied, self.inside, self.turn) = (None, None, None);
        let run = &self.rows.run;
        let own = remove_old(&self.parts, &run.mount, &run.path, &run.id).await;
        if own == Own::Removed {
            self.rows.run.snapshot = None;
            for step in &mut self.rows.steps {
                step.snapshot = None;
            }
        }
    }

    async fn drive(&mut self) -> Result<(), Cancelled> {
        let workflow = match self.workflow.clone() {
            Ok(workflow) => workflow,
            Err(fault) => {
                self.give_up(fault).await;
                return Ok(());
            }
        };
        if self.rows.run.state != RunState::Queued && self.is_done() {
            // Only how it ended was not written down any more.
            self.finish(&workflow).await;
            return Ok(());
        }
        self.turn(&workflow).await?;
        self.project_is_free().await?;
        self.has_room(&workflow).await?;
        if self.rows.run.state == RunState::Queued {
            self.reached(Point::BeginBefore).await;
            let now = self.now_ms();
            self.rows.run.state = RunState::Running;
            self.rows.run.started_ms.get_or_insert(now);
            self.save(None, vec![self.run_event()]).await;
            self.reached(Point::BeginAfter).await;
        }
        if let Err(fault) = self.enter(&workflow).await? {
            self.give_up(fault).await;
            return Ok(());
        }
        if self.rows.run.snapshot.is_none()
            && let Err(fault) = self.first_snapshot().await?
        {
            self.give_up(fault).await;
            return Ok(());
        }
        for (number, planned) in workflow.steps.iter().enumerate() {
            self.step(number, planned, &workflow).await?;
        }
        self.finish(&workflow).await;
        Ok(())
    }
}
