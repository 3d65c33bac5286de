//! A model of who may write a volume, explored exhaustively for small sizes: machines that publish, are killed, lose their
//! leases, are overruled, cloned or thrown away, over a store whose requests take effect at any moment or never.
//!
//! `WELDRFS_PROTOCOL_WALKS` makes the random part longer, `WELDRFS_TEST_SEED` repeats it.
//!
//! It has the rules of the implementation and none of its code: what is checked is whether the rules are enough. Each rule
//! can be left out (`Bug`), and the exploration has to find that.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A rule that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// The head is put before the data it names.
    HeadBeforeData,
    /// The head is put without a condition.
    FenceIgnored,
    /// Whoever lost the answer to a put takes any head for its own.
    LineageIgnored,
    /// The key of a layer is that of its last operation.
    KeyReused,
    /// A sync succeeds once the data is there.
    WatermarkAhead,
    /// Layers are deleted before the head is there that does not name them.
    DeletedTooEarly,
    /// A state that is diverged is taken for one that is behind.
    DivergedDropped,
}

/// An operation: the machine and the life that acknowledged it, and a number.
type Op = (u8, u8);
/// What a layer holds; its key is its place in this table's order, or its last operation with `KeyReused`.
type Key = u8;
type Nonce = u8;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Head {
    nonce: Nonce,
    layer: Option<Key>,
    /// All operations, for checking; a real head has the last one's number.
    ops: Vec<Op>,
    holder: Option<u8>,
}

