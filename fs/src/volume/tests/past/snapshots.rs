//! Snapshots made, removed and looked at, and what differs between them.

use super::differences::{differences, told, within};
use super::*;
use crate::SnapshotNames;

/// More are not kept, so that what they need dies, too.
const MOST_SNAPSHOTS: usize = 8;

impl Run {
    pub(super) fn some_snapshot(&mut self) -> Option<Arc<Past>> {
        self.now.snapshots.values().choose(&mut self.rng).cloned()
    }

    pub(super) fn make_snapshot(&mut self) {
        let name = format!("s{}", self.step);
        self.doing = format!("make the snapshot {name}");
        let names = SnapshotNames {
            name: Some(name),
            note: "why".into(),
            owner: "who".into(),
            kept: self.rng.random(),
        };
        let snapshot = self.engine().create_snapshot(names.clone()).unwrap();
        let again = self.engine().create_snapshot(names).map_err(|e| e.errno());
        assert_eq!(again, Err(libc::EEXIST), "{}", self.what());
        self.keep(snapshot, self.now.live.clone());
        while self.now.snapshots.len() > MOST_SNAPSHOTS {
            self.remove_snapshot();
        }
    }

    pub(super) fn keep(&mut self, snapshot: Snapshot, world: World) {
        let past = Past { snapshot, world };
        let epoch = past.snapshot.epoch;
        let other = self.now.snapshots.insert(epoch, Arc::new(past));
        assert!(other.is_none(), "{}", self.what());
    }

    pub(super) fn remove_snapshot(&mut self) {
        let Some(past) = self.some_snapshot() else {
            return;
        };
        let name = &past.snapshot.name;
        self.doing = format!("remove the snapshot {name}");
        self.engine().remove_snapshot(name).unwrap();
        self.now.snapshots.remove(&past.snapshot.epoch);
        let gone = self.engine().diff(name, None, b"").map_err(|e| e.errno());
        assert_eq!(gone, Err(libc::ENOENT), "{}", self.what());
    }

    /// Where the root of a snapshot is.
    pub(super) fn root_of(&self, past: &Past) -> Ino {
        let path = format!(".snapshots/{}", past.snapshot.name);
        let found = self.engine().walk(path.as_bytes());
        found
            .unwrap_or_else(|error| panic!("{}: {path}: {error}", self.what()))
            .ino
    }

    pub(super) fn compare_snapshot(&self, past: &Past, depth: Depth) {
        let what = format!("{}; snapshot {}", self.what(), past.snapshot.name);
        compare(&self.volume, self.root_of(past), &past.world, depth, &what);
    }

    /// What differs between a snapshot and another one or the present; everywhere, and somewhere.
    pub(super) fn compare_diff(&mut self, older: &Past, newer: Option<&Past>) {
        let (name, to) = (
            &older.snapshot.name,
            newer.map(|past| past.snapshot.name.as_str()),
        );
        let what = format!("{}; from {name} to {to:?}", self.what());
        let found = self.engine().diff(name, to, b"");
        if newer.is_some_and(|newer| newer.snapshot.epoch < older.snapshot.epoch) {
            let errno = found.map_err(|error| error.errno());
            assert_eq!(errno, Err(libc::EINVAL), "{what}");
            return;
        }
        let world = newer.map_or(&self.now.live, |past| &past.world);
        let should = differences(&older.world, world);
        let found = told(&found.unwrap_or_else(|error| panic!("{what}: {error}")));
        let missing: Vec<_> = should.difference(&found).collect();
        let beside: Vec<_> = found.difference(&should).collect();
        assert!(
            found == should,
            "{what}: the diff lacks {missing:?} and has {beside:?}"
        );
        self.counts.differences += found.len() as u64;
        let some = world.paths().into_keys().choose(&mut self.rng).unwrap();
        let there = self.engine().diff(name, to, some.as_bytes()).unwrap();
        assert_eq!(told(&there), within(should, &some), "{what}, in {some}");
    }

    /// What differs between every snapshot and the present.
    pub(super) fn all_diffs(&self) -> Vec<Vec<crate::Difference>> {
        let snapshots = self.now.snapshots.values();
        let diff = |past: &Arc<Past>| self.engine().diff(&past.snapshot.name, None, b"").unwrap();
        snapshots.map(diff).collect()
    }
}
