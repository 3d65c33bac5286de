//! Secrets of this machine: one file each, named as the variable that a command gets it as. Read when a request names them,
//! and never shown.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::ApiError;
use crate::sandbox::Secrets;

/// Folder of the files in the sidecar's folder.
const FOLDER: &str = "secrets";
/// Longest value.
pub const SECRET_MAX: usize = 64 * 1024;
/// Longest name.
const NAME_MAX: usize = 128;

/// The folder.
#[derive(Debug, Clone)]
pub struct SecretFolder(PathBuf);

impl SecretFolder {
    /// The secrets in the sidecar's folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.join(FOLDER))
    }

    /// The names, in order.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(
                entry?
                    .file_name()
                    .into_string()
                    .ok()
                    .filter(|name| is_variable(name)),
            );
        }
        names.sort();
        Ok(names)
    }

    /// Keeps `value` as `name`, in place of what had that name.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] that says what a name and a value may be.
    pub fn put(&self, name: &str, value: &str) -> io::Result<()> {
        let refused = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if !is_variable(name) {
            return refused(format!(
                "a secret is named as a variable: letters, digits and \"_\", no digit first, {NAME_MAX} at most"
            ));
        }
        if value.len() > SECRET_MAX || value.contains('\0') {
            return refused(format!(
                "a secret has {SECRET_MAX} bytes at most, without zeros"
            ));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        // No variable begins so.
        let temporary = self.0.join(format!(".{name}"));
        drop(std::fs::remove_file(&temporary));
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(value.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    /// Forgets a secret; whether there was one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        if !is_variable(name) {
            return Ok(false);
        }
        match std::fs::remove_file(self.0.join(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The values of these secrets.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] that names the one that is not there.
    pub(super) fn read(&self, names: &[String]) -> Result<Secrets, ApiError> {
        let mut values = BTreeMap::new();
        for name in names {
            if !is_variable(name) {
                return Err(ApiError::InvalidRequest(
                    "secrets takes names of letters, digits and \"_\", no digit first".into(),
                ));
            }
            let value = self.value(name).map_err(|error| {
                tracing::warn!(%error, name, "a secret cannot be read");
                ApiError::InvalidRequest(format!(
                    "there is no secret {name}; \"weldrfs control secret set {name}\" makes it"
                ))
            })?;
            values.insert(name.clone(), value);
        }
        Ok(Secrets(values))
    }

    fn value(&self, name: &str) -> io::Result<String> {
        let file = File::open(self.0.join(name))?;
        if file.metadata()?.mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others can read its file; chmod 600",
            ));
        }
        let mut text = String::new();
        file.take(SECRET_MAX as u64).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Whether `name` can be the name of a variable.
pub(super) fn is_variable(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_read_by_name_and_only_their_owner_can() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SecretFolder::new(dir.path());
        assert!(folder.names().unwrap().is_empty());
        folder.put("API_KEY", "one").unwrap();
        folder.put("API_KEY", "canary").unwrap();
        assert_eq!(folder.names().unwrap(), ["API_KEY"]);
        let file = dir.path().join("secrets/API_KEY");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = folder.read(&["API_KEY".into()]).unwrap();
        assert_eq!(read.0["API_KEY"], "canary");
        assert!(!format!("{read:?}").contains("canary"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(folder.read(&["API_KEY".into()]).is_err());
        assert!(folder.remove("API_KEY").unwrap() && !folder.remove("API_KEY").unwrap());
        for name in ["", "1A", "A B", "../x", ".x", "A=B"] {
            assert!(folder.put(name, "v").is_err(), "{name}");
            assert!(!folder.remove(name).unwrap(), "{name}");
        }
        assert!(folder.put("A", "a\0").is_err());
    }
}
