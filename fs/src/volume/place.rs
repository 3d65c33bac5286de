//! The place in a store where a volume lives: opening it, telling whether it holds something else, and finding out at
//! the mount, rather than at the first write, whether it can be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use weldrfs_blockstore::{
    DirStore, ObjectStore, PutCondition, RetrySettings, RetryStore, S3Settings, S3Store,
    StoreError, Version,
};

use super::layout::{MARKER_KEY, Marker, holds_something_else};
use super::open_error::OpenError;

/// Attempts while a volume is opened: whoever mounts waits for the answer, so a store that is away is named soon.
const OPEN_ATTEMPTS: u32 = 3;
const OPEN_ATTEMPT_DEADLINE: Duration = Duration::from_secs(4);
const OPEN_DEADLINE: Duration = Duration::from_secs(7);
/// A key that no volume has; deleting it shows that deleting is allowed.
const NO_KEY: &str = "probe";

/// The store that holds a volume.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, or a prefix in one.
    S3(S3Settings),
    /// A store of the caller's own, in which nobody else keeps anything.
    Own(Arc<dyn ObjectStore>),
}

impl Source {
    /// The directory, if it is one.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(dir) => Some(dir),
            Self::S3(_) | Self::Own(_) => None,
        }
    }
}

/// An opened store, which may not hold a volume yet.
#[derive(Debug)]
pub(super) struct Place {
    /// Makes every request once.
    pub(super) store: Arc<dyn ObjectStore>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory(PathBuf),
    S3(Arc<S3Store>),
    Own,
}

impl Place {
    pub(super) fn open(source: &Source, runtime: &Handle) -> Result<Self, StoreError> {
        Ok(match source {
            Source::Directory(dir) => Self {
                store: Arc::new(DirStore::open(dir)?),
                kind: Kind::Directory(dir.clone()),
            },
            Source::S3(settings) => {
                let store = Arc::new(runtime.block_on(S3Store::connect(settings))?);
                Self {
                    store: Arc::clone(&store) as Arc<dyn ObjectStore>,
                    kind: Kind::S3(store),
                }
            }
            Source::Own(store) => Self {
                store: Arc::clone(store),
                kind: Kind::Own,
            },
        })
    }

    /// `store`, as it is asked while the volume is opened.
    pub(super) fn impatient(store: Arc<dyn ObjectStore>) -> RetryStore {
        let settings = RetrySettings {
            attempts: OPEN_ATTEMPTS,
            attempt_deadline: OPEN_ATTEMPT_DEADLINE,
            operation_deadline: OPEN_DEADLINE,
            ..RetrySettings::default()
        };
        RetryStore::new(store, settings)
    }

    /// An error of a request made while the volume is opened, with what to do about a store that is silent.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        match (error, &self.kind) {
            (StoreError::Timeout { what }, Kind::S3(_)) => StoreError::Timeout {
                what: format!(
                    "{what}: {} is silent; check the network and -o endpoint= (S3_ENDPOINT)",
                    self.store.describe()
                ),
            },
            (error, _) => error,
        }
    }

    /// Refuses a place that is not empty; asked when it holds no volume.
    pub(super) fn check_empty(&self, runtime: &Handle) -> Result<(), OpenError> {
        let (other, hint) = match &self.kind {
            Kind::Directory(dir) => {
                let other = holds_something_else(dir).map_err(|error| OpenError::StateDir {
                    dir: dir.clone(),
                    error,
                })?;
                (other, "")
            }
            Kind::S3(store) => {
                let first = runtime.block_on(store.first_key())?;
                let hint = match store.has_prefix() {
                    true => "",
                    false => "; to put a volume beside it, give a prefix: s3://BUCKET/PREFIX",
                };
                (first, hint)
            }
            Kind::Own => {
                let page = runtime.block_on(self.store.list("", None, 1))?;
                (page.objects.into_iter().next().map(|object| object.key), "")
            }
        };
        match other {
            None => Ok(()),
            Some(name) => Err(OpenError::NotAVolume {
                place: self.store.describe(),
                detail: format!("it holds {name:?} and no {MARKER_KEY}{hint}"),
            }),
        }
    }

    /// Finds out whether a bucket lets itself be listed, written to and deleted from, and whether it keeps conditions:
    /// the marker, which is there, is put once more on the condition that it is not, and that it is another.
    pub(super) fn check_rights(
        &self,
        store: &dyn ObjectStore,
        marker: &Marker,
        trust: bool,
        runtime: &Handle,
    ) -> Result<(), OpenError> {
        if let Kind::Directory(_) = &self.kind {
            return Ok(());
        }
        let body = marker.probe()?;
        let no_key = [NO_KEY.to_owned()];
        let (listed, put, deleted) = runtime.block_on(async {
            tokio::join!(
                store.list("", None, 1),
                async {
                    match trust {
                        true => Ok(()),
                        false => kept_conditions(store, body).await,
                    }
                },
                store.delete(&no_key),
            )
        });
        listed.map_err(|error| self.named(error))?;
        deleted.map_err(|error| self.named(error))?;
        put.map_err(|error| match error {
            Unkept::Store(error) => self.named(error).into(),
            Unkept::Ignored => OpenError::IgnoresConditions(self.store.describe()),
        })
    }
}

enum Unkept {
    Store(StoreError),
    Ignored,
}

/// A version that no object has, in the form of an ETag.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

async fn kept_conditions(store: &dyn ObjectStore, body: Bytes) -> Result<(), Unkept> {
    let other = PutCondition::IfMatch(Version(NO_VERSION.to_owned()));
    let (absent, other) = tokio::join!(
        store.put(MARKER_KEY, body.clone(), PutCondition::IfAbsent),
        store.put(MARKER_KEY, body.clone(), other),
    );
    // One that was taken says it all, whatever became of the other: a store that takes both at once may stumble over that.
    if absent.is_ok() || other.is_ok() {
        return Err(Unkept::Ignored);
    }
    for refused in [absent.err(), other.err()].into_iter().flatten() {
        match refused {
            StoreError::PreconditionFailed { .. } => {}
            error => return Err(Unkept::Store(error)),
        }
    }
    Ok(())
}
