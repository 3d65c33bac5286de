//! The trash of a volume: it outlives gc and the machine, lasts as long as it should, and gives way when room is short.
//! `campaign` has random histories.

mod campaign;

use super::fsck::sqlite;
use super::gc::{HOUR_MS, Hours};
use super::kept::{quiet, remove_all};
use super::snapshots::{Noted, named, project, snapshot_root, tree, turn, write};
use super::*;
use crate::volume::fsck::fsck_at;
use crate::volume::gc::GRACE_MS;
use crate::{FsError, Kind, TrashTarget};
use weldrfs_meta::Ino;

const DAY_MS: u64 = 24 * HOUR_MS;

fn back(volume: &Volume, path: &str) -> Result<u64, FsError> {
    let target = TrashTarget {
        path: path.as_bytes(),
        to: None,
        until_ms: None,
    };
    Ok(volume.engine().restore_trash(target)?.names)
}

/// Paths, and how many files each entry is.
fn listed(volume: &Volume) -> Vec<(String, u64)> {
    let entries = volume.engine().trash(b"").unwrap();
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    entries.iter().map(|e| (shown(&e.path), e.files)).collect()
}

/// Removes a directory and what is in it.
fn remove_tree(volume: &Volume, name: &str) {
    let dir = volume.engine().lookup(ROOT_INO, name.as_bytes()).unwrap();
    remove_all(volume, dir.ino);
    volume.engine().rmdir(ROOT_INO, name.as_bytes()).unwrap();
}

fn collect(hours: &Hours, volume: &Volume) {
    for _ in 0..(2 * GRACE_MS / HOUR_MS) {
        hours.pass(HOUR_MS);
        volume.gc(false).unwrap();
    }
}

#[test]
fn what_is_in_the_trash_outlives_gc_and_the_machine_until_its_time_is_over() {
    let hours = Hours::new(71);
    let first = hours.open("first");
    let was = project(&first);
    first.sync(LONG).unwrap();
    remove_tree(&first, "src");
    collect(&hours, &first);
    assert_eq!(first.status().used_bytes, 5);
    assert!(first.status().trash_bytes > 500_000);
    first.sync(LONG).unwrap();
    first.abandon();

    let second = hours.open("second");
    assert_eq!(listed(&second), [("src".to_owned(), 21)]);
    second.drop_caches();
    assert_eq!(back(&second, "src").unwrap(), 22);
    assert_eq!(tree(&second, ROOT_INO), was);
    healthy(&second);
    remove_tree(&second, "src");
    hours.pass(6 * DAY_MS);
    second.tidy_trash(&|| false);
    assert_eq!(listed(&second).len(), 1);
    hours.pass(2 * DAY_MS);
    second.tidy_trash(&|| false);
    assert_eq!(listed(&second), []);
    assert_eq!(
        (second.status().trash_bytes, second.status().inodes),
        (0, 2)
    );
    healthy(&second);
    collect(&hours, &second);
    // What is left is a file of five bytes.
    assert_eq!(hours.packs().len(), 1);
    second.close().unwrap();
    hours.check("at the end");
}

