//! Cases that have a name.

use super::*;
use crate::error::MetaError;
use crate::namespace::tests::{healthy, open, write};
use crate::namespace::{AttrChange, RenameFlags, TimeSet, XattrMode};
use crate::snapshot::tests::called;
use crate::snapshot::tests::tree::{self, From, assert_alike};
use crate::trash::TrashRestore;

fn back(ns: &Namespace, path: &str) -> Result<crate::trash::RestoredTrash, MetaError> {
    let what = TrashRestore {
        path: path.as_bytes(),
        to: None,
        until_ms: None,
    };
    let restored = ns.restore_trash(what, 50 * SECOND)?;
    ns.reclaim(&restored.orphans, 50 * SECOND)?;
    Ok(restored)
}

#[test]
fn a_file_that_was_published_is_kept_and_comes_back_as_it_was() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 100, 4096);
    ns.setxattr(f, b"user.a", b"b", XattrMode::Any, 3).unwrap();
    publish(&ns);
    let before = tree::now(&ns);
    let used = ns.usage();
    assert_eq!(ns.unlink(ROOT_INO, b"f", 9 * SECOND).unwrap(), None);
    assert!(matches!(
        ns.lookup(ROOT_INO, b"f"),
        Err(MetaError::NotFound)
    ));
    assert_eq!(listed(&ns, ""), [("f".to_owned(), 1, 100)]);
    assert_eq!(ns.trash(b"").unwrap()[0].deleted_ms, 9_000);
    let usage = ns.usage();
    assert_eq!((usage.inodes, usage.bytes), (used.inodes - 1, 0));
    assert_eq!((usage.trash_inodes, usage.trash_bytes), (1, 100));
    healthy(&ns);
    ns.abandon();

    let ns = quiet(tmp.path(), true);
    assert_eq!((ns.usage().trash_inodes, ns.usage().trash_bytes), (1, 100));
    assert_eq!(back(&ns, "f").unwrap().names, 1);
    assert_eq!(walk(&ns, "f"), Some(f));
    let f = b"f".to_vec();
    assert_eq!(tree::now(&ns)[&f].likeness(), before[&f].likeness());
    assert_eq!(listed(&ns, ""), []);
    assert_eq!(ns.usage().trash_inodes, 0);
    assert_eq!(ns.usage().inodes, used.inodes);
    healthy(&ns);
    assert!(matches!(back(&ns, "f"), Err(MetaError::NotFound)));
}

#[test]
fn what_comes_and_goes_between_two_publications_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let keep = make(&ns, ROOT_INO, "keep");
    publish(&ns);
    for turn in 0..3_000_u64 {
        let d = make_dir(&ns, ROOT_INO, "d");
        let lock = make(&ns, d, "lock");
        write(&ns, lock, 0, 10, 4096 + turn * 10);
        // As git makes its objects.
        ns.link(lock, ROOT_INO, b"linked", 3).unwrap();
        end(&ns, ns.unlink(d, b"lock", 3).unwrap());
        let flags = RenameFlags::default();
        make(&ns, ROOT_INO, "old");
        end(
            &ns,
            ns.rename(ROOT_INO, b"linked", ROOT_INO, b"old", flags, 3)
                .unwrap(),
        );
        end(&ns, ns.unlink(ROOT_INO, b"old", 3).unwrap());
        end(&ns, ns.rmdir(ROOT_INO, b"d", 3).unwrap());
    }
    assert_eq!(listed(&ns, ""), []);
    assert_eq!((ns.trash_names(), ns.usage().inodes), (0, 2));
    assert_eq!(
        (rows(&ns, "trash"), rows(&ns, "inode"), rows(&ns, "orphan")),
        (0, 2, 0)
    );
    // One lock of an old file, again and again, is one name.
    for _ in 0..100 {
        ns.link(keep, ROOT_INO, b"keep.lock", 3).unwrap();
        ns.unlink(ROOT_INO, b"keep.lock", 3).unwrap();
    }
    assert_eq!(rows(&ns, "trash"), 1);
    healthy(&ns);
}

