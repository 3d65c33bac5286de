//! What there is: the store, the machines with their local states, and what is on its way between them. Says nothing of
//! what may happen.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A pack or a layer. Keys are never used twice.
pub(crate) type Id = u8;
/// Immutable data of a file.
pub(crate) type Extent = u8;
/// The store's clock.
pub(crate) type Tick = u8;
/// The name of a head's copy.
pub(crate) type Nonce = u16;

/// Small numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Set(u128);

impl Set {
    pub(crate) fn has(self, n: u8) -> bool {
        self.0 >> n & 1 == 1
    }

    pub(crate) fn add(&mut self, n: u8) {
        self.0 |= 1 << n;
    }

    pub(crate) fn remove(&mut self, n: u8) {
        self.0 &= !(1 << n);
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn each(self) -> impl Iterator<Item = u8> {
        let end = 128 - self.0.leading_zeros() as u8;
        (0..end).filter(move |n| self.has(*n))
    }
}

impl FromIterator<u8> for Set {
    fn from_iter<T: IntoIterator<Item = u8>>(numbers: T) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|n| set.add(n));
        set
    }
}

/// Since when nothing uses a pack, and the first publication that is sure to say so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Dead {
    pub(crate) at: Tick,
    pub(crate) seq: u8,
}

/// Data that files use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Used {
    pub(crate) files: u8,
    /// In which pack it lies; in a segment if in none.
    pub(crate) pack: Option<Id>,
}

/// What a database says.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Database {
    pub(crate) extents: BTreeMap<Extent, Used>,
    pub(crate) packs: BTreeMap<Id, Option<Dead>>,
}

impl Database {
    /// The last publication that may not yet say of every dead pack that it is.
    pub(crate) fn awaited(&self) -> u8 {
        let dead = self.packs.values().flatten();
        dead.map(|dead| dead.seq).max().unwrap_or(0)
    }

    /// Packs that something lies in.
    pub(crate) fn used(&self) -> Set {
        self.extents.values().filter_map(|used| used.pack).collect()
    }

    pub(crate) fn in_segments(&self) -> Set {
        let staged = self.extents.iter().filter(|(_, used)| used.pack.is_none());
        staged.map(|(extent, _)| *extent).collect()
    }

    pub(crate) fn known(&self) -> Set {
        self.packs.keys().copied().collect()
    }

    /// Extents lie in a pack now, as far as they are there.
    pub(crate) fn take_in(&mut self, pack: Id, extents: Set) {
        self.packs.insert(pack, None);
        for extent in extents.each() {
            if let Some(used) = self.extents.get_mut(&extent) {
                used.pack = Some(pack);
            }
        }
    }
}

/// A database that was published.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) database: Database,
    pub(crate) layer: Id,
    pub(crate) lsn: u8,
}

/// A state that can be restored.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Retained {
    pub(crate) seq: u8,
    pub(crate) state: Rc<State>,
    /// When the head was put that has another one as the newest.
    pub(crate) since: Option<Tick>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Head {
    pub(crate) nonce: Nonce,
    pub(crate) seq: u8,
    pub(crate) lsn: u8,
    /// Oldest first, the newest state last.
    pub(crate) states: Vec<Retained>,
}

impl Head {
    pub(crate) fn newest(&self) -> Option<&Rc<State>> {
        self.states.last().map(|named| &named.state)
    }

    pub(crate) fn layers(&self) -> Set {
        self.states.iter().map(|named| named.state.layer).collect()
    }

    /// The next head, with one more state and without the `gone` oldest ones.
    pub(crate) fn succeed(&self, state: &Rc<State>, now: Tick, gone: usize) -> Self {
        let mut next = self.clone();
        if let Some(last) = next.states.last_mut() {
            last.since = Some(now);
        }
        next.states.drain(..gone);
        (next.seq, next.lsn) = (self.seq + 1, state.lsn);
        next.states.push(Retained {
            seq: next.seq,
            state: Rc::clone(state),
            since: None,
        });
        next
    }
}

/// What a machine has on its disk.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Local {
    pub(crate) database: Database,
    /// Packs of which a copy is kept.
    pub(crate) kept: Set,
    /// The last operation that was acknowledged.
    pub(crate) lsn: u8,
    /// The head of its own that was last seen in the store, and the last operation in it.
    pub(crate) confirmed: Option<Nonce>,
    pub(crate) confirmed_lsn: u8,
    /// Heads that it has put, or was about to, since then.
    pub(crate) attempts: BTreeSet<Nonce>,
}

impl Local {
    pub(crate) fn wrote(&self, head: &Head) -> bool {
        self.confirmed == Some(head.nonce) || self.attempts.contains(&head.nonce)
    }

    pub(crate) fn confirm(&mut self, head: &Head) {
        if self.confirmed != Some(head.nonce) {
            (self.confirmed, self.confirmed_lsn) = (Some(head.nonce), head.lsn);
            self.attempts.clear();
        }
    }
}

/// A pack on its way into the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Flying {
    pub(crate) pack: Id,
    pub(crate) extents: Set,
    /// The store has confirmed it.
    pub(crate) is_there: bool,
    pub(crate) of_cut: bool,
}

/// Where a machine is with a publication.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Publication {
    Idle,
    /// A cut was made; what it has in segments is packed first.
    Cut {
        database: Database,
        lsn: u8,
    },
    /// The layer is in the store; the head is to be put. `kept` are packs that the cut knows.
    Shipped {
        state: Rc<State>,
        kept: Set,
    },
}

