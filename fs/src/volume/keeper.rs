//! The head as the one machine that writes the volume keeps it: the lease in it, and every replacement of it by
//! compare-and-swap. A head that somebody else has put ends the writing for good: that is the fence.
//!
//! The lease is a promise to others, and counted from before the request that made it, on a clock that goes on while the
//! machine sleeps. What keeps two machines apart is the condition on the head; the lease keeps a cut-off machine from
//! acknowledging what would be lost later.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weldrfs_blockstore::{ObjectStore, PutCondition, RetryStore, StoreError};
use weldrfs_meta::Permit;

use super::head::{HEAD_KEY, Head, Lease, Seen, read_head};
use super::lineage::Lineage;
use super::open_error::OpenError;
use super::sealed;
use super::worker::Waker;
use crate::clock::Clock;
use crate::error::FsError;

/// How long a lease holds after the request that renewed it was sent.
pub(crate) const LEASE: Duration = Duration::from_secs(15 * 60);
/// How old the newest renewal may get while something is written, and while nothing is.
const RENEWAL_WRITING: Duration = Duration::from_secs(60);
const RENEWAL_IDLE: Duration = Duration::from_secs(5 * 60);
/// How often the lease is looked after.
pub(super) const LEASE_INTERVAL: Duration = Duration::from_secs(5);
/// How long one renewal may take.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a mutation waits for a lease that has ended to be renewed.
const LEASE_WAIT: Duration = Duration::from_secs(10);
/// How often a head is put in the place of another one before that is given up.
const PUT_TRIES: u32 = 4;

const FENCED: &str = "another machine has taken the volume over; what was written here and is not in the store is kept \
                      in the local state";
const ENDED: &str = "the lease on the volume has ended and the store could not be reached to renew it; writing goes on \
                     once it can";

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseTerm {
    /// For a quarter of an hour after each renewal.
    Auto,
    /// Until it is given back or taken away.
    Manual,
}

/// Who holds a lease, for people who meet it.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) term: LeaseTerm,
}

impl Holder {
    /// This process.
    pub(super) fn here(term: LeaseTerm) -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            host,
            pid: std::process::id(),
            term,
        }
    }

    pub(super) fn lease(&self, now_ms: u64, released: bool) -> Lease {
        Lease {
            host: self.host.clone(),
            pid: self.pid,
            renewed_ms: now_ms,
            term_ms: match self.term {
                LeaseTerm::Auto => Some(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX)),
                LeaseTerm::Manual => None,
            },
            released,
        }
    }
}

/// Where requests about the head go, and where it is noted which heads are ours.
pub(super) struct Desk {
    pub(super) store: Arc<RetryStore>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) state_dir: PathBuf,
    /// The store ignores conditions: none is put on the head.
    pub(super) unconditional: bool,
}

impl Desk {
    /// Waits for the store until the deadline.
    pub(super) fn within<T>(
        &self,
        deadline: Instant,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, FsError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(left, request).await });
        let late = |_| match self.store.failing() {
            Some(error) => FsError::Store(error),
            None => FsError::Late("the store did not answer before the deadline"),
        };
        answer.map_err(late)?.map_err(FsError::Store)
    }

    /// The head in the store, if this state wrote it.
    ///
    /// # Errors
    /// [`FsError::Foreign`] when somebody else did, or when it is gone; one that cannot be read is nobody's to replace.
    pub(super) fn own_head(&self, deadline: Instant) -> Result<Seen, FsError> {
        let seen = self.within(deadline, async {
            read_head(&*self.store).await.map_err(|error| match error {
                OpenError::Store(error) => error,
                other => StoreError::Damaged {
                    what: other.to_string(),
                },
            })
        })?;
        let seen = seen.ok_or(FsError::Foreign)?;
        let lineage = Lineage::read(&self.state_dir).map_err(io)?;
        if !lineage.knows(&seen.head.nonce) {
            return Err(FsError::Foreign);
        }
        Lineage::confirm(&self.state_dir, &seen.head).map_err(io)?;
        Ok(seen)
    }

    /// Puts `head` in the place of the one that was seen, or where none is. Nobody knows whether one that failed will
    /// still arrive; it is noted as ours before.
    pub(super) fn put(
        &self,
        head: Head,
        over: Option<&Seen>,
        deadline: Instant,
    ) -> Result<Seen, FsError> {
        let body = sealed::write(&head).map_err(|e| io(std::io::Error::other(e)))?;
        Lineage::attempt(&self.state_dir, &head.nonce).map_err(io)?;
        let condition = match over {
            _ if self.unconditional => PutCondition::Always,
            // The planted bug: whoever was overruled does not notice.
            _ if cfg!(feature = "planted-fence-ignored") => PutCondition::Always,
            Some(seen) => PutCondition::IfMatch(seen.version.clone()),
            None => PutCondition::IfAbsent,
        };
        let put = self.store.put(HEAD_KEY, body, condition);
        let version = self.within(deadline, put)?;
        Lineage::confirm(&self.state_dir, &head).map_err(io)?;
        Ok(Seen { head, version })
    }
}

