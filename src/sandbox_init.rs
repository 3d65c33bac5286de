//! The first process of a sandbox: goes to the project's folder, starts the command, hands signals on to it, and reaps what
//! it leaves behind. Ends with the command's status, and everything else in the sandbox with it.
//!
//! It runs inside, as the command's user, and is this program only because that is at hand: nothing of the rest of it is
//! used. Without it the command would be the first process itself, which the kernel spares most signals, and nobody would
//! reap.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use crate::handover;

/// How a shell says that there is no such program, and that it cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
/// Signals that are meant for the command.
const HANDED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGALRM,
];

/// Runs `arguments` (a folder, a program, its arguments) and returns the status to end with.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let (Some(folder), Some(program)) = (arguments.next(), arguments.next()) else {
        return NOT_STARTED;
    };
    if let Err(error) = std::env::set_current_dir(&folder) {
        return fail(
            &format!("cannot work in {}", folder.display()),
            &error,
            NOT_STARTED,
        );
    }
    // Not buffered: what is behind the variables is the command's.
    let variables = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|input| handover::variables(&mut File::from(input)));
    let variables = match variables {
        Ok(variables) => variables,
        Err(error) => return fail("the command's variables do not come", &error, NOT_STARTED),
    };
    let signals = blocked();
    let mut command = Command::new(&program);
    command.args(arguments).env_clear().envs(variables);
    // The library leaves it as it is, and nothing could end the command then.
    // SAFETY: what runs between the fork and the program makes one system call.
    unsafe { command.pre_exec(unblock) };
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let status = match error.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_STARTED,
            };
            return fail(&format!("cannot run {}", program.display()), &error, status);
        }
    };
    let Ok(pid) = i32::try_from(child.id()) else {
        return NOT_STARTED;
    };
    loop {
        if let Some(status) = reaped(pid) {
            return code(status);
        }
        let mut signal = 0;
        // SAFETY: the set was filled, and the place for the signal lives until the call returns.
        if unsafe { libc::sigwait(&raw const signals, &raw mut signal) } != 0 {
            return NOT_STARTED;
        }
        if signal != libc::SIGCHLD {
            // SAFETY: a plain call; the child is not reaped yet, so the number is its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// Takes signals again.
fn unblock() -> std::io::Result<()> {
    // SAFETY: a set of signals is plain memory, made empty before it is used.
    let done = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Blocks what is waited for.
fn blocked() -> libc::sigset_t {
    // SAFETY: a set of signals is plain memory, made empty before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in HANDED_ON.into_iter().chain([libc::SIGCHLD]) {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

/// Reaps all that have ended; the status of `child` if it is among them.
fn reaped(child: i32) -> Option<ExitStatus> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: the place for the status lives until the call returns.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 | -1 => return found,
            pid if pid == child => found = Some(ExitStatus::from_raw(status)),
            _ => {}
        }
    }
}

/// As a shell says it.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

fn fail(what: &str, error: &std::io::Error, status: u8) -> u8 {
    drop(writeln!(std::io::stderr(), "weldrfs: {what}: {error}"));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_that_of_the_command_as_a_shell_says_it() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(libc::SIGKILL)), 137);
        assert_eq!(code(ExitStatus::from_raw(libc::SIGSEGV | 0x80)), 139);
    }
}
