//! What can happen next: files, packing and publishing here, gc and heads in modules of their own.

use std::rc::Rc;

use crate::heads::Put;
use crate::rules::{Bug, Rules};
use crate::world::{Budget, Extent, Flying, Id, Local, Publication, Set, State, Tick, Used, World};

/// One step, for people who read how it came to something. Machines are numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Tick,
    Write(usize),
    Delete(usize, Extent),
    Share(usize, Extent),
    Pack(usize),
    Rewrite(usize, Id),
    Upload(usize, Id),
    Land(usize, Id),
    LandStaying(usize, Id),
    FailUpload(usize, Id),
    Cut(usize),
    PutLayer(usize),
    PutHead { by: usize, gone: usize },
    HeadUnknown(usize),
    Renew(usize),
    HeadArrives { seq: u8 },
    Mount(usize),
    Kill(usize),
    Lose(usize),
    Clone(usize),
    AskTime(usize),
    Mark(usize),
    DeleteDead(usize, Id),
    Forget(usize, Id),
    List(usize),
    AskNamed(usize),
    DeleteUnnamed(usize),
    ObjectGoes(Id),
    BeginRestoring { seq: u8 },
    FinishRestoring,
    GiveUpRestoring,
    BeginReading,
}

pub(crate) type Next = Vec<(Step, World)>;

impl World {
    /// Every state that can come next.
    pub(crate) fn next(&self, rules: Rules) -> Next {
        let mut next = Vec::new();
        for m in 0..self.machines.len() {
            self.write(m, rules, &mut next);
            self.pack(m, rules, &mut next);
            self.upload(m, rules, &mut next);
            self.publish(m, rules, &mut next);
            self.renew(m, &mut next);
            self.collect(m, rules, &mut next);
            self.mount(m, rules, &mut next);
            self.fail(m, &mut next);
        }
        self.restore(rules, &mut next);
        self.read(&mut next);
        for n in 0..self.stray.len() {
            let mut world = self.clone();
            let (head, over) = world.stray.remove(n);
            let seq = head.seq;
            world.arrive(head, over);
            next.push((Step::HeadArrives { seq }, world));
        }
        for object in self.doomed.each() {
            let mut world = self.clone();
            world.doomed.remove(object);
            world.objects.remove(&object);
            next.push((Step::ObjectGoes(object), world));
        }
        self.tick(rules, &mut next);
        next
    }

    fn tick(&self, rules: Rules, next: &mut Next) {
        if rules.prompt && !self.is_at_rest() {
            return;
        }
        let Some(mut world) = self.spend(Budget::Ticks) else {
            return;
        };
        world.now += 1;
        if rules.prompt {
            for m in 0..world.machines.len() {
                world.machine(m).round = None;
            }
        }
        next.push((Step::Tick, world));
    }

    /// Nothing is on its way, and what is marked is published.
    fn is_at_rest(&self) -> bool {
        let marks_are_published = |local: &Local| {
            let head = &self.head;
            let of_head = head.newest().map(|state| &state.database.packs);
            let mut dead = local.database.packs.iter().filter(|(_, row)| row.is_some());
            !local.wrote(head)
                || dead.all(|row| of_head.is_some_and(|of| of.get(row.0) == Some(row.1)))
        };
        let mut machines = self.machines.iter();
        let idle = machines.all(|machine| {
            machine.flying.is_none()
                && machine.publication == Publication::Idle
                && machine.active().is_none_or(marks_are_published)
        });
        idle && self.stray.is_empty() && self.doomed.is_empty() && self.restoring.is_none()
    }

    pub(crate) fn holds(&self, m: usize, rules: Rules) -> bool {
        let leased: Option<Tick> = self.machines[m].leased;
        leased.is_some_and(|at| self.now - at <= rules.lease)
    }

