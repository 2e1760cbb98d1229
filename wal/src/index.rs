//! Where each group's slots lie in the log, in memory, rebuilt by recovery.
//!
//! Invariants:
//! - a group's places are dense from its first slot on; a hole is a vacant place;
//! - nothing at or below a group's trim point is held, and nothing that points into a forgotten segment;
//! - what a segment holds (`segment_slots`) is an upper bound: a slot replaced later still counts.

use std::collections::{BTreeMap, VecDeque};

use crate::{ops::RecordPlace, record::RECORD_ALIGN};

/// Slots of one group may span at most this many, so that one wrong number cannot take all memory.
pub const INDEX_SPAN_MAX: u64 = 1 << 20;

/// Where a slot's record lies, and the ballot under which it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub generation: u64,
    /// The record header, in bytes from the file's start.
    pub offset: u64,
    /// Bytes of the whole record, with padding.
    pub bytes: u32,
    /// The ballot, packed by the owner.
    pub ballot: u64,
}

impl Place {
    /// The place as the disk wants it.
    pub fn record(&self) -> RecordPlace {
        RecordPlace { generation: self.generation, offset: self.offset, bytes: self.bytes }
    }
}

/// The index of one shard's log.
#[derive(Debug, Default)]
pub struct Index {
    groups: BTreeMap<u128, Slots>,
    /// Per segment and group the highest slot stored there.
    segments: BTreeMap<u64, BTreeMap<u128, u64>>,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `slot` of `uid` lies at `place`; replaces what was noted before. A slot that was trimmed is ignored.
    ///
    /// # Panics
    /// If the group's slots would span more than [`INDEX_SPAN_MAX`], or the place is not one of a record.
    pub fn insert(&mut self, uid: u128, slot: u64, place: Place) {
        if !self.groups.entry(uid).or_default().insert(slot, Packed::new(place)) {
            return;
        }
        let highest = self.segments.entry(place.generation).or_default().entry(uid).or_insert(slot);
        *highest = slot.max(*highest);
    }

    /// Where `slot` of `uid` lies.
    pub fn get(&self, uid: u128, slot: u64) -> Option<Place> {
        self.groups.get(&uid)?.get(slot)
    }

    /// The places of `from` and the slots behind it, up to the first hole or till `bytes_max` bytes of records are
    /// reached; the first is given whatever its size.
    pub fn range(&self, uid: u128, from: u64, bytes_max: u64) -> impl Iterator<Item = (u64, Place)> + '_ {
        let slots = self.groups.get(&uid);
        let mut bytes = 0;
        (from..).map_while(move |slot| {
            let place = slots?.get(slot)?;
            bytes += u64::from(place.bytes);
            (slot == from || bytes <= bytes_max).then_some((slot, place))
        })
    }

    /// The lowest and the highest slot held of `uid`.
    pub fn bounds(&self, uid: u128) -> Option<(u64, u64)> {
        let slots = self.groups.get(&uid)?;
        let last = (slots.places.len() as u64).checked_sub(1)?;
        Some((slots.base, slots.base + last))
    }

    /// Forgets the slots of `uid` up to and with `up_to`, for ever.
    pub fn trim(&mut self, uid: u128, up_to: u64) {
        self.groups.entry(uid).or_default().trim(up_to);
    }

    /// Forgets a group. Its records still count in [`segment_slots`](Self::segment_slots) no more.
    pub fn remove(&mut self, uid: u128) {
        self.groups.remove(&uid);
        for slots in self.segments.values_mut() {
            slots.remove(&uid);
        }
    }

    /// Per group that has a slot in this segment, the highest one: the segment can go when all are trimmed or rewritten.
    pub fn segment_slots(&self, generation: u64) -> impl Iterator<Item = (u128, u64)> + '_ {
        self.segments.get(&generation).into_iter().flatten().map(|(uid, slot)| (*uid, *slot))
    }

    /// Forgets a released segment, and every place that still points into it: its file may hold other bytes soon.
    pub fn forget(&mut self, generation: u64) {
        for (uid, highest) in self.segments.remove(&generation).unwrap_or_default() {
            if let Some(slots) = self.groups.get_mut(&uid) {
                slots.forget(generation, highest);
            }
        }
    }
}

/// A group's places, dense from `base`.
#[derive(Debug, Default)]
struct Slots {
    /// Slots below are trimmed.
    trimmed_end: u64,
    base: u64,
    places: VecDeque<Packed>,
}

impl Slots {
    fn get(&self, slot: u64) -> Option<Place> {
        let index = usize::try_from(slot.checked_sub(self.base)?).ok()?;
        self.places.get(index)?.place()
    }

    fn insert(&mut self, slot: u64, place: Packed) -> bool {
        if slot < self.trimmed_end {
            return false;
        }
        if self.places.is_empty() {
            self.base = slot;
        }
        let end = self.base + self.places.len() as u64;
        let span = slot.max(end - u64::from(!self.places.is_empty())) - slot.min(self.base) + 1;
        assert!(span <= INDEX_SPAN_MAX, "slot {slot} is too far from the slots {}..{end}", self.base);
        while slot < self.base {
            self.places.push_front(Packed::VACANT);
            self.base -= 1;
        }
        let index = (slot - self.base) as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, Packed::VACANT);
        }
        self.places[index] = place;
        true
    }

    fn trim(&mut self, up_to: u64) {
        self.trimmed_end = self.trimmed_end.max(up_to.saturating_add(1));
        let gone = self.trimmed_end.saturating_sub(self.base).min(self.places.len() as u64);
        self.places.drain(..gone as usize);
        self.base += gone;
        self.shrink();
    }

    fn forget(&mut self, generation: u64, highest: u64) {
        let end = highest.saturating_add(1).saturating_sub(self.base).min(self.places.len() as u64);
        for place in self.places.range_mut(..end as usize) {
            if place.generation == generation {
                *place = Packed::VACANT;
            }
        }
        self.shrink();
    }

    /// Holes at either end hold no memory; nor does a burst that is over.
    fn shrink(&mut self) {
        while self.places.front().is_some_and(Packed::is_vacant) {
            self.places.pop_front();
            self.base += 1;
        }
        while self.places.back().is_some_and(Packed::is_vacant) {
            self.places.pop_back();
        }
        if self.places.len() < self.places.capacity() / 4 {
            self.places.shrink_to(self.places.len() * 2);
        }
    }
}

/// A place in 24 bytes. No record is empty, so no bytes mean vacant.
#[derive(Debug, Clone, Copy)]
struct Packed {
    generation: u64,
    ballot: u64,
    /// Offset in units of [`RECORD_ALIGN`]: segments up to 64 GiB.
    offset_units: u32,
    bytes: u32,
}

impl Packed {
    const VACANT: Self = Self { generation: 0, ballot: 0, offset_units: 0, bytes: 0 };

    fn new(place: Place) -> Self {
        assert!(place.bytes != 0, "a record has bytes");
        assert!(place.offset.is_multiple_of(RECORD_ALIGN as u64), "a record is aligned");
        let offset_units = u32::try_from(place.offset / RECORD_ALIGN as u64).expect("segments are below 64 GiB");
        Self { generation: place.generation, ballot: place.ballot, offset_units, bytes: place.bytes }
    }

    fn is_vacant(&self) -> bool {
        self.bytes == 0
    }

    fn place(&self) -> Option<Place> {
        (!self.is_vacant()).then(|| Place {
            generation: self.generation,
            offset: u64::from(self.offset_units) * RECORD_ALIGN as u64,
            bytes: self.bytes,
            ballot: self.ballot,
        })
    }
}

const _: () = assert!(size_of::<Packed>() == 24);
