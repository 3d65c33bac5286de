//! Rows that cannot be read, as after damage to the disk or by another program's hand: they stop their own run and nothing else.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{RUN, STEP, json, optional, parsed, run_of, signed, step_of};
use super::{OutputPlace, RevertRow, RunRows};
use crate::error::ApiError;
use crate::sidecar::events::kinds;
use crate::sidecar::store::{NewEvent, Store, insert_event};
use crate::sidecar::workflows::{Fault, RunState, StepState};

/// What such a run ends with.
const CODE: &str = "unreadable";
const WHY: &str = "what is written of this run cannot be read, so that it was not gone on with";

impl Store {
    /// Ends the runs of which a row cannot be read, so that they can be shown; which those are.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn set_unreadable_aside(
        &self,
        now_ms: u64,
    ) -> Result<Vec<String>, ApiError> {
        self.run(move |open| {
            let mut statement = open
                .db
                .prepare_cached("SELECT id FROM run WHERE live = 1 ORDER BY seq")?;
            let ids = statement.query_map((), |row| row.get(0))?;
            let ids = ids.collect::<rusqlite::Result<Vec<String>>>()?;
            drop(statement);
            let mut unreadable = Vec::new();
            for id in ids {
                match rows(&open.db, &id) {
                    Ok(_) => {}
                    Err(error) if is_unreadable(&error) => {
                        tracing::error!(%error, run = id, "a row of a run cannot be read");
                        let tx = open.db.transaction()?;
                        set_aside(&tx, &id, now_ms)?;
                        tx.commit()?;
                        unreadable.push(id);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(unreadable)
        })
        .await
    }
}

/// A run with everything of it.
pub(super) fn rows(db: &Connection, id: &str) -> rusqlite::Result<Option<RunRows>> {
    let run = db
        .prepare_cached(&format!("SELECT {RUN} FROM run WHERE id = ?1"))?
        .query_row([id], run_of)
        .optional()?;
    let Some(run) = run else { return Ok(None) };
    let mut statement = db.prepare_cached(&format!(
        "SELECT {STEP} FROM step WHERE run = ?1 ORDER BY number"
    ))?;
    let steps = statement.query_map([id], step_of)?;
    let steps = steps.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut statement =
        db.prepare_cached("SELECT report FROM revert WHERE run = ?1 ORDER BY number")?;
    let reverts = statement.query_map([id], |row| parsed(row, 0))?;
    let reverts = reverts.collect::<rusqlite::Result<Vec<RevertRow>>>()?;
    Ok(Some(RunRows {
        run,
        steps,
        reverts,
    }))
}

/// Whether it is the row that is wrong, and not the database.
pub(super) fn is_unreadable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
    )
}

/// Makes the rows of a run such that they can be read: it has failed, and what is known of its steps is how they ended.
fn set_aside(db: &Connection, id: &str, now_ms: u64) -> rusqlite::Result<()> {
    let fault = Fault {
        code: CODE.into(),
        message: WHY.into(),
    };
    let failed = RunState::Failed.name();
    db.execute(
        "UPDATE run SET inputs = '{}', state = ?2, error = ?3, ended_ms = ?4, releasing = 0, live = 0 WHERE id = ?1",
        params![id, &failed, optional(Some(&fault))?, signed(now_ms)],
    )?;
    let over = [
        StepState::Succeeded,
        StepState::Failed,
        StepState::Skipped,
        StepState::Cancelled,
        StepState::Interrupted,
    ];
    let over = over.map(|state| format!("'{}'", state.name())).join(", ");
    db.execute(
        &format!(
            "UPDATE step SET state = iif(state IN ({over}), state, ?2), place = ?3, outputs = '{{}}', error = NULL,
             attempts = '[]', doing = NULL, attempt_ms = NULL, next_ms = NULL, settled = 1 WHERE run = ?1"
        ),
        params![id, StepState::Failed.name(), json(&OutputPlace::default())?],
    )?;
    db.execute("DELETE FROM revert WHERE run = ?1", [id])?;
    let mount = db.query_row("SELECT mount FROM run WHERE id = ?1", [id], |row| {
        row.get(0)
    })?;
    let event = NewEvent {
        at_ms: now_ms,
        kind: kinds::RUN,
        mount: Some(mount),
        run: Some(id.to_owned()),
        step: None,
        data: Some(serde_json::json!({"state": failed, "error": fault})),
        message: format!("run {id} is {failed}: {WHY}"),
    };
    insert_event(db, &event).map(drop)
}
