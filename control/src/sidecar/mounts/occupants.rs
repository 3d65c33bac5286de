//! What runs on mounts in sandboxes. The machine does not show it: a sandbox has mounts of its own, which are no reason for
//! the kernel to refuse an unmount. So it is counted here, and so is which branches are used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::ApiError;
use crate::sidecar::branches::branch_of;

/// Most branches whose use is remembered until somebody asks for it.
const USED_MAX: usize = 10_000;

/// Something that runs.
#[derive(Debug)]
struct Running {
    mount: String,
    /// Below the mount; empty for all of it.
    folder: PathBuf,
    who: String,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    running: BTreeMap<u64, Running>,
    /// Folders that nothing may begin to run in, with the reason.
    closed: BTreeMap<u64, Running>,
    /// Mounts and branches that something has run on since this was last asked for.
    used: BTreeSet<(String, String)>,
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn note_use(&mut self, mount: &str, folder: &Path) {
        if let Some(branch) = branch_of(folder)
            && self.used.len() < USED_MAX
        {
            self.used.insert((mount.to_owned(), branch.to_owned()));
        }
    }

    fn names(&self, mount: &str, folder: &Path) -> Vec<String> {
        let there = self.running.values();
        there
            .filter(|one| one.mount == mount && one.folder.starts_with(folder))
            .map(|one| one.who.clone())
            .collect()
    }
}

/// What runs on mounts; clones are the same.
#[derive(Debug, Clone, Default)]
pub(in crate::sidecar) struct Occupants(Arc<Mutex<Inner>>);

/// The right to run on a mount: it is not unmounted as long as this lives.
#[derive(Debug)]
pub(in crate::sidecar) struct Occupied {
    /// Where it is mounted.
    pub(in crate::sidecar) path: PathBuf,
    number: u64,
    all: Occupants,
}

/// A folder that nothing runs in, nor begins to as long as this lives.
#[derive(Debug)]
pub(in crate::sidecar) struct Vacated {
    number: u64,
    all: Occupants,
}

impl Occupants {
    /// `who` runs in `folder` of `mount`.
    ///
    /// # Errors
    /// [`ApiError::InUse`] when the folder is closed.
    pub(super) fn enter(
        &self,
        mount: &str,
        folder: &Path,
        who: String,
        path: PathBuf,
    ) -> Result<Occupied, ApiError> {
        let mut inner = self.0.lock();
        let mut closed = inner.closed.values();
        if let Some(closed) =
            closed.find(|one| one.mount == mount && folder.starts_with(&one.folder))
        {
            return Err(ApiError::InUse(format!("{}; use another", closed.who)));
        }
        inner.note_use(mount, folder);
        let number = inner.next();
        let running = Running {
            mount: mount.to_owned(),
            folder: folder.to_owned(),
            who,
        };
        inner.running.insert(number, running);
        Ok(Occupied {
            path,
            number,
            all: self.clone(),
        })
    }

    /// Lets nothing begin to run in `folder` of `mount`, because of `reason`.
    ///
    /// # Errors
    /// [`ApiError::InUse`] that names what runs there.
    pub(in crate::sidecar) fn vacate(
        &self,
        mount: &str,
        folder: &Path,
        reason: String,
    ) -> Result<Vacated, ApiError> {
        let mut inner = self.0.lock();
        let names = inner.names(mount, folder);
        if !names.is_empty() {
            return Err(ApiError::InUse(format!(
                "it is used by {}; end that, then try again",
                names.join(", ")
            )));
        }
        let number = inner.next();
        let closed = Running {
            mount: mount.to_owned(),
            folder: folder.to_owned(),
            who: reason,
        };
        inner.closed.insert(number, closed);
        Ok(Vacated {
            number,
            all: self.clone(),
        })
    }

    /// What runs at and below `folder` of `mount`.
    pub(in crate::sidecar) fn names(&self, mount: &str, folder: &Path) -> Vec<String> {
        self.0.lock().names(mount, folder)
    }

    /// The mounts and branches that something has run on since this was asked last, those included on which it still runs.
    pub(in crate::sidecar) fn take_used(&self) -> BTreeSet<(String, String)> {
        let mut inner = self.0.lock();
        let mut used = std::mem::take(&mut inner.used);
        let running = inner.running.values();
        used.extend(running.filter_map(|one| {
            let branch = branch_of(&one.folder)?;
            Some((one.mount.clone(), branch.to_owned()))
        }));
        used
    }

