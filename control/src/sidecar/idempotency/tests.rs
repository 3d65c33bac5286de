use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::super::testing::{PATIENCE, until};
use super::*;

/// A clock that the test sets.
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct World {
    dir: tempfile::TempDir,
    clock: Arc<SetClock>,
    idempotency: Idempotency,
    /// How often the work was done.
    runs: Arc<AtomicU32>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock(AtomicU64::new(1_000_000)));
        let idempotency = open(dir.path(), &clock).await;
        Self {
            dir,
            clock,
            idempotency,
            runs: Arc::default(),
        }
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Work that answers with how often it was done.
    async fn counted(&self, asked: Asked) -> Result<Answered<Value>, ApiError> {
        let runs = Arc::clone(&self.runs);
        let work = |attempt: Attempt| async move {
            let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
            Ok(json!({"run": run, "id": attempt.id, "again": attempt.is_again}))
        };
        self.idempotency.run(asked, work).await
    }

    /// Work that fails so.
    async fn refused(&self, asked: Asked, error: ApiError) -> ApiError {
        let runs = Arc::clone(&self.runs);
        let work = |_| async move {
            runs.fetch_add(1, Ordering::Relaxed);
            Err::<Value, _>(error)
        };
        self.idempotency.run(asked, work).await.unwrap_err()
    }
}

/// One that has just ended may hold the folder a moment longer, until its last work is done.
async fn open(folder: &Path, clock: &Arc<SetClock>) -> Idempotency {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Store::open(folder) {
            Ok(store) => return Idempotency::new(store, Arc::clone(clock) as _),
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn asked_by(uid: u32, key: &str, body: &Value) -> Asked {
    let mut headers = HeaderMap::new();
    headers.insert(KEY, key.parse().unwrap());
    let asked = Asked::of(&headers, &Identity::Local { uid }, "POST /x", body);
    asked.unwrap().expect("it has a key")
}

fn asked(key: &str) -> Asked {
    asked_by(0, key, &json!({"a": 1}))
}

#[tokio::test]
async fn the_same_request_is_done_once_and_answered_the_same_also_by_the_next_sidecar() {
    let mut world = World::new().await;
    let first = world.counted(asked("k")).await.unwrap();
    assert!(!first.is_replayed);
    let second = world.counted(asked("k")).await.unwrap();
    assert_eq!((&second.value, second.is_replayed), (&first.value, true));
    assert_eq!(world.runs(), 1);

    // Killed and started again.
    drop(world.idempotency);
    world.idempotency = open(world.dir.path(), &world.clock).await;
    let third = world.counted(asked("k")).await.unwrap();
    assert_eq!((&third.value, third.is_replayed), (&first.value, true));
    assert_eq!(world.runs(), 1);

    // Other keys and other askers are other requests, with other ids.
    let other = world.counted(asked("l")).await.unwrap();
    let stranger = world.counted(asked_by(7, "k", &json!({"a": 1}))).await;
    assert_eq!(world.runs(), 3);
    let ids = [first.value, other.value, stranger.unwrap().value].map(|v| v["id"].to_string());
    assert!(
        ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2],
        "{ids:?}"
    );
}

#[tokio::test]
async fn a_key_that_came_with_something_else_is_refused_and_nothing_is_done() {
    let world = World::new().await;
    world.counted(asked("k")).await.unwrap();
    let other_body = asked_by(0, "k", &json!({"a": 2}));
    assert_eq!(
        world.counted(other_body).await.unwrap_err().code(),
        "key_reused"
    );
    let mut headers = HeaderMap::new();
    headers.insert(KEY, "k".parse().unwrap());
    let elsewhere = Asked::of(
        &headers,
        &Identity::Local { uid: 0 },
        "POST /y",
        &json!({"a": 1}),
    );
    let error = world
        .counted(elsewhere.unwrap().unwrap())
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.status()), ("key_reused", 422));
    assert_eq!(world.runs(), 1);
}

