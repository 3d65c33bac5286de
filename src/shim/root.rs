//! The root of a sandbox: the machine's, read-only, with what is private hidden, private folders to write in, and the
//! project at its own path. Runs in the process that becomes the runtime, in a mount namespace of its own, so that nothing
//! of it is ever seen on the machine and nothing has to be taken down again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, mount_remount, move_mount, open_tree,
};
use weldrfs_control::{
    HIDDEN_DIRECTORIES, HIDDEN_FILES, Identity, Network, SANDBOX_HOME, SANDBOX_INIT, SandboxOrder,
};

use crate::mount_table::MountTable;

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
/// Bytes of a folder that is only there to hide another.
const COVER_BYTES: u64 = 1024 * 1024;

/// What the root is made of.
pub(super) struct Plan {
    pub(super) order: SandboxOrder,
    /// An empty folder.
    pub(super) rootfs: PathBuf,
    /// The sandbox's folder.
    pub(super) folder: PathBuf,
    /// How owners of the machine's files are shown.
    pub(super) idmap: Option<OwnedFd>,
    pub(super) owner: Identity,
    pub(super) inside: Identity,
    /// This program.
    pub(super) program: PathBuf,
}

/// What was attempted, and how it failed.
fn attempt<T, E: std::fmt::Display>(what: &str, done: Result<T, E>) -> Result<T, String> {
    done.map_err(|error| format!("{what}: {error}"))
}

/// The project's folder, without following a symbolic link out of the mount or anywhere.
///
/// # Errors
/// What the operating system says; a link on the way is ELOOP.
pub(super) fn open_project(order: &SandboxOrder) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mountpoint = rustix::fs::open(&order.mountpoint, flags, Mode::empty())?;
    if order.folder.as_os_str().is_empty() {
        return Ok(mountpoint);
    }
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    Ok(openat2(
        &mountpoint,
        &order.folder,
        flags,
        Mode::empty(),
        inside,
    )?)
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
    // What is hidden may lie in a private folder, where it does not show.
    root.private_folders()?;
    root.hide()?;
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
    /// Where a path of the sandbox is for now.
    fn at(&self, path: &Path) -> PathBuf {
        self.plan
            .rootfs
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The machine's root without what is mounted on it, and what of the system is mounted.
    fn system(&self) -> Result<(), String> {
        clone_read_only(Path::new("/"), &self.plan.rootfs, self.plan.idmap.as_ref())?;
        let table = attempt("the mount table cannot be read", MountTable::read())?;
        for entry in table.entries() {
            let is_system = SYSTEM
                .iter()
                .any(|folder| entry.mountpoint.starts_with(folder));
            let target = self.at(&entry.mountpoint);
            if is_system && SYSTEM_KINDS.contains(&entry.kind.as_str()) && target.exists() {
                clone_read_only(&entry.mountpoint, &target, self.plan.idmap.as_ref())?;
            }
        }
        Ok(())
    }

    /// Covers what is nobody's business in a sandbox.
    fn hide(&mut self) -> Result<(), String> {
        let usual = HIDDEN_DIRECTORIES.iter().map(PathBuf::from);
        let mut hidden: Vec<PathBuf> = usual
            .chain(self.plan.order.hidden.iter().cloned())
            .filter(|path| path.is_absolute() && path != Path::new("/"))
            .collect();
        hidden.sort();
        for path in hidden {
            let is_covered = self.covers.iter().any(|cover| path.starts_with(cover));
            if !is_covered && is_folder(&self.at(&path)) {
                self.cover(path)?;
            }
        }
        let empty = self.plan.folder.join("empty");
        attempt("no empty file", write(&empty, b"", 0o444))?;
        for path in HIDDEN_FILES {
            let target = self.at(Path::new(path));
            if is_file(&target) {
                bind_read_only(&empty, &target)?;
            }
        }
        Ok(())
    }

    fn cover(&mut self, path: PathBuf) -> Result<(), String> {
        let options = format!("size={COVER_BYTES},mode=755");
        tmpfs(&self.at(&path), &options)?;
        self.covers.push(path);
        Ok(())
    }

    fn private_folders(&mut self) -> Result<(), String> {
        let size = self.plan.order.limits.tmp_bytes;
        let owner = self.plan.owner;
        for path in SCRATCH.iter().map(Path::new) {
            if is_folder(&self.at(path)) {
                tmpfs(&self.at(path), &format!("size={size},mode=1777"))?;
                self.private.push(path.to_owned());
            }
        }
        let own = format!("size={size},mode=755,uid={},gid={}", owner.uid, owner.gid);
        let home = Path::new(SANDBOX_HOME);
        self.make_folder(home)?;
        for path in [Path::new(RUN), home] {
            tmpfs(&self.at(path), &own)?;
            self.private.push(path.to_owned());
        }
        // Where programs have looked for it in former times.
        attempt(
            "no /run/lock",
            std::fs::create_dir(self.at(Path::new("/run/lock"))),
        )?;
        attempt(
            "no /run/lock",
            mode(&self.at(Path::new("/run/lock")), 0o1777),
        )
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
        // Opened here: a mount of another namespace cannot be bound.
        let project = attempt(
            "the project's folder cannot be opened",
            open_project(&self.plan.order),
        )?;
        let source = format!("/proc/self/fd/{}", project.as_raw_fd());
        let target = self.at(&path);
        attempt(
            "the project's folder cannot be bound",
            mount_bind(&source, &target),
        )?;
        restrict(&target, MountFlags::empty())
    }

    /// Makes a folder to mount on. Where the machine's root has none, the nearest folder that it has is covered.
    fn make_folder(&mut self, path: &Path) -> Result<(), String> {
        if is_folder(&self.at(path)) {
            return Ok(());
        }
        let nearest = path.ancestors().find(|above| is_folder(&self.at(above)));
        let nearest = nearest.unwrap_or(Path::new("/"));
        let is_ours = |known: &PathBuf| nearest.starts_with(known);
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
            restrict(&self.at(cover), MountFlags::RDONLY)?;
        }
        Ok(())
    }
}

