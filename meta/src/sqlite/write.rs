//! Writing a generation of the overlay, and moves of extents, to SQLite. Only the checkpointer calls this.

use rusqlite::{Connection, Transaction, params};

use crate::ids::{ExtentId, Ino};
use crate::overlay::{FileOverlay, Generation};
use crate::rows::{InodeRow, Location, Place};

use super::packs::PackRow;
use super::read::signed;

type Sql<T> = rusqlite::Result<T>;

/// Counters that live in the table `setting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) next_ino: u64,
    pub(crate) next_extent: u64,
}

pub(crate) fn put_setting(c: &Connection, name: &str, value: u64) -> Sql<()> {
    c.prepare_cached("INSERT OR REPLACE INTO setting (name, value) VALUES (?1, ?2)")?
        .execute(params![name, signed(value)])
        .map(drop)
}

/// Writes a whole generation and the counters as of its end, in one transaction.
pub(crate) fn generation(c: &mut Connection, g: &Generation, counters: Counters) -> Sql<()> {
    let t = c.transaction()?;
    for (ino, row) in &g.inodes {
        match row {
            Some(row) => put_inode(&t, row)?,
            None => drop_inode(&t, *ino)?,
        }
    }
    dirents(&t, g)?;
    for (ino, file) in &g.files {
        put_file(&t, *ino, file)?;
    }
    for (extent, location) in &g.locations {
        put_location(&t, *extent, location)?;
    }
    attributes(&t, g)?;
    put_setting(&t, "checkpointed_lsn", g.last.0)?;
    put_setting(&t, "next_ino", counters.next_ino)?;
    put_setting(&t, "next_extent", counters.next_extent)?;
    t.commit()
}

fn put_inode(t: &Transaction<'_>, row: &InodeRow) -> Sql<()> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO inode (ino, mode, uid, gid, nlink, rdev, size, allocated, atime_ns, mtime_ns, \
         ctime_ns, btime_ns, parent, entries_hash, next_cookie, epoch) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0)",
    )?
    .execute(params![
        signed(row.ino.0),
        row.mode,
        row.uid,
        row.gid,
        row.nlink,
        row.rdev,
        signed(row.size),
        signed(row.allocated),
        row.atime_ns,
        row.mtime_ns,
        row.ctime_ns,
        row.btime_ns,
        signed(row.parent.0),
        signed(row.entries_hash),
        signed(row.next_cookie),
    ])
    .map(drop)
}

fn drop_inode(t: &Transaction<'_>, ino: Ino) -> Sql<()> {
    for sql in [
        "DELETE FROM inode WHERE ino = ?1",
        "DELETE FROM extent WHERE ino = ?1",
        "DELETE FROM xattr WHERE ino = ?1",
        "DELETE FROM symlink WHERE ino = ?1",
        "DELETE FROM orphan WHERE ino = ?1",
    ] {
        t.prepare_cached(sql)?.execute(params![signed(ino.0)])?;
    }
    Ok(())
}

/// Removals first: an entry that moved to another name keeps its cookie's uniqueness.
fn dirents(t: &Transaction<'_>, g: &Generation) -> Sql<()> {
    let mut delete = t.prepare_cached("DELETE FROM dirent WHERE parent = ?1 AND name = ?2")?;
    for (parent, names) in &g.dirents {
        for (name, _) in names.iter().filter(|(_, d)| d.is_none()) {
            delete.execute(params![signed(parent.0), &name[..]])?;
        }
    }
    let mut put = t.prepare_cached(
        "INSERT OR REPLACE INTO dirent (parent, name, ino, kind, cookie, epoch) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
    )?;
    for (parent, names) in &g.dirents {
        // In key order the pages of the index are touched once.
        let mut present: Vec<_> = names
            .iter()
            .filter_map(|(n, d)| d.map(|d| (n, d)))
            .collect();
        present.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (name, d) in present {
            put.execute(params![
                signed(parent.0),
                &name[..],
                signed(d.ino.0),
                d.kind,
                signed(d.cookie.0)
            ])?;
        }
    }
    Ok(())
}

