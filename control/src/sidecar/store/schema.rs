//! The tables of `control.db`, as numbered migrations, and whether a database is one of ours.

use rusqlite::{Connection, TransactionBehavior};

use crate::sidecar::start_error::StartError;

/// In the header of every database of ours ("WFSC"): no other program's is taken for it.
const APPLICATION_ID: i64 = 0x5746_5343;

/// What makes version n out of version n-1.
const MIGRATIONS: [&str; 5] = [
    // 1: the mounts that are wanted, and what has happened.
    "CREATE TABLE mount (
         name TEXT PRIMARY KEY,
         source TEXT NOT NULL,
         place TEXT NOT NULL,
         path TEXT NOT NULL UNIQUE,
         options TEXT NOT NULL,
         leaving INTEGER NOT NULL DEFAULT 0 CHECK (leaving IN (0, 1)),
         stopped_boot TEXT,
         created_ms INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE event (
         id INTEGER PRIMARY KEY AUTOINCREMENT,
         at_ms INTEGER NOT NULL,
         kind TEXT NOT NULL,
         mount TEXT,
         message TEXT NOT NULL
     ) STRICT;",
    // 2: what was answered to requests with an Idempotency-Key.
    "CREATE TABLE answer (
         asker TEXT NOT NULL,
         key TEXT NOT NULL,
         request BLOB NOT NULL,
         id TEXT NOT NULL,
         begun_ms INTEGER NOT NULL,
         answer TEXT,
         PRIMARY KEY (asker, key)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX answer_age ON answer (begun_ms);",
    // 3: the branches of mounts.
    "CREATE TABLE branch (
         mount TEXT NOT NULL,
         name TEXT NOT NULL,
         place TEXT NOT NULL,
         project TEXT,
         state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
         created_ms INTEGER NOT NULL,
         used_ms INTEGER NOT NULL,
         dropped_ms INTEGER,
         PRIMARY KEY (mount, name)
     ) STRICT, WITHOUT ROWID;",
    // 4: the apps that run on mounts, one for each folder.
    "CREATE TABLE preview (
         id TEXT PRIMARY KEY,
         mount TEXT NOT NULL,
         folder TEXT NOT NULL,
         sandbox TEXT,
         data TEXT NOT NULL,
         UNIQUE (mount, folder)
     ) STRICT, WITHOUT ROWID;",
    // 5: workflows.
    "CREATE TABLE definition (
         hash TEXT PRIMARY KEY,
         text TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE run (
         seq INTEGER PRIMARY KEY AUTOINCREMENT,
         id TEXT NOT NULL UNIQUE,
         workflow TEXT NOT NULL,
         mount TEXT NOT NULL,
         path TEXT NOT NULL,
         definition TEXT NOT NULL,
         inputs TEXT NOT NULL,
         state TEXT NOT NULL,
         error TEXT,
         created_ms INTEGER NOT NULL,
         started_ms INTEGER,
         ended_ms INTEGER,
         snapshot TEXT,
         releasing INTEGER NOT NULL CHECK (releasing IN (0, 1)),
         origin TEXT UNIQUE,
         live INTEGER NOT NULL CHECK (live IN (0, 1))
     ) STRICT;
     CREATE INDEX run_live ON run (seq) WHERE live = 1;
     CREATE INDEX run_over ON run (seq) WHERE live = 0;
     CREATE INDEX run_project ON run (mount, path, seq);
     CREATE INDEX run_definition ON run (definition);
     CREATE TABLE step (
         run TEXT NOT NULL,
         number INTEGER NOT NULL,
         name TEXT NOT NULL,
         kind TEXT NOT NULL,
         state TEXT NOT NULL,
         attempt INTEGER NOT NULL,
         started_ms INTEGER,
         ended_ms INTEGER,
         progress_ms INTEGER,
         doing TEXT,
         attempt_ms INTEGER,
         times_out_ms INTEGER,
         next_ms INTEGER,
         place TEXT NOT NULL,
         outputs TEXT NOT NULL,
         error TEXT,
         attempts TEXT NOT NULL,
         log TEXT,
         snapshot TEXT,
         settled INTEGER NOT NULL CHECK (settled IN (0, 1)),
         PRIMARY KEY (run, number)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE revert (
         run TEXT NOT NULL,
         number INTEGER NOT NULL,
         report TEXT NOT NULL,
         PRIMARY KEY (run, number)
     ) STRICT, WITHOUT ROWID;
     ALTER TABLE event ADD COLUMN run TEXT;
     ALTER TABLE event ADD COLUMN step TEXT;
     ALTER TABLE event ADD COLUMN data TEXT;",
];

/// Version of the tables that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the tables to [`VERSION`].
///
/// # Errors
/// [`StartError::ForeignDatabase`] for a database of something else, [`StartError::NewerDatabase`] for one of a later
/// version, [`StartError::OtherLine`] for one whose tables are not those of its version.
pub(super) fn migrate(db: &mut Connection) -> Result<(), StartError> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |name: &str| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let objects: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    let is_new = application == 0 && version == 0 && objects == 0;
    if !is_new && application != APPLICATION_ID {
        return Err(StartError::ForeignDatabase);
    }
    if version > VERSION {
        return Err(StartError::NewerDatabase {
            found: version,
            known: VERSION,
        });
    }
    let done = usize::try_from(version).map_err(|_| StartError::ForeignDatabase)?;
    if !is_new && tables(&tx)? != tables_of_version(done)? {
        return Err(StartError::OtherLine(version));
    }
    for migration in &MIGRATIONS[done..] {
        tx.execute_batch(migration)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(())
}

/// What the tables, indexes and so on were made with, by name; not those that SQLite makes for itself.
fn tables(db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = db.prepare(
        "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// The same after the first `done` migrations, as this program knows them.
fn tables_of_version(done: usize) -> rusqlite::Result<Vec<(String, String)>> {
    let db = Connection::open_in_memory()?;
    for migration in &MIGRATIONS[..done] {
        db.execute_batch(migration)?;
    }
    tables(&db)
}

/// Looks at every page.
///
/// # Errors
/// [`StartError::Damaged`] with the first thing that is wrong.
pub(super) fn check(db: &Connection) -> Result<(), StartError> {
    let found: String = db.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(StartError::Damaged(found)),
    }
}

/// A database as the program of version `version` left it.
#[cfg(test)]
pub(super) fn make_version(path: &std::path::Path, version: usize) {
    let db = Connection::open(path).expect("the test's folder is there");
    for migration in &MIGRATIONS[..version] {
        db.execute_batch(migration).expect("migrations work");
    }
    for (name, value) in [
        ("application_id", APPLICATION_ID),
        ("user_version", version as i64),
    ] {
        db.pragma_update(None, name, value)
            .expect("it can be written");
    }
}
