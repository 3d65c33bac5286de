//! What happens around a restore: writes into files that it replaced, a lease that ends, a disk that is slow, and somebody
//! who takes it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::MetaError;
use crate::ids::{Epoch, Ino, ROOT_INO};
use crate::namespace::tests::{NoBytes, dir, file, healthy, open, settings, write};
use crate::namespace::{AttrChange, Namespace, XattrMode};
use crate::settings::{MetaSettings, Permit};
use crate::snapshot::{CloneTo, Order, Restored};
use crate::trash::{PurgeLimits, TrashRestore};

use super::called;
use super::tree::{self, From};

fn make(ns: &Namespace, name: &str) -> Ino {
    ns.create(ROOT_INO, name.as_bytes(), &file(), 2)
        .unwrap()
        .ino
}

fn mark(ns: &Namespace, name: &str) -> Epoch {
    ns.create_snapshot(called(name)).unwrap().epoch
}

/// Whoever opened a file by its old name while a restore was under way has written into what has no name any more.
#[test]
fn what_is_written_into_replaced_files_is_in_the_snapshot_of_what_was_before() {
    let tmp = tempfile::tempdir().unwrap();
    let mut ns = open(tmp.path());
    let (f, g, h) = (make(&ns, "f"), make(&ns, "g"), make(&ns, "h"));
    for (ino, at) in [(f, 4096), (g, 8192), (h, 12288)] {
        write(&ns, ino, 0, 40, at);
    }
    let epoch = mark(&ns, "s");
    let old = tree::now(&ns);
    write(&ns, f, 10, 10, 20480);
    ns.setxattr(g, b"user.a", b"b", XattrMode::Any, 6).unwrap();
    let chmod = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    ns.setattr(h, &chmod, 6).unwrap();
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    assert_eq!(restored.orphans, [f, g, h]);
    write(&ns, f, 40, 10, 24576);
    ns.checkpoint(ns.acknowledged()).unwrap();
    let later = mark(&ns, "later");
    write(&ns, f, 0, 5, 28672);
    let cut = AttrChange {
        size: Some(7),
        ..AttrChange::default()
    };
    ns.setattr(g, &cut, 11).unwrap();
    let (runs, cut) = (ns.map(f, 0, 100).unwrap(), ns.map(g, 0, 100).unwrap());
    assert_eq!(ns.keep_late_writes(&restored, 12).unwrap(), 2);
    // Written on behind that.
    write(&ns, f, 90, 5, 32768);
    let safety = restored.safety.as_ref().unwrap().epoch;
    let check = |ns: &Namespace| {
        let view = ns.at(safety).unwrap();
        for (name, ino, is) in [("f", f, &runs), ("g", g, &cut)] {
            let row = view.lookup(ROOT_INO, name.as_bytes()).unwrap();
            assert_eq!((row.ino, row.size, row.nlink), (ino, is.0, 1), "{name}");
            assert_eq!(&view.map(ino, 0, 100).unwrap(), is, "{name}");
        }
        assert_eq!(view.lookup(ROOT_INO, b"h").unwrap().mode & 0o777, 0o600);
        assert_eq!(view.map(h, 0, 100).unwrap().0, 40);
        let view = ns.at(epoch).unwrap();
        assert_eq!(tree::read(From::At(view), ROOT_INO), old);
        let now = tree::now(ns);
        let view = ns.at(later).unwrap();
        assert_eq!(tree::read(From::At(view), ROOT_INO), now);
        healthy(ns);
    };
    check(&ns);
    ns.reclaim(&restored.orphans, 13).unwrap();
    check(&ns);
    ns.abandon();
    drop(ns);
    ns = open(tmp.path());
    check(&ns);
    // And it can be gone back to.
    ns.restore(safety, b"", called("again"), 14).unwrap();
    let back = ns.lookup(ROOT_INO, b"f").unwrap().ino;
    assert_eq!(ns.map(back, 0, 100).unwrap(), runs);
    healthy(&ns);
}

