//! The note in a project of what is installed in it, and of what that wrote. Anybody who works there may change it: it says
//! which files may be overwritten, and nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::folder::{Folder, Found, failed};
use crate::error::ApiError;

/// Where it is.
pub(in crate::sidecar) const STATE: &str = ".weldr/integrations.json";
/// Most bytes of it.
const STATE_MAX: usize = 1024 * 1024;

/// What is installed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    #[serde(default)]
    pub(super) integrations: BTreeMap<String, Installed>,
}

/// An integration that is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sidecar) struct Installed {
    pub(super) version: String,
    /// SHA-256 of what was written, by path.
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    /// SHA-256 of the values that `.env` was given, by name.
    #[serde(default)]
    pub(super) variables: BTreeMap<String, String>,
}

impl State {
    /// The note of a project; an empty one when it has none.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] when it cannot be understood.
    pub(super) fn read(folder: &Folder) -> Result<Self, ApiError> {
        let unusable = || {
            ApiError::Conflict(format!(
                "{STATE} of the project cannot be understood; remove it, and files that are there and differ count as changed"
            ))
        };
        match folder.read(STATE, STATE_MAX) {
            Ok(Found::Nothing) => Ok(Self::default()),
            Ok(Found::Text(text)) => serde_json::from_slice(&text).map_err(|_| unusable()),
            Ok(Found::Other) => Err(unusable()),
            Err(error) => Err(failed(
                "the note of what is installed cannot be read",
                &error,
            )),
        }
    }

    /// # Errors
    /// [`ApiError::Conflict`] when the volume does not take it.
    pub(super) fn write(&self, folder: &Folder) -> Result<(), ApiError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| ApiError::Internal(format!("the note cannot be written: {error}")))?;
        text.push(b'\n');
        folder
            .write(STATE, &text, false)
            .map_err(|error| failed("the note of what is installed cannot be written", &error))
    }

    /// The hash of what was written to a file.
    pub(super) fn file(&self, path: &str) -> Option<&String> {
        self.integrations
            .values()
            .find_map(|one| one.files.get(path))
    }

    /// The hash of what a variable was set to.
    pub(super) fn variable(&self, name: &str) -> Option<&String> {
        let mut all = self.integrations.values();
        all.find_map(|one| one.variables.get(name))
    }
}

pub(super) fn sha256(content: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(content).into();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
