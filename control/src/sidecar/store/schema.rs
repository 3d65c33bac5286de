//! The tables of `control.db`, as numbered migrations, and whether a database is one of ours.

use rusqlite::{Connection, TransactionBehavior};

use crate::sidecar::start_error::StartError;

/// In the header of every database of ours ("WFSC"): no other program's is taken for it.
const APPLICATION_ID: i64 = 0x5746_5343;

/// What makes version n out of version n-1.
const MIGRATIONS: [&str; 1] = [
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
];

/// Version of the tables that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the tables to [`VERSION`].
///
/// # Errors
/// [`StartError::ForeignDatabase`] for a database of something else, [`StartError::NewerDatabase`] for one of a later version.
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
    for migration in &MIGRATIONS[done..] {
        tx.execute_batch(migration)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(())
}
