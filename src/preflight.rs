//! What is checked before a mount makes anything: the mountpoint, the FUSE device, the folders. Every refusal says what
//! to do. The one thing changed here is that a dead mount of ours is cleared away.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access as Wanted, AtFlags, CWD, accessat};

use crate::bucket::BucketAccess;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::mount_table::{MountEntry, MountTable, resolve};
use crate::options::{Access, MountOptions};
use crate::source::{Place, Source};
use crate::unmounting::{self, Liveness};

/// The kernel's FUSE device.
const FUSE_DEVICE: &str = "/dev/fuse";
/// Where fusermount3's administrator decides about `allow_other`.
const FUSE_CONF: &str = "/etc/fuse.conf";
/// Bit of CAP_SYS_ADMIN in a set of capabilities.
const CAP_SYS_ADMIN: u32 = 21;
/// Dead mounts on top of each other that are cleared before giving up.
const DEAD_MOUNTS_MAX: usize = 16;

/// A mount that may be tried.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) source: Source,
    /// Absolute and free of symbolic links.
    pub(crate) mountpoint: PathBuf,
    pub(crate) options: MountOptions,
    /// Base of the local state; may not exist yet.
    pub(crate) state_base: PathBuf,
    /// How a bucket is reached; `None` for a directory.
    pub(crate) access: Option<BucketAccess>,
}

impl Plan {
    /// What serves the bucket; `None` for a directory.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.access.as_ref().map(|access| access.endpoint.as_str())
    }

    /// Checks everything that can be checked without making anything.
    ///
    /// # Errors
    /// The first thing that stands in the way, and what to do about it.
    pub(crate) fn check(
        source: Source,
        mountpoint: &Path,
        options: MountOptions,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let state_base = state_base(&options, environment)?;
        let access = match &source.place {
            Place::Directory(_) => None,
            Place::Bucket { bucket, prefix } => Some(BucketAccess::resolve(
                bucket,
                prefix,
                &options.s3,
                &environment.variables,
            )?),
        };
        check_access(options.access, environment, Path::new(FUSE_CONF))?;
        let mountpoint = check_mountpoint(mountpoint, &source, environment)?;
        check_nesting(
            &mountpoint,
            &source,
            &state_base,
            options.cache_dir.as_deref(),
        )?;
        check_store(&source, options.read_only)?;
        check_folder(
            &state_base,
            "the state folder",
            "-o state_dir=DIR or WELDR_ENV_VOL",
        )?;
        if let Some(cache_dir) = &options.cache_dir {
            check_folder(cache_dir, "the cache folder", "-o cache_dir=DIR")?;
        }
        check_fuse(environment)?;
        Ok(Self {
            source,
            mountpoint,
            options,
            state_base,
            access,
        })
    }
}

/// Where local state is kept.
pub(crate) fn state_base(
    options: &MountOptions,
    environment: &Environment,
) -> Result<PathBuf, Failure> {
    let given = options.state_dir.clone();
    given
        .or_else(|| environment.state_base.clone())
        .ok_or_else(|| {
            Failure::Invocation(
                "no folder for local state: set HOME or WELDR_ENV_VOL, or use -o state_dir=DIR"
                    .into(),
            )
        })
}

/// `allow_other` and `allow_root` are the administrator's to permit, unless root mounts.
fn check_access(access: Access, environment: &Environment, conf: &Path) -> Result<(), Failure> {
    let option = match access {
        Access::Owner => return Ok(()),
        Access::Root => "allow_root",
        Access::Everybody => "allow_other",
    };
    let conf_text = std::fs::read_to_string(conf).unwrap_or_default();
    if environment.is_root()
        || conf_text
            .lines()
            .any(|line| line.trim() == "user_allow_other")
    {
        return Ok(());
    }
    Err(Failure::Invocation(format!(
        "option {option} is not permitted to users here: as root, add the line user_allow_other to {}",
        conf.display()
    )))
}

