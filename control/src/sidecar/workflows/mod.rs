//! Workflows: what is to be done on a project, step by step, whatever happens to this process.
//!
//! A run is rows in `control.db`, and one loop that writes them. Commands run in sandboxes that outlive the sidecar; what
//! else a step does is told apart into what may be done again and what may not. The project is snapshotted before the
//! first step and after each.

mod definition;
mod expression;
mod file;
mod mask;
mod points;
mod projects;
mod registry;
mod report;
mod retention;
mod run_loop;
mod snapshots;
mod steps;
mod types;
mod web;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use self::definition::{Inputs, Workflow};
use self::points::{Point, Points};
use self::projects::Projects;
use self::registry::{Message, Registry, Reply};
use self::run_loop::{Left, group_of, no_such_run, project_of};
use self::snapshots::Room;
use self::steps::{SANDBOX_PREFIX, sandbox_id};
use self::web::Web;
use super::events::{EventLog, kinds};
use super::host::Clock;
use super::idempotency::Attempt;
use super::metrics::WorkflowMetrics;
use super::mounts::Mounts;
use super::names;
use super::previews::Previews;
use super::sandboxing::SandboxSettings;
use super::secret_folder::SecretFolder;
use super::store::{NewEvent, RevertRow, RunFilter, RunRow, RunRows, StepRow, Store};
use super::types::{HealthStatus, PartHealth};
use crate::error::ApiError;
use crate::sandbox::{FoundSandbox, Sandbox, SandboxHost};
use crate::volume::DiffRequest;

#[cfg(test)]
pub(in crate::sidecar) use definition::hash as definition_hash;
pub(super) use definition::{
    FILE_MAX, Given, INSTALL, INSTALL_MAX, Manifest, doubled, is_integration, works_of,
};
pub use definition::{integration_schema_text, schema_text};
pub(super) use points::Usual;
pub use types::{
    AttemptReport, CancelRequest, Fault, RevertReport, RevertRequest, RunDetails, RunDiff, RunList,
    RunState, RunSummary, StepReport, StepRequest, StepState, TriggerRequest,
};

/// How long nothing may be heard of a step before it counts as stuck.
pub(super) const STUCK_AFTER_MS: u64 = 60_000;
/// Most bytes that are told of what the programs of a run say.
const SAID_MAX: u64 = 8 * 1024 * 1024;
/// Most runs in one answer, and how many when nothing is said.
pub(super) const LIST_MAX: u32 = 200;
pub(super) const LIST: u32 = 50;
/// Most steps that health names.
const STUCK_SHOWN: u32 = 3;
/// What a definition is called that was sent.
const INLINE: &str = "inline";

/// What workflows are made of.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) events: EventLog,
    pub(super) mounts: Mounts,
    pub(super) previews: Arc<Previews>,
    pub(super) sandboxes: Arc<dyn SandboxHost>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: SandboxSettings,
    pub(super) secrets: SecretFolder,
    pub(super) points: Arc<dyn Points>,
    pub(super) metrics: WorkflowMetrics,
    pub(super) stuck_after_ms: u64,
    /// Most bytes that are told of what the programs of a run say.
    said_max: u64,
    /// For sandboxes of steps.
    places: Arc<Semaphore>,
    /// For the removal of snapshots.
    removing: Semaphore,
    room: Room,
    web: Web,
    projects: Projects,
    registry: Registry,
    /// The runtime that worked last; it is tried first.
    runtime: Mutex<Option<String>>,
}

impl Parts {
    /// What workflows are made of on this machine.
    pub(super) fn new(
        (store, events): (Store, EventLog),
        (mounts, previews): (Mounts, Arc<Previews>),
        sandboxes: Arc<dyn SandboxHost>,
        clock: Arc<dyn Clock>,
        settings: SandboxSettings,
        secrets: SecretFolder,
        points: Arc<dyn Points>,
    ) -> Self {
        Self {
            store,
            events,
            mounts,
            previews,
            sandboxes,
            clock,
            places: Arc::new(Semaphore::new(settings.execs_max)),
            removing: Semaphore::new(1),
            room: Room::default(),
            settings,
            secrets,
            points,
            metrics: WorkflowMetrics::new(),
            stuck_after_ms: STUCK_AFTER_MS,
            said_max: SAID_MAX,
            web: Web::default(),
            projects: Projects::default(),
            registry: Registry::default(),
            runtime: Mutex::new(None),
        }
    }
}

