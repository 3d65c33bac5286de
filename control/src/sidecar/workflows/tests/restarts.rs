//! What a sidecar makes of what an earlier one left: who was in a project, what had ended meanwhile, and rows that are damaged.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::points::Point;
use super::super::types::{RunState, StepRequest};
use super::rig::{Rig, is};
use crate::sidecar::testing::until;

/// A run that waited for the project had asked for it before, and does not get it before the one that is in it.
#[tokio::test]
async fn who_was_in_a_project_is_in_it_after_a_restart_and_who_waited_waits() {
    let mut rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    let old = rig
        .done("steps:\n  - {name: a, run: flaky x 1}\n  - {name: b, run: write old}\n")
        .await
        .run
        .run;
    rig.fresh().await;
    let install = rig
        .install("on_failure: revert\nsteps:\n  - {name: a, run: write new}\n  - {name: b, wait: {for: 1h}}\n")
        .await;
    rig.until(&install, "it waits", |shown| {
        shown.run.state == RunState::Waiting
    })
    .await;
    let again = rig.all().again(&old, StepRequest::default(), false);
    again.await.unwrap();
    is(&rig.show(&old).await, RunState::Queued);
    for _ in 0..3 {
        rig.fresh().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        is(&rig.show(&old).await, RunState::Queued);
        is(&rig.show(&install).await, RunState::Waiting);
        assert_eq!(tree.lock().present, "new");
    }
    rig.all().cancel(&install).await.unwrap();
    is(&rig.over(&install).await, RunState::Reverted);
    is(&rig.over(&old).await, RunState::Succeeded);
    assert_eq!(tree.lock().present, "old");
}

/// It was given its secrets when it began.
#[tokio::test]
async fn a_command_that_goes_on_needs_no_secret_any_more() {
    let mut rig = Rig::new().await;
    rig.secrets().put("KEY", "canary-of-it").unwrap();
    let text = "steps:\n  - {name: a, run: effect began; sleep 300; effect a, secrets: [KEY], idempotent: false}\n";
    let run = rig.trigger(text).await.unwrap().run;
    until("it runs", || rig.sandboxes.effects() == ["began"]).await;
    rig.kill().await;
    rig.secrets().remove("KEY").unwrap();
    rig.start().await;
    is(&rig.over(&run).await, RunState::Succeeded);
    assert_eq!(rig.sandboxes.effects(), ["began", "a"]);
}

/// The time of a run ends it, and not what it had done in time.
#[tokio::test]
async fn what_ended_in_time_is_done_although_nobody_looked_until_it_was_over() {
    for point in [Point::Started, Point::OutcomeAfter, Point::FinishBefore] {
        let mut rig = Rig::new().await;
        let tree = rig.host.tree("file:///srv/m");
        rig.end_at(point, 1);
        let mut hit = rig.ender.hit.subscribe();
        let text = "timeout: 1s\non_failure: revert\nsteps:\n  - {name: a, run: write done}\n";
        let run = rig.trigger(text).await.unwrap().run;
        hit.wait_for(|hit| *hit).await.unwrap();
        rig.kill().await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        rig.start().await;
        let done = rig.over(&run).await;
        assert_eq!(done.run.state, RunState::Succeeded, "{point:?}: {done:#?}");
        assert_eq!(tree.lock().present, "done");
    }
}

#[tokio::test]
async fn a_run_whose_rows_cannot_be_read_is_ended_and_holds_up_no_other() {
    let mut rig = Rig::new().await;
    let waits = "steps:\n  - {name: a, run: effect a}\n  - {name: b, wait: {for: 500ms}}\n";
    let poisoned = rig.trigger(waits).await.unwrap().run;
    let healthy = rig.trigger(waits).await.unwrap().run;
    for run in [&poisoned, &healthy] {
        rig.until(run, "it waits", |shown| {
            shown.run.state == RunState::Waiting
        })
        .await;
    }
    rig.kill().await;
    rig.store.damage(&poisoned).await;
    rig.start().await;
    is(&rig.over(&healthy).await, RunState::Succeeded);
    let shown = rig.show(&poisoned).await;
    is(&shown, RunState::Failed);
    assert_eq!(shown.run.error.as_ref().unwrap().code, "unreadable");
    let list = rig.all().list(crate::sidecar::store::RunFilter {
        most: 10,
        ..Default::default()
    });
    assert_eq!(list.await.unwrap().runs.len(), 2);
    let told = rig.told(&poisoned).await;
    assert!(told.last().unwrap().message.contains("cannot be read"));
    is(
        &rig.done("steps:\n  - {name: a, run: 'true'}\n").await,
        RunState::Succeeded,
    );
    let effects = rig.sandboxes.effects();
    let counted = effects.iter().fold(BTreeMap::new(), |mut all, one| {
        *all.entry(one.as_str()).or_insert(0) += 1;
        all
    });
    assert_eq!(counted["a"], 2);
}

/// All of it is written at once: the next sidecar must not take steps that were cut off for a run that is done.
#[tokio::test]
async fn a_run_that_is_given_up_is_undone_after_a_kill_at_any_moment_of_that() {
    for point in [Point::FinishBefore, Point::RevertBegun] {
        let mut rig = Rig::new().await;
        let tree = rig.host.tree("file:///srv/m");
        tree.lock().present = "before".into();
        let run = rig
            .install("on_failure: revert\nsteps:\n  - {name: a, run: write new}\n  - {name: b, wait: {for: 1h}}\n  - {name: c, run: write more}\n")
            .await;
        rig.until(&run, "it waits", |shown| {
            shown.run.state == RunState::Waiting
        })
        .await;
        rig.kill().await;
        rig.store
            .change_definitions("steps: [{name: a, flies: true}]".into())
            .await;
        rig.start_previews().await;
        rig.end_at(point, 1);
        rig.start_workflows().await;
        let mut hit = rig.ender.hit.subscribe();
        hit.wait_for(|hit| *hit).await.unwrap();
        rig.fresh().await;
        is(&rig.over(&run).await, RunState::Reverted);
        assert_eq!(tree.lock().present, "before");
    }
}