#[test]
fn whoever_holds_what_was_removed_goes_on_with_it() {
    let machine = Machine::new();
    let volume = quiet(&machine, "here");
    let engine = volume.engine();
    let held = write(&volume, "held", b"one");
    let dir = engine.mkdir(ROOT_INO, b"dir", 0o755, &ME).unwrap().ino;
    engine.mknod(dir, b"in", Kind::File, 0o600, 0, &ME).unwrap();
    volume.sync(LONG).unwrap();
    let noted = Arc::new(Noted::default());
    engine.set_onlooker(Arc::clone(&noted) as Arc<dyn crate::engine::Onlooker>);
    engine.retain(held, 1);
    engine.retain(dir, 1);
    engine.unlink(ROOT_INO, b"held").unwrap();
    remove_tree(&volume, "dir");
    engine.write(held, 3, b", two", false).unwrap();
    assert_eq!(&engine.read(held, 0, 99).unwrap()[..], b"one, two");
    // The file comes back as itself with its final content, the directory as another one.
    assert_eq!(back(&volume, "held").unwrap(), 1);
    assert_eq!(back(&volume, "dir").unwrap(), 2);
    assert_eq!(engine.lookup(ROOT_INO, b"held").unwrap().ino, held);
    engine.write(held, 8, b"!", false).unwrap();
    assert_eq!(&engine.read(held, 0, 99).unwrap()[..], b"one, two!");
    let made = engine.lookup(ROOT_INO, b"dir").unwrap().ino;
    assert_ne!(made, dir);
    assert_eq!(engine.getattr(dir).unwrap().nlink, 0);
    assert!(engine.mknod(dir, b"x", Kind::File, 0o600, 0, &ME).is_err());
    // What is in a directory that nobody knows yet is not told.
    assert_eq!(noted.heard(), [b"held".to_vec(), b"dir".to_vec()]);
    engine.forget(dir, 1);
    assert_eq!(engine.getattr(dir).unwrap_err().errno(), libc::ENOENT);
    // What ends in the trash while it is held lives on until it is let go.
    engine.unlink(ROOT_INO, b"held").unwrap();
    assert!(volume.empty_trash(0).unwrap().names >= 1);
    assert_eq!(&engine.read(held, 0, 99).unwrap()[..], b"one, two!");
    healthy(&volume);
    engine.forget(held, 1);
    assert_eq!(engine.getattr(held).unwrap_err().errno(), libc::ENOENT);
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn mistakes_are_said_and_change_nothing() {
    let machine = Machine::new();
    let volume = quiet(&machine, "here");
    project(&volume);
    volume.sync(LONG).unwrap();
    volume.engine().create_snapshot(named("s")).unwrap();
    remove_tree(&volume, "src");
    write(&volume, "src", b"in the way");
    let before = (tree(&volume, ROOT_INO), listed(&volume));
    let engine = volume.engine();
    let fails = |path: &str, to: Option<&str>| {
        let target = TrashTarget {
            path: path.as_bytes(),
            to: to.map(str::as_bytes),
            until_ms: None,
        };
        let error = engine.restore_trash(target).unwrap_err();
        (error.errno(), error.to_string())
    };
    for (path, to, errno, says) in [
        ("nothing", None, libc::ENOENT, "no nothing"),
        ("", None, libc::ENOENT, "no "),
        ("src", None, libc::EEXIST, "at src now"),
        ("src/f1", None, libc::ENOTDIR, "directory"),
        ("src", Some("readme"), libc::EEXIST, "at readme now"),
        ("src", Some("none/src"), libc::ENOENT, ""),
        ("src", Some("readme/src"), libc::ENOTDIR, ""),
        ("src", Some(".snapshots/s/src2"), libc::EROFS, "snapshot"),
        ("src", Some(".snapshots"), libc::EROFS, "snapshot"),
        ("src", Some(".."), libc::EINVAL, "name"),
    ] {
        let (found, text) = fails(path, to);
        assert_eq!(found, errno, "{path} {to:?}: {text}");
        assert!(text.contains(says), "{path} {to:?}: {text}");
    }
    assert_eq!((tree(&volume, ROOT_INO), listed(&volume)), before);
    engine.ns.set_read_only(Some("for a test".into()));
    assert_eq!(fails("src", Some("src2")).0, libc::EROFS);
    assert_eq!(volume.empty_trash(0).unwrap_err().errno(), libc::EROFS);
    engine.ns.set_read_only(None);
    healthy(&volume);
    volume.close().unwrap();
}

/// The store is away and staging is full: before a writer is refused, what is in the trash and nowhere else goes.
#[test]
fn the_trash_gives_way_to_writers_that_find_no_room() {
    let machine = Machine::new();
    let store = FaultStore::new(Arc::new(MemoryStore::new()), 72);
    let store = Arc::new(store);
    let config = VolumeConfig {
        source: Source::Own(Arc::clone(&store) as Arc<dyn ObjectStore>),
        staging_limit_bytes: Some(2 << 20),
        upload_delay: Duration::from_secs(3_600),
        ..machine.config("here")
    };
    let volume = Volume::open(config, machine.runtime.handle().clone()).unwrap();
    let engine = volume.engine();
    let published = write(&volume, "published", &content(1, 1_000));
    write(&volume, "removed", b"old");
    volume.sync(LONG).unwrap();
    store.add(FaultRule::on(
        Verb::Put,
        Fault::ErrorBefore(FaultKind::Denied),
    ));
    write(&volume, "removed", &content(2, 1_500_000));
    engine.unlink(ROOT_INO, b"published").unwrap();
    engine.unlink(ROOT_INO, b"removed").unwrap();
    assert_eq!(listed(&volume).len(), 2);
    let wanted = content(3, 1_500_000);
    let new = write(&volume, "new", &wanted);
    assert!(engine.read(new, 0, 1 << 21).unwrap() == wanted);
    // What the store has gives no room here, and stays.
    assert_eq!(listed(&volume), [("published".to_owned(), 1)]);
    assert_eq!(engine.getattr(published).unwrap().size, 1_000);
    // There is nothing more to give: that is said.
    let error = engine.write(new, 0, &content(4, 1_500_000), false);
    assert_eq!(error.unwrap_err().errno(), libc::ENOSPC);
    healthy(&volume);
    store.heal();
    volume.close().unwrap();
}

#[test]
fn restoring_emptying_and_removing_at_the_same_time_leave_a_whole_tree() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let over = AtomicBool::new(false);
    let (volume, over) = (&volume, &over);
    let make = |top: &str| {
        let engine = volume.engine();
        let dir = engine.mkdir(ROOT_INO, top.as_bytes(), 0o755, &ME)?;
        for n in 0..10_u64 {
            let name = format!("f{n}");
            let ino = engine.mknod(dir.ino, name.as_bytes(), Kind::File, 0o644, 0, &ME)?;
            engine.write(ino.ino, 0, &content(n, 100), false)?;
        }
        Ok::<Ino, FsError>(dir.ino)
    };
    std::thread::scope(|threads| {
        let mut writers = Vec::new();
        for worker in 0..2 {
            writers.push(threads.spawn(move || {
                for turn in 0..40 {
                    let top = format!("d{worker}-{}", turn % 3);
                    match make(&top) {
                        Ok(_) if turn % 2 == 0 => volume.engine().ns.cut(|_| ()).unwrap(),
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.errno(), libc::EEXIST, "{error}"),
                    }
                    remove_tree(volume, &top);
                }
            }));
        }
        threads.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                volume.empty_trash(1).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        threads.spawn(move || {
            let mut nth = 0;
            while !over.load(Ordering::Relaxed) {
                for (path, _) in listed(volume) {
                    nth += 1;
                    let to = format!("back{nth}");
                    let target = TrashTarget {
                        path: path.as_bytes(),
                        to: Some(to.as_bytes()),
                        until_ms: None,
                    };
                    match volume.engine().restore_trash(target) {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.errno(), libc::ENOENT, "{error}"),
                    }
                }
            }
        });
        let ended: Vec<_> = writers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.unwrap());
    });
    healthy(volume);
    for (path, (_, data)) in tree(volume, ROOT_INO) {
        if let Some((_, n)) = path.rsplit_once("/f") {
            assert_eq!(data, content(n.parse().unwrap(), 100), "{path}");
        }
    }
    volume.close().unwrap();
}