/// The mountpoint, resolved: a directory that nothing is mounted on.
fn check_mountpoint(
    given: &Path,
    source: &Source,
    environment: &Environment,
) -> Result<PathBuf, Failure> {
    if given.starts_with("/dev/fd") {
        return Err(Failure::Invocation(
            "option drop_privileges is not supported; to run as another user write setuid=USER"
                .into(),
        ));
    }
    for _ in 0..DEAD_MOUNTS_MAX {
        let table = MountTable::read()
            .map_err(|error| Failure::system("cannot read the mount table", &error))?;
        let resolved = resolve(given, &table).map_err(|error| no_mountpoint(given, &error))?;
        let Some(entry) = table.at(&resolved) else {
            let found =
                std::fs::metadata(&resolved).map_err(|error| no_mountpoint(given, &error))?;
            if !found.is_dir() {
                return Err(Failure::Mount(format!(
                    "mountpoint {} is not a directory; give one that is",
                    given.display()
                )));
            }
            return Ok(resolved);
        };
        clear_or_refuse(entry, source, environment)?;
    }
    Err(Failure::Mount(format!(
        "mountpoint {} is covered by dead mounts; restart the machine",
        given.display()
    )))
}

fn no_mountpoint(given: &Path, error: &io::Error) -> Failure {
    let shown = given.display();
    Failure::Mount(match error.kind() {
        io::ErrorKind::NotFound => {
            format!("mountpoint {shown} does not exist; make it first: mkdir -p {shown}")
        }
        io::ErrorKind::NotADirectory => {
            format!("mountpoint {shown} lies below something that is not a directory")
        }
        io::ErrorKind::PermissionDenied => {
            format!("mountpoint {shown} cannot be reached: {error}; run as its owner")
        }
        _ if error.raw_os_error() == Some(libc::ENOTCONN) => {
            format!("mountpoint {shown} lies on a dead mount; clear that first with umount -l")
        }
        _ => format!("mountpoint {shown} cannot be used: {error}"),
    })
}

/// Clears a dead mount of ours; any other mount is refused.
fn clear_or_refuse(
    entry: &MountEntry,
    source: &Source,
    environment: &Environment,
) -> Result<(), Failure> {
    let shown = entry.mountpoint.display();
    let mounted = entry.source.to_string_lossy();
    match unmounting::liveness(&entry.mountpoint) {
        Liveness::Dead if entry.is_ours() => {
            unmounting::unmount(&entry.mountpoint, true, environment).map_err(|error| {
                Failure::Mount(format!(
                    "mountpoint {shown} holds the dead mount of a killed process, which cannot be cleared: {error}; try \
                     umount -l {shown} as root"
                ))
            })?;
            crate::say(&format!(
                "cleared the dead mount of {mounted} that a killed process left on {shown}"
            ));
            Ok(())
        }
        Liveness::Dead => Err(Failure::Mount(format!(
            "mountpoint {shown} holds a dead mount of {mounted} (type {}); clear it first: umount -l {shown}",
            entry.kind
        ))),
        Liveness::Silent => Err(Failure::Mount(format!(
            "mountpoint {shown} holds a mount of {mounted} that does not answer; end its process, then umount -l {shown}"
        ))),
        Liveness::Answers if entry.is_ours() && mounted == source.text => {
            Err(Failure::Mount(format!(
                "{mounted} is already mounted on {shown}; there is nothing to do, or unmount it first: weldrfs umount {shown}"
            )))
        }
        Liveness::Answers => Err(Failure::Mount(format!(
            "mountpoint {shown} is already a mount of {mounted} (type {}); unmount that first or choose another place",
            entry.kind
        ))),
    }
}

/// A store or state below the mountpoint would wait for itself; a mountpoint in the store would be taken for objects.
fn check_nesting(
    mountpoint: &Path,
    source: &Source,
    state: &Path,
    cache: Option<&Path>,
) -> Result<(), Failure> {
    let folders = [
        source.directory().map(|dir| ("SOURCE", dir)),
        Some(("the state folder", state)),
        cache.map(|cache| ("the cache folder", cache)),
    ];
    for (what, folder) in folders.into_iter().flatten() {
        if as_far_as_it_exists(folder).starts_with(mountpoint) {
            return Err(Failure::Invocation(format!(
                "{what} {} lies below the mountpoint {}, so the mount would wait for itself; choose another place",
                folder.display(),
                mountpoint.display()
            )));
        }
    }
    if let Some(dir) = source.directory()
        && mountpoint.starts_with(as_far_as_it_exists(dir))
    {
        return Err(Failure::Invocation(format!(
            "mountpoint {} lies in SOURCE {}; choose another place",
            mountpoint.display(),
            dir.display()
        )));
    }
    Ok(())
}

