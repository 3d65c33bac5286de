//! What a manifest looks like: the types that YAML is read into and the published schema is made from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use serde_saphyr::Spanned;

use crate::sidecar::workflows::definition::shape::{Input, Scalar, Step};

/// An integration: what is put into a project so that it can use something.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "WeldrFS integration")]
pub(super) struct Shape {
    /// What it is called: lower-case letters, digits and `-`, 20 at most.
    #[schemars(with = "String", regex(pattern = "^[a-z][a-z0-9-]{0,19}$"))]
    pub(super) name: Spanned<String>,
    /// Of the integration, not of what it brings.
    #[schemars(with = "Scalar")]
    pub(super) version: Spanned<Scalar>,
    /// What it is for.
    #[serde(default)]
    pub(super) description: String,
    /// Integrations that have to be there, or to be installed with it. Their files and steps come first.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) requires: Vec<Spanned<String>>,
    /// What it takes, by name.
    #[serde(default)]
    pub(super) inputs: BTreeMap<String, Input>,
    /// Secrets of the machine that its steps, or the app, need, by name. They have to be there.
    #[serde(default)]
    pub(super) secrets: BTreeMap<String, Secret>,
    /// Packages, and which versions of them: `^1.2.3`, `~1.2.3` or `1.2.3`. Installed with the project's package manager.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) packages: BTreeMap<String, Spanned<String>>,
    /// Files of the project.
    #[serde(default)]
    pub(super) files: Vec<FileShape>,
    /// Variables that the project's `.env` gets.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Scalar>")]
    pub(super) env: BTreeMap<String, Spanned<Scalar>>,
    /// What is done once files and packages are there: steps of a workflow.
    #[serde(default)]
    pub(super) steps: Vec<Step>,
}

/// A secret that is needed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    /// What it is for.
    #[serde(default)]
    pub(super) description: String,
    /// For which inputs it is needed; for all when absent.
    #[serde(default, rename = "if")]
    #[schemars(with = "Option<Scalar>")]
    pub(super) condition: Option<Spanned<Scalar>>,
}

/// A file of the project. Has one of `text` and `from`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileShape {
    /// Where it is in the project.
    #[schemars(with = "String")]
    pub(super) path: Spanned<String>,
    /// What it says, with expressions that name inputs.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) text: Option<Spanned<String>>,
    /// A file beside the manifest with that text.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) from: Option<Spanned<String>>,
    /// Whether it can be run.
    #[serde(default)]
    pub(super) executable: bool,
    /// For which inputs it is written; for all when absent.
    #[serde(default, rename = "if")]
    #[schemars(with = "Option<Scalar>")]
    pub(super) condition: Option<Spanned<Scalar>>,
}

/// What a workflow takes as it is written, for what is put together from it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Raw {
    #[serde(default)]
    pub(super) inputs: Map<String, Json>,
    #[serde(default)]
    pub(super) steps: Vec<Map<String, Json>>,
}

/// The JSON schema of manifests, kept in the repository as `docs/integration.schema.json`.
#[must_use]
pub fn integration_schema_text() -> String {
    let schema = schemars::schema_for!(Shape);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
