//! What sandboxes get unless a request says otherwise, and at most.

use std::path::PathBuf;

use super::budget::Machine;
use crate::sandbox::Limits;

/// How many commands may run at a time unless told otherwise.
pub const EXECS_MAX: usize = 8;
/// Memory of a sandbox on a machine that has plenty.
const MEMORY_BYTES: u64 = 4 << 30;
/// Processes and threads of a sandbox.
const PROCESSES: u32 = 1024;
/// Each private folder of a sandbox, on a machine that has plenty.
const TMP_BYTES: u64 = 1 << 30;
/// Runtimes in the order in which they are tried: the first is smaller, the second works in more places.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// What sandboxes get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSettings {
    /// How many commands may run at a time.
    pub execs_max: usize,
    /// What one sandbox gets unless it asks for less.
    pub limits: Limits,
    /// Folders of the machine that no sandbox sees, beside the usual ones.
    pub hidden: Vec<PathBuf>,
    /// Runtimes, in the order in which they are tried.
    pub runtimes: Vec<String>,
}

impl SandboxSettings {
    /// What fits a machine: three quarters of its memory at most, and half of that for each private folder.
    #[must_use]
    pub fn for_machine(machine: Machine, hidden: Vec<PathBuf>) -> Self {
        let most = match machine.memory_bytes / 4 * 3 {
            0 => MEMORY_BYTES,
            most => most.min(MEMORY_BYTES),
        };
        Self {
            execs_max: EXECS_MAX,
            limits: Limits {
                memory_bytes: most,
                cpu_millis: None,
                processes: PROCESSES,
                tmp_bytes: (most / 2).min(TMP_BYTES),
            },
            hidden,
            runtimes: RUNTIMES.map(str::to_owned).to_vec(),
        }
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        let machine = Machine {
            disk_bytes: 0,
            disk_free_bytes: 0,
            memory_bytes: 1 << 30,
        };
        Self::for_machine(machine, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_keeps_some_memory_for_itself() {
        let small = SandboxSettings::example();
        assert_eq!(small.limits.memory_bytes, 768 << 20);
        assert_eq!(small.limits.tmp_bytes, 384 << 20);
        let machine = Machine {
            disk_bytes: 0,
            disk_free_bytes: 0,
            memory_bytes: 64 << 30,
        };
        let large = SandboxSettings::for_machine(machine, Vec::new());
        assert_eq!(large.limits.memory_bytes, MEMORY_BYTES);
    }
}
