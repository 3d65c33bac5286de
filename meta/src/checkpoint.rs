//! The checkpointer: one thread that brings the overlay into SQLite and then frees the journal. Also the only place
//! that writes to SQLite: moves of extents and cuts are asked of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::cut::{self, Cut, Look};
use crate::error::{MetaError, Result};
use crate::ids::{Epoch, ExtentId, Ino, Lsn};
use crate::namespace::Namespace;
use crate::overlay::Generation;
use crate::snapshot::Bulk;
use crate::sqlite::open::named;
use crate::sqlite::{Dead, PackRow, backdate, capture, packs, write};

/// Requests that may wait for the checkpointer.
const QUEUE: usize = 64;
/// How long a caller waits for its request: a checkpoint of the largest dirty set on a slow disk is far quicker.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long it waits for a change of many rows that has begun, and that nobody can take back: four million rows on a slow
/// disk.
const BEGUN_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// Pause after a failed checkpoint before the next attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A request and where its answer goes.
enum Request {
    Nudge,
    Upto {
        lsn: Lsn,
        done: Sender<Result<()>>,
    },
    Move {
        moved: Moved,
        done: Sender<Result<()>>,
    },
    Cut(Look),
    Packs(Work),
    Bulk {
        rows: Bulk,
        claimed: Arc<AtomicBool>,
        done: Sender<Result<()>>,
    },
    RemoveSnapshot {
        epoch: Epoch,
        claimed: Arc<AtomicBool>,
        done: Sender<Result<()>>,
    },
    Backdate {
        epoch: Epoch,
        inos: Vec<Ino>,
        claimed: Arc<AtomicBool>,
        done: Sender<Result<usize>>,
    },
    Stop,
}

/// What is done with the writing connection, on the checkpointer's thread.
type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// Extents that lie in a pack now, and extents nobody uses any more.
#[derive(Debug)]
struct Moved {
    pack: Option<PackRow>,
    extents: Vec<(ExtentId, u64, u64)>,
    dead: Vec<ExtentId>,
    /// Whoever gets here first decides: the checkpointer begins, or the caller gives up.
    claimed: Arc<AtomicBool>,
}

