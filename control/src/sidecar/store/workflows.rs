//! The rows of workflows: runs, their steps, their reverts, and the definitions they follow. A change of a run, its steps
//! and the events that tell of it are one transaction: nothing is told that is not so, and nothing is so that is not told.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{NewEvent, Store, insert_event, unsigned};
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::workflows::{AttemptReport, Fault, RevertReport, RunState, StepState};

/// Most runs that are over and kept, and how long they are.
pub(in crate::sidecar) const RUNS_MAX: i64 = 10_000;
const RUNS_AGE_MS: u64 = 90 * 24 * 60 * 60 * 1000;
/// How long one stays that was reverted, however many there are: somebody may want to undo that.
const REVERTED_AGE_MS: u64 = 24 * 60 * 60 * 1000;
/// How many are looked at for removal whenever a run is added: more than one, so that it ends.
const TRIM: i64 = 20;
/// Most runs that are not over.
pub(in crate::sidecar) const LIVE_MAX: i64 = 2_000;

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sidecar) struct RunRow {
    /// Grows; 0 before it is written.
    pub(in crate::sidecar) seq: i64,
    pub(in crate::sidecar) id: String,
    pub(in crate::sidecar) workflow: String,
    pub(in crate::sidecar) mount: String,
    pub(in crate::sidecar) path: String,
    /// Hash of the definition.
    pub(in crate::sidecar) definition: String,
    pub(in crate::sidecar) inputs: BTreeMap<String, Json>,
    pub(in crate::sidecar) state: RunState,
    pub(in crate::sidecar) error: Option<Fault>,
    pub(in crate::sidecar) created_ms: u64,
    pub(in crate::sidecar) started_ms: Option<u64>,
    pub(in crate::sidecar) ended_ms: Option<u64>,
    /// The snapshot before the first step.
    pub(in crate::sidecar) snapshot: Option<String>,
    /// It is over, and something of it is left to be given back.
    pub(in crate::sidecar) releasing: bool,
    /// Names the request that asked for it, if that had a key.
    pub(in crate::sidecar) origin: Option<String>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sidecar) struct StepRow {
    pub(in crate::sidecar) number: u32,
    pub(in crate::sidecar) name: String,
    pub(in crate::sidecar) kind: String,
    pub(in crate::sidecar) state: StepState,
    pub(in crate::sidecar) attempt: u32,
    pub(in crate::sidecar) started_ms: Option<u64>,
    pub(in crate::sidecar) ended_ms: Option<u64>,
    pub(in crate::sidecar) progress_ms: Option<u64>,
    pub(in crate::sidecar) doing: Option<String>,
    /// When this attempt began, and when it is ended.
    pub(in crate::sidecar) attempt_ms: Option<u64>,
    pub(in crate::sidecar) times_out_ms: Option<u64>,
    /// The next attempt is not made before this.
    pub(in crate::sidecar) next_ms: Option<u64>,
    /// How far the output of this attempt was told.
    pub(in crate::sidecar) place: OutputPlace,
    pub(in crate::sidecar) outputs: BTreeMap<String, Json>,
    pub(in crate::sidecar) error: Option<Fault>,
    pub(in crate::sidecar) attempts: Vec<AttemptReport>,
    pub(in crate::sidecar) log: Option<String>,
    pub(in crate::sidecar) snapshot: Option<String>,
    /// The snapshot after it was taken, or cannot be.
    pub(in crate::sidecar) settled: bool,
}

/// A place in the output of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(in crate::sidecar) struct OutputPlace {
    /// Offset of a frame.
    pub(in crate::sidecar) frame: u64,
    /// Bytes of that frame that were told.
    pub(in crate::sidecar) skip: u64,
    /// Bytes that were told in all.
    pub(in crate::sidecar) told: u64,
}

impl StepRow {
    pub(in crate::sidecar) fn new(number: u32, name: &str, kind: &str) -> Self {
        Self {
            number,
            name: name.to_owned(),
            kind: kind.to_owned(),
            state: StepState::Queued,
            attempt: 0,
            started_ms: None,
            ended_ms: None,
            progress_ms: None,
            doing: None,
            attempt_ms: None,
            times_out_ms: None,
            next_ms: None,
            place: OutputPlace::default(),
            outputs: BTreeMap::new(),
            error: None,
            attempts: Vec::new(),
            log: None,
            snapshot: None,
            settled: false,
        }
    }
}

