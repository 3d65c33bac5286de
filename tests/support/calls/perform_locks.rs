//! Makes the calls on locks.

use super::call::{Answer, Call, Outcome, Owner, Record};
use super::perform::{Performer, returned};
use rustix::fd::AsRawFd;

fn flock_of(record: &Record) -> libc::flock {
    // SAFETY: a plain structure that zeros are valid for.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = record.kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = record.start;
    lock.l_len = record.len;
    lock
}

impl Performer {
    pub(super) fn lock(&self, call: &Call) -> Outcome {
        match call {
            Call::Flock { slot, operation } => {
                let file = self.slot(*slot)?.as_raw_fd();
                // SAFETY: the call takes numbers only.
                returned(unsafe { libc::flock(file, *operation) }.into())
            }
            Call::Lock { slot, record, wait } => {
                let file = self.slot(*slot)?.as_raw_fd();
                let command = match (record.owner, wait) {
                    (Owner::Process, false) => libc::F_SETLK,
                    (Owner::Process, true) => libc::F_SETLKW,
                    (Owner::Description, false) => libc::F_OFD_SETLK,
                    (Owner::Description, true) => libc::F_OFD_SETLKW,
                };
                let lock = flock_of(record);
                // SAFETY: the structure is the one these commands take and lives until the call is done.
                returned(unsafe { libc::fcntl(file, command, &lock) }.into())
            }
            Call::TestLock { slot, record } => {
                let file = self.slot(*slot)?.as_raw_fd();
                let command = match record.owner {
                    Owner::Process => libc::F_GETLK,
                    Owner::Description => libc::F_OFD_GETLK,
                };
                let mut lock = flock_of(record);
                // SAFETY: the structure is the one these commands take and fill, and lives until the call is done.
                returned(unsafe { libc::fcntl(file, command, &mut lock) }.into())?;
                Ok(match i32::from(lock.l_type) {
                    libc::F_UNLCK => Answer::Done,
                    kind => Answer::Held {
                        kind,
                        start: lock.l_start,
                        len: lock.l_len,
                        // -1 stands for an open file description.
                        pid: lock.l_pid.max(0),
                    },
                })
            }
            _ => unreachable!("{call:?} is not about a lock"),
        }
    }
}
