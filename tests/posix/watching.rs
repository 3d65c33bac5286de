//! inotify: whoever watches a folder hears of what other processes do in it.

use crate::common::{must, root_process};
use crate::support::calls::{At, Call};
use crate::support::place::Place;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// What is heard: the kind, the name, and a number that the two halves of a rename share.
type Heard = (ReadFlags, String, u32);

/// Everything that has been told so far. Events are there when the call that causes them returns.
fn heard(watcher: &OwnedFd) -> Vec<Heard> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watcher, &mut buffer);
    let mut all = Vec::new();
    loop {
        match events.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_string_lossy());
                let name = name.unwrap_or_default().into_owned();
                all.push((event.events(), name, event.cookie()));
            }
            Err(Errno::WOULDBLOCK) => return all,
            Err(error) => panic!("inotify cannot be read: {error}"),
        }
    }
}

fn rename(from: &str, to: &str) -> Call {
    Call::Rename {
        from: At::root(from),
        to: At::root(to),
        flags: 0,
    }
}

fn unlink(path: &str, flags: i32) -> Call {
    Call::Unlink {
        at: At::root(path),
        flags: flags as u32,
    }
}

pub(crate) fn watchers_hear_of_what_other_processes_do(place: &mut Place) {
    let root = place.root();
    for name in ["watched", "elsewhere"] {
        std::fs::create_dir(root.join(name)).expect("mkdir");
    }
    let watcher = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
    let changes = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE;
    inotify::add_watch(&watcher, root.join("watched"), changes).expect("a watch");
    let mut other = root_process(place);
    for call in [
        Call::Open {
            at: At::root("watched/a"),
            flags: (libc::O_WRONLY | libc::O_CREAT) as u32,
            mode: 0o644,
            slot: 0,
        },
        Call::Write {
            slot: 0,
            len: 10,
            at: None,
            fill: 1,
        },
        Call::SetLen { slot: 0, len: 3 },
        Call::Close { slot: 0 },
        Call::Chmod {
            at: At::root("watched/a"),
            mode: 0o600,
        },
        Call::Link {
            from: At::root("watched/a"),
            to: At::root("watched/linked"),
            flags: 0,
        },
        rename("watched/a", "watched/b"),
        rename("watched/b", "elsewhere/b"),
        rename("elsewhere/b", "watched/c"),
        Call::Mkdir {
            at: At::root("watched/d"),
            mode: 0o755,
        },
        unlink("watched/c", 0),
        unlink("watched/d", libc::AT_REMOVEDIR),
    ] {
        must(&mut other, call);
    }
    let all = heard(&watcher);
    let kinds: Vec<_> = all.iter().map(|(kind, name, _)| (*kind, &**name)).collect();
    let folder = ReadFlags::ISDIR;
    assert_eq!(
        kinds,
        [
            (ReadFlags::CREATE, "a"),
            // Written, then cut: of two equal events in a row one is told.
            (ReadFlags::MODIFY, "a"),
            (ReadFlags::CLOSE_WRITE, "a"),
            (ReadFlags::ATTRIB, "a"),
            (ReadFlags::CREATE, "linked"),
            (ReadFlags::MOVED_FROM, "a"),
            (ReadFlags::MOVED_TO, "b"),
            (ReadFlags::MOVED_FROM, "b"),
            (ReadFlags::MOVED_TO, "c"),
            (ReadFlags::CREATE | folder, "d"),
            (ReadFlags::DELETE, "c"),
            (ReadFlags::DELETE | folder, "d"),
        ]
    );
    let cookie = |n: usize| all[n].2;
    assert!(cookie(5) != 0 && cookie(5) == cookie(6), "one rename");
    assert!(cookie(7) != cookie(8), "two renames");
}
