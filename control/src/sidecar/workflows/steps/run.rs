//! A command in a sandbox. The process that keeps it outlives the sidecar and writes down how it ended; an attempt that was
//! begun before is therefore gone on with, wherever it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{Instant, sleep_until, timeout};

use super::output::{Pending, Whole, whole};
use super::{Attempt, Ending, FilledKind, Outcome, Report, Stop, fault, fault_of, stopped};
use crate::sandbox::{
    Asked, Attachment, ENDED_NAME, Ended, FoundSandbox, Sandbox, SandboxOrder, Seen,
};
use crate::sidecar::exec::{CommandLine, ExecRequest, order};
use crate::sidecar::store::OutputPlace;
use crate::sidecar::workflows::points::Point;

/// Beginning of the ids of sandboxes of steps.
pub(in crate::sidecar::workflows) const PREFIX: &str = "step-";
/// Most bytes of output that are kept for a step.
const OUTPUT_BYTES: u64 = 4 * 1024 * 1024;
/// How often what was written is told, at first and at last: one that writes a line a second is told less often by and by.
const TELL_FIRST: Duration = Duration::from_millis(300);
const TELL_LAST: Duration = Duration::from_secs(10);
/// After how many pieces it is told half as often.
const TELL_SLOWER: u32 = 20;
/// How often it is looked whether a command that writes nothing computes.
const LOOK: Duration = Duration::from_secs(5);
/// How long one that was told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(40);
/// Most bytes of what a shim writes down.
const NOTE_MAX: u64 = 64 * 1024;

/// The sandbox of an attempt.
pub(in crate::sidecar::workflows) fn sandbox_id(run: &str, step: u32, attempt: u32) -> String {
    format!("{PREFIX}{run}-{step}-{attempt}")
}

pub(super) async fn perform(mut attempt: Attempt) -> Ending {
    match attempt.found.take() {
        Some(FoundSandbox::Running(sandbox, _)) => {
            let place = attempt.place;
            follow(&attempt, &sandbox, place).await
        }
        Some(FoundSandbox::Ended(sandbox, _, ended)) => {
            let mut follower = Follower::new(&attempt, attempt.place);
            follower.rest(&sandbox, &ended).await;
            over(&attempt, &sandbox, ended).await
        }
        Some(FoundSandbox::Lost(sandbox, _)) => lost(sandbox),
        None => fresh(&attempt).await,
    }
}

fn lost(sandbox: Sandbox) -> Ending {
    Ending {
        sandbox: Some(sandbox),
        ..Ending::of(Outcome::Interrupted(fault(
            "interrupted",
            "the command was cut off: the machine was restarted, or the process that kept it was killed",
        )))
    }
}

async fn fresh(attempt: &Attempt) -> Ending {
    let order = match ordered(attempt) {
        Ok(order) => order,
        Err(error) => return Ending::of(Outcome::Failed(fault_of(&error))),
    };
    attempt
        .tell(Report::Doing("starts the sandbox".into()))
        .await;
    let started = attempt.parts.sandboxes.start(order).await;
    let sandbox = match started {
        Ok(sandbox) => sandbox,
        Err(error) => return Ending::of(Outcome::Failed(fault_of(&error))),
    };
    attempt.reached(Point::Started).await;
    follow(attempt, &sandbox, OutputPlace::default()).await
}

fn ordered(attempt: &Attempt) -> Result<SandboxOrder, crate::error::ApiError> {
    let parts = &attempt.parts;
    let command = match &attempt.filled.kind {
        FilledKind::Line(line) => CommandLine::Line(line.clone()),
        FilledKind::Words(words) => CommandLine::Words(words.clone()),
        _ => CommandLine::Words(Vec::new()),
    };
    let left = attempt.ends_ms.saturating_sub(attempt.now_ms()).max(1);
    let request = ExecRequest {
        mount: attempt.mount.clone(),
        path: Some(attempt.path.clone()),
        command,
        env: variables(attempt),
        secrets: attempt.step.secrets.clone(),
        limits: attempt.step.limits,
        network: attempt.step.network,
        timeout_ms: Some(left),
        stdin: None,
    };
    let id = sandbox_id(&attempt.run, attempt.number, attempt.attempt);
    let mut order = order(id, &request, &parts.settings, &parts.secrets)?;
    order.mountpoint.clone_from(&attempt.mountpoint);
    order.outlives = true;
    order.output_bytes = OUTPUT_BYTES;
    let works = parts.runtime.lock().clone();
    order
        .runtimes
        .sort_by_key(|runtime| works.as_ref() != Some(runtime));
    Ok(order)
}

