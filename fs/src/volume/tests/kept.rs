//! Snapshots through everything that happens to a volume besides: machines that are lost or fenced, packs that are written
//! anew, restore points, readers beside the writer, damage, and programs of the time before there were any.

use super::fsck::sqlite;
use super::gc::{HOUR_MS, Hours};
use super::lease::divergent_copies;
use super::snapshots::{Tree, named, project, snapshot_root, tree, turn, write};
use super::*;
use crate::volume::fsck::fsck_at;
use crate::volume::gc::GRACE_MS;
use crate::volume::restore::restore_with;
use weldrfs_meta::Ino;

pub(super) fn remove_all(volume: &Volume, dir: Ino) {
    let engine = volume.engine();
    for entry in engine.readdir(dir, 0, 1_000).unwrap() {
        match entry.kind {
            crate::Kind::Dir => {
                remove_all(volume, entry.ino);
                engine.rmdir(dir, &entry.name).unwrap();
            }
            _ => engine.unlink(dir, &entry.name).unwrap(),
        }
    }
}

/// Removes everything for good: these tests are about what snapshots hold, and the trash would hold it too.
fn end_all(volume: &Volume) {
    remove_all(volume, ROOT_INO);
    volume.empty_trash(0).unwrap();
}

/// A volume that does by itself as little as possible.
pub(super) fn quiet(machine: &Machine, state: &str) -> Arc<Volume> {
    let config = VolumeConfig {
        upload_delay: Duration::from_secs(24 * 3_600),
        checkpoint_interval: Duration::from_secs(3_600),
        ..machine.config(state)
    };
    Volume::open(config, machine.runtime.handle().clone()).unwrap()
}

fn snapshot_tree(volume: &Volume, name: &str) -> Tree {
    volume.drop_caches();
    tree(volume, snapshot_root(volume, name).unwrap())
}

/// Rounds of gc over twice the time that anything is kept.
fn collect(hours: &Hours, volume: &Volume) {
    for _ in 0..(2 * GRACE_MS / HOUR_MS) {
        hours.pass(HOUR_MS);
        volume.gc(false).unwrap();
    }
}

/// On each of three machines, each of which has nothing but the store: the snapshot is whole, and comes back whole.
fn comes_back_from_the_store(hours: &Hours, name: &str, was: &Tree) {
    let first = hours.open("first");
    assert_eq!(tree(&first, ROOT_INO), Tree::new());
    assert_eq!(&snapshot_tree(&first, name), was);
    first.engine().restore(name, b"").unwrap();
    assert_eq!(&tree(&first, ROOT_INO), was);
    collect(hours, &first);
    first.sync(LONG).unwrap();
    first.abandon();
    let second = hours.open("second");
    second.drop_caches();
    assert_eq!(&tree(&second, ROOT_INO), was);
    second.engine().remove_snapshot(name).unwrap();
    collect(hours, &second);
    second.close().unwrap();
    let third = hours.open("third");
    assert_eq!(&tree(&third, ROOT_INO), was);
    healthy(&third);
    third.close().unwrap();
    hours.check("after three machines");
}

#[test]
fn what_only_a_snapshot_names_outlives_gc_and_the_machine() {
    let hours = Hours::new(41);
    let volume = hours.open("a");
    let was = project(&volume);
    volume.engine().create_snapshot(named("s")).unwrap();
    volume.sync(LONG).unwrap();
    let needed = hours.packs();
    end_all(&volume);
    collect(&hours, &volume);
    assert_eq!(hours.packs(), needed);
    assert_eq!(snapshot_tree(&volume, "s"), was);
    volume.abandon();
    comes_back_from_the_store(&hours, "s", &was);
}

