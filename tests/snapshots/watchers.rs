//! Whoever waits for inotify hears of a restore.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use crate::scene::{shell, snapshot};
use crate::support::mount::Volume;

const WAIT: Duration = Duration::from_secs(30);

/// What has come within [`WAIT`], until everything wanted is there.
fn heard(queue: &OwnedFd, wanted: &[(&str, ReadFlags)]) -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    let until = Instant::now() + WAIT;
    let is_there = |found: &BTreeSet<(String, u32)>, name: &str, what: ReadFlags| {
        found
            .iter()
            .any(|(n, bits)| n == name && bits & what.bits() != 0)
    };
    while Instant::now() < until
        && !wanted
            .iter()
            .all(|(name, what)| is_there(&found, name, *what))
    {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(queue, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|n| n.to_string_lossy().into_owned());
            found.insert((name.unwrap_or_default(), event.events().bits()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    found
}

#[test]
fn watchers_hear_of_what_a_restore_changed() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(
        &root,
        "mkdir -p d/gone; for n in changed removed same; do echo old > d/$n; done; echo x > d/gone/in",
    );
    snapshot(&volume, "create", &root, &["s"]);
    shell(
        &root,
        "echo new > d/changed; rm d/removed; echo new > d/added; rm -r d/gone; mkdir -p d/new/deep; echo > d/new/deep/f",
    );
    let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&queue, root.join("d"), WatchFlags::ALL_EVENTS).unwrap();
    snapshot(&volume, "restore", &root, &["s"]);
    let any = ReadFlags::MODIFY | ReadFlags::ATTRIB | ReadFlags::CREATE;
    let wanted = [
        ("changed", any),
        ("removed", any),
        ("gone", any),
        ("added", ReadFlags::DELETE),
        ("new", ReadFlags::DELETE),
    ];
    let found = heard(&queue, &wanted);
    for (name, what) in wanted {
        let is_there = |(n, bits): &(String, u32)| n == name && bits & what.bits() != 0;
        assert!(found.iter().any(is_there), "nothing of {name} in {found:?}");
    }
    assert!(found.iter().all(|(name, _)| name != "same"), "{found:?}");
    // Telling changes nothing.
    let said = snapshot(&volume, "diff", &root, &["s"]);
    assert_eq!(said, "");
    let said = snapshot(&volume, "restore", &root, &["s"]);
    assert!(said.starts_with("nothing to do"), "{said}");
    drop(queue);
    volume.unmount();
}
