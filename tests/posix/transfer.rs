//! Bytes that go from file to file without a buffer of the program's: `sendfile`, `splice`, `copy_file_range`.

use crate::common::{must, open, root_process};
use crate::support::calls::{Answer, Call};
use crate::support::mount::Volume;
use crate::support::place::Place;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rustix::pipe::{SpliceFlags, pipe, splice};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

const LEN: usize = 300_000;
const SHARED: usize = 8 << 20;

fn pattern() -> Vec<u8> {
    (0..LEN).map(|i| (i % 239) as u8).collect()
}

fn source(path: &Path) -> File {
    std::fs::write(path, pattern()).expect("write");
    File::open(path).expect("open")
}

pub(crate) fn sendfile_moves_the_right_bytes(place: &mut Place) {
    let root = place.root();
    let from = source(&root.join("source"));
    // To a socket, as servers do.
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let sender = std::thread::spawn(move || {
        let mut at = 1_000;
        while (at as usize) < LEN {
            let n = rustix::fs::sendfile(&ours, &from, Some(&mut at), LEN).expect("sendfile");
            assert!(n > 0, "sendfile stops early");
        }
    });
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).expect("read");
    sender.join().expect("the sender ends");
    assert!(got == pattern()[1_000..], "a socket got other bytes");
    // From a pipe of bytes to a file of the place.
    let from = File::open(root.join("source")).expect("open");
    let to = File::create(root.join("target")).expect("create");
    let mut at = 0;
    while (at as usize) < LEN {
        let n = rustix::fs::sendfile(&to, &from, Some(&mut at), LEN).expect("sendfile");
        assert!(n > 0, "sendfile stops early");
    }
    drop((from, to));
    place.remount();
    assert!(
        std::fs::read(root.join("target")).expect("read") == pattern(),
        "a file got other bytes"
    );
}

pub(crate) fn splice_moves_the_right_bytes(place: &mut Place) {
    let root = place.root();
    let from = source(&root.join("source"));
    let to = File::create(root.join("target")).expect("create");
    let (read_end, write_end) = pipe().expect("a pipe");
    let (mut from_at, mut to_at) = (0, 0);
    while (to_at as usize) < LEN {
        let n = splice(
            &from,
            Some(&mut from_at),
            &write_end,
            None,
            50_000,
            SpliceFlags::MOVE,
        )
        .expect("splice into the pipe");
        let mut left = n;
        while left > 0 {
            let n = splice(
                &read_end,
                None,
                &to,
                Some(&mut to_at),
                left,
                SpliceFlags::MOVE,
            )
            .expect("splice out of the pipe");
            assert!(n > 0, "the pipe gives less than it took");
            left -= n;
        }
    }
    drop((from, to));
    place.remount();
    assert!(
        std::fs::read(root.join("target")).expect("read") == pattern(),
        "a file got other bytes"
    );
}

/// What another process has written a moment ago is in the copy, and changing the copy leaves the source alone.
pub(crate) fn copy_file_range_between_processes_files(place: &mut Place) {
    let (mut one, mut other) = (root_process(place), root_process(place));
    open(&mut one, "source", libc::O_RDWR | libc::O_CREAT, 0);
    open(&mut other, "source", libc::O_RDWR, 0);
    open(&mut other, "copy", libc::O_RDWR | libc::O_CREAT, 1);
    let write = |slot, fill| Call::Write {
        slot,
        len: 5_000,
        at: Some(0),
        fill,
    };
    must(&mut one, write(0, 1));
    let copy = Call::Copy {
        from: 0,
        from_at: 100,
        to: 1,
        to_at: 50,
        len: 10_000,
    };
    assert_eq!(must(&mut other, copy), Answer::Number(4_900));
    must(&mut one, write(0, 2));
    let read = |slot| Call::Read {
        slot,
        len: 9_000,
        at: Some(0),
    };
    let copied = Answer::Bytes(vec![(0, 50), (1, 4_900)]);
    assert_eq!(must(&mut other, read(1)), copied);
    must(&mut other, write(1, 3));
    assert_eq!(must(&mut one, read(0)), Answer::Bytes(vec![(2, 5_000)]));
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("the store can be listed");
    let entries = entries.map(|entry| entry.expect("an entry"));
    entries
        .map(
            |entry| match entry.file_type().expect("its type").is_dir() {
                true => bytes_below(&entry.path()),
                false => entry.metadata().expect("stat").len(),
            },
        )
        .sum()
}

/// The store gets the bytes once, whichever of the two is written later.
pub(crate) fn copies_share_their_bytes_in_the_store() {
    let mut volume = Volume::mounted();
    let mut bytes = vec![0; SHARED];
    SmallRng::seed_from_u64(7).fill_bytes(&mut bytes);
    let (root, store) = (volume.root(), volume.beside("store"));
    std::fs::write(root.join("source"), &bytes).expect("write");
    volume.sync_and_drop_caches();
    let once = bytes_below(&store);
    assert!(once >= SHARED as u64, "the store has only {once} bytes");
    let from = File::open(root.join("source")).expect("open");
    let to = File::create(root.join("copy")).expect("create");
    let (mut from_at, mut to_at) = (0, 0);
    while (to_at as usize) < SHARED {
        let n =
            rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), SHARED)
                .expect("copy_file_range");
        assert!(n > 0, "the copy stops early");
    }
    // One side changes a little: the rest stays shared.
    to.write_all_at(b"changed", SHARED as u64 / 2)
        .expect("write");
    drop((from, to));
    volume.sync_and_drop_caches();
    let more = bytes_below(&store) - once;
    assert!(more < SHARED as u64 / 8, "the copy takes {more} bytes");
    assert!(std::fs::read(root.join("source")).expect("read") == bytes);
    bytes[SHARED / 2..][..7].copy_from_slice(b"changed");
    assert!(std::fs::read(root.join("copy")).expect("read") == bytes);
    volume.unmount();
}