/// A run with everything of it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sidecar) struct RunRows {
    pub(in crate::sidecar) run: RunRow,
    pub(in crate::sidecar) steps: Vec<StepRow>,
    pub(in crate::sidecar) reverts: Vec<RevertRow>,
}

/// A revert of a run.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(in crate::sidecar) struct RevertRow {
    #[serde(flatten)]
    pub(in crate::sidecar) report: RevertReport,
    /// Names the request that asked for it, if that had a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::sidecar) origin: Option<String>,
}

impl RevertRow {
    /// One that no request asked for: the run makes it itself.
    pub(in crate::sidecar) fn unasked(report: RevertReport) -> Self {
        Self {
            report,
            origin: None,
        }
    }
}

/// What changes at once.
#[derive(Debug, Default)]
pub(in crate::sidecar) struct RunChange {
    pub(in crate::sidecar) run: Option<RunRow>,
    pub(in crate::sidecar) steps: Vec<StepRow>,
    pub(in crate::sidecar) revert: Option<RevertRow>,
    pub(in crate::sidecar) events: Vec<NewEvent>,
}

/// Which runs a list shows.
#[derive(Debug, Clone, Default)]
pub(in crate::sidecar) struct RunFilter {
    pub(in crate::sidecar) mount: Option<String>,
    pub(in crate::sidecar) workflow: Option<String>,
    pub(in crate::sidecar) state: Option<RunState>,
    pub(in crate::sidecar) before: Option<i64>,
    pub(in crate::sidecar) most: u32,
}

const RUN: &str = "seq, id, workflow, mount, path, definition, inputs, state, error, created_ms, started_ms, ended_ms, \
                   snapshot, releasing, origin";
const STEP: &str = "number, name, kind, state, attempt, started_ms, ended_ms, progress_ms, doing, attempt_ms, \
                    times_out_ms, next_ms, place, outputs, error, attempts, log, snapshot, settled";

impl Store {
    /// Adds a run that nobody has asked for with this origin, or returns the one that was; the flag says that it is new.
    /// Its id is made of the time and a number.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`]; [`ApiError::LimitReached`] when too many are not over.
    pub(in crate::sidecar) async fn add_run(
        &self,
        mut run: RunRow,
        steps: Vec<StepRow>,
        definition: String,
        event: impl FnOnce(&RunRow) -> NewEvent + Send + 'static,
    ) -> Result<(RunRow, bool, i64), ApiError> {
        let added = self.run(move |open| {
            let tx = open.db.transaction()?;
            if let Some(origin) = &run.origin {
                let there = tx
                    .prepare_cached(&format!("SELECT {RUN} FROM run WHERE origin = ?1"))?
                    .query_row([origin], run_of)
                    .optional()?;
                if let Some(there) = there {
                    return Ok(Some((there, false, 0)));
                }
            }
            let live: i64 = tx
                .prepare_cached("SELECT count(*) FROM run WHERE live = 1")?
                .query_row((), |row| row.get(0))?;
            if live >= LIVE_MAX {
                return Ok(None);
            }
            trim(&tx, run.created_ms)?;
            tx.prepare_cached("INSERT OR IGNORE INTO definition (hash, text) VALUES (?1, ?2)")?
                .execute([&run.definition, &definition])?;
            let last: Option<i64> = tx
                .query_row(
                    "SELECT seq FROM sqlite_sequence WHERE name = 'run'",
                    (),
                    |row| row.get(0),
                )
                .optional()?;
            run.seq = last.unwrap_or(0) + 1;
            run.id = format!("{:x}-{:x}", run.created_ms, run.seq);
            put_run(&tx, &run)?;
            for step in &steps {
                put_step(&tx, &run.id, step)?;
            }
            let event = insert_event(&tx, &event(&run))?;
            tx.commit()?;
            Ok(Some((run, true, event)))
        });
        added.await?.ok_or_else(|| {
            ApiError::LimitReached(format!(
                "{LIVE_MAX} runs are not over, as many as there may be; wait for some of them, or cancel them"
            ))
        })
    }