/// A project with everything that a tree can have.
fn project(ns: &Namespace) -> Ino {
    let src = make_dir(ns, ROOT_INO, "src");
    let deep = make_dir(ns, src, "deep");
    make_dir(ns, deep, "empty");
    for n in 0..20 {
        let f = make(ns, if n % 2 == 0 { src } else { deep }, &format!("f{n}"));
        write(ns, f, 0, 10 + n, 4096 + n * 100);
    }
    let f1 = walk(ns, "src/deep/f1").unwrap();
    ns.link(f1, src, b"hard", 3).unwrap();
    ns.link(f1, ROOT_INO, b"outside", 3).unwrap();
    let f3 = walk(ns, "src/deep/f3").unwrap();
    ns.link(f3, deep, b"f3-too", 3).unwrap();
    let link = crate::namespace::NewNode {
        mode: libc::S_IFLNK | 0o777,
        target: Some(b"deep/f1"),
        ..file()
    };
    ns.create(src, b"link", &link, 4).unwrap();
    ns.create(src, b"\xff\n", &file(), 4).unwrap();
    ns.setxattr(deep, b"user.d", b"dir", XattrMode::Any, 5)
        .unwrap();
    for (path, ns_time) in [("src", 1234), ("src/deep", 5678), ("src/deep/empty", 91)] {
        let change = AttrChange {
            mode: Some(0o750),
            uid: Some(7),
            mtime: Some(TimeSet::At(ns_time)),
            ..AttrChange::default()
        };
        ns.setattr(walk(ns, path).unwrap(), &change, 6).unwrap();
    }
    src
}

#[test]
fn a_tree_is_one_entry_and_comes_back_whole() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let src = project(&ns);
    publish(&ns);
    let before = tree::read(From::Now(&ns), src);
    remove_tree(&ns, ROOT_INO, b"src", 9 * SECOND);
    healthy(&ns);
    // Of the file that is linked to from outside two names went.
    let entries = listed(&ns, "");
    assert_eq!(
        (entries.len(), &entries[0].0, entries[0].1),
        (1, &"src".to_owned(), 24)
    );
    let restored = back(&ns, "src").unwrap();
    assert_eq!(restored.names, 27);
    let after = tree::read(From::Now(&ns), walk(&ns, "src").unwrap());
    assert_alike(&after, &before, "restored");
    assert_eq!(listed(&ns, ""), []);
    assert_eq!((rows(&ns, "trash"), ns.usage().trash_inodes), (0, 0));
    assert_eq!(ns.lookup(ROOT_INO, b"outside").unwrap().nlink, 3);
    assert_eq!(walk(&ns, "src/hard"), walk(&ns, "outside"));
    healthy(&ns);
    ns.abandon();
    let ns = quiet(tmp.path(), true);
    assert_alike(
        &tree::read(From::Now(&ns), walk(&ns, "src").unwrap()),
        &after,
        "after a crash",
    );
    healthy(&ns);
}

#[test]
fn what_was_removed_long_before_its_directory_is_an_entry_of_its_own() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let d = make_dir(&ns, ROOT_INO, "d");
    let sub = make_dir(&ns, d, "sub");
    for (dir, name) in [(d, "early"), (d, "late"), (sub, "inner")] {
        make(&ns, dir, name);
    }
    publish(&ns);
    ns.unlink(d, b"early", 100 * SECOND).unwrap();
    remove_tree(&ns, d, b"sub", 200 * SECOND);
    remove_tree(&ns, ROOT_INO, b"d", 300 * SECOND);
    let entry = |path: &str, files| (path.to_owned(), files, 0);
    assert_eq!(
        listed(&ns, ""),
        [entry("d/early", 1), entry("d/sub", 1), entry("d", 1)]
    );
    assert_eq!(listed(&ns, "d/sub"), [entry("d/sub", 1)]);
    assert_eq!(listed(&ns, "d/sub/inner"), [entry("d/sub/inner", 1)]);
    assert_eq!(listed(&ns, "nothing"), []);
    assert_eq!(back(&ns, "d").unwrap().names, 2);
    assert_eq!(listed(&ns, ""), [entry("d/early", 1), entry("d/sub", 1)]);
    assert!(walk(&ns, "d/late").is_some() && walk(&ns, "d/early").is_none());
    healthy(&ns);
    // They belong to the new directory.
    back(&ns, "d/sub").unwrap();
    back(&ns, "d/early").unwrap();
    assert!(walk(&ns, "d/sub/inner").is_some() && walk(&ns, "d/early").is_some());
    assert_eq!(rows(&ns, "trash"), 0);
    healthy(&ns);
}

