//! Steps that start the app of the project: it answers when they are done, and goes on.

use super::super::points::Point;
use super::super::types::{RevertRequest, RunState, StepState};
use super::rig::{Rig, is, step};
use crate::sidecar::previews::PreviewState;
use crate::sidecar::testing::until;

fn app(more: &str) -> String {
    format!("steps:\n  - {{name: app, network: host, preview: {{command: [listen, app]}}{more}}}\n")
}

#[tokio::test]
async fn a_preview_step_is_done_when_the_app_answers_and_the_app_goes_on() {
    let rig = Rig::new().await;
    let text = app("")
        + "  - {name: asks, http: {url: 'http://127.0.0.1:${{ steps.app.outputs.port }}/'}}\n";
    let done = rig.done(&text).await;
    is(&done, RunState::Succeeded);
    let there = rig.app().unwrap();
    assert_eq!(there.state, PreviewState::Ready);
    let outputs = &step(&done, "app").outputs;
    assert_eq!(outputs["id"], there.id.as_str());
    assert_eq!(outputs["url"], there.url.as_str());
    assert_eq!(outputs["port"], there.host_port);
    let told = rig.told(&done.run.run).await;
    let waits = |event: &crate::sidecar::types::Event| {
        event.message.contains("waits until http://localhost")
    };
    assert!(told.iter().any(waits), "{told:#?}");
    // The same again is the same app.
    let again = rig.done(&app("")).await;
    is(&again, RunState::Succeeded);
    assert_eq!(step(&again, "app").outputs, *outputs);
    assert_eq!(rig.sandboxes.effects(), ["app"]);
    // Another one is refused, unless it is to take its place.
    let other = app(", env: {GREETING: hi}");
    let refused = rig.done(&other).await;
    is(&refused, RunState::Failed);
    assert_eq!(refused.run.error.unwrap().code, "conflict");
    assert_eq!(rig.app().unwrap().state, PreviewState::Ready);
    let replaced = rig
        .done(&other.replace("app]", "app], replace: true"))
        .await;
    is(&replaced, RunState::Succeeded);
    assert_eq!(rig.sandboxes.effects(), ["app", "app"]);
    let now = rig.app().unwrap();
    assert_eq!((now.state, now.id), (PreviewState::Ready, there.id));
    assert!(now.created_ms > there.created_ms);
}

#[tokio::test]
async fn an_app_that_does_not_come_up_fails_its_step_with_the_reason_and_its_last_lines() {
    let rig = Rig::new().await;
    std::fs::create_dir_all(rig.project().join("../../control/secrets")).unwrap();
    rig.secrets().put("KEY", "canary-secret").unwrap();
    let text = "steps:\n  - {name: app, network: host, secrets: [KEY], preview: {command: [say, it, breaks;, secret, KEY;, exit, 3]}, \
                retry: {attempts: 2, backoff: 1ms}}\n";
    let done = rig.done(text).await;
    is(&done, RunState::Failed);
    let failed = step(&done, "app");
    assert_eq!(failed.attempts.len(), 2);
    let error = failed.error.as_ref().unwrap();
    assert_eq!(error.code, "preview_failed");
    assert!(error.message.contains("status 3"), "{error:?}");
    assert_eq!(failed.log.as_deref(), Some("it breaks\n***\n"));
    // What has no way to be started is refused with what to do.
    let done = rig.done("steps:\n  - {name: app, preview: {}}\n").await;
    let error = done.run.error.unwrap();
    assert_eq!(error.code, "invalid_request");
    assert!(error.message.contains("package.json"), "{error:?}");
}

#[tokio::test]
async fn one_that_never_answers_is_ended_when_the_time_is_over() {
    let rig = Rig::new().await;
    let text = "steps:\n  - {name: app, network: host, timeout: 1s, preview: {command: [hang]}}\n";
    let done = rig.done(text).await;
    is(&done, RunState::Failed);
    let error = done.run.error.unwrap();
    assert_eq!(error.code, "preview_failed");
    assert!(rig.app().unwrap().state.is_over());
    // Also when it is the time of the run.
    let done = rig
        .done(&format!("timeout: 100ms\n{}", text.replace("1s", "1h")))
        .await;
    is(&done, RunState::Failed);
    let error = done.run.error.unwrap();
    assert_eq!(error.code, "timed_out");
    assert!(error.message.contains("the app is "), "{error:?}");
    let previews = rig.previews.clone().unwrap();
    until("it is ended", || {
        previews.list().iter().all(|one| one.state.is_over())
    })
    .await;
}

#[tokio::test]
async fn an_app_that_somebody_just_ends_is_started_again() {
    let rig = Rig::new().await;
    for replace in ["", ", replace: true"] {
        is(&rig.done(&app("")).await, RunState::Succeeded);
        let there = rig.app().unwrap();
        assert_eq!(there.state, PreviewState::Ready);
        let previews = rig.previews.clone().unwrap();
        previews.stop(&there.id).await.unwrap();
        let text = app("").replace("app]", &format!("app]{replace}"));
        is(&rig.done(&text).await, RunState::Succeeded);
        let now = rig.app().unwrap();
        assert_eq!(now.state, PreviewState::Ready);
        assert!(now.created_ms > there.created_ms);
    }
}

