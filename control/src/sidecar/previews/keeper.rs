//! The task of one preview: the only writer of its row. Feeds the state machine with what happens, and does what that says.

mod back;
mod port;
mod telling;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Parts;
use super::life::{Effect, End, Happened, Input, Life};
use super::request::Wanted;
use super::shared::Shared;
use super::types::PreviewState;
use crate::error::ApiError;
use crate::sandbox::{Asked, Attachment, Ended, Note, Sandbox, Seen};
use crate::sidecar::mounts::Occupied;
use crate::sidecar::types::MountState;

/// How long the process that keeps an app may take to say that it runs.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often the mount is looked at, and what is missing is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// Commands and probes that wait.
const INBOX: usize = 16;

/// What a keeper is told.
pub(super) enum Command {
    Stop,
    /// To be ended, and started as this.
    Replace(Box<Wanted>),
}

/// What is running of it.
#[derive(Default)]
struct Runs {
    sandbox: Option<Sandbox>,
    attachment: Option<Attachment>,
    note: Option<Note>,
    occupied: Option<Occupied>,
    /// When the process that keeps it has to have said that it runs.
    start_by: Option<Instant>,
    since: Option<Instant>,
    /// Looks in a row that found nothing on its port.
    silent: u32,
}

/// A sandbox whose process has been started.
struct Launched {
    sandbox: Sandbox,
    /// Absent when the process is gone already.
    attachment: Option<Attachment>,
    occupied: Occupied,
    mount_pid: Option<u32>,
}

type Launching = JoinHandle<Result<Launched, ApiError>>;

/// See the module.
pub(super) struct Keeper {
    parts: Arc<Parts>,
    shared: Arc<Shared>,
    wanted: Wanted,
    life: Life,
    runs: Runs,
    launching: Option<Launching>,
    probing: Option<JoinHandle<()>>,
    answered: (mpsc::Sender<u16>, mpsc::Receiver<u16>),
    next: Option<Box<Wanted>>,
}

impl Keeper {
    pub(super) fn new(parts: Arc<Parts>, shared: Arc<Shared>, wanted: Wanted, life: Life) -> Self {
        Self {
            parts,
            shared,
            wanted,
            life,
            runs: Runs::default(),
            launching: None,
            probing: None,
            answered: mpsc::channel(INBOX),
            next: None,
        }
    }

    /// Starts what was asked for a moment ago.
    pub(super) async fn begin(mut self, commands: mpsc::Receiver<Command>) {
        self.say(Happened::Starting).await;
        self.launch().await;
        self.keep(commands).await;
    }

