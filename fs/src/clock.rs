//! Time as an input: the system's clock, that of the kernel's stamps, or one that a test moves.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{MemfdFlags, Timespec, Timestamps, UTIME_NOW, fstat, futimens, memfd_create};

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since 1970.
    fn now_ns(&self) -> i64;

    /// Milliseconds since 1970; 0 before.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.now_ns() / 1_000_000).unwrap_or(0)
    }

    /// Nanoseconds since some moment, on a clock that nobody sets and that goes on while the machine sleeps.
    fn boot_ns(&self) -> i64 {
        boot_ns()
    }
}

/// `CLOCK_BOOTTIME`, see clock_gettime(2). From libc, as the standard library has the others, and not from the kernel
/// directly: so that a test can move the clock of a running program.
fn boot_ns() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to `now`, which is a valid place for it and outlives it.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    if outcome != 0 {
        // Every Linux that this runs on has the clock. One that is not there must not keep a lease alive.
        return i64::MAX;
    }
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

/// The system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        }
    }
}

/// What the kernel stamps files with: it stamps one in memory for every look. With the kernel's write-back it stamps
/// writes itself, from a clock that is up to a tick behind the system's. What came after such a write must not look older,
/// nor the write older than what was there before, so everything takes its time from there.
#[derive(Debug)]
pub struct KernelClock(OwnedFd);

impl KernelClock {
    /// # Errors
    /// When there can be no file in memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self(memfd_create("weldrfs-clock", MemfdFlags::CLOEXEC)?))
    }
}

impl Clock for KernelClock {
    fn now_ns(&self) -> i64 {
        const NOW: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW as _,
        };
        let times = Timestamps {
            last_access: NOW,
            last_modification: NOW,
        };
        match futimens(&self.0, &times).and_then(|()| fstat(&self.0)) {
            Ok(found) => found
                .st_mtime
                .saturating_mul(1_000_000_000)
                .saturating_add(found.st_mtime_nsec as i64),
            // The file is ours and open, so this does not happen; a time is better than none.
            Err(_) => SystemClock.now_ns(),
        }
    }
}

/// A clock that stands still until it is moved; every look at it is one nanosecond later.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `ns`.
    pub fn at(ns: i64) -> Self {
        Self(AtomicI64::new(ns))
    }

    /// Moves the clock.
    pub fn advance(&self, ns: i64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn boot_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_clock_shows_the_systems_time_and_does_not_go_back() {
        let clock = KernelClock::new().unwrap();
        let began = SystemClock.now_ns();
        let mut last = clock.now_ns();
        // A tick is 10 ms at most; the rest is room for a machine that is busy.
        let apart = (last - began).abs();
        assert!(apart < 60_000_000_000, "{apart} ns apart");
        for _ in 0..10_000 {
            let now = clock.now_ns();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    }
}
