//! The durable base: one SQLite database in WAL mode. Owns every SQL statement; knows nothing of caches or policy.

pub(crate) mod open;
pub(crate) mod read;
pub(crate) mod schema;
pub(crate) mod write;

pub use open::{extents_in_segments, forget_segments};
pub use read::PackRow;
pub use schema::SCHEMA_VERSION;
