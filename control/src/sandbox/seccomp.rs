//! Which system calls a sandbox may make. What is not listed fails with ENOSYS, as on a kernel that does not know it, so
//! that programs fall back; what programs expect to be refused fails with EPERM.
//!
//! The list is the container runtimes' own default, less what only privileged processes can use, what reaches into other
//! processes (ptrace and its kin, pidfd_getfd), io_uring (whose requests no filter sees), keys, and the loading of
//! programs into the kernel. A list of what is allowed and not of what is dangerous: what the next kernel brings is not
//! allowed before somebody has looked at it.
//!
//! No file gets a set-id bit: on the project's volume it would be one of the machine's users, for all who can reach the
//! mount. `openat2`, whose mode is in memory, where no filter sees it, is not there for that reason. Calls of other
//! architectures than the program's own, which have other numbers and other arguments, end it.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// CLONE_NEW* of all kinds but time, which shares a bit with a signal number in clone's flags.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Families of sockets: unix, inet, inet6, netlink. Others (vsock, packet, alg, bluetooth) reach what is not a network.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// Personalities that change nothing but how programs are told of the machine.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x0002_0000, 0x0002_0008, 0xFFFF_FFFF];

/// Without conditions.
const ALLOWED: &str = "\
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chown chown32 clock_getres \
clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
copy_file_range dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate \
fchdir fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork \
fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue \
futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt \
get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup \
io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
listen listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
memfd_create memfd_secret mincore mkdir mkdirat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr \
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl \
msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect \
pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 \
preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink \
readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat \
renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam \
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 \
setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid \
setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn \
socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee \
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit \
umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev \
arch_prctl modify_ldt arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// What is expected to be refused, not to be missing.
const REFUSED: &str = "\
acct add_key bpf chroot clock_adjtime clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount \
fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl \
lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages open_by_handle_at open_tree perf_event_open \
pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key \
set_mempolicy setdomainname sethostname setns settimeofday swapoff swapon syslog umount umount2 unshare userfaultfd \
vhangup";

/// Calls that give a file its mode, with the number of that argument.
const MODES: [(&str, usize); 7] = [
    ("chmod", 1),
    ("creat", 1),
    ("fchmod", 1),
    ("fchmodat", 2),
    ("fchmodat2", 2),
    ("mknod", 1),
    ("mknodat", 2),
];
/// Those that do so only with flags that make a file, with the numbers of flags and mode.
const OPENS: [(&str, usize, usize); 2] = [("open", 1, 2), ("openat", 2, 3)];
/// S_ISUID and S_ISGID.
const SET_ID: [u64; 2] = [0o4000, 0o2000];
/// O_CREAT and what O_TMPFILE is beside O_DIRECTORY.
const MAKES: u64 = 0o100 | 0o20_000_000;
/// EPERM.
const NOT_PERMITTED: u32 = 1;
/// ENOSYS.
const NO_SUCH_CALL: u32 = 38;

