//! Cuts the text after `-o` into options. Knows no option by name.

use crate::failure::Failure;

/// One option as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Before the first `=`.
    pub(crate) name: String,
    /// After it; `None` without one.
    pub(crate) value: Option<String>,
}

/// Cuts `text` at commas. `\,` is a comma inside a value and `\\` a backslash; empty options are skipped, as mount(8)
/// does.
///
/// # Errors
/// [`Failure::Invocation`] for an option without a name and for a backslash before anything else.
pub(crate) fn split(text: &str) -> Result<Vec<Written>, Failure> {
    let mut options = Vec::new();
    let mut current = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next() {
            Some('\\') => match rest.next() {
                Some(escaped @ (',' | '\\')) => current.push(escaped),
                other => {
                    let follows = other.map_or_else(|| "the end".to_owned(), |c| format!("{c:?}"));
                    return Err(Failure::Invocation(format!(
                        "-o {text:?}: a backslash before {follows} means nothing; write \\, for a comma and \\\\ for a \
                         backslash"
                    )));
                }
            },
            Some(',') => options.extend(written(text, &std::mem::take(&mut current))?),
            Some(other) => current.push(other),
            None => {
                options.extend(written(text, &current)?);
                return Ok(options);
            }
        }
    }
}

fn written(text: &str, option: &str) -> Result<Option<Written>, Failure> {
    if option.is_empty() {
        return Ok(None);
    }
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (option, None),
    };
    if name.is_empty() {
        return Err(Failure::Invocation(format!(
            "-o {text:?}: {option:?} has no name before the ="
        )));
    }
    Ok(Some(Written {
        name: name.to_owned(),
        value,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, Option<String>)> {
        split(text)
            .unwrap()
            .into_iter()
            .map(|option| (option.name, option.value))
            .collect()
    }

    fn pair(name: &str, value: Option<&str>) -> (String, Option<String>) {
        (name.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn commas_separate_and_backslashes_escape() {
        assert_eq!(
            pairs("ro,state_dir=/a\\,b\\\\c,,fsname=x=y,empty="),
            [
                pair("ro", None),
                pair("state_dir", Some("/a,b\\c")),
                pair("fsname", Some("x=y")),
                pair("empty", Some("")),
            ]
        );
        assert_eq!(pairs(""), []);
        assert_eq!(pairs(","), []);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, part) in [
            ("=5", "no name"),
            ("ro,=", "no name"),
            ("a\\b", "'b'"),
            ("a\\", "the end"),
        ] {
            let error = split(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert_eq!(error.exit_code(), 1);
        }
    }
}
