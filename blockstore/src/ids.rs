//! Names of segments and packs. Owns how they are written and parsed; hands out no ids itself.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A local segment file. Ids grow and are never used twice in one state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A pack: 128 random bits, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(pub [u8; 16]);

impl PackId {
    /// Draws an id. Give it a generator seeded by the operating system: the id must be unique among all machines.
    pub fn random(rng: &mut impl rand::Rng) -> Self {
        Self(rng.random())
    }

    /// The key of the pack's object: `packs/<first 2 digits>/<32 digits>`.
    #[must_use]
    pub fn object_key(&self) -> String {
        format!("packs/{:02x}/{self}", self.0[0])
    }

    /// The pack an object key names, or `None` when it is not the key of a pack.
    #[must_use]
    pub fn from_object_key(key: &str) -> Option<Self> {
        let id: Self = key.rsplit_once('/')?.1.parse().ok()?;
        (id.object_key() == key).then_some(id)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

impl FromStr for PackId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_hex(text, 32)
            .map(|value| Self(value.to_be_bytes()))
            .ok_or_else(|| Error::BadId {
                text: text.chars().take(64).collect(),
                takes: "32 lower-case hexadecimal digits",
            })
    }
}

impl FromStr for SegmentId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_hex(text, 16)
            .and_then(|value| u64::try_from(value).ok())
            .map(Self)
            .ok_or_else(|| Error::BadId {
                text: text.chars().take(64).collect(),
                takes: "16 lower-case hexadecimal digits",
            })
    }
}

/// Exactly `digits` lower-case hexadecimal digits: one id has one spelling.
fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    let canonical = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(canonical) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn ids_have_one_spelling_and_come_back_from_it() {
        let id = PackId::random(&mut SmallRng::seed_from_u64(7));
        assert_eq!(id.to_string().parse::<PackId>().unwrap(), id);
        assert_eq!(PackId::from_object_key(&id.object_key()), Some(id));
        let small = PackId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab]);
        assert_eq!(small.to_string(), "000000000000000000000000000000ab");
        assert_eq!(
            small.object_key(),
            "packs/00/000000000000000000000000000000ab"
        );
        assert_eq!(SegmentId(0x1f).to_string(), "000000000000001f");
        assert_eq!(
            "000000000000001f".parse::<SegmentId>().unwrap(),
            SegmentId(0x1f)
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "00",
            "000000000000000000000000000000AB",
            "+00000000000000000000000000000ab",
            "000000000000000000000000000000ab0",
        ] {
            assert!(text.parse::<PackId>().is_err(), "{text}");
        }
        assert!("+00000000000001f".parse::<SegmentId>().is_err());
        assert_eq!(
            PackId::from_object_key("packs/01/000000000000000000000000000000ab"),
            None
        );
        assert_eq!(PackId::from_object_key("meta/head"), None);
    }
}