/// Where a machine is with gc.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Round {
    /// What the store's clock said.
    pub(crate) now: Tick,
    /// No publication is under way that was before.
    pub(crate) waited: bool,
    /// It has put a head since then, so that none that was given up before can arrive.
    pub(crate) settled: bool,
    pub(crate) listed: Option<Set>,
    /// What is named, where that is asked too early.
    pub(crate) named: Option<Set>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Machine {
    pub(crate) local: Option<Local>,
    pub(crate) up: bool,
    /// It knows that somebody else has put a head.
    pub(crate) fenced: bool,
    /// When it last put a head.
    pub(crate) leased: Option<Tick>,
    /// The head that it saw last, unless it has to look again.
    pub(crate) seen: Option<Rc<Head>>,
    pub(crate) flying: Option<Flying>,
    pub(crate) publication: Publication,
    pub(crate) round: Option<Round>,
    /// Divergent copies.
    pub(crate) aside: Vec<Rc<Local>>,
}

impl Machine {
    fn new() -> Self {
        Self {
            local: None,
            up: false,
            fenced: false,
            leased: None,
            seen: None,
            flying: None,
            publication: Publication::Idle,
            round: None,
            aside: Vec::new(),
        }
    }

    /// What a process that ends takes with it.
    pub(crate) fn stop(&mut self) {
        *self = Self {
            local: self.local.take(),
            aside: std::mem::take(&mut self.aside),
            ..Self::new()
        };
    }

    pub(crate) fn active(&self) -> Option<&Local> {
        self.local.as_ref().filter(|_| self.up && !self.fenced)
    }
}

/// Going back to a state: the layer is in the store, the head is to be put.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Restoring {
    pub(crate) over: Rc<Head>,
    pub(crate) state: Rc<State>,
}

/// Somebody who has read the head and reads what the newest state has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Reader {
    pub(crate) since: Tick,
    pub(crate) state: Rc<State>,
}

/// What may happen only so often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Budget {
    Writes,
    Deletes,
    Shares,
    /// Packing besides publications.
    Packs,
    /// Packs written anew.
    Rewrites,
    Publications,
    Renewals,
    /// Rounds of gc.
    Rounds,
    Ticks,
    /// Answers that are lost, requests that are given up.
    Faults,
    /// Extents that lie in a segment still after a publication has packed them, because they may grow.
    Stays,
    Kills,
    Mounts,
    Losses,
    Clones,
    Restores,
    Readers,
}

const BUDGETS: usize = 17;

impl Budget {
    pub(crate) const ALL: [Self; BUDGETS] = [
        Self::Writes,
        Self::Deletes,
        Self::Shares,
        Self::Packs,
        Self::Rewrites,
        Self::Publications,
        Self::Renewals,
        Self::Rounds,
        Self::Ticks,
        Self::Faults,
        Self::Stays,
        Self::Kills,
        Self::Mounts,
        Self::Losses,
        Self::Clones,
        Self::Restores,
        Self::Readers,
    ];
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) now: Tick,
    pub(crate) head: Rc<Head>,
    /// When each object was put that is in the store.
    pub(crate) objects: BTreeMap<Id, Tick>,
    /// Objects whose deletion is on its way.
    pub(crate) doomed: Set,
    /// Heads that were given up and may still arrive, each with the one that it replaces.
    pub(crate) stray: Vec<(Rc<Head>, Nonce)>,
    pub(crate) machines: Vec<Rc<Machine>>,
    pub(crate) restoring: Option<Restoring>,
    pub(crate) reader: Option<Reader>,
    /// Extents that any head's newest state had.
    pub(crate) published: Set,
    pub(crate) next_extent: Extent,
    pub(crate) next_object: Id,
    pub(crate) next_nonce: Nonce,
    left: [u8; BUDGETS],
}

impl World {
    /// Nobody has mounted the volume yet.
    pub(crate) fn new(machines: usize, budgets: &[(Budget, u8)]) -> Self {
        let machine = Rc::new(Machine::new());
        let mut world = Self {
            now: 0,
            head: Rc::new(Head {
                nonce: 0,
                seq: 0,
                lsn: 0,
                states: Vec::new(),
            }),
            objects: BTreeMap::new(),
            doomed: Set::default(),
            stray: Vec::new(),
            machines: vec![machine; machines],
            restoring: None,
            reader: None,
            published: Set::default(),
            next_extent: 0,
            next_object: 0,
            next_nonce: 1,
            left: [0; BUDGETS],
        };
        world.allow(budgets);
        world
    }

    /// Sets what may happen yet; what is not named may not.
    pub(crate) fn allow(&mut self, budgets: &[(Budget, u8)]) {
        self.left = [0; BUDGETS];
        for (budget, times) in budgets {
            self.left[*budget as usize] = *times;
        }
    }

    pub(crate) fn left(&self, budget: Budget) -> u8 {
        self.left[budget as usize]
    }

    /// What it may do is one less.
    pub(crate) fn spend(&self, budget: Budget) -> Option<Self> {
        let left = self.left[budget as usize].checked_sub(1)?;
        let mut world = self.clone();
        world.left[budget as usize] = left;
        Some(world)
    }

    pub(crate) fn machine(&mut self, m: usize) -> &mut Machine {
        Rc::make_mut(&mut self.machines[m])
    }

    pub(crate) fn local(&mut self, m: usize) -> &mut Local {
        self.machine(m).local.get_or_insert_default()
    }

    pub(crate) fn new_object(&mut self) -> Id {
        self.next_object += 1;
        self.next_object - 1
    }

    pub(crate) fn new_nonce(&mut self) -> Nonce {
        self.next_nonce += 1;
        self.next_nonce - 1
    }

    pub(crate) fn has(&self, object: Id) -> bool {
        self.objects.contains_key(&object)
    }
}
