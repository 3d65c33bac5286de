//! A machine with a mount, and sidecars on it that end where the test says.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::super::points::{Point, Points};
use super::super::types::{RunDetails, RunState, RunSummary, StepReport, TriggerRequest};
use super::super::{Asked, Parts, SAID_MAX, Workflows};
use crate::error::ApiError;
use crate::sidecar::events::EventLog;
use crate::sidecar::host::WallClock;
use crate::sidecar::mounts::{self, Mounts};
use crate::sidecar::previews::{self, Preview, PreviewPorts, Previews};
use crate::sidecar::sandboxing::SandboxSettings;
use crate::sidecar::secret_folder::SecretFolder;
use crate::sidecar::secrets::Secrets;
use crate::sidecar::store::{EventFilter, Store};
use crate::sidecar::testing::{FakeHost, PATIENCE};
use crate::sidecar::testing_sandboxes::FakeSandboxes;
use crate::sidecar::types::{Event, MountRequest};

/// Ends the sidecar at a point: whoever comes there stays there.
#[derive(Default)]
pub(super) struct Ender {
    at: Mutex<Option<(Point, u32)>>,
    pub(super) hit: watch::Sender<bool>,
}

#[async_trait]
impl Points for Ender {
    async fn reached(&self, point: Point) {
        let is_it = {
            let mut at = self.at.lock();
            match at.as_mut() {
                Some((which, times)) if *which == point => {
                    *times -= 1;
                    *times == 0
                }
                _ => false,
            }
        };
        if is_it || *self.hit.borrow() {
            self.hit.send_replace(true);
            std::future::pending::<()>().await;
        }
    }
}

/// The machine.
pub(super) struct Rig {
    pub(super) host: Arc<FakeHost>,
    pub(super) sandboxes: Arc<FakeSandboxes>,
    pub(super) store: Store,
    pub(super) events: EventLog,
    pub(super) mounts: Mounts,
    pub(super) ender: Arc<Ender>,
    pub(super) workflows: Option<Workflows>,
    pub(super) stuck_after_ms: u64,
    pub(super) said_max: u64,
    /// How many sandboxes of steps there may be at a time.
    pub(super) places: usize,
    pub(super) previews: Option<Arc<Previews>>,
    ports: PreviewPorts,
    stop_previews: watch::Sender<bool>,
    folder: PathBuf,
    _stop: watch::Sender<bool>,
}

/// Ports for each machine, of which only one sidecar of this or another process of tests chooses: below those that the
/// kernel gives out.
fn ports() -> PreviewPorts {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 100).unwrap();
    let first = 20_000 + 120 * process + 2 * (NEXT.fetch_add(1, Ordering::Relaxed) % 60);
    PreviewPorts {
        address: Ipv4Addr::LOCALHOST.into(),
        first,
        last: first + 1,
    }
}

impl Rig {
    /// A sidecar with the mount `m`.
    pub(super) async fn new() -> Self {
        let host = FakeHost::new();
        let folder = host.folder();
        let store = Store::open(&folder.join("control")).unwrap();
        let clock = Arc::new(WallClock);
        let events = EventLog::open(store.clone(), clock.clone()).await.unwrap();
        let parts = mounts::Parts {
            host: host.clone(),
            clock,
            store: store.clone(),
            events: events.clone(),
            secrets: Secrets::new(&folder.join("run"), Some(&folder.join("control"))),
            workspace: folder.join("ws"),
            mounts_max: 5,
        };
        let (stop, stopping) = watch::channel(false);
        let (mounts, _) = Mounts::start(parts, stopping).await.unwrap();
        let path = folder.join("ws/m");
        std::fs::create_dir_all(path.join(".weldr/workflows")).unwrap();
        let request = MountRequest {
            source: "file:///srv/m".into(),
            name: Some("m".into()),
            path: Some(path.to_str().unwrap().to_owned()),
            options: Vec::new(),
            credentials: None,
        };
        mounts.add(request).await.unwrap();
        let sandboxes = FakeSandboxes::new(host.tree("file:///srv/m"));
        let mut rig = Self {
            host,
            sandboxes,
            store,
            events,
            mounts,
            ender: Arc::default(),
            workflows: None,
            stuck_after_ms: 60_000,
            said_max: SAID_MAX,
            places: SandboxSettings::example().execs_max,
            previews: None,
            ports: ports(),
            stop_previews: watch::Sender::new(false),
            folder,
            _stop: stop,
        };
        rig.start().await;
        rig
    }

    pub(super) fn secrets(&self) -> SecretFolder {
        SecretFolder::new(&self.folder.join("control"))
    }

    /// The folder of the mount.
    pub(super) fn project(&self) -> PathBuf {
        self.folder.join("ws/m")
    }

    /// The next sidecar, that ends nowhere.
    pub(super) async fn start(&mut self) {
        self.start_previews().await;
        self.start_workflows().await;
    }

    /// The one half of it.
    pub(super) async fn start_previews(&mut self) {
        self.ender = Arc::default();
        self.stop_previews = watch::Sender::new(false);
        let previews = Previews::take_back(previews::Parts {
            host: self.sandboxes.clone(),
            mounts: self.mounts.clone(),
            events: self.events.clone(),
            clock: Arc::new(WallClock),
            store: self.store.clone(),
            settings: SandboxSettings::example(),
            secrets: self.secrets(),
            ports: self.ports,
            allowed: Arc::new([]),
            stop: self.stop_previews.subscribe(),
        });
        self.previews = Some(Arc::new(previews.await.unwrap()));
    }

