//! The local disk and a mount side by side: the same calls by the same people, and every answer compared.

use super::tree::{Times, Tree, differences, mark};
use crate::support::calls::{Answer, Call, Outcome, Person, Process, SLOTS};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whole trees are compared after so many calls, and at the end.
const TREES_EVERY: usize = 150;
/// What a call does to times is compared for each so many-th call.
const TIMES_EVERY: usize = 6;
/// Sequences this short are compared in full after each call, so that they can become as short as possible.
const SHORT: usize = 100;
/// Longer than a tick of the clock that file systems read, so that a change of a time shows.
const TICK: Duration = Duration::from_millis(11);
const SHOWN_STEPS: usize = 12;

/// A call and the number of the person who makes it.
pub(crate) type Step = (usize, Call);

/// Where the two first differ.
#[derive(Debug)]
pub(crate) struct Difference {
    /// Number of the call, from 0.
    pub(crate) at: usize,
    pub(crate) text: String,
}

struct Side {
    root: PathBuf,
    processes: Vec<Process>,
}

impl Side {
    fn new(root: PathBuf, people: &[Person]) -> Self {
        fs::create_dir(&root).expect("the root folder is new");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).expect("chmod");
        mark(&root);
        let start = |person| Process::start(&root, person);
        let processes = people.iter().map(start).collect();
        Self { root, processes }
    }

    /// An answer without what only this side can have: process ids, inode numbers, sizes of directories, moments.
    fn plain(&self, outcome: Outcome) -> Outcome {
        let person = |pid: i32| {
            let is = |process: &Process| process.pid() == pid.unsigned_abs();
            self.processes
                .iter()
                .position(is)
                .map_or(-1, |n| n as i32 + 1)
        };
        outcome.map(|answer| match answer {
            Answer::Stat(mut seen) => {
                if seen.mode & libc::S_IFMT == libc::S_IFDIR {
                    seen.size = 0;
                }
                (seen.ino, seen.atime_ns, seen.mtime_ns, seen.ctime_ns) = (0, 0, 0, 0);
                Answer::Stat(seen)
            }
            Answer::Held {
                kind,
                start,
                len,
                pid,
            } if pid != 0 => Answer::Held {
                kind,
                start,
                len,
                pid: person(pid),
            },
            other => other,
        })
    }
}

/// What a run has seen, to show that it was worth something.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Calls by kind and errno; 0 for those that succeeded.
    outcomes: BTreeMap<(String, i32), usize>,
    largest_tree: usize,
}

impl Tally {
    fn count(&mut self, call: &Call, outcome: &Outcome) {
        let shown = format!("{call:?}");
        let kind = shown.split(' ').next().unwrap_or_default().to_owned();
        let errno = outcome.as_ref().err().copied().unwrap_or(0);
        *self.outcomes.entry((kind, errno)).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (key, n) in &other.outcomes {
            *self.outcomes.entry(key.clone()).or_default() += n;
        }
        self.largest_tree = self.largest_tree.max(other.largest_tree);
    }

    pub(crate) fn calls(&self) -> usize {
        self.outcomes.values().sum()
    }

    pub(crate) fn succeeded(&self) -> usize {
        let successes = self.outcomes.iter().filter(|((_, errno), _)| *errno == 0);
        successes.map(|(_, n)| n).sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} calls, {} succeeded, the largest tree had {} entries; by errno:",
            self.calls(),
            self.succeeded(),
            self.largest_tree
        )?;
        let mut kinds: BTreeMap<&str, String> = BTreeMap::new();
        for ((kind, errno), n) in &self.outcomes {
            let line = kinds.entry(kind).or_default();
            line.push_str(&format!(" {errno}:{n}"));
        }
        for (kind, line) in kinds {
            writeln!(f, "  {kind:12}{line}")?;
        }
        Ok(())
    }
}

/// Two new folders, a process for each person in each of them.
pub(crate) struct Pair {
    disk: Side,
    mount: Side,
    open: Vec<[bool; SLOTS]>,
    pub(crate) tally: Tally,
}

impl Pair {
    pub(crate) fn new(disk: &Path, mount: &Path, name: &str, people: &[Person]) -> Self {
        Self {
            disk: Side::new(disk.join(name), people),
            mount: Side::new(mount.join(name), people),
            open: vec![[false; SLOTS]; people.len()],
            tally: Tally::default(),
        }
    }

