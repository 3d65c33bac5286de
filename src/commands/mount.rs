//! `weldrfs mount`: checks, then serves in the foreground or in the background.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::serve::serve;
use crate::daemon::{self, Readiness};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::logging::LogSink;
use crate::mount_table::MountTable;
use crate::options::{MountOptions, Unknown};
use crate::preflight::Plan;
use crate::registry::{MountRecord, Registry};
use crate::source::Source;
use crate::unmounting;

/// How long the process of an earlier mount of the same volume may take to save its state.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(30);

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) source: OsString,
    pub(crate) mountpoint: PathBuf,
    /// The texts after every `-o`.
    pub(crate) options: Vec<String>,
    pub(crate) foreground: bool,
    /// Check everything, mount nothing (mount(8)'s `-f`).
    pub(crate) fake: bool,
    /// Leave out options that are not known (mount(8)'s `-s`).
    pub(crate) sloppy: bool,
    /// The mount namespace to work in: a process id or a file (mount(8)'s `-N`).
    pub(crate) namespace: Option<OsString>,
}

/// Mounts, and in the foreground also serves until the end.
pub(crate) fn run(request: Request, environment: &Environment) -> Result<(), Failure> {
    let unknown = if request.sloppy {
        Unknown::Ignore
    } else {
        Unknown::Refuse
    };
    let options = MountOptions::parse(&request.options, unknown, &environment.variables)?;
    let source = Source::parse(&request.source)?;
    if let Some(namespace) = &request.namespace {
        enter_namespace(namespace)?;
    }
    let plan = Plan::check(source, &request.mountpoint, options, environment)?;
    let registry = Registry::new(vec![plan.state_base.clone()], environment.run_dir.clone());
    wait_for_predecessor(&plan, &registry)?;
    if request.fake {
        return Ok(());
    }
    if request.foreground || plan.options.foreground {
        return serve(
            &plan,
            &registry,
            &LogSink::stderr(),
            &mut Readiness::nobody_waits(),
        );
    }
    daemon::start(|readiness| serve(&plan, &registry, &LogSink::waiting(), readiness))
}

/// Moves this process, which has one thread yet, into another mount namespace.
fn enter_namespace(namespace: &OsString) -> Result<(), Failure> {
    let is_pid = namespace
        .to_str()
        .is_some_and(|text| text.parse::<u32>().is_ok());
    let path = if is_pid {
        PathBuf::from("/proc").join(namespace).join("ns/mnt")
    } else {
        PathBuf::from(namespace)
    };
    let entered = File::open(&path).and_then(|file| {
        Ok(move_into_link_name_space(
            file.as_fd(),
            Some(LinkNameSpaceType::Mount),
        )?)
    });
    entered.map_err(|error| {
        Failure::Invocation(format!(
            "-N {}: cannot enter {}: {error}",
            namespace.display(),
            path.display()
        ))
    })
}

/// The same volume may still be served: then this one is refused at once if that is mounted, or waits for its end.
fn wait_for_predecessor(plan: &Plan, registry: &Registry) -> Result<(), Failure> {
    if plan.options.at_ms.is_some() || plan.options.divergent.is_some() {
        // These look at something that nobody writes.
        return Ok(());
    }
    let same_store = |record: &MountRecord| {
        let same_endpoint =
            record.endpoint.is_none() || record.endpoint.as_deref() == plan.endpoint();
        same_endpoint
            && Source::parse(record.source.as_ref())
                .is_ok_and(|other| other.place == plan.source.place)
    };
    let running = registry
        .records()
        .into_iter()
        .find(|record| record.is_running() && same_store(record));
    let Some(record) = running else { return Ok(()) };
    let table = MountTable::read()
        .map_err(|error| Failure::system("cannot read the mount table", &error))?;
    if table.ours().any(|entry| record.is_at(&entry.mountpoint)) {
        return Err(Failure::Mount(format!(
            "{} is already mounted, on {}; use that, or unmount it first: weldrfs umount {}",
            record.source, record.mountpoint, record.mountpoint
        )));
    }
    match unmounting::wait_for_end(&record, PREDECESSOR_DEADLINE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Mount(format!(
            "{} is still served by process {}, whose mount on {} is not seen here; end that process first",
            record.source, record.pid, record.mountpoint
        ))),
        Err(error) => Err(Failure::system(
            "cannot watch the process that served this volume",
            &error,
        )),
    }
}
