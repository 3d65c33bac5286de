//! Every kind of bad input: the exit code of mount(8), a message that says what to do, and nothing made or mounted.

use std::os::unix::fs::symlink;

use crate::support::{Answer, Place, require_fuse};

/// Runs `mount` with `arguments` and checks that it is refused and leaves everything as it was.
#[track_caller]
fn refused_mount(place: &Place, arguments: &[&str], code: i32, parts: &[&str]) {
    let (before, mounts) = (place.inventory(), place.mounts());
    let mut all = vec!["mount"];
    all.extend_from_slice(arguments);
    place.run(&all).refused(code, parts);
    assert_eq!(
        place.inventory(),
        before,
        "{arguments:?} left something behind"
    );
    assert_eq!(place.mounts(), mounts, "{arguments:?} left a mount behind");
}

#[test]
fn options_are_refused_by_name_before_anything_is_made() {
    let place = Place::new();
    let (source, mountpoint) = (place.source(), place.text("m"));
    for (options, parts) in [
        ("frobnicate", ["unknown option frobnicate", "--help"]),
        (
            "cache_sise=1G",
            ["unknown option cache_sise", "did you mean cache_size?"],
        ),
        (
            "ro,alow_other",
            ["unknown option alow_other", "did you mean allow_other?"],
        ),
        (
            "cache_size=lots",
            ["option cache_size takes MiB, or a size", "\"lots\""],
        ),
        ("cache_size", ["option cache_size needs a value", "64M"]),
        (
            "threads=0",
            ["option threads takes a number from 1 to 64", "\"0\""],
        ),
        (
            "attr_timeout=-1",
            ["option attr_timeout takes seconds", "inf"],
        ),
        ("ro=1", ["option ro takes no value", "\"1\""]),
        (
            "state_dir=relative",
            ["option state_dir takes an absolute path", "\"relative\""],
        ),
        ("auto_unmount", ["option auto_unmount", "leave it out"]),
        (
            "allow_other,allow_root",
            ["allow_other and allow_root", "exclude each other"],
        ),
        ("fsname=a\\b", ["backslash", "\\,"]),
    ] {
        refused_mount(&place, &[&source, &mountpoint, "-o", options], 1, &parts);
    }
}

#[test]
fn sources_are_refused_with_what_to_write() {
    let place = Place::new();
    let mountpoint = place.text("m");
    for (source, code, parts) in [
        ("gs://bucket", 1, ["unknown scheme \"gs\"", "file:///DIR"]),
        (
            "s3://Bucket/prefix",
            1,
            ["a bucket's name is", "s3://BUCKET[/PREFIX]"],
        ),
        ("/srv/vol", 1, ["no scheme", "write \"file:///srv/vol\""]),
        ("file://srv", 1, ["has to be absolute", "file:///DIR"]),
        (
            "file:///no/such/folder/vol",
            32,
            ["/no/such/folder", "make that folder first"],
        ),
        ("file:///etc/passwd", 32, ["/etc/passwd", "not a directory"]),
    ] {
        refused_mount(&place, &[source, &mountpoint], code, &parts);
    }
}

#[test]
fn mountpoints_are_refused_with_what_to_do() {
    let place = Place::new();
    let source = place.source();
    std::fs::write(place.path("file"), "").unwrap();
    symlink(place.path("m/inside"), place.path("dangling")).unwrap();
    refused_mount(
        &place,
        &[&source, &place.text("none")],
        32,
        &["does not exist", "mkdir -p"],
    );
    refused_mount(
        &place,
        &[&source, &place.text("dangling")],
        32,
        &["does not exist"],
    );
    refused_mount(
        &place,
        &[&source, &place.text("file")],
        32,
        &["is not a directory"],
    );
    refused_mount(
        &place,
        &[&source, &place.text("file/m")],
        32,
        &["not a directory"],
    );
    refused_mount(
        &place,
        &[&source, "/proc"],
        32,
        &["already a mount of proc", "unmount that first"],
    );
    refused_mount(&place, &[&source], 1, &["<MOUNTPOINT>"]);
    refused_mount(&place, &[&source, &place.text("m"), "more"], 1, &["more"]);
}

#[test]
fn folders_that_would_wait_for_themselves_are_refused() {
    let place = Place::new();
    let (source, mountpoint) = (place.source(), place.text("m"));
    let state = format!("state_dir={mountpoint}/state");
    refused_mount(
        &place,
        &[&source, &mountpoint, "-o", &state],
        1,
        &["the state folder", "wait for itself"],
    );
    let cache = format!("cache_dir={mountpoint}");
    refused_mount(
        &place,
        &[&source, &mountpoint, "-o", &cache],
        1,
        &["the cache folder", "wait for itself"],
    );
    let inside = format!("file://{mountpoint}/vol");
    refused_mount(
        &place,
        &[&inside, &mountpoint],
        1,
        &["SOURCE", "wait for itself"],
    );
    let around = format!("file://{}", place.text(""));
    refused_mount(&place, &[&around, &mountpoint], 1, &["lies in SOURCE"]);
}

#[test]
fn a_state_folder_that_cannot_be_written_to_is_refused() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    let below_a_file = format!("state_dir={}", place.text("file/state"));
    let parts = [
        "the state folder",
        "not a directory",
        "choose another with -o state_dir=DIR",
    ];
    refused_mount(
        &place,
        &[&place.source(), &place.text("m"), "-o", &below_a_file],
        1,
        &parts,
    );

    require_fuse();
    let script = "mkdir $PLACE/full && mount -t tmpfs -o ro none $PLACE/full
        exec $PROGRAM mount $SOURCE $PLACE/m -o state_dir=$PLACE/full/state";
    place.script_apart(script).refused(
        1,
        &[
            "the state folder",
            "Read-only file system",
            "choose another",
        ],
    );
}

