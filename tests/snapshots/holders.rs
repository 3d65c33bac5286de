//! What programs hold while a restore goes on stays what it is for them.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};

use crate::scene::{shell, snapshot};
use crate::support::mount::Volume;

#[test]
fn files_that_are_open_mapped_or_running_stay_and_directories_stay_too() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(
        &root,
        "mkdir d; echo old > d/open; echo old > d/same; cp /bin/sleep d/program; echo old > d/mapped",
    );
    snapshot(&volume, "create", &root, &["s"]);
    shell(
        &root,
        "echo newer > d/open; printf x >> d/program; echo newer > d/mapped; echo new > d/added",
    );

    let mut open = File::options()
        .read(true)
        .write(true)
        .open(root.join("d/open"))
        .unwrap();
    let mut same = File::open(root.join("d/same")).unwrap();
    let mapped = File::open(root.join("d/mapped")).unwrap();
    // SAFETY: a shared mapping of a file nobody truncates while it is read; it is unmapped below.
    let at = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            6,
            rustix::mm::ProtFlags::READ,
            rustix::mm::MapFlags::SHARED,
            &mapped,
            0,
        )
        .unwrap()
    };
    let mut running = Command::new(root.join("d/program"))
        .arg("100")
        .spawn()
        .unwrap();
    // Stands in the directory and is asked after the restore.
    let mut standing = Command::new("sh")
        .args([
            "-c",
            "read go; cat open; ls; echo made > made; cat added || echo no added",
        ])
        .current_dir(root.join("d"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    snapshot(&volume, "restore", &root, &["s"]);

    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "newer\n");
    open.write_all(b"and still writable\n").unwrap();
    open.sync_all().unwrap();
    open.rewind().unwrap();
    text.clear();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "newer\nand still writable\n");
    text.clear();
    same.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old\n");
    // SAFETY: the mapping is 6 bytes long and still there.
    let seen = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), 6) };
    assert_eq!(seen, b"newer\n");
    // SAFETY: nothing refers to it any more.
    unsafe { rustix::mm::munmap(at, 6).unwrap() };
    assert!(running.try_wait().unwrap().is_none(), "the program runs on");
    running.kill().unwrap();
    running.wait().unwrap();
    standing.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said = standing.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "old\nmapped\nopen\nprogram\nsame\nno added\n"
    );
    for name in ["open", "same", "mapped"] {
        assert_eq!(
            fs::read(root.join("d").join(name)).unwrap(),
            b"old\n",
            "{name}"
        );
    }
    assert_eq!(fs::read(root.join("d/made")).unwrap(), b"made\n");
    let program = fs::read(root.join("d/program")).unwrap();
    assert!(program == fs::read("/bin/sleep").unwrap());
    drop((open, same, mapped));
    volume.remount();
    assert_eq!(fs::read(root.join("d/open")).unwrap(), b"old\n");
    volume.unmount();
}
