//! Cases that have a name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::check::check;
use crate::error::MetaError;
use crate::ids::{Cookie, Epoch, Ino, ROOT_INO};
use crate::namespace::tests::{NoBytes, dir, file, healthy, open, settings, write};
use crate::namespace::{Namespace, RenameFlags, XattrMode};
use crate::settings::MetaSettings;
use crate::snapshot::{CloneTo, NewSnapshot};
use crate::trash::PurgeLimits;

use super::called;
use super::model::kept_rows;
use super::tree::{self, From};

/// A namespace whose checkpointer does nothing by itself.
fn quiet(folder: &std::path::Path) -> Arc<Namespace> {
    let quiet = MetaSettings {
        checkpoint_interval: Duration::from_secs(3600),
        ..settings(folder)
    };
    Namespace::open(quiet, Arc::new(NoBytes), (0, 0), 1).unwrap()
}

fn make(ns: &Namespace, parent: Ino, name: &str) -> Ino {
    ns.create(parent, name.as_bytes(), &file(), 2).unwrap().ino
}

fn make_dir(ns: &Namespace, parent: Ino, name: &str) -> Ino {
    ns.create(parent, name.as_bytes(), &dir(), 2).unwrap().ino
}

fn mark(ns: &Namespace, name: &str) -> Epoch {
    ns.create_snapshot(called(name)).unwrap().epoch
}

fn rename(ns: &Namespace, from: (Ino, &str), to: (Ino, &str)) {
    let (name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
    ns.rename(from.0, name, to.0, new_name, RenameFlags::default(), 5)
        .unwrap();
}

/// Ends the threads beside a test, also when it fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// More than may wait for the checkpointer, and none of them waits for it before.
#[test]
fn many_snapshots_without_a_checkpoint_show_what_was_there_each() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path());
    let before = ns.checkpointed();
    let mut trees = Vec::new();
    for i in 0..super::super::MAX_WAITING {
        make(&ns, ROOT_INO, &format!("f{i}"));
        if i > 0 {
            ns.unlink(ROOT_INO, format!("f{}", i - 1).as_bytes(), 3)
                .unwrap();
        }
        trees.push((mark(&ns, &format!("s{i}")), tree::now(&ns)));
    }
    assert_eq!(ns.checkpointed(), before);
    mark(&ns, "one more");
    assert!(ns.checkpointed() > before);
    for (epoch, then) in &trees {
        let view = From::At(ns.at(*epoch).unwrap());
        assert_eq!(&tree::read(view, ROOT_INO), then, "{epoch}");
    }
    healthy(&ns);
}

#[test]
fn snapshots_that_are_only_in_the_journal_survive_a_crash() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path());
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 10, 4096);
    let first = mark(&ns, "first");
    let then = tree::now(&ns);
    write(&ns, f, 10, 10, 4106);
    ns.unlink(ROOT_INO, b"f", 3).unwrap();
    let second = mark(&ns, "second");
    ns.abandon();
    drop(ns);
    let ns = quiet(tmp.path());
    let names: Vec<_> = ns.snapshots().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["first", "second"]);
    let view = From::At(ns.at(first).unwrap());
    assert_eq!(tree::read(view, ROOT_INO), then);
    assert!(matches!(
        ns.at(second).unwrap().lookup(ROOT_INO, b"f"),
        Err(MetaError::NotFound)
    ));
    healthy(&ns);
}

#[test]
fn a_number_is_never_used_again() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = make(&ns, ROOT_INO, "f");
    let first = mark(&ns, "s");
    // A row that carries the number of a snapshot which is gone.
    write(&ns, f, 0, 10, 4096);
    ns.remove_snapshot("s", 3).unwrap();
    ns.abandon();
    drop(ns);
    let ns = open(tmp.path());
    let second = mark(&ns, "s");
    assert!(second > first);
    let then = tree::now(&ns);
    write(&ns, f, 0, 10, 9000);
    let view = From::At(ns.at(second).unwrap());
    assert_eq!(tree::read(view, ROOT_INO), then);
    healthy(&ns);
}

