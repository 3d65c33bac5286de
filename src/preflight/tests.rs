use std::ffi::OsStr;
use std::os::unix::fs::symlink;

use super::*;

fn environment(uid: u32) -> Environment {
    Environment {
        uid,
        state_base: None,
        run_dir: None,
        program_dirs: Vec::new(),
        variables: crate::environment::Variables::default(),
    }
}

fn source(dir: &Path) -> Source {
    Source::parse(OsStr::new(&format!("file://{}", dir.display()))).unwrap()
}

#[test]
fn allow_other_is_the_administrators_to_permit() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("fuse.conf");
    let refusal = check_access(Access::Everybody, &environment(7), &conf).unwrap_err();
    assert!(
        refusal.to_string().contains("user_allow_other"),
        "{refusal}"
    );
    std::fs::write(&conf, "#user_allow_other\nmount_max = 5\n").unwrap();
    assert!(check_access(Access::Root, &environment(7), &conf).is_err());
    assert!(check_access(Access::Owner, &environment(7), &conf).is_ok());
    assert!(check_access(Access::Everybody, &environment(0), &conf).is_ok());
    std::fs::write(&conf, "user_allow_other\n").unwrap();
    assert!(check_access(Access::Root, &environment(7), &conf).is_ok());
}

#[test]
fn folders_below_the_mountpoint_are_refused_through_links_too() {
    let dir = tempfile::tempdir().unwrap();
    let base = std::fs::canonicalize(dir.path()).unwrap();
    let mountpoint = base.join("m");
    std::fs::create_dir_all(mountpoint.join("sub")).unwrap();
    symlink(mountpoint.join("sub"), base.join("link")).unwrap();
    let (store, state) = (source(&base.join("store")), base.join("state"));

    check_nesting(&mountpoint, &store, &state, Some(&base.join("cache"))).unwrap();
    let inside = [
        mountpoint.clone(),
        mountpoint.join("new/deep"),
        base.join("link/new"),
    ];
    for folder in &inside {
        assert!(
            check_nesting(&mountpoint, &source(folder), &state, None).is_err(),
            "{}",
            folder.display()
        );
        assert!(
            check_nesting(&mountpoint, &store, folder, None).is_err(),
            "{}",
            folder.display()
        );
        let refusal = check_nesting(&mountpoint, &store, &state, Some(folder)).unwrap_err();
        assert!(
            refusal.to_string().starts_with("the cache folder"),
            "{refusal}"
        );
    }
    let refusal = check_nesting(&mountpoint, &source(&base), &state, None).unwrap_err();
    assert!(refusal.to_string().contains("lies in SOURCE"), "{refusal}");
    // Alike by name is not inside.
    check_nesting(
        &mountpoint,
        &source(&base.join("mm")),
        &base.join("m.state"),
        None,
    )
    .unwrap();
}

#[test]
fn a_store_needs_its_parent_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    check_store(&source(&dir.path().join("new")), false).unwrap();
    check_store(&source(dir.path()), false).unwrap();
    let refusal = check_store(&source(&dir.path().join("a/b")), false).unwrap_err();
    assert!(
        refusal.to_string().contains("make that folder first"),
        "{refusal}"
    );
    std::fs::write(dir.path().join("file"), "").unwrap();
    let refusal = check_store(&source(&dir.path().join("file")), false).unwrap_err();
    assert!(refusal.to_string().contains("not a directory"), "{refusal}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_state_folder_may_be_missing_but_not_impossible() {
    let dir = tempfile::tempdir().unwrap();
    check_folder(
        &dir.path().join("a/b/c"),
        "the state folder",
        "-o state_dir=DIR",
    )
    .unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    for below in ["file", "file/a", "file/a/b"] {
        let refusal = check_folder(
            &dir.path().join(below),
            "the state folder",
            "-o state_dir=DIR",
        )
        .unwrap_err();
        let text = refusal.to_string();
        assert!(
            text.contains("not a directory")
                && text.contains("choose another with -o state_dir=DIR"),
            "{text}"
        );
        assert_eq!(refusal.exit_code(), 1);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn mountpoints_are_directories_that_exist() {
    let dir = tempfile::tempdir().unwrap();
    let base = std::fs::canonicalize(dir.path()).unwrap();
    let check = |path: &Path| check_mountpoint(path, &source(Path::new("/srv")), &environment(7));
    std::fs::create_dir(base.join("m")).unwrap();
    std::fs::write(base.join("file"), "").unwrap();
    symlink("m", base.join("link")).unwrap();
    assert_eq!(check(&base.join("m")).unwrap(), base.join("m"));
    assert_eq!(check(&base.join("link/")).unwrap(), base.join("m"));
    for (path, part) in [
        ("none", "mkdir -p"),
        ("file", "not a directory"),
        ("file/m", "not a directory"),
    ] {
        let refusal = check(&base.join(path)).unwrap_err();
        assert!(refusal.to_string().contains(part), "{path}: {refusal}");
        assert_eq!(refusal.exit_code(), 32);
    }
}

#[test]
fn other_mounts_are_refused_by_name() {
    let refusal = check_mountpoint(
        Path::new("/proc"),
        &source(Path::new("/srv")),
        &environment(7),
    )
    .unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("already a mount of proc (type proc)"),
        "{refusal}"
    );
    let refusal = check_mountpoint(
        Path::new("/dev/fd/5"),
        &source(Path::new("/srv")),
        &environment(0),
    )
    .unwrap_err();
    assert!(refusal.to_string().contains("drop_privileges"), "{refusal}");
}

#[test]
fn users_need_fusermount() {
    if !Path::new(FUSE_DEVICE).exists() {
        panic!(
            "this test needs {FUSE_DEVICE}: modprobe fuse, or run the container with --device /dev/fuse"
        );
    }
    let refusal = check_fuse(&environment(7)).unwrap_err();
    assert!(
        refusal.to_string().contains("apt install fuse3"),
        "{refusal}"
    );
}

#[test]
fn capabilities_are_read_from_the_process() {
    assert!(!lacks_capability(
        "Name:\tx\nCapEff:\t000001ffffffffff\n",
        CAP_SYS_ADMIN
    ));
    assert!(lacks_capability(
        "CapEff:\t00000000a80425fb\n",
        CAP_SYS_ADMIN
    ));
    assert!(!lacks_capability("nothing known", CAP_SYS_ADMIN));
}
