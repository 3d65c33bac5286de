//! Steps that can be followed: what a definition comes to once everything in it was looked at.

use std::collections::BTreeMap;

use super::shape::{Files, Method, Permissions, Restart, Retry};
use super::span::Span;
use crate::sandbox::Network;
use crate::sidecar::exec::LimitsRequest;
use crate::sidecar::integrations::Work;
use crate::sidecar::workflows::expression::{Expression, Template};

/// How long one attempt may take of what runs in a sandbox: an app until it answers, all else.
const APP_MAX: u64 = HOUR;
const COMMAND_MAX: u64 = 24 * HOUR;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
/// A step that can be followed.
#[derive(Debug, Clone)]
pub(in crate::sidecar::workflows) struct Planned {
    pub(in crate::sidecar::workflows) name: String,
    pub(in crate::sidecar::workflows) kind: Kind,
    /// When it is done; as long as no step has failed when absent.
    pub(in crate::sidecar::workflows) condition: Option<Expression>,
    pub(in crate::sidecar::workflows) env: BTreeMap<String, Template>,
    pub(in crate::sidecar::workflows) secrets: Vec<String>,
    pub(in crate::sidecar::workflows) outputs: Vec<String>,
    pub(in crate::sidecar::workflows) network: Network,
    pub(in crate::sidecar::workflows) limits: LimitsRequest,
    /// For one attempt, and for all of them.
    pub(in crate::sidecar::workflows) timeout_ms: u64,
    pub(in crate::sidecar::workflows) total_ms: u64,
    pub(in crate::sidecar::workflows) attempts: u32,
    pub(in crate::sidecar::workflows) retry: Option<Retry>,
    pub(in crate::sidecar::workflows) idempotent: bool,
}

/// What a step does.
#[derive(Debug, Clone)]
pub(in crate::sidecar::workflows) enum Kind {
    /// A line for the shell of a sandbox, as it is written.
    Line(String),
    /// A program and its arguments.
    Words(Vec<Template>),
    Agent {
        command: Vec<Template>,
        prompt: Template,
        permissions: Permissions,
        files: Files,
    },
    Http {
        method: Method,
        url: Template,
        headers: BTreeMap<String, Template>,
        body: Option<Template>,
        expect: Vec<u16>,
        /// Names and places in an answer that is JSON.
        outputs: BTreeMap<String, String>,
    },
    Snapshot {
        name: Template,
        note: Option<Template>,
    },
    Preview {
        command: Option<Vec<Template>>,
        port: Option<u16>,
        host_port: Option<u16>,
        restart: Restart,
        replace: bool,
    },
    WaitFor(Span),
    /// Of a run that installs integrations.
    Install(Work),
    WaitUntil {
        url: Template,
        every: Span,
        expect: Vec<u16>,
    },
}

impl Kind {
    /// As definitions have it.
    pub(in crate::sidecar::workflows) fn name(&self) -> &'static str {
        match self {
            Self::Line(_) | Self::Words(_) => "run",
            Self::Agent { .. } => "agent",
            Self::Http { .. } => "http",
            Self::Snapshot { .. } => "snapshot",
            Self::Preview { .. } => "preview",
            Self::WaitFor(_) | Self::WaitUntil { .. } => "wait",
            Self::Install(_) => "install",
        }
    }

    /// The most that its sandbox takes.
    pub(super) fn timeout_max_ms(&self) -> u64 {
        match self {
            Self::Line(_) | Self::Words(_) | Self::Agent { .. } => COMMAND_MAX,
            Self::Preview { .. } => APP_MAX,
            _ => u64::MAX,
        }
    }

    pub(super) fn timeout_ms(&self) -> u64 {
        match self {
            Self::Line(_) | Self::Words(_) => 10 * MINUTE,
            Self::Agent { .. } => HOUR,
            Self::Http { .. } => 30 * SECOND,
            Self::Snapshot { .. } | Self::Preview { .. } | Self::Install(_) => 5 * MINUTE,
            Self::WaitFor(span) => span.ms().saturating_add(MINUTE),
            Self::WaitUntil { .. } => HOUR,
        }
    }
}