#[test]
fn what_cannot_be_a_name_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    for name in ["", ".", "..", "a/b", "a\0b", &"n".repeat(256)] {
        let error = ns.create_snapshot(called(name)).unwrap_err();
        let expected = matches!(error, MetaError::Invalid(_) | MetaError::NameTooLong);
        assert!(expected, "{name:?}: {error}");
    }
    let note = NewSnapshot {
        note: "n".repeat(5000),
        ..called("s")
    };
    assert!(matches!(
        ns.create_snapshot(note),
        Err(MetaError::Invalid(_))
    ));
    assert_eq!(ns.snapshots(), vec![]);
    assert!(matches!(
        ns.remove_snapshot("s", 3),
        Err(MetaError::NotFound)
    ));
}

/// Lock files, temporary files: whatever comes and goes between two snapshots.
#[test]
fn what_is_born_and_dies_after_a_snapshot_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    mark(&ns, "s");
    let checkpoint = || ns.checkpoint(ns.acknowledged()).unwrap();
    for i in 0..3 {
        let d = make_dir(&ns, ROOT_INO, "d");
        let f = make(&ns, d, "f");
        write(&ns, f, 0, 10, 4096 + i * 20);
        ns.setxattr(f, b"user.a", b"b", XattrMode::Any, 3).unwrap();
        checkpoint();
        write(&ns, f, 0, 20, 9000 + i * 20);
        rename(&ns, (d, "f"), (ROOT_INO, "g"));
        checkpoint();
        let gone = [
            ns.unlink(ROOT_INO, b"g", 4).unwrap().unwrap(),
            ns.rmdir(ROOT_INO, b"d", 4).unwrap().unwrap(),
        ];
        ns.reclaim(&gone, 4).unwrap();
        checkpoint();
    }
    ns.close().unwrap();
    // The root's row, which has other times.
    assert_eq!(kept_rows(tmp.path()), 1);
}

/// Nothing may be lost of an extent that no file has any more.
#[test]
fn what_only_a_snapshot_names_is_used() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 10, 4096);
    mark(&ns, "older");
    // Of this one the older snapshot knows nothing.
    let g = make(&ns, ROOT_INO, "g");
    write(&ns, g, 0, 10, 9000);
    mark(&ns, "newer");
    for name in [b"f", b"g"] {
        assert_eq!(ns.unlink(ROOT_INO, name, 4).unwrap(), None);
    }
    let gone = ns.purge_trash(PurgeLimits::until(u64::MAX), 4).unwrap();
    ns.reclaim(&gone.orphans, 4).unwrap();
    let used = || {
        ns.checkpoint(ns.acknowledged()).unwrap();
        let extents = ns.segment_extents(1).unwrap();
        let listed: Vec<bool> = extents.iter().map(|(_, _, used)| *used).collect();
        let cut = ns.cut(|cut| cut.in_segments.len()).unwrap();
        (listed, ns.segments().unwrap().len(), cut)
    };
    assert_eq!(used(), (vec![true, true], 1, 2));
    ns.remove_snapshot("newer", 5).unwrap();
    assert_eq!(used(), (vec![true, false], 1, 1));
    ns.remove_snapshot("older", 5).unwrap();
    assert_eq!(used(), (vec![false, false], 0, 0));
}

/// A directory that is too large to be held whole, listed while its entries go.
#[test]
fn a_large_directory_is_listed_as_it_was_while_it_is_emptied() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let count = 3000;
    for i in 0..count {
        make(&ns, ROOT_INO, &format!("f{i}"));
    }
    let epoch = mark(&ns, "s");
    let view = ns.at(epoch).unwrap();
    let (mut seen, mut after, mut turn) = (0, Cookie(0), 0);
    loop {
        let page = view.readdir(ROOT_INO, after, 100).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().all(|e| e.cookie > after));
        (seen, after) = (seen + page.len(), last.cookie);
        for i in (turn * 100..(turn + 1) * 100).map(|i| count - 1 - i) {
            ns.unlink(ROOT_INO, format!("f{i}").as_bytes(), 4).unwrap();
        }
        if turn % 5 == 0 {
            ns.checkpoint(ns.acknowledged()).unwrap();
        }
        turn += 1;
    }
    assert_eq!(seen, count);
    healthy(&ns);
}

