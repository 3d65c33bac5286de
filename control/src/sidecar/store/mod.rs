//! `control.db`: the mounts that are wanted, the events of the sidecar, answers that are given again, and branches. The only module of this crate that names
//! rusqlite.
//!
//! One connection, used by one thread at a time. Every change is durable when the call returns.

mod answers;
mod branches;
mod previews;
mod schema;
mod workflows;

pub(super) use answers::Reserved;
pub(super) use branches::{BranchRow, Mark, RowState};
pub(super) use previews::KeptPreview;
pub(super) use workflows::{
    OutputPlace, RevertRow, RunChange, RunFilter, RunRow, RunRows, StepRow,
};

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

use super::start_error::StartError;
use super::types::Event;
use crate::error::ApiError;

/// Name of the database in the sidecar's folder.
const DATABASE_NAME: &str = "control.db";
/// Name of the lock in the sidecar's folder.
const LOCK_NAME: &str = "lock";
/// How long a statement waits for another process, such as somebody who looks at the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most events that are kept.
const EVENTS_MAX: i64 = 10_000;
/// How long events are kept.
const EVENTS_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many events are written between two looks at what is too old.
const TRIM_EVERY: u32 = 100;

impl From<rusqlite::Error> for StartError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Database(error.to_string()),
        }
    }
}

/// A mount that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedMount {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) place: String,
    pub(super) path: String,
    pub(super) options: Vec<String>,
    /// It is being unmounted and goes once that is done.
    pub(super) leaving: bool,
    /// The boot during which somebody unmounted it beside the sidecar.
    pub(super) stopped_boot: Option<String>,
    pub(super) created_ms: u64,
}

/// The database; clones share it.
#[derive(Clone)]
pub(super) struct Store(Arc<Inner>);

struct Inner {
    db: Mutex<Open>,
    /// Who uses it next. Waiting for that takes no thread: many hundred runs may want to write at the same time.
    turn: Arc<Semaphore>,
    /// Why the last calls failed.
    trouble: Mutex<Trouble>,
}

/// Why the last call that only reads failed, and the last that writes; `None` when it did not. Apart, because on a full
/// disk the one works.
#[derive(Debug, Default)]
struct Trouble {
    reading: Option<String>,
    writing: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Use {
    Reading,
    Writing,
}

struct Open {
    db: Connection,
    written: u32,
    /// Held as long as the database is open.
    _lock: File,
}

/// An event that is to be written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct NewEvent {
    pub(super) at_ms: u64,
    pub(super) kind: &'static str,
    pub(super) mount: Option<String>,
    pub(super) run: Option<String>,
    pub(super) step: Option<String>,
    pub(super) data: Option<serde_json::Value>,
    pub(super) message: String,
}

/// Which events somebody wants; all when nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EventFilter {
    pub(super) mount: Option<String>,
    pub(super) preview: Option<String>,
    pub(super) run: Option<String>,
}

impl Open {
    /// Counts `added` events, and removes the oldest now and then.
    fn trim_events(&mut self, added: usize) -> rusqlite::Result<()> {
        self.written += u32::try_from(added).unwrap_or(TRIM_EVERY);
        if self.written < TRIM_EVERY {
            return Ok(());
        }
        self.written = 0;
        let age = i64::try_from(EVENTS_AGE.as_millis()).unwrap_or(i64::MAX);
        self.db
            .prepare_cached(
                "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?1
                 OR at_ms < (SELECT at_ms FROM event ORDER BY id DESC LIMIT 1) - ?2",
            )?
            .execute([EVENTS_MAX, age])
            .map(drop)
    }
}

/// Writes an event and returns its number.
fn insert_event(db: &Connection, event: &NewEvent) -> rusqlite::Result<i64> {
    let data = event.data.as_ref().map(ToString::to_string);
    db.prepare_cached(
        "INSERT INTO event (at_ms, kind, mount, message, run, step, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        i64::try_from(event.at_ms).unwrap_or(i64::MAX),
        event.kind,
        event.mount,
        event.message,
        event.run,
        event.step,
        data,
    ])?;
    Ok(db.last_insert_rowid())
}

