//! The sessions as bytes: small, since every segment of the log bears those of every group.
//!
//! `[sessions u64][bytes u64]`, then the bytes, filled up with zeros to words. A session is a run of numbers, 7 bits to a
//! byte, lowest first: its id less the one before it; its last sequence; the state's slot less that of its last use; how
//! many positions follow, newest first. A position: its entries; its slot, counted back from the last use or the next
//! newer position; its first index, counted back from the state's next one or that of the newer position.

use std::collections::{BTreeSet, VecDeque};

use synod_core::Slot;

use super::{NUMBER_MAX, Position, Session, Sessions};
use crate::limits::{EARLIER_POSITIONS_MAX, POSITIONS_MAX, SESSIONS_BYTES_MAX, SESSIONS_MAX};

impl Sessions {
    /// Appends the bytes of the sessions of a state that is at `slot` and gives `next_index` next.
    pub(crate) fn encode(&self, slot: Slot, next_index: u64, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        let mut id_before = 0;
        for (id, session) in &self.by_id {
            put(&mut bytes, id - id_before);
            id_before = *id;
            put(&mut bytes, session.last);
            put(&mut bytes, slot.0 - session.used);
            put(&mut bytes, session.positions.len() as u64);
            let (mut newer_slot, mut newer_index) = (session.used, next_index);
            for position in session.positions.iter().rev() {
                put(&mut bytes, position.entries);
                put(&mut bytes, newer_slot - position.slot);
                put(&mut bytes, newer_index - position.first_index);
                (newer_slot, newer_index) = (position.slot, position.first_index);
            }
        }
        out.extend_from_slice(&(self.by_id.len() as u64).to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        out.extend_from_slice(&bytes);
    }

    /// Reads back what [`Sessions::encode`] wrote; `None` when it cannot be that of such a state.
    pub(crate) fn decode(slot: Slot, next_index: u64, numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let (count, length) = (numbers.next()?, numbers.next()?);
        if count > SESSIONS_MAX as u64 || length > SESSIONS_BYTES_MAX as u64 {
            return None;
        }
        // It grows only with what is there.
        let mut bytes = Vec::new();
        for _ in 0..length.div_ceil(8) {
            bytes.extend_from_slice(&numbers.next()?.to_le_bytes());
        }
        let (mut bytes, padding) = bytes.split_at(length as usize);
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        let mut sessions = Self::default();
        let (mut slots, mut id) = (BTreeSet::new(), 0_u64);
        for _ in 0..count {
            id = id.checked_add(take(&mut bytes)?).filter(|next| *next > id)?;
            let session = Session::decode(slot, next_index, &mut bytes)?;
            let oldest = session.positions.front().map_or(session.used, |position| position.slot);
            // Opened by its own slot, and used and appended to behind it.
            if session.used < id || (!session.positions.is_empty() && oldest <= id) {
                return None;
            }
            for (at, position) in session.positions.iter().enumerate() {
                if !slots.insert(position.slot) {
                    return None;
                }
                if at + 1 < session.positions.len() {
                    sessions.earlier.insert(position.slot, id);
                }
            }
            if sessions.by_use.insert(session.used, id).is_some() {
                return None;
            }
            sessions.by_id.insert(id, session);
        }
        (bytes.is_empty() && sessions.earlier.len() <= EARLIER_POSITIONS_MAX).then_some(sessions)
    }
}

impl Session {
    fn decode(slot: Slot, next_index: u64, bytes: &mut &[u8]) -> Option<Self> {
        let last = take(bytes)?;
        let used = slot.0.checked_sub(take(bytes)?)?;
        let count = take(bytes)?;
        if count > POSITIONS_MAX as u64 || (count == 0) != (last == 0) {
            return None;
        }
        let mut positions = VecDeque::new();
        let (mut newer_slot, mut newer_index, mut left) = (used, next_index, last);
        for at in 0..count {
            let (entries, back) = (take(bytes)?, take(bytes)?);
            let position_slot = newer_slot.checked_sub(back).filter(|of| *of < newer_slot || at == 0)?;
            let first_index = newer_index.checked_sub(take(bytes)?)?;
            // Its entries lie before those of the newer one, and each has a sequence.
            if entries == 0 || entries > newer_index - first_index || first_index == 0 {
                return None;
            }
            left = left.checked_sub(entries)?;
            positions.push_front(Position { entries, slot: position_slot, first_index });
            (newer_slot, newer_index) = (position_slot, first_index);
        }
        Some(Self { last, used, positions })
    }
}

/// Appends a number.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number, in the only form that [`put`] gives it.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            debug_assert!(number <= NUMBER_MAX);
            return (*byte > 0 || shift == 0).then_some(number);
        }
    }
    None
}