#[test]
fn a_snapshot_that_is_gone_answers_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    make(&ns, ROOT_INO, "f");
    let epoch = mark(&ns, "s");
    let view = ns.at(epoch).unwrap();
    view.lookup(ROOT_INO, b"f").unwrap();
    ns.remove_snapshot("s", 3).unwrap();
    let gone = |error| assert!(matches!(error, MetaError::NotFound), "{error}");
    gone(view.getattr(ROOT_INO).unwrap_err());
    gone(view.readdir(ROOT_INO, Cookie(0), 9).unwrap_err());
    gone(ns.diff(epoch, None).unwrap_err());
    gone(ns.restore(epoch, b"", called("x"), 3).unwrap_err());
    let to = CloneTo {
        parent: ROOT_INO,
        name: b"c",
        without: None,
    };
    gone(ns.clone_tree(Some(epoch), ROOT_INO, to, 3).unwrap_err());
    // Its name is free again.
    assert!(mark(&ns, "s") > epoch);
    healthy(&ns);
}

#[test]
fn whoever_has_a_file_open_keeps_it_through_a_restore() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = make_dir(&ns, ROOT_INO, "d");
    let f = make(&ns, d, "f");
    write(&ns, f, 0, 10, 4096);
    let epoch = mark(&ns, "s");
    let old_runs = ns.map(f, 0, 100).unwrap();
    write(&ns, f, 0, 30, 9000);
    let new_runs = ns.map(f, 0, 100).unwrap();
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    let back = ns.lookup(d, b"f").unwrap();
    assert_ne!(back.ino, f);
    assert_eq!(ns.map(back.ino, 0, 100).unwrap(), old_runs);
    // The present one is there without a name until nobody holds it.
    assert_eq!(restored.orphans, [f]);
    assert_eq!(ns.map(f, 0, 100).unwrap(), new_runs);
    assert_eq!(ns.getattr(f).unwrap().nlink, 0);
    assert_eq!(ns.lookup(ROOT_INO, b"d").unwrap().ino, d);
    ns.reclaim(&restored.orphans, 10).unwrap();
    healthy(&ns);
    // And it can be undone.
    let safety = restored.safety.unwrap().epoch;
    ns.restore(safety, b"", called("again"), 11).unwrap();
    let back = ns.lookup(d, b"f").unwrap();
    assert_eq!(ns.map(back.ino, 0, 100).unwrap(), new_runs);
    healthy(&ns);
}

/// The row of the directory is the same before and after: what changed is only the attribute.
#[test]
fn an_attribute_goes_back_within_one_tick_of_the_clock() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = make_dir(&ns, ROOT_INO, "d");
    let epoch = mark(&ns, "s");
    ns.setxattr(d, b"user.a", b"b", XattrMode::Any, 9).unwrap();
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    assert_eq!(restored.inodes, [d]);
    assert!(ns.listxattr(d).unwrap().is_empty());
    ns.drop_caches();
    assert!(ns.listxattr(d).unwrap().is_empty());
}

#[test]
fn a_link_across_the_border_comes_back_as_a_copy() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = make_dir(&ns, ROOT_INO, "d");
    let f = make(&ns, d, "f");
    ns.link(f, d, b"inside", 2).unwrap();
    ns.link(f, ROOT_INO, b"outside", 2).unwrap();
    write(&ns, f, 0, 10, 4096);
    let epoch = mark(&ns, "s");
    let old_runs = ns.map(f, 0, 100).unwrap();
    write(&ns, f, 0, 30, 9000);
    let new_runs = ns.map(f, 0, 100).unwrap();
    ns.restore(epoch, b"d", called("safety"), 9).unwrap();
    assert_eq!(ns.lookup(ROOT_INO, b"outside").unwrap().ino, f);
    assert_eq!(ns.map(f, 0, 100).unwrap(), new_runs);
    let back = ns.lookup(d, b"f").unwrap();
    assert_eq!(ns.lookup(d, b"inside").unwrap().ino, back.ino);
    assert_eq!((back.nlink, ns.getattr(f).unwrap().nlink), (2, 1));
    assert_eq!(ns.map(back.ino, 0, 100).unwrap(), old_runs);
    healthy(&ns);
}

