//! Local state and stores that are damaged, newer than the program, or in use: refused by name, and nothing made worse.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Place, require_fuse, until};

/// The volume's folder of local state, of which there is one.
fn state(place: &Place) -> PathBuf {
    let inside = fs::read_dir(place.path("s/state")).unwrap();
    let mut volumes: Vec<PathBuf> = inside
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("meta").is_dir())
        .collect();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    volumes.remove(0)
}

fn mount(place: &Place) {
    let (source, mountpoint) = (place.source(), place.text("m"));
    let option = format!("state_dir={}", place.text("s/state"));
    place
        .run(&["mount", &source, &mountpoint, "-o", &option])
        .success();
}

#[track_caller]
fn refused(place: &Place, parts: &[&str]) {
    let (source, mountpoint) = (place.source(), place.text("m"));
    let option = format!("state_dir={}", place.text("s/state"));
    place
        .run(&["mount", &source, &mountpoint, "-o", &option])
        .refused(32, parts);
    assert!(place.mounts().is_empty());
}

fn unmount(place: &Place) {
    place.run(&["umount", &place.text("m")]).success();
}

fn kill(place: &Place) {
    let pid = Pid::from_raw(place.pid()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    until("the mount is dead", || {
        rustix::fs::statvfs(place.path("m")).is_err()
    });
    // The kernel ends its connection before it lets go of its locks.
    until("the process is gone", || is_gone(pid));
    rustix::mount::unmount(place.path("m"), rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// Flips a bit of a file; the same call takes it back.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn sql(database: &Path, statement: &str) {
    let script =
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute(sys.argv[2])\nc.commit()";
    let ran = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .arg(statement)
        .status();
    assert!(ran.unwrap().success());
}

#[test]
fn a_volume_of_a_newer_format_is_refused() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    unmount(&place);
    let marker = place.path("s/vol/weldrfs.json");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("\"version\": 1", "\"version\": 7")).unwrap();
    refused(&place, &["format version 7", "use a newer weldrfs"]);
    fs::write(&marker, text).unwrap();
    mount(&place);
    unmount(&place);
    sql(
        &state(&place).join("meta/meta.db"),
        "PRAGMA user_version = 9",
    );
    refused(
        &place,
        &["metadata database has format version 9", "newer weldrfs"],
    );
}

#[test]
fn a_damaged_journal_is_named_and_heals_when_it_is_brought_back() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    // Quicker than a checkpoint, so that the journal is all there is.
    for i in 0..200 {
        fs::write(
            place.path("m").join(format!("f{i}")),
            format!("content {i}"),
        )
        .unwrap();
    }
    kill(&place);
    let meta = state(&place).join("meta");
    let journal = fs::read_dir(&meta)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("journal-")
        })
        .max()
        .unwrap();
    // Inside one of the first records, far before the last.
    flip(&journal, 4096 + 300);
    refused(&place, &["damaged", "journal", "keep a copy"]);
    refused(&place, &["damaged", "journal"]);
    flip(&journal, 4096 + 300);
    mount(&place);
    for i in 0..200 {
        let read = fs::read_to_string(place.path("m").join(format!("f{i}"))).unwrap();
        assert_eq!(read, format!("content {i}"));
    }
    unmount(&place);
}

#[test]
fn a_damaged_database_is_named() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    for i in 0..500 {
        fs::write(place.path("m").join(format!("f{i}")), "x").unwrap();
    }
    unmount(&place);
    let database = state(&place).join("meta/meta.db");
    let len = fs::metadata(&database).unwrap().len();
    let file = OpenOptions::new().write(true).open(&database).unwrap();
    let junk = vec![0xa5; 4096];
    for page in (1..len / 4096).step_by(3) {
        file.write_all_at(&junk, page * 4096).unwrap();
    }
    refused(
        &place,
        &["metadata database", "damaged", "move the folder away"],
    );
}

