//! Branches of a volume: copies that are apart, and what of them can leave the local disk.

use super::snapshots::{Tree, named, project, tree, write};
use super::*;
use crate::{BRANCHES, Kind};
use weldrfs_meta::Ino;

fn branch_ino(volume: &Volume, name: &str) -> Ino {
    volume.engine().find_branch(name).unwrap().unwrap().ino
}

fn without_branches(tree: &Tree) -> Tree {
    let hidden = format!("/{}", BRANCHES.split('/').next().unwrap());
    let rest = tree.iter().filter(|(path, _)| !path.starts_with(&hidden));
    rest.map(|(path, of)| (path.clone(), of.clone())).collect()
}

#[test]
fn a_branch_is_the_project_without_the_branches_now_or_at_a_snapshot() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    let before = project(&volume);
    engine.create_snapshot(named("s")).unwrap();
    let first = engine.branch("", "first").unwrap();
    assert!(first.is_new);
    let in_first = tree(&volume, first.attr.ino);
    assert!(in_first.keys().all(|path| !path.contains("branches")));
    assert_eq!(without_branches(&in_first), without_branches(&before));
    let again = engine.branch("", "first").unwrap();
    assert_eq!((again.is_new, again.attr.ino), (false, first.attr.ino));
    write(&volume, "new", b"later");
    let second = engine.branch("", "second").unwrap();
    let in_second = without_branches(&tree(&volume, second.attr.ino));
    assert_eq!(in_second, without_branches(&tree(&volume, ROOT_INO)));
    assert!(in_second.contains_key("/new"));
    // The snapshot after it has a branch; a branch of that has none all the same.
    engine.create_snapshot(named("t")).unwrap();
    for (project, expected) in [(".snapshots/s", &before), (".snapshots/t/", &in_second)] {
        let name = format!("of-{}", expected.len());
        let made = engine.branch(project, &name).unwrap();
        let made = tree(&volume, made.attr.ino);
        assert!(made.keys().all(|path| !path.contains("branches")));
        assert_eq!(without_branches(&made), without_branches(expected));
    }
    // A directory, and one of a branch.
    let src = engine.branch("src", "src").unwrap();
    let deeper = engine
        .branch(&format!("{BRANCHES}/first/src"), "deeper")
        .unwrap();
    assert_eq!(tree(&volume, src.attr.ino), tree(&volume, deeper.attr.ino));
    let mut names = engine.branches().unwrap();
    names.sort();
    let of = [
        format!("of-{}", before.len()),
        format!("of-{}", in_second.len()),
    ];
    let mut expected = vec!["deeper", "first", &of[0], &of[1], "second", "src"];
    expected.sort_unstable();
    assert_eq!(names, expected);
    for (project, name) in [
        (".weldr", "x"),
        (BRANCHES, "x"),
        (".snapshots/t/.weldr", "x"),
        ("none", "x"),
        ("new", "x"),
        ("", ".x"),
        ("", "a/b"),
        ("", ""),
    ] {
        assert!(
            engine.branch(project, name).is_err(),
            "{project:?} {name:?}"
        );
    }
    healthy(&volume);
    volume.close().unwrap();
}

#[test]
fn what_is_in_the_place_of_the_branches_is_no_place_for_one() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    assert_eq!(engine.branches().unwrap(), Vec::<String>::new());
    engine.symlink(ROOT_INO, b".weldr", b"/etc", &ME).unwrap();
    assert!(engine.branch("", "b").is_err());
    assert!(engine.branches().is_err());
    engine.unlink(ROOT_INO, b".weldr").unwrap();
    let made = engine.branch("", "b").unwrap();
    assert_eq!(made.attr.kind, Kind::Dir);
    let weldr = engine.lookup(ROOT_INO, b".weldr").unwrap();
    let branches = engine.lookup(weldr.ino, b"branches").unwrap();
    engine.symlink(branches.ino, b"link", b"b", &ME).unwrap();
    assert!(engine.branch("", "link").is_err());
    assert_eq!(engine.branches().unwrap(), ["b"]);
    volume.close().unwrap();
}

#[test]
fn only_what_a_branch_has_for_itself_leaves_the_disk_and_comes_back() {
    let machine = Machine::new();
    let volume = machine.open("here");
    let engine = volume.engine();
    const LEN: usize = 300_000;
    write(&volume, "shared", &content(1, LEN));
    volume.sync(LONG).unwrap();
    let branch = engine.branch("", "b").unwrap().attr.ino;
    assert!(volume.drop_branch("none").is_err());
    volume.sync(LONG).unwrap();
    let cached = || engine_cached(&volume);
    let before = cached();
    assert!(before > LEN as u64);
    let shared_only = volume.drop_branch("b").unwrap();
    assert_eq!((shared_only.freed_bytes, shared_only.kept_bytes), (0, 0));

    let own = engine
        .mknod(branch, b"own", Kind::File, 0o644, 0, &ME)
        .unwrap()
        .ino;
    engine.write(own, 0, &content(2, LEN), false).unwrap();
    // Not in the store: nothing of it goes.
    let early = volume.drop_branch("b").unwrap();
    assert_eq!(early.freed_bytes, 0);
    assert!(early.kept_bytes >= LEN as u64, "{early:?}");
    volume.sync(LONG).unwrap();
    let with_own = cached();
    let dropped = volume.drop_branch("b").unwrap();
    assert_eq!(dropped.kept_bytes, 0, "{dropped:?}");
    assert!(dropped.freed_bytes >= LEN as u64, "{dropped:?}");
    assert_eq!(cached(), with_own - dropped.freed_bytes);
    // What it shares is there, and what went comes back.
    let misses = || volume.status().pack_misses;
    let fetched = misses();
    let shared = engine.lookup(ROOT_INO, b"shared").unwrap().ino;
    assert_eq!(engine.read(shared, 0, LEN).unwrap(), content(1, LEN));
    assert_eq!(misses(), fetched);
    assert_eq!(engine.read(own, 0, LEN).unwrap(), content(2, LEN));
    assert_eq!(misses(), fetched + 1);
    // A second branch of it shares it: then it is nobody's own.
    engine.branch(&format!("{BRANCHES}/b"), "c").unwrap();
    volume.sync(LONG).unwrap();
    for name in ["b", "c"] {
        assert_eq!(volume.drop_branch(name).unwrap().freed_bytes, 0, "{name}");
    }
    // Nor does a snapshot make it anybody else's.
    engine.create_snapshot(named("s")).unwrap();
    remove(&volume, "c");
    // What is in the trash shares it, too.
    engine.empty_trash(u64::MAX).unwrap();
    volume.sync(LONG).unwrap();
    assert!(volume.drop_branch("b").unwrap().freed_bytes >= LEN as u64);
    assert_eq!(branch_ino(&volume, "b"), branch);
    healthy(&volume);
    volume.close().unwrap();
}

/// Bytes of packs on the local disk.
fn engine_cached(volume: &Volume) -> u64 {
    volume.status().pack_bytes
}

/// Removes a branch that has files only.
fn remove(volume: &Volume, name: &str) {
    let engine = volume.engine();
    let dir = branch_ino(volume, name);
    for entry in engine.readdir(dir, 0, 1000).unwrap() {
        match entry.kind {
            Kind::Dir => engine.rmdir(dir, &entry.name).unwrap(),
            _ => engine.unlink(dir, &entry.name).unwrap(),
        }
    }
    let above = engine.walk(BRANCHES.as_bytes()).unwrap().ino;
    engine.rmdir(above, name.as_bytes()).unwrap();
}
