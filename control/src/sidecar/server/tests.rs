//! The API with a machine that the test decides: what a sidecar is started with, and HTTP as plain as curl speaks it. The
//! tests are in one module for each family.

mod access;
mod branches;
mod errors;
mod events;
mod life;
mod mounts;
mod page;
mod snapshots;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::super::auth::{AuthSettings, TokenFile};
use super::super::host::{Ending, WallClock};
use super::super::kept_socket::SOCKET_MODE;
use super::super::limits::Rates;
use super::super::previews::{PreviewPorts, PreviewSettings};
use super::super::sandboxing::SandboxSettings;
use super::super::settings::{MOUNTS_MAX, TOKENS_NAME};
use super::super::store::tamper;
use super::super::testing::{FakeHost, NoSandboxes, PATIENCE};
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ORIGIN: &str = "http://localhost:3000";

struct Running {
    host: Arc<FakeHost>,
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), StartError>>,
}

fn settings(host: &FakeHost, tcp: bool) -> Settings {
    let folder = host.folder();
    Settings {
        previews: PreviewSettings {
            ports: PreviewPorts {
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                first: 3000,
                last: 3019,
            },
            allowed: Vec::new(),
        },
        folder: folder.join("control"),
        run_dir: folder.join("run"),
        socket: folder.join("run/control.sock"),
        group: None,
        listen: tcp.then(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        auth: AuthSettings {
            token_file: folder.join("control").join(TOKENS_NAME),
            session_secret: tcp.then(|| SECRET.to_owned()),
            jwks_file: None,
        },
        origins: vec![ORIGIN.to_owned()],
        rates: Rates {
            all: NonZeroU32::new(10_000).unwrap(),
            token: NonZeroU32::new(10_000).unwrap(),
            authentication: NonZeroU32::new(10_000).unwrap(),
        },
        mounts_max: MOUNTS_MAX,
        workspace: PathBuf::from("/workspace"),
        keep_credentials: true,
        sandboxes: SandboxSettings::example(),
    }
}

/// Starts a sidecar. One that has just ended may hold its folder a moment longer, until its last work is done.
async fn run(host: Arc<FakeHost>, settings: Settings) -> Running {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt(host.clone(), settings.clone()).await {
            Ok(running) => return running,
            Err(StartError::FolderInUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn attempt(host: Arc<FakeHost>, settings: Settings) -> Result<Running, StartError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, told) = oneshot::channel();
    let socket = settings.socket.clone();
    let machine = host.clone();
    let task = tokio::spawn(async move {
        let ready = |listening: &Listening| drop(ready.send(listening.clone()));
        let sandboxes = Arc::new(NoSandboxes);
        serve_control(
            settings,
            machine,
            sandboxes,
            Arc::new(WallClock),
            ready,
            async { drop(stopped.await) },
        )
        .await
    });
    match told.await {
        Ok(listening) => Ok(Running {
            host,
            socket,
            tcp: listening.tcp,
            stop,
            task,
        }),
        Err(_) => Err(task.await.unwrap().unwrap_err()),
    }
}

async fn start(tcp: bool) -> Running {
    let host = FakeHost::new();
    let settings = settings(&host, tcp);
    run(host, settings).await
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// It is an error in the one shape.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        assert_eq!(body["request_id"], self.headers["x-request-id"].as_str());
        assert!(self.headers["content-type"].starts_with("application/json"));
        body["message"].as_str().unwrap().to_owned()
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("it answers")
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: body.to_owned(),
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const JSON: (&str, &str) = ("content-type", "application/json");

impl Running {
    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        exchange(stream, &request(method, path, &[JSON], body)).await
    }

    async fn tcp(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let stream = TcpStream::connect(self.tcp.unwrap()).await.unwrap();
        exchange(stream, &request(method, path, headers, body)).await
    }

    async fn end(self) -> Result<(), StartError> {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends")
            .unwrap()
    }
}

/// Reads server-sent events from a connection that stays open.
struct Stream {
    stream: UnixStream,
    text: String,
}

impl Stream {
    async fn open(running: &Running, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = UnixStream::connect(&running.socket).await.unwrap();
        stream
            .write_all(request("GET", path, headers, "").as_bytes())
            .await
            .unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    /// Waits until the server has begun to answer: from then on it listens.
    async fn head(&mut self) {
        let mut part = [0; 4096];
        let length = self.stream.read(&mut part).await.unwrap();
        self.text
            .push_str(&String::from_utf8_lossy(&part[..length]));
        assert!(self.text.starts_with("HTTP/1.1 200"), "{}", self.text);
    }

    /// The data of the first `count` events.
    async fn events(&mut self, count: usize) -> Vec<Value> {
        let read = async {
            loop {
                let events: Vec<Value> = self
                    .text
                    .lines()
                    .filter_map(|line| line.strip_prefix("data: "))
                    .map(|data| serde_json::from_str(data).unwrap())
                    .collect();
                if events.len() >= count {
                    return events;
                }
                let mut part = [0; 4096];
                let length = self.stream.read(&mut part).await.unwrap();
                assert!(length > 0, "it ended: {}", self.text);
                self.text
                    .push_str(&String::from_utf8_lossy(&part[..length]));
            }
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("there are events")
    }
}
