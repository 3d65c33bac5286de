//! Times as definitions write them: `500ms`, `30s`, `10m`, `2h`, `7d`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// The longest.
pub(in crate::sidecar::workflows) const SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const EXPECTED: &str = "a time like 500ms, 30s, 10m, 2h or 7d, 30d at most";

/// How long something takes or may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sidecar::workflows) struct Span(pub(in crate::sidecar::workflows) Duration);

impl Span {
    pub(in crate::sidecar::workflows) fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return None,
        };
        let span = Duration::from_millis(number.checked_mul(unit_ms)?);
        (!span.is_zero() && span <= SPAN_MAX).then_some(Self(span))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).ok_or_else(|| E::custom(format!("{text:?} is not {EXPECTED}")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A time with a unit: 500ms, 30s, 10m, 2h or 7d; 30d at most",
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_an_end() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(Span::parse(text).unwrap().ms(), ms, "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "0s",
            "31d",
            "-1s",
            "1.5h",
            "1 s",
            "1w",
            "99999999999999999999d",
            "9999999999999999d",
            "1sx",
        ] {
            assert!(Span::parse(text).is_none(), "{text}");
        }
    }
}
