//! A turn is taken back, and the taking back too; also when the process is killed in the middle of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::scene::{agents_turn, git, project, snapshot, tree};
use crate::support::mount::{PROGRAM, Volume};

const KILLS: usize = 6;

#[test]
fn a_turn_is_taken_back_and_back_again() {
    let mut volume = Volume::mounted();
    let project = project(&volume);
    let before = tree(&project);
    assert_eq!(
        snapshot(&volume, "create", &volume.root(), &["turn-1"]),
        "turn-1\n"
    );
    agents_turn(&project);
    let after = tree(&project);
    assert_ne!(before, after);

    let said = snapshot(&volume, "restore", &volume.root(), &["turn-1"]);
    assert_eq!(tree(&project), before, "{said}");
    git(
        &project,
        "git fsck --strict; test -z \"$(git --no-optional-locks status --porcelain)\"",
    );
    let safety = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(safety.starts_with("before-restore-"), "{said}");
    let said = snapshot(&volume, "restore", &volume.root(), &["turn-1"]);
    assert!(said.starts_with("nothing to do: "), "{said}");
    snapshot(&volume, "restore", &volume.root(), &[&safety]);
    assert_eq!(tree(&project), after);

    // One directory, from what was there after a remount.
    volume.remount();
    assert_eq!(tree(&project), after);
    snapshot(&volume, "restore", &project.join("src"), &["turn-1"]);
    let restored = tree(&project);
    let below_src = |path: &std::path::Path| path.starts_with("src/");
    for (path, was) in before.iter().filter(|(path, _)| below_src(path)) {
        assert_eq!(restored.get(path), Some(was), "{}", path.display());
    }
    for (path, is) in restored.iter().filter(|(path, _)| !below_src(path)) {
        assert_eq!(after.get(path), Some(is), "{}", path.display());
    }
    volume.move_to_a_new_machine();
    assert_eq!(tree(&project), restored);
    snapshot(&volume, "restore", &volume.root(), &["turn-1"]);
    assert_eq!(tree(&project), before);
    volume.unmount();
}

#[test]
fn a_restore_that_is_cut_off_is_there_or_is_not() {
    let mut volume = Volume::mounted();
    let project = project(&volume);
    let before = tree(&project);
    snapshot(&volume, "create", &volume.root(), &["turn-1"]);
    agents_turn(&project);
    let after = tree(&project);
    let mut rng = SmallRng::seed_from_u64(7);
    let mut seen = [0, 0];
    for round in 0..KILLS {
        let mut restoring = Command::new(PROGRAM)
            .args([
                "snapshot",
                "restore",
                &volume.root().to_string_lossy(),
                "turn-1",
            ])
            .env("WELDR_ENV_VOL", volume.beside("state"))
            .env("WELDRFS_RUN_DIR", volume.beside("run"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(rng.random_range(1..150)));
        volume.kill();
        let _ = restoring.wait();
        volume.detach();
        volume.mount();
        let found = tree(&project);
        assert!(
            found == before || found == after,
            "half of it, in round {round}"
        );
        let is_restored = found == before;
        seen[usize::from(is_restored)] += 1;
        if is_restored {
            let listed = snapshot(&volume, "ls", &volume.root(), &[]);
            let last = listed
                .lines()
                .rev()
                .find(|line| line.starts_with("before-restore-"));
            let safety = last.unwrap().split(' ').next().unwrap();
            snapshot(&volume, "restore", &volume.root(), &[safety]);
            assert_eq!(tree(&project), after, "undone in round {round}");
        }
    }
    println!("not restored {}, restored {}", seen[0], seen[1]);
    volume.unmount();
}
