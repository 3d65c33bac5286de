use super::super::types::{RunState, StepState};
use super::rig::{Rig, is, step};
use crate::sidecar::testing::until;

fn agent(prompt: &str, more: &str) -> String {
    format!(
        "steps:\n  - name: code\n    {more}\n    agent:\n      command: [agent]\n      prompt: '{prompt}'\n      permissions: {{allow: [read, edit], reject: [edit]}}\n"
    )
}

#[tokio::test]
async fn an_agent_does_its_prompt_and_everything_of_it_is_told() {
    let rig = Rig::new().await;
    rig.secrets().put("KEY", "canary").unwrap();
    std::fs::write(rig.project().join("file"), "text").unwrap();
    let prompt = "say:hello say:can say:ary think:hm say:canary plan tool ask:read ask:edit ask:execute read:file read:../x write:new write:/etc/x effect:done";
    let run = rig
        .trigger(&agent(prompt, "secrets: [KEY]"))
        .await
        .unwrap()
        .run;
    let done = rig.over(&run).await;
    is(&done, RunState::Succeeded);
    assert_eq!(
        rig.sandboxes.effects(),
        [
            "read=yes",
            "edit=no",
            "execute=no",
            "read=text",
            "read refused",
            "written",
            "write refused",
            "done"
        ]
    );
    assert_eq!(
        std::fs::read_to_string(rig.project().join("new")).unwrap(),
        "by the agent"
    );
    let code = step(&done, "code");
    assert_eq!(code.outputs["stop_reason"], "end_turn");
    assert_eq!(code.outputs["message"], "hello can ary *** ");
    let log = code.log.as_deref().unwrap();
    assert!(
        log.contains("the agent is here") && log.contains("no line of the protocol"),
        "{log}"
    );
    let told = rig.told(&run).await;
    let kinds: Vec<String> = told
        .iter()
        .filter(|event| event.kind == "workflow.agent")
        .map(|event| {
            event.data.as_ref().unwrap()["type"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "message",
            "thought",
            "message",
            "plan",
            "tool",
            "permission",
            "permission",
            "permission"
        ]
    );
    assert!(!format!("{told:?} {done:?}").contains("canary"));
    assert!(rig.sandboxes.left().is_empty());
    let order = &rig.sandboxes.orders()[0];
    assert!(!order.outlives && order.takes_input && order.secrets.0.contains_key("KEY"));
}

#[tokio::test]
async fn an_agent_that_refuses_breaks_off_or_is_none_fails_with_the_reason() {
    let rig = Rig::new().await;
    for (prompt, code) in [("refuse", "agent_stopped"), ("die", "agent_failed")] {
        let done = rig.done(&agent(prompt, "network: none")).await;
        is(&done, RunState::Failed);
        assert_eq!(step(&done, "code").error.as_ref().unwrap().code, code);
    }
    let none = agent("x", "network: none").replace("command: [agent]", "command: [say, hello]");
    let done = rig.done(&none).await;
    let error = step(&done, "code").error.clone().unwrap();
    assert_eq!(error.code, "agent_failed");
    assert!(step(&done, "code").log.as_ref().unwrap().contains("hello"));
    let done = rig.done(&agent("hang", "timeout: 300ms")).await;
    assert_eq!(
        step(&done, "code").error.as_ref().unwrap().code,
        "timed_out"
    );
    assert!(rig.sandboxes.left().is_empty());
}

#[tokio::test]
async fn cancel_reaches_the_agent_and_answers_at_once() {
    let rig = Rig::new().await;
    let run = rig
        .trigger(&agent("effect:begun hang", "network: none"))
        .await
        .unwrap()
        .run;
    let sandboxes = rig.sandboxes.clone();
    until("it has begun", || sandboxes.effects() == ["begun"]).await;
    let answer = rig.all().cancel(&run).await.unwrap();
    assert_eq!(answer.state, RunState::Cancelled);
    let done = rig.over(&run).await;
    assert_eq!(step(&done, "code").state, StepState::Cancelled);
    assert_eq!(rig.sandboxes.effects(), ["begun", "cancelled"]);
    assert!(rig.sandboxes.left().is_empty());
}

#[tokio::test]
async fn an_agent_is_interrupted_with_the_sidecar_and_begins_again_only_if_it_may() {
    let mut rig = Rig::new().await;
    for (more, state) in [
        ("idempotent: true", RunState::Cancelled),
        ("idempotent: false", RunState::Interrupted),
    ] {
        let before = rig.sandboxes.effects().len();
        let run = rig
            .trigger(&agent("effect:begun hang", more))
            .await
            .unwrap()
            .run;
        let sandboxes = rig.sandboxes.clone();
        until("it has begun", || sandboxes.effects().len() == before + 1).await;
        rig.kill().await;
        rig.start().await;
        if state == RunState::Cancelled {
            until("it begins again", || {
                sandboxes.effects().len() == before + 2
            })
            .await;
            let shown = rig.show(&run).await;
            assert_eq!(
                step(&shown, "code").attempts[0]
                    .error
                    .as_ref()
                    .unwrap()
                    .code,
                "interrupted"
            );
            rig.all().cancel(&run).await.unwrap();
        }
        is(&rig.over(&run).await, state);
        until("nothing is left", || sandboxes.left().is_empty()).await;
    }
}
