//! The S3 servers that targets keep their bytes in: the test suite's own, with settable latency and bandwidth and with
//! counts, and `rclone serve s3` for peers that need more of S3 than it knows.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::{At, Error, Result};
use crate::places::Places;
use crate::process::{Background, POLL};

/// The bucket that every server has.
pub(crate) const BUCKET: &str = "bench";
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How far away the store is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distance {
    pub(crate) latency_ms: u64,
    /// Megabytes per second of all requests together; 0 for no limit.
    pub(crate) bandwidth_mb: u64,
}

/// A running server.
pub(crate) struct Store {
    pub(crate) endpoint: String,
    pub(crate) key: String,
    pub(crate) secret: String,
    /// To ask the test suite's server; the other one cannot be asked.
    line: Option<(ChildStdin, BufReader<ChildStdout>)>,
    _server: Background,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Verb {
    pub(crate) requests: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// What a server counted since it was started.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Counts {
    pub(crate) get: Verb,
    pub(crate) put: Verb,
    pub(crate) head: Verb,
    pub(crate) list: Verb,
    pub(crate) delete: Verb,
    pub(crate) objects: u64,
}

impl Counts {
    /// Requests of all kinds.
    pub(crate) fn requests(&self) -> u64 {
        let all = [self.get, self.put, self.head, self.list, self.delete];
        all.iter().map(|verb| verb.requests).sum()
    }
}

impl Store {
    /// Starts the test suite's server.
    pub(crate) fn start(places: &Places, distance: Distance, log: &Path) -> Result<Self> {
        let mut command = Command::new(places.program("examples/s3_server")?);
        command.args(["--bucket", BUCKET, "--latency-ms"]);
        command.arg(distance.latency_ms.to_string());
        if distance.bandwidth_mb > 0 {
            command.args(["--bandwidth-mb", &distance.bandwidth_mb.to_string()]);
        }
        let mut server =
            Background::start(&mut command, log, Stdio::piped(), Some(Stdio::piped()))?;
        let pipes = (server.child().stdin.take(), server.child().stdout.take());
        let (Some(stdin), Some(stdout)) = pipes else {
            return Err(Error::Missing("the S3 server has no pipes".into()));
        };
        let mut stdout = BufReader::new(stdout);
        let mut said = |name: &str| -> Result<String> {
            let mut line = String::new();
            stdout.read_line(&mut line).at("the S3 server")?;
            let value = line.trim().strip_prefix(name).map(str::to_owned);
            value.ok_or_else(|| Error::Wrong(format!("the S3 server said {line:?}, not {name}")))
        };
        let endpoint = said("endpoint=")?;
        said("bucket=")?;
        let (key, secret) = (said("access_key_id=")?, said("secret_access_key=")?);
        Ok(Self {
            endpoint,
            key,
            secret,
            line: Some((stdin, stdout)),
            _server: server,
        })
    }

    /// Starts `rclone serve s3` on a folder of the local disk. It has no latency, and counts nothing.
    pub(crate) fn start_rclone(rclone: &Path, folder: &Path, log: &Path) -> Result<Self> {
        let (key, secret) = ("bench-key", "bench-secret");
        std::fs::create_dir_all(folder.join(BUCKET)).at(folder)?;
        // Free now; whoever takes it in between makes the server fail with a message.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .at("a free port")?;
        let mut command = Command::new(rclone);
        command
            .args(["serve", "s3", "--config", "/dev/null", "--auth-key"])
            .arg(format!("{key},{secret}"))
            .args(["--addr", &address.to_string()])
            .arg(folder);
        let mut server = Background::start(&mut command, log, Stdio::null(), None)?;
        let deadline = Instant::now() + START_DEADLINE;
        while std::net::TcpStream::connect(address).is_err() {
            if server.ended().is_some() || Instant::now() > deadline {
                return Err(Error::Missing("rclone serve s3 does not answer".into()));
            }
            std::thread::sleep(POLL);
        }
        Ok(Self {
            endpoint: format!("http://{address}"),
            key: key.into(),
            secret: secret.into(),
            line: None,
            _server: server,
        })
    }

    /// Requests and bytes so far; `None` where nobody counts.
    pub(crate) fn counts(&mut self) -> Result<Option<Counts>> {
        let Some(answer) = self.ask("counts")? else {
            return Ok(None);
        };
        let counts = serde_json::from_str(&answer).map_err(|source| Error::Json {
            what: "the S3 server's counts".into(),
            source,
        })?;
        Ok(Some(counts))
    }

    /// Length of all objects whose keys begin so; `None` where nobody counts.
    pub(crate) fn bytes(&mut self, prefix: &str) -> Result<Option<u64>> {
        let Some(answer) = self.ask(&format!("bytes {prefix}"))? else {
            return Ok(None);
        };
        let wrong = || Error::Wrong(format!("the S3 server said {answer:?}, not a number"));
        answer.trim().parse().map(Some).map_err(|_| wrong())
    }

    /// Moves the store.
    pub(crate) fn set_latency(&mut self, ms: u64) -> Result<()> {
        self.ask(&format!("latency {ms}")).map(drop)
    }

    fn ask(&mut self, question: &str) -> Result<Option<String>> {
        let Some((stdin, stdout)) = &mut self.line else {
            return Ok(None);
        };
        let mut answer = String::new();
        writeln!(stdin, "{question}")
            .and_then(|()| stdin.flush())
            .and_then(|()| stdout.read_line(&mut answer))
            .at("the S3 server")?;
        Ok(Some(answer))
    }
}
