//! From manifests to one workflow: the files of all, their packages, their steps in the order in which they need each other,
//! and a note of them at the end. Whatever fails, the project is put back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::dotenv;
use super::state::{Installed, State, sha256};
use super::work::{NewFile, NewVariable, Work};
use crate::error::ApiError;
use crate::sidecar::workflows::{FILE_MAX, Given, INSTALL, INSTALL_MAX, Manifest, works_of};

/// Most steps of a run, those for files, packages and the note among them.
const STEPS_MAX: usize = 100;

/// A run that installs integrations.
#[derive(Debug)]
pub(super) struct Plan {
    /// The name of its workflow.
    pub(super) name: String,
    pub(super) definition: String,
    pub(super) inputs: BTreeMap<String, Json>,
    /// What it writes.
    pub(super) work: Work,
    pub(super) secrets: Vec<String>,
}

/// The package manager of a project.
pub(super) struct Packager {
    pub(super) name: &'static str,
    pub(super) program: String,
}

impl Packager {
    /// A command that adds packages. Their own scripts are not run: they would be somebody else's, with the machine's network.
    fn add(&self, packages: &BTreeMap<String, String>) -> Vec<String> {
        let words: &[&str] = match self.name {
            "npm" => &[
                "install",
                "--no-audit",
                "--no-fund",
                "--no-update-notifier",
                "--ignore-scripts",
            ],
            "yarn" => &["add"],
            _ => &["add", "--ignore-scripts"],
        };
        let words = words.iter().map(|&word| word.to_owned());
        let packages = packages
            .iter()
            .map(|(name, range)| format!("{name}@{range}"));
        [self.program.clone()]
            .into_iter()
            .chain(words)
            .chain(packages)
            .collect()
    }
}

/// Manifests in an order in which each comes after those it requires.
///
/// # Errors
/// [`ApiError::InvalidRequest`] when one is neither among them nor `installed`, or when they require each other.
pub(super) fn ordered(
    manifests: Vec<Manifest>,
    installed: &State,
) -> Result<Vec<Manifest>, ApiError> {
    let invalid = |text: String| Err(ApiError::InvalidRequest(text));
    let there: BTreeSet<String> = manifests.iter().map(|one| one.name.clone()).collect();
    for manifest in &manifests {
        let is_there =
            |name: &&String| there.contains(*name) || installed.integrations.contains_key(*name);
        if let Some(missing) = manifest.requires.iter().find(|name| !is_there(name)) {
            return invalid(format!(
                "{} requires {missing}, which the project does not have: install both at once",
                manifest.name
            ));
        }
    }
    let mut left = manifests;
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut order = Vec::new();
    while !left.is_empty() {
        let waits = |one: &Manifest| {
            let mut requires = one.requires.iter();
            requires.any(|name| there.contains(name) && !done.contains(name))
        };
        let Some(next) = left.iter().position(|one| !waits(one)) else {
            let names: Vec<&str> = left.iter().map(|one| one.name.as_str()).collect();
            return invalid(format!("{} require each other", names.join(", ")));
        };
        let next = left.remove(next);
        done.insert(next.name.clone());
        order.push(next);
    }
    Ok(order)
}

