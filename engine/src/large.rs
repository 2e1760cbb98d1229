//! Large entries: those that no slot holds.
//!
//! One is cut into parts, each of which is the value of a slot of its own. They stand one behind another in the group's
//! log, and the entry takes effect with the last: see [`crate::apply`]. What waits to be proposed is bounded per node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::batch::Entries;
use crate::limits::{ENTRY_BYTES_MAX, LARGE_BYTES_MAX, PART_BYTES_MAX, PARTS_MAX};
use crate::outcome::{Overload, Rejection};

/// Which part of a large entry a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartOf {
    /// From 0.
    pub(crate) number: u16,
    /// How many there are: at least two.
    pub(crate) count: u16,
}

impl PartOf {
    pub(crate) fn is_last(self) -> bool {
        self.number + 1 == self.count
    }

    /// Both numbers in one.
    pub(crate) fn pack(self) -> u32 {
        u32::from(self.count) << 16 | u32::from(self.number)
    }

    /// Reads back what [`PartOf::pack`] gave, of a part of so many bytes; `None` when there is no such part.
    pub(crate) fn unpack(packed: u32, bytes: u32) -> Option<Self> {
        let part = Self { number: packed as u16, count: (packed >> 16) as u16 };
        let fits = part.number < part.count && (2..=PARTS_MAX).contains(&usize::from(part.count));
        (fits && (1..=PART_BYTES_MAX).contains(&(bytes as usize))).then_some(part)
    }
}

/// Which entries are cut, and into what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutting {
    /// One with more bytes is.
    pub(crate) entry_bytes_max: usize,
    /// Into parts of so many, the last perhaps less.
    pub(crate) part_bytes: usize,
}

impl Default for Cutting {
    fn default() -> Self {
        Self { entry_bytes_max: ENTRY_BYTES_MAX, part_bytes: PART_BYTES_MAX }
    }
}

impl Cutting {
    /// Very small parts, for a simulator.
    #[cfg(feature = "simulation")]
    pub(crate) fn into(part_bytes: usize) -> Self {
        Self { entry_bytes_max: 2 * part_bytes, part_bytes }
    }

    pub(crate) fn cuts(&self, entries: &Entries) -> bool {
        entries.len() == 1 && entries.bytes.len() > self.entry_bytes_max
    }
}

/// The bytes of large entries that wait on a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct LargeBudget(Arc<AtomicUsize>);

/// Leave for a large entry to wait on a node; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LargePermit {
    budget: LargeBudget,
    bytes: usize,
}

impl LargeBudget {
    /// Leave for entries, if they need any.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn admit(&self, entries: &Entries) -> Result<Option<LargePermit>, Rejection> {
        if entries.bytes.len() <= ENTRY_BYTES_MAX { Ok(None) } else { self.take(entries.bytes.len()).map(Some) }
    }

    /// Leave for so many bytes.
    pub(crate) fn take(&self, bytes: usize) -> Result<LargePermit, Rejection> {
        let more = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= LARGE_BYTES_MAX);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(LargePermit { budget: self.clone(), bytes }),
            Err(_) => Err(Overload::Large.rejection()),
        }
    }
}

impl Drop for LargePermit {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_others_are_refused() {
        let part = PartOf { number: 3, count: 4 };
        assert_eq!(PartOf::unpack(part.pack(), 1), Some(part));
        assert!(part.is_last() && !PartOf { number: 2, ..part }.is_last());
        let too_many = PartOf { number: 0, count: PARTS_MAX as u16 + 1 };
        for (packed, bytes) in [
            (part.pack(), 0),
            (part.pack(), PART_BYTES_MAX as u32 + 1),
            (PartOf { number: 4, count: 4 }.pack(), 1),
            (PartOf { number: 0, count: 1 }.pack(), 1),
            (too_many.pack(), 1),
        ] {
            assert_eq!(PartOf::unpack(packed, bytes), None);
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let budget = LargeBudget::default();
        let all = budget.take(LARGE_BYTES_MAX).unwrap();
        assert!(budget.take(1).is_err());
        drop(all);
        assert!(budget.admit(&Entries::one(&[0; 5]).unwrap()).unwrap().is_none());
        assert!(budget.admit(&Entries::one(&vec![0; ENTRY_BYTES_MAX + 1]).unwrap()).unwrap().is_some());
        assert!(budget.take(LARGE_BYTES_MAX).is_ok(), "it was given back");
    }
}
