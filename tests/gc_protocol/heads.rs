//! Everything that replaces the head, besides publications: renewals, mounts and going back. And who may.

use std::rc::Rc;

use crate::rules::{Bug, Rules};
use crate::steps::{Next, Step};
use crate::world::{Budget, Dead, Head, Local, Nonce, Reader, Restoring, Retained, State, World};

/// What became of a put of a head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Done,
    /// Another head of this machine is there.
    Again,
    /// Whether it took effect is not known.
    Unknown,
    Fenced,
}

impl World {
    /// A put of a head takes effect if its condition holds. Returns whether it did.
    pub(crate) fn arrive(&mut self, head: Rc<Head>, over: Nonce) -> bool {
        if self.head.nonce != over {
            return false;
        }
        if let Some(state) = head.newest() {
            let extents = state.database.extents.keys().copied().collect();
            self.published = self.published.with(extents);
        }
        self.head = head;
        true
    }

    /// The head as a machine knows it; looks at the one in the store if it does not. None: somebody else's is there.
    pub(crate) fn newest(&mut self, m: usize) -> Option<Rc<Head>> {
        if self.machines[m].seen.is_none() {
            let head = Rc::clone(&self.head);
            let local = self.local(m);
            if !local.wrote(&head) {
                let machine = self.machine(m);
                (machine.fenced, machine.leased) = (true, None);
                return None;
            }
            local.confirm(&head);
            self.machine(m).seen = Some(head);
        }
        self.machines[m].seen.clone()
    }

    /// Puts what `change` makes of the head in its place; each way that this can end.
    pub(crate) fn replace(&self, m: usize, change: impl Fn(&Head) -> Head) -> Vec<(Put, Self)> {
        let mut world = self.clone();
        let Some(seen) = world.newest(m) else {
            return vec![(Put::Fenced, world)];
        };
        let mut head = change(&seen);
        head.nonce = world.new_nonce();
        let head = Rc::new(head);
        world.local(m).attempts.insert(head.nonce);
        if world.head.nonce != seen.nonce {
            world.machine(m).seen = None;
            return vec![(Put::Again, world)];
        }
        let mut ends = Vec::new();
        if let Some(mut lost) = world.spend(Budget::Faults) {
            lost.machine(m).seen = None;
            let mut given_up = lost.clone();
            lost.arrive(Rc::clone(&head), seen.nonce);
            given_up.stray.push((Rc::clone(&head), seen.nonce));
            ends.extend([(Put::Unknown, lost), (Put::Unknown, given_up)]);
        }
        world.arrive(Rc::clone(&head), seen.nonce);
        world.local(m).confirm(&head);
        let now = world.now;
        let machine = world.machine(m);
        (machine.seen, machine.leased) = (Some(head), Some(now));
        if let Some(round) = &mut machine.round {
            round.settled = round.waited;
        }
        ends.push((Put::Done, world));
        ends
    }

    pub(crate) fn renew(&self, m: usize, next: &mut Next) {
        let machine = &self.machines[m];
        let is_settled = machine
            .round
            .as_ref()
            .is_none_or(|r| r.settled || !r.waited);
        let is_fresh = machine.leased == Some(self.now) && machine.seen.is_some() && is_settled;
        if machine.active().is_none() || is_fresh {
            return;
        }
        let Some(world) = self.spend(Budget::Renewals) else {
            return;
        };
        for (_, world) in world.replace(m, Head::clone) {
            next.push((Step::Renew(m), world));
        }
    }

