//! Everything that can come of a world, breadth first, and random walks through one.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::rules::Rules;
use crate::steps::Step;
use crate::world::World;

/// What an exploration found.
pub(crate) struct Explored {
    /// How many different states there are.
    pub(crate) states: usize,
    /// How many of them were followed to their ends.
    pub(crate) followed: usize,
    /// The first violation, and the shortest way to it.
    pub(crate) violation: Option<(String, Vec<Step>)>,
}

/// Explores everything up to `most` states. One of `each` states is followed to its end, to see what is never deleted; none
/// if that is 0.
pub(crate) fn explore(start: World, rules: Rules, each: u64, most: usize) -> Explored {
    let mut known: HashSet<u64> = HashSet::from([fingerprint(&start)]);
    // How each state was come to: from which one, and by which step.
    let mut came: Vec<(usize, Step)> = vec![(0, Step::Tick)];
    let mut queue = VecDeque::from([(0, start)]);
    let mut followed = 0;
    let mut violation = None;
    'all: while let Some((at, world)) = queue.pop_front() {
        for (step, next) in world.next(rules) {
            let print = fingerprint(&next);
            if known.len() >= most || !known.insert(print) {
                continue;
            }
            came.push((at, step));
            let mut what = next.violation(rules);
            if what.is_none() && each > 0 && print.is_multiple_of(each) {
                followed += 1;
                what = next.leftovers(rules);
            }
            if let Some(what) = what {
                violation = Some((what, way(&came)));
                break 'all;
            }
            queue.push_back((came.len() - 1, next));
        }
    }
    Explored {
        states: known.len(),
        followed,
        violation,
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// The steps to the last state.
fn way(came: &[(usize, Step)]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = came.len() - 1;
    while at > 0 {
        steps.push(came[at].1);
        at = came[at].0;
    }
    steps.reverse();
    steps
}

/// Takes up to `most` random steps. Returns where they led, or the violation and the way to it.
pub(crate) fn walk(
    start: World,
    rules: Rules,
    most: usize,
    rng: &mut SmallRng,
) -> Result<World, (String, Vec<Step>)> {
    let mut world = start;
    let mut way = Vec::new();
    for _ in 0..most {
        let next = world.next(rules);
        let Ok((step, next)) = next.choose_weighted(rng, |(step, _)| weight(*step)) else {
            break;
        };
        way.push(*step);
        world = next.clone();
        if let Some(what) = world.violation(rules) {
            return Err((what, way));
        }
    }
    match world.leftovers(rules) {
        Some(what) => Err((what, way)),
        None => Ok(world),
    }
}

/// How often a step is chosen, beside others: what interrupts is rare, or hardly anything would come to an end.
fn weight(step: Step) -> u32 {
    match step {
        Step::Kill(_) | Step::Lose(_) | Step::Clone(_) | Step::FailUpload(..) => 1,
        Step::Mount(_) | Step::Tick | Step::BeginRestoring { .. } => 3,
        Step::Upload(..) | Step::Land(..) | Step::Cut(_) | Step::PutLayer(_) => 20,
        Step::PutHead { .. } | Step::DeleteDead(..) | Step::ObjectGoes(_) => 20,
        _ => 10,
    }
}
