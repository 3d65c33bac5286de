//! From a request to an order: names, paths and options made plain, and what contradicts what is there. Touches nothing.

use std::path::{Component, Path, PathBuf};

use super::entry::Entry;
use crate::error::ApiError;
use crate::sidecar::host::{CheckedOrder, MountHost, MountOrder};
use crate::sidecar::names;
use crate::sidecar::secrets::Secrets;
use crate::sidecar::types::MountRequest;

/// Longest source.
const SOURCE_MAX: usize = 1024;
/// Longest path.
const PATH_MAX: usize = 1024;
/// Most options, and the longest.
const OPTIONS_MAX: usize = 64;
const OPTION_MAX: usize = 1024;
/// Options that would show keys, or contradict how the sidecar starts mounts; and what to do instead.
const NOT_TAKEN: [(&str, &str); 4] = [
    ("access_key_id", "give keys as \"credentials\""),
    ("secret_access_key", "give keys as \"credentials\""),
    ("session_token", "give keys as \"credentials\""),
    ("foreground", "mounts of the sidecar run in the background"),
];

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) name: String,
    /// Whether the request said it.
    pub(super) is_named: bool,
    pub(super) order: MountOrder,
    pub(super) checked: CheckedOrder,
}

impl Order {
    /// Understands `request`; mounts go below `workspace` unless it says where.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] that names the field.
    pub(super) fn of(
        request: &MountRequest,
        workspace: &Path,
        host: &dyn MountHost,
    ) -> Result<Self, ApiError> {
        bounded("source", &request.source, SOURCE_MAX)?;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => names::of_source(&request.source)?,
        };
        names::check(&name)?;
        let path = match &request.path {
            Some(path) => plain_path(path)?,
            None => workspace.join(&name),
        };
        check_options(&request.options)?;
        if let Some(credentials) = &request.credentials {
            Secrets::check(credentials)?;
        }
        let mut order = MountOrder {
            source: request.source.clone(),
            path,
            options: request.options.clone(),
        };
        let checked = host.check(&order, request.credentials.is_some())?;
        order.path.clone_from(&checked.path);
        Ok(Self {
            is_named: request.name.is_some(),
            name,
            order,
            checked,
        })
    }

    /// Whether `entry` is what is asked for.
    pub(super) fn is(&self, entry: &Entry) -> bool {
        entry.place == self.checked.place && entry.order.path == self.order.path
    }

    /// # Errors
    /// [`ApiError::Conflict`] that says what `entry`, which has the same name, has instead.
    pub(super) fn agrees_with(&self, entry: &Entry) -> Result<(), ApiError> {
        let differs = |what: &str, there: &str| {
            Err(ApiError::Conflict(format!(
                "the mount {} exists with another {what} ({there}); unmount it first, or give another name",
                entry.name
            )))
        };
        if entry.place != self.checked.place {
            return differs("source", &entry.order.source);
        }
        if entry.order.path != self.order.path {
            return differs("path", &entry.order.path.to_string_lossy());
        }
        // What was mounted beside the sidecar has options that it does not know.
        if entry.life.managed && entry.order.options != self.order.options {
            return differs("set of options", &entry.order.options.join(","));
        }
        Ok(())
    }

    /// # Errors
    /// [`ApiError::Conflict`] when `entry`, which has another name, is in the way.
    pub(super) fn is_free_of(&self, entry: &Entry) -> Result<(), ApiError> {
        if entry.order.path == self.order.path {
            return Err(ApiError::Conflict(format!(
                "the mount {} has this path; unmount it first, or give another path",
                entry.name
            )));
        }
        if entry.place == self.checked.place && !entry.is_view && !self.checked.is_view {
            return Err(ApiError::Conflict(format!(
                "this source is the mount {} already, on {}; use that, or unmount it first",
                entry.name,
                entry.order.path.display()
            )));
        }
        Ok(())
    }
}

fn bounded(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    if text.is_empty() || text.len() > most || text.contains(char::is_control) {
        return Err(ApiError::InvalidRequest(format!(
            "{field} takes 1 to {most} bytes without control characters"
        )));
    }
    Ok(())
}

/// An absolute path without `..` and repeated slashes.
fn plain_path(text: &str) -> Result<PathBuf, ApiError> {
    bounded("path", text, PATH_MAX)?;
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs || path == Path::new("/") {
        return Err(ApiError::InvalidRequest(
            "path takes an absolute path without \"..\", and not the root".into(),
        ));
    }
    Ok(path.components().collect())
}

fn check_options(options: &[String]) -> Result<(), ApiError> {
    if options.len() > OPTIONS_MAX {
        return Err(ApiError::InvalidRequest(format!(
            "options takes {OPTIONS_MAX} at most"
        )));
    }
    for option in options {
        let name = option
            .split_once('=')
            .map_or(option.as_str(), |(name, _)| name);
        if let Some((_, instead)) = NOT_TAKEN.iter().find(|(refused, _)| *refused == name) {
            return Err(ApiError::InvalidRequest(format!(
                "option {name} is not taken here: {instead}"
            )));
        }
        bounded("each of options", option, OPTION_MAX)?;
    }
    Ok(())
}