    fn write(&self, m: usize, rules: Rules, next: &mut Next) {
        let Some(local) = self.machines[m].active().filter(|_| self.holds(m, rules)) else {
            return;
        };
        if let Some(mut world) = self.spend(Budget::Writes) {
            let extent = world.next_extent;
            world.next_extent += 1;
            let local = world.local(m);
            let used = Used {
                files: 1,
                pack: None,
            };
            local.database.extents.insert(extent, used);
            local.lsn += 1;
            next.push((Step::Write(m), world));
        }
        for extent in local.database.extents.keys() {
            if let Some(mut world) = self.spend(Budget::Deletes) {
                let local = world.local(m);
                local.lsn += 1;
                if let Some(used) = local.database.extents.get_mut(extent) {
                    used.files -= 1;
                }
                local.database.extents.retain(|_, used| used.files > 0);
                next.push((Step::Delete(m, *extent), world));
            }
            if let Some(mut world) = self.spend(Budget::Shares) {
                let local = world.local(m);
                local.lsn += 1;
                if let Some(used) = local.database.extents.get_mut(extent) {
                    used.files += 1;
                }
                next.push((Step::Share(m, *extent), world));
            }
        }
    }

    /// Begins to fill a pack. Not between a cut and its packs.
    fn pack(&self, m: usize, rules: Rules, next: &mut Next) {
        let machine = &self.machines[m];
        let is_cut = matches!(machine.publication, Publication::Cut { .. });
        let Some(local) = machine.local.as_ref().filter(|_| machine.up) else {
            return;
        };
        if machine.flying.is_some() || is_cut {
            return;
        }
        let staged = local.database.in_segments();
        if let (false, Some(mut world)) = (staged.is_empty(), self.spend(Budget::Packs)) {
            world.take_off(m, staged, false, rules);
            next.push((Step::Pack(m), world));
        }
        for pack in local.database.used().each() {
            let of_it = |used: &Used| used.pack == Some(pack);
            if let Some(mut world) = self.spend(Budget::Rewrites) {
                let extents = local.database.extents.iter();
                let extents = extents.filter(|(_, used)| of_it(used));
                let extents = extents.map(|(extent, _)| *extent).collect();
                world.take_off(m, extents, false, rules);
                next.push((Step::Rewrite(m, pack), world));
            }
        }
    }

    fn take_off(&mut self, m: usize, extents: Set, of_cut: bool, rules: Rules) {
        let pack = self.new_object();
        if !rules.bug.is(&[Bug::NotKept, Bug::KeptTooLate]) {
            self.local(m).kept.add(pack);
        }
        self.machine(m).flying = Some(Flying {
            pack,
            extents,
            is_there: false,
            of_cut,
        });
    }

    /// A pack gets into the store, and then its extents' places are moved.
    fn upload(&self, m: usize, rules: Rules, next: &mut Next) {
        let Some(flying) = &self.machines[m].flying else {
            return;
        };
        let pack = flying.pack;
        if let Some(mut world) = self.spend(Budget::Faults) {
            let machine = world.machine(m);
            machine.flying = None;
            if flying.of_cut {
                machine.publication = Publication::Idle;
            }
            next.push((Step::FailUpload(m, pack), world));
        }
        if !flying.is_there {
            let mut world = self.clone();
            world.objects.insert(pack, world.now);
            world.machine(m).flying = Some(Flying {
                is_there: true,
                ..flying.clone()
            });
            next.push((Step::Upload(m, pack), world));
            return;
        }
        let mut world = self.clone();
        world.machine(m).flying = None;
        if rules.bug == Bug::KeptTooLate {
            world.local(m).kept.add(pack);
        }
        if let (true, Publication::Cut { database, .. }) =
            (flying.of_cut, &mut world.machine(m).publication)
        {
            database.take_in(pack, flying.extents);
            if let Some(mut stay) = world.spend(Budget::Stays) {
                stay.local(m).database.packs.insert(pack, None);
                next.push((Step::LandStaying(m, pack), stay));
            }
        }
        world.local(m).database.take_in(pack, flying.extents);
        next.push((Step::Land(m, pack), world));
    }