    /// Writes what changes at once; the number of the last event of it.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`]; nothing has changed then.
    pub(in crate::sidecar) async fn change_run(
        &self,
        id: &str,
        change: RunChange,
    ) -> Result<Option<i64>, ApiError> {
        let id = id.to_owned();
        self.run(move |open| {
            let tx = open.db.transaction()?;
            if let Some(run) = &change.run {
                put_run(&tx, run)?;
            }
            for step in &change.steps {
                put_step(&tx, &id, step)?;
            }
            if let Some(revert) = &change.revert {
                tx.prepare_cached(
                    "INSERT OR REPLACE INTO revert (run, number, report) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![id, revert.report.number, json(revert)?])?;
            }
            let mut last = None;
            for event in &change.events {
                last = Some(insert_event(&tx, event)?);
            }
            tx.commit()?;
            if last.is_some() {
                open.trim_events(change.events.len())?;
            }
            Ok(last)
        })
        .await
    }

    /// A run with everything of it.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn run_rows(&self, id: &str) -> Result<Option<RunRows>, ApiError> {
        let id = id.to_owned();
        self.look(move |open| {
            let db = &open.db;
            let run = db
                .prepare_cached(&format!("SELECT {RUN} FROM run WHERE id = ?1"))?
                .query_row([&id], run_of)
                .optional()?;
            let Some(run) = run else { return Ok(None) };
            let mut statement = db.prepare_cached(&format!(
                "SELECT {STEP} FROM step WHERE run = ?1 ORDER BY number"
            ))?;
            let steps = statement.query_map([&id], step_of)?;
            let steps = steps.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut statement =
                db.prepare_cached("SELECT report FROM revert WHERE run = ?1 ORDER BY number")?;
            let reverts = statement.query_map([&id], |row| parsed(row, 0))?;
            let reverts = reverts.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(Some(RunRows {
                run,
                steps,
                reverts,
            }))
        })
        .await
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
                 AND (?4 IS NULL OR state = ?4) ORDER BY seq DESC LIMIT ?5"
            ))?;
            let before = filter.before.unwrap_or(i64::MAX);
            let rows = statement.query_map(
                params![before, filter.mount, filter.workflow, state, filter.most],
                run_of,
            )?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut statement = open.db.prepare_cached(&format!(
                "SELECT {STEP} FROM step WHERE run = ?1 AND state IN ('running', 'waiting') ORDER BY number LIMIT 1"
            ))?;
            let mut found = Vec::new();
            for run in rows {
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

    /// Makes all definitions `text`, as no sidecar does.
    #[cfg(test)]
    pub(in crate::sidecar) async fn change_definitions(&self, text: String) {
        let hash = crate::sidecar::workflows::definition_hash(&text);
        let done = self.run(move |open| {
            open.db.execute("DELETE FROM definition", ())?;
            open.db.execute(
                "INSERT INTO definition (text, hash) VALUES (?1, ?2)",
                [&text, &hash],
            )?;
            open.db.execute("UPDATE run SET definition = ?1", [&hash])?;
            Ok(())
        });
        done.await.expect("the test's database works");
    }

    /// Forgets the snapshot after a step.
    #[cfg(test)]
    pub(in crate::sidecar) async fn forget_step_snapshot(&self, run: &str, step: &str) {
        let (run, step) = (run.to_owned(), step.to_owned());
        let done = self.run(move |open| {
            let sql = "UPDATE step SET snapshot = NULL WHERE run = ?1 AND name = ?2";
            open.db.execute(sql, [&run, &step]).map(drop)
        });
        done.await.expect("the test's database works");
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

/// Removes some of the oldest runs if they are too old or too many.
fn trim(db: &Connection, now_ms: u64) -> rusqlite::Result<()> {
    let newest: Option<i64> = db.query_row("SELECT max(seq) FROM run", (), |row| row.get(0))?;
    let mut statement = db.prepare_cached(
        "SELECT id, definition, seq, ended_ms, snapshot IS NULL FROM run WHERE live = 0
         AND NOT EXISTS (SELECT 1 FROM revert WHERE run = run.id AND json_extract(report, '$.at') > ?2)
         ORDER BY seq LIMIT ?1",
    )?;
    let reverted_ms = signed(now_ms.saturating_sub(REVERTED_AGE_MS));
    let oldest = statement.query_map([TRIM, reverted_ms], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)?,
            unsigned(row.get::<_, Option<i64>>(3)?.unwrap_or(0)),
            row.get::<_, bool>(4)?,
        ))
    })?;
    let oldest = oldest.collect::<rusqlite::Result<Vec<_>>>()?;
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
    }
    Ok(())
}