/// The workflows, for those who ask; clones are the same.
#[derive(Clone)]
pub(super) struct Workflows {
    parts: Arc<Parts>,
    _ends: Arc<Ends>,
}

/// A run that is to begin.
pub(super) struct Asked {
    /// What the workflow is called.
    pub(super) name: String,
    /// Its definition.
    pub(super) text: String,
    pub(super) inputs: BTreeMap<String, Json>,
    pub(super) mount: String,
    /// The project's folder below the mount.
    pub(super) below: PathBuf,
    /// The attempt at a request that asks for it.
    pub(super) origin: Option<String>,
}

/// Dropping it ends all loops where they are; the next sidecar goes on.
struct Ends {
    registry: Registry,
    retention: AbortHandle,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.registry.abort_all();
        self.retention.abort();
    }
}

impl Workflows {
    /// Goes on with every run that something is left to be done for.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`]; [`ApiError::Internal`] when the machine does not say what runs.
    pub(super) async fn start(parts: Parts) -> Result<Self, ApiError> {
        let parts = Arc::new(parts);
        let retention = retention::remove_surplus(Arc::clone(&parts));
        let ends = Ends {
            registry: parts.registry.clone(),
            retention: tokio::spawn(retention).abort_handle(),
        };
        let workflows = Self {
            parts: Arc::clone(&parts),
            _ends: Arc::new(ends),
        };
        let found = parts.sandboxes.found().await.map_err(|error| {
            tracing::error!(%error, "the sandboxes of steps cannot be found");
            ApiError::Internal("the machine does not say which sandboxes there are".into())
        })?;
        let mut found: HashMap<String, FoundSandbox> = found
            .into_iter()
            .map(|found| (sandbox_of(&found).id.clone(), found))
            .filter(|(id, _)| id.starts_with(SANDBOX_PREFIX))
            .collect();
        for run in parts
            .store
            .set_unreadable_aside(parts.clock.now_ms())
            .await?
        {
            tracing::error!(
                run,
                "what is written of a run cannot be read, and it is not gone on with"
            );
        }
        let mut runs = Vec::new();
        for id in parts.store.live_runs().await? {
            if let Some(rows) = parts.store.run_rows(&id).await? {
                runs.push((id, rows));
            }
        }
        // Those that work in their projects before those that only give something back there.
        runs.sort_by_key(|(_, rows)| rows.run.state.is_over());
        let mut live = Vec::new();
        for (id, rows) in runs {
            let found = under_way(&rows, &mut found);
            // What they had they have before anybody else asks for it.
            let left = Left {
                found,
                ..had(&parts, &rows)
            };
            live.push((id, left));
        }
        for (id, left) in live {
            workflows.wake(&id, None, left)?;
        }
        // Nobody waits for what is left: its end was written down, and it was not removed.
        for (_, found) in found {
            let parts = Arc::clone(&parts);
            tokio::spawn(async move {
                steps::end_sandbox(&found).await;
                parts.sandboxes.remove(sandbox_of(&found)).await;
            });
        }
        Ok(workflows)
    }

    /// Makes sure that somebody works on a run, and tells them.
    fn wake(&self, run: &str, message: Option<Message>, left: Left) -> Result<(), ApiError> {
        let (parts, id) = (Arc::clone(&self.parts), run.to_owned());
        let start = |inbox: mpsc::Receiver<Message>| -> AbortHandle {
            tokio::spawn(run_loop::work(parts, id, inbox, left)).abort_handle()
        };
        self.parts.registry.send(run, message, start)
    }

