//! Which runs stay, and of which their snapshots. Runs that are not over stay in any case.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::signed;
use crate::error::ApiError;
use crate::sidecar::store::{Store, unsigned};

/// Most runs that are over and kept, and how long they are.
pub(in crate::sidecar) const RUNS_MAX: i64 = 10_000;
pub(super) const RUNS_AGE_MS: u64 = 90 * 24 * 60 * 60 * 1000;
/// How long one stays that was reverted, however many there are: somebody may want to undo that.
pub(super) const REVERTED_AGE_MS: u64 = 24 * 60 * 60 * 1000;
/// How many are looked at for removal whenever a run is added: more than one, so that it ends.
pub(super) const TRIM: i64 = 20;
/// And at once when there are far too many: nobody else writes meanwhile.
const PIECE: i64 = 100;

impl Store {
    /// Runs on `mount` that are over and still have snapshots, but for the newest `kept` of the project at `path`; at most
    /// `most`. One that was reverted is as new as that: somebody may want to undo it.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn old_snapshots(
        &self,
        mount: &str,
        path: &str,
        kept: i64,
        most: u32,
    ) -> Result<Vec<String>, ApiError> {
        let (mount, path) = (mount.to_owned(), path.to_owned());
        self.look(move |open| {
            let mut statement = open.db.prepare_cached(
                "SELECT id FROM run WHERE mount = ?1 AND path = ?2 AND live = 0 AND snapshot IS NOT NULL
                 ORDER BY max(created_ms, coalesce((SELECT max(json_extract(report, '$.at')) FROM revert WHERE run = run.id), 0))
                 DESC, seq DESC LIMIT ?4 OFFSET ?3",
            )?;
            let ids = statement.query_map(params![mount, path, kept, most], |row| row.get(0))?;
            ids.collect()
        })
        .await
    }

    /// Whether a run is over and nothing is done with it.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn is_at_rest(&self, id: &str) -> Result<bool, ApiError> {
        let id = id.to_owned();
        self.look(move |open| {
            open.db
                .prepare_cached("SELECT live = 0 FROM run WHERE id = ?1")?
                .query_row([&id], |row| row.get(0))
                .optional()
                .map(|found| found.unwrap_or(true))
        })
        .await
    }

    /// Removes some of the runs that are too old or too many; how many, none when there are no more.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn remove_surplus(&self, now_ms: u64) -> Result<usize, ApiError> {
        self.run(move |open| {
            let tx = open.db.transaction()?;
            let removed = trim(&tx, now_ms, PIECE)?;
            tx.commit()?;
            Ok(removed)
        })
        .await
    }

    /// Forgets the snapshots of a run: they are gone.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn forget_snapshots(&self, id: &str) -> Result<(), ApiError> {
        let id = id.to_owned();
        self.run(move |open| {
            let tx = open.db.transaction()?;
            tx.execute("UPDATE run SET snapshot = NULL WHERE id = ?1", [&id])?;
            tx.execute("UPDATE step SET snapshot = NULL WHERE run = ?1", [&id])?;
            tx.commit()
        })
        .await
    }
}

/// Looks at the `most` oldest runs, and removes those that are too old or too many; how many that were.
pub(super) fn trim(db: &Connection, now_ms: u64, most: i64) -> rusqlite::Result<usize> {
    let newest: Option<i64> = db.query_row("SELECT max(seq) FROM run", (), |row| row.get(0))?;
    let mut statement = db.prepare_cached(
        "SELECT id, definition, seq, ended_ms, snapshot IS NULL FROM run WHERE live = 0
         AND NOT EXISTS (SELECT 1 FROM revert WHERE run = run.id AND json_extract(report, '$.at') > ?2)
         ORDER BY seq LIMIT ?1",
    )?;
    let reverted_ms = signed(now_ms.saturating_sub(REVERTED_AGE_MS));
    let oldest = statement.query_map([most, reverted_ms], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)?,
            unsigned(row.get::<_, Option<i64>>(3)?.unwrap_or(0)),
            row.get::<_, bool>(4)?,
        ))
    })?;
    let oldest = oldest.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut removed = 0;
    for (id, definition, seq, ended_ms, is_bare) in oldest {
        let is_too_many = seq <= newest.unwrap_or(0) - RUNS_MAX;
        // Only the rows know the snapshots, which go first.
        let is_old = is_bare && ended_ms.saturating_add(RUNS_AGE_MS) <= now_ms;
        if !is_too_many && !is_old {
            continue;
        }
        for table in ["step", "revert"] {
            db.execute(&format!("DELETE FROM {table} WHERE run = ?1"), [&id])?;
        }
        db.execute("DELETE FROM run WHERE id = ?1", [&id])?;
        db.execute(
            "DELETE FROM definition WHERE hash = ?1 AND NOT EXISTS (SELECT 1 FROM run WHERE definition = ?1)",
            [&definition],
        )?;
        removed += 1;
    }
    Ok(removed)
}
