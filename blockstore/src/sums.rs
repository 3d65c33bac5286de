//! Checksums of extents: CRC-32C over each [`BLOCK_BYTES`] block, counted from the start of the extent.
//!
//! Pure functions. Where the sums are kept is the metadata's business; what to do about a bad block is the reader's.

/// The checksum grid in bytes, relative to the start of an extent. The last block of an extent may be short.
pub const BLOCK_BYTES: usize = 4096;

/// The checksum of every block of an extent that consists of `data`.
#[must_use]
pub fn block_sums(data: &[u8]) -> Vec<u32> {
    data.chunks(BLOCK_BYTES).map(crc32c::crc32c).collect()
}

/// Continues the sums of an extent of `old_len` bytes with appended `data`, without the old bytes.
///
/// `sums` are all sums of the extent so far, one for each started block. Returns the index of the first block that
/// changed and the values from there on; the caller cuts its list at that index and adds them.
#[must_use]
pub fn extend_sums(sums: &[u32], old_len: u64, data: &[u8]) -> (usize, Vec<u32>) {
    debug_assert_eq!(
        sums.len() as u64,
        old_len.div_ceil(BLOCK_BYTES as u64),
        "one sum for each started block"
    );
    let filled = (old_len % BLOCK_BYTES as u64) as usize;
    if filled == 0 || data.is_empty() {
        return (sums.len(), block_sums(data));
    }
    let first = (old_len / BLOCK_BYTES as u64) as usize;
    let (tail, rest) = data.split_at(data.len().min(BLOCK_BYTES - filled));
    // A list that is too short cannot be continued; the block then never verifies, which is the safe side.
    let so_far = sums.get(first).copied().unwrap_or_default();
    let mut changed = Vec::with_capacity(1 + rest.len().div_ceil(BLOCK_BYTES));
    changed.push(crc32c::crc32c_append(so_far, tail));
    changed.extend(rest.chunks(BLOCK_BYTES).map(crc32c::crc32c));
    (first, changed)
}

/// Verifies `data`, which starts at block `first_block` of an extent and covers whole blocks (the last one may be the
/// extent's short tail), against `sums`, the sums of the whole extent.
///
/// # Errors
/// The index in the extent of the first block that does not match, or that has no sum.
pub fn verify_sums(data: &[u8], first_block: usize, sums: &[u32]) -> Result<(), usize> {
    for (i, block) in data.chunks(BLOCK_BYTES).enumerate() {
        let at = first_block.saturating_add(i);
        if sums.get(at) != Some(&crc32c::crc32c(block)) {
            return Err(at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, RngCore, SeedableRng};

    use super::*;

    fn bytes(rng: &mut SmallRng, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        rng.fill_bytes(&mut data);
        data
    }

    #[test]
    fn known_value() {
        assert_eq!(block_sums(b"123456789"), [0xe306_9283]);
        assert!(block_sums(b"").is_empty());
    }

    #[test]
    fn extending_in_random_steps_is_the_same_as_summing_the_whole() {
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..200 {
            let (mut whole, mut sums) = (Vec::new(), Vec::new());
            for _ in 0..rng.random_range(1..8) {
                let len = match rng.random_range(0..4) {
                    0 => 0,
                    1 => BLOCK_BYTES * rng.random_range(1..3),
                    _ => rng.random_range(1..10_000),
                };
                let data = bytes(&mut rng, len);
                let (first, changed) = extend_sums(&sums, whole.len() as u64, &data);
                sums.truncate(first);
                sums.extend(changed);
                whole.extend(data);
            }
            assert_eq!(sums, block_sums(&whole));
        }
    }

    #[test]
    fn verify_names_the_bad_block() {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut data = bytes(&mut rng, 4 * BLOCK_BYTES + 100);
        let sums = block_sums(&data);
        assert_eq!(verify_sums(&data, 0, &sums), Ok(()));
        assert_eq!(verify_sums(&data[2 * BLOCK_BYTES..], 2, &sums), Ok(()));
        assert_eq!(
            verify_sums(&data[BLOCK_BYTES..2 * BLOCK_BYTES], 1, &sums),
            Ok(())
        );
        assert_eq!(verify_sums(&data[2 * BLOCK_BYTES..], 1, &sums), Err(1));
        assert_eq!(verify_sums(&data, 0, &sums[..4]), Err(4));
        assert_eq!(verify_sums(&data, usize::MAX, &sums), Err(usize::MAX));
        data[3 * BLOCK_BYTES + 7] ^= 0x10;
        assert_eq!(verify_sums(&data, 0, &sums), Err(3));
        data.truncate(4 * BLOCK_BYTES + 99);
        data[3 * BLOCK_BYTES + 7] ^= 0x10;
        assert_eq!(verify_sums(&data, 0, &sums), Err(4));
    }
}