/// The file itself did not change, only its name inside went.
#[test]
fn a_name_that_went_comes_back_as_a_copy_of_what_is_linked_outside() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = make_dir(&ns, ROOT_INO, "d");
    let f = make(&ns, d, "f");
    write(&ns, f, 0, 10, 4096);
    ns.link(f, ROOT_INO, b"outside", 2).unwrap();
    let epoch = mark(&ns, "s");
    ns.unlink(d, b"f", 3).unwrap();
    ns.restore(epoch, b"d", called("safety"), 9).unwrap();
    let back = ns.lookup(d, b"f").unwrap();
    assert_ne!(back.ino, f);
    assert_eq!((back.nlink, ns.getattr(f).unwrap().nlink), (1, 1));
    assert_eq!(
        ns.map(back.ino, 0, 100).unwrap(),
        ns.map(f, 0, 100).unwrap()
    );
    healthy(&ns);
}

#[test]
fn a_directory_under_the_name_of_another_goes_back_to_its_own() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    make_dir(&ns, ROOT_INO, "a");
    let b = make_dir(&ns, ROOT_INO, "b");
    let epoch = mark(&ns, "s");
    ns.rmdir(ROOT_INO, b"a", 3).unwrap();
    rename(&ns, (ROOT_INO, "b"), (ROOT_INO, "a"));
    ns.restore(epoch, b"", called("safety"), 9).unwrap();
    assert_eq!(ns.lookup(ROOT_INO, b"b").unwrap().ino, b);
    assert_ne!(ns.lookup(ROOT_INO, b"a").unwrap().ino, b);
    healthy(&ns);
}

#[test]
fn directories_that_were_moved_into_each_other_go_back_as_they_are() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let (a, b) = (make_dir(&ns, ROOT_INO, "a"), make_dir(&ns, ROOT_INO, "b"));
    let c = make_dir(&ns, a, "c");
    let f = make(&ns, c, "f");
    let epoch = mark(&ns, "s");
    // /a/c/f becomes /c/b/a, and the file comes to lie above.
    rename(&ns, (a, "c"), (ROOT_INO, "c"));
    rename(&ns, (ROOT_INO, "b"), (c, "b"));
    rename(&ns, (ROOT_INO, "a"), (b, "a"));
    rename(&ns, (c, "f"), (ROOT_INO, "a"));
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    let at = |parent, name: &[u8]| ns.lookup(parent, name).unwrap().ino;
    assert_eq!(
        (at(ROOT_INO, b"a"), at(ROOT_INO, b"b"), at(a, b"c")),
        (a, b, c)
    );
    assert_eq!(at(c, b"f"), f);
    assert_eq!(restored.orphans, []);
    assert_eq!(ns.diff(epoch, None).unwrap(), vec![]);
    healthy(&ns);
}

#[test]
fn one_file_comes_back_with_the_directories_above_it() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = make_dir(&ns, ROOT_INO, "d");
    ns.setxattr(d, b"user.a", b"b", XattrMode::Any, 3).unwrap();
    let f = make(&ns, d, "f");
    write(&ns, f, 0, 10, 4096);
    make(&ns, d, "g");
    let epoch = mark(&ns, "s");
    for name in [b"f", b"g"] {
        ns.unlink(d, name, 4).unwrap();
    }
    ns.rmdir(ROOT_INO, b"d", 4).unwrap();
    ns.restore(epoch, b"/d/f", called("safety"), 9).unwrap();
    let d = ns.lookup(ROOT_INO, b"d").unwrap().ino;
    assert_eq!(&*ns.getxattr(d, b"user.a").unwrap(), b"b");
    assert_eq!(ns.lookup(d, b"f").unwrap().size, 10);
    assert!(matches!(ns.lookup(d, b"g"), Err(MetaError::NotFound)));
    healthy(&ns);
    // A file in the way of a directory is not taken away for one below it.
    ns.unlink(d, b"f", 10).unwrap();
    ns.rmdir(ROOT_INO, b"d", 10).unwrap();
    make(&ns, ROOT_INO, "d");
    let error = ns.restore(epoch, b"d/f", called("x"), 11).unwrap_err();
    assert!(matches!(error, MetaError::NotDir), "{error}");
    let error = ns.restore(epoch, b"d/h", called("x"), 11).unwrap_err();
    assert!(matches!(error, MetaError::NotFound), "{error}");
    healthy(&ns);
}