    fn publish(&self, m: usize, rules: Rules, next: &mut Next) {
        let machine = &self.machines[m];
        let Some(local) = machine.active() else {
            return;
        };
        match &machine.publication {
            Publication::Idle => self.cut(m, local, rules, next),
            Publication::Cut { database, lsn } if machine.flying.is_none() => {
                let mut world = self.clone();
                let layer = world.new_object();
                world.objects.insert(layer, world.now);
                let state = Rc::new(State {
                    database: database.clone(),
                    layer,
                    lsn: *lsn,
                });
                let kept = local.kept;
                if rules.bug == Bug::KeptTooShort {
                    world.local(m).kept = Set::default();
                }
                world.machine(m).publication = Publication::Shipped { state, kept };
                next.push((Step::PutLayer(m), world));
            }
            Publication::Cut { .. } => {}
            Publication::Shipped { state, kept } => self.put_head(m, state, *kept, rules, next),
        }
    }

    fn cut(&self, m: usize, local: &Local, rules: Rules, next: &mut Next) {
        if self.machines[m].flying.is_some() {
            return;
        }
        let Some(mut world) = self.spend(Budget::Publications) else {
            return;
        };
        let Some(head) = world.newest(m) else {
            next.push((Step::Cut(m), world));
            return;
        };
        let is_same = match head.newest() {
            Some(state) => (&state.database, state.lsn) == (&local.database, local.lsn),
            None => local.lsn == 0,
        };
        // What is dead waits until the head does not name older states any more.
        let oldest = head.states.first().map_or(0, |named| named.seq);
        let waits = local.database.awaited() > oldest || !local.kept.is_empty();
        if is_same && (!waits || rules.bug == Bug::IdleUnpublished) {
            return;
        }
        world.machine(m).publication = Publication::Cut {
            database: local.database.clone(),
            lsn: local.lsn,
        };
        let staged = local.database.in_segments();
        if !staged.is_empty() {
            world.take_off(m, staged, true, rules);
        }
        next.push((Step::Cut(m), world));
    }

    fn put_head(&self, m: usize, state: &Rc<State>, kept: Set, rules: Rules, next: &mut Next) {
        // What is over may go, oldest first.
        let of = self.machines[m].seen.as_ref().unwrap_or(&self.head);
        let is_over =
            |since: Option<Tick>| since.is_some_and(|at| at + rules.retention <= self.now);
        let over = of.states.iter().take_while(|named| is_over(named.since));
        for gone in 0..=over.count() {
            let change = |head: &crate::world::Head| head.succeed(state, self.now, gone);
            for (put, mut world) in self.replace(m, change) {
                if put != Put::Again {
                    world.machine(m).publication = Publication::Idle;
                }
                if put == Put::Done {
                    let local = world.local(m);
                    local.kept = local.kept.without(kept);
                }
                let step = match put {
                    Put::Unknown => Step::HeadUnknown(m),
                    _ => Step::PutHead { by: m, gone },
                };
                next.push((step, world));
            }
        }
    }

    /// Processes end, disks are lost, machines are copied with all they have.
    fn fail(&self, m: usize, next: &mut Next) {
        let machine = &self.machines[m];
        if let (true, Some(mut world)) = (machine.up, self.spend(Budget::Kills)) {
            world.machine(m).stop();
            next.push((Step::Kill(m), world));
        }
        if let (true, Some(mut world)) = (machine.local.is_some(), self.spend(Budget::Losses)) {
            let machine = world.machine(m);
            machine.stop();
            (machine.local, machine.aside) = (None, Vec::new());
            next.push((Step::Lose(m), world));
        }
        let other = (0..self.machines.len()).find(|o| self.machines[*o].local.is_none());
        if let (true, Some(other), Some(mut world)) =
            (machine.up, other, self.spend(Budget::Clones))
        {
            let aside = std::mem::take(&mut world.machine(other).aside);
            world.machines[other] = Rc::clone(machine);
            world.machine(other).aside.extend(aside);
            next.push((Step::Clone(m), world));
        }
    }
}
