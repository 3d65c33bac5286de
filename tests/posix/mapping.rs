//! Mapped files.

use crate::common::{HELPER_DEADLINE, must, open, root_process};
use crate::support::calls::{Answer, Call};
use crate::support::mount::finish;
use crate::support::place::Place;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

const PAGE: usize = 4096;
const LEN: usize = 4 * PAGE;

/// A mapping of the first pages of a file.
struct Mapping {
    address: *mut std::ffi::c_void,
}

impl Mapping {
    fn new(file: &File, flags: MapFlags) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice, unmapped when this ends.
        let address = unsafe { mmap(std::ptr::null_mut(), LEN, access, flags, file, 0) };
        Self {
            address: address.expect("a mapping"),
        }
    }

    /// Volatile: others change what is there.
    fn get(&self, at: usize) -> u8 {
        assert!(at < LEN);
        // SAFETY: it lies within the mapping, and the tests do not cut the file there.
        unsafe { self.address.cast::<u8>().add(at).read_volatile() }
    }

    fn put(&self, at: usize, byte: u8) {
        assert!(at < LEN);
        // SAFETY: as in `get`.
        unsafe { self.address.cast::<u8>().add(at).write_volatile(byte) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nobody has a pointer into it.
        let _ = unsafe { munmap(self.address, LEN) };
    }
}

fn file_of(path: &Path, fill: u8) -> File {
    std::fs::write(path, vec![fill; LEN]).expect("write");
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open")
}

pub(crate) fn shared_mapping_is_one_memory_between_processes(place: &mut Place) {
    let path = place.root().join("shared");
    let file = file_of(&path, 1);
    let here = Mapping::new(&file, MapFlags::SHARED);
    let mut other = root_process(place);
    open(&mut other, "shared", libc::O_RDWR, 0);
    let mapped = |page, fill| Call::Mapped {
        slot: 0,
        page,
        len: PAGE,
        fill,
    };
    assert_eq!(here.get(0), 1);
    // Their mapping to ours, and the other way round; nobody syncs anything.
    must(&mut other, mapped(0, Some(2)));
    assert_eq!((here.get(0), here.get(PAGE - 1), here.get(PAGE)), (2, 2, 1));
    here.put(PAGE, 3);
    assert_eq!(
        must(&mut other, mapped(1, None)),
        Answer::Bytes(vec![(3, 1), (1, PAGE - 1)])
    );
    // Their write to our mapping, our mapping to their read.
    let write = Call::Write {
        slot: 0,
        len: 10,
        at: Some(2 * PAGE as i64),
        fill: 4,
    };
    must(&mut other, write);
    assert_eq!((here.get(2 * PAGE), here.get(2 * PAGE + 10)), (4, 1));
    here.put(2 * PAGE, 5);
    let read = Call::Read {
        slot: 0,
        len: 11,
        at: Some(2 * PAGE as i64),
    };
    assert_eq!(
        must(&mut other, read),
        Answer::Bytes(vec![(5, 1), (4, 9), (1, 1)])
    );
    drop((here, file, other));
    place.remount();
    let after = std::fs::read(&path).expect("read");
    assert_eq!((after[0], after[PAGE], after[2 * PAGE]), (2, 3, 5));
}

pub(crate) fn private_mapping_stays_private(place: &mut Place) {
    let path = place.root().join("private");
    let file = file_of(&path, 1);
    let here = Mapping::new(&file, MapFlags::PRIVATE);
    here.put(0, 2);
    assert_eq!(std::fs::read(&path).expect("read")[0], 1);
    file.write_all_at(&[3], 0).expect("write");
    assert_eq!(here.get(0), 2);
}

pub(crate) fn mapping_beyond_a_truncation_is_a_bus_error(place: &mut Place) {
    let script = "import mmap, os, sys\n\
                  fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n\
                  os.ftruncate(fd, 8192)\n\
                  mapped = mmap.mmap(fd, 8192)\n\
                  mapped[5000] = 1\n\
                  os.ftruncate(fd, 100)\n\
                  print(mapped[200], flush=True)\n\
                  print(mapped[5000])\n";
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .arg(place.root().join("truncated"));
    let output = finish(&mut command, HELPER_DEADLINE);
    // Within the last page there are zeros; beyond it there is no file.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n");
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
}

pub(crate) fn mapping_of_an_unlinked_file_stays(place: &mut Place) {
    let path = place.root().join("unlinked");
    let file = file_of(&path, 1);
    let here = Mapping::new(&file, MapFlags::SHARED);
    std::fs::remove_file(&path).expect("unlink");
    drop(file);
    // Not read before: the pages come now.
    assert_eq!((here.get(0), here.get(LEN - 1)), (1, 1));
    here.put(PAGE, 9);
    assert_eq!(here.get(PAGE), 9);
}

pub(crate) fn mapping_sees_holes_and_copies(place: &mut Place) {
    let path = place.root().join("holes");
    let file = file_of(&path, 1);
    let here = Mapping::new(&file, MapFlags::SHARED);
    here.put(0, 7);
    here.put(PAGE, 8);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 0, PAGE as u64).expect("punch");
    assert_eq!((here.get(0), here.get(PAGE)), (0, 8));
    let (mut from, mut to) = (PAGE as u64, 3 * PAGE as u64);
    let n = rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), PAGE)
        .expect("copy_file_range");
    // The copy has what was stored through the mapping.
    assert_eq!(
        (n, here.get(3 * PAGE), here.get(3 * PAGE + 1)),
        (PAGE, 8, 1)
    );
    file.set_len(PAGE as u64).expect("truncate");
    file.set_len(LEN as u64).expect("and make it longer");
    assert_eq!((here.get(PAGE), here.get(3 * PAGE)), (0, 0));
}