/// The variables of a command or an agent; a step may set them otherwise.
pub(super) fn variables(attempt: &Attempt) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([
        ("WELDR_RUN".to_owned(), attempt.run.clone()),
        ("WELDR_STEP".to_owned(), attempt.step.name.clone()),
        ("WELDR_ATTEMPT".to_owned(), attempt.attempt.to_string()),
        (
            "WELDR_KEY".to_owned(),
            format!("{}-{}", attempt.run, attempt.number),
        ),
    ]);
    variables.extend(attempt.filled.env.clone());
    variables
}

/// Stays with a sandbox until its end.
async fn follow(attempt: &Attempt, sandbox: &Sandbox, from: OutputPlace) -> Ending {
    let attached = sandbox.attach(from.frame).await;
    let mut attachment = match (attached, noted_end(sandbox).await) {
        (Ok(attachment), _) => attachment,
        // It ended in between, and nobody listens any more.
        (Err(_), Some(ended)) => {
            Follower::new(attempt, from).rest(sandbox, &ended).await;
            return over(attempt, sandbox, ended).await;
        }
        (Err(error), None) => {
            tracing::error!(%error, id = sandbox.id, "a step's sandbox does not answer");
            return lost(sandbox.clone());
        }
    };
    let mut follower = Follower::new(attempt, from);
    match follower.watch(&mut attachment, &sandbox.id).await {
        Some(ended) => {
            follower.flush(true).await;
            over(attempt, sandbox, ended).await
        }
        None => match noted_end(sandbox).await {
            Some(ended) => {
                follower.rest(sandbox, &ended).await;
                over(attempt, sandbox, ended).await
            }
            None => lost(sandbox.clone()),
        },
    }
}

/// How it ended, as the shim wrote it down.
async fn noted_end(sandbox: &Sandbox) -> Option<Ended> {
    let path = sandbox.kept.join(ENDED_NAME);
    let reading = tokio::task::spawn_blocking(move || read_end(path));
    reading.await.ok().flatten()
}

fn read_end(path: PathBuf) -> Option<Ended> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(NOTE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// What an end means for the step.
async fn over(attempt: &Attempt, sandbox: &Sandbox, ended: Ended) -> Ending {
    attempt.reached(Point::Ended).await;
    let (folder, range) = (sandbox.kept.clone(), (ended.first, ended.written));
    let (declared, mask) = (attempt.step.outputs.clone(), attempt.mask.clone());
    let reading =
        tokio::task::spawn_blocking(move || whole(&folder, range, &declared, &mask)).await;
    let Whole { mut outputs, log } = reading.unwrap_or(Whole {
        outputs: BTreeMap::new(),
        log: None,
    });
    let failed = |code: &str, text: String| Outcome::Failed(fault(code, text));
    let outcome = match (ended.status, *attempt.stop.borrow()) {
        (_, Stop::Cancelled) => failed("cancelled", "the run was cancelled".into()),
        (None, _) => {
            let reason = ended.failure.as_deref().unwrap_or("it ended at once");
            tracing::error!(reason, id = sandbox.id, "a step's sandbox did not start");
            let text = crate::sidecar::public::without_places(reason, &[]);
            match ended.refused {
                true => failed("invalid_request", text),
                false => failed(
                    "sandbox_failed",
                    format!("the sandbox did not start: {text}"),
                ),
            }
        }
        (Some(_), Stop::TimedOut) => failed("timed_out", attempt.time_is_over()),
        (Some(_), _) if ended.timed_out => failed("timed_out", attempt.time_is_over()),
        (Some(0), _) => {
            outputs.insert("status".to_owned(), Json::from(0));
            Outcome::Done(outputs)
        }
        (Some(status), _) if ended.out_of_memory => failed(
            "out_of_memory",
            format!("it ended with status {status}, and met its memory limit"),
        ),
        (Some(status), _) => failed("exit_status", format!("it ended with status {status}")),
    };
    Ending {
        outcome,
        log,
        sandbox: Some(sandbox.clone()),
    }
}

/// Tells what a command writes.
struct Follower<'a> {
    attempt: &'a Attempt,
    pending: Pending,
    pieces: u32,
}

