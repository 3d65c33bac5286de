//! When set-id bits and file capabilities go.

use crate::common::{ANNE, BERT, must, open, root_process, set_mode, user_process};
use crate::support::calls::{At, Call, Process};
use crate::support::place::Place;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::os::unix::fs::chown;
use std::path::Path;

const CAPABILITY: &str = "security.capability";
/// `cap_net_raw+p`, as setcap writes it.
const NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Changes of the content, with the file open in slot 0 and another one in slot 1.
fn changes() -> Vec<(&'static str, Call)> {
    let write = |at| Call::Write {
        slot: 0,
        len: 10,
        at,
        fill: 1,
    };
    let allocate = |mode| Call::Allocate {
        slot: 0,
        mode,
        offset: 0,
        len: 4096,
    };
    vec![
        ("write", write(None)),
        ("pwrite", write(Some(5))),
        ("ftruncate", Call::SetLen { slot: 0, len: 3 }),
        (
            "truncate",
            Call::Truncate {
                at: At::root("file"),
                len: 3,
            },
        ),
        (
            "open with O_TRUNC",
            Call::Open {
                at: At::root("file"),
                flags: (libc::O_WRONLY | libc::O_TRUNC) as u32,
                mode: 0,
                slot: 2,
            },
        ),
        ("fallocate", allocate(0)),
        (
            "punch",
            allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
        ),
        (
            "copy_file_range",
            Call::Copy {
                from: 1,
                from_at: 0,
                to: 0,
                to_at: 0,
                len: 100,
            },
        ),
        (
            "sendfile",
            Call::Send {
                from: 1,
                from_at: 0,
                to: 0,
                len: 100,
            },
        ),
    ]
}

/// A file that everybody may write, with a mode, and two open files in the process.
fn prepare(root: &Path, process: &mut Process, mode: u32) {
    let path = root.join("file");
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, "a program").expect("write");
    std::fs::write(root.join("other"), vec![7; 5_000]).expect("write");
    set_mode(&path, mode);
    open(process, "file", libc::O_RDWR, 0);
    open(process, "other", libc::O_RDONLY, 1);
}

/// After each change of the content by the process: the mode as the process and as everybody sees it.
fn modes_after(place: &mut Place, mut process: Process, mode: u32) -> Vec<(&'static str, u32)> {
    let root = place.root();
    let mut seen = Vec::new();
    for (name, change) in changes() {
        prepare(&root, &mut process, mode);
        must(&mut process, change);
        seen.push((name, crate::common::mode(&root.join("file"))));
    }
    seen
}

fn all(mode: u32) -> Vec<(&'static str, u32)> {
    changes()
        .into_iter()
        .map(|(name, _)| (name, mode))
        .collect()
}

pub(crate) fn set_id_bits_go_when_another_user_changes_the_content(place: &mut Place) {
    let anne = user_process(place, ANNE);
    assert_eq!(modes_after(place, anne, 0o6777), all(0o777));
    let anne = user_process(place, ANNE);
    assert_eq!(modes_after(place, anne, 0o4766), all(0o766));
    // And it stays so.
    place.remount();
    assert_eq!(crate::common::mode(&place.root().join("file")), 0o766);
}

/// Root has the privilege to keep them.
pub(crate) fn privileged_writers_keep_set_id_bits(place: &mut Place) {
    let root = root_process(place);
    assert_eq!(modes_after(place, root, 0o6777), all(0o6777));
}

pub(crate) fn set_id_bits_go_with_the_owner(place: &mut Place) {
    let path = place.root().join("file");
    let with_mode = |mode| {
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, "").expect("write");
        chown(&path, Some(ANNE), Some(ANNE)).expect("chown");
        set_mode(&path, mode);
    };
    // By root, to anybody, even to the one who has it.
    for (uid, gid) in [(Some(BERT), None), (None, Some(BERT)), (Some(ANNE), None)] {
        with_mode(0o6755);
        chown(&path, uid, gid).expect("chown");
        assert_eq!(crate::common::mode(&path), 0o755, "{uid:?} {gid:?}");
    }
    // By the owner, to a group of hers.
    with_mode(0o6755);
    let change = Call::Chown {
        at: At::root("file"),
        uid: None,
        gid: Some(crate::common::TEAM),
        flags: 0,
    };
    must(&mut user_process(place, ANNE), change);
    assert_eq!(crate::common::mode(&path), 0o755);
    // Of directories the bits have another meaning, and stay.
    let folder = place.root().join("folder");
    std::fs::create_dir(&folder).expect("mkdir");
    set_mode(&folder, 0o2755);
    chown(&folder, Some(ANNE), Some(ANNE)).expect("chown");
    assert_eq!(crate::common::mode(&folder), 0o2755);
    // A change that changes nothing is none on a mount: the kernel does not tell it of it.
    with_mode(0o6755);
    chown(&path, None, None).expect("chown");
    let kept = if place.is_mount() { 0o6755 } else { 0o755 };
    assert_eq!(crate::common::mode(&path), kept);
}

fn give_capability(root: &Path) {
    let none = XattrFlags::empty();
    rustix::fs::setxattr(root.join("file"), CAPABILITY, &NET_RAW, none)
        .expect("root may set capabilities");
}

/// How long the file's capabilities are.
fn capability(root: &Path) -> Result<usize, Errno> {
    let mut room = [0u8; 64];
    rustix::fs::getxattr(root.join("file"), CAPABILITY, &mut room[..])
}

/// Whoever writes or gives it away, root too: what capabilities were given to is not there any more.
pub(crate) fn file_capabilities_go_with_a_write(place: &mut Place) {
    let root = place.root();
    for mut process in [user_process(place, ANNE), root_process(place)] {
        for (name, change) in changes() {
            prepare(&root, &mut process, 0o777);
            give_capability(&root);
            must(&mut process, change);
            assert_eq!(capability(&root), Err(Errno::NODATA), "after {name}");
        }
    }
    for (uid, gid) in [(Some(BERT), None), (None, Some(BERT))] {
        let mut process = root_process(place);
        prepare(&root, &mut process, 0o777);
        give_capability(&root);
        chown(root.join("file"), uid, gid).expect("chown");
        assert_eq!(capability(&root), Err(Errno::NODATA), "{uid:?} {gid:?}");
    }
}

/// ext4 takes set-group-id from a file that the group may not execute only when the writer is not in the group. The
/// kernel does not tell a mount which groups the writer is in, and there the bit stays.
pub(crate) fn set_group_id_without_group_execution(place: &mut Place) {
    let kept = if place.is_mount() { 0o2666 } else { 0o666 };
    let mut anne = user_process(place, ANNE);
    let root = place.root();
    prepare(&root, &mut anne, 0o2666);
    let write = Call::Write {
        slot: 0,
        len: 1,
        at: None,
        fill: 1,
    };
    must(&mut anne, write);
    assert_eq!(crate::common::mode(&root.join("file")), kept);
}
