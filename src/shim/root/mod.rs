//! The root of a sandbox: the machine's, read-only, with what is private hidden, private folders to write in, and the
//! project at its own path. Runs in the process that becomes the runtime, in a mount namespace of its own, so that nothing
//! of it is ever seen on the machine and nothing has to be taken down again.

mod devices;
mod hide;
mod mounts;
mod project;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
use weldrfs_control::{Identity, Network, SANDBOX_HOME, SANDBOX_INIT, SandboxOrder};

use crate::mount_table::MountTable;
use mounts::{attempt, bind_read_only, copy_read_only, make_read_only, put, tmpfs};

pub(super) use project::{copy_project, open_project};

/// Folders of the machine on one of which the root is put together, in the mount namespace of its own. The runtime goes there
/// as somebody who may not enter the sidecar's folders.
const STAGES: [&str; 5] = ["/mnt", "/media", "/srv", "/home", "/boot"];
/// Folders of the machine that sandboxes see also where they are mounts of their own.
const SYSTEM: [&str; 9] = [
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/sbin", "/usr",
];
/// Kinds of file systems that hold a system.
const SYSTEM_KINDS: [&str; 9] = [
    "btrfs", "erofs", "ext2", "ext3", "ext4", "overlay", "squashfs", "xfs", "zfs",
];
/// Private folders that anybody may write to.
const SCRATCH: [&str; 2] = ["/tmp", "/var/tmp"];
/// Private folder of the command's user beside its home.
const RUN: &str = "/run";
/// What a program needs to know to reach others by name.
const NAMES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What the root is made of.
pub(super) struct Plan {
    pub(super) order: SandboxOrder,
    /// See [`stage`].
    pub(super) rootfs: PathBuf,
    /// The sandbox's folder.
    pub(super) folder: PathBuf,
    /// How owners of the machine's files are shown.
    pub(super) owners: Option<OwnedFd>,
    /// See [`copy_project`].
    pub(super) project: OwnedFd,
    /// Who the command's user is on the machine.
    pub(super) user: Identity,
    /// And in the sandbox.
    pub(super) inside: Identity,
    /// This program.
    pub(super) program: PathBuf,
}

/// Where the root can be put together: a folder that nothing is in that is needed meanwhile.
pub(super) fn stage(needed: &[&Path]) -> Option<PathBuf> {
    let is_free =
        |stage: &&Path| is_folder(stage) && !needed.iter().any(|path| path.starts_with(stage));
    let stages = STAGES.iter().map(Path::new);
    stages.into_iter().find(is_free).map(Path::to_owned)
}

/// Leaves the machine's mount namespace and puts the root together in a new one.
///
/// # Errors
/// What was attempted and how it failed.
pub(super) fn compose(plan: &Plan) -> Result<(), String> {
    // SAFETY: the process has one thread, which is about to become another program.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    if left != 0 {
        return Err(format!(
            "no mount namespace: {}",
            io::Error::last_os_error()
        ));
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    attempt("mounts cannot be made private", mount_change("/", private))?;
    let mut root = Composing {
        plan,
        covers: Vec::new(),
        private: Vec::new(),
    };
    root.system()?;
    root.hide_variable()?;
    // What is hidden may lie in a private folder, where it does not show.
    root.private_folders()?;
    root.hide()?;
    root.hide_sockets()?;
    root.files()?;
    root.project()?;
    root.close()
}

struct Composing<'a> {
    plan: &'a Plan,
    /// Empty folders, in the sandbox's terms; they become read-only at the end.
    covers: Vec<PathBuf>,
    /// Folders to write in.
    private: Vec<PathBuf>,
}

