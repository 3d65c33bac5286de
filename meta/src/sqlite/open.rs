//! The one place that opens the metadata database, with every pragma and why.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{MetaError, Result};
use crate::settings::READ_CONNECTIONS;

use super::{Dead, PackRow, Packed, packs, schema, write};

/// How long a connection waits for another one of this process.
const BUSY: Duration = Duration::from_secs(10);
/// Prepared statements kept per connection; more than there are kinds of statement.
const STATEMENTS: usize = 128;
/// Page cache of the writer, KiB.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Page cache of each reader, KiB.
const READER_CACHE_KIB: i64 = 8 << 10;

/// Path of the database in a folder.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("meta.db")
}

/// Opens the database for the checkpointer, making it when it is missing, and brings its schema up to date.
pub(crate) fn writer(dir: &Path) -> Result<Connection> {
    let mut connection = named(Connection::open(path(dir)))?;
    named(prepare(&connection, WRITER_CACHE_KIB))?;
    // The journal is freed on the word of a commit, so a commit must be on the disk: FULL.
    named(connection.pragma_update(None, "synchronous", "FULL"))?;
    // Large enough that a checkpoint of ours rarely folds the log, small enough to be folded in a fraction of a second.
    named(connection.pragma_update(None, "wal_autocheckpoint", 4000))?;
    schema::migrate(&mut connection)?;
    let check: String = named(connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)))?;
    if check != "ok" {
        return Err(MetaError::damaged("metadata database", check));
    }
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn reader(dir: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = named(Connection::open_with_flags(path(dir), flags))?;
    named(prepare(&connection, READER_CACHE_KIB))?;
    named(connection.pragma_update(None, "query_only", true))?;
    Ok(connection)
}

fn prepare(connection: &Connection, cache_kib: i64) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    // Readers go on while the checkpointer writes.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A sort or a temporary index must never meet a full disk.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // Damage inside a page is a named error instead of an odd answer.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    // Otherwise a statement on a table with a partial index is planned again for every value that is bound: a third of the
    // time of a clone of many files.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

/// Tells a damaged database from any other failure.
pub(crate) fn named<T>(result: rusqlite::Result<T>) -> Result<T> {
    result.map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            MetaError::damaged("metadata database", error.to_string())
        }
        Some(ErrorCode::DiskFull) => MetaError::NoSpace,
        _ => MetaError::Sqlite(error),
    })
}

/// A bounded set of read connections.
#[derive(Debug)]
pub(crate) struct Readers {
    dir: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// The database file itself. Closing any descriptor of it takes SQLite's locks from the whole process, so it is
    /// opened once and closed last.
    file: OnceLock<File>,
}

impl Readers {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            idle: Mutex::new(Vec::new()),
            file: OnceLock::new(),
        }
    }

    /// The database file, for reading pages while it is at rest.
    pub(crate) fn file(&self) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = File::open(path(&self.dir)).map_err(MetaError::from_io)?;
        // Only the checkpointer comes here, so no second descriptor is ever dropped.
        Ok(self.file.get_or_init(|| file))
    }

    /// Runs `read` on a connection nobody else is using.
    pub(crate) fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => reader(&self.dir)?,
        };
        let result = named(read(&connection));
        let mut idle = self.idle.lock();
        if idle.len() < READ_CONNECTIONS {
            idle.push(connection);
        }
        result
    }
}

/// Makes a restored database one of a machine that has no segments: extents that lay in one and were packed with the
/// cut go to their packs, whatever else is said of segments is removed. Files that use such an extent all the same,
/// because it was damaged when the cut was made, get an error when they are read.
///
/// # Errors
/// When the database cannot be written.
pub fn settle_restored(database: &Path, packed: &[Packed]) -> Result<()> {
    let mut connection = named(Connection::open(database))?;
    schema::migrate(&mut connection)?;
    for Packed { pack, extents } in packed {
        named(write::move_extents(
            &mut connection,
            Some(pack),
            extents,
            &[],
        ))?;
    }
    named(connection.execute("DELETE FROM location WHERE segment IS NOT NULL", []))?;
    rest(connection)
}

/// Adds packs that another state of the volume uses to a rested database which becomes the newest one: in it they are dead,
/// so that they are not forgotten before the other state is. Those that were dead in it are so only from now on.
///
/// # Errors
/// When the database cannot be written.
pub fn add_dead_packs(database: &Path, rows: &[PackRow], dead: Dead) -> Result<()> {
    let mut connection = named(Connection::open(database))?;
    schema::migrate(&mut connection)?;
    named(packs::add_dead(&mut connection, rows, dead))?;
    rest(connection)
}

/// Brings everything into the file itself.
fn rest(connection: Connection) -> Result<()> {
    let busy: i64 =
        named(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)))?;
    if busy != 0 {
        return Err(MetaError::Overloaded(0));
    }
    named(connection.close().map_err(|(_, error)| error))
}