impl Store {
    /// Opens the database in `folder`, which is made if it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, StartError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let lock = take_lock(folder)?;
        let path = folder.join(DATABASE_NAME);
        // SQLite would make it readable by others where the umask allows it.
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let mut db = Connection::open(&path)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        schema::check(&db)?;
        // Before anything is written: a database of something else stays as it is.
        schema::migrate(&mut db)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        let open = Open {
            db,
            written: 0,
            _lock: lock,
        };
        Ok(Self(Arc::new(Inner {
            db: Mutex::new(open),
            turn: Arc::new(Semaphore::new(1)),
            trouble: Mutex::default(),
        })))
    }

    /// Why the database does not do what it is asked, for the health of the sidecar. After a write that failed it is tried
    /// again, because nothing else may be written for a long time.
    pub(super) async fn trouble(&self) -> Option<String> {
        if self.0.trouble.lock().writing.is_some() {
            let again =
                self.run(|open| open.db.pragma_update(None, "user_version", schema::VERSION));
            // What comes of it is in `trouble`.
            drop(again.await);
        }
        let trouble = self.0.trouble.lock();
        trouble.writing.clone().or_else(|| trouble.reading.clone())
    }

    /// The mounts that are wanted, by name.
    pub(super) async fn mounts(&self) -> Result<Vec<WantedMount>, ApiError> {
        self.look(|open| {
            let mut statement = open.db.prepare_cached(
                "SELECT name, source, place, path, options, leaving, stopped_boot, created_ms FROM mount ORDER BY name",
            )?;
            let rows = statement.query_map((), wanted)?;
            rows.collect()
        })
        .await
    }

    /// Writes a mount that is wanted, in place of what had its name.
    pub(super) async fn put_mount(&self, mount: WantedMount) -> Result<(), ApiError> {
        self.run(move |open| {
            let options = serde_json::to_string(&mount.options)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            open.db.prepare_cached(
                "INSERT OR REPLACE INTO mount (name, source, place, path, options, leaving, stopped_boot, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                mount.name,
                mount.source,
                mount.place,
                mount.path,
                options,
                mount.leaving,
                mount.stopped_boot,
                i64::try_from(mount.created_ms).unwrap_or(i64::MAX),
            ])
            .map(drop)
        })
        .await
    }

    /// Forgets a mount; one that is not there is no error.
    pub(super) async fn remove_mount(&self, name: &str) -> Result<(), ApiError> {
        let name = name.to_owned();
        self.run(move |open| {
            open.db
                .prepare_cached("DELETE FROM mount WHERE name = ?1")?
                .execute([name])
                .map(drop)
        })
        .await
    }

    /// Writes an event and returns its number.
    pub(super) async fn add_event(&self, event: NewEvent) -> Result<i64, ApiError> {
        self.run(move |open| {
            let id = insert_event(&open.db, &event)?;
            open.trim_events(1)?;
            Ok(id)
        })
        .await
    }

    /// At most `most` events after number `after` that `about` lets through. What is said of a preview begins with its id.
    pub(super) async fn events_after(
        &self,
        after: i64,
        about: EventFilter,
        most: u32,
    ) -> Result<Vec<Event>, ApiError> {
        self.look(move |open| {
            let mut statement = open.db.prepare_cached(
                "SELECT id, at_ms, kind, mount, message, run, step, data FROM event
                 WHERE id > ?1 AND (?2 IS NULL OR mount = ?2) AND (?3 IS NULL OR run = ?3)
                 AND (?5 IS NULL OR (kind GLOB 'preview.*' AND instr(message, ?5 || ' ') = 1)) ORDER BY id LIMIT ?4",
            )?;
            let rows = statement.query_map(params![after, about.mount, about.run, most, about.preview], event)?;
            rows.collect()
        })
        .await
    }

    /// The numbers of the oldest event that is kept and of the newest that ever was; 0 for none.
    pub(super) async fn event_range(&self) -> Result<(i64, i64), ApiError> {
        self.look(|open| {
            let oldest = open.db.query_row("SELECT min(id) FROM event", (), |row| {
                row.get::<_, Option<i64>>(0)
            })?;
            let newest = open
                .db
                .query_row(
                    "SELECT seq FROM sqlite_sequence WHERE name = 'event'",
                    (),
                    |row| row.get(0),
                )
                .optional()?;
            Ok((oldest.unwrap_or(0), newest.unwrap_or(0)))
        })
        .await
    }

    /// From now on the disk is full, or has room again.
    #[cfg(test)]
    pub(super) async fn fill_the_disk(&self, is_full: bool) {
        let done = self.run(move |open| {
            // SQLite says the same when the database has as many pages as it may have.
            let most = match is_full {
                true => 1,
                false => i64::from(u32::MAX) - 1,
            };
            open.db
                .pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))
        });
        done.await.expect("the test's database works");
    }

    #[cfg(test)]
    pub(super) async fn forget_events_up_to(&self, id: i64) {
        let done = self.run(move |open| {
            open.db
                .execute("DELETE FROM event WHERE id <= ?1", [id])
                .map(drop)
        });
        done.await.expect("the test's database works");
    }

    /// Runs `work`, which writes.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.apart(Use::Writing, work).await
    }

    /// Runs `work`, which only reads.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.apart(Use::Reading, work).await
    }

    /// Runs `work` where waiting for the disk holds up nobody else, and remembers how it went.
    async fn apart<T: Send + 'static>(
        &self,
        using: Use,
        work: impl FnOnce(&mut Open) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let inner = Arc::clone(&self.0);
        // Nobody closes it; if somebody did, the lock would do.
        let turn = Arc::clone(&inner.turn).acquire_owned().await.ok();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut inner.db.lock());
            drop(turn);
            let failed = done.as_ref().err().map(ToString::to_string);
            let mut trouble = inner.trouble.lock();
            match using {
                Use::Reading => trouble.reading = failed,
                Use::Writing => trouble.writing = failed,
            }
            drop(trouble);
            done
        });
        match done.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(%error, "control.db failed");
                Err(ApiError::DatabaseUnavailable(
                    "the sidecar's database cannot be used; look at its disk, then try again"
                        .into(),
                ))
            }
            Err(error) => {
                tracing::error!(%error, "a request to control.db broke down");
                Err(ApiError::Internal(
                    "the request broke down; the sidecar's log says why".into(),
                ))
            }
        }
    }
}

