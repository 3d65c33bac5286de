//! Keeping the processors awake while requests flow.
//!
//! On a small virtual machine most of a FUSE round trip is the waking of a thread on a processor that was halted. As long
//! as `/dev/cpu_dma_latency` is held at 0, idle processors spin instead of halting. Here it is held from a request until
//! no other has come for a moment, within a budget, and not while others on the host want the processor. Where the
//! device cannot be had nothing happens. This knows nothing of requests; it is told that there was one.

mod policy;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use policy::{Policy, Steal};

const DEVICE: &str = "/dev/cpu_dma_latency";
/// Longest sleep of a processor, in microseconds: none, and any (the kernel's default).
const NONE_US: i32 = 0;
const ANY_US: i32 = 2_000_000_000;
/// How often it is looked whether requests still come.
const TICK: Duration = Duration::from_millis(1);

/// Told of every request.
pub(crate) struct Awake(Option<Arc<Shared>>);

/// What the mount's threads and the one that lets go share.
struct Shared {
    device: File,
    began: Instant,
    /// Microseconds after `began`.
    last_request_us: AtomicU64,
    held: AtomicBool,
    /// False while the policy forbids holding.
    allowed: AtomicBool,
    held_us: AtomicU64,
    ended: Mutex<bool>,
    bell: Condvar,
}

impl Awake {
    /// Never does anything.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Holds while requests flow, if this machine allows it; otherwise the reason is logged once and nothing happens.
    pub(crate) fn auto() -> Self {
        match Self::start(Path::new(DEVICE)) {
            Ok(awake) => awake,
            Err(error) => {
                tracing::info!(%error, "low_latency: {DEVICE} cannot be used; requests wait for processors to wake up");
                Self::off()
            }
        }
    }

    fn start(device: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            device: OpenOptions::new().write(true).open(device)?,
            began: Instant::now(),
            last_request_us: AtomicU64::new(0),
            held: AtomicBool::new(false),
            allowed: AtomicBool::new(true),
            held_us: AtomicU64::new(0),
            ended: Mutex::new(false),
            bell: Condvar::new(),
        });
        // Opening it holds it already.
        shared.set(ANY_US)?;
        let inner = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("weldr-awake".into())
            .spawn(move || inner.watch())?;
        Ok(Self(Some(shared)))
    }

    /// A request is here.
    pub(crate) fn request(&self) {
        if let Some(shared) = &self.0 {
            shared.request();
        }
    }

    /// For how long the processors were kept awake so far; `None` where that is not done.
    pub(crate) fn held(&self) -> Option<Duration> {
        let shared = self.0.as_ref()?;
        Some(Duration::from_micros(
            shared.held_us.load(Ordering::Relaxed),
        ))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            *shared.ended.lock() = true;
            shared.bell.notify_all();
        }
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn set(&self, us: i32) -> io::Result<()> {
        (&self.device).write_all(&us.to_ne_bytes())
    }

    fn request(&self) {
        self.last_request_us.store(self.now_us(), Ordering::Relaxed);
        if self.held.load(Ordering::Relaxed) || !self.allowed.load(Ordering::Relaxed) {
            return;
        }
        let ended = self.ended.lock();
        if !*ended && !self.held.load(Ordering::Relaxed) && self.set(NONE_US).is_ok() {
            self.held.store(true, Ordering::Relaxed);
            self.bell.notify_all();
        }
    }

    /// Lets go when nobody asks for anything any more, or when the policy says so. Ends with its owner.
    fn watch(&self) {
        let mut policy = Policy::new(0);
        while self.wait_until_held(&mut policy) {
            let mut before = self.now_us();
            let mut steal = Steal::look(before);
            loop {
                std::thread::sleep(TICK);
                let now = self.now_us();
                self.held_us.fetch_add(now - before, Ordering::Relaxed);
                before = now;
                let last = self.last_request_us.load(Ordering::Relaxed);
                if let Some(next) = steal.look_again(now) {
                    policy.steal(now, next.share_since(&steal));
                    steal = next;
                }
                if *self.ended.lock() || !policy.holds(now, last) {
                    break;
                }
            }
            self.let_go();
        }
    }

    /// Returns false at the end. While holding is forbidden it wakes up to look whether that is over.
    fn wait_until_held(&self, policy: &mut Policy) -> bool {
        let mut ended = self.ended.lock();
        loop {
            if *ended {
                return false;
            }
            let now = self.now_us();
            let forbidden = policy.forbidden_for(now);
            self.allowed.store(forbidden.is_none(), Ordering::Relaxed);
            if self.held.load(Ordering::Relaxed) {
                policy.begin(now);
                return true;
            }
            match forbidden {
                None => self.bell.wait(&mut ended),
                Some(time) => drop(self.bell.wait_for(&mut ended, time)),
            }
        }
    }

    fn let_go(&self) {
        let _ended = self.ended.lock();
        // If this fails the descriptor is the only thing left to close, and that happens at the end of the mount.
        if let Err(error) = self.set(ANY_US) {
            tracing::warn!(%error, "low_latency: cannot let go of {DEVICE}");
        }
        self.held.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_held_at_a_request_and_let_go_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        std::fs::write(&device, b"").unwrap();
        let awake = Awake::start(&device).unwrap();
        let written = || -> Vec<i32> {
            let bytes = std::fs::read(&device).unwrap();
            let words = bytes.chunks_exact(4);
            words
                .map(|w| i32::from_ne_bytes(w.try_into().unwrap()))
                .collect()
        };
        assert_eq!(written(), [ANY_US]);
        for n in 1..4 {
            awake.request();
            let deadline = Instant::now() + Duration::from_secs(10);
            while written().len() < 1 + 2 * n && Instant::now() < deadline {
                std::thread::sleep(TICK);
            }
            assert_eq!(written()[2 * n - 1..], [NONE_US, ANY_US]);
        }
        assert!(awake.held().unwrap() > Duration::ZERO);
        assert!(Awake::start(&dir.path().join("missing")).is_err());
    }
}