/// The run for what was `given`.
///
/// # Errors
/// [`ApiError::InvalidRequest`] when two write the same file, or it is too much for one run.
pub(super) fn plan(
    given: &[(&Manifest, Given<'_>)],
    installed: &State,
    packager: &Packager,
) -> Result<Plan, ApiError> {
    let mut whole = Whole {
        names: given.iter().map(|(one, _)| one.name.clone()).collect(),
        ..Whole::default()
    };
    for (manifest, given) in given {
        whole.add(manifest, given, installed)?;
    }
    let Whole {
        files,
        variables,
        record,
        packages,
        secrets,
        ..
    } = whole;
    let names: Vec<&str> = given.iter().map(|(one, _)| one.name.as_str()).collect();
    let work = Work {
        files: files.into_values().collect(),
        variables: variables.into_values().collect(),
        record: BTreeMap::new(),
    };
    let note = Work {
        record,
        ..Work::default()
    };
    // No name of a step of a manifest is without a "_" here.
    let mut steps = Vec::new();
    let mut written = Vec::new();
    if !work.files.is_empty() || !work.variables.is_empty() {
        written.push(work.clone());
        steps.push(json!({"name": "files", "install": work}));
    }
    if !packages.is_empty() {
        steps.push(json!({
            "name": "packages", "command": packager.add(&packages), "network": "host", "timeout": "15m",
            "retry": {"attempts": 3, "backoff": "2s"},
        }));
    }
    let (mut declared, mut inputs) = (Map::new(), BTreeMap::new());
    for (_, given) in given {
        let (shapes, values) = given.inputs();
        declared.extend(shapes);
        inputs.extend(values);
        steps.extend(given.steps());
    }
    steps.push(json!({"name": "note", "install": note}));
    written.push(note);
    if steps.len() > STEPS_MAX {
        return Err(ApiError::InvalidRequest(format!(
            "they have {} steps together, and a run has {STEPS_MAX} at most",
            steps.len()
        )));
    }
    let definition =
        json!({"on_failure": "revert", "inputs": declared, "steps": steps}).to_string();
    if definition.len() > INSTALL_MAX {
        return Err(ApiError::InvalidRequest(format!(
            "their files have more than {INSTALL_MAX} bytes together; install them one after the other"
        )));
    }
    let name = format!("{INSTALL}{}", names.join(","));
    let kept = works_of(&name, &definition)?;
    if !kept.iter().eq(written.iter()) {
        return Err(ApiError::InvalidRequest(
            "their files have characters that the definition of a run does not keep".into(),
        ));
    }
    Ok(Plan {
        name,
        definition,
        inputs,
        work,
        secrets: secrets.into_iter().collect(),
    })
}

/// What several write together.
#[derive(Default)]
struct Whole {
    names: BTreeSet<String>,
    files: BTreeMap<String, NewFile>,
    variables: BTreeMap<String, NewVariable>,
    record: BTreeMap<String, Installed>,
    packages: BTreeMap<String, String>,
    secrets: BTreeSet<String>,
    /// Who said what, for errors.
    by: BTreeMap<String, String>,
}

impl Whole {
    fn add(
        &mut self,
        manifest: &Manifest,
        given: &Given<'_>,
        installed: &State,
    ) -> Result<(), ApiError> {
        let mut note = Installed {
            version: manifest.version.clone(),
            ..Installed::default()
        };
        for file in given.files() {
            // It is read again to see whether somebody changed it.
            if file.text.len() > FILE_MAX {
                return Err(ApiError::InvalidRequest(format!(
                    "with these inputs {} of {} has more than {FILE_MAX} bytes",
                    file.path, manifest.name
                )));
            }
            let hash = sha256(file.text.as_bytes());
            let others = installed.integrations.iter();
            let others = others.map(|(name, one)| (name, one.files.get(&file.path)));
            self.agrees_with(manifest, &file.path, &hash, others)?;
            note.files.insert(file.path.clone(), hash);
            let new = NewFile {
                was: installed.file(&file.path).cloned(),
                path: file.path.clone(),
                text: file.text,
                executable: file.executable,
            };
            let before = self.files.insert(file.path.clone(), new.clone());
            self.agrees(
                manifest,
                &file.path,
                before.is_none_or(|before| before == new),
            )?;
        }
        for (name, value) in given.variables() {
            dotenv::check(&name, &value)?;
            let hash = sha256(value.as_bytes());
            let others = installed.integrations.iter();
            let others = others.map(|(other, one)| (other, one.variables.get(&name)));
            self.agrees_with(manifest, &format!("{name} of .env"), &hash, others)?;
            note.variables.insert(name.clone(), hash);
            let new = NewVariable {
                was: installed.variable(&name).cloned(),
                name: name.clone(),
                value,
            };
            let before = self.variables.insert(name.clone(), new.clone());
            let is_same = before.is_none_or(|before| before == new);
            self.agrees(manifest, &format!("{name} of .env"), is_same)?;
        }
        for (name, range) in &manifest.packages {
            let before = self.packages.insert(name.clone(), range.clone());
            let is_same = before.is_none_or(|before| before == *range);
            self.agrees(manifest, &format!("the package {name}"), is_same)?;
        }
        self.secrets.extend(given.secrets());
        self.record.insert(manifest.name.clone(), note);
        Ok(())
    }

    /// What one of those writes that the project has already, and that stay as they are, is not written over.
    fn agrees_with<'o>(
        &self,
        manifest: &Manifest,
        what: &str,
        hash: &String,
        mut installed: impl Iterator<Item = (&'o String, Option<&'o String>)>,
    ) -> Result<(), ApiError> {
        let differs = |(name, written): &(&String, Option<&String>)| {
            written.is_some_and(|written| written != hash) && !self.names.contains(*name)
        };
        match installed.find(differs) {
            None => Ok(()),
            Some((other, _)) => Err(ApiError::InvalidRequest(format!(
                "{other}, which the project has, and {} do not agree about {what}; install both at once, or only one of them",
                manifest.name
            ))),
        }
    }

    fn agrees(&mut self, manifest: &Manifest, what: &str, does: bool) -> Result<(), ApiError> {
        let other = self.by.insert(what.to_owned(), manifest.name.clone());
        match (does, other) {
            (false, Some(other)) => Err(ApiError::InvalidRequest(format!(
                "{other} and {} do not agree about {what}; they cannot be installed in one project",
                manifest.name
            ))),
            _ => Ok(()),
        }
    }
}
