//! What is counted while the sidecar works: commands, and runs of workflows with the attempts at their steps.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::SECONDS;
use crate::sidecar::workflows::RunState;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What is counted of commands; clones are the same.
#[derive(Clone, Debug)]
pub(in crate::sidecar) struct ExecMetrics {
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
    pub(in crate::sidecar) fn new() -> Self {
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
    pub(in crate::sidecar) fn started(&self) {
        self.running.inc();
    }

    /// One has ended so.
    pub(in crate::sidecar) fn finished(&self, outcome: &'static str, took: Duration) {
        self.running.dec();
        self.finished.get_or_create(&Outcome { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
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
pub(super) struct RunInState {
    pub(super) state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptOf {
    kind: &'static str,
    outcome: &'static str,
}

/// What is counted of workflows; clones are the same.
#[derive(Clone, Debug)]
pub(in crate::sidecar) struct WorkflowMetrics {
    ended: Family<RunInState, Counter>,
    attempts: Family<AttemptOf, Counter>,
}

/// The states that runs end with.
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
    pub(in crate::sidecar) fn new() -> Self {
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
    pub(in crate::sidecar) fn ended(&self, state: RunState) {
        let state = state.name();
        self.ended.get_or_create(&RunInState { state }).inc();
    }

    /// An attempt at a step of this kind has ended so.
    pub(in crate::sidecar) fn attempted(&self, kind: &'static str, outcome: &'static str) {
        self.attempts
            .get_or_create(&AttemptOf { kind, outcome })
            .inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
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
