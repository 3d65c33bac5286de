//! The floor has to be a file system that the coding workload can run on: its corners are tried through a mount.

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::mount::UnmountFlags;

    const DEADLINE: Duration = Duration::from_secs(60);

    struct Floor {
        folder: tempfile::TempDir,
        process: Child,
    }

    impl Floor {
        fn mounted() -> Self {
            assert!(
                Path::new("/dev/fuse").exists(),
                "this test needs /dev/fuse: run `modprobe fuse`, or give the container `--device /dev/fuse --cap-add SYS_ADMIN`"
            );
            assert!(
                rustix::process::geteuid().is_root(),
                "this test mounts and unmounts and therefore needs root: run it with sudo"
            );
            let folder = tempfile::tempdir().unwrap();
            let before = folder.path().metadata().unwrap().dev();
            let mut process = Command::new(env!("CARGO_BIN_EXE_floor"))
                .arg(folder.path())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + DEADLINE;
            while folder.path().metadata().unwrap().dev() == before {
                assert!(process.try_wait().unwrap().is_none(), "it ended at once");
                assert!(Instant::now() < deadline, "the mount does not answer");
                std::thread::sleep(Duration::from_millis(10));
            }
            Self { folder, process }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
    }

    impl Drop for Floor {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH);
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
        result.unwrap_err().raw_os_error().unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn names_links_and_renames_are_as_on_a_disk() {
        let floor = Floor::mounted();
        fs::create_dir(floor.at("d")).unwrap();
        fs::write(floor.at("a"), "one").unwrap();
        assert_eq!(errno(fs::create_dir(floor.at("a"))), libc::EEXIST);
        fs::hard_link(floor.at("a"), floor.at("d/b")).unwrap();
        assert_eq!(floor.at("a").metadata().unwrap().nlink(), 2);
        fs::write(floor.at("d/b"), "two").unwrap();
        assert_eq!(fs::read(floor.at("a")).unwrap(), b"two");
        std::os::unix::fs::symlink("d/b", floor.at("l")).unwrap();
        assert_eq!(fs::read(floor.at("l")).unwrap(), b"two");

        assert_eq!(errno(fs::remove_dir(floor.at("d"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::remove_file(floor.at("none"))), libc::ENOENT);
        fs::create_dir(floor.at("e")).unwrap();
        assert_eq!(
            errno(fs::rename(floor.at("e"), floor.at("d"))),
            libc::ENOTEMPTY
        );
        fs::rename(floor.at("d"), floor.at("e")).unwrap();
        assert_eq!(names(&floor.at("e")), ["b"]);
        assert_eq!(floor.at("").metadata().unwrap().nlink(), 3);

        fs::write(floor.at("x"), "x").unwrap();
        let (x, b) = (floor.at("x"), floor.at("e/b"));
        let taken = renameat_with(CWD, &x, CWD, &b, RenameFlags::NOREPLACE);
        assert_eq!(taken.unwrap_err().raw_os_error(), libc::EEXIST);
        renameat_with(CWD, &x, CWD, &b, RenameFlags::EXCHANGE).unwrap();
        assert_eq!(
            (fs::read(&x).unwrap(), fs::read(&b).unwrap()),
            (b"two".into(), b"x".into())
        );
        fs::rename(&x, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"two");
        fs::remove_dir_all(floor.at("e")).unwrap();
        assert_eq!(names(&floor.at("")), ["a", "l"]);
        assert_eq!(floor.at("a").metadata().unwrap().nlink(), 1);
    }

    #[test]
    fn content_is_what_was_written() {
        let floor = Floor::mounted();
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(floor.at("f"))
            .unwrap();
        file.write_all_at(b"end", 5_000_000).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        let mut text = [1; 8];
        file.read_exact_at(&mut text, 2).unwrap();
        assert_eq!(&text, b"gin\0\0\0\0\0");
        file.set_len(3).unwrap();
        file.set_len(6).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"beg\0\0\0");

        fs::remove_file(floor.at("f")).unwrap();
        file.write_all_at(b"still", 0).unwrap();
        file.read_exact_at(&mut text[..5], 0).unwrap();
        assert_eq!(&text[..5], b"still");

        let mut log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(floor.at("log"))
            .unwrap();
        for part in ["a", "b", "c"] {
            log.write_all(part.as_bytes()).unwrap();
        }
        log.sync_all().unwrap();
        fs::write(floor.at("log"), "new").unwrap();
        assert_eq!(fs::read(floor.at("log")).unwrap(), b"new");
        fs::set_permissions(floor.at("log"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(floor.at("log").metadata().unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_large_folder_is_listed_once_and_whole_while_it_shrinks() {
        let floor = Floor::mounted();
        let all: Vec<String> = (0..3_000).map(|n| format!("file-{n:05}")).collect();
        for name in &all {
            File::create(floor.at(name)).unwrap();
        }
        assert_eq!(names(&floor.at("")), all);
        // As rm -rf does it: removing while reading.
        for entry in fs::read_dir(floor.at("")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(names(&floor.at("")), [""; 0]);
    }

    #[test]
    fn git_works_on_it() {
        let floor = Floor::mounted();
        let git = |arguments: &[&str]| {
            let output = Command::new("git")
                .current_dir(floor.at(""))
                .args([
                    "-c",
                    "user.name=t",
                    "-c",
                    "user.email=t@example.invalid",
                    "-c",
                    "safe.directory=*",
                ])
                .args(arguments)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "git {arguments:?}: {said}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        git(&["init", "-q", "."]);
        for n in 0..100 {
            fs::write(floor.at(&format!("{n}.txt")), format!("{n}\n").repeat(n)).unwrap();
        }
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", "all"]);
        git(&["gc", "-q"]);
        git(&["fsck", "--full", "--strict"]);
        assert_eq!(git(&["status", "--porcelain"]), "");
    }
}
