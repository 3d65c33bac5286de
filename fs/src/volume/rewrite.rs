//! Rewriting files that fell apart into very many small runs (a database overwritten at random), so that their number
//! stays bounded. Nothing a program can see changes.

use weldrfs_blockstore::{block_sums, extend_sums};
use weldrfs_meta::{Ino, MetaError, Piece, WriteAt};

use crate::engine::Engine;
use crate::error::FsError;

/// Bytes that are brought together at a time.
const WINDOW_BYTES: u64 = 1 << 20;
/// A window with fewer runs is left alone.
const LEAST_RUNS: usize = 8;

/// Rewrites every file that was noted since the last round.
pub(super) fn round(engine: &Engine) {
    for ino in engine.ns.take_fragmented() {
        match rewrite(engine, ino) {
            Ok(windows) => tracing::debug!(%ino, windows, "brought the runs of a file together"),
            // It was deleted; or the volume is being closed, and a later write to it notes it again.
            Err(FsError::Meta(MetaError::NotFound | MetaError::ReadOnly(_))) => {}
            Err(error) => tracing::warn!(%ino, %error, "could not rewrite a file with many runs"),
        }
    }
}

fn rewrite(engine: &Engine, ino: Ino) -> Result<usize, FsError> {
    let size = engine.ns.getattr(ino)?.size;
    let mut done = 0;
    let mut at = 0;
    while at < size {
        let (_, pieces) = engine.ns.map(ino, at, WINDOW_BYTES)?;
        for group in contiguous(&pieces) {
            if group.len() >= LEAST_RUNS && rewrite_group(engine, ino, group)? {
                done += 1;
            }
        }
        at += WINDOW_BYTES;
    }
    Ok(done)
}

/// Runs without holes between them.
fn contiguous(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    pieces.chunk_by(|a, b| a.end() == b.offset)
}

fn rewrite_group(engine: &Engine, ino: Ino, group: &[Piece]) -> Result<bool, FsError> {
    let (Some(first), Some(last)) = (group.first(), group.last()) else {
        return Ok(false);
    };
    let mut data = Vec::with_capacity((last.end() - first.offset) as usize);
    for piece in group {
        data.extend_from_slice(
            &engine
                .read_piece(piece, Some(engine.read_deadline()))?
                .unwrap_or_default(),
        );
    }
    let appended = engine.append(&data)?;
    let extend = |sums: &[u32], old_len: u64| extend_sums(sums, old_len, &data);
    let write = WriteAt {
        ino,
        offset: first.offset,
        len: data.len() as u64,
        segment: appended.segment.0,
        segment_offset: appended.offset,
        sums: block_sums(&data),
        extend: &extend,
        kill_priv: false,
    };
    let happened = engine.ns.rewrite(write, group, engine.clock.now_ns())?;
    drop(appended.pin);
    Ok(happened)
}
