//! Requests and answers about the trash. Plain data, no transport.
//!
//! Paths are below the volume's root, without a slash in front; empty is the root. Names are bytes: a path that is no UTF-8
//! is told, and has to be given, in hexadecimal digits beside its text, which has replacement characters then.

use serde::{Deserialize, Serialize};

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
    /// The same in hexadecimal digits, if it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
}

/// Something that was removed: a file, or a directory with what was in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrashEntryInfo {
    /// Where it was.
    pub path: String,
    /// The same in hexadecimal digits, if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
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
    /// The same in hexadecimal digits, if it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// Where it goes: a path that is free, in a directory that is there. Where it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The same in hexadecimal digits, if it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_hex: Option<String>,
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

/// A path as text, and in hexadecimal digits if it is no UTF-8.
#[must_use]
pub fn path_text(path: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => {
            let hex = path.iter().map(|byte| format!("{byte:02x}")).collect();
            (String::from_utf8_lossy(path).into_owned(), Some(hex))
        }
    }
}

/// The path that such a pair says.
///
/// # Errors
/// [`ApiError::InvalidRequest`] for digits that make no bytes.
pub fn path_bytes(text: &str, hex: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let Some(hex) = hex else {
        return Ok(text.as_bytes().to_vec());
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| {
        let value = digit(*high)? * 16 + digit(*low)?;
        u8::try_from(value).ok()
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.filter(|_| rest.is_empty()).ok_or_else(|| {
        ApiError::InvalidRequest("a path in hexadecimal takes two digits for each byte".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let (text, hex) = path_text(path);
            assert_eq!(hex.is_some(), std::str::from_utf8(path).is_err());
            assert_eq!(path_bytes(&text, hex.as_deref()).unwrap(), path);
        }
    }

    #[test]
    fn digits_that_are_none_are_refused() {
        for hex in ["0", "0g", "+1", "zz", "00 0", "\u{e4}"] {
            assert!(path_bytes("", Some(hex)).is_err(), "{hex}");
        }
    }

    /// Any text is a path or refused.
    #[test]
    fn fuzz_paths_in_hexadecimal() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let bytes = state.to_le_bytes();
            let text: String = bytes.iter().map(|b| char::from(b % 128)).collect();
            if let Ok(path) = path_bytes("", Some(&text)) {
                assert_eq!(path.len() * 2, text.len());
            }
        }
    }
}
