//! Every limit and default of this crate, by name, and the settings structures that carry them.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::segment::SEGMENT_HEADER_BYTES;

/// Size of a segment file in bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Most bytes one append may carry.
pub const MAX_APPEND_BYTES: usize = 16 << 20;
/// Write-out of a segment is started each time this many bytes were appended.
pub const WRITEOUT_BYTES: u64 = 8 << 20;
/// How many released segment files are kept for reuse.
pub const SPARE_FILES: usize = 4;
/// Raw bytes after which a pack is closed.
pub const PACK_BYTES: u64 = 16 << 20;
/// Raw bytes in one frame.
pub const FRAME_BYTES: usize = 128 << 10;
/// Most raw bytes a frame may claim to have: bounds what a reader allocates for hostile input.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Fewest raw bytes a frame is made of.
pub(crate) const MIN_FRAME_BYTES: usize = 4 << 10;
/// zstd's level for frames.
pub const ZSTD_LEVEL: i32 = 3;
/// Bytes of local copies of packs.
pub const CACHE_BYTES: u64 = 2 << 30;
/// Share of the disk that clean copies leave free.
pub const FREE_FLOOR_RATIO: f64 = 0.01;
/// Bytes of decoded frames in memory.
pub const FRAME_CACHE_BYTES: u64 = 64 << 20;
/// How long a read waits for the store.
pub const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Downloads at a time.
pub const MAX_DOWNLOADS: usize = 16;
/// Uploads at a time.
pub const MAX_UPLOADS: usize = 5;

/// How segments are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSettings {
    /// Size of a segment file in bytes, its header included.
    pub segment_bytes: u64,
    /// Bytes after which write-out is started.
    pub writeout_bytes: u64,
    /// Released files kept for reuse.
    pub spare_files: usize,
    /// Appends are refused above this many staged bytes.
    pub staging_limit_bytes: u64,
}

impl Default for SegmentSettings {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            writeout_bytes: WRITEOUT_BYTES,
            spare_files: SPARE_FILES,
            staging_limit_bytes: u64::MAX,
        }
    }
}

impl SegmentSettings {
    /// Most bytes one append can carry with this size of segment.
    #[must_use]
    pub fn max_append(&self) -> u64 {
        (MAX_APPEND_BYTES as u64).min(self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let least = 2 * SEGMENT_HEADER_BYTES;
        if self.segment_bytes < least || self.segment_bytes > i64::MAX as u64 {
            return Err(Error::Setting {
                name: "segment_bytes",
                takes: format!("at least {least} bytes"),
            });
        }
        if self.writeout_bytes == 0 {
            return Err(Error::Setting {
                name: "writeout_bytes",
                takes: "at least 1 byte".into(),
            });
        }
        Ok(())
    }
}

/// How packs are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSettings {
    /// Raw bytes after which [`crate::PackBuilder::has_room`] says no.
    pub pack_bytes: u64,
    /// Raw bytes in one frame; brought into 4 KiB to [`MAX_FRAME_BYTES`].
    pub frame_bytes: usize,
    /// zstd's level.
    pub zstd_level: i32,
}

impl Default for PackSettings {
    fn default() -> Self {
        Self {
            pack_bytes: PACK_BYTES,
            frame_bytes: FRAME_BYTES,
            zstd_level: ZSTD_LEVEL,
        }
    }
}

/// How packs are read, cached and uploaded.
#[derive(Debug, Clone, PartialEq)]
pub struct PacksConfig {
    /// Directory of the local copies. Belongs to one process.
    pub dir: PathBuf,
    /// Budget of the local copies in bytes. What is not uploaded counts, but is never evicted.
    pub cache_bytes: u64,
    /// Share of the disk, 0 to below 1, that clean copies leave free.
    pub free_floor_ratio: f64,
    /// Bytes of decoded frames in memory.
    pub frame_cache_bytes: u64,
    /// How long a read waits for the store.
    pub read_deadline: Duration,
    /// Downloads at a time.
    pub max_downloads: usize,
    /// Uploads at a time.
    pub max_uploads: usize,
    /// Attempts and back-off of requests.
    pub retry: RetrySettings,
}

impl PacksConfig {
    /// The defaults, with local copies in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_bytes: CACHE_BYTES,
            free_floor_ratio: FREE_FLOOR_RATIO,
            frame_cache_bytes: FRAME_CACHE_BYTES,
            read_deadline: READ_DEADLINE,
            max_downloads: MAX_DOWNLOADS,
            max_uploads: MAX_UPLOADS,
            retry: RetrySettings::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.free_floor_ratio) {
            return Err(Error::Setting {
                name: "free_floor_ratio",
                takes: "a share from 0 to below 1".into(),
            });
        }
        for (name, value) in [
            ("max_downloads", self.max_downloads),
            ("max_uploads", self.max_uploads),
        ] {
            if !(1..=1024).contains(&value) {
                return Err(Error::Setting {
                    name,
                    takes: "1 to 1024".into(),
                });
            }
        }
        Ok(())
    }
}

/// Attempts, back-off and deadlines of requests to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySettings {
    /// Attempts in all, at least one is made.
    pub attempts: u32,
    /// Pause before the second attempt; doubles each time, with jitter.
    pub first_delay: Duration,
    /// Longest pause.
    pub max_delay: Duration,
    /// How long one attempt may take.
    pub attempt_deadline: Duration,
    /// How long all attempts and pauses together may take.
    pub operation_deadline: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(5),
            attempt_deadline: Duration::from_secs(30),
            operation_deadline: Duration::from_secs(60),
            seed: 0,
        }
    }
}
