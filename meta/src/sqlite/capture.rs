//! Keeping old rows for snapshots: what a row was before its first write after the newest one.
//!
//! Called by whoever is about to change a row, in the same transaction. The first capture of an epoch wins. A row that
//! was not there is kept as absent, and as nothing at all once it is gone again: what was born and died within an epoch
//! leaves no trace. Without a snapshot nothing happens here.

use rusqlite::{Connection, Params, params};

use crate::ids::{Epoch, Ino};

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

/// What is about to change belongs to this epoch.
#[derive(Clone, Copy)]
pub(super) struct Capture<'c> {
    c: &'c Connection,
    epoch: Epoch,
}

impl<'c> Capture<'c> {
    /// `epoch` is the newest snapshot, or 0.
    pub(super) fn new(c: &'c Connection, epoch: Epoch) -> Self {
        Self { c, epoch }
    }

    /// The epoch of rows that are written, as it is stored.
    pub(super) fn epoch(&self) -> i64 {
        signed(self.epoch.0)
    }

    fn is_needed(&self) -> bool {
        self.epoch > Epoch(0)
    }

    fn run(&self, sql: &str, params: impl Params) -> Sql<usize> {
        self.c.prepare_cached(sql)?.execute(params)
    }

    /// Before a row is written: keeps it as it is, or that it is not there.
    fn before_put(&self, keep: &str, absent: &str, key: impl Params + Copy) -> Sql<()> {
        if self.is_needed() && self.run(keep, key)? == 0 {
            self.run(absent, key)?;
        }
        Ok(())
    }

    /// Before rows are removed.
    fn before_del(&self, keep: &str, forget: &str, key: impl Params + Copy) -> Sql<()> {
        if self.is_needed() {
            self.run(keep, key)?;
            self.run(forget, key)?;
        }
        Ok(())
    }

    pub(super) fn put_inode(&self, ino: Ino) -> Sql<()> {
        self.before_put(KEEP_INODE, ABSENT_INODE, (self.epoch(), signed(ino.0)))
    }

    /// An inode goes with everything that belongs to it.
    pub(super) fn drop_inode(&self, ino: Ino) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0));
        self.before_del(KEEP_INODE, FORGET_INODE, key)?;
        self.cut_runs(ino, 0)?;
        self.before_del(KEEP_XATTRS, FORGET_XATTRS, key)?;
        self.before_del(KEEP_SYMLINK, FORGET_SYMLINK, key)
    }

    pub(super) fn put_dirent(&self, parent: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(parent.0), name);
        self.before_put(KEEP_DIRENT, ABSENT_DIRENT, key)
    }

    pub(super) fn del_dirent(&self, parent: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(parent.0), name);
        self.before_del(KEEP_DIRENT, FORGET_DIRENT, key)
    }

    pub(super) fn put_run(&self, ino: Ino, offset: u64) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), signed(offset));
        self.before_put(KEEP_RUN, ABSENT_RUN, key)
    }

    pub(super) fn del_run(&self, ino: Ino, offset: u64) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), signed(offset));
        self.before_del(KEEP_RUN, FORGET_RUN, key)
    }

    pub(super) fn cut_runs(&self, ino: Ino, from: u64) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), signed(from));
        self.before_del(KEEP_RUNS, FORGET_RUNS, key)
    }

    pub(super) fn put_xattr(&self, ino: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), name);
        self.before_put(KEEP_XATTR, ABSENT_XATTR, key)
    }

    pub(super) fn del_xattr(&self, ino: Ino, name: &[u8]) -> Sql<()> {
        let key = (self.epoch(), signed(ino.0), name);
        self.before_del(KEEP_XATTR, FORGET_XATTR, key)
    }

    pub(super) fn put_symlink(&self, ino: Ino) -> Sql<()> {
        self.before_put(KEEP_SYMLINK, ABSENT_SYMLINK, (self.epoch(), signed(ino.0)))
    }
}

/// The tables of old rows, with the columns of their keys, and one that is NULL where there was no row.
pub(crate) const UNDO: [(&str, &str, &str); 5] = [
    ("inode", "ino", "mode"),
    ("dirent", "parent, name", "ino"),
    ("extent", "ino, offset", "extent"),
    ("xattr", "ino, name", "value"),
    ("symlink", "ino", "target"),
];

/// Removes a snapshot in one transaction: what it kept goes to the next older one where that has nothing of its own.
/// Without an older one nobody needs it.
pub(crate) fn remove_snapshot(c: &mut Connection, epoch: Epoch) -> Sql<()> {
    let t = c.transaction()?;
    let older: Option<i64> = t.query_row(
        "SELECT max(epoch) FROM snapshot WHERE epoch < ?1",
        params![signed(epoch.0)],
        |r| r.get(0),
    )?;
    for (table, _, _) in UNDO {
        if let Some(older) = older {
            t.execute(
                &format!("UPDATE OR IGNORE {table}_undo SET epoch = ?2 WHERE epoch = ?1"),
                params![signed(epoch.0), older],
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
