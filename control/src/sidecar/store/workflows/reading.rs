//! What is asked about runs. Each question costs what it answers, however many runs are over.

use rusqlite::{OptionalExtension, params};

use super::rows::{RUN, STEP, named, run_of, signed, step_of};
use super::unreadable::{is_unreadable, rows};
use super::{RunFilter, RunRow, RunRows, StepRow};
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::store::{Store, unsigned};
use crate::sidecar::workflows::RunState;

impl Store {
    /// A run with everything of it.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn run_rows(&self, id: &str) -> Result<Option<RunRows>, ApiError> {
        let id = id.to_owned();
        self.look(move |open| rows(&open.db, &id)).await
    }

    /// Bytes of the events that tell what the programs of a run said.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn said_by(&self, id: &str) -> Result<u64, ApiError> {
        let id = id.to_owned();
        self.look(move |open| {
            open.db
                .prepare_cached(
                    "SELECT coalesce(sum(octet_length(message) + coalesce(octet_length(data), 0)), 0) FROM event
                     WHERE run = ?1 AND kind IN (?2, ?3)",
                )?
                .query_row(params![id, kinds::STEP_OUTPUT, kinds::STEP_AGENT], |row| {
                    Ok(unsigned(row.get(0)?))
                })
        })
        .await
    }

    /// The text of a definition.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn definition(
        &self,
        hash: &str,
    ) -> Result<Option<String>, ApiError> {
        let hash = hash.to_owned();
        self.look(move |open| {
            open.db
                .prepare_cached("SELECT text FROM definition WHERE hash = ?1")?
                .query_row([&hash], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// The id of the run that the request `origin` asked for.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn run_of_origin(
        &self,
        origin: &str,
    ) -> Result<Option<String>, ApiError> {
        let origin = origin.to_owned();
        self.look(move |open| {
            open.db
                .prepare_cached("SELECT id FROM run WHERE origin = ?1")?
                .query_row([&origin], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// The ids of the runs that something is left to be done for, oldest first.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn live_runs(&self) -> Result<Vec<String>, ApiError> {
        self.look(|open| {
            let mut statement = open
                .db
                .prepare_cached("SELECT id FROM run WHERE live = 1 ORDER BY seq")?;
            let ids = statement.query_map((), |row| row.get(0))?;
            ids.collect()
        })
        .await
    }

    /// How many runs are not over, by state.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn count_live_runs(
        &self,
    ) -> Result<Vec<(RunState, u64)>, ApiError> {
        self.look(|open| {
            let mut statement = open
                .db
                .prepare_cached("SELECT state, count(*) FROM run WHERE live = 1 GROUP BY state")?;
            let rows =
                statement.query_map((), |row| Ok((named(row, 0)?, unsigned(row.get(1)?))))?;
            rows.collect()
        })
        .await
    }

    /// Runs with a step at work of which nothing was heard since `before_ms`, with its name, oldest first; at most `most`.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn stuck_steps(
        &self,
        before_ms: u64,
        most: u32,
    ) -> Result<Vec<(String, String)>, ApiError> {
        self.look(move |open| {
            // In this order: the runs that are not over are few, the steps of all others many.
            let mut statement = open.db.prepare_cached(
                "SELECT run.id, step.name FROM run CROSS JOIN step ON step.run = run.id
                 WHERE run.live = 1 AND step.state = 'running' AND step.progress_ms < ?1 ORDER BY run.seq LIMIT ?2",
            )?;
            let rows = statement.query_map(params![signed(before_ms), most], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            rows.collect()
        })
        .await
    }

    /// The runs that `filter` lets through, newest first, with the step that is at work.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn runs(
        &self,
        filter: RunFilter,
    ) -> Result<Vec<(RunRow, Option<StepRow>)>, ApiError> {
        self.look(move |open| {
            let state = filter.state.map(RunState::name);
            let mut statement = open.db.prepare_cached(&format!(
                "SELECT {RUN} FROM run WHERE seq < ?1 AND (?2 IS NULL OR mount = ?2) AND (?3 IS NULL OR workflow = ?3)
                 AND (?4 IS NULL OR state = ?4) ORDER BY seq DESC"
            ))?;
            let before = filter.before.unwrap_or(i64::MAX);
            let rows = statement.query_map(
                params![before, filter.mount, filter.workflow, state],
                run_of,
            )?;
            let mut statement = open.db.prepare_cached(&format!(
                "SELECT {STEP} FROM step WHERE run = ?1 AND state IN ('running', 'waiting') ORDER BY number LIMIT 1"
            ))?;
            let mut found = Vec::new();
            for run in rows {
                if found.len() >= filter.most as usize {
                    break;
                }
                let run = match run {
                    // The others are shown. If it is not over, the next start ends it.
                    Err(error) if is_unreadable(&error) => continue,
                    run => run?,
                };
                let step = match run.state.is_over() {
                    true => None,
                    false => statement.query_row([&run.id], step_of).optional()?,
                };
                found.push((run, step));
            }
            Ok(found)
        })
        .await
    }
}