impl<'a> Follower<'a> {
    fn new(attempt: &'a Attempt, place: OutputPlace) -> Self {
        Self {
            attempt,
            pending: Pending::new(attempt.mask.clone(), place),
            pieces: 0,
        }
    }

    /// Until its end; `None` when its shim is gone without a word.
    async fn watch(&mut self, attachment: &mut Attachment, id: &str) -> Option<Ended> {
        let attempt = self.attempt;
        let mut stop = attempt.stop.clone();
        let mut is_stopping = false;
        let mut tell_at: Option<Instant> = None;
        let mut cpu_ms = 0;
        let mut look_at = Instant::now() + LOOK;
        let mut given_up: Option<Instant> = None;
        loop {
            let far = Instant::now() + Duration::from_secs(3600);
            let at = attachment.offset();
            tokio::select! {
                seen = attachment.next() => match seen {
                    Err(error) => {
                        tracing::warn!(%error, id, "a step's sandbox was lost");
                        return None;
                    }
                    Ok(Seen::Ended(ended)) => return Some(ended),
                    Ok(Seen::Started(note)) => {
                        *attempt.parts.runtime.lock() = Some(note.runtime);
                        attempt.tell(Report::Doing("runs".into())).await;
                    }
                    Ok(Seen::Missed(_)) => {}
                    Ok(Seen::Output(chunk)) => {
                        self.pending.add(at, chunk);
                        if self.pending.is_much() {
                            self.flush(false).await;
                            tell_at = None;
                        } else if tell_at.is_none() {
                            tell_at = Some(Instant::now() + self.pause());
                        }
                    }
                },
                () = sleep_until(tell_at.unwrap_or(far)) => {
                    self.flush(false).await;
                    tell_at = None;
                }
                () = sleep_until(look_at) => {
                    look_at = Instant::now() + LOOK;
                    let now = attempt.parts.sandboxes.usage(id).map_or(0, |usage| usage.cpu_ms);
                    if now > cpu_ms {
                        cpu_ms = now;
                        attempt.tell(Report::Alive).await;
                    }
                }
                _ = stopped(&mut stop), if !is_stopping => {
                    is_stopping = true;
                    given_up = Some(Instant::now() + END_DEADLINE);
                    if attachment.ask(Asked::Stop).await.is_err() {
                        return None;
                    }
                }
                () = sleep_until(given_up.unwrap_or(far)), if given_up.is_some() => {
                    tracing::error!(id, "a step's command does not end");
                    given_up = Some(Instant::now() + END_DEADLINE);
                    drop(attachment.ask(Asked::Kill).await);
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.pieces / TELL_SLOWER);
        let factor = doubled.unwrap_or(u32::MAX);
        TELL_FIRST.saturating_mul(factor).min(TELL_LAST)
    }

    async fn flush(&mut self, is_end: bool) {
        let Some((text, place)) = self.pending.piece(is_end) else {
            return;
        };
        self.pieces += 1;
        self.attempt.tell(Report::Output { text, place }).await;
    }

    /// What is in the file and was not told, of one that has ended.
    async fn rest(&mut self, sandbox: &Sandbox, ended: &Ended) {
        let mut at = self.place().frame.max(ended.first);
        let Ok(file) = File::open(sandbox.kept.join(crate::sandbox::OUTPUT_NAME)) else {
            return;
        };
        while at < ended.written {
            let Ok(chunk) = crate::sandbox::read_chunk(&file, at) else {
                break;
            };
            let next = chunk.next;
            self.pending.add(at, chunk);
            at = next;
            if self.pending.is_much() {
                self.flush(false).await;
            }
        }
        self.flush(true).await;
    }

    fn place(&self) -> OutputPlace {
        self.pending.place()
    }
}

/// Ends what is left of an attempt that nobody follows any more.
pub(in crate::sidecar::workflows) async fn end(found: &FoundSandbox) {
    let FoundSandbox::Running(sandbox, _) = found else {
        return;
    };
    let Ok(mut attachment) = sandbox.attach(0).await else {
        return;
    };
    if attachment.ask(Asked::Stop).await.is_err() {
        return;
    }
    let ended = async { while !matches!(attachment.next().await, Ok(Seen::Ended(_)) | Err(_)) {} };
    if timeout(END_DEADLINE, ended).await.is_err() {
        tracing::error!(id = sandbox.id, "a step's command does not end");
    }
}
