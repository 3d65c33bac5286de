//! Makes a sequence of calls that shows a difference as short as a bounded time allows.

use super::pair::{Difference, Step};
use std::time::{Duration, Instant};

/// How long shortening may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Leaves calls out while some difference stays. `run` makes the calls in new folders.
pub(crate) fn shrink(
    steps: &[Step],
    first: Difference,
    mut run: impl FnMut(&[Step]) -> Result<(), Difference>,
) -> (Vec<Step>, Difference) {
    let until = Instant::now() + PATIENCE;
    let (mut best, mut why) = (steps[..=first.at].to_vec(), first);
    let mut chunk = best.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < best.len() {
            if Instant::now() > until {
                return (best, why);
            }
            let mut fewer = best.clone();
            fewer.drain(at..(at + chunk).min(best.len()));
            match run(&fewer) {
                Err(difference) => {
                    fewer.truncate(difference.at + 1);
                    (best, why) = (fewer, difference);
                }
                Ok(()) => at += chunk,
            }
        }
        chunk /= 2;
    }
    (best, why)
}
