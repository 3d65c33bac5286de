//! Machines that use one bucket: each has a state and a mountpoint of its own, and knows of no other's mounts.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::bucket::{Bucket, source};
use crate::clocks::Clocks;
use crate::line::Line;
use crate::support::Answer as Said;

/// See the module.
pub(crate) struct Machine<'a> {
    pub(crate) bucket: &'a Bucket,
    pub(crate) name: &'static str,
    /// Its way to the bucket, if that can be cut.
    line: Option<Line>,
    /// Its clocks, if they can be moved.
    clocks: Option<Clocks>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(bucket: &'a Bucket, name: &'static str) -> Self {
        Self {
            bucket,
            name,
            line: None,
            clocks: None,
        }
    }

    pub(crate) fn on_a_line(self) -> Self {
        let line = Some(Line::to(self.bucket.server.address()));
        Self { line, ..self }
    }

    pub(crate) fn with_clocks(self) -> Self {
        let clocks = Some(Clocks::new(&self.bucket.place, self.name));
        Self { clocks, ..self }
    }

    pub(crate) fn line(&self) -> &Line {
        self.line.as_ref().unwrap()
    }

    pub(crate) fn clocks(&self) -> &Clocks {
        self.clocks.as_ref().unwrap()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.bucket.place.path(self.name)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bucket.command("60", arguments);
        let place = &self.bucket.place;
        command
            .env("WELDR_ENV_VOL", place.path(&format!("state-{}", self.name)))
            .env("WELDRFS_RUN_DIR", place.path(&format!("run-{}", self.name)));
        if let Some(line) = &self.line {
            command.env("S3_ENDPOINT", line.endpoint());
        }
        if let Some(clocks) = &self.clocks {
            clocks.apply(&mut command);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    pub(crate) fn mount(&self, options: &str) -> Said {
        self.mount_on(self.name, options)
    }

    /// A mount elsewhere: of a copy, beside the volume.
    pub(crate) fn mount_on(&self, mountpoint: &str, options: &str) -> Said {
        let (source, root) = (source(), self.bucket.place.text(mountpoint));
        match options {
            "" => self.run(&["mount", &source, &root]),
            options => self.run(&["mount", &source, &root, "-o", options]),
        }
    }

    pub(crate) fn sync(&self) -> Said {
        self.run(&["sync", &self.bucket.place.text(self.name)])
    }

    pub(crate) fn unmount(&self) {
        self.unmount_from(self.name);
    }

    pub(crate) fn unmount_from(&self, mountpoint: &str) {
        self.run(&["umount", &self.bucket.place.text(mountpoint)])
            .success();
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let status = self.run(&["status", "--json", &self.bucket.place.text(self.name)]);
        serde_json::from_str(&status.success().stdout).unwrap()
    }

    /// The process that serves the mount.
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.status()["pid"].as_i64().unwrap();
        Pid::from_raw(pid.try_into().unwrap()).unwrap()
    }

    /// Names of its divergent copies.
    pub(crate) fn copies(&self) -> Vec<String> {
        let state = self.bucket.place.path(&format!("state-{}", self.name));
        let volumes = std::fs::read_dir(state).unwrap();
        volumes
            .flat_map(|volume| std::fs::read_dir(volume.unwrap().path()).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("divergent-"))
            .collect()
    }
}

pub(crate) fn two_machines(bucket: &Bucket) -> (Machine<'_>, Machine<'_>) {
    (Machine::new(bucket, "m"), Machine::new(bucket, "m2"))
}

/// Writes a file, or tells the errno.
pub(crate) fn writes(path: &Path) -> Result<(), Option<i32>> {
    std::fs::write(path, "x").map_err(|error| error.raw_os_error())
}
