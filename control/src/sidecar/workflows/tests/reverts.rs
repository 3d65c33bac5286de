//! Reverts that come again, follow one another, and meet the removal of old snapshots.

use super::super::points::Point;
use super::super::types::{RevertRequest, RunState, StepRequest};
use super::rig::{Rig, is};
use crate::error::ApiError;
use crate::sidecar::idempotency::Attempt;
use crate::sidecar::testing::until;

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
    let rig = Rig::new().await;
    let failed = rig
        .done("steps:\n  - {name: a, run: effect a; exit 1}\n")
        .await;
    let run = failed.run.run;
    rig.store.forget_snapshots(&run).await.unwrap();
    for skips in [false, true] {
        let again = rig.all().again(&run, StepRequest::default(), skips).await;
        assert!(
            matches!(&again, Err(ApiError::Conflict(why)) if why.contains("not kept any more")),
            "{again:?}"
        );
    }
    is(&rig.show(&run).await, RunState::Failed);
    assert_eq!(rig.sandboxes.effects(), ["a"]);
    // One that did nothing yet has nothing to go back to.
    let stuck = rig
        .trigger("steps:\n  - {name: a, wait: {for: 1h}}\n")
        .await
        .unwrap()
        .run;
    rig.all().cancel(&stuck).await.unwrap();
    rig.over(&stuck).await;
}
