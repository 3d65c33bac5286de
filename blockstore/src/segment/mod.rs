//! Segments: the local append-only files that new bytes go to first.
//!
//! A segment is a header and raw bytes. Where an extent lies and what its checksums are is in the metadata, which gets
//! segment and offset from [`SegmentStore::append`]. Nothing here parses or interprets the bytes.

mod file;
mod files;
mod head;
mod header;
mod store;
#[cfg(test)]
mod tests;

pub use file::SegmentPin;
pub use header::{SEGMENT_FORMAT_VERSION, SEGMENT_HEADER_BYTES, SegmentHeader};
pub use store::{Appended, SegmentInfo, SegmentStore};
