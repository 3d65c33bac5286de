//! One large file: written and read in order and at random.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::Said;
use super::content::{self, BLOCK};
use crate::error::{At, Result, ensure};

/// Bytes of one write or read in order.
const CHUNK: usize = 1 << 20;
const BLOCKS_PER_CHUNK: u64 = (CHUNK / BLOCK) as u64;
/// Generation of blocks that were overwritten.
const OVERWRITTEN: u64 = 1;
const SEED_OF_WRITES: u64 = 11;
const SEED_OF_READS: u64 = 12;

fn chunk(number: u64) -> Vec<u8> {
    let mut chunk = vec![0; CHUNK];
    for (block, bytes) in (number * BLOCKS_PER_CHUNK..).zip(chunk.chunks_mut(BLOCK)) {
        content::fill(bytes, block, 0);
    }
    chunk
}

/// Writes in order; the time includes the fsync, and not making the content.
pub(super) fn write(path: &Path, mebibytes: u64) -> Result<Said> {
    let mut file = File::create(path).at(path)?;
    let mut seconds = 0.0;
    for number in 0..mebibytes {
        let bytes = chunk(number);
        let began = Instant::now();
        file.write_all(&bytes).at(path)?;
        seconds += began.elapsed().as_secs_f64();
    }
    let began = Instant::now();
    file.sync_all().at(path)?;
    seconds += began.elapsed().as_secs_f64();
    let len = file.metadata().at(path)?.len();
    ensure(len == mebibytes << 20, || {
        format!("{len} bytes were written")
    })?;
    Ok(Said::in_seconds(seconds, mebibytes))
}

/// Reads in order; every block is asked for its number on the way.
pub(super) fn read(path: &Path, mebibytes: u64) -> Result<Said> {
    let mut file = File::open(path).at(path)?;
    let mut bytes = vec![0; CHUNK];
    let began = Instant::now();
    for number in 0..mebibytes {
        file.read_exact(&mut bytes).at(path)?;
        let blocks = (number * BLOCKS_PER_CHUNK..).zip(bytes.chunks(BLOCK));
        for (block, bytes) in blocks {
            ensure(content::is_numbered(bytes, block), || {
                format!("block {block} is not what was written")
            })?;
        }
    }
    let end = file.read(&mut bytes).at(path)?;
    let seconds = began.elapsed().as_secs_f64();
    ensure(end == 0, || "the file is too long".into())?;
    Ok(Said::in_seconds(seconds, mebibytes))
}

/// The same random blocks on every file system.
fn random_blocks(seed: u64, mebibytes: u64, count: u64) -> Vec<u64> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let blocks = mebibytes * BLOCKS_PER_CHUNK;
    (0..count).map(|_| rng.random_range(0..blocks)).collect()
}

/// Overwrites blocks; the time includes one fsync at the end.
pub(super) fn write_random(path: &Path, mebibytes: u64, count: u64) -> Result<Said> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .at(path)?;
    let numbers = random_blocks(SEED_OF_WRITES, mebibytes, count);
    let mut block = vec![0; BLOCK];
    let mut seconds = 0.0;
    for number in &numbers {
        content::fill(&mut block, *number, OVERWRITTEN);
        let began = Instant::now();
        file.write_all_at(&block, number * BLOCK as u64).at(path)?;
        seconds += began.elapsed().as_secs_f64();
    }
    let began = Instant::now();
    file.sync_all().at(path)?;
    seconds += began.elapsed().as_secs_f64();
    for number in &numbers {
        file.read_exact_at(&mut block, number * BLOCK as u64)
            .at(path)?;
        content::check(&block, *number, OVERWRITTEN)?;
    }
    Ok(Said::in_seconds(seconds, count))
}

/// Reads blocks, overwritten or not.
pub(super) fn read_random(path: &Path, mebibytes: u64, count: u64) -> Result<Said> {
    let file = File::open(path).at(path)?;
    let numbers = random_blocks(SEED_OF_READS, mebibytes, count);
    let mut block = vec![0; BLOCK];
    let began = Instant::now();
    for number in &numbers {
        file.read_exact_at(&mut block, number * BLOCK as u64)
            .at(path)?;
        ensure(content::is_numbered(&block, *number), || {
            format!("block {number} is not what was written")
        })?;
    }
    Ok(Said::in_seconds(began.elapsed().as_secs_f64(), count))
}