/// The profile, for the architecture this is built for and no other, not even the 32-bit one that goes with it.
pub(super) fn profile() -> LinuxSeccomp {
    let architecture = match cfg!(target_arch = "aarch64") {
        true => Arch::ScmpArchAarch64,
        false => Arch::ScmpArchX86_64,
    };
    let mut rules = vec![
        rule(words(ALLOWED), None, &[]),
        rule(words(REFUSED), Some(NOT_PERMITTED), &[]),
        // Threads and processes, but no namespaces. Of clone3 the flags are in memory, where no filter sees them.
        rule(
            vec!["clone".into()],
            None,
            &[(0, NEW_NAMESPACES, LinuxSeccompOperator::ScmpCmpMaskedEq, 0)],
        ),
        rule(vec!["clone3".into()], Some(NO_SUCH_CALL), &[]),
    ];
    let equal = LinuxSeccompOperator::ScmpCmpEq;
    for family in FAMILIES {
        rules.push(rule(vec!["socket".into()], None, &[(0, family, equal, 0)]));
    }
    let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
    let any_bit = SET_ID.iter().sum::<u64>();
    for (name, mode) in MODES {
        let name = || vec![name.to_owned()];
        rules.push(rule(name(), None, &[(mode, any_bit, masked, 0)]));
        for bit in SET_ID {
            let condition = [(mode, bit, masked, bit)];
            rules.push(rule(name(), Some(NOT_PERMITTED), &condition));
        }
    }
    for (name, flags, mode) in OPENS {
        let name = || vec![name.to_owned()];
        rules.push(rule(name(), None, &[(flags, MAKES, masked, 0)]));
        rules.push(rule(name(), None, &[(mode, any_bit, masked, 0)]));
    }
    for personality in PERSONALITIES {
        let condition = [(0, personality, equal, 0)];
        rules.push(rule(vec!["personality".into()], None, &condition));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(NO_SUCH_CALL))
        .set_architectures(Some(vec![architecture]))
        .set_syscalls(Some(rules));
    profile
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A rule for calls: allowed, or refused with an error; `(argument, value, operator, second value)` are its conditions.
fn rule(
    names: Vec<String>,
    error: Option<u32>,
    conditions: &[(usize, u64, LinuxSeccompOperator, u64)],
) -> LinuxSyscall {
    let action = match error {
        None => LinuxSeccompAction::ScmpActAllow,
        Some(_) => LinuxSeccompAction::ScmpActErrno,
    };
    let conditions: Vec<LinuxSeccompArg> = conditions
        .iter()
        .map(|&(index, value, operator, second)| {
            let condition = LinuxSeccompArgBuilder::default()
                .index(index)
                .value(value)
                .op(operator)
                .value_two(second);
            condition.build().expect("every field has a value")
        })
        .collect();
    let mut rule = LinuxSyscall::default();
    rule.set_names(names)
        .set_action(action)
        .set_errno_ret(error)
        .set_args((!conditions.is_empty()).then_some(conditions));
    rule
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        let set = |text: &str| words(text).into_iter().collect::<BTreeSet<_>>();
        let (allowed, refused) = (set(ALLOWED), set(REFUSED));
        assert_eq!(allowed.len(), words(ALLOWED).len(), "one is there twice");
        assert_eq!(allowed.intersection(&refused).count(), 0);
        for call in ["clone", "clone3", "socket", "personality"] {
            assert!(!allowed.contains(call) && !refused.contains(call), "{call}");
        }
    }

    #[test]
    fn what_gives_power_is_not_allowed() {
        let allowed: BTreeSet<_> = words(ALLOWED).into_iter().collect();
        for call in [
            "mount",
            "unshare",
            "setns",
            "ptrace",
            "keyctl",
            "bpf",
            "io_uring_setup",
            "kexec_load",
            "init_module",
            "open_by_handle_at",
            "perf_event_open",
            "userfaultfd",
            "reboot",
            "pivot_root",
            "process_vm_readv",
        ] {
            assert!(!allowed.contains(call), "{call}");
        }
    }

    #[test]
    fn no_call_makes_a_set_id_program() {
        let profile = profile();
        assert_eq!(profile.architectures().as_ref().unwrap().len(), 1);
        let rules = profile.syscalls().as_ref().unwrap();
        // As the kernel does it: the first rule whose conditions hold, else the error for what does not exist.
        let is_allowed = |name: &str, arguments: [u64; 4]| {
            let holds = |rule: &&LinuxSyscall| {
                let conditions = rule.args().iter().flatten();
                rule.names().contains(&name.to_owned())
                    && conditions.into_iter().all(|condition| {
                        let given = arguments[condition.index()];
                        given & condition.value() == condition.value_two().unwrap_or(0)
                    })
            };
            let rule = rules.iter().find(holds);
            rule.is_some_and(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow)
        };
        for (mode, allowed) in [
            (0o755, true),
            (0o1777, true),
            (0o4755, false),
            (0o2755, false),
        ] {
            assert_eq!(is_allowed("chmod", [0, mode, 0, 0]), allowed);
            assert_eq!(is_allowed("fchmodat2", [0, 0, mode, 0]), allowed);
            assert_eq!(is_allowed("mknodat", [0, 0, mode, 0]), allowed);
            let (create, temporary) = (0o101, 0o20_200_001);
            assert_eq!(is_allowed("openat", [0, 0, create, mode]), allowed);
            assert_eq!(is_allowed("open", [0, temporary, mode, 0]), allowed);
            // What is opened only has no mode, and something may be left where it would be.
            assert!(is_allowed("openat", [0, 0, 0o2, mode]));
        }
        assert!(!is_allowed("openat2", [0; 4]) && !is_allowed("socketcall", [0; 4]));
    }

    #[test]
    fn clone_makes_processes_and_no_namespaces() {
        let profile = profile();
        let rules = profile.syscalls().as_ref().unwrap();
        let clone = rules
            .iter()
            .find(|rule| rule.names() == &["clone".to_owned()])
            .unwrap();
        let condition = clone.args().as_ref().unwrap()[0];
        let is_allowed = |flags: u64| flags & condition.value() == condition.value_two().unwrap();
        assert!(is_allowed(17), "a process");
        assert!(is_allowed(0x3d_0f00), "a thread");
        for namespace in [0x0002_0000, 0x0200_0000, 0x1000_0000, 0x4000_0000] {
            assert!(!is_allowed(17 | namespace), "{namespace:#x}");
        }
    }
}
