//! What is in a file, as the campaign knows it: which bytes of which write, and holes. Two files have the same content if
//! every byte of both is of the same write: that is what a diff goes by.

use std::sync::Arc;

use weldrfs_meta::Ino;

use super::Volume;

/// Most bytes that are read at a time.
const READ_BYTES: u64 = 1 << 18;

/// So many bytes at this offset of the file are those of that write from there on.
#[derive(Clone, Debug)]
struct Run {
    at: u64,
    len: u64,
    of: Arc<[u8]>,
    from: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.at + self.len
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.of, &next.of)
            && (self.end(), self.from + self.len) == (next.at, next.from)
    }

    /// What of it is in a range.
    fn within(&self, at: u64, end: u64) -> Option<Self> {
        let (first, last) = (self.at.max(at), self.end().min(end));
        (first < last).then(|| Self {
            at: first,
            len: last - first,
            of: Arc::clone(&self.of),
            from: self.from + (first - self.at),
        })
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.of, &other.of)
            && (self.at, self.len, self.from) == (other.at, other.len, other.from)
    }
}

/// A file's bytes. Its runs are in order, and none goes on with the next one.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct Content {
    pub(super) size: u64,
    runs: Vec<Run>,
}

impl Content {
    /// Bytes that are no holes.
    pub(super) fn allocated(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum()
    }

    pub(super) fn write(&mut self, at: u64, data: &Arc<[u8]>) {
        let run = Run {
            at,
            len: data.len() as u64,
            of: Arc::clone(data),
            from: 0,
        };
        self.place(at, run.len, [run]);
    }

    /// What is in a range of another one, at another place here; holes too. Returns how many bytes.
    pub(super) fn share(&mut self, other: &Self, from: u64, to: u64, len: u64) -> u64 {
        let len = len.min(other.size.saturating_sub(from));
        let runs = other
            .runs
            .iter()
            .filter_map(|run| run.within(from, from + len));
        let moved: Vec<Run> = runs
            .map(|run| Run {
                at: run.at - from + to,
                ..run
            })
            .collect();
        if len > 0 {
            self.place(to, len, moved);
        }
        len
    }

    fn place(&mut self, at: u64, len: u64, runs: impl IntoIterator<Item = Run>) {
        self.punch(at, at + len);
        self.runs.extend(runs);
        self.runs.sort_unstable_by_key(|run| run.at);
        self.size = self.size.max(at + len);
        let mut joined: Vec<Run> = Vec::new();
        for run in self.runs.drain(..) {
            match joined.last_mut() {
                Some(last) if last.goes_on_with(&run) => last.len += run.len,
                _ => joined.push(run),
            }
        }
        self.runs = joined;
    }

    /// Makes a range a hole; the size stays.
    pub(super) fn punch(&mut self, at: u64, end: u64) {
        let runs = self.runs.drain(..);
        let rest = runs.flat_map(|run| [run.within(0, at), run.within(end, u64::MAX)]);
        self.runs = rest.flatten().collect();
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.punch(size.min(self.size), u64::MAX);
        self.size = size;
    }

    fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        for run in self.runs.iter().filter_map(|run| run.within(at, at + len)) {
            let to = (run.at - at) as usize;
            let from = run.from as usize;
            let len = run.len as usize;
            bytes[to..to + len].copy_from_slice(&run.of[from..from + len]);
        }
        bytes
    }

    /// The file has these bytes.
    pub(super) fn is_in(&self, volume: &Volume, ino: Ino, what: &str) {
        for at in (0..self.size).step_by(READ_BYTES as usize) {
            let wanted = self.read(at, READ_BYTES.min(self.size - at));
            let read = volume.engine().read(ino, at, READ_BYTES as usize);
            let read = read.unwrap_or_else(|error| panic!("{what}: {error}"));
            let differs = || wanted.iter().zip(&read[..]).position(|(a, b)| a != b);
            assert!(
                read[..] == wanted,
                "{what}: other bytes from {at} on, {:?}",
                differs()
            );
        }
    }
}
