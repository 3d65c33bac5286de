//! The process that keeps one sandbox: `weldrfs shim FOLDER KEPT`. It starts the container, keeps its output, ends it when its
//! time is over, and writes down how it ended. It has left the sidecar's session and lives on without it if the order says
//! so; a sandbox that does not outlive its client is ended when the client's connection closes, however that came.
//!
//! One thread: it forks, and what runs between a fork and a program may then do everything.

mod cgroup;
mod feed;
mod idmap;
mod output;
mod root;
mod runtime;
mod supervise;
mod telling;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Mode;
use weldrfs_control::{
    ENDED_NAME, Ended, NOTE_NAME, ORDER_NAME, SHIM_SOCKET, SandboxOrder, bind_volume_socket,
};

pub(crate) use cgroup::{processes, usage};
pub(crate) use runtime::remove;

use crate::daemon;
use crate::failure::Failure;
use output::Output;

/// Keeps the sandbox whose order lies in `folder`, a tmpfs; output and end go to `kept`, which may be the same or outlive
/// the machine. Returns once it can be attached to; goes on in the background.
pub(crate) fn run(folder: &Path, kept: &Path) -> Result<(), Failure> {
    let (folder, kept) = (folder.to_owned(), kept.to_owned());
    daemon::start(move |readiness| {
        let failed = |error: io::Error| Failure::system("the sandbox cannot be kept", &error);
        // What is made here and is not for others says so itself.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let order = order(&folder).map_err(failed)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| {
            Failure::system("the sandbox's processes cannot be waited for", &error)
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        // Whoever attaches reads it at once.
        let output = Output::create(&kept, order.output_bytes).map_err(failed)?;
        runtime.block_on(async {
            let listener = bind_volume_socket(&folder.join(SHIM_SOCKET)).map_err(failed)?;
            readiness.announce()?;
            supervise::keep(order, (&folder, &kept), listener, output)
                .await
                .map_err(failed)
        })
    })
}

/// The order, which is there for nobody else.
fn order(folder: &Path) -> io::Result<SandboxOrder> {
    let path = folder.join(ORDER_NAME);
    let text = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// Writes down how it ended, for good.
fn note_end(folder: &Path, ended: &Ended) -> io::Result<()> {
    write_whole(folder, ENDED_NAME, ended)?;
    File::open(folder)?.sync_all()
}

/// Writes down that it runs.
fn note(folder: &Path, note: &weldrfs_control::Note) -> io::Result<()> {
    write_whole(folder, NOTE_NAME, note)
}

/// Writes beside the name, makes it durable, and renames.
fn write_whole(folder: &Path, name: &str, value: &impl serde::Serialize) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}"));
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, folder.join(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weldrfs_control::{Limits, Network, Secrets};

    use super::*;

    /// An order for a folder of a mount.
    pub(super) fn order(mountpoint: &Path, folder: &str) -> SandboxOrder {
        SandboxOrder {
            id: "exec-1".into(),
            mount: "m".into(),
            mountpoint: mountpoint.to_owned(),
            folder: folder.into(),
            command: vec!["true".into()],
            variables: BTreeMap::new(),
            secrets: Secrets::default(),
            limits: Limits {
                memory_bytes: 1 << 30,
                cpu_millis: None,
                processes: 10,
                tmp_bytes: 1 << 20,
            },
            network: Network::None,
            timeout_ms: None,
            grace_ms: 1000,
            output_bytes: 1 << 20,
            outlives: false,
            hidden: Vec::new(),
            runtimes: vec!["runc".into()],
            input: None,
            takes_input: false,
        }
    }

    #[test]
    fn the_order_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let order = order(Path::new("/m"), "");
        std::fs::write(
            dir.path().join(ORDER_NAME),
            serde_json::to_vec(&order).unwrap(),
        )
        .unwrap();
        assert_eq!(super::order(dir.path()).unwrap(), order);
        assert!(super::order(dir.path()).is_err());
    }
}
