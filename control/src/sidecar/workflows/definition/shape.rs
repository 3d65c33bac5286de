//! What a definition looks like: the types that YAML is read into and the published schema is made from. What types cannot
//! say is looked at afterwards, in `check`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_saphyr::Spanned;

use super::span::Span;
use crate::sidecar::integrations::Work;

/// A workflow: what is to be done on a project, step by step.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "WeldrFS workflow")]
pub(in crate::sidecar::workflows) struct Definition {
    /// What it is for.
    #[serde(default)]
    #[expect(dead_code, reason = "for those who read the file")]
    pub(in crate::sidecar::workflows) description: Option<String>,
    /// What it takes, by name.
    #[serde(default)]
    pub(in crate::sidecar::workflows) inputs: BTreeMap<String, Input>,
    /// Variables of every command.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Scalar>")]
    pub(in crate::sidecar::workflows) env: BTreeMap<String, Spanned<Scalar>>,
    /// How many runs of it go on at a time on the same project; the others wait. Any number when absent.
    #[serde(default)]
    #[schemars(with = "Option<u32>", range(min = 1, max = 1000))]
    pub(in crate::sidecar::workflows) concurrency: Option<Spanned<u32>>,
    /// How long a run may take in all.
    #[serde(default)]
    pub(in crate::sidecar::workflows) timeout: Option<Span>,
    /// What happens to the project when the run fails.
    #[serde(default)]
    pub(in crate::sidecar::workflows) on_failure: OnFailure,
    /// What is done, one after the other.
    #[schemars(length(min = 1, max = 100))]
    pub(in crate::sidecar::workflows) steps: Vec<Step>,
}

/// What happens to the project when a run fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::sidecar::workflows) enum OnFailure {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is what it was before the first step.
    Revert,
}

/// Something that a run is given.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Input {
    /// What it is.
    #[serde(rename = "type", default)]
    pub(in crate::sidecar::workflows) kind: InputKind,
    /// What it is for.
    #[serde(default)]
    #[expect(dead_code, reason = "for those who read the file")]
    pub(in crate::sidecar::workflows) description: Option<String>,
    /// Whether a run must be given it. True unless it has a default.
    #[serde(default)]
    pub(in crate::sidecar::workflows) required: Option<bool>,
    /// What it is when it is not given.
    #[serde(default)]
    #[schemars(with = "Option<Scalar>")]
    pub(in crate::sidecar::workflows) default: Option<Spanned<Scalar>>,
    /// What it may be, of type choice.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub(in crate::sidecar::workflows) choices: Vec<String>,
}

/// What an input is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::sidecar::workflows) enum InputKind {
    /// A text.
    #[default]
    String,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// One of the texts in `choices`.
    Choice,
}

/// One thing to do. Has exactly one of run, command, agent, http, snapshot, preview and wait.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Step {
    /// What it is called: letters, digits, `-` and `_`; no other step has this name.
    #[schemars(with = "String", regex(pattern = "^[A-Za-z][A-Za-z0-9_-]{0,39}$"))]
    pub(in crate::sidecar::workflows) name: Spanned<String>,
    /// What it is for.
    #[serde(default)]
    #[expect(dead_code, reason = "for those who read the file")]
    pub(in crate::sidecar::workflows) description: Option<String>,
    /// When it is done; otherwise it is skipped. When absent: as long as no step has failed.
    #[serde(default, rename = "if")]
    #[schemars(with = "Option<Scalar>")]
    pub(in crate::sidecar::workflows) condition: Option<Spanned<Scalar>>,

    /// A line for the shell, in a sandbox. Has no `${{ }}`: what it needs reaches it as variables, with `env`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::sidecar::workflows) run: Option<Spanned<String>>,
    /// A program and its arguments, in a sandbox.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Scalar>>")]
    pub(in crate::sidecar::workflows) command: Option<Vec<Spanned<Scalar>>>,
    /// An agent, in a sandbox.
    #[serde(default)]
    pub(in crate::sidecar::workflows) agent: Option<Agent>,
    /// A request over HTTP.
    #[serde(default)]
    pub(in crate::sidecar::workflows) http: Option<Http>,
    /// A snapshot that is kept.
    #[serde(default)]
    pub(in crate::sidecar::workflows) snapshot: Option<SnapshotStep>,
    /// The app of the project, in a sandbox that goes on.
    #[serde(default)]
    pub(in crate::sidecar::workflows) preview: Option<Preview>,
    /// Waiting for a time or for something to answer.
    #[serde(default)]
    pub(in crate::sidecar::workflows) wait: Option<Wait>,
    /// Files and variables of integrations, and a note of them. For runs that install some only.
    #[serde(default)]
    #[schemars(skip)]
    pub(in crate::sidecar::workflows) install: Option<Work>,

    /// Variables of the command, the agent or the app.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Scalar>")]
    pub(in crate::sidecar::workflows) env: BTreeMap<String, Spanned<Scalar>>,
    /// Secrets of the machine that the step gets, by name: as variables, or as `${{ secrets.NAME }}` of an http step.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(in crate::sidecar::workflows) secrets: Vec<Spanned<String>>,
    /// How the command, the agent or the app is connected.
    #[serde(default)]
    pub(in crate::sidecar::workflows) network: Option<NetworkName>,
    /// What the command, the agent or the app may use.
    #[serde(default)]
    pub(in crate::sidecar::workflows) limits: Option<LimitsShape>,
    /// Outputs that the command sets with lines like `::output NAME=VALUE`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(in crate::sidecar::workflows) outputs: Vec<Spanned<String>>,

    /// How long one attempt may take: a day at most for a command or an agent, an hour for an app.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub(in crate::sidecar::workflows) timeout: Option<Spanned<Span>>,
    /// How long all attempts and the time between them may take.
    #[serde(default)]
    pub(in crate::sidecar::workflows) total_timeout: Option<Span>,
    /// What happens after an attempt that failed.
    #[serde(default)]
    pub(in crate::sidecar::workflows) retry: Option<Retry>,
    /// False for what must never be tried a second time once it may have had an effect.
    #[serde(default = "yes")]
    pub(in crate::sidecar::workflows) idempotent: bool,
}

