//! The same seeded system calls on a mount and on the local disk, by several users: the same answers, the same errnos,
//! the same trees. Where the two are known to differ is a list, and each entry is shown to be true.
//!
//! `WELDRFS_TEST_SEED` repeats a run, `WELDRFS_DIFFERENTIAL_STEPS` makes it longer.

#[cfg(test)]
mod support {
    pub(crate) mod calls;
    pub(crate) mod differential {
        pub(crate) mod disk;
        pub(crate) mod generate;
        pub(crate) mod generate_files;
        pub(crate) mod known;
        pub(crate) mod pair;
        pub(crate) mod paths;
        pub(crate) mod shrink;
        pub(crate) mod tree;
    }
    pub(crate) mod ext4;
    pub(crate) mod mount;
    pub(crate) mod seed;
}

#[cfg(test)]
mod tests {
    use super::support::calls::{Person, ROOT_USER};
    use super::support::differential::disk::Disk;
    use super::support::differential::generate::Generator;
    use super::support::differential::known::{KNOWN, Known};
    use super::support::differential::pair::{Difference, Pair, Step, Tally, listing, shown};
    use super::support::differential::shrink::shrink;
    use super::support::mount::{Volume, require_fuse};
    use super::support::seed;
    use libtest_mimic::Trial;
    use std::path::PathBuf;

    const STEPS: u64 = 4_000;
    /// Calls in one tree, before the next one is begun from nothing.
    const EPISODE: usize = 500;
    /// How often the generator is told what is there.
    const LEARN_EVERY: usize = 4;

    fn people() -> Vec<Person> {
        let user = |uid, umask| Person {
            uid,
            gid: uid,
            groups: vec![uid, 3000],
            umask,
        };
        vec![ROOT_USER, user(1001, 0o002), user(1002, 0o007)]
    }

    /// Both places, and numbers for new folders in them.
    struct Bench {
        disk: Disk,
        volume: Volume,
        folders: usize,
    }

    impl Bench {
        fn new() -> Self {
            require_fuse();
            Self {
                disk: Disk::new(),
                volume: Volume::mounted_with(&["allow_other"]),
                folders: 0,
            }
        }

        fn pair(&mut self) -> Pair {
            self.folders += 1;
            let (disk, mount): (PathBuf, PathBuf) = (self.disk.root(), self.volume.root());
            Pair::new(&disk, &mount, &format!("n{}", self.folders), &people())
        }

        /// What is compared next comes from elsewhere: from the tables, from the journal of a killed process, or from
        /// the store.
        fn begin_anew(&mut self, episode: u64) {
            match episode % 3 {
                0 => self.volume.remount(),
                1 => {
                    self.volume.kill();
                    self.volume.detach();
                    self.volume.mount();
                }
                _ => {
                    self.volume.sync_and_drop_caches();
                    self.volume.remount();
                }
            }
        }

        fn repeat(&mut self, steps: &[Step]) -> Result<(), Difference> {
            self.pair().repeat(steps)
        }
    }

    /// Random calls in new folders.
    fn episode(pair: &mut Pair, seed: u64, aligned: bool) -> (Vec<Step>, Result<(), Difference>) {
        let mut generator = Generator::new(seed, aligned);
        let persons = people().len();
        pair.run(EPISODE, |pair, at| {
            if at % LEARN_EVERY == 0 {
                generator.learn(pair.there());
            }
            // Root half of the time, whom nothing is forbidden.
            let person = generator.below(2 * persons).saturating_sub(persons);
            (person, generator.next(pair.open(person)))
        })
    }

    fn random_calls_answer_as_on_the_local_disk() {
        let seed = seed::base();
        let count = seed::number("WELDRFS_DIFFERENTIAL_STEPS", STEPS);
        println!("WELDRFS_TEST_SEED={seed}, {count} calls");
        let mut bench = Bench::new();
        let mut tally = Tally::default();
        for episode in 0..count.div_ceil(EPISODE as u64) {
            let mut pair = bench.pair();
            let of_this = seed.wrapping_mul(1_000).wrapping_add(episode);
            let (steps, result) = self::episode(&mut pair, of_this, episode % 2 == 1);
            if let Err(difference) = result {
                let first = difference.text.clone();
                let (steps, why) = shrink(&steps, difference, |steps| bench.repeat(steps));
                panic!(
                    "WELDRFS_TEST_SEED={seed}, episode {episode}: {first}\n\nthe same with fewer calls:\n{}\n{}",
                    listing(&steps, 0),
                    why.text
                );
            }
            pair.end_processes();
            tally.add(&pair.tally);
            bench.begin_anew(episode);
            let again = pair.compare_trees();
            assert_eq!(
                again,
                Ok(()),
                "WELDRFS_TEST_SEED={seed}, episode {episode}, read again"
            );
        }
        println!("{tally}");
        assert!(
            tally.succeeded() * 4 > tally.calls(),
            "nearly all calls failed, on both sides: {tally}"
        );
        bench.volume.unmount();
    }
    /// An entry of the list is true: both sides answer as it says, and not the same.
    fn is_known(known: &Known) {
        println!("{}: {}", known.name, known.reason);
        let mut bench = Bench::new();
        let mut pair = bench.pair();
        let calls = (known.calls)();
        let (disk, mount) = pair.last_answers(&calls);
        let calls = listing(&calls, 0);
        assert_ne!(disk, mount, "there is no difference any more:\n{calls}");
        let seen = (shown(&disk), shown(&mount));
        let expected = (shown(&(known.disk)()), shown(&(known.mount)()));
        assert_eq!(
            seen, expected,
            "disk and mount, seen and expected:\n{calls}"
        );
        pair.end_processes();
        bench.volume.unmount();
    }

    pub(super) fn trials() -> Vec<Trial> {
        let random = || {
            random_calls_answer_as_on_the_local_disk();
            Ok(())
        };
        let mut trials = vec![Trial::test(
            "random_calls_answer_as_on_the_local_disk",
            random,
        )];
        trials.extend(KNOWN.iter().map(|known| {
            Trial::test(known.name, || {
                is_known(known);
                Ok(())
            })
        }));
        trials
    }
}

fn main() -> std::process::ExitCode {
    support::calls::serve_if_asked();
    let mut arguments = libtest_mimic::Arguments::from_args();
    // One at a time: a process that another test starts has, for a moment, everything that this one has open, and a
    // mount could not be taken away.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests::trials()).exit_code()
}
