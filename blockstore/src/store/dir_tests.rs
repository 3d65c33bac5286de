use super::super::MemoryStore;
use super::*;

fn text(body: &'static str) -> Bytes {
    Bytes::from_static(body.as_bytes())
}

fn stores(dir: &Path) -> Vec<Arc<dyn ObjectStore>> {
    vec![
        Arc::new(MemoryStore::new()),
        Arc::new(DirStore::open(dir.join("store")).unwrap()),
    ]
}

#[tokio::test]
async fn both_stores_keep_the_rules_of_conditions_and_ranges() {
    let dir = tempfile::tempdir().unwrap();
    for store in stores(dir.path()) {
        let first = store
            .put("a/b", text("one"), PutCondition::IfAbsent)
            .await
            .unwrap();
        let taken = store.put("a/b", text("two"), PutCondition::IfAbsent).await;
        assert_eq!(taken, Err(StoreError::precondition("a/b")));
        let second = store
            .put("a/b", text("two"), PutCondition::IfMatch(first.clone()))
            .await
            .unwrap();
        assert_ne!(first, second);
        for (key, version) in [("a/b", &first), ("absent", &second)] {
            let cond = PutCondition::IfMatch(version.clone());
            let refused = store.put(key, text("three"), cond).await;
            assert_eq!(refused, Err(StoreError::precondition(key)));
        }
        store
            .put("a/b", text("0123456789"), PutCondition::Always)
            .await
            .unwrap();
        let object = store.get("a/b", None).await.unwrap();
        assert_eq!(object.bytes, text("0123456789"));
        let info = store.head("a/b").await.unwrap();
        assert_eq!(
            (info.key.as_str(), info.len, info.version),
            ("a/b", 10, object.version)
        );
        assert_eq!(
            store.get("a/b", Some(2..4)).await.unwrap().bytes,
            text("23")
        );
        assert_eq!(
            store.get("a/b", Some(8..99)).await.unwrap().bytes,
            text("89")
        );
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "the range under test is senseless"
        )]
        for range in [10..11, 3..3, 4..3] {
            let refused = store.get("a/b", Some(range)).await;
            assert!(matches!(refused, Err(StoreError::Invalid { .. })));
        }
        for missing in ["nothing", "a", "a/b/c"] {
            assert!(store.get(missing, None).await.unwrap_err().is_not_found());
            assert!(store.head(missing).await.unwrap_err().is_not_found());
        }
        for bad in ["/etc/passwd", "../x", ".lock", "a//b"] {
            for outcome in [
                store.get(bad, None).await.err(),
                store.put(bad, text(""), PutCondition::Always).await.err(),
                store.head(bad).await.err(),
                store.delete(&[bad.into()]).await.err(),
            ] {
                assert!(matches!(outcome, Some(StoreError::Invalid { .. })), "{bad}");
            }
        }
        store
            .delete(&["a/b".into(), "missing".into(), "x/y/z".into()])
            .await
            .unwrap();
        assert!(store.get("a/b", None).await.unwrap_err().is_not_found());
    }
}

#[tokio::test]
async fn both_stores_list_in_key_order_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    // '-' and '.' sort before '/', '0' after it: a directory must sort where its objects do.
    let keys = [
        "a-1",
        "a.1",
        "a/b",
        "a/c/d",
        "a/c-e",
        "a0",
        "b",
        "packs/00/x",
        "packs/01/y",
        "packs/01/z",
        "packs2/q",
        "z/z/z",
    ];
    for store in stores(dir.path()) {
        assert_eq!(store.list("", None, 10).await.unwrap(), ListPage::default());
        for key in keys {
            store
                .put(key, text("12"), PutCondition::Always)
                .await
                .unwrap();
        }
        for prefix in [
            "",
            "a",
            "a/",
            "a/c",
            "packs/",
            "packs/01/",
            "packs",
            "b",
            "none",
            "zz",
        ] {
            let mut wanted: Vec<_> = keys.iter().filter(|k| k.starts_with(prefix)).collect();
            wanted.sort_unstable();
            for limit in [1, 2, 3, 100] {
                let (mut got, mut after) = (Vec::new(), None::<String>);
                loop {
                    let page = store.list(prefix, after.as_deref(), limit).await.unwrap();
                    assert!(page.objects.len() <= limit);
                    assert!(page.objects.iter().all(|object| object.len == 2));
                    got.extend(page.objects.into_iter().map(|object| object.key));
                    after = got.last().cloned();
                    if !page.more {
                        break;
                    }
                }
                assert_eq!(
                    got.iter().collect::<Vec<_>>(),
                    wanted,
                    "{prefix} by {limit}"
                );
            }
        }
        for after in ["0", "a", "a/", "a/bb", "a/c/zzz", "packs/01", "zzzz"] {
            let page = store.list("", Some(after), 100).await.unwrap();
            let mut wanted: Vec<_> = keys.iter().filter(|k| **k > after).collect();
            wanted.sort_unstable();
            let got: Vec<_> = page.objects.iter().map(|object| &object.key).collect();
            assert_eq!(got, wanted, "after {after}");
        }
        assert!(store.list("", None, 0).await.is_err());
        assert!(store.list("../", None, 1).await.is_err());
    }
}

