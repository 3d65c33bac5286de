//! Sandboxes for tests: shims that are tasks of this process, speak the protocol of real ones, and do what their command
//! says. They outlive whoever started them, and are lost when the test says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{sink, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::testing::FakeTree;
use crate::error::ApiError;
use crate::sandbox::{
    Asked, ENDED_NAME, Ended, FoundSandbox, INPUT_NAME, Network, Note, OUTPUT_NAME, OutputStream,
    ProjectFolder, SHIM_SOCKET, Sandbox, SandboxHost, SandboxNetwork, SandboxOrder, SandboxUse,
    Told, write_head,
};

/// How far a command is.
#[derive(Debug, Clone, Default)]
struct Progress {
    written: u64,
    ended: Option<Ended>,
    stopping: bool,
}

struct Shim {
    sandbox: Sandbox,
    note: Note,
    progress: watch::Sender<Progress>,
    tasks: Vec<JoinHandle<()>>,
    is_lost: bool,
}

/// The sandboxes. Commands are lines of `;` between: `say TEXT`, `warn TEXT`, `effect NAME`, `flaky NAME TIMES`,
/// `write TEXT`, `sleep MS`, `hang`, `secret NAME`, `variable NAME`, `exit STATUS`, `agent`, which speaks the protocol, and
/// `listen NAME`, an app that answers at `PORT` of the machine.
pub(super) struct FakeSandboxes {
    dir: tempfile::TempDir,
    tree: Arc<Mutex<FakeTree>>,
    shims: Mutex<BTreeMap<String, Shim>>,
    effects: Arc<Mutex<Vec<String>>>,
    orders: Mutex<Vec<SandboxOrder>>,
}

impl FakeSandboxes {
    pub(super) fn new(tree: Arc<Mutex<FakeTree>>) -> Arc<Self> {
        Arc::new(Self {
            dir: tempfile::tempdir().unwrap(),
            tree,
            shims: Mutex::default(),
            effects: Arc::default(),
            orders: Mutex::default(),
        })
    }

    /// What commands did to the world, in order.
    pub(super) fn effects(&self) -> Vec<String> {
        self.effects.lock().clone()
    }

    pub(super) fn orders(&self) -> Vec<SandboxOrder> {
        self.orders.lock().clone()
    }

    /// The ids of those of steps that were not removed; apps outlive their steps.
    pub(super) fn left(&self) -> Vec<String> {
        let shims = self.shims.lock();
        let of_steps = shims.keys().filter(|id| !id.starts_with("preview-"));
        of_steps.cloned().collect()
    }

    /// The machine is restarted: all that run are gone.
    pub(super) fn restart(&self) {
        for shim in self.shims.lock().values_mut() {
            shim.tasks.iter().for_each(JoinHandle::abort);
            shim.is_lost |= shim.progress.borrow().ended.is_none();
        }
    }
}

#[async_trait]
impl SandboxHost for FakeSandboxes {
    async fn start(&self, order: SandboxOrder) -> Result<Sandbox, ApiError> {
        let folder = self.dir.path().join(&order.id);
        std::fs::create_dir(&folder)
            .map_err(|_| ApiError::Internal(format!("sandbox {} was started twice", order.id)))?;
        let sandbox = Sandbox {
            id: order.id.clone(),
            folder: folder.clone(),
            kept: folder.clone(),
        };
        let note = Note {
            id: order.id.clone(),
            mount: order.mount.clone(),
            program: "fake".into(),
            shim_pid: 1,
            shim_mark: 1,
            pid: 1,
            runtime: "fake".into(),
            user_namespace: true,
            network: Network::None,
            outlives: order.outlives,
            started_ms: 1,
        };
        let listener = UnixListener::bind(folder.join(SHIM_SOCKET)).unwrap();
        let progress = watch::Sender::new(Progress::default());
        let serving = tokio::spawn(serve(listener, note.clone(), progress.clone()));
        let command = Command {
            order: order.clone(),
            project: order.project(),
            folder,
            progress: progress.clone(),
            tree: Arc::clone(&self.tree),
            effects: Arc::clone(&self.effects),
        };
        File::create(command.folder.join(OUTPUT_NAME)).unwrap();
        if command.order.takes_input {
            let path = command.folder.join(INPUT_NAME);
            let kind = rustix::fs::FileType::Fifo;
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }
        let running = tokio::spawn(command.run());
        self.orders.lock().push(order);
        self.shims.lock().insert(
            sandbox.id.clone(),
            Shim {
                sandbox: sandbox.clone(),
                note,
                progress,
                tasks: vec![serving, running],
                is_lost: false,
            },
        );
        Ok(sandbox)
    }

