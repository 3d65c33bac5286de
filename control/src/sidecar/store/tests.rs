use std::os::unix::fs::PermissionsExt;

use super::*;

fn mount(name: &str) -> WantedMount {
    WantedMount {
        name: name.into(),
        source: format!("file:///srv/{name}"),
        place: format!("file:/srv/{name}"),
        path: format!("/workspace/{name}"),
        options: vec!["ro".into(), "fsname=a,b".into()],
        leaving: false,
        stopped_boot: None,
        created_ms: 7,
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("control");
    let store = Store::open(&folder).unwrap();
    let stopped = WantedMount {
        leaving: true,
        stopped_boot: Some("boot".into()),
        ..mount("b")
    };
    store.put_mount(stopped.clone()).await.unwrap();
    store.put_mount(mount("a")).await.unwrap();
    store.put_mount(mount("gone")).await.unwrap();
    store.remove_mount("gone").await.unwrap();
    store.remove_mount("never").await.unwrap();
    let id = store
        .add_event(5, "mount.mounted", Some("a".into()), "text".into())
        .await
        .unwrap();
    drop(store);

    let store = Store::open(&folder).unwrap();
    assert_eq!(store.mounts().await.unwrap(), [mount("a"), stopped]);
    let events = store.events_after(0, None, 10).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].id, events[0].at_ms, events[0].kind.as_str()),
        (id, 5, "mount.mounted")
    );
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn everything_it_makes_is_its_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/control");
    let store = Store::open(&folder).unwrap();
    store.put_mount(mount("a")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn events_are_read_on_from_any_number_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 0..20_u64 {
        let about = if n % 2 == 0 { "even" } else { "odd" };
        store
            .add_event(n, "k", Some(about.into()), String::new())
            .await
            .unwrap();
    }
    let ids = |events: Vec<Event>| events.iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(
        ids(store.events_after(17, None, 10).await.unwrap()),
        [18, 19, 20]
    );
    assert_eq!(
        ids(store.events_after(0, Some("odd".into()), 2).await.unwrap()),
        [2, 4]
    );
    assert_eq!(store.event_range().await.unwrap(), (1, 20));

    // All of these are older than what is kept once the last ones are written a week later.
    let later = EVENTS_AGE.as_millis() as u64 + 1_000;
    for _ in 0..u64::from(TRIM_EVERY) {
        store
            .add_event(later, "k", None, String::new())
            .await
            .unwrap();
    }
    let (oldest, newest) = store.event_range().await.unwrap();
    assert_eq!((oldest, newest), (21, 20 + i64::from(TRIM_EVERY)));
}

#[tokio::test]
async fn numbers_of_events_are_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = store.add_event(1, "k", None, String::new()).await.unwrap();
    store
        .run(|open| open.db.execute("DELETE FROM event", ()).map(drop))
        .await
        .unwrap();
    assert_eq!(store.event_range().await.unwrap(), (0, first));
    assert!(store.add_event(1, "k", None, String::new()).await.unwrap() > first);
}

#[test]
fn a_second_sidecar_is_told_that_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).err().expect("it is refused");
    assert!(matches!(&error, StartError::FolderInUse(_)), "{error}");
    assert!(error.to_string().contains("--state-dir"), "{error}");
}

#[test]
fn databases_of_others_and_of_later_versions_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_NAME);
    let make = |sql: &str| {
        drop(std::fs::remove_file(&path));
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        std::fs::read(&path).unwrap()
    };
    let before = make("CREATE TABLE mount (name TEXT)");
    let error = Store::open(dir.path()).err().expect("it is refused");
    assert!(matches!(error, StartError::ForeignDatabase), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    make("PRAGMA user_version = 7");
    let error = Store::open(dir.path()).err().expect("it is refused");
    assert!(matches!(error, StartError::ForeignDatabase), "{error}");

    drop(std::fs::remove_file(&path));
    drop(Store::open(dir.path()).unwrap());
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    let error = Store::open(dir.path()).err().expect("it is refused");
    assert!(
        matches!(error, StartError::NewerDatabase { found: 99, .. }),
        "{error}"
    );

    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let error = Store::open(dir.path()).err().expect("it is refused");
    assert!(matches!(error, StartError::Database(_)), "{error}");
}

#[tokio::test]
async fn a_database_that_fails_is_reported_until_it_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = store
        .run(|open| {
            open.db
                .execute("INSERT INTO nothing VALUES (1)", ())
                .map(drop)
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), "database_unavailable");
    assert!(!error.to_string().contains("nothing"), "{error}");
    assert!(store.trouble().unwrap().contains("nothing"));
    store.mounts().await.unwrap();
    assert_eq!(store.trouble(), None);
}
