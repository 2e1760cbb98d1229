//! Batches: how entries lie in the value of a slot.
//!
//! `[count u32][end u32 x count][bytes]`, little-endian; an end is relative to the first byte of the entries. So an
//! entry costs 4 bytes, and the entries of an open batch are only ever copied as one run.

use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, LARGE_ENTRY_BYTES_MAX};

/// Entries on their way into a batch: their ends and their bytes.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    pub(crate) ends: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
}

/// Why an entry does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an entry is larger than 64 MiB, or a batch of several than 512 KiB or 65536 entries: split it")]
pub struct TooLarge;

impl Entries {
    /// No entries yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One entry.
    pub fn one(entry: &[u8]) -> Result<Self, TooLarge> {
        let mut entries = Self::new();
        entries.push(entry)?;
        Ok(entries)
    }

    /// Adds an entry, which may be empty.
    ///
    /// # Errors
    /// When the entry is larger than 64 MiB, or the batch would have two entries and more than 512 KiB.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), TooLarge> {
        if entry.len() > LARGE_ENTRY_BYTES_MAX || self.ends.len() == BATCH_ENTRIES_MAX {
            return Err(TooLarge);
        }
        if !self.ends.is_empty() && self.body_bytes() + entry.len() + 4 > BATCH_BYTES_MAX {
            return Err(TooLarge);
        }
        self.bytes.extend_from_slice(entry);
        self.ends.push(self.bytes.len() as u32);
        Ok(())
    }

    /// Entries whose ends and bytes came from elsewhere; `None` when they do not fit each other.
    pub(crate) fn from_parts(ends: Vec<u32>, bytes: Vec<u8>) -> Option<Self> {
        let ordered = ends.is_sorted() && ends.last().map_or(0, |end| *end as usize) == bytes.len();
        ordered.then_some(Self { ends, bytes })
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The size of these entries as the body of a batch.
    pub(crate) fn body_bytes(&self) -> usize {
        4 + 4 * self.ends.len() + self.bytes.len()
    }

    /// Whether `entries` more of `bytes` together fit into the same batch, which has no more than `entries_max` then.
    pub(crate) fn has_room(&self, entries: usize, bytes: usize, entries_max: usize) -> bool {
        self.ends.is_empty()
            || (self.body_bytes() + 4 * entries + bytes <= BATCH_BYTES_MAX && self.ends.len() + entries <= entries_max)
    }

    /// Appends another run; the caller has seen that there is room.
    pub(crate) fn append(&mut self, more: &Self) {
        let base = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&more.bytes);
        self.ends.extend(more.ends.iter().map(|end| base + end));
    }

    /// Appends one entry; the caller has seen that there is room.
    pub(crate) fn append_one(&mut self, entry: &[u8]) {
        self.bytes.extend_from_slice(entry);
        self.ends.push(self.bytes.len() as u32);
    }

    pub(crate) fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
    }

    /// The three parts of the body in order, with the ends as bytes in `scratch`.
    pub(crate) fn parts<'a>(&'a self, scratch: &'a mut Vec<u8>) -> [&'a [u8]; 2] {
        scratch.clear();
        scratch.extend_from_slice(&(self.ends.len() as u32).to_le_bytes());
        scratch.extend(self.ends.iter().flat_map(|end| end.to_le_bytes()));
        [scratch, &self.bytes]
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let entry = &self.bytes[start..*end as usize];
            start = *end as usize;
            entry
        })
    }
}

/// A batch that was checked: its ends are in order and within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    ends: &'a [u8],
    bytes: &'a [u8],
}

/// Bytes that are no batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the body of a batch is malformed")]
pub struct MalformedBatch;

impl<'a> Batch<'a> {
    /// Checks a body.
    ///
    /// # Errors
    /// When the count or an end does not fit the bytes.
    pub fn decode(body: &'a [u8]) -> Result<Self, MalformedBatch> {
        let (count, rest) = body.split_first_chunk::<4>().ok_or(MalformedBatch)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count == 0 || count > BATCH_ENTRIES_MAX || rest.len() < 4 * count {
            return Err(MalformedBatch);
        }
        let (ends, bytes) = rest.split_at(4 * count);
        let batch = Self { ends, bytes };
        let mut last = 0;
        for at in 0..count {
            let end = batch.end(at);
            if end < last {
                return Err(MalformedBatch);
            }
            last = end;
        }
        if last == bytes.len() { Ok(batch) } else { Err(MalformedBatch) }
    }

    /// A batch of one entry, whose length is in `end`.
    pub(crate) fn of_one(end: &'a [u8; 4], entry: &'a [u8]) -> Self {
        debug_assert!(u32::from_le_bytes(*end) as usize == entry.len());
        Self { ends: end, bytes: entry }
    }

    fn end(&self, at: usize) -> usize {
        let end = self.ends[4 * at..4 * at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(end) as usize
    }

    /// How many entries; at least one.
    pub fn len(&self) -> usize {
        self.ends.len() / 4
    }

    /// Never: a batch has at least one entry.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The entry at `at`.
    ///
    /// # Panics
    /// When `at` is not below [`Batch::len`].
    pub fn get(&self, at: usize) -> &'a [u8] {
        let start = if at == 0 { 0 } else { self.end(at - 1) };
        &self.bytes[start..self.end(at)]
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let batch = *self;
        (0..self.len()).map(move |at| batch.get(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(entries: &Entries) -> Vec<u8> {
        entries.parts(&mut Vec::new()).concat()
    }

    proptest! {
        #[test]
        fn entries_come_back(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..40)) {
            let mut batch = Entries::new();
            for entry in &entries {
                batch.push(entry).unwrap();
            }
            let body = body(&batch);
            prop_assert_eq!(body.len(), batch.body_bytes());
            let decoded = Batch::decode(&body).unwrap();
            prop_assert!(decoded.iter().eq(entries.iter().map(Vec::as_slice)));
            prop_assert!(batch.iter().eq(entries.iter().map(Vec::as_slice)));
        }

        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(batch) = Batch::decode(&body) {
                prop_assert!(batch.iter().count() == batch.len());
            }
        }
    }

    #[test]
    fn runs_are_appended() {
        let mut all = Entries::one(b"a").unwrap();
        let mut more = Entries::one(b"bc").unwrap();
        more.push(b"").unwrap();
        assert!(all.has_room(more.ends.len(), more.bytes.len(), BATCH_ENTRIES_MAX));
        all.append(&more);
        let body = body(&all);
        assert_eq!(Batch::decode(&body).unwrap().iter().collect::<Vec<_>>(), [&b"a"[..], b"bc", b""]);
    }

    #[test]
    fn a_batch_is_bounded() {
        assert_eq!(Entries::one(&vec![0; LARGE_ENTRY_BYTES_MAX + 1]).unwrap_err(), TooLarge);
        let mut large = Entries::one(&vec![0; LARGE_ENTRY_BYTES_MAX]).unwrap();
        assert_eq!(large.push(b"x"), Err(TooLarge));
    }
}
