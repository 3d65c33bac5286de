//! From an order to the configuration of an OCI runtime. Computes only.
//!
//! The container's root is put together by the shim and is read-only; what is mounted here on top of it is what only the
//! container itself can have: its `/proc`, `/dev`, `/dev/shm` and `/dev/pts`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxCpu, LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemory,
    LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimitBuilder,
    PosixRlimitType, Process, Root, Spec, User, get_default_maskedpaths,
    get_default_readonly_paths,
};
use sha2::{Digest, Sha256};

use super::order::{Network, PATH_VARIABLE, SANDBOX_USER, SandboxOrder};
use super::seccomp;

/// Where this program lies in a sandbox: as its first process it starts the command, hands signals on and reaps.
pub const SANDBOX_INIT: &str = "/run/weldrfs-init";
/// Who root of a sandbox is on the machine: nobody. Far from the numbers that users and other containers have.
pub const SANDBOX_ROOT: Identity = Identity {
    uid: 1_900_000_000,
    gid: 1_900_000_000,
};
/// Who the command's user is on the machine, where the project's mount can show other owners: nobody either.
pub const SANDBOX_OWNER: Identity = Identity {
    uid: 1_900_000_001,
    gid: 1_900_000_001,
};
/// Version of the runtime specification that the configuration keeps to; Debian 12's runtimes know it.
const OCI_VERSION: &str = "1.0.2";
/// Open files of each process.
const OPEN_FILES: u64 = 65_536;
/// Which of the machine's processes goes first when it runs out of memory: those in sandboxes.
const OOM_SCORE: i32 = 500;
/// Weight of a sandbox when processors are short; a process that is in none has 1024.
const CPU_SHARES: u64 = 512;
/// Microseconds over which processor time is shared out.
const CPU_PERIOD: u64 = 100_000;
/// Most bytes of shared memory.
const SHM_BYTES: u64 = 256 * 1024 * 1024;
/// What of /proc is hidden, beside what all runtimes hide.
const HIDDEN: [&str; 23] = [
    "/proc/buddyinfo",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/driver",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/pagetypeinfo",
    "/proc/pressure",
    "/proc/slabinfo",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/tty",
    "/proc/vmallocinfo",
];

/// A user and group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What the shim found out about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// The sandbox's own folder.
    pub folder: PathBuf,
    /// The root that was put together.
    pub rootfs: PathBuf,
    /// Whose the project's folder is: what the command writes is theirs.
    pub owner: Identity,
    /// Who the command's user is on the machine: [`SANDBOX_OWNER`], or the owner where the mount cannot show it as another's.
    pub user: Identity,
    /// Whether the sandbox gets a user namespace of its own.
    pub user_namespace: bool,
    /// Whether swap can be limited.
    pub limits_swap: bool,
    /// Open files that a process may have at most here.
    pub open_files: u64,
}

impl Ground {
    /// Who the command is inside: the owner by number, but never root, which is the usual number of a first user.
    #[must_use]
    pub fn inside(&self) -> Identity {
        let shown = |id| if id == 0 { SANDBOX_USER } else { id };
        match self.user_namespace {
            true => Identity {
                uid: shown(self.owner.uid),
                gid: shown(self.owner.gid),
            },
            false => self.user,
        }
    }
}

/// The control group of the sandbox in `folder`, below the root of each hierarchy. Another sidecar of this machine has other
/// folders, and perhaps sandboxes with the same numbers: the end of one of them must not be that of the other.
#[must_use]
pub fn cgroup_path(folder: &Path) -> PathBuf {
    let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    let mark: String = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let id = folder.file_name().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("/weldrfs/{id}-{mark}"))
}

/// The configuration for `order` on `ground`.
#[must_use]
pub fn oci_config(order: &SandboxOrder, ground: &Ground) -> Spec {
    let mut root = Root::default();
    root.set_path(ground.rootfs.clone());
    // Read-only by the way it was put together, but for the private folders in it.
    root.set_readonly(Some(true));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts(ground)))
        .set_process(Some(process(order, ground)))
        .set_hostname(Some("sandbox".to_owned()))
        .set_annotations(None)
        .set_linux(Some(linux(order, ground)));
    spec
}

