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
use crate::sidecar::workflows::mask::Mask;

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
    log: Tail,
    ended: Option<Ended>,
    /// What runs it.
    pub(super) runtime: String,
}

/// What is left of an agent.
pub(super) struct Finished {
    pub(super) ended: Option<Ended>,
    /// The end of what it wrote beside the protocol, without secrets.
    pub(super) log: String,
}

/// The end of a text with secrets in it: a little more than is shown, so that a secret that is cut is not shown in part.
struct Tail {
    mask: Mask,
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    fn new(mask: Mask) -> Self {
        Self {
            mask,
            bytes: Vec::new(),
            is_cut: false,
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let most = LOG_MAX + self.mask.reach();
        let over = self.bytes.len().saturating_sub(most);
        self.is_cut |= over > 0;
        self.bytes.drain(..over);
    }

    fn shown(&self) -> String {
        let from = match self.is_cut {
            // Up to there may be the rest of a secret whose beginning is gone.
            true => self.mask.reach(),
            false => 0,
        };
        String::from_utf8_lossy(&self.mask.bytes_from(&self.bytes, from)).into_owned()
    }
}

impl Pipe {
    /// Attaches to the agent's output, which goes to `lines`, and opens its input.
    ///
    /// # Errors
    /// [`ApiError::SandboxFailed`] and [`ApiError::InvalidRequest`] when it did not start.
    pub(super) async fn open(
        sandbox: &Sandbox,
        mask: Mask,
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
            log: Tail::new(mask),
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
                        OutputStream::Stderr => self.log.add(&chunk.bytes),
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
                    Message::Noise => self.log.add(&line),
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

    /// Ends the agent, if it has not ended.
    pub(super) async fn finish(mut self) -> Finished {
        // Nobody listens to what it says now.
        self.lines = None;
        if self.ended.is_none() && self.attachment.ask(Asked::Stop).await.is_ok() {
            drop(timeout(END_DEADLINE, self.flows()).await);
        }
        Finished {
            ended: self.ended,
            log: self.log.shown(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sandbox::Secrets;

    /// Wherever the log is cut, and in whatever pieces it comes, no end of a secret is left over.
    #[test]
    fn a_log_that_is_cut_within_a_secret_does_not_show_the_rest_of_it() {
        let secret = "abcdefghijklmnop";
        let secrets = Secrets(BTreeMap::from([("S".to_owned(), secret.to_owned())]));
        for after in 0..secret.len() + 2 {
            for piece in [1, 7, 4096, LOG_MAX * 3] {
                let mut tail = Tail::new(Mask::of(&secrets));
                let text = ["x", secret, &".".repeat(LOG_MAX - after)].concat();
                for piece in text.as_bytes().chunks(piece) {
                    tail.add(piece);
                }
                let shown = tail.shown();
                assert!(shown.ends_with(".."), "{after}");
                let rest = shown.trim_end_matches('.');
                assert!(matches!(rest, "" | "***" | "x***"), "{after}: {rest}");
            }
        }
    }

    #[test]
    fn a_log_that_is_not_cut_is_shown_from_its_beginning() {
        let mut tail = Tail::new(Mask::default());
        tail.add(b"all of it");
        assert_eq!(tail.shown(), "all of it");
    }
}
