//! Running other programs: with a deadline, timed, and never left behind.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{At, Error, Result};

/// How much of what a failed program said is kept, bytes.
const SAID_BYTES: usize = 600;
/// How long a killed program may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// How often something that is awaited is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// What a program that succeeded left.
pub(crate) struct Done {
    pub(crate) stdout: String,
    pub(crate) seconds: f64,
}

/// Runs a program that must succeed within `limit`. After that it and its children are killed.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Done> {
    let program = name_of(command);
    // Files, not pipes: nothing has to read them while the program runs.
    let mut stdout = tempfile::tempfile().at("a temporary file")?;
    let mut stderr = tempfile::tempfile().at("a temporary file")?;
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().at("a descriptor")?)
        .stderr(stderr.try_clone().at("a descriptor")?)
        .process_group(0);
    ends_with_us(command);
    let began = Instant::now();
    let child = command.spawn().at(&program)?;
    let (status, ended) = wait(child, limit)?;
    let seconds = ended.duration_since(began).as_secs_f64();
    let stdout = content(&mut stdout)?;
    if status.success() {
        return Ok(Done { stdout, seconds });
    }
    Err(Error::Failed {
        program,
        status: status.to_string(),
        said: tail(&format!("{stdout}{}", content(&mut stderr)?)),
    })
}

/// A harness that is stopped leaves no program behind: the kernel kills it with the thread that started it, which is the
/// main one.
fn ends_with_us(command: &mut Command) {
    let ask = || {
        let kill = Some(rustix::process::Signal::KILL);
        Ok(rustix::process::set_parent_process_death_signal(kill)?)
    };
    // SAFETY: between fork and exec this makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

fn name_of(command: &Command) -> String {
    let path = Path::new(command.get_program());
    let name = path.file_name().unwrap_or_default();
    let mut words = vec![name.to_string_lossy().into_owned()];
    let arguments = command.get_args().take(2);
    words.extend(arguments.map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Waits in a thread of its own, so that the end is seen when it happens and the deadline holds all the same.
fn wait(mut child: Child, limit: Duration) -> Result<(ExitStatus, Instant)> {
    let group = child.id();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let status = child.wait();
        // Nobody listens any more after the deadline.
        let _ = send.send((status, Instant::now()));
    });
    match receive.recv_timeout(limit) {
        Ok((status, ended)) => Ok((status.at("waiting for a program")?, ended)),
        Err(_) => {
            kill_group(group);
            let _ = receive.recv_timeout(KILL_DEADLINE);
            Err(Error::Deadline(limit))
        }
    }
}

fn kill_group(leader: u32) {
    let group = i32::try_from(leader)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

fn content(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().at("output")?;
    file.read_to_end(&mut bytes).at("output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of what a program said, on one line.
pub(crate) fn tail(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let from = line.len().saturating_sub(SAID_BYTES);
    line.chars()
        .scan(0, |at, c| {
            *at += c.len_utf8();
            Some((*at, c))
        })
        .filter(|(at, _)| *at > from)
        .map(|(_, c)| c)
        .collect()
}

/// A program in the background. Dropping it kills it and its children.
pub(crate) struct Background {
    child: Child,
}

impl Background {
    /// Starts it with its output in `log`. `stdin` and `stdout` may be pipes.
    pub(crate) fn start(
        command: &mut Command,
        log: &Path,
        stdin: Stdio,
        stdout: Option<Stdio>,
    ) -> Result<Self> {
        let log = File::create(log).at(log)?;
        let stdout = match stdout {
            Some(stdout) => stdout,
            None => log.try_clone().at("a descriptor")?.into(),
        };
        command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(log)
            .process_group(0);
        ends_with_us(command);
        let child = command.spawn().at(name_of(command))?;
        Ok(Self { child })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Its status when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for it to end by itself; whether it did.
    pub(crate) fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.ended().is_none() {
            kill_group(self.child.id());
        }
        let _ = self.wait(KILL_DEADLINE);
    }
}

/// Memory of a process and all its descendants, bytes: resident now, and the sum of their peaks.
pub(crate) fn memory(root: u32) -> (u64, u64) {
    let mut wanted = vec![root];
    let parents = parents();
    let mut at = 0;
    while at < wanted.len() {
        let parent = wanted[at];
        wanted.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(c, _)| *c),
        );
        at += 1;
    }
    let of = |pid: &u32, field: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field));
        let kib: Option<u64> = line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
        kib.unwrap_or(0) * 1024
    };
    let sum = |field| wanted.iter().map(|pid| of(pid, field)).sum();
    (sum("VmRSS:"), sum("VmHWM:"))
}

/// Every process and its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and brackets; the fields behind it do not.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        Some((pid, parent.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_that_fails_says_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let error = run(&mut command, LONG).err().expect("it fails").to_string();
        assert!(
            error.contains("no such thing") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 600 & echo $! > \"$1\"; wait", "sh"])
            .arg(&pid_file);
        let limit = Duration::from_secs(2);
        assert!(matches!(run(&mut command, limit), Err(Error::Deadline(_))));
        let pid: i32 = std::fs::read_to_string(pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let deadline = Instant::now() + LONG;
        // Killed, it is a zombie until its new parent looks.
        while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit_once(')')
                .is_some_and(|(_, rest)| rest.starts_with(" Z"))
        }) {
            assert!(Instant::now() < deadline, "the child is still there");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn memory_counts_the_children_too() {
        let own = memory(std::process::id()).0;
        assert!(own > 0);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let both = parents().contains(&(child.id(), std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(both, "the child is not among the descendants");
    }

    #[test]
    fn the_tail_of_a_text_is_cut_between_characters() {
        assert_eq!(tail("a\n  b"), "a b");
        let long = "é".repeat(SAID_BYTES);
        assert!(tail(&long).len() <= SAID_BYTES && tail(&long).ends_with('é'));
    }
}
