//! Handing leadership over, because someone asks for it or because a preferred node is well again.
//!
//! The leader stops proposing; what comes meanwhile waits in the group's open batches. Once the other has acknowledged
//! all and all is chosen, the leader gives up its lease for the rest of its ballot and orders the other to campaign at
//! once. If nobody leads at another ballot in time, it goes on proposing, without a lease.

use synod_core::Ballot;

use super::Shard;
use super::group::OpenBatch;
use crate::client::protocol::{RejectionV1, ReplyV1};
use crate::marks::{Mark, mark};
use crate::outcome::{GroupId, NodeId};

/// So often an order is repeated.
const ORDER_AGAIN_NS: u64 = 100_000_000;
/// So often it is looked whether groups should go to nodes that prefer them.
const HOME_NS: u64 = 250_000_000;
/// A node that prefers a group gets it back when it was well for so long.
const WELL_NS: u64 = 5_000_000_000;
/// After a try that failed, a node is left alone for so long.
const UNWELL_NS: u64 = 30_000_000_000;
/// How long a try to give a group back may take: its proposals wait.
const HOME_TRY_NS: u64 = 500_000_000;
/// So many groups are given back at once, per shard, at first: a node that is not well after all fails few.
const HOME_GROUPS_MIN: usize = 4;
/// Twice as many each time that all went well, up to so many.
const HOME_GROUPS_MAX: usize = 256;
/// A node that lags by more slots is not tried.
const HOME_LAG_MAX: u64 = 64;

/// Why leadership was not handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead the group.
    #[error("this node does not lead the group{}: ask its leader", match leader { Some(l) => format!("; node {l} does"), None => String::new() })]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// There is no such group.
    #[error("there is no group {0} on this node")]
    UnknownGroup(GroupId),
    /// That node keeps no entries.
    #[error("node {0} is a witness, which never leads: hand the group to another")]
    Witness(NodeId),
    /// That node has no vote in the group, or no connection to this one.
    #[error("node {0} has no vote in the group now, or no connection to its leader: see `synod status`")]
    NotReady(NodeId),
    /// The group is being handed over already.
    #[error("the group is being handed over already: wait for that")]
    Busy,
    /// The other did not take over in time; this node leads on.
    #[error("the other node did not take over in time: it lags or cannot be reached; this node leads on")]
    TimedOut,
    /// The node is stopping, or its mailbox is full.
    #[error("the node is stopping or overloaded")]
    Stopping,
}

/// What a caller is told with.
pub(crate) type TransferReply = Box<dyn FnOnce(Result<(), TransferError>) + Send>;

/// Who is told how it went.
enum Teller {
    /// Nobody: this node does it by itself.
    Nobody,
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(TransferReply),
}

/// A group that is being handed over.
pub(crate) struct Transfer {
    peer: usize,
    ballot: Ballot,
    until_ns: u64,
    ordered_ns: Option<u64>,
    teller: Teller,
}

/// The groups of a shard that are being handed over.
#[derive(Debug)]
pub(crate) struct Transfers {
    groups: Vec<u32>,
    home_due_ns: u64,
    /// Groups that this node leads and another prefers, some of them perhaps no longer.
    strays: Vec<u32>,
    /// So many may be given back at once now.
    home_groups: usize,
    /// As many were, the last time.
    home_full: bool,
}

impl Default for Transfers {
    fn default() -> Self {
        Self { groups: Vec::new(), home_due_ns: 0, strays: Vec::new(), home_groups: HOME_GROUPS_MIN, home_full: false }
    }
}

impl Transfers {
    /// Whether a group is being handed over.
    pub(super) fn is_any(&self) -> bool {
        !self.groups.is_empty()
    }
}

impl Shard {
    /// Hands a group over to another node.
    pub(crate) fn transfer(&mut self, id: GroupId, to: NodeId, timeout_ns: u64, reply: TransferReply) {
        self.transfer_and_tell(id, to, timeout_ns, Teller::Callback(reply));
    }

    /// The same for a client's request.
    pub(super) fn transfer_for_client(&mut self, id: GroupId, to: NodeId, timeout_ns: u64, asked: (u64, u64)) {
        self.transfer_and_tell(id, to, timeout_ns, Teller::Client(asked.0, asked.1));
    }