fn put_run(db: &Connection, run: &RunRow) -> rusqlite::Result<()> {
    let is_live = !run.state.is_over() || run.releasing;
    db.prepare_cached(&format!(
        "INSERT OR REPLACE INTO run ({RUN}, live)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
    ))?
    .execute(params![
        run.seq,
        run.id,
        run.workflow,
        run.mount,
        run.path,
        run.definition,
        json(&run.inputs)?,
        run.state.name(),
        optional(run.error.as_ref())?,
        signed(run.created_ms),
        run.started_ms.map(signed),
        run.ended_ms.map(signed),
        run.snapshot,
        run.releasing,
        run.origin,
        is_live,
    ])
    .map(drop)
}

fn put_step(db: &Connection, run: &str, step: &StepRow) -> rusqlite::Result<()> {
    db.prepare_cached(&format!(
        "INSERT OR REPLACE INTO step (run, {STEP})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
    ))?
    .execute(params![
        run,
        step.number,
        step.name,
        step.kind,
        step.state.name(),
        step.attempt,
        step.started_ms.map(signed),
        step.ended_ms.map(signed),
        step.progress_ms.map(signed),
        step.doing,
        step.attempt_ms.map(signed),
        step.times_out_ms.map(signed),
        step.next_ms.map(signed),
        json(&step.place)?,
        json(&step.outputs)?,
        optional(step.error.as_ref())?,
        json(&step.attempts)?,
        step.log,
        step.snapshot,
        step.settled,
    ])
    .map(drop)
}

fn run_of(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        seq: row.get(0)?,
        id: row.get(1)?,
        workflow: row.get(2)?,
        mount: row.get(3)?,
        path: row.get(4)?,
        definition: row.get(5)?,
        inputs: parsed(row, 6)?,
        state: named(row, 7)?,
        error: maybe(row, 8)?,
        created_ms: unsigned(row.get(9)?),
        started_ms: time(row, 10)?,
        ended_ms: time(row, 11)?,
        snapshot: row.get(12)?,
        releasing: row.get(13)?,
        origin: row.get(14)?,
    })
}

fn step_of(row: &Row<'_>) -> rusqlite::Result<StepRow> {
    Ok(StepRow {
        number: row.get(0)?,
        name: row.get(1)?,
        kind: row.get(2)?,
        state: named(row, 3)?,
        attempt: row.get(4)?,
        started_ms: time(row, 5)?,
        ended_ms: time(row, 6)?,
        progress_ms: time(row, 7)?,
        doing: row.get(8)?,
        attempt_ms: time(row, 9)?,
        times_out_ms: time(row, 10)?,
        next_ms: time(row, 11)?,
        place: parsed(row, 12)?,
        outputs: parsed(row, 13)?,
        error: maybe(row, 14)?,
        attempts: parsed(row, 15)?,
        log: row.get(16)?,
        snapshot: row.get(17)?,
        settled: row.get(18)?,
    })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(unsigned))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn optional(value: Option<&impl Serialize>) -> rusqlite::Result<Option<String>> {
    value.map(json).transpose()
}

fn unreadable(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(column, error))
}

fn maybe<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(column, error)))
        .transpose()
}