fn process(order: &SandboxOrder, ground: &Ground) -> Process {
    let inside = ground.inside();
    let mut user = User::default();
    user.set_uid(inside.uid).set_gid(inside.gid);
    // The runtime looks at the working folder as somebody who may not enter a mount of FUSE, so the first process goes
    // there itself.
    let mut args = vec![
        SANDBOX_INIT.to_owned(),
        "sandbox-init".to_owned(),
        order.project().to_string_lossy().into_owned(),
    ];
    args.extend(order.command.iter().cloned());
    let mut none = LinuxCapabilities::default();
    none.set_bounding(Some(HashSet::new()))
        .set_effective(Some(HashSet::new()))
        .set_permitted(Some(HashSet::new()))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    let limit = |kind, most: u64| {
        let limit = PosixRlimitBuilder::default()
            .typ(kind)
            .soft(most)
            .hard(most);
        limit.build().expect("every field has a value")
    };
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user)
        .set_args(Some(args))
        // The first process gets the command's from the shim; a file that holds them would be copied by the runtime.
        .set_env(Some(vec![format!("PATH={PATH_VARIABLE}")]))
        .set_cwd(PathBuf::from("/"))
        .set_capabilities(Some(none))
        .set_rlimits(Some(vec![
            limit(
                PosixRlimitType::RlimitNofile,
                OPEN_FILES.min(ground.open_files),
            ),
            limit(PosixRlimitType::RlimitCore, 0),
        ]))
        .set_no_new_privileges(Some(true))
        .set_oom_score_adj(Some(OOM_SCORE));
    process
}

fn mounts(ground: &Ground) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, options: &[&str]| {
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(destination))
            .set_typ(Some(kind.to_owned()))
            .set_source(Some(PathBuf::from(kind)))
            .set_options(Some(options.iter().map(|&o| o.to_owned()).collect()));
        mount
    };
    let shm = format!("size={SHM_BYTES}");
    // As the shim has made it: a runtime would show the machine's own devices.
    let mut devices = mount("/dev", "bind", &["rbind", "nosuid", "noexec", "ro"]);
    devices.set_source(Some(ground.rootfs.join("dev")));
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        devices,
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ]
}

fn linux(order: &SandboxOrder, ground: &Ground) -> Linux {
    let mut masked = get_default_maskedpaths();
    masked.extend(HIDDEN.map(str::to_owned));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(order.network, ground.user_namespace)))
        .set_cgroups_path(Some(cgroup_path(&ground.folder)))
        .set_resources(Some(resources(order, ground)))
        .set_seccomp(Some(seccomp::profile()))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(get_default_readonly_paths()))
        // Nothing that is mounted on the machine later shows inside.
        .set_rootfs_propagation(Some("private".to_owned()));
    if ground.user_namespace {
        let inside = ground.inside();
        linux
            .set_uid_mappings(Some(mappings(inside.uid, ground.user.uid)))
            .set_gid_mappings(Some(mappings(inside.gid, ground.user.gid)));
    }
    linux
}

/// Root inside is nobody outside. There is nobody else but the command's user.
fn mappings(inside: u32, outside: u32) -> Vec<LinuxIdMapping> {
    [(0, SANDBOX_ROOT.uid), (inside, outside)]
        .map(|(inside, outside)| {
            let mapping = LinuxIdMappingBuilder::default()
                .container_id(inside)
                .host_id(outside)
                .size(1_u32);
            mapping.build().expect("every field has a value")
        })
        .to_vec()
}

fn namespaces(network: Network, user: bool) -> Vec<LinuxNamespace> {
    let mut kinds = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    if network != Network::Host {
        kinds.push(LinuxNamespaceType::Network);
    }
    if user {
        kinds.push(LinuxNamespaceType::User);
    }
    let namespace = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    kinds.into_iter().map(namespace).collect()
}

