//! Plots as SVG: what each step costs compared with the local disk, with the spread of the rounds.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::stats::{Spread, cost};
use super::table::number;
use crate::error::{Error, Result};
use crate::record::{Run, RunKind, StepRecord, Unit};
use crate::target::LOCAL_DISK;

const WIDTH: u32 = 1000;
const ROW_HEIGHT: u32 = 26;
const MARGIN_TOP: u32 = 70;
const MARGIN_BOTTOM: u32 = 40;
const LABELS: u32 = 190;
const COLOURS: [RGBColor; 10] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0xe3, 0x77, 0xc2),
    RGBColor(0x7f, 0x7f, 0x7f),
    RGBColor(0xbc, 0xbd, 0x22),
    RGBColor(0x17, 0xbe, 0xcf),
];

/// Values of one target: row and spread.
struct Series {
    name: String,
    points: Vec<(usize, Spread)>,
}

/// Costs of all steps and targets, 1 being the local disk; `None` without anything to show.
pub(crate) fn costs(run: &Run) -> Result<Option<String>> {
    let steps: Vec<&StepRecord> = run
        .steps
        .iter()
        .filter(|step| matches!(step.unit, Unit::Seconds | Unit::PerSecond))
        .collect();
    let series = run.measured().filter(|t| t.name != LOCAL_DISK);
    let series: Vec<Series> = series
        .map(|target| Series {
            name: target.name.clone(),
            points: points(&steps, |step| {
                cost(run, &target.name, &step.name, step.unit)
            }),
        })
        .collect();
    dots(
        "times as long as on ext4; lines are the spread",
        &steps,
        &series,
    )
}

/// Medians of all steps of one unit, with spread; `None` without anything to show.
pub(crate) fn values(run: &Run, unit: Unit, title: &str) -> Result<Option<String>> {
    let is_there = |step: &StepRecord| run.samples.iter().any(|s| s.step == step.name);
    let of = run.steps.iter().filter(|step| step.unit == unit);
    // A run about snapshots measures some with none kept only, and some only with some.
    let steps: Vec<&StepRecord> = match run.kind {
        RunKind::Snapshots => of.filter(|step| is_there(step)).collect(),
        _ => of.collect(),
    };
    let series: Vec<Series> = run
        .measured()
        .map(|target| Series {
            name: target.name.clone(),
            points: points(&steps, |step| {
                // A logarithmic axis has no place for nothing.
                Spread::of(&run.values(&target.name, &step.name)).filter(|s| s.least > 0.0)
            }),
        })
        .collect();
    dots(title, &steps, &series)
}

fn points(
    steps: &[&StepRecord],
    spread: impl Fn(&StepRecord) -> Option<Spread>,
) -> Vec<(usize, Spread)> {
    let rows = steps.iter().enumerate();
    rows.filter_map(|(row, step)| Some((row, spread(step)?)))
        .collect()
}

/// One row for each step, one dot for each target, on a logarithmic axis.
fn dots(title: &str, steps: &[&StepRecord], series: &[Series]) -> Result<Option<String>> {
    let all = || {
        series
            .iter()
            .flat_map(|s| &s.points)
            .map(|(_, spread)| spread)
    };
    let least = all().map(|s| s.least).fold(f64::INFINITY, f64::min);
    let most = all().map(|s| s.most).fold(0.0, f64::max);
    if !least.is_finite() || most <= 0.0 {
        return Ok(None);
    }
    let range = least / 1.3..most * 1.3;
    let height = MARGIN_TOP + MARGIN_BOTTOM + ROW_HEIGHT * steps.len() as u32;
    let mut svg = String::new();
    draw(
        &mut svg,
        title,
        steps,
        series,
        (range.start, range.end),
        height,
    )
    .map_err(|why| Error::Wrong(format!("a plot cannot be drawn: {why}")))?;
    Ok(Some(svg))
}

fn draw(
    svg: &mut String,
    title: &str,
    steps: &[&StepRecord],
    series: &[Series],
    (from, to): (f64, f64),
    height: u32,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let small = ("sans-serif", 13).into_font();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(MARGIN_TOP)
        .margin_right(30)
        .x_label_area_size(MARGIN_BOTTOM)
        .y_label_area_size(LABELS)
        .build_cartesian_2d((from..to).log_scale(), 0.0..steps.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc(title)
        .x_label_formatter(&|value| number(*value))
        .label_style(small.clone())
        .draw()?;
    let middle = |row: usize| (steps.len() - 1 - row) as f64 + 0.5;
    let label = TextStyle::from(small).pos(Pos::new(HPos::Right, VPos::Center));
    for (row, step) in steps.iter().enumerate() {
        let at = chart.backend_coord(&(from, middle(row)));
        root.draw(&Text::new(
            step.name.clone(),
            (at.0 - 8, at.1),
            label.clone(),
        ))?;
        chart.draw_series(std::iter::once(PathElement::new(
            [(from, middle(row) - 0.5), (to, middle(row) - 0.5)],
            BLACK.mix(0.12),
        )))?;
    }
    if (from..to).contains(&1.0) {
        let line = [(1.0, 0.0), (1.0, steps.len() as f64)];
        chart.draw_series(std::iter::once(PathElement::new(line, BLACK.mix(0.5))))?;
    }
    for (index, one) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // Side by side within the row, so that none hides another.
        let shift = (index as f64 + 0.5) / series.len() as f64 - 0.5;
        let at = |row: usize| middle(row) - shift * 0.8;
        chart.draw_series(one.points.iter().map(|(row, spread)| {
            let line = [(spread.least, at(*row)), (spread.most, at(*row))];
            PathElement::new(line, colour.stroke_width(2))
        }))?;
        chart.draw_series(
            one.points
                .iter()
                .map(|(row, spread)| Circle::new((spread.median, at(*row)), 4, colour.filled())),
        )?;
        legend(&root, index, &one.name, colour)?;
    }
    root.present()?;
    Ok(())
}

/// The targets' names above the plot, four in a line.
fn legend<DB: DrawingBackend>(
    root: &DrawingArea<DB, plotters::coord::Shift>,
    index: usize,
    name: &str,
    colour: RGBColor,
) -> std::result::Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let (x, y) = (20 + (index % 4) as i32 * 240, 14 + (index / 4) as i32 * 20);
    root.draw(&Circle::new((x, y), 5, colour.filled()))?;
    let style =
        TextStyle::from(("sans-serif", 14).into_font()).pos(Pos::new(HPos::Left, VPos::Center));
    root.draw(&Text::new(name.to_owned(), (x + 10, y), style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_and_target_is_in_the_plot() {
        let run = crate::report::tests::run();
        let svg = costs(&run).unwrap().unwrap();
        for text in ["<svg", "git_clone", "create_4k/1", "weldrfs", "</svg>"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(values(&run, Unit::Count, "requests").unwrap().is_none());
    }
}
