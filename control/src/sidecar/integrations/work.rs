//! What a step of a run that installs integrations writes. It is checked once when it is asked for and again when it is done:
//! what somebody changed is never overwritten. Done twice it writes the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::dotenv;
use super::folder::{Folder, Found, Place, failed};
use super::state::{Installed, State, sha256};
use crate::error::ApiError;
use crate::sidecar::workflows::FILE_MAX;

/// Most bytes of a `.env`.
const DOTENV_MAX: usize = 256 * 1024;
/// Most files that an error lists.
const LISTED: usize = 20;

/// Files, variables, and a note of what is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sidecar) struct Work {
    #[serde(default)]
    pub(super) files: Vec<NewFile>,
    #[serde(default)]
    pub(super) variables: Vec<NewVariable>,
    /// Put into the note, by name.
    #[serde(default)]
    pub(super) record: BTreeMap<String, Installed>,
}

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewFile {
    pub(super) path: String,
    pub(super) text: String,
    pub(super) executable: bool,
    /// SHA-256 of what was written there before: that may be overwritten.
    #[serde(default)]
    pub(super) was: Option<String>,
}

/// A variable that `.env` is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVariable {
    pub(super) name: String,
    pub(super) value: String,
    #[serde(default)]
    pub(super) was: Option<String>,
}

impl NewFile {
    fn may_be(&self, folder: &Folder) -> Result<bool, ApiError> {
        let found = folder.read(&self.path, FILE_MAX);
        let found = found.map_err(|error| failed(&format!("{} cannot be read", self.path), &error));
        Ok(match found? {
            Found::Nothing => true,
            Found::Text(text) => {
                text == self.text.as_bytes() || self.was.as_ref() == Some(&sha256(&text))
            }
            Found::Other => false,
        })
    }

    fn is_there(&self, folder: &Folder) -> bool {
        let found = folder.read(&self.path, FILE_MAX);
        matches!(found, Ok(Found::Text(text)) if text == self.text.as_bytes())
            && folder.is_executable(&self.path) == self.executable
    }
}

impl NewVariable {
    fn may_be(&self, dotenv: &str) -> bool {
        dotenv::get(dotenv, &self.name).is_none_or(|value| {
            value == self.value || self.was.as_ref() == Some(&sha256(value.as_bytes()))
        })
    }
}

/// Set when nobody waits for the writing any more: it goes on in a thread of its own, and the project is perhaps put back.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn changed_meanwhile(path: &str) -> ApiError {
    ApiError::FilesChanged(format!("somebody changed {path} meanwhile; install again"))
}

impl Work {
    /// Does it in a project.
    ///
    /// # Errors
    /// [`ApiError::FilesChanged`], [`ApiError::Conflict`] when the volume does not take it, [`ApiError::DeadlineExceeded`].
    pub(in crate::sidecar) async fn perform(self, place: Place) -> Result<(), ApiError> {
        let given_up = GivenUp::default();
        let seen = Arc::clone(&given_up.0);
        let done = place.work(move |folder| {
            self.check(folder)?;
            self.write(folder, &seen)
        });
        let done = done.await;
        drop(given_up);
        done
    }

    /// # Errors
    /// [`ApiError::FilesChanged`] with what would be overwritten and is not what was written before.
    pub(super) fn check(&self, folder: &Folder) -> Result<(), ApiError> {
        let mut changed = Vec::new();
        for file in &self.files {
            if !file.may_be(folder)? {
                changed.push(file.path.clone());
            }
        }
        let dotenv = self.dotenv(folder)?;
        match &dotenv {
            Some(dotenv) => {
                let variables = self.variables.iter().filter(|one| !one.may_be(dotenv));
                changed.extend(variables.map(|one| format!("{} of {}", one.name, dotenv::NAME)));
            }
            None => changed.push(dotenv::NAME.to_owned()),
        }
        if changed.is_empty() {
            return Ok(());
        }
        let more = match changed.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        changed.truncate(LISTED);
        Err(ApiError::FilesChanged(format!(
            "nothing is installed, because it would overwrite what somebody changed: {}{more}; move it away, or make it what \
             it was",
            changed.join(", ")
        )))
    }

    /// The text of `.env`; none for what is no text.
    fn dotenv(&self, folder: &Folder) -> Result<Option<String>, ApiError> {
        if self.variables.is_empty() {
            return Ok(Some(String::new()));
        }
        match folder.read(dotenv::NAME, DOTENV_MAX) {
            Ok(Found::Nothing) => Ok(Some(String::new())),
            Ok(Found::Text(text)) => Ok(String::from_utf8(text).ok()),
            Ok(Found::Other) => Ok(None),
            Err(error) => Err(failed(".env cannot be read", &error)),
        }
    }

    /// Writes, until it is `given_up`.
    pub(super) fn write(&self, folder: &Folder, given_up: &AtomicBool) -> Result<(), ApiError> {
        for file in self.files.iter().filter(|file| !file.is_there(folder)) {
            if given_up.load(Ordering::Acquire) {
                return Err(ApiError::DeadlineExceeded("it took too long".into()));
            }
            // Others may have come in between, since the writing of each waits for the disk.
            if !file.may_be(folder)? {
                return Err(changed_meanwhile(&file.path));
            }
            folder
                .write(&file.path, file.text.as_bytes(), file.executable)
                .map_err(|error| failed(&format!("{} cannot be written", file.path), &error))?;
        }
        if given_up.load(Ordering::Acquire) {
            return Err(ApiError::DeadlineExceeded("it took too long".into()));
        }
        let before = self.dotenv(folder)?;
        let before = before.ok_or_else(|| changed_meanwhile(dotenv::NAME))?;
        let mut after = before.clone();
        for variable in &self.variables {
            if dotenv::get(&after, &variable.name).as_ref() != Some(&variable.value) {
                after = dotenv::set(&after, &variable.name, &variable.value);
            }
        }
        if after != before {
            folder
                .write(dotenv::NAME, after.as_bytes(), false)
                .map_err(|error| failed(".env cannot be written", &error))?;
        }
        if !self.record.is_empty() {
            let mut state = State::read(folder)?;
            state.integrations.extend(self.record.clone());
            state.write(folder)?;
        }
        Ok(())
    }
}
