//! Taking back what an earlier sidecar started: what runs goes on, what ended meanwhile is reported with what it wrote.

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::types::PreviewState;
use super::{Command, Keeper};
use crate::sandbox::{Ended, Note, OUTPUT_NAME, Sandbox, newest_chunks, read_chunk};

impl Keeper {
    /// What an earlier sidecar started is known, and its port may lead there.
    pub(in crate::sidecar::previews) fn takes(&mut self, sandbox: Sandbox, note: Note) {
        self.runs.sandbox = Some(sandbox);
        self.runs.note = Some(note);
    }

    /// Goes on with it.
    pub(in crate::sidecar::previews) async fn adopt(
        mut self,
        sandbox: Sandbox,
        commands: mpsc::Receiver<Command>,
    ) {
        match sandbox.attach(0).await {
            Ok(attachment) => {
                self.runs.attachment = Some(attachment);
                self.runs.since = Some(Instant::now());
                self.listen();
                self.lead();
                match self.life.state() {
                    PreviewState::Probing => self.probe(),
                    PreviewState::Stopping => self.end().await,
                    _ => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, id = self.wanted.id, "a preview's process does not answer");
                self.lost("the process that kept it died").await;
            }
        }
        self.publish();
        self.keep(commands).await;
    }

    /// Tells how an app ended that nobody watched.
    pub(in crate::sidecar::previews) async fn report(
        mut self,
        sandbox: Option<(Sandbox, Option<Ended>)>,
        commands: mpsc::Receiver<Command>,
    ) {
        match sandbox {
            Some((sandbox, Some(ended))) => {
                self.read_back(&sandbox, &ended, 0);
                self.runs.sandbox = Some(sandbox);
                self.ended(&ended).await;
            }
            Some((sandbox, None)) => {
                self.runs.sandbox = Some(sandbox);
                self.lost("it died while no sidecar watched").await;
            }
            None => self.lost("it was gone when the sidecar came back").await,
        }
        self.keep(commands).await;
    }

    /// Starts what an earlier sidecar was asked for and did not come to. `sandbox` is what there is of it already.
    pub(in crate::sidecar::previews) async fn start_late(
        mut self,
        sandbox: Option<Sandbox>,
        commands: mpsc::Receiver<Command>,
    ) {
        self.runs.sandbox = sandbox;
        self.launch().await;
        self.keep(commands).await;
    }

    /// What an app wrote that has ended meanwhile, from offset `from` on.
    pub(in crate::sidecar::previews) fn read_back(
        &self,
        sandbox: &Sandbox,
        ended: &Ended,
        from: u64,
    ) {
        let Ok(file) = std::fs::File::open(sandbox.kept.join(OUTPUT_NAME)) else {
            return;
        };
        let mut at = ended.first.max(from);
        while at < ended.written
            && let Ok(chunk) = read_chunk(&file, at)
        {
            self.shared.log.write(chunk.stream, &chunk.bytes);
            at = chunk.next;
        }
    }

    /// What an app wrote of which nobody noted how much it is, from offset `from` on, or the newest of it.
    pub(super) fn read_left(&self, sandbox: &Sandbox, from: Option<u64>) {
        let Ok(file) = std::fs::File::open(sandbox.kept.join(OUTPUT_NAME)) else {
            return;
        };
        let first = from.map_or_else(|| newest_chunks(&file), Ok);
        let mut at = match first {
            Ok(first) => first,
            Err(error) => {
                tracing::warn!(%error, id = sandbox.id, "a preview's output cannot be read");
                return;
            }
        };
        while let Ok(chunk) = read_chunk(&file, at) {
            self.shared.log.write(chunk.stream, &chunk.bytes);
            at = chunk.next;
        }
    }
}
