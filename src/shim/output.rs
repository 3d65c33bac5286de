//! Keeps the newest part of a sandbox's output in a file, see `weldrfs_control`'s frames.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use weldrfs_control::{FRAME_MAX, OUTPUT_NAME, OutputStream, write_head};

/// Unit in which a file system gives space back.
const BLOCK: u64 = 4096;

/// The file.
pub(super) struct Output {
    file: File,
    /// Ends of the frames that are kept.
    ends: VecDeque<u64>,
    first: u64,
    written: u64,
    freed: u64,
    most: u64,
}

impl Output {
    /// A new one in `folder` that holds about `most` bytes.
    pub(super) fn create(folder: &Path, most: u64) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(folder.join(OUTPUT_NAME))?;
        Ok(Self {
            file,
            ends: VecDeque::new(),
            first: 0,
            written: 0,
            freed: 0,
            most,
        })
    }

    /// Offset of the oldest frame, and the end.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.first, self.written)
    }

    /// Appends, and lets go of what is too old.
    pub(super) fn append(&mut self, stream: OutputStream, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(FRAME_MAX) {
            let mut frame = write_head(stream, part.len()).to_vec();
            frame.extend_from_slice(part);
            self.file.write_all_at(&frame, self.written)?;
            self.written += frame.len() as u64;
            self.ends.push_back(self.written);
        }
        while self.written - self.first > self.most && self.ends.len() > 1 {
            self.first = self.ends.pop_front().unwrap_or(self.written);
        }
        let free = self.first / BLOCK * BLOCK;
        // In larger pieces: each is a call.
        if free >= self.freed + self.most / 8 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Where the file system cannot, the file grows; it goes when the sandbox is removed.
            let _ = fallocate(&self.file, flags, self.freed, free - self.freed);
            self.freed = free;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use weldrfs_control::read_chunk;

    use super::*;

    #[test]
    fn the_newest_part_is_kept_and_the_rest_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let most = 1 << 20;
        let mut output = Output::create(dir.path(), most).unwrap();
        for number in 0_u32..2000 {
            let line = vec![u8::try_from(number % 251).unwrap(); 5000];
            output.append(OutputStream::Stdout, &line).unwrap();
        }
        let (first, written) = output.range();
        assert_eq!(written, 2000 * 5005);
        assert!(written - first <= most && written - first > most - 5005);
        let file = File::open(dir.path().join(OUTPUT_NAME)).unwrap();
        let mut at = first;
        let mut number = u32::try_from(first / 5005).unwrap();
        while at < written {
            let chunk = read_chunk(&file, at).unwrap();
            assert!(chunk.bytes.iter().all(|b| u32::from(*b) == number % 251));
            (at, number) = (chunk.next, number + 1);
        }
        assert_eq!(number, 2000);
        let on_disk = file.metadata().unwrap().blocks() * 512;
        assert!(on_disk < 2 * most, "{on_disk}");
    }

    #[test]
    fn what_is_longer_than_a_frame_is_several() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::create(dir.path(), 1 << 30).unwrap();
        output
            .append(OutputStream::Stderr, &vec![7; FRAME_MAX + 1])
            .unwrap();
        let file = File::open(dir.path().join(OUTPUT_NAME)).unwrap();
        let first = read_chunk(&file, 0).unwrap();
        assert_eq!(first.bytes.len(), FRAME_MAX);
        assert_eq!(read_chunk(&file, first.next).unwrap().bytes, [7]);
    }
}
