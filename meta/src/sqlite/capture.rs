//! Keeping old rows for snapshots: what a row was before its first write after the newest one.
//!
//! Called by whoever is about to change a row, in the same transaction. The first capture of an epoch wins. A row that
//! was not there is kept as absent, and as nothing at all once it is gone again: what was born and died within an epoch
//! leaves no trace. Nothing is kept of inodes that were made after the snapshot, nor of what belongs to them: their
//! numbers tell. Without a snapshot nothing happens here.

use rusqlite::{Connection, OptionalExtension, Params, params};

use crate::ids::{Epoch, Ino};
use crate::snapshot::Point;

use super::read::signed;

type Sql<T> = rusqlite::Result<T>;

/// Keeps rows that are there and were last written before the epoch.
macro_rules! keep {
    ($table:literal, $key:literal, $columns:literal, $matches:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            "_undo (epoch, ",
            $key,
            ", ",
            $columns,
            ") SELECT ?1, ",
            $key,
            ", ",
            $columns,
            " FROM ",
            $table,
            " WHERE ",
            $matches,
            " AND epoch < ?1 ON CONFLICT DO NOTHING"
        )
    };
}

/// Keeps that a row is not there.
macro_rules! absent {
    ($table:literal, $key:literal, $values:literal, $matches:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            "_undo (epoch, ",
            $key,
            ") SELECT ?1, ",
            $values,
            " WHERE NOT EXISTS (SELECT 1 FROM ",
            $table,
            " WHERE ",
            $matches,
            ") ON CONFLICT DO NOTHING"
        )
    };
}

/// Forgets that rows were not there, when they are about to go again.
macro_rules! forget {
    ($table:literal, $column:literal, $matches:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            "_undo WHERE ",
            $matches,
            " AND epoch = ?1 AND ",
            $column,
            " IS NULL"
        )
    };
}

macro_rules! inode_columns {
    () => {
        "mode, uid, gid, nlink, rdev, size, allocated, atime_ns, mtime_ns, ctime_ns, btime_ns, parent, entries_hash, \
         next_cookie"
    };
}

const KEEP_INODE: &str = concat!(
    "INSERT INTO inode_undo (epoch, ino, ",
    inode_columns!(),
    ") SELECT ?1, ino, ",
    inode_columns!(),
    " FROM inode WHERE ino = ?2 AND epoch < ?1 ON CONFLICT DO NOTHING"
);
const ABSENT_INODE: &str = absent!("inode", "ino", "?2", "ino = ?2");
const FORGET_INODE: &str = forget!("inode", "mode", "ino = ?2");

const KEEP_DIRENT: &str = keep!(
    "dirent",
    "parent, name",
    "ino, kind, cookie",
    "parent = ?2 AND name = ?3"
);
const ABSENT_DIRENT: &str = absent!(
    "dirent",
    "parent, name",
    "?2, ?3",
    "parent = ?2 AND name = ?3"
);
const FORGET_DIRENT: &str = forget!("dirent", "ino", "parent = ?2 AND name = ?3");

const KEEP_RUN: &str = keep!(
    "extent",
    "ino, offset",
    "len, extent, extent_offset",
    "ino = ?2 AND offset = ?3"
);
const KEEP_RUNS: &str = keep!(
    "extent",
    "ino, offset",
    "len, extent, extent_offset",
    "ino = ?2 AND offset >= ?3"
);
const ABSENT_RUN: &str = absent!(
    "extent",
    "ino, offset",
    "?2, ?3",
    "ino = ?2 AND offset = ?3"
);
const FORGET_RUN: &str = forget!("extent", "extent", "ino = ?2 AND offset = ?3");
const FORGET_RUNS: &str = forget!("extent", "extent", "ino = ?2 AND offset >= ?3");

const KEEP_XATTR: &str = keep!("xattr", "ino, name", "value", "ino = ?2 AND name = ?3");
const KEEP_XATTRS: &str = keep!("xattr", "ino, name", "value", "ino = ?2");
const ABSENT_XATTR: &str = absent!("xattr", "ino, name", "?2, ?3", "ino = ?2 AND name = ?3");
const FORGET_XATTR: &str = forget!("xattr", "value", "ino = ?2 AND name = ?3");
const FORGET_XATTRS: &str = forget!("xattr", "value", "ino = ?2");

