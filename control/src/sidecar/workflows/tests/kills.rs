//! The sidecar is killed at every point, and at random moments; what happened outside of it is counted there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::points::Point;
use super::super::types::{RevertRequest, RunState, StepRequest};
use super::rig::{Counter, Rig, is, step};
use crate::sidecar::testing::PATIENCE;

/// Waits until a sidecar came to the point it is to end at; whether it did before `over` was true.
async fn ended(rig: &Rig, run: &str) -> bool {
    let mut hit = rig.ender.hit.subscribe();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if *hit.borrow_and_update() {
            return true;
        }
        let shown = rig.show(run).await;
        if shown.run.state.is_over() && !shown.run.releasing {
            // The last points come right after the last row.
            tokio::time::sleep(Duration::from_millis(30)).await;
            return *hit.borrow_and_update();
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown:#?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

fn definition(counter: &Counter) -> String {
    format!(
        "steps:\n  - {{name: skipped, if: '1 == 2', run: effect never}}\n  \
         - {{name: talks, run: say one; effect talks; sleep 5; say two}}\n  \
         - {{name: flaky, run: flaky flaky{0} 1, retry: {{attempts: 2, backoff: 1ms}}}}\n  \
         - {{name: once, run: effect once, idempotent: false}}\n  \
         - {{name: pause, wait: {{for: 5ms}}}}\n  \
         - {{name: asks, http: {{method: POST, url: '{1}'}}}}\n  \
         - {{name: kept, snapshot: {{name: 'kept-${{{{ run.id }}}}'}}}}\n  \
         - {{name: last, run: say three}}\n",
        counter.port,
        counter.url("/asks")
    )
}

/// Everything that was told, in order, with no number twice.
async fn check_events(rig: &Rig, run: &str) {
    let told = rig.told(run).await;
    let ids: Vec<i64> = told.iter().map(|event| event.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    let finals = |name: &str| {
        told.iter()
            .filter(|event| event.kind == "workflow.step" && event.step.as_deref() == Some(name))
            .filter(|event| {
                let data = event.data.as_ref().unwrap();
                data["state"] == "succeeded" && data["snapshot"].is_null()
            })
            .count()
    };
    for name in ["talks", "flaky", "once", "pause", "asks", "kept", "last"] {
        assert_eq!(finals(name), 1, "{name} is told to have succeeded once");
    }
    assert_eq!(
        rig.output(run).await,
        "one\ntwo\nthree\n",
        "no gap and no double"
    );
}

#[tokio::test]
async fn a_run_goes_on_after_a_kill_at_every_point() {
    let mut reached = BTreeSet::new();
    let of_cancel = [Point::CancelAfter, Point::ReleaseAfter];
    let of_revert = [
        Point::RevertBegun,
        Point::RevertKept,
        Point::RevertRestored,
        Point::RevertAfter,
    ];
    let mut rig = Rig::new().await;
    for &point in Point::ALL {
        if of_cancel.contains(&point) || of_revert.contains(&point) {
            continue;
        }
        for times in 1..=3 {
            let counter = Counter::start().await;
            let before = rig.sandboxes.effects().len();
            rig.end_at(point, times);
            let text = definition(&counter);
            // A kill while it is asked for leaves whoever asks without an answer.
            let asking = rig.trigger(&text);
            let asked = tokio::time::timeout(Duration::from_millis(500), asking).await;
            let run = match asked {
                Ok(summary) => summary.unwrap().run,
                Err(_) => rig.store.live_runs().await.unwrap().pop().unwrap(),
            };
            let was_hit = ended(&rig, &run).await;
            if was_hit {
                reached.insert(point);
            }
            rig.kill().await;
            rig.start().await;
            let done = rig.over(&run).await;
            is(&done, RunState::Succeeded);
            let mut effects = rig.sandboxes.effects().split_off(before);
            effects.sort();
            let flaky = format!("flaky{}", counter.port);
            assert_eq!(
                effects,
                [flaky.as_str(), &flaky, "once", "talks"],
                "{point:?} {times}: {done:#?}"
            );
            // A request whose answer was lost is sent again, with the same key.
            let most = if point == Point::Requested || point == Point::AttemptAfter {
                2
            } else {
                1
            };
            assert!((1..=most).contains(&counter.count("/asks")), "{point:?}");
            assert_eq!(counter.keys().len(), 1);
            assert!(rig.sandboxes.left().is_empty(), "{point:?}");
            check_events(&rig, &run).await;
            if !was_hit {
                break;
            }
        }
    }
    for point in of_cancel {
        rig.end_at(point, 1);
        let run = rig
            .trigger("steps:\n  - {name: a, run: effect c; hang}\n")
            .await
            .unwrap()
            .run;
        rig.until(&run, "it runs", |shown| {
            step(shown, "a").doing.as_deref() == Some("runs")
        })
        .await;
        // The answer may be lost with the sidecar.
        let all = rig.workflows.clone().unwrap();
        let (asking, asked) = (
            tokio::spawn({
                let run = run.clone();
                async move { all.cancel(&run).await }
            }),
            ended(&rig, &run),
        );
        if asked.await {
            reached.insert(point);
        }
        asking.abort();
        drop(asking.await);
        rig.kill().await;
        rig.start().await;
        is(&rig.over(&run).await, RunState::Cancelled);
        assert!(rig.sandboxes.left().is_empty(), "{point:?}");
    }
    for by_itself in [false, true] {
        for point in of_revert {
            let tree = rig.host.tree("file:///srv/m");
            tree.lock().present = "before".into();
            let head = if by_itself {
                "on_failure: revert\n"
            } else {
                ""
            };
            let last = if by_itself { "exit 1" } else { "effect r" };
            if by_itself {
                rig.end_at(point, 1);
            }
            let text = format!(
                "{head}steps:\n  - {{name: a, run: write after}}\n  - {{name: b, run: {last}}}\n"
            );
            let run = rig.trigger(&text).await.unwrap().run;
            let all = rig.workflows.clone().unwrap();
            let asking = match by_itself {
                true => None,
                false => {
                    is(&rig.over(&run).await, RunState::Succeeded);
                    rig.end_at(point, 1);
                    let request = RevertRequest {
                        run: run.clone(),
                        ..RevertRequest::default()
                    };
                    Some(tokio::spawn(async move { all.revert(request, None).await }))
                }
            };
            let mut hit = rig.ender.hit.subscribe();
            tokio::time::timeout(PATIENCE, hit.wait_for(|hit| *hit))
                .await
                .unwrap()
                .unwrap();
            reached.insert(point);
            if let Some(asking) = asking {
                asking.abort();
                drop(asking.await);
            }
            rig.kill().await;
            rig.start().await;
            let done = rig.over(&run).await;
            is(&done, RunState::Reverted);
            assert_eq!(tree.lock().present, "before");
            let report = done.reverts.last().unwrap();
            let kept = tree.lock().contents[&report.kept].clone();
            assert_eq!(
                kept, "after",
                "{point:?}: what was there is where the revert says"
            );
            assert!(report.done && done.reverts.len() == 1);
        }
    }
    let never: Vec<&Point> = Point::ALL
        .iter()
        .filter(|point| !reached.contains(point))
        .collect();
    assert!(never.is_empty(), "never reached: {never:?}");
}

#[tokio::test]
async fn a_hundred_kills_at_random_moments_do_nothing_twice() {
    let counter = Counter::start().await;
    let mut rig = Rig::new().await;
    let mut state = 5_u64;
    let mut random = |most: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    let mut runs = Vec::new();
    for round in 0..100 {
        if round % 5 == 0 {
            runs.push(rig.trigger(&definition(&counter)).await.unwrap().run);
        }
        tokio::time::sleep(Duration::from_millis(random(25))).await;
        rig.kill().await;
        rig.start().await;
    }
    for run in &runs {
        // A request that was cut off too often is left to people, who see that its key tells.
        while rig.over(run).await.run.state == RunState::Interrupted {
            assert_eq!(rig.show(run).await.run.error.unwrap().code, "interrupted");
            rig.all()
                .again(run, StepRequest::default(), false)
                .await
                .unwrap();
        }
        is(&rig.over(run).await, RunState::Succeeded);
        check_events(&rig, run).await;
    }
    let effects = rig.sandboxes.effects();
    let count = |name: &str| effects.iter().filter(|one| *one == name).count();
    // The second time that it is tried succeeds, of all that ever were.
    assert_eq!((count("talks"), count("once")), (runs.len(), runs.len()));
    assert_eq!(count(&format!("flaky{}", counter.port)), runs.len() + 1);
    assert_eq!(
        counter.keys().len(),
        runs.len(),
        "each request has one key, however often it was sent"
    );
    assert!(rig.sandboxes.left().is_empty());
}

#[tokio::test]
async fn what_must_not_be_tried_again_is_not_whenever_the_sidecar_is_killed() {
    for point in [Point::AttemptAfter, Point::Requested, Point::OutcomeAfter] {
        let counter = Counter::start().await;
        let mut rig = Rig::new().await;
        rig.end_at(point, 1);
        let text = format!(
            "steps:\n  - {{name: pay, idempotent: false, http: {{method: POST, url: '{}'}}}}\n",
            counter.url("/pay")
        );
        let run = rig.trigger(&text).await.unwrap().run;
        assert!(ended(&rig, &run).await);
        rig.kill().await;
        rig.start().await;
        let done = rig.over(&run).await;
        assert!(counter.count("/pay") <= 1, "{point:?}");
        match point {
            Point::OutcomeAfter => is(&done, RunState::Succeeded),
            _ => is(&done, RunState::Interrupted),
        }
    }
}