#[test]
fn used_space_is_what_is_left_without_the_trash() {
    let machine = Machine::new();
    let volume = quiet(&machine, "here");
    write(&volume, "stays", &content(1, 1 << 20));
    let before = (volume.status().inodes, volume.status().used_bytes);
    write(&volume, "goes", &content(2, 3 << 20));
    volume.sync(LONG).unwrap();
    let used = || {
        let told = volume.engine().statfs().unwrap();
        (told.blocks - told.free, told.files - told.files_free)
    };
    let (blocks, files) = used();
    volume.engine().unlink(ROOT_INO, b"goes").unwrap();
    assert_eq!(used(), (blocks - (3 << 20) / 4096, files - 1));
    let status = volume.status();
    assert_eq!((status.inodes, status.used_bytes), before);
    assert_eq!((status.trash_inodes, status.trash_bytes), (1, 3 << 20));
    assert_eq!(status.trash_keep_ms, 7 * DAY_MS);
    volume.close().unwrap();
}

/// A volume that a program published whose tables had version 3: a project, a snapshot of it, and a change after that.
fn of_schema_3(machine: &Machine) {
    let status = std::process::Command::new("cp")
        .arg("-r")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/volume/tests/volume_of_schema_3"))
        .arg(machine.path("store"))
        .status();
    assert!(status.unwrap().success());
}

