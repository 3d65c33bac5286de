//! Reports: made from records alone, so that they can be made again at any time and checked.

mod page;
mod plot;
mod readme;
mod sized;
mod stats;
mod table;

use std::path::Path;

use crate::error::{At, Result, ensure};
use crate::places::Places;
use crate::record::{RECORD_FILE, Run};

pub(crate) use stats::Spread;

const TABLE_FILE: &str = "table.md";
const PAGE_FILE: &str = "index.html";

/// Writes table and page beside a record.
pub(crate) fn write(run: &Run, folder: &Path) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).at(&path)
    };
    put(TABLE_FILE, table::full(run))?;
    put(PAGE_FILE, page::page(run)?)
}

/// The table of a run, to be shown.
pub(crate) fn shown(run: &Run) -> String {
    table::full(run)
}

/// All kept runs, by the names of their folders.
fn kept(results: &Path) -> Result<Vec<(String, Run)>> {
    let mut runs = Vec::new();
    if !results.exists() {
        return Ok(runs);
    }
    for entry in std::fs::read_dir(results).at(results)? {
        let folder = entry.at(results)?.path();
        let record = folder.join(RECORD_FILE);
        if record.exists() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            runs.push((name.into_owned(), Run::read(&record)?));
        }
    }
    runs.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(runs)
}

/// Makes the reports of all kept runs and the figures of the README again.
pub(crate) fn regenerate(places: &Places) -> Result<()> {
    let runs = kept(&places.results())?;
    for (name, run) in &runs {
        write(run, &places.results().join(name))?;
    }
    let path = places.repository.join("README.md");
    let text = std::fs::read_to_string(&path).at(&path)?;
    let new = readme::with_section(&text, &readme::section(&runs))?;
    std::fs::write(&path, new).at(&path)
}

/// Fails when a table or the README is not what the records say.
pub(crate) fn check(places: &Places) -> Result<()> {
    let runs = kept(&places.results())?;
    let differs =
        |what: &str| format!("{what} is not what the records say: run scripts/dev bench report");
    for (name, run) in &runs {
        let path = places.results().join(name).join(TABLE_FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        ensure(text == table::full(run), || {
            differs(&format!("{name}/{TABLE_FILE}"))
        })?;
    }
    let path = places.repository.join("README.md");
    let text = std::fs::read_to_string(&path).at(&path)?;
    let new = readme::with_section(&text, &readme::section(&runs))?;
    ensure(text == new, || differs("README.md"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::facts::{Commit, Machine};
    use crate::record::{RECORD_VERSION, RunKind, Sample, StepRecord, TargetRecord, Unit};

    /// A run as small as can be that has everything: spread, a rate, memory, a skipped target, a step not done in time.
    pub(crate) fn run() -> Run {
        let target = |name: &str, skipped: Option<&str>| TargetRecord {
            name: name.into(),
            version: "1".into(),
            options: "none".into(),
            latency_held: false,
            skipped: skipped.map(str::to_owned),
        };
        let step = |name: &str, unit| StepRecord {
            name: name.into(),
            unit,
            about: "about it".into(),
        };
        let mut samples = Vec::new();
        let mut sample = |target: &str, step: &str, values: &[f64]| {
            samples.extend(values.iter().zip(0..).map(|(value, round)| Sample {
                round,
                target: target.into(),
                step: step.into(),
                value: Some(*value),
                trouble: None,
            }));
        };
        sample("ext4", "git_clone", &[2.0, 1.0, 3.0]);
        sample("weldrfs", "git_clone", &[4.0, 3.0, 5.0]);
        sample("ext4", "create_4k/1", &[40_000.0]);
        sample("weldrfs", "create_4k/1", &[5_000.0]);
        sample("weldrfs", "memory_peak", &[100.0]);
        samples.push(Sample {
            round: 0,
            target: "juicefs".into(),
            step: "git_clone".into(),
            value: None,
            trouble: Some("not done after 10m".into()),
        });
        Run {
            version: RECORD_VERSION,
            kind: RunKind::Coding,
            started: "2026-01-01T00:00:00Z".into(),
            seconds: 60.0,
            machine: Machine::here(Path::new("/")),
            commit: Commit {
                id: "0123456789abcdef".into(),
                changed: false,
                profile: "release".into(),
            },
            settings: [("rounds".to_owned(), "3".to_owned())].into(),
            targets: vec![
                target("ext4", None),
                target("weldrfs", None),
                target("juicefs", None),
                target("s3fs", Some("no such | package")),
            ],
            steps: vec![
                step("git_clone", Unit::Seconds),
                step("create_4k/1", Unit::PerSecond),
                step("memory_peak", Unit::Mebibytes),
            ],
            samples,
        }
    }

    fn repository() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::in_repository(folder.path());
        let readme = "# It\n\n<!-- figures: generated by `scripts/dev bench report` -->\n<!-- figures end -->\n";
        std::fs::write(folder.path().join("README.md"), readme).unwrap();
        (folder, places)
    }

    #[test]
    fn a_readme_or_table_that_differs_from_the_records_is_found() {
        let (_folder, places) = repository();
        assert!(check(&places).is_err(), "nothing was generated yet");
        regenerate(&places).unwrap();
        check(&places).unwrap();

        let one = places.results().join("one");
        std::fs::create_dir_all(&one).unwrap();
        run().write(&one).unwrap();
        assert!(
            check(&places).is_err(),
            "there is a run that README does not show"
        );
        regenerate(&places).unwrap();
        check(&places).unwrap();
        assert!(one.join(PAGE_FILE).exists());

        for path in [one.join(TABLE_FILE), places.repository.join("README.md")] {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("2.00", "1.00")).unwrap();
            assert!(check(&places).is_err(), "{} was changed", path.display());
            std::fs::write(&path, text).unwrap();
            check(&places).unwrap();
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let run = run();
        run.write(folder.path()).unwrap();
        let again = Run::read(&folder.path().join(RECORD_FILE)).unwrap();
        assert_eq!(format!("{run:?}"), format!("{again:?}"));
    }
}
