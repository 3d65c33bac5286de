//! Commands on a mount, each in a sandbox of its own. A command belongs to the request that started it: when the client is
//! gone, or this process is, it is ended.

pub(super) mod request;
mod text;
mod types;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::events::{EventLog, kinds};
use super::host::Clock;
use super::metrics::ExecMetrics;
use super::mounts::{Mounts, Occupied};
use super::public::without_places;
use super::sandboxing::SandboxSettings;
use super::secret_folder::SecretFolder;
use crate::error::ApiError;
use crate::sandbox::{
    Asked, Attachment, Ended, FoundSandbox, OutputStream, Sandbox, SandboxHost, Seen,
};
use text::Text;

pub(super) use request::order;
pub use text::output_bytes;
pub use types::{CommandLine, ExecExit, ExecLine, ExecRequest, LimitsRequest};

/// Beginning of the ids of commands.
const PREFIX: &str = "exec-";
/// How long a sandbox may take to start.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a command that was killed may take to be gone.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// How often a client hears something.
const ALIVE: Duration = Duration::from_secs(15);
/// Lines that wait for a client.
const LINES: usize = 16;
/// Longest name of a program that is shown.
const SHOWN_MAX: usize = 64;

/// What commands are started with.
pub(super) struct Parts {
    pub(super) host: Arc<dyn SandboxHost>,
    pub(super) mounts: Mounts,
    pub(super) events: EventLog,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: ExecMetrics,
    pub(super) settings: SandboxSettings,
    pub(super) secrets: SecretFolder,
}

/// The commands that run.
pub(super) struct Execs {
    parts: Arc<Parts>,
    slots: Arc<Semaphore>,
    /// The same in no two sidecars.
    run: u64,
    next: AtomicU64,
    /// The runtime that worked last; it is tried first.
    works: Mutex<Option<String>>,
}

/// A command that runs, for the one who reads its output. Dropping it ends the command.
pub(super) struct Lines(mpsc::Receiver<ExecLine>);

impl Lines {
    /// The next line; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<ExecLine> {
        self.0.recv().await
    }
}

impl Execs {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(parts.settings.execs_max)),
            run: parts.clock.now_ms(),
            next: AtomicU64::new(1),
            works: Mutex::new(None),
            parts: Arc::new(parts),
        }
    }

    /// Ends what an earlier sidecar left, and says so. Nobody hears of their output any more.
    pub(super) async fn clear(&self) {
        let found = match self.parts.host.found().await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "commands of an earlier sidecar cannot be found");
                return;
            }
        };
        for found in found {
            let (sandbox, note) = match found {
                FoundSandbox::Running(sandbox, note) => (sandbox, Some(note)),
                FoundSandbox::Ended(sandbox, note, _) | FoundSandbox::Lost(sandbox, note) => {
                    (sandbox, note)
                }
            };
            if !sandbox.id.starts_with(PREFIX) {
                continue;
            }
            if let Ok(mut attachment) = sandbox.attach(0).await {
                end(&mut attachment).await;
            }
            self.parts.host.remove(&sandbox).await;
            let text = format!(
                "{} was ended with the sidecar that had started it",
                sandbox.id
            );
            let mount = note.map(|note| note.mount);
            let events = &self.parts.events;
            events
                .add(kinds::EXEC_FINISHED, mount.as_deref(), text)
                .await;
        }
    }

    /// Starts a command, and returns once it runs.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`], [`ApiError::NotFound`], [`ApiError::NotMounted`], [`ApiError::LimitReached`],
    /// [`ApiError::SandboxFailed`].
    pub(super) async fn start(&self, request: &ExecRequest) -> Result<Lines, ApiError> {
        let parts = &self.parts;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{PREFIX}{:x}-{number}", self.run);
        let mut order = request::order(id.clone(), request, &parts.settings, &parts.secrets)?;
        let works = self.works.lock().clone();
        // False sorts before true, and the order of the others stays.
        order
            .runtimes
            .sort_by_key(|runtime| works.as_ref() != Some(runtime));
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            ApiError::LimitReached(format!(
                "{} commands run, as many as there may be; wait for one to end, or start the sidecar with --max-execs",
                parts.settings.execs_max
            ))
        })?;
        let program = shown(&order.command);
        let who = format!("{id} ({program})");
        let occupied = parts
            .mounts
            .occupy(&request.mount, &order.folder, who)
            .await?;
        order.mountpoint.clone_from(&occupied.path);
        let sandbox = parts.host.start(order).await?;
        let mut running = Running {
            parts: Arc::clone(parts),
            mount: request.mount.clone(),
            program,
            sandbox: Some(sandbox.clone()),
            started: Instant::now(),
            _occupied: occupied,
            _slot: slot,
        };
        let attachment = match begun(&sandbox).await {
            Ok((attachment, runtime)) => {
                *self.works.lock() = Some(runtime);
                attachment
            }
            Err(error) => {
                running.remove().await;
                return Err(error);
            }
        };
        parts.metrics.started();
        let text = format!("{id} runs {}", running.program);
        let mount = Some(running.mount.as_str());
        parts.events.add(kinds::EXEC_STARTED, mount, text).await;
        let (lines, reader) = mpsc::channel(LINES);
        tokio::spawn(running.follow(attachment, lines));
        Ok(Lines(reader))
    }
}

