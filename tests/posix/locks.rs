//! Locks between processes: record locks (`fcntl`), open-file locks (OFD), `flock`.

use crate::common::{must, must_fail, open, root_process};
use crate::support::calls::{Answer, Call, Owner, Process, Record};
use crate::support::place::Place;
use libc::{F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, O_CREAT, O_RDWR};

const FILE: &str = "locked";
const GRANTED: Answer = Answer::Number(0);

fn record(owner: Owner, kind: i32, start: i64, len: i64) -> Record {
    Record {
        owner,
        kind,
        start,
        len,
    }
}

/// A lock of the process, asked for without waiting.
fn lock(kind: i32, start: i64, len: i64) -> Call {
    Call::Lock {
        slot: 0,
        record: record(Owner::Process, kind, start, len),
        wait: false,
    }
}

fn waiting(call: Call) -> Call {
    match call {
        Call::Lock { slot, record, .. } => Call::Lock {
            slot,
            record,
            wait: true,
        },
        other => other,
    }
}

/// A lock of an open file, asked for without waiting.
fn open_file_lock(slot: usize, kind: i32, start: i64, len: i64) -> Call {
    Call::Lock {
        slot,
        record: record(Owner::Description, kind, start, len),
        wait: false,
    }
}

fn flock(operation: i32) -> Call {
    Call::Flock { slot: 0, operation }
}

/// What is in the way of a write lock from `start` on.
fn in_the_way(process: &mut Process, start: i64) -> Answer {
    must(
        process,
        Call::TestLock {
            slot: 0,
            record: record(Owner::Process, F_WRLCK, start, 0),
        },
    )
}

/// Two processes that have the same file open in slot 0.
fn two(place: &Place) -> (Process, Process) {
    let (mut one, mut other) = (root_process(place), root_process(place));
    open(&mut one, FILE, O_RDWR | O_CREAT, 0);
    open(&mut other, FILE, O_RDWR, 0);
    (one, other)
}

pub(crate) fn record_locks_are_split_converted_and_merged(place: &mut Place) {
    let (mut one, mut other) = two(place);
    let pid = one.pid() as i32;
    let held = |kind, start, len| Answer::Held {
        kind,
        start,
        len,
        pid,
    };
    must(&mut one, lock(F_WRLCK, 0, 100));
    must_fail(&mut other, lock(F_RDLCK, 99, 1), libc::EAGAIN);
    // A hole in the middle makes two.
    must(&mut one, lock(F_UNLCK, 40, 20));
    assert_eq!(in_the_way(&mut other, 0), held(F_WRLCK, 0, 40));
    assert_eq!(in_the_way(&mut other, 40), held(F_WRLCK, 60, 40));
    must(&mut other, lock(F_WRLCK, 40, 20));
    must_fail(&mut one, lock(F_WRLCK, 59, 1), libc::EAGAIN);
    // A part becomes a read lock, which lets readers in.
    must(&mut one, lock(F_RDLCK, 0, 10));
    assert_eq!(in_the_way(&mut other, 0), held(F_RDLCK, 0, 10));
    must(&mut other, lock(F_RDLCK, 0, 10));
    must_fail(&mut other, lock(F_RDLCK, 10, 1), libc::EAGAIN);
    must_fail(&mut one, lock(F_WRLCK, 0, 10), libc::EAGAIN);
    // Neighbours of one kind become one.
    must(&mut other, lock(F_UNLCK, 0, 0));
    must(&mut one, lock(F_WRLCK, 0, 10));
    must(&mut one, lock(F_WRLCK, 40, 20));
    assert_eq!(in_the_way(&mut other, 0), held(F_WRLCK, 0, 100));
    // A length of 0 goes on however long the file gets, a negative one lies before the start.
    must(&mut one, lock(F_UNLCK, 0, 0));
    must(&mut one, lock(F_WRLCK, 50, 0));
    must_fail(&mut other, lock(F_WRLCK, 1 << 40, 1), libc::EAGAIN);
    must(&mut other, lock(F_WRLCK, 50, -50));
    must_fail(&mut other, lock(F_WRLCK, 10, -11), libc::EINVAL);
}

pub(crate) fn record_locks_go_with_any_close_of_the_file(place: &mut Place) {
    let (mut one, mut other) = two(place);
    must(&mut one, lock(F_WRLCK, 0, 0));
    must_fail(&mut other, lock(F_WRLCK, 0, 0), libc::EAGAIN);
    open(&mut one, FILE, O_RDWR, 1);
    must(&mut one, Call::Close { slot: 1 });
    assert_eq!(must(&mut other, lock(F_WRLCK, 0, 0)), GRANTED);
}

pub(crate) fn open_file_locks_belong_to_the_open_file(place: &mut Place) {
    let (mut one, mut other) = two(place);
    open(&mut one, FILE, O_RDWR, 1);
    must(&mut one, open_file_lock(0, F_WRLCK, 0, 10));
    // Two open files exclude each other within a process too, and so do the two kinds of locks.
    must_fail(&mut one, open_file_lock(1, F_WRLCK, 0, 1), libc::EAGAIN);
    must_fail(&mut one, lock(F_WRLCK, 0, 1), libc::EAGAIN);
    must_fail(&mut other, lock(F_RDLCK, 9, 1), libc::EAGAIN);
    assert_eq!(
        in_the_way(&mut other, 0),
        Answer::Held {
            kind: F_WRLCK,
            start: 0,
            len: 10,
            pid: 0
        }
    );
    // Closing another open file of the process takes nothing away; closing this one does.
    must(&mut one, Call::Close { slot: 1 });
    must_fail(&mut other, lock(F_RDLCK, 9, 1), libc::EAGAIN);
    must(&mut one, Call::Close { slot: 0 });
    assert_eq!(must(&mut other, lock(F_WRLCK, 0, 10)), GRANTED);
}

