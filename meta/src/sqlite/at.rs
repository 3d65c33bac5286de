//! Reading rows as they were at a snapshot, or as they are now.
//!
//! A row at a snapshot is the first one that was kept at or after it, or else the current one; and nothing belongs to an
//! inode that was made later. Every function is one statement, so that no checkpoint can come between the two; the answer
//! is the same before and after it.

use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, OptionalExtension, params};

use crate::filemap::Piece;
use crate::ids::{Cookie, Ino};
use crate::rows::{Dirent, InodeRow, Name};
use crate::snapshot::Point;

use super::read::{INODE_COLUMNS, dirent_at, inode_row, piece_at, signed, unsigned};

type Sql<T> = rusqlite::Result<T>;

/// No snapshot is that new, so nothing was kept for it.
const PRESENT: i64 = i64::MAX;

/// The statements. `?1` is the epoch and `?2` the first inode number that was not given yet in all of them.
struct Statements {
    inode: String,
    inodes: String,
    dirent: String,
    dirents: String,
    all_dirents: String,
    names: String,
    runs: String,
    all_runs: String,
    xattrs: String,
    symlink: String,
    symlinks: String,
    all_xattrs: String,
}

/// A subquery for the rows of a table: those that were kept, and current ones of which nothing was.
fn kept_rows(table: &str, key: &[&str], columns: &str, mark: &str) -> String {
    let same = |a: &str, b: &str| {
        let pairs: Vec<String> = key.iter().map(|k| format!("{a}.{k} = {b}.{k}")).collect();
        pairs.join(" AND ")
    };
    let (kept, current, owner) = (same("v", "u"), same("v", "t"), key[0]);
    format!(
        "(SELECT {columns} FROM {table}_undo u WHERE u.epoch >= ?1 AND u.{mark} IS NOT NULL AND +u.{owner} < ?2 \
         AND NOT EXISTS (SELECT 1 FROM {table}_undo v WHERE {kept} AND v.epoch >= ?1 AND v.epoch < u.epoch) \
         UNION ALL SELECT {columns} FROM {table} t WHERE +t.{owner} < ?2 \
         AND NOT EXISTS (SELECT 1 FROM {table}_undo v WHERE {current} AND v.epoch >= ?1))"
    )
}

/// The same for current rows alone.
fn current_rows(table: &str, _: &[&str], columns: &str, _: &str) -> String {
    format!("(SELECT {columns} FROM {table} WHERE ?1 > 0 AND ?2 > 0)")
}

static KEPT: LazyLock<Statements> = LazyLock::new(|| statements(kept_rows));
static CURRENT: LazyLock<Statements> = LazyLock::new(|| statements(current_rows));

fn statements(rows_of: impl Fn(&str, &[&str], &str, &str) -> String) -> Statements {
    let inodes = rows_of("inode", &["ino"], INODE_COLUMNS, "mode");
    let dirents = rows_of(
        "dirent",
        &["parent", "name"],
        "parent, name, ino, kind, cookie",
        "ino",
    );
    let runs = rows_of(
        "extent",
        &["ino", "offset"],
        "ino, offset, len, extent, extent_offset",
        "extent",
    );
    let xattrs = rows_of("xattr", &["ino", "name"], "ino, name, value", "value");
    let symlinks = rows_of("symlink", &["ino"], "ino, target", "target");
    Statements {
        inode: format!("SELECT {INODE_COLUMNS} FROM {inodes} WHERE ino = ?3"),
        inodes: format!("SELECT {INODE_COLUMNS} FROM {inodes}"),
        dirent: format!("SELECT ino, kind, cookie FROM {dirents} WHERE parent = ?3 AND name = ?4"),
        dirents: format!(
            "SELECT name, ino, kind, cookie FROM {dirents} WHERE parent = ?3 AND cookie > ?4 ORDER BY cookie LIMIT ?5"
        ),
        all_dirents: format!("SELECT parent, name, ino, kind, cookie FROM {dirents}"),
        names: format!("SELECT parent, name FROM {dirents} WHERE ino = ?3"),
        runs: format!(
            "SELECT offset, len, extent, extent_offset FROM {runs} WHERE ino = ?3 ORDER BY offset"
        ),
        all_runs: format!(
            "SELECT e.ino, e.offset, e.len, e.extent, e.extent_offset, l.len FROM {runs} e \
             LEFT JOIN location l ON l.extent = e.extent ORDER BY e.ino, e.offset"
        ),
        xattrs: format!("SELECT name, value FROM {xattrs} WHERE ino = ?3 ORDER BY name"),
        symlink: format!("SELECT target FROM {symlinks} WHERE ino = ?3"),
        symlinks: format!("SELECT ino FROM {symlinks}"),
        all_xattrs: format!("SELECT DISTINCT ino FROM {xattrs}"),
    }
}

