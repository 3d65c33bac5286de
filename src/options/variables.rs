//! Environment variables that existing deployments set, as mount options. What `-o` says wins over them.

use super::split::Written;
use super::{MountOptions, Unknown, known, split, values};
use crate::environment::Variables;
use crate::failure::Failure;

/// What a variable is worth here.
enum Means {
    /// This option; the value is rewritten for it, `None` when it makes no sense.
    Option(&'static str, fn(&str) -> Option<String>),
    /// Nothing any more. A senseless value is refused all the same.
    Nothing(fn(&str) -> bool),
}

const WHOLE: &str = "a whole number";
const SECONDS: &str = "seconds, or a time with a unit (s, m, h)";

/// Variable, what it takes, what it means.
const TABLE: &[(&str, &str, Means)] = &[
    ("CACHE_SIZE_MB", WHOLE, Means::Option("cache_size", whole)),
    (
        "FREE_SPACE_RATIO",
        "a part of the disk, like 0.1",
        Means::Option("free_space_ratio", same),
    ),
    ("BUFFER_SIZE_MB", WHOLE, Means::Option("frame_cache", whole)),
    (
        "ATTR_CACHE_TTL",
        SECONDS,
        Means::Option("attr_timeout", same),
    ),
    (
        "ENTRY_CACHE_TTL",
        SECONDS,
        Means::Option("entry_timeout", same),
    ),
    ("DIR_ENTRY_CACHE_TTL", SECONDS, Means::Nothing(is_span)),
    ("OPEN_CACHE_TTL", SECONDS, Means::Nothing(is_span)),
    (
        "MAX_READAHEAD_MB",
        "a whole number up to 64",
        Means::Option("max_readahead", |text| Some(format!("{}M", whole(text)?))),
    ),
    (
        "PREFETCH",
        WHOLE,
        Means::Nothing(|text| whole(text).is_some()),
    ),
    (
        "VERIFY_CACHE",
        "sha256, md5 or off",
        Means::Nothing(|text| matches!(text, "sha256" | "md5" | "off")),
    ),
    (
        "WRITEBACK_ENABLED",
        "1, or 0 (close and fsync wait for the store)",
        Means::Option("writeback", |text| match text {
            "0" | "false" => Some("off".to_owned()),
            "1" | "true" => Some("on".to_owned()),
            _ => None,
        }),
    ),
    ("UPLOAD_DELAY", SECONDS, Means::Option("upload_delay", same)),
    (
        "MAX_UPLOADS",
        "a whole number from 1 to 100",
        Means::Option("max_uploads", whole),
    ),
];

/// Name of the variable that holds options.
const OPTIONS: &str = "FS_MOUNT_OPTIONS";

/// The options that `variables` ask for.
///
/// # Errors
/// [`Failure::Invocation`] that names the variable and what it takes.
pub(super) fn options(variables: &Variables) -> Result<MountOptions, Failure> {
    let mut options = MountOptions::default();
    for (variable, takes, means) in TABLE {
        let Some(text) = variables.get(variable) else {
            continue;
        };
        let fits = match means {
            Means::Nothing(fits) => fits(text),
            Means::Option(name, rewrite) => rewrite(text).is_some_and(|value| {
                let option = Written {
                    name: (*name).to_owned(),
                    value: Some(value),
                };
                known::apply(&mut options, &option, Unknown::Refuse).is_ok()
            }),
        };
        if !fits {
            return Err(Failure::Invocation(format!(
                "variable {variable} takes {takes}, not {text:?}"
            )));
        }
    }
    if let Some(text) = variables.get(OPTIONS) {
        for option in written(text)? {
            known::apply(&mut options, &option, Unknown::Ignore)
                .map_err(|failure| Failure::Invocation(format!("variable {OPTIONS}: {failure}")))?;
        }
    }
    Ok(options)
}

/// The options of a text that was made for another program: `-o a,b=c`, `--name value`, `--name=value` or a plain list.
fn written(text: &str) -> Result<Vec<Written>, Failure> {
    let mut options = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        match word.strip_prefix("--") {
            _ if word == "-o" => {}
            Some(flag) => {
                let (name, value) = flag.split_once('=').unzip();
                let follows = || words.next_if(|next| !next.starts_with('-'));
                let value = value.or_else(follows);
                options.push(Written {
                    name: name.unwrap_or(flag).replace('-', "_"),
                    value: value.map(str::to_owned),
                });
            }
            // The flag of another program, with nothing we could know.
            None if word.starts_with('-') => {}
            None => options.extend(split::split(word)?),
        }
    }
    Ok(options)
}

