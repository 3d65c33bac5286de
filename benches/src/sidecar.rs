//! A sidecar of one turn, with one mount; what it is asked, and what it and its processes take.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result, ensure};
use crate::places::Places;
use crate::process::{Background, POLL};
use crate::request::Connection;
use crate::target::MOUNTPOINT;

/// Between two looks at a preview.
const LOOK: Duration = Duration::from_millis(5);

/// A running sidecar.
pub(crate) struct Sidecar {
    process: Background,
    connection: Connection,
    run: PathBuf,
    state: PathBuf,
    mount: PathBuf,
    limit: Duration,
}

/// A preview.
pub(crate) struct App {
    id: String,
    pub(crate) port: u16,
}

impl Sidecar {
    /// Starts one in `folder` and mounts a new volume. It does not outlive the turn, and neither must what it starts.
    pub(crate) fn start(
        places: &Places,
        folder: &Path,
        (first, last): (u16, u16),
        limit: Duration,
    ) -> Result<Self> {
        let run = folder.join("run");
        let mut command = Command::new(places.program("weldrfs")?);
        command
            .args(["control", "--preview-ports", &format!("{first}-{last}")])
            .args(["--rate", "1000000"])
            .env("WELDR_ENV_VOL", folder.join("state"))
            .env("WELDRFS_RUN_DIR", &run)
            .env("WORKSPACE_BASE", folder.join("ws"));
        let log = folder.join("control.log");
        let mut process = Background::start(&mut command, &log, Stdio::null(), None)?;
        let socket = run.join("control.sock");
        let deadline = Instant::now() + limit;
        let connection = loop {
            match Connection::open(&socket, limit) {
                Ok(connection) => break connection,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(POLL),
            }
            let ended = process.ended();
            ensure(ended.is_none(), || format!("the sidecar ended: {ended:?}"))?;
        };
        let mut sidecar = Self {
            process,
            connection,
            run,
            state: folder.join("state"),
            // Where a run that is stopped looks for a mount.
            mount: folder.join(MOUNTPOINT),
            limit,
        };
        let source = format!("file://{}", folder.join("store").display());
        let body = json!({"source": source, "name": "bench", "path": sidecar.mount});
        sidecar.connection.post::<Value>("/mounts", &body)?;
        Ok(sidecar)
    }

    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }

    /// Asks for something.
    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        self.connection.post(path, body)
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Value> {
        self.connection.get(path)
    }

    /// Bytes of its database.
    pub(crate) fn database(&self) -> u64 {
        let folder = self.state.join("control");
        let files = ["control.db", "control.db-wal"].map(|name| folder.join(name));
        let sizes = files.iter().filter_map(|file| file.metadata().ok());
        sizes.map(|file| file.len()).sum()
    }

    /// The most memory that it ever had, bytes, that of its program included.
    pub(crate) fn memory_peak(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        in_kib(line).ok_or_else(|| Error::Wrong(format!("{path} does not say what it takes")))
    }

    /// Asks for an app; returns at once.
    pub(crate) fn start_app(&mut self, folder: &str) -> Result<App> {
        let body = json!({"mount": "bench", "path": folder, "command": ["node", "server.js"]});
        let told: Value = self.connection.post("/previews/start", &body)?;
        let port = told["host_port"]
            .as_u64()
            .and_then(|port| port.try_into().ok());
        let id = told["id"].as_str().map(str::to_owned);
        match (id, port) {
            (Some(id), Some(port)) => Ok(App { id, port }),
            _ => Err(Error::Wrong(format!("the sidecar answered {told}"))),
        }
    }

    pub(crate) fn stop_app(&mut self, app: &App) -> Result<()> {
        let body = json!({"id": app.id});
        self.connection
            .post::<Value>("/previews/stop", &body)
            .map(drop)
    }

    /// Waits until it is in that state.
    pub(crate) fn until(&mut self, app: &App, state: &str) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        loop {
            let now = self.look(app)?;
            if now["state"] == state {
                return Ok(());
            }
            ensure(now["state"] != "failed", || {
                format!("the app failed: {}", now["ended"])
            })?;
            ensure(Instant::now() < deadline, || {
                format!("the app is not {state}: {now}")
            })?;
            std::thread::sleep(LOOK);
        }
    }

    fn look(&mut self, app: &App) -> Result<Value> {
        self.connection.get(&format!("/previews/{}", app.id))
    }

    /// Memory of an app, bytes.
    pub(crate) fn memory_of(&mut self, app: &App) -> Result<u64> {
        let now = self.look(app)?;
        let bytes = now["usage"]["memory_bytes"].as_u64();
        bytes.ok_or_else(|| Error::Wrong("the sidecar does not say what the app takes".into()))
    }

    /// Memory of the sidecar itself, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        share(self.process.pid())
    }

    /// Memory of all processes that keep previews, bytes.
    pub(crate) fn memory_of_shims(&self) -> Result<u64> {
        let folder = self.run.join("sandboxes");
        let folder = folder.to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = pids.filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("shim") && line.contains(&folder)
        });
        let all: Vec<u64> = ours.map(share).collect::<Result<_>>()?;
        ensure(!all.is_empty(), || "no process keeps a preview".into())?;
        Ok(all.into_iter().sum())
    }

    /// Ends the apps, unmounts, and ends it.
    pub(crate) fn end(mut self) -> Result<()> {
        let list: Value = self.connection.get("/previews")?;
        for one in list["previews"].as_array().into_iter().flatten() {
            let app = App {
                id: one["id"].as_str().unwrap_or_default().to_owned(),
                port: 0,
            };
            if one["state"] == "failed" || one["state"] == "stopped" {
                continue;
            }
            self.stop_app(&app)?;
            self.until(&app, "stopped")?;
        }
        // What has just ended gives back what it used behind its end.
        let body = json!({"name": "bench"});
        let deadline = Instant::now() + self.limit;
        while let Err(error) = self.connection.post::<Value>("/mounts/unmount", &body) {
            ensure(Instant::now() < deadline, || error.to_string())?;
            std::thread::sleep(LOOK);
        }
        self.process.terminate();
        let ended = self.process.wait(self.limit);
        ensure(ended, || "the sidecar does not end".into())
    }
}

/// What memory a process has beside its files, bytes: those are the same program in all processes, and its size is no
/// preview's. What several have in common is divided among them.
fn share(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss_Anon:"));
    in_kib(line).ok_or_else(|| Error::Wrong(format!("{path} does not say what it takes")))
}

/// The bytes of a line like `VmHWM: 7 kB`.
fn in_kib(line: Option<&str>) -> Option<u64> {
    let kib: u64 = line?.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