impl Composing<'_> {
    /// Where a path of the sandbox is for now. Links on the way are followed as the sandbox will follow them, never out of
    /// its root.
    fn at(&self, path: &Path) -> PathBuf {
        let real = real(path);
        self.plan
            .rootfs
            .join(real.strip_prefix("/").unwrap_or(&real))
    }

    /// The machine's root without what is mounted on it, and what of the system is mounted.
    fn system(&self) -> Result<(), String> {
        let owners = || self.plan.owners.as_ref().map(AsFd::as_fd);
        let root = copy_read_only(Path::new("/"), owners())?;
        let table = attempt("the mount table cannot be read", MountTable::read())?;
        let mut others = Vec::new();
        for entry in table.entries() {
            let is_system = SYSTEM
                .iter()
                .any(|folder| entry.mountpoint.starts_with(folder));
            if is_system && SYSTEM_KINDS.contains(&entry.kind.as_str()) {
                others.push((
                    &entry.mountpoint,
                    copy_read_only(&entry.mountpoint, owners())?,
                ));
            }
        }
        put(&root, &self.plan.rootfs)?;
        for (mountpoint, tree) in others {
            let target = self.at(mountpoint);
            if target.exists() {
                put(&tree, &target)?;
            }
        }
        Ok(())
    }

    fn private_folders(&mut self) -> Result<(), String> {
        let size = self.plan.order.limits.tmp_bytes;
        let user = self.plan.user;
        let no_devices = MountFlags::NODEV;
        for path in SCRATCH.iter().map(Path::new) {
            if is_folder(&self.at(path)) {
                tmpfs(
                    &self.at(path),
                    &format!("size={size},mode=1777"),
                    no_devices,
                )?;
                self.private.push(path.to_owned());
            }
        }
        let own = format!("size={size},mode=755,uid={},gid={}", user.uid, user.gid);
        let home = Path::new(SANDBOX_HOME);
        self.make_folder(home)?;
        for path in [Path::new(RUN), home] {
            tmpfs(&self.at(path), &own, no_devices)?;
            self.private.push(path.to_owned());
        }
        devices::make(&self.at(Path::new("/dev")))?;
        // Where programs have looked for it in former times.
        let lock = self.at(Path::new("/run/lock"));
        attempt("no /run/lock", std::fs::create_dir(&lock))?;
        attempt("no /run/lock", mode(&lock, 0o1777))
    }

    /// This program, the command's user by name, and where names of machines are asked for.
    fn files(&self) -> Result<(), String> {
        let init = self.at(Path::new(SANDBOX_INIT));
        attempt("no place for the first process", write(&init, b"", 0o555))?;
        bind_read_only(&self.plan.program, &init)?;
        let Identity { uid, gid } = self.plan.inside;
        let user = format!("user:x:{uid}:{gid}:user:{SANDBOX_HOME}:/bin/sh\n");
        self.replace("/etc/passwd", &without_id(&read("/etc/passwd"), uid, &user))?;
        let group = format!("user:x:{gid}:\n");
        self.replace("/etc/group", &without_id(&read("/etc/group"), gid, &group))?;
        if self.plan.order.network != Network::Host {
            return Ok(());
        }
        for name in NAMES {
            let Ok(real) = std::fs::canonicalize(name) else {
                continue;
            };
            if real.starts_with(RUN) {
                let target = self.at(&real);
                let folder = target.parent().unwrap_or(&self.plan.rootfs);
                attempt("no folder for names", std::fs::create_dir_all(folder))?;
                attempt("no names", write(&target, read(name).as_bytes(), 0o444))?;
            } else {
                self.replace(&real.to_string_lossy(), &read(name))?;
            }
        }
        Ok(())
    }

    /// Shows a file with another content.
    fn replace(&self, path: &str, content: &str) -> Result<(), String> {
        let target = self.at(Path::new(path));
        if !is_file(&target) {
            return Ok(());
        }
        let own = self
            .plan
            .folder
            .join(format!("shown{}", path.replace('/', "-")));
        attempt(
            "a file cannot be replaced",
            write(&own, content.as_bytes(), 0o444),
        )?;
        bind_read_only(&own, &target)
    }

    fn project(&mut self) -> Result<(), String> {
        let path = self.plan.order.project();
        self.make_folder(&path)?;
        put(&self.plan.project, &self.at(&path))
    }

    /// Makes a folder to mount on. Where the machine's root has none, the nearest folder that it has is covered.
    fn make_folder(&mut self, path: &Path) -> Result<(), String> {
        if is_folder(&self.at(path)) {
            return Ok(());
        }
        let nearest = path.ancestors().find(|above| is_folder(&self.at(above)));
        let nearest = nearest.unwrap_or(Path::new("/"));
        let is_ours = |known: &PathBuf| real(nearest).starts_with(real(known));
        if !self.covers.iter().chain(&self.private).any(is_ours) {
            if nearest == Path::new("/") {
                return Err(format!(
                    "{} has no place below a folder of the machine's root file system",
                    path.display()
                ));
            }
            self.cover(nearest.to_owned())?;
        }
        attempt(
            "no folder to mount on",
            std::fs::create_dir_all(self.at(path)),
        )
    }

    /// Nothing is added any more.
    fn close(&self) -> Result<(), String> {
        for cover in &self.covers {
            make_read_only(&self.at(cover), MountFlags::NODEV)?;
        }
        make_read_only(&self.at(Path::new("/dev")), MountFlags::NOEXEC)
    }
}

/// Where a path of the machine leads to, as far as there is anything.
fn real(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let Ok(found) = std::fs::canonicalize(above) {
            return match path.strip_prefix(above) {
                Ok(rest) if !rest.as_os_str().is_empty() => found.join(rest),
                _ => found,
            };
        }
    }
    path.to_owned()
}

fn is_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() > 0)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn write(path: &Path, content: &[u8], bits: u32) -> io::Result<()> {
    std::fs::write(path, content)?;
    mode(path, bits)
}

fn mode(path: &Path, bits: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits))
}

/// The lines of a file like /etc/passwd without those of number `id` and of a name that `own` has, and `own`.
fn without_id(text: &str, id: u32, own: &str) -> String {
    let id = id.to_string();
    let others = text.lines().filter(|line| {
        let mut fields = line.split(':');
        fields.next() != Some("user") && fields.nth(1) != Some(&id)
    });
    others
        .map(|line| format!("{line}\n"))
        .chain([own.to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_has_one_name_and_the_others_keep_theirs() {
        let text =
            "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nuser:x:7:7::/:/bin/sh\n";
        let shown = without_id(text, 1000, "user:x:1000:1000:::\n");
        assert_eq!(shown, "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000:::\n");
    }

    #[test]
    fn links_are_followed_as_far_as_there_is_anything() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(base.join("data/home")).unwrap();
        std::os::unix::fs::symlink(base.join("data/home"), base.join("home")).unwrap();
        assert_eq!(real(&base.join("home")), base.join("data/home"));
        assert_eq!(real(&base.join("home/me/x")), base.join("data/home/me/x"));
        assert_eq!(
            real(Path::new("/no-such-folder/x")),
            Path::new("/no-such-folder/x")
        );
    }

    #[test]
    fn the_root_is_put_together_where_nothing_is_needed() {
        assert_eq!(stage(&[]).as_deref(), Some(Path::new("/mnt")));
        let stage = stage(&[Path::new("/mnt/run/x"), Path::new("/media")]);
        assert!(!stage.unwrap().starts_with("/mnt"));
    }
}
