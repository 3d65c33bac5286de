//! The loop of a shim: output from the container to the file, what clients ask, the clock, and the end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use weldrfs_control::{Asked, Ended, Note, OutputStream, SandboxOrder};

use super::output::Output;
use super::runtime::{self, Running};
use super::telling::{Telling, tell};
use super::{cgroup, note, note_end};
use crate::registry::ProcessMark;

/// Clients at a time.
const CLIENTS_MAX: usize = 16;
/// Messages of clients that wait.
const INBOX: usize = 64;
/// Longest line of a client.
const LINE_MAX: u64 = 1024;
/// How long it is tried to write down the end, and how often: a disk may be full for a while.
const NOTING: Duration = Duration::from_secs(600);
const NOTE_AGAIN: Duration = Duration::from_secs(2);
/// How long the first client may take to come, when the sandbox does not outlive it.
const FIRST_CLIENT: Duration = Duration::from_secs(15);
/// How long output is waited for after the command has ended and everything with it.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// How long after the end clients are waited for that have come while the container was started.
const COMING: Duration = Duration::from_millis(100);
/// How long clients may take to read the end of it before the shim ends.
const LAST_READ: Duration = Duration::from_secs(60);
/// Bytes read at once.
const READ: usize = 32 * 1024;
/// When nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What reaches the loop from clients.
enum Message {
    Asked(u64, Asked),
    Gone(u64),
}

struct Client {
    id: u64,
    read: u64,
}

/// Starts the sandbox and keeps it until its end.
pub(super) async fn keep(
    order: SandboxOrder,
    (folder, kept): (&Path, &Path),
    listener: UnixListener,
    output: Output,
) -> io::Result<()> {
    let (inbox, messages) = mpsc::channel(INBOX);
    let mut keeper = Keeper {
        listener,
        messages,
        inbox,
        clients: Vec::new(),
        next_client: 0,
        had_client: false,
        telling: watch::Sender::new(Telling {
            output: output.range(),
            ..Telling::default()
        }),
        output,
        ended: Ended::default(),
        holds: !order.outlives,
        window: order.output_bytes / 2,
        grace: Duration::from_millis(order.grace_ms),
        stop_at: None,
        kill_at: None,
    };
    let started_ms = now_ms();
    let running = match runtime::start(&order, folder) {
        Ok(running) => running,
        Err((failure, refused)) => {
            keeper.ended.failure = Some(failure);
            keeper.ended.refused = refused;
            return keeper.end((folder, kept), None).await;
        }
    };
    let own = ProcessMark::of(std::process::id())?;
    let noted = Note {
        id: order.id.clone(),
        mount: order.mount.clone(),
        program: order.command.first().cloned().unwrap_or_default(),
        shim_pid: own.pid,
        shim_mark: own.started_ticks,
        pid: running.pid,
        runtime: running.runtime.clone(),
        user_namespace: running.user_namespace,
        network: order.network,
        outlives: order.outlives,
        started_ms,
    };
    // The rest of it are secrets.
    let id = order.id;
    let name = running.runtime.clone();
    match note(kept, &noted) {
        Ok(()) => keeper.told(|telling| telling.note = Some(noted)),
        // No later sidecar would find it.
        Err(error) => keeper.ended.failure = Some(format!("it cannot be noted: {error}")),
    }
    keeper.stop_at = order
        .timeout_ms
        .map(|ms| Instant::now() + Duration::from_millis(ms));
    if let Err(error) = keeper.watch(running).await {
        // Nothing goes on that nobody keeps.
        tracing::error!(%error, id, "a sandbox cannot be watched");
        keeper.ended.failure = Some(format!("it cannot be watched: {error}"));
    }
    let account = cgroup::account(folder);
    keeper.ended.out_of_memory = account.out_of_memory;
    keeper.ended.memory_peak_bytes = account.memory_peak_bytes;
    keeper.ended.cpu_ms = account.cpu_ms;
    keeper.end((folder, kept), Some((&name, &id))).await
}

struct Keeper {
    listener: UnixListener,
    messages: mpsc::Receiver<Message>,
    inbox: mpsc::Sender<Message>,
    clients: Vec<Client>,
    next_client: u64,
    had_client: bool,
    /// What clients are told; each takes the newest when it can.
    telling: watch::Sender<Telling>,
    output: Output,
    ended: Ended,
    /// Whether the command waits for its client instead of losing output, and ends with it.
    holds: bool,
    /// Bytes that a client may be behind before that.
    window: u64,
    grace: Duration,
    /// When its time is over.
    stop_at: Option<Instant>,
    /// When it is killed after it was asked to end.
    kill_at: Option<Instant>,
}

