//! Manifests of integrations: read as definitions of workflows are, with the same kinds of inputs, expressions and steps.
//! What comes of one for given inputs is a part of a workflow; putting it together is the business of `integrations`.

mod check;
mod known;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

pub(in crate::sidecar) use self::check::is_integration;
use self::check::{check_head, check_steps};
use self::known::Known;
pub use self::shape::integration_schema_text;
use self::shape::{Raw, Shape};
use super::check::Problem;
use super::inputs::Inputs;
use super::shape::{Definition, OnFailure};
use super::{DEFINITION_MAX, invalid, yaml};
use crate::error::ApiError;
use crate::sidecar::workflows::expression::{
    Expression, Name, Scope, Template, Value, renamed, renamed_in,
};
use crate::sidecar::workflows::run_loop::value;

/// Most bytes of a file that is written.
pub(in crate::sidecar) const FILE_MAX: usize = 64 * 1024;

/// A manifest that can be followed.
#[derive(Debug, Clone)]
pub(in crate::sidecar) struct Manifest {
    definition: Definition,
    inputs: Map<String, Json>,
    steps: Vec<(Map<String, Json>, Option<Expression>)>,
    files: Vec<File>,
    env: BTreeMap<String, Template>,
    pub(in crate::sidecar) name: String,
    pub(in crate::sidecar) version: String,
    pub(in crate::sidecar) description: String,
    pub(in crate::sidecar) requires: Vec<String>,
    pub(in crate::sidecar) packages: BTreeMap<String, String>,
    secrets: BTreeMap<String, (String, Option<Expression>)>,
}

#[derive(Debug, Clone)]
struct File {
    path: String,
    text: Template,
    executable: bool,
    condition: Option<Expression>,
}

/// A file as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar) struct FilledFile {
    pub(in crate::sidecar) path: String,
    pub(in crate::sidecar) text: String,
    pub(in crate::sidecar) executable: bool,
}

/// A manifest and what it was given.
#[derive(Debug)]
pub(in crate::sidecar) struct Given<'m> {
    manifest: &'m Manifest,
    inputs: Inputs,
}

impl Manifest {
    /// Reads a manifest; `what` names it in errors. `beside` reads files beside it.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] with line, column and what was expected.
    pub(in crate::sidecar) fn read(
        what: &str,
        text: &str,
        beside: &dyn Fn(&str) -> Result<String, ApiError>,
    ) -> Result<Self, ApiError> {
        let shape: Shape = yaml(what, text, DEFINITION_MAX)?;
        let raw: Raw = yaml(what, text, DEFINITION_MAX)?;
        let at = |problem: Problem| invalid(what, problem);
        check_head(&shape).map_err(at)?;
        let definition = Definition {
            description: None,
            inputs: shape.inputs.clone(),
            env: BTreeMap::new(),
            concurrency: None,
            timeout: None,
            on_failure: OnFailure::Revert,
            steps: shape.steps.clone(),
        };
        check_steps(&shape, &definition).map_err(at)?;
        let known = Known(&definition);
        let mut files = Vec::new();
        for file in &shape.files {
            files.push(known.file(what, file, beside)?);
        }
        let mut env = BTreeMap::new();
        for (variable, text) in &shape.env {
            let template = known
                .template(&text.value.0)
                .map_err(|problem| at(Problem::at(text, format!("env.{variable}: {problem}"))))?;
            env.insert(variable.clone(), template);
        }
        let mut secrets = BTreeMap::new();
        for (name, secret) in &shape.secrets {
            let condition = known.condition(secret.condition.as_ref()).map_err(at)?;
            secrets.insert(name.clone(), (secret.description.clone(), condition));
        }
        let mut steps = Vec::new();
        for (step, raw) in shape.steps.iter().zip(raw.steps) {
            // A condition that asks for more than inputs is for the run.
            let condition = known.condition(step.condition.as_ref());
            steps.push((raw, condition.ok().flatten()));
        }
        let packages = shape.packages.iter();
        let packages = packages.map(|(name, range)| (name.clone(), range.value.clone()));
        Ok(Self {
            name: shape.name.value,
            version: shape.version.value.0,
            description: shape.description,
            requires: shape
                .requires
                .iter()
                .map(|name| name.value.clone())
                .collect(),
            packages: packages.collect(),
            inputs: raw.inputs,
            definition,
            steps,
            files,
            env,
            secrets,
        })
    }

    /// The inputs, as the manifest has them.
    pub(in crate::sidecar) fn inputs(&self) -> &Map<String, Json> {
        &self.inputs
    }

