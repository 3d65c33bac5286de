//! Branches and a disk that is nearly full, with a machine that the test decides.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::*;
use crate::sidecar::host::WallClock;
use crate::sidecar::mounts::Parts as MountParts;
use crate::sidecar::secrets::Secrets;
use crate::sidecar::testing::FakeHost;
use crate::sidecar::types::MountRequest;

const MIB: u64 = 1 << 20;

struct Scene {
    host: Arc<FakeHost>,
    branches: Branches,
    mounts: Mounts,
    store: Store,
    _stop: watch::Sender<bool>,
}

/// A sidecar's branches, with the mount `bucket`, and nobody who looks after them by himself.
async fn scene() -> Scene {
    let host = FakeHost::new();
    let store = Store::open(&host.folder().join("control")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(WallClock);
    let events = EventLog::open(store.clone(), Arc::clone(&clock))
        .await
        .unwrap();
    let (stop, stopping) = watch::channel(false);
    let parts = MountParts {
        host: host.clone(),
        clock: Arc::clone(&clock),
        store: store.clone(),
        events: events.clone(),
        secrets: Secrets::new(&host.folder().join("run"), None),
        workspace: "/workspace".into(),
        mounts_max: 5,
    };
    let (mounts, _running) = Mounts::start(parts, stopping).await.unwrap();
    let request: MountRequest = serde_json::from_str(r#"{"source":"s3://bucket"}"#).unwrap();
    mounts.add(request).await.unwrap();
    let branches = Branches::new(Parts {
        mounts: mounts.clone(),
        host: host.clone(),
        store: store.clone(),
        events,
        clock,
    });
    Scene {
        host,
        branches,
        mounts,
        store,
        _stop: stop,
    }
}

impl Scene {
    /// A branch that was used at this time, with so much of its own on the disk.
    async fn branch(&self, name: &str, used_ms: u64, own_bytes: u64) {
        let request = BranchRequest {
            mount: "bucket".into(),
            path: None,
            name: name.into(),
        };
        self.branches.create(request).await.unwrap();
        let mut row = self.one(name).await;
        row.used_ms = used_ms;
        self.store.put_branch(row).await.unwrap();
        let tree = self.host.tree("s3://bucket");
        tree.lock().own_bytes.insert(name.into(), own_bytes);
    }

    async fn one(&self, name: &str) -> BranchRow {
        let rows = self.store.branches().await.unwrap();
        rows.into_iter().find(|row| row.name == name).unwrap()
    }

    /// Those that were asked to give something back.
    fn asked(&self) -> Vec<String> {
        let tree = self.host.tree("s3://bucket");
        let asked = tree.lock().dropped.clone();
        asked.into_iter().map(|(name, _)| name).collect()
    }

    async fn kinds(&self) -> Vec<String> {
        let events = self
            .store
            .events_after(0, crate::sidecar::store::EventFilter::default(), 1000)
            .await
            .unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }
}

#[tokio::test]
async fn on_a_full_disk_those_that_were_not_used_for_longest_give_way_until_there_is_room() {
    let scene = scene().await;
    for (name, used_ms) in [("c", 30), ("a", 10), ("b", 20), ("d", 40), ("e", 50)] {
        scene.branch(name, used_ms, 300 * MIB).await;
    }
    let tree = scene.host.tree("s3://bucket");
    // Not all of it is in the store: it gives nothing.
    tree.lock().unsynced_bytes.insert("b".into(), 1);
    // Something runs on it.
    let folder = Path::new(".weldr/branches/c");
    let running = scene.mounts.occupy("bucket", folder, "exec-1".into());
    let running = running.await.unwrap();

    scene.host.set_disk_free(500 * MIB);
    scene.branches.look_at_disk().await;
    assert_eq!(scene.asked(), Vec::<String>::new(), "there is room");
    scene.host.set_disk_free(450 * MIB);
    scene.branches.look_at_disk().await;
    assert_eq!(
        scene.asked(),
        ["a", "b", "d"],
        "oldest first, and not all of them"
    );
    assert!(scene.one("a").await.dropped_ms.is_some());
    assert_eq!(
        scene.one("b").await.dropped_ms,
        None,
        "it is not in the store"
    );
    assert_eq!(
        scene.one("c").await.dropped_ms,
        None,
        "something runs on it"
    );
    assert_eq!(
        scene.one("e").await.dropped_ms,
        None,
        "there was room before it"
    );
    let told = scene.kinds().await;
    let dropped = told.iter().filter(|kind| *kind == kinds::BRANCH_DROPPED);
    assert_eq!(dropped.count(), 2);
    // Full again: those that gave what they had are not asked again, until they are used.
    drop(running);
    scene.host.set_disk_free(0);
    tree.lock().dropped.clear();
    scene.branches.look_at_disk().await;
    // It ran until now, so it is the last.
    assert_eq!(scene.asked(), ["b", "e", "c"]);
    let list = scene.branches.list(Some("bucket")).await.unwrap();
    let dropped = list.branches.iter().filter(|branch| branch.dropped);
    assert_eq!(
        dropped.map(|b| b.name.as_str()).collect::<Vec<_>>(),
        ["a", "c", "d", "e"]
    );
    let request = MountSyncRequest::default();
    scene.branches.sync("bucket:a", request).await.unwrap();
    assert_eq!(scene.one("a").await.dropped_ms, None);
}

#[tokio::test]
async fn a_branch_that_a_program_beside_the_sidecar_uses_keeps_its_copies() {
    let scene = scene().await;
    scene.branch("a", 10, 300 * MIB).await;
    scene.host.set_disk_free(0);
    scene.host.set_users(&["vite (process 9)"]);
    scene.branches.look_at_disk().await;
    assert_eq!(scene.asked(), Vec::<String>::new());
    scene.host.set_users(&[]);
    scene.branches.look_at_disk().await;
    assert_eq!(scene.asked(), ["a"]);
}

#[tokio::test]
async fn rows_of_mounts_that_nobody_knows_are_forgotten_after_a_month() {
    let scene = scene().await;
    scene.branch("a", 10, 0).await;
    let now_ms = WallClock.now_ms();
    for (mount, used_ms) in [("old", 10), ("new", now_ms)] {
        let row = BranchRow {
            mount: mount.into(),
            used_ms,
            ..scene.one("a").await
        };
        scene.store.put_branch(row).await.unwrap();
    }
    scene.branches.forget_old().await.unwrap();
    let rows = scene.store.branches().await.unwrap();
    let mounts: Vec<&str> = rows.iter().map(|row| row.mount.as_str()).collect();
    assert_eq!(mounts, ["bucket", "new"]);
}

#[test]
fn a_folder_is_one_of_a_branch_from_the_branch_on() {
    for (folder, branch) in [
        (".weldr/branches/a", Some("a")),
        (".weldr/branches/a/src", Some("a")),
        (".weldr/branches", None),
        (".weldr", None),
        ("", None),
        ("x/.weldr/branches/a", None),
    ] {
        assert_eq!(branch_of(Path::new(folder)), branch, "{folder}");
    }
}