fn put_file(t: &Transaction<'_>, ino: Ino, file: &FileOverlay) -> Sql<()> {
    if let Some(cut) = file.cut {
        t.prepare_cached("DELETE FROM extent WHERE ino = ?1 AND offset >= ?2")?
            .execute(params![signed(ino.0), signed(cut)])?;
    }
    for (offset, run) in &file.runs {
        match run {
            Some(run) => t
                .prepare_cached(
                    "INSERT OR REPLACE INTO extent (ino, offset, len, extent, extent_offset, epoch) \
                     VALUES (?1, ?2, ?3, ?4, ?5, 0)",
                )?
                .execute(params![
                    signed(ino.0),
                    signed(*offset),
                    signed(run.len),
                    signed(run.extent.0),
                    signed(run.extent_offset)
                ])?,
            None => t
                .prepare_cached("DELETE FROM extent WHERE ino = ?1 AND offset = ?2")?
                .execute(params![signed(ino.0), signed(*offset)])?,
        };
    }
    Ok(())
}

fn put_location(t: &Transaction<'_>, extent: ExtentId, location: &Location) -> Sql<()> {
    let (segment, pack, offset) = match location.place {
        Place::Segment { segment, offset } => (Some(signed(segment)), None, offset),
        Place::Pack { pack, offset } => (None, Some(signed(pack)), offset),
    };
    let sums: Option<Vec<u8>> = (!location.sums.is_empty())
        .then(|| location.sums.iter().flat_map(|s| s.to_le_bytes()).collect());
    t.prepare_cached(
        "INSERT OR REPLACE INTO location (extent, segment, pack, offset, len, sums) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![signed(extent.0), segment, pack, signed(offset), signed(location.len), sums])
    .map(drop)
}

fn attributes(t: &Transaction<'_>, g: &Generation) -> Sql<()> {
    for (ino, attributes) in &g.xattrs {
        for (name, value) in attributes {
            match value {
                Some(value) => t
                    .prepare_cached("INSERT OR REPLACE INTO xattr (ino, name, value, epoch) VALUES (?1, ?2, ?3, 0)")?
                    .execute(params![signed(ino.0), &name[..], value])?,
                None => t
                    .prepare_cached("DELETE FROM xattr WHERE ino = ?1 AND name = ?2")?
                    .execute(params![signed(ino.0), &name[..]])?,
            };
        }
    }
    for (ino, target) in &g.symlinks {
        t.prepare_cached("INSERT OR REPLACE INTO symlink (ino, target, epoch) VALUES (?1, ?2, 0)")?
            .execute(params![signed(ino.0), target])?;
    }
    for (ino, is) in &g.orphans {
        let sql = match is {
            true => "INSERT OR IGNORE INTO orphan (ino) VALUES (?1)",
            false => "DELETE FROM orphan WHERE ino = ?1",
        };
        t.prepare_cached(sql)?.execute(params![signed(ino.0)])?;
    }
    Ok(())
}

/// Records that extents lie in a pack now and that others are dead, in one transaction. Extents that died meanwhile
/// stay dead: only rows that are there are moved, and only if they still have the length that was packed.
pub(crate) fn move_extents(
    c: &mut Connection,
    pack: Option<&PackRow>,
    moved: &[(ExtentId, u64, u64)],
    dead: &[ExtentId],
) -> Sql<()> {
    let t = c.transaction()?;
    if let Some(pack) = pack {
        t.prepare_cached(
            "INSERT INTO pack (pack, id, bytes, raw_len, extents, made_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            signed(pack.pack),
            pack.id,
            signed(pack.bytes),
            signed(pack.raw_len),
            signed(pack.extents),
            signed(pack.made_ms)
        ])?;
        for (extent, offset, len) in moved {
            t.prepare_cached(
                "UPDATE location SET segment = NULL, pack = ?2, offset = ?3, sums = NULL \
                 WHERE extent = ?1 AND len = ?4",
            )?
            .execute(params![
                signed(extent.0),
                signed(pack.pack),
                signed(*offset),
                signed(*len)
            ])?;
        }
    }
    for extent in dead {
        t.prepare_cached("DELETE FROM location WHERE extent = ?1 AND segment IS NOT NULL")?
            .execute(params![signed(extent.0)])?;
    }
    t.commit()
}
