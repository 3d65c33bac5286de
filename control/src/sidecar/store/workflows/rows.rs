//! Rows as they are in the tables, and back.

use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{RunRow, StepRow};
use crate::sidecar::store::unsigned;

pub(super) const RUN: &str = "seq, id, workflow, mount, path, definition, inputs, state, error, created_ms, started_ms, ended_ms, \
                   snapshot, releasing, origin";
pub(super) const STEP: &str = "number, name, kind, state, attempt, started_ms, ended_ms, progress_ms, doing, attempt_ms, \
                    times_out_ms, next_ms, place, outputs, error, attempts, log, snapshot, settled";

pub(super) fn run_of(row: &Row<'_>) -> rusqlite::Result<RunRow> {
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

pub(super) fn step_of(row: &Row<'_>) -> rusqlite::Result<StepRow> {
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

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(unsigned))
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn optional(value: Option<&impl Serialize>) -> rusqlite::Result<Option<String>> {
    value.map(json).transpose()
}

pub(super) fn unreadable(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

pub(super) fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(column, error))
}

pub(super) fn maybe<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(column, error)))
        .transpose()
}

pub(super) fn named<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(Json::String(text)).map_err(|error| unreadable(column, error))
}