/// A file that is in the trash by one name, and lost its other one by a restore that is not over.
fn replaced_and_in_the_trash(dir: &std::path::Path) -> (Arc<Namespace>, Ino, Restored) {
    let ns = open(dir);
    let epoch = mark(&ns, "s");
    let f = make(&ns, "f");
    write(&ns, f, 0, 40, 4096);
    ns.link(f, ROOT_INO, b"g", 3).unwrap();
    mark(&ns, "older");
    assert_eq!(ns.unlink(ROOT_INO, b"g", 4).unwrap(), None);
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    assert_eq!(restored.orphans, []);
    (ns, f, restored)
}

/// A file that a restore takes the last name of is in the trash then, if it has had another name that is there.
#[test]
fn what_is_written_into_replaced_files_in_the_trash_is_in_that_snapshot_too() {
    let tmp = tempfile::tempdir().unwrap();
    let (ns, f, restored) = replaced_and_in_the_trash(tmp.path());
    write(&ns, f, 10, 10, 20480);
    let runs = ns.map(f, 0, 100).unwrap();
    assert_eq!(ns.keep_late_writes(&restored, 12).unwrap(), 1);
    let check = || {
        let view = ns.at(restored.safety.as_ref().unwrap().epoch).unwrap();
        assert_eq!(view.lookup(ROOT_INO, b"f").unwrap().ino, f);
        assert_eq!(view.map(f, 0, 100).unwrap(), runs);
        healthy(&ns);
    };
    check();
    // What becomes of it in the trash is nothing to the snapshot.
    mark(&ns, "later");
    write(&ns, f, 50, 10, 24576);
    check();
    let purged = ns.purge_trash(PurgeLimits::until(u64::MAX), 20).unwrap();
    assert_eq!(purged.orphans, [f]);
    ns.reclaim(&purged.orphans, 21).unwrap();
    check();
}

/// What is written into such a file is not lost because somebody empties the trash meanwhile.
#[test]
fn the_trash_keeps_what_was_replaced_until_late_writes_are_moved() {
    let tmp = tempfile::tempdir().unwrap();
    let (ns, f, restored) = replaced_and_in_the_trash(tmp.path());
    write(&ns, f, 10, 10, 20480);
    let runs = ns.map(f, 0, 100).unwrap();
    let purged = ns.purge_trash(PurgeLimits::until(u64::MAX), 11).unwrap();
    ns.reclaim(&purged.orphans, 11).unwrap();
    assert_eq!(ns.keep_late_writes(&restored, 12).unwrap(), 1);
    let purged = ns.purge_trash(PurgeLimits::until(u64::MAX), 13).unwrap();
    assert_eq!(purged.orphans, [f]);
    ns.reclaim(&purged.orphans, 13).unwrap();
    let view = ns.at(restored.safety.as_ref().unwrap().epoch).unwrap();
    assert_eq!(view.map(f, 0, 100).unwrap(), runs);
    healthy(&ns);
}

/// What has a name again belongs to the present, and to the snapshots that were made of it.
#[test]
fn nothing_is_moved_from_what_came_back_meanwhile() {
    let tmp = tempfile::tempdir().unwrap();
    let (ns, f, restored) = replaced_and_in_the_trash(tmp.path());
    let what = TrashRestore {
        path: b"g",
        to: None,
        until_ms: None,
    };
    ns.restore_trash(what, 10).unwrap();
    let was = ns.map(f, 0, 100).unwrap();
    let later = mark(&ns, "later");
    write(&ns, f, 10, 10, 20480);
    assert_eq!(ns.keep_late_writes(&restored, 12).unwrap(), 0);
    assert_eq!(ns.at(later).unwrap().map(f, 0, 100).unwrap(), was);
    let safety = restored.safety.as_ref().unwrap().epoch;
    assert_eq!(ns.at(safety).unwrap().map(f, 0, 100).unwrap(), was);
    healthy(&ns);
}

#[test]
fn without_a_write_nothing_is_moved() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = make(&ns, "f");
    let epoch = mark(&ns, "s");
    write(&ns, f, 0, 10, 4096);
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    // Another file is none of its business.
    write(&ns, make(&ns, "other"), 0, 10, 8192);
    let before = ns.acknowledged();
    assert_eq!(ns.keep_late_writes(&restored, 12).unwrap(), 0);
    assert_eq!(ns.acknowledged(), before);
    write(&ns, f, 0, 10, 12288);
    assert_eq!(ns.keep_late_writes(&restored, 12).unwrap(), 0);
    healthy(&ns);
}

