//! Secrets in what steps write and hand on are replaced before anything is stored or sent. Found are the secrets that the
//! step was given, as they are, and each line of those that have several. What a step makes of a secret (another encoding, a
//! part of it) is not found.

use crate::sandbox::Secrets;

/// What is put in place of a secret.
const MASK: &str = "***";
/// Shorter ones are in too many words.
const SECRET_MIN: usize = 3;
/// Shorter lines of a secret are in too many words.
const LINE_MIN: usize = 8;

/// The secrets of a step; never shown.
#[derive(Clone, Default)]
pub(super) struct Mask(Vec<Vec<u8>>);

impl Mask {
    pub(super) fn of(secrets: &Secrets) -> Self {
        let mut mask = Self::default();
        mask.add(secrets);
        mask
    }

    /// Finds these, too.
    pub(super) fn add(&mut self, secrets: &Secrets) {
        let all = &mut self.0;
        for value in secrets.0.values() {
            let whole = value.trim_end_matches(['\r', '\n']);
            if whole.len() >= SECRET_MIN {
                all.push(whole.as_bytes().to_vec());
            }
            let lines = whole.lines().map(str::trim);
            all.extend(
                lines
                    .filter(|line| line.len() >= LINE_MIN)
                    .map(|line| line.as_bytes().to_vec()),
            );
        }
        // The longest first: one may be a part of another.
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
    }

    /// How many bytes at the end of something may be the beginning of a secret that goes on.
    pub(super) fn reach(&self) -> usize {
        self.0.first().map_or(0, |longest| longest.len() - 1)
    }

    pub(super) fn text(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        String::from_utf8_lossy(&self.bytes(text.as_bytes())).into_owned()
    }

    pub(super) fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.bytes_from(bytes, 0)
    }

    /// What there is from `from` on; a secret that begins before is left out with what is before.
    pub(super) fn bytes_from(&self, bytes: &[u8], from: usize) -> Vec<u8> {
        let mut masked = Vec::with_capacity(bytes.len().saturating_sub(from));
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let secret = self.0.iter().find(|secret| rest.starts_with(secret));
            if at >= from {
                let one = rest.get(..1).unwrap_or_default();
                masked.extend_from_slice(secret.map_or(one, |_| MASK.as_bytes()));
            }
            at += secret.map_or(1, Vec::len);
        }
        masked
    }

    /// How much of `bytes` can be masked when more will follow: up to where a secret may have begun.
    pub(super) fn safe(&self, bytes: &[u8]) -> usize {
        let from = bytes.len().saturating_sub(self.reach());
        let begins = |at: &usize| {
            let tail = bytes.get(*at..).unwrap_or_default();
            self.0.iter().any(|secret| secret.starts_with(tail))
        };
        (from..bytes.len()).find(begins).unwrap_or(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn mask(values: &[&str]) -> Mask {
        let named = values.iter().enumerate();
        Mask::of(&Secrets(BTreeMap::from_iter(
            named.map(|(n, value)| (format!("S{n}"), (*value).to_owned())),
        )))
    }

    #[test]
    fn secrets_are_replaced_wherever_they_are() {
        let mask = mask(&[
            "canary",
            "canary-long\n",
            "ab",
            "-----BEGIN-----\nline one of it\nx\n",
        ]);
        assert_eq!(
            mask.text("a canary, canary-longer; xcanaryx ab line one of it -----BEGIN-----"),
            "a ***, ***er; x***x ab *** ***"
        );
        assert_eq!(mask.text("canarcanary"), "canar***");
        assert_eq!(Mask::default().text("canary"), "canary");
    }

    /// However a text is cut into pieces, no secret comes through.
    #[test]
    fn a_secret_in_two_pieces_is_held_back() {
        let mask = mask(&["canary", "narrow"]);
        let text = b"xx canary canarrow canar".as_slice();
        for cut in 0..text.len() {
            let (one, two) = text.split_at(cut);
            let safe = mask.safe(one);
            let mut told = mask.bytes(&one[..safe]);
            let mut rest = one[safe..].to_vec();
            rest.extend_from_slice(two);
            told.extend(mask.bytes(&rest));
            let told = String::from_utf8(told).unwrap();
            assert!(
                !told.contains("canary") && !told.contains("narrow"),
                "{cut}: {told}"
            );
        }
    }
}
