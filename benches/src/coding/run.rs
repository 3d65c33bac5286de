//! Running the coding workload: one turn of a target after the other, step by step.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Desk, Sizes, Step, steps};
use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::process;
use crate::record::{NOT_TRIED, Run, StepRecord, Unit};
use crate::rounds::{self, Notes, Plan};
use crate::target::{Target, Turn};

/// After so many steps that were not done in time a target's turn is over.
const MOST_DEADLINES: usize = 2;
/// After this step memory is looked at: that of a large install.
const LARGE_STEP: &str = "bun_install";
const MEMORY_AFTER: &str = "memory_after_install";
const MEMORY_PEAK: &str = "memory_peak";
const STORE_PUTS: &str = "store_puts";
const STORE_WRITTEN: &str = "store_written";
const STORE_REQUESTS: &str = "store_requests";
const GIT_DEADLINE: Duration = Duration::from_secs(30);

/// What a run of the coding workload is told besides the plan.
pub(crate) struct Day {
    pub(crate) inputs: Inputs,
    pub(crate) sizes: Sizes,
    pub(crate) limit: Duration,
    /// The same for the peers: who takes this long is not asked for much more.
    pub(crate) peer_limit: Duration,
    /// Only these steps and what they need; all when empty.
    pub(crate) only: Vec<String>,
    /// A folder on the local disk.
    pub(crate) scratch: PathBuf,
}

/// Runs it.
pub(crate) fn run(plan: &Plan, day: &Day) -> Result<Run> {
    let chosen = chosen(steps(), &day.only)?;
    git_settings(&day.scratch.join("gitconfig"))?;
    let mut records: Vec<StepRecord> = chosen
        .iter()
        .map(|step| StepRecord {
            name: step.name.into(),
            unit: Unit::Seconds,
            about: step.about.into(),
        })
        .collect();
    let figures = [
        (
            MEMORY_AFTER,
            Unit::Mebibytes,
            "resident memory after bun_install",
        ),
        (
            MEMORY_PEAK,
            Unit::Mebibytes,
            "most resident memory of the turn",
        ),
        (
            STORE_PUTS,
            Unit::Count,
            "PUT requests to the store in the turn",
        ),
        (
            STORE_WRITTEN,
            Unit::Mebibytes,
            "sent to the store in the turn",
        ),
        (
            STORE_REQUESTS,
            Unit::Count,
            "all requests to the store in the turn",
        ),
    ];
    records.extend(figures.map(|(name, unit, about)| StepRecord {
        name: name.into(),
        unit,
        about: about.into(),
    }));
    rounds::run(plan, records, |target, notes| {
        day.inputs.warm()?;
        turn(plan, day, &chosen, target, notes)
    })
}

fn turn(
    plan: &Plan,
    day: &Day,
    chosen: &[Step],
    target: &Target,
    notes: &mut Notes<'_>,
) -> Result<()> {
    let mut turn = Turn::begin(target, &plan.ground)?;
    let root = turn.root().to_owned();
    let desk = Desk {
        work: &root,
        scratch: &day.scratch,
        inputs: &day.inputs,
        places: &plan.ground.places,
        sizes: day.sizes,
        limit: if target.is_peer() {
            day.peer_limit
        } else {
            day.limit
        },
    };
    let mut done: Vec<&str> = Vec::new();
    let mut deadlines = 0;
    for step in chosen {
        let missing = step.needs.iter().find(|need| !done.contains(need));
        let result = match missing {
            _ if deadlines >= MOST_DEADLINES => Err(Error::Missing(format!(
                "{NOT_TRIED}: {deadlines} steps before it took too long"
            ))),
            Some(need) => Err(Error::Missing(format!("{NOT_TRIED}: it needs {need}"))),
            None => (step.run)(&desk),
        };
        match &result {
            Ok(_) => done.push(step.name),
            Err(Error::Deadline(_)) => deadlines += 1,
            Err(_) => {}
        }
        notes.note(step.name, result);
        if step.name == LARGE_STEP {
            note_memory(notes, MEMORY_AFTER, turn.memory().map(|(now, _)| now));
        }
    }
    note_memory(notes, MEMORY_PEAK, turn.memory().map(|(_, peak)| peak));
    if let Some(counts) = turn.counts()? {
        notes.note(STORE_PUTS, Ok(counts.put.requests as f64));
        let written = counts.put.received_bytes as f64 / f64::from(1 << 20);
        notes.note(STORE_WRITTEN, Ok(written));
        notes.note(STORE_REQUESTS, Ok(counts.requests() as f64));
    }
    turn.end()
}

fn note_memory(notes: &mut Notes<'_>, name: &str, bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        notes.note(name, Ok(bytes as f64 / f64::from(1 << 20)));
    }
}

/// The steps that were asked for and all that they need.
fn chosen(all: Vec<Step>, only: &[String]) -> Result<Vec<Step>> {
    if only.is_empty() {
        return Ok(all);
    }
    for name in only {
        if !all.iter().any(|step| step.name == name) {
            return Err(Error::Wrong(format!("no step is called {name}")));
        }
    }
    let mut wanted: Vec<String> = only.to_vec();
    // A step needs only what comes before it.
    for step in all.iter().rev() {
        if wanted.iter().any(|name| name == step.name) {
            wanted.extend(step.needs.iter().map(|&need| need.to_owned()));
        }
    }
    let is_wanted = |step: &Step| wanted.iter().any(|name| name == step.name);
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// Settings of git that are the same for everybody.
fn git_settings(path: &Path) -> Result<()> {
    let settings = [
        ("user.name", "Coding Day"),
        ("user.email", "coding-day@example.invalid"),
        ("advice.detachedHead", "false"),
        ("gc.auto", "0"),
        ("safe.directory", "*"),
    ];
    for (name, value) in settings {
        let mut command = Command::new("git");
        command.args(["config", "--file"]).arg(path);
        process::run(command.args([name, value]), GIT_DEADLINE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_step_brings_what_it_needs() {
        let names = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            chosen(steps(), &only)
                .unwrap()
                .iter()
                .map(|s| s.name)
                .collect()
        };
        assert_eq!(names(&["tar_x"]), ["tar_x"]);
        assert_eq!(
            names(&["git_grep"]),
            [
                "git_clone",
                "git_checkout_far",
                "git_checkout_back",
                "git_grep"
            ]
        );
        assert_eq!(names(&[]).len(), steps().len());
        assert!(chosen(steps(), &["nothing".into()]).is_err());
    }
}
