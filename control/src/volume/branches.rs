//! Requests and answers about branches: copies of directories of a volume, in one directory of it. Plain data, no
//! transport.
//!
//! Paths are below the volume's root, without a slash in front; empty is the root.

use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/branches`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeBranches {
    /// Their names, in no order.
    pub names: Vec<String>,
}

/// Body of `POST /v1/branches`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeBranchRequest {
    /// The directory that is copied, of the present or `.snapshots/NAME/...`.
    #[serde(default)]
    pub project: String,
    /// What the branch is called.
    pub name: String,
}

/// Answer to `POST /v1/branches`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeBranch {
    /// Where it is.
    pub path: String,
    /// Whether it was made; else it was there.
    pub is_new: bool,
}

/// Body of `POST /v1/branches/drop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeBranchDrop {
    /// The branch of which the local copies go.
    pub name: String,
}
