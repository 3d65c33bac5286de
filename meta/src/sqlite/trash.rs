//! Reading the trash: rows of removed names with what they named. Every function that is called while others write is one
//! statement.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::ids::Ino;
use crate::rows::Name;
use crate::trash::Held;

use super::read::{signed, unsigned};

type Sql<T> = rusqlite::Result<T>;

/// A name in the trash, and what it named.
#[derive(Clone, Debug)]
pub(crate) struct TrashedName {
    pub(crate) ino: Ino,
    pub(crate) parent: Ino,
    pub(crate) name: Name,
    pub(crate) deleted_ms: u64,
    pub(crate) dir_mtime_ns: i64,
    pub(crate) mode: u32,
    pub(crate) size: u64,
}

impl TrashedName {
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

const COLUMNS: &str = "t.ino, t.parent, t.name, t.deleted_ms, t.dir_mtime_ns, i.mode, i.size";

fn row_at(row: &Row<'_>) -> Sql<TrashedName> {
    Ok(TrashedName {
        ino: Ino(unsigned(row, 0)?),
        parent: Ino(unsigned(row, 1)?),
        name: Arc::from(row.get_ref(2)?.as_blob()?),
        deleted_ms: unsigned(row, 3)?,
        dir_mtime_ns: row.get(4)?,
        mode: row.get(5)?,
        size: unsigned(row, 6)?,
    })
}

/// Everything.
pub(crate) fn all(c: &Connection) -> Sql<Vec<TrashedName>> {
    c.prepare(&format!(
        "SELECT {COLUMNS} FROM trash t JOIN inode i ON i.ino = t.ino ORDER BY t.id"
    ))?
    .query_map([], row_at)?
    .collect()
}

/// What was removed from a directory.
pub(crate) fn of_dir(c: &Connection, dir: Ino) -> Sql<Vec<TrashedName>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM trash t JOIN inode i ON i.ino = t.ino WHERE t.parent = ?1 ORDER BY t.id"
    ))?
    .query_map(params![signed(dir.0)], row_at)?
    .collect()
}

/// What was removed from a directory under one name.
pub(crate) fn of_name(c: &Connection, dir: Ino, name: &[u8]) -> Sql<Vec<TrashedName>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM trash t JOIN inode i ON i.ino = t.ino WHERE t.parent = ?1 AND t.name = ?2"
    ))?
    .query_map(params![signed(dir.0), name], row_at)?
    .collect()
}

/// The name of a directory that is in the trash.
pub(crate) fn of_removed_dir(c: &Connection, dir: Ino) -> Sql<Option<TrashedName>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM trash t JOIN inode i ON i.ino = t.ino WHERE t.ino = ?1 LIMIT 1"
    ))?
    .query_row(params![signed(dir.0)], row_at)
    .optional()
}

/// Whether anything that was removed from a directory is there.
pub(crate) fn has_names_of(c: &Connection, dir: Ino) -> Sql<bool> {
    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM trash WHERE parent = ?1)")?
        .query_row(params![signed(dir.0)], |r| r.get(0))
}

/// The oldest names: at most `limit` that were removed up to `until_ms`. Directories are left out as long as something that
/// was in them is there.
pub(crate) fn oldest(
    c: &Connection,
    until_ms: u64,
    in_segments: bool,
    limit: usize,
) -> Sql<Vec<TrashedName>> {
    let where_they_lie = match in_segments {
        true => {
            " AND EXISTS (SELECT 1 FROM extent e JOIN location l ON l.extent = e.extent \
             WHERE e.ino = t.ino AND l.segment IS NOT NULL)"
        }
        false => "",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM trash t JOIN inode i ON i.ino = t.ino WHERE t.deleted_ms <= ?1 \
         AND NOT EXISTS (SELECT 1 FROM trash c WHERE c.parent = t.ino){where_they_lie} \
         ORDER BY t.deleted_ms, t.id LIMIT ?2"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // Times are far below 2^63.
    let until = i64::try_from(until_ms).unwrap_or(i64::MAX);
    c.prepare_cached(&sql)?
        .query_map(params![until, limit], row_at)?
        .collect()
}

/// Whether a name is the last one of its inode in the trash, in the order of [`oldest`]; none: it is not there any more, or
/// was put there again.
pub(crate) fn is_last(c: &Connection, name: &TrashedName) -> Sql<Option<bool>> {
    c.prepare_cached(
        "SELECT NOT EXISTS (SELECT 1 FROM trash s WHERE s.ino = t.ino AND (s.deleted_ms, s.id) > (t.deleted_ms, t.id)) \
         FROM trash t WHERE t.ino = ?1 AND t.parent = ?2 AND t.name = ?3 AND t.deleted_ms = ?4",
    )?
    .query_row(
        params![
            signed(name.ino.0),
            signed(name.parent.0),
            &name.name[..],
            i64::try_from(name.deleted_ms).unwrap_or(i64::MAX)
        ],
        |r| r.get(0),
    )
    .optional()
}

/// How much there is, at the start.
pub(crate) fn held(c: &Connection) -> Sql<Held> {
    let names = c.query_row("SELECT count(*) FROM trash", [], |r| unsigned(r, 0))?;
    c.query_row(
        "SELECT count(*), coalesce(sum(i.allocated), 0) FROM (SELECT DISTINCT ino FROM trash) t \
         JOIN inode i ON i.ino = t.ino WHERE i.nlink = 0",
        [],
        |r| {
            Ok(Held {
                names,
                inodes: r.get(0)?,
                bytes: r.get(1)?,
            })
        },
    )
}

/// A directory that a name of an inode was in which is in the trash.
pub(crate) fn dir_of(c: &Connection, ino: Ino) -> Sql<Option<Ino>> {
    c.prepare_cached("SELECT parent FROM trash WHERE ino = ?1 LIMIT 1")?
        .query_row(params![signed(ino.0)], |r| Ok(Ino(unsigned(r, 0)?)))
        .optional()
}

/// Visits every row: what it named, and the directory.
pub(crate) fn each(c: &Connection, mut visit: impl FnMut(Ino, Ino)) -> Sql<()> {
    let mut statement = c.prepare("SELECT ino, parent FROM trash")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(Ino(unsigned(row, 0)?), Ino(unsigned(row, 1)?));
    }
    Ok(())
}

/// How many names there are.
pub(crate) fn names(c: &Connection) -> Sql<u64> {
    c.query_row("SELECT count(*) FROM trash", [], |r| unsigned(r, 0))
}
