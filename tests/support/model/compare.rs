//! Drives the model and a subject with the same operations and compares every answer.

use super::generate::Generator;
use super::ops::{Answer, Expected, Id, Kind, Observed, Op, ROOT, Seen, Stamp};
use super::tree::{Body, Tree};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

const REMEMBERED_STEPS: usize = 25;
const READ_WHOLE_UP_TO: u64 = 4 << 20;
const CLOCK_SLACK_NS: i64 = 2_000_000_000;

/// What is tested: answers operations in its own inode numbers.
pub(crate) trait Subject {
    /// Runs one operation; `number` gives its inode number for each of the model's ids.
    fn run(&mut self, op: &Op, number: &dyn Fn(Id) -> u64) -> Observed;
    /// Stops and starts again. `orderly`: as an unmount does; else as much like a crash as it can.
    fn reopen(&mut self, orderly: bool);
    /// Whether a kernel stands in between: it decides about set-uid bits, and it has to list
    /// directories to find its inodes again.
    fn behind_kernel(&self) -> bool {
        false
    }
    /// Whether inode numbers must never come back.
    fn never_reuses_numbers(&self) -> bool {
        true
    }
    /// Limits that this subject has and the model has not: such a refused step is skipped.
    fn may_refuse(&self, _op: &Op, _errno: i32) -> bool {
        false
    }
}

/// A model and a subject side by side.
pub(crate) struct Pair<S> {
    pub(crate) tree: Tree,
    pub(crate) subject: S,
    numbers: HashMap<Id, u64>,
    given_out: HashSet<u64>,
    /// Value seen for a time whose exact value only the subject's clock knows.
    times: HashMap<(Id, &'static str), (Stamp, i64)>,
    recent: VecDeque<String>,
    not_before: i64,
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as i64)
}

impl<S: Subject> Pair<S> {
    pub(crate) fn new(subject: S) -> Self {
        Self {
            tree: Tree::new(),
            subject,
            numbers: HashMap::from([(ROOT, 1)]),
            given_out: HashSet::from([1]),
            times: HashMap::new(),
            recent: VecDeque::new(),
            not_before: now_ns() - CLOCK_SLACK_NS,
        }
    }

    /// One step on both sides; the message of a difference ends with the steps before it.
    pub(crate) fn step(&mut self, generator: &mut Generator) -> Result<(), String> {
        let mut op = generator.next(&self.tree);
        if self.subject.behind_kernel() {
            keep_suid(&mut op);
        }
        if self.recent.len() == REMEMBERED_STEPS {
            self.recent.pop_front();
        }
        let shown = format!("{op:?}");
        let shown: String = shown.chars().take(300).collect();
        let observed = self.run(&op);
        self.recent
            .push_back(format!("{shown} -> {}", brief(&observed)));
        if let Err(errno) = observed
            && self.subject.may_refuse(&op, errno)
        {
            return Ok(());
        }
        let expected = self.tree.apply(&op, &observed);
        self.agree(&expected, &observed)
            .map_err(|difference| self.with_steps(&difference))
    }

    fn run(&mut self, op: &Op) -> Observed {
        let reuses = !self.subject.never_reuses_numbers();
        let (tree, numbers) = (&self.tree, &self.numbers);
        // Where numbers are reused, that of a dead inode may by now be another's.
        let known = |id: Id| !reuses || tree.nodes.contains_key(&id);
        self.subject.run(op, &|id| {
            numbers
                .get(&id)
                .copied()
                .filter(|_| known(id))
                .unwrap_or(u64::MAX)
        })
    }

    fn with_steps(&self, difference: &str) -> String {
        let steps: Vec<&str> = self.recent.iter().map(String::as_str).collect();
        format!(
            "{difference}\nthe steps before (last one differs):\n  {}",
            steps.join("\n  ")
        )
    }

    pub(crate) fn reopen(&mut self, orderly: bool) {
        self.subject.reopen(orderly);
        self.tree.reopen();
        if self.subject.behind_kernel() {
            self.tree.directories_listed();
        }
        self.recent
            .push_back(format!("reopened, orderly: {orderly}"));
    }

    fn agree(&mut self, expected: &Expected, observed: &Observed) -> Result<(), String> {
        let differs = || {
            format!(
                "expected {}, the subject answered {}",
                brief_expected(expected),
                brief(observed)
            )
        };
        match (expected, observed) {
            (Err(allowed), Err(errno)) if allowed.contains(errno) => Ok(()),
            (Ok(Answer::Done), Ok(Answer::Done)) => Ok(()),
            (Ok(Answer::Count(a)), Ok(Answer::Count(b))) if a == b => Ok(()),
            (Ok(Answer::Bytes(a)), Ok(Answer::Bytes(b))) if a == b => Ok(()),
            (Ok(Answer::Names(a)), Ok(Answer::Names(b))) => {
                let mut sorted = b.clone();
                sorted.sort();
                if *a == sorted { Ok(()) } else { Err(differs()) }
            }
            (Ok(Answer::Attr(a)), Ok(Answer::Attr(b))) => self.same_attr(a, b),
            (Ok(Answer::Entries(a)), Ok(Answer::Entries(b))) => self.same_entries(a, b),
            _ => Err(differs()),
        }
    }

