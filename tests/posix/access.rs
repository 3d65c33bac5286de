//! Who may do what: sticky and set-group-id directories, groups, access control lists, classes of attributes.

use crate::common::{
    ANNE, BERT, HELPER_DEADLINE, TEAM, mode, must, must_fail, root_process, set_mode, user_process,
};
use crate::support::calls::{Answer, At, Call, Process};
use crate::support::mount::finish;
use crate::support::place::Place;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

fn create(process: &mut Process, path: &str, mode: u32) {
    let call = Call::Open {
        at: At::root(path),
        flags: (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as u32,
        mode,
        slot: 0,
    };
    must(process, call);
}

fn unlink(path: &str) -> Call {
    Call::Unlink {
        at: At::root(path),
        flags: 0,
    }
}

fn rename(from: &str, to: &str) -> Call {
    Call::Rename {
        from: At::root(from),
        to: At::root(to),
        flags: 0,
    }
}

fn folder(root: &Path, name: &str, mode: u32) {
    std::fs::create_dir(root.join(name)).expect("mkdir");
    set_mode(&root.join(name), mode);
}

pub(crate) fn sticky_directory_protects_other_peoples_names(place: &mut Place) {
    let root = place.root();
    folder(&root, "tmp", 0o1777);
    folder(&root, "open", 0o777);
    let (mut anne, mut bert) = (user_process(place, ANNE), user_process(place, BERT));
    create(&mut anne, "tmp/annes", 0o666);
    create(&mut anne, "tmp/second", 0o666);
    create(&mut bert, "tmp/berts", 0o666);
    let mkdir = Call::Mkdir {
        at: At::root("tmp/folder"),
        mode: 0o777,
    };
    must(&mut anne, mkdir);
    let rmdir = Call::Unlink {
        at: At::root("tmp/folder"),
        flags: libc::AT_REMOVEDIR as u32,
    };
    let exchange = Call::Rename {
        from: At::root("tmp/berts"),
        to: At::root("tmp/annes"),
        flags: libc::RENAME_EXCHANGE,
    };
    for refused in [
        unlink("tmp/annes"),
        rename("tmp/annes", "tmp/other"),
        rename("tmp/annes", "open/other"),
        rename("tmp/berts", "tmp/annes"),
        exchange,
        rmdir,
    ] {
        must_fail(&mut bert, refused, libc::EPERM);
    }
    // Each their own; the owner of the directory, and root, everything.
    must(&mut anne, rename("tmp/annes", "tmp/renamed"));
    must(&mut anne, unlink("tmp/renamed"));
    chown(root.join("tmp"), Some(BERT), None).expect("chown");
    must(&mut bert, unlink("tmp/second"));
    must(&mut root_process(place), unlink("tmp/berts"));
    // Without the bit, whoever may write the directory.
    create(&mut anne, "open/annes", 0o600);
    must(&mut bert, unlink("open/annes"));
}

pub(crate) fn set_group_id_directory_hands_on_its_group(place: &mut Place) {
    let root = place.root();
    folder(&root, "team", 0o777);
    chown(root.join("team"), None, Some(TEAM)).expect("chown");
    set_mode(&root.join("team"), 0o2777);
    let mut anne = user_process(place, ANNE);
    create(&mut anne, "team/file", 0o666);
    let make = [
        Call::Mkdir {
            at: At::root("team/folder"),
            mode: 0o755,
        },
        Call::Symlink {
            target: "file".to_owned(),
            at: At::root("team/link"),
        },
        Call::Mknod {
            at: At::root("team/pipe"),
            mode: libc::S_IFIFO | 0o644,
            dev: 0,
        },
    ];
    for call in make {
        must(&mut anne, call);
    }
    create(&mut anne, "team/folder/deeper", 0o666);
    // Somebody who is not in the group cannot make programs that run as it.
    let stranger = crate::support::calls::Person {
        uid: 1003,
        gid: 1003,
        groups: vec![],
        umask: 0,
    };
    let mut stranger = Process::start(&root, &stranger);
    create(&mut stranger, "team/program", 0o2775);
    create(&mut anne, "team/annes program", 0o2775);
    drop((anne, stranger));
    place.remount();
    for name in [
        "file",
        "folder",
        "link",
        "pipe",
        "folder/deeper",
        "program",
        "annes program",
    ] {
        let seen = std::fs::symlink_metadata(root.join("team").join(name)).expect("stat");
        assert_eq!(seen.gid(), TEAM, "{name}");
    }
    assert_eq!(mode(&root.join("team/folder")), 0o2755);
    assert_eq!(mode(&root.join("team/file")), 0o644);
    assert_eq!(mode(&root.join("team/program")), 0o775);
    assert_eq!(mode(&root.join("team/annes program")), 0o2755);
}

pub(crate) fn permissions_are_checked_with_all_groups(place: &mut Place) {
    let root = place.root();
    std::fs::write(root.join("file"), "for the team").expect("write");
    chown(root.join("file"), Some(BERT), Some(TEAM)).expect("chown");
    let opened = |flags: i32| Call::Open {
        at: At::root("file"),
        flags: flags as u32,
        mode: 0,
        slot: 0,
    };
    let mut anne = user_process(place, ANNE);
    let mut bert = user_process(place, BERT);
    set_mode(&root.join("file"), 0o640);
    // A supplementary group counts; and only the class that fits counts.
    must(&mut anne, opened(libc::O_RDONLY));
    must_fail(&mut anne, opened(libc::O_RDWR), libc::EACCES);
    set_mode(&root.join("file"), 0o066);
    must_fail(&mut bert, opened(libc::O_RDONLY), libc::EACCES);
    must(&mut anne, opened(libc::O_RDWR));
    // An open file stays open.
    set_mode(&root.join("file"), 0);
    must(
        &mut anne,
        Call::Write {
            slot: 0,
            len: 1,
            at: None,
            fill: 1,
        },
    );
    must_fail(&mut anne, opened(libc::O_RDONLY), libc::EACCES);
    let attempts = [
        (
            Call::Chmod {
                at: At::root("file"),
                mode: 0o777,
            },
            libc::EPERM,
        ),
        (
            Call::Chown {
                at: At::root("file"),
                uid: Some(ANNE),
                gid: None,
                flags: 0,
            },
            libc::EPERM,
        ),
    ];
    for (attempt, errno) in attempts {
        must_fail(&mut anne, attempt, errno);
    }
    let to_a_group_of_his = Call::Chown {
        at: At::root("file"),
        uid: None,
        gid: Some(BERT),
        flags: 0,
    };
    must(&mut bert, to_a_group_of_his);
}

/// They are not kept, and whoever sets one is told so. Programs that copy them go on without.
pub(crate) fn access_control_lists(place: &mut Place) {
    let path = place.root().join("file");
    std::fs::write(&path, "x").expect("write");
    let acl = |what: &str| {
        let mut setfacl = Command::new("setfacl");
        finish(setfacl.args(["-m", what]).arg(&path), HELPER_DEADLINE)
    };
    let set = acl("u:1001:r");
    if !place.is_mount() {
        assert!(set.status.success(), "{set:?}");
        return;
    }
    let said = String::from_utf8_lossy(&set.stderr).into_owned();
    assert!(
        !set.status.success() && said.contains("Operation not supported"),
        "{set:?}"
    );
    assert_eq!(mode(&path), 0o644);
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        let mut room = [0u8; 100];
        let got = rustix::fs::getxattr(&path, name, &mut room[..]);
        assert_eq!(got, Err(Errno::OPNOTSUPP), "{name}");
    }
    let mut setfacl = Command::new("setfacl");
    setfacl.args(["-d", "-m", "u:1001:r"]).arg(place.root());
    assert!(!finish(&mut setfacl, HELPER_DEADLINE).status.success());
    // What a mode can say too is no list, and is done.
    assert!(acl("u::rwx").status.success());
    assert_eq!(mode(&path), 0o744);
    // `cp -a` takes lists along where there are any.
    let copied = finish(
        Command::new("cp")
            .arg("-a")
            .arg(&path)
            .arg(place.root().join("copy")),
        HELPER_DEADLINE,
    );
    assert!(copied.status.success(), "{copied:?}");
}

