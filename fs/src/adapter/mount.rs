//! Putting a volume into the file tree and taking it out again.
//!
//! As root this does mount(2) itself, so that the type reads `fuse.weldrfs` and nothing is torn down behind our back;
//! anybody else goes through fusermount3.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::{MountFlags, UnmountFlags};

use super::aside::{Kernel, Teller};
use super::pool::Pools;
use super::{Adapter, Manners};
use crate::awake::Awake;
use crate::volume::Volume;

/// How directories are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Readdirplus {
    /// With attributes when the kernel thinks it pays.
    #[default]
    Auto,
    /// Always with attributes.
    On,
    /// Never.
    Off,
}

/// How a volume is mounted.
#[derive(Clone, Debug)]
pub struct FuseSettings {
    /// Where; an existing directory.
    pub mountpoint: PathBuf,
    /// What the mount table shows as source.
    pub source_name: String,
    /// Every user may use it.
    pub allow_other: bool,
    /// Root and the owner may.
    pub allow_root: bool,
    /// The kernel refuses writes.
    pub read_only: bool,
    /// Kernel flags by their mount(8) names: `nosuid`, `nodev`, `noexec`, `noatime`, `sync`, `dirsync`, …
    pub kernel_options: Vec<String>,
    /// How long the kernel may keep attributes.
    pub attr_timeout: Duration,
    /// How long it may keep names.
    pub entry_timeout: Duration,
    /// How long it may remember that a name is missing; zero: not at all.
    pub negative_timeout: Duration,
    /// Threads that take requests.
    pub threads: usize,
    /// Files are opened without asking.
    pub no_open: bool,
    /// Directories are opened without asking.
    pub no_opendir: bool,
    /// How directories are listed.
    pub readdirplus: Readdirplus,
    /// The kernel collects writes.
    pub kernel_writeback: bool,
    /// Most bytes of a write request.
    pub max_write: u32,
    /// Most bytes of read-ahead.
    pub max_readahead: u32,
    /// The root lists `.snapshots`.
    pub show_snapshots: bool,
    /// Processors are kept awake while requests flow, where that is possible.
    pub low_latency: bool,
}

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The FUSE device cannot be opened.
    #[error("cannot open /dev/fuse: {0}")]
    Device(io::Error),
    /// The kernel refused the mount.
    #[error("the kernel refused the mount: {0}")]
    Refused(io::Error),
    /// The session broke.
    #[error("{0}")]
    Session(#[from] io::Error),
}

/// A mount that the kernel knows; it is served once [`FuseMount::wait`] runs.
pub struct FuseMount {
    serving: std::thread::JoinHandle<io::Result<()>>,
    unmounter: Unmounter,
}

/// Takes a mount away, from any thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mountpoint: PathBuf,
    is_root: bool,
}

impl Unmounter {
    /// Whether the mount table still shows a mount of ours there. A table that cannot be read shows one.
    fn is_mounted(&self) -> bool {
        let Ok(table) = std::fs::read("/proc/self/mountinfo") else {
            return true;
        };
        let wanted = escaped(&self.mountpoint);
        table.split(|byte| *byte == b'\n').any(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let is_here = fields.nth(4) == Some(&wanted[..]);
            is_here && fields.any(|field| field == b"fuse.weldrfs")
        })
    }

    /// Takes the mount away. A lazy one is gone from the tree at once and lives on for what is open.
    ///
    /// # Errors
    /// `EBUSY` while somebody uses it, unless lazy.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        if self.is_root {
            let flags = if lazy {
                UnmountFlags::DETACH
            } else {
                UnmountFlags::empty()
            };
            return Ok(rustix::mount::unmount(&self.mountpoint, flags).map_err(io::Error::from)?);
        }
        let mut command = Command::new("fusermount3");
        command
            .arg("-u")
            .args(lazy.then_some("-z"))
            .arg("--")
            .arg(&self.mountpoint);
        let output = command.output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )
            .into()),
        }
    }
}

