//! Where the entries of a group lie that can still be read: the slots that took effect, each with the index of its first
//! entry.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;

use synod_core::Slot;

/// (slot, index of its first entry), in order. A large entry is there under the slot of its first part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Indexes {
    firsts: VecDeque<(Slot, u64)>,
    /// How many slots a large entry has, by its first.
    large: BTreeMap<Slot, u64>,
}

impl Indexes {
    /// Entries took effect that lie in so many slots, of which the last is `slot`.
    pub(crate) fn push(&mut self, slot: Slot, slots: u64, first_index: u64) {
        let first = Slot(slot.0 + 1 - slots);
        self.firsts.push_back((first, first_index));
        if slots > 1 {
            self.large.insert(first, slots);
        }
    }

    /// In how many slots the entries lie that begin in `slot`.
    pub(crate) fn slots(&self, slot: Slot) -> u64 {
        self.large.get(&slot).copied().unwrap_or(1)
    }

    /// What begins in this slot or before is gone.
    pub(crate) fn trim(&mut self, slot: Slot) {
        while self.firsts.front().is_some_and(|(of, _)| *of <= slot) {
            self.firsts.pop_front();
        }
        while self.large.first_key_value().is_some_and(|(of, _)| *of <= slot) {
            self.large.pop_first();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Deref for Indexes {
    type Target = VecDeque<(Slot, u64)>;

    fn deref(&self) -> &Self::Target {
        &self.firsts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_entry_is_under_its_first_slot() {
        let mut indexes = Indexes::default();
        indexes.push(Slot(2), 1, 1);
        indexes.push(Slot(6), 4, 3);
        indexes.push(Slot(7), 1, 4);
        assert_eq!(*indexes, [(Slot(2), 1), (Slot(3), 3), (Slot(7), 4)]);
        assert_eq!((indexes.slots(Slot(2)), indexes.slots(Slot(3)), indexes.slots(Slot(7))), (1, 4, 1));
        // A part of it is gone, so it is.
        indexes.trim(Slot(4));
        assert_eq!(*indexes, [(Slot(7), 4)]);
        assert_eq!(indexes.slots(Slot(3)), 1);
    }
}
