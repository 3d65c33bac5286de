//! Moving what was written into files since a snapshot into that snapshot, as if it had been written just before it.
//!
//! Owns nothing but that: which files, and when, is the caller's. The files have no name since the snapshot, so that no
//! newer state has them.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::ids::{Epoch, Ino};

use super::read::signed;

type Sql<T> = rusqlite::Result<T>;

/// The snapshot before it: its epoch and the first inode number that is not in it.
type Older = Option<(i64, i64)>;

/// What a write changes of an inode's row.
const WRITTEN: &str = "mode, uid, gid, size, allocated, atime_ns, mtime_ns, ctime_ns";

/// Does it in one transaction, for those of the files that are there and that the snapshot has. Returns how many these
/// are; none if there is no such snapshot.
pub(crate) fn backdate(c: &mut Connection, epoch: Epoch, inos: &[Ino]) -> Sql<usize> {
    let t = c.transaction()?;
    let is_there = t
        .query_row(
            "SELECT 1 FROM snapshot WHERE epoch = ?1",
            params![signed(epoch.0)],
            |_| Ok(()),
        )
        .optional()?;
    if is_there.is_none() {
        return Ok(0);
    }
    let older = t
        .query_row(
            "SELECT epoch, next_ino FROM snapshot WHERE epoch < ?1 ORDER BY epoch DESC LIMIT 1",
            params![signed(epoch.0)],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .optional()?;
    let mut moved = 0;
    for ino in inos {
        if one(&t, signed(epoch.0), older, signed(ino.0))? {
            moved += 1;
        }
    }
    t.commit()?;
    Ok(moved)
}

fn one(t: &Transaction<'_>, epoch: i64, older: Older, ino: i64) -> Sql<bool> {
    if has_name_since(t, epoch, ino)? {
        return Ok(false);
    }
    let older = older
        .filter(|(_, next_ino)| ino < *next_ino)
        .map(|(e, _)| e);
    if let Some(older) = older {
        // What it was before is the older one's, if that has nothing of its own.
        t.prepare_cached(
            "INSERT OR IGNORE INTO inode_undo (epoch, ino, mode, uid, gid, nlink, rdev, size, allocated, atime_ns, \
             mtime_ns, ctime_ns, btime_ns, parent, entries_hash, next_cookie) \
             SELECT ?2, ino, mode, uid, gid, nlink, rdev, size, allocated, atime_ns, mtime_ns, ctime_ns, btime_ns, \
             parent, entries_hash, next_cookie FROM inode_undo WHERE epoch = ?1 AND ino = ?3",
        )?
        .execute(params![epoch, older, ino])?;
    }
    // The name that it had is not touched: links and parent stay as they were.
    let changed = t
        .prepare_cached(&format!(
            "UPDATE inode_undo SET ({WRITTEN}) = (SELECT {WRITTEN} FROM inode WHERE ino = ?2) \
             WHERE epoch = ?1 AND ino = ?2 AND mode IS NOT NULL AND EXISTS (SELECT 1 FROM inode WHERE ino = ?2)"
        ))?
        .execute(params![epoch, ino])?;
    if changed == 0 {
        return Ok(false);
    }
    // In newer states it has no name: there it is what it is now.
    t.prepare_cached("DELETE FROM inode_undo WHERE epoch > ?1 AND ino = ?2")?
        .execute(params![epoch, ino])?;
    t.prepare_cached("UPDATE inode SET epoch = ?1 WHERE ino = ?2 AND epoch > ?1")?
        .execute(params![epoch, ino])?;
    for table in ["extent", "xattr"] {
        if let Some(older) = older {
            // As it was at the snapshot is what was kept first, there or at a newer one.
            let sql = format!(
                "SELECT DISTINCT epoch FROM {table}_undo WHERE ino = ?2 AND epoch >= ?1 ORDER BY epoch"
            );
            let epochs: Vec<i64> = t
                .prepare_cached(&sql)?
                .query_map(params![epoch, ino], |r| r.get(0))?
                .collect::<Sql<_>>()?;
            for kept in epochs {
                t.prepare_cached(&format!(
                    "UPDATE OR IGNORE {table}_undo SET epoch = ?2 WHERE epoch = ?1 AND ino = ?3"
                ))?
                .execute(params![kept, older, ino])?;
            }
        }
        t.prepare_cached(&format!(
            "DELETE FROM {table}_undo WHERE epoch >= ?1 AND ino = ?2"
        ))?
        .execute(params![epoch, ino])?;
        // Rows of an older epoch: they are kept when they change or go.
        t.prepare_cached(&format!(
            "UPDATE {table} SET epoch = ?2 WHERE ino = ?3 AND epoch >= ?1"
        ))?
        .execute(params![epoch, older.unwrap_or(0), ino])?;
    }
    Ok(true)
}

/// Whether a state that is newer than the snapshot has a name of the inode: what was written belongs to that one.
fn has_name_since(t: &Transaction<'_>, epoch: i64, ino: i64) -> Sql<bool> {
    t.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM inode WHERE ino = ?2 AND nlink > 0) \
         OR EXISTS (SELECT 1 FROM inode_undo WHERE ino = ?2 AND epoch > ?1 AND nlink > 0)",
    )?
    .query_row(params![epoch, ino], |r| r.get(0))
}