/// Given so often, and then no more.
struct Ending(AtomicUsize);

impl Permit for Ending {
    fn holds(&self) -> bool {
        let left = &self.0;
        let fewer = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
        fewer.is_ok()
    }

    fn wait(&self) -> Result<(), String> {
        Err("the lease has ended".into())
    }
}

/// A lease that ends while a restore or a clone is worked out or written.
#[test]
fn nothing_is_restored_nor_cloned_once_the_lease_has_ended() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let permit = Arc::new(Ending(AtomicUsize::new(usize::MAX)));
    ns.set_permit(Arc::clone(&permit) as Arc<dyn Permit>);
    let d = ns.create(ROOT_INO, b"d", &dir(), 2);
    let d = d.unwrap().ino;
    let f = ns.create(d, b"f", &file(), 2).unwrap().ino;
    let epoch = mark(&ns, "s");
    write(&ns, f, 0, 10, 4096);
    let before = tree::now(&ns);
    let to = CloneTo {
        parent: ROOT_INO,
        name: b"copy",
        without: None,
    };
    // Beginning asks twice, and what comes before the rows are there has to ask again.
    for asked in 0..4 {
        permit.0.store(asked, Ordering::Release);
        let failed = ns.restore(epoch, b"", called(&format!("r{asked}")), 9);
        assert!(
            matches!(failed, Err(MetaError::ReadOnly(_))),
            "{asked}: {failed:?}"
        );
        assert_eq!(tree::now(&ns), before);
        if asked < 3 {
            permit.0.store(asked, Ordering::Release);
            let failed = ns.clone_tree(None, d, to, 9);
            assert!(
                matches!(failed, Err(MetaError::ReadOnly(_))),
                "{asked}: {failed:?}"
            );
        }
        permit.0.store(usize::MAX, Ordering::Release);
        assert_eq!(tree::now(&ns), before);
        healthy(&ns);
    }
    let restored = ns.restore(epoch, b"", called("at last"), 9).unwrap();
    assert_eq!(restored.orphans, [f]);
    ns.clone_tree(None, d, to, 9).unwrap();
    healthy(&ns);
}

const NAMES: [&str; 5] = ["a", "b", "c", "e", "f"];

/// What has begun is waited for: to give it up would make the volume read-only.
#[test]
fn a_change_of_many_rows_may_take_longer_than_a_request() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = ns.create(ROOT_INO, b"d", &dir(), 2);
    let d = d.unwrap().ino;
    for n in 0..2000 {
        ns.create(d, format!("f{n}").as_bytes(), &file(), 2)
            .unwrap();
    }
    ns.checkpoint(ns.acknowledged()).unwrap();
    ns.checkpointer.set_deadline(Duration::from_millis(1));
    let mut is_late = 0;
    for name in NAMES {
        let to = CloneTo {
            parent: ROOT_INO,
            name: name.as_bytes(),
            without: None,
        };
        // What waits before that is given up, and nothing has happened.
        if let Err(error) = ns.clone_tree(None, d, to, 9) {
            assert!(matches!(error, MetaError::Overloaded(_)), "{error}");
            is_late += 1;
        }
        assert_eq!(ns.read_only(), None);
    }
    ns.checkpointer.set_deadline(Duration::from_secs(60));
    assert_eq!(ns.lookup(ROOT_INO, b"d").unwrap().nlink, 2);
    assert!(is_late < 5, "nothing was cloned");
    healthy(&ns);
}

