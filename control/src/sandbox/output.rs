//! The file that a sandbox's output goes to: frames of a head (which stream, how many bytes) and the bytes. Offsets only
//! grow; what is too old is cut out of the front as a hole, so that the file holds a bounded part.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Name of the file in a sandbox's folder.
pub const OUTPUT_NAME: &str = "output";
/// Most bytes of one frame.
pub const FRAME_MAX: usize = 64 * 1024;
/// Bytes of a frame's head.
const HEAD: usize = 5;
/// As much as is looked at of a file when nobody says where its frames are.
const NEWEST: u64 = 2 * 1024 * 1024;
/// Heads that are looked at in it: an app may write what looks like them.
const HEADS_MAX: u32 = 4 * 1024 * 1024;

/// Where a part of the output was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A part of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it was written to.
    pub stream: OutputStream,
    /// As it was written.
    pub bytes: Vec<u8>,
    /// Offset of the next one.
    pub next: u64,
}

/// The head of a frame with `length` bytes.
#[must_use]
pub fn write_head(stream: OutputStream, length: usize) -> [u8; HEAD] {
    let length = u32::try_from(length.min(FRAME_MAX)).unwrap_or(0);
    let [a, b, c, d] = length.to_le_bytes();
    let stream = match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    };
    [stream, a, b, c, d]
}

/// The frame at `offset`.
///
/// # Errors
/// What the operating system says; [`io::ErrorKind::InvalidData`] when there is no frame, also because it was cut out.
pub fn read_chunk(file: &File, offset: u64) -> io::Result<Chunk> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, offset)?;
    let [stream, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    let stream = match stream {
        1 => OutputStream::Stdout,
        2 => OutputStream::Stderr,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    if length > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    let start = offset + HEAD as u64;
    file.read_exact_at(&mut bytes, start)?;
    Ok(Chunk {
        stream,
        bytes,
        next: start + length as u64,
    })
}

/// Where the newest part of the file begins, when nobody says where its frames are: the one who wrote it was killed. What
/// was cut out of the front need not end where a frame ends.
///
/// # Errors
/// What the operating system says; [`io::ErrorKind::InvalidData`] when there are no frames in it.
pub(crate) fn newest_chunks(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(NEWEST);
    let mut bytes = vec![0; usize::try_from(length - from).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, from)?;
    let begin = first_frame(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    Ok(from + begin as u64)
}

/// The first offset from which on there are frames up to the end. The last one may be torn.
fn first_frame(bytes: &[u8]) -> Option<usize> {
    let hole = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut left = HEADS_MAX;
    // The rest of a frame, and then one.
    (hole..=bytes.len().min(hole + FRAME_MAX + HEAD))
        .find(|start| are_frames(&bytes[*start..], *start == 0, &mut left))
}

/// `is_begin`: nothing was cut out, so that one torn frame is all there is.
fn are_frames(bytes: &[u8], is_begin: bool, left: &mut u32) -> bool {
    let (mut at, mut frames) = (0, 0);
    while let Some([stream, length @ ..]) = bytes.get(at..at + HEAD) {
        let length = length
            .iter()
            .rev()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        if !matches!(stream, 1 | 2) || length > FRAME_MAX || *left == 0 {
            return false;
        }
        *left -= 1;
        frames += 1;
        at += HEAD + length;
    }
    // A single head that leads behind the end proves nothing.
    at == bytes.len() || is_begin || frames > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_nothing_else_is() {
        let file = tempfile::tempfile().unwrap();
        let mut all = write_head(OutputStream::Stdout, 2).to_vec();
        all.extend(b"ab");
        all.extend(write_head(OutputStream::Stderr, 0));
        file.write_all_at(&all, 0).unwrap();
        let first = read_chunk(&file, 0).unwrap();
        assert_eq!((first.bytes.as_slice(), first.next), (&b"ab"[..], 7));
        let second = read_chunk(&file, first.next).unwrap();
        assert_eq!(second.stream, OutputStream::Stderr);
        assert_eq!((second.bytes.len(), second.next), (0, 12));
        for offset in [1, 3, 12, u64::MAX - 100] {
            assert!(read_chunk(&file, offset).is_err(), "{offset}");
        }
        // A head that promises more than a frame may have allocates nothing.
        file.write_all_at(&[1, 255, 255, 255, 255], 12).unwrap();
        assert!(read_chunk(&file, 12).is_err());
    }

    fn frame(text: &[u8]) -> Vec<u8> {
        let mut all = write_head(OutputStream::Stdout, text.len()).to_vec();
        all.extend(text);
        all
    }

    #[test]
    fn frames_are_found_behind_what_was_cut_out() {
        let frames: Vec<Vec<u8>> = (0..12_000_usize)
            .map(|n| frame(format!("line {n} {}\n", "\u{1}x".repeat(n % 200)).as_bytes()))
            .collect();
        let whole: Vec<u8> = frames.concat();
        // In the middle of a frame, with a hole before that.
        for cut in [0, 1, 4, 5, 6, 4096, 70_000, whole.len() - 3000] {
            let mut file = vec![0; 4096];
            file.extend(&whole[cut..]);
            let found = first_frame(&file).unwrap() + whole.len() - file.len();
            let next = frames.iter().scan(0, |at, frame| {
                *at += frame.len();
                Some(*at - frame.len())
            });
            let next = next.into_iter().find(|at| *at >= cut).unwrap();
            assert_eq!(found, next, "{cut}");
        }
        let file = tempfile::tempfile().unwrap();
        assert_eq!(newest_chunks(&file).unwrap(), 0);
        file.write_all_at(&whole, 0).unwrap();
        let first = newest_chunks(&file).unwrap();
        assert!(first > 0 && whole.len() as u64 - first <= NEWEST);
        let chunk = read_chunk(&file, first).unwrap();
        assert!(chunk.bytes.starts_with(b"line "), "{chunk:?}");
    }

    #[test]
    fn torn_ends_and_nonsense_are_no_trouble() {
        let torn = [frame(b"one"), frame(b"two")[..6].to_vec()].concat();
        assert_eq!(first_frame(&torn), Some(0));
        assert_eq!(first_frame(&frame(b"one")[..6]), Some(0));
        assert_eq!(first_frame(&[]), Some(0));
        assert_eq!(first_frame(&[0; 100]), Some(100));
        let nonsense: Vec<u8> = (0..200_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 3) as u8 | 4)
            .collect();
        assert_eq!(first_frame(&nonsense), None);
        // Frames that begin everywhere and end nowhere cost a bounded time.
        let mut hostile = vec![0, 2];
        hostile.extend([1, 0, 0, 0, 0].repeat(400_000));
        hostile.extend([9; 10]);
        assert_eq!(first_frame(&hostile), None);
    }
}
