//! Tables in Markdown: one with everything for a run's folder, one in short for the README.

use std::fmt::Write as _;

use super::sized::{self, Detail};
use super::stats::{Spread, cost, mean_cost};
use crate::record::{NOT_TRIED, Run, RunKind, StepRecord, Unit};
use crate::target::LOCAL_DISK;

/// A number with about three digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100_000.0 => thousands((value / 1000.0).round() * 1000.0),
        v if v >= 100.0 => thousands(value),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        v if v >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

pub(super) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{out}")
}

/// What a run was, in a sentence or two.
pub(crate) fn headline(run: &Run) -> String {
    let machine = &run.machine;
    let held = match machine.cpu_dma_latency_us {
        Some(0) => "; `cpu_dma_latency` was held at 0 by somebody else",
        _ => "",
    };
    let changed = if run.commit.changed { " (changed)" } else { "" };
    let settings = |name: &str| run.settings.get(name).map_or("?", String::as_str);
    format!(
        "`bench {}`, {}, commit `{:.12}`{changed}, {} build. Linux {}, {} × {}, {} MiB of memory, {}; `enable_uring` {}{held}. \
         Rounds: {} (peers {}); the store is {} ms and {} MB/s away.",
        run.kind.word(),
        run.started,
        run.commit.id,
        run.commit.profile,
        machine.kernel,
        machine.cpus,
        machine.cpu,
        machine.memory_mib,
        machine.disk,
        machine.enable_uring,
        settings("rounds"),
        settings("peer_rounds"),
        settings("store_latency_ms"),
        settings("store_bandwidth_mb"),
    )
}

/// The table of a run's folder: median, spread and cost of everything.
pub(crate) fn full(run: &Run) -> String {
    let names: Vec<&str> = run.measured().map(|t| t.name.as_str()).collect();
    let mut out = format!("{}\n\n{}\n\n", headline(run), explained(run.kind));
    if run.kind == RunKind::Snapshots {
        out.push_str(&sized::tables(run, Detail::Spread));
    } else {
        heading(&mut out, "step", &names);
        for step in &run.steps {
            let cells = names.iter().map(|target| full_cell(run, target, step));
            row(&mut out, &labelled(step), cells);
        }
        mean_row(&mut out, run, &names);
        out.push('\n');
    }
    out.push_str(&targets(run));
    out.push_str(&troubles(run));
    out
}

fn explained(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Coding | RunKind::Ops => {
            "Each cell: median (least to most) of the rounds, and × how many times as long as on ext4 by the medians."
        }
        RunKind::Cold => "Each cell: median (least to most) of the rounds.",
        RunKind::Previews | RunKind::Workflows => {
            "Each cell: median (least to most) of the rounds, and × how many times as long as by hand on ext4."
        }
        RunKind::Snapshots => sized::explained(Detail::Spread),
    }
}

fn labelled(step: &StepRecord) -> String {
    match step.unit.shown() {
        "" => step.name.clone(),
        unit => format!("{}, {unit}", step.name),
    }
}

fn full_cell(run: &Run, target: &str, step: &StepRecord) -> String {
    let Some(spread) = Spread::of(&run.values(target, &step.name)) else {
        return missing(run, target, &step.name);
    };
    let mut cell = number(spread.median);
    if spread.least < spread.most {
        let _ = write!(cell, " ({}–{})", number(spread.least), number(spread.most));
    }
    if target != LOCAL_DISK
        && let Some(cost) = cost(run, target, &step.name, step.unit)
    {
        let _ = write!(cell, " ×{}", number(cost.median));
    }
    cell
}

/// What stands for a value that is not there.
pub(super) fn missing(run: &Run, target: &str, step: &str) -> String {
    match run.trouble(target, step) {
        Some(why) if why.starts_with("not done after") => why.replace("not done after", ">"),
        Some(why) if why.starts_with(NOT_TRIED) => "not tried".into(),
        Some(_) => "failed".into(),
        None => "–".into(),
    }
}

