//! An agent that speaks the Agent Client Protocol over its standard input and output, in a sandbox. What it says, the tools it
//! uses and its plan are events; what it asks is answered as the definition says.
//!
//! The conversation is in this process: when the sidecar ends, so does the agent, and the attempt is interrupted.

mod files;
mod gate;
mod message;
mod pipe;
mod told;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_client_protocol::schema::ProtocolVersion;
use agent_client_protocol::v1::ConnectionTo;
use agent_client_protocol::v1::schema::{
    CancelNotification, ClientCapabilities, ContentBlock, FileSystemCapabilities,
    InitializeRequest, NewSessionRequest, PermissionOption, PermissionOptionKind, PromptRequest,
    ReadTextFileRequest, ReadTextFileResponse, RequestPermissionOutcome, RequestPermissionRequest,
    RequestPermissionResponse, SelectedPermissionOutcome, SessionNotification, StopReason,
    TextContent, ToolKind, WriteTextFileRequest, WriteTextFileResponse,
};
use agent_client_protocol::{Agent, Client, Lines};
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, timeout};

use self::pipe::{Finished, Pipe};
use self::told::Told;
use super::run::{end, sandbox_id, variables};
use super::{Attempt, Ending, Outcome, Report, Stop, fault, fault_of, kept, stopped};
use crate::error::ApiError;
use crate::sandbox::{FoundSandbox, Sandbox, SandboxOrder};
use crate::sidecar::exec::{CommandLine, ExecRequest, order};
use crate::sidecar::workflows::definition::{Answer, Files, Permissions, Tool};
use crate::sidecar::workflows::points::Point;

/// How long an agent may take to begin a conversation.
const HELLO_DEADLINE: Duration = Duration::from_secs(60);
/// How long one that was told to stop may take to say so.
const CANCEL_DEADLINE: Duration = Duration::from_secs(5);
/// How often what it says is told.
const TELL: Duration = Duration::from_millis(500);
/// Most bytes of its output that wait to be read.
const OUTPUT_BYTES: u64 = 8 * 1024 * 1024;
/// Lines that wait for the gate.
const LINES: usize = 1;
/// How long what is to be said to an agent last may take: it may not read.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is asked of an agent.
#[derive(Debug, Clone)]
pub(in crate::sidecar::workflows) struct Asked {
    pub(super) command: Vec<String>,
    pub(super) prompt: String,
    pub(super) permissions: Permissions,
    pub(super) files: Files,
}

/// Why a conversation ended without an answer.
enum Trouble {
    /// The agent, or what it says, is at fault.
    Agent(String),
    /// The attempt was to end.
    Stopped(Stop),
}

pub(super) async fn perform(mut attempt: Attempt, asked: Asked) -> Ending {
    if attempt.is_again {
        return cut_off(attempt.found.take()).await;
    }
    let order = match ordered(&attempt, &asked) {
        Ok(order) => order,
        Err(error) => return Ending::of(Outcome::Failed(fault_of(&error))),
    };
    attempt.tell(Report::Doing("starts the agent".into())).await;
    let sandbox = match attempt.parts.sandboxes.start(order).await {
        Ok(sandbox) => sandbox,
        Err(error) => return Ending::of(Outcome::Failed(fault_of(&error))),
    };
    attempt.reached(Point::Started).await;
    let ending = meet(attempt, asked, &sandbox).await;
    Ending {
        sandbox: Some(sandbox),
        ..ending
    }
}

/// The conversation was lost with the sidecar that had it.
async fn cut_off(found: Option<FoundSandbox>) -> Ending {
    let ending = Ending::of(Outcome::Interrupted(fault(
        "interrupted",
        "the sidecar ended, and the conversation with the agent with it",
    )));
    let Some(found) = found else {
        return ending;
    };
    end(&found).await;
    let (FoundSandbox::Running(sandbox, _)
    | FoundSandbox::Ended(sandbox, _, _)
    | FoundSandbox::Lost(sandbox, _)) = found;
    Ending {
        sandbox: Some(sandbox),
        ..ending
    }
}

