//! The variables of a project's `.env`: looked at and set one by one, with everything else left as it is.

use std::ops::Range;

use crate::error::ApiError;

/// The file.
pub(super) const NAME: &str = ".env";

/// A variable of a file, and where it is.
struct Entry<'t> {
    name: &'t str,
    value: String,
    line: Range<usize>,
}

/// The value of a variable. Of several of one name the last one counts.
pub(super) fn get(text: &str, name: &str) -> Option<String> {
    let last = entries(text).into_iter().rfind(|entry| entry.name == name);
    last.map(|entry| entry.value)
}

/// `text` with the variable `name`, in its place if there is one.
pub(super) fn set(text: &str, name: &str, value: &str) -> String {
    let line = format!("{name}={}\n", written(value));
    let last = entries(text).into_iter().rfind(|entry| entry.name == name);
    let mut whole = text.to_owned();
    match last {
        Some(entry) => whole.replace_range(entry.line, &line),
        None => {
            if !whole.is_empty() && !whole.ends_with('\n') {
                whole.push('\n');
            }
            whole.push_str(&line);
        }
    }
    whole
}

/// # Errors
/// [`ApiError::InvalidRequest`] for a value that not everybody who reads such files reads alike.
pub(super) fn check(name: &str, value: &str) -> Result<(), ApiError> {
    match value.chars().any(|c| c == '\'' || c.is_control()) {
        false => Ok(()),
        true => Err(ApiError::InvalidRequest(format!(
            "{name} in {NAME} takes a value in one line, without \"'\""
        ))),
    }
}

fn written(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    match value.chars().all(is_plain) {
        true => value.to_owned(),
        false => format!("'{value}'"),
    }
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut all = Vec::new();
    let mut from = 0;
    while let Some(rest) = text.get(from..).filter(|rest| !rest.is_empty()) {
        let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let line = rest.get(..length).unwrap_or(rest);
        let bare = line.trim_start();
        let bare = bare.strip_prefix("export ").unwrap_or(bare);
        let Some((name, value)) = bare.split_once('=').filter(|_| !bare.starts_with('#')) else {
            from += length;
            continue;
        };
        let begin = from + (line.len() - value.len());
        let (value, end) = value_at(text, begin, from + length);
        all.push(Entry {
            name: name.trim(),
            value,
            line: from..end,
        });
        from = end;
    }
    all
}

/// The value that begins at `begin` in a line that ends at `end`, and where the line ends that it ends in.
fn value_at(text: &str, begin: usize, end: usize) -> (String, usize) {
    let line = text.get(begin..end).unwrap_or_default();
    let bare = line.trim_start();
    let quote = bare
        .chars()
        .next()
        .filter(|c| matches!(c, '\'' | '"' | '`'));
    let Some(quote) = quote else {
        let value = bare.split(" #").next().unwrap_or_default();
        return (value.trim().to_owned(), end);
    };
    let inside = begin + (line.len() - bare.len()) + quote.len_utf8();
    let rest = text.get(inside..).unwrap_or_default();
    let Some(length) = rest.find(quote) else {
        return (bare.trim().to_owned(), end);
    };
    let behind = rest.get(length..).unwrap_or_default();
    let line_end = behind.find('\n').map_or(behind.len(), |at| at + 1);
    let value = rest.get(..length).unwrap_or_default().to_owned();
    (value, inside + length + line_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# A=comment\nA=1\nexport B='two words'\nC=\"three\nD=not\n\"\nE= x # y\nA=2";

    #[test]
    fn variables_are_found_where_they_are() {
        for (name, value) in [
            ("A", Some("2")),
            ("B", Some("two words")),
            ("C", Some("three\nD=not\n")),
            ("D", None),
            ("E", Some("x")),
            ("F", None),
        ] {
            assert_eq!(get(TEXT, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn a_variable_is_set_and_the_rest_stays() {
        assert_eq!(set("", "A", "1"), "A=1\n");
        assert_eq!(set("X=1", "A", "a b"), "X=1\nA='a b'\n");
        assert_eq!(set("X=1\nA=0\nY=2\n", "A", "1"), "X=1\nA=1\nY=2\n");
        let set_c = set(TEXT, "C", "c");
        assert_eq!(get(&set_c, "C").as_deref(), Some("c"));
        assert_eq!(get(&set_c, "E").as_deref(), Some("x"));
        for value in ["", "postgresql://u@h/d?x=1", "a$b", "# no", "\"", "ä"] {
            check("A", value).unwrap();
            assert_eq!(get(&set(TEXT, "A", value), "A").as_deref(), Some(value));
        }
        for value in ["a'b", "a\nB=1"] {
            check("A", value).unwrap_err();
        }
    }

    /// A decoder of what strangers write is total.
    #[test]
    fn no_text_breaks_the_reader() {
        let pieces = [
            "A", "=", "'", "\"", "`", "\n", "#", " ", "export ", "ä", "\r", "\0",
        ];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..(state % 14) {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            get(&text, "A");
            set(&text, "A", "1");
        }
    }
}
