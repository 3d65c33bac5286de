//! Medians, spread, and what something costs compared with the local disk.

use crate::record::{Run, Unit};
use crate::target::LOCAL_DISK;

/// The middle and the ends of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` without measurements.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

/// How many times as long a step takes on a target as on the local disk, by the medians, with the ends of the spread.
/// `None` where either was not measured, or where the unit has nothing to do with time.
pub(crate) fn cost(run: &Run, target: &str, step: &str, unit: Unit) -> Option<Spread> {
    let here = Spread::of(&run.values(target, step))?;
    let disk = Spread::of(&run.values(LOCAL_DISK, step))?;
    let ratio = |here: f64| match unit {
        Unit::Seconds | Unit::Milliseconds => Some(here / disk.median),
        Unit::PerSecond => Some(disk.median / here),
        Unit::Kibibytes | Unit::Mebibytes | Unit::Count => None,
    };
    let (one, other) = (ratio(here.least)?, ratio(here.most)?);
    let spread = Spread {
        median: ratio(here.median)?,
        least: one.min(other),
        most: one.max(other),
    };
    spread.median.is_finite().then_some(spread)
}

/// The geometric mean of a target's costs, and over how many steps.
pub(crate) fn mean_cost(run: &Run, target: &str) -> Option<(f64, usize)> {
    let of = |step: &crate::record::StepRecord| cost(run, target, &step.name, step.unit);
    let logs: Vec<f64> = run
        .steps
        .iter()
        .filter_map(of)
        .map(|cost| cost.median.ln())
        .collect();
    match logs.len() {
        0 => None,
        n => Some(((logs.iter().sum::<f64>() / n as f64).exp(), n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        let of = |values: &[f64]| Spread::of(values).unwrap();
        assert_eq!(of(&[3.0, 1.0, 2.0]).median, 2.0);
        let even = of(&[4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.median, even.least, even.most), (2.5, 1.0, 4.0));
    }

    #[test]
    fn cost_is_more_when_it_takes_longer_or_does_less() {
        let run = crate::report::tests::run();
        let clone = cost(&run, "weldrfs", "git_clone", Unit::Seconds).unwrap();
        assert_eq!((clone.median, clone.least, clone.most), (2.0, 1.5, 2.5));
        let rate = cost(&run, "weldrfs", "create_4k/1", Unit::PerSecond).unwrap();
        assert_eq!(rate.median, 8.0);
        assert_eq!(cost(&run, "weldrfs", "memory_peak", Unit::Mebibytes), None);
        assert_eq!(cost(&run, "s3fs", "git_clone", Unit::Seconds), None);
        let (mean, steps) = mean_cost(&run, "weldrfs").unwrap();
        assert_eq!((mean.round(), steps), (4.0, 2));
    }
}
