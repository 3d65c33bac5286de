//! Listing directories that change meanwhile, and directories that are gone.

use crate::common::{errno, must, must_fail, root_process};
use crate::support::calls::{Answer, At, Call};
use crate::support::place::Place;
use crate::support::stop::StopAtEnd;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// More than one answer of the kernel's holds, and held whole in memory.
const SOME: usize = 3_000;
/// More than is held whole in memory.
const MANY: usize = 50_000;
const CHURNED: usize = 200;

/// An open directory with positions, which the standard library does not have.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).expect("no zero in it");
        // SAFETY: the path is a string that ends with zero and lives until the call is done.
        let dir = unsafe { libc::opendir(path.as_ptr()) };
        assert!(
            !dir.is_null(),
            "opendir: {}",
            std::io::Error::last_os_error()
        );
        Self(dir)
    }

    /// The next name but `.` and `..`.
    fn next(&mut self) -> Option<String> {
        loop {
            // SAFETY: the stream is open, and only this thread reads it.
            let entry = unsafe { libc::readdir(self.0) };
            if entry.is_null() {
                return None;
            }
            // SAFETY: the entry is valid until the next read, and its name ends with zero.
            let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
            let name = name.to_string_lossy().into_owned();
            if name != "." && name != ".." {
                return Some(name);
            }
        }
    }

    fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn tell(&self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, position: libc::c_long) {
        // SAFETY: the stream is open, and the position is one it told.
        unsafe { libc::seekdir(self.0, position) }
    }

    fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open and not used after this.
        unsafe { libc::closedir(self.0) };
    }
}

fn fill(folder: &Path, count: usize) {
    fs::create_dir(folder).expect("mkdir");
    for i in 0..count {
        fs::File::create(folder.join(format!("stable-{i}"))).expect("create");
    }
}

/// Names come, are renamed, replaced, exchanged and go, until told to stop. Counts the rounds.
fn churn(folder: &Path, stop: &AtomicBool, rounds: &AtomicUsize) {
    let path = |kind: &str, i: usize| folder.join(format!("{kind}-{i}"));
    while !stop.load(Ordering::Relaxed) {
        for i in 0..CHURNED {
            fs::File::create(path("new", i)).expect("create");
        }
        for i in 0..CHURNED {
            match i % 3 {
                0 => fs::rename(path("new", i), path("moved", i)).expect("rename"),
                // A stable name gets another file, and keeps its place.
                1 => fs::rename(path("new", i), path("stable", i)).expect("rename over"),
                _ => fs::hard_link(path("new", i), path("moved", i)).expect("link"),
            }
        }
        for i in 0..CHURNED {
            let _ = fs::remove_file(path("new", i));
            let _ = fs::remove_file(path("moved", i));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

fn assert_stable_once(names: &[String], count: usize) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for name in names {
        *seen.entry(name).or_default() += 1;
    }
    for i in 0..count {
        let times = seen.get(&*format!("stable-{i}")).copied().unwrap_or(0);
        assert_eq!(times, 1, "stable-{i} was listed {times} times");
    }
}

/// Lists a directory until names came and went a few times.
fn list_while_it_changes(folder: &Path, count: usize, least_passes: usize) {
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let churning = scope.spawn(|| churn(folder, &stop, &rounds));
        let mut passes = 0;
        while passes < least_passes || rounds.load(Ordering::Relaxed) < 5 {
            assert!(!churning.is_finished(), "the changing thread failed");
            assert_stable_once(&Stream::open(folder).rest(), count);
            passes += 1;
        }
    });
}

pub(crate) fn stable_names_are_listed_exactly_once(place: &mut Place) {
    let folder = place.root().join("busy");
    fill(&folder, SOME);
    list_while_it_changes(&folder, SOME, 30);
    place.remount();
    assert_stable_once(&Stream::open(&folder).rest(), SOME);
}

pub(crate) fn stable_names_of_a_large_directory_are_listed_exactly_once(place: &mut Place) {
    let folder = place.root().join("busy");
    fill(&folder, MANY);
    list_while_it_changes(&folder, MANY, 5);
    place.remount();
    assert_stable_once(&Stream::open(&folder).rest(), MANY);
    list_while_it_changes(&folder, MANY, 3);
}

pub(crate) fn seekdir_goes_back_to_telldir(place: &mut Place) {
    let folder = place.root().join("folder");
    fill(&folder, SOME);
    let mut stream = Stream::open(&folder);
    let (mut names, mut positions) = (Vec::new(), Vec::new());
    loop {
        positions.push(stream.tell());
        match stream.next() {
            Some(name) => names.push(name),
            None => break,
        }
    }
    assert_stable_once(&names, SOME);
    // Back and forth, far and near, and past the end.
    for at in [SOME / 2, 0, SOME - 1, 1, SOME, 7, SOME / 3] {
        stream.seek(positions[at]);
        assert!(stream.tell() == positions[at]);
        assert_eq!(stream.rest(), &names[at..], "from {at} on");
    }
    stream.rewind();
    assert_eq!(stream.rest(), names);
    if place.is_mount() {
        // ext4 has hashes there.
        assert!(positions.is_sorted());
        assert_eq!(
            names[0], "stable-0",
            "names come in the order they were made"
        );
    }
}