#[test]
fn a_store_that_holds_something_else_is_left_alone_and_the_caller_hears_of_it() {
    require_fuse();
    let place = Place::new();
    std::fs::create_dir(place.path("s/vol")).unwrap();
    std::fs::write(place.path("s/vol/holiday.jpg"), "not a volume").unwrap();
    for way in [vec![], vec!["--foreground"]] {
        let before = place.inventory();
        let (source, mountpoint) = (place.source(), place.text("m"));
        let mut arguments = vec!["mount", &source, &mountpoint];
        arguments.extend(way);
        place
            .run(&arguments)
            .refused(32, &["cannot open the volume"]);
        assert_eq!(place.inventory(), before, "{arguments:?}");
        assert!(place.mounts().is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_machine_without_the_fuse_device_is_told_how_to_get_it() {
    require_fuse();
    let place = Place::new();
    let before = place.inventory();
    let answer =
        place.script_apart("mount -t tmpfs none /dev; exec $PROGRAM mount $SOURCE $PLACE/m");
    answer.refused(
        32,
        &[
            "there is no /dev/fuse",
            "modprobe fuse",
            "--device /dev/fuse",
        ],
    );
    assert_eq!(place.inventory(), before);
}

#[test]
fn root_without_the_capability_to_mount_is_told_so() {
    require_fuse();
    let place = Place::new();
    let before = place.inventory();
    let script = "exec setpriv --bounding-set -sys_admin $PROGRAM mount $SOURCE $PLACE/m";
    place
        .script_apart(script)
        .refused(32, &["lacks the capability", "--cap-add SYS_ADMIN"]);
    assert_eq!(place.inventory(), before);
}

/// Runs `command` as a user, after `preparation` as root.
fn as_user(place: &Place, preparation: &str, command: &str) -> Answer {
    let script = format!(
        "cp $PROGRAM $PLACE/program; mkdir -p $PLACE/home; chown -R 65534:65534 $PLACE/home $PLACE/m $PLACE/s
        {preparation}
        exec setpriv --reuid 65534 --regid 65534 --clear-groups env -u WELDR_ENV_VOL -u WELDRFS_RUN_DIR \
            HOME=$PLACE/home {command}"
    );
    place.script_apart(&script)
}

/// Users may open /dev/fuse on most systems; this makes it so here, whatever the machine's own device allows.
const OPEN_DEVICE: &str = "mknod -m 666 $PLACE/fuse c 10 229; mount --bind $PLACE/fuse /dev/fuse";

#[test]
fn users_are_told_what_they_lack() {
    require_fuse();
    let mount = "$PLACE/program mount $SOURCE $PLACE/m";
    let place = Place::new();
    let hidden = format!("{OPEN_DEVICE}; mount --bind /dev/null $(command -v fusermount3)");
    as_user(&place, &hidden, mount).refused(32, &["fusermount3", "apt install fuse3"]);

    let place = Place::new();
    let closed = "mknod -m 600 $PLACE/fuse c 10 229; mount --bind $PLACE/fuse /dev/fuse";
    as_user(&place, closed, mount).refused(32, &["users may not open /dev/fuse", "chmod 666"]);

    let place = Place::new();
    let plain_conf = format!("{OPEN_DEVICE}; mount --bind /dev/null /etc/fuse.conf");
    let allow = format!("{mount} -o allow_other");
    as_user(&place, &plain_conf, &allow)
        .refused(1, &["allow_other", "user_allow_other", "/etc/fuse.conf"]);

    let place = Place::new();
    let state = format!("{mount} -o state_dir=/root/weldrfs-state");
    as_user(&place, OPEN_DEVICE, &state).refused(1, &["the state folder", "Permission denied"]);
}

#[test]
fn a_user_mounts_through_fusermount() {
    require_fuse();
    let place = Place::new();
    let script = "sh -euc '$PLACE/program mount $SOURCE $PLACE/m
        grep $PLACE/m /proc/self/mountinfo; stat $PLACE/m
        $PLACE/program status $PLACE/m; $PLACE/program umount $PLACE/m; ls -d $PLACE/home/.local/state/weldrfs/*
        ! grep $PLACE/m /proc/self/mountinfo'";
    let answer = as_user(&place, OPEN_DEVICE, script).success();
    assert!(answer.stdout.contains("fuse.weldrfs"), "{answer:?}");
}

#[test]
fn commands_say_when_there_is_no_mount() {
    let place = Place::new();
    for (command, code) in [
        ("status", 1),
        ("sync", 1),
        ("drop-caches", 1),
        ("umount", 32),
    ] {
        place
            .run(&[command, &place.text("m")])
            .refused(code, &["is not on a WeldrFS mount"]);
        place
            .run(&[command, &place.text("none")])
            .refused(code, &["is not on a WeldrFS mount"]);
    }
    assert_eq!(
        place.run(&["status"]).success().stdout,
        "no mounts are known here\n"
    );
    assert_eq!(place.run(&["status", "--json"]).success().stdout, "[]\n");
    place.run(&["frob"]).refused(1, &["frob"]);
    place.run(&[]).refused(1, &["Usage"]);
    assert!(
        place
            .run(&["--version"])
            .success()
            .stdout
            .starts_with("weldrfs ")
    );
}
