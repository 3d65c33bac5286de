//! The life of a mount process: open the volume, mount it, answer until it is unmounted or told to stop, save, end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use weldrfs_control::{SOCKET_NAME, bind_volume_socket, serve_volume};

use crate::daemon::Readiness;
use crate::failure::Failure;
use crate::logging::{self, LogSink};
use crate::memory;
use crate::mount_table::MountTable;
use crate::mounting::{LiveMount, OpenVolume, Unmounter};
use crate::preflight::Plan;
use crate::registry::{MountRecord, ProcessMark, Registry};
use crate::unmounting::{Liveness, liveness};
use crate::volume_service::{Started, VolumeService};

/// Threads for the object store's client and the control socket.
const RUNTIME_THREADS: usize = 2;
/// How long files that are open may go on being used after a signal asked the mount to stop.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How long the session of a mount that is gone may take to say so.
const END_NOTICE: Duration = Duration::from_secs(1);
/// How long the runtime's last tasks may take to end.
const RUNTIME_GRACE: Duration = Duration::from_secs(5);

/// What wakes the main thread.
enum Event {
    /// The mount is gone.
    Ended(Result<(), String>),
    /// A signal asks for the end.
    Stop,
}

/// Serves `plan` until its end. Announces `readiness` once the mount answers through the kernel.
pub(super) fn serve(
    plan: &Plan,
    registry: &Registry,
    log: &LogSink,
    readiness: &mut Readiness,
) -> Result<(), Failure> {
    logging::install(log, plan.options.log_level);
    prepare_process();
    memory::give_back_large_buffers();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("weldrfs-io")
        .enable_all()
        .build()
        .map_err(|error| Failure::system("cannot start the threads", &error))?;
    let (events, woken) = mpsc::channel();
    runtime.block_on(async { watch_signals(events.clone(), log.clone()) })?;
    let served = with_volume(plan, registry, log, readiness, &runtime, &events, &woken);
    runtime.shutdown_timeout(RUNTIME_GRACE);
    served
}

/// Local state holds the content of files, so nobody else may read it; and it holds many files open.
fn prepare_process() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// SIGTERM and SIGINT ask for the end; SIGHUP only opens the log again. Must be called on the runtime.
fn watch_signals(events: Sender<Event>, log: LogSink) -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::system("cannot listen for signals", &error));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    log.reopen();
                    continue;
                }
            }
            if events.send(Event::Stop).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Everything between opening the volume and closing it; it is closed however the rest went.
fn with_volume(
    plan: &Plan,
    registry: &Registry,
    log: &LogSink,
    readiness: &mut Readiness,
    runtime: &tokio::runtime::Runtime,
    events: &Sender<Event>,
    woken: &Receiver<Event>,
) -> Result<(), Failure> {
    let started = Started::now();
    let volume = OpenVolume::open(
        &plan.source,
        plan.access.as_ref(),
        &plan.options,
        &plan.state_base,
        runtime.handle().clone(),
    )?;
    if let Err(error) = log.move_to(volume.state_dir()) {
        tracing::warn!(%error, "there is no log file");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = plan.source.text,
        mountpoint = %plan.mountpoint.display(),
        volume = volume.id(),
        "the volume is open"
    );
    let served = with_socket(
        plan, registry, readiness, runtime, &volume, started, events, woken,
    );
    let closed = volume.close();
    match &closed {
        Ok(()) => tracing::info!("the volume is closed"),
        Err(failure) => tracing::error!("{failure}"),
    }
    served.and(closed)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one process, handed down once"
)]
fn with_socket(
    plan: &Plan,
    registry: &Registry,
    readiness: &mut Readiness,
    runtime: &tokio::runtime::Runtime,
    volume: &OpenVolume,
    started: Started,
    events: &Sender<Event>,
    woken: &Receiver<Event>,
) -> Result<(), Failure> {
    let socket = volume.state_dir().join(SOCKET_NAME);
    let record = record(plan, volume, &socket, started)?;
    let listener = {
        let _on_runtime = runtime.enter();
        bind_volume_socket(&socket).map_err(|error| {
            Failure::Mount(format!(
                "cannot make the socket {}: {error}",
                socket.display()
            ))
        })?
    };
    let service = Arc::new(VolumeService::new(volume.clone(), plan, started));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = runtime.spawn(serve_volume(listener, service, async {
        drop(stopped.await)
    }));
    let served = mounted(plan, registry, &record, readiness, volume, events, woken);
    drop(stop);
    if runtime.block_on(server).is_err() {
        tracing::error!("the control socket's server broke down");
    }
    remove_socket(&socket);
    served
}

