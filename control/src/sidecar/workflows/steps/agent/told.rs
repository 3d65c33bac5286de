//! What an agent says, as events: masked, in pieces that are not too small, and not without end.

use std::sync::Arc;

use agent_client_protocol::v1::schema::{ContentBlock, SessionUpdate, ToolKind};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::super::{Attempt, Report, whole_characters};
use super::data;
use crate::sidecar::events::kinds;
use crate::sidecar::workflows::definition::Answer;

/// Most bytes of what it says that are kept for the output.
const MESSAGE_MAX: usize = 64 * 1024;
/// Bytes at which a piece is told.
const PIECE: usize = 4 * 1024;
/// Most events of an attempt, and most bytes of what it says in them.
const EVENTS_MAX: u32 = 1000;
const TOLD_MAX: usize = 256 * 1024;
/// Longest title, and entry of a plan.
const TEXT_MAX: usize = 300;
/// Most entries of a plan.
const ENTRIES_MAX: usize = 50;

/// Tells of an agent.
pub(super) struct Told {
    attempt: Arc<Attempt>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What it said to whoever asked.
    message: String,
    /// It said more.
    is_message_cut: bool,
    /// What was not told yet, and what it is.
    pending: Vec<u8>,
    kind: &'static str,
    events: u32,
    /// Bytes of what it says that were told.
    told: usize,
    /// Nothing more is told.
    is_cut: bool,
}

impl Told {
    pub(super) fn new(attempt: Arc<Attempt>) -> Self {
        Self {
            attempt,
            state: Mutex::default(),
        }
    }

    /// All that it said, up to what is kept.
    pub(super) fn message(&self) -> String {
        let state = self.state.lock();
        let mut message = state.message.clone();
        if state.is_message_cut {
            // What may be the beginning of a secret could not be told from one.
            let safe = self.attempt.mask.safe(message.as_bytes());
            message.truncate(message.floor_char_boundary(safe));
        }
        message
    }

    pub(super) async fn update(&self, update: SessionUpdate) {
        match update {
            SessionUpdate::AgentMessageChunk(chunk) => self.said("message", &chunk.content).await,
            SessionUpdate::AgentThoughtChunk(chunk) => self.said("thought", &chunk.content).await,
            SessionUpdate::ToolCall(call) => {
                let more = json!({
                    "tool": self.shown(&call.tool_call_id.to_string()), "title": self.shown(&call.title), "kind": call.kind, "status": call.status,
                });
                self.event(format!("uses a tool: {}", call.title), data("tool", more))
                    .await;
            }
            SessionUpdate::ToolCallUpdate(call) => {
                let Some(status) = call.fields.status else {
                    self.attempt.tell(Report::Alive).await;
                    return;
                };
                let title = call.fields.title.unwrap_or_default();
                let status = json!(status);
                let named = status.as_str().unwrap_or_default().to_owned();
                let more = json!({"tool": self.shown(&call.tool_call_id.to_string()), "title": self.shown(&title), "status": status});
                self.event(
                    format!("its tool {} is {named}", call.tool_call_id),
                    data("tool", more),
                )
                .await;
            }
            SessionUpdate::Plan(plan) => {
                let entries: Vec<Json> = plan
                    .entries
                    .iter()
                    .take(ENTRIES_MAX)
                    .map(|entry| json!({"content": self.shown(&entry.content), "status": entry.status}))
                    .collect();
                let message = format!("has a plan of {} entries", plan.entries.len());
                self.event(message, data("plan", json!({"entries": entries})))
                    .await;
            }
            _ => self.attempt.tell(Report::Alive).await,
        }
    }

    /// It asked, and was answered.
    pub(super) async fn permission(&self, title: &str, kind: ToolKind, answer: Answer) {
        let answered = match answer {
            Answer::Allow => "allow",
            Answer::Reject => "reject",
        };
        // Masked before it is quoted: quoting changes what a secret looks like.
        let title = self.shown(title);
        let more = json!({"title": title, "kind": kind, "answer": answered});
        self.event(
            format!("asks for {title:?}: {answered}"),
            data("permission", more),
        )
        .await;
    }

    async fn said(&self, kind: &'static str, content: &ContentBlock) {
        let text = match content {
            ContentBlock::Text(text) => text.text.as_str(),
            _ => "(something that is no text)",
        };
        let is_other = {
            let state = self.state.lock();
            state.kind != kind && !state.pending.is_empty()
        };
        if is_other {
            self.flush(true).await;
        }
        {
            let mut state = self.state.lock();
            state.kind = kind;
            if kind == "message" {
                let room = MESSAGE_MAX.saturating_sub(state.message.len());
                // Once something is left out, what follows it is as well.
                let end = match state.is_message_cut {
                    true => 0,
                    false => text.floor_char_boundary(room),
                };
                state.is_message_cut |= end < text.len();
                state.message.push_str(text.get(..end).unwrap_or_default());
            }
        }
        for piece in text.as_bytes().chunks(PIECE) {
            let is_much = {
                let mut state = self.state.lock();
                if state.is_cut {
                    break;
                }
                state.pending.extend_from_slice(piece);
                state.pending.len() >= PIECE
            };
            if is_much {
                self.flush(false).await;
            }
        }
    }

    /// Tells what was said. What may be the beginning of a secret waits, unless this is the end of it.
    pub(super) async fn flush(&self, is_end: bool) {
        let (kind, text) = {
            let mut state = self.state.lock();
            let safe = match is_end {
                true => state.pending.len(),
                false => {
                    let safe = self.attempt.mask.safe(&state.pending);
                    safe.min(whole_characters(&state.pending))
                }
            };
            let bytes: Vec<u8> = state.pending.drain(..safe).collect();
            state.told += safe;
            (state.kind, self.attempt.mask.bytes(&bytes))
        };
        if !text.is_empty() {
            let text = String::from_utf8_lossy(&text).into_owned();
            self.send(text.clone(), data(kind, json!({"text": text})))
                .await;
        }
    }

    async fn event(&self, message: String, data: Json) {
        self.flush(true).await;
        self.send(self.shown(&message), data).await;
    }

    async fn send(&self, message: String, data: Json) {
        let (was_cut, is_cut) = {
            let mut state = self.state.lock();
            state.events = state.events.saturating_add(1);
            let was_cut = state.is_cut;
            state.is_cut |= state.events >= EVENTS_MAX || state.told > TOLD_MAX;
            (was_cut, state.is_cut)
        };
        let report = match (was_cut, is_cut) {
            (true, _) => Report::Alive,
            (false, true) => Report::Event {
                kind: kinds::STEP_AGENT,
                message: "what it says further is not told".into(),
                data: json!({"type": "cut"}),
            },
            (false, false) => Report::Event {
                kind: kinds::STEP_AGENT,
                message,
                data,
            },
        };
        self.attempt.tell(report).await;
    }

    fn shown(&self, text: &str) -> String {
        self.attempt
            .mask
            .text(text)
            .chars()
            .take(TEXT_MAX)
            .collect()
    }
}
