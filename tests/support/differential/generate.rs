//! The seeded generator of system calls. It is told what is there now and then, so that most calls meet something, and
//! does not care what they do.

use super::paths::{For, Paths};
use crate::support::calls::{At, Call, SLOTS, Stamp};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const USERS: [Option<u32>; 4] = [None, Some(0), Some(1001), Some(1002)];
const GROUPS: [Option<u32>; 5] = [None, Some(0), Some(1001), Some(1002), Some(3000)];
/// Set-group-id comes with execution for the group: without, it is known to differ.
const MODES: [u32; 12] = [
    0o644, 0o600, 0o666, 0o755, 0o777, 0o777, 0o000, 0o4777, 0o2755, 0o6777, 0o1777, 0o664,
];
/// Mostly one, so that it is there when it is asked for.
const XATTRS: [&str; 12] = [
    "user.a",
    "user.a",
    "user.a",
    "user.a",
    "user.a",
    "user.b",
    "trusted.t",
    "security.s",
    "user.",
    "bogus.x",
    "user",
    "",
];
const STAMPS: [Stamp; 9] = [
    Stamp::Now,
    Stamp::Omit,
    Stamp::At(0, 0),
    Stamp::At(-1, 999_999_999),
    Stamp::At(-2_000_000_000, 5),
    Stamp::At(1_000_000_000, 123_456_789),
    Stamp::At(4_102_444_800, 7),
    Stamp::At(8_589_934_592, 1),
    Stamp::At(1, 1_000_000_000),
];

/// Makes calls.
pub(crate) struct Generator {
    pub(super) random: SmallRng,
    pub(super) paths: Paths,
    /// The open files of whoever makes the next call.
    open: Vec<usize>,
    /// All offsets and lengths are whole blocks. Only then do two file systems have the same holes.
    pub(super) aligned: bool,
}