/// Attaches, and waits until the command runs; also says which runtime runs it.
async fn begun(sandbox: &Sandbox) -> Result<(Attachment, String), ApiError> {
    let begin = async {
        let mut attachment = sandbox.attach(0).await.map_err(|error| {
            tracing::error!(%error, id = sandbox.id, "a sandbox does not answer");
            ApiError::Internal(
                "the process that keeps the command does not answer; the sidecar's log says why"
                    .into(),
            )
        })?;
        loop {
            match attachment.next().await? {
                Seen::Started(note) => return Ok((attachment, note.runtime)),
                Seen::Ended(ended) => return Err(refusal(sandbox, &ended)),
                Seen::Output(_) | Seen::Missed(_) => {}
            }
        }
    };
    timeout(START_DEADLINE, begin).await.unwrap_or_else(|_| {
        Err(ApiError::DeadlineExceeded(format!(
            "the sandbox did not start within {} s; the mount may not answer",
            START_DEADLINE.as_secs()
        )))
    })
}

fn refusal(sandbox: &Sandbox, ended: &Ended) -> ApiError {
    let reason = ended.failure.as_deref().unwrap_or("it ended at once");
    tracing::error!(reason, id = sandbox.id, "a sandbox did not start");
    let text = without_places(reason, &[]);
    match ended.refused {
        true => ApiError::InvalidRequest(text),
        false => ApiError::SandboxFailed(format!(
            "the sandbox did not start: {text}; install crun or runc if there is none, the sidecar's log says more"
        )),
    }
}

/// The program of a command as it is shown: never its arguments, which may be anything.
pub(super) fn shown(command: &[String]) -> String {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or(program);
    let plain = name.chars().filter(|c| !c.is_control());
    plain.take(SHOWN_MAX).collect()
}

/// Kills it, and waits until it is gone.
async fn end(attachment: &mut Attachment) {
    // An error is the end of the shim, after which there is nothing to wait for.
    if attachment.ask(Asked::Kill).await.is_err() {
        return;
    }
    let ended = async {
        loop {
            match attachment.next().await {
                Ok(Seen::Ended(_)) | Err(_) => return,
                // Read away, so that nothing waits for this side.
                Ok(_) if attachment.read_so_far().await.is_err() => return,
                Ok(_) => {}
            }
        }
    };
    if timeout(END_DEADLINE, ended).await.is_err() {
        tracing::error!("a command that was killed is not gone");
    }
}

/// A command that runs.
struct Running {
    parts: Arc<Parts>,
    mount: String,
    program: String,
    sandbox: Option<Sandbox>,
    started: Instant,
    _occupied: Occupied,
    _slot: OwnedSemaphorePermit,
}

