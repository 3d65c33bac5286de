//! What a volume says of itself.

use std::sync::atomic::Ordering;
use std::time::Instant;

use weldrfs_blockstore::StoreCounts;

use super::Volume;

/// Figures of a volume at one moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Version of the volume's format.
    pub format_version: u32,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Last operation answered with success.
    pub acknowledged_lsn: u64,
    /// Last operation on the local disk.
    pub durable_lsn: u64,
    /// Last operation in SQLite.
    pub checkpointed_lsn: u64,
    /// Last operation that the store alone can restore.
    pub in_store_lsn: u64,
    /// Operations that are not in the store.
    pub behind_records: u64,
    /// Bytes that wait for upload.
    pub behind_bytes: u64,
    /// For how long something has been behind, milliseconds.
    pub behind_since_ms: u64,
    /// Bytes in segments.
    pub staged_bytes: u64,
    /// Most of them.
    pub staging_limit_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Memory of what waits for a checkpoint.
    pub dirty_metadata_bytes: u64,
    /// Decoded frames in memory, bytes.
    pub frame_bytes: u64,
    /// Most of them.
    pub frame_budget_bytes: u64,
    /// Reads answered by a decoded frame.
    pub frame_hits: u64,
    /// Reads that had to decode one.
    pub frame_misses: u64,
    /// Packs on the local disk, bytes.
    pub pack_bytes: u64,
    /// Most of them.
    pub pack_budget_bytes: u64,
    /// Frames read from a local pack.
    pub pack_hits: u64,
    /// Packs fetched from the store.
    pub pack_misses: u64,
    /// Requests to the store.
    pub store: StoreCounts,
    /// How often the volume was mounted for writing, this time included; 0 when it is only read.
    pub epoch: u64,
    /// How long the lease holds yet, milliseconds; `None` when it does so for ever, or there is none.
    pub lease_left_ms: Option<u64>,
    /// Why nothing can be written, if so.
    pub read_only: Option<String>,
    /// The newest trouble.
    pub last_error: Option<LastError>,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes mapped by files, those in the trash left out.
    pub used_bytes: u64,
    /// Inodes that are only in the trash.
    pub trash_inodes: u64,
    /// Bytes mapped by these.
    pub trash_bytes: u64,
    /// How long what is removed stays there, milliseconds; 0: it does not go there.
    pub trash_keep_ms: u64,
    /// For how long processors were kept awake for requests; `None` where they are not.
    pub kept_awake_ms: Option<u64>,
}

/// Trouble that was nobody's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub message: String,
}

/// What a finished sync says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// Everything up to this operation can be restored from the store alone.
    pub in_store_lsn: u64,
    /// How long it took.
    pub waited_ms: u64,
}

impl Volume {
    /// Figures.
    pub fn status(&self) -> Status {
        let usage = self.engine.ns.usage();
        let packs = self.engine.packs.stats();
        let in_store = self.in_store.load(Ordering::Acquire);
        let behind = usage.acknowledged.0.saturating_sub(in_store);
        let since = {
            let mut since = self.behind_since.lock();
            match behind {
                0 => *since = None,
                _ => {
                    since.get_or_insert_with(Instant::now);
                }
            }
            since.map_or(0, |at| {
                u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
            })
        };
        let staged = self.engine.segments.staged_bytes();
        Status {
            format_version: self.marker.version,
            created_ms: self.marker.created_ms,
            acknowledged_lsn: usage.acknowledged.0,
            durable_lsn: usage.durable.0,
            checkpointed_lsn: usage.checkpointed.0,
            in_store_lsn: in_store,
            behind_records: behind,
            behind_bytes: staged + packs.not_uploaded_bytes,
            behind_since_ms: since,
            staged_bytes: staged,
            staging_limit_bytes: self.staging_limit_bytes,
            journal_bytes: usage.journal_bytes,
            dirty_metadata_bytes: usage.waiting_bytes as u64,
            frame_bytes: packs.frame_bytes,
            frame_budget_bytes: packs.frame_budget,
            frame_hits: packs.hits,
            frame_misses: packs.misses,
            pack_bytes: packs.local_bytes,
            pack_budget_bytes: packs.local_budget,
            pack_hits: packs.local_loads,
            pack_misses: packs.fetches,
            store: self.store.counts(),
            epoch: self.keeper.as_ref().map_or(0, |keeper| keeper.epoch()),
            lease_left_ms: self
                .keeper
                .as_ref()
                .and_then(|keeper| keeper.left())
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            read_only: self.engine.ns.read_only().or_else(|| {
                let barred = self.keeper.as_ref().and_then(|keeper| keeper.barred());
                barred.map(str::to_owned)
            }),
            last_error: self.last_error.lock().clone(),
            inodes: usage.inodes,
            used_bytes: usage.bytes,
            trash_inodes: usage.trash_inodes,
            trash_bytes: usage.trash_bytes,
            trash_keep_ms: u64::try_from(self.trash_kept.as_millis()).unwrap_or(u64::MAX),
            kept_awake_ms: self
                .awake
                .get()
                .and_then(|awake| awake.held())
                .map(|held| u64::try_from(held.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}