#[tokio::test]
async fn the_same_at_the_same_time_waits_for_the_one_and_another_does_not() {
    let world = World::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let slow = |asked: Asked| {
        let (gate, runs) = (Arc::clone(&gate), Arc::clone(&world.runs));
        let idempotency = world.idempotency.clone();
        tokio::spawn(async move {
            let work = |_| async move {
                let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
                drop(gate.acquire().await);
                Ok(run)
            };
            idempotency.run::<u32, _>(asked, work).await
        })
    };
    let waiting: Vec<_> = (0..8).map(|_| slow(asked("k"))).collect();
    until("the work has begun", || world.runs() == 1).await;
    let other = world.counted(asked_by(0, "k", &json!({"a": 2}))).await;
    assert_eq!(other.unwrap_err().code(), "key_reused");
    world.counted(asked("l")).await.unwrap();
    gate.add_permits(1);
    let mut replayed = 0;
    for one in waiting {
        let answer = tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.value, 1);
        replayed += u32::from(answer.is_replayed);
    }
    assert_eq!((replayed, world.runs()), (7, 2));
    assert!(world.idempotency.0.running.lock().is_empty());
}

#[tokio::test]
async fn work_goes_on_when_its_client_hangs_up() {
    let world = World::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let asking = {
        let (gate, runs) = (Arc::clone(&gate), Arc::clone(&world.runs));
        let idempotency = world.idempotency.clone();
        tokio::spawn(async move {
            let work = |_| async move {
                drop(gate.acquire().await);
                Ok(runs.fetch_add(1, Ordering::Relaxed) + 1)
            };
            idempotency.run::<u32, _>(asked("k"), work).await
        })
    };
    until("it has begun", || {
        !world.idempotency.0.running.lock().is_empty()
    })
    .await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    until("it is done", || {
        world.idempotency.0.running.lock().is_empty()
    })
    .await;
    let again = world
        .idempotency
        .run::<u32, _>(asked("k"), |_| async { Ok(99) });
    let again = again.await.unwrap();
    assert_eq!((again.value, again.is_replayed, world.runs()), (1, true, 1));
}

#[tokio::test]
async fn what_was_begun_and_never_answered_is_tried_again_under_its_id() {
    let mut world = World::new().await;
    let first_id = Arc::new(Mutex::new(None));
    let told = Arc::clone(&first_id);
    let work = |attempt: Attempt| async move {
        *told.lock() = Some(attempt);
        std::future::pending::<Result<u32, ApiError>>().await
    };
    // The sidecar is killed in the middle of it: its runtime goes, and with it all that runs.
    let folder = world.dir.path().to_owned();
    let clock = Arc::clone(&world.clock);
    drop(world.idempotency);
    let killed = std::thread::spawn({
        let first_id = Arc::clone(&first_id);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let idempotency = open(&folder, &clock).await;
                let running = idempotency.run(asked("k"), work);
                tokio::select! {
                    _ = running => panic!("it never ends"),
                    () = until("it has begun", || first_id.lock().is_some()) => {}
                }
            });
        }
    });
    killed.join().unwrap();
    let first = first_id.lock().clone().unwrap();
    assert!(!first.is_again);
    world.idempotency = open(world.dir.path(), &world.clock).await;
    let again = world.counted(asked("k")).await.unwrap();
    assert!(!again.is_replayed);
    assert_eq!(
        again.value,
        json!({"run": 1, "id": first.id, "again": true})
    );
    assert!(world.counted(asked("k")).await.unwrap().is_replayed);
}

#[tokio::test]
async fn refusals_are_kept_and_what_may_go_better_is_tried_again() {
    let world = World::new().await;
    let wrong = ApiError::Conflict("it is there".into());
    for _ in 0..2 {
        assert_eq!(world.refused(asked("no"), wrong.clone()).await, wrong);
    }
    assert_eq!(world.runs(), 1);
    let later = ApiError::StoreUnavailable("it does not answer".into());
    for _ in 0..2 {
        assert_eq!(world.refused(asked("later"), later.clone()).await, later);
    }
    assert_eq!(world.runs(), 3);
    let done = world.counted(asked("later")).await.unwrap();
    assert_eq!(
        (&done.value["again"], done.is_replayed),
        (&json!(true), false)
    );
}

