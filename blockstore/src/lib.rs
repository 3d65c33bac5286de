//! The bytes of a volume: local segments, packs, the caches in front of them, and the object store.
//!
//! This crate knows offsets, lengths, checksums and object keys. It knows nothing of inodes, names or SQL: which
//! bytes belong to which file is the business of the metadata, which holds the ids and offsets handed out here.
//!
//! - [`SegmentStore`]: local append-only staging; an append is in the page cache when it returns, durable after a flush.
//! - [`PackBuilder`], [`PackIndex`], [`Packs`]: immutable objects of many extents, their local copies, reading, upload.
//! - [`ObjectStore`]: the one trait every store is behind, with a directory ([`DirStore`]) a bucket
//!   ([`S3Store`]) and a memory ([`MemoryStore`]) implementation and wrappers that count, retry and inject faults.

mod disk;
mod error;
mod fields;
#[cfg(test)]
mod fuzz_tests;
mod ids;
mod pack;
mod segment;
mod settings;
mod store;
mod sums;

pub use error::{Advice, Error, Result};
pub use ids::{PackId, SegmentId};
pub use pack::{
    BuiltPack, Codec, FrameEntry, PACK_FORMAT_VERSION, PACK_HEADER_BYTES, PACK_TRAILER_BYTES,
    PackBuilder, PackCacheStats, PackExtent, PackIndex, Packs, move_kept, verify_pack,
};
pub use segment::{
    Appended, SEGMENT_FORMAT_VERSION, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentInfo, SegmentPin,
    SegmentStore,
};
pub use settings::{
    CACHE_BYTES, FRAME_BYTES, FRAME_CACHE_BYTES, FREE_FLOOR_RATIO, MAX_APPEND_BYTES, MAX_DOWNLOADS,
    MAX_FRAME_BYTES, MAX_UPLOADS, PACK_BYTES, PackSettings, PacksConfig, READ_DEADLINE,
    RetrySettings, SEGMENT_BYTES, SPARE_FILES, SegmentSettings, WRITEOUT_BYTES, ZSTD_LEVEL,
};
pub use store::{
    Addressing, CountingStore, DirStore, Fault, FaultCounts, FaultKind, FaultRule, FaultStore,
    ListPage, ListedObject, MAX_KEY_BYTES, MAX_LIST_OBJECTS, MemoryStore, Object, ObjectInfo,
    ObjectStore, Outage, PutCondition, RequestRecord, RetryStore, RuleId, S3_ATTEMPT_DEADLINE,
    S3_CONNECT_DEADLINE, S3_DEFAULT_REGION, S3Credentials, S3Settings, S3Store, StoreCounts,
    StoreError, Verb, VerbCounts, Version, is_bucket_name, validate_key,
};
pub use sums::{BLOCK_BYTES, block_sums, extend_sums, verify_sums};
