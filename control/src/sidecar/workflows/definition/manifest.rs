//! Manifests of integrations: read as definitions of workflows are, with the same kinds of inputs, expressions and steps.
//! What comes of one for given inputs is a part of a workflow; putting it together is the business of `integrations`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use serde_saphyr::Spanned;

use super::check::{Problem, check, check_inputs, is_name};
use super::inputs::Inputs;
use super::shape::{Definition, Input, OnFailure, Scalar, Step};
use super::{DEFINITION_MAX, invalid, yaml};
use crate::error::ApiError;
use crate::sidecar::secret_folder::is_variable;
use crate::sidecar::workflows::expression::{
    Expression, Name, Scope, Template, Value, renamed, renamed_in,
};
use crate::sidecar::workflows::run_loop::value;

/// Longest name of an integration: names of its steps and inputs begin with it in a run.
const NAME_MAX: usize = 20;
/// Longest version and range.
const VERSION_MAX: usize = 64;
/// Most bytes of a file that is written, and of the path to it.
pub(in crate::sidecar) const FILE_MAX: usize = 64 * 1024;
const PATH_MAX: usize = 512;
/// Most files, packages, secrets, variables and requirements of one integration.
const ENTRIES_MAX: usize = 100;
/// Where git keeps what it runs by itself, on the machine of whoever uses it.
const GIT: &str = ".git";

/// An integration: what is put into a project so that it can use something.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "WeldrFS integration")]
pub(super) struct Shape {
    /// What it is called: lower-case letters, digits and `-`, 20 at most.
    #[schemars(with = "String", regex(pattern = "^[a-z][a-z0-9-]{0,19}$"))]
    name: Spanned<String>,
    /// Of the integration, not of what it brings.
    #[schemars(with = "Scalar")]
    version: Spanned<Scalar>,
    /// What it is for.
    #[serde(default)]
    description: String,
    /// Integrations that have to be there, or to be installed with it. Their files and steps come first.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    requires: Vec<Spanned<String>>,
    /// What it takes, by name.
    #[serde(default)]
    inputs: BTreeMap<String, Input>,
    /// Secrets of the machine that its steps, or the app, need, by name. They have to be there.
    #[serde(default)]
    secrets: BTreeMap<String, Secret>,
    /// Packages, and which versions of them: `^1.2.3`, `~1.2.3` or `1.2.3`. Installed with the project's package manager.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    packages: BTreeMap<String, Spanned<String>>,
    /// Files of the project.
    #[serde(default)]
    files: Vec<FileShape>,
    /// Variables that the project's `.env` gets.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Scalar>")]
    env: BTreeMap<String, Spanned<Scalar>>,
    /// What is done once files and packages are there: steps of a workflow.
    #[serde(default)]
    steps: Vec<Step>,
}

/// A secret that is needed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Secret {
    /// What it is for.
    #[serde(default)]
    description: String,
    /// For which inputs it is needed; for all when absent.
    #[serde(default, rename = "if")]
    #[schemars(with = "Option<Scalar>")]
    condition: Option<Spanned<Scalar>>,
}

/// A file of the project. Has one of `text` and `from`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileShape {
    /// Where it is in the project.
    #[schemars(with = "String")]
    path: Spanned<String>,
    /// What it says, with expressions that name inputs.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    text: Option<Spanned<String>>,
    /// A file beside the manifest with that text.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    from: Option<Spanned<String>>,
    /// Whether it can be run.
    #[serde(default)]
    executable: bool,
    /// For which inputs it is written; for all when absent.
    #[serde(default, rename = "if")]
    #[schemars(with = "Option<Scalar>")]
    condition: Option<Spanned<Scalar>>,
}

/// What a workflow takes as it is written, for what is put together from it.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(default)]
    inputs: Map<String, Json>,
    #[serde(default)]
    steps: Vec<Map<String, Json>>,
}

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

