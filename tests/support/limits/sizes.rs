//! Large amounts: files in a directory, sparse bytes, path length, links.

use crate::support::place::Place;
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const MANY: usize = 100_000;
const MEMORY_BOUND: u64 = 384 << 20;
const GIB: u64 = 1 << 30;
const SPARSE_LEN: u64 = 10 * GIB;
const LINKS: u64 = 1_000;
const DEEP_TOTAL: usize = 4_000;

fn listed(folder: &Path) -> HashSet<String> {
    let mut names = HashSet::new();
    for entry in fs::read_dir(folder).expect("the directory can be listed") {
        let name = entry.expect("an entry can be read").file_name();
        let name = name.into_string().expect("only plain names were made");
        assert!(names.insert(name.clone()), "{name} is listed twice");
    }
    names
}

/// Each mount process is asked before it ends: a remount starts a new one with a new peak.
fn check_memory(place: &Place) {
    if let Some(peak) = place.peak_memory() {
        println!("peak memory of this mount process: {} MiB", peak >> 20);
        assert!(
            peak < MEMORY_BOUND,
            "{peak} bytes of memory for {MANY} files"
        );
    }
}

pub(crate) fn hundred_thousand_files(place: &mut Place) {
    let folder = place.root().join("many");
    fs::create_dir(&folder).expect("mkdir");
    let name = |i: usize| format!("file-{i:06}.txt");
    for i in 0..MANY {
        fs::write(folder.join(name(i)), format!("content of {i}"))
            .expect("a small file is written");
    }
    assert_eq!(listed(&folder).len(), MANY);

    check_memory(place);
    place.remount();
    assert_eq!(listed(&folder), (0..MANY).map(name).collect::<HashSet<_>>());
    for i in (0..MANY).step_by(97) {
        let content = fs::read_to_string(folder.join(name(i))).expect("it is there");
        assert_eq!(content, format!("content of {i}"));
    }
    assert!(!folder.join("file-100000.txt").exists());

    for i in (0..MANY).filter(|i| i % 2 == 0) {
        fs::remove_file(folder.join(name(i))).expect("it can be removed");
    }
    let odd: HashSet<String> = (0..MANY).filter(|i| i % 2 == 1).map(name).collect();
    assert_eq!(listed(&folder), odd);
    check_memory(place);
    place.remount();
    assert_eq!(listed(&folder), odd);
    fs::remove_dir_all(&folder).expect("all can be removed");
    check_memory(place);
}

pub(crate) fn ten_gigabytes_sparse(place: &mut Place) {
    let path = place.root().join("sparse");
    let island = vec![0xa5u8; 65_536];
    {
        let file = File::create(&path).expect("create");
        file.set_len(SPARSE_LEN).expect("it can be made long");
        file.write_all_at(&island, 5 * GIB)
            .expect("write in the middle");
        file.write_all_at(b"end", SPARSE_LEN - 3)
            .expect("write at the end");
    }
    for _ in 0..2 {
        let file = File::open(&path).expect("open");
        let seen = file.metadata().expect("stat");
        assert_eq!(seen.len(), SPARSE_LEN);
        assert!(
            seen.blocks() * 512 < 1 << 20,
            "{} blocks for 64 KiB of data",
            seen.blocks()
        );
        let data = rustix::fs::seek(&file, SeekFrom::Data(0)).expect("there is data");
        assert_eq!(data, 5 * GIB);
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).expect("a hole follows");
        assert_eq!(hole, 5 * GIB + 65_536);
        let mut buffer = vec![1u8; 65_536];
        file.read_exact_at(&mut buffer, 3 * GIB)
            .expect("a hole can be read");
        assert!(
            buffer.iter().all(|&b| b == 0),
            "a hole reads as something else"
        );
        file.read_exact_at(&mut buffer, 5 * GIB)
            .expect("data can be read");
        assert!(buffer == island, "the island changed");
        let mut end = [0; 3];
        file.read_exact_at(&mut end, SPARSE_LEN - 3)
            .expect("the end can be read");
        assert_eq!(&end, b"end");
        drop(file);
        place.remount();
    }
}

pub(crate) fn path_of_four_thousand_bytes(place: &mut Place) {
    let part = "d".repeat(99);
    let levels = DEEP_TOTAL / 100;
    let open = |dir: &File, name: &str| -> File {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        File::from(rustix::fs::openat(dir, name, flags, Mode::empty()).expect("one level down"))
    };
    let descend =
        |root: &Path| (0..levels).fold(File::open(root).expect("root"), |dir, _| open(&dir, &part));
    let mut dir = File::open(place.root()).expect("the root opens");
    for _ in 0..levels {
        rustix::fs::mkdirat(&dir, &*part, Mode::from(0o755)).expect("mkdir one level down");
        dir = open(&dir, &part);
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let leaf =
        rustix::fs::openat(&dir, "leaf", flags, Mode::from(0o644)).expect("a file at the bottom");
    rustix::io::write(&leaf, b"deep").expect("write");
    drop((leaf, dir));

    place.remount();
    let dir = descend(&place.root());
    let leaf =
        rustix::fs::openat(&dir, "leaf", OFlags::RDONLY, Mode::empty()).expect("it is there");
    let mut content = [0; 8];
    assert_eq!(rustix::io::read(&leaf, &mut content).expect("read"), 4);
    assert_eq!(&content[..4], b"deep");
    drop((leaf, dir));

    // And by one path, as long as the kernel takes.
    let mut path = place.root();
    while path.as_os_str().len() + 1 + part.len() < 4_090 {
        path.push(&part);
    }
    assert!(
        fs::metadata(&path)
            .expect("a path of nearly 4,096 bytes")
            .is_dir()
    );
    fs::rename(place.root().join(&part), place.root().join("top")).expect("the top can be renamed");
    assert!(fs::metadata(&path).is_err());
    fs::remove_dir_all(place.root().join("top")).expect("all levels can be removed");
}

pub(crate) fn thousand_hard_links(place: &mut Place) {
    let root = place.root();
    fs::create_dir(root.join("links")).expect("mkdir");
    fs::write(root.join("links/0"), "one content").expect("write");
    for i in 1..LINKS {
        fs::hard_link(root.join("links/0"), root.join(format!("links/{i}"))).expect("link");
    }
    place.remount();
    let first = fs::metadata(root.join("links/0")).expect("stat");
    assert_eq!(first.nlink(), LINKS);
    for i in (0..LINKS).step_by(37) {
        let seen = fs::metadata(root.join(format!("links/{i}"))).expect("stat");
        assert_eq!((seen.ino(), seen.nlink()), (first.ino(), LINKS));
    }
    fs::write(root.join("links/999"), "changed").expect("write through one name");
    assert_eq!(
        fs::read_to_string(root.join("links/500")).expect("read another"),
        "changed"
    );
    for i in 0..LINKS - 1 {
        fs::remove_file(root.join(format!("links/{i}"))).expect("unlink");
    }
    assert_eq!(
        fs::metadata(root.join("links/999")).expect("stat").nlink(),
        1
    );
    assert_eq!(
        fs::read_to_string(root.join("links/999")).expect("read"),
        "changed"
    );
}
