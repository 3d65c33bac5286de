//! Reading rows from SQLite. Every function is one statement, so that it sees one state of the database.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::filemap::Piece;
use crate::ids::{Cookie, Epoch, ExtentId, Ino, Lsn};
use crate::rows::{Dirent, InodeRow, Location, Name, Place};
use crate::snapshot::{Point, Snapshot};

use super::live::USED;

type Sql<T> = rusqlite::Result<T>;

pub(super) const INODE_COLUMNS: &str = "ino, mode, uid, gid, nlink, rdev, size, allocated, atime_ns, mtime_ns, ctime_ns, \
                             btime_ns, parent, entries_hash, next_cookie";

/// SQLite's integers are signed; ours keep their bits.
pub(crate) fn signed(v: u64) -> i64 {
    v as i64
}

pub(crate) fn unsigned(row: &Row<'_>, at: usize) -> Sql<u64> {
    Ok(row.get::<_, i64>(at)? as u64)
}

pub(super) fn inode_row(row: &Row<'_>) -> Sql<InodeRow> {
    Ok(InodeRow {
        ino: Ino(unsigned(row, 0)?),
        mode: row.get(1)?,
        uid: row.get(2)?,
        gid: row.get(3)?,
        nlink: row.get(4)?,
        rdev: row.get(5)?,
        size: unsigned(row, 6)?,
        allocated: unsigned(row, 7)?,
        atime_ns: row.get(8)?,
        mtime_ns: row.get(9)?,
        ctime_ns: row.get(10)?,
        btime_ns: row.get(11)?,
        parent: Ino(unsigned(row, 12)?),
        entries_hash: unsigned(row, 13)?,
        next_cookie: unsigned(row, 14)?,
    })
}

pub(crate) fn inode(c: &Connection, ino: Ino) -> Sql<Option<InodeRow>> {
    let sql = format!("SELECT {INODE_COLUMNS} FROM inode WHERE ino = ?1");
    c.prepare_cached(&sql)?
        .query_row(params![signed(ino.0)], inode_row)
        .optional()
}

pub(super) fn dirent_at(row: &Row<'_>, at: usize) -> Sql<Dirent> {
    Ok(Dirent {
        ino: Ino(unsigned(row, at)?),
        kind: row.get(at + 1)?,
        cookie: Cookie(unsigned(row, at + 2)?),
    })
}

pub(crate) fn dirent(c: &Connection, parent: Ino, name: &[u8]) -> Sql<Option<Dirent>> {
    c.prepare_cached("SELECT ino, kind, cookie FROM dirent WHERE parent = ?1 AND name = ?2")?
        .query_row(params![signed(parent.0), name], |r| dirent_at(r, 0))
        .optional()
}

/// The entries of a directory behind a cookie, in cookie order, at most `limit`.
pub(crate) fn dirents(
    c: &Connection,
    parent: Ino,
    after: Cookie,
    limit: usize,
) -> Sql<Vec<(Name, Dirent)>> {
    let sql = "SELECT name, ino, kind, cookie FROM dirent WHERE parent = ?1 AND cookie > ?2 ORDER BY cookie LIMIT ?3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    c.prepare_cached(sql)?
        .query_map(params![signed(parent.0), signed(after.0), limit], |r| {
            Ok((Arc::from(r.get_ref(0)?.as_blob()?), dirent_at(r, 1)?))
        })?
        .collect()
}

pub(crate) fn extents(c: &Connection, ino: Ino) -> Sql<Vec<Piece>> {
    c.prepare_cached(
        "SELECT offset, len, extent, extent_offset FROM extent WHERE ino = ?1 ORDER BY offset",
    )?
    .query_map(params![signed(ino.0)], |r| piece_at(r, 0))?
    .collect()
}

pub(super) fn piece_at(row: &Row<'_>, at: usize) -> Sql<Piece> {
    Ok(Piece {
        offset: unsigned(row, at)?,
        len: unsigned(row, at + 1)?,
        extent: ExtentId(unsigned(row, at + 2)?),
        extent_offset: unsigned(row, at + 3)?,
    })
}

fn location_at(row: &Row<'_>, at: usize) -> Sql<Location> {
    let segment: Option<i64> = row.get(at)?;
    let pack: Option<i64> = row.get(at + 1)?;
    let offset = unsigned(row, at + 2)?;
    let place = match (segment, pack) {
        (Some(segment), _) => Place::Segment {
            segment: segment as u64,
            offset,
        },
        (None, Some(pack)) => Place::Pack {
            pack: pack as u64,
            offset,
        },
        (None, None) => return Err(rusqlite::Error::InvalidQuery),
    };
    let sums = row.get_ref(at + 4)?.as_blob_or_null()?.unwrap_or_default();
    let sums = sums
        .as_chunks::<4>()
        .0
        .iter()
        .map(|c| u32::from_le_bytes(*c))
        .collect();
    Ok(Location {
        place,
        len: unsigned(row, at + 3)?,
        sums,
    })
}

pub(crate) fn location(c: &Connection, extent: ExtentId) -> Sql<Option<Location>> {
    c.prepare_cached("SELECT segment, pack, offset, len, sums FROM location WHERE extent = ?1")?
        .query_row(params![signed(extent.0)], |r| location_at(r, 0))
        .optional()
}