#[test]
fn a_missing_segment_is_named() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    fs::write(place.path("m/f"), vec![7; 100_000]).unwrap();
    kill(&place);
    let segments = state(&place).join("segments");
    let away = place.path("s/away");
    fs::rename(&segments, &away).unwrap();
    refused(&place, &["segment", "missing", "bring it back"]);
    fs::remove_dir_all(&segments).unwrap();
    fs::rename(&away, &segments).unwrap();
    mount(&place);
    assert_eq!(fs::read(place.path("m/f")).unwrap(), vec![7; 100_000]);
    unmount(&place);
}

#[test]
fn a_damaged_pack_is_an_error_and_never_wrong_bytes() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    let content: Vec<u8> = (0..300_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(place.path("m/f"), &content).unwrap();
    fs::write(place.path("m/g"), "small").unwrap();
    unmount(&place);
    // Nothing of it stays on this machine.
    fs::remove_dir_all(place.path("s/state")).unwrap();
    let mut packs = Vec::new();
    for folder in fs::read_dir(place.path("s/vol/packs")).unwrap() {
        packs.extend(
            fs::read_dir(folder.unwrap().path())
                .unwrap()
                .map(|e| e.unwrap().path()),
        );
    }
    assert_eq!(packs.len(), 1);
    flip(&packs[0], 200_000);
    mount(&place);
    let error = fs::read(place.path("m/f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    flip(&packs[0], 200_000);
    assert_eq!(fs::read(place.path("m/f")).unwrap(), content);
    unmount(&place);
}

#[test]
fn a_volume_is_mounted_once_whatever_its_state_folder() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    let other = format!("state_dir={}", place.text("s/other"));
    place
        .run(&["mount", &place.source(), &place.text("m2"), "-o", &other])
        .refused(32, &["already mounted"]);
    unmount(&place);
}

#[test]
fn metadata_that_is_lost_comes_back_from_the_store() {
    require_fuse();
    let place = Place::new();
    mount(&place);
    fs::write(place.path("m/f"), "kept").unwrap();
    unmount(&place);
    fs::remove_dir_all(place.path("s/state")).unwrap();
    let head = place.path("s/vol/head.json");
    let text = fs::read_to_string(&head).unwrap();
    fs::write(&head, "{").unwrap();
    refused(&place, &["head.json", "damaged"]);
    fs::write(&head, text).unwrap();
    mount(&place);
    assert_eq!(fs::read_to_string(place.path("m/f")).unwrap(), "kept");
    unmount(&place);
}

#[test]
fn fsck_tells_a_whole_volume_from_a_damaged_one() {
    require_fuse();
    let place = Place::new();
    place.mount();
    for n in 0..20_u8 {
        let data: Vec<u8> = (0..9_000_u32).map(|i| (i * 7 % 251) as u8 ^ n).collect();
        std::fs::write(place.path("m").join(format!("f{n}")), data).unwrap();
    }
    place.run(&["sync", &place.text("m")]).success();
    // Also while it is mounted.
    let said = place.run(&["fsck", "--deep", &place.source()]).success();
    assert!(
        said.stdout.contains("all of which were read"),
        "{}",
        said.stdout
    );
    place.run(&["umount", &place.text("m")]).success();

    let pack = place
        .inventory()
        .into_keys()
        .find(|path| {
            let in_store = path.starts_with(place.source().trim_start_matches("file://"));
            in_store && path.is_file() && path.components().any(|c| c.as_os_str() == "packs")
        })
        .unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[80] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    place.run(&["fsck", &place.source()]).success();
    let said = place.run(&["fsck", "--deep", "--json", &place.source()]);
    assert_eq!(said.code, 4);
    let found: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(found["findings"][0]["invariant"], "pack-whole");
    std::fs::remove_file(&pack).unwrap();
    let said = place.run(&["fsck", &place.source()]);
    assert_eq!(said.code, 4);
    assert!(
        said.stdout.starts_with("pack-object: packs/"),
        "{}",
        said.stdout
    );
}
