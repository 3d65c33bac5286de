//! Taking mounts away, as root or through fusermount3, and telling a dead mount from a live one. Never waits for a
//! mounted filesystem without a deadline.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::environment::Environment;
use crate::registry::MountRecord;

/// How long a mount may take to answer a question about its root.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Whether a mount's process serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    Answers,
    /// Its process is gone ("transport endpoint is not connected").
    Dead,
    /// It does not answer in time: stopped, or waiting for something.
    Silent,
}

/// Asks the mount on `mountpoint` about its root.
pub(crate) fn liveness(mountpoint: &Path) -> Liveness {
    let (answer, answered) = mpsc::channel();
    let path = mountpoint.to_owned();
    // The question may never return, so it is asked by a thread that can be left behind.
    let asking = std::thread::spawn(move || {
        // Not stat: the kernel answers that from what it remembers, although the process may be long gone.
        let error = rustix::fs::statvfs(&path).err();
        // Nobody listens any more once the deadline has passed.
        let _ = answer.send(error.map(|error| error.raw_os_error()));
    });
    match answered.recv_timeout(ANSWER_DEADLINE) {
        Ok(error) => {
            // Joined, because a process that is about to fork must have no thread left.
            drop(asking.join());
            match error {
                Some(libc::ENOTCONN | libc::ECONNABORTED) => Liveness::Dead,
                _ => Liveness::Answers,
            }
        }
        Err(_) => Liveness::Silent,
    }
}

/// Takes the mount on `mountpoint` away. A `lazy` unmount leaves files that are open usable until they are closed.
///
/// # Errors
/// What the kernel or fusermount3 says; `EBUSY` when something on the mount is in use.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool, environment: &Environment) -> io::Result<()> {
    if environment.is_root() {
        let mut flags = UnmountFlags::NOFOLLOW;
        flags.set(UnmountFlags::DETACH, lazy);
        return Ok(rustix::mount::unmount(mountpoint, flags)?);
    }
    let program = environment.program("fusermount3").ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "fusermount3 is not installed (apt install fuse3)",
        )
    })?;
    let output = Command::new(program)
        .args(if lazy {
            ["-u", "-z"].as_slice()
        } else {
            ["-u"].as_slice()
        })
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(if said.is_empty() {
        "fusermount3 refused".to_owned()
    } else {
        said
    }))
}

/// Waits until the process of `record` has ended; says whether it has.
///
/// # Errors
/// When the process cannot be watched.
pub(crate) fn wait_for_end(record: &MountRecord, limit: Duration) -> io::Result<bool> {
    let Some(pid) = i32::try_from(record.pid).ok().and_then(Pid::from_raw) else {
        return Ok(true);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    // Looked at once more now that the id cannot change its owner unnoticed.
    if !record.is_running() {
        return Ok(true);
    }
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(ended) => return Ok(ended > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ProcessMark;

    fn record(pid: u32) -> MountRecord {
        let own = ProcessMark::of(pid).unwrap();
        MountRecord {
            pid,
            pid_started_ticks: own.started_ticks,
            boot_id: own.boot_id,
            volume_id: "v".into(),
            source: "s".into(),
            endpoint: None,
            mountpoint: "/m".into(),
            state_dir: "/s".into(),
            socket: "/s/volume.sock".into(),
            started_ms: 0,
        }
    }

    #[test]
    fn a_plain_folder_answers() {
        assert_eq!(liveness(Path::new("/")), Liveness::Answers);
    }

    #[test]
    fn the_end_of_a_process_is_waited_for_and_a_running_one_is_not_waited_out() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let record = record(child.id());
        assert!(!wait_for_end(&record, Duration::from_millis(1)).unwrap());
        child.kill().unwrap();
        assert!(wait_for_end(&record, Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        assert!(wait_for_end(&record, Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn what_is_not_mounted_cannot_be_unmounted() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::of_this_process();
        assert!(unmount(dir.path(), false, &environment).is_err());
    }
}
