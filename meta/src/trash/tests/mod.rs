//! The trash of a namespace: cases that have a name, and random histories.

mod cases;
mod damage;
pub(crate) mod model;

use std::path::Path;
use std::sync::Arc;

use crate::ids::{Ino, ROOT_INO};
use crate::namespace::Namespace;
use crate::namespace::tests::{NoBytes, dir, file, settings};
use crate::settings::MetaSettings;

use super::{PurgeLimits, Purged};

/// A second in nanoseconds: times of operations.
pub(super) const SECOND: i64 = 1_000_000_000;

/// A namespace whose checkpointer does nothing by itself.
pub(super) fn quiet(folder: &Path, trash: bool) -> Arc<Namespace> {
    let settings = MetaSettings {
        checkpoint_interval: std::time::Duration::from_secs(3600),
        trash,
        ..settings(folder)
    };
    Namespace::open(settings, Arc::new(NoBytes), (0, 0), 1).unwrap()
}

pub(super) fn make(ns: &Namespace, parent: Ino, name: &str) -> Ino {
    ns.create(parent, name.as_bytes(), &file(), 2).unwrap().ino
}

pub(super) fn make_dir(ns: &Namespace, parent: Ino, name: &str) -> Ino {
    ns.create(parent, name.as_bytes(), &dir(), 2).unwrap().ino
}

/// What there is by now is published, so it is old enough for the trash.
pub(super) fn publish(ns: &Namespace) {
    ns.cut(|_| ()).unwrap();
}

/// Removes everything in a directory, as `rm -rf` does, and the directory.
pub(super) fn remove_tree(ns: &Namespace, parent: Ino, name: &[u8], now_ns: i64) {
    let row = ns.lookup(parent, name).unwrap();
    if !row.is_dir() {
        end(ns, ns.unlink(parent, name, now_ns).unwrap());
        return;
    }
    for entry in ns
        .readdir(row.ino, crate::ids::Cookie(0), usize::MAX)
        .unwrap()
    {
        remove_tree(ns, row.ino, &entry.name, now_ns);
    }
    end(ns, ns.rmdir(parent, name, now_ns).unwrap());
}

/// Nobody holds what lost its last name.
pub(super) fn end(ns: &Namespace, orphan: Option<Ino>) {
    ns.reclaim(&orphan.into_iter().collect::<Vec<_>>(), 1)
        .unwrap();
}

/// Ends everything in the trash that was removed up to a time, and what loses its last name by it.
pub(super) fn purge(ns: &Namespace, until_ms: u64) -> Purged {
    let mut all = Purged::default();
    loop {
        let purged = ns.purge_trash(PurgeLimits::until(until_ms), 1).unwrap();
        ns.reclaim(&purged.orphans, 1).unwrap();
        all.names += purged.names;
        all.bytes += purged.bytes;
        all.orphans.extend(purged.orphans);
        if !purged.more || purged.names == 0 {
            return all;
        }
    }
}

/// The listing: path, files and bytes of each entry.
pub(super) fn listed(ns: &Namespace, path: &str) -> Vec<(String, u64, u64)> {
    let entries = ns.trash(path.as_bytes()).unwrap();
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    entries
        .iter()
        .map(|e| (shown(&e.path), e.files, e.bytes))
        .collect()
}

/// Rows of a table.
pub(super) fn rows(ns: &Namespace, table: &str) -> i64 {
    ns.checkpoint(ns.acknowledged()).unwrap();
    let sql = format!("SELECT count(*) FROM {table}");
    ns.readers
        .with(|c| c.query_row(&sql, [], |r| r.get(0)))
        .unwrap()
}

/// The inode of a path.
pub(super) fn walk(ns: &Namespace, path: &str) -> Option<Ino> {
    let names = path.split('/').filter(|name| !name.is_empty());
    let mut at = ROOT_INO;
    for name in names {
        at = ns.lookup(at, name.as_bytes()).ok()?.ino;
    }
    Some(at)
}
