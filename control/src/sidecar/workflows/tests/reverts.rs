//! Reverts that come again, follow one another, and meet the removal of old snapshots.

use super::super::points::Point;
use super::super::types::{RevertRequest, RunState, StepRequest};
use super::rig::{Rig, is};
use crate::error::ApiError;
use crate::sidecar::host::Ending;
use crate::sidecar::idempotency::Attempt;
use crate::sidecar::testing::{PATIENCE, until};

const WRITES: &str = "steps:\n  - {name: a, run: write one}\n  - {name: b, run: write two}\n";

fn revert(run: &str, undo: bool) -> RevertRequest {
    RevertRequest {
        run: run.to_owned(),
        step: None,
        undo,
    }
}

fn again(id: &str) -> Option<Attempt> {
    Some(Attempt {
        id: id.to_owned(),
        is_again: true,
    })
}

/// The same steps of the same run were reverted by somebody else before: that is not this request.
#[tokio::test]
async fn a_revert_that_comes_again_is_known_by_its_request_and_not_by_what_it_asks_for() {
    let mut rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let run = rig.done(WRITES).await.run.run;
    rig.all().revert(revert(&run, false), None).await.unwrap();
    tree.lock().present = "edited".into();
    // Its first attempt was killed before anything was written down.
    let second = rig.all().revert(revert(&run, false), again("k")).await;
    assert_eq!(second.unwrap().number, 2);
    assert_eq!(tree.lock().present, "before");
    tree.lock().present = "edited again".into();
    let third = rig.all().revert(revert(&run, false), None).await.unwrap();
    assert_eq!(third.number, 3);
    // This was done, and others came after it, also over a restart.
    tree.lock().present = "edited once more".into();
    rig.fresh().await;
    let same = rig.all().revert(revert(&run, false), again("k")).await;
    assert_eq!(same.unwrap().number, 2);
    assert_eq!(tree.lock().present, "edited once more");
    assert_eq!(rig.show(&run).await.reverts.len(), 3);
}

/// What is written between the snapshot that a revert takes and the moment in which it happens is in another one.
#[tokio::test]
async fn an_undo_goes_back_to_what_also_has_the_last_writes_as_long_as_that_is_there() {
    for is_there in [true, false] {
        let mut rig = Rig::new().await;
        let tree = rig.host.tree("file:///srv/m");
        tree.lock().present = "before".into();
        let run = rig.done(WRITES).await.run.run;
        rig.fresh().await;
        rig.end_at(Point::RevertKept, 1);
        let mut hit = rig.ender.hit.subscribe();
        let (all, request) = (rig.all().clone(), revert(&run, false));
        let asking = tokio::spawn(async move { all.revert(request, None).await });
        hit.wait_for(|hit| *hit).await.unwrap();
        tree.lock().present = "late".into();
        asking.abort();
        drop(asking.await);
        rig.kill().await;
        rig.start().await;
        let done = rig.over(&run).await;
        is(&done, RunState::Reverted);
        let report = done.reverts.last().unwrap().clone();
        assert_eq!(tree.lock().present, "before");
        let late = report.kept_late.unwrap();
        assert_eq!(tree.lock().contents[&report.kept], "two");
        assert_eq!(tree.lock().contents[&late], "late");
        if !is_there {
            // It went by its age.
            tree.lock().snapshots.retain(|one| one.name != late);
        }
        let undone = rig.all().revert(revert(&run, true), None).await.unwrap();
        let (restored, present) = match is_there {
            true => (late, "late"),
            false => (report.kept, "two"),
        };
        assert_eq!(undone.restored, restored);
        assert_eq!(tree.lock().present, present);
    }
}

