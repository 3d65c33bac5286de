//! Values of mount options: sizes, times, ratios, switches. Each parser takes text and answers a value or `None`; what
//! an option takes, and in which range, is said where the option is known.

use std::time::Duration;

/// How long the kernel may keep what it was told when the option says `inf`. The kernel counts in 64 bits; this is far
/// beyond any mount's life and safe to add to a clock.
pub(crate) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const TIB: u64 = 1 << 40;

/// A number of bytes: digits, with a decimal part if a unit follows (K, M, G, T, P, also as KB or KiB, always powers of
/// 1024). Without a unit the number counts `bare` bytes.
pub(crate) fn size(text: &str, bare: u64) -> Option<u64> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => bare,
        "b" => 1,
        "k" | "kb" | "kib" => KIB,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => TIB,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return None,
    };
    if number.contains('.') {
        let bytes = decimal(number)? * factor as f64;
        // Exact up to 2^53, far more than any size that makes sense here.
        return (bytes < (1_u64 << 53) as f64).then_some(bytes.round() as u64);
    }
    whole(number)?.checked_mul(factor)
}

/// A span of time: a number of seconds, or a number with the unit ms, s, m, h or d.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(decimal(number)? * seconds).ok()
}

/// A span of time, or `inf` for one that never ends. Longer spans than [`FOREVER`] are that.
pub(crate) fn timeout(text: &str) -> Option<Duration> {
    if text == "inf" {
        return Some(FOREVER);
    }
    span(text).map(|span| span.min(FOREVER))
}

/// A part of a whole: `0.05` or `5%`.
pub(crate) fn ratio(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => Some(decimal(percent)? / 100.0),
        None => decimal(text),
    }
}

/// A switch.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number without sign.
pub(crate) fn whole(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

/// A number without sign and exponent, so that `nan`, `inf` and `1e9` are not taken.
fn decimal(text: &str) -> Option<f64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    (plain && text.bytes().any(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512", MIB), Some(512 * MIB));
        assert_eq!(size("512", 1), Some(512));
        assert_eq!(size("2G", MIB), Some(2 << 30));
        assert_eq!(size("2GiB", MIB), Some(2 << 30));
        assert_eq!(size("1.5k", MIB), Some(1536));
        assert_eq!(size("10B", MIB), Some(10));
        assert_eq!(size("1p", MIB), Some(1 << 50));
        for bad in [
            "",
            "G",
            "-1",
            "1e3",
            "1 G",
            "1X",
            "0x10",
            "99999999999999999999",
            "99999999999P",
            "1..5G",
            ".",
        ] {
            assert_eq!(size(bad, MIB), None, "{bad}");
        }
    }

    #[test]
    fn spans() {
        assert_eq!(span("1"), Some(Duration::from_secs(1)));
        assert_eq!(span("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(span("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(span("2m"), Some(Duration::from_secs(120)));
        assert_eq!(span("1h"), Some(Duration::from_secs(3_600)));
        assert_eq!(span("1d"), Some(Duration::from_secs(86_400)));
        for bad in [
            "",
            "s",
            "-1",
            "1w",
            "1 s",
            "inf",
            "nan",
            "1e9",
            "999999999999999999999999",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn timeouts_may_be_infinite() {
        assert_eq!(timeout("inf"), Some(FOREVER));
        assert_eq!(timeout("99999999999"), Some(FOREVER));
        assert_eq!(timeout("0"), Some(Duration::ZERO));
        assert_eq!(timeout("infinite"), None);
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio("0.05"), Some(0.05));
        assert_eq!(ratio("5%"), Some(0.05));
        assert_eq!(ratio("1"), Some(1.0));
        for bad in ["", "%", "-0.1", "five", "0,1"] {
            assert_eq!(ratio(bad), None, "{bad}");
        }
    }

    #[test]
    fn switches() {
        assert_eq!(switch("on"), Some(true));
        assert_eq!(switch("off"), Some(false));
        assert_eq!(switch("1"), Some(true));
        assert_eq!(switch("ON"), None);
        assert_eq!(switch(""), None);
    }
}
