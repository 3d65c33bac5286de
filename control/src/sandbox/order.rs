//! What a sandbox is asked for. Plain values; nothing here touches the machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who the command is inside, unless the project belongs to another user than root: then that user's number.
pub const SANDBOX_USER: u32 = 1000;
/// The command's home, private to the sandbox and gone with it.
pub const SANDBOX_HOME: &str = "/home/user";
/// Where the command's programs are found.
pub const PATH_VARIABLE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folders of the machine that show as empty ones, beside `/var`, of which only what belongs to the system shows. The state of
/// the sidecar and the folder with all mounts are added to them.
pub const HIDDEN_DIRECTORIES: [&str; 13] = [
    "/boot",
    "/etc/letsencrypt",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers.d",
    "/etc/weldrfs",
    "/home",
    "/lost+found",
    "/media",
    "/mnt",
    "/root",
    "/srv",
    "/sys",
];
/// Files of the machine that show as empty ones.
pub const HIDDEN_FILES: [&str; 7] = [
    "/etc/fstab",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/machine-id",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/sudoers",
];

/// How a sandbox is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network of its own with nothing but its loopback, which nobody outside uses.
    None,
    /// A network of its own with nothing but its loopback; the sidecar can reach what listens there.
    #[default]
    Isolated,
    /// The machine's.
    Host,
}

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, that of files in its private folders included, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a processor; as much as there is when absent.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub processes: u32,
    /// Each of the private folders (`/tmp`, the home, `/run`), in bytes.
    pub tmp_bytes: u64,
}

/// Values that reach the command as variables and nothing else; never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// One command and what it runs in. As JSON it is read once by the shim and removed, because it holds the secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxOrder {
    /// See [`is_sandbox_id`](super::is_sandbox_id).
    pub id: String,
    /// The mount it works on, by name.
    pub mount: String,
    /// Where that is mounted.
    pub mountpoint: PathBuf,
    /// The project's folder below it; empty for all of the mount. Never leads through symbolic links.
    pub folder: PathBuf,
    /// Program and arguments. A shell line is `["/bin/sh", "-c", LINE]`.
    pub command: Vec<String>,
    /// Variables of the command.
    pub variables: BTreeMap<String, String>,
    /// Further ones.
    pub secrets: Secrets,
    /// What it may use.
    pub limits: Limits,
    /// How it is connected.
    pub network: Network,
    /// After how many milliseconds it is ended; never when absent.
    pub timeout_ms: Option<u64>,
    /// Milliseconds between TERM and KILL.
    pub grace_ms: u64,
    /// Most bytes of output that are kept.
    pub output_bytes: u64,
    /// Whether it goes on when nobody is attached to it any more.
    pub outlives: bool,
    /// Further folders that are hidden, beside [`HIDDEN_DIRECTORIES`].
    pub hidden: Vec<PathBuf>,
    /// Runtimes in the order in which they are tried.
    pub runtimes: Vec<String>,
    /// Standard input.
    pub input: Option<String>,
    /// Instead, what is written to [`INPUT_NAME`](super::INPUT_NAME) in its folder.
    #[serde(default)]
    pub takes_input: bool,
}

impl SandboxOrder {
    /// Where the project's folder is, on the machine and in the sandbox.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        match self.folder.as_os_str().is_empty() {
            true => self.mountpoint.clone(),
            false => self.mountpoint.join(&self.folder),
        }
    }

    /// All variables of the command; secrets win over variables, and both over what every command gets.
    #[must_use]
    pub fn environment(&self) -> Vec<String> {
        let project = self.project().to_string_lossy().into_owned();
        let mut all = BTreeMap::from([
            ("HOME".to_owned(), SANDBOX_HOME.to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("PATH".to_owned(), PATH_VARIABLE.to_owned()),
            ("PWD".to_owned(), project),
            ("TERM".to_owned(), "dumb".to_owned()),
            ("USER".to_owned(), "user".to_owned()),
        ]);
        all.extend(self.variables.clone());
        all.extend(self.secrets.0.clone());
        all.into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

#[cfg(test)]
pub(super) fn example() -> SandboxOrder {
    SandboxOrder {
        id: "exec-1".into(),
        mount: "project".into(),
        mountpoint: "/workspace/project".into(),
        folder: "app".into(),
        command: vec!["npm".into(), "test".into()],
        variables: BTreeMap::from([("CI".into(), "1".into()), ("KEY".into(), "open".into())]),
        secrets: Secrets(BTreeMap::from([("KEY".into(), "canary".into())])),
        limits: Limits {
            memory_bytes: 1 << 30,
            cpu_millis: Some(1500),
            processes: 100,
            tmp_bytes: 1 << 20,
        },
        network: Network::Isolated,
        timeout_ms: None,
        grace_ms: 1000,
        output_bytes: 1 << 20,
        outlives: false,
        hidden: vec!["/workspace".into()],
        runtimes: vec!["runc".into()],
        input: None,
        takes_input: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_variables_that_nobody_sees() {
        let order = example();
        let environment = order.environment();
        assert!(environment.contains(&"KEY=canary".to_owned()));
        assert!(!environment.contains(&"KEY=open".to_owned()));
        assert!(environment.contains(&format!("HOME={SANDBOX_HOME}")));
        let shown = format!("{order:?}");
        assert!(
            shown.contains("KEY") && !shown.contains("canary"),
            "{shown}"
        );
    }

    #[test]
    fn the_project_is_the_mount_or_a_folder_of_it() {
        let order = example();
        assert_eq!(order.project(), PathBuf::from("/workspace/project/app"));
        let whole = SandboxOrder {
            folder: PathBuf::new(),
            ..order
        };
        assert_eq!(whole.project().to_str(), Some("/workspace/project"));
    }
}
