//! The control plane: the HTTP API that every mount serves over its Unix socket, and the sidecar that supervises mounts
//! through it.
//!
//! This crate owns both APIs, their errors, servers and clients. It knows nothing of the engine and of FUSE: the binary
//! implements [`VolumeApi`] with the volume it has open, and [`MountHost`] and [`SandboxHost`] with the machine's
//! processes.

mod error;
mod sandbox;
mod sidecar;
mod socket;
mod volume;
mod wire;

pub use error::{Advice, ApiError, ErrorBody};
pub use sandbox::{
    Asked, Attachment, Chunk, ENDED_NAME, Ended, FRAME_MAX, FoundSandbox, Ground,
    HIDDEN_DIRECTORIES, HIDDEN_FILES, INPUT_NAME, Identity, Limits, NOTE_NAME, Network, Note,
    ORDER_NAME, OUTPUT_BYTES_MAX, OUTPUT_BYTES_MIN, OUTPUT_NAME, OutputStream, PATH_VARIABLE,
    ProjectFolder, SANDBOX_HOME, SANDBOX_INIT, SANDBOX_OWNER, SANDBOX_ROOT, SANDBOX_USER,
    SHIM_SOCKET, Sandbox, SandboxHost, SandboxNetwork, SandboxOrder, SandboxUse, Secrets, Seen,
    Told, cgroup_path, is_sandbox_id, oci_config, open_folder, read_chunk, write_head,
};
pub use sidecar::{
    AllowedHost, AttemptReport, AuthSettings, BRANCHES_FOLDER, BlockingControlClient, Branch,
    BranchList, BranchMade, BranchRequest, BranchState, BranchSynced, Budget, CONTROL_FOLDER,
    CONTROL_SOCKET, CancelRequest, CheckedOrder, Clock, CommandLine, Credentials, DiffStat,
    EXECS_MAX, Ending, Event, EventsWanted, ExecExit, ExecLine, ExecRequest, Fault, Fixed,
    FoundMount, Health, HealthParts, HealthStatus, InstallIntegration, InstallRequest, Integration,
    IntegrationDetails, IntegrationList, IntegrationSource, LimitsRequest, Listening, LogLines,
    MOUNTS_MAX, Machine, Mount, MountBudget, MountDetails, MountDiff, MountHost, MountList,
    MountOrder, MountRequest, MountRestoreRequest, MountRestored, MountSnapshotRequest, MountState,
    MountSyncRequest, MountSynced, NewToken, PartHealth, Preview, PreviewEnd, PreviewList,
    PreviewLog, PreviewLogLine, PreviewPorts, PreviewRequest, PreviewSettings, PreviewState,
    PreviewStopRequest, PreviewUse, Rates, RestartPolicy, RevertReport, RevertRequest, RunDetails,
    RunDiff, RunList, RunState, RunSummary, SECRET_MAX, SandboxSettings, SecretFolder, Settings,
    StartError, StepReport, StepRequest, StepState, TOKENS_NAME, TokenFile, TokenInfo,
    TriggerRequest, UnmountRequest, WallClock, integration_schema_text, openapi_text, output_bytes,
    serve_control, without_places, workflow_schema_text,
};
pub use socket::{SOCKET_NAME, bind_volume_socket};
pub use volume::{
    API_VERSION, Behind, BlockingVolumeClient, BudgetReport, BudgetRequest, CACHE_BYTES_MIN,
    CacheStatus, CloneReport, CloneRequest, DIFFERENCES_MAX, DiffReport, DiffRequest,
    DifferenceInfo, DifferenceKind, DropReport, DropRequest, FRAME_CACHE_BYTES_MIN, GC_DEADLINE,
    GcAmount, GcReport, GcRequest, LastError, LsnStatus, RemoveReport, RemoveRequest,
    SNAPSHOT_DEADLINE, SYNC_DEADLINE_DEFAULT, SYNC_DEADLINE_MAX, SnapshotInfo, SnapshotList,
    SnapshotRequest, SnapshotRestoreReport, SnapshotRestoreRequest, StoreStatus, SyncReport,
    SyncRequest, TRASH_ENTRIES_MAX, TrashEmptyReport, TrashEmptyRequest, TrashEntryInfo, TrashList,
    TrashListRequest, TrashRestoreReport, TrashRestoreRequest, TrashStatus, VerbStatus, VolumeApi,
    VolumeBranch, VolumeBranchDrop, VolumeBranchRequest, VolumeBranches, VolumeClient,
    VolumeIdentity, VolumeStatus, path_text, serve_volume,
};