/// Readers see the tree before a restore or after it: never a directory that does not fit its entries.
#[test]
fn readers_go_on_while_a_tree_is_restored_back_and_forth() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    for i in 0..20 {
        let d = make_dir(&ns, ROOT_INO, &format!("d{i}"));
        for j in 0..20 {
            make(&ns, d, &format!("f{j}"));
        }
    }
    let full = mark(&ns, "full");
    for i in 0..20 {
        let d = ns.lookup(ROOT_INO, format!("d{i}").as_bytes()).unwrap().ino;
        for j in (i % 2..20).step_by(2) {
            ns.unlink(d, format!("f{j}").as_bytes(), 4).unwrap();
        }
    }
    let half = mark(&ns, "half");
    let is_over = AtomicBool::new(false);
    let (ns, is_over) = (&ns, &is_over);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    ns.drop_caches();
                    for d in ns.readdir(ROOT_INO, Cookie(0), 100).unwrap() {
                        let entries = ns.readdir(d.ino, Cookie(0), 100).unwrap().len();
                        assert!(entries == 20 || entries == 10, "{entries}");
                    }
                }
            });
        }
        let _over = Over(is_over);
        for turn in 0..30 {
            let to = if turn % 2 == 0 { full } else { half };
            let safety = called(&format!("safety{turn}"));
            let restored = ns.restore(to, b"", safety, 9).unwrap();
            assert_eq!(restored.entries.len(), 200);
            ns.reclaim(&restored.orphans, 10).unwrap();
        }
    });
    healthy(ns);
}

/// Made, read and removed while somebody else changes everything.
#[test]
fn snapshots_hold_still_while_others_write() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let is_over = AtomicBool::new(false);
    let (ns, is_over) = (&ns, &is_over);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut turn: u64 = 0;
            while !is_over.load(Ordering::Relaxed) {
                let d = make_dir(ns, ROOT_INO, &format!("d{turn}"));
                let f = make(ns, d, "f");
                write(ns, f, 0, 10, 4096 + turn * 20);
                rename(ns, (d, "f"), (ROOT_INO, "f"));
                if let Some(old) = turn.checked_sub(5) {
                    let name = format!("d{old}");
                    if let Some(gone) = ns.rmdir(ROOT_INO, name.as_bytes(), 4).unwrap() {
                        ns.reclaim(&[gone], 4).unwrap();
                    }
                }
                turn += 1;
            }
        });
        let _over = Over(is_over);
        for turn in 0..30 {
            let name = format!("s{turn}");
            let view = From::At(ns.at(mark(ns, &name)).unwrap());
            let then = tree::read(view, ROOT_INO);
            ns.checkpoint(ns.acknowledged()).unwrap();
            assert_eq!(tree::read(view, ROOT_INO), then);
            if turn > 5 && turn % 3 > 0 {
                ns.remove_snapshot(&format!("s{}", turn - 5), 5).unwrap();
                assert_eq!(tree::read(view, ROOT_INO), then);
            }
        }
    });
    healthy(ns);
}

/// Databases from before there were snapshots.
#[test]
fn a_database_of_the_first_version_is_migrated() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = make(&ns, ROOT_INO, "f");
    write(&ns, f, 0, 10, 4096);
    let before = tree::now(&ns);
    ns.close().unwrap();
    drop(ns);
    let c = rusqlite::Connection::open(tmp.path().join("meta.db")).unwrap();
    for table in ["inode", "dirent", "extent", "xattr", "symlink"] {
        c.execute_batch(&format!("DROP TABLE {table}_undo"))
            .unwrap();
    }
    c.execute_batch(
        "DROP INDEX dirent_by_ino;
         ALTER TABLE snapshot DROP COLUMN next_ino;
         ALTER TABLE pack DROP COLUMN dead_ms;
         ALTER TABLE pack DROP COLUMN dead_seq;
         CREATE TABLE undo (epoch INTEGER NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, row BLOB,
                            PRIMARY KEY (epoch, tbl, key)) STRICT, WITHOUT ROWID;
         PRAGMA user_version = 1",
    )
    .unwrap();
    drop(c);
    let ns = open(tmp.path());
    assert_eq!(tree::now(&ns), before);
    let epoch = mark(&ns, "s");
    write(&ns, f, 0, 10, 9000);
    let view = From::At(ns.at(epoch).unwrap());
    assert_eq!(tree::read(view, ROOT_INO), before);
    healthy(&ns);
}

