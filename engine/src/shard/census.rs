//! How full every queue of a shard is, next to its bound, for a simulator to compare.

use super::{CLOSED_HANDLES_MAX, Shard};
use crate::limits::*;
use crate::simulation::Bound;
use synod_transport::frame::FRAME_BODY_BYTES_MAX;
use synod_wal::writer::FRAMES_IN_FLIGHT_MAX;

/// Beyond the window: what older leaders left behind may be adopted with an epoch start behind it, again and again.
const ADOPTED_SLOTS_MAX: u64 = 64;

impl Shard {
    /// The census, after a turn.
    pub(crate) fn census(&self) -> [Bound; 22] {
        let bound = |name, value: usize, max: usize| Bound { name, value: value as u64, max: max as u64 };
        let most = |of: &dyn Fn(&super::Group) -> usize| self.groups.iter().map(of).max().unwrap_or(0);
        let unchosen = |group: &super::Group| {
            let log = group.replica.log();
            (log.last().0 - log.chosen().0) as usize
        };
        let votes = self.frames.filling.iter().map(|f| f.waits.votes.len()).sum::<usize>()
            + self.frames.flying.iter().map(|f| f.waits.votes.len()).sum::<usize>();
        let outbox = self.peers.iter().map(|peer| peer.outbox.queued_bytes()).max().unwrap_or(0);
        let unsent = self.peers.iter().map(super::links::Peer::unsent_bytes).max().unwrap_or(0);
        // A frame's worth of records per message of a peer may come in above the bound at which no more are taken.
        let memory = self.memory.full_bytes() + self.memory.replaced_bytes + FRAME_BODY_BYTES_MAX as usize;
        [
            bound("outbox bytes", outbox, 2 * PEER_OUTBOX_BYTES_MAX),
            bound("unsent bytes after a turn", unsent, FRAME_BODY_BYTES_MAX as usize),
            bound("log memory bytes", self.frames.bytes_in_use(), memory),
            bound("frames in flight", self.frames.flying.len(), FRAMES_IN_FLIGHT_MAX),
            bound("votes that wait", votes, VOTES_MIN + self.groups.len() * self.peers.len() * VOTES_PER_PEER),
            bound("unchosen slots", most(&unchosen), (WINDOW_SLOTS + ADOPTED_SLOTS_MAX) as usize),
            bound("slots in flight", most(&|group| group.pending.len()), WINDOW_SLOTS as usize),
            bound("open batch bytes", most(&|group| group.open_bytes), GROUP_QUEUE_BYTES_MAX),
            bound("large entries that wait", self.large.waiting(), LARGE_ENTRIES_MAX),
            bound("entries being put together", self.large.gathers(), self.groups.len() + LARGE_READS_MAX),
            bound("timers", self.elections.timers(), self.groups.len()),
            bound("elections under way", self.elections.running(), self.elections.max),
            bound("requests for chosen values that wait", self.pace.waiting(), self.groups.len()),
            bound("requests for chosen values under way", self.pace.under_way(), super::pace::REQUESTS_MAX),
            bound("checksums that differ", most(&|group| group.agreement.claims()), self.peers.len()),
            bound("refused handles", self.closed_handles.len(), CLOSED_HANDLES_MAX),
            bound("reads of the disk", self.reads.len(), READS_MAX),
            bound("reads of a known age", self.points.waiting(), POINT_READS_MAX),
            bound("reads of checkpoints", self.transfers_under_way(), super::catch_up::TRANSFER_READS_MAX),
            bound("checkpoints kept", most(&|group| group.checkpoints.kept.len()), 3),
            bound("outcomes untold", self.completions.len(), 0),
            bound("index bytes", self.index_bytes(), 2 * self.index_bytes_max + (1 << 20)),
        ]
    }
}

/// Votes that may wait at two frames in flight and two that are being filled, for each group and peer: a promise with its
/// reports, an acknowledgement and a Prepare, and as many again before the replaced ones go.
const VOTES_PER_PEER: usize = 4 * 2 * (3 + (WINDOW_SLOTS + ADOPTED_SLOTS_MAX) as usize);
/// Short lists of votes are left alone.
const VOTES_MIN: usize = 4 * 256;
impl Shard {
    /// Why the oldest segment of a log that refuses proposals is still there, for a failure's description.
    pub(crate) fn why_kept(&self) -> Option<String> {
        if !self.writer.bytes_over_limit() && self.writer.starved().is_none() {
            return None;
        }
        let oldest = self.writer.oldest()?;
        let slots: std::collections::HashMap<u128, u64> = self.index.segment_slots(oldest.generation).collect();
        let newer = self.newer_summaries(oldest.generation);
        let summaries: Vec<u64> = self.summaries.iter().map(|(of, _)| *of).collect();
        let held = self.groups.iter().enumerate().filter_map(|(at, group)| {
            let slot = slots.get(&group.names.uid).copied().unwrap_or(0);
            let gone = group.gone.0.max(slot);
            let newest = self.summaries.back().map_or(0, |(_, slots)| slots.get(at).copied().flatten().map_or(0, |slot| slot.0));
            let (low, consumed, covered) = (group.replica.low().0, group.consumed().0, group.checkpoints.slot().0);
            let why = self.keeps(at, oldest.generation, &slots, &newer);
            why.map(|why| {
                let id = group.names.id;
                let progress = group.replica.progress();
                let (leader, last, timer) = (group.replica.leader(), group.replica.log().last().0, group.replica.timer());
                format!("group {id} {why:?} checkpoint {covered} {progress:?} {leader:?} {last} {timer:?} beats {:?} slot {slot} low {low} gone {gone} summary {newest} consumed {consumed}", group.beats)
            })
        });
        let held = held.take(2).collect::<Vec<_>>().join(", ");
        Some(format!(
            "refuses; segment {} sealed {}, {} summaries: {held}",
            oldest.generation,
            oldest.sealed,
            summaries.len()
        ))
    }
}

/// What peers and machines may have asked of a disk that hangs: every group once a learn timeout and peer.
const READS_MAX: usize = 4096;
