//! What the endpoints below `/previews` take and answer.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sandbox::{Network, OutputStream};
use crate::sidecar::exec::{CommandLine, LimitsRequest};

/// Whether an app that ends by itself is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It is not.
    #[default]
    Never,
    /// When it ended with another status than 0, or its mount went away; with growing pauses.
    OnFailure,
    /// However it ended.
    Always,
}

/// Body of `POST /previews/start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// On which mount.
    pub mount: String,
    /// The project's folder below it; all of it when absent. Nothing else of the mount is seen. There is one app for each
    /// folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What to run: a list of program and arguments, or a line for the shell. When absent it is found from the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// The port that the app listens on, which it gets as `PORT`; 3000 when absent, and then another one that it listens on
    /// will do. With the machine's network it is the port of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// The port of the machine; the first free one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub host_port: Option<u16>,
    /// Variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of secrets of this machine that the app gets as variables of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What it may use.
    #[serde(default)]
    pub limits: LimitsRequest,
    /// How it is connected.
    #[serde(default)]
    pub network: Network,
    /// Whether it is started again when it ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How long it may take until its port answers, in milliseconds; two minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 3600000)]
    pub ready_timeout_ms: Option<u64>,
    /// If an app runs there already, end it and start this one in its place, on its port. Without it, the same request
    /// again is the same preview, and another one is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// Body of `POST /previews/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewStopRequest {
    /// Which.
    pub id: String,
}

/// How far a preview is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreviewState {
    /// Its sandbox is being put together, or it ended and is started again in a while.
    Starting,
    /// The app runs, and its port does not answer yet.
    Probing,
    /// Its port answers.
    Ready,
    /// It is being ended.
    Stopping,
    /// It was ended, or ended by itself with status 0.
    Stopped,
    /// It did not start, or ended otherwise; `ended` says how.
    Failed,
}

impl PreviewState {
    /// Whether nothing of it runs, nor will by itself.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

impl fmt::Display for PreviewState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Probing => "probing",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// How an app ended last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewEnd {
    /// What happened, for people.
    pub reason: String,
    /// Its exit status; 128 and the number of the signal for one that a signal ended. Absent when it was never started, or
    /// nobody saw its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// A process of it was killed because it wanted more memory than it may have.
    #[serde(default)]
    pub out_of_memory: bool,
    /// The last lines of its log.
    #[serde(default)]
    pub log: Vec<String>,
    /// When, milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
}

/// What a preview uses at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewUse {
    /// Memory in bytes, that of files in its private folders included.
    pub memory_bytes: u64,
    /// Processor time since it was started, in milliseconds.
    pub cpu_ms: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Connections to its port that are open.
    pub connections: u64,
}

/// A preview: an app that runs on a mount and is reached at a port of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// What it is called.
    #[schema(example = "preview-19f2ab3c-1")]
    pub id: String,
    /// On which mount.
    pub mount: String,
    /// The project's folder below it; empty for all of it.
    pub path: String,
    /// How far it is.
    pub state: PreviewState,
    /// The port of the machine.
    #[schema(example = 3000)]
    pub host_port: u16,
    /// Where it is reached.
    #[schema(example = "http://localhost:3000")]
    pub url: String,
    /// The port that the app listens on.
    pub port: u16,
    /// What runs, as far as it may be shown: the program, without arguments that the request gave.
    pub command: String,
    /// How it is connected.
    pub network: Network,
    /// Names of the secrets that it gets.
    pub secrets: Vec<String>,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    /// When it was asked for, milliseconds since 1970.
    pub created_ms: u64,
    /// Until when its port has to answer, milliseconds since 1970; while it is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_by_ms: Option<u64>,
    /// How long it took from the start until its port answered, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_after_ms: Option<u64>,
    /// What is wrong although it runs, such as a port that another program has taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<PreviewEnd>,
    /// What it uses, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<PreviewUse>,
}

/// Answer of `GET /previews`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewList {
    /// By port, those that are over last.
    pub previews: Vec<Preview>,
}

/// A line that an app wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewLogLine {
    /// Its number; they grow by one, also over restarts of the app, and begin anew with each sidecar.
    pub number: u64,
    /// Where it was written to.
    pub stream: OutputStream,
    /// What, without the end of the line. What is no UTF-8 is replaced, and long lines are several.
    pub text: String,
}

/// Answer of `GET /previews/{id}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewLog {
    /// Oldest first.
    pub lines: Vec<PreviewLogLine>,
}
