//! Starting a mount in the background. The caller waits until the mount answers; a start that fails reaches it with
//! message and exit code. Knows nothing of what is mounted.
//!
//! The process is forked before it has any thread. Until the mount answers, the child keeps the caller's stderr, so that
//! even a crash is seen; then it lets go of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::failure::Failure;

/// How long a mount may take to answer; replaying a full journal takes seconds.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long a mount that missed it may take to stop before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often the end of a stopped child is looked for.
const REAP_INTERVAL: Duration = Duration::from_millis(20);
/// Longest message of a failed start.
const REPORT_MAX: u64 = 64 * 1024;
/// What the child sends when the mount answers. Anything else is an exit code followed by a message.
const READY: u8 = 0;

/// How the serving side says that its mount answers.
#[derive(Debug)]
pub(crate) struct Readiness(Option<File>);

impl Readiness {
    /// Nobody waits: a mount in the foreground.
    pub(crate) fn nobody_waits() -> Self {
        Self(None)
    }

    /// Lets the caller go. From here on nothing is written to its stderr.
    ///
    /// # Errors
    /// When the caller is gone: whoever asked for the mount has given up waiting.
    pub(crate) fn announce(&mut self) -> Result<(), Failure> {
        let Some(pipe) = &mut self.0 else {
            return Ok(());
        };
        pipe.write_all(&[READY]).map_err(|error| {
            Failure::Mount(format!(
                "whoever asked for this mount did not wait for it: {error}"
            ))
        })?;
        self.0 = None;
        let null = File::options().read(true).write(true).open("/dev/null");
        null.and_then(|null| rustix::stdio::dup2_stderr(&null).map_err(Into::into))
            .map_err(|error| Failure::system("cannot let go of stderr", &error))
    }

    /// Tells the caller why the mount does not come; logs it when nobody waits any more.
    fn report(self, failure: &Failure) {
        tracing::error!("{failure}");
        let Some(mut pipe) = self.0 else { return };
        let mut report = vec![failure.exit_code()];
        report.extend_from_slice(failure.to_string().as_bytes());
        // The caller may be gone; then the log is all there is.
        drop(pipe.write_all(&report));
    }
}

/// Runs `serve` in a child process and returns once it announced its readiness. In the child this does not return.
///
/// # Errors
/// What `serve` failed with before that, or that it did not announce itself in time.
pub(crate) fn start(
    serve: impl FnOnce(&mut Readiness) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(Failure::System(format!(
            "cannot go to the background with {threads} threads; use --foreground"
        )));
    }
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Failure::system("cannot make a pipe", &error))?;
    // SAFETY: this process has one thread (checked above), so the child inherits no lock that another thread holds.
    match unsafe { libc::fork() } {
        -1 => Err(Failure::system(
            "cannot start the mount's process",
            &io::Error::last_os_error(),
        )),
        0 => {
            drop(reader);
            std::process::exit(run_child(writer, serve).into())
        }
        child => {
            drop(writer);
            let child = Pid::from_raw(child)
                .ok_or_else(|| Failure::System("the mount's process has no id".into()))?;
            wait_for_report(reader, child, START_DEADLINE)
        }
    }
}

fn run_child(pipe: OwnedFd, serve: impl FnOnce(&mut Readiness) -> Result<(), Failure>) -> u8 {
    let detached = detach(&pipe);
    let mut readiness = Readiness(Some(File::from(pipe)));
    match detached.and_then(|()| serve(&mut readiness)) {
        Ok(()) => 0,
        Err(failure) => {
            let code = failure.exit_code();
            readiness.report(&failure);
            code
        }
    }
}

/// Leaves the caller's session, folder, stdin and stdout, and whatever else it had open: somebody may wait for the end
/// of a pipe that a daemon would hold for ever.
fn detach(report: &OwnedFd) -> Result<(), Failure> {
    let detached = || -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::chdir("/")?;
        close_inherited(report)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(())
    };
    detached().map_err(|error| Failure::system("cannot go to the background", &error))
}