impl FuseMount {
    /// Mounts a volume. When this returns the kernel's first request was answered.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn mount(volume: Arc<Volume>, settings: FuseSettings) -> Result<Self, MountError> {
        let awake = Arc::new(match settings.low_latency {
            true => Awake::auto(),
            false => Awake::off(),
        });
        volume.set_awake(Arc::clone(&awake));
        let engine = volume.engine();
        let kernel = Kernel::new(engine, settings.mountpoint.clone());
        if settings.show_snapshots {
            engine.show_snapshots();
        }
        let adapter = Adapter {
            awake,
            kernel: Arc::clone(&kernel),
            engine: Arc::clone(volume.engine()),
            pools: Pools::start()?,
            manners: Manners {
                attr_timeout: settings.attr_timeout,
                entry_timeout: settings.entry_timeout,
                negative_timeout: settings.negative_timeout,
                no_open: settings.no_open,
                no_opendir: settings.no_opendir,
                readdirplus: settings.readdirplus,
                kernel_writeback: settings.kernel_writeback,
                // The library compares who asks with the owner, and the kernel does not say who asks then.
                idmapped: settings.allow_other,
                max_write: settings.max_write,
                max_readahead: settings.max_readahead,
            },
        };
        volume.engine().serve(true);
        let is_root = rustix::process::geteuid().is_root();
        let session = if is_root {
            mount_directly(adapter, &settings)?
        } else {
            mount_by_helper(adapter, &settings)?
        };
        kernel.begin(session.notifier());
        let unmounter = Unmounter {
            mountpoint: settings.mountpoint.clone(),
            is_root,
        };
        let serving = std::thread::Builder::new()
            .name("weldr-session".into())
            .spawn(move || session.run())?;
        if is_root {
            raise_read_ahead(&settings);
        }
        kernel.find();
        volume.engine().set_onlooker(Arc::new(Teller(kernel)));
        Ok(Self { serving, unmounter })
    }

    /// Something that can take the mount away.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Waits until the mount is gone, whoever took it away.
    ///
    /// # Errors
    /// When the session broke.
    pub fn wait(self) -> Result<(), MountError> {
        match self.serving.join() {
            // The kernel may end a session in many ways; what counts is whether the mount is gone.
            Ok(Err(error)) if !self.unmounter.is_mounted() => {
                tracing::info!(%error, "the session ended with the mount");
                Ok(())
            }
            Ok(result) => Ok(result?),
            Err(_) => Err(io::Error::other("a thread that serves the mount panicked").into()),
        }
    }
}

fn session_config(settings: &FuseSettings) -> (Config, SessionACL) {
    let acl = match (settings.allow_other, settings.allow_root) {
        (true, _) => SessionACL::All,
        (false, true) => SessionACL::RootAndOwner,
        (false, false) => SessionACL::Owner,
    };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(settings.threads.max(1));
    config.clone_fd = true;
    (config, acl)
}

fn mount_directly(
    adapter: Adapter,
    settings: &FuseSettings,
) -> Result<Session<Adapter>, MountError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(MountError::Device)?;
    let mode = std::fs::metadata(&settings.mountpoint)?.mode();
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let mut data = format!(
        "fd={},rootmode={:o},user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd(),
        mode & libc::S_IFMT
    );
    let (config, acl) = session_config(settings);
    if acl != SessionACL::Owner {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(io::Error::other)?;
    let flags = kernel_flags(settings);
    rustix::mount::mount(
        settings.source_name.as_str(),
        &settings.mountpoint,
        "fuse.weldrfs",
        flags,
        Some(&*data),
    )
    .map_err(|e| MountError::Refused(e.into()))?;
    let session = Session::from_fd(adapter, OwnedFd::from(device), acl, config);
    if session.is_err() {
        // Without a session the mount would only hang.
        let _ = rustix::mount::unmount(&settings.mountpoint, UnmountFlags::DETACH);
    }
    Ok(session?)
}

fn kernel_flags(settings: &FuseSettings) -> MountFlags {
    let mut flags = MountFlags::empty();
    if settings.read_only {
        flags |= MountFlags::RDONLY;
    }
    for option in &settings.kernel_options {
        flags |= match option.as_str() {
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "sync" => MountFlags::SYNCHRONOUS,
            "dirsync" => MountFlags::DIRSYNC,
            _ => MountFlags::empty(),
        };
    }
    flags
}

fn mount_by_helper(
    adapter: Adapter,
    settings: &FuseSettings,
) -> Result<Session<Adapter>, MountError> {
    let (mut config, _) = session_config(settings);
    config.mount_options = vec![
        MountOption::FSName(settings.source_name.clone()),
        MountOption::Subtype("weldrfs".into()),
        MountOption::DefaultPermissions,
    ];
    if settings.read_only {
        config.mount_options.push(MountOption::RO);
    }
    for option in &settings.kernel_options {
        config.mount_options.extend(match option.as_str() {
            "nosuid" => Some(MountOption::NoSuid),
            "nodev" => Some(MountOption::NoDev),
            "noexec" => Some(MountOption::NoExec),
            "noatime" => Some(MountOption::NoAtime),
            "sync" => Some(MountOption::Sync),
            "dirsync" => Some(MountOption::DirSync),
            _ => None,
        });
    }
    Session::new(adapter, &settings.mountpoint, &config).map_err(MountError::Refused)
}

/// The kernel caps read-ahead at 128 KiB until it is told otherwise. A hint: failing to give it is no error.
fn raise_read_ahead(settings: &FuseSettings) {
    let Ok(file) = File::open(&settings.mountpoint) else {
        return;
    };
    let Ok(stat) = rustix::fs::fstat(&file) else {
        return;
    };
    let (major, minor) = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(
        Path::new(&path),
        (settings.max_readahead / 1024).to_string(),
    ) {
        tracing::debug!(%error, path, "read-ahead stays as it is");
    }
}

/// A path as the mount table writes it.
fn escaped(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                out.extend_from_slice(format!("\\{byte:03o}").as_bytes())
            }
            _ => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_the_mount_table_does() {
        assert_eq!(escaped(Path::new("/a b\\c\n")), b"/a\\040b\\134c\\012");
    }
}