    /// And the other one.
    pub(super) async fn start_workflows(&mut self) {
        let previews = Arc::clone(self.previews.as_ref().expect("they were started"));
        let mut parts = Parts::new(
            (self.store.clone(), self.events.clone()),
            (self.mounts.clone(), previews),
            self.sandboxes.clone(),
            Arc::new(WallClock),
            SandboxSettings::example(),
            self.secrets(),
            self.ender.clone(),
        );
        parts.stuck_after_ms = self.stuck_after_ms;
        parts.said_max = self.said_max;
        parts.places = Arc::new(Semaphore::new(self.places));
        self.workflows = Some(Workflows::start(parts).await.unwrap());
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) {
        self.workflows = None;
        self.previews = None;
        // Those who keep apps have ended, and what they were just starting is there.
        self.stop_previews.send_replace(true);
        let gone = tokio::time::timeout(PATIENCE, self.stop_previews.closed());
        assert!(gone.await.is_ok(), "somebody still has the previews");
        // Requests to the database that were under way are over.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// The app of the project, as it is now.
    pub(super) fn app(&self) -> Option<Preview> {
        let all = self.previews.as_ref().expect("a sidecar runs").list();
        all.into_iter().next()
    }

    /// Another sidecar in place of the one that runs: runs that were over a moment ago come by no point any more.
    pub(super) async fn fresh(&mut self) {
        self.kill().await;
        self.start().await;
    }

    /// From now on the sidecar ends at `point`, when a run comes there for the `times`th time.
    pub(super) fn end_at(&self, point: Point, times: u32) {
        *self.ender.at.lock() = Some((point, times));
    }

    pub(super) fn all(&self) -> &Workflows {
        self.workflows.as_ref().expect("a sidecar runs")
    }

    pub(super) async fn trigger(&self, definition: &str) -> Result<RunSummary, ApiError> {
        self.trigger_with(definition, &[]).await
    }

    pub(super) async fn trigger_with(
        &self,
        definition: &str,
        inputs: &[(&str, &str)],
    ) -> Result<RunSummary, ApiError> {
        let inputs = inputs.iter();
        let request = TriggerRequest {
            mount: "m".into(),
            path: None,
            workflow: definition.into(),
            inputs: inputs
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect::<BTreeMap<_, _>>(),
        };
        self.all().trigger(request, None).await
    }

    /// Begins a run as the install of an integration.
    pub(super) async fn install(&self, definition: &str) -> String {
        let asked = Asked {
            name: "install:x".into(),
            text: definition.into(),
            inputs: BTreeMap::new(),
            mount: "m".into(),
            below: PathBuf::new(),
            origin: None,
        };
        self.all().begin(asked).await.unwrap().run
    }

    pub(super) async fn show(&self, run: &str) -> RunDetails {
        self.all().show(run).await.unwrap()
    }

    /// Waits until `condition` holds of a run.
    pub(super) async fn until(
        &self,
        run: &str,
        what: &str,
        condition: impl Fn(&RunDetails) -> bool,
    ) -> RunDetails {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let shown = self.show(run).await;
            if condition(&shown) {
                return shown;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: waited {PATIENCE:?}; it is {shown:#?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a run is over and everything of it is given back.
    pub(super) async fn over(&self, run: &str) -> RunDetails {
        self.until(run, "the run is over", |shown| {
            shown.run.state.is_over() && !shown.run.releasing
        })
        .await
    }

    /// Runs a definition to its end.
    pub(super) async fn done(&self, definition: &str) -> RunDetails {
        let run = self.trigger(definition).await.unwrap().run;
        self.over(&run).await
    }

    pub(super) async fn told(&self, run: &str) -> Vec<Event> {
        let about = EventFilter {
            mount: None,
            run: Some(run.to_owned()),
            ..EventFilter::default()
        };
        self.store.events_after(0, about, 10_000).await.unwrap()
    }

    /// The texts that were told of output, put together.
    pub(super) async fn output(&self, run: &str) -> String {
        let told = self.told(run).await;
        let outputs = told.iter().filter(|event| event.kind == "workflow.output");
        outputs.map(|event| event.message.as_str()).collect()
    }
}

pub(super) fn step<'r>(shown: &'r RunDetails, name: &str) -> &'r StepReport {
    let found = shown.steps.iter().find(|step| step.name == name);
    found.unwrap_or_else(|| panic!("no step {name} in {shown:#?}"))
}

#[track_caller]
pub(super) fn is(shown: &RunDetails, state: RunState) {
    assert_eq!(shown.run.state, state, "{shown:#?}");
}

/// Counts requests, by path and key; answers paths that begin with `/fail` with 500, and those with `/hang` never.
pub(super) struct Counter {
    pub(super) port: u16,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Counter {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let counted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|part| part == b"\r\n\r\n") {
                        let mut part = [0; 1024];
                        match stream.read(&mut part).await {
                            Ok(length @ 1..) => head.extend_from_slice(&part[..length]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    let key = head
                        .lines()
                        .find_map(|line| line.strip_prefix("idempotency-key: "))
                        .unwrap_or_default();
                    counted.lock().push((path.clone(), key.to_owned()));
                    if path.starts_with("/hang") {
                        std::future::pending::<()>().await;
                    }
                    let status = if path.starts_with("/fail") { 500 } else { 200 };
                    let body = r#"{"data": {"id": 7}, "said": "canary"}"#;
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    drop(stream.write_all(answer.as_bytes()).await);
                });
            }
        });
        Self { port, seen }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn count(&self, path: &str) -> usize {
        self.seen.lock().iter().filter(|(at, _)| at == path).count()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .seen
            .lock()
            .iter()
            .map(|(_, key)| key.clone())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }
}
