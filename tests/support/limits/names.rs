//! Names at their limits, and directories that change while they are read.

use crate::support::place::Place;
use crate::support::stop::StopAtEnd;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const STABLE: usize = 5_000;
/// The directory is read at least so often, and until names came and went at least so often.
const PASSES: usize = 20;
const ROUNDS: usize = 3;
const CHURNED_AT_ONCE: usize = 300;

fn listed(folder: &Path) -> BTreeSet<Vec<u8>> {
    fs::read_dir(folder)
        .expect("the directory can be listed")
        .map(|entry| entry.expect("an entry").file_name().into_vec())
        .collect()
}

pub(crate) fn names_of_255_bytes(place: &mut Place) {
    let root = place.root();
    let names: Vec<Vec<u8>> = vec![vec![b'n'; 255], [vec![b'm'; 254], vec![0xff]].concat()];
    for name in &names {
        fs::write(root.join(OsStr::from_bytes(name)), name).expect("255 bytes are allowed");
    }
    let long = root.join("l".repeat(256));
    for errno in [
        fs::write(&long, "")
            .expect_err("256 bytes are not")
            .raw_os_error(),
        fs::create_dir(&long)
            .expect_err("256 bytes are not")
            .raw_os_error(),
        fs::rename(root.join(OsStr::from_bytes(&names[0])), &long)
            .expect_err("256 bytes are not")
            .raw_os_error(),
        fs::metadata(&long)
            .expect_err("256 bytes are not")
            .raw_os_error(),
    ] {
        assert_eq!(errno, Some(libc::ENAMETOOLONG));
    }
    place.remount();
    assert_eq!(listed(&root), names.iter().cloned().collect());
    for name in &names {
        assert_eq!(
            &fs::read(root.join(OsStr::from_bytes(name))).expect("read"),
            name
        );
    }
}

pub(crate) fn names_of_any_bytes(place: &mut Place) {
    let root = place.root();
    let mut names: BTreeSet<Vec<u8>> = (1..=255u8)
        .filter(|&b| b != b'/' && b != b'.')
        .map(|b| vec![b])
        .collect();
    let hostile: [&[u8]; 9] = [
        b"\xff\xfe\xfd",
        b"\xc3\x28",
        b"a\nb",
        b"\xed\xa0\x80",
        b"...",
        b"-rf *",
        b"%s%n",
        b"\x1b[31m",
        b"\\0",
    ];
    names.extend(hostile.iter().map(|name| name.to_vec()));
    for name in &names {
        fs::write(root.join(OsStr::from_bytes(name)), name)
            .expect("any bytes but / and NUL make a name");
    }
    place.remount();
    assert_eq!(listed(&root), names);
    for name in &names {
        let path = root.join(OsStr::from_bytes(name));
        assert_eq!(&fs::read(&path).expect("it is there"), name);
        let other = root.join(OsString::from_vec(
            [name.clone(), b"\xff+".to_vec()].concat(),
        ));
        fs::rename(&path, &other).expect("it can be renamed");
        fs::remove_file(&other).expect("it can be removed");
    }
    assert!(listed(&root).is_empty());
}

/// What POSIX promises: names neither added nor removed during the reading come exactly once.
pub(crate) fn directory_read_while_it_changes(place: &mut Place) {
    let folder = place.root().join("busy");
    fs::create_dir(&folder).expect("mkdir");
    for i in 0..STABLE {
        fs::write(folder.join(format!("stable-{i}")), "").expect("create");
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let churning = scope.spawn(|| churn(&folder, &stop, &rounds));
        let mut pass = 0;
        while pass < PASSES || rounds.load(Ordering::Relaxed) < ROUNDS {
            assert!(!churning.is_finished(), "the changing thread failed");
            let mut seen: HashMap<OsString, usize> = HashMap::new();
            for entry in fs::read_dir(&folder).expect("listing starts") {
                *seen
                    .entry(entry.expect("listing goes on").file_name())
                    .or_default() += 1;
            }
            for i in 0..STABLE {
                let times = seen
                    .get(OsStr::new(&format!("stable-{i}")))
                    .copied()
                    .unwrap_or(0);
                assert_eq!(times, 1, "pass {pass}: stable-{i} was listed {times} times");
            }
            pass += 1;
        }
    });
    place.remount();
    assert_eq!(
        listed(&folder)
            .iter()
            .filter(|name| name.starts_with(b"stable-"))
            .count(),
        STABLE
    );
}

/// Names come, are renamed and go, until told to stop. Counts the rounds.
fn churn(folder: &Path, stop: &AtomicBool, rounds: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        for i in 0..CHURNED_AT_ONCE {
            fs::write(folder.join(format!("new-{i}")), "").expect("create");
        }
        for i in 0..CHURNED_AT_ONCE / 2 {
            let (old, new) = (
                folder.join(format!("new-{i}")),
                folder.join(format!("renamed-{i}")),
            );
            fs::rename(old, new).expect("rename");
        }
        for i in 0..CHURNED_AT_ONCE {
            let kind = if i < CHURNED_AT_ONCE / 2 {
                "renamed"
            } else {
                "new"
            };
            fs::remove_file(folder.join(format!("{kind}-{i}"))).expect("unlink");
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}
