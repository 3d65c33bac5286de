//! Splits the machine's disk and memory over the mounts. Computes only; who is told, and when, is decided elsewhere.

use crate::volume::{CACHE_BYTES_MIN, FRAME_CACHE_BYTES_MIN};

const MB: u64 = 1 << 20;

/// Most of the disk that is left to metadata, journals and what waits for upload.
const METADATA_BYTES: u64 = 1024 * MB;
/// Most of the disk that is kept free.
const KEPT_FREE_BYTES: u64 = 500 * MB;
/// Memory of all buffers together.
const BUFFERS_BYTES: u64 = 400 * MB;
/// Memory of the buffers of one mount.
const BUFFER_MAX: u64 = 256 * MB;
/// Part of the memory that all buffers may be, in percent: a machine of 1 GB has 400 MB of them.
const BUFFERS_PERCENT: u64 = 40;

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of the file system that holds the local state.
    pub disk_bytes: u64,
    /// Bytes of it that are free.
    pub disk_free_bytes: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A share of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Most bytes of packs on the local disk.
    pub cache_bytes: u64,
    /// Most bytes of decoded file content in memory.
    pub buffer_bytes: u64,
}

/// What a mount was given by whoever asked for it; that is not the sidecar's to share out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Bytes of packs on the local disk.
    pub cache_bytes: Option<u64>,
    /// Bytes of decoded file content in memory.
    pub buffer_bytes: Option<u64>,
}

/// Bytes of the disk that are kept free.
pub(super) fn kept_free(machine: Machine) -> u64 {
    KEPT_FREE_BYTES.min(machine.disk_bytes / 8)
}

/// The shares of the mounts `wishes`, in their order. `cached_bytes` is what their caches hold already: it is not free,
/// and theirs all the same.
pub(super) fn split(machine: Machine, cached_bytes: u64, wishes: &[Fixed]) -> Vec<Budget> {
    let metadata = METADATA_BYTES.min(machine.disk_bytes / 4);
    let kept_free = kept_free(machine);
    let by_size = machine.disk_bytes.saturating_sub(metadata + kept_free);
    let by_use = machine
        .disk_free_bytes
        .saturating_add(cached_bytes)
        .saturating_sub(kept_free);
    let buffers = BUFFERS_BYTES.min(machine.memory_bytes / 100 * BUFFERS_PERCENT);
    let caches = share(by_size.min(by_use), CACHE_BYTES_MIN, wishes, |w| {
        w.cache_bytes
    });
    let buffers = share(buffers, FRAME_CACHE_BYTES_MIN, wishes, |w| w.buffer_bytes);
    wishes
        .iter()
        .map(|wish| Budget {
            cache_bytes: wish.cache_bytes.unwrap_or(caches),
            buffer_bytes: wish.buffer_bytes.unwrap_or(buffers.min(BUFFER_MAX)),
        })
        .collect()
}

/// An equal part of `pool` for each of those without a fixed one.
fn share(pool: u64, least: u64, wishes: &[Fixed], fixed: impl Fn(&Fixed) -> Option<u64>) -> u64 {
    let taken: u64 = wishes
        .iter()
        .filter_map(&fixed)
        .fold(0, u64::saturating_add);
    let sharing = wishes.iter().filter(|wish| fixed(wish).is_none()).count() as u64;
    let part = pool.saturating_sub(taken) / sharing.max(1);
    // Whole MiB, so that a few blocks more or less on the disk do not change everybody's share.
    (part / MB * MB).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    fn machine(disk_gb: u64, memory_mb: u64) -> Machine {
        Machine {
            disk_bytes: disk_gb * GB,
            disk_free_bytes: disk_gb * GB,
            memory_bytes: memory_mb * MB,
        }
    }

    #[test]
    fn a_volume_of_4_gb_leaves_1_gb_to_metadata_and_500_mb_free() {
        let one = split(machine(4, 1024), 0, &[Fixed::default()]);
        assert_eq!(one[0].cache_bytes, 4 * GB - GB - 500 * MB);
        // 40 % of 1 GB is a little more than the pool of 400 MB, and one mount gets 256 MB of it at most.
        assert_eq!(one[0].buffer_bytes, BUFFER_MAX);
        let five = split(machine(4, 1024), 0, &[Fixed::default(); 5]);
        assert_eq!(five[0].buffer_bytes, 80 * MB);
        assert!(five.iter().map(|b| b.cache_bytes).sum::<u64>() <= 4 * GB - GB - 500 * MB);
    }

    #[test]
    fn a_small_machine_scales_down_and_never_below_what_a_mount_takes() {
        let five = split(machine(1, 512), 0, &[Fixed::default(); 5]);
        assert_eq!(five[0].cache_bytes, 640 * MB / 5);
        assert_eq!(five[0].buffer_bytes, 40 * MB);
        let none = split(machine(0, 0), 0, &[Fixed::default(); 5]);
        assert_eq!(none[0].cache_bytes, CACHE_BYTES_MIN);
        assert_eq!(none[0].buffer_bytes, FRAME_CACHE_BYTES_MIN);
    }

    #[test]
    fn five_mounts_on_a_machine_of_1_gb_fit_beside_everything_else() {
        let machine = machine(1, 1024);
        let five = split(machine, 0, &[Fixed::default(); 5]);
        // 256 MB for metadata, 128 MB free.
        assert_eq!(
            five[0].cache_bytes,
            (GB - 256 * MB - 128 * MB) / 5 / MB * MB
        );
        assert_eq!(five[0].buffer_bytes, 80 * MB);
        assert!(five.iter().all(|share| *share == five[0]));
        let caches: u64 = five.iter().map(|share| share.cache_bytes).sum();
        let buffers: u64 = five.iter().map(|share| share.buffer_bytes).sum();
        assert!(caches <= GB - 256 * MB - 128 * MB && buffers <= BUFFERS_BYTES);
        // Whoever comes and goes changes what the others have, and nobody has less than a mount takes.
        for mounts in 1..=5 {
            let shares = split(machine, 0, &vec![Fixed::default(); mounts]);
            assert!(shares[0].cache_bytes >= five[0].cache_bytes);
            assert!((five[0].buffer_bytes..=BUFFER_MAX).contains(&shares[0].buffer_bytes));
            assert!(shares[0].cache_bytes >= CACHE_BYTES_MIN);
        }
    }

    #[test]
    fn what_is_used_by_others_is_not_shared_out_and_what_the_caches_hold_is() {
        let full = Machine {
            disk_free_bytes: GB,
            ..machine(100, 1024)
        };
        assert_eq!(
            split(full, 0, &[Fixed::default()])[0].cache_bytes,
            GB - 500 * MB
        );
        assert_eq!(
            split(full, 10 * GB, &[Fixed::default()])[0].cache_bytes,
            11 * GB - 500 * MB
        );
    }

    #[test]
    fn what_was_asked_for_is_given_and_the_rest_shared() {
        let fixed = Fixed {
            cache_bytes: Some(GB),
            buffer_bytes: Some(300 * MB),
        };
        let shares = split(
            machine(4, 1024),
            0,
            &[fixed, Fixed::default(), Fixed::default()],
        );
        assert_eq!(
            (shares[0].cache_bytes, shares[0].buffer_bytes),
            (GB, 300 * MB)
        );
        assert_eq!(shares[1], shares[2]);
        assert_eq!(
            shares[1].cache_bytes,
            (3 * GB - GB - 500 * MB) / 2 / MB * MB
        );
        assert_eq!(shares[1].buffer_bytes, 50 * MB);
    }
}