fn yes() -> bool {
    true
}

/// How a sandbox is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::sidecar::workflows) enum NetworkName {
    /// Nothing but a loopback that nobody outside uses.
    None,
    /// Nothing but a loopback.
    Isolated,
    /// The machine's.
    Host,
}

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct LimitsShape {
    /// Memory in MiB.
    #[serde(default)]
    pub(in crate::sidecar::workflows) memory_mb: Option<u64>,
    /// Processors, also parts of one.
    #[serde(default)]
    pub(in crate::sidecar::workflows) cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default)]
    pub(in crate::sidecar::workflows) processes: Option<u32>,
    /// Each of the private folders, in MiB.
    #[serde(default)]
    pub(in crate::sidecar::workflows) tmp_mb: Option<u64>,
}

/// What happens after an attempt that failed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Retry {
    /// Attempts in all, the first one counted.
    #[schemars(with = "u32", range(min = 1, max = 100))]
    pub(in crate::sidecar::workflows) attempts: Spanned<u32>,
    /// Time before the second; doubled each time. 1 s when absent.
    #[serde(default)]
    pub(in crate::sidecar::workflows) backoff: Option<Span>,
    /// Where doubling ends. A minute when absent.
    #[serde(default)]
    pub(in crate::sidecar::workflows) max_backoff: Option<Span>,
}

impl Retry {
    /// The time before the attempt after attempt `done`, of those counted from 1.
    pub(in crate::sidecar::workflows) fn pause(&self, done: u32) -> Duration {
        let first = self.backoff.map_or(Duration::from_secs(1), |span| span.0);
        let most = self
            .max_backoff
            .map_or(Duration::from_secs(60), |span| span.0);
        let factor = 1_u32
            .checked_shl(done.saturating_sub(1))
            .unwrap_or(u32::MAX);
        first.saturating_mul(factor).min(most.max(first))
    }
}

/// An agent that speaks the Agent Client Protocol over its standard input and output.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Agent {
    /// The agent's program and its arguments.
    #[schemars(with = "Vec<Scalar>", length(min = 1))]
    pub(in crate::sidecar::workflows) command: Vec<Spanned<Scalar>>,
    /// What it is to do.
    #[schemars(with = "String")]
    pub(in crate::sidecar::workflows) prompt: Spanned<String>,
    /// What it is allowed when it asks.
    #[serde(default)]
    pub(in crate::sidecar::workflows) permissions: Permissions,
    /// Whether it may read and write files of the project through the sidecar. It may do so by itself in any case.
    #[serde(default)]
    pub(in crate::sidecar::workflows) files: Files,
}

/// What an agent is answered when it asks whether it may use a tool.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Permissions {
    /// For kinds of tools that are in neither list.
    #[serde(default)]
    pub(in crate::sidecar::workflows) default: Answer,
    /// Kinds that are allowed.
    #[serde(default)]
    pub(in crate::sidecar::workflows) allow: Vec<Tool>,
    /// Kinds that are not; wins over `allow`.
    #[serde(default)]
    pub(in crate::sidecar::workflows) reject: Vec<Tool>,
}

