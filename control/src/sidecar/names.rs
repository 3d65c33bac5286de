//! Names of mounts and of their branches: what they may be, and which one a source gets by itself. And paths below a mount.

use std::path::{Component, Path, PathBuf};

use crate::error::ApiError;

/// Longest name.
pub(super) const NAME_MAX: usize = 63;

/// Longest path below a mount.
const PATH_MAX: usize = 1024;

/// Names that mean something else in a path of the API.
const RESERVED: [&str; 1] = ["unmount"];

/// # Errors
/// [`ApiError::InvalidRequest`] that says what a name may be.
pub(super) fn check(name: &str) -> Result<(), ApiError> {
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_name_byte)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !RESERVED.contains(&name);
    if fits {
        return Ok(());
    }
    Err(ApiError::InvalidRequest(format!(
        "name takes 1 to {NAME_MAX} of a-z, A-Z, 0-9, \".\", \"_\" and \"-\", a letter or digit first, and not \
         \"unmount\""
    )))
}

/// # Errors
/// [`ApiError::InvalidRequest`] that says what the name of a branch may be.
pub(super) fn check_branch(name: &str) -> Result<(), ApiError> {
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_name_byte)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if fits {
        return Ok(());
    }
    Err(ApiError::InvalidRequest(format!(
        "name takes 1 to {NAME_MAX} of a-z, A-Z, 0-9, \".\", \"_\" and \"-\", a letter or digit first"
    )))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The name of a source that was given none: of a bucket all of it, with the prefix's parts joined by dashes; of a
/// directory its last part.
///
/// # Errors
/// [`ApiError::InvalidRequest`] when nothing fit for a name is left.
pub(super) fn of_source(source: &str) -> Result<String, ApiError> {
    let rest = source.split_once("://").map_or(source, |(_, rest)| rest);
    let rest = rest.trim_matches('/');
    let text = match source.starts_with("s3://") {
        true => rest.to_owned(),
        false => rest.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    fitted(&text).ok_or_else(|| {
        ApiError::InvalidRequest(format!(
            "no name can be made of {source:?}; give one as \"name\""
        ))
    })
}

/// `text` with everything that a name cannot have made into dashes.
pub(super) fn fitted(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .map(|c| match u8::try_from(c) {
            Ok(byte) if is_name_byte(byte) => c,
            _ => '-',
        })
        .collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    let name = name.get(..name.len().min(NAME_MAX))?;
    check(name).ok()?;
    Some(name.to_owned())
}

/// `wanted`, or with the lowest number after it that is free.
pub(super) fn unused(wanted: &str, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(wanted) {
        return wanted.to_owned();
    }
    let stem = wanted
        .get(..wanted.len().min(NAME_MAX - 10))
        .unwrap_or(wanted);
    (2_u32..)
        .map(|n| format!("{stem}-{n}"))
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| wanted.to_owned())
}

/// A path below a mount, in its plain form; empty: all of it.
///
/// # Errors
/// [`ApiError::InvalidRequest`] for one that leads out of it.
pub(super) fn below_mount(text: &str) -> Result<PathBuf, ApiError> {
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let path = Path::new(text);
    if text.len() > PATH_MAX || text.contains(char::is_control) || !path.components().all(is_plain)
    {
        return Err(ApiError::InvalidRequest(
            "path takes a path below the mount, without \"..\" and not beginning with \"/\"".into(),
        ));
    }
    let parts = path.components();
    Ok(parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_plain() {
        assert_eq!(below_mount("./a//b/.").unwrap(), Path::new("a/b"));
        assert_eq!(below_mount("").unwrap(), Path::new(""));
        for bad in ["a/../..", "/a", "a\nb", &"p".repeat(1025)] {
            assert!(below_mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_have_names_of_their_own() {
        for (source, name) in [
            ("s3://bucket", "bucket"),
            ("s3://bucket/", "bucket"),
            ("s3://bucket/team/project", "bucket-team-project"),
            ("file:///srv/my volume/", "my-volume"),
            ("file:///srv/.hidden", "hidden"),
            ("file:///srv/na%20me", "na-20me"),
        ] {
            assert_eq!(of_source(source).unwrap(), name, "{source}");
        }
        for source in [
            "",
            "file:///",
            "s3://",
            "file:///srv/...",
            "file:///a/unmount",
        ] {
            let error = of_source(source).unwrap_err();
            assert!(error.to_string().contains("give one"), "{source}: {error}");
        }
        assert_eq!(
            of_source(&format!("s3://{}", "b".repeat(200)))
                .unwrap()
                .len(),
            NAME_MAX
        );
    }

    #[test]
    fn what_could_be_a_path_or_is_one_of_the_api_is_no_name() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "ä",
            "a b",
            "unmount",
            "a\n",
            &"n".repeat(64),
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
        for name in ["a", "A.b_c-9", "unmount2"] {
            check(name).unwrap();
            check_branch(name).unwrap();
        }
        check_branch("unmount").unwrap();
        for name in ["", ".hidden", "a/b", "a:b", "ä", &"n".repeat(64)] {
            assert!(check_branch(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        assert_eq!(unused("a", |_| false), "a");
        assert_eq!(unused("a", |name| name == "a" || name == "a-2"), "a-3");
        let long = "n".repeat(NAME_MAX);
        let other = unused(&long, |name| name == long);
        check(&other).unwrap();
    }
}
