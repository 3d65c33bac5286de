//! The figures of reading and caching packs, for `status`.

/// Figures of reading and caching since the start; bytes and packs are those of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackCacheStats {
    /// Frames found decoded in memory.
    pub hits: u64,
    /// Frames that had to be decoded.
    pub misses: u64,
    /// Of the misses, those decoded from the local copy.
    pub local_loads: u64,
    /// Packs asked of the store.
    pub fetches: u64,
    /// Bytes that came from the store.
    pub fetched_bytes: u64,
    /// Packs uploaded.
    pub uploads: u64,
    /// Local copies.
    pub local_packs: u64,
    /// Their bytes.
    pub local_bytes: u64,
    /// The budget of the local copies in bytes.
    pub local_budget: u64,
    /// Local copies that are the only ones.
    pub not_uploaded_packs: u64,
    /// Their bytes.
    pub not_uploaded_bytes: u64,
    /// Decoded frames in memory.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Most bytes of them.
    pub frame_budget: u64,
    /// Local copies evicted.
    pub evicted_packs: u64,
    /// Times a pack or frame, local or from the store, was found damaged.
    pub damaged: u64,
}
