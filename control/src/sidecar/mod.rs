//! The sidecar: one process for one machine that mounts volumes, keeps them mounted and tells what happens. It talks to
//! volumes over their sockets only, and to the machine through [`MountHost`].

mod api;
mod at_rest;
mod auth;
mod branches;
mod budget;
mod client;
mod events;
mod exec;
mod host;
mod idempotency;
mod integrations;
mod kept_socket;
mod limits;
mod metrics;
mod mounts;
mod names;
mod openapi;
mod previews;
mod public;
mod sandboxing;
mod secret_folder;
mod secrets;
mod server;
mod settings;
mod snapshots;
mod start_error;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_agent;
#[cfg(test)]
mod testing_sandboxes;
mod types;
mod workflows;

pub use auth::{AuthSettings, NewToken, TokenFile, TokenInfo};
pub use branches::{
    Branch, BranchList, BranchMade, BranchRequest, BranchState, BranchSynced,
    FOLDER as BRANCHES_FOLDER,
};
pub use budget::{Budget, Fixed, Machine};
pub use client::{BlockingControlClient, EventsWanted};
pub use exec::{CommandLine, ExecExit, ExecLine, ExecRequest, LimitsRequest, output_bytes};
pub use host::{CheckedOrder, Clock, Ending, FoundMount, MountHost, MountOrder, WallClock};
pub use integrations::{
    InstallIntegration, InstallRequest, Integration, IntegrationDetails, IntegrationList,
    IntegrationSource,
};
pub use limits::Rates;
pub use openapi::text as openapi_text;
pub use previews::{
    AllowedHost, Preview, PreviewEnd, PreviewList, PreviewLog, PreviewLogLine, PreviewPorts,
    PreviewRequest, PreviewSettings, PreviewState, PreviewStopRequest, PreviewUse, RestartPolicy,
};
pub use public::without_places;
pub use sandboxing::{EXECS_MAX, SandboxSettings};
pub use secret_folder::{SECRET_MAX, SecretFolder};
pub use server::{Listening, serve_control};
pub use settings::{CONTROL_FOLDER, CONTROL_SOCKET, MOUNTS_MAX, Settings, TOKENS_NAME};
pub use snapshots::{
    DiffStat, MountDiff, MountRestoreRequest, MountRestored, MountSnapshotRequest,
};
pub use start_error::StartError;
pub use types::{
    Credentials, Event, Health, HealthParts, HealthStatus, LogLines, Mount, MountBudget,
    MountDetails, MountList, MountRequest, MountState, MountSyncRequest, MountSynced, PartHealth,
    UnmountRequest,
};
pub use workflows::{
    AttemptReport, CancelRequest, Fault, RevertReport, RevertRequest, RunDetails, RunDiff, RunList,
    RunState, RunSummary, StepReport, StepRequest, StepState, TriggerRequest,
    integration_schema_text, schema_text as workflow_schema_text,
};
