//! The object store: one trait, the values that go through it, and its implementations and wrappers.
//!
//! Everything above this trait sees keys and bytes only. What a key means is decided elsewhere.

mod counting;
mod dir;
mod error;
mod fault;
mod key;
mod listing;
mod memory;
mod retry;
mod s3;
mod temps;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

pub use counting::{CountingStore, StoreCounts, Verb, VerbCounts};
pub use dir::DirStore;
pub use error::StoreError;
pub use fault::{
    Fault, FaultCounts, FaultKind, FaultRule, FaultStore, Outage, RequestRecord, RuleId,
};
pub use key::{MAX_KEY_BYTES, validate_key};
pub use memory::MemoryStore;
pub(crate) use retry::RetryPolicy;
pub use retry::RetryStore;
pub use s3::{
    Addressing, S3_ATTEMPT_DEADLINE, S3_CONNECT_DEADLINE, S3_DEFAULT_REGION, S3Credentials,
    S3Settings, S3Store, is_bucket_name,
};

/// Most objects one page of a listing holds, whatever was asked for.
pub const MAX_LIST_OBJECTS: usize = 1000;

/// Identifies one content of one key, for conditional writes. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

impl Version {
    /// The version of a content in the stores that compute it themselves: its XXH3-128, as 32 digits.
    #[must_use]
    pub(crate) fn of(content: &[u8]) -> Self {
        Self(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(content)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a get returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The bytes, or those of the range.
    pub bytes: Bytes,
    /// The version of the whole object.
    pub version: Version,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its version.
    pub version: Version,
    /// When it was put, by the store's clock, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// One object of a listing. It has no version: a directory would have to read every object to tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// When it was put, by the store's clock, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// A piece of a listing, in the order of the keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// The objects.
    pub objects: Vec<ListedObject>,
    /// True when there are more: list again after the last key.
    pub more: bool,
}

/// When a put may take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutCondition {
    /// Always; replaces what is there.
    Always,
    /// Only when nothing is there.
    IfAbsent,
    /// Only when exactly this version is there.
    IfMatch(Version),
}

/// A store of immutable-by-convention objects under keys.
///
/// A call that fails with an error for which [`StoreError::is_ambiguous`] is true may still have taken effect.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug + 'static {
    /// Reads an object, or a range of it. A range that ends beyond the object is cut off; one that is empty or begins
    /// at or beyond its end is [`StoreError::Invalid`].
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError>;

    /// Writes an object, durably when it returns. A condition that does not hold is
    /// [`StoreError::PreconditionFailed`].
    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError>;

    /// Looks at an object.
    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError>;

    /// Lists objects whose keys begin with `prefix` and come after `after`, in key order, at most `limit` and at most
    /// [`MAX_LIST_OBJECTS`] of them. A limit of 0 is [`StoreError::Invalid`].
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError>;

    /// Deletes objects; missing ones are fine. After an error some may be deleted.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Names the store in messages. Holds no secrets.
    fn describe(&self) -> String;
}

/// Cuts a range out of an object, by the rules of [`ObjectStore::get`].
pub(crate) fn cut(
    key: &str,
    whole: Bytes,
    range: Option<&Range<u64>>,
) -> Result<Bytes, StoreError> {
    let Some(range) = range else { return Ok(whole) };
    let len = whole.len() as u64;
    if range.start >= range.end || range.start >= len {
        return Err(StoreError::Invalid {
            what: format!(
                "range {}..{} of {key}, which has {len} bytes",
                range.start, range.end
            ),
        });
    }
    Ok(whole.slice(range.start as usize..range.end.min(len) as usize))
}

/// A page of nothing would never end.
fn check_limit(limit: usize) -> Result<(), StoreError> {
    if limit == 0 {
        return Err(StoreError::Invalid {
            what: "a listing takes a limit of at least 1".into(),
        });
    }
    Ok(())
}
