//! The namespace without bytes: a barrier that does nothing, made-up segments.

use std::path::Path;

use super::*;
use crate::ids::{Cookie, ROOT_INO};
use crate::rows::Place;

pub(crate) struct NoBytes;

impl DataBarrier for NoBytes {
    fn is_flushed(&self) -> bool {
        false
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn verify(&self, _: &crate::rows::Location, _: u64) -> bool {
        true
    }
}

pub(crate) fn settings(dir: &Path) -> MetaSettings {
    MetaSettings {
        dir: dir.to_owned(),
        checkpoint_interval: std::time::Duration::from_millis(20),
        cache_bytes: 64 << 10,
        ..MetaSettings::default()
    }
}

pub(crate) fn open(dir: &Path) -> Arc<Namespace> {
    Namespace::open(settings(dir), Arc::new(NoBytes), (0, 0), 1).unwrap()
}

pub(crate) fn file() -> NewNode<'static> {
    NewNode {
        mode: libc::S_IFREG | 0o644,
        uid: 1,
        gid: 2,
        rdev: 0,
        target: None,
    }
}

pub(crate) fn dir() -> NewNode<'static> {
    NewNode {
        mode: libc::S_IFDIR | 0o755,
        ..file()
    }
}

pub(crate) fn write(ns: &Namespace, ino: Ino, offset: u64, len: u64, segment_offset: u64) -> u64 {
    let extend = |sums: &[u32], _: u64| (sums.len(), vec![9]);
    let write = WriteAt {
        ino,
        offset,
        len,
        segment: 1,
        segment_offset,
        sums: vec![7],
        extend: &extend,
        kill_priv: false,
    };
    ns.write(write, 5).unwrap()
}

pub(crate) fn healthy(ns: &Namespace) {
    let report = ns.check().unwrap();
    assert_eq!(report.findings, vec![], "{report:?}");
}

#[test]
fn a_tree_survives_abandonment_and_reopening() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = ns.create(ROOT_INO, b"d", &dir(), 2).unwrap();
    for i in 0..500 {
        let f = ns
            .create(d.ino, format!("f{i}").as_bytes(), &file(), 3)
            .unwrap();
        write(&ns, f.ino, 0, 100, 4096 + i * 100);
        if i % 3 == 0 {
            ns.unlink(d.ino, format!("f{i}").as_bytes(), 4).unwrap();
        }
    }
    let link = NewNode {
        mode: libc::S_IFLNK | 0o777,
        target: Some(b"target"),
        ..file()
    };
    let s = ns.create(d.ino, b"s", &link, 3).unwrap();
    ns.setxattr(d.ino, b"user.a", b"b", XattrMode::Create, 9)
        .unwrap();
    let before = ns.getattr(d.ino).unwrap();
    ns.abandon();
    drop(ns);
    let ns = open(tmp.path());
    assert_eq!(ns.getattr(d.ino).unwrap(), before);
    assert_eq!(&*ns.readlink(s.ino).unwrap(), b"target");
    assert_eq!(&*ns.getxattr(d.ino, b"user.a").unwrap(), b"b");
    assert_eq!(
        ns.readdir(d.ino, Cookie(0), 10_000).unwrap().len() as u64,
        before.size
    );
    assert!(matches!(ns.lookup(d.ino, b"f0"), Err(MetaError::NotFound)));
    healthy(&ns);
}

#[test]
fn an_attribute_that_must_and_must_not_exist_is_refused_either_way() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let set = || {
        let mode = XattrMode::CreateAndReplace;
        ns.setxattr(ROOT_INO, b"user.a", b"new", mode, 2)
    };
    assert!(matches!(set(), Err(MetaError::NoAttribute)));
    ns.setxattr(ROOT_INO, b"user.a", b"old", XattrMode::Any, 3)
        .unwrap();
    assert!(matches!(set(), Err(MetaError::Exists)));
    assert_eq!(&*ns.getxattr(ROOT_INO, b"user.a").unwrap(), b"old");
}

#[test]
fn inode_numbers_are_not_reused_after_a_crash() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = ns.create(ROOT_INO, b"f", &file(), 2).unwrap();
    let orphan = ns.unlink(ROOT_INO, b"f", 3).unwrap().unwrap();
    ns.reclaim(&[orphan], 4).unwrap();
    ns.abandon();
    let ns = open(tmp.path());
    assert!(ns.create(ROOT_INO, b"g", &file(), 2).unwrap().ino > f.ino);
}

#[test]
fn an_orphan_is_gone_after_the_next_mount() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = ns.create(ROOT_INO, b"f", &file(), 2).unwrap();
    write(&ns, f.ino, 0, 10, 4096);
    assert_eq!(ns.unlink(ROOT_INO, b"f", 3).unwrap(), Some(f.ino));
    assert_eq!(ns.getattr(f.ino).unwrap().nlink, 0);
    healthy(&ns);
    ns.abandon();
    let ns = open(tmp.path());
    assert!(matches!(ns.getattr(f.ino), Err(MetaError::NotFound)));
    healthy(&ns);
    assert_eq!(ns.usage().inodes, 1);
    assert_eq!(ns.usage().bytes, 0);
}

