//! The app of the project: started, and waited for until it answers. It goes on when the step is done, whatever becomes of
//! the run.
//!
//! Its row is written before anything of it starts, so an attempt that goes on after the sidecar was killed finds by that
//! whether there is something to go on with.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Attempt, Ending, Outcome, Report, fault, fault_of, sandbox_id};
use crate::error::ApiError;
use crate::sidecar::exec::CommandLine;
use crate::sidecar::previews::{Preview, PreviewRequest, PreviewState, Previews, RestartPolicy};
use crate::sidecar::workflows::definition::Restart;
use crate::sidecar::workflows::points::Point;

/// How often it is asked for, when one that was there ends in between.
const STARTS_MAX: u32 = 3;
/// How long one that was told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(40);
/// What the time until it answers may be, in milliseconds.
const READY_MIN: u64 = 1000;
const READY_MAX: u64 = 60 * 60 * 1000;

/// What is asked for.
#[derive(Debug, Clone)]
pub(in crate::sidecar::workflows) struct App {
    pub(super) command: Option<Vec<String>>,
    pub(super) port: Option<u16>,
    pub(super) host_port: Option<u16>,
    pub(super) restart: Restart,
    pub(super) replace: bool,
}

pub(super) async fn perform(attempt: Attempt, app: App) -> Ending {
    for _ in 0..STARTS_MAX {
        let (mut watch, asked_ms) = match begun(&attempt, &app).await {
            Ok(begun) => begun,
            Err(ending) => return ending,
        };
        attempt.reached(Point::PreviewBegun).await;
        match answers(&attempt, &app, &mut watch, asked_ms).await {
            Ok(Some(preview)) => {
                let outputs = [
                    ("id", Json::from(preview.id)),
                    ("url", Json::from(preview.url)),
                    ("port", Json::from(preview.host_port)),
                ];
                let outputs = outputs.map(|(name, value)| (name.to_owned(), value));
                return Ending::of(Outcome::Done(BTreeMap::from(outputs)));
            }
            Ok(None) => {}
            Err(ending) => {
                let id = watch.borrow().id.clone();
                let previews = &attempt.parts.previews;
                let own = previews.started_by(&mark(&attempt));
                let told = match app.replace {
                    // It was told to make room, and what comes after it is this attempt's.
                    true => previews.get(&id).ok(),
                    // Not one that somebody started in its place.
                    false => own.filter(|own| own.id == id),
                };
                if let Some(told) = told {
                    end(previews, &told).await;
                }
                return ending;
            }
        }
    }
    Ending::failed(
        "preview_failed",
        "what ran there ended whenever the app was to be started",
    )
}

/// Ends what the attempt `by` started that an earlier sidecar was to end; what somebody else started goes on.
pub(in crate::sidecar::workflows) async fn give_back(previews: &Previews, by: &str) {
    if let Some(own) = previews.started_by(by) {
        end(previews, &own).await;
    }
}

async fn end(previews: &Previews, own: &Preview) {
    if own.state.is_over() {
        return;
    }
    let Ok(mut watch) = previews.watch(&own.id) else {
        return;
    };
    if previews.stop(&own.id).await.is_err() {
        return;
    }
    let over = watch.wait_for(|view| view.state.is_over());
    if timeout(END_DEADLINE, over).await.is_err() {
        tracing::error!(id = own.id, "the preview of a step does not end");
    }
}

/// Asks for the app, unless an earlier sidecar did so for this attempt; also returns when.
async fn begun(attempt: &Attempt, app: &App) -> Result<(watch::Receiver<Preview>, u64), Ending> {
    let previews = &attempt.parts.previews;
    let failed = |error: ApiError| Ending::of(Outcome::Failed(masked(attempt, &error)));
    if attempt.is_again
        && let Some(own) = previews.started_by(&mark(attempt))
    {
        let watch = previews.watch(&own.id).map_err(failed)?;
        return Ok((watch, own.created_ms));
    }
    attempt.tell(Report::Doing("starts the app".into())).await;
    let asked_ms = attempt.now_ms();
    // Not to be broken off: what it starts has to have a keeper. It has deadlines of its own.
    let started = previews
        .start(request(attempt, app), Some(mark(attempt)))
        .await;
    let watch = previews.watch(&started.map_err(failed)?.id);
    Ok((watch.map_err(failed)?, asked_ms))
}

