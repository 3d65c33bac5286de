//! A process that makes calls for a test. Requests and answers are lines of JSON through pipes.

use super::call::{Call, Outcome};
use super::perform::Performer;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The argument that makes a test program such a process.
const ASKED: &str = "--make-calls";
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Who a process is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
}

/// Root, as most tests are.
pub(crate) const ROOT_USER: Person = Person {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
    umask: 0o022,
};

/// A running process.
pub(crate) struct Process {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    asked: Option<Call>,
}

impl Process {
    pub(crate) fn start(root: &Path, person: &Person) -> Self {
        let person = serde_json::to_string(person).expect("a person is JSON");
        let mut child = Command::new(std::env::current_exe().expect("the program has a path"))
            .arg(ASKED)
            .arg(root)
            .arg(person)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts again");
        let requests = child.stdin.take().expect("it has a stdin");
        let stdout = child.stdout.take().expect("it has a stdout");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            requests,
            answers,
            asked: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes a call and waits for its answer.
    pub(crate) fn call(&mut self, call: &Call) -> Outcome {
        self.ask(call);
        self.answer()
    }

    /// Begins a call that may wait.
    pub(crate) fn ask(&mut self, call: &Call) {
        assert!(self.asked.is_none(), "{:?} is not answered", self.asked);
        let line = serde_json::to_string(call).expect("a call is JSON");
        writeln!(self.requests, "{line}").expect("the process takes requests");
        self.asked = Some(call.clone());
    }

    /// Waits for the answer of the call that was begun.
    pub(crate) fn answer(&mut self) -> Outcome {
        let call = self.asked.take().expect("a call was begun");
        match self.answers.recv_timeout(ANSWER_DEADLINE) {
            Ok(line) => serde_json::from_str(&line).expect("an answer is JSON"),
            Err(RecvTimeoutError::Timeout) => panic!("{call:?} does not come back"),
            Err(RecvTimeoutError::Disconnected) => {
                panic!(
                    "the process ended during {call:?}: {:?}",
                    self.child.try_wait()
                )
            }
        }
    }

    /// Waits until the kernel shows somebody who waits for a lock on the file.
    pub(crate) fn waits_for_lock(&mut self, file: &Path) {
        let until = Instant::now() + ANSWER_DEADLINE;
        let seen = rustix::fs::stat(file).expect("the file is there");
        let (major, minor) = (
            rustix::fs::major(seen.st_dev),
            rustix::fs::minor(seen.st_dev),
        );
        let inode = format!(" {major:02x}:{minor:02x}:{} ", seen.st_ino);
        loop {
            let locks = std::fs::read_to_string("/proc/locks").expect("the kernel lists locks");
            if locks
                .lines()
                .any(|line| line.contains("->") && line.contains(&inode))
            {
                return;
            }
            assert!(
                Instant::now() < until,
                "{:?} does not wait for a lock on {inode}:\n{locks}",
                self.asked
            );
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal that the process handles by doing nothing.
    pub(crate) fn interrupt(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::USR1)
            .expect("the process is there");
    }

    /// Ends it the hard way, and waits for that.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Must be the first thing that `main` does: serves calls until the test is done with it, when the program was started
/// for that.
pub(crate) fn serve_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ASKED) {
        return;
    }
    let root = arguments.next().expect("the root folder is given");
    let person = arguments.next().expect("the person is given");
    let person: Person =
        serde_json::from_slice(person.as_encoded_bytes()).expect("the person is JSON");
    // It must not outlive the test, however that ends.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .expect("a death signal can be set");
    let mut performer = Performer::new(Path::new(&root), &person);
    let stdout = std::io::stdout();
    for line in std::io::stdin().lines() {
        let line = line.expect("requests can be read");
        let call: Call = serde_json::from_str(&line).expect("a request is JSON");
        let outcome = performer.perform(&call);
        let answer = serde_json::to_string(&outcome).expect("an answer is JSON");
        let mut out = stdout.lock();
        writeln!(out, "{answer}").expect("the test takes answers");
        out.flush().expect("the test takes answers");
    }
    std::process::exit(0);
}
