//! Requests and answers about the trash. Plain data, no transport.
//!
//! Paths are as in the requests about snapshots: text, and the exact bytes in base64 beside it where they are no UTF-8.

use serde::{Deserialize, Serialize};

use super::snapshots::{asked_path, told_path};
use crate::error::ApiError;

/// Most entries that are told at a time; the rest is counted.
pub const TRASH_ENTRIES_MAX: usize = 100_000;

/// Body of `POST /v1/trash/ls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrashListRequest {
    /// Only what was at and below this path.
    #[serde(default)]
    pub path: String,
    /// Its exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

/// Something that was removed: a file, or a directory with what was in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrashEntryInfo {
    /// Where it was.
    pub path: String,
    /// Its exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Whether it is a directory.
    pub directory: bool,
    /// When it was removed, milliseconds since 1970.
    pub deleted_ms: u64,
    /// How many files it is.
    pub files: u64,
    /// Bytes in these.
    pub bytes: u64,
}

/// Answer to `POST /v1/trash/ls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrashList {
    /// By time of removal, the newest at most [`TRASH_ENTRIES_MAX`].
    pub entries: Vec<TrashEntryInfo>,
    /// How many older ones there are.
    pub left_out: u64,
}

/// Body of `POST /v1/trash/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrashRestoreRequest {
    /// Where it was. Of several the one that was removed last.
    pub path: String,
    /// Its exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Where it goes: a path that is free, in a directory that is there. Where it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Its exact bytes in base64, if it is no UTF-8; they count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_base64: Option<String>,
    /// Nothing that was removed later, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

/// Answer to `POST /v1/trash/restore`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrashRestoreReport {
    /// Names that are there again.
    pub names: u64,
    /// When it had been removed, milliseconds since 1970.
    pub deleted_ms: u64,
}

/// Body of `POST /v1/trash/empty`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrashEmptyRequest {
    /// Only what was removed this long ago, milliseconds; everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
}

/// Answer to `POST /v1/trash/empty`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrashEmptyReport {
    /// Names that are gone for good.
    pub names: u64,
    /// Bytes that nothing leads to any more.
    pub bytes: u64,
}

impl TrashListRequest {
    /// The exact path.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_path(&self) -> Result<Vec<u8>, ApiError> {
        asked_path(&self.path, self.path_base64.as_deref(), "path_base64")
    }
}

impl TrashEntryInfo {
    /// The exact path.
    #[must_use]
    pub fn exact_path(&self) -> Vec<u8> {
        told_path(&self.path, self.path_base64.as_deref())
    }
}

impl TrashRestoreRequest {
    /// The exact path.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_path(&self) -> Result<Vec<u8>, ApiError> {
        asked_path(&self.path, self.path_base64.as_deref(), "path_base64")
    }

    /// The exact path that it goes to.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`].
    pub fn exact_to(&self) -> Result<Option<Vec<u8>>, ApiError> {
        let exact = self.to_base64.as_deref();
        let to = self.to.as_deref();
        to.map(|to| asked_path(to, exact, "to_base64")).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::path_text;

    #[test]
    fn any_path_comes_through() {
        for path in [
            &b""[..],
            b"a/b",
            b"%41 \n",
            "\u{e4}".as_bytes(),
            b"a\xff/\x00",
            &[0, 255],
        ] {
            let (text, exact) = path_text(path);
            let request = TrashRestoreRequest {
                path: text.clone(),
                path_base64: exact.clone(),
                to: Some(text.clone()),
                to_base64: exact.clone(),
                at_ms: None,
            };
            assert_eq!(request.exact_path().unwrap(), path);
            assert_eq!(request.exact_to().unwrap().unwrap(), path);
            let told = TrashEntryInfo {
                path: text,
                path_base64: exact,
                ..TrashEntryInfo::default()
            };
            assert_eq!(told.exact_path(), path);
        }
        let bad = TrashListRequest {
            path: String::new(),
            path_base64: Some("?".into()),
        };
        assert!(bad.exact_path().is_err());
    }
}
