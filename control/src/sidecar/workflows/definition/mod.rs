//! Definitions of workflows: from YAML to something that can be followed, or to a sentence that says where it is wrong and
//! what was expected. Nothing here starts anything.

mod check;
mod inputs;
mod kinds;
mod manifest;
mod names;
mod planned;
mod schema;
mod shape;
mod span;

use serde::de::DeserializeOwned;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::sidecar::integrations::Work;

use self::check::Problem;
pub(super) use inputs::Inputs;
pub use manifest::integration_schema_text;
pub(in crate::sidecar) use manifest::{FILE_MAX, Given, Manifest, doubled, is_integration};
pub(super) use planned::{Kind, Planned};
pub use schema::text as schema_text;
pub(super) use shape::{Answer, Definition, Files, Method, OnFailure, Permissions, Restart, Tool};

/// Most bytes of a definition.
pub(super) const DEFINITION_MAX: usize = 64 * 1024;
/// Most bytes of one that was put together from integrations: it holds the files that they write.
pub(in crate::sidecar) const INSTALL_MAX: usize = 512 * 1024;
/// How the names of runs that install integrations begin. No name of a workflow does.
pub(in crate::sidecar) const INSTALL: &str = "install:";
/// Most steps.
const STEPS_MAX: usize = 100;
/// Most nodes of a document, those that aliases repeat counted.
const NODES_MAX: usize = 10_000;
/// How deep a document may be.
const DEPTH_MAX: usize = 32;
/// Most anchors and aliases.
const ALIASES_MAX: usize = 100;

/// A definition that can be followed.
#[derive(Debug, Clone)]
pub(super) struct Workflow {
    pub(super) definition: Definition,
    /// The steps with what was read from their texts.
    pub(super) steps: Vec<Planned>,
}

impl Workflow {
    /// Reads a definition. `name` is what it is called in errors.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] with line, column and what was expected.
    pub(super) fn read(name: &str, text: &str) -> Result<Self, ApiError> {
        let what = format!("workflow {name}");
        let installs = is_install(name);
        let most = match installs {
            true => INSTALL_MAX,
            false => DEFINITION_MAX,
        };
        let definition: Definition = yaml(&what, text, most)?;
        if !installs && let Some(step) = definition.steps.iter().find(|s| s.install.is_some()) {
            let text = "unknown field `install`: it is for POST /install-integrations";
            return Err(invalid(&what, Problem::at(&step.name, text)));
        }
        let steps = check::check(&definition).map_err(|problem| invalid(&what, problem))?;
        Ok(Self { definition, steps })
    }
}

/// What the steps of a run write that installs integrations, as the run will read it.
///
/// # Errors
/// [`ApiError::InvalidRequest`] when it cannot be followed.
pub(in crate::sidecar) fn works_of(name: &str, text: &str) -> Result<Vec<Work>, ApiError> {
    let steps = Workflow::read(name, text)?.steps.into_iter();
    let works = steps.filter_map(|step| match step.kind {
        Kind::Install(work) => Some(work),
        _ => None,
    });
    Ok(works.collect())
}

/// Whether a run of this workflow installs integrations: it is all or nothing, and alone in its project.
pub(super) fn is_install(workflow: &str) -> bool {
    workflow.starts_with(INSTALL)
}

/// What `text` says, which `what` names in errors.
fn yaml<T: DeserializeOwned>(what: &str, text: &str, most: usize) -> Result<T, ApiError> {
    if text.len() > most {
        let text = format!("a definition has {most} bytes at most");
        return Err(invalid(what, Problem { at: None, text }));
    }
    serde_saphyr::from_str_with_options(text, options(most)).map_err(|error| {
        let plain = error.without_snippet();
        let at = plain.location();
        let text = plain_text(&plain.to_string());
        invalid(what, Problem { at, text })
    })
}

fn invalid(what: &str, problem: Problem) -> ApiError {
    let place = problem.at.map_or_else(String::new, |at| {
        format!(", line {}, column {}", at.line(), at.column())
    });
    ApiError::InvalidRequest(format!("{what}{place}: {}", problem.text))
}

/// Names a text among all definitions.
pub(in crate::sidecar) fn hash(text: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn options(most: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 3,
            max_depth: DEPTH_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_documents: 1,
            max_merge_keys: 0,
            max_total_scalar_bytes: most * 4,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: 8,
            max_alias_expansions_per_anchor: ALIASES_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
    }
}

/// The first line, without the place, which is told in our own way.
fn plain_text(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or(line);
    let without_prefix = line.strip_prefix("error: ").unwrap_or(line);
    without_prefix.chars().take(400).collect()
}

#[cfg(test)]
mod tests;