#[tokio::test]
async fn a_run_that_was_just_reverted_keeps_its_snapshots() {
    let rig = Rig::new().await;
    let mut runs = Vec::new();
    for _ in 0..20 {
        let done = rig.done("steps:\n  - {name: a, run: 'true'}\n").await;
        runs.push(done.run.run);
    }
    rig.all()
        .revert(revert(&runs[0], false), None)
        .await
        .unwrap();
    for _ in 0..3 {
        rig.done("steps:\n  - {name: a, run: 'true'}\n").await;
    }
    let tree = rig.host.tree("file:///srv/m");
    let has = |run: &str| {
        let name = format!("run-{run}");
        tree.lock().snapshots.iter().any(|one| one.name == name)
    };
    until("those of the oldest are gone", || !has(&runs[3])).await;
    assert!(has(&runs[0]) && has(&runs[4]));
    rig.all()
        .revert(revert(&runs[0], true), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_run_without_its_snapshots_is_not_tried_again() {
    let mut rig = Rig::new().await;
    let failed = rig
        .done("steps:\n  - {name: a, run: effect a; exit 1}\n")
        .await;
    let run = failed.run.run;
    rig.store.forget_snapshots(&run).await.unwrap();
    rig.fresh().await;
    for skips in [false, true] {
        let again = rig.all().again(&run, StepRequest::default(), skips).await;
        assert!(
            matches!(&again, Err(ApiError::Conflict(why)) if why.contains("not kept any more")),
            "{again:?}"
        );
    }
    is(&rig.show(&run).await, RunState::Failed);
    assert_eq!(rig.sandboxes.effects(), ["a"]);
}

const INSTALL: &str =
    "on_failure: revert\nsteps:\n  - {name: a, run: write one}\n  - {name: b, wait: {for: 1h}}\n";

/// All or nothing, also when nobody knows any more what it was to do.
#[tokio::test]
async fn an_install_that_cannot_be_gone_on_with_is_undone() {
    let mut rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let run = rig.install(INSTALL).await;
    rig.until(&run, "it waits", |shown| {
        shown.run.state == RunState::Waiting
    })
    .await;
    assert_eq!(tree.lock().present, "one");
    rig.kill().await;
    let broken = "steps: [{name: a, flies: true}]".to_owned();
    rig.store.change_definitions(broken).await;
    rig.start().await;
    let done = rig.over(&run).await;
    is(&done, RunState::Reverted);
    assert_eq!(done.run.error.unwrap().code, "definition_unusable");
    assert_eq!(tree.lock().present, "before");
}

#[tokio::test]
async fn a_run_whose_time_ends_while_the_mount_is_away_is_reverted_once_it_is_back() {
    let mut rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let definition = format!("timeout: 2s\n{INSTALL}");
    let run = rig.trigger(&definition).await.unwrap().run;
    rig.until(&run, "it waits", |shown| {
        shown.run.state == RunState::Waiting
    })
    .await;
    rig.kill().await;
    let host = rig.host.clone();
    let held = host.gate.lock().await;
    host.end(rig.project().to_str().unwrap(), Ending::Died);
    let mounts = rig.mounts.clone();
    until("it is not mounted", || mounts.volume("m").is_err()).await;
    rig.start().await;
    let waits = rig
        .until(&run, "its time is over", |shown| shown.run.state.is_over())
        .await;
    assert_eq!(waits.run.error.unwrap().code, "timed_out");
    assert_eq!(tree.lock().present, "one");
    drop(held);
    is(&rig.over(&run).await, RunState::Reverted);
    assert_eq!(tree.lock().present, "before");
}

#[tokio::test]
async fn a_cancelled_install_tells_that_it_is_over_once_it_is_undone() {
    let rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let run = rig.install(INSTALL).await;
    rig.until(&run, "it waits", |shown| {
        shown.run.state == RunState::Waiting
    })
    .await;
    rig.all().cancel(&run).await.unwrap();
    is(&rig.over(&run).await, RunState::Reverted);
    assert_eq!(tree.lock().present, "before");
    let told = rig.told(&run).await;
    let mut released = told
        .iter()
        .filter(|event| event.kind == "workflow.released");
    assert_eq!(
        released.next().map(|event| event.id),
        told.last().map(|event| event.id)
    );
    assert!(released.next().is_none());
}

/// Of runs that are too many their snapshots go first: nobody would know of them any more.
#[tokio::test]
async fn runs_that_are_too_many_go_with_their_snapshots() {
    let mut rig = Rig::new().await;
    let old = rig.done(WRITES).await.run.run;
    rig.store.skip_run_numbers(20_000).await;
    let new = rig.done(WRITES).await.run.run;
    let tree = rig.host.tree("file:///srv/m");
    let of = |run: &str| {
        let all = &tree.lock().snapshots;
        let its = all.iter().filter(|one| one.name.contains(run));
        its.count()
    };
    assert_eq!((of(&old), of(&new)), (3, 3));
    rig.show(&old).await;
    rig.fresh().await;
    until("its snapshots are gone", || of(&old) == 0).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.all().show(&old).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the run stays");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(of(&new), 3);
    rig.show(&new).await;
}

/// The second restore finds what the first one made, and what was written onto that: that is not what was there before.
#[tokio::test]
async fn an_undo_goes_back_to_before_a_revert_that_was_done_twice() {
    let mut rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let run = rig.done(WRITES).await.run.run;
    rig.fresh().await;
    rig.end_at(Point::RevertRestored, 1);
    let mut hit = rig.ender.hit.subscribe();
    let (all, request) = (rig.all().clone(), revert(&run, false));
    let asking = tokio::spawn(async move { all.revert(request, None).await });
    hit.wait_for(|hit| *hit).await.unwrap();
    assert_eq!(tree.lock().present, "before");
    tree.lock().present = "by the app".into();
    asking.abort();
    drop(asking.await);
    rig.fresh().await;
    is(&rig.over(&run).await, RunState::Reverted);
    assert_eq!(tree.lock().present, "before");
    rig.all().revert(revert(&run, true), None).await.unwrap();
    assert_eq!(tree.lock().present, "two");
}

/// A run that begins while a revert waits for a database would work on what is broken, and lose it to the revert.
#[tokio::test]
async fn nobody_goes_into_a_project_between_two_tries_of_a_revert() {
    let rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let lock = rig.project().join(".weldr/postgres/lock");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let database = std::fs::File::create(lock).unwrap();
    database.lock().unwrap();
    let fails = "on_failure: revert\nsteps:\n  - {name: a, run: write one; exit 1}\n";
    let first = rig.trigger(fails).await.unwrap().run;
    rig.until(&first, "it is to be reverted", |shown| {
        !shown.reverts.is_empty()
    })
    .await;
    let next = rig.trigger("steps:\n  - {name: a, run: write two}\n");
    let next = next.await.unwrap().run;
    // Longer than a database that was told to end is waited for, so that there are two tries.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    is(&rig.show(&next).await, RunState::Queued);
    database.unlock().unwrap();
    is(&rig.over(&first).await, RunState::Reverted);
    is(&rig.over(&next).await, RunState::Succeeded);
    let before = tree.lock().contents[&format!("run-{next}")].clone();
    assert_eq!(
        (before.as_str(), tree.lock().present.as_str()),
        ("before", "two")
    );
}

#[tokio::test]
async fn a_run_cancelled_between_two_steps_is_cancelled_again_once_its_revert_is_undone() {
    let mut rig = Rig::new().await;
    let turns =
        "concurrency: 1\nsteps:\n  - {name: a, run: write one}\n  - {name: b, wait: {for: 1h}}\n";
    let run = rig.trigger(turns).await.unwrap().run;
    rig.until(&run, "it waits", |shown| {
        shown.run.state == RunState::Waiting
    })
    .await;
    rig.all().cancel(&run).await.unwrap();
    rig.over(&run).await;
    rig.store.forget_how_steps_ended(&run).await;
    rig.fresh().await;
    for (undo, state) in [(false, RunState::Reverted), (true, RunState::Cancelled)] {
        rig.all().revert(revert(&run, undo), None).await.unwrap();
        is(&rig.show(&run).await, state);
    }
}
