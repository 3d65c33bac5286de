//! The keys of buckets that were given with a mount: files that only their owner can read, named by the mount. The mount
//! process is told the file, never the keys, so that they are in no list of processes and can be changed while it runs.
//!
//! The file that is used lies in the run folder, a tmpfs. A second one in the sidecar's folder outlives a restart of the
//! machine; without it (`keep` is `None`) a mount needs its keys again then.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::types::Credentials;
use crate::error::ApiError;

/// Folder of the files.
pub(super) const FOLDER_NAME: &str = "credentials";
/// Longest key.
const KEY_MAX: usize = 4096;

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) struct Secrets {
    /// Of those that are used.
    used: PathBuf,
    /// Of those that outlive a restart of the machine.
    kept: Option<PathBuf>,
}

impl Secrets {
    /// Files in `credentials` below the folders.
    pub(super) fn new(run_dir: &Path, keep: Option<&Path>) -> Self {
        Self {
            used: run_dir.join(FOLDER_NAME),
            kept: keep.map(|dir| dir.join(FOLDER_NAME)),
        }
    }

    /// # Errors
    /// [`ApiError::InvalidRequest`] for keys that no file could hold.
    pub(super) fn check(credentials: &Credentials) -> Result<(), ApiError> {
        let fields = [
            ("access_key_id", Some(&credentials.access_key_id)),
            ("secret_access_key", Some(&credentials.secret_access_key)),
            ("session_token", credentials.session_token.as_ref()),
        ];
        for (name, value) in fields {
            let Some(value) = value else { continue };
            let is_word = !value.is_empty()
                && value.len() <= KEY_MAX
                && !value.contains(|c: char| c.is_whitespace() || c.is_control());
            if !is_word {
                return Err(ApiError::InvalidRequest(format!(
                    "credentials.{name} takes text without blanks, at most {KEY_MAX} bytes"
                )));
            }
        }
        Ok(())
    }

    /// Writes the keys of mount `name`, in place of earlier ones.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn put(&self, name: &str, credentials: &Credentials) -> io::Result<()> {
        let mut text = format!(
            "access_key_id={}\nsecret_access_key={}\n",
            credentials.access_key_id, credentials.secret_access_key
        );
        if let Some(token) = &credentials.session_token {
            text.push_str(&format!("session_token={token}\n"));
        }
        for folder in [Some(&self.used), self.kept.as_ref()].into_iter().flatten() {
            write(folder, name, text.as_bytes())?;
        }
        Ok(())
    }

    /// The file with the keys of mount `name`, if it has any; made anew from the kept one after a restart.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn file(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let used = self.used.join(name);
        if used.exists() {
            return Ok(Some(used));
        }
        let Some(kept) = self.kept.as_ref().map(|folder| folder.join(name)) else {
            return Ok(None);
        };
        match std::fs::read(kept) {
            Ok(text) => write(&self.used, name, &text).map(|()| Some(used)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets the keys of mount `name`.
    pub(super) fn remove(&self, name: &str) {
        for folder in [Some(&self.used), self.kept.as_ref()].into_iter().flatten() {
            if let Err(error) = std::fs::remove_file(folder.join(name))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, mount = name, "the file with its keys stays behind");
            }
        }
    }
}

/// Writes beside the name and renames: the mount may be reading it.
fn write(folder: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // Names of mounts begin with a letter or digit, so this is nobody's.
    let temporary = folder.join(format!(".{name}"));
    drop(std::fs::remove_file(&temporary));
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn keys(id: &str) -> Credentials {
        Credentials {
            access_key_id: id.into(),
            secret_access_key: "hidden".into(),
            session_token: Some("token".into()),
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_outlive_the_machine_only_where_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (run, state) = (dir.path().join("run"), dir.path().join("state"));
        let secrets = Secrets::new(&run, Some(&state));
        assert_eq!(secrets.file("a").unwrap(), None);
        secrets.put("a", &keys("one")).unwrap();
        secrets.put("a", &keys("two")).unwrap();
        let file = secrets.file("a").unwrap().unwrap();
        let text = "access_key_id=two\nsecret_access_key=hidden\nsession_token=token\n";
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        for path in [file.clone(), state.join(FOLDER_NAME).join("a")] {
            assert_eq!(mode(&path), 0o600);
            assert_eq!(mode(path.parent().unwrap()), 0o700);
        }
        // The machine restarts: what is in the run folder is gone.
        std::fs::remove_dir_all(&run).unwrap();
        assert_eq!(Secrets::new(&run, None).file("a").unwrap(), None);
        assert_eq!(secrets.file("a").unwrap(), Some(file.clone()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert_eq!(mode(&file), 0o600);
        secrets.remove("a");
        assert_eq!(secrets.file("a").unwrap(), None);
        secrets.remove("a");
    }

    #[test]
    fn keys_that_would_be_other_lines_of_the_file_are_refused_without_being_shown() {
        for bad in [
            "",
            "a b",
            "a\nsecret_access_key=x",
            "a\0",
            &"k".repeat(KEY_MAX + 1),
        ] {
            let credentials = Credentials {
                secret_access_key: bad.into(),
                ..keys("id")
            };
            let error = Secrets::check(&credentials).unwrap_err().to_string();
            assert!(error.contains("credentials.secret_access_key"), "{error}");
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        Secrets::check(&keys("id")).unwrap();
        assert_eq!(format!("{:?}", keys("id")), "Credentials");
    }
}