/// The store's directory exists and can be used, or can be made in a folder that exists. A bucket is asked later.
fn check_store(source: &Source, read_only: bool) -> Result<(), Failure> {
    let text = &source.text;
    let Some(dir) = source.directory() else {
        return Ok(());
    };
    let (found, tested) = match std::fs::metadata(dir) {
        Ok(found) => (found, dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().unwrap_or(dir);
            let found = std::fs::metadata(parent).map_err(|error| {
                Failure::Mount(format!(
                    "SOURCE {text}: {}: {error}; make that folder first",
                    parent.display()
                ))
            })?;
            (found, parent)
        }
        Err(error) => {
            return Err(Failure::Mount(format!(
                "SOURCE {text}: {}: {error}",
                dir.display()
            )));
        }
    };
    if !found.is_dir() {
        return Err(Failure::Mount(format!(
            "SOURCE {text}: {} is not a directory",
            tested.display()
        )));
    }
    if !read_only && let Err(error) = may_write(tested) {
        return Err(Failure::Invocation(format!(
            "SOURCE {text}: {} cannot be written to: {error}; run as its owner",
            tested.display()
        )));
    }
    Ok(())
}

/// `folder` can be written to, or can be made.
fn check_folder(folder: &Path, what: &str, how_to_choose: &str) -> Result<(), Failure> {
    let refuse = |at: &Path, reason: &dyn std::fmt::Display| {
        let at = if at == folder {
            String::new()
        } else {
            format!(" ({})", at.display())
        };
        Err(Failure::Invocation(format!(
            "{what} {} cannot be written to: {reason}{at}; choose another with {how_to_choose}",
            folder.display()
        )))
    };
    for existing in folder.ancestors() {
        match std::fs::metadata(existing) {
            Ok(found) if !found.is_dir() => return refuse(existing, &"not a directory"),
            Ok(_) => {
                return match may_write(existing) {
                    Ok(()) => Ok(()),
                    Err(error) => refuse(existing, &error),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return refuse(existing, &error),
        }
    }
    refuse(folder, &"no part of it exists")
}

/// Whether files can be made in `dir` by the effective user.
fn may_write(dir: &Path) -> io::Result<()> {
    Ok(accessat(
        CWD,
        dir,
        Wanted::WRITE_OK | Wanted::EXEC_OK,
        AtFlags::EACCESS,
    )?)
}

/// `path` with the part that exists freed of symbolic links.
fn as_far_as_it_exists(path: &Path) -> PathBuf {
    for existing in path.ancestors() {
        if let Ok(resolved) = std::fs::canonicalize(existing) {
            let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() {
                resolved
            } else {
                resolved.join(rest)
            };
        }
    }
    path.to_owned()
}

/// The kernel offers FUSE and whoever runs this may use it.
fn check_fuse(environment: &Environment) -> Result<(), Failure> {
    let refuse = |reason: &str| Err(Failure::Mount(format!("cannot mount: {reason}")));
    match std::fs::metadata(FUSE_DEVICE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(
                "there is no /dev/fuse; load the module with modprobe fuse, and start containers with --device /dev/fuse",
            );
        }
        Err(error) => return refuse(&format!("/dev/fuse: {error}")),
        Ok(_) => {}
    }
    if !environment.is_root() {
        if environment.program("fusermount3").is_none() {
            return refuse("users need the program fusermount3; install it with apt install fuse3");
        }
        if accessat(
            CWD,
            FUSE_DEVICE,
            Wanted::READ_OK | Wanted::WRITE_OK,
            AtFlags::EACCESS,
        )
        .is_err()
        {
            return refuse("users may not open /dev/fuse here; as root, run chmod 666 /dev/fuse");
        }
        return Ok(());
    }
    if let Err(error) = File::options().read(true).write(true).open(FUSE_DEVICE) {
        return refuse(&match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => {
                format!(
                    "/dev/fuse is there and the kernel's part is not ({error}); load it with modprobe fuse"
                )
            }
            Some(libc::EPERM | libc::EACCES) => {
                format!(
                    "/dev/fuse may not be opened ({error}); start the container with --device /dev/fuse"
                )
            }
            _ => format!("/dev/fuse: {error}"),
        });
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if lacks_capability(&status, CAP_SYS_ADMIN) {
        return refuse(
            "root lacks the capability to mount here; start the container with --cap-add SYS_ADMIN",
        );
    }
    Ok(())
}

/// Whether `/proc/PID/status` says that capability number `bit` is missing from the effective set.
fn lacks_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities & (1 << bit) == 0)
}

#[cfg(test)]
mod tests;