pub(crate) fn classes_of_extended_attributes(place: &mut Place) {
    let root = place.root();
    let path = root.join("file");
    std::fs::write(&path, "x").expect("write");
    chown(&path, Some(ANNE), None).expect("chown");
    let set = |name: &str| rustix::fs::setxattr(&path, name, b"value", XattrFlags::empty());
    for name in ["user.name", "trusted.name", "security.name"] {
        set(name).expect("a class that is kept");
    }
    assert_eq!(set("user."), Err(Errno::INVAL));
    assert_eq!(set("other.name"), Err(Errno::OPNOTSUPP));
    assert_eq!(set("name"), Err(Errno::OPNOTSUPP));
    assert_eq!(set("system.name"), Err(Errno::OPNOTSUPP));
    let mut anne = user_process(place, ANNE);
    let listed = |process: &mut Process| {
        let call = Call::ListXattr {
            at: At::root("file"),
            follow: true,
            room: 1_000,
        };
        match must(process, call) {
            Answer::Names(names) => names.into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
            other => panic!("{other:?} is no list"),
        }
    };
    // Only privileged processes see what is trusted.
    assert_eq!(listed(&mut anne), ["security.name", "user.name"]);
    assert_eq!(
        listed(&mut root_process(place)),
        ["security.name", "trusted.name", "user.name"]
    );
    let get = Call::GetXattr {
        at: At::root("file"),
        follow: true,
        name: "trusted.name".to_owned(),
        room: 100,
    };
    must_fail(&mut anne, get, libc::ENODATA);
    // Links and devices have none of the users' own.
    std::os::unix::fs::symlink("file", root.join("link")).expect("symlink");
    let on_link = rustix::fs::lsetxattr(root.join("link"), "user.x", b"", XattrFlags::empty());
    assert_eq!(on_link, Err(Errno::PERM));
}