#[tokio::test]
async fn listing_ignores_what_is_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path()).unwrap();
    store
        .put("good", text("x"), PutCondition::Always)
        .await
        .unwrap();
    std::fs::write(dir.path().join("not a key"), b"").unwrap();
    std::fs::write(dir.path().join(".hidden"), b"").unwrap();
    std::os::unix::fs::symlink("good", dir.path().join("link")).unwrap();
    let page = store.list("", None, 10).await.unwrap();
    assert_eq!(page.objects.len(), 1);
    assert_eq!(page.objects[0].key, "good");
    assert!(page.objects[0].modified_ms > 1_600_000_000_000);
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join(".tmp"))
        .unwrap()
        .collect();
    assert!(names.pop().is_none(), "no temporary file is left");
}

#[tokio::test]
async fn opening_makes_nothing_and_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("later");
    let store = DirStore::open(&root).unwrap();
    assert!(store.get("a", None).await.unwrap_err().is_not_found());
    store.delete(&["a".into()]).await.unwrap();
    assert!(!root.exists());
    store
        .put("a/b/c", text("x"), PutCondition::IfAbsent)
        .await
        .unwrap();
    assert_eq!(std::fs::read(root.join("a/b/c")).unwrap(), b"x");
    assert!(matches!(
        DirStore::open(root.join("a/b/c")),
        Err(StoreError::Invalid { .. })
    ));
    assert!(matches!(
        DirStore::open(dir.path().join("no/such")),
        Err(StoreError::Invalid { .. })
    ));
    for key in ["a/b", "a/b/c/d"] {
        for cond in [PutCondition::Always, PutCondition::IfAbsent] {
            let clash = store.put(key, text("y"), cond).await;
            assert!(
                matches!(clash, Err(StoreError::Invalid { .. })),
                "{clash:?}"
            );
        }
    }
}

#[test]
fn old_temporary_files_are_swept_and_others_left() {
    let dir = tempfile::tempdir().unwrap();
    let temps = dir.path().join(".tmp");
    std::fs::create_dir(&temps).unwrap();
    let ours = "put-00000000000000aa-00000000000000bb";
    for name in [ours, "somebody's notes", "put-x-y"] {
        std::fs::write(temps.join(name), b"x").unwrap();
    }
    let now = SystemTime::now();
    DirStore::open_at(dir.path().into(), now + Duration::from_secs(3500)).unwrap();
    assert!(temps.join(ours).exists());
    DirStore::open_at(dir.path().into(), now + Duration::from_secs(3700)).unwrap();
    assert!(!temps.join(ours).exists());
    assert!(temps.join("somebody's notes").exists() && temps.join("put-x-y").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_compare_and_swaps_each_round_has_one_winner() {
    let dir = tempfile::tempdir().unwrap();
    let mut version = DirStore::open(dir.path())
        .unwrap()
        .put("head", text("0"), PutCondition::IfAbsent)
        .await
        .unwrap();
    for round in 0..10 {
        let mut tries = tokio::task::JoinSet::new();
        for writer in 0..4 {
            // A store of its own, as another process would have.
            let store = DirStore::open(dir.path()).unwrap();
            let cond = PutCondition::IfMatch(version.clone());
            let body = Bytes::from(format!("{round} by {writer}"));
            tries.spawn(async move { store.put("head", body, cond).await });
        }
        let outcomes = tries.join_all().await;
        let winners: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        version = winners[0].clone();
    }
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = DirStore::open(dir.path()).unwrap();
        tries.spawn(async move { store.put("new", text("x"), PutCondition::IfAbsent).await });
    }
    let won = tries.join_all().await.iter().filter(|o| o.is_ok()).count();
    assert_eq!(won, 1);
}
