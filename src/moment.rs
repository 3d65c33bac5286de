//! Moments on the command line: a time of day, or how long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::options::span;

/// What a moment may look like; part of every message about it.
pub(crate) const FORMS: &str =
    "a time in UTC like 2026-11-22T10:15:00Z, or how long ago, like 90s, 30m, 2h or 1d";

/// Milliseconds since 1970 of what `text` says; `None` when it makes no sense.
pub(crate) fn parse(text: &str, now: SystemTime) -> Option<u64> {
    let text = text.trim();
    let bare = text.bytes().all(|b| b.is_ascii_digit());
    let moment = match humantime::parse_rfc3339_weak(text) {
        Ok(moment) => moment,
        // A number alone could mean many things.
        Err(_) if bare => return None,
        Err(_) => now.checked_sub(span(text)?)?,
    };
    let since = moment.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// The same moment for people.
pub(crate) fn shown(at_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(at_ms);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans_are_moments_and_other_things_are_not() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let parsed = |text| parse(text, now);
        assert_eq!(parsed("1970-01-02T00:00:01Z"), Some(86_401_000));
        assert_eq!(parsed("1970-01-02 00:00:01"), Some(86_401_000));
        assert_eq!(parsed("90s"), Some(999_910_000));
        assert_eq!(parsed(" 2h "), Some(992_800_000));
        for bad in [
            "",
            "5",
            "-5m",
            "yesterday",
            "1970-13-01T00:00:00Z",
            "1000000d",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        assert_eq!(shown(86_401_000), "1970-01-02T00:00:01Z");
    }
}
