//! What a line of the agent's output is, before anything is made of it: only what the conversation understands is handed on,
//! and nothing that would take much more memory than the line itself.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::gate;

/// Most values in one message: each takes many times the bytes that it has in the line.
const VALUES_MAX: usize = 100_000;
/// What an agent may tell without being asked. The library keeps others for later, which never comes.
const NOTIFICATIONS: [&str; 1] = ["session/update"];

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// It has to be answered.
    Request,
    /// It has not: something that the agent tells, or an answer of its own.
    Told,
    /// No message of the protocol, or one that nobody understands and that needs no answer.
    Noise,
    /// One that is not looked into.
    TooMuch,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    id: Option<Json>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    result: Option<IgnoredAny>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

impl Message {
    /// What `line` is.
    pub(super) fn of(line: &[u8]) -> Self {
        // Several in one line are none: this protocol has no batches.
        if line.first() != Some(&b'{') {
            return Self::Noise;
        }
        if values(line) > VALUES_MAX {
            return Self::TooMuch;
        }
        let Ok(head) = serde_json::from_slice::<Head>(line) else {
            return Self::Noise;
        };
        let is_ours = head.id.as_ref().is_some_and(|id| id == gate::ID);
        match (head.id.is_some() && !is_ours, head.method) {
            (true, Some(_)) => Self::Request,
            (false, Some(method)) if NOTIFICATIONS.contains(&method.as_str()) => Self::Told,
            (true, None) if head.result.is_some() || head.error.is_some() => Self::Told,
            _ => Self::Noise,
        }
    }
}

/// About how many values a text of JSON has; of what is no JSON, any number.
fn values(line: &[u8]) -> usize {
    let (mut count, mut in_text, mut is_escaped) = (1, false, false);
    for byte in line {
        match (in_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_is_told_from_what_is_not() {
        for (line, message) in [
            (r#"{"id":1,"method":"fs/read_text_file"}"#, Message::Request),
            (r#"{"id":"x","method":"whatever"}"#, Message::Request),
            (r#"{"method":"session/update","params":{}}"#, Message::Told),
            // Kept by the library until somebody takes it, which nobody does.
            (
                r#"{"method":"$/cancel_request","params":{}}"#,
                Message::Noise,
            ),
            (r#"{"id":1,"result":{}}"#, Message::Told),
            (r#"{"id":1,"error":{"code":1}}"#, Message::Told),
            (
                r#"{"method":"other","params":{"sessionId":"s"}}"#,
                Message::Noise,
            ),
            (
                r#"{"id":null,"method":"fs/read_text_file"}"#,
                Message::Noise,
            ),
            (
                r#"{"method":"session/update","method":"other"}"#,
                Message::Noise,
            ),
            (r#"{"level":"info","id":1}"#, Message::Noise),
            (r#"[{"id":1,"method":"a"}]"#, Message::Noise),
            (r#"{"id":"weldrfs-gate","method":"x"}"#, Message::Noise),
            (r#"{"id":"weldrfs\u002dgate","method":"x"}"#, Message::Noise),
            ("[info] hello", Message::Noise),
            ("{", Message::Noise),
            ("", Message::Noise),
        ] {
            assert_eq!(Message::of(line.as_bytes()), message, "{line}");
        }
    }

    #[test]
    fn a_line_of_countless_values_is_not_looked_into() {
        let many = format!(
            r#"{{"id":1,"method":"a","params":[{}0]}}"#,
            "[],".repeat(VALUES_MAX)
        );
        assert_eq!(Message::of(many.as_bytes()), Message::TooMuch);
        // Text may hold anything.
        let text = format!(
            r#"{{"id":1,"method":"a","params":{{"t":"\"{}"}}}}"#,
            "[],".repeat(VALUES_MAX)
        );
        assert_eq!(Message::of(text.as_bytes()), Message::Request);
    }

    #[test]
    fn fuzz_any_line_is_something() {
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let line: Vec<u8> = (0..seed % 40)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let all = br#"{}[]":,\ididmethodresult01 null"#;
                    all[(seed >> 33) as usize % all.len()]
                })
                .collect();
            Message::of(&line);
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
        }
    }
}
