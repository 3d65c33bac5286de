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
