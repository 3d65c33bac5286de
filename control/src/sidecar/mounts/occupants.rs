//! What runs on mounts in sandboxes. The machine does not show it: a sandbox has mounts of its own, which are no reason for
//! the kernel to refuse an unmount. So it is counted here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::ApiError;

/// What runs, by a number of its own: the mount, and what it is called.
type Running = BTreeMap<u64, (String, String)>;

/// What runs on mounts; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Occupants(Arc<Mutex<(u64, Running)>>);

/// The right to run on a mount: it is not unmounted as long as this lives.
#[derive(Debug)]
pub(in crate::sidecar) struct Occupied {
    /// Where it is mounted.
    pub(in crate::sidecar) path: PathBuf,
    number: u64,
    all: Occupants,
}

impl Occupants {
    /// `who` runs on `mount`.
    pub(super) fn enter(&self, mount: &str, who: String, path: PathBuf) -> Occupied {
        let mut inner = self.0.lock();
        inner.0 += 1;
        let number = inner.0;
        inner.1.insert(number, (mount.to_owned(), who));
        Occupied {
            path,
            number,
            all: self.clone(),
        }
    }

    /// # Errors
    /// [`ApiError::InUse`] that names what runs on `mount`.
    pub(super) fn none_on(&self, mount: &str) -> Result<(), ApiError> {
        let inner = self.0.lock();
        let names: Vec<&str> = inner
            .1
            .values()
            .filter(|(on, _)| on == mount)
            .map(|(_, who)| who.as_str())
            .collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(ApiError::InUse(format!(
                "it is used by {}; end that, then unmount again",
                names.join(", ")
            ))),
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.all.0.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_in_use_as_long_as_something_runs_on_it() {
        let all = Occupants::default();
        let first = all.enter("a", "exec-1 (npm)".into(), "/a".into());
        let second = all.enter("a", "exec-2 (git)".into(), "/a".into());
        let refused = all.none_on("a").unwrap_err().to_string();
        assert!(refused.contains("exec-1 (npm), exec-2 (git)"), "{refused}");
        all.none_on("b").unwrap();
        drop(first);
        assert!(all.none_on("a").is_err());
        drop(second);
        all.none_on("a").unwrap();
    }
}
