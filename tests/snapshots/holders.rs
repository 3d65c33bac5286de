//! What programs hold while a restore goes on stays what it is for them.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
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

const LEN: usize = 3 * 4096;

/// Past the kernel's page cache.
fn read_direct(path: &Path) -> Vec<u8> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    let mut data = Vec::new();
    // Whole pages, into memory that lies on a page.
    let mut space = vec![0; LEN + 2 * 4096];
    let start = space.as_ptr().align_offset(4096);
    loop {
        let read = file.read(&mut space[start..start + LEN]).unwrap();
        if read == 0 {
            return data;
        }
        data.extend_from_slice(&space[start..start + read]);
    }
}

/// Dirty pages that nobody wrote out, files without a name, names that are known to be missing: what is restored is what
/// the store has, and undone it is what there was.
#[test]
fn restored_bytes_are_there_past_every_cache_and_so_are_those_before() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let (mapped, missing, same) = (root.join("mapped"), root.join("missing"), root.join("same"));
    fs::write(&mapped, vec![b'o'; LEN]).unwrap();
    fs::write(&missing, "was here").unwrap();
    fs::write(&same, vec![b's'; LEN]).unwrap();
    fs::write(root.join("unlinked"), "nobody names me").unwrap();
    let mut unlinked = File::options()
        .read(true)
        .write(true)
        .open(root.join("unlinked"))
        .unwrap();
    fs::remove_file(root.join("unlinked")).unwrap();
    snapshot(&volume, "create", &root, &["s"]);
    fs::remove_file(&missing).unwrap();
    assert!(fs::metadata(&missing).is_err());
    let file = File::options()
        .read(true)
        .write(true)
        .open(&mapped)
        .unwrap();
    let map = |file: &File| {
        // SAFETY: a fresh shared mapping of a file of this length that nobody cuts; it is unmapped below.
        unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LEN,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                file,
                0,
            )
            .unwrap()
            .cast::<u8>()
        }
    };
    let (at, at_same) = (
        map(&file),
        map(&File::options().read(true).write(true).open(&same).unwrap()),
    );
    // SAFETY: both mappings are `LEN` bytes long and there until the end.
    unsafe {
        at.write_bytes(b'n', LEN);
        // The same as before, but the pages are dirty.
        at_same.write_bytes(b's', LEN);
    }
    let said = snapshot(&volume, "restore", &root, &["s"]);
    let safety = said
        .split_whitespace()
        .find(|word| word.starts_with("before-restore-"))
        .unwrap()
        .trim_end_matches(',')
        .to_owned();
    let is_restored = |volume: &Volume| {
        let root = volume.root();
        assert!(read_direct(&root.join("mapped")) == vec![b'o'; LEN]);
        assert!(fs::read(root.join("mapped")).unwrap() == vec![b'o'; LEN]);
        assert!(read_direct(&root.join("same")) == vec![b's'; LEN]);
        assert_eq!(fs::read(root.join("missing")).unwrap(), b"was here");
        assert!(fs::metadata(root.join("unlinked")).is_err());
    };
    is_restored(&volume);
    // Whoever holds something holds it still.
    // SAFETY: as above.
    unsafe {
        assert_eq!((at.read(), at.add(LEN - 1).read()), (b'n', b'n'));
        at.add(5).write(b'!');
        rustix::mm::msync(at.cast(), LEN, rustix::mm::MsyncFlags::SYNC).unwrap();
    }
    let mut text = String::new();
    unlinked.read_to_string(&mut text).unwrap();
    assert_eq!(text, "nobody names me");
    unlinked.write_all(b" still").unwrap();
    is_restored(&volume);
    // SAFETY: nothing refers to them any more.
    unsafe {
        rustix::mm::munmap(at.cast(), LEN).unwrap();
        rustix::mm::munmap(at_same.cast(), LEN).unwrap();
    }
    drop((file, unlinked));
    is_restored(&volume);
    volume.sync_and_drop_caches();
    volume.remount();
    is_restored(&volume);
    snapshot(&volume, "restore", &root, &[&safety]);
    let is_undone = |volume: &Volume| {
        let found = read_direct(&volume.root().join("mapped"));
        // A store that was not written out is not promised; it was before the restore that it was brought in.
        assert!(found == vec![b'n'; LEN], "{:?}", &found[..8]);
        assert!(fs::metadata(volume.root().join("missing")).is_err());
    };
    is_undone(&volume);
    volume.move_to_a_new_machine();
    is_undone(&volume);
    volume.unmount();
}
