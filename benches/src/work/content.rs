//! Content that can be made again from its place: a block of 4 KiB begins with its number, and the rest follows from it.

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

use crate::error::{Result, ensure};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;

/// Fills a block: as it is written first with generation 0, as it is overwritten with another.
pub(crate) fn fill(block: &mut [u8], number: u64, generation: u64) {
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation;
    SmallRng::seed_from_u64(seed).fill_bytes(block);
    block[..8].copy_from_slice(&number.to_le_bytes());
}

/// Whether a block says that it is the one with this number: cheap enough to be asked while the clock runs.
pub(crate) fn is_numbered(block: &[u8], number: u64) -> bool {
    block.len() >= 8 && block[..8] == number.to_le_bytes()
}

/// Whether all of a block is what was written.
pub(crate) fn check(block: &[u8], number: u64, generation: u64) -> Result<()> {
    let mut wanted = vec![0; block.len()];
    fill(&mut wanted, number, generation);
    ensure(block == wanted, || {
        format!("block {number} is not what was written")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_tell_their_number_and_whether_they_are_whole() {
        let (mut one, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
        fill(&mut one, 7, 0);
        fill(&mut other, 7, 1);
        assert!(one != other && is_numbered(&one, 7) && is_numbered(&other, 7));
        assert!(!is_numbered(&one, 8) && !is_numbered(&[], 0));
        check(&one, 7, 0).unwrap();
        one[BLOCK - 1] ^= 1;
        assert!(check(&one, 7, 0).is_err());
    }
}