fn ordered(attempt: &Attempt, asked: &Asked) -> Result<SandboxOrder, ApiError> {
    let parts = &attempt.parts;
    let left = attempt.ends_ms.saturating_sub(attempt.now_ms()).max(1);
    let request = ExecRequest {
        mount: attempt.mount.clone(),
        path: Some(attempt.path.clone()),
        command: CommandLine::Words(asked.command.clone()),
        env: variables(attempt),
        secrets: attempt.step.secrets.clone(),
        limits: attempt.step.limits,
        network: attempt.step.network,
        timeout_ms: Some(left),
        stdin: None,
    };
    let id = sandbox_id(&attempt.run, attempt.number, attempt.attempt);
    let mut order = order(id, &request, &parts.settings, &parts.secrets)?;
    order.mountpoint.clone_from(&attempt.mountpoint);
    order.output_bytes = OUTPUT_BYTES;
    order.takes_input = true;
    let works = parts.runtime.lock().clone();
    order
        .runtimes
        .sort_by_key(|runtime| works.as_ref() != Some(runtime));
    Ok(order)
}

/// Talks with the agent in `sandbox`, and ends it.
async fn meet(attempt: Attempt, asked: Asked, sandbox: &Sandbox) -> Ending {
    let failed = |text: String| Ending::failed("agent_failed", text);
    let (lines, incoming) = mpsc::channel(LINES);
    let opening = timeout(
        HELLO_DEADLINE,
        Pipe::open(sandbox, attempt.mask.clone(), lines),
    );
    let (mut pipe, outgoing) = match attempt.unless_stopped(opening).await {
        Ok(Ok(Ok(opened))) => opened,
        Ok(Ok(Err(error))) => return Ending::of(Outcome::Failed(fault_of(&error))),
        Ok(Err(_)) => return failed("it did not start in time".into()),
        Err(ending) => return ending,
    };
    *attempt.parts.runtime.lock() = Some(pipe.runtime.clone());
    attempt
        .tell(Report::Doing("talks with the agent".into()))
        .await;
    let attempt = Arc::new(attempt);
    let told = Arc::new(Told::new(Arc::clone(&attempt)));
    let talking = converse(
        Arc::clone(&attempt),
        Arc::clone(&told),
        asked,
        (outgoing, incoming),
    );
    tokio::pin!(talking);
    let mut tell = interval(TELL);
    let said = {
        let flowing = pipe.flows();
        tokio::pin!(flowing);
        loop {
            tokio::select! {
                said = &mut talking => break Some(said),
                () = &mut flowing => break None,
                _ = tell.tick() => told.flush(false).await,
            }
        }
    };
    // What it said last is in the channel.
    let said = match said {
        Some(said) => Some(said),
        None => timeout(CANCEL_DEADLINE, talking).await.ok(),
    };
    told.flush(true).await;
    let Finished { ended, log } = pipe.finish().await;
    let log = (!log.is_empty()).then_some(log);
    let is_timed_out = ended.as_ref().is_some_and(|ended| ended.timed_out);
    let outcome = match said {
        Some(Ok(reason)) => over(&attempt, &told, reason),
        Some(Err(Trouble::Stopped(Stop::TimedOut))) => {
            Outcome::Failed(fault("timed_out", attempt.time_is_over()))
        }
        Some(Err(Trouble::Stopped(_))) => {
            Outcome::Failed(fault("cancelled", "the run was cancelled"))
        }
        _ if is_timed_out => Outcome::Failed(fault("timed_out", attempt.time_is_over())),
        Some(Err(Trouble::Agent(text))) => {
            let text = attempt.mask.text(&text);
            Outcome::Failed(fault("agent_failed", with_status(text, ended.as_ref())))
        }
        None => Outcome::Failed(fault(
            "agent_failed",
            with_status(
                "it ended in the middle of the conversation".into(),
                ended.as_ref(),
            ),
        )),
    };
    Ending {
        log,
        ..Ending::of(outcome)
    }
}

fn with_status(text: String, ended: Option<&crate::sandbox::Ended>) -> String {
    let Some(ended) = ended.filter(|ended| !ended.stopped) else {
        return text;
    };
    match (ended.status, &ended.failure) {
        (Some(status), _) => format!("{text}; its process ended with status {status}"),
        (None, Some(_)) => format!("{text}; its sandbox did not start"),
        (None, None) => text,
    }
}