pub(crate) fn size_of_a_directory(place: &mut Place) {
    let root = place.root();
    let size = |name: &str| {
        let path = root.join(name);
        fs::metadata(path).expect("stat").len()
    };
    fill(&root.join("small"), 100);
    fill(&root.join("large"), SOME);
    assert_eq!(size("small"), 4096);
    match place.is_mount() {
        true => assert_eq!(size("large"), SOME as u64 * 32),
        false => assert!(size("large").is_multiple_of(4096)),
    }
}

pub(crate) fn directory_positions_stay_while_names_change(place: &mut Place) {
    let folder = place.root().join("folder");
    fill(&folder, SOME);
    let mut stream = Stream::open(&folder);
    let mut before: Vec<String> = (0..SOME / 2).filter_map(|_| stream.next()).collect();
    let position = stream.tell();
    let next = stream.next().expect("half of the names are left");
    stream.rest();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let churning = scope.spawn(|| churn(&folder, &stop, &rounds));
        while rounds.load(Ordering::Relaxed) < 3 {
            assert!(!churning.is_finished(), "the changing thread failed");
            std::thread::yield_now();
        }
    });
    // The name at the position, and some before it, are gone; the position is where it was.
    for name in before.drain(before.len() - 100..) {
        fs::remove_file(folder.join(name)).expect("unlink");
    }
    fs::remove_file(folder.join(&next)).expect("unlink");
    stream.seek(position);
    let mut all = before.clone();
    all.extend(stream.rest());
    // POSIX leaves it open whether a name that went since the beginning is listed. On a mount the kernel may show what
    // it has read before, until the directory is read from its beginning.
    if place.is_mount() {
        all.retain(|name| *name != next);
    }
    let left: Vec<String> = all
        .iter()
        .filter(|name| name.starts_with("stable-"))
        .cloned()
        .collect();
    assert_eq!(left.len(), SOME - 101);
    let unique: std::collections::HashSet<&String> = left.iter().collect();
    assert_eq!(unique.len(), left.len(), "a name came twice");
    stream.rewind();
    let names = stream.rest();
    assert!(!names.contains(&next), "{next} is gone");
    assert_eq!(names.len(), SOME - 101);
}

pub(crate) fn rewinddir_sees_what_is_new(place: &mut Place) {
    let folder = place.root().join("folder");
    fill(&folder, 10);
    let mut stream = Stream::open(&folder);
    assert_eq!(stream.rest().len(), 10);
    fs::File::create(folder.join("new")).expect("create");
    fs::remove_file(folder.join("stable-3")).expect("unlink");
    stream.rewind();
    let names = stream.rest();
    assert!(names.contains(&"new".to_owned()) && !names.contains(&"stable-3".to_owned()));
    assert_eq!(names.len(), 10);
}

pub(crate) fn removed_directory_is_empty_and_takes_nothing(place: &mut Place) {
    let root = place.root();
    fs::create_dir(root.join("gone")).expect("mkdir");
    let mut process = root_process(place);
    let open = Call::Open {
        at: At::root("gone"),
        flags: (libc::O_RDONLY | libc::O_DIRECTORY) as u32,
        mode: 0,
        slot: 0,
    };
    must(&mut process, open);
    must(&mut process, Call::Chdir { at: At::slot(0) });
    fs::remove_dir(root.join("gone")).expect("rmdir");
    let inside = |path: &str| At {
        base: crate::support::calls::Base::Slot(0),
        path: path.to_owned(),
    };
    must_fail(&mut process, Call::Getcwd, libc::ENOENT);
    let make = [
        Call::Mkdir {
            at: inside("x"),
            mode: 0o777,
        },
        Call::Symlink {
            target: "y".to_owned(),
            at: inside("x"),
        },
        Call::Open {
            at: inside("x"),
            flags: (libc::O_RDWR | libc::O_CREAT) as u32,
            mode: 0o666,
            slot: 1,
        },
    ];
    for call in make {
        must_fail(&mut process, call, libc::ENOENT);
    }
    let stat = Call::Stat {
        at: At::slot(0),
        flags: libc::AT_EMPTY_PATH as u32,
    };
    match must(&mut process, stat) {
        Answer::Stat(seen) => assert_eq!(seen.nlink, 0),
        other => panic!("{other:?} is no stat"),
    }
    let list = Call::List { at: At::slot(0) };
    assert_eq!(must(&mut process, list), Answer::Names(Vec::new()));
    must(
        &mut process,
        Call::Sync {
            slot: 0,
            data: false,
        },
    );
    // The name is free for another one.
    fs::create_dir(root.join("gone")).expect("mkdir");
    fs::write(root.join("gone/file"), "x").expect("write");
    let refused = fs::remove_dir(root.join("gone")).expect_err("it is not empty");
    assert_eq!(errno(&refused), libc::ENOTEMPTY);
}
