//! Requests and answers about snapshots. Plain data, no transport.
//!
//! Paths are below the volume's root, without a slash in front; empty is the root. A path that is no UTF-8 is shown with
//! replacement characters, and beside it are its exact bytes, in base64.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// The longest that a restore, a clone, a diff or the removal of a snapshot may take.
pub const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Most differences that are told at a time; the rest is counted.
pub const DIFFERENCES_MAX: usize = 100_000;

/// A path for people, and its exact bytes in base64 where they are no UTF-8.
pub fn path_text(path: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (
            String::from_utf8_lossy(path).into_owned(),
            Some(BASE64.encode(path)),
        ),
    }
}

/// The bytes of a path that came with a request.
///
/// # Errors
/// [`ApiError::InvalidRequest`] when the exact ones are no base64.
pub(super) fn asked_path(
    text: &str,
    exact: Option<&str>,
    field: &str,
) -> Result<Vec<u8>, ApiError> {
    let Some(exact) = exact else {
        return Ok(text.as_bytes().to_vec());
    };
    BASE64
        .decode(exact)
        .map_err(|error| ApiError::InvalidRequest(format!("{field} is no base64: {error}")))
}

/// The bytes of a path that came with an answer.
pub(super) fn told_path(text: &str, exact: Option<&str>) -> Vec<u8> {
    let exact = exact.and_then(|exact| BASE64.decode(exact).ok());
    exact.unwrap_or_else(|| text.as_bytes().to_vec())
}

/// A snapshot of the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SnapshotInfo {
    /// Its name, unique in the volume.
    pub name: String,
    /// Why it was made.
    pub note: String,
    /// Who made it; empty: a person.
    pub owner: String,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
    /// The operation that made it.
    pub lsn: u64,
    /// Its number.
    pub epoch: u64,
    /// Whether it stays until somebody removes it.
    pub kept: bool,
}

/// Answer to `GET /v1/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SnapshotList {
    /// Oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Body of `POST /v1/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name; the time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Why it is made.
    #[serde(default)]
    pub note: String,
    /// Who makes it.
    #[serde(default)]
    pub owner: String,
    /// Whether it is thinned out by age, instead of staying until somebody removes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

/// Body of `POST /v1/snapshots/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Which.
    pub name: String,
}

/// Answer to `POST /v1/snapshots/remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReport {}

/// Body of `POST /v1/snapshots/diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffRequest {
    /// The older snapshot.
    pub older: String,
    /// The newer one; the present when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<String>,
    /// Only what is at and below this path.
    #[serde(default)]
    pub path: String,
    /// The path's exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

impl DiffRequest {
    /// The exact path.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_path(&self) -> Result<Vec<u8>, ApiError> {
        asked_path(&self.path, self.path_base64.as_deref(), "path_base64")
    }
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// It was not there.
    Created,
    /// It is not there any more.
    Deleted,
    /// It had another path.
    Renamed,
    /// It is another one, or its content or attributes changed.
    #[default]
    Changed,
}

/// One path that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DifferenceInfo {
    /// Where it is, or was if it is gone.
    pub path: String,
    /// The path's exact bytes in base64, if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// What happened.
    pub kind: DifferenceKind,
    /// Where it was before it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The same in base64, if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_base64: Option<String>,
    /// Where it was, if that is another path because a directory above it has another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
    /// The same in base64, if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_path_base64: Option<String>,
    /// Whether it is, or was, a directory.
    pub directory: bool,
    /// The content differs.
    pub content: bool,
    /// The permission bits differ.
    pub mode: bool,
    /// Owner or group differ.
    pub owner: bool,
    /// Extended attributes differ.
    pub xattrs: bool,
    /// Size before, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// Size after, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<u64>,
}

impl DifferenceInfo {
    /// The exact path.
    #[must_use]
    pub fn exact_path(&self) -> Vec<u8> {
        told_path(&self.path, self.path_base64.as_deref())
    }

