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
}
