//! What keeps an extent: the one place that says so. Packing, publishing, gc and fsck all ask it.

/// SQL: whether the extent of the row `l` of `location` is used.
pub(crate) const USED: &str = "EXISTS (SELECT 1 FROM extent e WHERE e.extent = l.extent)";
