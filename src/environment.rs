//! What the process is told by its surroundings: who runs it and the folders that the environment names.
//! Read once, at the start; everything else gets it as a value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Base of the local state when root mounts and nothing else is said.
pub(crate) const ROOT_STATE_BASE: &str = "/var/lib/weldrfs";
/// Where root's running mounts are noted, wherever their state is.
const ROOT_RUN_DIR: &str = "/run/weldrfs";

/// Variables that say how to mount and how to reach a bucket.
const MOUNT_VARIABLES: [&str; 27] = [
    "S3_ENDPOINT",
    "S3_REGION",
    "S3_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY",
    "S3_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "FLY_APP_NAME",
    "CACHE_SIZE_MB",
    "FREE_SPACE_RATIO",
    "BUFFER_SIZE_MB",
    "ATTR_CACHE_TTL",
    "ENTRY_CACHE_TTL",
    "DIR_ENTRY_CACHE_TTL",
    "OPEN_CACHE_TTL",
    "MAX_READAHEAD_MB",
    "PREFETCH",
    "VERIFY_CACHE",
    "WRITEBACK_ENABLED",
    "UPLOAD_DELAY",
    "MAX_UPLOADS",
];
/// Variables that say how the sidecar works.
const SIDECAR_VARIABLES: [&str; 4] = [
    "WORKSPACE_BASE",
    "PORT",
    "CORS_ORIGIN",
    "BETTER_AUTH_SECRET",
];
/// One more, on its own because it holds many options.
const OPTIONS_VARIABLE: &str = "FS_MOUNT_OPTIONS";

/// The variables about mounting and the sidecar that are set, and not empty. Their values may be secrets and are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables(BTreeMap<&'static str, String>);

impl Variables {
    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let names = MOUNT_VARIABLES
            .into_iter()
            .chain(SIDECAR_VARIABLES)
            .chain([OPTIONS_VARIABLE]);
        let set = names.filter_map(|name| {
            // What is not UTF-8 is shown to the parser as what it looks like, and refused there by name.
            let value = variable(name)?.to_string_lossy().into_owned();
            (!value.is_empty()).then_some((name, value))
        });
        Self(set.collect())
    }

    #[cfg(test)]
    pub(crate) fn of<'a>(pairs: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        let owned = |(name, value): (&'static str, &str)| (name, value.to_owned());
        Self(pairs.into_iter().map(owned).collect())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Who runs this and which folders follow from that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    /// Effective user id.
    pub(crate) uid: u32,
    /// Base of the local state unless `-o state_dir` names another; `None` when nothing tells where it should be.
    pub(crate) state_base: Option<PathBuf>,
    /// Where running mounts are noted, wherever their state is; `None` where the machine offers no such place.
    pub(crate) run_dir: Option<PathBuf>,
    /// Folders to look for programs in.
    pub(crate) program_dirs: Vec<PathBuf>,
    /// What the variables say about mounting and the sidecar.
    pub(crate) variables: Variables,
}

impl Environment {
    /// The surroundings of this process.
    pub(crate) fn of_this_process() -> Self {
        Self::from_variables(rustix::process::geteuid().as_raw(), |name| {
            std::env::var_os(name)
        })
    }

    /// The surroundings of user `uid` with the variables that `variable` knows. Empty ones count as absent.
    pub(crate) fn from_variables(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name: &str| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let is_root = uid == 0;
        let state_base = absolute("WELDR_ENV_VOL").or_else(|| {
            if is_root {
                return Some(PathBuf::from(ROOT_STATE_BASE));
            }
            absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
                .map(|base| base.join("weldrfs"))
        });
        let run_dir = absolute("WELDRFS_RUN_DIR").or_else(|| {
            if is_root {
                return Some(PathBuf::from(ROOT_RUN_DIR));
            }
            absolute("XDG_RUNTIME_DIR").map(|base| base.join("weldrfs"))
        });
        Self {
            uid,
            state_base,
            run_dir,
            program_dirs: program_dirs(variable("PATH")),
            variables: Variables::read(variable),
        }
    }

    /// Whether root runs this.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The program `name`, if it is installed.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        self.program_dirs
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| is_file(path))
    }
}

/// The folders of PATH and, after them, the usual ones: mount(8) and systemd start helpers with a short PATH or none.
fn program_dirs(path: Option<OsString>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = path.as_ref().map_or_else(Vec::new, |path| {
        std::env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .collect()
    });
    for usual in [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ] {
        let usual = PathBuf::from(usual);
        if !dirs.contains(&usual) {
            dirs.push(usual);
        }
    }
    dirs
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(uid: u32, variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(uid, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn every_variable_is_in_the_documents() {
        let documents = [
            include_str!("../README.md"),
            include_str!("../docs/migration.md"),
        ];
        let of_mounts = MOUNT_VARIABLES.into_iter().chain([OPTIONS_VARIABLE]);
        for name in of_mounts.chain(SIDECAR_VARIABLES) {
            let named = format!("`{name}`");
            assert!(
                documents.iter().any(|text| text.contains(&named)),
                "no document names {named}"
            );
        }
    }

    #[test]
    fn root_keeps_state_in_var_lib_unless_told_otherwise() {
        assert_eq!(with(0, &[]).state_base, Some(ROOT_STATE_BASE.into()));
        assert_eq!(
            with(0, &[("WELDR_ENV_VOL", "/vol")]).state_base,
            Some("/vol".into())
        );
        assert_eq!(
            with(0, &[("WELDR_ENV_VOL", "")]).state_base,
            Some(ROOT_STATE_BASE.into())
        );
        assert_eq!(
            with(0, &[("XDG_STATE_HOME", "/x"), ("HOME", "/root")]).state_base,
            Some(ROOT_STATE_BASE.into())
        );
    }

    #[test]
    fn a_user_keeps_state_at_home() {
        assert_eq!(
            with(7, &[("HOME", "/home/u")]).state_base,
            Some("/home/u/.local/state/weldrfs".into())
        );
        assert_eq!(
            with(7, &[("HOME", "/home/u"), ("XDG_STATE_HOME", "/s")]).state_base,
            Some("/s/weldrfs".into())
        );
        assert_eq!(
            with(7, &[("HOME", "/home/u"), ("WELDR_ENV_VOL", "/vol")]).state_base,
            Some("/vol".into())
        );
        assert_eq!(with(7, &[]).state_base, None);
        assert_eq!(
            with(7, &[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]).state_base,
            Some("/h/.local/state/weldrfs".into())
        );
    }

    #[test]
    fn programs_are_found_without_a_path_variable() {
        assert!(with(7, &[]).program("sh").is_some());
        assert_eq!(
            with(7, &[("PATH", "/nowhere")]).program("no-such-program"),
            None
        );
    }
}