    /// # Errors
    /// [`ApiError::InUse`] that names what runs on `mount`.
    pub(super) fn none_on(&self, mount: &str) -> Result<(), ApiError> {
        let names = self.names(mount, Path::new(""));
        match names.is_empty() {
            true => Ok(()),
            false => Err(ApiError::InUse(format!(
                "it is used by {}; end that, then unmount again",
                names.join(", ")
            ))),
        }
    }
}

impl Occupied {
    /// What else runs at and below `folder` of the mount: where, and who.
    pub(in crate::sidecar) fn beside(&self, folder: &Path) -> Vec<(PathBuf, String)> {
        let inner = self.all.0.lock();
        let mount = inner.running.get(&self.number).map(|own| &own.mount);
        let others = inner.running.iter().filter(|(number, one)| {
            **number != self.number && Some(&one.mount) == mount && one.folder.starts_with(folder)
        });
        others
            .map(|(_, one)| (one.folder.clone(), one.who.clone()))
            .collect()
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let mut inner = self.all.0.lock();
        if let Some(ended) = inner.running.remove(&self.number) {
            inner.note_use(&ended.mount, &ended.folder);
        }
    }
}

impl Drop for Vacated {
    fn drop(&mut self) {
        self.all.0.lock().closed.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(all: &Occupants, mount: &str, folder: &str, who: &str) -> Result<Occupied, ApiError> {
        all.enter(mount, Path::new(folder), who.into(), "/a".into())
    }

    #[test]
    fn a_mount_is_in_use_as_long_as_something_runs_on_it() {
        let all = Occupants::default();
        let first = enter(&all, "a", "", "exec-1 (npm)").unwrap();
        let second = enter(&all, "a", "x", "exec-2 (git)").unwrap();
        let refused = all.none_on("a").unwrap_err().to_string();
        assert!(refused.contains("exec-1 (npm), exec-2 (git)"), "{refused}");
        all.none_on("b").unwrap();
        drop(first);
        assert!(all.none_on("a").is_err());
        drop(second);
        all.none_on("a").unwrap();
    }

    #[test]
    fn what_runs_beside_in_a_folder_is_known() {
        let all = Occupants::default();
        let own = enter(&all, "a", "", "the restoring").unwrap();
        let _app = enter(&all, "a", "app", "preview 1").unwrap();
        let _elsewhere = enter(&all, "b", "app", "preview 2").unwrap();
        let app = vec![(PathBuf::from("app"), "preview 1".to_owned())];
        assert_eq!(own.beside(Path::new("")), app);
        assert_eq!(own.beside(Path::new("app")), app);
        assert_eq!(own.beside(Path::new("app/src")), []);
        assert_eq!(own.beside(Path::new("ap")), []);
    }

    #[test]
    fn a_folder_is_vacated_while_nothing_runs_in_it_and_stays_so() {
        let all = Occupants::default();
        let folder = Path::new(".weldr/branches/b");
        let close = || all.vacate("a", folder, "the branch b is being removed".into());
        let beside = enter(&all, "a", ".weldr/branches/bb", "beside").unwrap();
        let within = enter(&all, "a", ".weldr/branches/b/src", "within").unwrap();
        let refused = close().unwrap_err().to_string();
        assert!(refused.contains("within") && !refused.contains("beside"));
        drop(within);
        let vacated = close().unwrap();
        for folder in [".weldr/branches/b", ".weldr/branches/b/src"] {
            let refused = enter(&all, "a", folder, "late").unwrap_err().to_string();
            assert!(refused.contains("is being removed"), "{refused}");
            drop(enter(&all, "other", folder, "elsewhere").unwrap());
        }
        drop(enter(&all, "a", "", "all of it").unwrap());
        drop(vacated);
        drop(enter(&all, "a", ".weldr/branches/b", "again").unwrap());
        drop(beside);
    }

    #[test]
    fn what_runs_on_branches_uses_them() {
        let all = Occupants::default();
        let used = || -> Vec<String> {
            let used = all.take_used().into_iter();
            used.map(|(mount, branch)| format!("{mount}:{branch}"))
                .collect()
        };
        let running = enter(&all, "a", ".weldr/branches/b/src", "x").unwrap();
        drop(enter(&all, "a", "src", "y").unwrap());
        drop(enter(&all, "a", ".weldr/branches", "z").unwrap());
        assert_eq!(used(), ["a:b"]);
        assert_eq!(used(), ["a:b"], "it still runs");
        drop(running);
        assert_eq!(used(), ["a:b"], "it ran until now");
        assert_eq!(used(), Vec::<String>::new());
    }
}
