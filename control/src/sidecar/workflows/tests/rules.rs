use std::time::Duration;

use tokio::time::Instant;

use super::super::points::Point;
use super::super::types::{RevertRequest, RunDetails, RunState, StepRequest, StepState};
use super::rig::{Counter, Rig, is, step};
use crate::error::ApiError;
use crate::sandbox::{SandboxHost, SandboxOrder};
use crate::sidecar::host::Ending;
use crate::sidecar::store::RunFilter;
use crate::sidecar::testing::until;
use crate::sidecar::types::{HealthStatus, UnmountRequest};

#[tokio::test]
async fn a_step_without_output_is_done_because_its_status_says_so() {
    let rig = Rig::new().await;
    let done = rig
        .done("steps:\n  - {name: void, run: 'true'}\n  - {name: after, run: effect after}\n")
        .await;
    is(&done, RunState::Succeeded);
    assert_eq!(step(&done, "void").outputs["stdout"], "");
    assert_eq!(step(&done, "void").log, None);
    assert_eq!(rig.sandboxes.effects(), ["after"]);
    assert!(rig.sandboxes.left().is_empty());
    let names: Vec<String> = rig
        .host
        .tree("file:///srv/m")
        .lock()
        .snapshots
        .iter()
        .map(|info| info.name.clone())
        .collect();
    let run = &done.run.run;
    assert_eq!(
        names,
        [
            format!("run-{run}"),
            format!("run-{run}-void"),
            format!("run-{run}-after")
        ]
    );
}

#[tokio::test]
async fn an_exhausted_step_reports_its_cause_its_attempts_and_their_times() {
    let rig = Rig::new().await;
    let done = rig
        .done("steps:\n  - name: build\n    run: effect try; warn no such file; exit 3\n    retry: {attempts: 3, backoff: 1ms}\n")
        .await;
    is(&done, RunState::Failed);
    let build = step(&done, "build");
    assert_eq!(build.state, StepState::Failed);
    let error = build.error.as_ref().unwrap();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("exit_status", "it ended with status 3")
    );
    assert_eq!(build.attempts.len(), 3);
    assert!(build.attempts.iter().all(|one| one.started_ms > 0
        && one.ended_ms >= one.started_ms
        && one.error.as_ref() == Some(error)));
    assert_eq!(build.log.as_deref(), Some("no such file\n"));
    assert_eq!(
        done.run.error.as_ref().unwrap().message,
        "step build: it ended with status 3"
    );
    assert_eq!(rig.sandboxes.effects().len(), 3);
    // One that succeeds at last has no error.
    let done = rig
        .done("steps:\n  - name: a\n    run: flaky f 2\n    retry: {attempts: 3, backoff: 1ms}\n")
        .await;
    is(&done, RunState::Succeeded);
    assert_eq!(
        (step(&done, "a").attempt, &step(&done, "a").error),
        (3, &None)
    );
}

#[tokio::test]
async fn an_edited_or_removed_definition_changes_the_next_run_only() {
    let mut rig = Rig::new().await;
    let file = rig.project().join(".weldr/workflows/build.yaml");
    std::fs::write(
        &file,
        "steps:\n  - {name: wait, wait: {for: 300ms}}\n  - {name: old, run: effect old}\n",
    )
    .unwrap();
    let run = rig.trigger("build").await.unwrap().run;
    std::fs::write(&file, "steps:\n  - {name: new, run: effect new}\n").unwrap();
    rig.kill().await;
    rig.start().await;
    let next = rig.trigger("build").await.unwrap().run;
    is(&rig.over(&next).await, RunState::Succeeded);
    std::fs::remove_file(&file).unwrap();
    is(&rig.over(&run).await, RunState::Succeeded);
    assert_eq!(rig.sandboxes.effects(), ["new", "old"]);
    assert_eq!(rig.trigger("build").await.unwrap_err().code(), "not_found");
}

#[tokio::test]
async fn a_run_that_meets_a_definition_it_cannot_follow_stops_with_a_named_error() {
    let mut rig = Rig::new().await;
    for broken in [
        "steps: [{name: a, flies: true}]",
        "steps: [{name: b, run: x}]",
    ] {
        let run = rig
            .trigger("steps:\n  - {name: a, wait: {for: 1h}}\n")
            .await
            .unwrap()
            .run;
        rig.kill().await;
        let text = broken.to_owned();
        rig.store.change_definitions(text).await;
        rig.start().await;
        let done = rig.over(&run).await;
        is(&done, RunState::Failed);
        assert_eq!(done.run.error.unwrap().code, "definition_unusable");
    }
}