#[test]
fn what_only_a_snapshot_names_moves_out_of_a_pack_that_is_mostly_dead() {
    let hours = Hours::new(42);
    let volume = hours.open("a");
    for n in 0..20 {
        write(&volume, &format!("f{n}"), &content(n, 100_000));
    }
    volume.sync(LONG).unwrap();
    let old = hours.packs();
    assert_eq!(old.len(), 1);
    let remove = |n| {
        let name = format!("f{n}");
        volume.engine().unlink(ROOT_INO, name.as_bytes()).unwrap();
        volume.empty_trash(0).unwrap();
    };
    (0..16).for_each(remove);
    let was = tree(&volume, ROOT_INO);
    volume.engine().create_snapshot(named("s")).unwrap();
    (16..20).for_each(remove);
    hours.pass(2 * HOUR_MS);
    let report = volume.gc(false).unwrap();
    assert_eq!((report.rewritten.objects, report.marked.objects), (1, 1));
    assert_eq!(snapshot_tree(&volume, "s"), was);
    collect(&hours, &volume);
    assert!(old.iter().all(|key| !hours.packs().contains(key)));
    assert_eq!(volume.gc(false).unwrap().used.objects, 1);
    assert_eq!(snapshot_tree(&volume, "s"), was);
    assert_eq!(volume.engine().diff("s", None, b"").unwrap().len(), 4);
    hours.check("with the old pack gone");
    volume.abandon();
    comes_back_from_the_store(&hours, "s", &was);
}

#[test]
fn what_only_a_snapshot_names_keeps_its_segment_until_it_is_packed() {
    let machine = Machine::new();
    let volume = quiet(&machine, "here");
    let was = project(&volume);
    volume.engine().create_snapshot(named("s")).unwrap();
    end_all(&volume);
    write(&volume, "other", &content(5, 5_000));
    volume.abandon();
    // A start releases the segments that nothing names.
    let volume = quiet(&machine, "here");
    assert!(volume.status().staged_bytes > 0);
    assert_eq!(snapshot_tree(&volume, "s"), was);
    volume.abandon();
    let volume = quiet(&machine, "here");
    // The packer drops what is dead when it seals.
    volume.sync(LONG).unwrap();
    assert_eq!(volume.status().staged_bytes, 0);
    assert_eq!(snapshot_tree(&volume, "s"), was);
    healthy(&volume);
    volume.abandon();
    let other = machine.open("elsewhere");
    assert_eq!(snapshot_tree(&other, "s"), was);
    other.engine().restore("s", b"src").unwrap();
    assert_eq!(
        tree(&other, ROOT_INO).len(),
        was.len(),
        "other, but no readme"
    );
    other.close().unwrap();
}

