//! Where things are: the marker object in the store, the local folders, and the locks that keep a second mount away.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weldrfs_blockstore::{ObjectStore, PutCondition};

use super::open_error::OpenError;

/// Version of the volume's format: marker, head, packs and metadata together.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Key of the object that makes a place in a store a volume.
pub(crate) const MARKER_KEY: &str = "weldrfs.json";
/// What the marker says it is.
const MARKER_FORMAT: &str = "weldrfs volume";

/// The marker object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) format: String,
    pub(crate) version: u32,
    /// 32 hex digits.
    pub(crate) volume: String,
    pub(crate) created_ms: u64,
    /// CRC-32C of the rest, see FORMAT.md. Markers of the first days have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc32c: Option<u32>,
}

impl Marker {
    pub(crate) fn new(volume: String, created_ms: u64) -> Self {
        let mut marker = Self {
            format: MARKER_FORMAT.into(),
            version: FORMAT_VERSION,
            volume,
            created_ms,
            crc32c: None,
        };
        marker.crc32c = Some(marker.sum());
        marker
    }

    fn sum(&self) -> u32 {
        let text = format!(
            "{}\n{}\n{}\n{}\n",
            self.format, self.version, self.volume, self.created_ms
        );
        crc32c::crc32c(text.as_bytes())
    }

    /// Parses the marker's bytes.
    pub(crate) fn parse(bytes: &[u8], place: &str) -> Result<Self, OpenError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: String,
            version: u32,
        }
        let bad = |detail: String| OpenError::NotAVolume {
            place: place.to_owned(),
            detail,
        };
        let versioned: Versioned =
            serde_json::from_slice(bytes).map_err(|e| bad(format!("{MARKER_KEY}: {e}")))?;
        if versioned.format != MARKER_FORMAT {
            return Err(bad(format!(
                "{MARKER_KEY} says it is \"{}\"",
                versioned.format
            )));
        }
        if versioned.version > FORMAT_VERSION {
            return Err(OpenError::NewerFormat {
                found: versioned.version,
                known: FORMAT_VERSION,
            });
        }
        let marker: Self =
            serde_json::from_slice(bytes).map_err(|e| bad(format!("{MARKER_KEY}: {e}")))?;
        if marker.crc32c.is_some_and(|wanted| wanted != marker.sum()) {
            return Err(bad(format!("{MARKER_KEY} has the wrong checksum")));
        }
        let is_id =
            marker.volume.len() == 32 && marker.volume.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id {
            return Err(bad(format!("{MARKER_KEY} has no volume id")));
        }
        Ok(marker)
    }

    /// Its bytes.
    pub(crate) fn body(&self) -> Result<Bytes, OpenError> {
        let body = serde_json::to_vec_pretty(self).map_err(|e| OpenError::State(e.to_string()))?;
        Ok(Bytes::from(body))
    }

    /// The same marker in other bytes: put on a condition that cannot hold, it does no harm where conditions are ignored,
    /// and is told from the marker that is there.
    pub(crate) fn probe(&self) -> Result<Bytes, OpenError> {
        Ok(Bytes::from([&self.body()?[..], b"\n"].concat()))
    }

    /// Writes the marker where there is none yet.
    pub(crate) async fn put(&self, store: &dyn ObjectStore) -> Result<(), OpenError> {
        store
            .put(MARKER_KEY, self.body()?, PutCondition::IfAbsent)
            .await?;
        Ok(())
    }
}

/// The folders of a volume's local state.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    pub(crate) state: PathBuf,
    pub(crate) meta: PathBuf,
    pub(crate) segments: PathBuf,
    pub(crate) packs: PathBuf,
}

impl Folders {
    pub(crate) fn new(base: &Path, volume: &str, cache_dir: Option<&Path>) -> Self {
        let state = base.join(volume);
        let packs = cache_dir.map_or_else(|| state.join("packs"), |dir| dir.join(volume));
        Self {
            meta: state.join("meta"),
            segments: state.join("segments"),
            packs,
            state,
        }
    }

    /// Those of a divergent copy. What it needs of the store it caches by itself.
    pub(crate) fn of_copy(base: &Path, volume: &str, copy: &str) -> Result<Self, OpenError> {
        let whole = base.join(volume);
        let copies = divergent_copies(&whole).map_err(|error| OpenError::StateDir {
            dir: whole.clone(),
            error,
        })?;
        if !copies.iter().any(|name| name == copy) {
            return Err(OpenError::NoCopy {
                copy: copy.to_owned(),
                dir: whole,
                copies,
            });
        }
        Ok(Self::below(&whole.join(copy)))
    }

