//! A mount as the supervisor knows it, and as everybody else sees it.

use tokio::time::Instant;

use super::life::{Life, Phase};
use super::supervisor::Reply;
use super::work::Asked;
use crate::sidecar::budget::Fixed;
use crate::sidecar::host::{FoundMount, MountOrder};
use crate::sidecar::store::WantedMount;
use crate::sidecar::types::{Mount, MountBudget, MountState};
use crate::volume::VolumeStatus;

/// A mount as everybody else sees it.
#[derive(Debug, Clone)]
pub(in crate::sidecar) struct View {
    pub(in crate::sidecar) mount: Mount,
    pub(super) retry_at: Option<Instant>,
    pub(super) found: Option<FoundMount>,
    pub(super) last: Option<FoundMount>,
    pub(in crate::sidecar) status: Option<Result<VolumeStatus, String>>,
}

impl View {
    /// Its process, if it answers requests.
    pub(in crate::sidecar) fn running(&self) -> Option<&FoundMount> {
        self.found
            .as_ref()
            .filter(|_| self.mount.state == MountState::Mounted)
    }
}

/// A mount as the supervisor knows it.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) order: MountOrder,
    pub(super) place: String,
    pub(super) is_view: bool,
    pub(super) life: Life,
    pub(super) fixed: Fixed,
    pub(super) created_ms: u64,
    /// Whether it was ever mounted: whoever asked for it first is told when it cannot be, and it is forgotten.
    pub(super) confirmed: bool,
    pub(super) budget: Option<MountBudget>,
    pub(super) status: Option<Result<VolumeStatus, String>>,
    /// Its newest process, which may have ended: its log is still there.
    pub(super) last: Option<FoundMount>,
    /// Those who wait for it to be mounted, or to be gone.
    pub(super) waiting: Vec<Reply<Mount>>,
    /// Sync before it is taken away.
    pub(super) sync: bool,
}

pub(super) fn asked(entry: &Entry) -> Option<Asked> {
    let found = entry.life.found()?;
    Some(Asked {
        name: entry.name.clone(),
        pid_mark: found.pid_mark,
        socket: found.socket.clone(),
    })
}

pub(super) fn row(entry: &Entry, leaving: bool, stopped_boot: Option<String>) -> WantedMount {
    WantedMount {
        name: entry.name.clone(),
        source: entry.order.source.clone(),
        place: entry.place.clone(),
        path: entry.order.path.to_string_lossy().into_owned(),
        options: entry.order.options.clone(),
        leaving,
        stopped_boot,
        created_ms: entry.created_ms,
    }
}

pub(super) fn shown(entry: &Entry) -> Mount {
    let found = entry.life.found();
    Mount {
        name: entry.name.clone(),
        source: entry.order.source.clone(),
        path: entry.order.path.to_string_lossy().into_owned(),
        state: entry.life.state(),
        managed: entry.life.managed,
        options: entry.order.options.clone(),
        pid: found.map(|found| found.pid),
        started_ms: found.map(|found| found.started_ms),
        restarts: entry.life.restarts,
        error: match &entry.life.phase {
            Phase::Waiting { reason, .. } => Some(reason.clone()),
            _ => None,
        },
        retry_in_ms: None,
        budget: entry.budget.clone(),
    }
}
