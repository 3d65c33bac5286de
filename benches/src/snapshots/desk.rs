//! One tree on one target: where everything is, the model of the tree, and the figures that every file system has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Amounts;
use super::steps::step_name;
use crate::coding::own_work;
use crate::error::{At, Error, Result};
use crate::places::Places;
use crate::process;
use crate::rounds::{Notes, Plan};
use crate::target::{Target, Turn};
use crate::tree::Tree;
use crate::work::Said;

/// Every tree of a size is the same.
const SEED: u64 = 0x5eed;
/// Content of so many unchanged files is read when a tree is compared.
const SAMPLES: u64 = 500;

/// The place of one tree's measurements.
pub(super) struct Desk<'a, 'n> {
    pub(super) amounts: &'a Amounts,
    places: &'a Places,
    pub(super) turn: Turn,
    pub(super) files: u64,
    /// Snapshots kept now.
    pub(super) kept: u64,
    limit: Duration,
    notes: &'a mut Notes<'n>,
    /// What is being measured, for the record if it fails.
    doing: &'static str,
    rounds_of_writing: u64,
}

impl<'a, 'n> Desk<'a, 'n> {
    /// Sets a target up on an empty place. Nothing is measured yet.
    pub(super) fn set_up(
        plan: &'a Plan,
        amounts: &'a Amounts,
        target: &Target,
        files: u64,
        notes: &'a mut Notes<'n>,
    ) -> Result<Self> {
        Ok(Self {
            amounts,
            places: &plan.ground.places,
            turn: Turn::begin(target, &plan.ground)?,
            files,
            kept: amounts.kept.first().copied().unwrap_or(0),
            limit: match target.is_peer() {
                true => amounts.peer_limit,
                false => amounts.limit,
            },
            notes,
            doing: "make",
            rounds_of_writing: 0,
        })
    }

    pub(super) fn places(&self) -> &'a Places {
        self.places
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// The tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.turn.root().join("tree")
    }

    /// Beside the tree on the same file system.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.turn.root().join(name)
    }

    /// The model of the tree as it is, on the local disk.
    pub(super) fn model(&self) -> PathBuf {
        self.turn.folder().join("model")
    }

    /// What is measured next.
    pub(super) fn doing(&mut self, figure: &'static str) {
        self.doing = figure;
    }

    /// Notes values of what is being measured.
    pub(super) fn note(&mut self, values: &[f64]) {
        self.note_as(self.doing, values);
    }

    pub(super) fn note_as(&mut self, figure: &str, values: &[f64]) {
        let step = step_name(figure, self.files, self.kept);
        self.notes.note_all(&step, values);
    }

    /// Notes why what was being measured has no value.
    pub(super) fn note_trouble(&mut self, why: Error) {
        let step = step_name(self.doing, self.files, self.kept);
        self.notes.note(&step, Err(why));
    }

    /// Takes everything away.
    pub(super) fn end(self) -> Result<()> {
        self.turn.end()
    }

    pub(super) fn run(&self, command: &mut Command) -> Result<process::Done> {
        process::run(command, self.limit)
    }

    pub(super) fn own(
        &self,
        name: &str,
        arguments: &[&dyn AsRef<std::ffi::OsStr>],
    ) -> Result<Said> {
        own_work(self.places, name, arguments, self.limit)
    }

    /// Writes the tree, and the files that others are written beside.
    pub(super) fn make(&mut self) -> Result<()> {
        self.doing("make");
        let model = self.model();
        Tree::new(SEED, self.files).write(&model)?;
        let said = self.own("make-tree", &[&model, &self.tree()])?;
        self.note(&[said.seconds]);
        self.write("prepare", 0)?;
        self.settle_kernel()
    }

    /// What the kernel holds back is written.
    pub(super) fn settle_kernel(&self) -> Result<()> {
        // Not of this file system alone: JuiceFS refuses that.
        self.run(&mut Command::new("sync")).map(drop)
    }

    /// Writing of one kind.
    pub(super) fn write(&self, op: &str, round: u64) -> Result<Said> {
        let (count, round) = (self.amounts.writes.to_string(), round.to_string());
        self.own("write", &[&op, &self.beside("desk"), &count, &round])
    }

    /// Normal writes, again and again; `between` comes before each round.
    pub(super) fn writes(&mut self, between: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        const KINDS: [(&str, &str); 3] = [
            ("create_4k", "create"),
            ("overwrite_4k", "overwrite"),
            ("git_mix", "git"),
        ];
        let rate = |said: Said| said.done as f64 / said.seconds.max(f64::EPSILON);
        let mut rates: [Vec<f64>; KINDS.len()] = Default::default();
        let mut renames = Vec::new();
        for _ in 0..self.amounts.repeats {
            let round = self.rounds_of_writing;
            self.rounds_of_writing += 1;
            between(round)?;
            for ((figure, op), rates) in KINDS.iter().zip(&mut rates) {
                self.doing(figure);
                rates.push(rate(self.write(op, round)?));
            }
            self.doing("rename");
            for round in [2 * round, 2 * round + 1] {
                renames.push(rate(self.write("rename", round)?));
            }
        }
        for ((figure, _), rates) in KINDS.iter().zip(&rates) {
            self.note_as(figure, rates);
        }
        self.note_as("rename", &renames);
        Ok(())
    }

    /// A writer without pause, with nothing beside it.
    pub(super) fn writer(&mut self) -> Result<()> {
        self.doing("writer_p99");
        let said = self.write_without_pause()?;
        for (figure, name) in [("writer_p99", "p99"), ("writer_worst", "worst")] {
            self.note_as(figure, &[said.figures[name]]);
        }
        Ok(())
    }

    pub(super) fn write_without_pause(&self) -> Result<Said> {
        let seconds = self.amounts.writer_seconds.to_string();
        let said = self.own("writer", &[&self.beside("writer"), &seconds])?;
        match ["p99", "worst"]
            .iter()
            .all(|name| said.figures.contains_key(*name))
        {
            true => Ok(said),
            false => Err(Error::Wrong(
                "the writer did not say how long it took".into(),
            )),
        }
    }

    /// Files that a large turn changes.
    pub(super) fn changed(&self) -> u64 {
        self.amounts.changed.min(self.files / 2)
    }

    /// Makes a large turn. Leaves the models `before` and `after` it beside the one of the tree as it is.
    pub(super) fn change(&mut self) -> Result<()> {
        std::fs::copy(self.model(), self.state("before")).at(self.model())?;
        let files = self.changed().to_string();
        self.own("change-tree", &[&self.model(), &self.tree(), &files])?;
        std::fs::copy(self.model(), self.state("after")).at(self.model())?;
        Ok(())
    }

    /// The model of another moment.
    pub(super) fn state(&self, name: &str) -> PathBuf {
        self.turn.folder().join(format!("model-{name}"))
    }

    /// The tree has to be what it was `at` that moment; what differs `from` the other one is looked at closely.
    pub(super) fn check_state(&mut self, at: &str, from: &str) -> Result<()> {
        let (at, from) = (self.state(at), self.state(from));
        std::fs::copy(&at, self.model()).at(&at)?;
        let every = self.every().to_string();
        self.own("check-tree", &[&at, &self.tree(), &every, &from])
            .map(drop)
    }

    /// A folder has to hold what the model says; the content of some files is read, or of all.
    pub(super) fn check(&self, root: &Path, all: bool) -> Result<()> {
        let every = if all { 1 } else { self.every() }.to_string();
        self.own("check-tree", &[&self.model(), &root, &every])
            .map(drop)
    }

    fn every(&self) -> u64 {
        (self.files / SAMPLES).max(1)
    }
}
