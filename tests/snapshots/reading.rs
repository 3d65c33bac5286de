//! Snapshots as directories, with the programs that people use on them.

use std::fs;
use std::process::Command;

use crate::scene::{DEADLINE, agents_turn, project, run, shell, snapshot, tree};
use crate::support::mount::{Volume, finish};

#[test]
fn a_snapshot_is_read_like_any_directory() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    let project = project(&volume);
    run(Command::new("setfattr")
        .args(["-n", "user.k", "-v", "old"])
        .arg(project.join("src/d8/f1.ts")));
    let before = tree(&project);
    let copy = volume.beside("copy");
    run(Command::new("cp").arg("-a").arg(&project).arg(&copy));
    snapshot(&volume, "create", &root, &["s"]);
    agents_turn(&project);
    run(Command::new("setfattr")
        .args(["-n", "user.k", "-v", "new"])
        .arg(project.join("src/d8/f1.ts")));

    let old = root.join(".snapshots/s/project");
    let check = |old: &std::path::Path| {
        assert_eq!(tree(old), before);
        run(Command::new("diff")
            .arg("-r")
            .arg("--no-dereference")
            .arg(old)
            .arg(&copy));
        let found = run(Command::new("find").arg(old).args(["-type", "f"])).stdout;
        let count = found.iter().filter(|b| **b == b'\n').count();
        assert_eq!(
            count,
            before
                .values()
                .filter(|(mode, ..)| mode & libc::S_IFMT == libc::S_IFREG)
                .count()
        );
        let value = run(Command::new("getfattr")
            .args(["--only-values", "-n", "user.k"])
            .arg(old.join("src/d8/f1.ts")));
        assert_eq!(value.stdout, b"old");
    };
    check(&old);
    // From the store.
    volume.sync_and_drop_caches();
    volume.remount();
    check(&old);
    let back = root.join("back");
    run(Command::new("cp").arg("-a").arg(&old).arg(&back));
    assert_eq!(tree(&back), before);
    volume.command(&[
        "clone",
        &old.to_string_lossy(),
        &root.join("cloned").to_string_lossy(),
    ]);
    assert_eq!(tree(&root.join("cloned")), before);

    let listed = |root: &std::path::Path| {
        let entries = fs::read_dir(root).unwrap();
        entries
            .filter(|e| e.as_ref().unwrap().file_name() == ".snapshots")
            .count()
    };
    assert_eq!(listed(&root), 0);
    let refused = finish(
        Command::new("sh")
            .arg("-c")
            .arg("echo > x; mkdir y; rm -rf src; touch src; chmod 0 src; mv src z")
            .current_dir(&old),
        DEADLINE,
    );
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.matches("Read-only file system").count() >= 6, "{said}");
    assert_eq!(tree(&old), before);

    let names = |dir: &std::path::Path| -> Vec<_> {
        fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect()
    };
    let list = root.join(".snapshots");
    assert_eq!(names(&list), ["s"]);
    assert!(fs::metadata(list.join("t")).is_err());
    snapshot(&volume, "create", &root, &["t"]);
    assert_eq!(names(&list), ["s", "t"]);
    assert!(fs::metadata(list.join("t/project")).is_ok());
    snapshot(&volume, "rm", &root, &["s"]);
    assert_eq!(names(&list), ["t"]);
    for gone in [&old, &list.join("s")] {
        assert!(
            fs::symlink_metadata(gone).is_err(),
            "{} is still there",
            gone.display()
        );
    }
    volume.unmount();
}

#[test]
fn the_list_of_snapshots_shows_where_it_is_asked_for() {
    let mut volume = Volume::mounted_with(&["show_snapshots"]);
    let root = volume.root();
    shell(&root, "for n in $(seq 300); do echo $n > $n; done");
    snapshot(&volume, "create", &root, &["s"]);
    for _ in 0..2 {
        let count = fs::read_dir(&root).unwrap().count();
        assert_eq!(count, 301);
        volume.remount();
    }
    volume.unmount();
}
