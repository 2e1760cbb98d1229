//! The slots of a group that are in memory.
//!
//! Invariants: the slots are contiguous from `floor + 1` to `last`; `floor <= chosen <= last`; a chosen slot is never
//! written again; what is released (below `floor`) is chosen.

use alloc::collections::VecDeque;

use crate::ids::{Ballot, Slot};
use crate::value::{Payload, Value};

/// What a replica holds in one slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry<P> {
    /// The ballot at which it was accepted here; zero for a value that was only learned as chosen.
    pub accepted: Ballot,
    /// The value.
    pub value: Value<P>,
}

/// The window of slots in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Log<P> {
    floor: Slot,
    chosen: Slot,
    entries: VecDeque<Entry<P>>,
}

impl<P: Payload> Log<P> {
    /// An empty log whose slots up to `floor` are chosen and not in memory.
    pub(crate) fn new(floor: Slot) -> Self {
        Self { floor, chosen: floor, entries: VecDeque::new() }
    }

    /// Slots up to here are chosen and no longer in memory.
    pub fn floor(&self) -> Slot {
        self.floor
    }

    /// The chosen prefix.
    pub fn chosen(&self) -> Slot {
        self.chosen
    }

    /// The last slot that holds a value.
    pub fn last(&self) -> Slot {
        Slot(self.floor.0 + self.entries.len() as u64)
    }

    /// What is in `slot`, when it is in memory.
    pub fn get(&self, slot: Slot) -> Option<&Entry<P>> {
        let at = slot.0.checked_sub(self.floor.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Puts a value at the end or over one that is not chosen yet.
    pub(crate) fn put(&mut self, slot: Slot, entry: Entry<P>) {
        assert!(slot > self.chosen, "slot {slot} is chosen and never written again");
        assert!(slot <= self.last().next(), "slot {slot} would leave a gap behind {}", self.last());
        if slot == self.last().next() {
            self.entries.push_back(entry);
        } else {
            let at = (slot.0 - self.floor.0 - 1) as usize;
            self.entries[at] = entry;
        }
    }

    /// Grows the chosen prefix to `up_to`.
    pub(crate) fn choose(&mut self, up_to: Slot) {
        assert!(up_to > self.chosen, "the chosen prefix only grows");
        assert!(up_to <= self.last(), "only a slot that holds a value can be chosen");
        self.chosen = up_to;
    }

    /// Takes all slots up to `up_to` for chosen without their values: what they did is known from elsewhere. What is
    /// held above stays.
    pub(crate) fn skip_to(&mut self, up_to: Slot) {
        assert!(up_to > self.chosen, "the chosen prefix only grows");
        self.drop_front(up_to);
        self.chosen = up_to;
    }

    /// Lets go of the slots up to `up_to`.
    pub(crate) fn release(&mut self, up_to: Slot) {
        assert!(up_to <= self.chosen, "only chosen slots leave memory");
        self.drop_front(up_to);
    }

    fn drop_front(&mut self, up_to: Slot) {
        if up_to > self.floor {
            let held = (up_to.0 - self.floor.0).min(self.entries.len() as u64);
            self.entries.drain(..held as usize);
            self.floor = up_to;
        }
    }
}
