//! What the model's oracle knows: every durable vote there ever was, and from that what is chosen.

use synod_core::{Ballot, Body, Epoch, Slot, Value};

use super::packet::Batch;
use super::voter::{VOTERS, Voter};

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// Two values have a quorum of durable votes in one slot.
    TwoChosen,
    /// A replica takes for chosen what has no quorum of durable votes at any one ballot.
    AppliedUnchosen,
    /// A batch takes effect without an earlier one of its epoch, or after a later epoch.
    OutOfOrder,
    /// A candidate begins a ballot that it began before a crash.
    BegunTwice,
    /// A voter comes back with a promise below a vote that it sent.
    VoteForgotten,
    /// A replica says that all voters durably know a prefix, and one does not.
    TrimmedTooEarly,
    /// The core panicked.
    Panicked,
}

/// Who accepted a value durably at a ballot, as bits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Votes {
    slot: Slot,
    ballot: Ballot,
    voters: u8,
    value: Value<Batch>,
}

/// All durable votes, by slot and ballot.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Oracle(Vec<Votes>);

impl Oracle {
    /// Notes a durable vote; false when with it two values are chosen.
    pub(super) fn vote(&mut self, voter: usize, slot: Slot, ballot: Ballot, value: &Value<Batch>) -> bool {
        let at = match self.0.binary_search_by_key(&(slot, ballot), |v| (v.slot, v.ballot)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Votes { slot, ballot, voters: 0, value: value.clone() });
                at
            }
        };
        self.0[at].voters |= 1 << voter;
        self.0[at].value == *value && self.chosen(slot).all(|(_, chosen)| self.chosen(slot).all(|(_, v)| v == chosen))
    }

    /// The values chosen in a slot, with the ballots at which they are.
    fn chosen(&self, slot: Slot) -> impl Iterator<Item = (Ballot, &Value<Batch>)> {
        let quorum = move |v: &&Votes| v.slot == slot && v.voters.count_ones() as usize > VOTERS / 2;
        self.0.iter().filter(quorum).map(|v| (v.ballot, &v.value))
    }

    pub(super) fn is_chosen(&self, slot: Slot, value: &Value<Batch>) -> bool {
        self.chosen(slot).any(|(_, chosen)| chosen == value)
    }

    pub(super) fn is_decided(&self, slot: Slot) -> bool {
        self.chosen(slot).next().is_some()
    }

    /// Whether something was chosen at a ballot that did not propose it first.
    pub(super) fn has_adopted(&self) -> bool {
        self.0.iter().any(|v| v.voters.count_ones() as usize > VOTERS / 2 && v.value.origin < v.ballot)
    }
}

/// What the chosen prefix of a voter comes to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Effects {
    pub(super) effective: usize,
    pub(super) void: usize,
    pub(super) in_order: bool,
}

/// Applies the chosen prefix of a voter.
pub(super) fn effects(voter: &Voter) -> Effects {
    let log = voter.replica.log();
    let mut epoch = Epoch::default();
    let mut last: Option<(Ballot, u8)> = None;
    let mut effects = Effects { in_order: true, ..Effects::default() };
    for slot in (1..=log.chosen().0).map(Slot) {
        let value = &log.get(slot).expect("nothing is released here").value;
        let applied = epoch.apply(value);
        let Body::Batch(Batch(place)) = value.body else { continue };
        if !applied {
            effects.void += 1;
            continue;
        }
        effects.effective += 1;
        effects.in_order &= match last {
            Some((origin, before)) if origin == value.origin => place == before + 1,
            Some((origin, _)) => origin < value.origin && place == 0,
            None => place == 0,
        };
        last = Some((value.origin, place));
    }
    effects
}