    /// Folders that share nothing with others.
    pub(crate) fn below(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            meta: state.join("meta"),
            segments: state.join("segments"),
            packs: state.join("packs"),
        }
    }

    /// Makes them, private to the owner.
    pub(crate) fn make(&self) -> Result<(), OpenError> {
        for dir in [&self.state, &self.meta, &self.segments, &self.packs] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            made.map_err(|error| OpenError::StateDir {
                dir: dir.clone(),
                error,
            })?;
        }
        Ok(())
    }

    /// A journal without its database is what is left of a metadata folder somebody has taken apart.
    pub(crate) fn check_whole(&self) -> Result<(), OpenError> {
        if self.has_metadata() {
            return Ok(());
        }
        let state = |error| OpenError::StateDir {
            dir: self.meta.clone(),
            error,
        };
        for entry in fs::read_dir(&self.meta).map_err(state)? {
            let name = entry.map_err(state)?.file_name();
            if name.to_string_lossy().starts_with("journal-") {
                let detail = "meta.db is missing although there is a journal".to_owned();
                let error = weldrfs_meta::MetaError::Damaged {
                    what: "metadata database",
                    detail,
                };
                return Err(OpenError::DamagedState {
                    dir: self.meta.clone(),
                    error,
                });
            }
        }
        Ok(())
    }

    /// Whether this machine has a copy of the metadata.
    pub(crate) fn has_metadata(&self) -> bool {
        self.meta.join("meta.db").exists()
    }
}

/// What the name of a divergent copy's folder begins with; the rest is when it was set aside.
pub(crate) const COPY_PREFIX: &str = "divergent-";

/// The divergent copies in a state folder.
pub(crate) fn divergent_copies(state: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(state) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut copies = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(COPY_PREFIX) {
            copies.push(name);
        }
    }
    copies.sort();
    Ok(copies)
}

/// The locks of an open volume; dropping them gives them back.
#[derive(Debug)]
pub(crate) struct Locks {
    _store: Option<File>,
    _state: File,
}

impl Locks {
    /// Takes the lock of the local state and, for a directory store, that of the directory.
    pub(crate) fn take(
        folders: &Folders,
        store_dir: Option<&Path>,
        read_only: bool,
    ) -> Result<Self, OpenError> {
        let state = lock(&folders.state.join("lock"))
            .map_err(|error| OpenError::StateDir {
                dir: folders.state.clone(),
                error,
            })?
            .ok_or_else(|| OpenError::InUse {
                what: folders.state.clone(),
            })?;
        let store = match store_dir {
            _ if read_only => None,
            None => None,
            Some(store_dir) => {
                let path = store_dir.join(".weldrfs-lock");
                let taken = lock(&path).map_err(|error| OpenError::StateDir {
                    dir: store_dir.to_owned(),
                    error,
                })?;
                Some(taken.ok_or_else(|| OpenError::InUse {
                    what: store_dir.to_owned(),
                })?)
            }
        };
        Ok(Self {
            _store: store,
            _state: state,
        })
    }
}

/// Whether another process has the local state.
pub(crate) fn is_in_use(folders: &Folders) -> bool {
    let path = folders.state.join("lock");
    path.exists() && matches!(lock(&path), Ok(None))
}

/// Locks a file, making it; `None` when somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a directory that is to become a volume holds something else. What a killed first mount left does not count.
pub(crate) fn holds_something_else(dir: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let ours = [".tmp", ".lock", ".weldrfs-lock"]
            .iter()
            .any(|own| name == *own);
        if !ours {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn a_marker_is_read_back_and_others_are_refused_by_name() {
        let marker = Marker::new(ID.into(), 5);
        let bytes = serde_json::to_vec(&marker).unwrap();
        assert_eq!(Marker::parse(&bytes, "p").unwrap(), marker);
        let newer = String::from_utf8(bytes.clone())
            .unwrap()
            .replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            Marker::parse(newer.as_bytes(), "p"),
            Err(OpenError::NewerFormat { found: 2, known: 1 })
        ));
        for bad in [
            "",
            "{}",
            "{\"format\":\"x\",\"version\":1}",
            "{\"format\":\"weldrfs volume\",\"version\":1,\"volume\":\"../x\",\"created_ms\":0}",
        ] {
            assert!(
                matches!(
                    Marker::parse(bad.as_bytes(), "p"),
                    Err(OpenError::NotAVolume { .. })
                ),
                "{bad}"
            );
        }
    }
}
