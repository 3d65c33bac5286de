//! Snapshots of a volume: they outlive the machine, packing and the collection of garbage, and can be read and gone back to.

use super::*;
use crate::engine::{Aside, Onlooker};
use crate::volume::gc::GRACE_MS;
use crate::{FsError, Kind, SnapshotNames};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use weldrfs_meta::{Ino, RenameFlags, SeekTo, XattrMode};

use super::gc::Hours;

pub(super) type Tree = BTreeMap<String, (u32, Vec<u8>)>;

pub(super) fn named(name: &str) -> SnapshotNames {
    SnapshotNames {
        name: Some(name.into()),
        ..SnapshotNames::default()
    }
}

pub(super) fn write(volume: &Volume, name: &str, data: &[u8]) -> Ino {
    let ino = match volume.engine().find(ROOT_INO, name.as_bytes()).unwrap() {
        Some(attr) => attr.ino,
        None => file(volume, name),
    };
    volume.engine().write(ino, 0, data, false).unwrap();
    ino
}

/// Everything below a directory: mode and content, or the target, by path.
pub(super) fn tree(volume: &Volume, top: Ino) -> Tree {
    let mut found = Tree::new();
    let mut dirs = vec![(top, String::new())];
    let engine = volume.engine();
    while let Some((dir, above)) = dirs.pop() {
        let mut cookie = 0;
        loop {
            let listed = engine.readdir(dir, cookie, 3).unwrap();
            let Some(last) = listed.last() else { break };
            cookie = last.cookie;
            for entry in listed {
                let path = format!("{above}/{}", String::from_utf8_lossy(&entry.name));
                let attr = engine.lookup(dir, &entry.name).unwrap();
                assert_eq!((attr.ino, attr.kind), (entry.ino, entry.kind), "{path}");
                assert_eq!(engine.getattr(attr.ino).unwrap(), attr, "{path}");
                let data = match attr.kind {
                    Kind::Dir => {
                        dirs.push((attr.ino, path.clone()));
                        Vec::new()
                    }
                    Kind::Symlink => engine.readlink(attr.ino).unwrap().to_vec(),
                    Kind::File => engine.read(attr.ino, 0, 1 << 24).unwrap().to_vec(),
                    _ => Vec::new(),
                };
                found.insert(path, (attr.mode, data));
            }
        }
    }
    found
}

pub(super) fn snapshot_root(volume: &Volume, name: &str) -> Result<Ino, FsError> {
    let path = format!(".snapshots/{name}");
    Ok(volume.engine().walk(path.as_bytes())?.ino)
}

/// A project in small.
pub(super) fn project(volume: &Volume) -> Tree {
    let engine = volume.engine();
    let src = engine.mkdir(ROOT_INO, b"src", 0o755, &ME).unwrap().ino;
    for n in 0..20_u64 {
        let name = format!("f{n}");
        let ino = engine
            .mknod(src, name.as_bytes(), Kind::File, 0o644, 0, &ME)
            .unwrap()
            .ino;
        engine
            .write(ino, 0, &content(n, 3000 * n as usize), false)
            .unwrap();
    }
    engine.symlink(src, b"link", b"f1", &ME).unwrap();
    write(volume, "readme", b"first");
    tree(volume, ROOT_INO)
}

/// What an agent does to it.
pub(super) fn turn(volume: &Volume) {
    let engine = volume.engine();
    let src = engine.lookup(ROOT_INO, b"src").unwrap().ino;
    let f3 = engine.lookup(src, b"f3").unwrap().ino;
    engine.write(f3, 100, b"edited", false).unwrap();
    engine.unlink(src, b"f4").unwrap();
    engine.unlink(src, b"link").unwrap();
    let flags = RenameFlags::default();
    engine
        .rename(src, b"f5", ROOT_INO, b"moved", flags)
        .unwrap();
    write(volume, "untracked", &content(77, 50_000));
    write(volume, "readme", b"second");
}

