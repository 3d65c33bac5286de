//! The JSON of branches.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /branches`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BranchRequest {
    /// On which mount.
    #[schema(max_length = 63, example = "project")]
    pub mount: String,
    /// The directory of the mount that is branched, also `.snapshots/NAME` and below; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, example = "app")]
    pub path: Option<String>,
    /// What it is called, unique on its mount.
    #[schema(
        max_length = 63,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example = "fix-login"
    )]
    pub name: String,
}

/// How far a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BranchState {
    /// It is being made.
    Creating,
    /// It can be worked on.
    Ready,
    /// It is being removed.
    Removing,
    /// It is gone; only in answers to a request to remove it.
    Removed,
    /// Its mount does not run at the moment.
    Unavailable,
}

impl std::fmt::Display for BranchState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Removing => "removing",
            Self::Removed => "removed",
            Self::Unavailable => "unavailable",
        })
    }
}

/// A branch: a copy of a directory of a mount that shares its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Branch {
    /// `MOUNT:NAME`.
    pub id: String,
    /// The mount it is on.
    pub mount: String,
    /// What it is called.
    pub name: String,
    /// The directory of the mount it was made from, empty for all of it; not known of one that was found.
    pub project: Option<String>,
    /// Where it is on the mount: what `exec` takes as `path`.
    pub path: String,
    /// Where it is on the machine.
    pub folder: String,
    /// How far it is.
    pub state: BranchState,
    /// When it was made or found, milliseconds since 1970.
    pub created_ms: u64,
    /// When it was used last: made, asked for again, synced, or a command run on it. Milliseconds since 1970.
    pub used_ms: u64,
    /// Whether its local copies were dropped for want of space, and it was not used since.
    pub dropped: bool,
    /// What runs on it in sandboxes.
    pub in_use: Vec<String>,
}

/// Answer of `POST /branches`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BranchMade {
    /// The branch.
    #[serde(flatten)]
    pub branch: Branch,
    /// Whether it was made; else it was there.
    pub is_new: bool,
}

/// Answer of `GET /branches`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BranchList {
    /// By mount and name.
    pub branches: Vec<Branch>,
}

/// Answer of `POST /branches/{id}/sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BranchSynced {
    /// Which branch.
    pub id: String,
    /// Everything of its mount up to this operation can be restored from the store alone.
    pub in_store_lsn: u64,
    /// How long it took, in milliseconds.
    pub waited_ms: u64,
}