/// Whether `name` can be that of an integration.
pub(in crate::sidecar) fn is_integration(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn check_head(shape: &Shape) -> Result<(), Problem> {
    if !is_integration(&shape.name.value) {
        let text = format!(
            "name takes a lower-case letter, then those, digits and \"-\", {NAME_MAX} at most"
        );
        return Err(Problem::at(&shape.name, text));
    }
    let version = &shape.version.value.0;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
    if !(1..=VERSION_MAX).contains(&version.len()) || !version.bytes().all(is_plain) {
        return Err(Problem::at(&shape.version, "version takes one like 1.2.0"));
    }
    for (count, field) in [
        (shape.requires.len(), "requires"),
        (shape.secrets.len(), "secrets"),
        (shape.packages.len(), "packages"),
        (shape.files.len(), "files"),
        (shape.env.len(), "env"),
    ] {
        if count > ENTRIES_MAX {
            let text = format!("{field} takes {ENTRIES_MAX} at most");
            return Err(Problem::at(&shape.name, text));
        }
    }
    for required in &shape.requires {
        if !is_integration(&required.value) || required.value == shape.name.value {
            return Err(Problem::at(required, "requires takes names of others"));
        }
    }
    for (name, range) in &shape.packages {
        if !is_package(name) || !is_range(&range.value) {
            let text = format!(
                "packages: {name:?} takes the name of a package, and ^1.2.3, ~1.2.3 or 1.2.3"
            );
            return Err(Problem::at(range, text));
        }
    }
    for (variable, text) in &shape.env {
        if !is_variable(variable) {
            let problem = format!("env: {variable:?} is no name of a variable");
            return Err(Problem::at(text, problem));
        }
    }
    if let Some(name) = shape.secrets.keys().find(|name| !is_variable(name)) {
        let text = format!("secrets: {name:?} is no name of a variable");
        return Err(Problem::at(&shape.name, text));
    }
    Ok(())
}

/// The steps as a workflow has them, with names that are not too long with that of the integration.
fn check_steps(shape: &Shape, definition: &Definition) -> Result<(), Problem> {
    check_inputs(definition)?;
    if !shape.steps.is_empty() {
        check(definition)?;
    }
    let long = |name: &str| format!("{}_{name}", shape.name.value);
    if let Some(input) = shape.inputs.keys().find(|name| !is_name(&long(name))) {
        let text = format!("inputs.{input}: the name is too long");
        return Err(Problem::at(&shape.name, text));
    }
    for step in &shape.steps {
        if !is_name(&long(&step.name.value)) {
            return Err(Problem::at(&step.name, "the name is too long"));
        }
        if step.install.is_some() {
            return Err(Problem::at(&step.name, "unknown field `install`"));
        }
        let known = |name: &&Spanned<String>| shape.secrets.contains_key(&name.value);
        if let Some(secret) = step.secrets.iter().find(|name| !known(name)) {
            let text = format!("the integration has no secret {}", secret.value);
            return Err(Problem::at(secret, text));
        }
    }
    Ok(())
}

fn is_package(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        (1..=100).contains(&part.len())
            && part.bytes().all(is_plain)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    match name.strip_prefix('@').map(|rest| rest.split_once('/')) {
        None => is_part(name),
        Some(Some((scope, name))) => is_part(scope) && is_part(name),
        Some(None) => false,
    }
}

fn is_range(range: &str) -> bool {
    let bare = range.strip_prefix(['^', '~']).unwrap_or(range);
    let (numbers, rest) = bare.split_once('-').unwrap_or((bare, "0"));
    let numbers: Vec<&str> = numbers.split('.').collect();
    let is_number =
        |part: &&str| (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    range.len() <= VERSION_MAX
        && numbers.len() == 3
        && numbers.iter().all(is_number)
        && !rest.is_empty()
        && rest.bytes().all(is_plain)
}

/// Whether a file of the project can be written there.
fn check_path(path: &str) -> Result<(), &'static str> {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    let is_normal = |part: &Component<'_>| matches!(part, Component::Normal(_));
    // What components leave out, such as "./", is not what is written.
    let is_whole = path.split('/').count() == parts.len();
    if !(1..=PATH_MAX).contains(&path.len())
        || !is_whole
        || !parts.iter().all(is_normal)
        || path.chars().any(char::is_control)
        || path.split('/').any(|part| part.len() > 255)
    {
        return Err("path takes one in the project: no \"..\", no \"/\" first");
    }
    if path.split('/').any(|part| part.eq_ignore_ascii_case(GIT)) {
        return Err("nothing is written to .git");
    }
    if matches!(path, ".env" | crate::sidecar::integrations::STATE) {
        return Err("env is for .env, and the note of what is installed is not for templates");
    }
    Ok(())
}

/// What expressions of files, variables and secrets may name: inputs.
struct Known<'d>(&'d Definition);

