use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::super::events::EventLog;
use super::super::host::{Ending, WallClock};
use super::super::secrets::{FOLDER_NAME, Secrets};
use super::super::settings::MOUNTS_MAX;
use super::super::store::{EventFilter, Store};
use super::super::testing::{FakeHost, until};
use super::super::types::Credentials;
use super::*;

/// A sidecar without a server.
struct Rig {
    host: Arc<FakeHost>,
    mounts: Mounts,
    store: Store,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
}

async fn start(host: Arc<FakeHost>) -> Rig {
    let folder = host.folder();
    let store = Store::open(&folder.join("control")).unwrap();
    let clock = Arc::new(WallClock);
    let events = EventLog::open(store.clone(), clock.clone()).await.unwrap();
    let parts = Parts {
        host: host.clone(),
        clock,
        store: store.clone(),
        events,
        secrets: Secrets::new(&folder.join("run"), Some(&folder.join("control"))),
        workspace: PathBuf::from("/workspace"),
        mounts_max: MOUNTS_MAX,
    };
    let (stop, stopping) = watch::channel(false);
    let (mounts, running) = Mounts::start(parts, stopping).await.unwrap();
    Rig {
        host,
        mounts,
        store,
        stop,
        running,
    }
}

impl Rig {
    /// The sidecar ends, however, and another one starts.
    async fn restart(self) -> Self {
        let Self {
            host,
            mounts,
            store,
            stop,
            running,
        } = self;
        stop.send_replace(true);
        running.await.unwrap();
        drop((mounts, store));
        // Work that was under way lets go of the database.
        tokio::time::sleep(Duration::from_millis(20)).await;
        start(host).await
    }

    async fn add(&self, source: &str) -> Result<Mount, ApiError> {
        self.mounts.add(request(source)).await
    }

    async fn only(&self) -> Mount {
        let mut list = self.mounts.list().await;
        assert_eq!(list.len(), 1, "{list:?}");
        list.remove(0)
    }

    async fn events(&self) -> Vec<String> {
        let events = self
            .store
            .events_after(0, EventFilter::default(), 1000)
            .await
            .unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }
}

fn request(source: &str) -> MountRequest {
    MountRequest {
        source: source.into(),
        name: None,
        path: None,
        options: Vec::new(),
        credentials: None,
    }
}

fn unmount(name: &str) -> UnmountRequest {
    UnmountRequest {
        name: name.into(),
        sync: false,
    }
}