impl Keeper {
    /// Until the container has ended and its output is kept.
    async fn watch(&mut self, running: Running) -> io::Result<()> {
        let Running {
            pid,
            stdout,
            stderr,
            _feed,
            ..
        } = running;
        let process = open(pid)?;
        // SAFETY: the descriptor is owned by what it is handed to, and stays the same and open until that goes.
        let process = unsafe { AsyncFd::register(process) }?;
        let mut stdout = Some(receiver(stdout)?);
        let mut stderr = Some(receiver(stderr)?);
        let (mut out, mut err) = (vec![0; READ], vec![0; READ]);
        let mut terminate = signal(SignalKind::terminate())?;
        let first_client = Instant::now() + FIRST_CLIENT;
        let mut last_output = None;
        if self.ended.failure.is_some() {
            self.kill(&process);
        }
        while last_output.is_none() || stdout.is_some() || stderr.is_some() {
            let may_read = !self.is_behind();
            let is_alone = self.holds && self.clients.is_empty();
            let alone_until = (is_alone && !self.had_client).then_some(first_client);
            let due = [self.stop_at, self.kill_at, alone_until, last_output]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                read = read_some(&mut stdout, &mut out), if may_read && stdout.is_some() => {
                    self.took(OutputStream::Stdout, &mut stdout, &out, read, &process);
                }
                read = read_some(&mut stderr, &mut err), if may_read && stderr.is_some() => {
                    self.took(OutputStream::Stderr, &mut stderr, &err, read, &process);
                }
                _ = process.readable(), if last_output.is_none() => {
                    self.ended.status = status(process.get_ref());
                    last_output = Some(Instant::now() + LAST_OUTPUT);
                    (self.stop_at, self.kill_at) = (None, None);
                }
                Ok((stream, _)) = self.listener.accept() => self.accept(stream),
                Some(message) = self.messages.recv() => {
                    let killed = self.take(message, &process);
                    if killed { self.kill(&process); }
                }
                _ = terminate.recv() => self.stop(&process),
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + IDLE)) => {
                    let now = Instant::now();
                    let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
                    if is_due(self.kill_at) || is_due(alone_until) {
                        self.kill(&process);
                    } else if is_due(self.stop_at) {
                        self.stop_at = None;
                        self.ended.timed_out = true;
                        self.stop(&process);
                    } else if is_due(last_output) && may_read {
                        // Somebody outside of the container holds its pipe.
                        (stdout, stderr) = (None, None);
                    } else if is_due(last_output) {
                        last_output = Some(now + LAST_OUTPUT);
                    }
                }
            }
        }
        Ok(())
    }

    fn took(
        &mut self,
        stream: OutputStream,
        from: &mut Option<Receiver>,
        buffer: &[u8],
        read: io::Result<usize>,
        process: &AsyncFd<OwnedFd>,
    ) {
        let length = match read {
            Ok(0) | Err(_) => {
                *from = None;
                return;
            }
            Ok(length) => length,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        match self.output.append(stream, bytes) {
            Ok(()) => {}
            // Somebody waits for all of it.
            Err(error) if self.holds => {
                if self.ended.failure.is_none() {
                    self.ended.failure = Some(format!("its output cannot be kept: {error}"));
                    self.kill(process);
                }
            }
            // What goes on for itself goes on without a part of its log.
            Err(error) => tracing::warn!(%error, "output is lost"),
        }
        let range = self.output.range();
        self.told(|telling| telling.output = range);
    }

    fn told(&self, change: impl FnOnce(&mut Telling)) {
        self.telling.send_modify(change);
    }

    /// Whether output waits for the one it is for.
    fn is_behind(&self) -> bool {
        let (_, written) = self.output.range();
        let is_behind = |client: &Client| written.saturating_sub(client.read) > self.window;
        self.holds && self.clients.iter().any(is_behind)
    }

    fn accept(&mut self, stream: UnixStream) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let id = self.next_client;
        self.next_client += 1;
        self.had_client = true;
        let (read, write) = stream.into_split();
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(read.take(LINE_MAX)).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                lines.get_mut().get_mut().set_limit(LINE_MAX);
                let Ok(asked) = serde_json::from_str(&line) else {
                    break;
                };
                if inbox.send(Message::Asked(id, asked)).await.is_err() {
                    return;
                }
            }
            drop(inbox.send(Message::Gone(id)).await);
        });
        tokio::spawn(tell(write, self.telling.subscribe()));
        let (first, _) = self.output.range();
        self.clients.push(Client { id, read: first });
    }

    /// Takes a message in; whether the container is to be killed for it.
    fn take(&mut self, message: Message, process: &AsyncFd<OwnedFd>) -> bool {
        match message {
            Message::Asked(id, Asked::Read(offset)) => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
                    client.read = client.read.max(offset);
                }
                false
            }
            Message::Asked(_, Asked::Stop) => {
                self.ended.stopped = true;
                self.stop(process);
                false
            }
            Message::Asked(_, Asked::Kill) => {
                self.ended.stopped = true;
                true
            }
            Message::Gone(id) => {
                self.clients.retain(|client| client.id != id);
                let is_left = self.holds && self.clients.is_empty();
                self.ended.stopped |= is_left && self.ended.status.is_none();
                is_left
            }
        }
    }

    /// TERM, and KILL later.
    fn stop(&mut self, process: &AsyncFd<OwnedFd>) {
        if self.kill_at.is_none() && self.ended.status.is_none() {
            // One that has just ended needs no signal.
            let _ = pidfd_send_signal(process.get_ref(), Signal::TERM);
            self.kill_at = Some(Instant::now() + self.grace);
        }
    }

    /// The first process of a container takes everything in it with it.
    fn kill(&mut self, process: &AsyncFd<OwnedFd>) {
        self.kill_at = None;
        self.had_client = true;
        if self.ended.status.is_none() {
            let _ = pidfd_send_signal(process.get_ref(), Signal::KILL);
        }
    }

    /// Writes down how it ended, removes what is left of it, and tells those who listen.
    async fn end(
        mut self,
        (folder, kept): (&Path, &Path),
        container: Option<(&str, &str)>,
    ) -> io::Result<()> {
        let (first, written) = self.output.range();
        (self.ended.first, self.ended.written) = (first, written);
        self.ended.at_ms = now_ms();
        let mut noted = note_end(kept, &self.ended);
        if let Some((runtime, id)) = container {
            runtime::remove(runtime, folder, id);
        }
        for name in ["bundle", "runtime"] {
            // What a runtime leaves there is not this program's to understand; the folder goes with the sandbox.
            drop(std::fs::remove_dir(folder.join(name)));
        }
        let ended = self.ended.clone();
        self.told(|telling| telling.ended = Some(ended));
        // Whoever comes now hears it too, until the one it was for has read it.
        while let Ok(Ok((stream, _))) = timeout(COMING, self.listener.accept()).await {
            self.accept(stream);
        }
        let rest = async {
            while self.clients.is_empty() && self.holds && !self.had_client {
                let Ok((stream, _)) = self.listener.accept().await else {
                    return;
                };
                self.accept(stream);
            }
            while !self.clients.is_empty() {
                match self.messages.recv().await {
                    Some(Message::Gone(id)) => self.clients.retain(|client| client.id != id),
                    Some(Message::Asked(..)) => {}
                    None => return,
                }
            }
        };
        let until = Instant::now() + NOTING;
        // Who does not come for the end finds it in the folder.
        let _ = timeout(LAST_READ, rest).await;
        while let Err(error) = noted {
            tracing::error!(%error, "the end of a sandbox cannot be written down");
            if Instant::now() > until || !kept.exists() {
                return Err(error);
            }
            sleep(NOTE_AGAIN).await;
            noted = note_end(kept, &self.ended);
        }
        Ok(())
    }
}

fn receiver(pipe: OwnedFd) -> io::Result<Receiver> {
    Receiver::from_file(File::from(pipe))
}

async fn read_some(from: &mut Option<Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => Ok(0),
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the runtime names no process"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The exit status, as a shell says it.
fn status(process: &OwnedFd) -> Option<i32> {
    use std::os::fd::AsFd;
    let ended = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED).ok()??;
    let signal = ended.terminating_signal().map(|signal| 128 + signal);
    ended.exit_status().or(signal)
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
