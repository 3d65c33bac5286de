//! The answers of the volume API. Field names are the JSON names and therefore part of the API: fields are added,
//! never renamed or given another meaning, within one version.
//!
//! Every field has a default, and unknown ones are ignored, so that a newer client understands an older volume and an
//! older client a newer volume. Nothing here computes: these are plain values.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a volume says about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct VolumeStatus {
    /// Version of the API that produced this answer.
    pub api_version: u32,
    /// Version of the program that serves the mount.
    pub version: String,
    /// Which volume this is and where it is mounted.
    pub volume: VolumeIdentity,
    /// Process id of the mount.
    pub pid: u32,
    /// Milliseconds since the mount process started.
    pub uptime_ms: u64,
    /// When the mount process started, RFC 3339 in UTC.
    pub started_at: String,
    /// How far each stage has come.
    pub lsn: LsnStatus,
    /// What the store does not hold yet.
    pub behind: Behind,
    /// Bytes in local segments that no uploaded pack holds yet, dead ones included.
    pub staged_bytes: u64,
    /// Where writers are made to wait.
    pub staging_limit_bytes: u64,
    /// Bytes of the local journal.
    pub journal_bytes: u64,
    /// Bytes of metadata in memory that no checkpoint holds yet.
    pub dirty_metadata_bytes: u64,
    /// The local caches of file content.
    pub cache: CacheStatus,
    /// Requests to the object store since the mount started.
    pub store: StoreStatus,
    /// Resident memory of the mount process, in bytes.
    pub memory_resident_bytes: u64,
    /// Why the volume takes no writes; `None` when it does.
    pub read_only: Option<String>,
    /// The newest error that was not the caller's fault.
    pub last_error: Option<LastError>,
    /// Number of inodes in use.
    pub inodes: u64,
    /// Bytes of file content in use, as `statfs` reports them. What is in the trash is not among them.
    pub used_bytes: u64,
    /// What is in the trash.
    pub trash: TrashStatus,
    /// Milliseconds for which processors were kept awake for requests; `None` where they are not.
    pub kept_awake_ms: Option<u64>,
    /// How often the volume was mounted for writing, this time included; 0 when it is only read.
    pub epoch: u64,
    /// Milliseconds for which the right to write holds yet without the store; `None` when it is only read, or for ever.
    pub lease_left_ms: Option<u64>,
}

/// How much is in the trash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TrashStatus {
    /// Files and directories that are only there.
    pub inodes: u64,
    /// Bytes of content in these.
    pub bytes: u64,
    /// For how long what is removed stays there, milliseconds; 0 when it does not.
    pub keep_ms: u64,
}

/// Which volume this is and where it is mounted. Paths that are not UTF-8 are shown lossily.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct VolumeIdentity {
    /// Id of the volume, made when it was created.
    pub id: String,
    /// The SOURCE it was mounted from, without secrets.
    pub source: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Folder of its local state.
    pub state_dir: String,
    /// Version of the on-disk and in-store format.
    pub format_version: u32,
    /// When the volume was created, milliseconds since 1970.
    pub created_ms: u64,
}

/// Log sequence numbers, from the newest stage to the slowest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LsnStatus {
    /// Newest operation that was answered with success.
    pub acknowledged: u64,
    /// Newest operation that survives a power loss.
    pub durable: u64,
    /// Newest operation in SQLite.
    pub checkpointed: u64,
    /// Newest operation that can be restored from the store alone.
    pub in_store: u64,
}

/// What the store does not hold yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Behind {
    /// Acknowledged operations that are not in the store.
    pub records: u64,
    /// Bytes of file content that are not in the store.
    pub bytes: u64,
    /// Age of the oldest of them in milliseconds; 0 when nothing is behind.
    pub since_ms: u64,
}

/// The local caches of file content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CacheStatus {
    /// Bytes of decoded frames in memory.
    pub frame_bytes: u64,
    /// Most bytes of decoded frames that memory may hold; 0 from a version that does not say.
    pub frame_budget_bytes: u64,
    /// Reads answered by a decoded frame.
    pub frame_hits: u64,
    /// Reads that had to decode a frame.
    pub frame_misses: u64,
    /// Bytes of packs on the local disk.
    pub pack_bytes: u64,
    /// Most bytes of packs the local disk may hold.
    pub pack_budget_bytes: u64,
    /// Frames decoded from a local pack.
    pub pack_hits: u64,
    /// Packs that had to be fetched from the store.
    pub pack_misses: u64,
}

/// Requests to the object store, by verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StoreStatus {
    /// Objects written.
    pub put: VerbStatus,
    /// Objects read, in whole or in part.
    pub get: VerbStatus,
    /// Objects asked for their size and version.
    pub head: VerbStatus,
    /// Pages of keys listed.
    pub list: VerbStatus,
    /// Deletions.
    pub delete: VerbStatus,
}

/// Requests of one verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct VerbStatus {
    /// Requests sent, failed ones included.
    pub requests: u64,
    /// Bytes of bodies, in the direction of the verb.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// The newest error that was not the caller's fault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LastError {
    /// When it happened, milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    pub message: String,
}

/// What a finished sync guarantees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SyncReport {
    /// Everything up to this operation can be restored from the store alone.
    pub in_store_lsn: u64,
    /// How long it took, in milliseconds.
    pub waited_ms: u64,
}

/// What emptying the local caches did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DropReport {
    /// Bytes given back, in memory and on disk.
    pub freed_bytes: u64,
    /// Bytes kept because the store does not hold them yet.
    pub kept_bytes: u64,
}

/// What collecting garbage did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcReport {
    /// Packs that something uses.
    pub used: GcAmount,
    /// Packs found dead.
    pub marked: GcAmount,
    /// Dead packs that stay until their time is over, those just marked included.
    pub waiting: GcAmount,
    /// Dead packs deleted.
    pub deleted: GcAmount,
    /// Packs of which little was used; what was is in other packs now.
    pub rewritten: GcAmount,
    /// Objects deleted that nothing names.
    pub unnamed: GcAmount,
}

/// Objects and their bytes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcAmount {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The budgets that hold after a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BudgetReport {
    /// Most bytes of packs on the local disk.
    pub cache_bytes: u64,
    /// Most bytes of decoded file content in memory.
    pub frame_cache_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are what clients rely on: a change here is a new version of the API.
    #[test]
    fn the_names_of_version_1_stay() {
        let status = serde_json::to_value(VolumeStatus::default()).unwrap();
        let names = |value: &serde_json::Value| -> Vec<String> {
            let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        let all = "api_version behind cache dirty_metadata_bytes epoch inodes journal_bytes kept_awake_ms last_error \
                   lease_left_ms lsn \
                   memory_resident_bytes pid read_only staged_bytes staging_limit_bytes started_at store trash uptime_ms \
                   used_bytes version volume";
        assert_eq!(names(&status).join(" "), all);
        assert_eq!(
            names(&status["volume"]).join(" "),
            "created_ms format_version id mountpoint source state_dir"
        );
        assert_eq!(
            names(&status["lsn"]).join(" "),
            "acknowledged checkpointed durable in_store"
        );
        assert_eq!(names(&status["behind"]).join(" "), "bytes records since_ms");
        assert_eq!(
            names(&status["store"]).join(" "),
            "delete get head list put"
        );
        assert_eq!(
            names(&status["store"]["put"]).join(" "),
            "bytes errors requests"
        );
        assert_eq!(
            names(&status["cache"]).join(" "),
            "frame_budget_bytes frame_bytes frame_hits frame_misses pack_budget_bytes pack_bytes pack_hits pack_misses"
        );
    }
}
