//! What the texts and conditions of a run's steps may name, and what that is at the moment.

use serde_json::Value as Json;

use super::RunLoop;
use crate::sandbox::Secrets;
use crate::sidecar::store::RunRows;
use crate::sidecar::workflows::expression::{Name, Scope, Value};

impl RunLoop {
    pub(super) fn scope(&self, secrets: Secrets) -> RunScope<'_> {
        RunScope {
            rows: &self.rows,
            secrets,
        }
    }
}

/// What the texts of a run's steps may name.
pub(super) struct RunScope<'r> {
    rows: &'r RunRows,
    secrets: Secrets,
}

impl Scope for RunScope<'_> {
    fn value(&self, name: &Name) -> Value {
        let run = &self.rows.run;
        let step = |name: &String| self.rows.steps.iter().find(|step| step.name == *name);
        match name {
            Name::Input(name) => value(run.inputs.get(name)),
            Name::Output(name, key) => value(step(name).and_then(|step| step.outputs.get(key))),
            Name::State(name) => {
                step(name).map_or(Value::Nothing, |step| Value::Text(step.state.name()))
            }
            Name::Secret(name) => self
                .secrets
                .0
                .get(name)
                .map_or(Value::Nothing, |secret| Value::Text(secret.clone())),
            Name::Run(what) => Value::Text(match what.as_str() {
                "id" => run.id.clone(),
                "mount" => run.mount.clone(),
                "path" => run.path.clone(),
                _ => run.workflow.clone(),
            }),
        }
    }

    fn goes_well(&self) -> bool {
        !self.rows.steps.iter().any(|step| step.state.is_failure())
    }
}

/// Up to here a floating-point number holds every whole one.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

pub(in crate::sidecar::workflows) fn value(json: Option<&Json>) -> Value {
    match json {
        None | Some(Json::Null) => Value::Nothing,
        Some(Json::String(text)) => Value::Text(text.clone()),
        Some(Json::Bool(value)) => Value::Bool(*value),
        // One that is no more exact as a floating-point number stays what it is: an id, for instance.
        Some(Json::Number(number)) => match number.as_f64() {
            Some(value) if value.abs() <= EXACT_MAX => Value::Number(value),
            _ => Value::Text(number.to_string()),
        },
        Some(other) => Value::Text(other.to_string()),
    }
}