#[test]
fn a_snapshot_is_read_restored_and_the_restore_undone() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let before = project(&volume);
    volume.engine().create_snapshot(named("good")).unwrap();
    turn(&volume);
    let after = tree(&volume, ROOT_INO);
    assert_ne!(before, after);
    let root = snapshot_root(&volume, "good").unwrap();
    assert_eq!(tree(&volume, root), before, "the snapshot as it is read");

    let restored = volume.engine().restore("good", b"").unwrap();
    assert_eq!(tree(&volume, ROOT_INO), before);
    healthy(&volume);
    let safety = restored.safety.unwrap().name;
    assert!(safety.starts_with("before-restore-"), "{safety}");
    let again = volume.engine().restore("good", b"").unwrap();
    assert!(again.safety.is_none(), "there was nothing to restore");
    volume.engine().restore(&safety, b"").unwrap();
    assert_eq!(tree(&volume, ROOT_INO), after);

    // One file only.
    volume.engine().restore("good", b"src/f4").unwrap();
    let mut expected = after;
    expected.insert("/src/f4".into(), before["/src/f4"].clone());
    assert_eq!(tree(&volume, ROOT_INO), expected);
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn snapshots_outlive_packing_and_the_machine() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let before = project(&volume);
    let engine = volume.engine();
    engine.create_snapshot(named("good")).unwrap();
    assert_eq!(engine.diff("good", None, b"").unwrap(), vec![]);
    volume.sync(LONG).unwrap();
    assert_eq!(volume.status().staged_bytes, 0);
    let moved = engine.diff("good", None, b"").unwrap();
    assert_eq!(moved, vec![], "packing is no change");
    turn(&volume);
    let changed = engine.diff("good", None, b"").unwrap();
    let after = tree(&volume, ROOT_INO);
    volume.sync(LONG).unwrap();
    assert_eq!(engine.diff("good", None, b"").unwrap(), changed);
    volume.abandon();

    let other = machine.open("elsewhere");
    let root = snapshot_root(&other, "good").unwrap();
    assert_eq!(tree(&other, root), before);
    assert_eq!(tree(&other, ROOT_INO), after);
    assert_eq!(other.engine().diff("good", None, b"").unwrap(), changed);
    other.engine().restore("good", b"").unwrap();
    assert_eq!(tree(&other, ROOT_INO), before);
    healthy(&other);
    other.sync(LONG).unwrap();
    other.abandon();

    // So does what was restored.
    let third = machine.open("third");
    assert_eq!(tree(&third, ROOT_INO), before);
    assert_eq!(third.engine().snapshots().len(), 2);
    healthy(&third);
    third.close().unwrap();
}

#[test]
fn gc_keeps_what_a_snapshot_needs_and_no_longer() {
    let hours = Hours::new(31);
    let volume = hours.open("a");
    let engine = volume.engine();
    write(&volume, "f", &content(1, 400_000));
    engine.create_snapshot(named("s")).unwrap();
    volume.sync(LONG).unwrap();
    let needed = hours.packs();
    engine.unlink(ROOT_INO, b"f").unwrap();
    // The trash would keep it too.
    volume.empty_trash(0).unwrap();
    write(&volume, "g", &content(2, 400_000));
    volume.sync(LONG).unwrap();
    let days = |n: u64| {
        for _ in 0..n {
            hours.pass(GRACE_MS / 2);
            volume.gc(false).unwrap();
            volume.drop_caches();
        }
    };
    days(6);
    assert!(needed.iter().all(|key| hours.packs().contains(key)));
    let root = snapshot_root(&volume, "s").unwrap();
    assert_eq!(tree(&volume, root)["/f"].1, content(1, 400_000));
    engine.restore("s", b"f").unwrap();
    engine.unlink(ROOT_INO, b"f").unwrap();
    volume.empty_trash(0).unwrap();
    hours.check("with the snapshot");

    for snapshot in engine.snapshots() {
        engine.remove_snapshot(&snapshot.name).unwrap();
    }
    days(6);
    assert!(needed.iter().all(|key| !hours.packs().contains(key)));
    healthy(&volume);
    volume.close().unwrap();
    hours.check("at the end");
}

