//! Figures for Prometheus: what was asked of the sidecar and how long it took, and what the mounts said last.

mod found;
mod work;

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
use super::workflows::RunState;
use crate::error::ApiError;

use self::found::{of_branches, of_mounts, of_previews, of_workflows};
pub(super) use self::work::{ExecMetrics, WorkflowMetrics};

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

/// What is known only when it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Runs that are not over.
    pub(super) runs: Vec<(RunState, u64)>,
    pub(super) mounts_max: usize,
    pub(super) listeners: usize,
    pub(super) database_works: bool,
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
