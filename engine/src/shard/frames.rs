//! The frames of a shard's log on their way to the disk: filled, in flight, and what waits for each.
//!
//! Invariants: frames are appended to the log in the order in which they were filled; a vote leaves only when the
//! frame with its group's last record at that time, and so all before it, is durable.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use synod_core::{Ballot, RecordSeq, Slot, Vote};
use synod_wal::buf::BufPool;
use synod_wal::frame::{Frame, RecordSpan, SharedFrame};
use synod_wal::record::{RecordHeader, record_bytes};

use super::links::Part;
use crate::marks::{Mark, mark};
use crate::payload::Payload;

/// The smallest buffer that a frame starts with; it grows as records come.
const FRAME_BYTES_MIN: usize = 4 << 10;

/// A value that a frame holds, for the log's index.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) group: u32,
    pub(crate) slot: Slot,
    pub(crate) ballot: Ballot,
    pub(crate) span: RecordSpan,
}

/// A frame that is being filled, or is full and waits for its turn.
#[derive(Debug)]
pub(crate) struct Filling {
    pub(crate) id: u64,
    pub(crate) frame: Rc<SharedFrame>,
    pub(crate) waits: Waits,
    pub(crate) held: Vec<Held>,
    /// What goes to peers once the frame is sealed: (peer, part).
    pub(crate) sends: Vec<(u8, Part)>,
    /// Whether the groups' summaries are in this frame.
    pub(crate) summaries: bool,
    /// Whether this frame is only a mark: it has no records.
    pub(crate) mark: bool,
}

/// What waits for a frame to be durable.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// The last record of each group in the frame.
    pub(crate) marks: Vec<(u32, RecordSeq)>,
    /// Votes: (peer, group, vote).
    pub(crate) votes: Vec<(u8, u32, Vote<Payload>)>,
}

impl Waits {
    /// Adds a vote. While a disk hangs, candidates and leaders ask again and again: before the list grows, what newer
    /// votes replace goes.
    pub(crate) fn push_vote(&mut self, peer: u8, group: u32, vote: Vote<Payload>) {
        if self.votes.len() == self.votes.capacity() && self.votes.len() >= VOTES_MIN {
            self.drop_replaced();
        }
        self.votes.push((peer, group, vote));
    }

    /// Keeps each group's last promise to a peer with its reports, its last acknowledgement, and its last Prepare.
    fn drop_replaced(&mut self) {
        let before = self.votes.len();
        let mut seen = HashSet::new();
        let mut kept: Vec<_> = std::mem::take(&mut self.votes).into_iter().rev().collect();
        kept.retain(|(peer, group, vote)| match vote {
            Vote::Promise { .. } => seen.insert((*peer, *group, 0)),
            // Reports follow their promise, so the last ones come before it here.
            Vote::Report { .. } => !seen.contains(&(*peer, *group, 0)),
            Vote::Accepted { .. } => seen.insert((*peer, *group, 1)),
            Vote::Prepare { .. } => seen.insert((*peer, *group, 2)),
        });
        kept.reverse();
        if kept.len() < before {
            mark(Mark::VotesReplaced);
        }
        // Room for as many again, so that this is done seldom.
        kept.reserve(kept.len());
        self.votes = kept;
    }
}

/// A list of votes that is shorter is left alone.
const VOTES_MIN: usize = 256;

/// A frame in flight.
#[derive(Debug)]
pub(crate) struct Flying {
    pub(crate) id: u64,
    pub(crate) sequence: u64,
    pub(crate) submitted_ns: u64,
    pub(crate) waits: Waits,
    pub(crate) summaries: bool,
}

/// All frames that are not durable yet.
#[derive(Debug)]
pub(crate) struct Frames {
    pool: BufPool,
    frame_bytes_max: usize,
    pub(crate) filling: VecDeque<Filling>,
    pub(crate) flying: VecDeque<Flying>,
    next_id: u64,
}

impl Frames {
    pub(crate) fn new(pool: BufPool, frame_bytes_max: usize) -> Self {
        Self { pool, frame_bytes_max, filling: VecDeque::new(), flying: VecDeque::new(), next_id: 1 }
    }

    /// Bytes in buffers that are in use: frames on their way, and those that the log's cache still refers to.
    pub(crate) fn bytes_in_use(&self) -> usize {
        self.pool.in_use_bytes()
    }

    /// Bytes of records that wait for a frame to start.
    pub(crate) fn bytes_filling(&self) -> usize {
        self.filling.iter().map(|f| f.frame.with_bytes(<[u8]>::len)).sum()
    }