impl Running {
    /// Hands the output on until the command has ended or nobody reads any more.
    async fn follow(mut self, mut attachment: Attachment, lines: mpsc::Sender<ExecLine>) {
        let first = ExecLine::Started {
            id: self.id().to_owned(),
        };
        let finished = match lines.send(first).await {
            Err(_) => None,
            Ok(()) => hand_on(&mut attachment, &lines).await,
        };
        let (outcome, text, last) = match finished {
            None => {
                end(&mut attachment).await;
                (
                    "cut_off",
                    "was ended, because its client is gone".to_owned(),
                    None,
                )
            }
            Some(Ok(ended)) => self.finished(&ended),
            Some(Err(error)) => {
                tracing::error!(%error, id = self.id(), "a command was lost");
                let line = ExecLine::Error(error.body(self.id()));
                ("lost", error.to_string(), Some(line))
            }
        };
        drop(attachment);
        let took = self.started.elapsed();
        let text = format!("{} ({}) {text}", self.id(), self.program);
        self.remove().await;
        self.parts.metrics.finished(outcome, took);
        let mount = Some(self.mount.as_str());
        self.parts
            .events
            .add(kinds::EXEC_FINISHED, mount, text)
            .await;
        let Self {
            _occupied, _slot, ..
        } = self;
        // Whoever has heard the end may unmount, and start another one.
        drop((_occupied, _slot));
        if let Some(last) = last {
            // Who is gone by now does not need it.
            drop(lines.send(last).await);
        }
    }

    fn id(&self) -> &str {
        self.sandbox
            .as_ref()
            .map_or("a command", |sandbox| sandbox.id.as_str())
    }

    fn finished(&self, ended: &Ended) -> (&'static str, String, Option<ExecLine>) {
        let status = ended.status.filter(|_| ended.failure.is_none());
        let Some(status) = status else {
            let text = ended.failure.clone().unwrap_or_default();
            let error = ApiError::Internal("how the command ended is not known".into());
            return ("lost", text, Some(ExecLine::Error(error.body(self.id()))));
        };
        let exit = ExecExit {
            status,
            timed_out: ended.timed_out,
            out_of_memory: ended.out_of_memory,
            duration_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            memory_peak_bytes: ended.memory_peak_bytes,
            cpu_ms: ended.cpu_ms,
        };
        let (outcome, text) = match () {
            () if ended.timed_out => ("timed_out", "was ended, because its time was over".into()),
            () if ended.out_of_memory => (
                "out_of_memory",
                format!("ended with status {status}, and met its memory limit"),
            ),
            () if status == 0 => ("succeeded", "ended with status 0".into()),
            () => ("failed", format!("ended with status {status}")),
        };
        (outcome, text, Some(ExecLine::Exit(exit)))
    }

    async fn remove(&mut self) {
        if let Some(sandbox) = &self.sandbox {
            self.parts.host.remove(sandbox).await;
        }
    }
}

/// Hands output on; how the command ended, or `None` when nobody reads any more.
async fn hand_on(
    attachment: &mut Attachment,
    lines: &mpsc::Sender<ExecLine>,
) -> Option<Result<Ended, ApiError>> {
    let mut out = Text::new(OutputStream::Stdout);
    let mut err = Text::new(OutputStream::Stderr);
    loop {
        let seen = tokio::select! {
            seen = timeout(ALIVE, attachment.next()) => seen,
            () = lines.closed() => return None,
        };
        let line = match seen {
            Err(_) => Some(ExecLine::Alive),
            Ok(Err(error)) => return Some(Err(error)),
            Ok(Ok(Seen::Started(_))) => None,
            Ok(Ok(Seen::Missed(bytes))) => Some(ExecLine::Missed { bytes }),
            Ok(Ok(Seen::Output(chunk))) => match chunk.stream {
                OutputStream::Stdout => out.line(&chunk.bytes),
                OutputStream::Stderr => err.line(&chunk.bytes),
            },
            Ok(Ok(Seen::Ended(ended))) => {
                for rest in [out.rest(), err.rest()].into_iter().flatten() {
                    lines.send(rest).await.ok()?;
                }
                return Some(Ok(ended));
            }
        };
        if let Some(line) = line {
            lines.send(line).await.ok()?;
        }
        if !attachment.has_more() {
            // A shim that is gone is seen by the next look.
            drop(attachment.read_so_far().await);
        }
    }
}
