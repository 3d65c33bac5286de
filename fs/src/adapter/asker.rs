//! Who asks, where that changes the answer. On a connection whose mounts may show other owners the kernel says so only of
//! requests that make an inode, whose owner it has translated. For the few others that need it, the asking thread's
//! capabilities are looked up, which is what local file systems go by.

use fuser::{INodeNo, Request};

use super::Adapter;
use super::convert::ino;

/// What the kernel says instead of a user.
const UNKNOWN: u32 = u32::MAX;
/// Set-id bits of a mode.
const SET_ID: u32 = 0o6000;
/// CAP_FSETID.
const KEEPS_SET_ID: u32 = 4;
/// CAP_SYS_ADMIN.
const ADMINISTERS: u32 = 21;

impl Adapter {
    /// Whether a change of this file's content takes its set-id bits away.
    pub(super) fn loses_set_id(&self, req: &Request, node: INodeNo) -> bool {
        match req.uid() {
            UNKNOWN => {
                let attr = self.engine.getattr(ino(node));
                let has_bits = attr.is_ok_and(|attr| attr.mode & SET_ID != 0);
                has_bits && !has_capability(req.pid(), KEEPS_SET_ID)
            }
            user => user != 0,
        }
    }
}

/// Whether attributes called `trusted.` are listed.
pub(super) fn sees_trusted(req: &Request) -> bool {
    match req.uid() {
        UNKNOWN => has_capability(req.pid(), ADMINISTERS),
        user => user == 0,
    }
}

/// Whether a thread has a capability of the machine itself. One that has gone, or is of another namespace of processes,
/// has none.
fn has_capability(thread: u32, number: u32) -> bool {
    if thread == 0 || !is_of_the_machine(thread) {
        return false;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    effective(&status).is_some_and(|set| set & (1 << number) != 0)
}

/// Whether its capabilities are those of this process's user namespace: root of a container has all of its own.
fn is_of_the_machine(thread: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let own = namespace("self");
    own.is_some() && namespace(&thread.to_string()) == own
}

fn effective(status: &str) -> Option<u64> {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_of_the_thread() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000200000\n";
        assert_eq!(effective(status), Some(1 << ADMINISTERS));
        assert_eq!(effective("CapEff:\tnonsense\n"), None);
        assert_eq!(effective(""), None);
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(has_capability(std::process::id(), KEEPS_SET_ID), is_root);
        assert!(!has_capability(0, KEEPS_SET_ID));
        assert!(!has_capability(u32::MAX, KEEPS_SET_ID));
    }
}