/// The tables at a snapshot, or now.
#[derive(Clone, Copy)]
pub(crate) struct At<'c> {
    c: &'c Connection,
    sql: &'static Statements,
    epoch: i64,
    next_ino: i64,
}

impl<'c> At<'c> {
    /// At a snapshot. All that was acknowledged before it has to be in SQLite.
    pub(crate) fn snapshot(c: &'c Connection, point: Point) -> Self {
        Self {
            c,
            sql: &KEPT,
            epoch: signed(point.epoch.0),
            next_ino: signed(point.next_ino.0),
        }
    }

    /// As of the last checkpoint.
    pub(crate) fn present(c: &'c Connection) -> Self {
        Self {
            c,
            sql: &CURRENT,
            epoch: PRESENT,
            next_ino: i64::MAX,
        }
    }

    /// The epoch of a snapshot, as [`At::epoch`] tells it.
    pub(crate) fn epoch_of(point: Point) -> i64 {
        signed(point.epoch.0)
    }

    /// Whether an inode was made later.
    pub(crate) fn is_later(&self, ino: Ino) -> bool {
        signed(ino.0) >= self.next_ino
    }

    pub(crate) fn connection(&self) -> &'c Connection {
        self.c
    }

    /// The epoch up to which, without itself, what was kept differs from this. Greater than every snapshot's for the present.
    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    pub(crate) fn inode(&self, ino: Ino) -> Sql<Option<InodeRow>> {
        self.c
            .prepare_cached(&self.sql.inode)?
            .query_row(params![self.epoch, self.next_ino, signed(ino.0)], inode_row)
            .optional()
    }

    /// Visits every inode, in no order.
    pub(crate) fn each_inode(&self, mut visit: impl FnMut(InodeRow)) -> Sql<()> {
        let mut statement = self.c.prepare(&self.sql.inodes)?;
        let mut rows = statement.query([self.epoch, self.next_ino])?;
        while let Some(row) = rows.next()? {
            visit(inode_row(row)?);
        }
        Ok(())
    }

    pub(crate) fn dirent(&self, parent: Ino, name: &[u8]) -> Sql<Option<Dirent>> {
        self.c
            .prepare_cached(&self.sql.dirent)?
            .query_row(
                params![self.epoch, self.next_ino, signed(parent.0), name],
                |r| dirent_at(r, 0),
            )
            .optional()
    }

    /// The entries of a directory behind a cookie, in cookie order, at most `limit`.
    pub(crate) fn dirents(
        &self,
        parent: Ino,
        after: Cookie,
        limit: usize,
    ) -> Sql<Vec<(Name, Dirent)>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let key = params![
            self.epoch,
            self.next_ino,
            signed(parent.0),
            signed(after.0),
            limit
        ];
        self.c
            .prepare_cached(&self.sql.dirents)?
            .query_map(key, |r| {
                Ok((Arc::from(r.get_ref(0)?.as_blob()?), dirent_at(r, 1)?))
            })?
            .collect()
    }

    /// Visits every directory entry, in no order.
    pub(crate) fn each_dirent(&self, mut visit: impl FnMut(Ino, &[u8], Dirent)) -> Sql<()> {
        let mut statement = self.c.prepare(&self.sql.all_dirents)?;
        let mut rows = statement.query([self.epoch, self.next_ino])?;
        while let Some(row) = rows.next()? {
            let name = row.get_ref(1)?.as_blob()?;
            visit(Ino(unsigned(row, 0)?), name, dirent_at(row, 2)?);
        }
        Ok(())
    }

    /// The names of an inode: of each the directory and the name in it.
    pub(crate) fn names(&self, ino: Ino) -> Sql<Vec<(Ino, Name)>> {
        self.c
            .prepare_cached(&self.sql.names)?
            .query_map(params![self.epoch, self.next_ino, signed(ino.0)], |r| {
                Ok((Ino(unsigned(r, 0)?), Arc::from(r.get_ref(1)?.as_blob()?)))
            })?
            .collect()
    }

    /// The runs of a file, in order.
    pub(crate) fn runs(&self, ino: Ino) -> Sql<Vec<Piece>> {
        self.c
            .prepare_cached(&self.sql.runs)?
            .query_map(params![self.epoch, self.next_ino, signed(ino.0)], |r| {
                piece_at(r, 0)
            })?
            .collect()
    }

    /// Visits every run of every file, in file and offset order, with the length of its extent's location (none:
    /// missing).
    pub(crate) fn each_run(&self, mut visit: impl FnMut(Ino, Piece, Option<u64>)) -> Sql<()> {
        let mut statement = self.c.prepare(&self.sql.all_runs)?;
        let mut rows = statement.query([self.epoch, self.next_ino])?;
        while let Some(row) = rows.next()? {
            let len: Option<i64> = row.get(5)?;
            visit(
                Ino(unsigned(row, 0)?),
                piece_at(row, 1)?,
                len.map(|v| v as u64),
            );
        }
        Ok(())
    }

    /// The attributes of an inode, by name.
    pub(crate) fn xattrs(&self, ino: Ino) -> Sql<Vec<(Name, Vec<u8>)>> {
        self.c
            .prepare_cached(&self.sql.xattrs)?
            .query_map(params![self.epoch, self.next_ino, signed(ino.0)], |r| {
                Ok((Arc::from(r.get_ref(0)?.as_blob()?), r.get(1)?))
            })?
            .collect()
    }

    pub(crate) fn symlink(&self, ino: Ino) -> Sql<Option<Vec<u8>>> {
        self.c
            .prepare_cached(&self.sql.symlink)?
            .query_row(params![self.epoch, self.next_ino, signed(ino.0)], |r| {
                r.get(0)
            })
            .optional()
    }

    /// The inodes that have a target.
    pub(crate) fn with_target(&self) -> Sql<Vec<Ino>> {
        self.inos(&self.sql.symlinks)
    }

    /// The inodes that have attributes.
    pub(crate) fn with_xattrs(&self) -> Sql<Vec<Ino>> {
        self.inos(&self.sql.all_xattrs)
    }

    fn inos(&self, sql: &str) -> Sql<Vec<Ino>> {
        self.c
            .prepare(sql)?
            .query_map([self.epoch, self.next_ino], |r| Ok(Ino(unsigned(r, 0)?)))?
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for one key must not read a table, nor all that was kept since.
    #[test]
    fn a_question_about_one_key_goes_by_that_key() {
        let mut c = Connection::open_in_memory().unwrap();
        crate::sqlite::schema::migrate(&mut c).unwrap();
        let of_one_key = |s: &'static Statements| {
            [
                &s.inode, &s.dirent, &s.dirents, &s.names, &s.runs, &s.xattrs, &s.symlink,
            ]
        };
        for sql in of_one_key(&KEPT).into_iter().chain(of_one_key(&CURRENT)) {
            let mut statement = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let count = statement.parameter_count();
            let params = rusqlite::params_from_iter(std::iter::repeat_n(1_i64, count));
            let plan: Vec<String> = statement
                .query_map(params, |r| r.get(3))
                .unwrap()
                .collect::<Sql<_>>()
                .unwrap();
            for step in &plan {
                assert!(!step.starts_with("SCAN"), "{sql}: {plan:#?}");
                assert!(!step.contains("_by_epoch"), "{sql}: {plan:#?}");
                assert!(!step.contains("TEMP B-TREE"), "{sql}: {plan:#?}");
            }
        }
    }
}