#[tokio::test]
async fn one_loop_writes_the_rows_of_a_run_whoever_asks() {
    let rig = Rig::new().await;
    let run = rig
        .trigger("steps:\n  - {name: a, run: hang}\n")
        .await
        .unwrap()
        .run;
    rig.until(&run, "it runs", |shown| {
        step(shown, "a").doing.as_deref() == Some("runs")
    })
    .await;
    let all = rig.all();
    let retry = || all.again(&run, StepRequest::default(), false);
    let (a, b, c, d) = tokio::join!(
        all.cancel(&run),
        all.cancel(&run),
        retry(),
        all.cancel(&run)
    );
    assert!(a.is_ok() && b.is_ok() && d.is_ok());
    // Either before the first cancel or behind everything.
    drop(c);
    rig.all().cancel(&run).await.unwrap();
    let done = rig.over(&run).await;
    is(&done, RunState::Cancelled);
    let states: Vec<String> = rig
        .told(&run)
        .await
        .iter()
        .filter(|event| event.kind == "workflow.run")
        .map(|event| {
            event.data.as_ref().unwrap()["state"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let ends = states.iter().filter(|state| *state == "cancelled").count();
    let begins = states.iter().filter(|state| *state == "queued").count();
    assert_eq!(ends, begins, "{states:?}");
}

#[tokio::test]
async fn a_slow_or_poisoned_run_holds_up_no_other() {
    let rig = Rig::new().await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(
            rig.trigger("steps:\n  - {name: a, run: hang}\n")
                .await
                .unwrap()
                .run,
        );
        slow.push(rig.trigger("steps:\n  - {name: a, http: {url: 'http://127.0.0.1:1/'}, retry: {attempts: 100, backoff: 1ms}}\n").await.unwrap().run);
    }
    for n in 0..20 {
        let done = rig
            .done(&format!("steps:\n  - {{name: a, run: effect e{n}}}\n"))
            .await;
        is(&done, RunState::Succeeded);
    }
    assert_eq!(rig.sandboxes.effects().len(), 20);
}

#[tokio::test]
async fn asking_for_what_is_not_there_creates_nothing() {
    let rig = Rig::new().await;
    let all = rig.all();
    let request = || RevertRequest {
        run: "nope".into(),
        ..RevertRequest::default()
    };
    assert_eq!(all.show("nope").await.unwrap_err().code(), "not_found");
    assert_eq!(all.cancel("nope").await.unwrap_err().code(), "not_found");
    assert_eq!(
        all.again("nope", StepRequest::default(), false)
            .await
            .unwrap_err()
            .code(),
        "not_found"
    );
    assert_eq!(
        all.revert(request(), None).await.unwrap_err().code(),
        "not_found"
    );
    assert_eq!(
        all.diff("nope", None).await.unwrap_err().code(),
        "not_found"
    );
    assert_eq!(
        rig.trigger("missing").await.unwrap_err().code(),
        "not_found"
    );
    let listed = all
        .list(RunFilter {
            most: 10,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert!(listed.runs.is_empty());
    assert!(rig.host.tree("file:///srv/m").lock().snapshots.is_empty());
    assert!(!rig.project().join(".weldr/workflows/missing.yaml").exists());
}

#[tokio::test]
async fn a_hanging_step_shows_what_it_does_when_it_ends_and_that_it_is_stuck() {
    let mut rig = Rig::new().await;
    rig.stuck_after_ms = 200;
    rig.start().await;
    let run = rig
        .trigger("steps:\n  - {name: a, run: hang, timeout: 1h}\n")
        .await
        .unwrap()
        .run;
    let shown = rig
        .until(&run, "it is stuck", |shown| shown.run.stuck)
        .await;
    let a = step(&shown, "a");
    assert_eq!(
        (a.attempt, a.doing.as_deref(), a.state),
        (1, Some("runs"), StepState::Running)
    );
    assert!(a.stuck && a.times_out.unwrap() > a.last_progress.unwrap() + 3_000_000);
    assert_eq!(shown.run.step.as_deref(), Some("a"));
    let filter = RunFilter {
        most: 1,
        ..RunFilter::default()
    };
    assert!(rig.all().list(filter).await.unwrap().runs[0].stuck);
    let deadline = Instant::now() + Duration::from_secs(20);
    // On a busy machine its beginning may be written down only now, which is a sign of life.
    let health = loop {
        let health = rig.all().health().await;
        if health.status == HealthStatus::Degraded {
            break health;
        }
        assert!(Instant::now() < deadline, "{health:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let reason = health.reason.unwrap();
    assert!(reason.contains(&format!("step a of run {run}")), "{reason}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !rig
        .told(&run)
        .await
        .iter()
        .any(|event| event.message.contains("nothing was heard of step a"))
    {
        assert!(Instant::now() < deadline, "nobody was told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.all().cancel(&run).await.unwrap();
    rig.over(&run).await;
    assert_eq!(rig.all().health().await.status, HealthStatus::Ok);
}

#[tokio::test]
async fn a_step_ends_when_its_time_is_over() {
    let rig = Rig::new().await;
    let counter = Counter::start().await;
    for (what, code) in [
        (
            format!("http: {{url: '{}'}}, timeout: 100ms", counter.url("/hang")),
            "timed_out",
        ),
        (
            format!(
                "wait: {{http: '{}', every: 10ms}}, timeout: 100ms",
                counter.url("/fail")
            ),
            "timed_out",
        ),
        ("wait: {for: 1h}, timeout: 50ms".to_owned(), "timed_out"),
        (
            format!(
                "http: {{url: '{}'}}, retry: {{attempts: 100, backoff: 50ms}}, total_timeout: 200ms",
                counter.url("/fail")
            ),
            "http_status",
        ),
    ] {
        let done = rig
            .done(&format!("steps:\n  - {{name: a, {what}}}\n"))
            .await;
        is(&done, RunState::Failed);
        assert_eq!(done.run.error.unwrap().code, code, "{what}");
    }
    let done = rig
        .done("timeout: 100ms\nsteps:\n  - {name: a, wait: {for: 1h}}\n")
        .await;
    assert!(
        done.run
            .error
            .unwrap()
            .message
            .contains("that of the whole run")
    );
    assert!(counter.count("/fail") > 2);
}

#[tokio::test]
async fn cancel_answers_at_once_in_each_kind_of_step_and_everything_is_given_back() {
    let mut rig = Rig::new().await;
    let counter = Counter::start().await;
    let hang = counter.url("/hang");
    let fail = counter.url("/fail");
    for (what, doing) in [
        ("run: hang".to_owned(), "runs"),
        (format!("http: {{url: '{hang}'}}"), "asks"),
        ("wait: {for: 1h}".to_owned(), "waits for"),
        (format!("wait: {{http: '{fail}'}}"), "status 500"),
        (
            "run: exit 1, retry: {attempts: 2, backoff: 1h}".to_owned(),
            "attempt 2",
        ),
    ] {
        for is_killed in [false, true] {
            let text =
                format!("steps:\n  - {{name: a, {what}}}\n  - {{name: b, run: effect never}}\n");
            let run = rig.trigger(&text).await.unwrap().run;
            rig.until(&run, doing, |shown| {
                step(shown, "a")
                    .doing
                    .as_ref()
                    .is_some_and(|text| text.contains(doing))
            })
            .await;
            if is_killed {
                rig.kill().await;
                rig.start().await;
            }
            let answer = rig.all().cancel(&run).await.unwrap();
            assert_eq!(answer.state, RunState::Cancelled, "{what}");
            let done = rig.over(&run).await;
            assert_eq!(
                step(&done, "a").state,
                StepState::Cancelled,
                "{what}: {done:#?}"
            );
            assert_eq!(step(&done, "b").state, StepState::Skipped);
            assert!(step(&done, "a").snapshot.is_some(), "{what}: {done:#?}");
            assert!(rig.sandboxes.left().is_empty(), "{what}");
            // The same again changes nothing.
            assert_eq!(
                rig.all().cancel(&run).await.unwrap().state,
                RunState::Cancelled
            );
        }
    }
    // One that waits for its turn.
    let text = "concurrency: 1\nsteps:\n  - {name: a, run: hang}\n";
    let first = rig.trigger(text).await.unwrap().run;
    rig.until(&first, "it runs", |shown| {
        shown.run.state == RunState::Running
    })
    .await;
    let second = rig.trigger(text).await.unwrap().run;
    assert_eq!(
        rig.all().cancel(&second).await.unwrap().state,
        RunState::Cancelled
    );
    is(&rig.over(&second).await, RunState::Cancelled);
    rig.all().cancel(&first).await.unwrap();
    assert!(rig.sandboxes.effects().is_empty());
}

/// The mount is not there when a step has ended, so that its snapshot is waited for.
#[tokio::test]
async fn cancel_is_heard_while_the_snapshot_after_a_step_is_waited_for() {
    let rig = Rig::new().await;
    let run = rig
        .trigger("steps:\n  - {name: a, run: sleep 300}\n  - {name: b, run: effect b}\n")
        .await
        .unwrap()
        .run;
    rig.until(&run, "it runs", |shown| step(shown, "a").attempt == 1)
        .await;
    let host = rig.host.clone();
    let held = host.gate.lock().await;
    host.end(rig.project().to_str().unwrap(), Ending::Died);
    rig.until(&run, "the step is done", |shown| {
        step(shown, "a").state == StepState::Succeeded
    })
    .await;
    for _ in 0..2 {
        // The second time it is over, and waits to give back what it used.
        let answer = rig.all().cancel(&run).await.unwrap();
        assert_eq!(answer.state, RunState::Cancelled);
    }
    assert!(rig.show(&run).await.run.releasing, "nobody waited for it");
    drop(held);
    let done = rig.over(&run).await;
    is(&done, RunState::Cancelled);
    assert_eq!(step(&done, "b").state, StepState::Skipped);
    assert_eq!(step(&done, "a").snapshot, Some(format!("run-{run}-a")));
    assert!(rig.sandboxes.effects().is_empty());
}

#[tokio::test]
async fn runs_of_a_workflow_take_turns_as_it_says() {
    let rig = Rig::new().await;
    let text = "concurrency: 2\nsteps:\n  - {name: a, run: effect in; sleep 30; effect out}\n";
    let mut runs = Vec::new();
    for _ in 0..6 {
        runs.push(rig.trigger(text).await.unwrap().run);
    }
    for run in &runs {
        is(&rig.over(run).await, RunState::Succeeded);
    }
    let (mut inside, mut most) = (0_i32, 0);
    for effect in rig.sandboxes.effects() {
        inside += if effect == "in" { 1 } else { -1 };
        most = most.max(inside);
    }
    assert_eq!((inside, most), (0, 2));
}

#[tokio::test]
async fn a_row_that_points_at_something_gone_is_reported_and_what_has_no_row_is_removed() {
    let mut rig = Rig::new().await;
    rig.done("steps:\n  - {name: a, run: 'true'}\n").await;
    let order = rig.sandboxes.orders().remove(0);
    let run = rig
        .trigger("steps:\n  - {name: a, wait: {for: 300ms}}\n  - {name: b, run: effect b}\n")
        .await
        .unwrap()
        .run;
    rig.until(&run, "it waits", |shown| {
        shown.run.state == RunState::Waiting
    })
    .await;
    rig.kill().await;
    let request = UnmountRequest {
        name: "m".into(),
        sync: false,
    };
    rig.mounts.remove(request).await.unwrap();
    rig.start().await;
    let done = rig.over(&run).await;
    is(&done, RunState::Failed);
    assert_eq!(done.run.error.unwrap().code, "mount_gone");
    assert_eq!(rig.sandboxes.orders().len(), 1, "no other step began");
    // Sandboxes of steps that nobody waits for: one that runs, and one that has ended.
    for (id, line) in [("step-gone-0-1", "hang"), ("step-gone-1-1", "true")] {
        let order = SandboxOrder {
            id: id.into(),
            command: vec!["/bin/sh".into(), "-c".into(), line.into()],
            ..order.clone()
        };
        rig.sandboxes.start(order).await.unwrap();
    }
    assert_eq!(rig.sandboxes.left().len(), 2);
    rig.kill().await;
    rig.start().await;
    let sandboxes = rig.sandboxes.clone();
    until("they are removed", || sandboxes.left().is_empty()).await;
}

#[tokio::test]
async fn a_mount_that_is_started_again_is_waited_for() {
    let mut rig = Rig::new().await;
    let gate = rig.host.clone();
    let held = gate.gate.lock().await;
    let path = rig.project();
    rig.host.end(path.to_str().unwrap(), Ending::Died);
    rig.kill().await;
    rig.start().await;
    let refused = rig.trigger("steps:\n  - {name: a, run: effect a}\n").await;
    assert!(
        matches!(refused, Err(ApiError::NotMounted(_))),
        "{refused:?}"
    );
    drop(held);
    let mounts = rig.mounts.clone();
    until("it is mounted again", || mounts.volume("m").is_ok()).await;
    let done = rig.done("steps:\n  - {name: a, run: effect a}\n").await;
    is(&done, RunState::Succeeded);
}

#[tokio::test]
async fn what_the_end_of_the_machine_cut_off_is_tried_again_only_if_it_may_be() {
    let mut rig = Rig::new().await;
    for (idempotent, state) in [
        ("true", RunState::Succeeded),
        ("false", RunState::Interrupted),
    ] {
        let name = format!("e{idempotent}");
        let text = format!(
            "steps:\n  - {{name: a, run: effect {name}; sleep 400, idempotent: {idempotent}}}\n  - {{name: b, if: always(), run: effect after}}\n"
        );
        let run = rig.trigger(&text).await.unwrap().run;
        let sandboxes = rig.sandboxes.clone();
        until("it has begun", || sandboxes.effects().contains(&name)).await;
        rig.kill().await;
        rig.sandboxes.restart();
        rig.start().await;
        let done = rig.over(&run).await;
        is(&done, state);
        let count = rig
            .sandboxes
            .effects()
            .iter()
            .filter(|one| **one == name)
            .count();
        let a = step(&done, "a");
        assert_eq!(a.attempts[0].error.as_ref().unwrap().code, "interrupted");
        match state {
            RunState::Succeeded => assert_eq!((count, a.attempt), (2, 2)),
            _ => {
                assert_eq!((count, a.state), (1, StepState::Interrupted));
                assert_eq!(done.run.error.as_ref().unwrap().code, "interrupted");
            }
        }
        assert!(rig.sandboxes.left().is_empty());
    }
    assert_eq!(
        rig.sandboxes
            .effects()
            .iter()
            .filter(|one| *one == "after")
            .count(),
        2
    );
}

#[tokio::test]
async fn an_operator_tries_a_stopped_run_again_or_skips_the_step() {
    let rig = Rig::new().await;
    let text = "steps:\n  - {name: a, run: effect a}\n  - {name: b, run: flaky b 1, idempotent: false}\n  - {name: c, run: effect c}\n";
    let done = rig.done(text).await;
    is(&done, RunState::Failed);
    assert_eq!(step(&done, "c").state, StepState::Skipped);
    let run = done.run.run.clone();
    let none = || StepRequest::default();
    let named = |name: &str| StepRequest {
        step: Some(name.into()),
    };
    assert_eq!(
        rig.all()
            .again(&run, named("a"), false)
            .await
            .unwrap_err()
            .code(),
        "conflict"
    );
    assert_eq!(
        rig.all()
            .again(&run, named("x"), false)
            .await
            .unwrap_err()
            .code(),
        "not_found"
    );
    rig.all().again(&run, none(), false).await.unwrap();
    let done = rig.over(&run).await;
    is(&done, RunState::Succeeded);
    assert_eq!(rig.sandboxes.effects(), ["a", "b", "b", "c"]);
    assert_eq!(step(&done, "b").attempt, 2);
    assert_eq!(step(&done, "b").snapshot, Some(format!("run-{run}-b.2")));
    assert_eq!(
        rig.all()
            .again(&run, none(), false)
            .await
            .unwrap_err()
            .code(),
        "conflict"
    );

    let done = rig
        .done("steps:\n  - {name: a, run: exit 1}\n  - {name: b, run: effect skipped}\n")
        .await;
    rig.all().again(&done.run.run, none(), true).await.unwrap();
    let done = rig.over(&done.run.run).await;
    is(&done, RunState::Succeeded);
    assert_eq!(step(&done, "a").state, StepState::Skipped);
}

#[tokio::test]
async fn conditions_and_outputs_are_passed_on_as_variables_and_never_as_a_line() {
    let rig = Rig::new().await;
    let counter = Counter::start().await;
    let text = format!(
        "inputs: {{who: {{}}}}\nsteps:\n  - name: make\n    run: 'say ::output v=$(reboot); say x'\n    outputs: [v]\n  \
         - name: use\n    env: {{V: '${{{{ steps.make.outputs.v }}}}', W: '${{{{ inputs.who }}}}'}}\n    run: variable V; variable W\n  \
         - name: words\n    command: [say, '${{{{ steps.make.outputs.v }}}}']\n  \
         - name: not\n    if: inputs.who == 'nobody'\n    run: effect never\n  \
         - name: ask\n    http: {{url: '{}', outputs: {{id: /data/id}}}}\n  \
         - name: told\n    env: {{ID: '${{{{ steps.ask.outputs.id }}}}'}}\n    run: variable ID\n  \
         - name: mine\n    if: steps.not.state == 'skipped' && steps.ask.outputs.id == 7\n    run: variable WELDR_STEP\n",
        counter.url("/x")
    );
    let run = rig
        .trigger_with(&text, &[("who", "a; effect evil")])
        .await
        .unwrap()
        .run;
    let done = rig.over(&run).await;
    is(&done, RunState::Succeeded);
    assert_eq!(
        step(&done, "use").outputs["stdout"],
        "$(reboot)\na; effect evil"
    );
    assert_eq!(step(&done, "words").outputs["stdout"], "$(reboot)");
    assert_eq!(step(&done, "not").state, StepState::Skipped);
    assert_eq!(step(&done, "told").outputs["stdout"], "7");
    assert_eq!(step(&done, "mine").outputs["stdout"], "mine");
    assert!(rig.sandboxes.effects().is_empty());
}

#[tokio::test]
async fn steps_with_always_and_failure_run_after_a_failure_and_the_run_has_failed() {
    let rig = Rig::new().await;
    let done = rig.done("steps:\n  - {name: a, run: exit 1}\n  - {name: b, run: effect b}\n  - {name: c, if: failure(), run: effect c}\n  - {name: d, if: always(), run: effect d}\n  - {name: e, if: success(), run: effect e}\n").await;
    is(&done, RunState::Failed);
    assert_eq!(rig.sandboxes.effects(), ["c", "d"]);
}

#[tokio::test]
async fn secrets_are_masked_in_events_outputs_logs_and_errors() {
    let rig = Rig::new().await;
    let counter = Counter::start().await;
    rig.secrets().put("TOKEN", "canary").unwrap();
    let text = format!(
        "steps:\n  - {{name: a, secrets: [TOKEN], outputs: [o], run: 'secret TOKEN; say ::output o=xcanaryx; warn canary'}}\n  \
         - {{name: b, run: say canary again}}\n  \
         - {{name: c, secrets: [TOKEN], http: {{url: '{}?k=${{{{ secrets.TOKEN }}}}'}}}}\n  \
         - {{name: d, if: always(), secrets: [TOKEN], http: {{url: '{}', headers: {{x-key: '${{{{ secrets.TOKEN }}}}'}}}}}}\n",
        counter.url("/ok"),
        counter.url("/fail")
    );
    let run = rig.trigger(&text).await.unwrap().run;
    let done = rig.over(&run).await;
    is(&done, RunState::Failed);
    assert_eq!(counter.count("/ok?k=canary"), 1, "it was sent");
    assert_eq!(step(&done, "a").outputs["o"], "x***x");
    let shown = format!("{done:?} {:?}", rig.told(&run).await);
    assert!(!shown.contains("canary"), "{shown}");
    assert!(rig.output(&run).await.contains("***"));
    let order = rig.sandboxes.orders().into_iter().next().unwrap();
    assert_eq!(order.secrets.0["TOKEN"], "canary");
    let missing = rig
        .trigger("steps:\n  - {name: a, secrets: [NOPE], run: x}\n")
        .await;
    assert!(missing.unwrap_err().to_string().contains("NOPE"));
}

#[tokio::test]
async fn a_secret_that_changed_between_attempts_is_masked_as_it_was_and_as_it_is() {
    let rig = Rig::new().await;
    rig.secrets().put("KEY", "canary-old").unwrap();
    let text = "steps:\n  - name: a\n    secrets: [KEY]\n    run: secret KEY; say canary-old; say canary-new; flaky a 1\n    \
                retry: {attempts: 2, backoff: 500ms}\n";
    let run = rig.trigger(text).await.unwrap().run;
    rig.until(&run, "it waits for the second attempt", |shown| {
        step(shown, "a").attempts.len() == 1
    })
    .await;
    rig.secrets().put("KEY", "canary-new").unwrap();
    let done = rig.over(&run).await;
    is(&done, RunState::Succeeded);
    // Of the first attempt the new one was no secret yet.
    let output = rig.output(&run).await;
    assert_eq!(output, "***\n***\ncanary-new\n***\n***\n***\n");
    assert_eq!(step(&done, "a").outputs["stdout"], "***\n***\n***");
    assert!(!format!("{done:?}").contains("canary"));
}

#[tokio::test]
async fn a_revert_keeps_what_was_there_and_can_be_undone() {
    let rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let done = rig
        .done("steps:\n  - {name: a, run: write one}\n  - {name: b, run: write two}\n")
        .await;
    let run = done.run.run.clone();
    assert_eq!(tree.lock().present, "two");
    let revert = |step: Option<&str>, undo| RevertRequest {
        run: run.clone(),
        step: step.map(str::to_owned),
        undo,
    };
    let refused = rig
        .all()
        .revert(revert(None, true), None)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "conflict");
    // Somebody edits meanwhile.
    tree.lock().present = "edited".into();
    let report = rig
        .all()
        .revert(revert(Some("b"), false), None)
        .await
        .unwrap();
    assert_eq!((tree.lock().present.as_str(), report.done), ("one", true));
    let kept = tree.lock().contents[&report.kept].clone();
    assert_eq!(kept, "edited");
    is(&rig.show(&run).await, RunState::Reverted);
    let report = rig.all().revert(revert(None, false), None).await.unwrap();
    assert_eq!((tree.lock().present.as_str(), report.number), ("before", 2));
    rig.all().revert(revert(None, true), None).await.unwrap();
    assert_eq!(tree.lock().present, "one");
    is(&rig.show(&run).await, RunState::Succeeded);
    assert_eq!(rig.show(&run).await.reverts.len(), 3);
    let missing = rig
        .all()
        .revert(revert(Some("zz"), false), None)
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("it has a, b"), "{missing}");
    // Nothing is reverted under a run that goes on.
    let other = rig
        .trigger("steps:\n  - {name: a, run: hang}\n")
        .await
        .unwrap()
        .run;
    let refused = rig
        .all()
        .revert(revert(None, false), None)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains(&other), "{refused}");
}

#[tokio::test]
async fn a_run_that_fails_may_revert_by_itself() {
    let rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    let done = rig.done("on_failure: revert\nsteps:\n  - {name: a, run: write one}\n  - {name: b, run: exit 1}\n").await;
    is(&done, RunState::Reverted);
    assert_eq!(tree.lock().present, "before");
    assert_eq!(done.run.error.as_ref().unwrap().code, "exit_status");
    let kept = &done.reverts[0].kept;
    assert_eq!(tree.lock().contents[kept], "one");
}

/// The next one would begin with what the last one broke, and lose its own work to the revert.
#[tokio::test]
async fn the_next_run_begins_once_the_last_one_is_reverted_whatever_happens_meanwhile() {
    let mut rig = Rig::new().await;
    let tree = rig.host.tree("file:///srv/m");
    tree.lock().present = "before".into();
    rig.end_at(Point::RevertBegun, 1);
    let fails =
        "concurrency: 1\non_failure: revert\nsteps:\n  - {name: a, run: write one; exit 1}\n";
    let first = rig.trigger(fails).await.unwrap().run;
    let next = "concurrency: 1\nsteps:\n  - {name: a, run: write two}\n";
    let next = rig.trigger(next).await.unwrap().run;
    let mut hit = rig.ender.hit.subscribe();
    hit.wait_for(|hit| *hit).await.unwrap();
    is(&rig.show(&next).await, RunState::Queued);
    rig.kill().await;
    // The mount comes back later than the sidecar.
    let host = rig.host.clone();
    let held = host.gate.lock().await;
    host.end(rig.project().to_str().unwrap(), Ending::Died);
    let mounts = rig.mounts.clone();
    until("it is not mounted", || mounts.volume("m").is_err()).await;
    rig.start().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(tree.lock().present, "one");
    drop(held);
    is(&rig.over(&first).await, RunState::Reverted);
    is(&rig.over(&next).await, RunState::Succeeded);
    assert_eq!(tree.lock().present, "two");
    let before = rig.show(&next).await.run;
    let shown = tree.lock().contents[&format!("run-{}", before.run)].clone();
    assert_eq!(shown, "before");
}

#[tokio::test]
async fn waiting_for_a_place_takes_no_time_of_a_step() {
    let mut rig = Rig::new().await;
    rig.kill().await;
    rig.places = 1;
    rig.start().await;
    let long = "steps:\n  - {name: a, run: effect in; sleep 900}\n";
    let long = rig.trigger(long).await.unwrap().run;
    let effects = || rig.sandboxes.effects();
    until("it runs", || effects() == ["in"]).await;
    let short = "steps:\n  - {name: a, run: effect a, timeout: 500ms}\n";
    let short = rig.trigger(short).await.unwrap().run;
    let waits = |shown: &RunDetails| {
        step(shown, "a").doing.as_deref() == Some("waits until another step has ended")
    };
    let shown = rig.until(&short, "it waits", waits).await;
    assert_eq!(step(&shown, "a").attempt, 0);
    is(&rig.over(&long).await, RunState::Succeeded);
    is(&rig.over(&short).await, RunState::Succeeded);
}

/// The time of the run goes on meanwhile, and is over once.
#[tokio::test]
async fn the_time_of_a_run_ends_it_while_it_waits_for_a_place() {
    let mut rig = Rig::new().await;
    rig.kill().await;
    rig.places = 1;
    rig.start().await;
    let long = "steps:\n  - {name: a, run: effect in; sleep 3000}\n";
    let long = rig.trigger(long).await.unwrap().run;
    let effects = || rig.sandboxes.effects();
    until("it runs", || effects() == ["in"]).await;
    let short = "timeout: 500ms\nsteps:\n  - {name: a, run: effect a}\n";
    let short = rig.trigger(short).await.unwrap().run;
    let done = rig.over(&short).await;
    is(&done, RunState::Failed);
    assert_eq!(step(&done, "a").error.as_ref().unwrap().code, "timed_out");
    assert_eq!(step(&done, "a").attempt, 0);
    let told = rig.told(&short).await;
    assert!(told.len() < 20, "{} events", told.len());
    is(&rig.over(&long).await, RunState::Succeeded);
    assert_eq!(effects(), ["in"]);
}

#[tokio::test]
async fn the_time_of_a_run_ends_it_with_all_its_attempts_and_steps() {
    let rig = Rig::new().await;
    let done = rig
        .done(
            "timeout: 300ms\nsteps:\n  - {name: a, run: exit 1, retry: {attempts: 9, backoff: 1h, max_backoff: 1h}}\n  \
             - {name: b, if: failure(), wait: {for: 1h}}\n  - {name: c, if: always(), run: effect c}\n",
        )
        .await;
    is(&done, RunState::Failed);
    assert_eq!(step(&done, "a").attempt, 1);
    assert_eq!(step(&done, "b").error.as_ref().unwrap().code, "timed_out");
    assert_eq!(step(&done, "c").state, StepState::Skipped);
    assert!(rig.sandboxes.effects().is_empty());
}

/// What is before a step is what the one before it left, or it is not known.
#[tokio::test]
async fn a_revert_to_before_a_step_takes_no_older_snapshot_for_it() {
    let rig = Rig::new().await;
    let done = rig
        .done("steps:\n  - {name: a, run: write one}\n  - {name: b, run: write two}\n")
        .await;
    let tree = rig.host.tree("file:///srv/m");
    rig.store.forget_step_snapshot(&done.run.run, "a").await;
    let request = |step: &str| RevertRequest {
        run: done.run.run.clone(),
        step: Some(step.to_owned()),
        undo: false,
    };
    let refused = rig.all().revert(request("b"), None).await.unwrap_err();
    assert_eq!(refused.code(), "conflict");
    assert_eq!(tree.lock().present, "two");
}

#[tokio::test]
async fn snapshots_of_older_runs_go_and_are_told_to_be_gone() {
    let rig = Rig::new().await;
    let mut runs = Vec::new();
    for _ in 0..24 {
        runs.push(
            rig.done("steps:\n  - {name: a, run: 'true'}\n")
                .await
                .run
                .run,
        );
    }
    let tree = rig.host.tree("file:///srv/m");
    until("those of the oldest are gone", || {
        tree.lock().snapshots.len() <= 42
    })
    .await;
    let request = RevertRequest {
        run: runs[0].clone(),
        ..RevertRequest::default()
    };
    let refused = rig.all().revert(request, None).await.unwrap_err();
    assert!(
        refused.to_string().contains("not kept any more"),
        "{refused}"
    );
}
