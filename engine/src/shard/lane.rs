//! Heartbeats and their answers as datagrams, beside the connection to a peer: they wait behind nothing that is
//! queued there.
//!
//! Off unless the driver has a socket for them. A shard that has one says so in its heartbeats over the connection; a
//! peer's that has one too then *offers* a lane, over the same connection: its port, and a token that it draws for
//! this connection. (Who knows no lanes overlooks the former, so never gets the latter.) From then on heartbeats go
//! both ways, until a datagram was answered; while datagrams are answered they are enough.
//!
//! Invariants: a lane ends with its connection, as this end sees it, and nothing with its token is taken in any more;
//! only what comes over the connection shows that the connection lives, so a heartbeat goes there once in
//! [`STREAM_NS`] at least; whatever came as a datagram could as well have come over the connection, late or a second
//! time.

use std::net::SocketAddr;

use synod_transport::datagram::Datagram;
use synod_transport::lane::{Lane, LaneOffer};

use super::Shard;
use crate::marks::{Mark, mark};
use crate::metrics::Datagrams;
use crate::outcome::NodeId;
use crate::wire::{HEARTBEAT, HEARTBEAT_ACK, Heartbeat, LANE, Malformed, TAKES_DATAGRAMS};

/// So often a heartbeat goes over the connection although datagrams are enough: it may be half open.
const STREAM_NS: u64 = 1_000_000_000;

const _: () = assert!(2 * STREAM_NS < super::PEER_SILENT_NS);

/// Draws a token that nobody can guess, never 0.
pub(crate) type DrawToken = Box<dyn FnMut() -> u128>;

/// The way by which a peer's frame has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Connection,
    Datagram,
}

/// A datagram for the driver to send: to the node at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) connection: u64,
    pub(crate) port: u16,
    pub(crate) bytes: Vec<u8>,
}

/// The lane beside one connection.
#[derive(Debug)]
pub(crate) struct PeerLane {
    lane: Lane,
    /// When a heartbeat last went over the connection.
    streamed_ns: u64,
    /// It was told that datagrams are not answered.
    told: bool,
}

/// What all lanes of a shard share.
#[derive(Default)]
pub(crate) struct Lanes {
    /// The driver's socket, if it has one: its port, and how tokens are drawn.
    socket: Option<(u16, DrawToken)>,
    /// What is to be sent in this turn.
    pub(crate) outgoing: Vec<Parcel>,
    counts: Datagrams,
}

impl Lanes {
    /// The driver takes datagrams at this port.
    pub(crate) fn open(&mut self, port: u16, draw_token: DrawToken) {
        self.socket = Some((port, draw_token));
    }

    /// What a heartbeat over a connection says of that.
    pub(super) fn announcement(&self) -> u64 {
        if self.socket.is_some() { TAKES_DATAGRAMS } else { 0 }
    }
}

impl Shard {
    /// Where another node listens.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.made.maker.config.members.iter().find(|member| member.node == node).map(|member| member.address)
    }

    /// How many datagrams went and came, and to how many peers they get through now.
    pub(crate) fn datagrams(&self) -> Datagrams {
        let carries = |peer: &&super::Peer| peer.lane.as_ref().is_some_and(|of| of.lane.carries());
        Datagrams { peers: self.peers.iter().filter(carries).count(), ..self.lanes.counts }
    }

    /// Tells a peer that takes datagrams where this shard does, once for each connection.
    pub(super) fn offer_lane(&mut self, peer: usize) {
        let Some((port, draw_token)) = &mut self.lanes.socket else { return };
        if self.peers[peer].lane.is_none() {
            let offer = LaneOffer { port: *port, token: draw_token() };
            self.peers[peer].lane = Some(PeerLane { lane: Lane::new(offer.token), streamed_ns: 0, told: false });
            self.push_frame(peer, LANE, &offer.encode());
        }
    }

    /// A peer has told where it takes datagrams.
    pub(super) fn on_lane_offer(&mut self, peer: usize, body: &[u8]) -> Result<(), Malformed> {
        let offer = LaneOffer::decode(body).ok_or(Malformed("the offer of a lane"))?;
        self.offer_lane(peer);
        if let Some(of) = &mut self.peers[peer].lane {
            of.lane.open(offer);
        }
        Ok(())
    }

    /// A datagram has come in, from wherever. Whether it was of use.
    pub(crate) fn on_datagram(&mut self, bytes: &[u8]) -> bool {
        let taken = Datagram::decode(bytes).ok().and_then(|datagram| self.take_datagram(&datagram));
        if taken.is_none() {
            mark(Mark::DatagramRefused);
            self.lanes.counts.refused += 1;
        }
        taken == Some(true)
    }

    /// `None`: it is none of a peer, or makes no sense. `Some(false)`: it came too late.
    fn take_datagram(&mut self, datagram: &Datagram<'_>) -> Option<bool> {
        let of_peer = |peer: &super::Peer| peer.lane.as_ref().is_some_and(|of| of.lane.token() == datagram.token);
        let peer = self.peers.iter().position(of_peer)?;
        let of = self.peers[peer].lane.as_mut().expect("it has this token");
        if !of.lane.take(datagram.sequence) {
            mark(Mark::DatagramStale);
            self.lanes.counts.stale += 1;
            return Some(false);
        }
        match datagram.kind {
            HEARTBEAT => self.on_heartbeat(peer, datagram.body, Way::Datagram).ok()?,
            HEARTBEAT_ACK => {
                let answer = Heartbeat::decode(datagram.body).ok()?;
                of.lane.answered();
                self.note_support(peer, answer.support, answer.sent_ns);
            }
            _ => return None,
        }
        self.lanes.counts.taken += 1;
        Some(true)
    }

    /// Sends a question by datagram, where there is a lane, and over the connection, unless the former is enough.
    pub(super) fn push_question(&mut self, peer: usize, body: &[u8]) {
        let asked = self.push_datagram(peer, HEARTBEAT, body);
        let now_ns = self.now_ns;
        if let Some(of) = &mut self.peers[peer].lane {
            let carried = of.lane.carries();
            let enough = asked && of.lane.ask();
            if carried && !enough {
                mark(Mark::LaneFellSilent);
            }
            if enough && now_ns < of.streamed_ns + STREAM_NS {
                return;
            }
            of.streamed_ns = now_ns;
        }
        self.push_frame(peer, HEARTBEAT, body);
    }

    /// Answers a question by the way by which it came.
    pub(super) fn push_answer(&mut self, peer: usize, body: &[u8], way: Way) {
        if way == Way::Connection || !self.push_datagram(peer, HEARTBEAT_ACK, body) {
            self.push_frame(peer, HEARTBEAT_ACK, body);
        }
    }

    /// False when the peer takes no datagrams.
    fn push_datagram(&mut self, peer: usize, kind: u8, body: &[u8]) -> bool {
        let peer = &mut self.peers[peer];
        let (Some(connection), Some(of)) = (peer.connection, &mut peer.lane) else { return false };
        let Some((port, bytes)) = of.lane.next(kind, body) else { return false };
        self.lanes.counts.sent += 1;
        self.lanes.outgoing.push(Parcel { connection, port, bytes });
        true
    }

    /// A peer has answered over the connection: it is well, and if it answers no datagrams, these do not get through.
    pub(super) fn note_silent_lane(&mut self, peer: usize) {
        let peer = &mut self.peers[peer];
        if let Some(of) = &mut peer.lane
            && of.lane.is_silent()
            && !std::mem::replace(&mut of.told, true)
        {
            tracing::warn!(peer = peer.node, "datagrams get no answer: heartbeats go over the connection as well");
        }
    }
}
