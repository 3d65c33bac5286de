//! Rounds of turns: every target in every round, in an order that moves on by one each round. Makes the record.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use crate::error::{At, Result};
use crate::facts::{Commit, Machine};
use crate::record::{RECORD_VERSION, Run, RunKind, Sample, StepRecord, TargetRecord};
use crate::report::Spread;
use crate::target::{Ground, Target, remove};

/// What is to be run.
pub(crate) struct Plan {
    pub(crate) kind: RunKind,
    pub(crate) ground: Ground,
    pub(crate) targets: Vec<Target>,
    pub(crate) rounds: u32,
    /// Rounds in which the peers, which take much longer, take part.
    pub(crate) peer_rounds: u32,
    pub(crate) settings: BTreeMap<String, String>,
    /// Held as long as the plan is there.
    pub(crate) _lock: std::fs::File,
}

/// What one turn notes.
pub(crate) struct Notes<'a> {
    plan: &'a Plan,
    round: u32,
    target: &'a Target,
    samples: &'a mut Vec<Sample>,
}

impl Notes<'_> {
    /// Several measurements of one step in one turn; shows their median.
    pub(crate) fn note_all(&mut self, step: &str, values: &[f64]) {
        if let Some(spread) = Spread::of(values) {
            let Spread {
                median,
                least,
                most,
            } = spread;
            eprintln!(
                "  {step:<24} {median:>12.3} ({least:.3} to {most:.3}, {} times)",
                values.len()
            );
        }
        self.samples.extend(values.iter().map(|value| Sample {
            round: self.round,
            target: self.target.name.clone(),
            step: step.to_owned(),
            value: Some(*value),
            trouble: None,
        }));
    }

    /// A measurement, or why there is none.
    pub(crate) fn note(&mut self, step: &str, result: Result<f64>) {
        let ground = &self.plan.ground;
        let redact = |text: String| ground.places.redact(&text, &ground.work);
        let (value, trouble) = match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(redact(error.to_string()))),
        };
        match (&value, &trouble) {
            (Some(value), _) => eprintln!("  {step:<24} {value:>12.3}"),
            (_, trouble) => eprintln!("  {step:<24} {}", trouble.as_deref().unwrap_or_default()),
        }
        self.samples.push(Sample {
            round: self.round,
            target: self.target.name.clone(),
            step: step.to_owned(),
            value,
            trouble,
        });
    }
}

/// Runs `turn` for every target in every round.
///
/// # Errors
/// Only when the harness itself is in trouble. A turn that fails as a whole is noted for all its steps.
pub(crate) fn run(
    plan: &Plan,
    steps: Vec<StepRecord>,
    mut turn: impl FnMut(&Target, &mut Notes<'_>) -> Result<()>,
) -> Result<Run> {
    let ground = &plan.ground;
    std::fs::create_dir_all(&ground.work).at(&ground.work)?;
    let machine = Machine::here(&ground.work);
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let began = Instant::now();
    let mut targets: Vec<TargetRecord> = Vec::new();
    for target in &plan.targets {
        let record = target.record(&ground.places, &ground.work);
        if let Some(why) = &record.skipped {
            eprintln!("{} is skipped: {why}", target.name);
        }
        targets.push(record);
    }
    let mut samples = Vec::new();
    for round in 0..plan.rounds {
        for target in in_turn(&plan.targets, round) {
            let is_skipped = targets
                .iter()
                .any(|t| t.name == target.name && t.skipped.is_some());
            if is_skipped || (target.is_peer() && round >= plan.peer_rounds) {
                continue;
            }
            eprintln!(
                "round {} of {}, {} ({:.0} s so far)",
                round + 1,
                plan.rounds,
                target.name,
                began.elapsed().as_secs_f64()
            );
            let mut notes = Notes {
                plan,
                round,
                target,
                samples: &mut samples,
            };
            if let Err(error) = turn(target, &mut notes) {
                notes.note("turn", Err(error));
            }
        }
    }
    // What a turn left that failed.
    remove(&ground.turn())?;
    Ok(Run {
        version: RECORD_VERSION,
        kind: plan.kind,
        started,
        seconds: began.elapsed().as_secs_f64().round(),
        machine,
        commit: Commit::of(&ground.places.repository)?,
        settings: plan.settings.clone(),
        targets,
        steps,
        samples,
    })
}

/// The targets of a round: each round begins with the next one, so that none is always first or always last.
fn in_turn(targets: &[Target], round: u32) -> impl Iterator<Item = &Target> {
    let first = round as usize % targets.len().max(1);
    targets[first..].iter().chain(&targets[..first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_in_every_round_and_each_is_first_once() {
        let targets: Vec<Target> = ["ext4", "floor", "weldrfs"]
            .iter()
            .map(|name| Target::parse(name).unwrap())
            .collect();
        let names =
            |round| -> Vec<&str> { in_turn(&targets, round).map(|t| t.name.as_str()).collect() };
        assert_eq!(names(0), ["ext4", "floor", "weldrfs"]);
        assert_eq!(names(1), ["floor", "weldrfs", "ext4"]);
        assert_eq!(names(2), ["weldrfs", "ext4", "floor"]);
        assert_eq!(names(3), names(0));
    }
}