/// An answer to an agent that asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::sidecar::workflows) enum Answer {
    /// Yes.
    Allow,
    /// No.
    #[default]
    Reject,
}

/// A kind of tool of an agent, as the protocol has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::sidecar::workflows) enum Tool {
    /// Reads files or data.
    Read,
    /// Changes files.
    Edit,
    /// Deletes files.
    Delete,
    /// Moves files.
    Move,
    /// Searches.
    Search,
    /// Runs commands.
    Execute,
    /// Thinks aloud.
    Think,
    /// Fetches from elsewhere.
    Fetch,
    /// Anything else.
    Other,
}

/// Whether an agent may have files of the project through the sidecar.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Files {
    /// Read them.
    #[serde(default = "yes")]
    pub(in crate::sidecar::workflows) read: bool,
    /// Write them.
    #[serde(default = "yes")]
    pub(in crate::sidecar::workflows) write: bool,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            read: true,
            write: true,
        }
    }
}

/// A request over HTTP. It is the machine that asks, with its network.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Http {
    /// Where to: http or https.
    #[schemars(with = "String")]
    pub(in crate::sidecar::workflows) url: Spanned<String>,
    /// GET when absent.
    #[serde(default)]
    pub(in crate::sidecar::workflows) method: Method,
    /// Headers.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Scalar>")]
    pub(in crate::sidecar::workflows) headers: BTreeMap<String, Spanned<Scalar>>,
    /// What is sent.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::sidecar::workflows) body: Option<Spanned<String>>,
    /// Statuses that are a success; 200 to 299 when absent.
    #[serde(default)]
    pub(in crate::sidecar::workflows) expect: Vec<u16>,
    /// Further outputs, from an answer that is JSON: a name, and where it is, like `/data/id`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(in crate::sidecar::workflows) outputs: BTreeMap<String, Spanned<String>>,
}

/// A method of HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::sidecar::workflows) enum Method {
    /// Look.
    #[default]
    Get,
    /// Look at the headers.
    Head,
    /// Do.
    Post,
    /// Put there.
    Put,
    /// Change.
    Patch,
    /// Remove.
    Delete,
}

/// A snapshot that is kept until somebody removes it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct SnapshotStep {
    /// What it is called.
    #[schemars(with = "String")]
    pub(in crate::sidecar::workflows) name: Spanned<String>,
    /// Why it is made.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::sidecar::workflows) note: Option<Spanned<String>>,
}

/// The app of the project. There is one for each folder.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Preview {
    /// A program and its arguments; found from the project when absent.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Scalar>>", length(min = 1))]
    pub(in crate::sidecar::workflows) command: Option<Vec<Spanned<Scalar>>>,
    /// The port that the app listens on, which it gets as `PORT`; 3000 when absent, and then another one will do.
    #[serde(default)]
    #[schemars(with = "Option<u16>", range(min = 1))]
    pub(in crate::sidecar::workflows) port: Option<Spanned<u16>>,
    /// The port of the machine it is reached at; a free one when absent.
    #[serde(default)]
    #[schemars(with = "Option<u16>", range(min = 1))]
    pub(in crate::sidecar::workflows) host_port: Option<Spanned<u16>>,
    /// Whether it is started again when it ends by itself.
    #[serde(default)]
    pub(in crate::sidecar::workflows) restart: Restart,
    /// If one runs there already, end it and start this one in its place. Without it, the same one is taken as it is, and
    /// another one is refused.
    #[serde(default)]
    pub(in crate::sidecar::workflows) replace: bool,
}

/// Whether an app that ends by itself is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::sidecar::workflows) enum Restart {
    /// It is not.
    #[default]
    Never,
    /// When it ended with another status than 0, or its mount went away.
    OnFailure,
    /// However it ended.
    Always,
}

/// Waiting. Has exactly one of `for` and `http`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar::workflows) struct Wait {
    /// So long.
    #[serde(default, rename = "for")]
    pub(in crate::sidecar::workflows) time: Option<Span>,
    /// Until this URL answers.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::sidecar::workflows) http: Option<Spanned<String>>,
    /// How often it is asked. 1 s when absent.
    #[serde(default)]
    pub(in crate::sidecar::workflows) every: Option<Span>,
    /// Statuses that end the waiting; 200 to 299 when absent.
    #[serde(default)]
    pub(in crate::sidecar::workflows) expect: Vec<u16>,
}

/// A text, number or boolean, as a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar::workflows) struct Scalar(pub(in crate::sidecar::workflows) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, a number, true or false")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl JsonSchema for Scalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}