/// Where a machine is with a publication.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Step {
    Idle,
    /// A cut was made; its layer is to be put.
    Cut {
        ops: Vec<Op>,
    },
    /// The layer is in the store; the head is to be put.
    Shipped {
        ops: Vec<Op>,
        key: Key,
    },
    /// The put of the head is on its way; whether it takes effect is open.
    Putting {
        head: Head,
        over: Option<Nonce>,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Local {
    ops: Vec<Op>,
    known: BTreeSet<Nonce>,
    /// How many operations the newest of its heads in the store had.
    published: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Machine {
    local: Option<Local>,
    up: bool,
    /// By its own clock the lease holds.
    leased: bool,
    fenced: bool,
    /// The head that it saw last.
    seen: Option<Nonce>,
    step: Step,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct World {
    head: Option<Head>,
    layers: BTreeMap<Key, Vec<Op>>,
    machines: Vec<Machine>,
    /// Puts of heads that were given up and may still arrive: head and condition.
    stray: Vec<(Head, Option<Nonce>)>,
    /// What some sync promised.
    promised: Vec<Op>,
    /// Operations that were set aside by name.
    aside: BTreeSet<Op>,
    next_nonce: Nonce,
    next_key: Key,
    next_op: u8,
    /// How often each thing may still happen.
    left: [u8; BUDGETS],
}

const WRITES: usize = 0;
const KILLS: usize = 1;
const TAKEOVERS: usize = 2;
const LOSSES: usize = 3;
const CLONES: usize = 4;
const MOUNTS: usize = 5;
const RENEWALS: usize = 6;
const PUTS: usize = 7;
const BUDGETS: usize = 8;

impl World {
    fn new(machines: usize, left: [u8; BUDGETS]) -> Self {
        let machine = Machine {
            local: None,
            up: false,
            leased: false,
            fenced: false,
            seen: None,
            step: Step::Idle,
        };
        Self {
            head: None,
            layers: BTreeMap::new(),
            machines: vec![machine; machines],
            stray: Vec::new(),
            promised: Vec::new(),
            aside: BTreeSet::new(),
            next_nonce: 1,
            next_key: 1,
            next_op: 1,
            left,
        }
    }

    fn spend(&self, what: usize) -> Option<Self> {
        let mut world = self.clone();
        world.left[what] = world.left[what].checked_sub(1)?;
        Some(world)
    }

    fn nonce(&mut self) -> Nonce {
        self.next_nonce += 1;
        self.next_nonce - 1
    }

    /// Every state that can come next.
    fn next(&self, bug: Bug) -> Vec<Self> {
        let mut next = Vec::new();
        for m in 0..self.machines.len() {
            next.extend(self.mount(m, false, bug));
            if let Some(world) = self.spend(TAKEOVERS) {
                next.extend(world.mount(m, true, bug));
            }
            next.extend(self.write(m));
            next.extend(self.publish(m, bug));
            next.extend(self.lease_ends(m));
            next.extend(self.renew(m, bug));
            next.extend(self.unmount(m, bug));
            next.extend(self.kill(m));
            next.extend(self.lose(m));
            next.extend(self.clone_onto_another(m));
        }
        for n in 0..self.stray.len() {
            let mut world = self.clone();
            let (head, over) = world.stray.remove(n);
            // One that never arrives.
            next.push(world.clone());
            world.arrive(head, over, bug);
            next.push(world);
        }
        next
    }

    /// A put of a head takes effect, or finds its condition not to hold. Returns whether it did.
    fn arrive(&mut self, head: Head, over: Option<Nonce>, bug: Bug) -> bool {
        let holds = self.head.as_ref().map(|head| head.nonce) == over;
        if holds || bug == Bug::FenceIgnored {
            self.head = Some(head);
            return true;
        }
        false
    }

    /// Opens the volume for writing: takes the lease if nobody holds it, it has ended, or is taken over.
    fn mount(&self, m: usize, take_over: bool, bug: Bug) -> Option<Self> {
        let mut world = self.spend(MOUNTS)?;
        let machine = &world.machines[m];
        if machine.up {
            return None;
        }
        let seen = world.head.clone();
        let newest = match (&machine.local, &seen) {
            (Some(local), Some(head)) => local.known.contains(&head.nonce),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if let Some(holder) = seen.as_ref().and_then(|head| head.holder) {
            // The store's clock is later than the holder's: its own lease has ended when the store says so.
            let is_over = !world.machines[usize::from(holder)].leased;
            if !newest && !take_over && !is_over {
                return None;
            }
        }
        if !newest {
            if let Some(local) = &machine.local {
                let behind = local.ops.len() <= usize::from(local.published);
                if !behind && bug != Bug::DivergedDropped {
                    // Set aside by name, as the user asked.
                    let of_store = seen
                        .as_ref()
                        .map(|head| head.ops.clone())
                        .unwrap_or_default();
                    let only_here = local
                        .ops
                        .iter()
                        .filter(|op| !of_store.contains(op))
                        .copied();
                    world.aside.extend(only_here.collect::<Vec<_>>());
                }
            }
            let ops = match seen.as_ref().map(|head| (head.layer, head.ops.clone())) {
                // What is restored is what the layer holds.
                Some((Some(key), _)) => world.layers.get(&key).cloned()?,
                _ => Vec::new(),
            };
            world.machines[m].local = Some(Local {
                published: ops.len() as u8,
                ops,
                known: seen.iter().map(|head| head.nonce).collect(),
            });
        }
        let head = Head {
            nonce: world.nonce(),
            layer: seen.as_ref().and_then(|head| head.layer),
            ops: seen
                .as_ref()
                .map(|head| head.ops.clone())
                .unwrap_or_default(),
            holder: Some(m as u8),
        };
        let over = seen.map(|head| head.nonce);
        let nonce = head.nonce;
        // Reading and putting are two requests, but the condition makes one of them fail if anything came between.
        if !world.arrive(head, over, bug) {
            return None;
        }
        let machine = &mut world.machines[m];
        let local = machine.local.as_mut()?;
        local.known.insert(nonce);
        (machine.up, machine.leased, machine.fenced) = (true, true, false);
        (machine.seen, machine.step) = (Some(nonce), Step::Idle);
        Some(world)
    }

    fn write(&self, m: usize) -> Option<Self> {
        let mut world = self.spend(WRITES)?;
        let op = (m as u8, world.next_op);
        let machine = &mut world.machines[m];
        if !machine.up || !machine.leased || machine.fenced {
            return None;
        }
        machine.local.as_mut()?.ops.push(op);
        world.next_op += 1;
        Some(world)
    }

    fn publish(&self, m: usize, bug: Bug) -> Vec<Self> {
        let machine = &self.machines[m];
        let Some(local) = machine
            .local
            .as_ref()
            .filter(|_| machine.up && !machine.fenced)
        else {
            return Vec::new();
        };
        match &machine.step {
            Step::Idle if local.ops.len() <= usize::from(local.published) => Vec::new(),
            Step::Idle => {
                let mut world = self.clone();
                let ops = local.ops.clone();
                world.machines[m].step = match bug {
                    Bug::HeadBeforeData => {
                        let key = world.next_key;
                        world.next_key += 1;
                        Step::Shipped { ops, key }
                    }
                    _ => Step::Cut { ops },
                };
                vec![world]
            }
            Step::Cut { ops } => {
                let mut world = self.clone();
                let key = match bug {
                    Bug::KeyReused => 100 + ops.len() as u8,
                    _ => world.next_key,
                };
                world.next_key += 1;
                world.layers.insert(key, ops.clone());
                if bug == Bug::WatermarkAhead {
                    world.promise(ops);
                }
                world.machines[m].step = Step::Shipped {
                    ops: ops.clone(),
                    key,
                };
                vec![world]
            }
            Step::Shipped { ops, key } => {
                let Some(mut world) = self.spend(PUTS) else {
                    return Vec::new();
                };
                if bug == Bug::DeletedTooEarly {
                    world.layers.retain(|other, _| other == key);
                }
                let head = Head {
                    nonce: world.nonce(),
                    layer: Some(*key),
                    ops: ops.clone(),
                    holder: Some(m as u8),
                };
                let machine = &mut world.machines[m];
                let over = machine.seen;
                if let Some(local) = machine.local.as_mut() {
                    local.known.insert(head.nonce);
                }
                machine.step = Step::Putting { head, over };
                vec![world]
            }
            Step::Putting { head, over } => self.put(m, head, *over, bug),
        }
    }

    /// The three things that become of a put of the head: an answer, no answer after it took effect, and no answer before.
    fn put(&self, m: usize, head: &Head, over: Option<Nonce>, bug: Bug) -> Vec<Self> {
        let mut answered = self.clone();
        let took_effect = answered.arrive(head.clone(), over, bug);
        answered.machines[m].step = Step::Idle;
        match took_effect {
            true => answered.published(m, head),
            false => answered.read_head(m, bug),
        }
        let mut unanswered = self.clone();
        unanswered.arrive(head.clone(), over, bug);
        unanswered.machines[m].step = Step::Idle;
        unanswered.read_head(m, bug);
        let mut given_up = self.clone();
        given_up.machines[m].step = Step::Idle;
        given_up.stray.push((head.clone(), over));
        given_up.read_head(m, bug);
        vec![answered, unanswered, given_up]
    }

    fn published(&mut self, m: usize, head: &Head) {
        let machine = &mut self.machines[m];
        machine.seen = Some(head.nonce);
        machine.leased = true;
        if let Some(local) = machine.local.as_mut() {
            local.published = head.ops.len() as u8;
        }
        self.promise(&head.ops);
    }

    /// What a machine does that does not know whether its head is there.
    fn read_head(&mut self, m: usize, bug: Bug) {
        let Some(head) = self.head.clone() else {
            self.machines[m].fenced = true;
            return;
        };
        let machine = &mut self.machines[m];
        let known = machine
            .local
            .as_ref()
            .is_some_and(|local| local.known.contains(&head.nonce));
        if !known && bug != Bug::LineageIgnored {
            (machine.fenced, machine.leased) = (true, false);
            return;
        }
        machine.seen = Some(head.nonce);
        if let Some(local) = machine.local.as_mut().filter(|_| known) {
            local.published = head.ops.len() as u8;
        }
    }

    fn promise(&mut self, ops: &[Op]) {
        if ops.len() > self.promised.len() {
            self.promised = ops.to_vec();
        }
    }

    /// Its own clock says so, before the store's does.
    fn lease_ends(&self, m: usize) -> Option<Self> {
        let mut world = self.clone();
        let machine = &mut world.machines[m];
        // The lease of a machine that is down ends as well.
        if !machine.leased {
            return None;
        }
        machine.leased = false;
        Some(world)
    }

    /// A machine whose lease has ended puts the head again before it acknowledges anything.
    fn renew(&self, m: usize, bug: Bug) -> Option<Self> {
        let machine = &self.machines[m];
        if !machine.up || machine.leased || machine.fenced || machine.step != Step::Idle {
            return None;
        }
        let mut world = self.spend(RENEWALS)?;
        let over = machine.seen;
        let Some(current) = world.head.clone().filter(|head| Some(head.nonce) == over) else {
            world.read_head(m, bug);
            return Some(world);
        };
        let head = Head {
            nonce: world.nonce(),
            holder: Some(m as u8),
            ..current
        };
        world.machines[m].local.as_mut()?.known.insert(head.nonce);
        world.machines[m].seen = Some(head.nonce);
        world.machines[m].leased = true;
        world.arrive(head, over, bug);
        Some(world)
    }

    fn unmount(&self, m: usize, bug: Bug) -> Option<Self> {
        let machine = &self.machines[m];
        if !machine.up || machine.step != Step::Idle {
            return None;
        }
        let mut world = self.clone();
        if !machine.fenced && machine.leased {
            let current = world
                .head
                .clone()
                .filter(|head| Some(head.nonce) == machine.seen)?;
            let head = Head {
                nonce: world.nonce(),
                holder: None,
                ..current
            };
            world.machines[m].local.as_mut()?.known.insert(head.nonce);
            world.arrive(head, self.machines[m].seen, bug);
        }
        let machine = &mut world.machines[m];
        (machine.up, machine.leased) = (false, false);
        Some(world)
    }

    fn kill(&self, m: usize) -> Option<Self> {
        let mut world = self.spend(KILLS)?;
        let machine = &mut world.machines[m];
        if !machine.up {
            return None;
        }
        if let Step::Putting { head, over } = std::mem::replace(&mut machine.step, Step::Idle) {
            world.stray.push((head, over));
        }
        world.machines[m].up = false;
        Some(world)
    }

    /// The disk is gone as well.
    fn lose(&self, m: usize) -> Option<Self> {
        let mut world = self.spend(LOSSES)?;
        let machine = &mut world.machines[m];
        machine.local.as_ref()?;
        let step = std::mem::replace(&mut machine.step, Step::Idle);
        (machine.up, machine.local) = (false, None);
        if let Step::Putting { head, over } = step {
            world.stray.push((head, over));
        }
        Some(world)
    }

    /// A running machine is copied with its disk and its memory onto one that has none.
    fn clone_onto_another(&self, m: usize) -> Option<Self> {
        let mut world = self.spend(CLONES)?;
        if !world.machines[m].up {
            return None;
        }
        let other = (0..world.machines.len()).find(|o| world.machines[*o].local.is_none())?;
        world.machines[other] = world.machines[m].clone();
        Some(world)
    }

    /// What must always be so; `before` is the state that came before.
    fn violation(&self, before: &Self) -> Option<String> {
        if let Some(head) = &self.head {
            let there = head.layer.map_or(Some(&Vec::new()).cloned(), |key| {
                self.layers.get(&key).cloned()
            });
            if there.as_ref() != Some(&head.ops) {
                return Some(format!(
                    "the head names {:?} and the store has {there:?}",
                    head.ops
                ));
            }
        }
        let ops = |world: &Self| {
            world
                .head
                .as_ref()
                .map(|head| head.ops.clone())
                .unwrap_or_default()
        };
        let (now, earlier) = (ops(self), ops(before));
        if !now.starts_with(&earlier) {
            return Some(format!("the history was {earlier:?} and is {now:?}"));
        }
        if !now.starts_with(&self.promised) {
            return Some(format!(
                "{:?} were promised, {now:?} is there",
                self.promised
            ));
        }
        // What a machine that still has its disk acknowledged is in the store, with it, or set aside.
        for (old, new) in before.machines.iter().zip(&self.machines) {
            let (Some(old), Some(new)) = (&old.local, &new.local) else {
                continue;
            };
            let gone = old
                .ops
                .iter()
                .find(|op| !new.ops.contains(op) && !now.contains(op) && !self.aside.contains(op));
            if let Some(op) = gone {
                return Some(format!("{op:?} was acknowledged and is nowhere"));
            }
        }
        None
    }
}

/// Explores everything up to `most` states, breadth first. Returns the number of states and the first violation.
fn explore(start: World, bug: Bug, most: usize) -> (usize, Option<String>) {
    let mut known: HashSet<World> = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        for next in world.next(bug) {
            if let Some(violation) = next.violation(&world) {
                return (known.len(), Some(violation));
            }
            if known.len() < most && known.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    (known.len(), None)
}

/// Enough for every small world to be explored to its end.
const MOST_STATES: usize = 1_000_000;
/// Random schedules in a large world, and how long each is at most.
const WALKS: u64 = 1_500;
const WALK_STEPS: u32 = 150;

#[test]
fn the_rules_hold_in_every_state_of_small_worlds() {
    // Writes, kills, takeovers, losses, clones, mounts, renewals, puts of heads.
    for left in [
        [1, 1, 1, 0, 0, 3, 0, 1],
        [1, 0, 1, 0, 0, 2, 1, 1],
        [1, 0, 1, 1, 0, 3, 0, 1],
        [1, 0, 0, 0, 1, 1, 0, 2],
        [2, 0, 1, 0, 0, 2, 0, 2],
    ] {
        let (states, violation) = explore(World::new(2, left), Bug::None, MOST_STATES);
        println!("{left:?}: {states} states");
        assert_eq!(violation, None, "{left:?}");
        assert!(states < MOST_STATES, "{left:?} was not explored to its end");
    }
}

#[test]
fn the_rules_hold_along_random_schedules_of_a_large_world() {
    let seed = std::env::var("WELDRFS_TEST_SEED").map_or_else(
        |_| SmallRng::from_os_rng().random(),
        |text| text.parse().unwrap(),
    );
    let walks = std::env::var("WELDRFS_PROTOCOL_WALKS").map_or(WALKS, |text| text.parse().unwrap());
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut published = 0;
    for walk in 0..walks {
        let mut world = World::new(3, [20, 6, 6, 3, 2, 20, 20, 20]);
        for _ in 0..WALK_STEPS {
            let next = world.next(Bug::None);
            let Some(chosen) = next.choose(&mut rng) else {
                break;
            };
            let violation = chosen.violation(&world);
            assert_eq!(violation, None, "WELDRFS_TEST_SEED={seed}, walk {walk}");
            world = chosen.clone();
        }
        published += world.head.map_or(0, |head| head.ops.len());
    }
    println!("WELDRFS_TEST_SEED={seed}: {walks} schedules, {published} operations published");
    assert!(
        published as u64 > walks / 10,
        "hardly anything was published"
    );
}

#[test]
fn every_rule_that_is_left_out_is_missed() {
    for bug in [
        Bug::HeadBeforeData,
        Bug::FenceIgnored,
        Bug::LineageIgnored,
        Bug::KeyReused,
        Bug::WatermarkAhead,
        Bug::DeletedTooEarly,
        Bug::DivergedDropped,
    ] {
        let found = [[2, 1, 1, 0, 0, 3, 1, 2], [2, 0, 1, 0, 1, 3, 0, 3]]
            .into_iter()
            .find_map(|left| explore(World::new(2, left), bug, MOST_STATES).1);
        println!("{bug:?}: {found:?}");
        assert!(found.is_some(), "{bug:?} makes no difference");
    }
}
