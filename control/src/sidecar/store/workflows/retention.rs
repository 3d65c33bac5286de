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
                 ORDER BY max(created_ms, coalesce((SELECT max(CASE WHEN json_valid(report) THEN json_extract(report, '$.at') END)
                     FROM revert WHERE run = run.id), 0))
                 DESC, seq DESC LIMIT ?4 OFFSET ?3",
            )?;
            let ids = statement.query_map(params![mount, path, kept, most], |row| row.get(0))?;
            ids.collect()
        })
        .await
    }

    /// Mounts with runs that are too many and still have snapshots, which must go before them.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn mounts_with_surplus(
        &self,
        now_ms: u64,
    ) -> Result<Vec<String>, ApiError> {
        self.look(move |open| {
            let surplus = surplus();
            let mut statement = open
                .db
                .prepare_cached(&format!("SELECT DISTINCT mount FROM run WHERE {surplus}"))?;
            let mounts = statement.query_map([reverted_ms(now_ms)], |row| row.get(0))?;
            mounts.collect()
        })
        .await
    }

    /// Such runs on a mount, the oldest first; at most `most`.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn surplus_with_snapshots(
        &self,
        mount: &str,
        now_ms: u64,
        most: u32,
    ) -> Result<Vec<String>, ApiError> {
        let mount = mount.to_owned();
        self.look(move |open| {
            let surplus = surplus();
            let mut statement = open.db.prepare_cached(&format!(
                "SELECT id FROM run WHERE {surplus} AND mount = ?2 ORDER BY seq LIMIT ?3"
            ))?;
            let runs =
                statement.query_map(params![reverted_ms(now_ms), mount, most], |row| row.get(0))?;
            runs.collect()
        })
        .await
    }

    /// Runs on a mount that are over, were not just reverted, and still have snapshots, the oldest first; at most `most`.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn oldest_with_snapshots(
        &self,
        mount: &str,
        now_ms: u64,
        most: u32,
    ) -> Result<Vec<String>, ApiError> {
        let mount = mount.to_owned();
        self.look(move |open| {
            let mut statement = open.db.prepare_cached(&format!(
                "SELECT id FROM run WHERE live = 0 AND snapshot IS NOT NULL AND {NOT_REVERTED} AND mount = ?2
                 ORDER BY seq LIMIT ?3"
            ))?;
            let runs = statement.query_map(params![reverted_ms(now_ms), mount, most], |row| {
                row.get(0)
            })?;
            runs.collect()
        })
        .await
    }

    /// Whether a run is over, nothing is done with it, and nobody reverted it since.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn is_at_rest(
        &self,
        id: &str,
        since_ms: u64,
    ) -> Result<bool, ApiError> {
        let id = id.to_owned();
        self.look(move |open| {
            open.db
                .prepare_cached(&format!(
                    "SELECT live = 0 AND {NOT_REVERTED} FROM run WHERE id = ?2"
                ))?
                .query_row(params![signed(since_ms).saturating_sub(1), id], |row| {
                    row.get(0)
                })
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

/// Nobody reverted the run after the time in parameter 1.
const NOT_REVERTED: &str = "NOT EXISTS (SELECT 1 FROM revert WHERE run = run.id
     AND CASE WHEN json_valid(report) THEN json_extract(report, '$.at') END > ?1)";
/// The run is too many and has snapshots; parameter 1 as above.
fn surplus() -> String {
    format!(
        "live = 0 AND snapshot IS NOT NULL AND seq <= (SELECT max(seq) FROM run) - {RUNS_MAX} AND {NOT_REVERTED}"
    )
}

fn reverted_ms(now_ms: u64) -> i64 {
    signed(now_ms.saturating_sub(REVERTED_AGE_MS))
}

/// Looks at the `most` oldest runs without snapshots, and removes those that are too old or too many; how many that were.
/// Only the rows know the snapshots, so those go first.
pub(super) fn trim(db: &Connection, now_ms: u64, most: i64) -> rusqlite::Result<usize> {
    let newest: Option<i64> = db.query_row("SELECT max(seq) FROM run", (), |row| row.get(0))?;
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, definition, seq, ended_ms FROM run WHERE live = 0 AND snapshot IS NULL AND {NOT_REVERTED}
         ORDER BY seq LIMIT ?2"
    ))?;
    let oldest = statement.query_map([reverted_ms(now_ms), most], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)?,
            unsigned(row.get::<_, Option<i64>>(3)?.unwrap_or(0)),
        ))
    })?;
    let oldest = oldest.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut removed = 0;
    for (id, definition, seq, ended_ms) in oldest {
        let is_too_many = seq <= newest.unwrap_or(0) - RUNS_MAX;
        let is_old = ended_ms.saturating_add(RUNS_AGE_MS) <= now_ms;
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
