//! The task of one preview: the only writer of its row. Feeds the state machine with what happens, and does what that says.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::Parts;
use super::forward::{Forward, Inside};
use super::life::{Effect, End, Happened, Input, Life};
use super::proxy::{self, Proxy};
use super::request::Wanted;
use super::shared::Shared;
use super::types::{PreviewEnd, PreviewState};
use crate::error::ApiError;
use crate::sandbox::{
    Asked, Attachment, Ended, Network, Note, OUTPUT_NAME, Sandbox, Seen, newest_chunks, read_chunk,
};
use crate::sidecar::events::kinds;
use crate::sidecar::mounts::Occupied;
use crate::sidecar::types::MountState;

/// How long the process that keeps an app may take to say that it runs.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often a port is probed: soon at first, then less and less often.
const PROBE_FIRST: Duration = Duration::from_millis(50);
const PROBE_MAX: Duration = Duration::from_millis(500);
/// How long an app is given to listen on the port that it was told before another one is taken.
const OTHER_PORT: Duration = Duration::from_secs(2);
/// Ports that are no app's: the way out, and the debugger of Node.
const NOT_APPS: [u16; 2] = [proxy::PORT, 9229];
/// How often the mount is looked at, and what is missing is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// Looks in a row that find nothing on the port of an app that was ready, until it is said not to be.
const SILENT_LOOKS: u32 = 3;
/// Lines of the log that are shown with an end.
const LAST_LINES: usize = 20;
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

    /// Goes on with what an earlier sidecar started.
    pub(super) async fn adopt(
        mut self,
        sandbox: Sandbox,
        note: Note,
        commands: mpsc::Receiver<Command>,
    ) {
        self.runs.sandbox = Some(sandbox.clone());
        match sandbox.attach(0).await {
            Ok(attachment) => {
                self.runs.attachment = Some(attachment);
                self.runs.note = Some(note);
                self.runs.since = Some(Instant::now());
                self.listen();
                self.lead();
                match self.life.state() {
                    PreviewState::Probing => self.probe(),
                    PreviewState::Stopping => self.end().await,
                    _ => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, id = self.wanted.id, "a preview's process does not answer");
                self.lost("the process that kept it died").await;
            }
        }
        self.publish();
        self.keep(commands).await;
    }

    /// Starts what an earlier sidecar was asked for and did not come to. `sandbox` is what there is of it already.
    pub(super) async fn start_late(
        mut self,
        sandbox: Option<Sandbox>,
        commands: mpsc::Receiver<Command>,
    ) {
        self.runs.sandbox = sandbox;
        self.launch().await;
        self.keep(commands).await;
    }

    /// Tells how an app ended that nobody watched.
    pub(super) async fn report(
        mut self,
        sandbox: Option<(Sandbox, Option<Ended>)>,
        commands: mpsc::Receiver<Command>,
    ) {
        match sandbox {
            Some((sandbox, Some(ended))) => {
                self.read_back(&sandbox, &ended, 0);
                self.runs.sandbox = Some(sandbox);
                self.ended(&ended).await;
            }
            Some((sandbox, None)) => {
                self.runs.sandbox = Some(sandbox);
                self.lost("it died while no sidecar watched").await;
            }
            None => self.lost("it was gone when the sidecar came back").await,
        }
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

    async fn listens(&mut self, port: u16) {
        if self.life.state() != PreviewState::Probing {
            return;
        }
        self.wanted.port = port;
        self.lead();
        if self.wanted.ready_after_ms.is_none() {
            let since = self.runs.since.map(|since| since.elapsed());
            self.wanted.ready_after_ms =
                since.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        self.tell(Input::Listens).await;
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

    /// Looks whether something still listens on the port of an app that was ready. Asks the kernel and not the app, whose
    /// log and debugger that is no business of.
    async fn look_at_port(&mut self) {
        if self.life.state() != PreviewState::Ready {
            return;
        }
        let Some(Inside { network, port }) = self.inside() else {
            return;
        };
        let listening = tokio::task::spawn_blocking(move || network.listening()).await;
        let Ok(Ok(ports)) = listening else {
            return;
        };
        self.runs.silent = match ports.contains(&port) {
            true => 0,
            false => self.runs.silent.saturating_add(1),
        };
        if self.runs.silent >= SILENT_LOOKS {
            self.runs.silent = 0;
            self.tell(Input::Silent).await;
        }
    }

    /// Takes the port of the machine, unless it has it.
    pub(super) fn listen(&self) {
        if self.wanted.request.network == Network::Host || self.shared.has_port() {
            return;
        }
        let address = SocketAddr::new(self.parts.ports.address, self.wanted.host_port);
        match Forward::listen(address) {
            Ok(forward) => {
                self.shared.open_port(forward);
                self.lead();
            }
            Err(error) => {
                tracing::warn!(%error, id = self.wanted.id, "its port cannot be taken");
                self.shared.port_is_taken();
            }
        }
    }

    /// Leads the port of the machine into the sandbox.
    fn lead(&self) {
        let inside = self.inside();
        if let Some(inside) = &inside {
            self.lead_out(inside);
        }
        self.shared.lead_to(inside);
    }

    /// Opens the way out of the sandbox, if there is one.
    fn lead_out(&self, inside: &Inside) {
        let parts = &self.parts;
        let has_one = self.wanted.request.network == Network::Isolated && !parts.allowed.is_empty();
        if !has_one || self.shared.has_proxy() {
            return;
        }
        let listening = inside
            .network
            .listen(proxy::PORT)
            .and_then(|listener| TcpListener::from_std(std::net::TcpListener::from(listener)));
        match listening {
            Ok(listener) => {
                let (allowed, log) = (Arc::clone(&parts.allowed), self.shared.log.clone());
                self.shared.open_proxy(Proxy::serve(listener, allowed, log));
            }
            Err(error) => {
                tracing::warn!(%error, id = self.wanted.id, "its way out cannot be opened");
            }
        }
    }

    fn inside(&self) -> Option<Inside> {
        let note = self.runs.note.as_ref()?;
        let known = self.shared.network(&note.id);
        let network = match known {
            Some(network) => network,
            None => match self.parts.host.network(note) {
                Ok(network) => self.shared.set_network(&note.id, network),
                Err(error) => {
                    tracing::warn!(%error, id = note.id, "its network cannot be reached");
                    return None;
                }
            },
        };
        Some(Inside {
            network,
            port: self.wanted.port,
        })
    }

    /// Looks until its port answers.
    fn probe(&mut self) {
        self.stop_probing();
        let Some(inside) = self.inside() else { return };
        let says_port = self.wanted.request.port.is_some();
        let finds_port = !says_port && self.wanted.request.network != Network::Host;
        let tell = self.answered.0.clone();
        self.probing = Some(tokio::spawn(async move {
            let mut pause = PROBE_FIRST;
            let began = Instant::now();
            loop {
                // What listens first may be a debugger, or what tells pages to reload.
                let finds_port = finds_port && began.elapsed() >= OTHER_PORT;
                if let Some(port) = answers(&inside, finds_port).await {
                    // Nobody who listens needs no answer.
                    let _ = tell.send(port).await;
                    return;
                }
                sleep(pause).await;
                pause = (pause * 5 / 4).min(PROBE_MAX);
            }
        }));
    }

    fn stop_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
        while self.answered.1.try_recv().is_ok() {}
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

    async fn say(&mut self, happened: Happened) {
        let id = self.wanted.id.clone();
        let place = match self.wanted.folder.as_os_str().is_empty() {
            true => self.wanted.request.mount.clone(),
            false => format!(
                "{}:{}",
                self.wanted.request.mount,
                self.wanted.folder.display()
            ),
        };
        let port = self.wanted.host_port;
        let (kind, text) = match happened {
            Happened::Starting => (kinds::PREVIEW_STARTING, format!("{id} starts on {place}")),
            Happened::Ready => (
                kinds::PREVIEW_READY,
                format!("{id} on {place} answers at port {port}"),
            ),
            Happened::Silent => (
                kinds::PREVIEW_PROBING,
                format!("{id} on {place} does not listen on its port any more"),
            ),
            Happened::Stopping => (kinds::PREVIEW_STOPPING, format!("{id} is being ended")),
            Happened::Restarting(reason, end) => {
                self.note_end(&reason, end);
                (
                    kinds::PREVIEW_RESTARTING,
                    format!("{id} is started again: {reason}"),
                )
            }
            Happened::Stopped(reason, end) => {
                self.note_end(&reason, end);
                (kinds::PREVIEW_STOPPED, format!("{id} has ended: {reason}"))
            }
            Happened::Failed(reason, end) => {
                self.note_end(&reason, end);
                (kinds::PREVIEW_FAILED, format!("{id} failed: {reason}"))
            }
        };
        self.note().await;
        let mount = self.wanted.request.mount.clone();
        if self.life.state().is_over() {
            // Whoever hears of the end may unmount, and take the port.
            self.let_go();
        }
        self.publish();
        self.parts.events.add(kind, Some(&mount), text).await;
    }

    fn note_end(&mut self, reason: &str, end: End) {
        let log = self.shared.log.last(LAST_LINES);
        self.shared.log.say(reason);
        self.wanted.ended = Some(PreviewEnd {
            reason: reason.to_owned(),
            status: end.status,
            out_of_memory: end.out_of_memory,
            log: log.into_iter().map(|line| line.text).collect(),
            at_ms: self.parts.clock.now_ms(),
        });
    }

    /// Writes down how far it is. When that cannot be, it goes on all the same, and a later sidecar finds the process.
    async fn note(&mut self) {
        self.wanted.state = self.life.state();
        self.wanted.restarts = self.life.restarts;
        // The store has said why in the log.
        drop(self.save().await);
    }

    async fn save(&self) -> Result<(), ApiError> {
        self.parts.store.put_preview(self.wanted.kept()).await
    }

    fn publish(&self) {
        let until = self.life.due();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let is_probing = self.life.state() == PreviewState::Probing;
        let ready_by = left
            .filter(|_| is_probing)
            .map(|left| self.parts.clock.now_ms().saturating_add(left));
        self.shared.publish(
            &self.wanted,
            self.life.state(),
            self.life.restarts,
            ready_by,
        );
    }

    /// As refusals and lists name it.
    fn who(&self) -> String {
        format!(
            "{} ({})",
            self.wanted.id,
            crate::sidecar::exec::shown(&self.wanted.command)
        )
    }

    /// What an app wrote that has ended meanwhile, from offset `from` on.
    pub(super) fn read_back(&self, sandbox: &Sandbox, ended: &Ended, from: u64) {
        let Ok(file) = std::fs::File::open(sandbox.kept.join(OUTPUT_NAME)) else {
            return;
        };
        let mut at = ended.first.max(from);
        while at < ended.written
            && let Ok(chunk) = read_chunk(&file, at)
        {
            self.shared.log.write(chunk.stream, &chunk.bytes);
            at = chunk.next;
        }
    }

    /// What an app wrote of which nobody noted how much it is, from offset `from` on, or the newest of it.
    fn read_left(&self, sandbox: &Sandbox, from: Option<u64>) {
        let Ok(file) = std::fs::File::open(sandbox.kept.join(OUTPUT_NAME)) else {
            return;
        };
        let first = from.map_or_else(|| newest_chunks(&file), Ok);
        let mut at = match first {
            Ok(first) => first,
            Err(error) => {
                tracing::warn!(%error, id = sandbox.id, "a preview's output cannot be read");
                return;
            }
        };
        while let Ok(chunk) = read_chunk(&file, at) {
            self.shared.log.write(chunk.stream, &chunk.bytes);
            at = chunk.next;
        }
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

/// The port that answers: the one that was meant, or the only other one that something listens on.
async fn answers(inside: &Inside, finds_port: bool) -> Option<u16> {
    if inside.answers().await {
        return Some(inside.port);
    }
    if !finds_port {
        return None;
    }
    let network = Arc::clone(&inside.network);
    let listening = tokio::task::spawn_blocking(move || network.listening()).await;
    let ports = listening.ok()?.ok()?;
    if ports.contains(&inside.port) {
        return None;
    }
    let mut others = ports.into_iter().filter(|port| !NOT_APPS.contains(port));
    let port = others.next()?;
    let other = Inside {
        port,
        ..inside.clone()
    };
    other.answers().await.then_some(port)
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
