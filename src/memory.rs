//! How the process gets its memory. Knows nothing of what it is for.

/// Buffers from this size on go back to the system when they are freed, bytes. A pack and a part of a layer are larger,
/// the data of any request to the mount is smaller.
#[cfg(target_env = "gnu")]
const GIVEN_BACK_BYTES: libc::c_int = 4 << 20;

/// Has large buffers given back to the system when they are freed. Left to itself, glibc takes the first large buffer
/// that is freed as a reason to keep later ones, and a mount that has uploaded for a moment stays large: 131 instead of
/// 24 MiB after 700 MB, at most 202 instead of 122 on the way.
pub(crate) fn give_back_large_buffers() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes two numbers and touches nothing of ours; it is made before there are other threads.
        let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, GIVEN_BACK_BYTES) };
        if done != 1 {
            tracing::debug!("glibc keeps large buffers; the mount takes more memory");
        }
    }
}