impl Generator {
    pub(crate) fn new(seed: u64, aligned: bool) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            paths: Paths::default(),
            open: Vec::new(),
            aligned,
        }
    }

    /// Takes note of what is there; folders end with a slash.
    pub(crate) fn learn(&mut self, there: Vec<String>) {
        self.paths.learn(there);
    }

    /// One of `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("a choice")
    }

    pub(super) fn slot(&mut self) -> usize {
        match self.open.len() {
            0 => self.below(SLOTS),
            _ if self.one_in(8) => self.below(SLOTS),
            n => self.open[self.random.random_range(0..n)],
        }
    }

    fn path(&mut self, purpose: For) -> At {
        self.paths.any(&mut self.random, purpose)
    }

    /// A path, or now and then an open file itself.
    fn path_or_slot(&mut self) -> At {
        match self.one_in(4) {
            true => At::slot(self.slot()),
            false => self.path(For::Use),
        }
    }

    fn string_path_or_slot(&mut self, purpose: For) -> At {
        match self.one_in(4) {
            true => At::slot(self.slot()),
            false => self.paths.without_slot(&mut self.random, purpose),
        }
    }

    pub(super) fn fill(&mut self) -> u8 {
        self.random.random_range(1..=255)
    }

    fn mode(&mut self) -> u32 {
        self.pick(&MODES)
    }

    /// A call of somebody who has these files open.
    pub(crate) fn next(&mut self, open: Vec<usize>) -> Call {
        self.open = open;
        match self.below(100) {
            0..=15 => self.open(),
            16..=35 => self.data(),
            36..=42 => self.space(),
            43..=72 => self.name(),
            73..=85 => self.attribute(),
            86..=91 => self.xattr(),
            92..=94 => self.lock(),
            _ => self.place(),
        }
    }

    fn open(&mut self) -> Call {
        if self.one_in(8) {
            let slot = self.slot();
            return Call::Close { slot };
        }
        let mut flags = self.pick(&[
            libc::O_RDWR,
            libc::O_RDWR,
            libc::O_RDWR,
            libc::O_RDWR,
            libc::O_RDWR,
            libc::O_RDONLY,
            libc::O_RDONLY,
            libc::O_WRONLY,
            libc::O_PATH,
        ]);
        for (flag, one_in) in [
            (libc::O_CREAT, 2),
            (libc::O_EXCL, 10),
            (libc::O_TRUNC, 12),
            (libc::O_APPEND, 5),
            (libc::O_DIRECTORY, 20),
            (libc::O_NOFOLLOW, 8),
            (libc::O_NOATIME, 20),
            (libc::O_SYNC, 20),
            (libc::O_DSYNC, 30),
        ] {
            if self.one_in(one_in) {
                flags |= flag;
            }
        }
        let purpose = match flags & libc::O_CREAT {
            0 => For::Use,
            _ if self.one_in(3) => For::Use,
            _ => For::Make,
        };
        Call::Open {
            at: self.path(purpose),
            // A pipe must not wait for its other end.
            flags: (flags | libc::O_NONBLOCK) as u32,
            mode: self.mode(),
            slot: self.below(SLOTS),
        }
    }

    fn name(&mut self) -> Call {
        match self.below(16) {
            0..=2 => Call::Mkdir {
                at: self.path(For::Make),
                mode: self.pick(&[0o755, 0o777, 0o777, 0o777, 0o700, 0o2777, 0o1777, 0o3775]),
            },
            3 => Call::Unlink {
                at: self.path(For::Use),
                flags: 0,
            },
            4 => Call::Unlink {
                at: self.path(For::Folder),
                flags: libc::AT_REMOVEDIR as u32,
            },
            5..=9 => {
                let flags = self.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 8]);
                let to = match flags {
                    2 => For::Use,
                    _ if self.one_in(3) => For::Use,
                    _ => For::Make,
                };
                Call::Rename {
                    from: self.path(For::Use),
                    to: self.path(to),
                    flags,
                }
            }
            10 | 11 => Call::Link {
                from: self.path_or_slot(),
                to: self.path(For::Make),
                flags: self.pick(&[
                    0,
                    0,
                    libc::AT_SYMLINK_FOLLOW as u32,
                    libc::AT_EMPTY_PATH as u32,
                ]),
            },
            12 | 13 => Call::Symlink {
                target: self.paths.target(&mut self.random),
                at: self.path(For::Make),
            },
            14 => Call::Readlink {
                at: self.path_or_slot(),
            },
            _ => {
                let mode = self.mode() & 0o7777;
                let kinds = [
                    libc::S_IFIFO,
                    libc::S_IFSOCK,
                    libc::S_IFREG,
                    0,
                    libc::S_IFCHR,
                    libc::S_IFBLK,
                    libc::S_IFDIR,
                ];
                let kind = self.pick(&kinds);
                Call::Mknod {
                    at: self.path(For::Make),
                    mode: kind | mode,
                    // /dev/null, as far as it is opened.
                    dev: match kind {
                        libc::S_IFCHR => libc::makedev(1, 3),
                        libc::S_IFBLK => libc::makedev(4000, 70_000),
                        _ => 0,
                    },
                }
            }
        }
    }

    fn attribute(&mut self) -> Call {
        let follow = self.pick(&[0, 0, libc::AT_SYMLINK_NOFOLLOW as u32]);
        match self.below(12) {
            0..=2 => Call::Chmod {
                at: self.path_or_slot(),
                mode: self.mode(),
            },
            3..=5 => {
                let at = self.path_or_slot();
                let empty = (libc::AT_EMPTY_PATH as u32) * u32::from(at.path.is_empty());
                // One that changes neither is known to differ.
                let (uid, gid) = loop {
                    let pair = (self.pick(&USERS), self.pick(&GROUPS));
                    if pair != (None, None) {
                        break pair;
                    }
                };
                Call::Chown {
                    at,
                    uid,
                    gid,
                    flags: follow | empty,
                }
            }
            6..=8 => Call::Times {
                at: self.path_or_slot(),
                accessed: self.pick(&STAMPS),
                modified: self.pick(&STAMPS),
                flags: follow,
            },
            9 => Call::Access {
                at: self.path(For::Use),
                mode: self.pick(&[0, 1, 2, 4, 6, 7, 9]),
                flags: self.pick(&[0, libc::AT_EACCESS as u32]),
            },
            _ => Call::Stat {
                at: self.path_or_slot(),
                flags: follow | libc::AT_EMPTY_PATH as u32,
            },
        }
    }

    fn xattr(&mut self) -> Call {
        let at = self.string_path_or_slot(For::Use);
        let (follow, name) = (self.one_in(2), self.pick(&XATTRS).to_owned());
        match self.below(6) {
            0..=2 => Call::SetXattr {
                at,
                follow,
                name,
                len: self.below(200),
                fill: self.fill(),
                flags: self.pick(&[0, 0, 0, 0, 1, 2, 3, 8]),
            },
            3 => Call::GetXattr {
                at,
                follow,
                name,
                room: self.pick(&[0, 5, 1000]),
            },
            4 => Call::ListXattr {
                at,
                follow,
                room: self.pick(&[0, 5, 4000, 4000]),
            },
            _ => Call::RemoveXattr { at, follow, name },
        }
    }

    fn place(&mut self) -> Call {
        match self.below(7) {
            0 | 1 => Call::Chdir {
                at: self.string_path_or_slot(For::Folder),
            },
            2 => Call::Getcwd,
            3 => Call::Umask {
                mode: self.pick(&[0o022, 0o002, 0o007, 0]),
            },
            4 => Call::List {
                at: At::slot(self.slot()),
            },
            _ => Call::List {
                at: self.path(For::Folder),
            },
        }
    }
}
