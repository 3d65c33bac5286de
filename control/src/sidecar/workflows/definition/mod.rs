//! Definitions of workflows: from YAML to something that can be followed, or to a sentence that says where it is wrong and
//! what was expected. Nothing here starts anything.

mod check;
mod inputs;
mod schema;
mod shape;
mod span;

use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

pub(super) use check::{Kind, Planned};
pub(super) use inputs::Inputs;
pub use schema::text as schema_text;
pub(super) use shape::{Answer, Definition, Files, Method, OnFailure, Permissions, Tool};

/// Most bytes of a definition.
pub(super) const DEFINITION_MAX: usize = 64 * 1024;
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
        let invalid = |place: String, problem: String| {
            ApiError::InvalidRequest(format!("workflow {name}{place}: {problem}"))
        };
        if text.len() > DEFINITION_MAX {
            let problem = format!("a definition has {DEFINITION_MAX} bytes at most");
            return Err(invalid(String::new(), problem));
        }
        let read = serde_saphyr::from_str_with_options::<Definition>(text, options());
        let definition = read.map_err(|error| {
            let plain = error.without_snippet();
            let place = plain.location().map_or_else(String::new, |at| {
                format!(", line {}, column {}", at.line(), at.column())
            });
            invalid(place, plain_text(&plain.to_string()))
        })?;
        let steps = check::check(&definition).map_err(|problem| {
            let place = problem.at.map_or_else(String::new, |at| {
                format!(", line {}, column {}", at.line(), at.column())
            });
            invalid(place, problem.text)
        })?;
        Ok(Self { definition, steps })
    }
}

/// Names a text among all definitions.
pub(in crate::sidecar) fn hash(text: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 3,
            max_depth: DEPTH_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_documents: 1,
            max_merge_keys: 0,
            max_total_scalar_bytes: DEFINITION_MAX * 4,
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
