//! What the commands say, and how they fail.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::scene::{DEADLINE, Tree, attempt, run, shell, snapshot, tree};
use crate::support::mount::{PROGRAM, Volume, finish};

#[test]
fn the_commands_do_what_they_say() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let text = root.to_string_lossy().into_owned();
    shell(
        &root,
        "mkdir d e; echo one > d/a; echo two > d/b; echo three > e/c",
    );
    assert_eq!(
        snapshot(
            &volume,
            "create",
            &root,
            &["first", "--note", "to begin with"]
        ),
        "first\n"
    );
    let unnamed = snapshot(&volume, "create", &root, &[]);
    assert!(
        unnamed.starts_with("20") && unnamed.ends_with("Z\n"),
        "{unnamed}"
    );
    let listed = snapshot(&volume, "ls", &root, &[]);
    assert!(
        listed.starts_with("first") && listed.contains("to begin with"),
        "{listed}"
    );
    let listed = snapshot(&volume, "ls", &root, &["--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["note"]),
        (2, &"to begin with".into())
    );
    let shown = snapshot(&volume, "show", &root, &["first"]);
    assert!(shown.contains("name       first\n"), "{shown}");

    shell(&root, "echo more >> d/a; rm d/b; mv e/c e/moved; mkdir f");
    assert_eq!(
        snapshot(&volume, "diff", &root, &["first"]),
        "M\td/a\nD\td/b\nR\te/c\te/moved\nA\tf/\n"
    );
    assert_eq!(
        snapshot(&volume, "diff", &root.join("d"), &["first"]),
        "M\td/a\nD\td/b\n"
    );
    assert_eq!(
        snapshot(&volume, "diff", &root, &["first", unnamed.trim()]),
        ""
    );
    let stat = snapshot(&volume, "diff", &root.join("d"), &["first", "--stat"]);
    assert_eq!(
        stat,
        "d/a | 4 B -> 9 B\nd/b | 4 B -> -\n0 created, 1 changed, 0 renamed, 1 deleted\n"
    );
    let json = snapshot(&volume, "diff", &root.join("f"), &["first", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["differences"][0]["kind"], "created");

    // What is gone can be named.
    snapshot(&volume, "restore", &root.join("d/b"), &["first"]);
    assert_eq!(fs::read_to_string(root.join("d/b")).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(root.join("d/a")).unwrap(), "one\nmore\n");
    assert!(fs::metadata(root.join("g")).is_err());
    volume.command(&["clone", &format!("{text}/d"), &format!("{text}/g")]);
    assert_eq!(fs::read_to_string(root.join("g/a")).unwrap(), "one\nmore\n");
    shell(&root, "echo other > g/a");
    assert_eq!(fs::read_to_string(root.join("d/a")).unwrap(), "one\nmore\n");

    let below = format!("{text}/d");
    let there = format!("{text}/g");
    for (arguments, says) in [
        (
            &["snapshot", "create", &text, "first"][..],
            "there is a snapshot first already",
        ),
        (
            &["snapshot", "create", &text, "a/b"],
            "no snapshot was made",
        ),
        (&["snapshot", "create", &below, "x"], "name the mountpoint"),
        (
            &["snapshot", "rm", &text, "none"],
            "there is no snapshot none",
        ),
        (
            &["snapshot", "show", &text, "none"],
            "there is no snapshot none",
        ),
        (
            &["snapshot", "restore", &text, "none"],
            "there is no snapshot none",
        ),
        (
            &["snapshot", "restore", &there, "first"],
            "the snapshot first has no g",
        ),
        (
            &["snapshot", "diff", &text, unnamed.trim(), "first"],
            "not the older one",
        ),
        (&["snapshot", "ls", "/"], "is not on a WeldrFS mount"),
        (&["clone", &below, &there], "exist"),
        (
            &["clone", &text, &format!("{text}/h")],
            "a mountpoint cannot be cloned",
        ),
        (
            &["clone", &format!("{text}/d/a"), &format!("{text}/h")],
            "no directory",
        ),
        (&["clone", &below, &format!("{text}/no/h")], "no"),
    ] {
        let (code, said) = attempt(&volume, arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    snapshot(&volume, "rm", &root, &["first"]);
    assert_eq!(attempt(&volume, &["snapshot", "diff", &text, "first"]).0, 1);
    volume.unmount();
}

#[test]
fn a_patch_is_what_git_applies() {
    let mut volume = Volume::mounted();
    let project = volume.root().join("project");
    fs::create_dir_all(&project).unwrap();
    shell(
        &project,
        "mkdir -p src/deep keep; seq 100 > src/a; seq 50 > src/deep/b; printf 'no newline' > c
         seq 10 > gone; seq 20 > 'with space'; ln -s src/a link; ln -s x turns; seq 5 > keep/same; : > empty",
    );
    let root = volume.root();
    let copy = volume.beside("copy");
    let text = copy.to_string_lossy().into_owned();
    shell(&root, &format!("cp -a project '{text}'"));
    snapshot(&volume, "create", &root, &["first"]);
    shell(
        &project,
        "sed -i 's/^50$/fifty/' src/a; echo more >> src/deep/b; mv src/deep src/moved; printf 'one' > c; rm gone empty
         chmod +x 'with space'; ln -sfn src/moved link; rm turns; seq 3 > turns; seq 7 > 'new one'; : > void
         mv keep kept; mkdir bare",
    );
    let patch = snapshot(&volume, "diff", &project, &["first", "--patch"]);
    let file = volume.beside("patch");
    fs::write(&file, &patch).unwrap();
    // Paths are below the mountpoint.
    let apply = format!(
        "git init -q . && git apply -p2 --index '{}' 2>&1 || git apply -p2 '{}'",
        file.display(),
        file.display()
    );
    shell(&copy, &apply);
    shell(&copy, "rm -rf .git; mkdir bare");
    shell(&root, &format!("diff -r --no-dereference project '{text}'"));
    shell(
        &copy,
        "test -x 'with space'; test ! -e keep; test ! -e src/deep",
    );
    volume.unmount();
}

/// What a command with these arguments prints.
fn bytes_of(volume: &Volume, arguments: &[&OsStr]) -> Vec<u8> {
    run(Command::new(PROGRAM)
        .args(arguments)
        .env("WELDR_ENV_VOL", volume.beside("state"))
        .env("WELDRFS_RUN_DIR", volume.beside("run")))
    .stdout
}

#[test]
fn names_that_are_no_utf8_are_names() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let words = |words: &[&'static str]| -> Vec<&'static OsStr> {
        words.iter().map(|word| OsStr::new(*word)).collect()
    };
    let odd = OsStr::from_bytes(b"caf\xe9");
    let dir = root.join(OsStr::from_bytes(b"d\xff"));
    let file = dir.join(odd);
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "old\n").unwrap();
    fs::write(dir.join("beside"), "old\n").unwrap();
    let copy = volume.beside("copy");
    shell(&root, &format!("cp -a . '{}'", copy.display()));
    snapshot(&volume, "create", &root, &["s"]);
    fs::write(&file, "new\n").unwrap();
    fs::write(dir.join("beside"), "new\n").unwrap();
    fs::rename(dir.join("beside"), dir.join(OsStr::from_bytes(b"\xfe"))).unwrap();

    let diff = |path: &Path, more: &[&'static str]| {
        let mut arguments = words(&["snapshot", "diff"]);
        arguments.push(path.as_os_str());
        arguments.extend(words(&["s"]));
        arguments.extend(words(more));
        bytes_of(&volume, &arguments)
    };
    assert_eq!(diff(&file, &[]), b"M\td\xff/caf\xe9\n");
    assert_eq!(
        diff(&root, &[]),
        b"M\td\xff/caf\xe9\nR\td\xff/beside\td\xff/\xfe\n"
    );
    let json: serde_json::Value = serde_json::from_slice(&diff(&file, &["--json"])).unwrap();
    let one = &json["differences"][0];
    assert_eq!(one["path"], "d\u{fffd}/caf\u{fffd}");
    assert_eq!(one["path_base64"], "ZP8vY2Fm6Q==");
    let patch = volume.beside("patch");
    fs::write(&patch, diff(&root, &["--patch"])).unwrap();
    shell(
        &copy,
        &format!(
            "git init -q . && git apply '{}' && rm -rf .git",
            patch.display()
        ),
    );
    shell(&root, &format!("diff -r . '{}'", copy.display()));

    let of = |words_before: &[&'static str], paths: &[&Path], name: &[&'static str]| {
        let mut arguments = words(words_before);
        arguments.extend(paths.iter().map(|path| path.as_os_str()));
        arguments.extend(words(name));
        bytes_of(&volume, &arguments)
    };
    of(&["snapshot", "restore"], &[&file], &["s"]);
    assert_eq!(fs::read(&file).unwrap(), b"old\n");
    let cloned = root.join(OsStr::from_bytes(b"copy\xc3"));
    of(&["clone"], &[&dir, &cloned], &[]);
    assert_eq!(fs::read(cloned.join(odd)).unwrap(), b"old\n");
    volume.unmount();
}

/// The directory that was renamed lies above what is asked for.
#[test]
fn a_patch_below_a_renamed_directory_knows_the_old_names() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(
        &root,
        "mkdir -p old/deep; seq 30 > old/deep/f; seq 5 > old/deep/same",
    );
    snapshot(&volume, "create", &root, &["s"]);
    shell(&root, "mv old new; sed -i s/7/seven/ new/deep/f");
    let patch = snapshot(&volume, "diff", &root.join("new/deep"), &["s", "--patch"]);
    assert!(
        patch.contains("rename from old/deep/f\nrename to new/deep/f\n"),
        "{patch}"
    );
    assert!(patch.contains("-7\n+seven\n"), "{patch}");
    assert!(!patch.contains("new file"), "{patch}");
    volume.unmount();
}

/// Whatever is wrong: a clear message, and nothing is changed.
#[test]
fn what_cannot_be_done_changes_nothing() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(&root, "mkdir d; echo old > d/f; echo > file");
    snapshot(&volume, "create", &root, &["s"]);
    shell(&root, "echo new > d/f; rm file; mkdir file; echo > file/x");
    let text = root.to_string_lossy().into_owned();
    let long = "n".repeat(256);
    let before = (tree(&root), snapshot(&volume, "ls", &root, &[]));
    for name in ["", ".", "..", "a/b", &long] {
        let (code, said) = attempt(&volume, &["snapshot", "create", &text, name]);
        assert_eq!(code, 1, "{name:?}: {said}");
        assert!(said.contains("no snapshot was made"), "{name:?}: {said}");
    }
    let note = "x".repeat(5000);
    let (code, said) = attempt(
        &volume,
        &["snapshot", "create", &text, "t", "--note", &note],
    );
    assert!(code == 1 && said.contains("4096 bytes"), "{code} {said}");
    let below = format!("{text}/file/x/y");
    let (code, said) = attempt(&volume, &["snapshot", "restore", &below, "s"]);
    assert!(code == 1 && said.contains("has no"), "{code} {said}");
    for to in [
        format!("{text}/{long}"),
        format!("{text}/.snapshots/s/d2"),
        format!("{text}/.snapshots/t"),
        // It would hide them.
        format!("{text}/.snapshots"),
    ] {
        let (code, said) = attempt(&volume, &["clone", &format!("{text}/d"), &to]);
        assert!(
            code != 0 && said.contains("nothing was cloned"),
            "{to}: {code} {said}"
        );
    }
    let inside = format!("{text}/.snapshots/s/d");
    let (code, said) = attempt(&volume, &["snapshot", "restore", &inside, "s"]);
    assert!(code != 0, "{said}");
    assert_eq!((tree(&root), snapshot(&volume, "ls", &root, &[])), before);
    volume.unmount();

    // Names that would be something else to a shell, a terminal or a parser are names.
    volume.mount();
    for name in ["-rf", "a b", "$(x)", "\u{1b}[31m", "ä", "%2e", "null"] {
        run(Command::new(PROGRAM)
            .args(["snapshot", "create", &text, "--", name])
            .env("WELDR_ENV_VOL", volume.beside("state"))
            .env("WELDRFS_RUN_DIR", volume.beside("run")));
        assert!(
            root.join(".snapshots").join(name).join("d").is_dir(),
            "{name:?}"
        );
    }
    volume.unmount();
}