#[test]
fn what_somebody_holds_keeps_its_content_through_a_restore() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    let held = write(&volume, "held", b"one");
    engine.create_snapshot(named("s")).unwrap();
    engine.write(held, 0, b"two", false).unwrap();
    let fresh = write(&volume, "fresh", b"three");
    engine.retain(held, 2);
    engine.retain(fresh, 1);
    engine.restore("s", b"").unwrap();
    assert_eq!(&engine.read(held, 0, 9).unwrap()[..], b"two");
    assert_eq!(&engine.read(fresh, 0, 9).unwrap()[..], b"three");
    engine.write(held, 3, b"!", false).unwrap();
    let now = engine.lookup(ROOT_INO, b"held").unwrap();
    assert_ne!(now.ino, held);
    assert_eq!(&engine.read(now.ino, 0, 9).unwrap()[..], b"one");
    engine.forget(held, 2);
    engine.forget(fresh, 1);
    for gone in [held, fresh] {
        assert_eq!(engine.getattr(gone).unwrap_err().errno(), libc::ENOENT);
    }
    healthy(&volume);
    volume.close().unwrap();
}

#[derive(Default)]
pub(super) struct Noted(Mutex<Vec<Aside>>);

impl Noted {
    /// Every name that was heard of.
    pub(super) fn heard(&self) -> Vec<Vec<u8>> {
        let all = self.0.lock();
        let entries = all.iter().flat_map(|aside| &aside.entries);
        entries.map(|entry| entry.name.to_vec()).collect()
    }
}

impl Onlooker for Noted {
    fn bring_in(&self) {}

    fn changed(&self, aside: Arc<Aside>) {
        self.0.lock().push(Aside::clone(&aside));
    }
}

