//! The rules that can be left out, and the lengths of time that they are about.

use crate::world::Tick;

/// A rule that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    None,
    /// Dead packs are deleted whatever their age.
    NoGrace,
    /// Dead packs are deleted by their age alone, although the head names older states.
    AgeAlone,
    /// A pack counts as dead from the publication after the one that is there.
    SeqPlusOne,
    /// Dead packs are marked while a publication is under way.
    MarkedDuringCut,
    /// Objects that nothing names are deleted whatever their age.
    UnnamedAtOnce,
    /// What is named is asked before the objects are listed.
    NamedFirst,
    /// Both of these.
    NamedFirstAtOnce,
    /// Objects are listed while a publication is under way that was when the time was asked.
    ListedDuringCut,
    /// Objects are listed while a head that was given up can still arrive.
    ListedUnsettled,
    /// Going back does not take the packs of the state along that is left.
    RowsLeftBehind,
    /// Going back leaves what the older state says of its dead packs as it was then.
    OldDeathsRestored,
    /// No local copies are kept.
    NotKept,
    /// Local copies are given up once the layer is in the store.
    KeptTooShort,
    /// Local copies are kept from when the pack is confirmed, and until then nothing names it.
    KeptTooLate,
    /// The row of a pack goes when its deletion begins.
    ForgottenFirst,
    /// Dead packs are deleted by whoever has lost the lease.
    DeadWithoutLease,
    /// Objects that nothing names are deleted by whoever has lost the lease.
    UnnamedWithoutLease,
    /// A machine that comes back keeps marks that it had not published.
    LateMarksKept,
    /// Nothing is published for dead packs that wait.
    IdleUnpublished,
}

impl Bug {
    pub(crate) fn is(self, others: &[Self]) -> bool {
        others.contains(&self)
    }
}

/// The rules that a world goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) bug: Bug,
    /// How old something is before it is deleted.
    pub(crate) grace: Tick,
    /// How old the last head that a machine has put may be before its lease has ended.
    pub(crate) lease: Tick,
    /// How long states can be restored that are not the newest any more.
    pub(crate) retention: Tick,
    /// For how long a reader may go on with the state that it began with.
    pub(crate) promise: Tick,
    /// Time goes on only when everything is at rest: whatever is begun is over soon.
    pub(crate) prompt: bool,
}

impl Rules {
    /// Anything takes any time. Readers can rely on the retention alone.
    pub(crate) const SLOW: Self = Self {
        bug: Bug::None,
        grace: 1,
        lease: 0,
        retention: 1,
        promise: 1,
        prompt: false,
    };
    /// Anything takes any time, and older states can go at any time. Readers can rely on nothing.
    pub(crate) const FORGETFUL: Self = Self {
        retention: 0,
        promise: 0,
        ..Self::SLOW
    };
    /// Whatever is begun is over soon, but the clocks of the machines are wrong: retention can end at any time. Readers
    /// can rely on the grace.
    pub(crate) const PROMPT: Self = Self {
        grace: 2,
        lease: 1,
        retention: 0,
        promise: 2,
        prompt: true,
        ..Self::SLOW
    };

    pub(crate) fn without(self, bug: Bug) -> Self {
        Self { bug, ..self }
    }
}