    /// Opens the volume for writing, whoever has it: when the lease has ended makes no difference to what gc does.
    pub(crate) fn mount(&self, m: usize, rules: Rules, next: &mut Next) {
        if self.machines[m].up {
            return;
        }
        let Some(mut world) = self.spend(Budget::Mounts) else {
            return;
        };
        let (seen, now) = (Rc::clone(&world.head), world.now);
        let machine = world.machine(m);
        let is_first = seen.nonce == 0;
        let is_newest = machine.local.as_ref().is_some_and(|l| l.wrote(&seen)) || is_first;
        let mut local = match machine.local.take() {
            Some(mut local) if is_newest => {
                // What was marked and perhaps not published is marked anew.
                let is_late = |row: &Option<Dead>| row.is_some_and(|dead| dead.seq > seen.seq);
                let rows = local.database.packs.values_mut();
                rows.filter(|row| is_late(row) && rules.bug != Bug::LateMarksKept)
                    .for_each(|row| *row = None);
                local
            }
            old => {
                let kept = match old {
                    Some(old) if old.lsn > old.confirmed_lsn => {
                        machine.aside.push(Rc::new(old));
                        Default::default()
                    }
                    old => old.unwrap_or_default().kept,
                };
                Local {
                    database: seen
                        .newest()
                        .map(|state| state.database.clone())
                        .unwrap_or_default(),
                    kept,
                    lsn: seen.lsn,
                    ..Local::default()
                }
            }
        };
        let nonce = world.new_nonce();
        let head = Rc::new(Head {
            nonce,
            ..Head::clone(&seen)
        });
        // Reading and putting are two requests, but the condition makes one of them fail if anything came between.
        world.arrive(Rc::clone(&head), seen.nonce);
        local.confirm(&head);
        let machine = world.machine(m);
        machine.local = Some(local);
        (machine.up, machine.leased, machine.seen) = (true, Some(now), Some(head));
        next.push((Step::Mount(m), world));
    }

    /// Going back, on the store alone: the state that is wanted becomes the newest.
    pub(crate) fn restore(&self, rules: Rules, next: &mut Next) {
        if let Some(Restoring { over, state }) = &self.restoring {
            let mut world = self.clone();
            world.restoring = None;
            let mut head = over.succeed(state, world.now, 0);
            head.nonce = world.new_nonce();
            let head = Rc::new(head);
            if let Some(mut given_up) = world.spend(Budget::Faults) {
                given_up.stray.push((Rc::clone(&head), over.nonce));
                next.push((Step::GiveUpRestoring, given_up));
            }
            world.arrive(head, over.nonce);
            next.push((Step::FinishRestoring, world));
            return;
        }
        let Some(world) = self.spend(Budget::Restores) else {
            return;
        };
        let older = self.head.states.split_last();
        for Retained { seq, state, .. } in older.map(|(_, older)| older).unwrap_or_default() {
            let mut world = world.clone();
            let layer = world.new_object();
            world.objects.insert(layer, world.now);
            let state = world.wanted(state, layer, rules);
            world.restoring = Some(Restoring {
                over: Rc::clone(&world.head),
                state: Rc::new(state),
            });
            next.push((Step::BeginRestoring { seq: *seq }, world));
        }
    }

    /// A state as one goes back to it: with the packs of the one that is left, which can be restored too.
    fn wanted(&self, state: &State, layer: u8, rules: Rules) -> State {
        let mut database = state.database.clone();
        let dead = Dead {
            at: self.now,
            seq: self.head.seq + 1,
        };
        if rules.bug != Bug::OldDeathsRestored {
            database
                .packs
                .values_mut()
                .filter(|row| row.is_some())
                .for_each(|row| *row = Some(dead));
        }
        if let Some(left) = self
            .head
            .newest()
            .filter(|_| rules.bug != Bug::RowsLeftBehind)
        {
            for pack in left.database.packs.keys() {
                database.packs.entry(*pack).or_insert(Some(dead));
            }
        }
        State {
            database,
            layer,
            lsn: state.lsn,
        }
    }

    /// Somebody begins to read the newest state.
    pub(crate) fn read(&self, next: &mut Next) {
        let Some(state) = self.head.newest() else {
            return;
        };
        if let Some(mut world) = self.spend(Budget::Readers) {
            world.reader = Some(Reader {
                since: world.now,
                state: Rc::clone(state),
            });
            next.push((Step::BeginReading, world));
        }
    }
}