/// The handle to the thread.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    requests: Sender<Request>,
    inbox: Mutex<Option<Receiver<Request>>>,
    done: AtomicU64,
    /// Milliseconds: [`DEADLINE`].
    deadline_ms: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    pub(crate) fn new(done: Lsn) -> Self {
        let (requests, inbox) = bounded(QUEUE);
        Self {
            requests,
            inbox: Mutex::new(Some(inbox)),
            done: AtomicU64::new(done.0),
            deadline_ms: AtomicU64::new(DEADLINE.as_millis() as u64),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread. It ends when the namespace is dropped or closed.
    pub(crate) fn start(
        &self,
        namespace: Weak<Namespace>,
        connection: Connection,
        interval: Duration,
    ) -> Result<()> {
        let inbox = self.inbox.lock().take().ok_or(MetaError::Closed)?;
        let thread = std::thread::Builder::new()
            .name("weldr-checkpoint".into())
            .spawn(move || run(&namespace, connection, &inbox, interval))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Last LSN in SQLite.
    pub(crate) fn done(&self) -> Lsn {
        Lsn(self.done.load(Ordering::Acquire))
    }

    /// Asks for a checkpoint soon. Never waits: a full queue means one is coming anyway.
    pub(crate) fn nudge(&self) {
        let _ = self.requests.try_send(Request::Nudge);
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms.load(Ordering::Relaxed))
    }

    /// For tests of what takes longer.
    #[cfg(test)]
    pub(crate) fn set_deadline(&self, deadline: Duration) {
        let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.deadline_ms.store(ms, Ordering::Relaxed);
    }

    /// Puts a request into the queue.
    fn send<T>(
        &self,
        make: impl FnOnce(Sender<Result<T>>) -> Request,
    ) -> Result<Receiver<Result<T>>> {
        let (done, answer) = bounded(1);
        let sent = self.requests.send_timeout(make(done), self.deadline());
        sent.map_err(|_| MetaError::Closed)?;
        Ok(answer)
    }

    fn ask<T>(&self, make: impl FnOnce(Sender<Result<T>>) -> Request) -> Result<T> {
        match self.send(make)?.recv_timeout(self.deadline()) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(MetaError::Overloaded(self.deadline().as_secs())),
            Err(RecvTimeoutError::Disconnected) => Err(MetaError::Closed),
        }
    }

    /// Shows a cut to `look` on the checkpointer's thread.
    pub(crate) fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cut<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        self.ask(|done| {
            Request::Cut(Box::new(move |cut: Result<Cut<'_>>| {
                let _ = done.send(cut.map(|cut| look(&cut)));
            }))
        })
    }

    /// Runs `work` on the checkpointer's thread.
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(|done| {
            Request::Packs(Box::new(move |connection| {
                let _ = done.send(named(work(connection)));
            }))
        })
    }

    /// Removes a snapshot that is in SQLite.
    ///
    /// # Errors
    /// When SQLite fails; nothing has changed then. `Closed` when it is not known whether it happened.
    pub(crate) fn remove_snapshot(&self, epoch: Epoch) -> Result<()> {
        self.claim(|claimed, done| Request::RemoveSnapshot {
            epoch,
            claimed,
            done,
        })
    }

    /// Writes rows that have no place in the history of their own. Everything acknowledged is in SQLite, and the caller
    /// sees to it that there is nothing new.
    ///
    /// # Errors
    /// When SQLite fails or the lease does not hold any more; nothing has changed then. `Closed` when it is not known whether it happened.
    pub(crate) fn bulk(&self, rows: Bulk) -> Result<()> {
        self.claim(|claimed, done| Request::Bulk {
            rows,
            claimed,
            done,
        })
    }

    /// Moves what was written into files since a snapshot into that snapshot. Returns how many there were.
    ///
    /// # Errors
    /// When SQLite fails; nothing has changed then.
    pub(crate) fn backdate(&self, epoch: Epoch, inos: Vec<Ino>) -> Result<usize> {
        self.claim(|claimed, done| Request::Backdate {
            epoch,
            inos,
            claimed,
            done,
        })
    }

    /// Asks for something that must not happen any more once the caller has given up. What has begun is waited for: it
    /// takes as long as it takes.
    fn claim<T>(
        &self,
        make: impl FnOnce(Arc<AtomicBool>, Sender<Result<T>>) -> Request,
    ) -> Result<T> {
        let claimed = Arc::new(AtomicBool::new(false));
        let answer = self.send(|done| make(Arc::clone(&claimed), done))?;
        match answer.recv_timeout(self.deadline()) {
            Err(RecvTimeoutError::Timeout) if !claimed.swap(true, Ordering::AcqRel) => {
                return Err(MetaError::Overloaded(self.deadline().as_secs()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(MetaError::Closed),
            Ok(result) => return result,
        }
        let ended = answer.recv_timeout(BEGUN_DEADLINE);
        // How it ends nobody will hear.
        ended.unwrap_or(Err(MetaError::Closed))
    }

    fn stop(&self) {
        let _ = self.requests.send_timeout(Request::Stop, DEADLINE);
        if let Some(thread) = self.thread.lock().take() {
            // The thread may be the one that drops the last handle; it cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the checkpointer panicked");
            }
        }
    }
}

impl Namespace {
    /// Waits until everything acknowledged up to `lsn` is in SQLite.
    ///
    /// # Errors
    /// Why the checkpoint failed.
    pub fn checkpoint(&self, lsn: Lsn) -> Result<()> {
        if self.checkpointed() >= lsn {
            return Ok(());
        }
        self.checkpointer.ask(|done| Request::Upto { lsn, done })
    }

    /// Records that extents of a segment lie in a pack now (with their offset in its raw bytes and their length), and
    /// that others are dead. Not journaled: it changes no file.
    ///
    /// # Errors
    /// When SQLite fails; nothing has changed then.
    pub fn move_extents(
        &self,
        pack: Option<PackRow>,
        extents: Vec<(ExtentId, u64, u64)>,
        dead: Vec<ExtentId>,
    ) -> Result<()> {
        let ids: Vec<ExtentId> = extents
            .iter()
            .map(|(id, _, _)| *id)
            .chain(dead.iter().copied())
            .collect();
        let claimed = Arc::new(AtomicBool::new(false));
        let moved = Moved {
            pack,
            extents,
            dead,
            claimed: Arc::clone(&claimed),
        };
        let mut result = self.checkpointer.ask(|done| Request::Move { moved, done });
        // Given up, unless it has begun: a move that happens later would surprise everybody.
        if matches!(result, Err(MetaError::Overloaded(_))) && claimed.swap(true, Ordering::AcqRel) {
            result = Err(self.journal.fail("a move of extents did not end".into()));
        }
        for id in ids {
            self.cache.forget_location(id);
        }
        result
    }

    /// Notes which of these packs are dead, and returns them. One that something uses is left out. Not journaled.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn mark_dead_packs(&self, packs: Vec<u64>, dead: Dead) -> Result<Vec<u64>> {
        self.checkpointer
            .with(move |c| packs::mark_dead(c, &packs, dead))
    }

    /// Takes the marks of dead packs back that no publication up to `seq` is sure to have, so that they are marked anew: the
    /// time since when nothing uses them counts from a mark that is published soon. Returns how many. Not journaled.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn unmark_packs_after(&self, seq: u64) -> Result<usize> {
        self.checkpointer.with(move |c| packs::unmark_after(c, seq))
    }

    /// Removes dead packs whose objects are deleted, and what is said of extents in them. Not journaled.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn forget_packs(&self, packs: Vec<u64>) -> Result<()> {
        self.checkpointer.with(move |c| packs::forget(c, &packs))
    }

    /// Checkpoints everything and stops the checkpointer. The namespace takes no mutations afterwards.
    ///
    /// # Errors
    /// When something acknowledged could not be brought into SQLite; the journal still has it.
    pub fn close(&self) -> Result<()> {
        let result = self.checkpoint(self.acknowledged());
        self.set_read_only(Some("it is being unmounted".into()));
        let late = self.checkpoint(self.acknowledged());
        self.checkpointer.stop();
        result.and(late)
    }

    /// Stops without a checkpoint, as a crash would: for tests of recovery.
    pub fn abandon(&self) {
        self.set_read_only(Some("it was abandoned".into()));
        self.checkpointer.stop();
    }
}

