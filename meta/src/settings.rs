//! The namespace's settings and the one thing it needs from the byte store: a barrier.

use std::path::PathBuf;
use std::time::Duration;

use crate::rows::Location;

/// Size of one journal file, bytes.
pub(crate) const JOURNAL_FILE_BYTES: u64 = 8 << 20;
/// Directories up to this many entries are held whole in memory.
pub(crate) const WHOLE_DIR_ENTRIES: u64 = 8192;
/// Largest extent that grows by merging adjacent writes, bytes.
pub(crate) const MAX_GROWN_EXTENT_BYTES: u64 = 1 << 20;
/// How long a writer waits at a cap before it gives up.
pub(crate) const CAP_WAIT: Duration = Duration::from_secs(60);
/// Most bytes of one extended attribute's value: Linux' own limit.
pub(crate) const MAX_XATTR_VALUE_BYTES: usize = 64 << 10;
/// Most extended-attribute bytes (names and values) of one inode.
pub(crate) const MAX_XATTR_BYTES: usize = 1 << 20;
/// Most read connections to SQLite that are kept open.
pub(crate) const READ_CONNECTIONS: usize = 3;

/// Settings of a namespace. `Default` gives the documented defaults.
#[derive(Clone, Debug)]
pub struct MetaSettings {
    /// Folder of the journal and the database.
    pub dir: PathBuf,
    /// Longest time between checkpoints while there are changes.
    pub checkpoint_interval: Duration,
    /// A checkpoint starts once this many records wait.
    pub checkpoint_records: usize,
    /// Writers wait while the journal holds more bytes than this.
    pub journal_cap_bytes: u64,
    /// Writers wait while changes that are not checkpointed take more memory than this.
    pub dirty_cap_bytes: usize,
    /// Budget of the inode and directory cache, bytes.
    pub cache_bytes: usize,
    /// Seed of the salts, so that a run can be repeated.
    pub seed: u64,
    /// Boot id of this machine: tells power loss from process death.
    pub boot_id: [u8; 16],
    /// Nothing is changed but what recovery has to bring into SQLite.
    pub read_only: bool,
    /// What is removed goes to the trash.
    pub trash: bool,
}

impl Default for MetaSettings {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_records: 10_000,
            journal_cap_bytes: 256 << 20,
            dirty_cap_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            seed: 0,
            boot_id: [0; 16],
            read_only: false,
            trash: true,
        }
    }
}

/// What the namespace asks of the byte store, which it does not know.
pub trait DataBarrier: Send + Sync + 'static {
    /// Makes every byte that was appended before the call durable.
    ///
    /// # Errors
    /// A failure is final: the volume turns read-only.
    fn flush(&self) -> std::io::Result<()>;

    /// Whether everything that was appended before the call is durable already, so that a flush would do nothing.
    fn is_flushed(&self) -> bool;

    /// Whether the bytes of a location, from the given block on, are there and have the checksums it names. Asked at
    /// recovery after a power loss, for records that were not known durable.
    fn verify(&self, location: &Location, from_block: u64) -> bool;
}

/// Leave to change anything, given by whoever keeps other machines away.
pub trait Permit: Send + Sync + 'static {
    /// Whether it is given at this moment. Asked for every mutation, under the commit lock too, so it must not wait.
    fn holds(&self) -> bool;

    /// Waits until it is given again, within bounds of its own.
    ///
    /// # Errors
    /// Why it is not, for people: the mutation is refused as on a read-only volume.
    fn wait(&self) -> std::result::Result<(), String>;
}