/// Closes every descriptor above stderr except `report`.
fn close_inherited(report: &OwnedFd) -> io::Result<()> {
    let kept = u32::try_from(report.as_raw_fd()).map_err(io::Error::other)?;
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, u32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: right after the fork `report` is the only descriptor above stderr that anything in here owns.
        if unsafe { libc::close_range(first, last, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn wait_for_report(reader: OwnedFd, child: Pid, limit: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    let mut report = Vec::new();
    let mut reader = File::from(reader);
    loop {
        if !readable_before(&reader, deadline)? {
            stop(child);
            return Err(Failure::Mount(format!(
                "the mount did not answer within {} s and was stopped; nothing is lost. Try --foreground to see why",
                limit.as_secs()
            )));
        }
        let mut part = [0; 4096];
        let length = match reader.read(&mut part) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::system(
                    "cannot hear from the mount's process",
                    &error,
                ));
            }
        };
        report.extend_from_slice(&part[..length]);
        match report.first() {
            Some(&READY) => return Ok(()),
            _ if length == 0 || report.len() as u64 > REPORT_MAX => {
                return Err(failure_of(&report, child));
            }
            _ => {}
        }
    }
}

fn failure_of(report: &[u8], child: Pid) -> Failure {
    match report.split_first() {
        Some((&code, message)) => {
            Failure::from_report(code, String::from_utf8_lossy(message).into_owned())
        }
        None => Failure::Mount(format!(
            "the mount's process ended before the mount answered ({}). Try --foreground to see why",
            how_it_ended(child)
        )),
    }
}

fn how_it_ended(child: Pid) -> String {
    match waitpid(Some(child), WaitOptions::empty()) {
        Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        },
        _ => "its end was not seen".to_owned(),
    }
}

/// Whether something can be read, or the other end was closed, before `deadline`.
fn readable_before(file: &File, deadline: Instant) -> Result<bool, Failure> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left =
            Timespec::try_from(left).map_err(|error| Failure::system("cannot wait", &error))?;
        match poll(
            &mut [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)],
            Some(&left),
        ) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(Failure::system(
                    "cannot wait for the mount's process",
                    &error,
                ));
            }
        }
    }
}

/// Asks `child` to stop, and kills it when it does not.
fn stop(child: Pid) {
    // A child that is gone already is what is wanted.
    let _ = kill_process(child, Signal::TERM);
    let deadline = Instant::now() + STOP_GRACE;
    while Instant::now() < deadline {
        match waitpid(Some(child), WaitOptions::NOHANG) {
            Ok(None) => std::thread::sleep(REAP_INTERVAL),
            _ => return,
        }
    }
    let _ = kill_process(child, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader, File::from(writer))
    }

    /// A process id above the kernel's limit: signals to it reach nobody.
    fn nobody() -> Pid {
        Pid::from_raw(i32::MAX).unwrap()
    }

    /// A child of this test that sleeps until it is told to stop.
    fn sleeper() -> (std::process::Child, Pid) {
        let child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    #[test]
    fn readiness_lets_the_caller_go() {
        let (reader, mut writer) = pipe();
        writer.write_all(&[READY]).unwrap();
        wait_for_report(reader, nobody(), START_DEADLINE).unwrap();
    }

    #[test]
    fn a_caller_that_is_gone_is_noticed() {
        let (reader, writer) = pipe();
        drop(reader);
        let failure = Readiness(Some(writer)).announce().unwrap_err();
        assert!(failure.to_string().contains("did not wait"), "{failure}");
        assert!(Readiness::nobody_waits().announce().is_ok());
    }

    #[test]
    fn a_failure_arrives_with_its_code_even_in_pieces() {
        let (reader, mut writer) = pipe();
        writer.write_all(&[32]).unwrap();
        let rest = std::thread::spawn(move || writer.write_all(b"no such device"));
        let failure = wait_for_report(reader, nobody(), START_DEADLINE).unwrap_err();
        rest.join().unwrap().unwrap();
        assert_eq!(failure, Failure::Mount("no such device".into()));
    }

    #[test]
    fn a_child_killed_before_it_said_anything_is_reported_with_its_signal() {
        let (reader, writer) = pipe();
        let (mut child, pid) = sleeper();
        child.kill().unwrap();
        drop(writer);
        let failure = wait_for_report(reader, pid, START_DEADLINE).unwrap_err();
        assert!(failure.to_string().contains("signal 9"), "{failure}");
        assert_eq!(failure.exit_code(), 32);
    }

    #[test]
    fn a_silent_child_is_stopped_at_the_deadline() {
        let (reader, _writer) = pipe();
        let (_child, pid) = sleeper();
        let failure = wait_for_report(reader, pid, Duration::from_millis(10)).unwrap_err();
        assert!(failure.to_string().contains("did not answer"), "{failure}");
        assert!(
            waitpid(Some(pid), WaitOptions::NOHANG).is_err(),
            "the child was reaped"
        );
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test runner has several threads, so this must be refused rather than forked.
        let failure = start(|_| Ok(())).unwrap_err();
        assert!(failure.to_string().contains("threads"), "{failure}");
    }
}