fn io(error: std::io::Error) -> FsError {
    FsError::Meta(error.into())
}

/// A name for a head that no other head has.
pub(super) fn nonce() -> String {
    format!("{:016x}", SmallRng::from_os_rng().random::<u64>())
}

/// What stands in the way of writing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Bar {
    /// Somebody else has the volume.
    Fenced,
    /// The last renewal failed.
    Unreachable,
}

/// See the module.
pub(crate) struct Keeper {
    pub(super) desk: Desk,
    holder: Holder,
    clock: Arc<dyn Clock>,
    /// The head that was last put; `None` when what is in the store has to be looked at. Held while it is replaced.
    newest: Mutex<Option<Seen>>,
    /// Until when the lease holds, nanoseconds of the clock that counts sleep.
    until_ns: AtomicI64,
    /// When the newest renewal was sent, on the same clock.
    sent_ns: AtomicI64,
    /// What was acknowledged when the lease was last looked after and renewed.
    acknowledged: AtomicU64,
    epoch: u64,
    bar: Mutex<Option<Bar>>,
    /// Rung when something became of a renewal.
    bell: Condvar,
    waker: Waker,
}

impl Keeper {
    /// For whoever has just put `seen`, with a request sent at `sent_ns`.
    pub(super) fn new(
        desk: Desk,
        holder: Holder,
        clock: Arc<dyn Clock>,
        seen: Seen,
        sent_ns: i64,
    ) -> Self {
        let keeper = Self {
            desk,
            holder,
            clock,
            epoch: seen.head.epoch,
            newest: Mutex::new(Some(seen)),
            until_ns: AtomicI64::new(0),
            sent_ns: AtomicI64::new(sent_ns),
            acknowledged: AtomicU64::new(0),
            bar: Mutex::new(None),
            bell: Condvar::new(),
            waker: Waker::default(),
        };
        keeper.extend(sent_ns);
        keeper
    }

    /// Wakes the thread that calls [`Keeper::look_after`].
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How long the lease holds yet; `None` when it does so for ever.
    pub(super) fn left(&self) -> Option<Duration> {
        let until = self.until_ns.load(Ordering::Acquire);
        let left = until.saturating_sub(self.clock.boot_ns()).max(0);
        (self.holder.term == LeaseTerm::Auto).then(|| Duration::from_nanos(left.unsigned_abs()))
    }

