//! Which segment is appended to, and the change to the next one. What it shares with flushing and reading is here too.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::file::Segment;
use super::files::SegmentFiles;
use crate::error::{Error, Result};
use crate::ids::SegmentId;
use crate::settings::SegmentSettings;

/// How long an append waits for the file that is being prepared before it makes one itself.
const PREPARE_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: SegmentSettings,
    pub(super) files: SegmentFiles,
    /// Taken for the reservation of a range, never while writing.
    pub(super) head: Mutex<Head>,
    pub(super) prepared: Condvar,
    pub(super) live: RwLock<BTreeMap<SegmentId, Arc<Segment>>>,
    /// Segments a flush has to look at.
    pub(super) unsynced: Mutex<BTreeMap<SegmentId, Arc<Segment>>>,
    pub(super) staged: AtomicU64,
    pub(super) poison: OnceLock<String>,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) active: Option<Arc<Segment>>,
    pub(super) standby: Option<Segment>,
    pub(super) preparing: bool,
    pub(super) next_id: u64,
}

impl Inner {
    pub(super) fn poison(&self, reason: String) {
        if self.poison.set(reason).is_ok() {
            tracing::error!(reason = self.poison.get(), "no more appends are accepted");
        }
    }

    pub(super) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(reason) => Err(Error::FlushFailed {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Seals the active segment and puts a fresh one in its place.
    pub(super) fn roll_over<'a>(
        &self,
        mut head: MutexGuard<'a, Head>,
    ) -> Result<MutexGuard<'a, Head>> {
        let rolled = head.active.as_ref().map(|active| active.id);
        let deadline = Instant::now() + PREPARE_WAIT;
        while head.preparing {
            if self.prepared.wait_until(&mut head, deadline).timed_out() {
                break;
            }
        }
        if head.active.as_ref().map(|active| active.id) != rolled {
            // Another append did it while this one waited.
            return Ok(head);
        }
        let fresh = match head.standby.take() {
            Some(segment) => segment,
            None => {
                let id = head.take_id();
                self.files.create(id)?
            }
        };
        let fresh = Arc::new(fresh);
        self.unsynced.lock().insert(fresh.id, Arc::clone(&fresh));
        self.live.write().insert(fresh.id, Arc::clone(&fresh));
        if let Some(full) = head.active.replace(fresh) {
            full.seal();
        }
        Ok(head)
    }
}

impl Head {
    pub(super) fn take_id(&mut self) -> SegmentId {
        let id = SegmentId(self.next_id);
        self.next_id = self.next_id.saturating_add(1);
        id
    }
}
