//! The gate before the conversation. The library that has it puts what the agent says, and what it is answered, into queues
//! without an end. So no more is let in while much of what was let in has not been dealt with: behind it goes a request of
//! our own, whose answer comes out behind all others and does not go to the agent. An agent that does not read its answers is
//! not read either, and waits.

use std::io;
use std::sync::Arc;

use agent_client_protocol::JsonRpcRequest;
use futures_util::{Sink, Stream, sink, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc};

use super::message::Message;

/// What was let in and is perhaps not dealt with: messages, and their bytes. Behind a request comes nothing before its answer
/// is written.
const MESSAGES: usize = 64;
const BYTES: usize = 256 * 1024;
/// The id of our own request; no line of the agent that has it is a [`Message`].
pub(super) const ID: &str = "weldrfs-gate";

/// A line of the agent.
pub(super) type Line = (Message, String);

/// Our own request.
#[derive(Debug, Clone, Serialize, Deserialize, JsonRpcRequest)]
#[request(method = "_weldrfs/gate", response = Json)]
pub(super) struct Ask;

/// Both sides of the gate: lines from the agent, and lines to it.
pub(super) fn gate(
    lines: mpsc::Receiver<io::Result<Line>>,
    input: pipe::Sender,
) -> (
    impl Sink<String, Error = io::Error> + Send + 'static,
    impl Stream<Item = io::Result<String>> + Send + 'static,
) {
    let answered = Arc::new(Semaphore::new(0));
    let entry = Entry {
        lines,
        answered: Arc::clone(&answered),
        messages: 0,
        bytes: 0,
        is_full: false,
        asked: false,
    };
    let incoming = stream::unfold(entry, |mut entry| async move {
        let line = entry.next().await?;
        Some((line, entry))
    });
    let outgoing = sink::unfold(
        (input, answered),
        |(mut input, answered), mut line: String| async move {
            if is_answer(&line) {
                answered.add_permits(1);
            } else {
                line.push('\n');
                input.write_all(line.as_bytes()).await?;
            }
            Ok::<_, io::Error>((input, answered))
        },
    );
    (Box::pin(outgoing), Box::pin(incoming))
}

/// What comes in.
struct Entry {
    lines: mpsc::Receiver<io::Result<Line>>,
    /// Counts answers to our own requests.
    answered: Arc<Semaphore>,
    messages: usize,
    bytes: usize,
    is_full: bool,
    /// An answer to our own request has not come out yet.
    asked: bool,
}

impl Entry {
    async fn next(&mut self) -> Option<io::Result<String>> {
        if self.is_full {
            (self.is_full, self.asked) = (false, true);
            (self.messages, self.bytes) = (0, 0);
            let ask = json!({"jsonrpc": "2.0", "id": ID, "method": "_weldrfs/gate"});
            return Some(Ok(ask.to_string()));
        }
        if self.asked {
            // Nobody closes it.
            self.answered.acquire().await.ok()?.forget();
            self.asked = false;
        }
        let line = self.lines.recv().await?;
        Some(line.map(|(message, line)| {
            self.messages += 1;
            self.bytes += line.len();
            self.is_full =
                message == Message::Request || self.messages >= MESSAGES || self.bytes >= BYTES;
            line
        }))
    }
}

#[derive(Deserialize)]
struct Answer {
    id: Json,
}

/// Whether a line that goes out is the answer to our own request.
fn is_answer(line: &str) -> bool {
    line.contains(ID) && serde_json::from_str::<Answer>(line).is_ok_and(|answer| answer.id == ID)
}