    async fn found(&self) -> io::Result<Vec<FoundSandbox>> {
        let shims = self.shims.lock();
        let found = shims.values().map(|shim| {
            let (sandbox, note) = (shim.sandbox.clone(), shim.note.clone());
            match shim.progress.borrow().ended.clone() {
                Some(ended) => FoundSandbox::Ended(sandbox, Some(note), ended),
                None if shim.is_lost => FoundSandbox::Lost(sandbox, Some(note)),
                None => FoundSandbox::Running(sandbox, note),
            }
        });
        Ok(found.collect())
    }

    fn usage(&self, _: &str) -> Option<SandboxUse> {
        None
    }

    async fn remove(&self, sandbox: &Sandbox) {
        if let Some(shim) = self.shims.lock().remove(&sandbox.id) {
            shim.tasks.iter().for_each(JoinHandle::abort);
        }
        drop(std::fs::remove_dir_all(&sandbox.folder));
    }

    fn network(&self, _: &Note) -> io::Result<Arc<dyn SandboxNetwork>> {
        Ok(Arc::new(MachineNetwork))
    }

    fn project(&self, _: &Path, _: &Path) -> Result<Box<dyn ProjectFolder>, ApiError> {
        Ok(Box::new(NoFiles))
    }

    fn private(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// The network of the machine, which all have.
struct MachineNetwork;

impl SandboxNetwork for MachineNetwork {
    fn socket(&self, is_v6: bool) -> io::Result<OwnedFd> {
        use socket2::{Domain, Socket, Type};
        let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    fn listen(&self, _: u16) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn listening(&self) -> io::Result<Vec<u16>> {
        Ok(Vec::new())
    }
}

/// A project that says nothing of itself.
struct NoFiles;

impl ProjectFolder for NoFiles {
    fn read(&self, _: &str) -> Option<String> {
        None
    }

    fn has(&self, _: &str) -> bool {
        false
    }

    fn is_executable(&self, _: &str) -> bool {
        false
    }
}

/// Answers everybody at a port.
async fn answer_at(port: u16) {
    // One that was replaced may still have it.
    let listener = loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        drop(stream.write_all(answer).await);
    }
}

struct Command {
    order: SandboxOrder,
    project: PathBuf,
    folder: PathBuf,
    progress: watch::Sender<Progress>,
    tree: Arc<Mutex<FakeTree>>,
    effects: Arc<Mutex<Vec<String>>>,
}

impl Command {
    async fn run(self) {
        let line = match self.order.command.as_slice() {
            [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => line.clone(),
            words => words.join(" "),
        };
        let mut status = 0;
        let mut stopping = self.progress.subscribe();
        for part in line.split(';') {
            let words: Vec<&str> = part.split_whitespace().collect();
            let work = async {
                match words.as_slice() {
                    ["say", text @ ..] => self.write(OutputStream::Stdout, &text.join(" ")),
                    ["flood", bytes] => {
                        let bytes: usize = bytes.parse().unwrap();
                        self.write(OutputStream::Stdout, &"x".repeat(bytes));
                    }
                    ["warn", text @ ..] => self.write(OutputStream::Stderr, &text.join(" ")),
                    ["variable", name] => {
                        let value = self.order.variables.get(*name).cloned();
                        self.write(OutputStream::Stdout, &value.unwrap_or_default());
                    }
                    ["secret", name] => {
                        let value = self.order.secrets.0.get(*name).cloned();
                        self.write(OutputStream::Stdout, &value.unwrap_or_default());
                    }
                    ["effect", name] => self.effects.lock().push((*name).to_owned()),
                    ["flaky", name, times] => {
                        self.effects.lock().push((*name).to_owned());
                        let all = self.effects.lock();
                        let count = all.iter().filter(|one| one == name).count();
                        return (count <= times.parse::<usize>().unwrap()).then_some(1);
                    }
                    ["write", text @ ..] => self.tree.lock().present = text.join(" "),
                    ["sleep", ms] => {
                        tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
                    }
                    ["listen", name] => {
                        self.effects.lock().push((*name).to_owned());
                        answer_at(self.order.variables["PORT"].parse().unwrap()).await;
                    }
                    ["agent"] => self.agent().await,
                    ["hang"] => std::future::pending().await,
                    ["exit", status] => return Some(status.parse::<i32>().unwrap()),
                    ["true"] | [] => {}
                    other => panic!("there is no command {other:?}"),
                }
                None
            };
            let ended = tokio::select! {
                ended = work => ended,
                _ = stopping.wait_for(|progress| progress.stopping) => Some(143),
            };
            if let Some(ended) = ended {
                status = ended;
                break;
            }
        }
        let written = self.progress.borrow().written;
        let ended = Ended {
            status: Some(status),
            written,
            ..Ended::default()
        };
        std::fs::write(
            self.folder.join(ENDED_NAME),
            serde_json::to_vec(&ended).unwrap(),
        )
        .unwrap();
        self.progress
            .send_modify(|progress| progress.ended = Some(ended));
    }

    /// An agent that does what its prompt says, word by word.
    async fn agent(&self) {
        self.write(OutputStream::Stderr, "the agent is here");
        self.write(OutputStream::Stdout, "this is no line of the protocol");
        let input = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(self.folder.join(INPUT_NAME))
            .unwrap();
        let lines = stream::unfold(BufReader::new(input).lines(), |mut lines| async move {
            let line = lines.next_line().await.ok().flatten()?;
            Some((Ok::<_, io::Error>(line), lines))
        });
        let (out, mut written) = tokio::sync::mpsc::unbounded_channel::<String>();
        let sink = sink::unfold(out, |out, line: String| async move {
            drop(out.send(line));
            Ok::<_, io::Error>(out)
        });
        let writing = async {
            while let Some(line) = written.recv().await {
                self.write(OutputStream::Stdout, &line);
            }
        };
        let transport = agent_client_protocol::Lines::new(Box::pin(sink), Box::pin(lines));
        let speaking =
            super::testing_agent::speak(transport, self.project.clone(), Arc::clone(&self.effects));
        tokio::select! {
            () = speaking => {}
            () = writing => {}
        }
    }

    fn write(&self, stream: OutputStream, text: &str) {
        let text = format!("{text}\n");
        let file = File::options()
            .write(true)
            .open(self.folder.join(OUTPUT_NAME))
            .unwrap();
        let at = self.progress.borrow().written;
        let mut frame = write_head(stream, text.len()).to_vec();
        frame.extend_from_slice(text.as_bytes());
        file.write_all_at(&frame, at).unwrap();
        self.progress
            .send_modify(|progress| progress.written = at + frame.len() as u64);
    }
}

async fn serve(listener: UnixListener, note: Note, progress: watch::Sender<Progress>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(client(stream, note.clone(), progress.clone()));
    }
}

/// Ends what does not outlive its client.
async fn client(stream: UnixStream, note: Note, progress: watch::Sender<Progress>) {
    let outlives = note.outlives;
    talk(stream, note, progress.clone()).await;
    if !outlives {
        progress.send_modify(|progress| progress.stopping = true);
    }
}

async fn talk(stream: UnixStream, note: Note, progress: watch::Sender<Progress>) {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    let mut seen = progress.subscribe();
    let line = |told: &Told| {
        let mut line = serde_json::to_vec(told).unwrap();
        line.push(b'\n');
        line
    };
    if writing
        .write_all(&line(&Told::Started(note)))
        .await
        .is_err()
    {
        return;
    }
    loop {
        let now = seen.borrow_and_update().clone();
        let told = match now.ended {
            Some(ended) => Told::Ended(ended),
            None => Told::Output {
                first: 0,
                written: now.written,
            },
        };
        if writing.write_all(&line(&told)).await.is_err() {
            return;
        }
        if matches!(told, Told::Ended(_)) {
            return;
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            asked = lines.next_line() => match asked {
                Ok(Some(asked)) => {
                    if matches!(serde_json::from_str(&asked), Ok(Asked::Stop | Asked::Kill)) {
                        progress.send_modify(|progress| progress.stopping = true);
                    }
                }
                _ => return,
            },
        }
    }
}
