//! Bytes of files: open files that lose their name, mappings, appending, holes, copies.

use crate::support::place::Place;
use crate::support::scripts::{in_repository, succeed};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const HELPER_DEADLINE: Duration = Duration::from_secs(120);
const MAPPED: usize = 1 << 20;
const KIB: u64 = 1024;

fn read_write(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("open")
}

pub(crate) fn rename_over_an_open_file(place: &mut Place) {
    let root = place.root();
    fs::write(root.join("old"), "old content").expect("write");
    let mut open = read_write(&root.join("old"));
    fs::write(root.join("new"), "new content").expect("write");
    fs::rename(root.join("new"), root.join("old")).expect("rename over it");

    let mut content = String::new();
    open.read_to_string(&mut content)
        .expect("the open file can still be read");
    assert_eq!(content, "old content");
    assert_eq!(open.metadata().expect("fstat").nlink(), 0);
    open.write_all(b", and more").expect("and written");
    open.rewind().expect("seek");
    content.clear();
    open.read_to_string(&mut content).expect("read");
    assert_eq!(content, "old content, and more");
    assert_eq!(
        fs::read_to_string(root.join("old")).expect("by name"),
        "new content"
    );
    assert!(!root.join("new").exists());
    drop(open);
    place.remount();
    assert_eq!(
        fs::read_to_string(root.join("old")).expect("by name"),
        "new content"
    );
}

pub(crate) fn unlink_and_keep_writing(place: &mut Place) {
    let path = place.root().join("unlinked");
    let file = read_write(&path);
    file.write_all_at(b"before", 0).expect("write");
    fs::remove_file(&path).expect("unlink");
    fs::write(&path, "another file").expect("the name is free");
    let block: Vec<u8> = (0..MAPPED).map(|i| (i % 251) as u8).collect();
    for i in 0..4 {
        file.write_all_at(&block, i * MAPPED as u64)
            .expect("an unlinked file takes data");
    }
    file.sync_all().expect("and fsync");
    let mut back = vec![0; MAPPED];
    for i in 0..4 {
        file.read_exact_at(&mut back, i * MAPPED as u64)
            .expect("and gives it back");
        assert!(back == block, "block {i} of the unlinked file changed");
    }
    file.set_len(10).expect("and can be cut");
    let seen = file.metadata().expect("fstat");
    assert_eq!((seen.len(), seen.nlink()), (10, 0));
    assert_eq!(
        fs::read_to_string(&path).expect("the new one"),
        "another file"
    );
    drop(file);
    place.remount();
    assert_eq!(
        fs::read_to_string(&path).expect("the new one"),
        "another file"
    );
}

pub(crate) fn shared_mappings(place: &mut Place) {
    let path = place.root().join("mapped");
    let file = read_write(&path);
    file.set_len(MAPPED as u64).expect("set_len");
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice, unmapped below, of a file that
    // nobody cuts while it is mapped.
    let address = unsafe {
        mmap(
            std::ptr::null_mut(),
            MAPPED,
            access,
            MapFlags::SHARED,
            &file,
            0,
        )
    }
    .expect("a shared mapping");
    // SAFETY: the mapping is MAPPED bytes long and lives until munmap.
    let bytes = unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), MAPPED) };
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i % 253) as u8;
    }
    // SAFETY: the same mapping.
    unsafe { msync(address, MAPPED, MsyncFlags::SYNC) }.expect("msync");
    let by_read = fs::read(&path).expect("read");
    assert!(
        by_read
            .iter()
            .enumerate()
            .all(|(i, &b)| b == (i % 253) as u8),
        "read sees other bytes than were mapped"
    );

    file.write_all_at(b"through write", 4_090).expect("write");
    assert_eq!(
        &bytes[4_090..4_103],
        b"through write",
        "the mapping does not see the write"
    );
    bytes[500_000] = 77;
    // SAFETY: the same mapping, not used after this.
    unsafe { munmap(address, MAPPED) }.expect("munmap");
    drop(file);
    place.remount();
    let after = fs::read(&path).expect("read");
    assert_eq!(
        (after.len(), after[500_000], &after[4_090..4_103]),
        (MAPPED, 77, &b"through write"[..])
    );
}

pub(crate) fn append_by_four_processes(place: &mut Place) {
    let path = place.root().join("appended");
    let mut command = Command::new("python3");
    command
        .arg(in_repository("tests/support/append.py"))
        .arg(&path)
        .args(["4", "500"]);
    println!("{}", succeed(&mut command, HELPER_DEADLINE).trim());
    let before = fs::read(&path).expect("read");
    place.remount();
    assert!(
        before == fs::read(&path).expect("read"),
        "the file changed by a remount"
    );
}

pub(crate) fn holes(place: &mut Place) {
    let path = place.root().join("holes");
    let data: Vec<u8> = (0..256 * KIB).map(|i| (i % 249 + 1) as u8).collect();
    let file = read_write(&path);
    file.write_all_at(&data, 0).expect("write");
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        64 * KIB,
        64 * KIB,
    )
    .expect("punch");
    fallocate(&file, FallocateFlags::ZERO_RANGE, 160 * KIB, 4 * KIB).expect("zero");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 256 * KIB, 64 * KIB)
        .expect("allocate beyond the end");
    let mut expected = data;
    expected[64 << 10..128 << 10].fill(0);
    expected[160 << 10..164 << 10].fill(0);
    assert_eq!(file.metadata().expect("stat").len(), 256 * KIB);
    fallocate(&file, FallocateFlags::empty(), 256 * KIB, 10).expect("allocate and extend");
    expected.extend([0; 10]);
    drop(file);
    for _ in 0..2 {
        let file = read_write(&path);
        assert!(
            fs::read(&path).expect("read") == expected,
            "content with holes differs"
        );
        assert_eq!(seek(&file, SeekFrom::Hole(0)).expect("hole"), 64 * KIB);
        assert_eq!(
            seek(&file, SeekFrom::Data(64 * KIB)).expect("data"),
            128 * KIB
        );
        let beyond =
            seek(&file, SeekFrom::Data(expected.len() as u64)).expect_err("no data beyond the end");
        assert_eq!(beyond, rustix::io::Errno::NXIO);
        drop(file);
        place.remount();
    }
}

pub(crate) fn copy_within_and_between_files(place: &mut Place) {
    let root = place.root();
    let data: Vec<u8> = (0..400_000u32).map(|i| (i % 241) as u8).collect();
    fs::write(root.join("source"), &data).expect("write");
    let source = read_write(&root.join("source"));
    let target = read_write(&root.join("target"));
    copy(&source, 1_000, &target, 5_000, 300_000);
    copy(&target, 5_000, &target, 400_000, 100_000);
    source
        .write_all_at(b"changed after the copy", 2_000)
        .expect("write");
    let mut expected = vec![0; 5_000];
    expected.extend(&data[1_000..301_000]);
    expected.resize(400_000, 0);
    expected.extend(&data[1_000..101_000]);
    drop((source, target));
    assert!(
        fs::read(root.join("target")).expect("read") == expected,
        "the copy differs"
    );
    place.remount();
    assert!(
        fs::read(root.join("target")).expect("read") == expected,
        "the copy changed by a remount"
    );
}

fn copy(from: &File, mut start: u64, to: &File, mut end: u64, len: usize) {
    let mut left = len;
    while left > 0 {
        let n = copy_file_range(from, Some(&mut start), to, Some(&mut end), left)
            .expect("copy_file_range");
        assert!(n > 0, "the copy stops early");
        left -= n;
    }
}
