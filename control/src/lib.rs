//! The control plane's contract with a volume: the versioned HTTP API that every mount serves over its Unix socket.
//!
//! This crate owns the API's types, its errors, the server and the client. It knows nothing of the engine, of FUSE or
//! of SQLite: the binary implements [`VolumeApi`] with the volume it has open.

mod api;
mod client;
mod error;
mod server;
mod snapshots;
mod socket;
mod status;

pub use api::{
    API_VERSION, DropRequest, GC_DEADLINE, GcRequest, SYNC_DEADLINE_DEFAULT, SYNC_DEADLINE_MAX,
    SyncRequest, VolumeApi,
};
pub use client::{BlockingVolumeClient, VolumeClient};
pub use error::{Advice, ApiError, ErrorBody};
pub use server::serve_volume;
pub use snapshots::{
    CloneReport, CloneRequest, DIFFERENCES_MAX, DiffReport, DiffRequest, DifferenceInfo,
    DifferenceKind, RemoveReport, RemoveRequest, SNAPSHOT_DEADLINE, SnapshotInfo, SnapshotList,
    SnapshotRequest, SnapshotRestoreReport, SnapshotRestoreRequest,
};
pub use socket::{SOCKET_NAME, bind_volume_socket};
pub use status::{
    Behind, CacheStatus, DropReport, GcAmount, GcReport, LastError, LsnStatus, StoreStatus,
    SyncReport, VerbStatus, VolumeIdentity, VolumeStatus,
};