fn over(attempt: &Attempt, told: &Told, reason: StopReason) -> Outcome {
    let name = match reason {
        StopReason::EndTurn => {
            let reason = Json::String("end_turn".into());
            let message = kept(&attempt.mask, &told.message());
            return Outcome::Done(BTreeMap::from([
                ("stop_reason".to_owned(), reason),
                ("message".to_owned(), message),
            ]));
        }
        StopReason::MaxTokens => "it used up its tokens",
        StopReason::MaxTurnRequests => "it used up its requests",
        StopReason::Refusal => "it refused",
        StopReason::Cancelled => "it says that it was cancelled",
        _ => "it stopped for a reason that is not known here",
    };
    Outcome::Failed(fault("agent_stopped", name))
}

type Outgoing = tokio::net::unix::pipe::Sender;
type Incoming = mpsc::Receiver<std::io::Result<gate::Line>>;

/// The conversation: hello, a session in the project, the prompt, and everything until the answer.
async fn converse(
    attempt: Arc<Attempt>,
    told: Arc<Told>,
    asked: Asked,
    (outgoing, incoming): (Outgoing, Incoming),
) -> Result<StopReason, Trouble> {
    let project = files::Project {
        mountpoint: attempt.mountpoint.clone(),
        folder: attempt.path.clone().into(),
    };
    let (to, from) = gate::gate(incoming, outgoing);
    let transport = Lines::new(to, from);
    let (permissions, files) = (Arc::new(asked.permissions.clone()), asked.files);
    let (on_update, on_ask) = (Arc::clone(&told), Arc::clone(&told));
    let (read_in, write_in) = (project.clone(), project.clone());
    let (tell, mut said) = oneshot::channel();
    let talking = Client
        .v1()
        .name("weldrfs")
        .on_receive_notification(
            async move |notification: SessionNotification, _cx| {
                on_update.update(notification.update).await;
                Ok(())
            },
            agent_client_protocol::on_receive_notification!(),
        )
        .on_receive_request(
            async move |request: RequestPermissionRequest, responder, _cx| {
                let kind = request.tool_call.fields.kind.unwrap_or_default();
                let answer = answer(&permissions, kind);
                let title = request.tool_call.fields.title.clone().unwrap_or_default();
                let outcome = chosen(answer, &request.options);
                on_ask.permission(&title, kind, answer).await;
                responder.respond(RequestPermissionResponse::new(outcome))
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |request: ReadTextFileRequest, responder, _cx| match files::read(
                read_in.clone(),
                request,
                files.read,
            )
            .await
            {
                Ok(text) => responder.respond(ReadTextFileResponse::new(text)),
                Err(text) => responder
                    .respond_with_error(agent_client_protocol::Error::invalid_params().data(text)),
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |request: WriteTextFileRequest, responder, _cx| match files::write(
                write_in.clone(),
                request,
                files.write,
            )
            .await
            {
                Ok(()) => responder.respond(WriteTextFileResponse::new()),
                Err(text) => responder
                    .respond_with_error(agent_client_protocol::Error::invalid_params().data(text)),
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |_: gate::Ask, responder, _cx| responder.respond(Json::Null),
            agent_client_protocol::on_receive_request!(),
        )
        .connect_with(transport, async move |cx: ConnectionTo<Agent>| {
            drop(tell.send(session(&attempt, &cx, &asked, project.path()).await));
            Ok(())
        });
    tokio::pin!(talking);
    let broken = |result: Result<(), agent_client_protocol::Error>| {
        let why = result
            .err()
            .map_or_else(String::new, |error| format!(": {error}"));
        Err(Trouble::Agent(format!("the conversation broke off{why}")))
    };
    tokio::select! {
        biased;
        result = &mut talking => said.try_recv().unwrap_or_else(|_| broken(result)),
        said = &mut said => {
            // What is under way to the agent still arrives, if it reads.
            let result = timeout(GOODBYE, talking).await;
            said.unwrap_or_else(|_| broken(result.unwrap_or(Ok(()))))
        }
    }
}

async fn session(
    attempt: &Attempt,
    cx: &ConnectionTo<Agent>,
    asked: &Asked,
    project: PathBuf,
) -> Result<StopReason, Trouble> {
    let mut stop = attempt.stop.clone();
    let files = FileSystemCapabilities::new()
        .read_text_file(asked.files.read)
        .write_text_file(asked.files.write);
    let hello = InitializeRequest::new(ProtocolVersion::V1)
        .client_capabilities(ClientCapabilities::new().fs(files));
    let beginning = async {
        let troubled = |what: &str, error: agent_client_protocol::Error| {
            Trouble::Agent(format!("{what}: {error}"))
        };
        let said = cx.send_request(hello).block_task().await;
        let said = said.map_err(|error| troubled("it does not say hello", error))?;
        if said.protocol_version != ProtocolVersion::V1 {
            return Err(Trouble::Agent(
                "it does not speak version 1 of the protocol".into(),
            ));
        }
        let begun = cx
            .send_request(NewSessionRequest::new(project))
            .block_task()
            .await;
        let begun = begun.map_err(|error| troubled("it begins no session", error))?;
        Ok(begun.session_id)
    };
    let session = tokio::select! {
        begun = timeout(HELLO_DEADLINE, beginning) => match begun {
            Ok(begun) => begun?,
            Err(_) => return Err(Trouble::Agent(format!(
                "it did not begin a session within {} s", HELLO_DEADLINE.as_secs()
            ))),
        },
        stop = stopped(&mut stop) => return Err(Trouble::Stopped(stop)),
    };
    let prompt = vec![ContentBlock::Text(TextContent::new(asked.prompt.clone()))];
    let answering = cx
        .send_request(PromptRequest::new(session.clone(), prompt))
        .block_task();
    tokio::pin!(answering);
    tokio::select! {
        answer = &mut answering => match answer {
            Ok(answer) => Ok(answer.stop_reason),
            Err(error) => Err(Trouble::Agent(format!("it answers with an error: {error}"))),
        },
        stop = stopped(&mut stop) => {
            // It may have something to finish.
            if cx.send_notification(CancelNotification::new(session)).is_ok() {
                drop(timeout(CANCEL_DEADLINE, answering).await);
            }
            Err(Trouble::Stopped(stop))
        }
    }
}

/// What the definition says about a kind of tool.
fn answer(permissions: &Permissions, kind: ToolKind) -> Answer {
    let tool = match kind {
        ToolKind::Read => Tool::Read,
        ToolKind::Edit => Tool::Edit,
        ToolKind::Delete => Tool::Delete,
        ToolKind::Move => Tool::Move,
        ToolKind::Search => Tool::Search,
        ToolKind::Execute => Tool::Execute,
        ToolKind::Think => Tool::Think,
        ToolKind::Fetch => Tool::Fetch,
        _ => Tool::Other,
    };
    match () {
        () if permissions.reject.contains(&tool) => Answer::Reject,
        () if permissions.allow.contains(&tool) => Answer::Allow,
        () => permissions.default,
    }
}

/// The option that means `answer`: once rather than always, and by what it is, not by its name.
fn chosen(answer: Answer, options: &[PermissionOption]) -> RequestPermissionOutcome {
    let wanted = match answer {
        Answer::Allow => [
            PermissionOptionKind::AllowOnce,
            PermissionOptionKind::AllowAlways,
        ],
        Answer::Reject => [
            PermissionOptionKind::RejectOnce,
            PermissionOptionKind::RejectAlways,
        ],
    };
    let found = wanted
        .iter()
        .find_map(|kind| options.iter().find(|option| option.kind == *kind));
    match found {
        Some(option) => RequestPermissionOutcome::Selected(SelectedPermissionOutcome::new(
            option.option_id.clone(),
        )),
        None => RequestPermissionOutcome::Cancelled,
    }
}

/// Data of an event of an agent.
fn data(kind: &str, more: Json) -> Json {
    let mut data = json!({"type": kind});
    if let (Some(fields), Json::Object(more)) = (data.as_object_mut(), more) {
        fields.extend(more);
    }
    data
}
