//! The JSON of snapshots below a mount.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::volume::{DifferenceInfo, SnapshotInfo};

/// Body of `POST /mounts/{name}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSnapshotRequest {
    /// What it is called, a name that a directory could have; the time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255, example = "before-agent")]
    pub name: Option<String>,
    /// Why it is made.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub note: String,
    /// Whether it is thinned out by age, instead of staying until somebody removes it.
    #[serde(default)]
    pub automatic: bool,
}

/// Body of `POST /mounts/{name}/snapshots/{id}/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountRestoreRequest {
    /// Only what is at and below this path of the mount; everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, example = "src")]
    pub path: Option<String>,
}

/// Answer of `POST /mounts/{name}/snapshots/{id}/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountRestored {
    /// Which mount.
    pub mount: String,
    /// The snapshot that was gone back to.
    pub snapshot: String,
    /// What was restored; empty: everything.
    pub path: String,
    /// The snapshot of what was there before; none when it was the same.
    pub safety: Option<SnapshotInfo>,
    /// Names that were added, replaced or removed.
    pub names: u64,
    /// Files that were replaced and that programs wrote into while it went on: what they wrote is in `safety`.
    pub late_writes: u64,
}

/// Answer of `GET /mounts/{name}/snapshots/{id}/diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountDiff {
    /// Which mount.
    pub mount: String,
    /// The older snapshot.
    pub from: String,
    /// The newer one; none: the present.
    pub to: Option<String>,
    /// Only what is at and below this path; empty: everything.
    pub path: String,
    /// All of it in figures.
    pub stat: DiffStat,
    /// Those that were asked for, by path.
    pub differences: Vec<DifferenceInfo>,
    /// The `offset` of the next ones; none after the last that can be told.
    pub next_offset: Option<u64>,
}

/// What differs, in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffStat {
    /// Paths that differ.
    pub paths: u64,
    /// Those of them that can be told and counted below, 100,000 at most; `path` leads to the others.
    pub counted: u64,
    /// Paths that were not there.
    pub created: u64,
    /// Paths that are not there any more.
    pub deleted: u64,
    /// Paths that had another name.
    pub renamed: u64,
    /// Paths of which content or attributes changed.
    pub changed: u64,
    /// Bytes of the files among them before.
    pub bytes_before: u64,
    /// Bytes of the files among them after.
    pub bytes_after: u64,
}
