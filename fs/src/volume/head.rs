//! The head: the one object of a volume that is replaced. It names the newest metadata in the store, and what led to it.

use serde::{Deserialize, Serialize};
use weldrfs_blockstore::{ObjectStore, Version};

use super::layout::FORMAT_VERSION;
use super::open_error::OpenError;
use super::points::Chain;
use super::sealed::{self, Sealed};

/// How often a head is read that cannot be parsed.
const READS: u32 = 3;

/// Key of the head.
pub(super) const HEAD_KEY: &str = "head.json";

/// The head object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Version of this object's format.
    pub(super) version: u32,
    /// Random, and of no other head.
    pub(super) nonce: String,
    /// How often the volume was mounted for writing.
    #[serde(default)]
    pub(super) epoch: u64,
    /// Who writes the volume.
    #[serde(default)]
    pub(super) lease: Option<Lease>,
    /// How often something was published: every head with another database than the one before it counts one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) seq: u64,
    /// The last operation it holds.
    pub(super) lsn: u64,
    /// When it was published, milliseconds since 1970.
    pub(super) created_ms: u64,
    /// What the database is made of: a full layer, and the deltas after it. None: nothing was published yet.
    pub(super) layers: Vec<Layer>,
    /// The layers before these, for as long as they are kept; oldest first.
    #[serde(default)]
    pub(super) chains: Vec<Chain>,
    /// See [`Sealed`].
    pub(super) crc32c: u32,
}

/// The right to write the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// Name of the machine, for people.
    pub(super) host: String,
    /// The process there, for people.
    pub(super) pid: u32,
    /// When it was renewed, milliseconds since 1970 by the holder's clock, for people.
    pub(super) renewed_ms: u64,
    /// How long it lasts after the head was put; for ever if `None`.
    pub(super) term_ms: Option<u64>,
    /// It was given back.
    pub(super) released: bool,
}

/// One layer in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    /// What the keys of its parts begin with. Random, and never used again.
    pub(super) key: String,
    /// The head's `seq` when it was published.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) seq: u64,
    /// The last operation it holds.
    pub(super) lsn: u64,
    /// When it was made, milliseconds since 1970.
    pub(super) created_ms: u64,
    /// Bytes before compression.
    pub(super) bytes: u64,
    /// The objects that it is cut into once it is compressed, in order.
    pub(super) parts: Vec<Part>,
    /// XXH3-128 of the hashes of all the database's pages, once it is applied.
    pub(super) image: String,
}

/// Heads of the first days do not count publications, and their checksums know nothing of it.
pub(super) fn is_zero(seq: &u64) -> bool {
    *seq == 0
}

/// One object of a compressed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

/// A head as it was seen in the store, with what a conditional put needs to replace it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: Head,
    pub(super) version: Version,
}

impl Sealed for Head {
    fn seal(&mut self) -> &mut u32 {
        &mut self.crc32c
    }
}

impl Head {
    /// The oldest publication that can still be restored; `None` when nothing was published.
    pub(super) fn oldest_seq(&self) -> Option<u64> {
        let of_chains = self.chains.iter().map(|chain| chain.from_seq);
        of_chains
            .chain(self.layers.first().map(|layer| layer.seq))
            .min()
    }

    /// # Errors
    /// [`OpenError::NewerFormat`]; [`OpenError::State`] when it is damaged.
    fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged =
            |what: String| OpenError::State(format!("{HEAD_KEY} in the store is damaged: {what}"));
        let bad = |error: serde_json::Error| damaged(error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(bad)?;
        if version > FORMAT_VERSION {
            return Err(OpenError::NewerFormat {
                found: version,
                known: FORMAT_VERSION,
            });
        }
        let head: Self = sealed::read(bytes).map_err(damaged)?;
        if head.layers.is_empty() && head.lsn > 0 {
            return Err(damaged("it names no layer".into()));
        }
        Ok(head)
    }
}

/// Keys of a layer's parts, in order.
pub(super) fn part_keys(key: &str, parts: u64) -> impl Iterator<Item = String> {
    (0..parts).map(move |n| part_key(key, n))
}

/// Key of the `n`-th part of a layer.
pub(super) fn part_key(key: &str, n: u64) -> String {
    format!("{key}-{n:04x}.layer")
}

/// Whether a key is that of a layer's part.
pub(super) fn is_part_key(key: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let name = key
        .strip_prefix("meta/")
        .and_then(|k| k.strip_suffix(".layer"));
    name.is_some_and(|name| {
        let fields: Vec<&str> = name.split('-').collect();
        fields.len() == 3 && fields.into_iter().all(hex)
    })
}

/// Reads the head; `None` when the volume was never mounted for writing.
///
/// # Errors
/// As [`Head::parse`]; [`OpenError::Store`].
pub(super) async fn read_head(store: &dyn ObjectStore) -> Result<Option<Seen>, OpenError> {
    let mut reads = 0;
    loop {
        let object = match store.get(HEAD_KEY, None).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        reads += 1;
        match Head::parse(&object.bytes) {
            Ok(head) => {
                return Ok(Some(Seen {
                    head,
                    version: object.version,
                }));
            }
            // A body can be damaged on its way.
            Err(OpenError::State(why)) if reads < READS => {
                tracing::warn!(why, "the head is read again");
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_a_newer_format_is_told_from_a_damaged_one() {
        let newer = br#"{"version": 99, "something": "else"}"#;
        assert!(matches!(
            Head::parse(newer),
            Err(OpenError::NewerFormat { found: 99, .. })
        ));
        let empty = br#"{"version": 1, "nonce": "a", "lsn": 1, "created_ms": 1, "layers": []}"#;
        for damaged in [&b"{}"[..], b"\xff", b"", br#"{"version": 1}"#, empty] {
            assert!(matches!(Head::parse(damaged), Err(OpenError::State(_))));
        }
    }
}