#[test]
fn a_large_directory_lists_every_name_once_while_it_changes() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let d = ns.create(ROOT_INO, b"d", &dir(), 2).unwrap().ino;
    let count = crate::settings::WHOLE_DIR_ENTRIES + 2000;
    for i in 0..count {
        ns.create(d, format!("stable{i}").as_bytes(), &file(), 3)
            .unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut after = Cookie(0);
    let mut turn = 0;
    loop {
        let page = ns.readdir(d, after, 100).unwrap();
        let Some(last) = page.last() else { break };
        after = last.cookie;
        for entry in &page {
            assert!(seen.insert(entry.name.to_vec()), "listed twice: {entry:?}");
        }
        turn += 1;
        // A reader that meets something new on every page would never end.
        if turn > 60 {
            continue;
        }
        ns.create(d, format!("new{turn}").as_bytes(), &file(), 3)
            .unwrap();
        if turn > 1 {
            ns.unlink(d, format!("new{}", turn - 1).as_bytes(), 4)
                .unwrap();
        }
        if turn % 7 == 0 {
            ns.checkpoint(ns.acknowledged()).unwrap();
        }
        ns.drop_caches();
    }
    assert_eq!(
        seen.iter().filter(|n| n.starts_with(b"stable")).count() as u64,
        count
    );
    healthy(&ns);
}

#[test]
fn adjacent_writes_become_one_run_and_others_do_not() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = ns.create(ROOT_INO, b"f", &file(), 2).unwrap().ino;
    write(&ns, f, 0, 10, 4096);
    write(&ns, f, 10, 10, 4106);
    assert_eq!(ns.map(f, 0, 100).unwrap().1.len(), 1);
    let location = ns.location(ns.map(f, 0, 1).unwrap().1[0].extent).unwrap();
    assert_eq!(location.len, 20);
    assert_eq!(
        location.place,
        Place::Segment {
            segment: 1,
            offset: 4096
        }
    );
    write(&ns, f, 20, 10, 9000);
    assert_eq!(ns.map(f, 0, 100).unwrap().1.len(), 2);
    ns.abandon();
    let ns = open(tmp.path());
    assert_eq!(ns.map(f, 0, 100).unwrap().1.len(), 2);
    assert_eq!(ns.getattr(f).unwrap().allocated, 30);
    healthy(&ns);
}

#[test]
fn a_shared_extent_may_grow_without_anybody_noticing() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let f = ns.create(ROOT_INO, b"f", &file(), 2).unwrap().ino;
    let g = ns.create(ROOT_INO, b"g", &file(), 2).unwrap().ino;
    write(&ns, f, 0, 10, 4096);
    assert_eq!(ns.share((f, 0), (g, 5), 100, false, 3).unwrap(), 10);
    write(&ns, f, 10, 10, 4106);
    assert_eq!(ns.getattr(g).unwrap().size, 15);
    assert_eq!(
        ns.map(g, 0, 100)
            .unwrap()
            .1
            .iter()
            .map(|p| p.len)
            .sum::<u64>(),
        10
    );
    healthy(&ns);
}

#[test]
fn moving_a_directory_below_itself_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let ns = open(tmp.path());
    let a = ns.create(ROOT_INO, b"a", &dir(), 2).unwrap().ino;
    let b = ns.create(a, b"b", &dir(), 2).unwrap().ino;
    let plain = RenameFlags::default();
    assert!(matches!(
        ns.rename(ROOT_INO, b"a", b, b"x", plain, 3),
        Err(MetaError::Invalid(_))
    ));
    let swap = RenameFlags {
        exchange: true,
        ..plain
    };
    assert!(matches!(
        ns.rename(a, b"b", ROOT_INO, b"a", swap, 3),
        Err(MetaError::Invalid(_))
    ));
    ns.rename(a, b"b", ROOT_INO, b"b", plain, 4).unwrap();
    assert_eq!(ns.getattr(ROOT_INO).unwrap().nlink, 4);
    assert_eq!(ns.getattr(a).unwrap().nlink, 2);
    healthy(&ns);
}

/// A disk that lost everything at or behind an offset of the segment when the power failed.
struct Lost(u64);