/// The table of the README: costs where there is a local disk to compare with, else medians.
pub(crate) fn short(run: &Run) -> String {
    let names: Vec<&str> = run.measured().map(|t| t.name.as_str()).collect();
    let mut out = format!("{}\n\n", headline(run));
    if run.kind == RunKind::Snapshots {
        let explained = sized::explained(Detail::Medians);
        let tables = sized::tables(run, Detail::Medians);
        let _ = write!(out, "{explained}\n\n{}\n", tables.trim_end());
        return out;
    }
    let medians = match run.kind {
        RunKind::Cold => Some("cold resume"),
        RunKind::Previews => Some("an app"),
        RunKind::Workflows => Some("runs of ten steps"),
        RunKind::Coding | RunKind::Ops | RunKind::Snapshots => None,
    };
    if let Some(title) = medians {
        heading(&mut out, title, &names);
        for step in &run.steps {
            let cells = names.iter().map(|t| median_cell(run, t, step));
            row(&mut out, &labelled(step), cells);
        }
        return out;
    }
    let others: Vec<&str> = names.iter().copied().filter(|n| *n != LOCAL_DISK).collect();
    let disk = match run.kind {
        RunKind::Ops => "ext4, per second",
        _ => "ext4, s",
    };
    let mut columns = vec![disk];
    columns.extend(&others);
    heading(&mut out, "times as long as on ext4", &columns);
    for step in &run.steps {
        let is_timed = matches!(step.unit, Unit::Seconds | Unit::PerSecond);
        let label = if is_timed {
            step.name.clone()
        } else {
            labelled(step)
        };
        let mut cells = vec![median_cell(run, LOCAL_DISK, step)];
        cells.extend(others.iter().map(|target| {
            match is_timed {
                true => cost(run, target, &step.name, step.unit)
                    .map_or_else(|| missing(run, target, &step.name), |c| number(c.median)),
                false => median_cell(run, target, step),
            }
        }));
        row(&mut out, &label, cells.into_iter());
    }
    let mut cells = vec!["1".to_owned()];
    cells.extend(others.iter().map(|target| mean_cell(run, target)));
    row(&mut out, "**geometric mean**", cells.into_iter());
    out
}

fn median_cell(run: &Run, target: &str, step: &StepRecord) -> String {
    Spread::of(&run.values(target, &step.name)).map_or_else(
        || missing(run, target, &step.name),
        |spread| number(spread.median),
    )
}

/// The mean, with the number of steps when some are missing.
fn mean_cell(run: &Run, target: &str) -> String {
    let all = mean_cost(run, LOCAL_DISK).map_or(0, |(_, steps)| steps);
    match mean_cost(run, target) {
        Some((mean, steps)) if steps == all => format!("**{}**", number(mean)),
        Some((mean, steps)) => format!("**{}** ({steps} of {all})", number(mean)),
        None => "–".into(),
    }
}

fn mean_row(out: &mut String, run: &Run, names: &[&str]) {
    if mean_cost(run, LOCAL_DISK).is_some() {
        let cells = names.iter().map(|target| mean_cell(run, target));
        row(out, "**geometric mean of ×**", cells);
    }
}

pub(super) fn heading(out: &mut String, first: &str, names: &[&str]) {
    row(out, first, names.iter().map(|name| (*name).to_owned()));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(names.len()));
}

pub(super) fn row(out: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(out, "| {first} |");
    for cell in cells {
        let _ = write!(out, " {cell} |");
    }
    out.push('\n');
}

/// The targets with version and options, also those that could not be had.
fn targets(run: &Run) -> String {
    let mut out = String::from("| target | version | set up | |\n|---|---|---|---|\n");
    for target in &run.targets {
        let mut last = String::new();
        if target.latency_held {
            last.push_str("`cpu_dma_latency` held at 0");
        }
        if let Some(why) = &target.skipped {
            let _ = write!(last, "skipped: {}", safe(why));
        }
        let _ = writeln!(
            out,
            "| {} | {} | {} | {last} |",
            target.name,
            safe(&target.version),
            safe(&target.options)
        );
    }
    out
}

/// Every kind of trouble once, in the order of the steps.
fn troubles(run: &Run) -> String {
    let mut lines: Vec<String> = Vec::new();
    for sample in &run.samples {
        if let Some(why) = sample
            .trouble
            .as_deref()
            .filter(|why| !why.starts_with(NOT_TRIED))
        {
            let line = format!("- {}, {}: {}\n", sample.target, sample.step, safe(why));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    match lines.is_empty() {
        true => String::new(),
        false => format!("\nNot measured:\n\n{}", lines.concat()),
    }
}

/// Text that cannot break a table.
fn safe(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_three_digits() {
        for (value, shown) in [
            (0.0, "0"),
            (0.00012, "0.0001"),
            (0.0456, "0.046"),
            (1.234, "1.23"),
            (45.67, "45.7"),
            (456.7, "457"),
            (45_678.0, "45,678"),
            (456_789.0, "457,000"),
            (7_616_900.0, "7,617,000"),
        ] {
            assert_eq!(number(value), shown);
        }
    }

    #[test]
    fn the_tables_show_medians_costs_and_what_is_missing() {
        let run = crate::report::tests::run();
        let short = short(&run);
        assert!(
            short.contains("| git_clone | 2.00 | 2.00 | > 10m |"),
            "{short}"
        );
        assert!(
            short.contains("| memory_peak, MiB | – | 100 | – |"),
            "{short}"
        );
        assert!(
            short.contains("| **geometric mean** | 1 | **4.00** | – |"),
            "{short}"
        );
        let full = full(&run);
        assert!(full.contains("4.00 (3.00–5.00) ×2.00"), "{full}");
        assert!(full.contains("skipped: no such \\| package"), "{full}");
        assert!(
            full.contains("- juicefs, git_clone: not done after 10m"),
            "{full}"
        );
    }
}
