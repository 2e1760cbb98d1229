//! Who is let in: bounds of what waits for its proposal, in bytes and in time, and what is said to who must come again.
//!
//! Invariants: what is refused was never proposed; when a proposal of an ordered handle is refused, the handle is closed.

use super::Shard;
use super::group::OpenBatch;
use crate::limits::GROUP_QUEUE_BYTES_MAX;
use crate::marks::{Mark, mark};
use crate::outcome::{Overload, ProposeError, Rejection};

/// A hint to come again is never longer than this, in milliseconds.
const RETRY_MS_MAX: u64 = 1000;

/// How long proposals may wait, and how long they take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacing {
    /// A proposal that was not in a slot for so long is refused.
    queue_ns_max: u64,
    /// Proposals do not make a batch grow past so many entries.
    pub(super) batch_entries_max: usize,
    /// What a slot takes from its proposal until it is applied: an average over the last few.
    slot_ns: u64,
}

impl Pacing {
    pub(crate) fn new(queue_ns_max: u64, batch_entries_max: usize) -> Self {
        Self { queue_ns_max, batch_entries_max, slot_ns: 0 }
    }

    /// A slot took so long.
    pub(super) fn note_slot(&mut self, took_ns: u64) {
        self.slot_ns = self.slot_ns - self.slot_ns / 8 + took_ns / 8;
    }

    fn is_late(&self, since_ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(since_ns) > self.queue_ns_max
    }
}

impl Shard {
    /// Whether so many bytes, submitted at `submitted_ns`, may wait in a group's queue.
    pub(super) fn admit(&self, at: u32, bytes: usize, submitted_ns: u64) -> Result<(), Rejection> {
        let group = &self.groups[at as usize];
        if self.stopping {
            Err(Rejection::Stopping)
        } else if group.ending {
            Err(Rejection::GroupDropped)
        } else if group.replica.epoch().is_none() {
            Err(Rejection::NotLeader { leader: self.leader_of(at) })
        } else {
            self.overload(at, bytes, submitted_ns).map_or(Ok(()), |what| Err(self.overloaded(what)))
        }
    }

    fn overload(&self, at: u32, bytes: usize, submitted_ns: u64) -> Option<Overload> {
        if self.pacing.is_late(submitted_ns, self.now_ns) {
            Some(Overload::Wait)
        } else if self.groups[at as usize].open_bytes + bytes > GROUP_QUEUE_BYTES_MAX {
            Some(Overload::Group)
        } else if self.memory_full() {
            Some(Overload::Memory)
        } else if self.writer.starved().is_some() {
            mark(Mark::DiskFull);
            Some(Overload::Disk)
        } else if self.writer.bytes_over_limit() {
            mark(Mark::LogOverLimit);
            Some(Overload::Log)
        } else if self.index_bytes() > 2 * self.index_bytes_max {
            Some(Overload::Index)
        } else {
            None
        }
    }

    /// A refusal with a hint: for queues the time that their slots take just now, else how often it is looked for room.
    pub(super) fn overloaded(&self, what: Overload) -> Rejection {
        let retry_after_ms = match what {
            Overload::Group | Overload::Memory | Overload::Wait => {
                self.pacing.slot_ns.div_ceil(1_000_000).clamp(1, RETRY_MS_MAX) as u32
            }
            other => other.retry_after_ms(),
        };
        Rejection::Overloaded { what, retry_after_ms }
    }

    /// Refuses what has waited too long for a slot, with all that waits behind it in its group.
    pub(super) fn expire_queues(&mut self) {
        let late = |at: &u32| {
            // One that has begun has its slots.
            let mut open = self.groups[*at as usize].open.iter();
            open.find(|batch| !batch.has_begun()).is_some_and(|batch| self.pacing.is_late(batch.opened_ns, self.now_ns))
        };
        let late: Vec<u32> = self.dirty.iter().copied().filter(late).collect();
        for at in late {
            mark(Mark::QueueExpired);
            let rejection = self.overloaded(Overload::Wait);
            let begun = self.groups[at as usize].open.front().is_some_and(OpenBatch::has_begun);
            self.reject_from(at, usize::from(begun), rejection);
        }
    }

    /// Refuses all that waits for a slot in a group. A large entry whose last part has none never takes effect either.
    pub(super) fn reject_open(&mut self, at: u32, rejection: Rejection) {
        self.reject_from(at, 0, rejection);
    }

    fn reject_from(&mut self, at: u32, from: usize, rejection: Rejection) {
        let group = &mut self.groups[at as usize];
        let refused: Vec<OpenBatch> = group.open.drain(from..).collect();
        let weight: usize = refused.iter().map(OpenBatch::weight).sum();
        group.open_bytes -= weight;
        self.dirty_bytes -= weight;
        for batch in refused {
            let error = if batch.has_begun() {
                mark(Mark::LargeCutShort);
                ProposeError::Superseded
            } else {
                mark(Mark::OpenRejected);
                ProposeError::Rejected(rejection)
            };
            for run in batch.runs {
                if let Some(handle) = run.handle {
                    self.close_handle(handle);
                }
                self.note_failure(at, run, error);
            }
        }
    }
}
