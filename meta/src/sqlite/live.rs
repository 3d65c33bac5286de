//! Which extents are in use: the one place that decides it.
//!
//! An extent is used by the rows of a file and by rows that a snapshot has kept. Whoever lists, packs, publishes or
//! deletes extents asks with this fragment, on one state of the database.

/// A condition on `l`, a row of `location`: its extent is used.
#[cfg(not(feature = "planted-gc-forgets-snapshots"))]
pub(crate) const USED: &str = "(EXISTS (SELECT 1 FROM extent e WHERE e.extent = l.extent) \
                               OR EXISTS (SELECT 1 FROM extent_undo u WHERE u.extent = l.extent))";

/// The planted bug: only files count.
#[cfg(feature = "planted-gc-forgets-snapshots")]
pub(crate) const USED: &str = "EXISTS (SELECT 1 FROM extent e WHERE e.extent = l.extent)";
