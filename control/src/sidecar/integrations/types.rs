//! The JSON of the endpoints about integrations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

/// Body of `POST /install-integrations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallRequest {
    /// On which mount.
    #[schema(max_length = 63)]
    pub mount: String,
    /// The project's folder below it; all of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is installed: all of it, or nothing.
    #[schema(min_items = 1, max_items = 20)]
    pub integrations: Vec<InstallIntegration>,
}

/// An integration that is to be installed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallIntegration {
    /// Which one.
    #[schema(max_length = 20)]
    pub name: String,
    /// What it takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Json>,
}

/// Where a manifest is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IntegrationSource {
    /// It comes with the sidecar.
    BuiltIn,
    /// It is a file of the project.
    Project,
}

/// An integration, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Integration {
    /// What it is called.
    pub name: String,
    /// Of the manifest that is there; empty when that cannot be followed.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// Where the manifest is from.
    pub source: IntegrationSource,
    /// The version that the project has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<String>,
    /// Why the manifest cannot be followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answer of `GET /integrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntegrationList {
    /// By name.
    pub integrations: Vec<Integration>,
}

/// Answer of `GET /integrations/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntegrationDetails {
    /// The integration.
    #[serde(flatten)]
    pub integration: Integration,
    /// Others that it needs.
    pub requires: Vec<String>,
    /// What it takes, as the manifest says it.
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Json>,
    /// Secrets of the machine that it may need, and what for.
    pub secrets: BTreeMap<String, String>,
    /// Packages and their versions.
    pub packages: BTreeMap<String, String>,
    /// Files that it may write.
    pub files: Vec<String>,
    /// Variables that it sets in `.env`.
    pub variables: Vec<String>,
    /// What it wrote and somebody changed since, or removed.
    pub changed: Vec<String>,
}