    async fn keep(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut stop = self.parts.stop.clone();
        let mut look = tokio::time::interval(LOOK);
        while !self.life.state().is_over() || self.launching.is_some() {
            let due = [self.life.due(), self.runs.start_by]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop) => self.tell(Input::Stop).await,
                    Some(Command::Replace(wanted)) => {
                        self.next = Some(wanted);
                        self.tell(Input::Restart).await;
                    }
                    None => return,
                },
                launched = launched(&mut self.launching) => self.launched(launched).await,
                seen = seen(&mut self.runs.attachment) => self.saw(seen).await,
                Some(port) = self.answered.1.recv() => self.listens(port).await,
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + LOOK)), if due.is_some() => {
                    self.is_due().await;
                }
                _ = look.tick() => self.look().await,
                // What runs goes on without this process.
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            }
        }
        self.let_go();
    }

    /// Nothing of it is left but its log.
    fn let_go(&mut self) {
        self.shared.close_port();
        self.runs.occupied = None;
        self.publish();
    }

    async fn tell(&mut self, input: Input) {
        let before = self.life.state();
        let effects = self.life.step(input, Instant::now());
        if before == PreviewState::Probing && self.life.state() != before {
            self.stop_probing();
        }
        for effect in effects {
            match effect {
                Effect::Launch => self.launch().await,
                Effect::Probe => self.probe(),
                Effect::End => self.end().await,
                Effect::Say(happened) => self.say(happened).await,
            }
        }
        self.publish();
    }

    /// Writes the row, and only then starts anything.
    async fn launch(&mut self) {
        if let Some(next) = self.next.take() {
            self.life
                .set_manners(next.request.restart, next.ready_timeout());
            self.wanted = Wanted {
                starts: self.wanted.starts,
                restarts: 0,
                ..*next
            };
        }
        if let Some(old) = self.runs.sandbox.take() {
            self.parts.host.remove(&old).await;
        }
        self.runs = Runs::default();
        self.wanted.starts = self.wanted.starts.saturating_add(1);
        let sandbox = format!("{}-{}", self.wanted.id, self.wanted.starts);
        self.wanted.sandbox = Some(sandbox.clone());
        self.wanted.state = PreviewState::Starting;
        self.wanted.ready_after_ms = None;
        self.publish();
        let order = match self.save().await {
            Ok(()) => self.wanted.order(
                sandbox,
                &self.parts.settings,
                &self.parts.secrets,
                !self.parts.allowed.is_empty(),
            ),
            Err(error) => Err(error),
        };
        let (parts, who) = (Arc::clone(&self.parts), self.who());
        let mount = self.wanted.request.mount.clone();
        let folder = self.wanted.folder.clone();
        self.runs.since = Some(Instant::now());
        self.launching = Some(tokio::spawn(async move {
            let mut order = order?;
            let occupied = parts.mounts.occupy(&mount, &folder, who).await?;
            order.mountpoint.clone_from(&occupied.path);
            let mount_pid = mount_pid(&parts, &mount);
            let sandbox = parts.host.start(order).await?;
            let attachment = sandbox.attach(0).await.ok();
            Ok(Launched {
                sandbox,
                attachment,
                occupied,
                mount_pid,
            })
        }));
    }

    async fn launched(&mut self, launched: Result<Launched, ApiError>) {
        self.launching = None;
        match launched {
            Ok(launched) => {
                self.runs.sandbox = Some(launched.sandbox);
                self.runs.attachment = launched.attachment;
                self.runs.occupied = Some(launched.occupied);
                self.runs.start_by = Some(Instant::now() + START_DEADLINE);
                self.wanted.mount_pid = launched.mount_pid;
                if self.runs.attachment.is_none() {
                    self.lost("the process that kept it does not answer").await;
                }
            }
            Err(error) => self.tell(Input::NotLaunched(error.to_string())).await,
        }
    }

    async fn saw(&mut self, seen: Result<Seen, ApiError>) {
        match seen {
            Ok(Seen::Started(note)) => {
                let is_new = self.runs.note.is_none();
                self.runs.note = Some(note);
                self.runs.start_by = None;
                if is_new {
                    self.listen();
                    self.lead();
                    self.tell(Input::Launched).await;
                    self.note().await;
                }
            }
            Ok(Seen::Output(chunk)) => self.shared.log.write(chunk.stream, &chunk.bytes),
            Ok(Seen::Missed(bytes)) => {
                self.shared
                    .log
                    .say(&format!("{bytes} bytes of output are not kept"));
            }
            Ok(Seen::Ended(ended)) => self.ended(&ended).await,
            Err(_) => self.lost("the process that kept it died").await,
        }
    }

    async fn ended(&mut self, ended: &Ended) {
        self.over();
        let never_ran = ended.status.is_none() && self.runs.note.is_none();
        let failure = ended.failure.as_deref();
        if never_ran && self.life.state() == PreviewState::Starting {
            let reason = failure.unwrap_or("the sandbox ended at once");
            tracing::error!(reason, id = self.wanted.id, "a preview did not start");
            let shown = crate::sidecar::public::without_places(reason, &[]);
            return self.tell(Input::NotLaunched(shown)).await;
        }
        let end = End {
            status: ended.status,
            out_of_memory: ended.out_of_memory,
            failure: failure.map(str::to_owned),
        };
        self.tell(Input::Ended(end)).await;
    }

    /// Nobody keeps it any more: it has ended so quickly that nobody was told, or its keeper died.
    async fn lost(&mut self, reason: &str) {
        let sandbox = self.runs.sandbox.clone();
        if let Some((sandbox, ended)) = sandbox.and_then(|s| s.ended().map(|ended| (s, ended))) {
            let from = self.runs.attachment.as_ref().map_or(0, Attachment::offset);
            self.read_back(&sandbox, &ended, from);
            return self.ended(&ended).await;
        }
        if let Some(sandbox) = &self.runs.sandbox {
            let from = self.runs.attachment.as_ref().map(Attachment::offset);
            self.read_left(sandbox, from);
        }
        self.over();
        if let Some(sandbox) = &self.runs.sandbox {
            self.parts.host.remove(sandbox).await;
        }
        let end = End {
            failure: Some(reason.to_owned()),
            ..End::default()
        };
        self.tell(Input::Ended(end)).await;
    }

    /// It does not run any more.
    fn over(&mut self) {
        self.stop_probing();
        self.shared.lead_to(None);
        self.shared.leave_network();
        self.shared.log.finish();
        self.runs.attachment = None;
        self.runs.occupied = None;
        self.runs.start_by = None;
    }

    async fn is_due(&mut self) {
        let now = Instant::now();
        if self.runs.start_by.is_some_and(|by| by <= now) {
            self.runs.start_by = None;
            self.lost("the sandbox did not start in time").await;
        }
        self.tell(Input::Tick).await;
    }

    /// Looks after what may change by itself.
    async fn look(&mut self) {
        if self.runs.note.is_none() {
            return;
        }
        let mount = &self.wanted.request.mount;
        let views = self.parts.mounts.views();
        let view = views.iter().find(|view| view.mount.name == *mount);
        let is_gone = match (view, self.wanted.mount_pid) {
            (Some(view), Some(pid)) => match view.mount.state {
                MountState::Mounted => view.mount.pid.is_some_and(|now| now != pid),
                MountState::Waiting | MountState::Stopped | MountState::Unmounted => true,
                MountState::Mounting | MountState::Unmounting => false,
            },
            _ => false,
        };
        if is_gone && !self.life.state().is_over() {
            self.tell(Input::MountIsGone).await;
        }
        if self.runs.occupied.is_none() && self.runs.attachment.is_some() {
            // After a restart of the sidecar the mount may be known a while later.
            let Wanted {
                request, folder, ..
            } = &self.wanted;
            let occupied = self.parts.mounts.occupy(&request.mount, folder, self.who());
            self.runs.occupied = occupied.await.ok();
        }
        self.listen();
        self.look_at_port().await;
        self.publish();
    }

    async fn end(&mut self) {
        if let Some(attachment) = &mut self.runs.attachment
            && attachment.ask(Asked::Stop).await.is_err()
        {
            // It is gone already, which is seen next.
            tracing::debug!(id = self.wanted.id, "nobody to end it");
        }
        self.publish();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop_probing();
    }
}

fn mount_pid(parts: &Parts, mount: &str) -> Option<u32> {
    let views = parts.mounts.views();
    let view = views.iter().find(|view| view.mount.name == mount)?;
    view.mount.pid
}

async fn launched(launching: &mut Option<Launching>) -> Result<Launched, ApiError> {
    match launching {
        None => pending().await,
        Some(launching) => launching.await.unwrap_or_else(|error| {
            tracing::error!(%error, "starting a preview broke down");
            Err(ApiError::Internal("starting it broke down".into()))
        }),
    }
}

async fn seen(attachment: &mut Option<Attachment>) -> Result<Seen, ApiError> {
    match attachment {
        None => pending().await,
        Some(attachment) => attachment.next().await,
    }
}
