//! Which keys are allowed: those that every store, and a directory tree, can hold without escaping.

use super::StoreError;

/// Most bytes in a key.
pub const MAX_KEY_BYTES: usize = 1024;
/// Most bytes between two slashes: what a file name can have.
const MAX_PART_BYTES: usize = 255;

/// Checks a key: parts of `[A-Za-z0-9._-]` between single slashes, none empty, none beginning with a dot.
///
/// # Errors
/// [`StoreError::Invalid`] with the reason.
pub fn validate_key(key: &str) -> Result<(), StoreError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(invalid(key, "it is too long"));
    }
    match key.split('/').find_map(part_fault) {
        Some(fault) => Err(invalid(key, fault)),
        None => Ok(()),
    }
}

/// Checks the prefix of a listing: the beginning of a valid key, or nothing.
pub(crate) fn validate_prefix(prefix: &str) -> Result<(), StoreError> {
    let whole_parts = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() {
        return Ok(());
    }
    validate_key(whole_parts)
}

/// Whether a file name can be a part of a key.
pub(crate) fn is_key_part(part: &str) -> bool {
    part_fault(part).is_none()
}

fn part_fault(part: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if part.is_empty() {
        Some("it has an empty part")
    } else if part.starts_with('.') {
        Some("a part begins with a dot")
    } else if part.len() > MAX_PART_BYTES {
        Some("a part is too long")
    } else if !part.bytes().all(allowed) {
        Some("it has other characters than A-Z a-z 0-9 . _ - and /")
    } else {
        None
    }
}

fn invalid(key: &str, fault: &str) -> StoreError {
    let shown: String = key.chars().take(80).collect();
    StoreError::Invalid {
        what: format!("{shown:?} is not a key: {fault}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_escape_or_hide_are_refused() {
        for good in ["a", "packs/ab/00ff", "meta/head.json", "A_b-c.d/e"] {
            assert_eq!(validate_key(good), Ok(()), "{good}");
        }
        let long = "x".repeat(256);
        let very_long = ["a"; 600].join("/");
        for bad in [
            "", "/a", "a/", "a//b", "..", "a/../b", ".", "a/.b", ".tmp/x", "a b", "a\\b", "ä",
            "a\0", &long, &very_long,
        ] {
            assert!(validate_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_may_end_anywhere_in_a_key() {
        for good in ["", "packs", "packs/", "packs/a"] {
            assert_eq!(validate_prefix(good), Ok(()), "{good}");
        }
        for bad in ["/", "a//", "../", ".t"] {
            assert!(validate_prefix(bad).is_err(), "{bad:?}");
        }
    }
}
