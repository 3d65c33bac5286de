//! stress-ng's file system class, verified, one stressor after the other.
//!
//! What is run and what is not, with the reasons, is in `stressors.txt`.

use crate::health::{alone, assert_healthy, bounded, full, on_mount, require, script, volume};
use crate::support::mount::{Volume, finish};
use crate::support::scripts::succeed;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Copies of each stressor that run side by side.
const COPIES: &str = "2";
/// The longest one runs otherwise. Some wait for a copy of themselves that has already done its part.
const SHORT_S: u64 = 15;
/// How long each one runs in a long run.
const LONG_S: u64 = 10;
/// For stressors that are not expected to get anywhere.
const FRUITLESS_S: u64 = 1;
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// A line of the list.
enum Plan {
    Run {
        operations: String,
        options: Vec<String>,
    },
    Long,
    Not,
    Fruitless,
}

fn plans() -> BTreeMap<String, Plan> {
    let text = std::fs::read_to_string(script("stressors.txt")).unwrap();
    let lines = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let rest: Vec<String> = words.collect();
            assert!(!rest.is_empty(), "no operations and no reason: {line}");
            let plan = match what.as_str() {
                "run" => Plan::Run {
                    operations: rest[0].clone(),
                    options: rest[1..].to_vec(),
                },
                "long" => Plan::Long,
                "not" => Plan::Not,
                "none" => Plan::Fruitless,
                _ => panic!("{line}: run, long, not or none was expected"),
            };
            (name, plan)
        })
        .collect()
}

/// The stressors of the class, as the installed stress-ng lists them.
fn class() -> Vec<String> {
    // It lists them and ends with an error, because `filesystem?` is a question.
    let output = finish(
        Command::new("stress-ng").args(["--class", "filesystem?"]),
        LIST_DEADLINE,
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let list = said
        .lines()
        .find_map(|line| line.split_once("stressors: "))
        .unwrap_or_else(|| panic!("stress-ng lists no stressors: {said}"))
        .1;
    list.split_whitespace().map(str::to_owned).collect()
}

/// Runs one stressor in a folder; returns how many operations it did.
fn run(name: &str, folder: &Path, volume: &Volume, seconds: u64, more: &[String]) -> u64 {
    let report = volume.beside("stress.yaml");
    let _ = std::fs::remove_file(&report);
    let mut command = bounded(seconds + 120, "stress-ng");
    command
        .args([&format!("--{name}"), COPIES, "--verify", "--metrics"])
        .args(["--timeout", &format!("{seconds}s"), "--temp-path"])
        .arg(folder)
        .arg("--yaml")
        .arg(&report)
        .args(more)
        .current_dir(folder);
    succeed(&mut command, Duration::from_secs(seconds + 180));
    let said = std::fs::read_to_string(&report).unwrap_or_default();
    said.lines()
        .find_map(|line| line.trim().strip_prefix("bogo-ops:"))
        .map_or(0, |count| count.trim().parse().unwrap())
}

#[test]
fn stress_ng_finds_nothing_wrong() {
    require(&["stress-ng"]);
    let plans = plans();
    let _alone = alone();
    let mut volume = volume();
    let folder = on_mount(&volume, "stress");
    let mut done = 0;
    for name in class() {
        let plan = plans.get(&name).unwrap_or_else(|| {
            panic!(
                "stress-ng has a stressor {name} that tests/programs/stressors.txt does not name"
            )
        });
        let operations = match plan {
            Plan::Not => continue,
            Plan::Long if !full() => continue,
            Plan::Fruitless => {
                let operations = run(&name, &folder, &volume, FRUITLESS_S, &[]);
                assert_eq!(operations, 0, "{name} works now: it has to be run");
                continue;
            }
            Plan::Run { options, .. } if full() => run(&name, &folder, &volume, LONG_S, options),
            Plan::Long => run(&name, &folder, &volume, LONG_S, &[]),
            Plan::Run {
                operations,
                options,
            } => {
                let limit = [format!("--{name}-ops"), operations.clone()];
                run(
                    &name,
                    &folder,
                    &volume,
                    SHORT_S,
                    &[&limit, &options[..]].concat(),
                )
            }
        };
        assert!(operations > 0, "{name} ran and did nothing");
        println!("{name}: {operations} operations");
        done += 1;
    }
    assert!(done > 20, "only {done} stressors were run");
    assert_healthy(&mut volume);
}