pub(crate) fn flock_is_shared_exclusive_and_converted(place: &mut Place) {
    let (mut one, mut other) = two(place);
    must(&mut one, flock(LOCK_EX));
    must_fail(&mut other, flock(LOCK_SH | LOCK_NB), libc::EAGAIN);
    must(&mut one, flock(LOCK_SH));
    must(&mut other, flock(LOCK_SH | LOCK_NB));
    must_fail(&mut other, flock(LOCK_EX | LOCK_NB), libc::EAGAIN);
    must(&mut one, flock(LOCK_UN));
    must(&mut other, flock(LOCK_EX | LOCK_NB));
    // Another open file of one process is another owner; record locks are no concern of flock's.
    open(&mut other, FILE, O_RDWR, 1);
    let second = Call::Flock {
        slot: 1,
        operation: LOCK_SH | LOCK_NB,
    };
    must_fail(&mut other, second.clone(), libc::EAGAIN);
    must(&mut one, lock(F_WRLCK, 0, 0));
    must(&mut other, Call::Close { slot: 0 });
    assert_eq!(must(&mut other, second), GRANTED);
}

pub(crate) fn locks_need_a_fitting_open_mode(place: &mut Place) {
    let mut one = root_process(place);
    open(&mut one, FILE, libc::O_WRONLY | O_CREAT, 0);
    must_fail(&mut one, lock(F_RDLCK, 0, 1), libc::EBADF);
    must(&mut one, lock(F_WRLCK, 0, 1));
    open(&mut one, FILE, libc::O_RDONLY, 0);
    must_fail(&mut one, lock(F_WRLCK, 0, 1), libc::EBADF);
    must(&mut one, lock(F_RDLCK, 0, 1));
    must(&mut one, flock(LOCK_EX | LOCK_NB));
    open(&mut one, FILE, libc::O_PATH, 0);
    must_fail(&mut one, flock(LOCK_EX | LOCK_NB), libc::EBADF);
}

pub(crate) fn locks_end_with_their_process(place: &mut Place) {
    for locking in [
        lock(F_WRLCK, 0, 0),
        open_file_lock(0, F_WRLCK, 0, 0),
        flock(LOCK_EX),
    ] {
        let (mut one, mut other) = two(place);
        must(&mut one, locking.clone());
        other.ask(&waiting(locking));
        other.waits_for_lock(&place.root().join(FILE));
        one.kill();
        assert_eq!(other.answer(), Ok(GRANTED));
    }
}

pub(crate) fn waiting_lock_is_granted_on_release(place: &mut Place) {
    let (mut one, mut other) = two(place);
    must(&mut one, lock(F_WRLCK, 0, 100));
    other.ask(&waiting(lock(F_WRLCK, 50, 10)));
    other.waits_for_lock(&place.root().join(FILE));
    // What it waits for is not released yet.
    must(&mut one, lock(F_UNLCK, 0, 50));
    other.waits_for_lock(&place.root().join(FILE));
    must(&mut one, lock(F_UNLCK, 50, 10));
    assert_eq!(other.answer(), Ok(GRANTED));
    must(&mut one, flock(LOCK_SH));
    other.ask(&flock(LOCK_EX));
    other.waits_for_lock(&place.root().join(FILE));
    must(&mut one, flock(LOCK_UN));
    assert_eq!(other.answer(), Ok(GRANTED));
}

pub(crate) fn waiting_lock_is_interrupted_by_a_signal(place: &mut Place) {
    for locking in [
        lock(F_WRLCK, 0, 0),
        open_file_lock(0, F_WRLCK, 0, 0),
        flock(LOCK_EX),
    ] {
        let (mut one, mut other) = two(place);
        must(&mut one, locking.clone());
        other.ask(&waiting(locking.clone()));
        other.waits_for_lock(&place.root().join(FILE));
        other.interrupt();
        assert_eq!(other.answer(), Err(libc::EINTR), "{locking:?}");
        // Nothing of it is left behind.
        one.kill();
        assert_eq!(must(&mut other, locking), GRANTED);
    }
}

pub(crate) fn deadlock_of_record_locks_is_found(place: &mut Place) {
    let (mut one, mut other) = two(place);
    must(&mut one, lock(F_WRLCK, 0, 1));
    must(&mut other, lock(F_WRLCK, 1, 1));
    one.ask(&waiting(lock(F_WRLCK, 1, 1)));
    one.waits_for_lock(&place.root().join(FILE));
    must_fail(&mut other, waiting(lock(F_WRLCK, 0, 1)), libc::EDEADLK);
    must(&mut other, lock(F_UNLCK, 1, 1));
    assert_eq!(one.answer(), Ok(GRANTED));
}

pub(crate) fn locks_follow_the_file_not_the_name(place: &mut Place) {
    let (mut one, _) = two(place);
    must(&mut one, lock(F_WRLCK, 0, 0));
    must(&mut one, flock(LOCK_EX));
    let root = place.root();
    std::fs::rename(root.join(FILE), root.join("renamed")).expect("rename");
    std::fs::hard_link(root.join("renamed"), root.join("linked")).expect("link");
    let mut other = root_process(place);
    open(&mut other, "linked", O_RDWR, 0);
    must_fail(&mut other, lock(F_WRLCK, 0, 1), libc::EAGAIN);
    must_fail(&mut other, flock(LOCK_SH | LOCK_NB), libc::EAGAIN);
    // Another file under the old name is free.
    open(&mut other, FILE, O_RDWR | O_CREAT, 0);
    must(&mut other, lock(F_WRLCK, 0, 1));
    must(&mut other, flock(LOCK_EX | LOCK_NB));
}