    /// The exact path before it was renamed.
    #[must_use]
    pub fn exact_from(&self) -> Option<Vec<u8>> {
        let from = self.from.as_ref()?;
        Some(told_path(from, self.from_base64.as_deref()))
    }

    /// The exact path before, whether it or a directory above it was renamed, or nothing was.
    #[must_use]
    pub fn exact_old_path(&self) -> Vec<u8> {
        let old = self.old_path.as_ref();
        let old = old.map(|old| told_path(old, self.old_path_base64.as_deref()));
        self.exact_from()
            .or(old)
            .unwrap_or_else(|| self.exact_path())
    }
}

/// Answer to `POST /v1/snapshots/diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffReport {
    /// By path, at most [`DIFFERENCES_MAX`].
    pub differences: Vec<DifferenceInfo>,
    /// How many more there are.
    pub left_out: u64,
}

/// Body of `POST /v1/snapshots/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRestoreRequest {
    /// Which snapshot.
    pub name: String,
    /// Only what is at and below this path.
    #[serde(default)]
    pub path: String,
    /// The path's exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

impl SnapshotRestoreRequest {
    /// The exact path.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_path(&self) -> Result<Vec<u8>, ApiError> {
        asked_path(&self.path, self.path_base64.as_deref(), "path_base64")
    }
}

/// Answer to `POST /v1/snapshots/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotRestoreReport {
    /// The snapshot of what was there before; none when there was nothing to restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety: Option<SnapshotInfo>,
    /// Names that were added, replaced or removed.
    pub names: u64,
    /// Files that were replaced and that programs wrote into while it went on: what they wrote is in `safety`.
    pub late_writes: u64,
}

/// Body of `POST /v1/clone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// The directory, of the present or `.snapshots/NAME/...`.
    pub from: String,
    /// Its exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_base64: Option<String>,
    /// What the copy is called: a path that is free, in a directory that is there.
    pub to: String,
    /// Its exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_base64: Option<String>,
}

impl CloneRequest {
    /// The exact path of the directory.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_from(&self) -> Result<Vec<u8>, ApiError> {
        asked_path(&self.from, self.from_base64.as_deref(), "from_base64")
    }

    /// The exact path of the copy.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_to(&self) -> Result<Vec<u8>, ApiError> {
        asked_path(&self.to, self.to_base64.as_deref(), "to_base64")
    }
}

/// Answer to `POST /v1/clone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloneReport {
    /// The copy's inode number.
    pub ino: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_utf8_arrives_as_it_is() {
        let (path, path_base64) = path_text(b"a/\xff\xfe");
        assert_eq!(path, "a/\u{fffd}\u{fffd}");
        let told = DifferenceInfo {
            path: path.clone(),
            path_base64: path_base64.clone(),
            ..DifferenceInfo::default()
        };
        assert_eq!(told.exact_path(), b"a/\xff\xfe");
        assert_eq!(told.exact_old_path(), b"a/\xff\xfe");
        let request = SnapshotRestoreRequest {
            path,
            path_base64,
            ..SnapshotRestoreRequest::default()
        };
        assert_eq!(request.exact_path().unwrap(), b"a/\xff\xfe");
        assert_eq!(path_text("ä".as_bytes()), ("ä".to_owned(), None));
        let broken = SnapshotRestoreRequest {
            path_base64: Some("?".into()),
            ..request
        };
        let said = broken.exact_path().unwrap_err().to_string();
        assert!(said.contains("path_base64 is no base64"), "{said}");
    }

    #[test]
    fn where_it_was_is_its_own_name_before_that_of_a_directory_above() {
        let mut one = DifferenceInfo {
            path: "b/f".into(),
            ..DifferenceInfo::default()
        };
        assert_eq!(one.exact_old_path(), b"b/f");
        one.old_path = Some("a/f".into());
        assert_eq!(one.exact_old_path(), b"a/f");
        one.from = Some("c".into());
        assert_eq!(one.exact_old_path(), b"c");
    }
}