impl DataBarrier for Lost {
    fn is_flushed(&self) -> bool {
        false
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn verify(&self, location: &crate::rows::Location, from_block: u64) -> bool {
        let Place::Segment { offset, .. } = location.place else {
            return true;
        };
        offset + from_block * 4096 < self.0
    }
}

#[test]
fn after_a_power_loss_the_history_is_a_prefix_with_everything_flushed() {
    let tmp = tempfile::tempdir().unwrap();
    let never = MetaSettings {
        checkpoint_interval: std::time::Duration::from_secs(3600),
        ..settings(tmp.path())
    };
    let ns = Namespace::open(never.clone(), Arc::new(NoBytes), (0, 0), 1).unwrap();
    let make = |i: u64| {
        let f = ns
            .create(ROOT_INO, format!("f{i}").as_bytes(), &file(), 2)
            .unwrap()
            .ino;
        write(&ns, f, 0, 4096, 4096 * (i + 1));
        f
    };
    for i in 0..10 {
        make(i);
    }
    ns.flush(ns.acknowledged()).unwrap();
    for i in 10..20 {
        make(i);
    }
    ns.abandon();
    drop(ns);
    // The disk kept what was flushed and the data of two files more.
    let other_boot = MetaSettings {
        boot_id: [9; 16],
        ..never
    };
    let ns = Namespace::open(other_boot, Arc::new(Lost(4096 * 13)), (0, 0), 1).unwrap();
    let there: Vec<bool> = (0..20)
        .map(|i| ns.lookup(ROOT_INO, format!("f{i}").as_bytes()).is_ok())
        .collect();
    // The thirteenth file was made, and its content is lost with everything after it.
    assert_eq!(there.iter().filter(|t| **t).count(), 13);
    assert!(there[..13].iter().all(|t| *t));
    let sizes: Vec<u64> = (0..13)
        .map(|i| {
            ns.lookup(ROOT_INO, format!("f{i}").as_bytes())
                .unwrap()
                .size
        })
        .collect();
    assert_eq!(sizes[..12], [4096; 12]);
    assert_eq!(sizes[12], 0);
    healthy(&ns);
}

#[test]
fn a_database_of_a_newer_version_is_refused_by_name() {
    let tmp = tempfile::tempdir().unwrap();
    open(tmp.path()).close().unwrap();
    let c = rusqlite::Connection::open(tmp.path().join("meta.db")).unwrap();
    c.pragma_update(None, "user_version", 99).unwrap();
    drop(c);
    let error = Namespace::open(settings(tmp.path()), Arc::new(NoBytes), (0, 0), 1).unwrap_err();
    assert!(
        matches!(error, MetaError::NewerFormat { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("meta.db"), vec![b'x'; 8192]).unwrap();
    let error = Namespace::open(settings(tmp.path()), Arc::new(NoBytes), (0, 0), 1).unwrap_err();
    assert!(
        matches!(
            error,
            MetaError::Damaged {
                what: "metadata database",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn planted_damage_is_found_by_name() {
    let plant = |sql: &str| {
        let tmp = tempfile::tempdir().unwrap();
        let ns = open(tmp.path());
        let d = ns.create(ROOT_INO, b"d", &dir(), 2).unwrap().ino;
        let f = ns.create(d, b"f", &file(), 2).unwrap().ino;
        write(&ns, f, 0, 10, 4096);
        let link = NewNode {
            mode: libc::S_IFLNK | 0o777,
            target: Some(b"target"),
            ..file()
        };
        ns.create(d, b"s", &link, 3).unwrap();
        ns.close().unwrap();
        drop(ns);
        let c = rusqlite::Connection::open(tmp.path().join("meta.db")).unwrap();
        assert_eq!(crate::check::check(&c).unwrap().findings, vec![]);
        c.execute_batch(sql).unwrap();
        crate::check::check(&c)
            .unwrap()
            .findings
            .iter()
            .map(|f| f.invariant)
            .collect::<Vec<_>>()
    };
    for (sql, invariant) in [
        ("DELETE FROM inode WHERE ino = 3", "dirent-inode"),
        ("UPDATE dirent SET kind = 4 WHERE ino = 3", "dirent-inode"),
        ("UPDATE inode SET size = 9 WHERE ino = 2", "dir-counts"),
        ("DELETE FROM dirent WHERE ino = 3", "dir-counts"),
        ("UPDATE inode SET nlink = 5 WHERE ino = 3", "link-count"),
        ("INSERT INTO orphan VALUES (3)", "orphan-row"),
        (
            "UPDATE setting SET value = 2 WHERE name = 'next_ino'",
            "counter",
        ),
        ("UPDATE extent SET len = 11", "extent-location"),
        ("UPDATE extent SET len = 0", "extent-order"),
        ("DELETE FROM location", "extent-location"),
        ("UPDATE inode SET allocated = 1 WHERE ino = 3", "allocated"),
        ("UPDATE inode SET parent = 2 WHERE ino = 2", "reachable"),
        (
            "UPDATE location SET segment = NULL, pack = 4",
            "location-pack",
        ),
        ("DELETE FROM symlink", "symlink-target"),
        ("INSERT INTO xattr VALUES (77, 'a', 'b', 0)", "xattr-inode"),
    ] {
        let sql = sql.replace("'a', 'b'", "x'61', x'62'");
        assert!(plant(&sql).contains(&invariant), "{sql}: {:?}", plant(&sql));
    }
}
