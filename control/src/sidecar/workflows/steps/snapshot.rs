//! A snapshot that is kept.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Attempt, Ending, Outcome, fault_of};
use crate::sidecar::workflows::snapshots::{STEP_OWNER, take};

pub(super) async fn perform(attempt: Attempt, name: String, note: String) -> Ending {
    // Another step that asks for the same name does not find its own.
    let by = format!("made by step {} of run {}", attempt.step.name, attempt.run);
    let note = match note.is_empty() {
        true => by,
        false => format!("{note} ({by})"),
    };
    let taking = take(&attempt.parts, &attempt.mount, (&name, STEP_OWNER), &note);
    match attempt.unless_stopped(taking).await {
        Ok(Ok(())) => {
            let outputs = BTreeMap::from([("snapshot".to_owned(), Json::String(name))]);
            Ending::of(Outcome::Done(outputs))
        }
        Ok(Err(error)) => Ending::of(Outcome::Failed(fault_of(&error))),
        Err(ending) => ending,
    }
}