fn run(
    namespace: &Weak<Namespace>,
    mut connection: Connection,
    inbox: &Receiver<Request>,
    interval: Duration,
) {
    loop {
        let request = inbox.recv_timeout(interval);
        let Some(ns) = namespace.upgrade() else {
            return;
        };
        match request {
            Err(RecvTimeoutError::Timeout) | Ok(Request::Nudge) => {
                if ns.reserve.is_used() {
                    ns.reserve.take();
                }
                let mut result = checkpoint(&ns, &mut connection);
                while matches!(result, Ok(true)) && ns.overlay.sealed() > 0 {
                    result = checkpoint(&ns, &mut connection);
                }
                if let Err(error) = result {
                    tracing::error!(%error, "checkpoint failed; the journal keeps what is missing");
                    drop(ns);
                    std::thread::sleep(AFTER_FAILURE);
                }
            }
            Ok(Request::Upto { lsn, done }) => {
                let _ = done.send(checkpoint_upto(&ns, &mut connection, lsn));
            }
            Ok(Request::Move { moved, .. }) if moved.claimed.swap(true, Ordering::AcqRel) => {}
            Ok(Request::Move { moved, done }) => {
                let result = write::move_extents(
                    &mut connection,
                    moved.pack.as_ref(),
                    &moved.extents,
                    &moved.dead,
                );
                let _ = done.send(named(result));
            }
            Ok(Request::Packs(work)) => work(&mut connection),
            Ok(Request::RemoveSnapshot {
                epoch,
                claimed,
                done,
            }) => {
                if !claimed.swap(true, Ordering::AcqRel) {
                    // What makes room takes some first.
                    let removed = with_reserve(&ns, || {
                        ns.wait_for_permit()?;
                        named(capture::remove_snapshot(&mut connection, epoch))
                    });
                    let _ = done.send(check_sync(&ns, removed));
                }
            }
            Ok(Request::Backdate {
                epoch,
                inos,
                claimed,
                done,
            }) => {
                if !claimed.swap(true, Ordering::AcqRel) {
                    // The only place of what was written; nobody waits who could try again.
                    let moved = with_reserve(&ns, || {
                        named(backdate::backdate(&mut connection, epoch, &inos))
                    });
                    let _ = done.send(check_sync(&ns, moved));
                }
            }
            Ok(Request::Bulk {
                rows,
                claimed,
                done,
            }) => {
                if !claimed.swap(true, Ordering::AcqRel) {
                    let counters = ns.numbers.counters();
                    // Working it out, and writing it, may have taken longer than the lease holds.
                    let may = || ns.wait_for_permit();
                    let result = write::bulk(&mut connection, &rows, counters, may);
                    let _ = done.send(check_sync(&ns, result));
                }
            }
            Ok(Request::Cut(look)) => {
                let file = ns.readers.file();
                look(file.and_then(|file| cut::make(&ns, &connection, file)));
            }
            Err(RecvTimeoutError::Disconnected) | Ok(Request::Stop) => return,
        }
    }
}

