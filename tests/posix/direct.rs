//! `O_DIRECT`.

use crate::common::errno;
use crate::support::place::Place;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const BLOCK: usize = 4096;

/// Bytes at an address that is a multiple of a block.
struct Aligned {
    room: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn filled(fill: u8, len: usize) -> Self {
        let room = vec![fill; len + BLOCK];
        let start = room.as_ptr().align_offset(BLOCK);
        Self { room, start, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.len]
    }
}

fn opened(path: &Path, flags: i32) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .expect("open")
}

pub(crate) fn direct_and_buffered_see_the_same_bytes(place: &mut Place) {
    let path = place.root().join("direct");
    let (buffered, direct) = (opened(&path, 0), opened(&path, libc::O_DIRECT));
    let len = 8 * BLOCK;
    let mut back = Aligned::filled(0, len);
    for round in 1..=3u8 {
        // Pages of the cache that a direct write must not leave old.
        buffered.write_all_at(&vec![round; len], 0).expect("write");
        direct.read_exact_at(back.bytes_mut(), 0).expect("read");
        assert!(
            back.bytes().iter().all(|b| *b == round),
            "a direct read misses a buffered write"
        );
        let block = Aligned::filled(100 + round, BLOCK);
        direct
            .write_all_at(block.bytes(), 2 * BLOCK as u64)
            .expect("write");
        let mut seen = vec![0; len];
        buffered.read_exact_at(&mut seen, 0).expect("read");
        assert_eq!(&seen[2 * BLOCK..3 * BLOCK], block.bytes());
        assert!(
            seen[..2 * BLOCK].iter().all(|b| *b == round),
            "bytes beside a direct write changed"
        );
    }
    drop((buffered, direct));
    place.remount();
    let after = std::fs::read(&path).expect("read");
    assert_eq!((after[0], after[2 * BLOCK], after.len()), (3, 103, len));
}

/// ext4 refuses what is not aligned to the disk's blocks. A mount takes anything: there is no disk below it that cares.
pub(crate) fn direct_io_without_alignment(place: &mut Place) {
    let path = place.root().join("unaligned");
    let direct = opened(&path, libc::O_DIRECT);
    let written = direct.write_all_at(b"odd", 7);
    if !place.is_mount() {
        assert_eq!(errno(&written.expect_err("ext4 refuses it")), libc::EINVAL);
        return;
    }
    written.expect("a mount takes it");
    let mut back = [1u8; 5];
    direct.read_exact_at(&mut back, 5).expect("read");
    assert_eq!(&back, b"\0\0odd");
    drop(direct);
    place.remount();
    assert_eq!(std::fs::read(&path).expect("read"), b"\0\0\0\0\0\0\0odd");
}

pub(crate) fn direct_append_and_end_of_file(place: &mut Place) {
    let path = place.root().join("appended");
    let direct = opened(&path, libc::O_DIRECT | libc::O_APPEND);
    for fill in 1..=3 {
        std::io::Write::write_all(&mut &direct, Aligned::filled(fill, BLOCK).bytes())
            .expect("append");
    }
    assert_eq!(direct.metadata().expect("stat").len(), 3 * BLOCK as u64);
    let mut room = Aligned::filled(0, 2 * BLOCK);
    let n = direct
        .read_at(room.bytes_mut(), 2 * BLOCK as u64)
        .expect("read");
    assert_eq!((n, room.bytes()[0], room.bytes()[BLOCK - 1]), (BLOCK, 3, 3));
    assert_eq!(
        direct
            .read_at(room.bytes_mut(), 3 * BLOCK as u64)
            .expect("read"),
        0
    );
    direct.set_len(100).expect("truncate");
    assert_eq!(direct.read_at(room.bytes_mut(), 0).expect("read"), 100);
}