impl Known<'_> {
    fn file(
        &self,
        what: &str,
        file: &FileShape,
        beside: &dyn Fn(&str) -> Result<String, ApiError>,
    ) -> Result<File, ApiError> {
        let at = |place: &Spanned<String>, text: String| invalid(what, Problem::at(place, text));
        let path = &file.path;
        check_path(&path.value).map_err(|text| at(path, text.to_owned()))?;
        let (place, text) = match (&file.text, &file.from) {
            (Some(text), None) => (text, text.value.clone()),
            (None, Some(from)) => {
                let read = beside(&from.value);
                let read = read.map_err(|error| at(from, format!("{:?}: {error}", from.value)));
                (from, read?)
            }
            _ => return Err(at(path, "a file has exactly one of text and from".into())),
        };
        if text.len() > FILE_MAX || text.contains('\0') {
            let text = format!("a file has {FILE_MAX} bytes of text at most");
            return Err(at(place, text));
        }
        let template = self
            .template(&text)
            .map_err(|problem| at(place, format!("{}: {problem}", path.value)))?;
        let condition = self.condition(file.condition.as_ref());
        Ok(File {
            path: path.value.clone(),
            text: template,
            executable: file.executable,
            condition: condition.map_err(|problem| invalid(what, problem))?,
        })
    }

    fn check<'n>(&self, names: impl IntoIterator<Item = &'n Name>) -> Result<(), String> {
        for name in names {
            match name {
                Name::Input(input) if self.0.inputs.contains_key(input) => {}
                Name::Input(input) => return Err(format!("there is no input {input:?}")),
                Name::Secret(_) => {
                    return Err(
                        "secrets are never written down: the app gets them as variables".into(),
                    );
                }
                _ => return Err("only inputs.NAME can be named here".into()),
            }
        }
        Ok(())
    }

    fn template(&self, text: &str) -> Result<Template, String> {
        let whole = Template::parse(text);
        match whole.and_then(|template| self.check(template.names()).map(|()| template)) {
            Ok(template) => Ok(template),
            Err(problem) => Err(self.placed(text, problem)),
        }
    }

    /// Where in a text the first expression is that is at fault.
    fn placed(&self, text: &str, problem: String) -> String {
        let mut from = 0;
        while let Some(found) = text.get(from..).and_then(|rest| rest.find("${{")) {
            let begin = from + found;
            let rest = text.get(begin..).unwrap_or_default();
            let length = rest.find("}}").map_or(rest.len(), |end| end + 2);
            let one = Template::parse(rest.get(..length).unwrap_or(rest));
            if one.and_then(|one| self.check(one.names())).is_err() {
                let before = text.get(..begin).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
                return format!("line {line}, column {column} of the text: {problem}");
            }
            from = begin + length;
        }
        problem
    }

    /// A condition on inputs.
    fn condition(&self, text: Option<&Spanned<Scalar>>) -> Result<Option<Expression>, Problem> {
        let Some(text) = text else {
            return Ok(None);
        };
        let bare = text.value.0.trim();
        let bare = bare
            .strip_prefix("${{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .unwrap_or(bare);
        let read = Expression::parse(bare).and_then(|expression| {
            self.check(expression.names())?;
            match expression.asks_how_it_goes() {
                true => Err("only inputs.NAME can be named here".into()),
                false => Ok(Some(expression)),
            }
        });
        read.map_err(|problem| Problem::at(text, problem))
    }
}

/// The JSON schema of manifests, kept in the repository as `docs/integration.schema.json`.
#[must_use]
pub fn integration_schema_text() -> String {
    let schema = schemars::schema_for!(Shape);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// The names that are there twice.
pub(in crate::sidecar) fn doubled<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
