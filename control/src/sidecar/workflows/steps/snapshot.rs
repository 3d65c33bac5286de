//! A snapshot that is kept.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Attempt, Ending, Outcome, fault_of};
use crate::sidecar::workflows::snapshots::take;

pub(super) async fn perform(attempt: Attempt, name: String, note: String) -> Ending {
    let note = match note.is_empty() {
        true => format!("made by run {}", attempt.run),
        false => format!("{note} (made by run {})", attempt.run),
    };
    let taking = take(&attempt.parts, &attempt.mount, &name, &note);
    match attempt.unless_stopped(taking).await {
        Ok(Ok(())) => {
            let outputs = BTreeMap::from([("snapshot".to_owned(), Json::String(name))]);
            Ending::of(Outcome::Done(outputs))
        }
        Ok(Err(error)) => Ending::of(Outcome::Failed(fault_of(&error))),
        Err(ending) => ending,
    }
}
