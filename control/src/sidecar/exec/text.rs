//! Output as lines of JSON can hold it: text where it is UTF-8, also when a character was cut in two.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::types::ExecLine;
use crate::sandbox::OutputStream;

/// One stream of a command.
#[derive(Debug)]
pub(super) struct Text {
    stream: OutputStream,
    /// The beginning of a character whose end has not come yet.
    begun: Vec<u8>,
}

impl Text {
    pub(super) fn new(stream: OutputStream) -> Self {
        Self {
            stream,
            begun: Vec::new(),
        }
    }

    /// The line for `bytes`; none when they are only the beginning of a character.
    pub(super) fn line(&mut self, bytes: &[u8]) -> Option<ExecLine> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        match String::from_utf8(all) {
            Ok(text) => (!text.is_empty()).then(|| self.text(text)),
            Err(error) => {
                let cut = error.utf8_error();
                let is_begun = cut.error_len().is_none();
                let valid = cut.valid_up_to();
                let mut all = error.into_bytes();
                if !is_begun {
                    return Some(self.bytes(&all));
                }
                self.begun = all.split_off(valid);
                let text = String::from_utf8(all).unwrap_or_default();
                (!text.is_empty()).then(|| self.text(text))
            }
        }
    }

    /// What is left at the end.
    pub(super) fn rest(&mut self) -> Option<ExecLine> {
        let rest = std::mem::take(&mut self.begun);
        (!rest.is_empty()).then(|| self.bytes(&rest))
    }

    fn text(&self, text: String) -> ExecLine {
        ExecLine::Output {
            stream: self.stream,
            text: Some(text),
            base64: None,
        }
    }

    fn bytes(&self, bytes: &[u8]) -> ExecLine {
        ExecLine::Output {
            stream: self.stream,
            text: None,
            base64: Some(STANDARD.encode(bytes)),
        }
    }
}

/// The bytes that a line of output holds.
///
/// # Errors
/// Never for lines that were made here.
pub fn output_bytes(text: Option<String>, base64: Option<&str>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), _) => Ok(text.into_bytes()),
        (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| error.to_string()),
        (None, None) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(line: ExecLine) -> (bool, Vec<u8>) {
        let ExecLine::Output { text, base64, .. } = line else {
            panic!("{line:?}");
        };
        (
            text.is_some(),
            output_bytes(text, base64.as_deref()).unwrap(),
        )
    }

    #[test]
    fn a_character_that_was_cut_is_put_together_again() {
        let mut text = Text::new(OutputStream::Stdout);
        let all = "aä€😀".as_bytes();
        let mut got = Vec::new();
        for byte in all {
            if let Some(line) = text.line(&[*byte]) {
                let (is_text, bytes) = bytes(line);
                assert!(is_text);
                got.extend(bytes);
            }
        }
        assert_eq!((got.as_slice(), text.rest()), (all, None));
    }

    #[test]
    fn what_is_no_text_arrives_as_it_was() {
        let mut text = Text::new(OutputStream::Stderr);
        let (is_text, got) = bytes(text.line(b"\xff\x00a").unwrap());
        assert_eq!((is_text, got.as_slice()), (false, &b"\xff\x00a"[..]));
        assert_eq!(text.line(b"\xe2\x82"), None);
        let (is_text, got) = bytes(text.rest().unwrap());
        assert_eq!((is_text, got.as_slice()), (false, &b"\xe2\x82"[..]));
    }
}
