//! Snapshots, differences, restores and clones of trees of many small files, with few and many snapshots kept before, beside
//! copies on other file systems. Owns what is measured and in which order.

mod copies;
mod desk;
mod steps;
mod volume;

use std::time::Duration;

use crate::error::Result;
use crate::record::Run;
use crate::rounds::{self, Notes, Plan};
use crate::target::Target;

pub(crate) use steps::{goal, parts, step_name};

use desk::Desk;

/// What a run is told besides the plan.
pub(crate) struct Amounts {
    /// Files of each tree.
    pub(crate) files: Vec<u64>,
    /// Snapshots kept, growing.
    pub(crate) kept: Vec<u64>,
    /// Files that one turn changes, at most half of the tree.
    pub(crate) changed: u64,
    /// How often what is short is repeated in a turn: a command, and a request.
    pub(crate) commands: u64,
    pub(crate) requests: u64,
    /// Files that each kind of writing works on, and how often it is repeated.
    pub(crate) writes: u64,
    pub(crate) repeats: u64,
    /// How long a writer is watched, seconds.
    pub(crate) writer_seconds: f64,
    /// Of one step.
    pub(crate) limit: Duration,
    /// The same for the peers.
    pub(crate) peer_limit: Duration,
}

/// Runs it.
pub(crate) fn run(plan: &Plan, amounts: &Amounts) -> Result<Run> {
    let steps = steps::records(&amounts.files, &amounts.kept);
    rounds::run(plan, steps, |target, notes| {
        for files in &amounts.files {
            one_tree(plan, amounts, target, *files, notes)?;
        }
        Ok(())
    })
}

/// What goes wrong with one tree is noted with the step, and ends the turn with this tree.
fn one_tree(
    plan: &Plan,
    amounts: &Amounts,
    target: &Target,
    files: u64,
    notes: &mut Notes<'_>,
) -> Result<()> {
    eprintln!(" {files} files");
    let mut desk = Desk::set_up(plan, amounts, target, files, notes)?;
    let measured = match target.is_weldrfs() {
        true => volume::measure(&mut desk),
        false => copies::measure(&mut desk, &target.base),
    };
    if let Err(error) = measured {
        desk.note_trouble(error);
    }
    desk.end()
}