    async fn ask<T>(
        &self,
        run: &str,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, ApiError> {
        // Asking about what is not there starts nothing.
        self.rows(run).await?;
        let (reply, answer) = oneshot::channel();
        self.wake(run, Some(message(reply)), Left::default())?;
        let ending = || ApiError::ShuttingDown("the sidecar is ending; ask the next one".into());
        answer.await.map_err(|_| ending())?
    }

    async fn rows(&self, run: &str) -> Result<RunRows, ApiError> {
        let rows = self.parts.store.run_rows(run).await?;
        rows.ok_or_else(|| no_such_run(run))
    }

    /// Begins a run; returns once it is written down. The same attempt of a request again is the same run.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] with line and column for a definition that cannot be followed, [`ApiError::NotFound`],
    /// [`ApiError::NotMounted`], [`ApiError::LimitReached`].
    pub(super) async fn trigger(
        &self,
        request: TriggerRequest,
        attempt: Option<Attempt>,
    ) -> Result<RunSummary, ApiError> {
        let origin = attempt.map(|attempt| attempt.id);
        if let Some(begun) = self.begun(origin.as_deref()).await? {
            return Ok(begun);
        }
        let below = names::below_mount(request.path.as_deref().unwrap_or_default())?;
        let occupied = self
            .parts
            .mounts
            .occupy(&request.mount, &below, "a workflow that begins".into())
            .await?;
        let (name, text) = definition_of(&request.workflow, &occupied.path, &below).await?;
        let begun = self
            .begin(Asked {
                name,
                text,
                inputs: request.inputs,
                mount: request.mount,
                below,
                origin,
            })
            .await;
        drop(occupied);
        begun
    }

    /// The run that the same attempt of a request has begun.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn begun(&self, origin: Option<&str>) -> Result<Option<RunSummary>, ApiError> {
        let Some(origin) = origin else {
            return Ok(None);
        };
        match self.parts.store.run_of_origin(origin).await? {
            Some(run) => self.summary(&run).await.map(Some),
            None => Ok(None),
        }
    }

    /// Begins a run of a definition.
    ///
    /// # Errors
    /// As [`Workflows::trigger`].
    pub(super) async fn begin(&self, asked: Asked) -> Result<RunSummary, ApiError> {
        let parts = &self.parts;
        let workflow = Workflow::read(&asked.name, &asked.text)?;
        let inputs = Inputs::of(&workflow.definition, &asked.inputs)?;
        for step in &workflow.steps {
            parts.secrets.read(&step.secrets)?;
        }
        let run = RunRow {
            seq: 0,
            id: String::new(),
            workflow: asked.name,
            mount: asked.mount,
            path: asked.below.to_string_lossy().into_owned(),
            definition: definition::hash(&asked.text),
            inputs: inputs.0,
            state: RunState::Queued,
            error: None,
            created_ms: parts.clock.now_ms(),
            started_ms: None,
            ended_ms: None,
            snapshot: None,
            releasing: false,
            origin: asked.origin,
        };
        let steps = workflow.steps.iter().zip(0..);
        let steps = steps.map(|(step, n)| StepRow::new(n, &step.name, step.kind.name()));
        let adding = parts
            .store
            .add_run(run, steps.collect(), asked.text, |run| NewEvent {
                at_ms: run.created_ms,
                kind: kinds::RUN,
                mount: Some(run.mount.clone()),
                run: Some(run.id.clone()),
                step: None,
                data: Some(json!({"state": run.state})),
                message: format!("run {} of {} is {}", run.id, run.workflow, run.state),
            });
        let (run, is_new, event) = adding.await?;
        if is_new {
            parts.events.wake(event);
            parts.points.reached(Point::Triggered).await;
            // It is in the project from now on; one that has to wait for its turn goes in then.
            let mut left = Left::default();
            if workflow.definition.concurrency.is_none() {
                left.inside = parts.projects.enter(&project_of(&run, false)).ok();
            }
            self.wake(&run.id, None, left)?;
        }
        self.summary(&run.id).await
    }

    /// # Errors
    /// [`ApiError::InvalidRequest`] that names the secret that is not there.
    pub(super) fn has_secrets(&self, names: &[String]) -> Result<(), ApiError> {
        self.parts.secrets.read(names).map(drop)
    }

    pub(super) fn mounts(&self) -> &Mounts {
        &self.parts.mounts
    }

