//! A store in a directory: an object is a file, a put is a rename, a condition is a link or a lock.
//!
//! Makes nothing before the first put, and touches no file it could not have made itself.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags};

use super::key::validate_prefix;
use super::listing::{Listing, modified_ms};
use super::temps::{Temps, sweep_temps};
use super::{
    ListPage, MAX_LIST_OBJECTS, Object, ObjectInfo, ObjectStore, PutCondition, StoreError, Version,
    check_limit, cut, validate_key,
};
use crate::disk::{remove_if_there, sync_dir};

const TEMP_DIR: &str = ".tmp";
const LOCK_FILE: &str = ".lock";
/// How long a put waits for the lock; holders keep it for a rename.
const LOCK_WAIT: Duration = Duration::from_secs(30);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// A store in a directory.
#[derive(Debug, Clone)]
pub struct DirStore {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    temps: Temps,
    /// Device and inode of the directory since it was first seen.
    identity: OnceLock<(u64, u64)>,
}

impl DirStore {
    /// Opens a directory, which may not exist yet if the one above it does. Removes temporary files of puts that died
    /// more than an hour ago.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is no directory or has none above it; [`StoreError::Denied`], [`StoreError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_at(root.into(), SystemTime::now())
    }

    fn open_at(path: PathBuf, now: SystemTime) -> Result<Self, StoreError> {
        let invalid = |what: &str| StoreError::Invalid {
            what: format!("{} {what}", path.display()),
        };
        match std::fs::metadata(&path) {
            Ok(info) if !info.is_dir() => return Err(invalid("is not a directory")),
            Ok(_) => sweep_temps(&path.join(TEMP_DIR), now)
                .map_err(StoreError::io(&format!("clean {}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !parent_of(&path).is_dir() {
                    return Err(invalid("cannot be made: there is no directory above it"));
                }
            }
            Err(error) => {
                return Err(StoreError::io(&format!("open {}", path.display()))(error));
            }
        }
        let root = Root {
            path,
            temps: Temps::default(),
            identity: OnceLock::new(),
        };
        root.check_identity()?;
        Ok(Self {
            root: Arc::new(root),
        })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    /// Runs blocking work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let root = Arc::clone(&self.root);
        let joined = tokio::task::spawn_blocking(move || {
            root.check_identity()?;
            work(&root)
        })
        .await;
        joined.unwrap_or_else(|error| {
            Err(StoreError::Unavailable {
                what: format!("the request was abandoned: {error}"),
            })
        })
    }
}

impl Root {
    /// What was below a mount that went away is not this store: its objects would be missing, and new ones lost when
    /// the mount comes back.
    fn check_identity(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt;
        let gone = |why: &str| StoreError::Unavailable {
            what: format!("{} {why}: is it mounted?", self.path.display()),
        };
        let info = match std::fs::metadata(&self.path) {
            Ok(info) => info,
            // Nothing was ever put into it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && self.identity.get().is_none() =>
            {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone("is gone")),
            Err(error) => {
                return Err(StoreError::io(&format!("look at {}", self.path.display()))(
                    error,
                ));
            }
        };
        let now = (info.dev(), info.ino());
        match *self.identity.get_or_init(|| now) == now {
            true => Ok(()),
            false => Err(gone("is another directory than before")),
        }
    }