#[tokio::test]
async fn the_same_request_again_is_the_same_mount_also_at_the_same_time() {
    let rig = start(FakeHost::new()).await;
    let held = rig.host.gate.lock().await;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let mounts = rig.mounts.clone();
            tokio::spawn(async move { mounts.add(request("s3://bucket")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.mounts.list().await[0].state, MountState::Mounting);
    drop(held);
    for asked in asking {
        let mount = asked.await.unwrap().unwrap();
        assert_eq!(
            (mount.name.as_str(), mount.path.as_str()),
            ("bucket", "/workspace/bucket")
        );
        assert_eq!((mount.state, mount.managed), (MountState::Mounted, true));
    }
    rig.add("s3://bucket").await.unwrap();
    assert_eq!(rig.host.started().len(), 1);
    let events = rig.events().await;
    assert_eq!(events[..2], ["mount.mounting", "mount.mounted"]);
}

#[tokio::test]
async fn what_contradicts_is_refused_and_says_with_what() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    let named = |source: &str, name: &str, path: Option<&str>| MountRequest {
        name: Some(name.into()),
        path: path.map(str::to_owned),
        ..request(source)
    };
    let with_options = MountRequest {
        options: vec!["ro".into()],
        ..request("s3://bucket")
    };
    for (asked, part) in [
        (named("s3://other", "bucket", None), "another source"),
        (
            named("s3://bucket", "bucket", Some("/else")),
            "another path",
        ),
        (with_options, "another set of options"),
        (
            named("s3://bucket", "b2", None),
            "is the mount bucket already",
        ),
        (
            named("s3://other", "b2", Some("/workspace/bucket")),
            "bucket has this path",
        ),
        (
            named("s3://other", "b2", Some("/workspace//bucket/.")),
            "bucket has this path",
        ),
    ] {
        let error = rig.mounts.add(asked).await.unwrap_err();
        assert_eq!(error.code(), "conflict", "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    // A former state of the same volume may be looked at beside it.
    let view = MountRequest {
        options: vec!["at=5m".into()],
        ..named("s3://bucket", "before", None)
    };
    rig.mounts.add(view).await.unwrap();
    assert_eq!(rig.host.started().len(), 2);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_field_and_leave_nothing() {
    let rig = start(FakeHost::new()).await;
    let cases = [
        (
            MountRequest {
                source: "".into(),
                ..request("")
            },
            "source takes",
        ),
        (request("bucket"), "no scheme"),
        (
            MountRequest {
                name: Some("a/b".into()),
                ..request("s3://b")
            },
            "name takes",
        ),
        (
            MountRequest {
                path: Some("relative".into()),
                ..request("s3://b")
            },
            "path takes",
        ),
        (
            MountRequest {
                path: Some("/a/../b".into()),
                ..request("s3://b")
            },
            "path takes",
        ),
        (
            MountRequest {
                path: Some("/".into()),
                ..request("s3://b")
            },
            "path takes",
        ),
        (
            MountRequest {
                path: Some("/a\nb".into()),
                ..request("s3://b")
            },
            "path takes",
        ),
        (
            MountRequest {
                options: vec!["secret_access_key=hidden".into()],
                ..request("s3://b")
            },
            "credentials",
        ),
        (
            MountRequest {
                options: vec!["foreground".into()],
                ..request("s3://b")
            },
            "background",
        ),
        (
            MountRequest {
                options: vec!["".into()],
                ..request("s3://b")
            },
            "options",
        ),
        (
            MountRequest {
                options: vec!["ro".into(); 100],
                ..request("s3://b")
            },
            "options takes",
        ),
    ];
    for (asked, part) in cases {
        let error = rig.mounts.add(asked.clone()).await.unwrap_err();
        assert_eq!(error.code(), "invalid_request", "{asked:?}");
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
    assert_eq!(rig.mounts.list().await, []);
    assert_eq!(rig.store.mounts().await.unwrap(), []);
}

#[tokio::test]
async fn as_many_as_there_may_be_and_not_one_more() {
    let rig = start(FakeHost::new()).await;
    rig.host.mount_by_hand("s3://by-hand", "/mnt/by-hand");
    rig.mounts.list().await;
    for n in 1..MOUNTS_MAX {
        rig.add(&format!("s3://bucket-{n}")).await.unwrap();
    }
    let error = rig.add("s3://one-more").await.unwrap_err();
    assert_eq!(error.code(), "limit_reached");
    assert!(error.to_string().contains("--max-mounts"), "{error}");
    rig.add("s3://bucket-1").await.unwrap();
    rig.mounts.remove(unmount("bucket-2")).await.unwrap();
    rig.add("s3://one-more").await.unwrap();
}

#[tokio::test]
async fn a_first_attempt_that_fails_is_told_and_forgotten() {
    let rig = start(FakeHost::new()).await;
    rig.host
        .fail_next(ApiError::MountFailed("the bucket does not exist".into()));
    let with_keys = MountRequest {
        credentials: Some(keys()),
        ..request("s3://bucket")
    };
    let error = rig.mounts.add(with_keys).await.unwrap_err();
    assert_eq!(
        error,
        ApiError::MountFailed("the bucket does not exist".into())
    );
    assert_eq!(rig.mounts.list().await, []);
    assert_eq!(rig.store.mounts().await.unwrap(), []);
    assert!(
        !rig.host
            .folder()
            .join("run")
            .join(FOLDER_NAME)
            .join("bucket")
            .exists()
    );
    assert!(rig.events().await.contains(&"mount.failed".to_owned()));
    rig.add("s3://bucket").await.unwrap();
}

fn keys() -> Credentials {
    Credentials {
        access_key_id: "key".into(),
        secret_access_key: "hidden".into(),
        session_token: None,
    }
}

#[tokio::test]
async fn keys_reach_the_mount_in_a_file_and_show_nowhere() {
    let rig = start(FakeHost::new()).await;
    let with_keys = MountRequest {
        credentials: Some(keys()),
        ..request("s3://bucket")
    };
    rig.mounts.add(with_keys.clone()).await.unwrap();
    let started = rig.host.started().remove(0);
    assert!(
        started
            .keys
            .as_ref()
            .unwrap()
            .contains("secret_access_key=hidden")
    );
    assert!(!format!("{:?}", started.order).contains("hidden"));
    let file = rig
        .host
        .folder()
        .join("run")
        .join(FOLDER_NAME)
        .join("bucket");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Others for the same mount take their place while it runs.
    let mut others = with_keys;
    others.credentials.as_mut().unwrap().secret_access_key = "rotated".into();
    rig.mounts.add(others).await.unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("rotated"));
    let shown = serde_json::to_string(&rig.mounts.list().await).unwrap();
    let events = format!(
        "{:?}",
        rig.store
            .events_after(0, EventFilter::default(), 100)
            .await
            .unwrap()
    );
    let database = std::fs::read(rig.host.folder().join("control/control.db")).unwrap();
    for (what, text) in [
        ("list", shown),
        ("events", events),
        ("database", String::from_utf8_lossy(&database).into_owned()),
    ] {
        assert!(
            !text.contains("hidden") && !text.contains("rotated"),
            "{what}"
        );
    }
    // A dead mount gets them again.
    rig.host.end("/workspace/bucket", Ending::Died);
    until("it is mounted again", || rig.host.started().len() == 2).await;
    assert!(
        rig.host.started()[1]
            .keys
            .as_ref()
            .unwrap()
            .contains("rotated")
    );
    until("it is there", || {
        rig.mounts.views()[0].mount.state == MountState::Mounted
    })
    .await;
    rig.mounts.remove(unmount("bucket")).await.unwrap();
    assert!(!file.exists());
    assert!(
        !rig.host
            .folder()
            .join("control")
            .join(FOLDER_NAME)
            .join("bucket")
            .exists()
    );
}

#[tokio::test]
async fn a_mount_that_dies_is_reported_and_mounted_again() {
    let rig = start(FakeHost::new()).await;
    let first = rig.add("s3://bucket").await.unwrap();
    assert_eq!(rig.mounts.health(), PartHealth::OK);
    let held = rig.host.gate.lock().await;
    rig.host.end("/workspace/bucket", Ending::Died);
    until("it is tried again", || {
        rig.mounts.views()[0].mount.state == MountState::Mounting
    })
    .await;
    let error = rig
        .mounts
        .sync("bucket", MountSyncRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "not_mounted", "{error}");
    // Its log is there while it is not.
    let log = rig.mounts.log("bucket", 2).await.unwrap();
    assert_eq!(
        (log.name.as_str(), log.lines.len(), log.truncated),
        ("bucket", 2, true)
    );
    drop(held);
    until("it is mounted again", || {
        rig.mounts.views()[0].mount.state == MountState::Mounted
    })
    .await;
    let again = rig.only().await;
    assert_eq!((again.restarts, again.error), (1, None));
    assert_ne!(again.pid, first.pid);
    let events = rig.events().await;
    for kind in ["mount.died", "mount.mounting", "mount.mounted"] {
        assert!(events.contains(&kind.to_owned()), "{kind} in {events:?}");
    }
}

#[tokio::test]
async fn a_mount_that_cannot_come_back_is_not_healthy_and_says_why() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    rig.host
        .fail_next(ApiError::MountFailed("the store does not answer".into()));
    rig.host.end("/workspace/bucket", Ending::Died);
    until("it waits", || {
        rig.mounts.views()[0].mount.state == MountState::Waiting
    })
    .await;
    until("the attempt has failed", || rig.host.started().len() == 2).await;
    until("it says why", || {
        rig.mounts.views()[0].mount.error.as_deref() == Some("the store does not answer")
    })
    .await;
    let health = rig.mounts.health();
    assert_eq!(health.status, HealthStatus::Degraded);
    assert!(
        health
            .reason
            .unwrap()
            .contains("bucket is not mounted: the store does not answer")
    );
    // Whoever asks for it does not have to wait for the next attempt.
    let mount = rig.add("s3://bucket").await.unwrap();
    assert_eq!(mount.state, MountState::Mounted);
}

#[tokio::test]
async fn a_new_sidecar_takes_up_what_runs_and_starts_what_does_not() {
    let rig = start(FakeHost::new()).await;
    let first = rig.add("s3://one").await.unwrap();
    rig.add("s3://two").await.unwrap();
    let rig = rig.restart().await;
    let list = rig.mounts.list().await;
    assert_eq!(
        (list[0].pid, list[0].managed, list[0].state),
        (first.pid, true, MountState::Mounted)
    );
    assert_eq!(rig.host.started().len(), 2, "nothing was started again");

    // The machine restarts: nothing runs any more, nothing was unmounted in order.
    let Rig {
        host,
        mounts,
        store,
        stop,
        running,
    } = rig;
    stop.send_replace(true);
    running.await.unwrap();
    drop((mounts, store));
    tokio::time::sleep(Duration::from_millis(20)).await;
    host.end("/workspace/one", Ending::Died);
    host.end("/workspace/two", Ending::Died);
    *host.boot.lock() = "boot-2".into();
    let rig = start(host).await;
    until("both are mounted again", || {
        rig.mounts
            .views()
            .iter()
            .all(|view| view.mount.state == MountState::Mounted)
    })
    .await;
    assert_eq!(rig.host.started().len(), 4);
}

#[tokio::test]
async fn what_was_unmounted_by_hand_stays_so_until_it_is_asked_for_or_the_machine_restarts() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    rig.host.end("/workspace/bucket", Ending::Orderly);
    until("it is noticed", || {
        rig.mounts.views()[0].mount.state == MountState::Stopped
    })
    .await;
    assert_eq!(rig.mounts.health(), PartHealth::OK);
    let rig = rig.restart().await;
    assert_eq!(rig.only().await.state, MountState::Stopped);
    assert_eq!(rig.host.started().len(), 1);
    *rig.host.boot.lock() = "boot-2".into();
    let rig = rig.restart().await;
    until("it is mounted", || {
        rig.mounts.views()[0].mount.state == MountState::Mounted
    })
    .await;

    rig.host.end("/workspace/bucket", Ending::Orderly);
    until("it is noticed", || {
        rig.mounts.views()[0].mount.state == MountState::Stopped
    })
    .await;
    assert_eq!(
        rig.add("s3://bucket").await.unwrap().state,
        MountState::Mounted
    );
    let rig = rig.restart().await;
    assert_eq!(rig.only().await.state, MountState::Mounted);
}

#[tokio::test]
async fn mounts_made_by_hand_are_seen_watched_and_taken_over() {
    let host = FakeHost::new();
    host.mount_by_hand("s3://bucket", "/mnt/my project");
    let rig = start(host).await;
    let mount = rig.only().await;
    assert_eq!(
        (mount.name.as_str(), mount.managed, mount.state),
        ("my-project", false, MountState::Mounted)
    );
    assert_eq!(
        rig.mounts
            .sync("my-project", MountSyncRequest::default())
            .await
            .unwrap()
            .in_store_lsn,
        9
    );
    let second = rig
        .host
        .mount_by_hand("s3://other", "/elsewhere/my-project");
    assert_eq!(rig.mounts.list().await.len(), 2);
    assert!(rig.mounts.details("my-project-2").await.unwrap().mount.pid == Some(second.pid));
    // It dies: nobody knows how it was mounted.
    rig.host.end("/elsewhere/my-project", Ending::Died);
    until("it is gone", || rig.mounts.views().len() == 1).await;
    assert_eq!(rig.host.started().len(), 0);

    // From now on it is kept mounted.
    let asked = MountRequest {
        path: Some("/mnt/my project".into()),
        options: vec!["allow_other".into()],
        ..request("s3://bucket")
    };
    let taken = rig.mounts.add(asked.clone()).await.unwrap();
    assert_eq!(
        (taken.name.as_str(), taken.managed, taken.pid),
        ("my-project", true, mount.pid)
    );
    rig.mounts.add(asked).await.unwrap();
    assert_eq!(rig.host.started().len(), 0);
    rig.host.end("/mnt/my project", Ending::Died);
    until("it is mounted again", || rig.host.started().len() == 1).await;
    assert_eq!(rig.host.started()[0].order.options, ["allow_other"]);
}

#[tokio::test]
async fn unmounting_takes_it_away_for_good_or_leaves_it_as_it_was() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    rig.host.set_in_use(true);
    let error = rig.mounts.remove(unmount("bucket")).await.unwrap_err();
    assert_eq!(
        error,
        ApiError::InUse("it is used by vim (process 7)".into())
    );
    assert_eq!(rig.only().await.state, MountState::Mounted);
    // It is wanted as before.
    assert!(!rig.store.mounts().await.unwrap()[0].leaving);
    rig.host.set_in_use(false);
    let (one, two) = tokio::join!(
        rig.mounts.remove(unmount("bucket")),
        rig.mounts.remove(unmount("bucket"))
    );
    let gone = one.unwrap();
    assert_eq!((gone.state, gone.pid), (MountState::Unmounted, None));
    // The second one waited for the same end, or came after it.
    assert!(two.is_ok() || two.unwrap_err().code() == "not_found");
    assert_eq!(rig.mounts.list().await, []);
    let error = rig.mounts.remove(unmount("bucket")).await.unwrap_err();
    assert_eq!(error.code(), "not_found");
    let rig = rig.restart().await;
    assert_eq!(rig.mounts.list().await, []);
}

#[tokio::test]
async fn whoever_asks_for_what_another_process_is_mounting_gets_that() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    rig.host.end("/workspace/bucket", Ending::Orderly);
    until("it is noticed", || {
        rig.mounts.views()[0].mount.state == MountState::Stopped
    })
    .await;
    let locked = ApiError::MountFailed("it is locked by another process".into());
    rig.host.fail_next(locked.clone());
    rig.host.fail_next(locked);
    let mounts = rig.mounts.clone();
    let asked = tokio::spawn(async move { mounts.add(request("s3://bucket")).await });
    until("the first attempt has failed", || {
        rig.host.started().len() == 2
    })
    .await;
    let found = rig.host.mount_by_hand("s3://bucket", "/workspace/bucket");
    let mount = asked.await.unwrap().unwrap();
    assert_eq!((mount.pid, mount.managed), (Some(found.pid), true));
}

