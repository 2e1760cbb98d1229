//! The connections of a shard: what goes out to each peer, and when each was last heard.

use std::rc::Rc;

use synod_transport::frame::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, encode_frame};
use synod_transport::outbox::{Chunk, Outbox};
use synod_wal::frame::SharedFrame;

use super::lane::PeerLane;
use super::support::{Granted, Support};
use crate::homes::Names;
use crate::limits::PEER_OUTBOX_BYTES_MAX;
use crate::wire::{ACKS, Ack, RECORDS};

/// A sealed frame of the log as an outbox refers to it.
#[derive(Clone, Debug)]
pub(crate) struct FrameRef(pub(crate) Rc<SharedFrame>);

impl AsRef<[u8]> for FrameRef {
    fn as_ref(&self) -> &[u8] {
        self.0.sealed_bytes()
    }
}

/// A run of records that goes to a peer in order.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Records in a frame of the log.
    Shared(Rc<SharedFrame>, u32, u32),
    /// Records encoded for this peer.
    Owned(Vec<u8>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Shared(_, start, end) => (end - start) as usize,
            Self::Owned(bytes) => bytes.len(),
        }
    }
}

/// The outbox of one connection.
pub(crate) type Outgoing = Outbox<FrameRef>;

/// One peer's shard.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: u64,
    /// The id of the log that the connection belongs to; 0 before the first.
    pub(crate) log: u128,
    /// The replicas that the groups in that log are.
    pub(crate) names: Names,
    /// Whether there was a connection since the start.
    pub(crate) met: bool,
    /// Its disk has no room for more of its log.
    pub(crate) disk_full: bool,
    /// The end of its log behind the votes that came from this replica.
    pub(crate) log_end: u64,
    /// The connection, while there is one.
    pub(crate) connection: Option<u64>,
    /// Which start of the peer's process the connection belongs to.
    pub(crate) boot: u64,
    pub(crate) outbox: Outgoing,
    /// Where both ends take datagrams, the lane beside the connection.
    pub(crate) lane: Option<PeerLane>,
    /// When anything last came in over the connection.
    pub(crate) heard_ns: u64,
    /// When a heartbeat last came in: only that shows that the peer's clock, timers and log go on, so that it may lead.
    pub(crate) beat_ns: u64,
    /// When, on the peer's clock, the latest of these was sent.
    pub(crate) beat_sent_ns: u64,
    /// When it is asked again for its support.
    pub(crate) heartbeat_due_ns: u64,
    /// When the peer last answered a heartbeat.
    pub(crate) answered_ns: u64,
    /// Whether its silence has been noticed.
    pub(crate) lost: bool,
    /// A frame did not fit into the outbox: the groups' cursors wait until there is room.
    pub(crate) full: bool,
    /// The peer does not even take small messages: the connection must be closed.
    pub(crate) stuck: bool,
    /// What this voter grants the peer's leaders.
    pub(crate) granted: Granted,
    /// What the peer's voters grant the leaders here.
    pub(crate) support: Support,
    /// Since when it is well, as far as one can tell from here; it may lie ahead.
    pub(crate) well_ns: u64,
    control: Vec<u8>,
    acks: Vec<u8>,
    bulk: Vec<Part>,
    bulk_bytes: usize,
}

impl Peer {
    pub(crate) fn new(node: u64, granted: Granted) -> Self {
        Self {
            node,
            log: 0,
            names: Names::all(0),
            met: false,
            disk_full: false,
            log_end: 0,
            connection: None,
            boot: 0,
            outbox: Outgoing::new(PEER_OUTBOX_BYTES_MAX),
            lane: None,
            heard_ns: 0,
            beat_ns: 0,
            beat_sent_ns: 0,
            heartbeat_due_ns: 0,
            answered_ns: 0,
            lost: true,
            full: false,
            stuck: false,
            granted,
            support: Support::default(),
            well_ns: 0,
            control: Vec::new(),
            acks: Vec::new(),
            bulk: Vec::new(),
            bulk_bytes: 0,
        }
    }

