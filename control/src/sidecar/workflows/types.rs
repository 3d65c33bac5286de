//! The JSON of the endpoints about workflows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

/// Body of `POST /trigger`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerRequest {
    /// On which mount.
    #[schema(max_length = 63)]
    pub mount: String,
    /// The project's folder below it; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The name of a file `.weldr/workflows/NAME.yaml` of the project; or a definition: a text with line breaks (YAML),
    /// or an object.
    #[schema(value_type = Object)]
    pub workflow: Json,
    /// What the workflow takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Json>,
}

/// How a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It has not begun.
    Queued,
    /// A step is at work.
    Running,
    /// It waits for a time, an answer, a place, or the next attempt.
    Waiting,
    /// Every step that had to be done is done.
    Succeeded,
    /// A step failed for good.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// The project is what it was before it, or before one of its steps.
    Reverted,
    /// A step was cut off by the end of the machine, and may not be tried again.
    Interrupted,
}

/// How a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Its turn has not come.
    Queued,
    /// An attempt is under way.
    Running,
    /// It waits for a time, an answer, a place, or the next attempt.
    Waiting,
    /// It is done.
    Succeeded,
    /// Its last attempt failed.
    Failed,
    /// It was ended with its run.
    Cancelled,
    /// It did not have to be done.
    Skipped,
    /// It was cut off by the end of the machine, and may not be tried again.
    Interrupted,
}

macro_rules! named {
    ($type:ty) => {
        impl $type {
            /// As JSON has it.
            #[must_use]
            pub fn name(self) -> String {
                serde_json::to_value(self)
                    .ok()
                    .and_then(|name| name.as_str().map(str::to_owned))
                    .unwrap_or_default()
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.name())
            }
        }
    };
}

named!(RunState);
named!(StepState);

impl RunState {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Waiting)
    }
}

impl StepState {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Waiting)
    }

    pub(in crate::sidecar) fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Cancelled | Self::Interrupted)
    }
}

/// Why something did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Stable name of the kind of error.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// One attempt at a step that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptReport {
    /// Counted from 1.
    pub attempt: u32,
    /// When it began, milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended, milliseconds since 1970.
    pub ended_ms: u64,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepReport {
    /// What it is called.
    pub name: String,
    /// run, agent, http, snapshot, preview or wait; install where integrations are.
    pub kind: String,
    /// How it goes.
    pub state: StepState,
    /// Which attempt this is, or was the last; 0 before the first.
    pub attempt: u32,
    /// When it began, milliseconds since 1970.
    pub started: Option<u64>,
    /// When it was over, milliseconds since 1970.
    pub ended: Option<u64>,
    /// When there was last a sign of life, milliseconds since 1970.
    pub last_progress: Option<u64>,
    /// What it does now.
    pub doing: Option<String>,
    /// When this attempt is ended if it has not ended by itself, milliseconds since 1970.
    pub times_out: Option<u64>,
    /// Whether nothing was heard of it for a while.
    pub stuck: bool,
    /// What it hands on. Secrets are masked.
    #[schema(value_type = Object)]
    pub outputs: BTreeMap<String, Json>,
    /// Why it did not succeed: the error of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// The attempts that are over.
    pub attempts: Vec<AttemptReport>,
    /// The end of what it wrote. Secrets are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The snapshot after it.
    pub snapshot: Option<String>,
}

/// A run, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunSummary {
    /// Its id.
    pub run: String,
    /// What the workflow is called; `inline` for one that was sent.
    pub workflow: String,
    /// On which mount.
    pub mount: String,
    /// The project's folder below it.
    pub path: String,
    /// How it goes.
    pub state: RunState,
    /// When it was asked for, milliseconds since 1970.
    pub created: u64,
    /// When it began.
    pub started: Option<u64>,
    /// When it was over.
    pub ended: Option<u64>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// The step that is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Whether nothing was heard of that step for a while.
    pub stuck: bool,
    /// It is over, and what it used is still being given back.
    pub releasing: bool,
}

/// Answer of `GET /workflows`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    /// Newest first.
    pub runs: Vec<RunSummary>,
    /// What to send as `before` for those that follow; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// Answer of `GET /workflows/{run}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunDetails {
    /// The run.
    #[serde(flatten)]
    pub run: RunSummary,
    /// Hash of the definition that it follows, whatever the file says by now.
    pub definition_sha256: String,
    /// What it was given.
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Json>,
    /// The snapshot before the first step.
    pub snapshot: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<StepReport>,
    /// The reverts of it, oldest first.
    pub reverts: Vec<RevertReport>,
}

/// Body of the requests of an operator about a run that is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// The step; the first one that did not succeed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// Body of `POST /workflows/{run}/cancel`: nothing to choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {}

/// Body of `POST /revert`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertRequest {
    /// Which run.
    pub run: String,
    /// To before this step; before the first one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Instead, undo the last revert of this run.
    #[serde(default)]
    pub undo: bool,
}

/// A revert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevertReport {
    /// Which run.
    pub run: String,
    /// Its number among the reverts of this run.
    pub number: u32,
    /// The step whose state before it the project has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Whether it undid a revert.
    pub undo: bool,
    /// The snapshot that the project is like now.
    pub restored: String,
    /// The snapshot that has what was there before. It goes with the run's others.
    pub kept: String,
    /// Another one, which also has what was written while it was being reverted. It goes by its age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_late: Option<String>,
    /// Names that were added, replaced or removed.
    pub names: u64,
    /// When, milliseconds since 1970.
    pub at: u64,
    /// Whether it is done; false while it is under way.
    pub done: bool,
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// Answer of `GET /workflows/{run}/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunDiff {
    /// Which run.
    pub run: String,
    /// The mount.
    pub mount: String,
    /// The project's folder below it.
    pub path: String,
    /// The older snapshot.
    pub older: String,
    /// The newer one; absent for the present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<String>,
    /// By path, which is below the mount.
    #[schema(value_type = Vec<Object>)]
    pub differences: Vec<crate::volume::DifferenceInfo>,
    /// How many more there are.
    pub left_out: u64,
}