    fn same_attr(&mut self, expected: &Seen, got: &Seen) -> Result<(), String> {
        match self.numbers.get(&expected.id) {
            Some(&number) if number == got.id => {}
            Some(&number) => return Err(format!("inode {number} answers as {}", got.id)),
            None if self.given_out.insert(got.id) || !self.subject.never_reuses_numbers() => {
                self.numbers.insert(expected.id, got.id);
            }
            None => return Err(format!("inode number {} was given out before", got.id)),
        }
        let fields = |s: &Seen| (s.kind, s.mode, s.nlink, s.uid, s.gid, s.rdev);
        let same_size = expected.kind == Kind::Dir || expected.size == got.size;
        if fields(expected) != fields(got) || !same_size {
            return Err(format!(
                "attributes differ: expected {expected:?}, got {got:?}"
            ));
        }
        self.same_time(expected.id, "mtime", expected.mtime, got.mtime)?;
        self.same_time(expected.id, "ctime", expected.ctime, got.ctime)?;
        self.same_time(expected.id, "atime", expected.atime, got.atime)
    }

    fn same_time(
        &mut self,
        id: Id,
        which: &'static str,
        expected: Stamp,
        got: Stamp,
    ) -> Result<(), String> {
        let Stamp::Exact(value) = got else {
            return Err(format!("{which} has no value"));
        };
        if let Stamp::Exact(wanted) = expected {
            return if wanted == value {
                Ok(())
            } else {
                Err(format!("{which} of {id} is {value}, was set to {wanted}"))
            };
        }
        if let Some(&(stamp, seen)) = self.times.get(&(id, which))
            && stamp == expected
            && seen != value
        {
            return Err(format!(
                "{which} of {id} went from {seen} to {value} though nothing touched it"
            ));
        }
        let in_range = value >= self.not_before && value <= now_ns() + CLOCK_SLACK_NS;
        if matches!(expected, Stamp::Clock(_)) && !in_range {
            return Err(format!(
                "{which} of {id} is {value}, should be the clock's time of a step of this run"
            ));
        }
        self.times.insert((id, which), (expected, value));
        Ok(())
    }

    fn same_entries(
        &self,
        expected: &BTreeMap<Vec<u8>, (u64, Kind)>,
        got: &BTreeMap<Vec<u8>, (u64, Kind)>,
    ) -> Result<(), String> {
        let wanted: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, (id, kind))| {
                (
                    name.clone(),
                    (self.numbers.get(id).copied().unwrap_or(0), *kind),
                )
            })
            .collect();
        if wanted == *got {
            Ok(())
        } else {
            Err(format!(
                "directory differs: expected {wanted:?}, got {got:?}"
            ))
        }
    }

    /// Compares everything: each inode's attributes, entries, content, link target and xattrs.
    pub(crate) fn compare_all(&mut self) -> Result<(), String> {
        let ids: Vec<Id> = self.tree.nodes.keys().copied().collect();
        for id in ids {
            let mut asked = vec![Op::Getattr { node: id }, Op::Listxattr { node: id }];
            if let Some(node) = self.tree.nodes.get(&id) {
                asked.extend(node.xattrs.keys().map(|name| Op::Getxattr {
                    node: id,
                    name: name.clone(),
                }));
                match &node.body {
                    Body::Dir(entries) => {
                        asked.push(Op::Readdir { dir: id, page: 7 });
                        asked.extend(entries.keys().map(|name| Op::Lookup {
                            dir: id,
                            name: name.clone(),
                        }));
                    }
                    Body::File(_) => asked.extend(self.reads_of(id)),
                    Body::Symlink(_) => asked.push(Op::Readlink { node: id }),
                    Body::Special => {}
                }
            }
            for op in asked {
                let observed = self.run(&op);
                let expected = self.tree.apply(&op, &observed);
                self.agree(&expected, &observed).map_err(|difference| {
                    self.with_steps(&format!("comparing the whole tree, {op:?}: {difference}"))
                })?;
            }
        }
        Ok(())
    }

    /// Reads that show the whole content; of a giant sparse file what was written, and around it.
    fn reads_of(&self, id: Id) -> Vec<Op> {
        let Some(Body::File(content)) = self.tree.nodes.get(&id).map(|n| &n.body) else {
            return Vec::new();
        };
        let read = |offset: u64, len: u64| Op::Read {
            node: id,
            offset,
            len: len as usize,
        };
        if content.len() <= READ_WHOLE_UP_TO {
            let step = 1 << 20;
            return (0..=content.len() / step)
                .map(|i| read(i * step, step))
                .collect();
        }
        let mut reads = vec![
            read(0, 4096),
            read(content.len() / 2, 65_536),
            read(content.len().saturating_sub(4096), 8192),
        ];
        reads.extend(
            content
                .written_pages()
                .map(|at| read(at.saturating_sub(4096), 3 * 4096)),
        );
        reads
    }
}

fn keep_suid(op: &mut Op) {
    match op {
        Op::Write { kill_suid, .. } => *kill_suid = false,
        Op::Setattr { change, .. } => change.kill_suid = false,
        _ => {}
    }
}

fn brief(observed: &Observed) -> String {
    match observed {
        Ok(Answer::Bytes(bytes)) => format!(
            "{} bytes, first {:?}",
            bytes.len(),
            bytes.get(..bytes.len().min(8))
        ),
        Ok(answer) => format!("{answer:?}").chars().take(300).collect(),
        Err(errno) => format!(
            "errno {errno} ({})",
            std::io::Error::from_raw_os_error(*errno)
        ),
    }
}

fn brief_expected(expected: &Expected) -> String {
    match expected {
        Ok(answer) => brief(&Ok(answer.clone())),
        Err(allowed) if allowed.is_empty() => {
            "another value (this one contradicts the content)".to_owned()
        }
        Err(allowed) => format!("one of the errnos {allowed:?}"),
    }
}
