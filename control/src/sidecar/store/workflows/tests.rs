use std::collections::BTreeMap;

use super::retention::{REVERTED_AGE_MS, RUNS_AGE_MS, RUNS_MAX};
use super::*;
use crate::sidecar::store::Store;

fn run(n: u64) -> RunRow {
    RunRow {
        seq: 0,
        id: String::new(),
        workflow: "w".into(),
        mount: "m".into(),
        path: String::new(),
        definition: format!("hash-{}", n % 3),
        inputs: BTreeMap::new(),
        state: RunState::Succeeded,
        error: None,
        created_ms: n,
        started_ms: Some(n),
        ended_ms: Some(n),
        snapshot: None,
        releasing: false,
        origin: Some(format!("origin-{n}")),
    }
}

async fn add(store: &Store, row: RunRow) -> (RunRow, bool, i64) {
    let steps = vec![StepRow::new(0, "a", "run")];
    let added = store.add_run(row, steps, "text".into(), |run| NewEvent {
        kind: "workflow.run",
        run: Some(run.id.clone()),
        ..NewEvent::default()
    });
    added.await.unwrap()
}

#[tokio::test]
async fn a_request_is_one_run_and_ids_are_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (first, is_new, _) = add(&store, run(7)).await;
    assert!(is_new);
    let (same, is_new, _) = add(&store, run(7)).await;
    assert!(!is_new && same == first);
    let rows = store.run_rows(&first.id).await.unwrap().unwrap();
    assert_eq!((&rows.run, rows.steps.len()), (&first, 1));
    assert_eq!(
        store.definition("hash-1").await.unwrap().as_deref(),
        Some("text")
    );
    store
        .run(|open| open.db.execute("DELETE FROM run", ()).map(drop))
        .await
        .unwrap();
    let (second, _, _) = add(&store, run(7)).await;
    assert_ne!(first.id, second.id);
}

#[tokio::test]
async fn runs_that_are_over_end_by_age_and_by_number_with_all_that_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let with_snapshot = RunRow {
        snapshot: Some("s".into()),
        ..run(1)
    };
    let (kept, _, _) = add(&store, with_snapshot).await;
    for n in 2..5 {
        add(&store, run(n)).await;
    }
    add(&store, run(RUNS_AGE_MS + 4)).await;
    let left = |filter: RunFilter| {
        let store = store.clone();
        async move {
            store
                .runs(RunFilter {
                    most: 100,
                    ..filter
                })
                .await
                .unwrap()
        }
    };
    let now = left(RunFilter::default()).await;
    let times: Vec<u64> = now.iter().map(|(run, _)| run.created_ms).collect();
    assert_eq!(times, [RUNS_AGE_MS + 4, 1], "the one with snapshots stays");
    store.forget_snapshots(&kept.id).await.unwrap();
    add(&store, run(RUNS_AGE_MS + 5)).await;
    assert_eq!(left(RunFilter::default()).await.len(), 2);
    assert_eq!(store.run_rows(&kept.id).await.unwrap(), None);
    let counts = store.run(|open| {
        open.db.query_row(
            "SELECT (SELECT count(*) FROM step), (SELECT count(*) FROM definition)",
            (),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
    });
    assert_eq!(counts.await.unwrap(), (2, 2));
}

/// Their snapshots go first: nobody would know of them any more.
#[tokio::test]
async fn a_run_too_many_stays_as_long_as_it_has_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let with_snapshot = |n| RunRow {
        snapshot: Some(format!("s{n}")),
        ..run(n)
    };
    let (old, _, _) = add(&store, with_snapshot(1)).await;
    let (bare, _, _) = add(&store, run(2)).await;
    store.skip_run_numbers(RUNS_MAX + 5).await;
    let (new, _, _) = add(&store, with_snapshot(3)).await;
    let surplus = || store.surplus_with_snapshots("m", 3, 10);
    assert_eq!(store.mounts_with_surplus(3).await.unwrap(), ["m"]);
    assert_eq!(surplus().await.unwrap(), std::slice::from_ref(&old.id));
    assert_eq!(store.remove_surplus(3).await.unwrap(), 1);
    assert_eq!(store.run_rows(&bare.id).await.unwrap(), None);
    assert!(store.run_rows(&old.id).await.unwrap().is_some());
    store.forget_snapshots(&old.id).await.unwrap();
    assert!(surplus().await.unwrap().is_empty());
    assert!(store.mounts_with_surplus(3).await.unwrap().is_empty());
    assert_eq!(store.remove_surplus(3).await.unwrap(), 1);
    assert_eq!(store.run_rows(&old.id).await.unwrap(), None);
    assert!(store.run_rows(&new.id).await.unwrap().is_some());
}

