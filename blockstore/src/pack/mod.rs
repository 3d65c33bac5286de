//! Packs: immutable objects of many extents in compressed frames, and everything to build, read, keep and upload them.
//!
//! An extent is addressed by pack and raw offset. Which extents live where is in the metadata; the extent table in a
//! pack exists so that a check needs nothing but the bucket.

mod builder;
mod encode;
mod fetch;
mod frame;
mod index;
mod local;
mod reader;
mod source;
mod stats;
mod upload;

#[cfg(test)]
mod tests;

pub use builder::{BuiltPack, PackBuilder};
pub use index::{
    Codec, FrameEntry, PACK_FORMAT_VERSION, PACK_HEADER_BYTES, PACK_TRAILER_BYTES, PackExtent,
    PackIndex, verify_pack,
};
pub use local::move_kept;
pub use reader::Packs;
pub use stats::PackCacheStats;