/// The extents that were born in a segment and still lie there, with whether they are used, in the order in which they
/// lie.
pub(crate) fn segment_extents(
    c: &Connection,
    segment: u64,
) -> Sql<Vec<(ExtentId, Location, bool)>> {
    let sql = format!(
        "SELECT l.extent, l.segment, l.pack, l.offset, l.len, l.sums, {USED} \
         FROM location l WHERE l.segment = ?1 ORDER BY l.offset"
    );
    c.prepare_cached(&sql)?
        .query_map(params![signed(segment)], |r| {
            Ok((ExtentId(unsigned(r, 0)?), location_at(r, 1)?, r.get(6)?))
        })?
        .collect()
}

/// The extents that lie in segments and that are used, in the order in which they lie.
pub(crate) fn used_in_segments(c: &Connection) -> Sql<Vec<(ExtentId, Location)>> {
    let sql = format!(
        "SELECT l.extent, l.segment, l.pack, l.offset, l.len, l.sums FROM location l \
         WHERE l.segment IS NOT NULL AND {USED} ORDER BY l.segment, l.offset"
    );
    c.prepare_cached(&sql)?
        .query_map([], |r| Ok((ExtentId(unsigned(r, 0)?), location_at(r, 1)?)))?
        .collect()
}

/// The extents that are used and that lie in packs: pack, offset and length, in the order of packs.
pub(crate) fn each_packed(
    c: &Connection,
    mut visit: impl FnMut(ExtentId, u64, u64, u64),
) -> Sql<()> {
    let sql = format!(
        "SELECT l.extent, l.pack, l.offset, l.len FROM location l \
         WHERE l.pack IS NOT NULL AND {USED} ORDER BY l.pack, l.offset"
    );
    let mut statement = c.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(
            ExtentId(unsigned(row, 0)?),
            unsigned(row, 1)?,
            unsigned(row, 2)?,
            unsigned(row, 3)?,
        );
    }
    Ok(())
}

/// The extents in a pack that are used, in the order in which they lie.
pub(crate) fn used_in_pack(c: &Connection, pack: u64) -> Sql<Vec<(ExtentId, Location)>> {
    let sql = format!(
        "SELECT l.extent, l.segment, l.pack, l.offset, l.len, l.sums FROM location l \
         WHERE l.pack = ?1 AND {USED} ORDER BY l.offset"
    );
    c.prepare_cached(&sql)?
        .query_map(params![signed(pack)], |r| {
            Ok((ExtentId(unsigned(r, 0)?), location_at(r, 1)?))
        })?
        .collect()
}

/// The segments that hold bytes of extents that are used.
pub(crate) fn segments(c: &Connection) -> Sql<Vec<u64>> {
    let sql =
        format!("SELECT DISTINCT l.segment FROM location l WHERE l.segment IS NOT NULL AND {USED}");
    c.prepare_cached(&sql)?
        .query_map([], |r| unsigned(r, 0))?
        .collect()
}

pub(crate) fn xattrs(c: &Connection, ino: Ino) -> Sql<Vec<(Name, Vec<u8>)>> {
    c.prepare_cached("SELECT name, value FROM xattr WHERE ino = ?1")?
        .query_map(params![signed(ino.0)], |r| {
            Ok((Arc::from(r.get_ref(0)?.as_blob()?), r.get(1)?))
        })?
        .collect()
}

pub(crate) fn symlink(c: &Connection, ino: Ino) -> Sql<Option<Vec<u8>>> {
    c.prepare_cached("SELECT target FROM symlink WHERE ino = ?1")?
        .query_row(params![signed(ino.0)], |r| r.get(0))
        .optional()
}

pub(crate) fn orphans(c: &Connection) -> Sql<Vec<Ino>> {
    c.prepare_cached("SELECT ino FROM orphan ORDER BY ino")?
        .query_map([], |r| Ok(Ino(unsigned(r, 0)?)))?
        .collect()
}

/// All snapshots.
pub(crate) fn snapshots(c: &Connection) -> Sql<Vec<Snapshot>> {
    c.prepare("SELECT epoch, name, note, owner, made_ms, lsn, next_ino, kept FROM snapshot ORDER BY epoch")?
        .query_map([], |r| {
            Ok(Snapshot {
                epoch: Epoch(unsigned(r, 0)?),
                name: r.get(1)?,
                note: r.get(2)?,
                owner: r.get(3)?,
                made_ms: unsigned(r, 4)?,
                lsn: Lsn(unsigned(r, 5)?),
                next_ino: Ino(unsigned(r, 6)?),
                kept: r.get(7)?,
            })
        })?
        .collect()
}

/// The newest snapshot; none before the first one, and when none is left.
pub(crate) fn newest_point(c: &Connection) -> Sql<Option<Point>> {
    c.prepare_cached("SELECT epoch, next_ino FROM snapshot ORDER BY epoch DESC LIMIT 1")?
        .query_row([], |r| {
            Ok(Point {
                epoch: Epoch(unsigned(r, 0)?),
                next_ino: Ino(unsigned(r, 1)?),
            })
        })
        .optional()
}

/// Number of inodes and bytes mapped by them.
pub(crate) fn totals(c: &Connection) -> Sql<(u64, u64)> {
    c.query_row(
        "SELECT count(*), coalesce(sum(allocated), 0) FROM inode",
        [],
        |r| Ok((unsigned(r, 0)?, unsigned(r, 1)?)),
    )
}

/// A numeric setting.
pub(crate) fn setting(c: &Connection, name: &str) -> Sql<Option<u64>> {
    c.prepare_cached("SELECT value FROM setting WHERE name = ?1")?
        .query_row(params![name], |r| unsigned(r, 0))
        .optional()
}

/// How far the database is: the last LSN it holds.
pub(crate) fn checkpointed(c: &Connection) -> Sql<Lsn> {
    Ok(Lsn(setting(c, "checkpointed_lsn")?.unwrap_or(0)))
}
