//! Running programs from the place, and writing to them.

use crate::common::{HELPER_DEADLINE, errno, must, open, root_process};
use crate::support::calls::Call;
use crate::support::place::Place;
use crate::support::scripts::succeed;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};

/// Longer than any test; the program is killed at the end of it.
const RUNS_FOR: &str = "600";

/// By another process: a descriptor for writing that a child of ours inherits for a moment would be in the way.
fn copy(from: &str, to: &Path) {
    succeed(Command::new("cp").arg(from).arg(to), HELPER_DEADLINE);
}

/// A running program, killed at the end.
struct Running(Child);

impl Running {
    fn new(program: &Path) -> Self {
        Self(
            Command::new(program)
                .arg(RUNS_FOR)
                .spawn()
                .expect("the program runs"),
        )
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn running_program_cannot_be_written(place: &mut Place) {
    let path = place.root().join("program");
    copy("/bin/sleep", &path);
    let before = std::fs::read(&path).expect("read");
    let running = Running::new(&path);
    let refused = [
        File::options().write(true).open(&path).map(drop),
        File::options().append(true).open(&path).map(drop),
        File::create(&path).map(drop),
        rustix::fs::open(&path, rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
            .map(drop)
            .map_err(Into::into),
    ];
    for attempt in refused {
        assert_eq!(errno(&attempt.expect_err("it runs")), libc::ETXTBSY);
    }
    // SAFETY: the path is a string that ends with zero and lives until the call is done.
    let cut = unsafe {
        let path = std::ffi::CString::new(path.to_string_lossy().as_bytes()).expect("a path");
        libc::truncate(path.as_ptr(), 0)
    };
    assert_eq!(
        (cut, errno(&std::io::Error::last_os_error())),
        (-1, libc::ETXTBSY)
    );
    drop(running);
    assert!(before == std::fs::read(&path).expect("read"));
    File::options()
        .write(true)
        .open(&path)
        .expect("it runs no more");
}

/// What package managers do: the new program takes the name, the old one runs on.
pub(crate) fn running_program_can_be_replaced(place: &mut Place) {
    let root = place.root();
    let (path, new) = (root.join("program"), root.join("program.new"));
    copy("/bin/sleep", &path);
    let mut running = Running::new(&path);
    copy("/bin/echo", &new);
    std::fs::rename(&new, &path).expect("rename over a running program");
    assert_eq!(
        succeed(Command::new(&path).arg("the new one"), HELPER_DEADLINE),
        "the new one\n"
    );
    let link = std::fs::read_link(format!("/proc/{}/exe", running.0.id())).expect("readlink");
    assert!(link.to_string_lossy().ends_with("(deleted)"), "{link:?}");
    // Pages of the old one that nobody has touched yet can still be read.
    let old = std::fs::read(format!("/proc/{}/exe", running.0.id())).expect("read");
    assert!(old == std::fs::read("/bin/sleep").expect("read"));
    assert!(running.is_running());
    std::fs::remove_file(&path).expect("unlink");
    assert!(running.is_running());
}

pub(crate) fn file_open_for_writing_cannot_be_run(place: &mut Place) {
    let path = place.root().join("program");
    copy("/bin/echo", &path);
    // By another process, for the same reason as above.
    let mut writer = root_process(place);
    open(&mut writer, "program", libc::O_WRONLY, 0);
    let refused = Command::new(&path)
        .spawn()
        .expect_err("it is being written");
    assert_eq!(errno(&refused), libc::ETXTBSY);
    must(&mut writer, Call::Close { slot: 0 });
    succeed(&mut Command::new(&path), HELPER_DEADLINE);
}