/// Changes the database in `folder` while no sidecar has it; how many rows.
#[cfg(test)]
pub(super) fn tamper(folder: &Path, sql: &str) -> usize {
    let db = Connection::open(folder.join(DATABASE_NAME)).expect("it is there");
    db.execute(sql, ()).expect("the test's statement is right")
}

/// The lock that tells a second sidecar that there is one.
fn take_lock(folder: &Path) -> Result<File, StartError> {
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(LOCK_NAME))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(StartError::FolderInUse(folder.display().to_string()))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

fn wanted(row: &Row<'_>) -> rusqlite::Result<WantedMount> {
    let options: String = row.get(4)?;
    let options = serde_json::from_str(&options).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(WantedMount {
        name: row.get(0)?,
        source: row.get(1)?,
        place: row.get(2)?,
        path: row.get(3)?,
        options,
        leaving: row.get(5)?,
        stopped_boot: row.get(6)?,
        created_ms: unsigned(row.get(7)?),
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        at_ms: unsigned(row.get(1)?),
        kind: row.get(2)?,
        mount: row.get(3)?,
        message: row.get(4)?,
        run: row.get(5)?,
        step: row.get(6)?,
        data: row
            .get::<_, Option<String>>(7)?
            .and_then(|text| serde_json::from_str(&text).ok()),
    })
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
