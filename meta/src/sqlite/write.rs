//! Writing a generation of the overlay, and moves of extents, to SQLite. Only the checkpointer calls this.

use rusqlite::{Connection, Params, Transaction, params};
use rustc_hash::FxHashMap;

use crate::error::Result;
use crate::ids::{ExtentId, Ino};
use crate::overlay::{FileOverlay, Generation};
use crate::rows::{InodeRow, Location, Place};
use crate::snapshot::{Bulk, Snapshot};

use super::capture::Capture;
use super::open::named;
use super::packs::PackRow;
use super::read::{newest_point, signed};

type Sql<T> = rusqlite::Result<T>;

/// Changes of a large edit that are written at a time.
const BULK_PIECE: usize = 10_000;

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
    if let Some(snapshot) = &g.snapshot {
        put_snapshot(&t, snapshot)?;
    }
    rows(&t, g)?;
    put_setting(&t, "checkpointed_lsn", g.last.0)?;
    put_counters(&t, counters)?;
    t.commit()
}

/// Writes rows that have no place in the history of their own, in one transaction, if they still may be when all of them
/// are written.
pub(crate) fn bulk(
    c: &mut Connection,
    bulk: &Bulk,
    counters: Counters,
    may: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let t = named(c.transaction())?;
    // All of it as a generation would take a multiple of the memory.
    for piece in bulk.changes.chunks(BULK_PIECE) {
        named(rows(&t, &Generation::of(piece)?))?;
    }
    named(bulk.orphans.iter().try_for_each(|ino| put_orphan(&t, *ino)))?;
    named(put_counters(&t, counters))?;
    may()?;
    named(t.commit())
}

fn put_orphan(t: &Transaction<'_>, ino: Ino) -> Sql<()> {
    t.prepare_cached("INSERT OR IGNORE INTO orphan (ino) VALUES (?1)")?
        .execute([signed(ino.0)])
        .map(drop)
}

fn put_counters(t: &Transaction<'_>, counters: Counters) -> Sql<()> {
    put_setting(t, "next_ino", counters.next_ino)?;
    put_setting(t, "next_extent", counters.next_extent)
}

fn put_snapshot(t: &Transaction<'_>, s: &Snapshot) -> Sql<()> {
    t.execute(
        "INSERT INTO snapshot (epoch, name, note, owner, made_ms, lsn, next_ino, kept) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            signed(s.epoch.0),
            s.name,
            s.note,
            s.owner,
            signed(s.made_ms),
            signed(s.lsn.0),
            signed(s.next_ino.0),
            s.kept
        ],
    )?;
    // A number is never used again, also when its snapshot is gone.
    put_setting(t, "next_epoch", s.epoch.0 + 1)
}

fn rows(t: &Transaction<'_>, g: &Generation) -> Sql<()> {
    let w = Writer {
        t,
        old: Capture::new(t, newest_point(t)?),
    };
    // In key order the pages of tables and indexes are touched once.
    for (ino, row) in in_order(&g.inodes) {
        match row {
            Some(row) => w.put_inode(row)?,
            None => w.drop_inode(*ino)?,
        }
    }
    w.dirents(g)?;
    for (ino, file) in in_order(&g.files) {
        w.put_file(*ino, file)?;
    }
    for (extent, location) in in_order(&g.locations) {
        w.put_location(*extent, location)?;
    }
    w.attributes(g)?;
    w.trash(g)
}

fn in_order<K: Ord + Copy, V>(rows: &FxHashMap<K, V>) -> Vec<(&K, &V)> {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_unstable_by_key(|(key, _)| **key);
    rows
}

/// Writes rows of one epoch.
struct Writer<'t> {
    t: &'t Transaction<'t>,
    old: Capture<'t>,
}

