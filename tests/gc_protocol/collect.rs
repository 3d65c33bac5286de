//! Collecting garbage: what is dead, and what nothing names.

use std::rc::Rc;

use crate::rules::{Bug, Rules};
use crate::steps::{Next, Step};
use crate::world::{Budget, Dead, Head, Id, Local, Publication, Round, Set, World};

impl World {
    pub(crate) fn collect(&self, m: usize, rules: Rules, next: &mut Next) {
        let machine = &self.machines[m];
        let Some(local) = machine.active() else {
            return;
        };
        if let Some(mut world) = self.spend(Budget::Rounds) {
            world.machine(m).round = Some(Round {
                now: self.now,
                waited: rules.bug == Bug::ListedDuringCut,
                settled: false,
                listed: None,
                named: None,
            });
            next.push((Step::AskTime(m), world));
        }
        if let Some(round) = &machine.round {
            self.delete_dead(m, local, round, rules, next);
            self.mark(m, local, round, rules, next);
            self.delete_unnamed(m, round, rules, next);
        }
    }

    /// Deletes dead packs one by one; each row goes when its object is gone.
    fn delete_dead(&self, m: usize, local: &Local, round: &Round, rules: Rules, next: &mut Next) {
        let dead = local.database.packs.iter();
        for (pack, dead) in dead.filter_map(|(pack, row)| row.map(|dead| (*pack, dead))) {
            if dead.at + rules.grace > round.now && rules.bug != Bug::NoGrace {
                continue;
            }
            let mut world = self.clone();
            let Some(head) = world.newest(m) else {
                next.push((Step::DeleteDead(m, pack), world));
                continue;
            };
            let oldest = head.states.iter().map(|named| named.seq).min();
            if oldest.is_none_or(|oldest| dead.seq > oldest) && rules.bug != Bug::AgeAlone {
                continue;
            }
            if !world.has(pack) {
                world.forget(m, pack);
                next.push((Step::Forget(m, pack), world));
                continue;
            }
            let may = self.holds(m, rules) || rules.bug == Bug::DeadWithoutLease;
            if may && !world.doomed.has(pack) {
                world.doomed.add(pack);
                if rules.bug == Bug::ForgottenFirst {
                    world.forget(m, pack);
                }
                next.push((Step::DeleteDead(m, pack), world));
            }
        }
    }

    fn forget(&mut self, m: usize, pack: Id) {
        let local = self.local(m);
        local.database.packs.remove(&pack);
        local.kept.remove(pack);
    }

    /// Marks packs that nothing uses. Waits for the publication that is under way.
    fn mark(&self, m: usize, local: &Local, round: &Round, rules: Rules, next: &mut Next) {
        let is_idle = self.machines[m].publication == Publication::Idle;
        if !is_idle && rules.bug != Bug::MarkedDuringCut {
            return;
        }
        let used = local.database.used();
        let is_new = |pack: &Id| local.database.packs[pack].is_none() && !used.has(*pack);
        let packs = local.database.packs.keys().copied();
        let unused: Set = packs.filter(is_new).collect();
        if round.waited && unused.is_empty() {
            return;
        }
        let mut world = self.clone();
        if let Some(head) = world.newest(m) {
            let later = match rules.bug {
                Bug::SeqPlusOne => 1,
                _ => 2,
            };
            let dead = Dead {
                at: round.now,
                seq: head.seq + later,
            };
            let rows = &mut world.local(m).database.packs;
            for pack in unused.each() {
                rows.insert(pack, Some(dead));
            }
            if let (true, Some(round)) = (is_idle, &mut world.machine(m).round) {
                round.waited = true;
            }
        }
        next.push((Step::Mark(m), world));
    }

    /// Deletes objects that nothing names: lists them first, and then asks what is named.
    fn delete_unnamed(&self, m: usize, round: &Round, rules: Rules, next: &mut Next) {
        let settled = round.settled || rules.bug == Bug::ListedUnsettled;
        if !round.waited || !settled {
            return;
        }
        let named_first = rules.bug.is(&[Bug::NamedFirst, Bug::NamedFirstAtOnce]);
        let mut world = self.clone();
        if named_first && round.named.is_none() {
            let named = world.named(m);
            if let Some(round) = &mut world.machine(m).round {
                round.named = named;
            }
            next.push((Step::AskNamed(m), world));
            return;
        }
        let Some(listed) = round.listed else {
            let at_once = rules.bug.is(&[Bug::UnnamedAtOnce, Bug::NamedFirstAtOnce]);
            let is_old = |at: u8| at + rules.grace <= round.now || at_once;
            let objects = self.objects.iter().filter(|(_, at)| is_old(**at));
            let listed: Set = objects.map(|(object, _)| *object).collect();
            if !listed.is_empty()
                && let Some(round) = &mut world.machine(m).round
            {
                round.listed = Some(listed);
                next.push((Step::List(m), world));
            }
            return;
        };
        let asked = match named_first {
            true => round.named,
            false => world.named(m),
        };
        let may = self.holds(m, rules) || rules.bug == Bug::UnnamedWithoutLease;
        if may && let Some(named) = asked {
            world.doomed = world.doomed.with(listed.without(named));
        }
        world.machine(m).round = None;
        next.push((Step::DeleteUnnamed(m), world));
    }

    /// What the head, the newest state and this machine name.
    fn named(&mut self, m: usize) -> Option<Set> {
        let head: Rc<Head> = self.newest(m)?;
        let local = self.local(m);
        let named = local.database.known().with(local.kept);
        Some(named.with(head.layers()))
    }
}
