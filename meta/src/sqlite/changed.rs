//! The keys of rows that were kept between two epochs: what may have changed there, and nothing else.

use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::ids::Ino;
use crate::rows::Name;

use super::read::unsigned;

type Sql<T> = rusqlite::Result<T>;

/// From the first epoch to before the second.
pub(crate) type Span = (i64, i64);

/// Inodes that have rows of a table which were kept.
pub(crate) fn inos(c: &Connection, table: &str, span: Span) -> Sql<Vec<Ino>> {
    let sql = format!("SELECT DISTINCT ino FROM {table}_undo WHERE epoch >= ?1 AND epoch < ?2");
    c.prepare_cached(&sql)?
        .query_map(params![span.0, span.1], |r| Ok(Ino(unsigned(r, 0)?)))?
        .collect()
}

/// Directory entries that were kept, or that they were not there.
pub(crate) fn entries(c: &Connection, span: Span) -> Sql<Vec<(Ino, Name)>> {
    let sql = "SELECT DISTINCT parent, name FROM dirent_undo WHERE epoch >= ?1 AND epoch < ?2";
    c.prepare_cached(sql)?
        .query_map(params![span.0, span.1], |r| {
            Ok((Ino(unsigned(r, 0)?), Arc::from(r.get_ref(1)?.as_blob()?)))
        })?
        .collect()
}

/// How many rows were kept, up to `most` of each table.
pub(crate) fn count(c: &Connection, span: Span, most: u64) -> Sql<u64> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut all = 0;
    for table in ["inode", "dirent", "extent", "xattr"] {
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {table}_undo WHERE epoch >= ?1 AND epoch < ?2 LIMIT ?3)"
        );
        let found: i64 = c
            .prepare_cached(&sql)?
            .query_row(params![span.0, span.1, most], |r| r.get(0))?;
        all += found.unsigned_abs();
    }
    Ok(all)
}