/// Mounts, says so, and waits for the end.
fn mounted(
    plan: &Plan,
    registry: &Registry,
    record: &MountRecord,
    readiness: &mut Readiness,
    volume: &OpenVolume,
    events: &Sender<Event>,
    woken: &Receiver<Event>,
) -> Result<(), Failure> {
    let mount = LiveMount::mount(volume, plan)?;
    let unmounter = mount.unmounter();
    let ended = events.clone();
    std::thread::Builder::new()
        .name("weldrfs-mount".into())
        // Nobody listens any more when the process is ending for another reason.
        .spawn(move || drop(ended.send(Event::Ended(mount.wait()))))
        .map_err(|error| Failure::system("cannot start a thread", &error))?;
    let announced = answers(&plan.mountpoint)
        .and_then(|()| {
            let noted = registry.note(record);
            noted.map_err(|error| {
                Failure::system("cannot note the mount in its state folder", &error)
            })
        })
        .and_then(|()| readiness.announce());
    if announced.is_err() && was_unmounted(woken) {
        // It was there, and somebody has unmounted it since: that is an end like any other.
        tracing::info!("unmounted as soon as it was mounted");
        registry.forget(record);
        return readiness.announce();
    }
    match &announced {
        Ok(()) => tracing::info!(mountpoint = %plan.mountpoint.display(), "mounted"),
        Err(_) => take_away(&unmounter),
    }
    let ended = wait_for_end(woken, &unmounter, announced.is_err());
    if ended.is_ok() {
        registry.forget(record);
    }
    announced.and(ended)
}

/// Whether the session has ended in order, or does so in a moment.
fn was_unmounted(woken: &Receiver<Event>) -> bool {
    matches!(woken.recv_timeout(END_NOTICE), Ok(Event::Ended(Ok(()))))
}

/// The mount is in the kernel's table and its root answers.
fn answers(mountpoint: &Path) -> Result<(), Failure> {
    let shown = mountpoint.display();
    match liveness(mountpoint) {
        Liveness::Answers => {}
        Liveness::Dead => {
            return Err(Failure::Mount(format!(
                "the mount on {shown} ended as soon as it began"
            )));
        }
        Liveness::Silent => {
            return Err(Failure::Mount(format!(
                "the mount on {shown} does not answer"
            )));
        }
    }
    let table = MountTable::read()
        .map_err(|error| Failure::system("cannot read the mount table", &error))?;
    match table.at(mountpoint) {
        Some(entry) if entry.is_ours() => Ok(()),
        Some(entry) => Err(Failure::Mount(format!(
            "{shown} shows a mount of type {} on top",
            entry.kind
        ))),
        None => Err(Failure::Mount(format!("{shown} is not in the mount table"))),
    }
}

/// Waits until the mount is gone. A signal takes it away; files still open then have a while, and a second signal cuts
/// that short. What was acknowledged is safe at any of these moments.
fn wait_for_end(
    woken: &Receiver<Event>,
    unmounter: &Unmounter,
    already_stopping: bool,
) -> Result<(), Failure> {
    let mut deadline = already_stopping.then(|| Instant::now() + STOP_GRACE);
    loop {
        let event = match deadline {
            None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => {
                woken.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
        };
        match event {
            Ok(Event::Ended(Ok(()))) => return Ok(()),
            Ok(Event::Ended(Err(error))) => {
                // Without its process the mount would stay as a dead one.
                take_away(unmounter);
                return Err(Failure::System(format!("the mount broke down: {error}")));
            }
            Ok(Event::Stop) if deadline.is_none() => {
                tracing::info!("asked to stop");
                deadline = Some(Instant::now() + STOP_GRACE);
                let unmounter = unmounter.clone();
                // Taking a mount away asks the mount itself, so it must not hold up this thread.
                let thread = std::thread::Builder::new().name("weldrfs-unmount".into());
                if let Err(error) = thread.spawn(move || take_away(&unmounter)) {
                    tracing::error!(%error, "cannot start a thread to unmount");
                }
            }
            Ok(Event::Stop) => {
                tracing::warn!("asked to stop again: open files are cut off");
                return Ok(());
            }
            Err(_) => {
                tracing::warn!(
                    "files are still open after {} s and are cut off",
                    STOP_GRACE.as_secs()
                );
                return Ok(());
            }
        }
    }
}

/// Takes the mount away in an orderly way, or lazily when it is in use.
fn take_away(unmounter: &Unmounter) {
    let Err(error) = unmounter.unmount(false) else {
        return;
    };
    tracing::info!(%error, "the mount is in use and is taken away lazily");
    if let Err(error) = unmounter.unmount(true) {
        tracing::warn!(%error, "the mount cannot be taken away");
    }
}

fn record(
    plan: &Plan,
    volume: &OpenVolume,
    socket: &Path,
    started: Started,
) -> Result<MountRecord, Failure> {
    let process = ProcessMark::of(std::process::id())
        .map_err(|error| Failure::system("cannot read /proc", &error))?;
    Ok(MountRecord {
        pid: process.pid,
        pid_started_ticks: process.started_ticks,
        boot_id: process.boot_id,
        volume_id: volume.id(),
        source: plan.source.text.clone(),
        endpoint: plan.endpoint().map(str::to_owned),
        mountpoint: plan.mountpoint.to_string_lossy().into_owned(),
        state_dir: volume.state_dir().to_owned(),
        socket: PathBuf::from(socket),
        started_ms: started.since_1970_ms(),
    })
}

fn remove_socket(socket: &Path) {
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::debug!(%error, "the socket is already gone");
    }
}
