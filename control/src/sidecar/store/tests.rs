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

fn told(at_ms: u64, kind: &'static str, mount: Option<&str>, message: &str) -> NewEvent {
    NewEvent {
        at_ms,
        kind,
        mount: mount.map(str::to_owned),
        message: message.to_owned(),
        ..NewEvent::default()
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
        .add_event(told(5, "mount.mounted", Some("a"), "text"))
        .await
        .unwrap();
    drop(store);

    let store = Store::open(&folder).unwrap();
    assert_eq!(store.mounts().await.unwrap(), [mount("a"), stopped]);
    let events = store
        .events_after(0, EventFilter::default(), 10)
        .await
        .unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].id, events[0].at_ms, events[0].kind.as_str()),
        (id, 5, "mount.mounted")
    );
    assert_eq!(store.trouble().await, None);
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
            .add_event(told(n, "k", Some(about), ""))
            .await
            .unwrap();
    }
    let ids = |events: Vec<Event>| events.iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(
        ids(store
            .events_after(17, EventFilter::default(), 10)
            .await
            .unwrap()),
        [18, 19, 20]
    );
    let about_odd = EventFilter {
        mount: Some("odd".into()),
        ..EventFilter::default()
    };
    assert_eq!(
        ids(store.events_after(0, about_odd, 2).await.unwrap()),
        [2, 4]
    );
    assert_eq!(store.event_range().await.unwrap(), (1, 20));

    // All of these are older than what is kept once the last ones are written a week later.
    let later = EVENTS_AGE.as_millis() as u64 + 1_000;
    for _ in 0..u64::from(TRIM_EVERY) {
        store.add_event(told(later, "k", None, "")).await.unwrap();
    }
    let (oldest, newest) = store.event_range().await.unwrap();
    assert_eq!((oldest, newest), (21, 20 + i64::from(TRIM_EVERY)));
}

#[tokio::test]
async fn numbers_of_events_are_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = store.add_event(told(1, "k", None, "")).await.unwrap();
    store
        .run(|open| open.db.execute("DELETE FROM event", ()).map(drop))
        .await
        .unwrap();
    assert_eq!(store.event_range().await.unwrap(), (0, first));
    assert!(store.add_event(told(1, "k", None, "")).await.unwrap() > first);
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
    assert!(matches!(error, StartError::Damaged(_)), "{error}");
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
    // Not hidden by what can be read.
    store.mounts().await.unwrap();
    assert!(
        store
            .0
            .trouble
            .lock()
            .writing
            .as_ref()
            .unwrap()
            .contains("nothing")
    );
    assert_eq!(store.trouble().await, None);
}

#[test]
fn a_database_of_another_line_of_migrations_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_NAME);
    for change in [
        "DROP TABLE event",
        "ALTER TABLE mount ADD COLUMN more TEXT",
        "CREATE TABLE workflow (id INTEGER PRIMARY KEY)",
        "DROP TABLE step",
        "ALTER TABLE run ADD COLUMN more TEXT",
        "DROP INDEX answer_age; CREATE INDEX answer_age ON answer (key)",
        // Older by its number, with what came later.
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 0",
    ] {
        drop(std::fs::remove_file(&path));
        drop(Store::open(dir.path()).unwrap());
        let db = Connection::open(&path).unwrap();
        db.execute_batch(change).unwrap();
        db.close().unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(dir.path()).err().expect("it is refused");
        assert!(
            matches!(error, StartError::OtherLine(_)),
            "{change}: {error}"
        );
        assert!(error.to_string().contains("another line"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{change}");
    }
}

#[tokio::test]
async fn a_database_of_the_version_before_is_brought_on() {
    let dir = tempfile::tempdir().unwrap();
    schema::make_version(&dir.path().join(DATABASE_NAME), 1);
    let store = Store::open(dir.path()).unwrap();
    store.put_mount(mount("a")).await.unwrap();
    drop(store);
    // Bringing it on makes the tables that a new database has.
    Store::open(dir.path()).unwrap();
    // What SQLite writes about its own statistics is no other line.
    let db = Connection::open(dir.path().join(DATABASE_NAME)).unwrap();
    db.execute_batch("ANALYZE").unwrap();
    drop(db);
    Store::open(dir.path()).unwrap();
}

#[tokio::test]
async fn a_damaged_database_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 0..500 {
        let text = format!("{n}: {}", "text ".repeat(20));
        store.add_event(told(n, "k", None, &text)).await.unwrap();
    }
    drop(store);
    let path = dir.path().join(DATABASE_NAME);
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > 64 * 1024, "{}", whole.len());
    let last_page = whole.len() - 4096;
    let mut cases = vec![
        // Cut short in the middle, and before its first page is whole.
        whole[..whole.len() / 2].to_vec(),
        whole[..100].to_vec(),
    ];
    for (at, length) in [
        (0, 16),
        (28, 4),
        (100, 8),
        (last_page, 4096),
        (20_480, 4096),
    ] {
        let mut damaged = whole.clone();
        damaged[at..at + length].fill(0xff);
        cases.push(damaged);
    }
    for (n, bytes) in cases.into_iter().enumerate() {
        for side in ["-wal", "-shm"] {
            drop(std::fs::remove_file(
                dir.path().join(format!("{DATABASE_NAME}{side}")),
            ));
        }
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(dir.path()).err();
        let error = error.unwrap_or_else(|| panic!("case {n} is not noticed"));
        assert!(matches!(error, StartError::Damaged(_)), "case {n}: {error}");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "case {n}");
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_half_written_and_it_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.put_mount(mount("before")).await.unwrap();
    store.fill_the_disk(true).await;
    let mut large = mount("large");
    large.options = vec!["o".repeat(1024); 64];
    let error = store.put_mount(large.clone()).await.unwrap_err();
    assert_eq!(error.code(), "database_unavailable");
    // What is there can be read meanwhile.
    assert_eq!(store.mounts().await.unwrap(), [mount("before")]);
    let trouble = store.0.trouble.lock().writing.clone();
    assert!(trouble.as_ref().unwrap().contains("full"), "{trouble:?}");
    store.remove_mount("before").await.unwrap();
    store.fill_the_disk(false).await;
    store.put_mount(large.clone()).await.unwrap();
    assert_eq!(store.mounts().await.unwrap(), [large]);
    assert_eq!(store.trouble().await, None);
}
