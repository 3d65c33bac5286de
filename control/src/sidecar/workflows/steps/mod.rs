//! One attempt at a step. It changes no row: it tells the loop of its run what happens, and how it ended.

mod agent;
mod http;
mod install;
mod output;
mod preview;
mod run;
mod snapshot;
mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use output::whole_characters;
pub(super) use preview::give_back as give_back_preview;
pub(super) use run::{PREFIX as SANDBOX_PREFIX, end as end_sandbox, sandbox_id};

use super::Parts;
use super::definition::{Kind, Method, Planned};
use super::expression::{Scope, Template};
use super::mask::Mask;
use super::points::Point;
use super::types::Fault;
use crate::error::ApiError;
use crate::sandbox::{FoundSandbox, Sandbox};
use crate::sidecar::integrations::Work;
use crate::sidecar::store::OutputPlace;

/// Most bytes of one output.
const OUTPUT_MAX: usize = 32 * 1024;
/// Most bytes of the outputs of all steps of a run, and of what is said of why something failed.
const OUTPUTS_MAX: usize = 4 * 1024 * 1024;
const FAULT_MAX: usize = 4 * 1024;
/// What follows a text that was cut.
const CUT: &str = "\n(cut here: it was longer)";

/// What is told of an attempt.
pub(super) enum Report {
    /// What it does now.
    Doing(String),
    /// It waits for something of this machine before it can begin.
    Waits(String),
    /// It lives.
    Alive,
    /// It wrote something, up to this place.
    Output { text: String, place: OutputPlace },
    /// Something else happened.
    Event {
        kind: &'static str,
        message: String,
        data: Json,
    },
    /// It is over. The last report.
    Over(Box<Ending>),
}

/// How an attempt ended.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    /// The end of what it wrote, masked.
    pub(super) log: Option<String>,
    /// What is to be removed once that is written down.
    pub(super) sandbox: Option<Sandbox>,
}

/// What came of an attempt.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done, with these outputs, masked. None is normal.
    Done(BTreeMap<String, Json>),
    /// It failed.
    Failed(Fault),
    /// It was cut off, and nobody knows how far it came.
    Interrupted(Fault),
}

impl Ending {
    fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            log: None,
            sandbox: None,
        }
    }

    fn failed(code: &str, message: impl Into<String>) -> Self {
        Self::of(Outcome::Failed(fault(code, message)))
    }
}

pub(super) fn fault(code: &str, message: impl Into<String>) -> Fault {
    Fault {
        code: code.to_owned(),
        message: message.into(),
    }
}

/// An error as a step tells it.
pub(super) fn fault_of(error: &ApiError) -> Fault {
    fault(error.code(), error.to_string())
}

/// Why an attempt is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Somebody cancelled the run.
    Cancelled,
    /// Its time is over.
    TimedOut,
}

/// One attempt.
pub(super) struct Attempt {
    pub(super) parts: Arc<Parts>,
    pub(super) run: String,
    pub(super) mount: String,
    pub(super) path: String,
    pub(super) mountpoint: PathBuf,
    pub(super) step: Planned,
    /// What its texts came to.
    pub(super) filled: Filled,
    pub(super) number: u32,
    pub(super) attempt: u32,
    pub(super) began_ms: u64,
    pub(super) ends_ms: u64,
    /// It was begun by an earlier sidecar.
    pub(super) is_again: bool,
    /// What that left of it.
    pub(super) found: Option<FoundSandbox>,
    pub(super) place: OutputPlace,
    /// The right to run a sandbox, for as long as the attempt is under way.
    pub(super) _sandbox_place: Option<OwnedSemaphorePermit>,
    pub(super) mask: Mask,
    pub(super) tell: mpsc::Sender<Report>,
    pub(super) stop: watch::Receiver<Stop>,
}

/// What the texts of a step came to.
#[derive(Debug, Clone)]
pub(super) struct Filled {
    pub(super) env: BTreeMap<String, String>,
    pub(super) kind: FilledKind,
}

/// See [`Kind`].
#[derive(Debug, Clone)]
pub(super) enum FilledKind {
    Line(String),
    Words(Vec<String>),
    Http {
        method: Method,
        url: String,
        headers: BTreeMap<String, String>,
        body: Option<String>,
        expect: Vec<u16>,
        outputs: BTreeMap<String, String>,
    },
    Snapshot {
        name: String,
        note: String,
    },
    WaitFor(Duration),
    Install(Work),
    WaitUntil {
        url: String,
        every: Duration,
        expect: Vec<u16>,
    },
    Agent(agent::Asked),
    Preview(preview::App),
}