/// What the app of an attempt is known by.
fn mark(attempt: &Attempt) -> String {
    sandbox_id(&attempt.run, attempt.number, attempt.attempt)
}

fn request(attempt: &Attempt, app: &App) -> PreviewRequest {
    let step = &attempt.step;
    PreviewRequest {
        mount: attempt.mount.clone(),
        path: Some(attempt.path.clone()),
        command: app.command.clone().map(CommandLine::Words),
        port: app.port,
        host_port: app.host_port,
        env: attempt.filled.env.clone(),
        secrets: step.secrets.clone(),
        limits: step.limits,
        network: step.network,
        restart: match app.restart {
            Restart::Never => RestartPolicy::Never,
            Restart::OnFailure => RestartPolicy::OnFailure,
            Restart::Always => RestartPolicy::Always,
        },
        // The same for every run: one that asks for what is there already finds it.
        ready_timeout_ms: Some(step.timeout_ms.clamp(READY_MIN, READY_MAX)),
        replace: app.replace,
    }
}

/// Returns it once it answers; none when what was there before has ended, and it is to be started.
async fn answers(
    attempt: &Attempt,
    app: &App,
    watch: &mut watch::Receiver<Preview>,
    asked_ms: u64,
) -> Result<Option<Preview>, Ending> {
    let mut told = None;
    loop {
        let view = watch.borrow_and_update().clone();
        let own = attempt.parts.previews.started_by(&mark(attempt));
        let is_own = own.is_some_and(|own| own.id == view.id && own.created_ms == view.created_ms);
        // One that is replaced is shown as it was for a while. Another one may have come after the own and in its place.
        let is_this = !app.replace || is_own || view.created_ms >= asked_ms;
        match view.state {
            PreviewState::Ready if is_this => return Ok(Some(view)),
            state if state.is_over() && is_own => return Err(failed(attempt, &view)),
            state if state.is_over() => return Ok(None),
            state if told != Some(state) => {
                told = Some(state);
                attempt.tell(doing(&view, is_this)).await;
            }
            _ => attempt.tell(Report::Alive).await,
        }
        let changed = attempt.unless_stopped(watch.changed()).await;
        match changed {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                return Err(Ending::failed(
                    "preview_failed",
                    "another app was started in its place",
                ));
            }
            Err(mut ending) => {
                if let Outcome::Failed(fault) = &mut ending.outcome {
                    fault.message = format!("{}; the app is {}", fault.message, view.state);
                }
                return Err(ending);
            }
        }
    }
}

fn doing(view: &Preview, is_this: bool) -> Report {
    match (view.state, is_this) {
        (_, false) => Report::Doing("ends the app that was there".into()),
        (PreviewState::Probing, _) => Report::Waits(format!("waits until {} answers", view.url)),
        (PreviewState::Stopping, _) => Report::Doing("the app is being ended".into()),
        _ if view.restarts > 0 => Report::Doing(format!(
            "starts the app again ({} times so far)",
            view.restarts
        )),
        _ => Report::Doing("starts the app".into()),
    }
}

/// How an app ended before it answered, with the end of its log.
fn failed(attempt: &Attempt, view: &Preview) -> Ending {
    let is_unseen = view
        .ended
        .as_ref()
        .is_none_or(|ended| ended.status.is_none());
    if attempt.is_again && is_unseen {
        return Ending::of(Outcome::Interrupted(fault(
            "interrupted",
            reason(attempt, view),
        )));
    }
    let log = view.ended.as_ref().map(|ended| {
        let lines = ended.log.iter().map(|line| attempt.mask.text(line));
        lines.map(|line| line + "\n").collect::<String>()
    });
    Ending {
        log,
        ..Ending::failed("preview_failed", reason(attempt, view))
    }
}

fn reason(attempt: &Attempt, view: &Preview) -> String {
    let reason = view.ended.as_ref().map(|ended| ended.reason.as_str());
    let reason = attempt.mask.text(reason.unwrap_or("it has ended"));
    format!("the app does not run: {reason}")
}

fn masked(attempt: &Attempt, error: &ApiError) -> crate::sidecar::workflows::types::Fault {
    let told = fault_of(error);
    fault(&told.code, attempt.mask.text(&told.message))
}
