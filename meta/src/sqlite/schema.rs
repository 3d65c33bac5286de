//! The tables and how a database gets to have them. FORMAT.md documents every column.

use rusqlite::Connection;

use crate::error::{MetaError, Result};

/// The newest schema this program knows; kept in SQLite's `user_version`.
pub const SCHEMA_VERSION: u32 = 4;
/// SQLite's `application_id` of a WeldrFS database: "WFSM".
pub(crate) const APPLICATION_ID: i32 = 0x5746_534D;

/// `MIGRATIONS[n]` takes a database from version n to n + 1.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const VERSION_1: &str = "
CREATE TABLE setting (
    name  TEXT PRIMARY KEY NOT NULL,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE inode (
    ino          INTEGER PRIMARY KEY NOT NULL,
    mode         INTEGER NOT NULL,
    uid          INTEGER NOT NULL,
    gid          INTEGER NOT NULL,
    nlink        INTEGER NOT NULL,
    rdev         INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    allocated    INTEGER NOT NULL,
    atime_ns     INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    ctime_ns     INTEGER NOT NULL,
    btime_ns     INTEGER NOT NULL,
    parent       INTEGER NOT NULL,
    entries_hash INTEGER NOT NULL,
    next_cookie  INTEGER NOT NULL,
    epoch        INTEGER NOT NULL
) STRICT;

CREATE TABLE dirent (
    parent INTEGER NOT NULL,
    name   BLOB NOT NULL,
    ino    INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    cookie INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dirent_by_cookie ON dirent (parent, cookie);

CREATE TABLE extent (
    ino           INTEGER NOT NULL,
    offset        INTEGER NOT NULL,
    len           INTEGER NOT NULL,
    extent        INTEGER NOT NULL,
    extent_offset INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    PRIMARY KEY (ino, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX extent_by_id ON extent (extent);

CREATE TABLE location (
    extent  INTEGER PRIMARY KEY NOT NULL,
    segment INTEGER,
    pack    INTEGER,
    offset  INTEGER NOT NULL,
    len     INTEGER NOT NULL,
    sums    BLOB,
    CHECK ((segment IS NULL) <> (pack IS NULL))
) STRICT;
CREATE INDEX location_by_segment ON location (segment) WHERE segment IS NOT NULL;
CREATE INDEX location_by_pack ON location (pack) WHERE pack IS NOT NULL;

CREATE TABLE xattr (
    ino   INTEGER NOT NULL,
    name  BLOB NOT NULL,
    value BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE symlink (
    ino    INTEGER PRIMARY KEY NOT NULL,
    target BLOB NOT NULL,
    epoch  INTEGER NOT NULL
) STRICT;

CREATE TABLE orphan (
    ino INTEGER PRIMARY KEY NOT NULL
) STRICT;

CREATE TABLE pack (
    pack    INTEGER PRIMARY KEY NOT NULL,
    id      BLOB NOT NULL UNIQUE,
    bytes   INTEGER NOT NULL,
    raw_len INTEGER NOT NULL,
    extents INTEGER NOT NULL,
    made_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE snapshot (
    epoch   INTEGER PRIMARY KEY NOT NULL,
    name    TEXT NOT NULL UNIQUE,
    note    TEXT NOT NULL,
    owner   TEXT NOT NULL,
    made_ms INTEGER NOT NULL,
    lsn     INTEGER NOT NULL,
    kept    INTEGER NOT NULL
) STRICT;

CREATE TABLE undo (
    epoch INTEGER NOT NULL,
    tbl   INTEGER NOT NULL,
    key   BLOB NOT NULL,
    row   BLOB,
    PRIMARY KEY (epoch, tbl, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE trash (
    id         INTEGER PRIMARY KEY NOT NULL,
    ino        INTEGER NOT NULL,
    path       BLOB NOT NULL,
    deleted_ms INTEGER NOT NULL,
    bytes      INTEGER NOT NULL
) STRICT;

CREATE TABLE pending (
    tbl INTEGER NOT NULL,
    key BLOB NOT NULL,
    lsn INTEGER NOT NULL,
    PRIMARY KEY (tbl, key)
) STRICT, WITHOUT ROWID;
";

/// Since when a pack is dead.
const VERSION_2: &str = "
ALTER TABLE pack ADD COLUMN dead_ms INTEGER;
ALTER TABLE pack ADD COLUMN dead_seq INTEGER;
";

/// Rows as they were before the first write after a snapshot. Columns besides the key are NULL where there was none.
const VERSION_3: &str = "
DROP TABLE undo;
DROP TABLE snapshot;

CREATE TABLE snapshot (
    epoch    INTEGER PRIMARY KEY NOT NULL,
    name     TEXT NOT NULL UNIQUE,
    note     TEXT NOT NULL,
    owner    TEXT NOT NULL,
    made_ms  INTEGER NOT NULL,
    lsn      INTEGER NOT NULL,
    next_ino INTEGER NOT NULL,
    kept     INTEGER NOT NULL
) STRICT;

CREATE TABLE inode_undo (
    ino          INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    mode         INTEGER,
    uid          INTEGER,
    gid          INTEGER,
    nlink        INTEGER,
    rdev         INTEGER,
    size         INTEGER,
    allocated    INTEGER,
    atime_ns     INTEGER,
    mtime_ns     INTEGER,
    ctime_ns     INTEGER,
    btime_ns     INTEGER,
    parent       INTEGER,
    entries_hash INTEGER,
    next_cookie  INTEGER,
    PRIMARY KEY (ino, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX inode_undo_by_epoch ON inode_undo (epoch);

CREATE TABLE dirent_undo (
    parent INTEGER NOT NULL,
    name   BLOB NOT NULL,
    epoch  INTEGER NOT NULL,
    ino    INTEGER,
    kind   INTEGER,
    cookie INTEGER,
    PRIMARY KEY (parent, name, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX dirent_undo_by_epoch ON dirent_undo (epoch);
CREATE INDEX dirent_undo_by_cookie ON dirent_undo (parent, cookie) WHERE cookie IS NOT NULL;
CREATE INDEX dirent_undo_by_ino ON dirent_undo (ino) WHERE ino IS NOT NULL;
CREATE INDEX dirent_by_ino ON dirent (ino);

CREATE TABLE extent_undo (
    ino           INTEGER NOT NULL,
    offset        INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    len           INTEGER,
    extent        INTEGER,
    extent_offset INTEGER,
    PRIMARY KEY (ino, offset, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX extent_undo_by_epoch ON extent_undo (epoch);
CREATE INDEX extent_undo_by_id ON extent_undo (extent) WHERE extent IS NOT NULL;

CREATE TABLE xattr_undo (
    ino   INTEGER NOT NULL,
    name  BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    value BLOB,
    PRIMARY KEY (ino, name, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX xattr_undo_by_epoch ON xattr_undo (epoch);

CREATE TABLE symlink_undo (
    ino    INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    target BLOB,
    PRIMARY KEY (ino, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX symlink_undo_by_epoch ON symlink_undo (epoch);
";

/// Names that were removed. The table of that name before was always empty.
const VERSION_4: &str = "
DROP TABLE trash;

CREATE TABLE trash (
    id           INTEGER PRIMARY KEY NOT NULL,
    ino          INTEGER NOT NULL,
    parent       INTEGER NOT NULL,
    name         BLOB NOT NULL,
    deleted_ms   INTEGER NOT NULL,
    dir_mtime_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX trash_by_ino ON trash (ino, parent, name);
CREATE INDEX trash_by_parent ON trash (parent);
CREATE INDEX trash_by_time ON trash (deleted_ms);
";

/// Brings a database to the newest schema.
///
/// # Errors
/// `NewerFormat` for a schema this program does not know, `Damaged` for a file that is no database of ours.
pub(crate) fn migrate(connection: &mut Connection) -> Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |r| r.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |r| r.get(0))?;
    if version > SCHEMA_VERSION {
        return Err(MetaError::NewerFormat {
            what: "metadata database",
            found: version.into(),
            known: SCHEMA_VERSION.into(),
        });
    }
    if version > 0 && application != APPLICATION_ID {
        return Err(MetaError::damaged(
            "metadata database",
            "it was not made by WeldrFS",
        ));
    }
    for (at, step) in MIGRATIONS.iter().enumerate().skip(version as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
