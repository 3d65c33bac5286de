//! Standard input that somebody outside writes while the command runs: a named pipe in the sandbox's folder, which only root
//! gets to. What the first process is handed over lies in it already.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat, open};
use weldrfs_control::{INPUT_NAME, SandboxOrder};

use crate::handover;

/// Makes the pipe: the command's end, and one that is kept open as long as the command runs, so that it sees no end between
/// two who write.
///
/// # Errors
/// What the operating system says.
pub(super) fn pipe(order: &SandboxOrder, folder: &Path) -> io::Result<(Stdio, OwnedFd)> {
    let (reading, writing) = make(folder)?;
    handover::put(order, &writing)?;
    Ok((reading.into(), writing))
}

fn make(folder: &Path) -> io::Result<(File, OwnedFd)> {
    let path = folder.join(INPUT_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
    // Without waiting for the other end.
    let reading = open(
        &path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let writing = open(
        &path,
        OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // Programs expect to wait for their input.
    fcntl_setfl(&reading, fcntl_getfl(&reading)? - OFlags::NONBLOCK)?;
    Ok((File::from(reading), writing))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_several_write_is_read_and_has_no_end_between_them() {
        let dir = tempfile::tempdir().unwrap();
        let (mut reading, kept) = make(dir.path()).unwrap();
        for text in [b"one", b"two"] {
            let mut file = File::options()
                .write(true)
                .open(dir.path().join(INPUT_NAME))
                .unwrap();
            file.write_all(text).unwrap();
            drop(file);
            let mut read = [0; 3];
            reading.read_exact(&mut read).unwrap();
            assert_eq!(&read, text);
        }
        drop(kept);
        assert_eq!(reading.read(&mut [0; 1]).unwrap(), 0);
        // For the next attempt to start the same sandbox.
        make(dir.path()).unwrap();
    }
}
