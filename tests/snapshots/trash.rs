//! The trash on a real mount: what was removed comes back while programs hold it, stand in it and watch, also when the
//! process is killed in the middle.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::scene::{attempt, git, project, shell, snapshot, tree};
use crate::support::mount::{PROGRAM, Volume};

const KILLS: usize = 6;

/// Runs `weldrfs trash` on a path of the mount and returns what it says.
fn trash(volume: &Volume, verb: &str, path: &Path, more: &[&str]) -> String {
    let path = path.to_string_lossy();
    let mut arguments = vec!["trash", verb, &path];
    arguments.extend(more);
    String::from_utf8(volume.command(&arguments).stdout).unwrap()
}

/// What there is by now is old enough for the trash.
fn publish(volume: &Volume) {
    volume.command(&["sync", &volume.root().to_string_lossy()]);
}

#[test]
fn what_was_removed_comes_back() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let project = project(&volume);
    let before = tree(&project);
    let times = |path: &Path| {
        let stat = fs::metadata(path).unwrap();
        (stat.mtime(), stat.mtime_nsec(), stat.mode(), stat.nlink())
    };
    let of_src = times(&project.join("src"));
    publish(&volume);
    shell(
        &root,
        "touch a.lock; rm a.lock; rm -rf project; test ! -e project",
    );
    let listed = trash(&volume, "ls", &root, &[]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.contains("  project/ ("), "{listed}");
    let json: serde_json::Value =
        serde_json::from_str(&trash(&volume, "ls", &root, &["--json"])).unwrap();
    assert_eq!(json["entries"][0]["path"], "project");
    assert_eq!(json["entries"][0]["directory"], true);
    assert!(json["entries"][0]["files"].as_u64().unwrap() > 2_000);
    let status = volume.command(&["status", &root.to_string_lossy()]).stdout;
    assert!(String::from_utf8_lossy(&status).contains("\n  trash"));

    // On another machine, from the bucket alone.
    publish(&volume);
    volume.move_to_a_new_machine();
    let said = trash(&volume, "restore", &project, &[]);
    assert!(said.contains("project is back: "), "{said}");
    assert_eq!(tree(&project), before);
    assert_eq!(times(&project.join("src")), of_src);
    let [one, two] = ["src/d0/f0.ts", "src/d1/linked.ts"].map(|p| fs::metadata(project.join(p)));
    assert_eq!(one.unwrap().ino(), two.unwrap().ino());
    git(
        &project,
        "git fsck --strict; test -z \"$(git --no-optional-locks status --porcelain)\"",
    );
    volume.remount();
    assert_eq!(tree(&project), before);
    volume.unmount();
}

#[test]
fn the_commands_of_the_trash_do_what_they_say() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let text = root.to_string_lossy().into_owned();
    let odd = Path::new(OsStr::from_bytes(b"odd\xff\n'name"));
    shell(&root, "mkdir -p a/b; echo one > a/b/f; echo x > z");
    fs::write(root.join("a").join(odd), "odd").unwrap();
    publish(&volume);
    shell(&root, "rm -r a; echo two > new; sync new");
    publish(&volume);
    shell(&root, "mkdir -p a/b; echo two > a/b/f");
    publish(&volume);
    shell(&root, "mv new a/b/f");
    // The directory that is there now is used, and so is one that is gone.
    let f = root.join("a/b/f");
    for (arguments, says) in [
        (vec!["restore", "/a/b/f"], "something is at a/b/f now"),
        (vec!["restore", "/a/b/none"], "the trash has no a/b/none"),
        (vec!["restore", ""], "name what was removed"),
        (
            vec!["restore", "/z", "--as", "/tmp"],
            "--as takes a path on the mount",
        ),
        (vec!["restore", "/z", "--at", "noon"], "a time in UTC"),
        (vec!["empty", "/a"], "for all of the volume"),
        (vec!["empty", "", "--older-than", "old"], "it takes seconds"),
    ] {
        let path = format!("{text}{}", arguments[1]);
        let mut all = vec!["trash", arguments[0], &path];
        all.extend(&arguments[2..]);
        let (code, said) = attempt(&volume, &all);
        assert!(code != 0 && said.contains(says), "{all:?}: {code} {said}");
    }
    assert_eq!(fs::read_to_string(&f).unwrap(), "two\n");
    let other = format!("{text}/a/b/older");
    trash(&volume, "restore", &f, &["--as", &other]);
    assert_eq!(fs::read_to_string(&other).unwrap(), "two\n");
    // The name is bytes, and the shell's form of it is shown.
    let listed = trash(&volume, "ls", &root, &[]);
    assert!(listed.contains("a/ (2 files)"), "{listed}");
    let mut restoring = Command::new(PROGRAM);
    restoring
        .args(["trash", "restore"])
        .arg(root.join("a").join(odd));
    restoring.env("WELDR_ENV_VOL", volume.beside("state"));
    restoring.env("WELDRFS_RUN_DIR", volume.beside("run"));
    let done = crate::support::mount::finish(&mut restoring, crate::scene::DEADLINE);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(said.contains(r"odd\xff\n\'name' is back"), "{said}");
    assert_eq!(fs::read(root.join("a").join(odd)).unwrap(), b"odd");
    shell(&root, "rm -r a");
    let kept = trash(&volume, "empty", &root, &["--older-than", "1h"]);
    assert_eq!(kept, "0 names, 0 B\n");
    assert!(!trash(&volume, "ls", &root, &[]).is_empty());
    trash(&volume, "empty", &root, &[]);
    assert_eq!(trash(&volume, "ls", &root, &[]), "");
    assert_eq!(fs::read_to_string(root.join("z")).unwrap(), "x\n");
    volume.unmount();
}