const KEEP_SYMLINK: &str = keep!("symlink", "ino", "target", "ino = ?2");
const ABSENT_SYMLINK: &str = absent!("symlink", "ino", "?2", "ino = ?2");
const FORGET_SYMLINK: &str = forget!("symlink", "target", "ino = ?2");

/// What is about to change is in the epoch of the newest snapshot.
#[derive(Clone, Copy)]
pub(super) struct Capture<'c> {
    c: &'c Connection,
    newest: Point,
}

impl<'c> Capture<'c> {
    /// `newest` is the newest snapshot, if there is one.
    pub(super) fn new(c: &'c Connection, newest: Option<Point>) -> Self {
        // No inode is older than no snapshot.
        let none = Point {
            epoch: Epoch(0),
            next_ino: Ino(0),
        };
        let newest = newest.unwrap_or(none);
        Self { c, newest }
    }

    /// The epoch of rows that are written, as it is stored.
    pub(super) fn epoch(&self) -> i64 {
        signed(self.newest.epoch.0)
    }

    /// Whether the snapshot has this inode: as a file or link, or as the directory of an entry.
    fn has(&self, ino: Ino) -> bool {
        ino < self.newest.next_ino
    }

    fn run(&self, sql: &str, params: impl Params) -> Sql<usize> {
        self.c.prepare_cached(sql)?.execute(params)
    }

    /// Before a row is written: keeps it as it is, or that it is not there.
    fn before_put(&self, ino: Ino, keep: &str, absent: &str, key: impl Params + Copy) -> Sql<()> {
        if self.has(ino) && self.run(keep, key)? == 0 {
            self.run(absent, key)?;
        }
        Ok(())
    }

    /// Before rows are removed.
    fn before_del(&self, ino: Ino, keep: &str, forget: &str, key: impl Params + Copy) -> Sql<()> {
        if self.has(ino) {
            self.run(keep, key)?;
            self.run(forget, key)?;
        }
        Ok(())
    }

    pub(super) fn put_inode(&self, ino: Ino) -> Sql<()> {
        self.before_put(ino, KEEP_INODE, ABSENT_INODE, (self.epoch(), signed(ino.0)))
    }

    /// An inode goes with everything that belongs to it. It may have lost its last name long ago: it is kept for the newest
    /// snapshot in which it had one, and nobody needs it for those after that.
    pub(super) fn drop_inode(&self, ino: Ino) -> Sql<()> {
        if !self.has(ino) {
            return Ok(());
        }
        let last = self.last_named(ino)?;
        if last == Some(self.epoch()) {
            let key = (self.epoch(), signed(ino.0));
            self.before_del(ino, KEEP_INODE, FORGET_INODE, key)?;
            self.cut_runs(ino, 0)?;
            self.before_del(ino, KEEP_XATTRS, FORGET_XATTRS, key)?;
            return self.before_del(ino, KEEP_SYMLINK, FORGET_SYMLINK, key);
        }
        for (table, _, _) in UNDO.iter().filter(|(table, ..)| *table != "dirent") {
            self.move_back(table, ino, last)?;
        }
        if let Some(last) = last {
            let key = (last, signed(ino.0));
            self.run(KEEP_INODE, key)?;
            self.run(KEEP_RUNS, (last, signed(ino.0), 0_i64))?;
            self.run(KEEP_XATTRS, key)?;
            self.run(KEEP_SYMLINK, key)?;
        }
        Ok(())
    }

    /// The newest snapshot in which an inode had a name.
    fn last_named(&self, ino: Ino) -> Sql<Option<i64>> {
        let key = params![signed(ino.0), self.epoch()];
        let is_named =
            "SELECT EXISTS (SELECT 1 FROM inode WHERE ino = ?1 AND nlink > 0 AND epoch < ?2)";
        let mut statement = self.c.prepare_cached(is_named)?;
        if statement.query_row(key, |r| r.get(0))? {
            return Ok(Some(self.epoch()));
        }
        let kept = "SELECT max(epoch) FROM inode_undo WHERE ino = ?1 AND nlink > 0";
        let mut statement = self.c.prepare_cached(kept)?;
        statement.query_row(params![signed(ino.0)], |r| r.get(0))
    }