#[tokio::test]
async fn an_unmount_that_was_cut_off_is_finished_by_the_next_sidecar() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://one").await.unwrap();
    rig.add("s3://two").await.unwrap();
    for mut row in rig.store.mounts().await.unwrap() {
        row.leaving = true;
        rig.store.put_mount(row).await.unwrap();
    }
    // One of them was unmounted already when the sidecar was killed.
    rig.stop.send_replace(true);
    rig.host.end("/workspace/one", Ending::Orderly);
    let rig = rig.restart().await;
    until("both are gone", || rig.mounts.views().is_empty()).await;
    assert_eq!(rig.store.mounts().await.unwrap(), []);
}

#[tokio::test]
async fn an_unmount_with_sync_needs_a_mount_that_runs() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    let with_sync = UnmountRequest {
        sync: true,
        ..unmount("bucket")
    };
    rig.host.end("/workspace/bucket", Ending::Orderly);
    until("it is noticed", || {
        rig.mounts.views()[0].mount.state == MountState::Stopped
    })
    .await;
    let error = rig.mounts.remove(with_sync.clone()).await.unwrap_err();
    assert_eq!(error.code(), "not_mounted", "{error}");
    rig.add("s3://bucket").await.unwrap();
    assert_eq!(
        rig.mounts.remove(with_sync).await.unwrap().state,
        MountState::Unmounted
    );
}

