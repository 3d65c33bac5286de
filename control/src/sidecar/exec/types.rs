//! What `POST /exec` takes and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorBody;
use crate::sandbox::{Network, OutputStream};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum CommandLine {
    /// A line for `/bin/sh` in the sandbox.
    Line(String),
    /// A program and its arguments.
    Words(Vec<String>),
}

/// What a sandbox may use; what is absent is as the sidecar was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Memory in MiB, that of files in its private folders included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Processors, also parts of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Each of the private folders (`/tmp`, the home, `/run`), in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmp_mb: Option<u64>,
}

/// Body of `POST /exec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// On which mount.
    pub mount: String,
    /// The project's folder below it; all of it when absent. Nothing else of the mount is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What to run: a list of program and arguments, or a line for the shell.
    pub command: CommandLine,
    /// Variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of secrets of this machine that the command gets as variables of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What it may use.
    #[serde(default)]
    pub limits: LimitsRequest,
    /// How it is connected.
    #[serde(default)]
    pub network: Network,
    /// After how many milliseconds it is ended; ten minutes when absent, a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What it reads from its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
}

/// One line of the answer of `POST /exec`. The last is `exit` or `error`; without either the answer was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ExecLine {
    /// It runs. The first line.
    Started {
        /// What it is called in events and refusals.
        id: String,
    },
    /// It wrote something: `text`, or `base64` where that is no UTF-8.
    Output {
        /// Where to.
        stream: OutputStream,
        /// What.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// What, in base 64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    },
    /// So many bytes of output in between were lost.
    Missed {
        /// How many.
        bytes: u64,
    },
    /// It goes on; sent when there is nothing else for a while.
    Alive,
    /// It has ended.
    Exit(ExecExit),
    /// What became of it is not known.
    Error(ErrorBody),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecExit {
    /// Its status; 128 and the number of the signal for one that a signal ended.
    pub status: i32,
    /// Its time was over.
    pub timed_out: bool,
    /// A process of it was killed because it wanted more memory than it may have.
    pub out_of_memory: bool,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// The most memory it had, in bytes; absent when the machine does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Processor time it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
}