#[tokio::test]
async fn work_that_breaks_down_is_an_error_and_leaves_no_key_in_use() {
    let world = World::new().await;
    let breaks = std::hint::black_box(true);
    let work = move |_| async move {
        assert!(!breaks, "on purpose");
        Ok(0)
    };
    let error = world.idempotency.run::<u32, _>(asked("k"), work).await;
    assert_eq!(error.unwrap_err().code(), "internal");
    assert!(world.idempotency.0.running.lock().is_empty());
    world.counted(asked("k")).await.unwrap();
}

#[tokio::test]
async fn a_key_ends_after_a_day_and_is_another_request_then() {
    let world = World::new().await;
    let first = world.counted(asked("k")).await.unwrap();
    let day = KEPT_FOR.as_millis() as u64;
    world.clock.0.fetch_add(day, Ordering::Relaxed);
    assert!(world.counted(asked("k")).await.unwrap().is_replayed);
    world.clock.0.fetch_add(1, Ordering::Relaxed);
    let later = world.counted(asked("k")).await.unwrap();
    assert!(!later.is_replayed);
    assert_ne!(first.value["id"], later.value["id"]);
    // What it came with before does not matter any more either.
    world.clock.0.fetch_add(day + 1, Ordering::Relaxed);
    world
        .counted(asked_by(0, "k", &json!({"a": 2})))
        .await
        .unwrap();
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_begun() {
    let world = World::new().await;
    // Keys as long as may be, so that a page is full soon.
    world.idempotency.0.store.fill_the_disk(true).await;
    let mut failed = None;
    for n in 0..1000 {
        let key = format!("{n:0>width$}", width = KEY_MAX);
        let before = world.runs();
        if let Err(error) = world.counted(asked(&key)).await {
            assert_eq!(
                world.runs(),
                before,
                "it is refused before anything is done"
            );
            failed = Some((key, error));
            break;
        }
    }
    let (key, error) = failed.expect("the disk is full");
    assert_eq!(error.code(), "database_unavailable");
    world.idempotency.0.store.fill_the_disk(false).await;
    let done = world.counted(asked(&key)).await.unwrap();
    assert_eq!(
        (&done.value["again"], done.is_replayed),
        (&json!(false), false)
    );
}

#[tokio::test]
async fn only_so_many_run_at_the_same_time() {
    let world = World::new().await;
    let never = |asked: Asked| {
        let idempotency = world.idempotency.clone();
        let work = |_| std::future::pending::<Result<u32, ApiError>>();
        tokio::spawn(async move { idempotency.run(asked, work).await })
    };
    for n in 0..RUNNING_MAX {
        never(asked(&n.to_string()));
    }
    until("all of them run", || {
        world.idempotency.0.running.lock().len() == RUNNING_MAX
    })
    .await;
    let error = world.counted(asked("one-more")).await.unwrap_err();
    assert_eq!(error.code(), "rate_limited");
}

#[test]
fn keys_are_visible_and_single() {
    let of = |values: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::from_bytes(value).unwrap());
        }
        Asked::of(&headers, &Identity::Nobody, "POST /x", &json!({}))
    };
    assert_eq!(of(&[]).unwrap(), None);
    assert!(
        of(&[b"8e03978e-40d5-43e8-bc93-6894a57f9324"])
            .unwrap()
            .is_some()
    );
    assert!(of(&[&[b'k'; KEY_MAX]]).unwrap().is_some());
    for bad in [
        vec![b"".as_slice()],
        vec![b"a b"],
        vec![b"\xc3\xa4"],
        vec![&[b'k'; KEY_MAX + 1]],
        vec![b"a", b"a"],
    ] {
        let error = of(&bad).unwrap_err();
        assert!(error.to_string().contains("Idempotency-Key"), "{error}");
    }
}
