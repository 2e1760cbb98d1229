//! Where each group's slots lie in the log, in memory, rebuilt by recovery.
//!
//! Invariants:
//! - places lie in chunks of consecutive slots, and a chunk without any place is freed: memory follows what is held, and
//!   a wrong number cannot take more than one chunk;
//! - nothing at or below a group's trim point is held, and nothing that points into a forgotten segment;
//! - what a segment holds (`segment_slots`) is an upper bound: a slot replaced later still counts.

use std::collections::BTreeMap;

use crate::{ops::RecordPlace, record::RECORD_ALIGN};

/// Slots of one group in one chunk.
const CHUNK_SLOTS: u64 = 64;

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
    /// Chunks of all groups.
    chunks: usize,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `slot` of `uid` lies at `place`; replaces what was noted before. A slot that was trimmed is ignored.
    ///
    /// # Panics
    /// If the place is not one of a record.
    pub fn insert(&mut self, uid: u128, slot: u64, place: Place) {
        let slots = self.groups.entry(uid).or_default();
        if slot < slots.trimmed_end {
            return;
        }
        self.chunks += slots.insert(slot, Packed::new(place));
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

    /// Forgets the slots of `uid` up to and with `up_to`, for ever.
    pub fn trim(&mut self, uid: u128, up_to: u64) {
        self.chunks -= self.groups.entry(uid).or_default().trim(up_to);
    }

    /// Bytes of memory that the places take.
    pub fn memory_bytes(&self) -> usize {
        self.chunks * size_of::<Chunk>()
    }

    /// Forgets a group. Its records still count in [`segment_slots`](Self::segment_slots) no more.
    pub fn remove(&mut self, uid: u128) {
        self.chunks -= self.groups.remove(&uid).map_or(0, |slots| slots.chunks.len());
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
                self.chunks -= slots.forget(generation, highest);
            }
        }
    }
}

/// A group's places.
#[derive(Debug, Default)]
struct Slots {
    /// Slots below are trimmed.
    trimmed_end: u64,
    /// By slot, divided by [`CHUNK_SLOTS`].
    chunks: BTreeMap<u64, Box<Chunk>>,
}

/// Consecutive slots.
#[derive(Debug)]
struct Chunk {
    held: u32,
    places: [Packed; CHUNK_SLOTS as usize],
}

impl Chunk {
    fn set(&mut self, index: usize, place: Packed) {
        self.held += u32::from(!place.is_vacant());
        self.held -= u32::from(!self.places[index].is_vacant());
        self.places[index] = place;
    }
}

impl Slots {
    fn get(&self, slot: u64) -> Option<Place> {
        self.chunks.get(&(slot / CHUNK_SLOTS))?.places[(slot % CHUNK_SLOTS) as usize].place()
    }

    /// Gives how many chunks were added.
    fn insert(&mut self, slot: u64, place: Packed) -> usize {
        let before = self.chunks.len();
        let vacant = || Box::new(Chunk { held: 0, places: [Packed::VACANT; CHUNK_SLOTS as usize] });
        let chunk = self.chunks.entry(slot / CHUNK_SLOTS).or_insert_with(vacant);
        chunk.set((slot % CHUNK_SLOTS) as usize, place);
        self.chunks.len() - before
    }

    /// Gives how many chunks were freed.
    fn trim(&mut self, up_to: u64) -> usize {
        let before = self.chunks.len();
        self.trimmed_end = self.trimmed_end.max(up_to.saturating_add(1));
        let last = self.trimmed_end / CHUNK_SLOTS;
        while self.chunks.first_key_value().is_some_and(|(key, _)| *key < last) {
            self.chunks.pop_first();
        }
        if let Some(chunk) = self.chunks.get_mut(&last) {
            for index in 0..(self.trimmed_end % CHUNK_SLOTS) as usize {
                chunk.set(index, Packed::VACANT);
            }
            if chunk.held == 0 {
                self.chunks.remove(&last);
            }
        }
        before - self.chunks.len()
    }

    /// Gives how many chunks were freed.
    fn forget(&mut self, generation: u64, highest: u64) -> usize {
        let before = self.chunks.len();
        let mut empty = Vec::new();
        for (key, chunk) in self.chunks.range_mut(..=highest / CHUNK_SLOTS) {
            for index in 0..CHUNK_SLOTS as usize {
                if chunk.places[index].generation == generation {
                    chunk.set(index, Packed::VACANT);
                }
            }
            if chunk.held == 0 {
                empty.push(*key);
            }
        }
        empty.iter().for_each(|key| drop(self.chunks.remove(key)));
        before - self.chunks.len()
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
