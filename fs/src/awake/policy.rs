//! When processors may be kept awake, and for how long: a budget that fills slowly, and a look at what the host takes away.
//! Pure: time and readings are given.

use std::time::Duration;

/// How long after the last request the processors stay awake.
const LINGER_US: u64 = 2_000;
/// Most time that may be spent awake in one go, when it was not for long.
const BUDGET_US: u64 = 120_000_000;
/// The part of the time that is earned back.
const EARNED_PART: u64 = 4;
/// Once the budget is gone, holding begins again when this much of it is back.
const ENOUGH_US: u64 = 10_000_000;
/// Above this part of the time, in percent, that the host gave to others, spinning would only take from ourselves.
const MOST_STEAL_PERCENT: u64 = 10;
/// How long that is believed.
const STEAL_PAUSE_US: u64 = 30_000_000;
/// How often it is looked at while the processors are kept awake.
const STEAL_INTERVAL_US: u64 = 500_000;

/// Decides.
pub(super) struct Policy {
    budget_us: u64,
    /// When the budget was last counted.
    counted_us: u64,
    exhausted: bool,
    stolen_until_us: u64,
}

impl Policy {
    pub(super) fn new(now_us: u64) -> Self {
        Self {
            budget_us: BUDGET_US,
            counted_us: now_us,
            exhausted: false,
            stolen_until_us: 0,
        }
    }

    /// The processors are kept awake from now on.
    pub(super) fn begin(&mut self, now_us: u64) {
        self.earn(now_us);
    }

    /// Whether to go on, `last_us` being the time of the last request.
    pub(super) fn holds(&mut self, now_us: u64, last_us: u64) -> bool {
        let spent = now_us.saturating_sub(self.counted_us);
        self.counted_us = now_us;
        let earned = spent / EARNED_PART;
        self.budget_us = (self.budget_us + earned).saturating_sub(spent);
        self.exhausted |= self.budget_us == 0;
        !self.exhausted
            && now_us >= self.stolen_until_us
            && now_us.saturating_sub(last_us) <= LINGER_US
    }

    /// The host gave `percent` of the time to others.
    pub(super) fn steal(&mut self, now_us: u64, percent: u64) {
        if percent > MOST_STEAL_PERCENT {
            self.stolen_until_us = now_us + STEAL_PAUSE_US;
        }
    }

    /// For how long holding is forbidden, if it is.
    pub(super) fn forbidden_for(&mut self, now_us: u64) -> Option<Duration> {
        self.earn(now_us);
        if self.exhausted && self.budget_us >= ENOUGH_US {
            self.exhausted = false;
        }
        let stolen = self.stolen_until_us.saturating_sub(now_us);
        let poor = match self.exhausted {
            true => (ENOUGH_US - self.budget_us) * EARNED_PART,
            false => 0,
        };
        let time = stolen.max(poor);
        (time > 0).then(|| Duration::from_micros(time))
    }

    fn earn(&mut self, now_us: u64) {
        let idle = now_us.saturating_sub(self.counted_us);
        self.counted_us = now_us;
        self.budget_us = (self.budget_us + idle / EARNED_PART).min(BUDGET_US);
    }
}

/// A reading of the machine's processor times, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Steal {
    at_us: u64,
    stolen: u64,
    all: u64,
}

impl Steal {
    /// Now; zeros where the kernel does not say.
    pub(super) fn look(now_us: u64) -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            at_us: now_us,
            ..Self::parse(&text)
        }
    }

    /// Another reading, if it is time for one.
    pub(super) fn look_again(&self, now_us: u64) -> Option<Self> {
        let due = now_us.saturating_sub(self.at_us) >= STEAL_INTERVAL_US;
        due.then(|| Self::look(now_us))
    }

    /// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, and guest times, which are
    /// counted in user time already.
    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let times = line.split_whitespace().skip(1).take(8);
        let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
        Self {
            at_us: 0,
            stolen: times.get(7).copied().unwrap_or(0),
            all: times.iter().sum(),
        }
    }

    /// Percent of the time since `before` that was stolen.
    pub(super) fn share_since(&self, before: &Self) -> u64 {
        let all = self.all.saturating_sub(before.all);
        let stolen = self.stolen.saturating_sub(before.stolen);
        (100 * stolen).checked_div(all).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn it_is_held_while_requests_come_and_a_moment_longer() {
        let mut policy = Policy::new(0);
        policy.begin(SECOND);
        assert!(policy.holds(SECOND + 1_000, SECOND + 900));
        assert!(policy.holds(SECOND + 2_900, SECOND + 900));
        assert!(!policy.holds(SECOND + 2_901, SECOND + 900));
    }

    #[test]
    fn the_budget_bounds_what_is_spent_in_one_go_and_for_good() {
        let mut policy = Policy::new(0);
        policy.begin(0);
        let mut now = 0;
        while policy.holds(now, now) {
            now += SECOND / 100;
        }
        // What is spent is earned back by a quarter at the same time.
        assert_eq!(now / SECOND, 120 * 4 / 3);
        let mut held = 0;
        let began = now;
        while now < began + 3_600 * SECOND {
            match policy.forbidden_for(now) {
                Some(time) => now += u64::try_from(time.as_micros()).unwrap(),
                None => {
                    policy.begin(now);
                    while policy.holds(now, now) {
                        now += SECOND / 100;
                        held += SECOND / 100;
                    }
                }
            }
        }
        let percent = held * 100 / (now - began);
        assert!((20..=25).contains(&percent), "{percent} %");
    }

    #[test]
    fn it_is_not_held_while_the_host_has_others_to_serve() {
        let before = Steal::parse("cpu  100 0 100 800 0 0 0 0 5 5\ncpu0 1 2 3\n");
        let after = Steal::parse("cpu  150 0 100 830 0 0 0 20 9 9\n");
        assert_eq!(after.share_since(&before), 20);
        assert_eq!(before.share_since(&before), 0);
        assert_eq!(Steal::parse("").share_since(&before), 0);
        let mut policy = Policy::new(0);
        policy.begin(0);
        policy.steal(10, MOST_STEAL_PERCENT);
        assert!(policy.holds(20, 20));
        policy.steal(30, 20);
        assert!(!policy.holds(40, 40));
        assert_eq!(
            policy.forbidden_for(30),
            Some(Duration::from_micros(STEAL_PAUSE_US))
        );
        assert_eq!(policy.forbidden_for(30 + STEAL_PAUSE_US), None);
    }
}
