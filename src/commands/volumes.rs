//! `weldrfs volumes`: which volumes a store holds, and destroying one. Asks the store, not a mount.

use std::ffi::OsString;
use std::io::{BufRead as _, Write as _};

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::bucket::BucketAccess;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::mounting;
use crate::options::{MountOptions, Unknown};
use crate::registry::{MountRecord, Registry};
use crate::report;
use crate::source::{Place, Source};

/// Which store, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) source: OsString,
    /// The texts after every `-o`.
    pub(crate) options: Vec<String>,
}

impl Store {
    /// The way to the bucket, if it is one.
    pub(super) fn access(
        &self,
        source: &Source,
        environment: &Environment,
    ) -> Result<Option<BucketAccess>, Failure> {
        let options = MountOptions::parse(&self.options, Unknown::Refuse, &environment.variables)?;
        match &source.place {
            Place::Directory(_) => Ok(None),
            Place::Bucket { bucket, prefix } => {
                BucketAccess::resolve(bucket, prefix, &options.s3, &environment.variables).map(Some)
            }
        }
    }
}

/// What to do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    List {
        as_json: bool,
    },
    /// Destroys the volume at SOURCE itself; the id is asked for when it is not given.
    Destroy {
        id: Option<String>,
    },
}

/// A volume in a listing.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) source: String,
    pub(crate) id: String,
    pub(crate) created_ms: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Does what `request` says.
pub(crate) fn run(
    store: &Store,
    request: Request,
    registry: &Registry,
    environment: &Environment,
) -> Result<(), Failure> {
    let source = Source::parse(&store.source)?;
    let access = store.access(&source, environment)?;
    let runtime = runtime()?;
    match request {
        Request::List { as_json } => {
            let found = mounting::find_volumes(&source, access.as_ref(), &runtime)?;
            report::print(&listing(&found, as_json)?)
        }
        Request::Destroy { id } => {
            refuse_mounted(&source, registry)?;
            let id = match id {
                Some(id) => id,
                None => ask(&source)?,
            };
            let done = mounting::destroy_volume(&source, access.as_ref(), &id, &runtime)?;
            report::print(&done)
        }
    }
}

pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    built.map_err(|error| Failure::system("cannot start the threads", &error))
}

/// A volume that a process here serves is in use. What other machines do is not known.
pub(super) fn refuse_mounted(source: &Source, registry: &Registry) -> Result<(), Failure> {
    match mounted(source, registry) {
        None => Ok(()),
        Some(record) => Err(Failure::Invocation(format!(
            "{} is mounted on {}; unmount it first: weldrfs umount {}",
            record.source, record.mountpoint, record.mountpoint
        ))),
    }
}

/// The mount that a process here serves of this volume.
pub(super) fn mounted(source: &Source, registry: &Registry) -> Option<MountRecord> {
    let same = |text: &str| Source::parse(text.as_ref()).is_ok_and(|s| s.place == source.place);
    registry
        .records()
        .into_iter()
        .find(|record| record.is_running() && same(&record.source))
}

fn ask(source: &Source) -> Result<String, Failure> {
    let mut stderr = std::io::stderr();
    // A closed stderr does not keep anybody from answering.
    drop(write!(
        stderr,
        "This destroys the volume in {} and everything in it, for all machines. Its id (weldrfs volumes ls shows it): ",
        source.text
    ));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::system("cannot read the answer", &error))?;
    match line.trim() {
        "" => Err(Failure::Invocation(
            "no id was given, so nothing was deleted; give it with --id".into(),
        )),
        id => Ok(id.to_owned()),
    }
}

fn listing(found: &[Listed], as_json: bool) -> Result<String, Failure> {
    if as_json {
        return report::json(found);
    }
    if found.is_empty() {
        return Ok("no volumes there\n".into());
    }
    let line = |volume: &Listed| {
        format!(
            "{}  {}  {} objects, {}\n",
            volume.id,
            volume.source,
            volume.objects,
            report::bytes(volume.bytes)
        )
    };
    Ok(found.iter().map(line).collect())
}
