//! The coding workload: steps that follow each other on one folder, each timed, each checked. Owns the list of steps and
//! what a step may use.

mod application;
mod database;
mod files;
mod repository;
mod run;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::places::Places;
use crate::process;
use crate::work::Said;

pub(crate) use run::{Day, run};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) edits: u64,
    pub(crate) transactions: u64,
    pub(crate) appends: u64,
    pub(crate) big_mebibytes: u64,
    pub(crate) random_blocks: u64,
}

impl Sizes {
    pub(crate) const SMALL: Self = Self {
        edits: 100,
        transactions: 100,
        appends: 5_000,
        big_mebibytes: 64,
        random_blocks: 2_000,
    };
    pub(crate) const FULL: Self = Self {
        edits: 300,
        transactions: 500,
        appends: 20_000,
        big_mebibytes: 512,
        random_blocks: 10_000,
    };
}

/// One step. What it needs are names of steps that must have succeeded.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) needs: &'static [&'static str],
    /// Prepares, does the work, checks what came out, and says how many seconds the work took.
    pub(crate) run: fn(&Desk<'_>) -> Result<f64>,
}

/// All steps, in order. Those that begin with empty caches come last, before things are removed.
pub(crate) fn steps() -> Vec<Step> {
    let mut all = Vec::new();
    all.extend(repository::WARM);
    all.extend(files::TREES);
    all.extend(application::WARM);
    all.extend(database::STEPS);
    all.extend(files::CONTENT);
    all.extend(repository::COLD);
    all.extend(application::COLD);
    all.extend(files::COLD);
    all.extend(files::REMOVE);
    all
}

/// Steps that take long and say least about files: a quick run leaves them out.
const NOT_QUICK: [&str; 4] = ["npm_ci", "tsc", "vite_build", "module_load_cold"];

/// The steps of a quick run.
pub(crate) fn quick_steps() -> Vec<String> {
    let names = steps().into_iter().map(|step| step.name);
    names
        .filter(|name| !NOT_QUICK.contains(name))
        .map(str::to_owned)
        .collect()
}

/// What a step works with.
pub(crate) struct Desk<'a> {
    /// The folder on the target.
    pub(crate) work: &'a Path,
    /// A folder on the local disk, for settings and logs.
    pub(crate) scratch: &'a Path,
    pub(crate) inputs: &'a Inputs,
    pub(crate) places: &'a Places,
    pub(crate) sizes: Sizes,
    /// Of one command.
    pub(crate) limit: Duration,
}

impl Desk<'_> {
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// A program that is to run in a folder of the target, with nothing of the user's settings.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, folder: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.at(folder))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.scratch.join("gitconfig"))
            .env("CI", "1")
            .env("NO_COLOR", "1")
            .env("CARGO_TERM_COLOR", "never");
        command
    }

    /// Runs a command that must succeed; says what it printed and how long it took.
    pub(crate) fn run(&self, command: &mut Command) -> Result<process::Done> {
        process::run(command, self.limit)
    }

    pub(crate) fn git(&self, folder: &str, arguments: &[&str]) -> Result<process::Done> {
        self.run(self.command("git", folder).args(arguments))
    }

    /// One of the harness' own pieces of work, in a process of its own.
    pub(crate) fn own(&self, name: &str, arguments: &[&dyn AsRef<OsStr>]) -> Result<Said> {
        own_work(self.places, name, arguments, self.limit)
    }
}

/// Runs `bench work NAME ARGUMENTS` and reads what it says.
pub(crate) fn own_work(
    places: &Places,
    name: &str,
    arguments: &[&dyn AsRef<OsStr>],
    limit: Duration,
) -> Result<Said> {
    let mut command = Command::new(places.program("bench")?);
    command.args(["work", name]);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    said(&process::run(&mut command, limit)?.stdout)
}

/// Reads what a piece of work printed.
fn said(text: &str) -> Result<Said> {
    serde_json::from_str(text).map_err(|source| Error::Json {
        what: "what a piece of work said".into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_needs_only_steps_before_it_and_names_are_used_once() {
        let mut before = Vec::new();
        for step in steps() {
            for need in step.needs {
                assert!(before.contains(need), "{} needs {need}", step.name);
            }
            assert!(!before.contains(&step.name), "{} is there twice", step.name);
            before.push(step.name);
        }
    }
}
