//! A sidecar with everything of it in one place, and HTTP as plain as `curl --unix-socket` speaks it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Answer, PATIENCE, PROGRAM, Place, until};

/// A place with a sidecar in it. Whatever is mounted in it goes with it.
pub(crate) struct Sidecar {
    pub(crate) place: Place,
    process: Option<Child>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// What the sidecar answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn success(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// It is an error with this code; its message.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        body["message"].as_str().unwrap().to_owned()
    }
}

impl Sidecar {
    /// A sidecar that answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// The same with further arguments and variables.
    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut sidecar = Self {
            place: Place::new(),
            process: None,
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            variables: variables
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        sidecar.start_again();
        sidecar
    }

    /// More arguments for the next start.
    pub(crate) fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments
            .extend(arguments.iter().map(|&a| a.to_owned()));
    }

    /// Starts it; the last one has ended.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = self.command();
        command.arg("control").args(&self.arguments);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.place.path("control.log"))
            .unwrap();
        self.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        until("the sidecar answers", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}):\n{}", self.log());
            self.answers()
        });
    }

    /// It takes requests. That its socket takes connections says less: the kernel queues them from before the port on
    /// TCP is there.
    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let asked =
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n");
        let mut answer = [0; 5];
        asked.is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/"
    }

    /// Keeps a secret of the machine.
    pub(crate) fn keep_secret(&self, name: &str, value: &str) {
        let mut command = self.command();
        command.args(["control", "secret", "set", name]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(value.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
    }

    /// A command of the program under test that finds this sidecar.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.place.command(PROGRAM);
        command.env("WORKSPACE_BASE", self.place.path("ws"));
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command().args(arguments).output().unwrap())
    }

    /// Runs a command that answers with JSON.
    #[track_caller]
    pub(crate) fn run_json(&self, arguments: &[&str]) -> Value {
        let answer = self.run(arguments).success();
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error} in {answer:?}"))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.place.path("run/control.sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("control.log")).unwrap_or_default()
    }

    /// A volume that does not exist yet.
    pub(crate) fn source(&self, name: &str) -> String {
        format!("file://{}", self.place.text(&format!("s/{name}")))
    }

    /// One request over the Unix socket.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, method, path, &[], body)
    }

    /// The same with headers.
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, method, path, headers, body)
    }

    /// Mounts a volume of its own.
    #[track_caller]
    pub(crate) fn mount(&self, name: &str) -> Value {
        let body = serde_json::json!({"source": self.source(name)}).to_string();
        self.ask("POST", "/mounts", &body).success()
    }

    /// The mount called `name`, as listed.
    pub(crate) fn listed(&self, name: &str) -> Option<Value> {
        let list = self.ask("GET", "/mounts", "").success();
        let mut mounts = list["mounts"].as_array().unwrap().iter();
        mounts.find(|mount| mount["name"] == name).cloned()
    }

    /// The kinds of the events about `mount`, oldest first.
    pub(crate) fn events(&self, mount: &str) -> Vec<String> {
        let path = format!("/events?after=0&mount={mount}");
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: s\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        // What is there comes at once; nothing more within half a second is the end of it.
        stream
            .set_read_timeout(Some(std::time::Duration::from_millis(500)))
            .unwrap();
        let mut text = Vec::new();
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut part) {
            text.extend_from_slice(&part[..length]);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let kinds = text.lines().filter_map(|line| line.strip_prefix("event: "));
        kinds.map(str::to_owned).collect()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until it has died by itself.
    pub(crate) fn wait_for_death(&mut self) {
        let mut process = self.process.take().expect("it runs");
        until("the sidecar dies", || process.try_wait().unwrap().is_some());
    }

    /// The next start has no further variables.
    pub(crate) fn forget_variables(&mut self) {
        self.variables.clear();
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        kill(process.id().into(), Signal::TERM);
        let mut status = None;
        until("the sidecar ends", || {
            status = process.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}:\n{}", self.log());
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
        if std::thread::panicking() {
            eprintln!("log of the sidecar:\n{}", self.log());
        }
        for line in self.place.mounts() {
            if let Some(path) = line.split(' ').nth(4) {
                drop(Command::new("umount").args(["-l", "-q", path]).output());
            }
        }
    }
}

/// Sends `signal` to a process that is known by its number only.
pub(crate) fn kill(pid: i64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// One request over TCP.
pub(crate) fn ask_tcp(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, method, path, headers, body)
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response {
        status,
        body: body.to_owned(),
    }
}