#[test]
fn whoever_looks_on_hears_of_every_name_that_changed() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    let noted = Arc::new(Noted::default());
    engine.set_onlooker(Arc::clone(&noted) as Arc<dyn Onlooker>);
    let dir = engine.mkdir(ROOT_INO, b"dir", 0o755, &ME).unwrap().ino;
    let in_dir = engine.mkdir(dir, b"below", 0o755, &ME).unwrap().ino;
    // Nobody has seen the list of snapshots, so that nobody has to hear of it.
    engine.create_snapshot(named("unseen")).unwrap();
    engine.remove_snapshot("unseen").unwrap();
    engine.lookup(ROOT_INO, b".snapshots").unwrap();
    engine.create_snapshot(named("s")).unwrap();
    engine.rmdir(dir, b"below").unwrap();
    engine
        .mknod(dir, b"new", Kind::File, 0o644, 0, &ME)
        .unwrap();
    engine.restore("s", b"").unwrap();
    let made = engine.lookup(ROOT_INO, b"dir").unwrap().ino;
    engine.clone_tree(made, ROOT_INO, b"copy").unwrap();
    engine.remove_snapshot("s").unwrap();
    volume.empty_trash(0).unwrap();
    assert_eq!(engine.getattr(in_dir).unwrap_err().errno(), libc::ENOENT);
    let heard = noted.0.lock();
    let names = |n: usize| {
        let mut names: Vec<_> = heard[n].entries.iter().map(|one| &one.name[..]).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(0), [b"s".as_slice()]);
    let restored = names(1);
    assert!(restored.contains(&b"below".as_slice()) && restored.contains(&b"new".as_slice()));
    assert!(names(2)[0].starts_with(b"before-restore-"));
    assert_eq!(names(3), [b"copy".as_slice()]);
    assert_eq!(names(4), [b"s".as_slice()]);
    assert_eq!(heard.len(), 5);
    drop(heard);
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn a_snapshot_is_a_directory_that_nobody_can_change() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    let sparse = write(&volume, "sparse", &content(1, 5000));
    engine.write(sparse, 100_000, b"end", false).unwrap();
    engine
        .setxattr(sparse, b"user.note", b"why", XattrMode::Any)
        .unwrap();
    let fifo = engine
        .mknod(ROOT_INO, b"fifo", Kind::Fifo, 0o600, 0, &ME)
        .unwrap();
    engine.create_snapshot(named("s")).unwrap();
    engine.removexattr(sparse, b"user.note").unwrap();
    engine.unlink(ROOT_INO, b"sparse").unwrap();

    let list = engine.lookup(ROOT_INO, b".snapshots").unwrap();
    let root = snapshot_root(&volume, "s").unwrap();
    let old = engine.lookup(root, b"sparse").unwrap();
    assert_eq!((old.size, list.parent), (100_003, ROOT_INO));
    assert_eq!(&engine.getxattr(old.ino, b"user.note").unwrap()[..], b"why");
    assert_eq!(
        engine.listxattr(old.ino, false).unwrap(),
        [&b"user.note"[..]]
    );
    assert_eq!(engine.lookup(root, b"fifo").unwrap().kind, fifo.kind);
    let seek = |at, whence| engine.lseek(old.ino, at, whence);
    assert_eq!(seek(0, SeekTo::Data).unwrap(), 0);
    assert_eq!(seek(0, SeekTo::Hole).unwrap(), 5000);
    assert_eq!(seek(5000, SeekTo::Hole).unwrap(), 5000);
    assert_eq!(seek(5000, SeekTo::Data).unwrap(), 100_000);
    assert_eq!(seek(100_000, SeekTo::Hole).unwrap(), 100_003);
    assert_eq!(
        seek(100_003, SeekTo::Data).unwrap_err().errno(),
        libc::ENXIO
    );

    let live = write(&volume, "live", b"x");
    let flags = RenameFlags::default();
    let refused = [
        engine.write(old.ino, 0, b"no", false).map(drop),
        engine.unlink(root, b"sparse"),
        engine.rmdir(list.ino, b"s"),
        engine.rmdir(ROOT_INO, b".snapshots"),
        engine.mkdir(root, b"new", 0o755, &ME).map(drop),
        engine.mkdir(ROOT_INO, b".snapshots", 0o755, &ME).map(drop),
        engine.link(live, root, b"new").map(drop),
        engine.rename(ROOT_INO, b"live", root, b"new", flags),
        engine.rename(root, b"sparse", ROOT_INO, b"new", flags),
        engine.rename(ROOT_INO, b"live", ROOT_INO, b".snapshots", flags),
        engine.setxattr(old.ino, b"user.x", b"", XattrMode::Any),
        engine.removexattr(old.ino, b"user.note"),
        engine
            .setattr(old.ino, crate::AttrChange::default())
            .map(drop),
        engine
            .copy_file_range(live, 0, old.ino, 0, 1, false)
            .map(drop),
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused.unwrap_err().errno(), libc::EROFS, "{n}");
    }
    let crossed = [
        engine.link(old.ino, ROOT_INO, b"new").map(drop),
        engine
            .copy_file_range(old.ino, 0, live, 0, 1, false)
            .map(drop),
    ];
    for crossed in crossed {
        assert_eq!(crossed.unwrap_err().errno(), libc::EXDEV);
    }
    engine.fsync(old.ino, false).unwrap();

    assert_eq!(engine.find(list.ino, b"none").unwrap(), None);
    engine.remove_snapshot("s").unwrap();
    for gone in [root, old.ino] {
        assert_eq!(engine.getattr(gone).unwrap_err().errno(), libc::ENOENT);
    }
    assert_eq!(
        engine.read(old.ino, 0, 10).unwrap_err().errno(),
        libc::ENOENT
    );
    assert_eq!(engine.find(list.ino, b"s").unwrap(), None);
    volume.close().unwrap();
}

