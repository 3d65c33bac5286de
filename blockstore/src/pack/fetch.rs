//! Getting whole packs from the store: one request for everybody who waits, checked, kept locally if there is room.
//!
//! Runs on the store's runtime; the threads that wait are others. Nobody waits beyond its own deadline.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::frame::check_frames;
use super::index::PackIndex;
use super::local::{Copy, LocalPacks};
use crate::error::{Advice, Error, Result};
use crate::ids::PackId;
use crate::store::{ObjectStore, StoreError};

/// Packs kept in memory when there is no room on the disk, so that reading through one does not fetch it frame by frame.
const MEMORY_PACKS: NonZeroUsize = NonZeroUsize::new(2).expect("it is not 0");
/// Pause of a reader before it asks again a store that failed all attempts.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Most fetches under way or waiting for their turn before read-ahead is refused. Reads are bounded by their threads.
const MAX_AHEAD: usize = 32;

/// A pack as it came from the store.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) index: Arc<PackIndex>,
    pub(super) bytes: Bytes,
}

/// What a reader gets when it asks for a pack.
pub(super) enum Arrival {
    /// It just came.
    Fetched(Arc<Fetched>),
    /// It came in the meantime, and is where local copies are.
    Local,
}

/// Why a fetch failed; cheap to clone for everybody who waits.
#[derive(Debug, Clone)]
enum Failure {
    Store(StoreError),
    Damaged(String),
    /// An unreadable format: the text of the error.
    Other(String),
}

type Outcome = Result<Arc<Fetched>, Failure>;

#[derive(Debug, Default)]
struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

/// Gets packs from the store.
#[derive(Debug)]
pub(super) struct Fetcher {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    local: Arc<LocalPacks>,
    turns: Semaphore,
    flights: Mutex<FxHashMap<PackId, Arc<Flight>>>,
    memory: Mutex<LruCache<PackId, Arc<Fetched>>>,
    pub(super) fetches: AtomicU64,
    pub(super) fetched_bytes: AtomicU64,
    pub(super) damaged: AtomicU64,
}

