//! The ways of the system: mount(8) through mount.fuse3, an entry of fstab, and the helper by its name.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Answer, PROGRAM, Place, require_fuse};

fn require_mount_fuse() {
    require_fuse();
    let found = ["/usr/sbin/mount.fuse3", "/sbin/mount.fuse3"]
        .iter()
        .any(|path| Path::new(path).exists());
    assert!(found, "this test needs mount.fuse3: apt install fuse3");
}

/// Puts the program where mount.fuse3 finds it, for one mount namespace.
const INSTALL: &str = "mount -t tmpfs none /usr/local/bin; ln -s $PROGRAM /usr/local/bin/weldrfs";

#[test]
fn mount_8_calls_it_through_mount_fuse3() {
    require_mount_fuse();
    let place = Place::new();
    let script = format!(
        "{INSTALL}
        mount -t fuse.weldrfs $SOURCE $PLACE/m -o noatime,nosuid,_netdev,nofail,x-systemd.automount,cache_size=128M
        findmnt -n -o FSTYPE,SOURCE,OPTIONS $PLACE/m
        umount $PLACE/m"
    );
    let answer = place.script_apart(&script).success();
    assert!(answer.stdout.starts_with("fuse.weldrfs"), "{answer:?}");
    for part in [place.source().as_str(), "noatime", "nosuid"] {
        assert!(answer.stdout.contains(part), "{part} in {answer:?}");
    }
    let script = format!("{INSTALL}; mount -t fuse.weldrfs $SOURCE $PLACE/m -o cache_sise=1G");
    place
        .script_apart(&script)
        .refused(1, &["did you mean cache_size?"]);
}

#[test]
fn fstab_mounts_it() {
    require_mount_fuse();
    let place = Place::new();
    let script = format!(
        "{INSTALL}
        echo \"$SOURCE $(realpath $PLACE)/m fuse.weldrfs _netdev,nofail,x-systemd.requires=network-online.target,ro 0 0\" \
            > $PLACE/fstab
        mount --bind $PLACE/fstab /etc/fstab
        mount $(realpath $PLACE)/m
        findmnt -n -o FSTYPE,OPTIONS $PLACE/m
        $PROGRAM umount $PLACE/m"
    );
    // A volume has to exist before it can be mounted read-only.
    place.mount();
    place.run(&["umount", &place.text("m")]).success();
    let answer = place.script_apart(&script).success();
    assert!(
        answer.stdout.starts_with("fuse.weldrfs") && answer.stdout.contains("ro,"),
        "{answer:?}"
    );
}

#[test]
fn the_helper_answers_to_its_name() {
    require_fuse();
    let place = Place::new();
    symlink(PROGRAM, place.path("mount.fuse.weldrfs")).unwrap();
    let helper = |arguments: &[&str]| {
        let mut command = place.command("timeout");
        command
            .arg("60")
            .arg(place.path("mount.fuse.weldrfs"))
            .args([&place.source(), &place.text("m")]);
        Answer::of(command.args(arguments).output().unwrap())
    };
    let before = place.inventory();
    helper(&["-f", "-o", "rw"]).success();
    helper(&["-o", "frobnicate"]).refused(1, &["unknown option frobnicate"]);
    assert_eq!(place.inventory(), before, "neither makes anything");

    helper(&[
        "-s",
        "-n",
        "-v",
        "-o",
        "rw,frobnicate,user=me,_netdev",
        "-t",
        "fuse.weldrfs",
    ])
    .success();
    assert_eq!(place.mounts().len(), 1);
    place.run(&["umount", &place.text("m")]).success();
}

#[test]
fn the_helper_works_in_another_namespace() {
    require_fuse();
    let place = Place::new();
    symlink(PROGRAM, place.path("mount.fuse.weldrfs")).unwrap();
    // The namespace of the script is the other one; the helper starts in that of this test.
    let script =
        "nsenter --mount=/proc/$OUTSIDE/ns/mnt $PLACE/mount.fuse.weldrfs $SOURCE $PLACE/m -N $$
        findmnt -n -o FSTYPE $PLACE/m
        $PROGRAM umount $PLACE/m";
    let script = script.replace("$OUTSIDE", &std::process::id().to_string());
    let answer = place.script_apart(&script).success();
    assert!(answer.stdout.starts_with("fuse.weldrfs"), "{answer:?}");
    assert!(place.mounts().is_empty());
}

#[test]
fn systemd_understands_the_units() {
    let place = Place::new();
    for (unit, instance, command) in [
        ("weldrfs@.service", "weldrfs@work-project.service", "mount"),
        (
            "weldrfs-control.service",
            "weldrfs-control.service",
            "control",
        ),
    ] {
        let kept = format!("{}/docs/systemd/{unit}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(kept).unwrap();
        assert!(text.contains(&format!("/usr/local/bin/weldrfs {command}")));
        let here = place.path(instance);
        std::fs::write(&here, text.replace("/usr/local/bin/weldrfs", PROGRAM)).unwrap();
        let said = std::process::Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&here)
            .output()
            .expect("systemd-analyze, of the package systemd, can be run");
        let complaints = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.status.success() && complaints.is_empty(),
            "{unit}: {complaints}"
        );
    }
}

#[test]
fn stopping_the_sidecars_unit_leaves_mounts_alone() {
    let kept = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/systemd/weldrfs-control.service"
    );
    let text = std::fs::read_to_string(kept).unwrap();
    for line in [
        "KillMode=process",
        "RuntimeDirectoryPreserve=yes",
        "OOMPolicy=continue",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}
