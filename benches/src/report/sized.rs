//! Tables of a run about snapshots: one for each size of tree, a column for each target and number of snapshots kept.

use std::fmt::Write as _;

use super::stats::Spread;
use super::table::{heading, missing, number, row, thousands};
use crate::record::{Run, StepRecord, Unit};
use crate::snapshots::{goal, parts, step_name};

/// A target with so many snapshots.
struct Column<'a> {
    target: &'a str,
    kept: u64,
    /// The fewest of this target, to which rates are compared.
    fewest: u64,
}

/// How much a table tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Medians,
    Spread,
}

/// What the cells are.
pub(super) fn explained(detail: Detail) -> &'static str {
    match detail {
        Detail::Medians => {
            "Medians. The number behind a target is how many snapshots were kept, a small turn before each; × is how many times \
             as long as with the fewest kept. Other file systems copy the tree instead."
        }
        Detail::Spread => {
            "Each cell: median (least to most) of all measurements. The number behind a target is how many snapshots were kept, \
             a small turn before each; × is how many times as long as with the fewest kept, by the medians. Other file systems \
             copy the tree instead."
        }
    }
}

/// The tables.
pub(super) fn tables(run: &Run, detail: Detail) -> String {
    let mut out = String::new();
    let mut sizes: Vec<u64> = known(run).map(|(_, _, files, _)| files).collect();
    sizes.dedup();
    for files in sizes {
        let columns = columns(run, files);
        let names: Vec<String> = columns.iter().map(Column::name).collect();
        let names: Vec<&str> = std::iter::once("goal")
            .chain(names.iter().map(String::as_str))
            .collect();
        heading(
            &mut out,
            &format!("{} files", thousands(files as f64)),
            &names,
        );
        let mut done: Vec<&str> = Vec::new();
        for (step, figure, _, _) in known(run).filter(|(_, _, of, _)| *of == files) {
            if done.contains(&figure) {
                continue;
            }
            done.push(figure);
            let cells: Vec<String> = columns
                .iter()
                .map(|column| cell(run, column, step, figure, files, detail))
                .collect();
            if cells.iter().all(|cell| cell == NOTHING) {
                continue;
            }
            let goal = goal(figure, files).map_or_else(String::new, |most| format!("≤ {most}"));
            let label = match step.unit.shown() {
                "" => figure.to_owned(),
                unit => format!("{figure}, {unit}"),
            };
            row(&mut out, &label, std::iter::once(goal).chain(cells));
        }
        out.push('\n');
    }
    out
}

/// What stands where nothing was measured and nothing went wrong.
const NOTHING: &str = "–";

/// The steps with figure, files and snapshots kept.
fn known(run: &Run) -> impl Iterator<Item = (&StepRecord, &str, u64, u64)> {
    run.steps.iter().filter_map(|step| {
        let (figure, files, kept) = parts(&step.name)?;
        Some((step, figure, files, kept))
    })
}

/// The targets with as many snapshots as each was measured with.
fn columns(run: &Run, files: u64) -> Vec<Column<'_>> {
    let mut columns = Vec::new();
    for target in run.measured() {
        let of = run.samples.iter().filter(|s| s.target == target.name);
        let mut kept: Vec<u64> = of
            .filter_map(|sample| parts(&sample.step))
            .filter(|(_, of, _)| *of == files)
            .map(|(_, _, kept)| kept)
            .collect();
        kept.sort_unstable();
        kept.dedup();
        let fewest = kept.first().copied().unwrap_or(0);
        columns.extend(kept.into_iter().map(|kept| Column {
            target: &target.name,
            kept,
            fewest,
        }));
    }
    columns
}

impl Column<'_> {
    fn name(&self) -> String {
        match self.target.starts_with("weldrfs") {
            true => format!("{}, {}", self.target, thousands(self.kept as f64)),
            false => self.target.to_owned(),
        }
    }
}

fn cell(
    run: &Run,
    column: &Column<'_>,
    step: &StepRecord,
    figure: &str,
    files: u64,
    detail: Detail,
) -> String {
    let name = step_name(figure, files, column.kept);
    let Some(spread) = Spread::of(&run.values(column.target, &name)) else {
        return missing(run, column.target, &name);
    };
    let mut cell = number(spread.median);
    if detail == Detail::Spread && spread.least < spread.most {
        let _ = write!(cell, " ({}–{})", number(spread.least), number(spread.most));
    }
    let fewest = step_name(figure, files, column.fewest);
    if column.kept != column.fewest
        && let Some(fewest) = Spread::of(&run.values(column.target, &fewest))
        && let Some(ratio) = ratio(step.unit, fewest.median, spread.median)
    {
        let _ = write!(cell, " ×{}", number(ratio));
    }
    cell
}

/// How many times as long it takes with more snapshots than with the fewest.
fn ratio(unit: Unit, fewest: f64, more: f64) -> Option<f64> {
    let ratio = match unit {
        Unit::Seconds | Unit::Milliseconds => more / fewest,
        Unit::PerSecond => fewest / more,
        Unit::Kibibytes | Unit::Mebibytes | Unit::Count => return None,
    };
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RunKind, Sample};

    fn run() -> Run {
        let mut run = crate::report::tests::run();
        run.kind = RunKind::Snapshots;
        run.samples.clear();
        run.steps.clear();
        for (figure, unit) in [
            ("create", Unit::Milliseconds),
            ("rename", Unit::PerSecond),
            ("clone", Unit::Seconds),
            ("undo", Unit::Milliseconds),
        ] {
            for files in [1_000, 27_000] {
                for kept in [0, 10] {
                    run.steps.push(StepRecord {
                        name: step_name(figure, files, kept),
                        unit,
                        about: "about it".into(),
                    });
                }
            }
        }
        run.steps.sort_by_key(|step| parts(&step.name).map(|p| p.1));
        let mut sample = |target: &str, figure: &str, kept, value: Option<f64>| {
            run.samples.push(Sample {
                round: 0,
                target: target.into(),
                step: step_name(figure, 27_000, kept),
                value,
                trouble: value.is_none().then(|| "it broke".into()),
            });
        };
        for value in [2.0, 4.0, 3.0] {
            sample("weldrfs", "create", 0, Some(value));
        }
        sample("weldrfs", "create", 10, Some(6.0));
        sample("weldrfs", "rename", 0, Some(8_000.0));
        sample("weldrfs", "rename", 10, Some(4_000.0));
        sample("weldrfs", "clone", 0, Some(0.5));
        sample("weldrfs", "clone", 10, None);
        sample("ext4", "create", 0, Some(900.0));
        run
    }

    #[test]
    fn each_target_has_a_column_for_each_number_of_snapshots() {
        let tables = tables(&run(), Detail::Medians);
        let wanted = "| 27,000 files | goal | ext4 | weldrfs, 0 | weldrfs, 10 |";
        assert!(tables.contains(wanted), "{tables}");
        assert!(
            tables.contains("| create, ms | ≤ 5 | 900 | 3.00 | 6.00 ×2.00 |"),
            "{tables}"
        );
        assert!(
            tables.contains("| rename, /s |  | – | 8,000 | 4,000 ×2.00 |"),
            "{tables}"
        );
        assert!(
            tables.contains("| clone, s | ≤ 1 | – | 0.500 | failed |"),
            "{tables}"
        );
        assert!(!tables.contains("undo"), "{tables}");
    }

    #[test]
    fn the_full_table_has_the_spread() {
        let tables = tables(&run(), Detail::Spread);
        assert!(
            tables.contains("| 3.00 (2.00–4.00) | 6.00 ×2.00 |"),
            "{tables}"
        );
    }
}
