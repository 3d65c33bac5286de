//! What the commands say, and how they fail.

use std::fs;

use crate::scene::{attempt, shell, snapshot};
use crate::support::mount::Volume;

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
