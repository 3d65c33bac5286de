//! Figures for Prometheus: what was asked of the sidecar and how long it took, and what the mounts said last.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::mounts::View;
use super::previews::Preview;
use super::store::BranchRow;
use super::types::MountState;
use super::workflows::RunState;
use crate::error::ApiError;
use crate::volume::VolumeStatus;

/// Type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Upper bounds in seconds; a mount may take minutes.
const SECONDS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    method: String,
    route: String,
    status: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfMount {
    mount: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    mount: String,
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfVerb {
    mount: String,
    verb: &'static str,
}

/// What is known only when it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Runs that are not over.
    pub(super) runs: Vec<(RunState, u64)>,
    pub(super) mounts_max: usize,
    pub(super) listeners: usize,
    pub(super) database_works: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What is counted of commands; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct ExecMetrics {
    running: Gauge,
    finished: Family<Outcome, Counter>,
    seconds: Histogram,
}

/// How commands end.
const OUTCOMES: [&str; 6] = [
    "succeeded",
    "failed",
    "timed_out",
    "out_of_memory",
    "cut_off",
    "lost",
];

impl ExecMetrics {
    pub(super) fn new() -> Self {
        let finished: Family<Outcome, Counter> = Family::default();
        for outcome in OUTCOMES {
            // A rate needs the zero that it began with.
            drop(finished.get_or_create(&Outcome { outcome }));
        }
        Self {
            running: Gauge::default(),
            finished,
            seconds: Histogram::new(SECONDS),
        }
    }

    /// A command runs.
    pub(super) fn started(&self) {
        self.running.inc();
    }

    /// One has ended so.
    pub(super) fn finished(&self, outcome: &'static str, took: Duration) {
        self.running.dec();
        self.finished.get_or_create(&Outcome { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("execs_running", "Commands that run", self.running.clone());
        registry.register("execs", "Commands that have ended", self.finished.clone());
        registry.register(
            "exec_seconds",
            "How long commands ran",
            self.seconds.clone(),
        );
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RunInState {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptOf {
    kind: &'static str,
    outcome: &'static str,
}

/// What is counted of workflows; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct WorkflowMetrics {
    ended: Family<RunInState, Counter>,
    attempts: Family<AttemptOf, Counter>,
}

/// The states that runs which are not over have, and those that they end with.
const LIVE_STATES: [RunState; 3] = [RunState::Queued, RunState::Running, RunState::Waiting];
const END_STATES: [RunState; 4] = [
    RunState::Succeeded,
    RunState::Failed,
    RunState::Cancelled,
    RunState::Interrupted,
];

/// Kinds of steps, and how attempts at them end.
const STEP_KINDS: [&str; 7] = [
    "run", "agent", "http", "snapshot", "preview", "wait", "install",
];
const ATTEMPT_OUTCOMES: [&str; 4] = ["succeeded", "failed", "interrupted", "cancelled"];

impl WorkflowMetrics {
    pub(super) fn new() -> Self {
        let ended: Family<RunInState, Counter> = Family::default();
        for state in END_STATES {
            // A rate needs the zero that it began with.
            drop(ended.get_or_create(&RunInState {
                state: state.name(),
            }));
        }
        let attempts: Family<AttemptOf, Counter> = Family::default();
        for kind in STEP_KINDS {
            for outcome in ATTEMPT_OUTCOMES {
                drop(attempts.get_or_create(&AttemptOf { kind, outcome }));
            }
        }
        Self { ended, attempts }
    }

    /// A run has ended so.
    pub(super) fn ended(&self, state: RunState) {
        let state = state.name();
        self.ended.get_or_create(&RunInState { state }).inc();
    }

    /// An attempt at a step of this kind has ended so.
    pub(super) fn attempted(&self, kind: &'static str, outcome: &'static str) {
        self.attempts
            .get_or_create(&AttemptOf { kind, outcome })
            .inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "workflows_ended",
            "Runs of workflows that have ended",
            self.ended.clone(),
        );
        registry.register(
            "workflow_attempts",
            "Attempts at steps of workflows that have ended",
            self.attempts.clone(),
        );
    }
}

/// The runs that are not over.
fn of_workflows(runs: &[(RunState, u64)]) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let of = Family::<RunInState, Gauge>::default();
    for state in LIVE_STATES {
        let count = runs.iter().find(|(one, _)| *one == state);
        let count = count.map_or(0, |(_, count)| *count);
        let state = state.name();
        of.get_or_create(&RunInState { state })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "workflow_runs",
        "Runs of workflows that are not over, by state",
        of,
    );
    registry
}

/// What the sidecar counts itself.
pub(super) struct Metrics {
    registry: Registry,
    listeners: Gauge,
    database: Gauge,
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(super) fn new(execs: &ExecMetrics, workflows: &WorkflowMetrics) -> Self {
        let mut registry = Registry::with_prefix("weldrfs_control");
        let requests = Family::<Answered, Counter>::default();
        let new: fn() -> Histogram = || Histogram::new(SECONDS);
        let seconds = Family::<Route, Histogram, _>::new_with_constructor(new);
        let (listeners, database) = (Gauge::default(), Gauge::default());
        registry.register("listeners", "Clients that follow events", listeners.clone());
        registry.register(
            "database_works",
            "1 while control.db does what it is asked",
            database.clone(),
        );
        registry.register("requests", "Requests that were answered", requests.clone());
        registry.register(
            "request_seconds",
            "Time until the answer began",
            seconds.clone(),
        );
        execs.register(&mut registry);
        workflows.register(&mut registry);
        Self {
            registry,
            listeners,
            database,
            requests,
            seconds,
        }
    }

    /// One request to `route`, a pattern of the API, never what a client made up.
    pub(super) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        let labels = Answered {
            method: method.to_owned(),
            route: route.clone(),
            status: u32::from(status),
        };
        self.requests.get_or_create(&labels).inc();
        self.seconds
            .get_or_create(&Route { route })
            .observe(took.as_secs_f64());
    }

    /// Everything as text.
    ///
    /// # Errors
    /// [`ApiError::Internal`].
    pub(super) fn text(
        &self,
        views: &[View],
        previews: &[Preview],
        branches: &[BranchRow],
        now: &Now,
    ) -> Result<String, ApiError> {
        self.listeners
            .set(i64::try_from(now.listeners).unwrap_or(i64::MAX));
        self.database.set(i64::from(now.database_works));
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &of_mounts(views, now.mounts_max)))
            .and_then(|()| encode_registry(&mut text, &of_previews(previews)))
            .and_then(|()| encode_registry(&mut text, &of_workflows(&now.runs)))
            .and_then(|()| encode_registry(&mut text, &of_branches(views, branches)))
            .and_then(|()| encode_eof(&mut text));
        written.map(|()| text).map_err(|error| {
            tracing::error!(%error, "the metrics cannot be written");
            ApiError::Internal("the metrics cannot be written; the sidecar's log says why".into())
        })
    }
}

