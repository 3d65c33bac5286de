//! The JSON of the sidecar's API. Field names are part of the contract: fields are added, never renamed. Requests refuse
//! fields they do not know; answers may grow.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::volume::VolumeStatus;

/// Body of `POST /mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    /// Where the volume is kept: `s3://BUCKET[/PREFIX]` or `file:///DIR`.
    #[schema(
        example = "s3://bucket/project",
        max_length = 1024,
        pattern = "^(s3|file)://"
    )]
    pub source: String,
    /// What the mount is called; from the source when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub name: Option<String>,
    /// The directory to mount it on, made if it is missing; `/workspace/NAME` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, pattern = "^/")]
    pub path: Option<String>,
    /// Mount options, each as one would write it after `-o`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["allow_other", "read_deadline=10s"]), max_items = 64)]
    pub options: Vec<String>,
    /// Keys of the bucket; those of the sidecar's environment when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// Keys of a bucket. Never shown again by anything.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// The token of a temporary key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// How far a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MountState {
    /// Its process is being started.
    Mounting,
    /// It answers.
    Mounted,
    /// It does not run and is tried again, see `error` and `retry_in_ms`.
    Waiting,
    /// It is being taken away.
    Unmounting,
    /// Somebody unmounted it in order, beside the sidecar; it stays away until it is asked for or the machine restarts.
    Stopped,
    /// It is gone; only in answers to a request to unmount.
    Unmounted,
}

impl fmt::Display for MountState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mounting => "mounting",
            Self::Mounted => "mounted",
            Self::Waiting => "waiting",
            Self::Unmounting => "unmounting",
            Self::Stopped => "stopped",
            Self::Unmounted => "unmounted",
        })
    }
}

/// A mount, as lists and answers show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// What it is called.
    pub name: String,
    /// Where the volume is kept.
    pub source: String,
    /// Where it is mounted.
    pub path: String,
    /// How far it is.
    pub state: MountState,
    /// Whether the sidecar keeps it mounted; false for what was mounted beside it, which it only watches.
    pub managed: bool,
    /// Its options, as they were asked for.
    pub options: Vec<String>,
    /// Process id, while it runs.
    pub pid: Option<u32>,
    /// When its process started, milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// How often it was mounted again after its process died, since the sidecar knows it.
    pub restarts: u32,
    /// Why it is not mounted.
    pub error: Option<String>,
    /// Milliseconds until it is tried again.
    pub retry_in_ms: Option<u64>,
    /// Its share of the caches.
    pub budget: Option<MountBudget>,
}

/// What the caches of a mount may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountBudget {
    /// Bytes of packs on the local disk.
    pub cache_bytes: u64,
    /// Bytes of decoded file content in memory.
    pub buffer_bytes: u64,
    /// Whether the mount was told.
    pub applied: bool,
    /// Why it was not.
    pub reason: Option<String>,
}

/// Answer of `GET /mounts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MountList {
    /// By name.
    pub mounts: Vec<Mount>,
}

/// Answer of `GET /mounts/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MountDetails {
    /// The mount.
    #[serde(flatten)]
    pub mount: Mount,
    /// What the volume says of itself; absent while it does not run or answer.
    pub status: Option<VolumeStatus>,
    /// Why it does not answer.
    pub status_error: Option<String>,
}

/// Body of `POST /mounts/unmount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnmountRequest {
    /// Which mount.
    pub name: String,
    /// First wait until everything is in the store; it stays mounted if that fails.
    #[serde(default)]
    pub sync: bool,
}

/// Body of `POST /mounts/{name}/sync`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSyncRequest {
    /// How long to wait, in milliseconds; ten minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub deadline_ms: Option<u64>,
}

/// Answer of `POST /mounts/{name}/sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountSynced {
    /// Which mount.
    pub name: String,
    /// Everything up to this operation can be restored from the store alone.
    pub in_store_lsn: u64,
    /// How long it took, in milliseconds.
    pub waited_ms: u64,
}

/// Answer of `GET /mounts/{name}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLines {
    /// Which mount.
    pub name: String,
    /// The newest lines, oldest first.
    pub lines: Vec<String>,
    /// Whether there are older ones.
    pub truncated: bool,
}

/// How well a part works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It works.
    Ok,
    /// Some of it does not.
    Degraded,
    /// It does not work.
    Down,
}

/// Answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// The worst of the parts.
    pub status: HealthStatus,
    /// Version of the program.
    pub version: String,
    /// The parts by name.
    pub parts: HealthParts,
}

/// The parts of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthParts {
    /// The mounts.
    pub mounts: PartHealth,
    /// The previews.
    pub previews: PartHealth,
    /// The sidecar's database.
    pub store: PartHealth,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartHealth {
    /// How well it works.
    pub status: HealthStatus,
    /// Why it does not; absent for those who have not said who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PartHealth {
    /// It works.
    pub(crate) const OK: Self = Self {
        status: HealthStatus::Ok,
        reason: None,
    };
}

/// A session of the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Session {
    /// Over the Unix socket: it needs no cookie and no secret.
    pub(crate) is_local: bool,
    /// What requests send as `X-CSRF-Token` that change something; told once.
    pub(crate) csrf: Option<String>,
    /// When it ends, milliseconds since 1970.
    pub(crate) ends_ms: Option<u64>,
}

impl Session {
    /// What there is over the Unix socket.
    pub(crate) fn local() -> Self {
        Self {
            is_local: true,
            csrf: None,
            ends_ms: None,
        }
    }
}

/// Something that happened; `data` of a server-sent event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows; what to send as `Last-Event-ID` to go on from here.
    pub id: i64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Like `mount.mounted`.
    pub kind: String,
    /// Which mount it is about.
    pub mount: Option<String>,
    /// A sentence for people.
    pub message: String,
    /// Which run of a workflow it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Which step of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What it tells, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub data: Option<serde_json::Value>,
}
