//! The SOURCE of a mount: which object store holds the volume. Parses, never touches the store.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::failure::Failure;

/// What SOURCE may look like; part of every message about it.
const FORMS: &str = "s3://BUCKET[/PREFIX] (a bucket) or file:///DIR (a directory on this machine)";

/// Longest prefix, so that there is room for the keys below it.
const PREFIX_BYTES: usize = 512;

/// Where a volume lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// As it was given; shown in the mount table and in messages.
    pub(crate) text: String,
    /// The same, understood.
    pub(crate) place: Place,
}

/// What holds the objects. Two equal ones are the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A bucket; the prefix is empty for all of it, and has no slashes at its ends.
    Bucket { bucket: String, prefix: String },
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
                place: Place::Directory(directory(text, rest)?),
            }),
            "s3" => Ok(Self {
                text: text.to_owned(),
                place: bucket(text, rest)?,
            }),
            _ => Err(Failure::Invocation(format!(
                "SOURCE {text:?} has the unknown scheme {scheme:?}; SOURCE takes {FORMS}"
            ))),
        }
    }
}

impl Source {
    /// The directory, if it is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(dir) => Some(dir),
            Place::Bucket { .. } => None,
        }
    }
}

/// The bucket and prefix of `s3://REST`.
fn bucket(text: &str, rest: &str) -> Result<Place, Failure> {
    let refuse = |reason: &str| {
        Err(Failure::Invocation(format!(
            "SOURCE {text:?}: {reason}; SOURCE takes {FORMS}"
        )))
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains(['@', ':', '?', '%']) {
        return refuse("only the bucket's name follows s3://; keys and endpoint are options");
    }
    if !is_bucket_name(bucket) {
        return refuse(
            "a bucket's name is 3 to 63 of a-z, 0-9, \".\" and \"-\", with a letter or digit at both ends",
        );
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if !prefix.is_empty() && (prefix.len() > PREFIX_BYTES || !prefix.split('/').all(is_part)) {
        return refuse(
            "a prefix is made of A-Z, a-z, 0-9, \".\", \"_\" and \"-\" between single slashes, and no part begins with a dot",
        );
    }
    Ok(Place::Bucket {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

fn is_bucket_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    (3..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with(['.', '-'])
        && !text.ends_with(['.', '-'])
        && !text.contains("..")
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
        match Source::parse(OsStr::new(text)).unwrap().place {
            Place::Directory(dir) => dir,
            other => panic!("{other:?}"),
        }
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
            ("s3://", "a bucket's name"),
            ("s3://b", "a bucket's name"),
            ("s3://Bucket", "a bucket's name"),
            ("s3:///prefix", "a bucket's name"),
            ("s3://key:secret@bucket", "options"),
            ("s3://bucket?region=x", "options"),
            ("s3://bucket//x", "a prefix"),
            ("s3://bucket/../x", "a prefix"),
            ("s3://bucket/.hidden", "a prefix"),
            ("s3://bucket/a b", "a prefix"),
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
    fn buckets_have_a_prefix_or_none() {
        for (text, bucket, prefix) in [
            ("s3://my-bucket", "my-bucket", ""),
            ("s3://my-bucket/", "my-bucket", ""),
            ("S3://my.bucket/a/b-1", "my.bucket", "a/b-1"),
            ("s3://my-bucket/a/", "my-bucket", "a"),
        ] {
            let wanted = Place::Bucket {
                bucket: bucket.into(),
                prefix: prefix.into(),
            };
            let source = Source::parse(OsStr::new(text)).unwrap();
            assert_eq!(source.place, wanted, "{text}");
            assert_eq!(source.directory(), None);
        }
    }

    #[test]
    fn a_source_that_is_not_utf8_is_refused() {
        let error = Source::parse(OsStr::from_bytes(b"file:///\xff")).unwrap_err();
        assert!(error.to_string().contains("%XX"), "{error}");
    }
}