fn is_of_schema_3(volume: &Volume) {
    let now = tree(volume, ROOT_INO);
    let then = tree(volume, snapshot_root(volume, "s").unwrap());
    for n in 0..20_usize {
        let mut data = content(n as u64, 30 * n);
        let path = format!("/src/f{n}");
        assert_eq!(then[&path].1, data, "{path}");
        match n {
            4 | 5 => assert!(!now.contains_key(&path)),
            3 => {
                data.resize(106, 0);
                data[100..].copy_from_slice(b"edited");
                assert_eq!(now[&path].1, data);
            }
            _ => assert_eq!(now[&path].1, data, "{path}"),
        }
    }
    assert_eq!(now["/moved"].1, content(5, 150));
    assert_eq!(now["/untracked"].1, content(77, 500));
    assert_eq!(
        (&now["/readme"].1[..], &then["/readme"].1[..]),
        (&b"second"[..], &b"first"[..])
    );
    assert_eq!(then["/src/link"].1, b"f1");
    assert_eq!((then.len(), now.len()), (23, 22));
}

#[test]
fn a_volume_of_the_time_before_the_trash_is_mounted_and_has_one_from_then_on() {
    let machine = Machine::new();
    of_schema_3(&machine);
    let (scratch, handle) = (machine.path(""), machine.runtime.handle().clone());
    let whole = || {
        let now_ms = crate::clock::SystemClock.now_ms();
        let store = Source::Directory(machine.path("store"));
        let report = fsck_at(&store, true, &scratch, &handle, now_ms).unwrap();
        assert_eq!(report.findings, vec![]);
    };
    whole();
    let reading = VolumeConfig {
        read_only: true,
        ..machine.config("reader")
    };
    let reader = Volume::open(reading, handle.clone()).unwrap();
    is_of_schema_3(&reader);
    assert_eq!(listed(&reader), []);
    reader.close().unwrap();

    let volume = machine.open("here");
    is_of_schema_3(&volume);
    healthy(&volume);
    let before = tree(&volume, ROOT_INO);
    remove_tree(&volume, "src");
    volume.sync(LONG).unwrap();
    volume.abandon();
    whole();
    let other = machine.open("elsewhere");
    assert_eq!(back(&other, "src").unwrap(), 19);
    assert_eq!(tree(&other, ROOT_INO), before);
    is_of_schema_3(&other);
    healthy(&other);
    other.close().unwrap();
    whole();
}

/// A local state whose tables have version 3, and of which a part is only in the journal.
#[test]
fn a_local_state_of_the_time_before_the_trash_loses_nothing() {
    let machine = Machine::new();
    let volume = quiet(&machine, "here");
    project(&volume);
    volume.sync(LONG).unwrap();
    volume.engine().create_snapshot(named("s")).unwrap();
    let database = volume.state_dir().join("meta/meta.db");
    for n in 0..50 {
        write(&volume, &format!("local{n}"), &content(n, 3_000));
    }
    let before = tree(&volume, ROOT_INO);
    volume.abandon();
    drop(volume);
    sqlite(
        &database,
        "DROP TABLE trash; CREATE TABLE trash (id INTEGER PRIMARY KEY NOT NULL, ino INTEGER NOT NULL, \
         path BLOB NOT NULL, deleted_ms INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT; \
         PRAGMA user_version = 3;",
    );
    let volume = machine.open("here");
    assert_eq!(tree(&volume, ROOT_INO), before);
    healthy(&volume);
    turn(&volume);
    assert_eq!(listed(&volume).len(), 2);
    volume.sync(LONG).unwrap();
    volume.abandon();
    let other = machine.open("elsewhere");
    back(&other, "src/f4").unwrap();
    assert_eq!(tree(&other, ROOT_INO)["/src/f4"].1, content(4, 12_000));
    healthy(&other);
    other.close().unwrap();
}
