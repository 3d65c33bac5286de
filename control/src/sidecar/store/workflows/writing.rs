//! What changes of runs: each change is one transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::retention::{TRIM, trim};
use super::rows::{RUN, STEP, json, optional, run_of, signed};
use super::{INSTALLS_MAX, LIVE_MAX, RunChange, RunRow, StepRow};
use crate::error::ApiError;
use crate::sidecar::store::{NewEvent, Store, insert_event};
use crate::sidecar::workflows::INSTALL;

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
                    return Ok(Ok((there, false, 0)));
                }
            }
            let (live, installs): (i64, i64) = tx
                .prepare_cached(
                    "SELECT count(*), count(*) FILTER (WHERE substr(workflow, 1, length(?1)) = ?1) FROM run WHERE live = 1",
                )?
                .query_row([INSTALL], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if live >= LIVE_MAX {
                return Ok(Err(format!("{LIVE_MAX} runs")));
            }
            if run.workflow.starts_with(INSTALL) && installs >= INSTALLS_MAX {
                return Ok(Err(format!("{INSTALLS_MAX} installs of integrations")));
            }
            trim(&tx, run.created_ms, TRIM)?;
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
            Ok(Ok((run, true, event)))
        });
        added.await?.map_err(|many| {
            ApiError::LimitReached(format!(
                "{many} are not over, as many as there may be; wait for some of them, or cancel them"
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

    /// All steps of a run that were cancelled are as if they had never begun.
    #[cfg(test)]
    pub(in crate::sidecar) async fn forget_how_steps_ended(&self, id: &str) {
        let id = id.to_owned();
        let sql = "UPDATE step SET state = 'skipped' WHERE run = ?1 AND state = 'cancelled'";
        let done = self.run(move |open| open.db.execute(sql, [&id]).map(drop));
        done.await.expect("the test's database works");
    }

    /// Damages what is written of the steps of a run.
    #[cfg(test)]
    pub(in crate::sidecar) async fn damage(&self, id: &str) {
        let id = id.to_owned();
        let sql = "UPDATE step SET outputs = '{broken' WHERE run = ?1";
        let done = self.run(move |open| open.db.execute(sql, [&id]).map(drop));
        done.await.expect("the test's database works");
    }

    /// The next run has a number behind this one.
    #[cfg(test)]
    pub(in crate::sidecar) async fn skip_run_numbers(&self, to: i64) {
        let sql = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'run'";
        let done = self.run(move |open| open.db.execute(sql, [to]).map(drop));
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