fn resources(order: &SandboxOrder, ground: &Ground) -> LinuxResources {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let limits = order.limits;
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(signed(limits.memory_bytes)));
    if ground.limits_swap {
        // Memory and swap together: none of the latter.
        memory.set_swap(Some(signed(limits.memory_bytes)));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    if let Some(millis) = limits.cpu_millis {
        cpu.set_period(Some(CPU_PERIOD))
            .set_quota(Some(signed(millis.saturating_mul(CPU_PERIOD / 1000))));
    }
    let mut processes = LinuxPids::default();
    processes.set_limit(i64::from(limits.processes));
    let mut resources = LinuxResources::default();
    resources
        .set_memory(Some(memory))
        .set_cpu(Some(cpu))
        .set_pids(Some(processes));
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::order::example;
    use super::*;

    fn ground() -> Ground {
        Ground {
            folder: "/run/weldrfs/sandboxes/exec-1".into(),
            rootfs: "/mnt".into(),
            owner: Identity { uid: 0, gid: 0 },
            user: SANDBOX_OWNER,
            user_namespace: true,
            limits_swap: true,
            open_files: 4096,
        }
    }

    fn config(order: &SandboxOrder, ground: &Ground) -> Value {
        serde_json::to_value(oci_config(order, ground)).unwrap()
    }

    #[test]
    fn nobody_inside_is_anybody_outside_and_what_is_written_is_the_owners() {
        let config = config(&example(), &ground());
        let maps = |inside: u32, outside: u32| {
            json!([
                {"containerID": 0, "hostID": 1_900_000_000, "size": 1},
                {"containerID": inside, "hostID": outside, "size": 1},
            ])
        };
        assert_eq!(
            config["linux"]["uidMappings"],
            maps(1000, SANDBOX_OWNER.uid)
        );
        assert_eq!(
            config["linux"]["gidMappings"],
            maps(1000, SANDBOX_OWNER.gid)
        );
        assert_eq!(config["process"]["user"]["uid"], 1000);
        let owned = Ground {
            owner: Identity { uid: 1234, gid: 50 },
            ..ground()
        };
        assert_eq!(
            owned.inside(),
            Identity { uid: 1234, gid: 50 },
            "a user has the same number on both sides"
        );
        // Where the mount cannot show the owner as another.
        let shared = Ground {
            user: owned.owner,
            ..owned
        };
        let config = self::config(&example(), &shared);
        assert_eq!(config["linux"]["uidMappings"], maps(1234, 1234));
        let plain = Ground {
            user: Identity { uid: 0, gid: 0 },
            user_namespace: false,
            ..ground()
        };
        let config = self::config(&example(), &plain);
        assert_eq!(config["linux"]["uidMappings"], json!(null));
        assert_eq!(config["process"]["user"]["uid"], 0);
    }

    #[test]
    fn variables_and_devices_are_not_the_runtimes_to_hand_over() {
        let config = config(&example(), &ground());
        assert!(!config.to_string().contains("canary"), "{config}");
        assert_eq!(
            config["process"]["env"],
            json!([format!("PATH={PATH_VARIABLE}")])
        );
        let mounts = config["mounts"].as_array().unwrap();
        let devices = mounts.iter().find(|mount| mount["destination"] == "/dev");
        assert_eq!(devices.unwrap()["source"], "/mnt/dev");
    }

    #[test]
    fn there_is_no_way_to_more_rights() {
        let config = config(&example(), &ground());
        let process = &config["process"];
        assert_eq!(process["noNewPrivileges"], true);
        for set in [
            "bounding",
            "effective",
            "permitted",
            "inheritable",
            "ambient",
        ] {
            assert_eq!(process["capabilities"][set], json!([]), "{set}");
        }
        assert_eq!(config["root"]["readonly"], true);
        assert_eq!(
            config["linux"]["seccomp"]["defaultAction"],
            "SCMP_ACT_ERRNO"
        );
        let masked = config["linux"]["maskedPaths"].as_array().unwrap();
        for path in ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger"] {
            assert!(masked.contains(&json!(path)), "{path}");
        }
        let readonly = config["linux"]["readonlyPaths"].as_array().unwrap();
        assert!(readonly.contains(&json!("/proc/sys")));
    }

    #[test]
    fn every_kind_of_namespace_is_its_own_and_the_network_as_asked() {
        let names = |network| {
            let order = SandboxOrder {
                network,
                ..example()
            };
            let config = config(&order, &ground());
            let list = config["linux"]["namespaces"].as_array().unwrap().clone();
            assert!(list.iter().all(|namespace| namespace["path"].is_null()));
            let mut names: Vec<_> = list
                .iter()
                .map(|namespace| namespace["type"].as_str().unwrap().to_owned())
                .collect();
            names.sort();
            names
        };
        let all = ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"];
        assert_eq!(names(Network::Isolated), all);
        assert_eq!(names(Network::None), all);
        let shared: Vec<_> = all.into_iter().filter(|name| *name != "network").collect();
        assert_eq!(names(Network::Host), shared);
    }

    #[test]
    fn limits_are_what_was_asked_for() {
        let config = config(&example(), &ground());
        let resources = &config["linux"]["resources"];
        assert_eq!(
            resources["memory"],
            json!({"limit": 1 << 30, "swap": 1 << 30})
        );
        assert_eq!(resources["pids"]["limit"], 100);
        assert_eq!(resources["cpu"]["quota"], 150_000);
        assert_eq!(resources["cpu"]["period"], 100_000);
        let group = config["linux"]["cgroupsPath"].as_str().unwrap();
        assert!(group.starts_with("/weldrfs/exec-1-"), "{group}");
        let of = |folder: &str| cgroup_path(Path::new(folder));
        assert_eq!(Path::new(group), of("/run/weldrfs/sandboxes/exec-1"));
        assert_ne!(Path::new(group), of("/run/other/sandboxes/exec-1"));
        let files = &config["process"]["rlimits"][0];
        assert_eq!(
            (&files["hard"], &files["soft"]),
            (&json!(4096), &json!(4096))
        );
        let order = SandboxOrder {
            limits: super::super::Limits {
                cpu_millis: None,
                ..example().limits
            },
            ..example()
        };
        let config = self::config(&order, &ground());
        assert_eq!(config["linux"]["resources"]["cpu"]["quota"], json!(null));
    }

    #[test]
    fn the_command_is_an_argument_vector_and_never_a_line() {
        let order = SandboxOrder {
            command: vec!["a b".into(), "$(c)".into(), "; d".into()],
            ..example()
        };
        let config = config(&order, &ground());
        assert_eq!(
            config["process"]["args"],
            json!([
                SANDBOX_INIT,
                "sandbox-init",
                "/workspace/project/app",
                "a b",
                "$(c)",
                "; d"
            ])
        );
        assert_eq!(config["process"]["cwd"], "/");
    }
}