fn named<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(Json::String(text)).map_err(|error| unreadable(column, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u64) -> RunRow {
        RunRow {
            seq: 0,
            id: String::new(),
            workflow: "w".into(),
            mount: "m".into(),
            path: String::new(),
            definition: format!("hash-{}", n % 3),
            inputs: BTreeMap::new(),
            state: RunState::Succeeded,
            error: None,
            created_ms: n,
            started_ms: Some(n),
            ended_ms: Some(n),
            snapshot: None,
            releasing: false,
            origin: Some(format!("origin-{n}")),
        }
    }

    async fn add(store: &Store, row: RunRow) -> (RunRow, bool, i64) {
        let steps = vec![StepRow::new(0, "a", "run")];
        let added = store.add_run(row, steps, "text".into(), |run| NewEvent {
            kind: "workflow.run",
            run: Some(run.id.clone()),
            ..NewEvent::default()
        });
        added.await.unwrap()
    }

    #[tokio::test]
    async fn a_request_is_one_run_and_ids_are_never_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, is_new, _) = add(&store, run(7)).await;
        assert!(is_new);
        let (same, is_new, _) = add(&store, run(7)).await;
        assert!(!is_new && same == first);
        let rows = store.run_rows(&first.id).await.unwrap().unwrap();
        assert_eq!((&rows.run, rows.steps.len()), (&first, 1));
        assert_eq!(
            store.definition("hash-1").await.unwrap().as_deref(),
            Some("text")
        );
        store
            .run(|open| open.db.execute("DELETE FROM run", ()).map(drop))
            .await
            .unwrap();
        let (second, _, _) = add(&store, run(7)).await;
        assert_ne!(first.id, second.id);
    }

    #[tokio::test]
    async fn runs_that_are_over_end_by_age_and_by_number_with_all_that_is_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let with_snapshot = RunRow {
            snapshot: Some("s".into()),
            ..run(1)
        };
        let (kept, _, _) = add(&store, with_snapshot).await;
        for n in 2..5 {
            add(&store, run(n)).await;
        }
        add(&store, run(RUNS_AGE_MS + 4)).await;
        let left = |filter: RunFilter| {
            let store = store.clone();
            async move {
                store
                    .runs(RunFilter {
                        most: 100,
                        ..filter
                    })
                    .await
                    .unwrap()
            }
        };
        let now = left(RunFilter::default()).await;
        let times: Vec<u64> = now.iter().map(|(run, _)| run.created_ms).collect();
        assert_eq!(times, [RUNS_AGE_MS + 4, 1], "the one with snapshots stays");
        store.forget_snapshots(&kept.id).await.unwrap();
        add(&store, run(RUNS_AGE_MS + 5)).await;
        assert_eq!(left(RunFilter::default()).await.len(), 2);
        assert_eq!(store.run_rows(&kept.id).await.unwrap(), None);
        let counts = store.run(|open| {
            open.db.query_row(
                "SELECT (SELECT count(*) FROM step), (SELECT count(*) FROM definition)",
                (),
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )
        });
        assert_eq!(counts.await.unwrap(), (2, 2));
    }

    #[tokio::test]
    async fn a_run_that_was_just_reverted_stays_however_old_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (old, _, _) = add(&store, run(1)).await;
        let (reverted, _, _) = add(&store, run(2)).await;
        let now_ms = RUNS_AGE_MS + 10;
        let report = RevertReport {
            run: reverted.id.clone(),
            number: 1,
            step: None,
            undo: false,
            restored: "s".into(),
            kept: "k".into(),
            kept_late: None,
            names: 0,
            at: now_ms,
            done: true,
            error: None,
        };
        let row = RevertRow {
            report,
            origin: Some("o".into()),
        };
        let change = RunChange {
            revert: Some(row.clone()),
            ..RunChange::default()
        };
        store.change_run(&reverted.id, change).await.unwrap();
        add(&store, run(now_ms)).await;
        assert_eq!(store.run_rows(&old.id).await.unwrap(), None);
        let kept = store.run_rows(&reverted.id).await.unwrap().unwrap();
        assert_eq!(kept.reverts, [row]);
        add(&store, run(now_ms + REVERTED_AGE_MS)).await;
        assert_eq!(store.run_rows(&reverted.id).await.unwrap(), None);
    }

    /// What is asked at the start, for each run, and by lists costs what it answers, however many runs are over.
    #[tokio::test]
    async fn what_is_over_is_not_looked_through() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for (sql, index) in [
            ("SELECT id FROM run WHERE live = 1 ORDER BY seq", "run_live"),
            ("SELECT count(*) FROM run WHERE live = 1", "run_live"),
            (
                "SELECT id FROM run WHERE live = 0 ORDER BY seq LIMIT 20",
                "run_over",
            ),
            (
                "SELECT id FROM run WHERE seq < 9 ORDER BY seq DESC LIMIT 9",
                "PRIMARY KEY",
            ),
            (
                "SELECT id FROM run WHERE origin = 'x'",
                "sqlite_autoindex_run",
            ),
            (
                "SELECT id FROM run WHERE mount = 'm' AND path = '' AND live = 0 ORDER BY seq DESC",
                "run_project",
            ),
            (
                "SELECT name FROM step WHERE run = 'x' ORDER BY number",
                "PRIMARY KEY",
            ),
        ] {
            let plan = store.look(move |open| {
                let mut statement = open.db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let rows = statement.query_map((), |row| row.get::<_, String>(3))?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            });
            let plan = plan.await.unwrap().join("; ");
            assert!(plan.contains(index), "{sql}: {plan}");
        }
    }
}
