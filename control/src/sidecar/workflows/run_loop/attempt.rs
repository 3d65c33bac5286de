//! The attempts at one step: beginning one, hearing of it, and ending it when its time is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::{Cancelled, RunLoop};
use crate::sandbox::Secrets;
use crate::sidecar::store::OutputPlace;
use crate::sidecar::workflows::definition::{Planned, Workflow};
use crate::sidecar::workflows::points::Point;
use crate::sidecar::workflows::registry::Message;
use crate::sidecar::workflows::steps::{
    Attempt, Ending, Outcome, Report, Stop, fault, fault_of, fill, perform,
};
use crate::sidecar::workflows::types::{Fault, RunState, StepState};

/// Reports that wait for the loop.
const REPORTS: usize = 16;

/// How long what an earlier sidecar left is listened to, although the time of the run is over.
const HEARD_LEAST_MS: u64 = 5_000;

/// How much longer than its time an attempt may take to end when it is told to.
const END_MARGIN: Duration = Duration::from_secs(120);

/// How long after its time the loop ends an attempt whose own clock does not.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// Ends a task with this.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RunLoop {
    /// Makes the next attempt, or goes on with the one that is under way.
    pub(super) async fn attempt(
        &mut self,
        number: usize,
        planned: &Planned,
        workflow: &Workflow,
    ) -> Result<(), Cancelled> {
        let Some(step) = self.rows.steps.get(number) else {
            return Ok(());
        };
        let is_again = step.attempt_ms.is_some();
        let pause = step
            .next_ms
            .filter(|_| !is_again)
            .map_or(Duration::ZERO, |next_ms| {
                Duration::from_millis(next_ms.saturating_sub(self.now_ms()))
            });
        self.unless_cancelled(sleep(pause)).await?;
        // One that goes on has a sandbox already.
        let place = match self.found.is_some() && is_again {
            true => None,
            false => match self.place(number, planned, workflow).await? {
                Ok(place) => place,
                // What was under way and is not there any more only has to be told.
                Err(_) if is_again => None,
                Err(_) => {
                    self.has_no_time(number).await;
                    return Ok(());
                }
            },
        };
        if !is_again {
            self.begin_attempt(number, planned).await;
        }
        let ending = self
            .follow(number, planned, workflow, (is_again, place))
            .await;
        let (ending, was_cancelled) = ending;
        let sandbox = ending.sandbox.clone();
        let run_ends_ms = self.run_ends_ms(workflow);
        self.conclude((number, planned), ending, was_cancelled, run_ends_ms)
            .await;
        if let Some(sandbox) = sandbox {
            self.parts.sandboxes.remove(&sandbox).await;
        }
        match was_cancelled {
            true => Err(Cancelled),
            false => Ok(()),
        }
    }

    /// The right to be one of the sandboxes of steps that run at the same time, if it takes one. The time of an attempt does
    /// not run meanwhile.
    async fn place(
        &mut self,
        number: usize,
        planned: &Planned,
        workflow: &Workflow,
    ) -> Result<Result<Option<OwnedSemaphorePermit>, Elapsed>, Cancelled> {
        if !takes_sandbox(planned) {
            return Ok(Ok(None));
        }
        let places = Arc::clone(&self.parts.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Ok(Ok(Some(place)));
        }
        if let Some(step) = self.rows.steps.get_mut(number) {
            step.state = StepState::Waiting;
            step.doing = Some("waits until another step has ended".into());
        }
        self.rows.run.state = RunState::Waiting;
        self.save(Some(number), vec![self.step_event(number)]).await;
        let waiting = timeout(self.time_left(workflow), places.acquire_owned());
        // Nobody closes it.
        let place = self.unless_cancelled(waiting).await?;
        Ok(place.map(Result::ok))
    }

    async fn begin_attempt(&mut self, number: usize, planned: &Planned) {
        self.end_found().await;
        self.reached(Point::AttemptBefore).await;
        let now = self.now_ms();
        let Some(step) = self.rows.steps.get_mut(number) else {
            return;
        };
        let started_ms = *step.started_ms.get_or_insert(now);
        let whole_ms = started_ms.saturating_add(planned.total_ms);
        step.attempt += 1;
        step.state = StepState::Running;
        step.attempt_ms = Some(now);
        step.progress_ms = Some(now);
        step.times_out_ms = Some(now.saturating_add(planned.timeout_ms).min(whole_ms));
        step.next_ms = None;
        step.doing = Some("begins".into());
        step.place = OutputPlace::default();
        step.log = None;
        step.error = None;
        self.rows.run.state = RunState::Running;
        self.save(Some(number), vec![self.step_event(number)]).await;
        self.reached(Point::AttemptAfter).await;
    }

    /// Starts the work on an attempt and hears of it until its end; the flag says that the run was cancelled meanwhile.
    async fn follow(
        &mut self,
        number: usize,
        planned: &Planned,
        workflow: &Workflow,
        (is_again, place): (bool, Option<OwnedSemaphorePermit>),
    ) -> (Ending, bool) {
        let (tell, mut reports) = mpsc::channel(REPORTS);
        let (stop, stopped) = watch::channel(Stop::No);
        let attempt = match self.prepared(number, planned, (is_again, place), (tell, stopped)) {
            Ok(attempt) => attempt,
            Err(fault) => return (Self::unstarted(fault), false),
        };
        let ends_ms = attempt.ends_ms;
        let work = Ends(tokio::spawn(perform(attempt)).abort_handle());
        let run_ends_ms = self.run_ends_ms(workflow);
        // What an earlier sidecar began has perhaps ended in time, and is heard of first.
        let least_ms = match is_again {
            true => self.now_ms().saturating_add(HEARD_LEAST_MS),
            false => 0,
        };
        let margin = u64::try_from(TIMEOUT_MARGIN.as_millis()).unwrap_or(u64::MAX);
        let mut was_cancelled = false;
        let mut given_up_ms = None;
        loop {
            let stops_ms = match *stop.borrow() {
                Stop::No => ends_ms
                    .saturating_add(self.own_clock(planned, margin))
                    .min(run_ends_ms.unwrap_or(u64::MAX).max(least_ms)),
                _ => given_up_ms.unwrap_or(u64::MAX),
            };
            let left = Duration::from_millis(stops_ms.saturating_sub(self.now_ms()));
            let stuck = self.stuck_in(number);
            tokio::select! {
                report = reports.recv() => match report {
                    Some(Report::Over(ending)) => {
                        return (self.run_is_over(*ending, run_ends_ms), was_cancelled);
                    }
                    Some(report) => self.heard(number, report, was_cancelled).await,
                    None => {
                        let fault = fault("internal", "the attempt broke down; the sidecar's log says why");
                        return (Self::unstarted(fault), was_cancelled);
                    }
                },
                Some(message) = self.inbox.recv() => {
                    if self.told(message).await {
                        was_cancelled = true;
                        given_up_ms = Some(self.give_up_ms());
                        stop.send_replace(Stop::Cancelled);
                    }
                }
                () = sleep(left) => {
                    if *stop.borrow() != Stop::No {
                        tracing::error!(run = self.rows.run.id, "an attempt does not end");
                        drop(work);
                        let fault = fault("timed_out", "its time was over, and it did not end when it was told to");
                        return (Self::unstarted(fault), was_cancelled);
                    }
                    given_up_ms = Some(self.give_up_ms());
                    stop.send_replace(Stop::TimedOut);
                }
                () = sleep(stuck.unwrap_or(END_MARGIN)), if stuck.is_some() => self.tell_stuck(number).await,
            }
        }
    }

    /// A command has a clock of its own in the process that keeps it, which also goes on without this one, and an app one
    /// in its preview, which says more of why it does not answer.
    fn own_clock(&self, planned: &Planned, margin: u64) -> u64 {
        match planned.kind.name() {
            "run" | "agent" | "preview" => margin,
            _ => 0,
        }
    }

    fn give_up_ms(&self) -> u64 {
        let margin = u64::try_from(END_MARGIN.as_millis()).unwrap_or(u64::MAX);
        self.now_ms().saturating_add(margin)
    }

    fn unstarted(fault: Fault) -> Ending {
        Ending {
            outcome: Outcome::Failed(fault),
            log: None,
            sandbox: None,
        }
    }

    /// An attempt that ended because the time of the run is over says so.
    fn run_is_over(&self, mut ending: Ending, run_ends_ms: Option<u64>) -> Ending {
        if let Outcome::Failed(fault) = &mut ending.outcome
            && fault.code == "timed_out"
            && run_ends_ms.is_some_and(|ends| ends <= self.now_ms())
        {
            fault.message = format!("{} (that of the whole run)", fault.message);
        }
        ending
    }

    async fn told(&mut self, message: Message) -> bool {
        self.asked_while_live(message).await
    }

    fn prepared(
        &mut self,
        number: usize,
        planned: &Planned,
        (is_again, sandbox_place): (bool, Option<OwnedSemaphorePermit>),
        (tell, stop): (mpsc::Sender<Report>, watch::Receiver<Stop>),
    ) -> Result<Attempt, Fault> {
        let has_begun = is_again && self.found.is_some();
        let secrets = match self.parts.secrets.read(&planned.secrets) {
            Ok(secrets) => secrets,
            // What goes on was given them when it began.
            Err(_) if has_begun => Secrets::default(),
            Err(error) => return Err(fault_of(&error)),
        };
        // They may have been changed since the run was begun, and it knows the old ones, too.
        self.mask.add(&secrets);
        let filled = fill(planned, &self.scope(secrets));
        let found = match is_again {
            true => self.found.take(),
            false => None,
        };
        let (Some(step), Some(occupied)) = (self.rows.steps.get(number), &self.occupied) else {
            return Err(fault("internal", "there is no such step"));
        };
        Ok(Attempt {
            parts: Arc::clone(&self.parts),
            run: self.rows.run.id.clone(),
            mount: self.rows.run.mount.clone(),
            path: self.rows.run.path.clone(),
            mountpoint: occupied.path.clone(),
            step: planned.clone(),
            filled,
            number: step.number,
            attempt: step.attempt,
            began_ms: step.attempt_ms.unwrap_or_default(),
            ends_ms: step.times_out_ms.unwrap_or(u64::MAX),
            is_again,
            found,
            place: step.place,
            _sandbox_place: sandbox_place,
            mask: self.mask.clone(),
            tell,
            stop,
        })
    }
}

/// Whether it is done in a sandbox of its own.
fn takes_sandbox(planned: &Planned) -> bool {
    matches!(planned.kind.name(), "run" | "agent")
}