#[tokio::test]
async fn installs_that_are_not_over_have_a_limit_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let live = |n: u64, workflow: &str| RunRow {
        workflow: workflow.into(),
        state: RunState::Queued,
        ended_ms: None,
        ..run(n)
    };
    let limit = INSTALLS_MAX.unsigned_abs();
    for n in 0..limit {
        add(&store, live(n, "install:a")).await;
    }
    add(&store, live(limit, "other")).await;
    let more = store.add_run(live(limit + 1, "install:b"), Vec::new(), "t".into(), |_| {
        NewEvent::default()
    });
    let refused = more.await.unwrap_err();
    assert_eq!(refused.code(), "limit_reached");
    assert!(refused.to_string().contains("installs"), "{refused}");
    // The same request again is no other one.
    let (_, is_new, _) = add(&store, live(3, "install:a")).await;
    assert!(!is_new);
}

#[tokio::test]
async fn a_run_that_was_just_reverted_stays_however_old_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (old, _, _) = add(&store, run(1)).await;
    let (reverted, _, _) = add(&store, run(2)).await;
    let now_ms = RUNS_AGE_MS + 10;
    let report = RevertReport {
        run: reverted.id.clone(),
        number: 1,
        step: None,
        undo: false,
        restored: "s".into(),
        kept: "k".into(),
        kept_late: None,
        names: 0,
        at: now_ms,
        done: true,
        error: None,
    };
    let row = RevertRow {
        report,
        origin: Some("o".into()),
        sent: true,
    };
    let change = RunChange {
        revert: Some(row.clone()),
        ..RunChange::default()
    };
    store.change_run(&reverted.id, change).await.unwrap();
    add(&store, run(now_ms)).await;
    assert_eq!(store.run_rows(&old.id).await.unwrap(), None);
    let kept = store.run_rows(&reverted.id).await.unwrap().unwrap();
    assert_eq!(kept.reverts, [row]);
    add(&store, run(now_ms + REVERTED_AGE_MS)).await;
    assert_eq!(store.run_rows(&reverted.id).await.unwrap(), None);
}

/// What is asked at the start, for each run, and by lists costs what it answers, however many runs are over.
#[tokio::test]
async fn what_is_over_is_not_looked_through() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (sql, index) in [
        ("SELECT id FROM run WHERE live = 1 ORDER BY seq", "run_live"),
        ("SELECT count(*) FROM run WHERE live = 1", "run_live"),
        (
            "SELECT id FROM run WHERE live = 0 ORDER BY seq LIMIT 20",
            "run_over",
        ),
        (
            "SELECT id FROM run WHERE seq < 9 ORDER BY seq DESC LIMIT 9",
            "PRIMARY KEY",
        ),
        (
            "SELECT id FROM run WHERE origin = 'x'",
            "sqlite_autoindex_run",
        ),
        (
            "SELECT id FROM run WHERE mount = 'm' AND path = '' AND live = 0 ORDER BY seq DESC",
            "run_project",
        ),
        (
            "SELECT name FROM step WHERE run = 'x' ORDER BY number",
            "PRIMARY KEY",
        ),
    ] {
        let plan = store.look(move |open| {
            let mut statement = open.db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let rows = statement.query_map((), |row| row.get::<_, String>(3))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        });
        let plan = plan.await.unwrap().join("; ");
        assert!(plan.contains(index), "{sql}: {plan}");
    }
}

/// One row that cannot be read stops neither the removal of others, nor a new run, nor a list.
#[tokio::test]
async fn a_damaged_row_of_a_run_that_is_over_stands_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 1..5 {
        add(&store, run(n)).await;
    }
    store
        .run(|open| {
            open.db.execute_batch(
                "INSERT INTO revert (run, number, report) SELECT id, 1, '{broken' FROM run WHERE seq = 2;
                 UPDATE run SET inputs = '{broken' WHERE seq = 3;",
            )
        })
        .await
        .unwrap();
    add(&store, run(RUNS_AGE_MS)).await;
    let list = store.runs(RunFilter {
        most: 2,
        before: Some(5),
        ..RunFilter::default()
    });
    let listed: Vec<i64> = list.await.unwrap().iter().map(|(run, _)| run.seq).collect();
    assert_eq!(listed, [4, 2], "the third cannot be shown");
    assert!(
        store
            .old_snapshots("m", "", 0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    while store.remove_surplus(RUNS_AGE_MS + 10).await.unwrap() > 0 {}
    let left = store.runs(RunFilter {
        most: 10,
        ..RunFilter::default()
    });
    assert_eq!(left.await.unwrap().len(), 1);
}
