//! The table `pack`: which packs there are, how much of each is used, and which are dead.
//!
//! A pack is dead when nothing that the database has uses an extent in it, neither a file nor what a snapshot has kept.
//! Nothing can come to use one again: runs are only ever copied from runs. It stays in the table until its object is
//! deleted.

use rusqlite::{Connection, Row, params};

use super::live::USED;
use super::read::{signed, unsigned};

type Sql<T> = rusqlite::Result<T>;

/// A pack that files' bytes lie in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// Row number; locations name it.
    pub pack: u64,
    /// The object's 16-byte id.
    pub id: [u8; 16],
    /// Size of the object, bytes.
    pub bytes: u64,
    /// Bytes of the extents in it, before compression.
    pub raw_len: u64,
    /// How many extents it was made with.
    pub extents: u64,
    /// When it was made, milliseconds since 1970.
    pub made_ms: u64,
    /// Since when nothing uses it.
    pub dead: Option<Dead>,
}

/// Since when a pack is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dead {
    /// Milliseconds since 1970 by the store's clock.
    pub at_ms: u64,
    /// The first publication that is sure to say so.
    pub seq: u64,
}

/// How much of a pack is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackUsage {
    /// The pack.
    pub row: PackRow,
    /// Bytes of its extents that are used, before compression.
    pub live_bytes: u64,
}

const COLUMNS: &str = "pack, id, bytes, raw_len, extents, made_ms, dead_ms, dead_seq";

fn pack_row(row: &Row<'_>) -> Sql<PackRow> {
    let dead: (Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?);
    Ok(PackRow {
        pack: unsigned(row, 0)?,
        id: row.get(1)?,
        bytes: unsigned(row, 2)?,
        raw_len: unsigned(row, 3)?,
        extents: unsigned(row, 4)?,
        made_ms: unsigned(row, 5)?,
        dead: match dead {
            (Some(at_ms), Some(seq)) => Some(Dead {
                at_ms: at_ms as u64,
                seq: seq as u64,
            }),
            _ => None,
        },
    })
}

/// All packs, in the order of their row numbers.
pub(crate) fn packs(c: &Connection) -> Sql<Vec<PackRow>> {
    c.prepare_cached(&format!("SELECT {COLUMNS} FROM pack ORDER BY pack"))?
        .query_map([], pack_row)?
        .collect()
}

/// How much is used of each pack that is not dead yet.
pub(crate) fn usage(c: &Connection) -> Sql<Vec<PackUsage>> {
    let sql = format!(
        "SELECT {COLUMNS}, (SELECT coalesce(sum(l.len), 0) FROM location l WHERE l.pack = pack.pack AND {USED}) \
         FROM pack WHERE dead_ms IS NULL ORDER BY pack"
    );
    c.prepare_cached(&sql)?
        .query_map([], |r| {
            Ok(PackUsage {
                row: pack_row(r)?,
                live_bytes: unsigned(r, 8)?,
            })
        })?
        .collect()
}

/// Notes which of these packs are dead. Returns them: one that is used after all is left out.
pub(crate) fn mark_dead(c: &mut Connection, packs: &[u64], dead: Dead) -> Sql<Vec<u64>> {
    let sql = format!(
        "UPDATE pack SET dead_ms = ?2, dead_seq = ?3 WHERE pack = ?1 AND dead_ms IS NULL \
         AND NOT EXISTS (SELECT 1 FROM location l WHERE l.pack = ?1 AND {USED})"
    );
    let t = c.transaction()?;
    let mut marked = Vec::new();
    for pack in packs {
        let values = params![signed(*pack), signed(dead.at_ms), signed(dead.seq)];
        if t.prepare_cached(&sql)?.execute(values)? > 0 {
            marked.push(*pack);
        }
    }
    t.commit()?;
    Ok(marked)
}

/// Takes marks back that no publication up to `seq` is sure to have: readers may have begun since then with a state that uses
/// what they are about.
pub(crate) fn unmark_after(c: &Connection, seq: u64) -> Sql<usize> {
    c.execute(
        "UPDATE pack SET dead_ms = NULL, dead_seq = NULL WHERE dead_seq > ?1",
        params![signed(seq)],
    )
}

/// Adds packs that nothing here uses, as far as they are not here; under new row numbers, theirs may be those of others.
/// What was dead before is so since now too: states after its mark may have come to use it by another going back.
pub(crate) fn add_dead(c: &mut Connection, rows: &[PackRow], dead: Dead) -> Sql<()> {
    let t = c.transaction()?;
    t.execute(
        "UPDATE pack SET dead_ms = ?1, dead_seq = ?2 WHERE dead_ms IS NOT NULL",
        params![signed(dead.at_ms), signed(dead.seq)],
    )?;
    let mut next: i64 = t.query_row("SELECT coalesce(max(pack), 0) + 1 FROM pack", [], |r| {
        r.get(0)
    })?;
    for row in rows {
        let added = t
            .prepare_cached(
                "INSERT OR IGNORE INTO pack (pack, id, bytes, raw_len, extents, made_ms, dead_ms, dead_seq) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                next,
                row.id,
                signed(row.bytes),
                signed(row.raw_len),
                signed(row.extents),
                signed(row.made_ms),
                signed(dead.at_ms),
                signed(dead.seq)
            ])?;
        next += i64::try_from(added).unwrap_or(0);
    }
    t.commit()
}

/// Removes dead packs and what is said of extents in them. One that is not dead stays.
pub(crate) fn forget(c: &mut Connection, packs: &[u64]) -> Sql<()> {
    let t = c.transaction()?;
    for pack in packs {
        t.prepare_cached(
            "DELETE FROM location WHERE pack = ?1 \
             AND EXISTS (SELECT 1 FROM pack WHERE pack = ?1 AND dead_ms IS NOT NULL)",
        )?
        .execute(params![signed(*pack)])?;
        t.prepare_cached("DELETE FROM pack WHERE pack = ?1 AND dead_ms IS NOT NULL")?
            .execute(params![signed(*pack)])?;
    }
    t.commit()
}