#[test]
fn planted_damage_of_what_was_kept_is_found_by_name() {
    let plant = |sql: &str| {
        let tmp = tempfile::tempdir().unwrap();
        let ns = open(tmp.path());
        let f = make(&ns, ROOT_INO, "f");
        write(&ns, f, 0, 10, 4096);
        mark(&ns, "s");
        write(&ns, f, 0, 30, 9000);
        ns.setxattr(f, b"user.a", b"b", XattrMode::Any, 3).unwrap();
        make(&ns, ROOT_INO, "g");
        ns.unlink(ROOT_INO, b"f", 4).unwrap();
        ns.close().unwrap();
        drop(ns);
        let c = rusqlite::Connection::open(tmp.path().join("meta.db")).unwrap();
        assert_eq!(check(&c).unwrap().findings, vec![]);
        c.execute_batch(sql).unwrap();
        let findings = check(&c).unwrap().findings;
        findings
            .into_iter()
            .map(|f| f.invariant)
            .collect::<Vec<_>>()
    };
    for (sql, invariant) in [
        ("DELETE FROM snapshot", "undo-snapshot"),
        ("DELETE FROM inode_undo WHERE ino = 2", "undo-complete"),
        (
            "DELETE FROM dirent_undo WHERE name = x'67'",
            "undo-complete",
        ),
        ("DELETE FROM extent_undo", "undo-complete"),
        ("DELETE FROM xattr_undo", "undo-complete"),
        ("UPDATE inode SET epoch = 9", "epoch-counter"),
        (
            "DELETE FROM setting WHERE name = 'next_epoch'",
            "epoch-counter",
        ),
        // The snapshot's tree, which nobody sees otherwise.
        ("DELETE FROM dirent_undo WHERE name = x'66'", "dir-counts"),
        (
            "UPDATE inode_undo SET nlink = 7 WHERE ino = 2",
            "link-count",
        ),
        ("UPDATE extent_undo SET extent = 77", "extent-location"),
        ("UPDATE extent_undo SET len = 5", "allocated"),
        (
            "UPDATE inode_undo SET mode = 33188 WHERE ino = 1",
            "dirent-parent",
        ),
    ] {
        let found = plant(sql);
        assert!(found.contains(&invariant), "{sql}: {found:?}");
    }
}

#[test]
fn a_copy_of_everything_lies_in_it_and_leaves_out_what_it_should() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let (hidden, kept) = (
        make_dir(&ns, ROOT_INO, "hidden"),
        make_dir(&ns, ROOT_INO, "kept"),
    );
    make(&ns, kept, "f");
    let copies = make_dir(&ns, hidden, "copies");
    for name in [b"one".as_slice(), b"two"] {
        let to = CloneTo {
            parent: copies,
            name,
            without: Some(copies),
        };
        let made = ns.clone_tree(None, ROOT_INO, to, 3).unwrap();
        let in_it = ns.lookup(made.ino, b"kept").unwrap();
        ns.lookup(in_it.ino, b"f").unwrap();
        let in_it = ns.lookup(made.ino, b"hidden").unwrap();
        assert_eq!((in_it.size, in_it.nlink), (0, 2), "no copy of a copy");
    }
    healthy(&ns);
}

/// However much there is to compare: what writes goes on, and the database comes to rest in between.
#[test]
fn a_long_diff_holds_up_nobody() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path());
    let f = make(&ns, ROOT_INO, "f");
    for i in 0..30 {
        let d = make_dir(&ns, ROOT_INO, &format!("d{i}"));
        for j in 0..200 {
            make(&ns, d, &format!("f{j}"));
        }
    }
    let old = mark(&ns, "old");
    for i in 0..30 {
        let d = ns.lookup(ROOT_INO, format!("d{i}").as_bytes()).unwrap().ino;
        for j in 0..200 {
            rename(&ns, (d, &format!("f{j}")), (d, &format!("g{j}")));
        }
        make(&ns, d, "new");
    }
    let new = mark(&ns, "new");
    assert_eq!(ns.changed_since(old, 5000).unwrap(), 5000);
    assert!(ns.changed_since(new, 5000).unwrap() < 10);
    let is_over = AtomicBool::new(false);
    let (ns, is_over) = (&ns, &is_over);
    let between = std::thread::scope(|threads| {
        let comparing = threads.spawn(|| {
            let _over = Over(is_over);
            for _ in 0..3 {
                let found = ns.diff(old, Some(new)).unwrap();
                let renamed = found.iter().filter(|one| one.from.is_some()).count();
                assert_eq!((found.len(), renamed), (6030, 6000));
            }
        });
        let mut between = 0;
        while !is_over.load(Ordering::Relaxed) {
            write(ns, f, 0, 10, 4096);
            ns.cut(|_| ()).unwrap();
            between += 1;
        }
        comparing.join().unwrap();
        between
    });
    assert!(between > 0);
    healthy(ns);
}