#[tokio::test]
async fn every_mount_is_told_its_share_as_others_come_and_go() {
    let rig = start(FakeHost::new()).await;
    let pool = (4 << 30) - (1 << 30) - (500 << 20);
    rig.add("s3://one").await.unwrap();
    assert_eq!(rig.host.started()[0].budget.cache_bytes, pool);
    let big = MountRequest {
        options: vec![format!("cache_size={}", 1 << 30)],
        ..request("s3://two")
    };
    rig.mounts.add(big).await.unwrap();
    let told = |path: &str| rig.host.told(path).and_then(|budget| budget.cache_bytes);
    until("the first has less", || {
        told("/workspace/one") == Some(pool - (1 << 30))
    })
    .await;
    rig.host.mount_by_hand("s3://three", "/mnt/three");
    rig.mounts.list().await;
    until("the third is told too", || told("/mnt/three").is_some()).await;
    assert_eq!(told("/mnt/three"), Some((pool - (1 << 30)) / 2));
    rig.mounts.remove(unmount("two")).await.unwrap();
    until("both have more", || {
        told("/mnt/three") == Some(pool / 2) && told("/workspace/one") == Some(pool / 2)
    })
    .await;
    until("it is shown", || {
        rig.mounts.views().iter().all(|view| {
            view.mount
                .budget
                .as_ref()
                .is_some_and(|b| b.applied && b.reason.is_none() && b.cache_bytes == pool / 2)
        })
    })
    .await;
}

