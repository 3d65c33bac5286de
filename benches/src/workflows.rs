//! Workflows: how many runs of ten steps a sidecar does, and what they take, beside the same commands run by hand on the
//! local disk. Owns what is measured and in which order.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{At, Error, Result, ensure};
use crate::process;
use crate::record::{Run, StepRecord, Unit};
use crate::rounds::{self, Notes, Plan};
use crate::sidecar::Sidecar;
use crate::target::{Base, Target, remove};

/// Ports of previews, of which there are none.
const PORTS: (u16, u16) = (20_480, 20_481);
/// Steps of a run.
const STEPS: u64 = 10;
/// What a step does, and the same by hand.
const LINE: &str = "echo done >>log";
/// Between two looks at what is not over.
const LOOK: Duration = Duration::from_millis(100);
/// Most runs that a list shows.
const LIST: u64 = 200;

/// What a run is told besides the plan.
pub(crate) struct Amounts {
    /// Runs that are asked for at once.
    pub(crate) runs: u64,
    /// Until all of them are over.
    pub(crate) limit: Duration,
}

const FIGURES: [(&str, Unit, &str); 9] = [
    (
        "waits",
        Unit::PerSecond,
        "runs of ten steps that wait for 1 ms: rows, events and eleven snapshots of the project",
    ),
    (
        "waits_trigger_p50",
        Unit::Milliseconds,
        "until such a run is taken, while those before it go on: half of them are as fast",
    ),
    (
        "waits_trigger_p99",
        Unit::Milliseconds,
        "the same: 99 of 100",
    ),
    (
        "commands",
        Unit::PerSecond,
        "runs of ten commands, each in a sandbox of its own; ext4: the commands by hand, one shell each",
    ),
    (
        "commands_trigger_p50",
        Unit::Milliseconds,
        "until such a run is taken, while those before it go on: half of them are as fast",
    ),
    (
        "commands_trigger_p99",
        Unit::Milliseconds,
        "the same: 99 of 100",
    ),
    (
        "memory_peak",
        Unit::Mebibytes,
        "of the sidecar, its program included",
    ),
    (
        "memory_after",
        Unit::Mebibytes,
        "of the sidecar beside its program, once all runs are over",
    ),
    (
        "database_run",
        Unit::Kibibytes,
        "what its database grows by for each run",
    ),
];

/// Runs it.
pub(crate) fn run(plan: &Plan, amounts: &Amounts) -> Result<Run> {
    let steps = FIGURES.map(|(name, unit, about)| StepRecord {
        name: name.to_owned(),
        unit,
        about: about.to_owned(),
    });
    rounds::run(plan, steps.into(), |target, notes| {
        let folder = plan.ground.turn();
        remove(&folder)?;
        std::fs::create_dir_all(&folder).at(&folder)?;
        match &target.base {
            Base::Disk => by_hand(amounts, &folder, notes),
            Base::WeldrfsFile => as_runs(plan, amounts, &folder, notes),
            _ => Err(not_here(target)),
        }
    })
}

fn not_here(target: &Target) -> Error {
    let name = &target.name;
    Error::Wrong(format!(
        "{name} has no part in this: commands run by hand on ext4, or as steps on weldrfs_file"
    ))
}

/// As many at a time as there are processors.
fn by_hand(amounts: &Amounts, folder: &Path, notes: &mut Notes<'_>) -> Result<()> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let began = Instant::now();
    let runs = amounts.runs;
    let done: Result<()> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..at_once)
            .map(|lane| {
                scope.spawn(move || {
                    for _ in 0..(lane..runs).step_by(at_once as usize).count() as u64 * STEPS {
                        let mut shell = Command::new("/bin/sh");
                        shell.args(["-c", LINE]).current_dir(folder);
                        process::run(&mut shell, amounts.limit)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let crashed = |_| Error::Wrong("a lane broke down".into());
        lanes
            .into_iter()
            .try_for_each(|lane| lane.join().map_err(crashed)?)
    });
    done?;
    notes.note("commands", Ok(runs as f64 / began.elapsed().as_secs_f64()));
    Ok(())
}

fn as_runs(plan: &Plan, amounts: &Amounts, folder: &Path, notes: &mut Notes<'_>) -> Result<()> {
    let mut sidecar = Sidecar::start(&plan.ground.places, folder, PORTS, amounts.limit)?;
    let measured = of_runs(&mut sidecar, amounts, notes);
    // Also after trouble: what it started outlives it.
    let ended = sidecar.end();
    measured.and(ended)
}

fn of_runs(sidecar: &mut Sidecar, amounts: &Amounts, notes: &mut Notes<'_>) -> Result<()> {
    let before = sidecar.database();
    for (name, step) in [
        ("waits", json!({"wait": {"for": "1ms"}})),
        ("commands", json!({"run": LINE})),
    ] {
        let began = Instant::now();
        let mut times = Vec::new();
        for _ in 0..amounts.runs {
            let asked = Instant::now();
            sidecar.post("/trigger", &definition(&step))?;
            times.push(asked.elapsed().as_secs_f64() * 1000.0);
        }
        until_all_are_over(sidecar, amounts.limit)?;
        let rate = amounts.runs as f64 / began.elapsed().as_secs_f64();
        all_succeeded(sidecar, amounts.runs)?;
        notes.note(name, Ok(rate));
        times.sort_by(f64::total_cmp);
        for (end, share) in [("p50", 0.5), ("p99", 0.99)] {
            let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            let nothing = || Error::Wrong("nothing was asked".into());
            let value = times.get(at).copied().ok_or_else(nothing);
            notes.note(&format!("{name}_trigger_{end}"), value);
        }
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    notes.note("memory_peak", sidecar.memory_peak().map(mebibytes));
    notes.note("memory_after", sidecar.memory().map(mebibytes));
    let grown = sidecar.database().saturating_sub(before) as f64;
    let each = grown / 1024.0 / (2 * amounts.runs).max(1) as f64;
    notes.note("database_run", Ok(each));
    Ok(())
}

fn definition(step: &Value) -> Value {
    let steps: Vec<Value> = (0..STEPS)
        .map(|number| {
            let mut step = step.clone();
            step["name"] = format!("step{number}").into();
            step
        })
        .collect();
    json!({"mount": "bench", "workflow": {"steps": steps}})
}

fn until_all_are_over(sidecar: &mut Sidecar, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    for state in [
        "queued", "running", "waiting", "queued", "running", "waiting",
    ] {
        loop {
            let list = sidecar.get(&format!("/workflows?state={state}&limit=1"))?;
            if list["runs"].as_array().is_some_and(Vec::is_empty) {
                break;
            }
            ensure(Instant::now() < deadline, || {
                format!("a run is still {state}: {list}")
            })?;
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Of the newest runs.
fn all_succeeded(sidecar: &mut Sidecar, count: u64) -> Result<()> {
    let mut left = count;
    let mut before = String::new();
    while left > 0 {
        let limit = left.min(LIST);
        let list = sidecar.get(&format!("/workflows?limit={limit}{before}"))?;
        let runs = list["runs"].as_array().cloned().unwrap_or_default();
        let failed = runs.iter().find(|run| run["state"] != "succeeded");
        ensure(failed.is_none() && !runs.is_empty(), || {
            format!("not all runs succeeded: {failed:?}")
        })?;
        left -= (runs.len() as u64).min(left);
        before = format!("&before={}", list["next"]);
    }
    Ok(())
}