    /// Forgets what was on its way: the connection is gone.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
        self.lane = None;
        self.beat_sent_ns = 0;
        self.full = false;
        self.stuck = false;
        self.outbox.clear();
        self.control.clear();
        self.acks.clear();
        self.bulk.clear();
        self.bulk_bytes = 0;
    }

    /// Queues a small record; it may overtake bulk ones. Nothing is queued while there is no connection.
    pub(crate) fn push_control(&mut self, append: impl FnOnce(&mut Vec<u8>), now_us: u64) {
        if self.connection.is_some() {
            append(&mut self.control);
            if self.control.len() > FRAME_BODY_BYTES_MAX as usize / 4 {
                self.flush_control(now_us);
            }
        }
    }

    /// Queues an acknowledgement, which rests on the own log up to `log_end`.
    pub(crate) fn push_ack(&mut self, ack: &Ack, log_end: u64, now_us: u64) {
        if self.connection.is_some() {
            ack.append(&mut self.acks);
            if self.acks.len() > FRAME_BODY_BYTES_MAX as usize / 4 {
                self.flush_acks(log_end, now_us);
            }
        }
    }

    /// Queues records that must come in order. False when the outbox has no room for them, or there is no connection.
    pub(crate) fn push_bulk(&mut self, part: Part, now_us: u64) -> bool {
        if self.connection.is_none() || self.full {
            return false;
        }
        if self.bulk_bytes + part.len() > FRAME_BODY_BYTES_MAX as usize && !self.flush_bulk(now_us) {
            return false;
        }
        self.bulk_bytes += part.len();
        // Records that lie side by side in the log go as one piece.
        if let (Some(Part::Shared(frame, _, end)), Part::Shared(next, start, next_end)) = (self.bulk.last_mut(), &part)
            && Rc::ptr_eq(frame, next)
            && end == start
        {
            *end = *next_end;
        } else {
            self.bulk.push(part);
        }
        true
    }

    /// Bytes that no wire frame holds yet.
    #[cfg(feature = "simulation")]
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.control.len() + self.acks.len() + self.bulk_bytes
    }

    fn flush_acks(&mut self, log_end: u64, now_us: u64) {
        if !self.acks.is_empty() {
            self.acks.splice(0..0, log_end.to_le_bytes());
            let frame = encode_frame(ACKS, 0, &self.acks);
            self.acks.clear();
            self.stuck |= self.outbox.push_control(frame, now_us).is_err();
        }
    }

    fn flush_control(&mut self, now_us: u64) {
        if !self.control.is_empty() {
            let header = self_checked(self.control.len());
            let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + self.control.len());
            frame.extend_from_slice(&header);
            frame.append(&mut self.control);
            self.stuck |= self.outbox.push_control(frame, now_us).is_err();
        }
    }

    fn flush_bulk(&mut self, now_us: u64) -> bool {
        if self.bulk.is_empty() {
            return true;
        }
        let mut chunks = Vec::with_capacity(self.bulk.len() + 1);
        chunks.push(Chunk::Owned(self_checked(self.bulk_bytes).to_vec()));
        chunks.extend(self.bulk.drain(..).map(|part| match part {
            Part::Shared(frame, start, end) => Chunk::Shared { bytes: FrameRef(frame), start, end },
            Part::Owned(bytes) => Chunk::Owned(bytes),
        }));
        self.bulk_bytes = 0;
        let fits = self.outbox.push_bulk(chunks, now_us).is_ok();
        self.full |= !fits;
        fits
    }

    /// Puts all that was queued in this turn into wire frames. False when the outbox has just become full.
    ///
    /// `log_end` is how far the own log is durable: all acknowledgements rest on it.
    pub(crate) fn flush(&mut self, now_us: u64, log_end: u64) -> bool {
        if self.connection.is_none() {
            return true;
        }
        self.flush_acks(log_end, now_us);
        self.flush_control(now_us);
        let was_full = self.full;
        self.flush_bulk(now_us) || was_full
    }
}

/// The header of a frame of records, which bear their own checksums.
fn self_checked(body_len: usize) -> [u8; FRAME_HEADER_BYTES] {
    FrameHeader::of_self_checked(RECORDS, 0, body_len).encode()
}

#[cfg(test)]
mod tests {
    use synod_core::{Ballot, MemberId, Slot};
    use synod_transport::frame::Decoder;

    use super::*;

    #[test]
    fn acknowledgements_of_very_many_groups_take_several_frames() {
        const GROUPS: u128 = 50_000;
        let mut peer = Peer::new(2, Granted::starting_at(7));
        peer.connection = Some(1);
        let ballot = Ballot { round: 1, member: MemberId(1) };
        for uid in 0..GROUPS {
            peer.push_ack(&Ack { uid, ballot, up_to: Slot(1), stable: Slot(0), wal_us: 3 }, 9, 1);
        }
        assert!(peer.flush(1, 9));
        let (mut sent, mut next) = (Vec::new(), 0);
        let taken: Result<bool, ()> = peer.outbox.flush_with(|slices| {
            slices.iter().for_each(|slice| sent.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        });
        assert_eq!(taken, Ok(true));
        let (mut decoder, mut frames, mut sent) = (Decoder::new(), 0, &sent[..]);
        while !sent.is_empty() {
            sent = &sent[decoder.push(sent)..];
            while let Some(frame) = decoder.next().unwrap() {
                let (log_end, acks) = Ack::decode_all(frame.body).unwrap();
                frames += 1;
                assert_eq!(log_end, 9);
                for ack in acks {
                    assert_eq!(ack.uid, next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, GROUPS);
        assert!((2..20).contains(&frames), "{frames} frames");
    }
}
