//! A model of garbage collection: machines that write, pack, publish, mark and delete, that are killed, paused, overruled
//! and cloned, over a store whose requests take effect at any moment or never. Explored exhaustively for small worlds and
//! at random for a large one. Who may write at all is what `protocol.rs` is about.
//!
//! `WELDRFS_PROTOCOL_WALKS` makes the random part longer, `WELDRFS_TEST_SEED` repeats it.
//!
//! It has the rules of the implementation and none of its code: what is checked is whether the rules are enough. Each rule
//! can be left out (`Bug`), and the exploration has to find that; `--nocapture` shows the shortest way to each.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

mod check;
mod collect;
mod explore;
mod heads;
mod rules;
mod steps;
mod world;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use explore::{Explored, explore, walk};
use rules::{Bug, Rules};
use steps::Step;
use world::{Budget, World};

/// Enough for every small world to be explored to its end.
const MOST_STATES: usize = 500_000;
/// One of so many states is followed to its end.
const FOLLOWED: u64 = 97;
/// Random schedules in a large world, and how long each is at most.
const WALKS: u64 = 150;
const WALK_STEPS: usize = 300;

/// A world to explore.
#[derive(Clone, Copy)]
struct Setting {
    rules: Rules,
    machines: usize,
    /// What has happened before.
    way: &'static [Step],
    /// What may happen yet, and how often.
    budgets: &'static str,
}

/// A world in which anything takes any time.
fn slow(machines: usize, budgets: &'static str) -> Setting {
    Setting {
        rules: Rules::SLOW,
        machines,
        way: &[],
        budgets,
    }
}

/// A world in which whatever is begun is over soon.
fn prompt(machines: usize, budgets: &'static str) -> Setting {
    Setting {
        rules: Rules::PROMPT,
        ..slow(machines, budgets)
    }
}

/// A slow world of two machines in which a pack is dead.
fn dead(budgets: &'static str) -> Setting {
    Setting {
        way: DEAD,
        ..slow(2, budgets)
    }
}

/// And one in which nothing but its age is in the way of deleting it.
fn due(budgets: &'static str) -> Setting {
    Setting {
        way: &DUE,
        rules: Rules::FORGETFUL,
        ..slow(2, budgets)
    }
}

/// A file was published and removed; its pack is dead, which is published. Then two more states are, and no other can be
/// restored: the pack is to be deleted once it is old enough.
const DUE: [Step; 18] = [
    Step::Write(0),
    Step::Cut(0),
    Step::Upload(0, 0),
    Step::Land(0, 0),
    Step::PutLayer(0),
    Step::PutHead { by: 0, gone: 0 },
    Step::Delete(0, 0),
    Step::AskTime(0),
    Step::Mark(0),
    Step::Cut(0),
    Step::PutLayer(0),
    Step::PutHead { by: 0, gone: 0 },
    Step::Cut(0),
    Step::PutLayer(0),
    Step::PutHead { by: 0, gone: 1 },
    Step::Cut(0),
    Step::PutLayer(0),
    Step::PutHead { by: 0, gone: 1 },
];
/// Until its death is published.
const DEAD: &[Step] = DUE.split_at(12).0;

impl Setting {
    /// The first machine has mounted the volume, and has done what it has done.
    fn start(&self) -> World {
        let mut world = World::new(self.machines, &[(Budget::Mounts, 1)]);
        world = taken(&world, self.rules, Step::Mount(0));
        world.allow(&Budget::ALL.map(|budget| (budget, u8::MAX)));
        for step in self.way {
            world = taken(&world, self.rules, *step);
        }
        world.allow(&parse(self.budgets));
        world
    }

    fn explore(&self, bug: Bug, each: u64) -> Explored {
        explore(self.start(), self.rules.without(bug), each, MOST_STATES)
    }
}

/// "writes 1, ticks 2".
fn parse(text: &str) -> Vec<(Budget, u8)> {
    let budget = |name: &str| {
        let mut all = Budget::ALL.into_iter();
        all.find(|budget| format!("{budget:?}").to_lowercase() == name)
            .unwrap()
    };
    text.split(", ")
        .map(|part| part.split_once(' ').unwrap())
        .map(|(name, times)| (budget(name), times.parse().unwrap()))
        .collect()
}