#[test]
fn what_was_taken_back_does_not_happen() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = ns.create(ROOT_INO, b"d", &dir(), 2);
    let d = d.unwrap().ino;
    let epoch = mark(&ns, "s");
    ns.create(d, b"f", &file(), 2).unwrap();
    let before = tree::now(&ns);
    let order = Order::default();
    assert!(order.take_back());
    let to = CloneTo {
        parent: ROOT_INO,
        name: b"copy",
        without: None,
    };
    let taken_back = [
        ns.create_snapshot_on(&order, called("t")).map(drop),
        ns.restore_on(&order, epoch, b"", called("u"), 9).map(drop),
        ns.clone_tree_on(&order, None, d, to, 9).map(drop),
    ];
    for result in taken_back {
        assert!(matches!(result, Err(MetaError::TakenBack)), "{result:?}");
    }
    assert_eq!(tree::now(&ns), before);
    assert_eq!(ns.snapshots().len(), 1);
    let order = Order::default();
    ns.restore_on(&order, epoch, b"", called("u"), 9).unwrap();
    assert!(!order.take_back());
    healthy(&ns);
}

/// Resident memory of this process, KiB: now, and the most since it was last asked.
fn memory_kib() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let found = (field("VmRSS:"), field("VmHWM:"));
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    found
}

/// `WELDRFS_RESTORE_FILES` makes it larger, and what is printed worth reading.
#[test]
fn a_restore_of_many_changed_files() {
    let files = std::env::var("WELDRFS_RESTORE_FILES").map_or(1500, |n| n.parse().unwrap());
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let mut all = Vec::new();
    for n in 0..files {
        if n % 1000 == 0 {
            let name = format!("d{}", n / 1000);
            all.push((
                ns.create(ROOT_INO, name.as_bytes(), &dir(), 2).unwrap().ino,
                Vec::new(),
            ));
        }
        let (d, inside) = all.last_mut().unwrap();
        let f = ns
            .create(*d, format!("file-{n}").as_bytes(), &file(), 2)
            .unwrap()
            .ino;
        write(&ns, f, 0, 100, 4096 * n);
        inside.push(f);
    }
    let epoch = mark(&ns, "s");
    for (_, inside) in &all {
        for f in inside {
            write(&ns, *f, 0, 50, 4096 * files);
        }
    }
    ns.checkpoint(ns.acknowledged()).unwrap();
    let (before, _) = memory_kib();
    let restored = ns.restore(epoch, b"", called("safety"), 9).unwrap();
    let (_, most) = memory_kib();
    assert_eq!(restored.orphans.len() as u64, files);
    println!(
        "{} bytes of memory for each of {files} files",
        (most - before.min(most)) * 1024 / files
    );
    ns.drop_caches();
    for (d, inside) in &all {
        for d in ns.readdir(*d, crate::ids::Cookie(0), usize::MAX).unwrap() {
            assert!(!inside.contains(&d.ino));
            let (size, runs) = ns.map(d.ino, 0, 1000).unwrap();
            assert_eq!((size, runs.len()), (100, 1));
        }
    }
    healthy(&ns);
}

/// What is left on a full disk is for those who make room.
#[test]
fn nothing_is_made_that_grows_while_the_disk_is_full() {
    let tmp = tempfile::tempdir().unwrap();
    // A checkpoint would take the reserve back: none comes by itself.
    let quiet = MetaSettings {
        checkpoint_interval: Duration::from_secs(3600),
        ..settings(tmp.path())
    };
    let ns = Namespace::open(quiet, Arc::new(NoBytes), (0, 0), 1).unwrap();
    let d = ns.create(ROOT_INO, b"d", &dir(), 2).unwrap().ino;
    let f = ns.create(d, b"f", &file(), 2).unwrap().ino;
    let epoch = mark(&ns, "s");
    write(&ns, f, 0, 10, 4096);
    ns.checkpoint(ns.acknowledged()).unwrap();
    let before = tree::now(&ns);
    let to = CloneTo {
        parent: ROOT_INO,
        name: b"copy",
        without: None,
    };
    assert!(ns.reserve.give_up());
    let refused = [
        ns.create_snapshot(called("t")).map(drop),
        ns.restore(epoch, b"", called("u"), 9).map(drop),
        ns.clone_tree(None, d, to, 9).map(drop),
    ];
    for result in refused {
        assert!(matches!(result, Err(MetaError::NoSpace)), "{result:?}");
    }
    assert_eq!((tree::now(&ns), ns.snapshots().len()), (before, 1));
    // To remove one makes room.
    ns.remove_snapshot("s", 9).unwrap();
    ns.reserve.take();
    ns.create_snapshot(called("t")).unwrap();
    healthy(&ns);
}