/// What would be packed in its own time is released at once where nothing names it, and only there.
#[test]
fn staging_that_runs_short_drops_nothing_that_a_snapshot_names() {
    let machine = Machine::new();
    let config = VolumeConfig {
        staging_limit_bytes: Some(1 << 20),
        upload_delay: Duration::from_secs(3_600),
        ..machine.config("here")
    };
    let volume = Volume::open(config, machine.runtime.handle().clone()).unwrap();
    let was = project(&volume);
    volume.engine().create_snapshot(named("s")).unwrap();
    end_all(&volume);
    let deadline = Instant::now() + LONG;
    while volume.status().staged_bytes > 0 {
        assert!(Instant::now() < deadline, "staging is more than half full");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(snapshot_tree(&volume, "s"), was);
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn a_divergent_copy_has_its_snapshots() {
    let hours = Hours::new(43);
    let old = hours.open("a");
    let first = project(&old);
    old.engine().create_snapshot(named("first")).unwrap();
    old.sync(LONG).unwrap();
    turn(&old);
    let second = tree(&old, ROOT_INO);
    old.engine().create_snapshot(named("second")).unwrap();
    end_all(&old);
    write(&old, "last", &content(9, 30_000));
    let last = tree(&old, ROOT_INO);

    let new = hours.open("b");
    assert_eq!(new.engine().snapshots().len(), 1);
    write(&new, "elsewhere", b"x");
    new.engine().create_snapshot(named("second")).unwrap();
    new.sync(LONG).unwrap();
    assert!(matches!(old.sync(LONG).unwrap_err(), FsError::Foreign));
    let refused = old.engine().create_snapshot(named("late")).unwrap_err();
    assert_eq!(refused.errno(), libc::EROFS);
    assert_eq!(
        old.engine().restore("first", b"").unwrap_err().errno(),
        libc::EROFS
    );
    let refused = old.engine().remove_snapshot("first").unwrap_err();
    assert_eq!(refused.errno(), libc::EROFS);
    old.close().unwrap();
    new.close().unwrap();

    let volume = hours.open("a");
    let copies = divergent_copies(&volume);
    assert_eq!((copies.len(), tree(&volume, ROOT_INO).len()), (1, 24));
    let copy = VolumeConfig {
        divergent: Some(copies[0].clone()),
        ..hours.machine.config("a")
    };
    let copy = hours.open_with(copy).unwrap();
    assert_eq!(snapshot_tree(&copy, "first"), first);
    assert_eq!(snapshot_tree(&copy, "second"), second);
    assert_eq!(tree(&copy, ROOT_INO), last);
    let changed = copy.engine().diff("first", Some("second"), b"").unwrap();
    assert!(changed.iter().any(|d| d.path == b"moved"), "{changed:?}");
    let refused = copy.engine().restore("first", b"").unwrap_err();
    assert_eq!(refused.errno(), libc::EROFS);
    healthy(&copy);
    copy.close().unwrap();

    // The history that went on has its own of that name.
    let other = snapshot_tree(&volume, "second");
    assert_eq!(other["/elsewhere"].1, b"x");
    volume.engine().restore("first", b"").unwrap();
    assert_eq!(tree(&volume, ROOT_INO), first);
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn going_back_takes_the_snapshots_of_that_time_along() {
    let hours = Hours::new(44);
    let volume = hours.open("a");
    let first = project(&volume);
    volume.engine().create_snapshot(named("first")).unwrap();
    end_all(&volume);
    volume.sync(LONG).unwrap();
    let early_ms = hours.clock.now_ms();
    hours.pass(HOUR_MS);
    volume.engine().remove_snapshot("first").unwrap();
    write(&volume, "later", &content(8, 200_000));
    volume.engine().create_snapshot(named("second")).unwrap();
    let second = tree(&volume, ROOT_INO);
    end_all(&volume);
    // Nothing of the present uses any of it.
    volume.gc(false).unwrap();
    volume.close().unwrap();
    let late_ms = hours.clock.now_ms();
    let back = |at_ms| {
        let scratch = hours.machine.path("");
        let handle = hours.machine.runtime.handle();
        restore_with(
            &hours.source(),
            at_ms,
            true,
            &scratch,
            handle,
            &*hours.clock,
        )
        .unwrap();
        hours.check("after going back");
    };
    let names = |volume: &Volume| -> Vec<String> {
        let all = volume.engine().snapshots();
        all.into_iter().map(|snapshot| snapshot.name).collect()
    };

    let view = VolumeConfig {
        at_ms: Some(early_ms),
        ..hours.machine.config("a")
    };
    let view = hours.open_with(view).unwrap();
    assert_eq!(snapshot_tree(&view, "first"), first);
    view.close().unwrap();
    hours.pass(HOUR_MS);
    back(early_ms);
    let volume = hours.open("a");
    assert_eq!(
        (names(&volume), tree(&volume, ROOT_INO)),
        (vec!["first".into()], Tree::new())
    );
    for _ in 0..2 {
        hours.pass(HOUR_MS / 2);
        volume.gc(false).unwrap();
    }
    assert_eq!(snapshot_tree(&volume, "first"), first);
    // It has the number that `second` has in the history which was left.
    write(&volume, "third", &content(7, 1_000));
    volume.engine().create_snapshot(named("third")).unwrap();
    let third = tree(&volume, ROOT_INO);
    end_all(&volume);
    volume.close().unwrap();
    let third_ms = hours.clock.now_ms();

    hours.pass(HOUR_MS / 2);
    back(late_ms);
    let volume = hours.open("a");
    assert_eq!(names(&volume), ["second"]);
    assert_eq!(snapshot_tree(&volume, "second"), second);
    volume.close().unwrap();
    hours.pass(HOUR_MS / 2);
    back(third_ms);
    let volume = hours.open("a");
    assert_eq!(names(&volume), ["first", "third"]);
    collect(&hours, &volume);
    assert_eq!(snapshot_tree(&volume, "first"), first);
    assert_eq!(snapshot_tree(&volume, "third"), third);
    healthy(&volume);
    volume.close().unwrap();
    hours.check("at the end");
}

#[test]
fn who_reads_beside_the_writer_has_the_snapshots_that_were_published() {
    let hours = Hours::new(45);
    let writer = hours.open("a");
    let was = project(&writer);
    writer.engine().create_snapshot(named("s")).unwrap();
    turn(&writer);
    writer.sync(LONG).unwrap();
    writer.engine().create_snapshot(named("t")).unwrap();
    let reading = VolumeConfig {
        read_only: true,
        ..hours.machine.config("a")
    };
    let reader = hours.open_with(reading).unwrap();
    let names: Vec<_> = reader.engine().snapshots();
    assert_eq!(names.len(), 1);
    assert_eq!(snapshot_tree(&reader, "s"), was);
    let now = tree(&reader, ROOT_INO);
    let changed = reader.engine().diff("s", None, b"").unwrap();
    assert_eq!(changed, writer.engine().diff("s", None, b"").unwrap());

    for snapshot in writer.engine().snapshots() {
        writer.engine().remove_snapshot(&snapshot.name).unwrap();
    }
    end_all(&writer);
    writer.gc(false).unwrap();
    hours.pass(GRACE_MS - 1);
    writer.gc(false).unwrap();
    // It was given a state in which all of this is there.
    assert_eq!(snapshot_tree(&reader, "s"), was);
    assert_eq!(tree(&reader, ROOT_INO), now);
    let engine = reader.engine();
    let refused = [
        engine.create_snapshot(named("no")).map(drop),
        engine.remove_snapshot("s"),
        engine.restore("s", b"").map(drop),
        engine
            .clone_tree(engine.walk(b"src").unwrap().ino, ROOT_INO, b"no")
            .map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().errno(), libc::EROFS);
    }
    healthy(&reader);
    reader.close().unwrap();
    collect(&hours, &writer);
    assert_eq!(hours.packs(), Vec::<String>::new());
    writer.close().unwrap();
}

#[test]
fn a_lost_pack_that_only_a_snapshot_needs_is_found() {
    let hours = Hours::new(46);
    let volume = hours.open("a");
    project(&volume);
    volume.engine().create_snapshot(named("s")).unwrap();
    volume.sync(LONG).unwrap();
    let needed = hours.packs();
    end_all(&volume);
    write(&volume, "other", &content(1, 1_000));
    volume.close().unwrap();
    let found = |deep| -> Vec<&'static str> {
        let scratch = hours.machine.path("");
        let handle = hours.machine.runtime.handle();
        let now_ms = hours.clock.now_ms();
        let report = fsck_at(&hours.source(), deep, &scratch, handle, now_ms).unwrap();
        report.findings.iter().map(|f| f.invariant).collect()
    };
    assert_eq!(found(true), [""; 0]);
    hours.memory.tamper(&needed[0], |bytes| bytes[70] ^= 1);
    assert_eq!((found(false), found(true)), (vec![], vec!["pack-whole"]));
    let lost = hours.memory.delete(&needed);
    hours.machine.runtime.block_on(lost).unwrap();
    assert_eq!(found(false), ["pack-object"]);
}

/// A volume that a program published whose tables had version 2. There were four files and links when it was first
/// published, and a change after that.
fn of_schema_2(machine: &Machine) {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/volume/tests/volume_of_schema_2");
    copy(&kept, &machine.path("store"));
}

fn is_of_schema_2(found: &Tree) {
    let mut f4 = content(4, 8_000);
    f4[100..106].copy_from_slice(b"edited");
    let mut sparse = vec![0; 100_000];
    sparse[99_997..].copy_from_slice(b"end");
    let data = |path: &str| found[path].1.clone();
    assert_eq!(data("/src/f1"), content(1, 2_000));
    assert_eq!(data("/src/f2"), content(2, 4_000));
    assert_eq!(data("/src/deep/hard"), content(2, 4_000));
    assert_eq!(data("/src/f3"), content(3, 6_000));
    assert!(data("/src/f4") == f4 && data("/sparse") == sparse);
    assert_eq!(data("/src/link"), b"../src/f1");
    assert_eq!(found.len(), 10, "{:?}", found.keys());
}

#[test]
fn a_volume_of_the_time_before_snapshots_is_mounted_and_has_them_from_then_on() {
    let machine = Machine::new();
    of_schema_2(&machine);
    let (scratch, handle) = (machine.path(""), machine.runtime.handle().clone());
    let store = || Source::Directory(machine.path("store"));
    let whole = |points| {
        let now_ms = crate::clock::SystemClock.now_ms();
        let report = fsck_at(&store(), true, &scratch, &handle, now_ms).unwrap();
        assert_eq!(report.findings, vec![]);
        assert!(report.points >= points, "{report:?}");
    };
    whole(2);
    let reading = VolumeConfig {
        read_only: true,
        ..machine.config("reader")
    };
    let reader = Volume::open(reading, handle.clone()).unwrap();
    is_of_schema_2(&tree(&reader, ROOT_INO));
    assert_eq!(reader.engine().snapshots(), vec![]);
    reader.close().unwrap();

    let volume = machine.open("here");
    let before = tree(&volume, ROOT_INO);
    is_of_schema_2(&before);
    healthy(&volume);
    volume.engine().create_snapshot(named("s")).unwrap();
    end_all(&volume);
    volume.sync(LONG).unwrap();
    assert_eq!(snapshot_tree(&volume, "s"), before);
    volume.abandon();
    whole(1);
    let other = machine.open("elsewhere");
    other.engine().restore("s", b"").unwrap();
    assert_eq!(tree(&other, ROOT_INO), before);
    healthy(&other);
    other.close().unwrap();
    whole(1);
}

/// A local state whose tables have version 2, and of which a part is only in the journal.
#[test]
fn a_local_state_of_the_time_before_snapshots_loses_nothing() {
    let machine = Machine::new();
    let volume = quiet(&machine, "here");
    let in_store = project(&volume);
    volume.sync(LONG).unwrap();
    let database = volume.state_dir().join("meta/meta.db");
    let names = in_store.len();
    for n in 0..50 {
        write(&volume, &format!("local{n}"), &content(n, 3_000));
    }
    let before = tree(&volume, ROOT_INO);
    assert_eq!(before.len(), names + 50);
    volume.abandon();
    drop(volume);
    sqlite(
        &database,
        "DROP TABLE inode_undo; DROP TABLE dirent_undo; DROP TABLE extent_undo; DROP TABLE xattr_undo; \
         DROP TABLE symlink_undo; DROP INDEX dirent_by_ino; DROP TABLE snapshot; \
         CREATE TABLE snapshot (epoch INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, note TEXT NOT NULL, \
         owner TEXT NOT NULL, made_ms INTEGER NOT NULL, lsn INTEGER NOT NULL, kept INTEGER NOT NULL) STRICT; \
         CREATE TABLE undo (epoch INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, row BLOB, \
         PRIMARY KEY (epoch, tbl, key)) STRICT, WITHOUT ROWID; PRAGMA user_version = 2;",
    );
    let volume = machine.open("here");
    assert_eq!(tree(&volume, ROOT_INO), before);
    healthy(&volume);
    volume.engine().create_snapshot(named("s")).unwrap();
    turn(&volume);
    let after = tree(&volume, ROOT_INO);
    volume.sync(LONG).unwrap();
    volume.abandon();
    let other = machine.open("elsewhere");
    assert_eq!(tree(&other, ROOT_INO), after);
    assert_eq!(snapshot_tree(&other, "s"), before);
    healthy(&other);
    other.close().unwrap();
}