fn checkpoint_upto(ns: &Namespace, connection: &mut Connection, lsn: Lsn) -> Result<()> {
    while ns.checkpointed() < lsn {
        if !checkpoint(ns, connection)? {
            break;
        }
    }
    Ok(())
}

/// Brings one generation into SQLite. Returns whether there was one. Whoever waits for room looks again, whatever came
/// of it.
fn checkpoint(ns: &Namespace, connection: &mut Connection) -> Result<bool> {
    let result = with_reserve(ns, || write_generation(ns, connection));
    if matches!(result, Ok(true)) {
        ns.reserve.take();
    }
    let result = check_sync(ns, result);
    // Under the lock, so that nobody is between looking and waiting.
    drop(ns.room.0.lock());
    ns.room.1.notify_all();
    result
}

/// Does what writes into SQLite, and once more with the reserve of the local disk if that is full.
fn with_reserve<T>(ns: &Namespace, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let result = work();
    if matches!(result, Err(MetaError::NoSpace)) && ns.reserve.give_up() {
        tracing::warn!("the local disk is full: its reserve is used");
        return work();
    }
    result
}

/// A failed flush is never retried into success.
fn check_sync<T>(ns: &Namespace, result: Result<T>) -> Result<T> {
    if let Err(MetaError::Sqlite(error)) = &result
        && is_failed_sync(error)
    {
        ns.journal
            .fail(format!("flushing the metadata database failed: {error}"));
    }
    result
}

fn is_failed_sync(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};
    matches!(error.sqlite_error(), Some(e) if [SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC].contains(&e.extended_code))
}

fn write_generation(ns: &Namespace, connection: &mut Connection) -> Result<bool> {
    let Some((generation, counters)) = ns.begin_generation() else {
        return Ok(false);
    };
    // SQLite must never be ahead of the journal, nor name data that is not on the disk.
    ns.flush(generation.last)?;
    named(write::generation(connection, &generation, counters))?;
    ns.overlay.end_checkpoint();
    ns.checkpointer
        .done
        .store(generation.last.0, Ordering::Release);
    ns.journal.free(generation.last);
    Ok(true)
}

impl Namespace {
    /// The next generation to write, with the counters at or after its end. Never waits for the commit lock: whoever
    /// holds it may be waiting for this.
    fn begin_generation(&self) -> Option<(Arc<Generation>, write::Counters)> {
        let generation = self.overlay.begin_checkpoint()?;
        // After it was sealed, so that everything in it has its number.
        Some((generation, self.numbers.counters()))
    }

    /// Writes what replay put into the overlay, before anything else runs.
    pub(crate) fn checkpoint_inherited(&self, connection: &mut Connection) -> Result<()> {
        while let Some((generation, counters)) = self.begin_generation() {
            named(write::generation(connection, &generation, counters))?;
            self.overlay.end_checkpoint();
            self.checkpointer
                .done
                .store(generation.last.0, Ordering::Release);
        }
        Ok(())
    }
}