    pub(super) fn sandboxes(&self) -> Arc<dyn SandboxHost> {
        Arc::clone(&self.parts.sandboxes)
    }

    async fn summary(&self, run: &str) -> Result<RunSummary, ApiError> {
        Ok(self.show(run).await?.run)
    }

    /// How well they work: a run that fails is its own affair, one that is stuck is shown.
    pub(super) async fn health(&self) -> PartHealth {
        let parts = &self.parts;
        let before_ms = parts.clock.now_ms().saturating_sub(parts.stuck_after_ms);
        let stuck = parts.store.stuck_steps(before_ms, STUCK_SHOWN).await;
        let reason = match stuck {
            Ok(stuck) if stuck.is_empty() => return PartHealth::OK,
            Ok(stuck) => {
                let seconds = parts.stuck_after_ms / 1000;
                let named = stuck
                    .iter()
                    .map(|(run, step)| format!("step {step} of run {run}"));
                let named = named.collect::<Vec<_>>().join(", ");
                format!(
                    "nothing was heard for {seconds} s of {named}; GET /workflows/RUN shows what it does"
                )
            }
            // The store says why.
            Err(_) => "how runs are cannot be read from control.db".into(),
        };
        PartHealth {
            status: HealthStatus::Degraded,
            reason: Some(reason),
        }
    }

    /// How many runs are not over, by state.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn counts(&self) -> Result<Vec<(RunState, u64)>, ApiError> {
        self.parts.store.count_live_runs().await
    }

    /// A run with everything of it.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) async fn show(&self, run: &str) -> Result<RunDetails, ApiError> {
        let rows = self.rows(run).await?;
        let now_ms = self.parts.clock.now_ms();
        Ok(report::details(&rows, now_ms, self.parts.stuck_after_ms))
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(super) async fn list(&self, filter: RunFilter) -> Result<RunList, ApiError> {
        let most = filter.most as usize;
        let rows = self.parts.store.runs(filter).await?;
        let next = match rows.len() == most {
            true => rows.last().map(|(run, _)| run.seq),
            false => None,
        };
        let now_ms = self.parts.clock.now_ms();
        let shown = rows.iter().map(|(run, step)| {
            report::summary(run, step.iter(), now_ms, self.parts.stuck_after_ms)
        });
        Ok(RunList {
            runs: shown.collect(),
            next,
        })
    }

    /// Ends a run; answers at once, and what it used is given back behind that.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub(super) async fn cancel(&self, run: &str) -> Result<RunSummary, ApiError> {
        self.ask(run, Message::Cancel).await
    }

    /// Lets a run that did not succeed go on, from a step that did not or, if it `skips` that, behind it.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Conflict`].
    pub(super) async fn again(
        &self,
        run: &str,
        request: StepRequest,
        skips: bool,
    ) -> Result<RunSummary, ApiError> {
        self.ask(run, |reply| match skips {
            true => Message::Skip(request.step, reply),
            false => Message::Retry(request.step, reply),
        })
        .await
    }

    /// Makes the project what it was.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Conflict`].
    pub(super) async fn revert(
        &self,
        request: RevertRequest,
        attempt: Option<Attempt>,
    ) -> Result<RevertReport, ApiError> {
        let rows = self.rows(&request.run).await?;
        let origin = attempt.map(|attempt| attempt.id);
        if let Some(same) = done_before(&rows, origin.as_deref()) {
            return Ok(same);
        }
        let RevertRequest { run, step, undo } = request;
        self.ask(&run, |reply| Message::Revert {
            step,
            undo,
            origin,
            reply,
        })
        .await
    }

    /// What changed between the snapshots around a step, or from before the first step to after the last.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Conflict`] when snapshots are gone.
    pub(super) async fn diff(&self, run: &str, step: Option<&str>) -> Result<RunDiff, ApiError> {
        let rows = self.rows(run).await?;
        let gone = || {
            ApiError::Conflict(
                "its snapshots are not there (yet, or any more): they are made around steps, and those of older runs \
                 are removed"
                    .into(),
            )
        };
        let first = rows.run.snapshot.clone().ok_or_else(gone)?;
        let (older, newer) = match step {
            None => {
                let last = rows
                    .steps
                    .iter()
                    .rev()
                    .find_map(|step| step.snapshot.clone());
                (first, last)
            }
            Some(name) => {
                let number = rows.steps.iter().position(|step| step.name == name);
                let number = number
                    .ok_or_else(|| ApiError::NotFound(format!("the run has no step {name:?}")))?;
                let before = rows.steps.iter().take(number).rev();
                let older = before.clone().find_map(|step| step.snapshot.clone());
                let newer = rows
                    .steps
                    .get(number)
                    .and_then(|step| step.snapshot.clone());
                (older.unwrap_or(first), Some(newer.ok_or_else(gone)?))
            }
        };
        let request = DiffRequest {
            older: older.clone(),
            newer: newer.clone(),
            path: rows.run.path.clone(),
            ..DiffRequest::default()
        };
        let volume = self.parts.mounts.volume(&rows.run.mount)?;
        let report = match older == newer.clone().unwrap_or_default() {
            true => crate::volume::DiffReport::default(),
            false => volume.diff(&request).await.map_err(|error| match error {
                ApiError::InvalidRequest(_) => gone(),
                other => other,
            })?,
        };
        Ok(RunDiff {
            run: rows.run.id,
            mount: rows.run.mount,
            path: rows.run.path,
            older,
            newer,
            differences: report.differences,
            left_out: report.left_out,
        })
    }
}

