//! Requests and answers about snapshots. Plain data, no transport.
//!
//! Paths are below the volume's root, without a slash in front; empty is the root. What is no UTF-8 in them is shown with
//! replacement characters.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest that a restore, a clone, a diff or the removal of a snapshot may take.
pub const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Most differences that are told at a time; the rest is counted.
pub const DIFFERENCES_MAX: usize = 100_000;

/// A snapshot of the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SnapshotInfo {
    /// Its name, unique in the volume.
    pub name: String,
    /// Why it was made.
    pub note: String,
    /// Who made it; empty: a person.
    pub owner: String,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
    /// The operation that made it.
    pub lsn: u64,
    /// Its number.
    pub epoch: u64,
    /// Whether it stays until somebody removes it.
    pub kept: bool,
}

/// Answer to `GET /v1/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SnapshotList {
    /// Oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Body of `POST /v1/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name; the time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Why it is made.
    #[serde(default)]
    pub note: String,
    /// Who makes it.
    #[serde(default)]
    pub owner: String,
}

/// Body of `POST /v1/snapshots/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Which.
    pub name: String,
}

/// Answer to `POST /v1/snapshots/remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReport {}

/// Body of `POST /v1/snapshots/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffRequest {
    /// The older snapshot.
    pub older: String,
    /// The newer one; the present when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<String>,
    /// Only what is at and below this path.
    #[serde(default)]
    pub path: String,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// It was not there.
    Created,
    /// It is not there any more.
    Deleted,
    /// It had another path.
    Renamed,
    /// It is another one, or its content or attributes changed.
    #[default]
    Changed,
}

/// One path that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DifferenceInfo {
    /// Where it is, or was if it is gone.
    pub path: String,
    /// What happened.
    pub kind: DifferenceKind,
    /// Where it was before it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whether it is, or was, a directory.
    pub directory: bool,
    /// The content differs.
    pub content: bool,
    /// The permission bits differ.
    pub mode: bool,
    /// Owner or group differ.
    pub owner: bool,
    /// Extended attributes differ.
    pub xattrs: bool,
    /// Size before, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// Size after, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<u64>,
}

/// Answer to `POST /v1/snapshots/diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffReport {
    /// By path, at most [`DIFFERENCES_MAX`].
    pub differences: Vec<DifferenceInfo>,
    /// How many more there are.
    pub left_out: u64,
}

/// Body of `POST /v1/snapshots/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRestoreRequest {
    /// Which snapshot.
    pub name: String,
    /// Only what is at and below this path.
    #[serde(default)]
    pub path: String,
}

/// Answer to `POST /v1/snapshots/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotRestoreReport {
    /// The snapshot of what was there before; none when there was nothing to restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety: Option<SnapshotInfo>,
    /// Names that were added, replaced or removed.
    pub names: u64,
}

/// Body of `POST /v1/clone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// The directory, of the present or `.snapshots/NAME/...`.
    pub from: String,
    /// What the copy is called: a path that is free, in a directory that is there.
    pub to: String,
}

/// Answer to `POST /v1/clone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloneReport {
    /// The copy's inode number.
    pub ino: u64,
}