#[tokio::test]
async fn cancel_ends_an_app_that_was_being_started_and_none_that_was_there() {
    let mut rig = Rig::new().await;
    for is_killed in [false, true] {
        let text = "steps:\n  - {name: app, network: host, preview: {command: [hang]}}\n";
        let run = rig.trigger(text).await.unwrap().run;
        rig.until(&run, "it is waited for", |shown| {
            let doing = step(shown, "app").doing.as_deref();
            doing.is_some_and(|doing| doing.contains("waits until"))
        })
        .await;
        if is_killed {
            // It is cancelled, and killed before anything was given back.
            rig.end_at(super::super::points::Point::CancelAfter, 1);
            let all = rig.workflows.clone().unwrap();
            let asked = run.clone();
            let asking = tokio::spawn(async move { drop(all.cancel(&asked).await) });
            let mut hit = rig.ender.hit.subscribe();
            hit.wait_for(|hit| *hit).await.unwrap();
            asking.abort();
            drop(asking.await);
            rig.kill().await;
            rig.start().await;
        } else {
            let answer = rig.all().cancel(&run).await.unwrap();
            assert_eq!(answer.state, RunState::Cancelled);
        }
        let done = rig.over(&run).await;
        assert_eq!(step(&done, "app").state, StepState::Cancelled);
        assert!(rig.app().unwrap().state.is_over(), "killed: {is_killed}");
    }
    // One that was there, and a run that only waits for it.
    is(&rig.done(&app("")).await, RunState::Succeeded);
    let text = app("") + "  - {name: waits, wait: {for: 1h}}\n";
    let run = rig.trigger(&text).await.unwrap().run;
    rig.until(&run, "it waits", |shown| {
        step(shown, "waits").state == StepState::Waiting
    })
    .await;
    rig.all().cancel(&run).await.unwrap();
    is(&rig.over(&run).await, RunState::Cancelled);
    assert_eq!(rig.app().unwrap().state, PreviewState::Ready);
}

#[tokio::test]
async fn reverting_and_the_failure_of_a_run_leave_the_app_as_it_is() {
    let mut rig = Rig::new().await;
    let run = rig.done(&app("")).await.run.run;
    let before = rig.app().unwrap();
    for undo in [false, true] {
        let request = RevertRequest {
            run: run.clone(),
            step: None,
            undo,
        };
        rig.all().revert(request, None).await.unwrap();
    }
    let failed = rig
        .done(&format!(
            "on_failure: revert\n{}  - {{name: b, run: exit 1}}\n",
            app("")
        ))
        .await;
    is(&failed, RunState::Reverted);
    rig.kill().await;
    rig.start().await;
    let previews = rig.previews.clone().unwrap();
    until("it is ready again", || {
        previews
            .list()
            .iter()
            .any(|one| one.state == PreviewState::Ready)
    })
    .await;
    let after = rig.app().unwrap();
    assert_eq!((after.id, after.created_ms), (before.id, before.created_ms));
    assert_eq!(rig.sandboxes.effects(), ["app"]);
}

#[tokio::test]
async fn an_app_that_the_end_of_the_machine_cut_off_is_started_again_only_if_it_may_be() {
    let mut rig = Rig::new().await;
    for (idempotent, state) in [("true", RunState::Failed), ("false", RunState::Interrupted)] {
        let name = format!("a{idempotent}");
        let text = format!(
            "steps:\n  - {{name: app, network: host, timeout: 3s, idempotent: {idempotent}, preview: {{command: ['effect {name};', hang]}}}}\n"
        );
        let run = rig.trigger(&text).await.unwrap().run;
        let sandboxes = rig.sandboxes.clone();
        until("it has begun", || sandboxes.effects().contains(&name)).await;
        rig.kill().await;
        rig.sandboxes.restart();
        rig.start().await;
        let done = rig.over(&run).await;
        is(&done, state);
        let effects = rig.sandboxes.effects();
        let count = effects.iter().filter(|one| **one == name).count();
        assert_eq!(count, if idempotent == "true" { 2 } else { 1 });
    }
}

/// Somebody starts an app in the folder after an attempt has begun, and before it has asked for its own.
#[tokio::test]
async fn an_app_that_somebody_else_started_meanwhile_is_not_taken_for_the_own() {
    let mut rig = Rig::new().await;
    rig.end_at(Point::AttemptAfter, 1);
    let run = rig.trigger(&app("")).await.unwrap().run;
    let mut hit = rig.ender.hit.subscribe();
    hit.wait_for(|hit| *hit).await.unwrap();
    rig.kill().await;
    rig.start_previews().await;
    let request = serde_json::from_str(
        r#"{"mount": "m", "command": ["listen", "other"], "network": "host"}"#,
    );
    let other = rig.previews.as_ref().unwrap();
    let other = other.start(request.unwrap(), None).await.unwrap();
    rig.start_workflows().await;
    let done = rig.over(&run).await;
    is(&done, RunState::Failed);
    let error = step(&done, "app").error.clone().unwrap();
    assert_eq!(error.code, "conflict", "{error:?}");
    assert_eq!(rig.app().unwrap().id, other.id);
    assert!(!rig.app().unwrap().state.is_over());
    rig.previews
        .as_ref()
        .unwrap()
        .stop(&other.id)
        .await
        .unwrap();
}
