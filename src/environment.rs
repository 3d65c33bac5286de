//! What the process is told by its surroundings: who runs it and the folders that the environment names.
//! Read once, at the start; everything else gets it as a value.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Base of the local state when root mounts and nothing else is said.
pub(crate) const ROOT_STATE_BASE: &str = "/var/lib/weldrfs";
/// Where root's running mounts are noted, wherever their state is.
const ROOT_RUN_DIR: &str = "/run/weldrfs";

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