    /// Whether a record with such a body would go into the frame that is being filled.
    pub(crate) fn fits(&self, body_len: usize) -> bool {
        self.filling.back().is_none_or(|f| {
            let used = f.frame.with_bytes(<[u8]>::len);
            used + record_bytes(body_len) <= self.frame_bytes_max
        })
    }

    /// The frame that takes the next record, with room for it.
    fn room(&mut self, body_len: usize) -> &mut Filling {
        let need = record_bytes(body_len);
        if self.filling.is_empty() || !self.fits(body_len) {
            let bytes = (synod_wal::frame::FRAME_HEADER_BYTES + need).max(FRAME_BYTES_MIN);
            let buf = self.pool.take(bytes).expect("the pool's bound lies above all that admission lets in");
            self.filling.push_back(Filling {
                id: self.next_id,
                frame: SharedFrame::new(Frame::new(buf)),
                waits: Waits::default(),
                held: Vec::new(),
                sends: Vec::new(),
                summaries: false,
                mark: false,
            });
            self.next_id += 1;
        }
        let filling = self.filling.back_mut().expect("there is one now");
        if filling.frame.remaining() < need {
            let used = filling.frame.with_bytes(<[u8]>::len);
            let bytes = (used + need).max(4 * used).min(self.frame_bytes_max);
            let buf = self.pool.take(bytes).expect("the pool's bound lies above all that admission lets in");
            filling.frame.grow(buf);
        }
        filling
    }

    /// Appends a record to the frame that is being filled.
    pub(crate) fn push(&mut self, header: &RecordHeader, body: &[&[u8]]) -> (&mut Filling, RecordSpan) {
        let filling = self.room(header.body_len as usize);
        let span = filling.frame.push(header, body);
        filling.mark = false;
        (filling, span)
    }

    /// Makes a frame without records: it states how far the log was durable before it.
    pub(crate) fn push_mark(&mut self) {
        self.room(0).mark = true;
    }

    /// A group is deleted: nothing of it is waited for.
    pub(crate) fn forget_group(&mut self, at: u32) {
        self.filling.iter_mut().for_each(|filling| filling.held.retain(|held| held.group != at));
        let waits = self.filling.iter_mut().map(|f| &mut f.waits).chain(self.flying.iter_mut().map(|f| &mut f.waits));
        for waits in waits {
            waits.marks.retain(|(of, _)| *of != at);
            waits.votes.retain(|(_, of, _)| *of != at);
        }
    }

    /// What waits for the frame `id`; `None` when it is durable.
    pub(crate) fn waits(&mut self, id: u64) -> Option<&mut Waits> {
        if let Some(flying) = self.flying.iter_mut().find(|f| f.id == id) {
            return Some(&mut flying.waits);
        }
        self.filling.iter_mut().find(|f| f.id == id).map(|f| &mut f.waits)
    }
}

#[cfg(test)]
mod tests {
    use synod_core::{Ballot, MemberId};

    use super::*;

    #[test]
    fn votes_that_wait_for_a_disk_that_hangs_are_bounded() {
        let mut waits = Waits::default();
        let ballot = |round| Ballot { round, member: MemberId(2) };
        let report = |round| Vote::Report {
            ballot: ballot(round),
            attempt: 1,
            slot: Slot(1),
            accepted: ballot(1),
            value: synod_core::Value { origin: ballot(1), body: synod_core::Body::Noop },
        };
        for round in 2..5000 {
            waits.push_vote(0, 7, Vote::Accepted { ballot: ballot(1), up_to: Slot(round), stable: Slot(0) });
            waits.push_vote(0, 7, Vote::Promise { ballot: ballot(round), attempt: 1, chosen: Slot(0), reports: 1 });
            waits.push_vote(0, 7, report(round));
        }
        assert!(waits.votes.len() <= 2 * VOTES_MIN, "{} votes wait", waits.votes.len());
        waits.drop_replaced();
        let last = [
            Vote::Accepted { ballot: ballot(1), up_to: Slot(4999), stable: Slot(0) },
            Vote::Promise { ballot: ballot(4999), attempt: 1, chosen: Slot(0), reports: 1 },
            report(4999),
        ];
        let left: Vec<String> = waits.votes.iter().map(|(.., vote)| format!("{vote:?}")).collect();
        assert_eq!(left, last.map(|vote: Vote<Payload>| format!("{vote:?}")));
    }
}