#[test]
fn a_read_only_mount_refuses_clearly() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(&root, "mkdir d; echo old > d/f");
    snapshot(&volume, "create", &root, &["s"]);
    shell(&root, "echo new > d/f");
    volume.sync_and_drop_caches();
    volume.unmount();
    let source = format!("file://{}", volume.beside("store").display());
    let other = volume.beside("reader");
    fs::create_dir(&other).unwrap();
    let at = volume.beside("elsewhere");
    fs::create_dir(&at).unwrap();
    let options = format!("ro,state_dir={}", other.display());
    let at_text = at.to_string_lossy().into_owned();
    run(Command::new(PROGRAM)
        .args(["mount", &source, &at_text, "-o", &options])
        .env("WELDRFS_RUN_DIR", volume.beside("run")));
    let asked: [&[&str]; 4] = [
        &["snapshot", "create", &at_text, "t"],
        &["snapshot", "restore", &at_text, "s"],
        &["snapshot", "rm", &at_text, "s"],
        &["clone", &format!("{at_text}/d"), &format!("{at_text}/e")],
    ];
    for arguments in asked {
        let (code, said) = attempt(&volume, arguments);
        assert!(
            code != 0 && said.contains("read-only"),
            "{arguments:?}: {code} {said}"
        );
    }
    // Reading is not refused.
    let said = run(Command::new(PROGRAM)
        .args(["snapshot", "diff", &at_text, "s"])
        .env("WELDRFS_RUN_DIR", volume.beside("run")))
    .stdout;
    assert_eq!(said, b"M\td/f\n");
    run(Command::new(PROGRAM)
        .args(["umount", &at_text])
        .env("WELDRFS_RUN_DIR", volume.beside("run")));
}

