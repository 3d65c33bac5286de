//! What a run says and hands on has an end.

use super::super::steps::{bounded, fault, fitting};
use super::super::types::{RunState, TriggerRequest};
use super::rig::{Rig, is, step};
use crate::sidecar::types::Event;
use std::collections::BTreeMap;

fn bytes(told: &[Event]) -> usize {
    let outputs = told.iter().filter(|event| event.kind == "workflow.output");
    outputs.map(|event| event.message.len()).sum()
}

#[tokio::test]
async fn what_is_told_of_a_run_has_an_end_also_over_a_restart_and_is_said_once() {
    let mut rig = Rig::new().await;
    rig.said_max = 50_000;
    rig.fresh().await;
    let definition = "steps:\n  - {name: a, run: flood 30000}\n  - {name: b, run: sleep 300; flood 30000}\n  \
                      - {name: c, run: flood 30000}\n";
    let run = rig.trigger(definition).await.unwrap().run;
    rig.until(&run, "the second step runs", |shown| {
        step(shown, "b").attempt == 1
    })
    .await;
    rig.fresh().await;
    let done = rig.over(&run).await;
    is(&done, RunState::Succeeded);
    let told = rig.told(&run).await;
    let said = bytes(&told);
    assert!((30_000..51_000).contains(&said), "{said}");
    let cut = told
        .iter()
        .filter(|event| event.message.contains("is not told"))
        .count();
    assert_eq!(cut, 1);
    // Nothing else is lost by that.
    assert!(step(&done, "c").log.as_ref().unwrap().contains("xxx"));
}

#[test]
fn outputs_of_a_run_fit_together() {
    let of = |count: usize| -> BTreeMap<String, serde_json::Value> {
        let one = |n| (format!("o{n:03}"), "y".repeat(30_000).into());
        (0..count).map(one).collect()
    };
    let small = fitting(of(10), std::iter::once(&of(10)));
    assert_eq!(small, of(10));
    let others = [of(100), of(30)];
    let cut = fitting(of(20), others.iter());
    assert_eq!(cut["o000"], of(1)["o000"]);
    let last = cut["o019"].as_str().unwrap();
    assert_eq!(last, "\n(cut here: it was longer)");
    let size: usize = cut.values().map(|one| one.as_str().unwrap().len()).sum();
    assert!(130 * 30_000 + size < 4_200_000, "{size}");
}

#[test]
fn why_something_failed_is_said_briefly() {
    let long = bounded(fault("agent_failed", "ä".repeat(1_000_000)));
    assert!(long.message.len() < 5_000 && long.message.ends_with("it was longer)"));
    let short = fault("agent_failed", "short");
    assert_eq!(bounded(short.clone()), short);
}

/// Projects on it, and what people keep, may come to more than the few of each project.
#[tokio::test]
async fn a_volume_that_can_have_no_more_snapshots_gives_up_those_of_the_oldest_runs() {
    let rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().snapshots_max = Some(100);
    let text = "steps:\n  - {name: a, run: 'true'}\n  - {name: b, run: 'true'}\n  - {name: c, run: 'true'}\n";
    let mut runs = Vec::new();
    for n in 0..40 {
        let project = format!("p{}", n % 20);
        std::fs::create_dir_all(rig.project().join(&project)).unwrap();
        let request = TriggerRequest {
            mount: "m".into(),
            path: Some(project),
            workflow: text.into(),
            inputs: BTreeMap::new(),
        };
        let run = rig.all().trigger(request, None).await.unwrap().run;
        let done = rig.over(&run).await;
        is(&done, RunState::Succeeded);
        assert!(
            done.steps.iter().all(|step| step.snapshot.is_some()),
            "{done:#?}"
        );
        runs.push(run);
    }
    let has = |run: &str| {
        let all = &tree.lock().snapshots;
        all.iter().any(|one| one.name.contains(run))
    };
    assert!(!has(&runs[0]) && has(&runs[39]));
}

#[tokio::test]
async fn runs_begin_when_there_is_room_for_all_their_snapshots() {
    use std::time::Duration;
    let room = super::super::snapshots::Room::default();
    let now = |steps| tokio::time::timeout(Duration::ZERO, room.take("m", steps));
    let most = now(7_000).await.ok().flatten().unwrap();
    let small = now(99).await.ok().flatten().unwrap();
    assert!(now(1_000).await.is_err());
    assert!(now(100).await.ok().flatten().is_some());
    let other = room.take("other", 7_999).await;
    assert!(other.is_some(), "each volume has its own");
    drop(most);
    assert!(now(1_000).await.ok().flatten().is_some());
    drop(small);
    // One that has more steps than there may be snapshots has all of it.
    assert!(now(100_000).await.ok().flatten().is_some());
}