fn taken(world: &World, rules: Rules, wanted: Step) -> World {
    let mut next = world.next(rules).into_iter();
    next.find_map(|(step, world)| (step == wanted).then_some(world))
        .unwrap_or_else(|| panic!("{wanted:?} is not possible"))
}

fn show(title: &str, setting: &Setting, found: &Explored) {
    let (what, steps) = found.violation.as_ref().unwrap();
    let steps = setting.way.iter().chain(steps);
    let steps: Vec<String> = steps.map(|step| format!("{step:?}")).collect();
    println!(
        "{title}: {what}, after {} steps:\n    {}",
        steps.len(),
        steps.join(", ")
    );
}

#[test]
fn the_rules_hold_in_every_state_of_small_worlds() {
    for setting in [
        slow(
            1,
            "writes 1, deletes 1, publications 3, rounds 2, ticks 1, faults 1",
        ),
        slow(
            1,
            "writes 1, deletes 1, packs 1, publications 2, rounds 1, ticks 2, kills 1, mounts 1",
        ),
        slow(
            1,
            "writes 2, deletes 1, rewrites 1, publications 2, rounds 1, ticks 1",
        ),
        slow(
            1,
            "writes 1, deletes 1, shares 1, packs 1, stays 1, publications 2, rounds 1, ticks 1",
        ),
        slow(
            1,
            "writes 1, deletes 1, publications 3, rounds 2, ticks 2, readers 1",
        ),
        slow(
            2,
            "writes 1, publications 2, renewals 1, rounds 1, ticks 1, mounts 1, faults 1",
        ),
        slow(
            2,
            "writes 2, packs 1, publications 1, rounds 1, ticks 1, mounts 1",
        ),
        slow(
            2,
            "writes 1, publications 1, rounds 1, ticks 1, mounts 1, clones 1, losses 1",
        ),
        dead("publications 1, rounds 1, ticks 1, mounts 1, restores 2"),
        dead("publications 1, rounds 1, ticks 1, mounts 1, restores 1, faults 1"),
        due("publications 2, rounds 1, ticks 1, mounts 1, restores 1"),
        prompt(
            1,
            "writes 1, deletes 1, publications 3, renewals 1, rounds 2, ticks 3, readers 1",
        ),
    ] {
        let found = setting.explore(Bug::None, FOLLOWED);
        let (states, followed) = (found.states, found.followed);
        println!(
            "{}: {states} states, {followed} followed to their ends",
            setting.budgets
        );
        assert_eq!(found.violation, None, "{}", setting.budgets);
        assert!(
            states < MOST_STATES,
            "{} was not explored to its end",
            setting.budgets
        );
        assert!(
            followed > 0,
            "{} is too small to be followed",
            setting.budgets
        );
    }
}

/// Everything, for three machines.
const LARGE: &str = "writes 10, deletes 8, shares 3, packs 5, rewrites 4, stays 3, publications 14, renewals 20, rounds 14, \
                     ticks 14, faults 4, kills 3, mounts 8, losses 1, clones 1, restores 3, readers 6";

#[test]
fn the_rules_hold_along_random_schedules_of_a_large_world() {
    let seed = std::env::var("WELDRFS_TEST_SEED").map_or_else(
        |_| SmallRng::from_os_rng().random(),
        |text| text.parse().unwrap(),
    );
    let walks = std::env::var("WELDRFS_PROTOCOL_WALKS").map_or(WALKS, |text| text.parse().unwrap());
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut published, mut deleted) = (0, 0);
    for n in 0..walks {
        let setting = match n % 2 {
            0 => slow(3, LARGE),
            _ => prompt(3, LARGE),
        };
        let end = walk(setting.start(), setting.rules, WALK_STEPS, &mut rng);
        let end = end.unwrap_or_else(|(what, way)| {
            panic!("WELDRFS_TEST_SEED={seed}, schedule {n}: {what}, after {way:?}")
        });
        published += u64::from(end.head.seq);
        deleted += u64::from(end.next_object) - end.objects.len() as u64;
    }
    println!(
        "WELDRFS_TEST_SEED={seed}: {walks} schedules, {published} publications, {deleted} objects gone"
    );
    assert!(published > walks, "hardly anything was published");
    assert!(deleted > walks / 2, "hardly anything was deleted");
}

