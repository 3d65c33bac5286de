//! `kill -9` of the mount process at random moments, under recorded writers, git, SQLite and an
//! install. After the remount everything that was acknowledged is there, and nothing else.
//!
//! `WELDRFS_KILL_ROUNDS` sets how often (5; 50 for a full run), `WELDRFS_TEST_SEED` repeats a run.

#[cfg(test)]
mod support {
    pub(crate) mod mount;
    pub(crate) mod scripts;
    pub(crate) mod seed;
}

#[cfg(test)]
mod tests {
    use super::support::mount::{Volume, require_fuse};
    use super::support::scripts::{in_repository, inputs, succeed, treesum};
    use super::support::seed;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::fs::{self, File};
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    const ROUNDS: u64 = 5;
    const RECORDERS: usize = 4;
    const SHORTEST_MS: u64 = 300;
    const LONGEST_MS: u64 = 2_500;
    const END_DEADLINE: Duration = Duration::from_secs(60);
    const VERIFY_DEADLINE: Duration = Duration::from_secs(300);
    const POLL: Duration = Duration::from_millis(10);

    /// One program that works on the mount until it is killed under it.
    struct Worker {
        name: String,
        script: PathBuf,
        kind: Vec<String>,
        folder: PathBuf,
        log: PathBuf,
    }

    impl Worker {
        fn command(&self, what: &str, last: &str) -> Command {
            let mut command = Command::new("python3");
            command
                .arg(&self.script)
                .args(&self.kind)
                .arg(what)
                .arg(&self.folder)
                .arg(&self.log)
                .arg(last);
            command
        }

        fn verify(&self, killed_at: i128) -> serde_json::Value {
            let said = succeed(
                &mut self.command("verify", &killed_at.to_string()),
                VERIFY_DEADLINE,
            );
            serde_json::from_str(said.trim()).expect("verify says JSON")
        }
    }

    fn workers(volume: &Volume) -> Vec<Worker> {
        let worker = |name: String, script: &str, kind: &[&str]| Worker {
            script: in_repository("tests/support/kill9").join(script),
            kind: kind.iter().map(|&k| k.to_owned()).collect(),
            folder: volume.root().join(&name),
            log: volume.beside(&format!("{name}.log")),
            name,
        };
        let mut all: Vec<Worker> = (0..RECORDERS)
            .map(|i| worker(format!("recorder-{i}"), "recorder.py", &[]))
            .collect();
        all.push(worker("git".to_owned(), "commits.py", &["git"]));
        all.push(worker("sqlite".to_owned(), "commits.py", &["sqlite"]));
        for worker in &all {
            fs::create_dir(&worker.folder).expect("mkdir");
        }
        all
    }

    #[test]
    fn nothing_acknowledged_is_lost_by_kill_9() {
        require_fuse();
        let seed = seed::base();
        let rounds = seed::number("WELDRFS_KILL_ROUNDS", ROUNDS);
        println!("WELDRFS_TEST_SEED={seed}, {rounds} rounds");
        let mut random = SmallRng::seed_from_u64(seed);
        let application = inputs("small");
        let mut volume = Volume::mounted();
        let workers = workers(&volume);

        for round in 1..=rounds {
            let install = volume.root().join(format!("install-{round}"));
            let mut running = start(&workers, &volume, &mut random);
            running.push((
                "install".to_owned(),
                start_install(&application, &install, &volume),
            ));
            let after_ms = random.random_range(SHORTEST_MS..LONGEST_MS);
            std::thread::sleep(Duration::from_millis(after_ms));
            assert_still_running(&mut running, &volume);

            let killed_at = monotonic_ns();
            volume.kill();
            wait_for_end(running);
            volume.detach();
            volume.mount();

            let (mut acknowledged, mut in_flight) = (0, 0);
            for worker in &workers {
                let said = worker.verify(killed_at);
                acknowledged += said["acknowledged"].as_u64().unwrap_or(0);
                in_flight += said["in_flight"].as_u64().unwrap_or(0);
            }
            // Nobody recorded what the install did: every file it left must at least be readable.
            if install.exists() {
                treesum(&install, &volume.beside("install.listing"));
                fs::remove_dir_all(&install).expect("what the install left can be removed");
            }
            println!(
                "round {round} of seed {seed}: killed after {after_ms} ms, {in_flight} of {RECORDERS} recorded \
                 operations in flight, {acknowledged} acknowledged so far, all there"
            );
        }
        volume.remount();
        for worker in &workers {
            worker.verify(0);
        }
        volume.unmount();
    }

    fn start(workers: &[Worker], volume: &Volume, random: &mut SmallRng) -> Vec<(String, Child)> {
        let mut running = Vec::new();
        for worker in workers {
            let seed: u32 = random.random();
            let mut command = worker.command("run", &seed.to_string());
            let said = File::create(volume.beside(&format!("{}.said", worker.name)))
                .expect("a file is made");
            running.push((worker.name.clone(), spawn(&mut command, said)));
        }
        running
    }

    fn start_install(inputs: &Path, folder: &Path, volume: &Volume) -> Child {
        fs::create_dir(folder).expect("mkdir");
        for name in ["package.json", "package-lock.json"] {
            fs::copy(inputs.join("app").join(name), folder.join(name)).expect("copy");
        }
        let mut command = Command::new("npm");
        command.args([
            "ci",
            "--offline",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--cache",
        ]);
        command.arg(inputs.join("npm-cache")).current_dir(folder);
        spawn(
            &mut command,
            File::create(volume.beside("install.said")).expect("a file is made"),
        )
    }

    /// In a process group of its own, so that its children can be ended with it.
    fn spawn(command: &mut Command, said: File) -> Child {
        let copy = said.try_clone().expect("a descriptor can be copied");
        command
            .stdin(Stdio::null())
            .stdout(copy)
            .stderr(said)
            .process_group(0)
            .spawn()
            .expect("it starts")
    }

    /// A worker that ended before the kill met an error that is not the kill's.
    fn assert_still_running(running: &mut [(String, Child)], volume: &Volume) {
        for (name, child) in running {
            let ended = child.try_wait().expect("a child can be waited for");
            let said =
                fs::read_to_string(volume.beside(&format!("{name}.said"))).unwrap_or_default();
            let finished_install =
                name == "install" && ended.is_some_and(|status| status.success());
            assert!(
                ended.is_none() || finished_install,
                "{name} ended before the kill ({ended:?}):\n{said}"
            );
        }
    }

    fn wait_for_end(running: Vec<(String, Child)>) {
        let deadline = Instant::now() + END_DEADLINE;
        for (name, mut child) in running {
            if name == "install" || name == "git" {
                end_group(&child);
            }
            while child
                .try_wait()
                .expect("a child can be waited for")
                .is_none()
            {
                assert!(
                    Instant::now() < deadline,
                    "{name} hangs on a mount whose process was killed"
                );
                std::thread::sleep(POLL);
            }
        }
    }

    fn end_group(child: &Child) {
        if let Some(pid) = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    fn monotonic_ns() -> i128 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    }
}