#[tokio::test]
async fn a_mount_of_an_older_version_works_and_is_reported() {
    let host = FakeHost::new();
    host.start_old_ones();
    let rig = start(host).await;
    rig.host.mount_by_hand("s3://bucket", "/mnt/bucket");
    rig.mounts.list().await;
    until("it is known that it cannot be told", || {
        let views = rig.mounts.views();
        let budget = views[0].mount.budget.as_ref();
        budget
            .is_some_and(|b| !b.applied && b.reason.as_ref().is_some_and(|r| r.contains("version")))
    })
    .await;
    assert_eq!(rig.mounts.health(), PartHealth::OK);
    assert_eq!(
        rig.events()
            .await
            .iter()
            .filter(|kind| *kind == "mount.budget")
            .count(),
        1
    );
}

#[tokio::test]
async fn details_come_from_the_volume_without_places_of_the_machine() {
    let rig = start(FakeHost::new()).await;
    rig.add("s3://bucket").await.unwrap();
    let details = rig.mounts.details("bucket").await.unwrap();
    let status = details.status.unwrap();
    assert_eq!(status.memory_resident_bytes, 4321);
    assert_eq!(status.volume.state_dir, "");
    let error = status.last_error.unwrap().message;
    assert_eq!(error, "cannot read (a path) from s3://bucket");
    assert_eq!(
        rig.mounts.details("other").await.unwrap_err().code(),
        "not_found"
    );
    let short = MountSyncRequest {
        deadline_ms: Some(1),
    };
    let error = rig.mounts.sync("bucket", short).await.unwrap_err();
    assert_eq!(
        error,
        ApiError::DeadlineExceeded("3 records are left".into())
    );
    let senseless = MountSyncRequest {
        deadline_ms: Some(0),
    };
    assert_eq!(
        rig.mounts
            .sync("bucket", senseless)
            .await
            .unwrap_err()
            .code(),
        "invalid_request"
    );
}
