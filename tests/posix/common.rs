//! What the guarantees share: processes of users, and calls that must succeed.

use crate::support::calls::{Answer, At, Call, Outcome, Person, Process, ROOT_USER};
use crate::support::place::Place;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Two users and a group that both are in.
pub(crate) const ANNE: u32 = 1001;
pub(crate) const BERT: u32 = 1002;
pub(crate) const TEAM: u32 = 3000;
/// How long a helper program may take.
pub(crate) const HELPER_DEADLINE: Duration = Duration::from_secs(120);
const EVENT_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A process of root's, in the place.
pub(crate) fn root_process(place: &Place) -> Process {
    Process::start(&place.root(), &ROOT_USER)
}

/// A process of a user who is in the team.
pub(crate) fn user_process(place: &Place, uid: u32) -> Process {
    let person = Person {
        uid,
        gid: uid,
        groups: vec![uid, TEAM],
        umask: 0o022,
    };
    Process::start(&place.root(), &person)
}

/// Opens a file, which must work.
pub(crate) fn open(process: &mut Process, path: &str, flags: i32, slot: usize) {
    let call = Call::Open {
        at: At::root(path),
        flags: flags as u32,
        mode: 0o666,
        slot,
    };
    assert_eq!(process.call(&call), Ok(Answer::Done), "{call:?}");
}

/// Makes a call, which must work.
pub(crate) fn must(process: &mut Process, call: Call) -> Answer {
    process
        .call(&call)
        .unwrap_or_else(|errno| panic!("{call:?}: {}", std::io::Error::from_raw_os_error(errno)))
}

/// Makes a call, which must be refused with this errno.
pub(crate) fn must_fail(process: &mut Process, call: Call, errno: i32) {
    let outcome: Outcome = process.call(&call);
    assert_eq!(outcome, Err(errno), "{call:?}");
}

/// The permission bits of a path.
pub(crate) fn mode(path: &Path) -> u32 {
    let seen = std::fs::symlink_metadata(path).expect("stat");
    seen.permissions().mode() & 0o7777
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// The errno of an error of the standard library.
pub(crate) fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().expect("it comes from the kernel")
}

/// Waits until something that is on its way has come about.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + EVENT_DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: still not so");
        std::thread::sleep(POLL);
    }
}
