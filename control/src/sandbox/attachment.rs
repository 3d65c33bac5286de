//! Talking with the shim of a sandbox: reading its output, seeing its end, ending it.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::output::{Chunk, OUTPUT_NAME, read_chunk};
use super::protocol::{Asked, ENDED_NAME, Ended, Note, SHIM_SOCKET, Told};
use crate::error::ApiError;
use crate::socket::connect;

/// How long a shim may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Most bytes of how a sandbox ended.
const ENDED_MAX: u64 = 64 * 1024;

/// A sandbox with a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Its folder, with its socket; gone when the machine restarts.
    pub folder: PathBuf,
    /// Where its output and its end are; may be the same.
    pub kept: PathBuf,
}

/// What is seen of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The command runs.
    Started(Note),
    /// It wrote something.
    Output(Chunk),
    /// So many bytes of output in between are not kept any more.
    Missed(u64),
    /// It has ended; nothing comes after this.
    Ended(Ended),
}

/// A connection to the shim. If the order says that the sandbox does not outlive this, dropping it ends the sandbox.
#[derive(Debug)]
pub struct Attachment {
    lines: Lines<BufReader<OwnedReadHalf>>,
    asking: OwnedWriteHalf,
    output: File,
    at: u64,
    written: u64,
    ended: Option<Ended>,
}

impl Sandbox {
    /// How it ended, if that is written down.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        let mut text = Vec::new();
        let file = File::open(self.kept.join(ENDED_NAME)).ok()?;
        file.take(ENDED_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Attaches, and reads output from offset `from` on.
    ///
    /// # Errors
    /// When the shim does not answer: it has ended, or died.
    pub async fn attach(&self, from: u64) -> io::Result<Attachment> {
        let path = self.folder.join(SHIM_SOCKET);
        let stream = tokio::time::timeout(CONNECT_DEADLINE, connect(&path))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (reading, asking) = stream.into_split();
        Ok(Attachment {
            lines: BufReader::new(reading).lines(),
            asking,
            output: File::open(self.kept.join(OUTPUT_NAME))?,
            at: from,
            written: from,
            ended: None,
        })
    }
}

impl Attachment {
    /// The next thing. Safe to drop while it waits.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the shim is gone without a word: it was killed.
    pub async fn next(&mut self) -> Result<Seen, ApiError> {
        loop {
            if self.at < self.written {
                return self.chunk();
            }
            if let Some(ended) = self.ended.take() {
                return Ok(Seen::Ended(ended));
            }
            let line = self.lines.next_line().await.ok().flatten();
            let told = line.as_deref().map(serde_json::from_str);
            let Some(Ok(told)) = told else {
                return Err(ApiError::Internal(
                    "the command was cut off: the process that kept it is gone".into(),
                ));
            };
            match told {
                Told::Started(note) => return Ok(Seen::Started(note)),
                Told::Output { first, written } => {
                    if let Some(missed) = self.grow(first, written) {
                        return Ok(missed);
                    }
                }
                Told::Ended(ended) => {
                    let missed = self.grow(ended.first, ended.written);
                    self.ended = Some(ended);
                    if let Some(missed) = missed {
                        return Ok(missed);
                    }
                }
            }
        }
    }

    fn grow(&mut self, first: u64, written: u64) -> Option<Seen> {
        self.written = written.max(self.written);
        let missed = first.saturating_sub(self.at);
        self.at = self.at.max(first);
        (missed > 0).then_some(Seen::Missed(missed))
    }

    fn chunk(&mut self) -> Result<Seen, ApiError> {
        match read_chunk(&self.output, self.at) {
            Ok(chunk) => {
                self.at = chunk.next;
                Ok(Seen::Output(chunk))
            }
            Err(error) => {
                // It was cut out while it was about to be read, or the file is damaged: go on at the end.
                tracing::warn!(%error, "a part of a command's output cannot be read");
                let missed = self.written.saturating_sub(self.at);
                self.at = self.written;
                Ok(Seen::Missed(missed))
            }
        }
    }

    /// Says how far the output was read, so that the command can go on writing.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn read_so_far(&mut self) -> io::Result<()> {
        self.ask(Asked::Read(self.at)).await
    }

    /// Offset of what comes next, to attach again there.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Whether there is output that can be had without waiting.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.at < self.written
    }

    /// Tells the shim something.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn ask(&mut self, asked: Asked) -> io::Result<()> {
        let mut line = serde_json::to_vec(&asked).map_err(io::Error::other)?;
        line.push(b'\n');
        self.asking.write_all(&line).await
    }
}