    /// Makes calls on both sides until they differ. `next` says which, and is asked before each one. Answers with the
    /// calls that were made.
    pub(crate) fn run(
        &mut self,
        count: usize,
        mut next: impl FnMut(&Self, usize) -> Step,
    ) -> (Vec<Step>, Result<(), Difference>) {
        let mut made: Vec<Step> = Vec::with_capacity(count);
        for at in 0..count {
            let (person, call) = next(self, at);
            made.push((person, call.clone()));
            let with_times = count <= SHORT || at % TIMES_EVERY == TIMES_EVERY - 1;
            let with_trees =
                count <= SHORT || at % TREES_EVERY == TREES_EVERY - 1 || at + 1 == count;
            let found = self
                .step(person, &call, with_times)
                .and_then(|()| match with_trees {
                    true => self.compare_trees(),
                    false => Ok(()),
                });
            if let Err(text) = found {
                let first = made.len().saturating_sub(SHOWN_STEPS);
                let text = format!("{text}\n{}", listing(&made[first..], first));
                return (made, Err(Difference { at, text }));
            }
        }
        (made, Ok(()))
    }

    /// The same calls again.
    pub(crate) fn repeat(&mut self, steps: &[Step]) -> Result<(), Difference> {
        self.run(steps.len(), |_, at| steps[at].clone()).1
    }

    /// Makes calls on both sides whatever they answer, and says what the last one did: on the disk, on the mount.
    pub(crate) fn last_answers(&mut self, steps: &[Step]) -> (Outcome, Outcome) {
        let mut last = (Ok(Answer::Done), Ok(Answer::Done));
        for (person, call) in steps {
            let disk = self.disk.processes[*person].call(call);
            let mount = self.mount.processes[*person].call(call);
            last = (self.disk.plain(disk), self.mount.plain(mount));
        }
        last
    }

    /// What is there, for the generator.
    pub(crate) fn there(&self) -> Vec<String> {
        super::tree::listing(&self.disk.root)
    }

    /// The slots in which a person has something open.
    pub(crate) fn open(&self, person: usize) -> Vec<usize> {
        (0..SLOTS).filter(|slot| self.open[person][*slot]).collect()
    }

    fn step(&mut self, person: usize, call: &Call, with_times: bool) -> Result<(), String> {
        let before = with_times.then(|| {
            let both = (Times::of(&self.disk.root), Times::of(&self.mount.root));
            std::thread::sleep(TICK);
            both
        });
        self.disk.processes[person].ask(call);
        self.mount.processes[person].ask(call);
        let disk = self.disk.processes[person].answer();
        let mount = self.mount.processes[person].answer();
        let (disk, mount) = (self.disk.plain(disk), self.mount.plain(mount));
        self.tally.count(call, &disk);
        if disk != mount {
            return Err(format!(
                "the answers differ:\n      on the disk  {}\n      on the mount {}",
                shown(&disk),
                shown(&mount)
            ));
        }
        match call {
            Call::Open { slot, .. } if disk.is_ok() => self.open[person][*slot] = true,
            Call::Close { slot } => self.open[person][*slot] = false,
            _ => {}
        }
        let Some((disk_before, mount_before)) = before else {
            return Ok(());
        };
        let disk = Times::of(&self.disk.root).since(&disk_before);
        let mount = Times::of(&self.mount.root).since(&mount_before);
        match differences(&disk, &mount) {
            found if found.is_empty() => Ok(()),
            found => Err(format!(
                "other times (atime, mtime, ctime) changed:\n  {}",
                found.join("\n  ")
            )),
        }
    }

    pub(crate) fn compare_trees(&mut self) -> Result<(), String> {
        let (disk, mount) = (Tree::of(&self.disk.root), Tree::of(&self.mount.root));
        self.tally.largest_tree = self.tally.largest_tree.max(disk.len());
        match Tree::differences(&disk, &mount) {
            found if found.is_empty() => Ok(()),
            found => Err(format!("the trees differ:\n  {}", found.join("\n  "))),
        }
    }

    /// Ends the processes: nothing is open any more.
    pub(crate) fn end_processes(&mut self) {
        self.disk.processes.clear();
        self.mount.processes.clear();
    }
}

/// Calls as text, with their numbers.
pub(crate) fn listing(steps: &[Step], first: usize) -> String {
    let line =
        |(i, (person, call)): (usize, &Step)| format!("  {} person {person}: {call:?}", first + i);
    steps
        .iter()
        .enumerate()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// An outcome with its errno by name.
pub(crate) fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok(answer) => format!("{answer:?}"),
        Err(errno) => format!(
            "errno {errno}: {}",
            std::io::Error::from_raw_os_error(*errno)
        ),
    }
}
