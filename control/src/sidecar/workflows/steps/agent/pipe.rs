//! The agent's standard input and output, as lines. What is no line of the protocol is kept for its log.

use std::io;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::gate::Line;
use super::message::Message;
use crate::error::ApiError;
use crate::sandbox::{Asked, Attachment, Ended, INPUT_NAME, OutputStream, Sandbox, Seen};

/// Longest line of the protocol.
const LINE_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of what else it wrote that are kept: the end of it.
const LOG_MAX: usize = 8 * 1024;
/// How long an agent that was told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// The agent's output.
pub(super) struct Pipe {
    attachment: Attachment,
    lines: Option<mpsc::Sender<io::Result<Line>>>,
    line: Vec<u8>,
    log: Vec<u8>,
    ended: Option<Ended>,
    /// What runs it.
    pub(super) runtime: String,
}

/// What is left of an agent.
pub(super) struct Finished {
    pub(super) ended: Option<Ended>,
    /// The end of what it wrote beside the protocol.
    pub(super) log: String,
}

impl Pipe {
    /// Attaches to the agent's output, which goes to `lines`, and opens its input.
    ///
    /// # Errors
    /// [`ApiError::SandboxFailed`] and [`ApiError::InvalidRequest`] when it did not start.
    pub(super) async fn open(
        sandbox: &Sandbox,
        lines: mpsc::Sender<io::Result<Line>>,
    ) -> Result<(Self, pipe::Sender), ApiError> {
        let lost = |error: io::Error| {
            tracing::error!(%error, id = sandbox.id, "an agent's sandbox does not answer");
            ApiError::SandboxFailed("the process that keeps the agent does not answer".into())
        };
        let mut attachment = sandbox.attach(0).await.map_err(lost)?;
        let runtime = loop {
            match attachment.next().await? {
                Seen::Started(note) => break note.runtime,
                Seen::Ended(ended) => {
                    let reason = ended.failure.unwrap_or_default();
                    tracing::error!(reason, id = sandbox.id, "an agent's sandbox did not start");
                    let text = crate::sidecar::public::without_places(&reason, &[]);
                    return Err(match ended.refused {
                        true => ApiError::InvalidRequest(text),
                        false => {
                            ApiError::SandboxFailed(format!("the sandbox did not start: {text}"))
                        }
                    });
                }
                Seen::Output(_) | Seen::Missed(_) => {}
            }
        };
        // For reading too: an agent that has ended already is seen by its output, not by an error here.
        let input = pipe::OpenOptions::new()
            .read_write(true)
            .open_sender(sandbox.folder.join(INPUT_NAME))
            .map_err(lost)?;
        let pipe = Self {
            attachment,
            lines: Some(lines),
            line: Vec::new(),
            log: Vec::new(),
            ended: None,
            runtime,
        };
        Ok((pipe, input))
    }

    /// Hands its output on; returns when it has ended. Dropped in the middle it loses output.
    pub(super) async fn flows(&mut self) {
        while self.ended.is_none() {
            match self.attachment.next().await {
                Ok(Seen::Ended(ended)) => self.ended = Some(ended),
                Ok(Seen::Output(chunk)) => {
                    match chunk.stream {
                        OutputStream::Stdout => self.add(&chunk.bytes).await,
                        OutputStream::Stderr => self.note(&chunk.bytes),
                    }
                    if !self.attachment.has_more() {
                        // A shim that is gone is seen by the next look.
                        drop(self.attachment.read_so_far().await);
                    }
                }
                Ok(Seen::Started(_) | Seen::Missed(_)) => {}
                Err(_) => break,
            }
        }
        self.lines = None;
    }

    async fn add(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() > LINE_MAX {
                self.line.clear();
                self.break_off("it wrote a line that is too long").await;
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                match Message::of(&line) {
                    Message::Noise => self.note(&line),
                    Message::TooMuch => {
                        self.break_off("it wrote a message of too many values")
                            .await;
                    }
                    message => {
                        let line = String::from_utf8(line).map_err(io::Error::other);
                        let line = line.map(|line| (message, line.trim_end().to_owned()));
                        self.hand_on(line).await;
                    }
                }
            }
        }
    }

    async fn break_off(&mut self, why: &str) {
        self.hand_on(Err(io::Error::other(why.to_owned()))).await;
        self.lines = None;
    }

    async fn hand_on(&mut self, line: io::Result<Line>) {
        if let Some(lines) = &self.lines
            && lines.send(line).await.is_err()
        {
            self.lines = None;
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        let over = self.log.len().saturating_sub(LOG_MAX);
        self.log.drain(..over);
    }

    /// Ends the agent, if it has not ended.
    pub(super) async fn finish(mut self) -> Finished {
        // Nobody listens to what it says now.
        self.lines = None;
        if self.ended.is_none() && self.attachment.ask(Asked::Stop).await.is_ok() {
            drop(timeout(END_DEADLINE, self.flows()).await);
        }
        Finished {
            ended: self.ended,
            log: String::from_utf8_lossy(&self.log).into_owned(),
        }
    }
}