#[test]
fn of_several_under_one_path_the_last_or_the_one_of_a_time_comes_back() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let mut versions = Vec::new();
    for turn in 1..=3_u64 {
        let f = make(&ns, ROOT_INO, "new");
        write(&ns, f, 0, turn, 4096 * turn);
        publish(&ns);
        let flags = RenameFlags::default();
        let now = turn as i64 * 100 * SECOND;
        let replaced = ns
            .rename(ROOT_INO, b"new", ROOT_INO, b"f", flags, now)
            .unwrap();
        assert_eq!(replaced, None);
        versions.push(f);
    }
    ns.unlink(ROOT_INO, b"f", 400 * SECOND).unwrap();
    let sizes: Vec<u64> = ns.trash(b"f").unwrap().iter().map(|e| e.bytes).collect();
    assert_eq!(sizes, [1, 2, 3]);
    let at = |until_ms| TrashRestore {
        path: b"f",
        to: None,
        until_ms: Some(until_ms),
    };
    assert!(matches!(
        ns.restore_trash(at(100_000), 5),
        Err(MetaError::NotFound)
    ));
    ns.restore_trash(at(399_999), 5).unwrap();
    assert_eq!(walk(&ns, "f"), Some(versions[1]));
    assert!(matches!(back(&ns, "f"), Err(MetaError::Exists)));
    let elsewhere = TrashRestore {
        to: Some((ROOT_INO, b"g")),
        ..at(u64::MAX)
    };
    ns.restore_trash(elsewhere, 5).unwrap();
    assert_eq!(walk(&ns, "g"), Some(versions[2]));
    assert!(matches!(
        ns.restore_trash(elsewhere, 5),
        Err(MetaError::Exists)
    ));
    healthy(&ns);
}

#[test]
fn directories_above_are_made_again_or_those_that_are_there_are_used() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let src = project(&ns);
    publish(&ns);
    let before = tree::read(From::Now(&ns), src);
    remove_tree(&ns, ROOT_INO, b"src", 9 * SECOND);
    back(&ns, "src/deep/f5").unwrap();
    let made = ns.lookup(ROOT_INO, b"src").unwrap();
    assert_eq!((made.mode & 0o7777, made.uid, made.size), (0o750, 7, 1));
    assert!(walk(&ns, "src/deep/f5").is_some());
    let deep = walk(&ns, "src/deep").unwrap();
    assert_eq!(&*ns.getxattr(deep, b"user.d").unwrap(), b"dir");
    healthy(&ns);
    // The directory that is there now is used, the tree itself has no room.
    back(&ns, "src/deep/f7").unwrap();
    assert_eq!(walk(&ns, "src/deep"), Some(deep));
    assert!(matches!(back(&ns, "src"), Err(MetaError::Exists)));
    let other = TrashRestore {
        path: b"src",
        to: Some((ROOT_INO, b"src2")),
        until_ms: None,
    };
    ns.restore_trash(other, 5).unwrap();
    let rest = tree::read(From::Now(&ns), walk(&ns, "src2").unwrap());
    assert_eq!(rest.len(), before.len() - 2);
    healthy(&ns);
    // A file in the way.
    remove_tree(&ns, ROOT_INO, b"src2", 9 * SECOND);
    make(&ns, ROOT_INO, "src2");
    assert!(matches!(back(&ns, "src2/f0"), Err(MetaError::NotDir)));
    healthy(&ns);
}

#[test]
fn a_directory_made_since_the_last_publication_is_kept_for_what_was_in_it() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    make(&ns, ROOT_INO, "f");
    publish(&ns);
    let a = make_dir(&ns, ROOT_INO, "a");
    let b = make_dir(&ns, a, "b");
    make(&ns, b, "young");
    let flags = RenameFlags::default();
    ns.rename(ROOT_INO, b"f", b, b"f", flags, 3).unwrap();
    remove_tree(&ns, ROOT_INO, b"a", 9 * SECOND);
    healthy(&ns);
    assert_eq!(listed(&ns, ""), [("a".to_owned(), 1, 0)]);
    back(&ns, "a").unwrap();
    assert!(walk(&ns, "a/b/f").is_some() && walk(&ns, "a/b/young").is_none());
    healthy(&ns);
}

#[test]
fn the_oldest_goes_first_and_directories_after_what_was_in_them() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    project(&ns);
    make(&ns, ROOT_INO, "later");
    publish(&ns);
    remove_tree(&ns, ROOT_INO, b"src", 100 * SECOND);
    ns.unlink(ROOT_INO, b"later", 200 * SECOND).unwrap();
    let names = rows(&ns, "trash");
    assert_eq!(purge(&ns, 99_999).names, 0);
    let some = PurgeLimits {
        names: 5,
        ..PurgeLimits::until(100_000)
    };
    let purged = ns.purge_trash(some, 1).unwrap();
    assert_eq!(purged.names, 5);
    // Somebody holds these: they are there, and nobody finds them.
    for held in &purged.orphans {
        assert_eq!(ns.getattr(*held).unwrap().nlink, 0);
    }
    healthy(&ns);
    ns.reclaim(&purged.orphans, 1).unwrap();
    assert_eq!(purge(&ns, 100_000).names as i64, names - 6);
    assert_eq!(listed(&ns, ""), [("later".to_owned(), 1, 0)]);
    healthy(&ns);
    assert_eq!(purge(&ns, u64::MAX).names, 1);
    assert_eq!((rows(&ns, "trash"), ns.trash_names()), (0, 0));
    // The root and what has a name outside.
    assert_eq!((rows(&ns, "inode"), ns.usage().inodes), (2, 2));
    assert_eq!(ns.lookup(ROOT_INO, b"outside").unwrap().nlink, 1);
    healthy(&ns);
}

