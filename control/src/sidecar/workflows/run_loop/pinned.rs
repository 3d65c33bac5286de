//! The definition that a run was begun with, and the secrets that are masked in what it says.

use std::collections::BTreeMap;

use tokio::time::sleep;

use super::telling::WRITE_AGAIN;
use crate::sandbox::Secrets;
use crate::sidecar::store::RunRows;
use crate::sidecar::workflows::Parts;
use crate::sidecar::workflows::definition::{Workflow, hash};
use crate::sidecar::workflows::mask::Mask;
use crate::sidecar::workflows::steps::fault;
use crate::sidecar::workflows::types::Fault;

/// The definition that the run was begun with, if it can be followed.
pub(super) async fn understood(parts: &Parts, rows: &RunRows) -> Result<Workflow, Fault> {
    let unusable = |why: String| fault("definition_unusable", why);
    let text = loop {
        match parts.store.definition(&rows.run.definition).await {
            Ok(text) => break text,
            Err(_) => sleep(WRITE_AGAIN).await,
        }
    };
    let text = text.ok_or_else(|| unusable("the definition of this run is gone".into()))?;
    if hash(&text) != rows.run.definition {
        return Err(unusable("the definition of this run was changed".into()));
    }
    let workflow = Workflow::read(&rows.run.workflow, &text)
        .map_err(|error| unusable(format!("this version does not follow it: {error}")))?;
    let same = workflow.steps.len() == rows.steps.len()
        && workflow
            .steps
            .iter()
            .zip(&rows.steps)
            .all(|(planned, row)| planned.name == row.name && planned.kind.name() == row.kind);
    match same {
        true => Ok(workflow),
        false => Err(unusable(
            "its steps are not those that this run was begun with".into(),
        )),
    }
}

/// All secrets of all steps: one may hand on what another was given.
pub(super) fn mask(parts: &Parts, workflow: Option<&Workflow>) -> Mask {
    let mut all = BTreeMap::new();
    for name in workflow
        .into_iter()
        .flat_map(|workflow| &workflow.steps)
        .flat_map(|step| &step.secrets)
    {
        // One that is missing is told of by the step that needs it.
        if let Ok(read) = parts.secrets.read(std::slice::from_ref(name)) {
            all.extend(read.0);
        }
    }
    Mask::of(&Secrets(all))
}