    /// What was kept of an inode for snapshots after `last` is kept for that one, where it has nothing of its own, or not
    /// at all.
    fn move_back(&self, table: &str, ino: Ino, last: Option<i64>) -> Sql<()> {
        if let Some(last) = last {
            let later = format!(
                "SELECT DISTINCT epoch FROM {table}_undo WHERE ino = ?1 AND epoch > ?2 ORDER BY epoch"
            );
            let mut statement = self.c.prepare_cached(&later)?;
            let later =
                statement.query_map(params![signed(ino.0), last], |r| r.get::<_, i64>(0))?;
            // The first one after it has what it had.
            for epoch in later.collect::<Sql<Vec<_>>>()? {
                let moved = format!(
                    "UPDATE OR IGNORE {table}_undo SET epoch = ?2 WHERE ino = ?1 AND epoch = ?3"
                );
                self.run(&moved, params![signed(ino.0), last, epoch])?;
            }
        }
        let rest = format!("DELETE FROM {table}_undo WHERE ino = ?1 AND epoch > ?2");
        self.run(&rest, params![signed(ino.0), last.unwrap_or(0)])
            .map(drop)
    }

    pub(super) fn put_dirent(&self, parent: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(parent.0), name);
        self.before_put(parent, KEEP_DIRENT, ABSENT_DIRENT, key)
    }

    pub(super) fn del_dirent(&self, parent: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(parent.0), name);
        self.before_del(parent, KEEP_DIRENT, FORGET_DIRENT, key)
    }

    pub(super) fn put_run(&self, ino: Ino, offset: u64) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), signed(offset));
        self.before_put(ino, KEEP_RUN, ABSENT_RUN, key)
    }

    pub(super) fn del_run(&self, ino: Ino, offset: u64) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), signed(offset));
        self.before_del(ino, KEEP_RUN, FORGET_RUN, key)
    }

    pub(super) fn cut_runs(&self, ino: Ino, from: u64) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), signed(from));
        self.before_del(ino, KEEP_RUNS, FORGET_RUNS, key)
    }

    pub(super) fn put_xattr(&self, ino: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), name);
        self.before_put(ino, KEEP_XATTR, ABSENT_XATTR, key)
    }

    pub(super) fn del_xattr(&self, ino: Ino, name: &[u8]) -> Sql<()> {
        // Left out, it is the planted bug that the histories of a volume must find.
        if cfg!(feature = "planted-undo-forgets-a-row") {
            return Ok(());
        }
        let key = (self.epoch(), signed(ino.0), name);
        self.before_del(ino, KEEP_XATTR, FORGET_XATTR, key)
    }

    pub(super) fn put_symlink(&self, ino: Ino) -> Sql<()> {
        self.before_put(
            ino,
            KEEP_SYMLINK,
            ABSENT_SYMLINK,
            (self.epoch(), signed(ino.0)),
        )
    }
}

/// The tables of old rows, with the columns of their keys, the first of which is an inode, and a column that is NULL where
/// there was no row.
pub(crate) const UNDO: [(&str, &str, &str); 5] = [
    ("inode", "ino", "mode"),
    ("dirent", "parent, name", "ino"),
    ("extent", "ino, offset", "extent"),
    ("xattr", "ino, name", "value"),
    ("symlink", "ino", "target"),
];

/// Removes a snapshot in one transaction: what it kept goes to the next older one where that has nothing of its own and
/// has the inode. Without an older one nobody needs it.
pub(crate) fn remove_snapshot(c: &mut Connection, epoch: Epoch) -> Sql<()> {
    let t = c.transaction()?;
    let older = t
        .query_row(
            "SELECT epoch, next_ino FROM snapshot WHERE epoch < ?1 ORDER BY epoch DESC LIMIT 1",
            params![signed(epoch.0)],
            |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)),
        )
        .optional()?;
    for (table, key, _) in UNDO {
        if let Some((older, next_ino)) = older {
            let owner = key.split(", ").next().unwrap_or(key);
            t.execute(
                &format!(
                    "UPDATE OR IGNORE {table}_undo SET epoch = ?2 WHERE epoch = ?1 AND {owner} < ?3"
                ),
                params![signed(epoch.0), older, next_ino],
            )?;
        }
        t.execute(
            &format!("DELETE FROM {table}_undo WHERE epoch = ?1"),
            params![signed(epoch.0)],
        )?;
    }
    t.execute(
        "DELETE FROM snapshot WHERE epoch = ?1",
        params![signed(epoch.0)],
    )?;
    t.commit()
}
