//! A user namespace that exists only to say how the owners of files are shown: root's files belong to the sandbox's root,
//! who is nobody, and everybody else's to nobody at all. With it on the machine's root, what only root may read cannot be
//! read in a sandbox even by a command that root's project runs as root's user.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use weldrfs_control::SANDBOX_ROOT_ID;

/// The namespace; it lives as long as the descriptor.
///
/// # Errors
/// When the machine has no user namespaces, or no more of them.
pub(super) fn namespace() -> io::Result<OwnedFd> {
    let (ready, tell_ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (wait, let_go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the shim has one thread, and the child makes system calls only.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop((ready, let_go));
            // SAFETY: nothing of this process is used by anybody else: it is the only thread of it.
            let made = unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0;
            let mut byte = [u8::from(made)];
            let _ = rustix::io::write(&tell_ready, &byte);
            let _ = rustix::io::read(&wait, &mut byte);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop((tell_ready, wait));
            let namespace = of_child(child, &ready);
            drop(let_go);
            // SAFETY: it is our child, which ends now; its status is of no interest.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            namespace
        }
    }
}

fn of_child(child: i32, ready: &OwnedFd) -> io::Result<OwnedFd> {
    let mut made = [0];
    if rustix::io::read(ready, &mut made)? != 1 || made != [1] {
        return Err(io::Error::other("no user namespace can be made"));
    }
    for map in ["uid_map", "gid_map"] {
        let line = format!("0 {SANDBOX_ROOT_ID} 1\n");
        std::fs::write(format!("/proc/{child}/{map}"), line)?;
    }
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}
