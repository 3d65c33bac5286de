//! A folder with everything a mount needs, commands in it, and what they answered.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_weldrfs");
/// How long anything in these tests may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails with the reason when this machine cannot mount.
pub(crate) fn require_fuse() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts and has to be run by root"
    );
    assert!(
        Path::new("/dev/fuse").exists(),
        "this test needs /dev/fuse: modprobe fuse, or start the container with --device /dev/fuse"
    );
}

/// A temporary folder with a mountpoint `m`, a store in `s` and room for state; everything mounted in it goes with it.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Users other than the one who runs the tests take part.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["m", "m2", "s"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        std::fs::canonicalize(self.dir.path()).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// `path`, for command lines.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn source(&self) -> String {
        format!("file://{}", self.text("s/vol"))
    }

    /// A command whose state and notes stay in this place.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("WELDR_ENV_VOL", self.path("state"))
            .env("WELDRFS_RUN_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program under test.
    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        // timeout(1) turns a hang into a failure.
        let mut command = self.command("timeout");
        Answer::of(
            command
                .args(["60", PROGRAM])
                .args(arguments)
                .output()
                .unwrap(),
        )
    }

    /// Runs `script` in a mount namespace of its own, so that it may cover parts of the system.
    pub(crate) fn script_apart(&self, script: &str) -> Answer {
        let mut command = self.command("timeout");
        command.args(["60", "unshare", "--mount", "sh", "-euc", script]);
        command
            .env("PROGRAM", PROGRAM)
            .env("PLACE", self.root())
            .env("SOURCE", self.source());
        Answer::of(command.output().unwrap())
    }

    /// Mounts the volume on `m` in the background.
    pub(crate) fn mount(&self) {
        self.run(&["mount", &self.source(), &self.text("m")])
            .success();
    }

    /// Serves the volume on `m` in the foreground; returns once it answers.
    pub(crate) fn mount_in_foreground(&self) -> Child {
        let mut command = self.command(PROGRAM);
        command
            .args(["mount", "--foreground", &self.source(), &self.text("m")])
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        until("the mount answers", || {
            self.run(&["status", &self.text("m")]).code == 0
        });
        child
    }

    /// Process id of the mount on `m`.
    pub(crate) fn pid(&self) -> i32 {
        let answer = self.run(&["status", "--json", &self.text("m")]);
        let status: serde_json::Value = serde_json::from_str(&answer.success().stdout).unwrap();
        status["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// Every file, folder and link in this place, with its size.
    pub(crate) fn inventory(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                found.insert(
                    entry.path(),
                    if metadata.is_dir() { 0 } else { metadata.len() },
                );
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        found
    }

    /// The lines of the mount table about this place.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = self.text("");
        table
            .lines()
            .filter(|line| line.contains(&place))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in ["m", "m2"] {
            // Most tests have unmounted by now; after a failed one this clears what is left.
            drop(
                Command::new("umount")
                    .args(["-l", "-q"])
                    .arg(self.dir.path().join(name))
                    .output(),
            );
        }
    }
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// The command failed with `code` and said every one of `parts`.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part:?} is missing in {self:?}"
            );
        }
        self
    }
}

/// Waits for `condition`; fails when it does not come.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: waited {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
