//! Whoever waits for inotify hears of a restore.

use std::collections::BTreeSet;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
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
    loop {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(queue, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|n| n.to_string_lossy().into_owned());
            found.insert((name.unwrap_or_default(), event.events().bits()));
        }
        let mut wanted = wanted.iter();
        if Instant::now() > until || wanted.all(|(name, what)| is_there(&found, name, *what)) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn assert_heard(found: &BTreeSet<(String, u32)>, wanted: &[(&str, ReadFlags)]) {
    for (name, what) in wanted {
        let is_there = |(n, bits): &(String, u32)| n == name && bits & what.bits() != 0;
        assert!(
            found.iter().any(is_there),
            "no {what:?} of {name:?} in {found:?}"
        );
    }
}

fn watch(path: &std::path::Path) -> OwnedFd {
    let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&queue, path, WatchFlags::ALL_EVENTS).unwrap();
    queue
}

#[test]
fn watchers_hear_of_what_a_restore_changed() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(
        &root,
        "mkdir -p d/gone; for n in changed removed same; do echo old > d/$n; done; echo x > d/gone/in
         ln -s nowhere d/link; mkfifo d/pipe; echo > outside; ln outside d/hard",
    );
    snapshot(&volume, "create", &root, &["s"]);
    shell(
        &root,
        "echo new > d/changed; rm d/removed d/link d/pipe d/hard; echo new > d/added; rm -r d/gone
         mkdir -p d/new/deep; echo > d/new/deep/f",
    );
    let queue = watch(&root.join("d"));
    snapshot(&volume, "restore", &root, &["s"]);
    let wanted = [
        ("changed", ReadFlags::MODIFY),
        ("removed", ReadFlags::CREATE),
        ("gone", ReadFlags::CREATE),
        ("link", ReadFlags::CREATE),
        ("pipe", ReadFlags::CREATE),
        ("hard", ReadFlags::CREATE),
        ("added", ReadFlags::DELETE),
        ("new", ReadFlags::DELETE),
    ];
    let found = heard(&queue, &wanted);
    assert_heard(&found, &wanted);
    assert!(found.iter().all(|(name, _)| name != "same"), "{found:?}");
    // Telling changes nothing.
    let said = snapshot(&volume, "diff", &root, &["s"]);
    assert_eq!(said, "");
    let said = snapshot(&volume, "restore", &root, &["s"]);
    assert!(said.starts_with("nothing to do"), "{said}");
    let above = watch(&root);
    let (from, to) = (root.join("d"), root.join("copy"));
    volume.command(&["clone", &from.to_string_lossy(), &to.to_string_lossy()]);
    let wanted = [("copy", ReadFlags::CREATE)];
    assert_heard(&heard(&above, &wanted), &wanted);
    drop((queue, above));
    volume.unmount();
}

/// An editor watches one file, and has to look who has its name now.
#[test]
fn whoever_watches_a_file_itself_hears_that_it_was_replaced_or_removed() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(&root, "mkdir d; echo old > d/changed");
    snapshot(&volume, "create", &root, &["s"]);
    shell(
        &root,
        "echo new > d/changed; echo new > d/added; mkdir d/new",
    );
    let changed = watch(&root.join("d/changed"));
    let added = watch(&root.join("d/added"));
    let new = watch(&root.join("d/new"));
    snapshot(&volume, "restore", &root, &["s"]);
    for (queue, what) in [
        (&changed, ReadFlags::ATTRIB),
        (&added, ReadFlags::DELETE_SELF),
        (&new, ReadFlags::DELETE_SELF),
    ] {
        let wanted = [("", what)];
        assert_heard(&heard(queue, &wanted), &wanted);
    }
    drop((changed, added, new));
    volume.unmount();
}

/// A directory that was renamed and goes back to its old name lives on: whoever stands in it or watches it notices
/// nothing but that.
#[test]
fn a_directory_that_moves_back_is_not_taken_for_dead() {
    let mut volume = Volume::mounted();
    let root = volume.root();
    shell(
        &root,
        "mkdir -p a/here b; echo old > a/here/f; echo old > a/file",
    );
    snapshot(&volume, "create", &root, &["s"]);
    shell(
        &root,
        "mv a/here b/there; mv a/file b/moved; echo new > b/there/f; mkdir b/there/new; ls -lR . > /dev/null",
    );
    let mut standing = Command::new("sh")
        .args([
            "-c",
            "read go; echo made > made && mkdir deep && cat f made && /bin/pwd && rm -r made deep",
        ])
        .current_dir(root.join("b/there"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let inside = watch(&root.join("b/there"));
    let above = watch(&root.join("a"));
    let file = watch(&root.join("b/moved"));
    snapshot(&volume, "restore", &root, &["s"]);
    let wanted = [("here", ReadFlags::CREATE), ("file", ReadFlags::CREATE)];
    assert_heard(&heard(&above, &wanted), &wanted);
    standing.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said = standing.wait_with_output().unwrap();
    let here = root.canonicalize().unwrap().join("a/here");
    assert_eq!(
        (
            String::from_utf8_lossy(&said.stdout).into_owned(),
            String::from_utf8_lossy(&said.stderr).into_owned()
        ),
        (format!("old\nmade\n{}\n", here.display()), String::new())
    );
    let wanted = [
        ("new", ReadFlags::DELETE),
        ("made", ReadFlags::CREATE),
        ("deep", ReadFlags::CREATE),
    ];
    let found = heard(&inside, &wanted);
    assert_heard(&found, &wanted);
    let dead = ReadFlags::DELETE_SELF | ReadFlags::IGNORED;
    let found: Vec<_> = found.into_iter().chain(heard(&file, &[])).collect();
    assert!(
        found.iter().all(|(_, bits)| bits & dead.bits() == 0),
        "{found:?}"
    );
    drop((inside, above, file));
    volume.unmount();
}
