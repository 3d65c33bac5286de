//! The durable base: one SQLite database in WAL mode. Owns every SQL statement; knows nothing of caches or policy.

pub(crate) mod at;
pub(crate) mod backdate;
pub(crate) mod capture;
pub(crate) mod changed;
pub(crate) mod live;
pub(crate) mod open;
pub(crate) mod own;
pub(crate) mod packs;
pub(crate) mod read;
pub(crate) mod schema;
pub(crate) mod trash;
pub(crate) mod write;

use crate::ids::ExtentId;

pub use open::{add_dead_packs, settle_restored};
pub use own::Own;
pub use packs::{Dead, PackRow, PackUsage};
pub use schema::SCHEMA_VERSION;

/// Extents that were brought into a pack: of each its offset in the pack's raw bytes and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The pack.
    pub pack: PackRow,
    /// The extents.
    pub extents: Vec<(ExtentId, u64, u64)>,
}