#[test]
fn who_stands_in_a_removed_directory_stays_there() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(&root, "mkdir d; echo one > d/f; mkdir d/sub");
    publish(&volume);
    let mut open = File::options()
        .read(true)
        .append(true)
        .open(root.join("d/f"))
        .unwrap();
    let mut standing = Command::new("sh")
        .args([
            "-c",
            "read go; ls; echo x > made; cd /; cat \"$0/d/f\"; echo y > \"$0/d/made\"",
        ])
        .arg(&root)
        .current_dir(root.join("d"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    shell(&root, "rm -r d; test ! -e d; ! cat d/f 2> /dev/null");
    open.write_all(b"two\n").unwrap();
    trash(&volume, "restore", &root.join("d"), &[]);
    // Who had the file open works on the one that is back.
    open.write_all(b"three\n").unwrap();
    standing.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said = standing.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "one\ntwo\nthree\n");
    assert_eq!(fs::read(root.join("d/made")).unwrap(), b"y\n");
    assert_eq!(fs::metadata(root.join("d/f")).unwrap().nlink(), 1);
    let mut text = String::new();
    File::open(root.join("d/f"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "one\ntwo\nthree\n");
    shell(
        &root,
        "ls d | tr '\\n' ' ' | grep -qx 'f made sub '; rmdir d/sub; rm -r d",
    );
    drop(open);
    volume.remount();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    volume.unmount();
}

#[test]
fn a_kill_leaves_all_or_nothing_of_a_restore() {
    let mut volume = Volume::mounted();
    let project = project(&volume);
    let before = tree(&project);
    publish(&volume);
    shell(&volume.root(), "rm -rf project");
    let mut rng = SmallRng::seed_from_u64(11);
    let mut seen = [0, 0];
    for round in 0..KILLS {
        let mut restoring = Command::new(PROGRAM)
            .args(["trash", "restore", &project.to_string_lossy()])
            .env("WELDR_ENV_VOL", volume.beside("state"))
            .env("WELDRFS_RUN_DIR", volume.beside("run"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(rng.random_range(1..150)));
        volume.kill();
        let _ = restoring.wait();
        volume.detach();
        volume.mount();
        let is_back = project.exists();
        seen[usize::from(is_back)] += 1;
        if is_back {
            assert_eq!(tree(&project), before, "half of it, in round {round}");
            assert_eq!(
                trash(&volume, "ls", &volume.root(), &[]),
                "",
                "round {round}"
            );
            shell(&volume.root(), "rm -rf project");
        }
        let listed = trash(&volume, "ls", &volume.root(), &[]);
        assert_eq!(listed.lines().count(), 1, "round {round}: {listed}");
    }
    // Emptying is cut off too: of each name all or nothing is gone.
    let mut emptying = Command::new(PROGRAM)
        .args(["trash", "empty", &volume.root().to_string_lossy()])
        .env("WELDR_ENV_VOL", volume.beside("state"))
        .env("WELDRFS_RUN_DIR", volume.beside("run"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(30));
    volume.kill();
    let _ = emptying.wait();
    volume.detach();
    volume.mount();
    let listed = trash(&volume, "ls", &volume.root(), &[]);
    if !listed.is_empty() {
        trash(&volume, "restore", &project, &[]);
        let left = tree(&project);
        assert!(left.iter().all(|(path, is)| before.get(path) == Some(is)));
    }
    println!("not restored {}, restored {}", seen[0], seen[1]);
    volume.unmount();
    let store = format!("file://{}", volume.beside("store").display());
    let (code, said) = attempt(&volume, &["fsck", &store, "--deep"]);
    assert_eq!(code, 0, "{said}");
}

/// A snapshot's restore and the trash do not get into each other's way.
#[test]
fn snapshots_and_the_trash_both_hold_what_was_removed() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(&root, "mkdir d; echo one > d/f; echo two > d/g");
    snapshot(&volume, "create", &root, &["s"]);
    shell(&root, "rm -r d");
    snapshot(&volume, "restore", &root, &["s"]);
    assert_eq!(fs::read(root.join("d/f")).unwrap(), b"one\n");
    let other = format!("{}/from-trash", root.display());
    trash(&volume, "restore", &root.join("d"), &["--as", &other]);
    assert_eq!(fs::read(root.join("from-trash/g")).unwrap(), b"two\n");
    shell(&root, "rm -r d from-trash");
    for line in snapshot(&volume, "ls", &root, &[]).lines() {
        let name = line.split(' ').next().unwrap();
        snapshot(&volume, "rm", &root, &[name]);
    }
    trash(&volume, "restore", &root.join("d"), &[]);
    assert_eq!(fs::read(root.join("d/f")).unwrap(), b"one\n");
    volume.unmount();
}