/// Shows what is mounted at `source`, and nothing that is mounted below it, at `target`.
fn clone_read_only(source: &Path, target: &Path, idmap: Option<&OwnedFd>) -> Result<(), String> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let what = format!("{} cannot be shown", source.display());
    let tree = attempt(&what, open_tree(CWD, source, flags))?;
    // A file system that cannot show other owners is shown with its own; the hidden files are hidden all the same.
    let mapped = idmap.is_some_and(|idmap| set_attributes(&tree, Some(idmap)).is_ok());
    if !mapped {
        attempt(&what, set_attributes(&tree, None))?;
    }
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    attempt(&what, move_mount(&tree, "", CWD, target, from))
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Read-only, without set-id bits and devices, and with owners as `idmap` says.
fn set_attributes(tree: &OwnedFd, idmap: Option<&OwnedFd>) -> io::Result<()> {
    const RDONLY: u64 = 0x1;
    const NOSUID: u64 = 0x2;
    const NODEV: u64 = 0x4;
    const IDMAP: u64 = 0x0010_0000;
    let attributes = MountAttributes {
        set: RDONLY | NOSUID | NODEV | if idmap.is_some() { IDMAP } else { 0 },
        clear: 0,
        propagation: 0,
        user_namespace: idmap.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(0)),
    };
    // SAFETY: the structure is the kernel's, its size is given, and it lives until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            std::mem::size_of::<MountAttributes>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn tmpfs(target: &Path, options: &str) -> Result<(), String> {
    let what = format!("no private folder on {}", target.display());
    let options = attempt(&what, CString::new(options))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    attempt(
        &what,
        mount("tmpfs", target, "tmpfs", flags, options.as_c_str()),
    )
}

fn bind_read_only(source: &Path, target: &Path) -> Result<(), String> {
    let what = format!("{} cannot be bound", target.display());
    attempt(&what, mount_bind(source, target))?;
    restrict(target, MountFlags::RDONLY)
}

/// Takes set-id bits and devices from a mount, and what `more` says.
fn restrict(target: &Path, more: MountFlags) -> Result<(), String> {
    let what = format!("{} cannot be restricted", target.display());
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | more;
    let now = attempt(&what, rustix::fs::statvfs(target))?;
    if now.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        flags |= MountFlags::RDONLY;
    }
    attempt(&what, mount_remount(target, flags, c""))
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
    fn no_link_leads_out_of_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("mount");
        std::fs::create_dir_all(mountpoint.join("app/deep")).unwrap();
        std::os::unix::fs::symlink("/etc", mountpoint.join("out")).unwrap();
        std::os::unix::fs::symlink("app", mountpoint.join("in")).unwrap();
        std::fs::write(mountpoint.join("file"), "").unwrap();
        let open = |folder: &str| {
            let order = super::super::tests::order(&mountpoint, folder);
            open_project(&order).is_ok()
        };
        assert!(open("") && open("app") && open("app/deep"));
        for bad in [
            "out",
            "in",
            "in/deep",
            "..",
            "app/../..",
            "file",
            "missing",
            "/etc",
        ] {
            assert!(!open(bad), "{bad}");
        }
    }
}