    /// Why nothing is written any more, if so.
    pub(super) fn barred(&self) -> Option<&'static str> {
        match *self.bar.lock() {
            Some(Bar::Fenced) => Some(FENCED),
            Some(Bar::Unreachable) if !self.holds() => Some(ENDED),
            _ => None,
        }
    }

    fn extend(&self, sent_ns: i64) {
        let until = match self.holder.term {
            LeaseTerm::Auto => {
                sent_ns.saturating_add(i64::try_from(LEASE.as_nanos()).unwrap_or(i64::MAX))
            }
            LeaseTerm::Manual => i64::MAX,
        };
        let mut bar = self.bar.lock();
        match *bar {
            // A fence is not taken down.
            Some(Bar::Fenced) => return,
            Some(Bar::Unreachable) => tracing::info!("the store answers again"),
            None => {}
        }
        *bar = None;
        self.sent_ns.store(sent_ns, Ordering::Release);
        self.until_ns.store(until, Ordering::Release);
        self.bell.notify_all();
    }

    /// The head as it was last put or seen.
    pub(super) fn newest(&self, deadline: Instant) -> Result<Seen, FsError> {
        let newest = self.newest.try_lock_until(deadline);
        let mut newest =
            newest.ok_or(FsError::Late("another request for the head is under way"))?;
        match &*newest {
            Some(seen) => Ok(seen.clone()),
            None => {
                let seen = self.note(self.desk.own_head(deadline))?;
                *newest = Some(seen.clone());
                Ok(seen)
            }
        }
    }

    /// The number of the publication that the head has, as far as it is known without asking.
    pub(super) fn known_seq(&self) -> Option<u64> {
        let newest = self.newest.try_lock();
        Some(newest?.as_ref()?.head.seq)
    }

    /// The head as it is in the store now, if it is still this state's own.
    ///
    /// # Errors
    /// [`FsError::Foreign`] when somebody else has put one; [`FsError::Store`] and [`FsError::Late`].
    pub(super) fn confirm(&self, deadline: Instant) -> Result<Head, FsError> {
        let newest = self.newest.try_lock_until(deadline);
        let mut newest =
            newest.ok_or(FsError::Late("another request for the head is under way"))?;
        let seen = self.note(self.desk.own_head(deadline))?;
        *newest = Some(seen.clone());
        Ok(seen.head)
    }

    /// Replaces the head by what `change` makes of it, which renews the lease. `change` may be asked more than once, when a
    /// head of ours that was given up has arrived after all.
    ///
    /// # Errors
    /// What `change` says; [`FsError::Foreign`] when somebody else has put one: nothing is written from then on. [`FsError::Store`] and
    /// [`FsError::Late`], after which the new head may be there or not.
    pub(super) fn replace(
        &self,
        deadline: Instant,
        released: bool,
        change: impl Fn(&Head) -> Result<Head, FsError>,
    ) -> Result<(), FsError> {
        let newest = self.newest.try_lock_until(deadline);
        let mut newest =
            newest.ok_or(FsError::Late("another request for the head is under way"))?;
        for _ in 0..PUT_TRIES {
            let seen = match newest.take() {
                Some(seen) => seen,
                None => self.note(self.desk.own_head(deadline))?,
            };
            let changed = match change(&seen.head) {
                Ok(changed) => changed,
                Err(error) => {
                    *newest = Some(seen);
                    return Err(error);
                }
            };
            let head = Head {
                nonce: nonce(),
                lease: Some(self.holder.lease(self.clock.now_ms(), released)),
                ..changed
            };
            let sent_ns = self.clock.boot_ns();
            match self.desk.put(head, Some(&seen), deadline) {
                Ok(now) => {
                    *newest = Some(now);
                    self.extend(sent_ns);
                    return Ok(());
                }
                // An earlier put of ours may have arrived after it was given up; only somebody else's ends this.
                Err(FsError::Store(StoreError::PreconditionFailed { .. })) => {}
                Err(error) => return self.note(Err(error)),
            }
        }
        Err(FsError::Late("the head in the store did not come to rest"))
    }

    /// Remembers what an error says about the lease.
    fn note<T>(&self, result: Result<T, FsError>) -> Result<T, FsError> {
        let bar = match &result {
            Err(FsError::Foreign) => Bar::Fenced,
            Err(FsError::Store(_) | FsError::Late(_)) => Bar::Unreachable,
            _ => return result,
        };
        let mut now = self.bar.lock();
        if *now != Some(Bar::Fenced) && *now != Some(bar.clone()) {
            match bar {
                Bar::Fenced => {
                    self.until_ns.store(i64::MIN, Ordering::Release);
                    tracing::error!("{FENCED}: the mount is read-only from now on");
                }
                Bar::Unreachable => tracing::warn!(
                    left_ms = self.left().map_or(0, |left| left.as_millis()),
                    "the store cannot be reached to renew the lease"
                ),
            }
            *now = Some(bar);
        }
        self.bell.notify_all();
        result
    }

    /// Renews the lease when it is time to, or when somebody waits for it. `acknowledged` tells whether anything was
    /// written since.
    pub(super) fn look_after(&self, acknowledged: u64) {
        if self.holder.term == LeaseTerm::Manual || *self.bar.lock() == Some(Bar::Fenced) {
            return;
        }
        let sent_ns = self.sent_ns.load(Ordering::Acquire);
        let age = self.clock.boot_ns().saturating_sub(sent_ns).max(0);
        let is_written = acknowledged > self.acknowledged.load(Ordering::Relaxed);
        let limit = match is_written {
            true => RENEWAL_WRITING,
            false => RENEWAL_IDLE,
        };
        if Duration::from_nanos(age.unsigned_abs()) < limit && self.holds() {
            return;
        }
        self.acknowledged.store(acknowledged, Ordering::Relaxed);
        // What became of it is noted where writers see it.
        let _ = self.renew(Instant::now() + RENEWAL_DEADLINE);
    }

    /// Puts the same head anew. Afterwards no put of ours that was given up can arrive any more.
    pub(super) fn renew(&self, deadline: Instant) -> Result<(), FsError> {
        self.replace(deadline, false, |head| Ok(head.clone()))
    }

    /// Gives the lease back, so that another machine need not wait for its end.
    pub(super) fn release(&self, deadline: Instant) -> Result<(), FsError> {
        self.replace(deadline, true, |head| Ok(head.clone()))
    }
}

impl Permit for Keeper {
    fn holds(&self) -> bool {
        self.until_ns.load(Ordering::Acquire) > self.clock.boot_ns()
    }

    fn wait(&self) -> Result<(), String> {
        let deadline = Instant::now() + LEASE_WAIT;
        self.waker.wake();
        loop {
            if self.holds() {
                return Ok(());
            }
            let mut bar = self.bar.lock();
            match &*bar {
                Some(Bar::Fenced) => return Err(FENCED.into()),
                Some(Bar::Unreachable) => return Err(ENDED.into()),
                None => {}
            }
            if self.bell.wait_until(&mut bar, deadline).timed_out() {
                return Err(ENDED.into());
            }
        }
    }
}
