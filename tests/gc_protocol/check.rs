//! What must be so in every state, and what must come of every state in the end.

use crate::rules::Rules;
use crate::steps::Step;
use crate::world::{Budget, Head, Local, Set, World};

/// Most steps from any state to one in which only what is needed is left.
const MOST_STEPS: usize = 400;
/// How often time goes on meanwhile.
const SETTLING_TICKS: u8 = 12;
const ROUNDS_A_TICK: u8 = 2;

impl World {
    /// What must always be so and is not.
    pub(crate) fn violation(&self, rules: Rules) -> Option<String> {
        let head = self.violation_of_head();
        let machines = || {
            let mut numbered = self.machines.iter().enumerate();
            numbered.find_map(|(m, machine)| {
                let locals = machine.aside.iter().map(std::rc::Rc::as_ref);
                let mut locals = locals.chain(&machine.local);
                let what = locals.find_map(|local| self.violation_of_local(local))?;
                Some(format!("machine {m}: {what}"))
            })
        };
        head.or_else(machines)
            .or_else(|| self.violation_of_reader(rules))
    }

    fn missing(&self, objects: Set) -> Option<u8> {
        objects.each().find(|object| !self.has(*object))
    }

    fn violation_of_head(&self) -> Option<String> {
        let head: &Head = &self.head;
        let newest = &head.newest()?.database;
        for named in &head.states {
            let used = named.state.database.used();
            if let Some(pack) = self.missing(used) {
                return Some(format!("pack {pack} of publication {} is gone", named.seq));
            }
            if let Some(pack) = used.without(newest.known()).each().next() {
                return Some(format!(
                    "pack {pack} of publication {} has no row in the newest state",
                    named.seq
                ));
            }
        }
        if let Some(layer) = self.missing(head.layers()) {
            return Some(format!("layer {layer} is gone, and the head names it"));
        }
        let mut used = newest.used().each();
        let dead = used.find(|pack| newest.packs[pack].is_some())?;
        Some(format!("pack {dead} is dead, and the newest state uses it"))
    }

    /// Whoever wrote the head can read everything; whoever did not, what nobody else has.
    fn violation_of_local(&self, local: &Local) -> Option<String> {
        let is_newest = local.wrote(&self.head);
        for (extent, used) in &local.database.extents {
            let is_here = used
                .pack
                .is_none_or(|pack| local.kept.has(pack) || self.has(pack));
            if !is_here && (is_newest || !self.published.has(*extent)) {
                return Some(format!(
                    "extent {extent} is in pack {:?}, which is gone",
                    used.pack
                ));
            }
        }
        None
    }

    fn violation_of_reader(&self, rules: Rules) -> Option<String> {
        let reader = self.reader.as_ref()?;
        if reader.since + rules.promise <= self.now {
            return None;
        }
        let pack = self.missing(reader.state.database.used())?;
        Some(format!(
            "pack {pack} is gone, and somebody reads it since {}",
            reader.since
        ))
    }

    /// Lets nothing happen but publications, gc and time, and tells what stays in the store although nothing needs it.
    pub(crate) fn leftovers(&self, rules: Rules) -> Option<String> {
        let mut world = self.clone();
        (world.stray, world.doomed) = (Vec::new(), Set::default());
        (world.restoring, world.reader) = (None, None);
        for m in 0..world.machines.len() {
            world.machine(m).stop();
        }
        world.allow(&[
            (Budget::Mounts, 1),
            (Budget::Publications, SETTLING_TICKS * ROUNDS_A_TICK),
            (Budget::Renewals, u8::MAX),
            (Budget::Rounds, SETTLING_TICKS * ROUNDS_A_TICK),
            (Budget::Ticks, SETTLING_TICKS),
        ]);
        for _ in 0..MOST_STEPS {
            let next = world.next(rules);
            let next = next
                .into_iter()
                .min_by_key(|(step, next)| rank(step, &world, next));
            let Some((_, next)) = next else {
                break;
            };
            if let Some(what) = next.violation(rules) {
                return Some(what);
            }
            world = next;
            if world.only_what_is_needed() {
                return None;
            }
        }
        let newest = world.head.newest().map(|state| &state.database);
        Some(format!(
            "{:?} stay, and {newest:?} is the newest state",
            world.objects
        ))
    }

    fn only_what_is_needed(&self) -> bool {
        let states = self.head.states.iter();
        let used = states.fold(Set::default(), |used, named| {
            used.with(named.state.database.used())
        });
        let newest = self.head.newest().map(|state| state.database.known());
        let objects: Set = self.objects.keys().copied().collect();
        newest.unwrap_or_default() == used && objects == used.with(self.head.layers())
    }
}

/// In which order steps are taken that lead to an end: whatever is begun is ended first, time goes on last.
fn rank(step: &Step, before: &World, after: &World) -> (u8, usize) {
    let is_due = |what| before.left(what) > before.left(Budget::Ticks) * ROUNDS_A_TICK;
    let rank = match step {
        Step::Mount(_) => 0,
        Step::Upload(..) | Step::Land(..) | Step::PutLayer(_) | Step::ObjectGoes(_) => 1,
        Step::PutHead { .. } => 2,
        Step::DeleteDead(..) | Step::Forget(..) | Step::Mark(_) => 3,
        Step::Cut(_) if is_due(Budget::Publications) => 4,
        Step::List(_) | Step::DeleteUnnamed(_) | Step::AskNamed(_) => 5,
        Step::Renew(_) => 6,
        Step::AskTime(_) if is_due(Budget::Rounds) => 7,
        Step::Tick => 8,
        _ => u8::MAX,
    };
    // Of two heads the one that names less.
    (rank, after.head.states.len())
}
