//! The control group of a sandbox: what it uses, and whether it met its limits. Both versions of control groups, the old
//! one with a tree for each kind.

use std::path::{Path, PathBuf};

use weldrfs_control::{SandboxUse, cgroup_path};

/// Where control groups are.
const BASE: &str = "/sys/fs/cgroup";

/// What a sandbox met and used until its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) out_of_memory: bool,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) cpu_ms: Option<u64>,
}

/// Whether this machine has one tree for everything.
fn is_unified() -> bool {
    Path::new(BASE).join("cgroup.controllers").exists()
}

/// The group of the sandbox in `folder` for `kind`.
fn group(folder: &Path, kind: &str) -> PathBuf {
    let path = cgroup_path(folder);
    let path = path.strip_prefix("/").unwrap_or(&path);
    match is_unified() {
        true => Path::new(BASE).join(path),
        false => Path::new(BASE).join(kind).join(path),
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of keys and numbers.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// What the sandbox in `folder` uses now; `None` when it is gone.
pub(crate) fn usage(folder: &Path) -> Option<SandboxUse> {
    let (memory, processes) = match is_unified() {
        true => ("memory.current", "pids.current"),
        false => ("memory.usage_in_bytes", "pids.current"),
    };
    Some(SandboxUse {
        memory_bytes: number(&group(folder, "memory").join(memory))?,
        cpu_ms: cpu_ms(folder)?,
        processes: number(&group(folder, "pids").join(processes))?,
    })
}

fn cpu_ms(folder: &Path) -> Option<u64> {
    match is_unified() {
        true => {
            keyed(&group(folder, "cpu").join("cpu.stat"), "usage_usec").map(|micros| micros / 1000)
        }
        false => {
            number(&group(folder, "cpuacct").join("cpuacct.usage")).map(|nanos| nanos / 1_000_000)
        }
    }
}

/// What the sandbox in `folder` used and met; asked before its group is removed.
pub(crate) fn account(folder: &Path) -> Account {
    let memory = group(folder, "memory");
    let (events, peak) = match is_unified() {
        true => ("memory.events", "memory.peak"),
        false => ("memory.oom_control", "memory.max_usage_in_bytes"),
    };
    Account {
        out_of_memory: keyed(&memory.join(events), "oom_kill").is_some_and(|kills| kills > 0),
        memory_peak_bytes: number(&memory.join(peak)),
        cpu_ms: cpu_ms(folder),
    }
}

/// Whether swap has to be limited, and can be.
pub(crate) fn limits_swap() -> bool {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let can = is_unified()
        || Path::new(BASE)
            .join("memory/memory.memsw.limit_in_bytes")
            .exists();
    can && swaps.lines().count() > 1
}

/// The processes of the sandbox in `folder`.
pub(crate) fn processes(folder: &Path) -> Vec<u32> {
    let text =
        std::fs::read_to_string(group(folder, "pids").join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
