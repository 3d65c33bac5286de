//! The API of one volume: its types, the server that a mount runs, and the client. No sidecar in here.

mod api;
mod branches;
mod client;
mod server;
mod snapshots;
mod status;
mod trash;

pub use api::{
    API_VERSION, BudgetRequest, CACHE_BYTES_MIN, DropRequest, FRAME_CACHE_BYTES_MIN, GC_DEADLINE,
    GcRequest, SYNC_DEADLINE_DEFAULT, SYNC_DEADLINE_MAX, SyncRequest, VolumeApi,
};
pub use branches::{VolumeBranch, VolumeBranchDrop, VolumeBranchRequest, VolumeBranches};
pub use client::{BlockingVolumeClient, VolumeClient};
pub use server::serve_volume;
pub use snapshots::{
    CloneReport, CloneRequest, DIFFERENCES_MAX, DiffReport, DiffRequest, DifferenceInfo,
    DifferenceKind, RemoveReport, RemoveRequest, SNAPSHOT_DEADLINE, SnapshotInfo, SnapshotList,
    SnapshotRequest, SnapshotRestoreReport, SnapshotRestoreRequest, path_text,
};
pub use status::{
    Behind, BudgetReport, CacheStatus, DropReport, GcAmount, GcReport, LastError, LsnStatus,
    StoreStatus, SyncReport, TrashStatus, VerbStatus, VolumeIdentity, VolumeStatus,
};
pub use trash::{
    TRASH_ENTRIES_MAX, TrashEmptyReport, TrashEmptyRequest, TrashEntryInfo, TrashList,
    TrashListRequest, TrashRestoreReport, TrashRestoreRequest,
};
