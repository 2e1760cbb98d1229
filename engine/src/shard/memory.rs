//! The memory of a shard's values: what may come in, and what leaves first.
//!
//! Values lie in the buffers of the frames that hold their records. A buffer is free once nothing refers to it: what is
//! applied leaves, what is not stays.

use synod_core::planted::{Bug, is};
use synod_core::{Message, Slot};

use super::Shard;
use crate::limits::{REPLACED_BYTES_MAX, SHARD_WINDOW_BYTES, UNAPPLIED_BYTES_MAX};
use crate::marks::{Mark, mark};
use crate::payload::Payload;

/// How much memory a shard's values may take, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Applied values that are kept for peers and readers.
    pub(crate) cache_bytes: usize,
    /// See [`SHARD_WINDOW_BYTES`].
    pub(crate) window_bytes: usize,
    /// See [`UNAPPLIED_BYTES_MAX`].
    pub(crate) unapplied_bytes: usize,
    /// See [`REPLACED_BYTES_MAX`].
    pub(crate) replaced_bytes: usize,
}

impl Memory {
    /// The bounds of a shard with such a cache.
    pub(crate) fn new(cache_bytes: usize) -> Self {
        Self {
            cache_bytes,
            window_bytes: SHARD_WINDOW_BYTES,
            unapplied_bytes: UNAPPLIED_BYTES_MAX,
            replaced_bytes: REPLACED_BYTES_MAX,
        }
    }

    /// An eighth, and less of what may be in flight; the cache as it is.
    #[cfg(feature = "simulation")]
    pub(crate) fn tight(self) -> Self {
        Self {
            cache_bytes: self.cache_bytes,
            window_bytes: self.window_bytes / 32,
            unapplied_bytes: self.unapplied_bytes / 8,
            replaced_bytes: self.replaced_bytes / 8,
        }
    }

    /// What all buffers together never reach.
    pub(crate) fn pool_bytes(&self) -> usize {
        4 * self.cache_bytes + 2 * UNAPPLIED_BYTES_MAX
    }

    /// At so many bytes in use only the values that [`REPLACED_BYTES_MAX`] is for are taken.
    pub(crate) fn full_bytes(&self) -> usize {
        self.cache_bytes + self.unapplied_bytes
    }
}

/// Frames of its log whose values a witness keeps in memory.
const WITNESS_FRAMES_MAX: usize = 256;

impl Shard {
    /// Whether no proposals are taken for want of memory.
    pub(super) fn memory_full(&self) -> bool {
        self.frames.bytes_in_use() > self.memory.full_bytes()
    }

    /// Whether memory takes the value that a message brings. What makes a log longer waits first. What takes the place
    /// of a value that is held, or is chosen and so leaves memory soon, has a reserve: without it a memory that is full
    /// of values not known to be chosen would stay full.
    pub(super) fn has_memory_for(&self, at: u32, message: &Message<Payload>) -> bool {
        let longer = match message {
            Message::Accept { slot, .. } => *slot > self.groups[at as usize].replica.log().last(),
            Message::Learned { .. } => false,
            _ => return true,
        };
        let reserve = if longer { 0 } else { self.memory.replaced_bytes };
        self.frames.bytes_in_use() <= self.memory.full_bytes() + reserve
    }

    /// Lets values leave memory, oldest first, while there are more than the cache may hold.
    pub(super) fn release_cache(&mut self) {
        // A witness's values lie in no buffer that would tell.
        let frames_max = if self.is_witness() { WITNESS_FRAMES_MAX } else { usize::MAX };
        while (self.frames.bytes_in_use() > self.memory.cache_bytes || self.cached.len() > frames_max)
            && let Some(oldest) = self.cached.front()
        {
            // The parts of a large entry stay until it was put together, while there is room.
            let applied = |(at, slot): &(u32, Slot)| *slot <= self.groups[*at as usize].spare();
            // What sits in frames that are not durable yet stays, and so does what is not applied.
            let durable = self.cached.len() > self.frames.flying.len() || is(Bug::ValuesLeaveEarly);
            if !durable || !oldest.iter().all(applied) {
                return;
            }
            mark(Mark::CacheReleased);
            let oldest = self.cached.pop_front().expect("it is the front");
            self.release_values(&oldest);
        }
    }

    /// For a memory that gets full: lets applied values go also behind a frame with values that are not chosen.
    pub(super) fn release_cache_behind(&mut self) {
        if self.frames.bytes_in_use() <= self.memory.cache_bytes + self.memory.unapplied_bytes / 2 {
            return;
        }
        let durable = self.cached.len().saturating_sub(self.frames.flying.len());
        for place in 0..durable {
            let applied = |(at, slot): &(u32, Slot)| *slot <= self.groups[*at as usize].apply.slot;
            if !self.cached[place].is_empty() && self.cached[place].iter().all(applied) {
                mark(Mark::CacheReleasedBehind);
                let held = std::mem::take(&mut self.cached[place]);
                self.release_values(&held);
            }
        }
    }

    fn release_values(&mut self, held: &[(u32, Slot)]) {
        for (at, slot) in held {
            let group = &mut self.groups[*at as usize];
            if let Some((lowest, frame)) = group.recorded_again
                && *slot >= lowest
            {
                if self.frames.waits(frame).is_some() {
                    continue;
                }
                group.recorded_again = None;
            }
            if *slot > group.replica.log().floor() {
                group.replica.release(*slot);
            }
        }
    }
}
