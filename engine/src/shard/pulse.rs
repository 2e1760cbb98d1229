//! What a shard does as time goes by: heartbeats between shards, the look at the groups, and when it next needs its clock.
//!
//! An exchange of heartbeats is of a pair of shards, not of a group: each asks once in [`HEARTBEAT_NS`] and answers
//! the other. The first whose time has come asks; the other answers and asks in the same write; the first answers.
//! Where there is a [`lane`](super::lane), they go as datagrams.

use super::Shard;
use super::lane::Way;
use crate::marks::{Mark, mark};
use crate::wire::{self, Heartbeat, TAKES_DATAGRAMS};

/// So often a shard asks each peer's for its support. A few times within what an answer is good for: a heartbeat that comes
/// late, or a second time because a packet was lost, costs neither a lease nor a leader.
pub(super) const HEARTBEAT_NS: u64 = 100_000_000;
/// So often it is looked what voters were not yet told, and what the log may let go.
pub(super) const BEAT_NS: u64 = 20_000_000;

const _: () = assert!(4 * HEARTBEAT_NS < super::support::SUPPORT_NS && 5 * HEARTBEAT_NS < super::PEER_LOST_NS);

impl Shard {
    /// Asks the peers for their support whose turn it is.
    pub(super) fn send_heartbeats(&mut self) {
        for peer in 0..self.peers.len() {
            if self.now_ns >= self.peers[peer].heartbeat_due_ns {
                self.send_heartbeat(peer);
            }
        }
    }

    fn send_heartbeat(&mut self, peer: usize) {
        self.peers[peer].heartbeat_due_ns = self.now_ns + HEARTBEAT_NS;
        if self.wal_stuck() {
            mark(Mark::LogStuck);
            return;
        }
        let mut heartbeat = self.heartbeat_of(self.now_ns);
        heartbeat.support = self.lanes.announcement();
        self.push_question(peer, &heartbeat.encode());
    }

    pub(super) fn on_heartbeat(&mut self, peer: usize, body: &[u8], way: Way) -> Result<(), wire::Malformed> {
        let heartbeat = Heartbeat::decode(body)?;
        self.peers[peer].beat_ns = self.now_ns;
        self.peer_lives(peer);
        self.note_disk(peer, &heartbeat);
        if way == Way::Connection && heartbeat.support == TAKES_DATAGRAMS {
            self.offer_lane(peer);
        }
        if !self.wal_stuck() {
            let mut answer = self.heartbeat_of(heartbeat.sent_ns);
            answer.support = self.grant_support(peer);
            self.push_answer(peer, &answer.encode(), way);
        }
        // A question that is soon due goes with the answer.
        if self.started && self.now_ns + HEARTBEAT_NS / 2 >= self.peers[peer].heartbeat_due_ns {
            self.send_heartbeat(peer);
        }
        Ok(())
    }

    /// Of two heartbeats that overtake each other, on different ways, the one that was sent later says how the disk is.
    fn note_disk(&mut self, peer: usize, heartbeat: &Heartbeat) {
        let peer = &mut self.peers[peer];
        if heartbeat.sent_ns < peer.beat_sent_ns {
            return;
        }
        peer.beat_sent_ns = heartbeat.sent_ns;
        peer.disk_full = heartbeat.full;
        if heartbeat.full {
            peer.well_ns = peer.well_ns.max(self.now_ns);
        }
    }

    fn heartbeat_of(&self, sent_ns: u64) -> Heartbeat {
        let full = self.writer.starved().is_some();
        Heartbeat { sent_ns, wal_sequence: self.writer.durable_through(), full, support: 0 }
    }

    /// When this shard next needs its clock; 0 while anything is under way: then it looks at every tick. What is not
    /// thought of here waits for the next tick of an idle shard, which comes in any case.
    pub(crate) fn next_tick_ns(&self) -> u64 {
        if self.is_busy() {
            return 0;
        }
        let peers = self.peers.iter().flat_map(|peer| {
            let lost = (!peer.lost).then_some(peer.beat_ns + super::PEER_LOST_NS);
            lost.into_iter().chain(peer.connection.map(|_| peer.heartbeat_due_ns))
        });
        peers.chain(self.elections.next_ns()).chain(self.quiet_mark_ns()).min().unwrap_or(u64::MAX)
    }

    fn is_busy(&self) -> bool {
        let groups = !self.dirty.is_empty() || !self.beating.is_empty() || self.elections.is_any_due();
        let waits = self.in_pipe.slots > 0
            || self.points.waiting() > 0
            || self.large.waiting() + self.large.gathers() > 0
            || [&self.changing, &self.waiting].iter().any(|list| !list.is_empty());
        let log = self.writer.open_generation().is_none()
            || self.writer.starved().is_some()
            || !self.frames.filling.is_empty()
            || !self.frames.flying.is_empty()
            || !self.reads.is_empty();
        let orders = self.transfers.is_any() || !self.trim_orders.is_empty() || self.made.is_any_order();
        let votes = self.votes_from_ns.is_some();
        self.stopping
            || groups
            || waits
            || log
            || orders
            || votes
            || self.producers.are_any()
            || self.moves.is_any()
            || self.pace.is_any()
    }
}