    /// Every secret it may need, and what for.
    pub(in crate::sidecar) fn secrets(&self) -> BTreeMap<String, String> {
        let all = self.secrets.iter();
        all.map(|(name, (description, _))| (name.clone(), description.clone()))
            .collect()
    }

    /// Every file it may write.
    pub(in crate::sidecar) fn paths(&self) -> Vec<String> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// The variables that it sets.
    pub(in crate::sidecar) fn variables(&self) -> Vec<String> {
        self.env.keys().cloned().collect()
    }

    /// # Errors
    /// [`ApiError::InvalidRequest`] that names the input and what it takes.
    pub(in crate::sidecar) fn given(
        &self,
        inputs: &BTreeMap<String, Json>,
    ) -> Result<Given<'_>, ApiError> {
        let inputs = Inputs::of(&self.definition, inputs).map_err(|error| {
            let text = error.to_string().replacen("the workflow", "it", 1);
            ApiError::InvalidRequest(format!("integration {}: {text}", self.name))
        })?;
        Ok(Given {
            manifest: self,
            inputs,
        })
    }

    /// What a name of this manifest is called in a run of several: no name of an integration has a `_`.
    fn renamed(&self, word: &str) -> Option<String> {
        for kind in ["inputs.", "steps."] {
            if let Some(rest) = word.strip_prefix(kind) {
                return Some(format!("{kind}{}_{rest}", self.name));
            }
        }
        None
    }
}

impl Given<'_> {
    fn holds(&self, condition: Option<&Expression>) -> bool {
        condition.is_none_or(|condition| condition.evaluate(self).is_true())
    }

    /// The files that are to be written.
    pub(in crate::sidecar) fn files(&self) -> Vec<FilledFile> {
        let files = self.manifest.files.iter();
        let due = files.filter(|file| self.holds(file.condition.as_ref()));
        due.map(|file| FilledFile {
            path: file.path.clone(),
            text: file.text.fill(self),
            executable: file.executable,
        })
        .collect()
    }

    /// The variables of the app.
    pub(in crate::sidecar) fn variables(&self) -> BTreeMap<String, String> {
        let all = self.manifest.env.iter();
        all.map(|(name, text)| (name.clone(), text.fill(self)))
            .collect()
    }

    /// The secrets that are needed.
    pub(in crate::sidecar) fn secrets(&self) -> Vec<String> {
        let all = self.manifest.secrets.iter();
        all.filter(|(_, (_, condition))| self.holds(condition.as_ref()))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The inputs of a run of several: what they are, and their values.
    pub(in crate::sidecar) fn inputs(&self) -> (Map<String, Json>, BTreeMap<String, Json>) {
        let name = |input: &String| format!("{}_{input}", self.manifest.name);
        let declared = self.manifest.inputs.iter();
        let values = self.inputs.0.iter();
        (
            declared
                .map(|(input, shape)| (name(input), shape.clone()))
                .collect(),
            values
                .map(|(input, value)| (name(input), value.clone()))
                .collect(),
        )
    }

    /// The steps of a run of several. Those that these inputs do not ask for are left out.
    pub(in crate::sidecar) fn steps(&self) -> Vec<Json> {
        let steps = self.manifest.steps.iter();
        let due = steps.filter(|(_, condition)| self.holds(condition.as_ref()));
        due.map(|(step, _)| Json::Object(self.step(step))).collect()
    }

    fn step(&self, step: &Map<String, Json>) -> Map<String, Json> {
        let rename = |word: &str| self.manifest.renamed(word);
        let mut renamed_step = Map::new();
        for (field, value) in step {
            let value = match (field.as_str(), value) {
                ("name", Json::String(name)) => {
                    Json::String(format!("{}_{name}", self.manifest.name))
                }
                ("if", Json::String(text)) => Json::String(renamed(text, &rename)),
                (_, value) => texts(value, &|text| renamed_in(text, &rename)),
            };
            renamed_step.insert(field.clone(), value);
        }
        renamed_step
    }
}

/// `value` with other texts.
fn texts(value: &Json, other: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::String(text) => Json::String(other(text)),
        Json::Array(all) => all.iter().map(|one| texts(one, other)).collect(),
        Json::Object(all) => {
            let fields = all.iter();
            fields
                .map(|(name, one)| (name.clone(), texts(one, other)))
                .collect()
        }
        plain => plain.clone(),
    }
}

impl Scope for Given<'_> {
    fn value(&self, name: &Name) -> Value {
        match name {
            Name::Input(name) => value(self.inputs.0.get(name)),
            // Nothing else is let in.
            _ => Value::Nothing,
        }
    }

    fn goes_well(&self) -> bool {
        true
    }
}

/// A name that is there twice.
pub(in crate::sidecar) fn doubled<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}
