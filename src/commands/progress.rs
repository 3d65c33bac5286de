//! What a person sees while a command waits: on a terminal what it waits for, for how long it has, and how far it is. On
//! anything else, nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the picture moves.
const TICK: Duration = Duration::from_millis(120);
/// How often it is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Longest step of waiting for the next question, so that an end is noticed at once.
const STEP: Duration = Duration::from_millis(20);

/// Does `work` while it shows `text` and the time.
pub(super) fn during<T>(text: &str, work: impl FnOnce() -> T) -> T {
    let bar = spinner(text);
    let done = work();
    bar.finish_and_clear();
    done
}

/// The same with how much is left, as `left` says of every look; a look that fails changes nothing.
pub(super) fn down_to_nothing<T>(
    text: &str,
    left: impl Fn() -> Option<u64> + Send,
    work: impl FnOnce() -> T,
) -> T {
    let bar = spinner(text);
    if bar.is_hidden() {
        return work();
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&bar, left, &is_done));
        let done = work();
        is_done.store(true, Ordering::Relaxed);
        bar.finish_and_clear();
        done
    })
}

fn watch(bar: &ProgressBar, left: impl Fn() -> Option<u64>, is_done: &AtomicBool) {
    let mut most = 0;
    while !is_done.load(Ordering::Relaxed) {
        if let Some(left) = left()
            && !is_done.load(Ordering::Relaxed)
        {
            // More may come while it waits.
            most = most.max(left);
            bar.set_style(style(
                "{spinner} {msg} [{bar:24}] {pos} of {len} ({elapsed})",
            ));
            bar.set_length(most);
            bar.set_position(most - left);
        }
        let mut waited = Duration::ZERO;
        while waited < ASK_EVERY && !is_done.load(Ordering::Relaxed) {
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }
}

fn spinner(text: &str) -> ProgressBar {
    // Drawn on stderr, and hidden where that is no terminal.
    let bar = ProgressBar::new_spinner();
    bar.set_style(style("{spinner} {msg} ({elapsed})"));
    bar.set_message(text.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// A template is part of the program; one that is wrong shows the usual picture.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_right() {
        for template in [
            "{spinner} {msg} ({elapsed})",
            "{spinner} {msg} [{bar:24}] {pos} of {len} ({elapsed})",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_work_is_done_whether_it_can_be_watched_or_not() {
        assert_eq!(during("waiting", || 7), 7);
        assert_eq!(down_to_nothing("waiting", || None, || 8), 8);
        let (bar, is_done) = (ProgressBar::hidden(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| watch(&bar, || Some(3), &is_done));
            while bar.length() != Some(3) {
                std::thread::sleep(STEP);
            }
            is_done.store(true, Ordering::Relaxed);
        });
        assert_eq!(bar.position(), 0);
    }
}