/// Puts values into the texts of a step.
pub(super) fn fill(step: &Planned, scope: &dyn Scope) -> Filled {
    let words = |words: &[Template]| words.iter().map(|word| word.fill(scope)).collect();
    let map = |texts: &BTreeMap<String, Template>| {
        let filled = texts
            .iter()
            .map(|(name, text)| (name.clone(), text.fill(scope)));
        filled.collect::<BTreeMap<_, _>>()
    };
    let kind = match &step.kind {
        Kind::Line(line) => FilledKind::Line(line.clone()),
        Kind::Words(list) => FilledKind::Words(words(list)),
        Kind::Http {
            method,
            url,
            headers,
            body,
            expect,
            outputs,
        } => FilledKind::Http {
            method: *method,
            url: url.fill(scope),
            headers: map(headers),
            body: body.as_ref().map(|body| body.fill(scope)),
            expect: expect.clone(),
            outputs: outputs.clone(),
        },
        Kind::Snapshot { name, note } => FilledKind::Snapshot {
            name: name.fill(scope),
            note: note
                .as_ref()
                .map_or_else(String::new, |note| note.fill(scope)),
        },
        Kind::WaitFor(span) => FilledKind::WaitFor(span.0),
        Kind::Install(work) => FilledKind::Install(work.clone()),
        Kind::WaitUntil { url, every, expect } => FilledKind::WaitUntil {
            url: url.fill(scope),
            every: every.0,
            expect: expect.clone(),
        },
        Kind::Agent {
            command,
            prompt,
            permissions,
            files,
        } => FilledKind::Agent(agent::Asked {
            command: words(command),
            prompt: prompt.fill(scope),
            permissions: permissions.clone(),
            files: *files,
        }),
        Kind::Preview {
            command,
            port,
            host_port,
            restart,
            replace,
        } => FilledKind::Preview(preview::App {
            command: command.as_ref().map(|command| words(command)),
            port: *port,
            host_port: *host_port,
            restart: *restart,
            replace: *replace,
        }),
    };
    Filled {
        env: map(&step.env),
        kind,
    }
}

/// Makes the attempt, tells of it, and tells how it ended.
pub(super) async fn perform(attempt: Attempt) {
    let tell = attempt.tell.clone();
    let ending = match attempt.filled.kind.clone() {
        FilledKind::Line(_) | FilledKind::Words(_) => run::perform(attempt).await,
        FilledKind::Http { .. } => http::perform(attempt).await,
        FilledKind::Snapshot { name, note } => snapshot::perform(attempt, name, note).await,
        FilledKind::WaitFor(span) => wait::perform_for(attempt, span).await,
        FilledKind::WaitUntil { url, every, expect } => {
            wait::perform_until(attempt, url, every, expect).await
        }
        FilledKind::Install(work) => install::perform(attempt, work).await,
        FilledKind::Agent(asked) => agent::perform(attempt, asked).await,
        FilledKind::Preview(app) => preview::perform(attempt, app).await,
    };
    // The loop that does not hear it has ended, and the next one asks again.
    drop(tell.send(Report::Over(Box::new(ending))).await);
}

impl Attempt {
    async fn tell(&self, report: Report) {
        drop(self.tell.send(report).await);
    }

    async fn reached(&self, point: Point) {
        self.parts.points.reached(point).await;
    }

    fn now_ms(&self) -> u64 {
        self.parts.clock.now_ms()
    }

    /// `work`, unless the attempt is to end first.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Ending> {
        let mut stop = self.stop.clone();
        tokio::select! {
            done = work => Ok(done),
            stop = stopped(&mut stop) => Err(self.stopped(stop)),
        }
    }

    fn stopped(&self, stop: Stop) -> Ending {
        match stop {
            Stop::TimedOut => Ending::failed("timed_out", self.time_is_over()),
            Stop::Cancelled | Stop::No => Ending::failed("cancelled", "the run was cancelled"),
        }
    }

    fn time_is_over(&self) -> String {
        let took = Duration::from_millis(self.now_ms().saturating_sub(self.began_ms));
        format!("its time was over after {} s", took.as_secs())
    }
}

/// Returns once the attempt is to end.
async fn stopped(stop: &mut watch::Receiver<Stop>) -> Stop {
    let seen = stop.wait_for(|stop| *stop != Stop::No).await;
    match seen.map(|stop| *stop) {
        Ok(stop) => stop,
        // The loop is gone, and this with it.
        Err(_) => std::future::pending().await,
    }
}

/// An output as it is stored: masked, and not too long.
fn kept(mask: &Mask, text: &str) -> Json {
    let mut masked = mask.text(text);
    cut(&mut masked, OUTPUT_MAX);
    Json::String(masked)
}

/// Cuts a text to `most` bytes, and says so at its end.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str(CUT);
    }
}

/// A fault as it is stored: its text is perhaps that of a program that has much to say.
pub(super) fn bounded(mut fault: Fault) -> Fault {
    cut(&mut fault.message, FAULT_MAX);
    fault
}

/// Outputs as they are stored beside `others` of the same run: what is too much of all of them together is cut.
pub(super) fn fitting<'o>(
    mut outputs: BTreeMap<String, Json>,
    others: impl Iterator<Item = &'o BTreeMap<String, Json>>,
) -> BTreeMap<String, Json> {
    let size = |value: &Json| value.as_str().map_or(0, str::len);
    let there: usize = others.flat_map(BTreeMap::values).map(size).sum();
    let mut room = OUTPUTS_MAX.saturating_sub(there);
    for value in outputs.values_mut() {
        if let Json::String(text) = value {
            cut(text, room);
            room = room.saturating_sub(text.len());
        }
    }
    outputs
}