/// A small file system, taken away at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mounted(at: PathBuf) -> Self {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=320m", "tmpfs"])
            .arg(&at));
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The local disk is full, which also holds the metadata.
#[test]
fn a_full_disk_refuses_clearly_and_nothing_is_half_done() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let text = root.to_string_lossy().into_owned();
    volume.unmount();
    let disk = SmallDisk::mounted(volume.beside("state"));
    volume.mount();
    shell(
        &root,
        "mkdir d; for n in $(seq 3000); do echo old > d/f$n; done",
    );
    snapshot(&volume, "create", &root, &["s"]);
    shell(&root, "for n in $(seq 3000); do echo new > d/f$n; done");
    run(Command::new("sync").arg("-f").arg(&root));
    // What is acknowledged is in SQLite a moment later; then there is no room for more.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let fill = disk.0.join("fill");
    let filled = finish(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", fill.display())),
        DEADLINE,
    );
    assert!(!filled.status.success(), "the disk is not full");
    let is_old = |tree: &Tree| {
        let mut data = tree.values().map(|(.., data)| data);
        data.all(|data| data.is_empty() || data == b"old\n")
    };
    let before = tree(&root);
    assert!(!is_old(&before));
    // The reserve may be enough for it; then there is none any more.
    let (code, said) = attempt(&volume, &["snapshot", "restore", &text, "s"]);
    let present = tree(&root);
    match code {
        0 => assert!(is_old(&present), "half of it"),
        _ => assert!(said.contains("no space") && present == before, "{said}"),
    }
    let growing: [&[&str]; 3] = [
        &["clone", &format!("{text}/d"), &format!("{text}/e")],
        &["snapshot", "create", &text, "t"],
        &["snapshot", "create", &text],
    ];
    for arguments in growing {
        let (code, said) = attempt(&volume, arguments);
        assert!(
            code != 0 && said.contains("no space"),
            "{arguments:?}: {code} {said}"
        );
        assert_eq!(tree(&root), present, "{arguments:?}");
    }
    fs::remove_file(&fill).unwrap();
    let until = Instant::now() + DEADLINE;
    while attempt(&volume, &["snapshot", "restore", &text, "s"]).0 != 0 {
        assert!(
            Instant::now() < until,
            "there is room again, and it is refused"
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(is_old(&tree(&root)));
    volume.remount();
    assert!(is_old(&tree(&root)));
    volume.unmount();
    drop(disk);
}