#[test]
fn a_file_that_is_written_to_in_the_trash_has_its_final_content() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 10, 4096);
    publish(&ns);
    ns.unlink(ROOT_INO, b"f", 9 * SECOND).unwrap();
    write(&ns, f, 10, 90, 9000);
    assert_eq!(ns.usage().trash_bytes, 100);
    // What the kernel lets go of stays.
    ns.reclaim(&[f], 10).unwrap();
    assert_eq!(listed(&ns, ""), [("f".to_owned(), 1, 100)]);
    healthy(&ns);
    assert_eq!(back(&ns, "f").unwrap().names, 1);
    assert_eq!(ns.lookup(ROOT_INO, b"f").unwrap().size, 100);
    assert_eq!((ns.usage().trash_bytes, ns.usage().bytes), (0, 100));
    healthy(&ns);
}

#[test]
fn without_a_trash_nothing_is_kept_and_what_was_there_can_end() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let d = make_dir(&ns, ROOT_INO, "d");
    for name in ["a", "b"] {
        make(&ns, d, name);
    }
    publish(&ns);
    ns.link(walk(&ns, "d/a").unwrap(), ROOT_INO, b"a-too", 3)
        .unwrap();
    ns.unlink(d, b"a", 9 * SECOND).unwrap();
    ns.close().unwrap();
    let ns = quiet(tmp.path(), false);
    // Its first name is there, so it stays by that, and goes with it.
    assert_eq!(ns.unlink(ROOT_INO, b"a-too", 9 * SECOND).unwrap(), None);
    let gone = ns.unlink(d, b"b", 9 * SECOND).unwrap();
    assert!(gone.is_some());
    end(&ns, gone);
    // The other one would not know where it was.
    assert_eq!(ns.rmdir(ROOT_INO, b"d", 9 * SECOND).unwrap(), None);
    healthy(&ns);
    assert_eq!(purge(&ns, u64::MAX).names, 3);
    let e = make_dir(&ns, ROOT_INO, "e");
    publish(&ns);
    assert_eq!(ns.rmdir(ROOT_INO, b"e", 10 * SECOND).unwrap(), Some(e));
    end(&ns, Some(e));
    assert_eq!((rows(&ns, "inode"), rows(&ns, "trash")), (1, 0));
    healthy(&ns);
}

#[test]
fn a_restore_keeps_a_directory_of_which_something_is_in_the_trash() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let s = ns.create_snapshot(called("s")).unwrap().epoch;
    let a = make_dir(&ns, ROOT_INO, "a");
    let b = make_dir(&ns, a, "b");
    make(&ns, b, "f");
    make_dir(&ns, a, "empty");
    publish(&ns);
    ns.unlink(b, b"f", 9 * SECOND).unwrap();
    let restored = ns.restore(s, b"", called("before"), 20 * SECOND).unwrap();
    assert_eq!(walk(&ns, "a"), None);
    healthy(&ns);
    ns.reclaim(&restored.orphans, 21 * SECOND).unwrap();
    healthy(&ns);
    assert_eq!(listed(&ns, ""), [("a".to_owned(), 1, 0)]);
    back(&ns, "a/b/f").unwrap();
    assert!(walk(&ns, "a/b/f").is_some());
    healthy(&ns);
}

#[test]
fn a_file_that_a_restore_removes_stays_by_a_name_that_was_removed_before() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let s = ns.create_snapshot(called("s")).unwrap().epoch;
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 10, 4096);
    ns.link(f, ROOT_INO, b"g", 3).unwrap();
    publish(&ns);
    ns.unlink(ROOT_INO, b"g", 9 * SECOND).unwrap();
    let restored = ns.restore(s, b"", called("before"), 20 * SECOND).unwrap();
    assert_eq!(restored.orphans, []);
    assert_eq!((ns.usage().trash_inodes, ns.usage().trash_bytes), (1, 10));
    healthy(&ns);
    back(&ns, "g").unwrap();
    assert_eq!(walk(&ns, "g"), Some(f));
    healthy(&ns);
}

