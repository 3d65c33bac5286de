//! The newest lines that an app wrote, in memory. What is behind them is in the sandbox's folder, from which a later sidecar
//! reads them again.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::types::PreviewLogLine;
use crate::sandbox::OutputStream;

/// Bytes of lines that are kept.
const BYTES_MAX: usize = 1024 * 1024;
/// Longest line; the rest of a longer one is the next.
const LINE_MAX: usize = 8 * 1024;
/// What a line takes beside its text.
const LINE_COST: usize = 64;

#[derive(Default)]
struct Inner {
    lines: VecDeque<PreviewLogLine>,
    bytes: usize,
    /// Beginnings of lines whose end did not come yet.
    out: Vec<u8>,
    err: Vec<u8>,
}

/// The log of a preview; clones are the same.
#[derive(Clone)]
pub(super) struct Log {
    inner: Arc<Mutex<Inner>>,
    next: watch::Sender<u64>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            inner: Arc::default(),
            next: watch::Sender::new(0),
        }
    }

    /// Takes what the app wrote.
    pub(super) fn write(&self, stream: OutputStream, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        let mut next = *self.next.borrow();
        for byte in bytes {
            let open = inner.open(stream);
            if *byte != b'\n' {
                open.push(*byte);
            }
            if *byte == b'\n' || open.len() >= LINE_MAX {
                inner.close(stream, &mut next);
            }
        }
        self.next.send_replace(next);
    }

    /// Says something about the app between its lines.
    pub(super) fn say(&self, text: &str) {
        self.write(
            OutputStream::Stderr,
            format!("weldrfs: {text}\n").as_bytes(),
        );
    }

    /// Whatever was written last ends with a line, also without the end of one.
    pub(super) fn finish(&self) {
        let mut inner = self.inner.lock();
        let mut next = *self.next.borrow();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if !inner.open(stream).is_empty() {
                inner.close(stream, &mut next);
            }
        }
        self.next.send_replace(next);
    }

    /// The newest `most` lines.
    pub(super) fn last(&self, most: usize) -> Vec<PreviewLogLine> {
        let inner = self.inner.lock();
        let skip = inner.lines.len().saturating_sub(most);
        inner.lines.iter().skip(skip).cloned().collect()
    }

    /// Lines from number `from` on, at most `most`.
    pub(super) fn from(&self, from: u64, most: usize) -> Vec<PreviewLogLine> {
        let inner = self.inner.lock();
        let lines = inner.lines.iter().filter(|line| line.number >= from);
        lines.take(most).cloned().collect()
    }

    /// Tells the number of the next line whenever it grows.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }
}

impl Inner {
    fn open(&mut self, stream: OutputStream) -> &mut Vec<u8> {
        match stream {
            OutputStream::Stdout => &mut self.out,
            OutputStream::Stderr => &mut self.err,
        }
    }

    fn close(&mut self, stream: OutputStream, next: &mut u64) {
        let bytes = std::mem::take(self.open(stream));
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\r').to_owned();
        self.bytes += text.len() + LINE_COST;
        self.lines.push_back(PreviewLogLine {
            number: *next,
            stream,
            text,
        });
        *next += 1;
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len() + LINE_COST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[PreviewLogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_put_together_from_parts_and_kept_apart_by_stream() {
        let log = Log::new();
        log.write(OutputStream::Stdout, b"on");
        log.write(OutputStream::Stderr, b"two\r\nth");
        log.write(OutputStream::Stdout, b"e\n\xff\n");
        assert_eq!(texts(&log.last(10)), ["two", "one", "\u{fffd}"]);
        log.finish();
        assert_eq!(texts(&log.last(1)), ["th"]);
        assert_eq!(texts(&log.from(1, 2)), ["one", "\u{fffd}"]);
        assert_eq!(*log.watch().borrow(), 4);
    }

    #[test]
    fn it_holds_a_bounded_part_whatever_is_written() {
        let log = Log::new();
        for _ in 0..100 {
            log.write(OutputStream::Stdout, &vec![b'x'; 100_000]);
            log.write(OutputStream::Stdout, &[b'\n'; 20_000]);
        }
        let lines = log.last(usize::MAX);
        let bytes: usize = lines.iter().map(|line| line.text.len() + LINE_COST).sum();
        assert!(bytes <= BYTES_MAX && bytes > BYTES_MAX / 2, "{bytes}");
        assert!(lines.iter().all(|line| line.text.len() <= LINE_MAX));
    }
}
