//! The calls on open files: data, room, positions, locks.

use super::generate::Generator;
use super::paths::For;
use crate::support::calls::{Call, Owner, Record};
use rand::Rng;

const PAGE: i64 = 4096;
/// Largest offset, so that whole trees can be compared.
const FAR: i64 = 3 << 20;

impl Generator {
    fn offset(&mut self) -> i64 {
        let at = match self.below(20) {
            0 => return -1,
            1 => self.random.random_range(0..FAR),
            2..=6 => {
                let page = self.random.random_range(0..5) * PAGE;
                page + self.random.random_range(-1..=1)
            }
            7..=10 => 0,
            _ => self.random.random_range(0..5 * PAGE),
        };
        self.rounded(at.max(0))
    }

    fn len(&mut self) -> i64 {
        let len = match self.below(20) {
            0 => 0,
            1 => self.random.random_range(0..200_000),
            2..=6 => self.random.random_range(1..100),
            _ => self.random.random_range(1..3 * PAGE),
        };
        match self.aligned {
            true => (len / PAGE + 1) * PAGE,
            false => len,
        }
    }

    fn rounded(&self, at: i64) -> i64 {
        match self.aligned {
            true => at / PAGE * PAGE,
            false => at,
        }
    }

    pub(super) fn data(&mut self) -> Call {
        let slot = self.slot();
        let position = match self.one_in(3) {
            true => None,
            false => Some(self.offset()),
        };
        match self.below(12) {
            0..=4 => Call::Write {
                slot,
                len: self.len() as usize,
                at: position,
                fill: self.fill(),
            },
            5..=7 => Call::Read {
                slot,
                len: self.len() as usize,
                at: position,
            },
            8 => Call::Mapped {
                slot,
                page: self.below(4) as u64,
                len: self.len() as usize,
                fill: self.one_in(2).then_some(7),
            },
            9 => Call::Send {
                from: slot,
                from_at: self.offset(),
                to: self.slot(),
                len: self.len() as usize,
            },
            // Where holes are looked for, a hole that is copied would be one here and data on ext4.
            10 if !self.aligned => Call::Copy {
                from: slot,
                from_at: self.offset(),
                to: self.slot(),
                to_at: self.offset(),
                len: self.len() as usize,
            },
            _ => Call::Sync {
                slot,
                data: self.one_in(2),
            },
        }
    }

    pub(super) fn space(&mut self) -> Call {
        let slot = self.slot();
        match self.below(7) {
            0 | 1 => Call::SetLen {
                slot,
                len: self.offset(),
            },
            2 => Call::Truncate {
                at: self.paths.without_slot(&mut self.random, For::Use),
                len: self.offset(),
            },
            3 | 4 => Call::Allocate {
                slot,
                mode: match self.aligned {
                    // Room without data counts as a hole or as data, by what of it was read before.
                    true => self.pick(&[2, 3, 3, 3]),
                    false => self.pick(&[0, 1, 2, 3, 3, 16, 17, 128]),
                },
                offset: self.offset(),
                len: self.len(),
            },
            _ => Call::Seek {
                slot,
                offset: self.offset(),
                whence: match self.aligned {
                    true => self.pick(&[0, 1, 2, 3, 3, 4, 4, 7]),
                    false => self.pick(&[0, 0, 1, 2, 7]),
                },
            },
        }
    }

    pub(super) fn lock(&mut self) -> Call {
        let slot = self.slot();
        if self.one_in(3) {
            let kind = self.pick(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN]);
            let operation = kind | libc::LOCK_NB;
            return Call::Flock { slot, operation };
        }
        let record = Record {
            owner: self.pick(&[Owner::Process, Owner::Process, Owner::Description]),
            kind: self.pick(&[libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK]),
            start: self.random.random_range(0..20),
            len: self.random.random_range(-3..15),
        };
        match self.one_in(4) {
            true => Call::TestLock { slot, record },
            false => Call::Lock {
                slot,
                record,
                wait: false,
            },
        }
    }
}
