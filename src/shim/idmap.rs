//! A user namespace that exists only to say how the owners of files are shown: those of one user and group as another's, and
//! everybody else's as nobody's. The machine's root belongs to the sandbox's root so, who is nobody on the machine, and the
//! project's owner is the sandbox's user without the sandbox having the owner's number.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use weldrfs_control::Identity;

/// The namespace that shows what is the first one's of each pair as the second one's; it lives as long as the descriptor.
///
/// # Errors
/// When the machine has no user namespaces, or no more of them.
pub(super) fn namespace(pairs: &[(Identity, Identity)]) -> io::Result<OwnedFd> {
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
            let namespace = of_child(child, &ready, pairs);
            drop(let_go);
            // SAFETY: it is our child, which ends now; its status is of no interest.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            namespace
        }
    }
}

fn of_child(child: i32, ready: &OwnedFd, pairs: &[(Identity, Identity)]) -> io::Result<OwnedFd> {
    let mut made = [0];
    if rustix::io::read(ready, &mut made)? != 1 || made != [1] {
        return Err(io::Error::other("no user namespace can be made"));
    }
    for (map, is_user) in [("uid_map", true), ("gid_map", false)] {
        let number = |who: &Identity| if is_user { who.uid } else { who.gid };
        let lines: String = pairs
            .iter()
            .map(|(of, shown)| format!("{} {} 1\n", number(of), number(shown)))
            .collect();
        // The kernel takes all of it at once or nothing.
        std::fs::write(format!("/proc/{child}/{map}"), lines)?;
    }
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}
