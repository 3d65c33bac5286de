//! What a run has to say of the machine and of the program. No host names, no paths.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::{latency, process};

const GIT_DEADLINE: Duration = Duration::from_secs(30);

/// The machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
    /// File system of the folder the run worked in.
    pub(crate) disk: String,
    /// `enable_uring` of the FUSE module.
    pub(crate) enable_uring: String,
    /// What `/dev/cpu_dma_latency` said when the run began, µs: 0 means that somebody else held it.
    pub(crate) cpu_dma_latency_us: Option<i32>,
    /// Load average over a minute when the run began: a quiet machine shows less than 1.
    pub(crate) load_at_start: String,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Commit {
    pub(crate) id: String,
    /// Something differed from the commit.
    pub(crate) changed: bool,
    /// `release` or `debug`.
    pub(crate) profile: String,
}

impl Machine {
    /// The machine this runs on; `work` is the folder that is measured.
    pub(crate) fn here(work: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
            value.unwrap_or_else(|| "unknown".into())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        let uring = read("/sys/module/fuse/parameters/enable_uring");
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib / 1024,
            disk: file_system_of(work),
            enable_uring: match uring.trim() {
                "" => "not there".into(),
                text => text.to_owned(),
            },
            cpu_dma_latency_us: latency::now_us(),
            load_at_start: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// The type of the file system a folder is on, as the mount table names it.
pub(crate) fn file_system_of(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut best = (0, "unknown".to_owned());
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(place) = left.split(' ').nth(4) else {
            continue;
        };
        // A later mount on the same place hides the former.
        if folder.starts_with(place) && place.len() >= best.0 {
            let kind = right.split(' ').next().unwrap_or("unknown");
            best = (place.len(), kind.to_owned());
        }
    }
    best.1
}

impl Commit {
    /// The commit that is checked out in `repository`.
    pub(crate) fn of(repository: &Path) -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            // Under sudo the repository is somebody else's.
            command.args(["-c", "safe.directory=*", "-C"]);
            command.arg(repository).args(arguments);
            process::run(&mut command, GIT_DEADLINE).map(|done| done.stdout.trim().to_owned())
        };
        Ok(Self {
            id: git(&["rev-parse", "HEAD"])?,
            changed: !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_deepest_mount() {
        assert_eq!(file_system_of(Path::new("/proc/self")), "proc");
        assert_ne!(file_system_of(Path::new("/")), "unknown");
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::here(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_mib > 0);
        assert!(machine.kernel.contains('.'), "{}", machine.kernel);
    }
}