/// Names and values of all of a file's attributes count together. On ext4 they have a block.
pub(crate) fn room_for_extended_attributes(place: &mut Place) {
    const LARGEST: usize = 64 << 10;
    const TOGETHER: usize = 1 << 20;
    let path = place.root().join("file");
    std::fs::write(&path, "").expect("write");
    let set = |i: usize, len: usize| {
        let (name, value) = (format!("user.{i:02}"), vec![i as u8; len]);
        rustix::fs::setxattr(&path, name, &value, XattrFlags::empty())
    };
    assert_eq!(set(0, LARGEST + 1), Err(Errno::TOOBIG));
    if !place.is_mount() {
        assert_eq!(set(0, LARGEST), Err(Errno::NOSPC));
        return;
    }
    let each = "user.00".len() + LARGEST;
    let whole = TOGETHER / each;
    let rest = TOGETHER - whole * each - "user.00".len();
    for i in 0..whole {
        set(i, LARGEST).expect("it fits");
    }
    assert_eq!(set(whole, rest + 1), Err(Errno::NOSPC));
    set(whole, rest).expect("it just fits");
    assert_eq!(set(whole + 1, 0), Err(Errno::NOSPC));
    place.remount();
    let mut value = vec![0; LARGEST];
    for i in 0..=whole {
        let n = rustix::fs::getxattr(&path, format!("user.{i:02}"), &mut value[..]).expect("get");
        assert_eq!(n, if i < whole { LARGEST } else { rest });
        assert!(
            value[..n].iter().all(|byte| *byte == i as u8),
            "user.{i:02}"
        );
    }
}