/// A file that changed below a directory which was renamed: where it was is told, whatever is asked for.
#[test]
fn what_changed_below_a_renamed_directory_says_where_it_was() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let a = make_dir(&ns, ROOT_INO, "a");
    let deep = make_dir(&ns, a, "deep");
    let f = make(&ns, deep, "f");
    write(&ns, f, 0, 10, 4096);
    let old = mark(&ns, "old");
    rename(&ns, (ROOT_INO, "a"), (ROOT_INO, "b"));
    write(&ns, f, 0, 10, 8192);
    make(&ns, deep, "saved");
    let saved = mark(&ns, "saved");
    let found = ns.diff(old, Some(saved)).unwrap();
    let told: Vec<_> = found
        .iter()
        .filter(|one| one.before.is_some())
        .map(|one| (&one.path[..], one.from.as_deref(), one.old_path.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (&b"b"[..], Some(&b"a"[..]), None),
            (&b"b/deep/f"[..], None, Some(&b"a/deep/f"[..]))
        ]
    );
    rename(&ns, (ROOT_INO, "b"), (ROOT_INO, "c"));
    // Another file under its name, as editors write it.
    ns.unlink(deep, b"saved", 6).unwrap();
    let again = make(&ns, deep, "saved");
    write(&ns, again, 0, 10, 12288);
    let found = ns.diff(saved, None).unwrap();
    let changed: Vec<_> = found.iter().filter(|one| one.old_path.is_some()).collect();
    assert_eq!(changed.len(), 1, "{found:?}");
    assert_eq!(
        (&changed[0].path[..], changed[0].old_path.as_deref()),
        (&b"c/deep/saved"[..], Some(&b"b/deep/saved"[..]))
    );
    assert!(changed[0].content);
    healthy(&ns);
}

#[test]
fn there_is_an_end_to_the_number_of_snapshots() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path());
    make(&ns, ROOT_INO, "f");
    let first = mark(&ns, "first");
    let most = super::super::MAX_SNAPSHOTS;
    // As many as there can be, without making each.
    ns.snapshots.lock().all.extend((1..most as u64).map(|n| {
        let next_ino = ns.numbers.next_ino();
        let epoch = Epoch(first.0 + n);
        (
            epoch,
            called(&format!("s{n}")).made(epoch, next_ino, crate::ids::Lsn(1)),
        )
    }));
    let refused = ns.create_snapshot(called("one more")).unwrap_err();
    assert!(matches!(refused, MetaError::TooManySnapshots(n) if n == most));
    let refused = ns.restore(first, b"", called("safety"), 9);
    // Nothing has changed, so there is nothing to keep.
    assert!(refused.unwrap().safety.is_none());
    make(&ns, ROOT_INO, "g");
    let refused = ns.restore(first, b"", called("safety"), 9).unwrap_err();
    assert!(
        matches!(refused, MetaError::TooManySnapshots(_)),
        "{refused}"
    );
    assert!(ns.lookup(ROOT_INO, b"g").is_ok());
}

#[test]
fn what_went_is_told_before_what_came_in_its_place() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    make(&ns, ROOT_INO, "f");
    let old = mark(&ns, "old");
    ns.unlink(ROOT_INO, b"f", 3).unwrap();
    make_dir(&ns, ROOT_INO, "f");
    let found = ns.diff(old, None).unwrap();
    let told: Vec<_> = found.iter().map(|one| one.after.is_some()).collect();
    assert_eq!(told, [false, true]);
}
