//! The record of a run: everything a report is made of. Owns the JSON's form; must not judge.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::facts::{Commit, Machine};

/// Form of the record.
pub(crate) const RECORD_VERSION: u32 = 1;
/// The record's name in a run's folder.
pub(crate) const RECORD_FILE: &str = "run.json";

/// How the trouble of a step begins that was not even begun.
pub(crate) const NOT_TRIED: &str = "not tried";

/// What was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunKind {
    Coding,
    Ops,
    Cold,
    Snapshots,
    Previews,
    Workflows,
}

impl RunKind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Coding,
        Self::Ops,
        Self::Cold,
        Self::Snapshots,
        Self::Previews,
        Self::Workflows,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Coding => "coding",
            Self::Ops => "ops",
            Self::Cold => "cold",
            Self::Snapshots => "snapshots",
            Self::Previews => "previews",
            Self::Workflows => "workflows",
        }
    }
}

/// What a value counts, and with it what is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    PerSecond,
    Kibibytes,
    Mebibytes,
    Count,
}

impl Unit {
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::PerSecond => "/s",
            Self::Kibibytes => "KiB",
            Self::Mebibytes => "MiB",
            Self::Count => "",
        }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) version: u32,
    pub(crate) kind: RunKind,
    /// RFC 3339, UTC.
    pub(crate) started: String,
    pub(crate) seconds: f64,
    pub(crate) machine: Machine,
    pub(crate) commit: Commit,
    /// What the run was told, by name.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) targets: Vec<TargetRecord>,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) samples: Vec<Sample>,
}

/// One of the file systems that were compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetRecord {
    pub(crate) name: String,
    pub(crate) version: String,
    /// How it was set up.
    pub(crate) options: String,
    /// `/dev/cpu_dma_latency` was held at 0 by the harness during its turns.
    pub(crate) latency_held: bool,
    /// Why it was not measured.
    pub(crate) skipped: Option<String>,
}

/// One thing that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) about: String,
}

/// One measurement, or why there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) target: String,
    pub(crate) step: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) trouble: Option<String>,
}

impl Run {
    /// Reads a record.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).at(path)?;
        let run: Self = serde_json::from_str(&text).map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })?;
        match run.version {
            RECORD_VERSION => Ok(run),
            other => Err(Error::Wrong(format!(
                "{}: a record of form {other}; this program reads form {RECORD_VERSION}",
                path.display()
            ))),
        }
    }

    /// Writes the record into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(RECORD_FILE);
        let mut text = serde_json::to_string_pretty(self).map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })?;
        text.push('\n');
        std::fs::write(&path, text).at(&path)
    }

    /// The values of a step on a target, in the order of the rounds.
    pub(crate) fn values(&self, target: &str, step: &str) -> Vec<f64> {
        let of = self
            .samples
            .iter()
            .filter(|s| s.target == target && s.step == step);
        of.filter_map(|sample| sample.value).collect()
    }

    /// Why a step has no value on a target.
    pub(crate) fn trouble(&self, target: &str, step: &str) -> Option<&str> {
        let mut of = self
            .samples
            .iter()
            .filter(|s| s.target == target && s.step == step);
        of.find_map(|sample| sample.trouble.as_deref())
    }

    /// The targets that were measured.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &TargetRecord> {
        self.targets.iter().filter(|t| t.skipped.is_none())
    }
}