    fn read(&self, key: &str) -> Result<(Bytes, File), StoreError> {
        let path = self.path.join(key);
        let read = || -> io::Result<(Bytes, File)> {
            let mut file = File::open(&path)?;
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes)?;
            Ok((bytes.into(), file))
        };
        read().map_err(|error| match error.kind() {
            // A directory or a file in the way of the path: no object has this key.
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => StoreError::not_found(key),
            _ => StoreError::io(&format!("read {}", path.display()))(error),
        })
    }

    fn put(&self, key: &str, body: &[u8], cond: &PutCondition) -> Result<Version, StoreError> {
        let path = self.path.join(key);
        let parent = parent_of(&path);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => StoreError::Invalid {
                what: format!("{key} is in the way of another key"),
            },
            _ => StoreError::io(&format!("write {}", path.display()))(error),
        };
        make_dirs(&self.path, parent).map_err(failed)?;
        let temps = self.path.join(TEMP_DIR);
        let made = make_dirs(&self.path, &temps).and_then(|()| self.temps.write(&temps, body));
        let temp = made.map_err(failed)?;
        let named = self.name(&temp, &path, key, cond);
        // A link leaves the temporary name behind, and so does a failure. Left-overs are swept later.
        let _ = std::fs::remove_file(&temp);
        named?;
        sync_dir(parent).map_err(failed)?;
        Ok(Version::of(body))
    }

    /// Gives a finished file its key, if the condition holds. The lock is held for the comparison and the rename only,
    /// so that many plain puts cannot starve a conditional one.
    fn name(
        &self,
        temp: &Path,
        path: &Path,
        key: &str,
        cond: &PutCondition,
    ) -> Result<(), StoreError> {
        let exclusive = matches!(cond, PutCondition::IfMatch(_));
        let _lock = self.lock(exclusive)?;
        let renamed = match cond {
            PutCondition::Always => std::fs::rename(temp, path),
            PutCondition::IfAbsent => link_new(temp, path),
            PutCondition::IfMatch(version) => {
                let there = self.read(key);
                match there {
                    Ok((bytes, _)) if Version::of(&bytes) == *version => {
                        std::fs::rename(temp, path)
                    }
                    Ok(_) | Err(StoreError::NotFound { .. }) => {
                        return Err(StoreError::precondition(key));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if !path.is_dir() => StoreError::precondition(key),
            io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => StoreError::Invalid {
                what: format!("{key} is in the way of another key"),
            },
            _ => StoreError::io(&format!("name {}", path.display()))(error),
        })
    }

    /// Takes the store's lock, between processes too; it is released when the file is closed.
    fn lock(&self, exclusive: bool) -> Result<File, StoreError> {
        let path = self.path.join(LOCK_FILE);
        let what = format!("lock {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io(&what))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            let outcome = if exclusive {
                file.try_lock()
            } else {
                file.try_lock_shared()
            };
            match outcome {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(StoreError::Timeout { what }),
                Err(TryLockError::Error(error)) => return Err(StoreError::io(&what)(error)),
            }
        }
    }

    fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        if !self.path.is_dir() {
            return Ok(());
        }
        let mut dirs = BTreeSet::new();
        for key in keys {
            let _lock = self.lock(false)?;
            let path = self.path.join(key);
            match remove_if_there(&path) {
                Ok(()) => {
                    dirs.insert(parent_of(&path).to_owned());
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
                    ) => {}
                Err(error) => {
                    return Err(StoreError::io(&format!("delete {}", path.display()))(error));
                }
            }
        }
        for dir in dirs.iter().filter(|dir| dir.is_dir()) {
            sync_dir(dir).map_err(StoreError::io(&format!("flush {}", dir.display())))?;
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for DirStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.blocking(move |root| {
            let (whole, _) = root.read(&key)?;
            let version = Version::of(&whole);
            Ok(Object {
                bytes: cut(&key, whole, range.as_ref())?,
                version,
            })
        })
        .await
    }

    async fn put(&self, key: &str, body: Bytes, cond: PutCondition) -> Result<Version, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.blocking(move |root| root.put(&key, &body, &cond))
            .await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.blocking(move |root| {
            let (bytes, file) = root.read(&key)?;
            let info = file
                .metadata()
                .map_err(StoreError::io(&format!("look at {key}")))?;
            Ok(ObjectInfo {
                len: bytes.len() as u64,
                version: Version::of(&bytes),
                modified_ms: modified_ms(&info),
                key,
            })
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        validate_prefix(prefix)?;
        check_limit(limit)?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |root| {
            let limit = limit.min(MAX_LIST_OBJECTS);
            Listing::of(&root.path, &prefix, after.as_deref(), limit)
                .map_err(StoreError::io(&format!("list {}", root.path.display())))
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| validate_key(key))?;
        let keys = keys.to_vec();
        self.blocking(move |root| root.delete(&keys)).await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.root.path.display())
    }
}

/// Gives a file a name that must be free. Where there are no hard links, a rename that refuses to replace.
fn link_new(temp: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(temp, path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            let flags = RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(CWD, temp, CWD, path, flags)?)
        }
        outcome => outcome,
    }
}

/// Makes a directory below (or at) the root and those above it, each durable in the one that holds it.
fn make_dirs(root: &Path, dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if dir != root {
        make_dirs(root, parent_of(dir))?;
    }
    match std::fs::create_dir(dir) {
        // Somebody else made it, or a file has the name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !dir.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        made => made?,
    }
    sync_dir(parent_of(dir))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