/// A snapshot and the trash may both hold a file, and each lets go of it by itself.
#[test]
fn what_ends_in_the_trash_is_kept_for_the_snapshots_that_have_it_and_no_other() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 10, 4096);
    write(&ns, f, 100, 10, 8192);
    ns.setxattr(f, b"user.a", b"b", XattrMode::Any, 3).unwrap();
    let has = ns.create_snapshot(called("has")).unwrap().epoch;
    let then = tree::read(From::At(ns.at(has).unwrap()), ROOT_INO);
    ns.checkpoint(ns.acknowledged()).unwrap();
    ns.unlink(ROOT_INO, b"f", 9 * SECOND).unwrap();
    ns.create_snapshot(called("has-not")).unwrap();
    // Open, and written to while it is in the trash.
    write(&ns, f, 100, 10, 12_288);
    ns.create_snapshot(called("has-not-either")).unwrap();
    ns.setxattr(f, b"user.a", b"c", XattrMode::Any, 3).unwrap();
    healthy(&ns);
    assert_eq!(tree::read(From::At(ns.at(has).unwrap()), ROOT_INO), then);
    assert_eq!(purge(&ns, u64::MAX).names, 1);
    healthy(&ns);
    assert_eq!(tree::read(From::At(ns.at(has).unwrap()), ROOT_INO), then);
    let kept = || {
        let of = |table| rows(&ns, &format!("{table}_undo WHERE ino = {}", f.0));
        [of("inode"), of("extent"), of("xattr")]
    };
    assert_eq!(kept(), [1, 2, 1]);
    ns.remove_snapshot("has", 30 * SECOND).unwrap();
    assert_eq!(kept(), [0, 0, 0]);
    healthy(&ns);
}

/// The other way around: the snapshot goes, the trash keeps.
#[test]
fn removing_a_snapshot_takes_nothing_from_the_trash() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let src = project(&ns);
    ns.create_snapshot(called("s")).unwrap();
    let before = tree::read(From::Now(&ns), src);
    remove_tree(&ns, ROOT_INO, b"src", 9 * SECOND);
    ns.checkpoint(ns.acknowledged()).unwrap();
    ns.remove_snapshot("s", 10 * SECOND).unwrap();
    let extents = ns.segment_extents(1).unwrap();
    assert!(extents.iter().all(|(_, _, used)| *used), "{extents:?}");
    back(&ns, "src").unwrap();
    let after = tree::read(From::Now(&ns), walk(&ns, "src").unwrap());
    assert_alike(&after, &before, "restored");
    healthy(&ns);
}

/// Some thousand names of one inode, and a listing of a large trash.
#[test]
fn many_names_of_one_file_are_no_trouble() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = make_dir(&ns, ROOT_INO, "d");
    let f = make(&ns, ROOT_INO, "f");
    for n in 0..5_000 {
        ns.link(f, d, format!("l{n}").as_bytes(), 3).unwrap();
    }
    publish(&ns);
    remove_tree(&ns, ROOT_INO, b"d", 9 * SECOND);
    assert_eq!(listed(&ns, ""), [("d".to_owned(), 5_000, 0)]);
    assert_eq!(back(&ns, "d").unwrap().names, 5_001);
    assert_eq!(ns.lookup(ROOT_INO, b"f").unwrap().nlink, 5_001);
    remove_tree(&ns, ROOT_INO, b"d", 9 * SECOND);
    assert_eq!(purge(&ns, u64::MAX).names, 5_001);
    assert_eq!(ns.lookup(ROOT_INO, b"f").unwrap().nlink, 1);
    healthy(&ns);
}

/// The directory that is made for what comes back is a new one, and has in the trash what its namesake had there.
#[test]
fn a_directory_that_came_back_is_kept_for_what_stayed_in_the_trash_of_it() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let d = make_dir(&ns, ROOT_INO, "d");
    make(&ns, d, "early");
    publish(&ns);
    ns.unlink(d, b"early", 100 * SECOND).unwrap();
    // So much later that it does not come back with its directory.
    end(&ns, ns.rmdir(ROOT_INO, b"d", 300 * SECOND).unwrap());
    back(&ns, "d").unwrap();
    let gone = ns.rmdir(ROOT_INO, b"d", 301 * SECOND).unwrap();
    assert_eq!(gone, None);
    end(&ns, gone);
    healthy(&ns);
    back(&ns, "d/early").unwrap();
    healthy(&ns);
}
