//! Random operations against the reference tree, compared after every step: on the engine without
//! a mount, on a mount through system calls, and on the local disk to keep the model honest.
//!
//! `WELDRFS_TEST_SEED` repeats a run, `WELDRFS_MODEL_STEPS` makes it longer.

#[cfg(test)]
mod support {
    pub(crate) mod model;
    pub(crate) mod mount;
    pub(crate) mod seed;
}

#[cfg(test)]
mod tests {
    use super::support::model::compare::{Pair, Subject};
    use super::support::model::engine::EngineSubject;
    use super::support::model::folder::FolderSubject;
    use super::support::model::generate::Generator;
    use super::support::mount::{Volume, require_fuse};
    use super::support::seed;
    use std::cell::RefCell;
    use std::rc::Rc;

    const ENGINE_STEPS: u64 = 4_000;
    const FOLDER_STEPS: u64 = 1_500;
    const COMPARE_EVERY: u64 = 500;
    const REOPEN_ONE_IN: u32 = 700;
    const STORE_ONE_IN: u32 = 900;

    /// Runs steps, with reopening and reading back from the store in between.
    fn run<S: Subject>(subject: S, steps: u64, seed_offset: u64, send_to_store: impl Fn(&S)) {
        let seed = seed::base().wrapping_add(seed_offset);
        let steps = seed::number("WELDRFS_MODEL_STEPS", steps);
        println!(
            "WELDRFS_TEST_SEED={}, {steps} steps",
            seed.wrapping_sub(seed_offset)
        );
        let mut generator = Generator::new(seed);
        let mut pair = Pair::new(subject);
        let must = |result: Result<(), String>, step: u64| {
            if let Err(difference) = result {
                panic!(
                    "WELDRFS_TEST_SEED={}, step {step}: {difference}",
                    seed.wrapping_sub(seed_offset)
                );
            }
        };
        for step in 1..=steps {
            must(pair.step(&mut generator), step);
            let reopen = generator.chance(REOPEN_ONE_IN);
            let store = generator.chance(STORE_ONE_IN);
            if reopen {
                pair.reopen(step % 2 == 0);
            }
            if store {
                send_to_store(&pair.subject);
            }
            if reopen || store || step % COMPARE_EVERY == 0 || step == steps {
                must(pair.compare_all(), step);
            }
        }
    }

    fn run_engine(seed_offset: u64) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        run(
            EngineSubject::new(folder.path()),
            ENGINE_STEPS,
            seed_offset,
            EngineSubject::send_to_store,
        );
    }

    #[test]
    fn engine_answers_like_the_model() {
        run_engine(0);
    }

    #[test]
    fn engine_answers_like_the_model_from_another_seed() {
        run_engine(1);
    }

    #[test]
    fn engine_answers_like_the_model_from_a_third_seed() {
        run_engine(2);
    }

    #[test]
    fn mount_answers_like_the_model() {
        require_fuse();
        let volume = Rc::new(RefCell::new(Volume::mounted()));
        let root = volume.borrow().root();
        let again = Rc::clone(&volume);
        let remount = Box::new(move |orderly: bool| {
            let mut volume = again.borrow_mut();
            if orderly {
                volume.remount();
            } else {
                volume.kill();
                volume.detach();
                volume.mount();
            }
        });
        let subject = FolderSubject::new(&root, false, remount);
        run(subject, FOLDER_STEPS, 10, |_| {
            volume.borrow().sync_and_drop_caches()
        });
    }

    /// The model is only as good as its agreement with a file system everybody uses.
    #[test]
    fn local_disk_answers_like_the_model() {
        require_fuse();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let root = folder.path().join("root");
        std::fs::create_dir(&root).expect("a folder can be made");
        run(
            FolderSubject::new(&root, true, Box::new(|_| {})),
            FOLDER_STEPS,
            20,
            |_| {},
        );
    }
}
