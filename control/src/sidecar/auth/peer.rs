//! Processes that connect over the Unix socket. The kernel has let them open it; this looks again at who they are, so
//! that a socket whose permissions somebody loosened is still closed.

use crate::wire::UnixCaller;

/// Whether a process is root's, of the user who runs the sidecar, or of the socket's group.
pub(super) fn may_use(caller: UnixCaller, group: u32) -> bool {
    if caller.uid == 0 || caller.gid == group || caller.uid == own_uid() {
        return true;
    }
    let status = caller
        .pid
        .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
    status.is_some_and(|status| groups(&status).any(|found| found == group))
}

fn own_uid() -> u32 {
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Without /proc nobody but root and the group may.
    effective_uid(&own).unwrap_or(0)
}

/// Second number of the line `Uid:`.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The numbers of the line `Groups:`.
fn groups(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_own_user_and_the_group_may_and_others_may_not() {
        let caller = |uid, gid, pid| UnixCaller { uid, gid, pid };
        assert!(may_use(caller(0, 5, None), 7));
        assert!(may_use(caller(own_uid() + 1234, 7, None), 7));
        assert!(!may_use(caller(own_uid() + 1234, 5, None), 7));
        assert!(!may_use(caller(own_uid() + 1234, 5, Some(i32::MAX)), 7));
        // The test's own process, as whoever runs it.
        assert!(may_use(caller(own_uid(), 5, None), 7));
        assert!(!may_use(caller(own_uid() + 1, 5, None), 7));
    }

    #[test]
    fn further_groups_are_read_from_the_kernels_list() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGroups:\t4 24 100 \nVmRSS:\t1 kB\n";
        assert_eq!(groups(status).collect::<Vec<_>>(), [4, 24, 100]);
        assert_eq!(effective_uid(status), Some(2));
        assert_eq!(groups("Groups:\t\n").count(), 0);
        assert_eq!(groups("").count(), 0);
    }
}