#[test]
fn every_rule_that_is_left_out_is_missed() {
    let heads = slow(
        1,
        "writes 1, deletes 1, publications 3, rounds 2, ticks 1, faults 1",
    );
    let layers = slow(
        1,
        "writes 1, publications 1, renewals 2, rounds 1, ticks 1, faults 1",
    );
    let copies = slow(
        2,
        "writes 1, packs 1, publications 1, renewals 2, rounds 1, ticks 1, mounts 1",
    );
    let back = dead("publications 1, rounds 1, ticks 1, mounts 1, restores 2");
    for (bug, setting) in [
        (
            Bug::NoGrace,
            prompt(
                1,
                "writes 1, deletes 1, publications 4, rounds 1, readers 1",
            ),
        ),
        (
            Bug::LateMarksKept,
            prompt(
                1,
                "writes 1, deletes 1, publications 4, rounds 2, ticks 2, kills 1, mounts 1, readers 1",
            ),
        ),
        (Bug::AgeAlone, heads),
        (Bug::SeqPlusOne, heads),
        (Bug::MarkedDuringCut, heads),
        (Bug::UnnamedAtOnce, layers),
        (Bug::NamedFirstAtOnce, layers),
        (Bug::ListedDuringCut, layers),
        (Bug::ListedUnsettled, layers),
        (
            Bug::RowsLeftBehind,
            slow(1, "writes 2, publications 2, restores 1"),
        ),
        (Bug::OldDeathsRestored, back),
        (Bug::NotKept, copies),
        (Bug::KeptTooShort, copies),
        (Bug::KeptTooLate, copies),
        (
            Bug::IdleUnpublished,
            slow(1, "writes 1, deletes 1, publications 2, rounds 1"),
        ),
    ] {
        // Only what nobody deletes is not to be seen at once.
        let each = u64::from(bug == Bug::IdleUnpublished);
        let found = setting.explore(bug, each);
        assert!(found.violation.is_some(), "{bug:?} makes no difference");
        show(&format!("{bug:?}"), &setting, &found);
        let without = setting.explore(Bug::None, each);
        assert_eq!(
            without.violation, None,
            "it is not {bug:?} that makes the difference"
        );
    }
}

/// Rules without which nothing is lost, because of the others. Among them: whoever has lost the lease and goes on deleting
/// what it was about to delete does no harm.
#[test]
fn some_rules_are_made_up_for_by_the_others() {
    let settings = [
        slow(
            1,
            "writes 1, publications 2, renewals 1, rounds 1, ticks 2, faults 1",
        ),
        slow(
            2,
            "writes 1, packs 1, publications 1, renewals 1, rounds 1, ticks 2, mounts 1",
        ),
        due("publications 2, rounds 1, ticks 1, mounts 1, restores 1"),
    ];
    let explored = |bug| {
        settings.map(|setting| {
            let found = setting.explore(bug, FOLLOWED);
            assert_eq!(found.violation, None, "{bug:?}, {}", setting.budgets);
            assert!(
                found.states < MOST_STATES,
                "{} was not explored to its end",
                setting.budgets
            );
            found.states
        })
    };
    let with_all = explored(Bug::None);
    for bug in [
        Bug::NamedFirst,
        Bug::ForgottenFirst,
        Bug::DeadWithoutLease,
        Bug::UnnamedWithoutLease,
    ] {
        let states = explored(bug);
        println!("{bug:?}: {states:?} states, and {with_all:?} with it");
        assert_ne!(states, with_all, "{bug:?} does nothing in these worlds");
    }
}

/// A pack counts as dead from when it is marked, and readers may begin with a state that uses it until that is published.
/// What is left of the grace then is all that the age of a dead pack gives them; otherwise they have the retention.
#[test]
fn the_grace_begins_with_the_mark_and_not_with_its_publication() {
    let setting = Setting {
        rules: Rules {
            promise: Rules::SLOW.grace,
            ..Rules::FORGETFUL
        },
        ..slow(
            1,
            "writes 1, deletes 1, publications 4, rounds 2, ticks 1, readers 1",
        )
    };
    let found = setting.explore(Bug::None, 0);
    assert!(
        found.violation.is_some(),
        "then say so in gc's documentation"
    );
    show("a mark that is published late", &setting, &found);
}