/// The revert that this request asked for before, if it was done or begun by an earlier sidecar. One that failed is tried
/// again.
fn done_before(rows: &RunRows, origin: Option<&str>) -> Option<RevertReport> {
    let same = |row: &&RevertRow| row.origin.is_some() && row.origin.as_deref() == origin;
    let last = rows.reverts.iter().rev().find(same)?;
    last.report.error.is_none().then(|| last.report.clone())
}

fn sandbox_of(found: &FoundSandbox) -> &Sandbox {
    match found {
        FoundSandbox::Running(sandbox, _)
        | FoundSandbox::Ended(sandbox, _, _)
        | FoundSandbox::Lost(sandbox, _) => sandbox,
    }
}

fn is_reverting(rows: &RunRows) -> bool {
    let last = rows.reverts.last();
    last.is_some_and(|last| !last.report.done && last.report.error.is_none())
}

/// The turn and the project that a run had under an earlier sidecar.
fn had(parts: &Parts, rows: &RunRows) -> Left {
    let run = &rows.run;
    let is_reverting = is_reverting(rows);
    let mut left = Left::default();
    if run.state != RunState::Queued || is_reverting {
        left.turn = Some(parts.registry.has_turn(group_of(run), run.seq));
    }
    let goes_on = !run.state.is_over() && run.state != RunState::Queued;
    // One that was cancelled may have a command that still runs, or something to undo.
    let was_in = run.releasing && run.started_ms.is_some();
    if is_reverting || was_in || goes_on {
        left.inside = parts.projects.enter(&project_of(run, is_reverting)).ok();
    }
    left
}

/// What is left of the attempt that was under way, taken out of what was found.
fn under_way(rows: &RunRows, found: &mut HashMap<String, FoundSandbox>) -> Option<FoundSandbox> {
    let step = rows.steps.iter().find(|step| step.attempt_ms.is_some())?;
    found.remove(&sandbox_id(&rows.run.id, step.number, step.attempt))
}

/// The definition that a request asks for, and what it is called.
async fn definition_of(
    asked: &Json,
    mountpoint: &Path,
    folder: &Path,
) -> Result<(String, String), ApiError> {
    match asked {
        Json::String(text) if text.contains('\n') => Ok((INLINE.to_owned(), text.clone())),
        Json::String(name) => {
            let text = file::read(mountpoint, folder, name).await?;
            Ok((name.clone(), text))
        }
        Json::Object(_) => Ok((INLINE.to_owned(), asked.to_string())),
        _ => Err(ApiError::InvalidRequest(
            "workflow takes the name of a workflow, or a definition: a text of several lines, or an object".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