    fn transfer_and_tell(&mut self, id: GroupId, to: NodeId, timeout_ns: u64, teller: Teller) {
        let refused = match self.group_at(id) {
            None => Err(TransferError::UnknownGroup(id)),
            Some(_) if self.stopping => Err(TransferError::Stopping),
            Some(at) => match self.begin_transfer(at, to, timeout_ns) {
                Ok(true) => {
                    let transfer = self.groups[at as usize].transfer.as_mut().expect("it has just begun");
                    transfer.teller = teller;
                    return;
                }
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
        };
        self.tell(teller, refused);
    }

    fn tell(&mut self, teller: Teller, end: Result<(), TransferError>) {
        match teller {
            Teller::Nobody => {}
            Teller::Client(connection, request) => self.reply(connection, request, &transfer_reply(end)),
            Teller::Callback(reply) => reply(end),
        }
    }

    /// False when there is nothing to do.
    fn begin_transfer(&mut self, at: u32, to: NodeId, timeout_ns: u64) -> Result<bool, TransferError> {
        let group = &self.groups[at as usize];
        let Some(ballot) = group.replica.epoch() else {
            return Err(TransferError::NotLeader { leader: self.leader_of(at) });
        };
        if to == self.node {
            return Ok(false);
        }
        if group.transfer.is_some() {
            return Err(TransferError::Busy);
        }
        if self.made.maker.config.is_witness(to) {
            return Err(TransferError::Witness(to));
        }
        let ready =
            |peer: &usize| self.peers[*peer].connection.is_some() && self.address(at, *peer).outsider_peer().is_none();
        let peer = self.peers.iter().position(|peer| peer.node == to).filter(ready);
        let peer = peer.ok_or(TransferError::NotReady(to))?;
        let until_ns = self.now_ns.saturating_add(timeout_ns);
        self.groups[at as usize].transfer =
            Some(Transfer { peer, ballot, until_ns, ordered_ns: None, teller: Teller::Nobody });
        self.transfers.groups.push(at);
        Ok(true)
    }

    /// Gives a group's leadership up; another is elected. False when this node does not lead it.
    pub(crate) fn resign(&mut self, id: GroupId) -> bool {
        let Some(at) = self.group_at(id) else { return false };
        let leads = self.groups[at as usize].replica.epoch().is_some();
        if leads {
            // It does not stand again before others had their chance.
            self.prefers[at as usize] = 0;
            self.act(at, &[], |r, out| r.quorum_lost(out));
        }
        leads
    }

    /// Looks how the groups stand that are being handed over: once a turn.
    pub(super) fn step_transfers(&mut self) {
        for at in std::mem::take(&mut self.transfers.groups) {
            match self.step_transfer(at) {
                None => self.transfers.groups.push(at),
                Some(end) => self.end_transfer(at, end),
            }
        }
    }

    fn step_transfer(&mut self, at: u32) -> Option<Result<(), TransferError>> {
        let now_ns = self.now_ns;
        let group = &self.groups[at as usize];
        let Transfer { peer, ballot, until_ns, ordered_ns, .. } = group.transfer.as_ref().expect("it is in the list");
        let (peer, ordered_ns) = (*peer, *ordered_ns);
        let expired = *until_ns <= now_ns;
        if group.replica.epoch() != Some(*ballot) {
            let leader = self.leader_of(at);
            return match leader {
                Some(node) if node == self.peers[peer].node => Some(Ok(())),
                None if !expired => None,
                leader => Some(Err(TransferError::NotLeader { leader })),
            };
        }
        if expired {
            mark(Mark::TransferFailed);
            return Some(Err(TransferError::TimedOut));
        }
        let member = self.address(at, peer);
        let due = ordered_ns.is_none_or(|since| since + ORDER_AGAIN_NS <= now_ns);
        // An entry of which parts are proposed comes to its end first.
        let cuts = group.open.front().is_some_and(OpenBatch::has_begun);
        if due && !cuts && group.replica.lags(member) == Some(0) {
            // From here on another may lead at any time.
            self.give_up_lease(at);
            self.act(at, &[], |r, out| r.order(member, out));
            if let Some(transfer) = &mut self.groups[at as usize].transfer {
                transfer.ordered_ns = Some(now_ns);
            }
        }
        None
    }

    fn end_transfer(&mut self, at: u32, end: Result<(), TransferError>) {
        let Some(Transfer { peer, teller, .. }) = self.groups[at as usize].transfer.take() else { return };
        if end.is_ok() {
            mark(Mark::Transferred);
        } else {
            (self.transfers.home_groups, self.transfers.home_full) = (HOME_GROUPS_MIN, false);
            self.peers[peer].well_ns = self.now_ns + UNWELL_NS - WELL_NS;
        }
        tracing::debug!(group = self.groups[at as usize].names.id, to = self.peers[peer].node, ?end, "handed over");
        self.tell(teller, end);
    }

    /// A group is no more.
    pub(super) fn forget_transfer(&mut self, at: u32, error: TransferError) {
        self.transfers.groups.retain(|of| *of != at);
        self.end_transfer(at, Err(error));
    }

    /// This node has been elected in a group that another may prefer.
    pub(super) fn note_stray(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        if group.preferred != 0 && group.preferred != self.node && !group.stray {
            group.stray = true;
            self.transfers.strays.push(at);
        }
    }

    /// Gives groups back to the nodes that prefer them: a few at a time, more when that goes well.
    pub(super) fn give_groups_home(&mut self) {
        if self.now_ns < self.transfers.home_due_ns || self.stopping || self.transfers.strays.is_empty() {
            return;
        }
        self.transfers.home_due_ns = self.now_ns + HOME_NS;
        if !(0..self.peers.len()).any(|peer| self.is_peer_well(peer)) {
            return;
        }
        if self.transfers.home_full && self.transfers.groups.is_empty() {
            // None of them has failed.
            self.transfers.home_groups = (2 * self.transfers.home_groups).min(HOME_GROUPS_MAX);
        }
        let (mut begun, most) = (self.transfers.groups.len(), self.transfers.home_groups);
        let mut strays = std::mem::take(&mut self.transfers.strays);
        strays.retain(|at| {
            if begun >= most {
                return true;
            }
            let group = &mut self.groups[*at as usize];
            if !group.replica.leads() || group.preferred == self.node {
                group.stray = false;
                return false;
            }
            let home = group.preferred;
            if self.is_well(*at, home) && self.begin_transfer(*at, home, HOME_TRY_NS) == Ok(true) {
                mark(Mark::GroupGoesHome);
                begun += 1;
            }
            true
        });
        self.transfers.home_full = begun >= most;
        strays.append(&mut self.transfers.strays);
        self.transfers.strays = strays;
    }

    /// Whether a node could lead a group of this leader at once.
    fn is_well(&self, at: u32, node: NodeId) -> bool {
        let Some(peer) = self.peers.iter().position(|peer| peer.node == node) else { return false };
        let member = self.address(at, peer);
        let lag = self.groups[at as usize].replica.lags(member);
        lag.is_some_and(|lag| lag <= HOME_LAG_MAX) && self.is_peer_well(peer)
    }

    fn is_peer_well(&self, peer: usize) -> bool {
        let peer = &self.peers[peer];
        peer.connection.is_some()
            && !peer.lost
            && !peer.disk_full
            && self.now_ns > peer.well_ns.saturating_add(WELL_NS)
            && self.now_ns < peer.answered_ns + super::PEER_LOST_NS
    }

    /// The node stops: it hands nothing over.
    pub(super) fn fail_transfers(&mut self) {
        for at in std::mem::take(&mut self.transfers.groups) {
            self.end_transfer(at, Err(TransferError::Stopping));
        }
    }
}

/// The reply to a client's request.
pub(crate) fn transfer_reply(end: Result<(), TransferError>) -> ReplyV1 {
    match end {
        Ok(()) => ReplyV1::Done,
        Err(TransferError::NotLeader { leader }) => {
            ReplyV1::Rejected { rejection: RejectionV1::NotLeader, leader: leader.unwrap_or(0) }
        }
        Err(error) => ReplyV1::Failed { text: error.to_string() },
    }
}
