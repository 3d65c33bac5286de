//! An agent for tests: speaks the real protocol, and does what the words of its prompt say.

use std::path::PathBuf;
use std::sync::Arc;

use agent_client_protocol::v1::ConnectionTo;
use agent_client_protocol::v1::schema::{
    AgentCapabilities, CancelNotification, ContentBlock, ContentChunk, InitializeRequest,
    InitializeResponse, NewSessionRequest, NewSessionResponse, PermissionOption,
    PermissionOptionKind, Plan, PlanEntry, PlanEntryPriority, PlanEntryStatus, PromptRequest,
    PromptResponse, ReadTextFileRequest, RequestPermissionOutcome, RequestPermissionRequest,
    SessionId, SessionNotification, SessionUpdate, StopReason, TextContent, ToolCall,
    ToolCallUpdate, ToolCallUpdateFields, ToolKind, WriteTextFileRequest,
};
use agent_client_protocol::{Agent, Client, ConnectTo};
use parking_lot::Mutex;

/// Speaks until the other side is gone. Words of a prompt: `say:TEXT`, `think:TEXT`, `tool`, `plan`, `ask:KIND`,
/// `read:PATH`, `write:PATH`, `effect:NAME`, `hang`, `refuse`, `die`.
pub(super) async fn speak(
    transport: impl ConnectTo<Agent>,
    project: PathBuf,
    effects: Arc<Mutex<Vec<String>>>,
) {
    let cancelled = Arc::clone(&effects);
    let spoken = Agent
        .v1()
        .name("scripted")
        .on_receive_request(
            async move |hello: InitializeRequest, responder, _cx| {
                responder.respond(
                    InitializeResponse::new(hello.protocol_version)
                        .agent_capabilities(AgentCapabilities::new()),
                )
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |_: NewSessionRequest, responder, _cx| {
                responder.respond(NewSessionResponse::new("session-1"))
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_notification(
            async move |_: CancelNotification, _cx| {
                cancelled.lock().push("cancelled".into());
                Ok(())
            },
            agent_client_protocol::on_receive_notification!(),
        )
        .on_receive_request(
            async move |prompt: PromptRequest, responder, cx: ConnectionTo<Client>| {
                let (project, effects, asking) =
                    (project.clone(), Arc::clone(&effects), cx.clone());
                // Beside the conversation, which has to go on meanwhile.
                cx.spawn(async move {
                    let reason = act(&prompt, &asking, project, &effects).await?;
                    responder.respond(PromptResponse::new(reason))
                })
            },
            agent_client_protocol::on_receive_request!(),
        )
        .connect_to(transport)
        .await;
    drop(spoken);
}

async fn act(
    prompt: &PromptRequest,
    cx: &ConnectionTo<Client>,
    project: PathBuf,
    effects: &Mutex<Vec<String>>,
) -> agent_client_protocol::Result<StopReason> {
    let session = prompt.session_id.clone();
    let tell = |update: SessionUpdate| {
        cx.send_notification(SessionNotification::new(session.clone(), update))
    };
    let text =
        |text: &str| ContentChunk::new(ContentBlock::Text(TextContent::new(text.to_owned())));
    let Some(ContentBlock::Text(words)) = prompt.prompt.first() else {
        return Ok(StopReason::Refusal);
    };
    for word in words.text.split_whitespace() {
        match word.split_once(':').unwrap_or((word, "")) {
            ("say", said) => tell(SessionUpdate::AgentMessageChunk(text(&format!("{said} "))))?,
            ("think", said) => tell(SessionUpdate::AgentThoughtChunk(text(said)))?,
            ("tool", _) => {
                tell(SessionUpdate::ToolCall(
                    ToolCall::new("t1", "edits a file").kind(ToolKind::Edit),
                ))?;
            }
            ("plan", _) => {
                let entry =
                    PlanEntry::new("first", PlanEntryPriority::High, PlanEntryStatus::Pending);
                tell(SessionUpdate::Plan(Plan::new(vec![entry])))?;
            }
            ("ask", kind) => {
                let answer = ask(cx, session.clone(), kind).await?;
                effects.lock().push(format!("{kind}={answer}"));
            }
            ("read", path) => {
                let request = ReadTextFileRequest::new(session.clone(), project.join(path));
                let read = cx.send_request(request).block_task().await;
                effects.lock().push(match read {
                    Ok(read) => format!("read={}", read.content),
                    Err(_) => "read refused".into(),
                });
            }
            ("write", path) => {
                let request =
                    WriteTextFileRequest::new(session.clone(), project.join(path), "by the agent");
                let written = cx.send_request(request).block_task().await;
                effects.lock().push(match written {
                    Ok(_) => "written".into(),
                    Err(_) => "write refused".into(),
                });
            }
            ("effect", name) => effects.lock().push(name.to_owned()),
            ("hang", _) => std::future::pending().await,
            ("refuse", _) => return Ok(StopReason::Refusal),
            ("die", _) => return Err(agent_client_protocol::Error::internal_error()),
            other => panic!("there is no word {other:?}"),
        }
    }
    Ok(StopReason::EndTurn)
}

async fn ask(
    cx: &ConnectionTo<Client>,
    session: SessionId,
    kind: &str,
) -> agent_client_protocol::Result<String> {
    let kind: ToolKind = serde_json::from_value(kind.into()).unwrap();
    let fields = ToolCallUpdateFields::new().kind(kind).title("does it");
    let options = vec![
        PermissionOption::new("always", "Always", PermissionOptionKind::AllowAlways),
        PermissionOption::new("yes", "Yes", PermissionOptionKind::AllowOnce),
        PermissionOption::new("no", "No", PermissionOptionKind::RejectOnce),
    ];
    let request =
        RequestPermissionRequest::new(session, ToolCallUpdate::new("t2", fields), options);
    let answer = cx.send_request(request).block_task().await?;
    Ok(match answer.outcome {
        RequestPermissionOutcome::Selected(selected) => selected.option_id.to_string(),
        _ => "cancelled".into(),
    })
}
