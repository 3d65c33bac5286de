//! The rows of workflows: runs, their steps, their reverts, and the definitions they follow. A change of a run, its steps
//! and the events that tell of it are one transaction: nothing is told that is not so, and nothing is so that is not told.

mod reading;
mod retention;
mod rows;
#[cfg(test)]
mod tests;
mod unreadable;
mod writing;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::NewEvent;
use crate::sidecar::workflows::{AttemptReport, Fault, RevertReport, RunState, StepState};

/// Most runs that are not over.
pub(in crate::sidecar) const LIVE_MAX: i64 = 2_000;
/// Most of them that are installs of integrations: the definition of one has all files in it.
const INSTALLS_MAX: i64 = 20;

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sidecar) struct RunRow {
    /// Grows; 0 before it is written.
    pub(in crate::sidecar) seq: i64,
    pub(in crate::sidecar) id: String,
    pub(in crate::sidecar) workflow: String,
    pub(in crate::sidecar) mount: String,
    pub(in crate::sidecar) path: String,
    /// Hash of the definition.
    pub(in crate::sidecar) definition: String,
    pub(in crate::sidecar) inputs: BTreeMap<String, Json>,
    pub(in crate::sidecar) state: RunState,
    pub(in crate::sidecar) error: Option<Fault>,
    pub(in crate::sidecar) created_ms: u64,
    pub(in crate::sidecar) started_ms: Option<u64>,
    pub(in crate::sidecar) ended_ms: Option<u64>,
    /// The snapshot before the first step.
    pub(in crate::sidecar) snapshot: Option<String>,
    /// It is over, and something of it is left to be given back.
    pub(in crate::sidecar) releasing: bool,
    /// Names the request that asked for it, if that had a key.
    pub(in crate::sidecar) origin: Option<String>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sidecar) struct StepRow {
    pub(in crate::sidecar) number: u32,
    pub(in crate::sidecar) name: String,
    pub(in crate::sidecar) kind: String,
    pub(in crate::sidecar) state: StepState,
    pub(in crate::sidecar) attempt: u32,
    pub(in crate::sidecar) started_ms: Option<u64>,
    pub(in crate::sidecar) ended_ms: Option<u64>,
    pub(in crate::sidecar) progress_ms: Option<u64>,
    pub(in crate::sidecar) doing: Option<String>,
    /// When this attempt began, and when it is ended.
    pub(in crate::sidecar) attempt_ms: Option<u64>,
    pub(in crate::sidecar) times_out_ms: Option<u64>,
    /// The next attempt is not made before this.
    pub(in crate::sidecar) next_ms: Option<u64>,
    /// How far the output of this attempt was told.
    pub(in crate::sidecar) place: OutputPlace,
    pub(in crate::sidecar) outputs: BTreeMap<String, Json>,
    pub(in crate::sidecar) error: Option<Fault>,
    pub(in crate::sidecar) attempts: Vec<AttemptReport>,
    pub(in crate::sidecar) log: Option<String>,
    pub(in crate::sidecar) snapshot: Option<String>,
    /// The snapshot after it was taken, or cannot be.
    pub(in crate::sidecar) settled: bool,
}

/// A place in the output of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(in crate::sidecar) struct OutputPlace {
    /// Offset of a frame.
    pub(in crate::sidecar) frame: u64,
    /// Bytes of that frame that were told.
    pub(in crate::sidecar) skip: u64,
    /// Bytes that were told in all.
    pub(in crate::sidecar) told: u64,
}

impl StepRow {
    pub(in crate::sidecar) fn new(number: u32, name: &str, kind: &str) -> Self {
        Self {
            number,
            name: name.to_owned(),
            kind: kind.to_owned(),
            state: StepState::Queued,
            attempt: 0,
            started_ms: None,
            ended_ms: None,
            progress_ms: None,
            doing: None,
            attempt_ms: None,
            times_out_ms: None,
            next_ms: None,
            place: OutputPlace::default(),
            outputs: BTreeMap::new(),
            error: None,
            attempts: Vec::new(),
            log: None,
            snapshot: None,
            settled: false,
        }
    }
}

/// A run with everything of it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sidecar) struct RunRows {
    pub(in crate::sidecar) run: RunRow,
    pub(in crate::sidecar) steps: Vec<StepRow>,
    pub(in crate::sidecar) reverts: Vec<RevertRow>,
}

/// A revert of a run.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(in crate::sidecar) struct RevertRow {
    #[serde(flatten)]
    pub(in crate::sidecar) report: RevertReport,
    /// Names the request that asked for it, if that had a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::sidecar) origin: Option<String>,
    /// The volume was asked to restore: it may have, whatever was heard of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::sidecar) sent: bool,
}

impl RevertRow {
    /// One that no request asked for: the run makes it itself.
    pub(in crate::sidecar) fn unasked(report: RevertReport) -> Self {
        Self {
            report,
            origin: None,
            sent: false,
        }
    }
}

/// What changes at once.
#[derive(Debug, Default)]
pub(in crate::sidecar) struct RunChange {
    pub(in crate::sidecar) run: Option<RunRow>,
    pub(in crate::sidecar) steps: Vec<StepRow>,
    pub(in crate::sidecar) revert: Option<RevertRow>,
    pub(in crate::sidecar) events: Vec<NewEvent>,
}

/// Which runs a list shows.
#[derive(Debug, Clone, Default)]
pub(in crate::sidecar) struct RunFilter {
    pub(in crate::sidecar) mount: Option<String>,
    pub(in crate::sidecar) workflow: Option<String>,
    pub(in crate::sidecar) state: Option<RunState>,
    pub(in crate::sidecar) before: Option<i64>,
    pub(in crate::sidecar) most: u32,
}
