//! What a directory has for itself: where the bytes lie that nothing else of the present uses. Reads and changes nothing.

use rusqlite::{Connection, params};

use super::read::{signed, unsigned};
use crate::ids::Ino;

type Sql<T> = rusqlite::Result<T>;

/// Where the bytes of a directory lie.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Own {
    /// Packs that hold bytes of it and of nothing else, by their 16-byte ids.
    pub packs: Vec<[u8; 16]>,
    /// Bytes of it that are in no pack yet, its alone or not.
    pub staged_bytes: u64,
}

/// Every inode at and below `?1`.
const BELOW: &str = "WITH RECURSIVE below (ino) AS \
    (VALUES (?1) UNION SELECT d.ino FROM below b JOIN dirent d ON d.parent = b.ino)";

/// What `dir` has for itself. A checkpoint has to cover it.
pub(crate) fn of(c: &Connection, dir: Ino) -> Sql<Own> {
    let dir = params![signed(dir.0)];
    let staged = format!(
        "{BELOW}, used (extent) AS (SELECT DISTINCT e.extent FROM below b JOIN extent e ON e.ino = b.ino) \
         SELECT coalesce(sum(l.len), 0) FROM used u JOIN location l ON l.extent = u.extent \
         WHERE l.segment IS NOT NULL"
    );
    let staged_bytes = c
        .prepare_cached(&staged)?
        .query_row(dir, |r| unsigned(r, 0))?;
    let packs = format!(
        "{BELOW}, used (pack) AS (SELECT DISTINCT l.pack FROM below b JOIN extent e ON e.ino = b.ino \
         JOIN location l ON l.extent = e.extent WHERE l.pack IS NOT NULL) \
         SELECT p.id FROM used u JOIN pack p ON p.pack = u.pack WHERE NOT EXISTS \
         (SELECT 1 FROM location l JOIN extent e ON e.extent = l.extent \
          WHERE l.pack = u.pack AND e.ino NOT IN (SELECT ino FROM below)) ORDER BY p.pack"
    );
    let packs = c
        .prepare_cached(&packs)?
        .query_map(dir, |r| r.get(0))?
        .collect::<Sql<_>>()?;
    Ok(Own {
        packs,
        staged_bytes,
    })
}
