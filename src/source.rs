//! The SOURCE of a mount: which object store holds the volume. Parses, never touches the store.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::failure::Failure;

/// What SOURCE may look like; part of every message about it.
const FORMS: &str = "file:///DIR (a directory on this machine)";

/// Where a volume lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// As it was given; shown in the mount table and in messages.
    pub(crate) text: String,
    /// The directory that holds the objects.
    pub(crate) dir: PathBuf,
}

impl Source {
    /// Understands `text`, percent-encoding included.
    ///
    /// # Errors
    /// [`Failure::Invocation`] that says what SOURCE takes.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let Some(text) = text.to_str() else {
            return Err(Failure::Invocation(format!(
                "SOURCE {text:?} is not UTF-8; write other bytes as %XX"
            )));
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Failure::Invocation(without_scheme(text)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => Ok(Self {
                text: text.to_owned(),
                dir: directory(text, rest)?,
            }),
            "s3" => Err(Failure::Invocation(format!(
                "SOURCE {text:?}: S3 buckets come with the next release; this one takes {FORMS}"
            ))),
            _ => Err(Failure::Invocation(format!(
                "SOURCE {text:?} has the unknown scheme {scheme:?}; SOURCE takes {FORMS}"
            ))),
        }
    }
}

fn without_scheme(text: &str) -> String {
    if Path::new(text).is_absolute() {
        return format!("SOURCE {text:?} has no scheme; for a directory write \"file://{text}\"");
    }
    format!("SOURCE {text:?} has no scheme; SOURCE takes {FORMS}")
}

/// The directory of `file://REST`.
fn directory(text: &str, rest: &str) -> Result<PathBuf, Failure> {
    let refuse = |reason: &str| {
        Err(Failure::Invocation(format!(
            "SOURCE {text:?}: {reason}; SOURCE takes {FORMS}"
        )))
    };
    let rest = rest
        .strip_prefix("localhost/")
        .map_or(rest, |_| &rest["localhost".len()..]);
    if !rest.starts_with('/') {
        return refuse("the directory has to be absolute, with three slashes after \"file:\"");
    }
    if rest.contains(['?', '#']) {
        return refuse("write ? as %3F and # as %23");
    }
    let Some(bytes) = percent_decode(rest.as_bytes()) else {
        return refuse("every % has to be followed by two hexadecimal digits (% itself is %25)");
    };
    if bytes.contains(&0) {
        return refuse("a path cannot hold a zero byte");
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    if path.components().any(|part| part == Component::ParentDir) {
        return refuse("leave out \"..\"");
    }
    let path: PathBuf = path.components().collect();
    if path.as_os_str().as_bytes() == b"/" {
        return refuse("the root directory cannot hold a volume");
    }
    Ok(path)
}

/// `None` when a `%` is not followed by two hexadecimal digits.
fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(*rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(text: &str) -> PathBuf {
        Source::parse(OsStr::new(text)).unwrap().dir
    }

    fn refusal(text: &str) -> String {
        match Source::parse(OsStr::new(text)).unwrap_err() {
            Failure::Invocation(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn directories_are_decoded_and_tidied() {
        assert_eq!(dir("file:///srv/vol"), Path::new("/srv/vol"));
        assert_eq!(dir("FILE:///srv//vol/./"), Path::new("/srv/vol"));
        assert_eq!(dir("file://localhost/srv"), Path::new("/srv"));
        assert_eq!(dir("file:///a%20b%25%C3%A9"), Path::new("/a b%é"));
        assert_eq!(
            dir("file:///x%ff").as_os_str().as_bytes(),
            b"/x\xff",
            "bytes that are not UTF-8"
        );
        assert_eq!(
            Source::parse(OsStr::new("file:///a%20b")).unwrap().text,
            "file:///a%20b"
        );
    }

    #[test]
    fn every_refusal_says_what_to_write() {
        for (text, part) in [
            ("/srv/vol", "write \"file:///srv/vol\""),
            ("vol", "no scheme"),
            ("", "no scheme"),
            ("file://srv/vol", "three slashes"),
            ("file://", "three slashes"),
            ("file:///", "root directory"),
            ("file:///.", "root directory"),
            ("file:///a%2", "hexadecimal"),
            ("file:///a%zz", "hexadecimal"),
            ("file:///a%00", "zero byte"),
            ("file:///a/../b", "\"..\""),
            ("file:///a/%2e%2e/b", "\"..\""),
            ("file:///a?b=1", "%3F"),
            ("s3://bucket/prefix", "next release"),
            ("gs://bucket", "unknown scheme \"gs\""),
        ] {
            let message = refusal(text);
            assert!(message.contains(part), "{text}: {message}");
            assert!(message.contains(&format!("{text:?}")), "{text}: {message}");
        }
        for text in ["vol", "gs://bucket", "s3://b", "file://x"] {
            assert!(refusal(text).contains("file:///DIR"), "{text}");
        }
    }

    #[test]
    fn a_source_that_is_not_utf8_is_refused() {
        let error = Source::parse(OsStr::from_bytes(b"file:///\xff")).unwrap_err();
        assert!(error.to_string().contains("%XX"), "{error}");
    }
}