fn whole(text: &str) -> Option<String> {
    values::whole(text).map(|number| number.to_string())
}

fn same(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn is_span(text: &str) -> bool {
    values::span(text).is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with(name: &'static str, value: &str) -> Result<MountOptions, Failure> {
        options(&Variables::of([(name, value)]))
    }

    fn good(name: &'static str, value: &str) -> MountOptions {
        with(name, value).unwrap_or_else(|error| panic!("{name}={value}: {error}"))
    }

    #[test]
    fn each_variable_sets_its_option() {
        let seconds = Duration::from_secs;
        assert_eq!(good("CACHE_SIZE_MB", "51200").cache_bytes, 51200 << 20);
        assert_eq!(good("FREE_SPACE_RATIO", "0.1").free_space_ratio, 0.1);
        assert_eq!(good("BUFFER_SIZE_MB", "256").frame_cache_bytes, 256 << 20);
        assert_eq!(good("ATTR_CACHE_TTL", "3").attr_timeout, seconds(3));
        assert_eq!(good("ENTRY_CACHE_TTL", "300").entry_timeout, seconds(300));
        assert_eq!(good("MAX_READAHEAD_MB", "64").max_readahead, 64 << 20);
        assert_eq!(good("UPLOAD_DELAY", "5m").upload_delay, seconds(300));
        assert_eq!(good("MAX_UPLOADS", "20").max_uploads, 20);
        assert!(!good("WRITEBACK_ENABLED", "0").writeback);
        assert!(good("WRITEBACK_ENABLED", "1").writeback);
        for (name, value) in [
            ("DIR_ENTRY_CACHE_TTL", "5"),
            ("OPEN_CACHE_TTL", "10"),
            ("PREFETCH", "2"),
            ("VERIFY_CACHE", "sha256"),
        ] {
            assert_eq!(good(name, value), MountOptions::default(), "{name}");
        }
    }

    #[test]
    fn a_senseless_value_is_refused_by_the_name_of_its_variable() {
        for (name, value) in [
            ("CACHE_SIZE_MB", "10G"),
            ("CACHE_SIZE_MB", "1"),
            ("FREE_SPACE_RATIO", "2"),
            ("BUFFER_SIZE_MB", "x"),
            ("ATTR_CACHE_TTL", "soon"),
            ("ENTRY_CACHE_TTL", "-1"),
            ("DIR_ENTRY_CACHE_TTL", "x"),
            ("OPEN_CACHE_TTL", "x"),
            ("MAX_READAHEAD_MB", "65"),
            ("PREFETCH", "many"),
            ("VERIFY_CACHE", "crc"),
            ("WRITEBACK_ENABLED", "2"),
            ("UPLOAD_DELAY", "1w"),
            ("MAX_UPLOADS", "0"),
            ("FS_MOUNT_OPTIONS", "threads=0"),
        ] {
            let error = with(name, value).expect_err(name);
            assert_eq!(error.exit_code(), 1);
            assert!(
                error.to_string().contains(&format!("variable {name}")),
                "{error}"
            );
        }
    }

    #[test]
    fn options_for_another_program_are_taken_as_far_as_they_are_known() {
        for text in [
            "-o allow_other,threads=4 --cache-size 100",
            "threads=4,allow_other --cache-size=100 --no-usage-report -d",
            "--cache-size 100 --backup-meta 0 allow_other,threads=4",
        ] {
            let options = good("FS_MOUNT_OPTIONS", text);
            assert_eq!(options.access, super::super::Access::Everybody, "{text}");
            assert_eq!(
                (options.threads, options.cache_bytes),
                (Some(4), 100 << 20),
                "{text}"
            );
        }
    }
}