impl Writer<'_> {
    fn run(&self, sql: &str, params: impl Params) -> Sql<()> {
        self.t.prepare_cached(sql)?.execute(params).map(drop)
    }

    fn put_inode(&self, row: &InodeRow) -> Sql<()> {
        self.old.put_inode(row.ino)?;
        self.run(
            "INSERT OR REPLACE INTO inode (ino, mode, uid, gid, nlink, rdev, size, allocated, atime_ns, mtime_ns, \
             ctime_ns, btime_ns, parent, entries_hash, next_cookie, epoch) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
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
                self.old.epoch(),
            ],
        )
    }

    fn drop_inode(&self, ino: Ino) -> Sql<()> {
        self.old.drop_inode(ino)?;
        for sql in [
            "DELETE FROM inode WHERE ino = ?1",
            "DELETE FROM extent WHERE ino = ?1",
            "DELETE FROM xattr WHERE ino = ?1",
            "DELETE FROM symlink WHERE ino = ?1",
            "DELETE FROM orphan WHERE ino = ?1",
        ] {
            self.run(sql, params![signed(ino.0)])?;
        }
        Ok(())
    }

    /// Removals first: an entry that moved to another name keeps its cookie's uniqueness.
    fn dirents(&self, g: &Generation) -> Sql<()> {
        for (parent, names) in &g.dirents {
            for (name, _) in names.iter().filter(|(_, d)| d.is_none()) {
                self.old.del_dirent(*parent, name)?;
                self.run(
                    "DELETE FROM dirent WHERE parent = ?1 AND name = ?2",
                    params![signed(parent.0), &name[..]],
                )?;
            }
        }
        for (parent, names) in in_order(&g.dirents) {
            let mut present: Vec<_> = names
                .iter()
                .filter_map(|(n, d)| d.map(|d| (n, d)))
                .collect();
            present.sort_unstable_by(|a, b| a.0.cmp(b.0));
            for (name, d) in present {
                self.old.put_dirent(*parent, name)?;
                self.run(
                    "INSERT OR REPLACE INTO dirent (parent, name, ino, kind, cookie, epoch) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        signed(parent.0),
                        &name[..],
                        signed(d.ino.0),
                        d.kind,
                        signed(d.cookie.0),
                        self.old.epoch(),
                    ],
                )?;
            }
        }
        Ok(())
    }

    fn put_file(&self, ino: Ino, file: &FileOverlay) -> Sql<()> {
        if let Some(cut) = file.cut {
            self.old.cut_runs(ino, cut)?;
            self.run(
                "DELETE FROM extent WHERE ino = ?1 AND offset >= ?2",
                params![signed(ino.0), signed(cut)],
            )?;
        }
        for (offset, run) in &file.runs {
            let Some(run) = run else {
                self.old.del_run(ino, *offset)?;
                self.run(
                    "DELETE FROM extent WHERE ino = ?1 AND offset = ?2",
                    params![signed(ino.0), signed(*offset)],
                )?;
                continue;
            };
            self.old.put_run(ino, *offset)?;
            self.run(
                "INSERT OR REPLACE INTO extent (ino, offset, len, extent, extent_offset, epoch) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    signed(ino.0),
                    signed(*offset),
                    signed(run.len),
                    signed(run.extent.0),
                    signed(run.extent_offset),
                    self.old.epoch(),
                ],
            )?;
        }
        Ok(())
    }

    fn put_location(&self, extent: ExtentId, location: &Location) -> Sql<()> {
        let (segment, pack, offset) = match location.place {
            Place::Segment { segment, offset } => (Some(signed(segment)), None, offset),
            Place::Pack { pack, offset } => (None, Some(signed(pack)), offset),
        };
        let sums: Option<Vec<u8>> = (!location.sums.is_empty())
            .then(|| location.sums.iter().flat_map(|s| s.to_le_bytes()).collect());
        self.run(
            "INSERT OR REPLACE INTO location (extent, segment, pack, offset, len, sums) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                signed(extent.0),
                segment,
                pack,
                signed(offset),
                signed(location.len),
                sums
            ],
        )
    }

    fn attributes(&self, g: &Generation) -> Sql<()> {
        for (ino, attributes) in &g.xattrs {
            for (name, value) in attributes {
                self.put_xattr(*ino, name, value.as_deref())?;
            }
        }
        for (ino, target) in &g.symlinks {
            self.old.put_symlink(*ino)?;
            self.run(
                "INSERT OR REPLACE INTO symlink (ino, target, epoch) VALUES (?1, ?2, ?3)",
                params![signed(ino.0), target, self.old.epoch()],
            )?;
        }
        for (ino, is) in &g.orphans {
            let sql = match is {
                true => "INSERT OR IGNORE INTO orphan (ino) VALUES (?1)",
                false => "DELETE FROM orphan WHERE ino = ?1",
            };
            self.run(sql, params![signed(ino.0)])?;
        }
        Ok(())
    }

    fn trash(&self, g: &Generation) -> Sql<()> {
        for ((ino, parent, name), removed) in &g.trash {
            match removed {
                Some(removed) => self.run(
                    "INSERT OR REPLACE INTO trash (ino, parent, name, deleted_ms, dir_mtime_ns) \
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        signed(ino.0),
                        signed(parent.0),
                        &name[..],
                        signed(removed.deleted_ms),
                        removed.dir_mtime_ns
                    ],
                )?,
                None => self.run(
                    "DELETE FROM trash WHERE ino = ?1 AND parent = ?2 AND name = ?3",
                    params![signed(ino.0), signed(parent.0), &name[..]],
                )?,
            }
        }
        Ok(())
    }

    fn put_xattr(&self, ino: Ino, name: &[u8], value: Option<&[u8]>) -> Sql<()> {
        match value {
            Some(value) => {
                self.old.put_xattr(ino, name)?;
                self.run(
                    "INSERT OR REPLACE INTO xattr (ino, name, value, epoch) VALUES (?1, ?2, ?3, ?4)",
                    params![signed(ino.0), name, value, self.old.epoch()],
                )
            }
            None => {
                self.old.del_xattr(ino, name)?;
                self.run(
                    "DELETE FROM xattr WHERE ino = ?1 AND name = ?2",
                    params![signed(ino.0), name],
                )
            }
        }
    }
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