/// One figure of a volume's status.
type Figure = (&'static str, &'static str, fn(&VolumeStatus) -> u64);

const FIGURES: [Figure; 19] = [
    (
        "memory_resident_bytes",
        "Resident memory of the mount process",
        |s| s.memory_resident_bytes,
    ),
    (
        "behind_records",
        "Acknowledged operations that the store does not have",
        |s| s.behind.records,
    ),
    (
        "behind_bytes",
        "Bytes of content that the store does not have",
        |s| s.behind.bytes,
    ),
    ("behind_milliseconds", "Age of the oldest of them", |s| {
        s.behind.since_ms
    }),
    ("staged_bytes", "Bytes in local segments", |s| {
        s.staged_bytes
    }),
    (
        "staging_limit_bytes",
        "Where writers are made to wait",
        |s| s.staging_limit_bytes,
    ),
    ("journal_bytes", "Bytes of the local journal", |s| {
        s.journal_bytes
    }),
    (
        "pack_cache_bytes",
        "Bytes of packs on the local disk",
        |s| s.cache.pack_bytes,
    ),
    (
        "pack_cache_budget_bytes",
        "Most bytes of packs on the local disk",
        |s| s.cache.pack_budget_bytes,
    ),
    ("pack_cache_hits", "Frames decoded from a local pack", |s| {
        s.cache.pack_hits
    }),
    ("pack_cache_misses", "Packs fetched from the store", |s| {
        s.cache.pack_misses
    }),
    (
        "frame_cache_bytes",
        "Bytes of decoded content in memory",
        |s| s.cache.frame_bytes,
    ),
    ("frame_cache_hits", "Reads answered from memory", |s| {
        s.cache.frame_hits
    }),
    ("frame_cache_misses", "Reads that had to decode", |s| {
        s.cache.frame_misses
    }),
    ("inodes", "Inodes in use", |s| s.inodes),
    ("used_bytes", "Bytes of content in use", |s| s.used_bytes),
    ("trash_inodes", "Inodes that are only in the trash", |s| {
        s.trash.inodes
    }),
    ("trash_bytes", "Bytes of content in the trash", |s| {
        s.trash.bytes
    }),
    ("read_only", "1 when the volume takes no writes", |s| {
        u64::from(s.read_only.is_some())
    }),
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPreview {
    mount: String,
    path: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PreviewInState {
    mount: String,
    path: String,
    state: String,
}

/// One figure of a preview.
type PreviewFigure = (&'static str, &'static str, fn(&Preview) -> Option<u64>);

const PREVIEW_FIGURES: [PreviewFigure; 5] = [
    (
        "preview_restarts",
        "Started again after the app had ended by itself",
        |p| Some(u64::from(p.restarts)),
    ),
    ("preview_memory_bytes", "Memory of a preview", |p| {
        p.usage.map(|used| used.memory_bytes)
    }),
    (
        "preview_cpu_milliseconds",
        "Processor time of a preview since it was started",
        |p| p.usage.map(|used| used.cpu_ms),
    ),
    (
        "preview_processes",
        "Processes and threads of a preview",
        |p| p.usage.map(|used| used.processes),
    ),
    (
        "preview_connections",
        "Open connections to the port of a preview",
        |p| p.usage.map(|used| used.connections),
    ),
];

/// The figures of the previews that live, and the state of those that failed.
fn of_previews(previews: &[Preview]) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let states = Family::<PreviewInState, Gauge>::default();
    for preview in previews {
        let labels = PreviewInState {
            mount: preview.mount.clone(),
            path: preview.path.clone(),
            state: preview.state.to_string(),
        };
        states.get_or_create(&labels).set(1);
    }
    registry.register(
        "preview_state",
        "1 for the state that a preview is in",
        states,
    );
    for (name, help, figure) in PREVIEW_FIGURES {
        let of = Family::<OfPreview, Gauge>::default();
        for preview in previews.iter().filter(|preview| !preview.state.is_over()) {
            if let Some(value) = figure(preview) {
                let labels = OfPreview {
                    mount: preview.mount.clone(),
                    path: preview.path.clone(),
                };
                of.get_or_create(&labels)
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        registry.register(name, help, of);
    }
    registry
}

/// The branches of each mount, as they are written down: nothing is asked of the mounts.
fn of_branches(views: &[View], rows: &[BranchRow]) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let (all, dropped) = (
        Family::<OfMount, Gauge>::default(),
        Family::<OfMount, Gauge>::default(),
    );
    for view in views {
        let mount = &view.mount.name;
        let of_mount = || rows.iter().filter(|row| row.mount == *mount);
        let count = |rows: usize| i64::try_from(rows).unwrap_or(i64::MAX);
        let labels = OfMount {
            mount: mount.clone(),
        };
        all.get_or_create(&labels).set(count(of_mount().count()));
        let gone = of_mount().filter(|row| row.dropped_ms.is_some()).count();
        dropped.get_or_create(&labels).set(count(gone));
    }
    registry.register("branches", "Branches of a mount", all);
    registry.register(
        "branches_dropped",
        "Branches that gave their local copies back for want of space",
        dropped,
    );
    registry
}

/// The figures of all mounts, as they were last seen.
fn of_mounts(views: &[View], mounts_max: usize) -> Registry {
    let mut registry = Registry::with_prefix("weldrfs");
    let limit = Gauge::<i64>::default();
    limit.set(i64::try_from(mounts_max).unwrap_or(i64::MAX));
    registry.register("mounts_limit", "As many mounts as there may be", limit);
    let states = Family::<InState, Gauge>::default();
    let restarts = Family::<OfMount, Gauge>::default();
    for view in views {
        let mount = view.mount.name.clone();
        let state = view.mount.state.to_string();
        states
            .get_or_create(&InState {
                mount: mount.clone(),
                state,
            })
            .set(1);
        restarts
            .get_or_create(&OfMount { mount })
            .set(i64::from(view.mount.restarts));
    }
    registry.register("mount_state", "1 for the state that a mount is in", states);
    registry.register(
        "mount_restarts",
        "Mounted again after its process died",
        restarts,
    );
    let statuses: Vec<(String, &VolumeStatus)> = views
        .iter()
        .filter(|view| view.mount.state == MountState::Mounted)
        .filter_map(|view| {
            Some((
                view.mount.name.clone(),
                view.status.as_ref()?.as_ref().ok()?,
            ))
        })
        .collect();
    for (name, help, figure) in FIGURES {
        let of = Family::<OfMount, Gauge>::default();
        for (mount, status) in &statuses {
            let labels = OfMount {
                mount: mount.clone(),
            };
            of.get_or_create(&labels)
                .set(i64::try_from(figure(status)).unwrap_or(i64::MAX));
        }
        registry.register(format!("mount_{name}"), help, of);
    }
    registry.register(
        "mount_store_requests",
        "Requests to the object store",
        by_verb(&statuses, |v| v.requests),
    );
    registry.register(
        "mount_store_errors",
        "Requests to the object store that failed",
        by_verb(&statuses, |v| v.errors),
    );
    registry
}

fn by_verb(
    statuses: &[(String, &VolumeStatus)],
    count: fn(&crate::volume::VerbStatus) -> u64,
) -> Family<OfVerb, Gauge> {
    let of = Family::<OfVerb, Gauge>::default();
    for (mount, status) in statuses {
        let store = &status.store;
        for (verb, counts) in [
            ("put", &store.put),
            ("get", &store.get),
            ("head", &store.head),
            ("list", &store.list),
            ("delete", &store.delete),
        ] {
            let labels = OfVerb {
                mount: mount.clone(),
                verb,
            };
            of.get_or_create(&labels)
                .set(i64::try_from(count(counts)).unwrap_or(i64::MAX));
        }
    }
    of
}
