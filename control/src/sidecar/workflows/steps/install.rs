//! Files, variables and the note of integrations, written into the project. Doing it again writes the same.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Attempt, Ending, Outcome, Report, fault_of};
use crate::sidecar::integrations::{Place, Work};

pub(super) async fn perform(attempt: Attempt, work: Work) -> Ending {
    attempt.tell(Report::Doing("writes files".into())).await;
    let place = Place {
        mountpoint: attempt.mountpoint.clone(),
        folder: PathBuf::from(&attempt.path),
    };
    // To its end, also when the run is cancelled: nothing may be written after the project was put back.
    match work.perform(place).await {
        Ok(()) => Ending::of(Outcome::Done(BTreeMap::new())),
        Err(error) => Ending::of(Outcome::Failed(fault_of(&error))),
    }
}