impl Fetcher {
    /// `store` retries by itself.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        runtime: Handle,
        local: Arc<LocalPacks>,
        turns: usize,
    ) -> Self {
        Self {
            store,
            runtime,
            local,
            turns: Semaphore::new(turns),
            flights: Mutex::default(),
            memory: Mutex::new(LruCache::new(MEMORY_PACKS)),
            fetches: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// A pack that is kept in memory.
    pub(super) fn in_memory(&self, id: PackId) -> Option<Arc<Fetched>> {
        self.memory.lock().get(&id).cloned()
    }

    pub(super) fn drop_memory(&self, id: Option<PackId>) {
        let mut memory = self.memory.lock();
        match id {
            Some(id) => drop(memory.pop(&id)),
            None => memory.clear(),
        }
    }

    /// Gets a pack, waiting until `deadline` also for a store that comes back.
    pub(super) fn fetch(self: &Arc<Self>, id: PackId, deadline: Instant) -> Result<Arrival> {
        let began = Instant::now();
        loop {
            let Some(flight) = self.join(id) else {
                return Ok(Arrival::Local);
            };
            let failure = match flight.wait(deadline) {
                Some(Ok(fetched)) => return Ok(Arrival::Fetched(fetched)),
                Some(Err(failure)) => Some(failure),
                None => None,
            };
            let reason = match failure {
                Some(failure) if !failure.may_pass() => return Err(failure.into_error(id)),
                Some(Failure::Store(error)) => error.to_string(),
                _ => "it does not answer".to_owned(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Unavailable {
                    pack: id,
                    waited: began.elapsed(),
                    reason,
                });
            }
            std::thread::sleep(left.min(ASK_AGAIN));
        }
    }

    /// Begins to get a pack that is likely to be read soon. Returns whether it is on its way or there.
    pub(super) fn ahead(self: &Arc<Self>, id: PackId) -> bool {
        if self.flights.lock().len() >= MAX_AHEAD {
            return false;
        }
        self.join(id);
        true
    }

    /// The flight under way, or a new one; `None` when the pack is there already.
    fn join(self: &Arc<Self>, id: PackId) -> Option<Arc<Flight>> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&id) {
            return Some(Arc::clone(flight));
        }
        // A flight is taken from the table only after what it brought can be found.
        if self.local.contains(id) || self.memory.lock().contains(&id) {
            return None;
        }
        let flight = Arc::new(Flight::default());
        flights.insert(id, Arc::clone(&flight));
        drop(flights);
        let landing = Landing {
            fetcher: Arc::clone(self),
            id,
            flight: Arc::clone(&flight),
        };
        self.runtime.spawn(async move {
            let outcome = landing.fetcher.fly(id).await;
            landing.land(outcome);
        });
        Some(flight)
    }

    async fn fly(self: &Arc<Self>, id: PackId) -> Outcome {
        let _turn = self.turns.acquire().await.map_err(|_| Failure::shut())?;
        let fetched = Arc::new(self.get_checked(id).await?);
        let (fetcher, pack) = (Arc::clone(self), Arc::clone(&fetched));
        tokio::task::spawn_blocking(move || fetcher.keep(id, &pack))
            .await
            .map_err(|_| Failure::shut())?;
        Ok(fetched)
    }

    /// Gets and checks a pack; once more when it came damaged. A pack of which only frames are damaged is taken the
    /// second time: the others can be read.
    async fn get_checked(&self, id: PackId) -> Result<Fetched, Failure> {
        let mut again = false;
        loop {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let object = self.store.get(&id.object_key(), None).await;
            let bytes = object.map_err(Failure::Store)?.bytes;
            self.fetched_bytes
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let damage = match PackIndex::parse(&bytes) {
                Ok(index) if index.id() != id => Failure::Damaged("it is another pack".into()),
                Ok(index) => match check_frames(&index, &bytes, false) {
                    Err((frame, fault)) if !again => {
                        Failure::Damaged(format!("frame {frame}: {fault}"))
                    }
                    _ => {
                        let index = Arc::new(index.without_extents());
                        return Ok(Fetched { index, bytes });
                    }
                },
                Err(Error::Damaged { detail, .. }) => Failure::Damaged(detail),
                Err(error) => return Err(Failure::Other(error.to_string())),
            };
            self.damaged.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(pack = %id, ?damage, again, "a pack came damaged from the store");
            if again {
                return Err(damage);
            }
            again = true;
        }
    }

    /// Keeps a pack on the disk, or in memory when there is no room.
    fn keep(&self, id: PackId, pack: &Arc<Fetched>) {
        match self.local.put(id, &pack.bytes, Copy::Clean) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(pack = %id, %error, "no local copy kept"),
        }
        self.memory.lock().put(id, Arc::clone(pack));
    }
}

/// Tells the outcome to those who wait; also when the task is dropped with its runtime, or panics.
struct Landing {
    fetcher: Arc<Fetcher>,
    id: PackId,
    flight: Arc<Flight>,
}

impl Landing {
    fn land(&self, outcome: Outcome) {
        let mut landed = self.flight.outcome.lock();
        if landed.is_none() {
            *landed = Some(outcome);
            drop(landed);
            self.fetcher.flights.lock().remove(&self.id);
            self.flight.landed.notify_all();
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.land(Err(Failure::shut()));
    }
}

impl Flight {
    /// The outcome, or `None` when the deadline came first.
    fn wait(&self, deadline: Instant) -> Option<Outcome> {
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            if self.landed.wait_until(&mut outcome, deadline).timed_out() {
                break;
            }
        }
        outcome.clone()
    }
}

impl Failure {
    fn shut() -> Self {
        Self::Store(StoreError::Unavailable {
            what: "the request was abandoned".into(),
        })
    }

    fn may_pass(&self) -> bool {
        matches!(self, Self::Store(error) if error.advice() == Advice::Retry)
    }

    fn into_error(self, pack: PackId) -> Error {
        match self {
            Self::Store(StoreError::NotFound { .. }) => Error::PackNotFound(pack),
            Self::Store(source) => Error::Store { pack, source },
            Self::Damaged(detail) | Self::Other(detail) => Error::DamagedPack {
                pack,
                frame: None,
                detail,
            },
        }
    }
}
