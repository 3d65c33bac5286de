//! A mounted volume for a test: the real binary, on a `file://` store in a folder of its own, or on another.
//!
//! Owns starting, killing, unmounting and cleaning up; every wait here has a deadline.

#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(120);
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);
/// How long a mount may be in use by what a program inherited between fork and exec.
const BUSY_DEADLINE: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(10);

/// The variable that says where mounts are noted. Each volume has a folder of its own: mounts of other tests are none of
/// its business.
const RUN_DIR: &str = "WELDRFS_RUN_DIR";

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_weldrfs");

/// Stops the test where no mount is possible; such a test must not pass by doing nothing.
pub(crate) fn require_fuse() {
    assert!(
        Path::new("/dev/fuse").exists(),
        "this test needs /dev/fuse: run `modprobe fuse`, or give the container `--device /dev/fuse --cap-add SYS_ADMIN`"
    );
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts and unmounts and therefore needs root: run it with sudo"
    );
}

/// Store, state and mountpoint below one temporary folder.
pub(crate) struct Volume {
    folder: tempfile::TempDir,
    source: String,
    options: Vec<String>,
    running: Option<Child>,
}

impl Volume {
    /// A new, empty volume, mounted.
    pub(crate) fn mounted() -> Self {
        Self::mounted_with(&[])
    }

    /// The same with further mount options (`name=value`).
    pub(crate) fn mounted_with(options: &[&str]) -> Self {
        Self::mounted_from(None, options)
    }

    /// The same on a store elsewhere.
    pub(crate) fn mounted_on(source: &str, options: &[&str]) -> Self {
        Self::mounted_from(Some(source), options)
    }

    /// The same on a store elsewhere, or in a folder of its own.
    pub(crate) fn mounted_from(source: Option<&str>, options: &[&str]) -> Self {
        require_fuse();
        let folder = tempfile::Builder::new()
            .prefix("weldrfs-test-")
            .tempdir()
            .expect("a temporary folder can be made");
        for name in ["store", "state", "mnt"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder can be made");
        }
        let store = format!("file://{}", folder.path().join("store").display());
        let mut volume = Self {
            source: source.map_or(store, str::to_owned),
            folder,
            options: options.iter().map(|&o| o.to_owned()).collect(),
            running: None,
        };
        volume.mount();
        volume
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// A folder beside the mount, on the local disk.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("the volume is mounted").id()
    }

    pub(crate) fn mount(&mut self) {
        assert!(self.running.is_none(), "it is mounted already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.beside("mount.log"))
            .expect("the log opens");
        let state = self.folder.path().join("state");
        let mut options = format!("state_dir={}", state.display());
        for option in &self.options {
            options.push(',');
            options.push_str(option);
        }
        let child = Command::new(PROGRAM)
            .arg("mount")
            .arg(&self.source)
            .arg(self.root())
            .args(["--foreground", "-o", &options])
            .env(RUN_DIR, self.beside("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.running = Some(child);
        let deadline = Instant::now() + START_DEADLINE;
        while !is_mounted(&self.root()) || std::fs::metadata(self.root()).is_err() {
            let ended = self
                .running
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            assert!(
                ended.is_none(),
                "the mount ended at once ({ended:?}):\n{}",
                self.log_tail()
            );
            assert!(
                Instant::now() < deadline,
                "the mount does not answer:\n{}",
                self.log_tail()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Unmounts as a user does and waits until the process is gone.
    pub(crate) fn unmount(&mut self) {
        let root = self.root();
        let arguments = ["umount", &root.to_string_lossy()];
        let deadline = Instant::now() + BUSY_DEADLINE;
        // A program that a test beside this one starts has, until its exec, all that this test has had open.
        let output = loop {
            let output = self.attempt(&arguments);
            let busy = String::from_utf8_lossy(&output.stderr).contains("is in use");
            if !busy || Instant::now() > deadline {
                break output;
            }
            std::thread::sleep(BUSY_PAUSE);
        };
        self.assert_success(&arguments, &output);
        let status = self.wait_for_end();
        assert!(
            status.success(),
            "the mount process ended with {status}:\n{}",
            self.log_tail()
        );
        assert!(!is_mounted(&self.root()), "still mounted after umount");
    }

    pub(crate) fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Unmounts, and mounts as a machine does that has no local state.
    pub(crate) fn move_to_a_new_machine(&mut self) {
        self.unmount();
        let state = self.folder.path().join("state");
        std::fs::remove_dir_all(&state).expect("the state can be removed");
        std::fs::create_dir(&state).expect("a folder can be made");
        self.mount();
    }

    /// What the mount says of itself.
    pub(crate) fn status(&self) -> serde_json::Value {
        let said = self.command(&["status", "--json", &self.root().to_string_lossy()]);
        serde_json::from_slice(&said.stdout).expect("the status is JSON")
    }

    /// `kill -9` of the mount process; leaves the dead mount in place.
    pub(crate) fn kill(&mut self) {
        let child = self.running.as_mut().expect("the volume is mounted");
        child.kill().expect("the mount process can be killed");
        let status = self.wait_for_end();
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "the mount was dead before the kill:\n{}",
            self.log_tail()
        );
    }

    /// Takes a dead mount away.
    pub(crate) fn detach(&self) {
        detach(&self.root());
        assert!(
            !is_mounted(&self.root()),
            "the dead mount is still there after umount -l"
        );
    }

    /// Uploads everything and empties the local data cache: what is read next comes from the store.
    pub(crate) fn sync_and_drop_caches(&self) {
        let root = self.root();
        self.command(&["sync", &root.to_string_lossy()]);
        self.command(&["drop-caches", &root.to_string_lossy()]);
    }

    /// Runs one of the program's commands, which must succeed.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let output = self.attempt(arguments);
        self.assert_success(arguments, &output);
        output
    }

    fn attempt(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("WELDR_ENV_VOL", self.beside("state"))
            .env(RUN_DIR, self.beside("run"));
        finish(&mut command, COMMAND_DEADLINE)
    }

    fn assert_success(&self, arguments: &[&str], output: &Output) {
        assert!(
            output.status.success(),
            "weldrfs {} failed ({}): {}\nlog of the mount:\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log_tail()
        );
    }

    /// Resident memory of the mount process in bytes: (now, at most so far).
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process is there");
        let field = |name: &str| {
            let line = status
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or("");
            line.split_whitespace()
                .nth(1)
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0)
                * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.beside("mount.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.running.take().expect("the volume is mounted");
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = child.try_wait().expect("the child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the mount process does not end:\n{}", self.log_tail());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the mount:\n{}", self.log_tail());
        }
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Before the temporary folder is removed: nothing may walk into a dead mount.
        detach(&self.root());
    }
}

/// Whether something is mounted on exactly this path.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let wanted = path.to_string_lossy();
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&*wanted))
}

fn detach(path: &Path) {
    if is_mounted(path) {
        let _ = Command::new("umount").arg("-l").arg(path).status();
    }
}

/// Runs a program to its end, or kills it at the deadline and stops the test.
pub(crate) fn finish(command: &mut Command, deadline: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let until = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{command:?} is not done after {} s", deadline.as_secs());
        }
        std::thread::sleep(POLL);
    };
    let read = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Output {
        status,
        stdout: read(stdout),
        stderr: read(stderr),
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut all);
        }
        all
    })
}
