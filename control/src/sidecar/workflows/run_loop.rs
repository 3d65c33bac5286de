//! One run: the only one who writes its rows. Results, timers and what people ask for reach it as messages; the work itself
//! is done beside it. Every transition is a row, with the event that tells of it, before anything follows from it.

mod attempt;
mod over;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Parts;
use super::definition::{OnFailure, Planned, Workflow, hash, is_install};
use super::expression::{Name, Scope, Value};
use super::mask::Mask;
use super::points::Point;
use super::projects::{Inside, Project};
use super::registry::{Group, Message, Turn};
use super::report::summary;
use super::snapshots::{OWNER, may_pass, remove_old, take};
use super::steps::{fault, fault_of};
use super::types::{Fault, RunState, StepState};
use crate::error::ApiError;
use crate::sandbox::{FoundSandbox, Secrets};
use crate::sidecar::events::kinds;
use crate::sidecar::mounts::Occupied;
use crate::sidecar::store::{NewEvent, RevertRow, RunChange, RunRow, RunRows};

/// Between two attempts to write a row, when the database does not take it.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at a mount that does not run.
const MOUNT_AGAIN: Duration = Duration::from_millis(500);

/// How long a run whose definition gives it no time waits for what it needs.
const NO_END: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a mount that does not run is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Somebody waits for the answer.
    None,
    /// Nobody does, and it has to be done.
    UntilMounted,
}

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
    };
    loop {
        if run_loop.is_live() {
            run_loop.live().await;
        }
        (run_loop.occupied, run_loop.inside, run_loop.turn) = (None, None, None);
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

/// The definition that the run was begun with, if it can be followed.
async fn understood(parts: &Parts, rows: &RunRows) -> Result<Workflow, Fault> {
    let unusable = |why: String| fault("definition_unusable", why);
    let text = loop {
        match parts.store.definition(&rows.run.definition).await {
            Ok(text) => break text,
            Err(_) => sleep(WRITE_AGAIN).await,
        }
    };
    let text = text.ok_or_else(|| unusable("the definition of this run is gone".into()))?;
    if hash(&text) != rows.run.definition {
        return Err(unusable("the definition of this run was changed".into()));
    }
    let workflow = Workflow::read(&rows.run.workflow, &text)
        .map_err(|error| unusable(format!("this version does not follow it: {error}")))?;
    let same = workflow.steps.len() == rows.steps.len()
        && workflow
            .steps
            .iter()
            .zip(&rows.steps)
            .all(|(planned, row)| planned.name == row.name && planned.kind.name() == row.kind);
    match same {
        true => Ok(workflow),
        false => Err(unusable(
            "its steps are not those that this run was begun with".into(),
        )),
    }
}

/// All secrets of all steps: one may hand on what another was given.
fn mask(parts: &Parts, workflow: Option<&Workflow>) -> Mask {
    let mut all = BTreeMap::new();
    for name in workflow
        .into_iter()
        .flat_map(|workflow| &workflow.steps)
        .flat_map(|step| &step.secrets)
    {
        // One that is missing is told of by the step that needs it.
        if let Ok(read) = parts.secrets.read(std::slice::from_ref(name)) {
            all.extend(read.0);
        }
    }
    Mask::of(&Secrets(all))
}

impl RunLoop {
    fn is_live(&self) -> bool {
        !self.rows.run.state.is_over() || self.rows.run.releasing
    }

    fn now_ms(&self) -> u64 {
        self.parts.clock.now_ms()
    }

    async fn reached(&self, point: Point) {
        self.parts.points.reached(point).await;
    }

    fn event(&self, kind: &'static str, message: String, data: Json) -> NewEvent {
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

    fn run_event(&self) -> NewEvent {
        let run = &self.rows.run;
        let why = run
            .error
            .as_ref()
            .map_or_else(String::new, |error| format!(": {}", error.message));
        let message = format!("run {} of {} is {}{why}", run.id, run.workflow, run.state);
        let data = json!({"state": run.state, "error": run.error});
        self.event(kinds::RUN, message, data)
    }

    fn step_event(&self, number: usize) -> NewEvent {
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
    async fn save(&self, step: Option<usize>, events: Vec<NewEvent>) {
        let steps = step.and_then(|number| self.rows.steps.get(number)).cloned();
        self.write(true, steps.into_iter().collect(), events).await;
    }

    async fn write(
        &self,
        with_run: bool,
        steps: Vec<crate::sidecar::store::StepRow>,
        events: Vec<NewEvent>,
    ) {
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

    async fn commit(&self, change: RunChange) -> Result<(), ApiError> {
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
        self.rows.run.error = Some(fault("cancelled", "somebody cancelled it"));
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

    fn summary(&self) -> super::types::RunSummary {
        summary(
            &self.rows.run,
            self.rows.steps.iter(),
            self.now_ms(),
            self.parts.stuck_after_ms,
        )
    }

    /// Everything until the run is over and what it used is given back.
    async fn live(&mut self) {
        if self.rows.run.state.is_over() {
            self.release().await;
            return;
        }
        match self.drive().await {
            // Of one that could not be gone on with.
            Ok(()) => self.end_found().await,
            Err(Cancelled) => self.release().await,
        }
        let run = &self.rows.run;
        remove_old(&self.parts, &run.mount, &run.path).await;
    }

    async fn drive(&mut self) -> Result<(), Cancelled> {
        let workflow = match self.workflow.clone() {
            Ok(workflow) => workflow,
            Err(fault) => {
                self.finish_with(RunState::Failed, Some(fault)).await;
                return Ok(());
            }
        };
        self.turn(&workflow).await?;
        if self.rows.run.state == RunState::Queued {
            self.reached(Point::BeginBefore).await;
            let now = self.now_ms();
            self.rows.run.state = RunState::Running;
            self.rows.run.started_ms.get_or_insert(now);
            self.save(None, vec![self.run_event()]).await;
            self.reached(Point::BeginAfter).await;
        }
        if let Err(fault) = self.enter(&workflow).await? {
            self.finish_with(RunState::Failed, Some(fault)).await;
            return Ok(());
        }
        if self.rows.run.snapshot.is_none()
            && let Err(fault) = self.first_snapshot().await?
        {
            self.finish_with(RunState::Failed, Some(fault)).await;
            return Ok(());
        }
        for (number, planned) in workflow.steps.iter().enumerate() {
            self.step(number, planned, &workflow).await?;
        }
        self.finish(&workflow).await;
        Ok(())
    }

    /// Waits until as few others of its kind go on as its definition says.
    async fn turn(&mut self, workflow: &Workflow) -> Result<(), Cancelled> {
        let Some(most) = &workflow.definition.concurrency else {
            return Ok(());
        };
        if self.turn.is_some() {
            return Ok(());
        }
        let run = &self.rows.run;
        let turn = self.parts.registry.queue(group_of(run), run.seq);
        let most = usize::try_from(most.value).unwrap_or(usize::MAX);
        self.unless_cancelled(Turn::comes(turn.wait(), most))
            .await?;
        self.turn = Some(turn);
        Ok(())
    }

    /// The project, as this run works in it.
    fn project(&self, alone: bool) -> Project {
        project_of(&self.rows.run, alone)
    }

    /// Makes sure that the mount is there and stays, and that nobody reverts the project meanwhile.
    async fn enter(&mut self, workflow: &Workflow) -> Result<Result<(), Fault>, Cancelled> {
        let (projects, project) = (self.parts.projects.clone(), self.project(false));
        let time = self.time_left(workflow);
        let inside = async move { timeout(time, projects.wait(&project)).await };
        match self.unless_cancelled(inside).await? {
            Ok(inside) => self.inside = Some(inside),
            Err(_) => return Ok(Err(out_of_time("waited for a revert of the project"))),
        }
        let who = format!("run {} of {}", self.rows.run.id, self.rows.run.workflow);
        let entering = timeout(
            self.time_left(workflow),
            self.mount(who, Patience::UntilMounted),
        );
        Ok(match self.unless_cancelled(entering).await? {
            Ok(Ok(occupied)) => {
                self.occupied = Some(occupied);
                Ok(())
            }
            Ok(Err(ApiError::NotFound(_))) => Err(fault(
                "mount_gone",
                format!("the mount {} is not there any more", self.rows.run.mount),
            )),
            Ok(Err(error)) => Err(fault_of(&error)),
            Err(_) => Err(out_of_time("waited for the mount")),
        })
    }

    /// The mount, held for `who`; once it is there, if that is waited for.
    fn mount(
        &self,
        who: String,
        patience: Patience,
    ) -> impl Future<Output = Result<Occupied, ApiError>> + use<> {
        let (parts, mount) = (Arc::clone(&self.parts), self.rows.run.mount.clone());
        let folder = PathBuf::from(&self.rows.run.path);
        async move {
            loop {
                match parts.mounts.occupy(&mount, &folder, who.clone()).await {
                    Err(error) if patience == Patience::UntilMounted && may_pass(&error) => {
                        sleep(MOUNT_AGAIN).await;
                    }
                    done => return done,
                }
            }
        }
    }

    async fn first_snapshot(&mut self) -> Result<Result<(), Fault>, Cancelled> {
        let run = &self.rows.run;
        let name = format!("run-{}", run.id);
        let note = format!("before run {} of {}", run.id, run.workflow);
        let (parts, mount, named) = (Arc::clone(&self.parts), run.mount.clone(), name.clone());
        let taking = async move { take(&parts, &mount, (&named, OWNER), &note).await };
        if let Err(error) = self.unless_cancelled(taking).await? {
            return Ok(Err(fault(
                "snapshot_failed",
                format!("the project could not be snapshotted before the first step: {error}"),
            )));
        }
        self.reached(Point::FirstSnapshot).await;
        self.rows.run.snapshot = Some(name);
        self.save(None, Vec::new()).await;
        self.reached(Point::FirstSnapshotAfter).await;
        Ok(Ok(()))
    }

    fn scope(&self, secrets: Secrets) -> RunScope<'_> {
        RunScope {
            rows: &self.rows,
            secrets,
        }
    }

    /// One step, from wherever it is to its end.
    async fn step(
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
    fn time_left(&self, workflow: &Workflow) -> Duration {
        self.run_ends_ms(workflow).map_or(NO_END, |ends_ms| {
            Duration::from_millis(ends_ms.saturating_sub(self.now_ms()))
        })
    }

    /// When the time of the run is over, if it has an end.
    fn run_ends_ms(&self, workflow: &Workflow) -> Option<u64> {
        let span = workflow.definition.timeout?;
        Some(self.rows.run.started_ms?.saturating_add(span.ms()))
    }

    /// A step that is not begun (again) because the time of the run is over: the first one fails, those behind it are not done.
    async fn has_no_time(&mut self, number: usize) {
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

    async fn skip(&mut self, number: usize) {
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
    async fn settle(&mut self, number: usize) -> Result<(), Cancelled> {
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

    async fn finish(&mut self, workflow: &Workflow) {
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

    async fn finish_with(&mut self, state: RunState, error: Option<Fault>) {
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

/// What the texts of a run's steps may name.
struct RunScope<'r> {
    rows: &'r RunRows,
    secrets: Secrets,
}

impl Scope for RunScope<'_> {
    fn value(&self, name: &Name) -> Value {
        let run = &self.rows.run;
        let step = |name: &String| self.rows.steps.iter().find(|step| step.name == *name);
        match name {
            Name::Input(name) => value(run.inputs.get(name)),
            Name::Output(name, key) => value(step(name).and_then(|step| step.outputs.get(key))),
            Name::State(name) => {
                step(name).map_or(Value::Nothing, |step| Value::Text(step.state.name()))
            }
            Name::Secret(name) => self
                .secrets
                .0
                .get(name)
                .map_or(Value::Nothing, |secret| Value::Text(secret.clone())),
            Name::Run(what) => Value::Text(match what.as_str() {
                "id" => run.id.clone(),
                "mount" => run.mount.clone(),
                "path" => run.path.clone(),
                _ => run.workflow.clone(),
            }),
        }
    }

    fn goes_well(&self) -> bool {
        !self.rows.steps.iter().any(|step| step.state.is_failure())
    }
}

/// Up to here a floating-point number holds every whole one.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) fn value(json: Option<&Json>) -> Value {
    match json {
        None | Some(Json::Null) => Value::Nothing,
        Some(Json::String(text)) => Value::Text(text.clone()),
        Some(Json::Bool(value)) => Value::Bool(*value),
        // One that is no more exact as a floating-point number stays what it is: an id, for instance.
        Some(Json::Number(number)) => match number.as_f64() {
            Some(value) if value.abs() <= EXACT_MAX => Value::Number(value),
            _ => Value::Text(number.to_string()),
        },
        Some(other) => Value::Text(other.to_string()),
    }
}