#[test]
fn the_directory_of_snapshots_is_listed_only_where_that_is_wanted() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    for n in 0..7 {
        write(&volume, &format!("f{n}"), b"");
    }
    for n in 0..5 {
        engine.create_snapshot(named(&format!("s{n}"))).unwrap();
    }
    let names = |dir: Ino, page: usize| {
        let (mut names, mut cookie) = (Vec::new(), 0);
        while let Some(last) = engine.readdir(dir, cookie, page).unwrap().last() {
            let listed = engine.readdir(dir, cookie, page).unwrap();
            names.extend(
                listed
                    .iter()
                    .map(|e| String::from_utf8_lossy(&e.name).into_owned()),
            );
            cookie = last.cookie;
        }
        names
    };
    assert_eq!(names(ROOT_INO, 3).len(), 7);
    engine.show_snapshots();
    for page in 1..10 {
        let listed = names(ROOT_INO, page);
        assert_eq!(
            (listed.len(), listed[7].as_str()),
            (8, ".snapshots"),
            "{page}"
        );
    }
    let list = engine.lookup(ROOT_INO, b".snapshots").unwrap().ino;
    assert_eq!(names(list, 2), ["s0", "s1", "s2", "s3", "s4"]);
    engine.remove_snapshot("s1").unwrap();
    assert_eq!(names(list, 2), ["s0", "s2", "s3", "s4"]);
    volume.close().unwrap();
}

/// All of them choose a name of the same second.
#[test]
fn snapshots_without_a_name_that_are_asked_for_at_once_get_names_of_their_own() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    let made: Vec<String> = std::thread::scope(|scope| {
        let making: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| engine.create_snapshot(SnapshotNames::default())))
            .collect();
        let made = making.into_iter().map(|one| one.join().unwrap());
        made.map(|one| one.unwrap().name).collect()
    });
    let names: std::collections::BTreeSet<&String> = made.iter().collect();
    assert_eq!(names.len(), 8, "{made:?}");
    assert_eq!(engine.snapshots().len(), 8);
}

#[test]
fn clones_are_copies_and_mistakes_are_said() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    project(&volume);
    let src = engine.lookup(ROOT_INO, b"src").unwrap().ino;
    let was = tree(&volume, src);
    engine.create_snapshot(named("s")).unwrap();
    turn(&volume);
    let now = tree(&volume, src);
    let copy = engine.clone_tree(src, ROOT_INO, b"copy").unwrap().ino;
    assert_eq!(tree(&volume, copy), now);
    let old = engine.walk(b".snapshots/s/src").unwrap().ino;
    let copy = engine.clone_tree(old, ROOT_INO, b"old").unwrap().ino;
    assert_eq!(tree(&volume, copy), was);
    let errno = |result: Result<crate::Attr, FsError>| result.unwrap_err().errno();
    let root = snapshot_root(&volume, "s").unwrap();
    assert_eq!(
        errno(engine.clone_tree(src, ROOT_INO, b"copy")),
        libc::EEXIST
    );
    assert_eq!(errno(engine.clone_tree(src, root, b"copy")), libc::EROFS);
    let list = engine.lookup(ROOT_INO, b".snapshots").unwrap().ino;
    assert_eq!(
        errno(engine.clone_tree(list, ROOT_INO, b"all")),
        libc::EINVAL
    );

    let says = |error: FsError| error.to_string();
    assert_eq!(
        says(engine.create_snapshot(named("s")).unwrap_err()),
        "there is a snapshot s already"
    );
    assert_eq!(
        says(engine.remove_snapshot("t").unwrap_err()),
        "there is no snapshot t"
    );
    assert_eq!(
        says(engine.restore("t", b"").unwrap_err()),
        "there is no snapshot t"
    );
    assert_eq!(
        says(engine.restore("s", b"no/way").unwrap_err()),
        "the snapshot s has no no/way"
    );
    assert_eq!(
        says(engine.diff("s", Some("t"), b"").unwrap_err()),
        "there is no snapshot t"
    );
    // Two within a second have different names.
    let unnamed = || {
        engine
            .create_snapshot(SnapshotNames::default())
            .unwrap()
            .name
    };
    assert_ne!(unnamed(), unnamed());
    let paths = |top: &[u8]| -> Vec<_> {
        let found = engine.diff("s", None, top).unwrap();
        found
            .iter()
            .map(|d| String::from_utf8_lossy(&d.path).into_owned())
            .collect()
    };
    assert_eq!(paths(b"src"), ["moved", "src/f3", "src/f4", "src/link"]);
    assert!(paths(b"").contains(&"untracked".to_owned()));
    healthy(&volume);
    volume.close().unwrap();
}
