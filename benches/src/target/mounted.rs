//! A mount that a process in the foreground serves: waiting until it answers, and taking it away whatever state it is in.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;

use crate::error::{Error, Result};
use crate::process::{self, Background, POLL};

/// How long a mount may take to answer.
const MOUNT_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may live on after its mount was taken away.
const END_DEADLINE: Duration = Duration::from_secs(5);
const POLL_MOUNT: Duration = Duration::from_millis(1);

/// A mount and the process behind it. Dropping it takes both away.
pub(crate) struct Mounted {
    mountpoint: PathBuf,
    process: Option<Background>,
    /// From the start of the process to the first answer.
    pub(crate) seconds: f64,
}

impl Mounted {
    /// Starts the process and waits until its mount answers.
    pub(crate) fn start(mut command: Command, mountpoint: &Path, log: &Path) -> Result<Self> {
        let before = device(mountpoint);
        let began = Instant::now();
        let process = Background::start(&mut command, log, Stdio::null(), None)?;
        let mut mounted = Self {
            mountpoint: mountpoint.to_owned(),
            process: Some(process),
            seconds: 0.0,
        };
        loop {
            if let Some(now) = device(mountpoint)
                && Some(now) != before
            {
                mounted.seconds = began.elapsed().as_secs_f64();
                return Ok(mounted);
            }
            let ended = mounted.process.as_mut().and_then(Background::ended);
            if ended.is_some() || began.elapsed() > MOUNT_DEADLINE {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let said = process::tail(&said);
                return Err(Error::Missing(format!("the mount does not answer: {said}")));
            }
            std::thread::sleep(POLL_MOUNT);
        }
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Background::pid)
    }

    /// Takes the mount away and waits for its process to end by itself.
    pub(crate) fn unmount(mut self, limit: Duration) -> Result<()> {
        let unmounted = rustix::mount::unmount(&self.mountpoint, UnmountFlags::empty());
        let mut process = self.process.take();
        let ended = process.as_mut().is_none_or(|process| process.wait(limit));
        match (unmounted, ended) {
            (Ok(()), true) => Ok(()),
            (Err(error), _) => Err(Error::Wrong(format!("it cannot be unmounted: {error}"))),
            (_, false) => Err(Error::Deadline(limit)),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be gone already, and what is lost is thrown away in any case.
        let _ = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
        if let Some(mut process) = self.process.take() {
            process.wait(END_DEADLINE);
            drop(process);
        }
        let deadline = Instant::now() + END_DEADLINE;
        while device(&self.mountpoint).is_none() && Instant::now() < deadline {
            let _ = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
            std::thread::sleep(POLL);
        }
    }
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.dev())
}
