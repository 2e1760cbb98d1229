//! Phase 2: a leader proposes, counts cumulative acknowledgements and announces what is chosen.
//!
//! Invariants: all slots from `first` on are proposed at one ballot; proposals are taken only when all that was
//! adopted and the epoch start behind it are chosen by votes at that ballot; the leader's own vote counts only when
//! its own record is durable.
//!
//! *Witnesses* vote and keep no payloads: they are sent stubs. So that no stub is left without its payload when one voter is
//! lost, they only stand in for others: a witness is sent a slot when as many voters that keep payloads as choose have
//! acknowledged it, or all of them that are not away, and at least one; and no slot is chosen before that.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::action::{Action, Record, RecordSeq};
use crate::configuration::{Configuration, Electorate};
use crate::ids::{Ballot, MemberId, Slot};
use crate::marks::{Mark, mark};
use crate::message::Message;
use crate::planted::{Bug, is};
use crate::replica::{Out, Replica, Role, VOTERS_MAX};
use crate::value::{Body, Payload, Value};

/// Timeouts in a row without any progress after which a leader gives up.
const STALLS_MAX: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Flow {
    /// Accepts go out as they are proposed.
    Streaming,
    /// The connection is down or full.
    Paused,
    /// The peer needs what is before this ballot or no longer in memory here: it asks for it by itself.
    CatchingUp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Peer {
    acked: Slot,
    stable: Slot,
    next: Slot,
    flow: Flow,
    /// It keeps no payloads.
    witness: bool,
    /// It keeps payloads, and cannot be waited for: witnesses stand in for it.
    away: bool,
}

/// A leader's state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Leader {
    pub(crate) ballot: Ballot,
    /// Whether proposals are taken.
    pub(crate) open: bool,
    first: Slot,
    epoch_start: Slot,
    /// The configuration to propose when nothing is in flight.
    pub(crate) next: Option<Box<Configuration>>,
    /// A configuration was proposed: nothing may follow it at this ballot.
    pub(crate) last: bool,
    /// The last slot proposed at this ballot. While the adopted values are proposed again, the log may hold more,
    /// accepted at older ballots: what was not proposed at this ballot is never sent at it.
    proposed: Slot,
    peers: Vec<Peer>,
    /// The own votes that are not durable yet: record, slot, and the chosen prefix that the record bears.
    own: VecDeque<(RecordSeq, Slot, Slot)>,
    unchosen_bytes: u64,
    announced: (Slot, Slot),
    chosen_at_timeout: Slot,
    stalls: u32,
}

impl Leader {
    pub(crate) fn new(ballot: Ballot, first: Slot, electorate: &Electorate) -> Self {
        let peer = |member: &MemberId| Peer {
            // What is below `first` is chosen, so all count as having acknowledged it.
            acked: first.prev(),
            stable: Slot::ZERO,
            next: first,
            flow: Flow::Streaming,
            witness: electorate.is_witness(*member),
            away: false,
        };
        Self {
            ballot,
            open: false,
            first,
            epoch_start: first,
            next: None,
            last: false,
            proposed: first.prev(),
            peers: electorate.voters.iter().map(peer).collect(),
            own: VecDeque::new(),
            unchosen_bytes: 0,
            announced: (Slot::ZERO, Slot::ZERO),
            chosen_at_timeout: first.prev(),
            stalls: 0,
        }
    }

    pub(crate) fn commit_message<P>(&self, chosen: Slot, low: Slot) -> Message<P> {
        Message::Commit { ballot: self.ballot, first: self.first, chosen, low, stalled: self.stalls > 0 }
    }

    /// Whether proposals are taken: what was adopted is chosen, and no change of the configuration is under way.
    pub(crate) fn takes_proposals(&self) -> bool {
        self.open && self.next.is_none() && !self.last
    }

    pub(crate) fn pause(&mut self, index: usize) {
        self.peers[index].flow = Flow::Paused;
        self.peers[index].away = true;
    }

    /// The highest slot that a quorum has acknowledged.
    fn quorum_acked(&self, quorum: usize) -> Slot {
        if is(Bug::SameVoteCountsTwice) {
            return self.acked_by((quorum - 1).max(1), |_| true);
        }
        let acked = self.acked_by(quorum, |_| true);
        if is(Bug::WitnessesAloneChoose) && self.peers.iter().any(|peer| peer.witness) {
            return acked.max(self.acked_by(1, |peer| peer.witness));
        }
        acked.min(self.borne(quorum))
    }

    /// The highest slot that so many of the voters that `counts` is true of have acknowledged.
    fn acked_by(&self, voters: usize, counts: impl Fn(&Peer) -> bool) -> Slot {
        let mut acked = [Slot::ZERO; VOTERS_MAX];
        let mut len = 0;
        for peer in self.peers.iter().filter(|peer| counts(peer)) {
            acked[len] = peer.acked;
            len += 1;
        }
        acked[..len].sort_unstable_by(|a, b| b.cmp(a));
        acked[voters - 1]
    }

    /// The highest slot whose payload enough voters keep: as many as choose, or all that are not away, and at least one. Only
    /// up to there witnesses are sent anything, and slots are chosen.
    fn borne(&self, quorum: usize) -> Slot {
        let here = self.peers.iter().filter(|peer| !peer.witness && !peer.away).count();
        self.acked_by(here.clamp(1, quorum), |peer| !peer.witness)
    }

    /// Up to where a peer is to be sent what was proposed.
    fn to_send(&self, peer: &Peer, quorum: usize) -> Slot {
        if peer.witness && !is(Bug::WitnessesAloneChoose) {
            self.proposed.min(self.borne(quorum))
        } else {
            self.proposed
        }
    }
}

impl<P: Payload> Replica<P> {
    /// Begins to lead: proposes again what was adopted, then the epoch start.
    pub(crate) fn lead(&mut self, leader: Leader, adopted: Vec<Value<P>>, out: Out<'_, P>) {
        let ballot = leader.ballot;
        self.following = None;
        self.role = Role::Leader(leader);
        out.push(Action::Elected { ballot });
        out.push(Action::RestartTimer);
        let mut slot = self.log().chosen();
        for value in adopted {
            slot = slot.next();
            self.leader_mut().last = matches!(value.body, Body::Configuration(_));
            self.propose_at(slot, value, out);
        }
        if self.leader_mut().last {
            // The epoch start comes under the configuration, once it is chosen.
            return;
        }
        slot = slot.next();
        self.leader_mut().epoch_start = slot;
        self.propose_at(slot, Value { origin: ballot, body: Body::EpochStart }, out);
        assert!(slot == self.log().last(), "the epoch start ends what was adopted");
    }

    /// Of a leader: how far each voter, in the order of [`Replica::members`], has acknowledged, and up to where its
    /// durable log bears what is chosen.
    pub fn progress(&self) -> Vec<(Slot, Slot)> {
        match &self.role {
            Role::Leader(leader) => leader.peers.iter().map(|peer| (peer.acked, peer.stable)).collect(),
            Role::Candidate(_) | Role::Follower => Vec::new(),
        }
    }

    /// Whether [`Replica::propose`] would take a batch now.
    pub fn can_propose(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let unchosen = self.log().last().0 - self.log().chosen().0;
        leader.takes_proposals()
            && unchosen < self.config.window_slots
            && leader.unchosen_bytes < self.config.window_bytes
    }

    /// Proposes a batch in the next slot.
    ///
    /// # Panics
    /// When [`Replica::can_propose`] is false.
    pub fn propose(&mut self, payload: P, out: Out<'_, P>) -> Slot {
        assert!(self.can_propose(), "the caller asks first");
        let slot = self.log().last().next();
        let origin = self.leader_mut().ballot;
        self.propose_at(slot, Value { origin, body: Body::Batch(payload) }, out);
        slot
    }

    pub(crate) fn propose_at(&mut self, slot: Slot, value: Value<P>, out: Out<'_, P>) {
        let leader = self.leader_mut();
        let (ballot, first) = (leader.ballot, leader.first);
        assert!(slot == leader.proposed.next(), "slots are proposed in order");
        leader.proposed = slot;
        leader.unchosen_bytes += value.bytes();
        self.acceptor.accept(ballot, slot, value.clone());
        let seq = self.persist(Record::Accept { slot, ballot, first, value }, out);
        let chosen = self.log().chosen();
        self.leader_mut().own.push_back((seq, slot, chosen));
        if is(Bug::OwnVoteCountsEarly) {
            let me = self.electorate.index_of(self.electorate.own());
            self.leader_mut().peers[me].acked = slot;
        }
        for index in 0..self.electorate.voters.len() {
            self.pump(index, out);
        }
    }

    /// Sends a peer what it has not been sent.
    fn pump(&mut self, index: usize, out: Out<'_, P>) {
        let to = self.electorate.voters[index];
        if Some(to) == self.electorate.me {
            return;
        }
        let (log, chosen, low) = (&self.acceptor.log, self.acceptor.log.chosen(), self.low);
        let quorum = self.electorate.quorums.phase_2;
        let Role::Leader(leader) = &mut self.role else { return };
        let (ballot, first) = (leader.ballot, leader.first);
        let to_send = leader.to_send(&leader.peers[index], quorum);
        let peer = &mut leader.peers[index];
        if peer.flow != Flow::Streaming {
            return;
        }
        if peer.next < first || peer.next <= log.floor() {
            mark(Mark::PeerCatchesUp);
            // Tell it what is chosen; it asks for what it lacks.
            (peer.flow, peer.away) = (Flow::CatchingUp, true);
            out.push(Action::Send { to, message: leader.commit_message(chosen, low) });
            return;
        }
        let last = if is(Bug::UnproposedIsSent) { log.last() } else { to_send };
        while peer.next <= last {
            let slot = peer.next;
            let value = &log.get(slot).expect("the log is contiguous").value;
            let value = if peer.witness { value.stub() } else { value.clone() };
            peer.next = slot.next();
            out.push(Action::Send { to, message: Message::Accept { ballot, first, slot, chosen, value } });
        }
    }

    /// Goes back to the slot behind what a peer has acknowledged.
    fn rewind(&mut self, index: usize, next: Slot, out: Out<'_, P>) {
        let leader = self.leader_mut();
        let proposed = leader.proposed;
        let peer = &mut leader.peers[index];
        peer.next = next.min(proposed.next());
        peer.flow = Flow::Streaming;
        self.pump(index, out);
    }

    pub(crate) fn on_peer_connected(&mut self, member: MemberId, out: Out<'_, P>) {
        let index = self.electorate.index_of(member);
        // It may not know who leads.
        let (chosen, low) = (self.log().chosen(), self.low);
        let message = self.leader_mut().commit_message(chosen, low);
        out.push(Action::Send { to: member, message });
        let next = self.leader_mut().peers[index].acked.next();
        self.rewind(index, next, out);
    }

    pub(crate) fn on_expected(&mut self, from: MemberId, ballot: Ballot, next: Slot, out: Out<'_, P>) {
        let index = self.electorate.index_of(from);
        let Role::Leader(leader) = &mut self.role else { return };
        let peer = &leader.peers[index];
        if leader.ballot == ballot && peer.flow != Flow::Paused && next < peer.next {
            mark(Mark::ExpectedRewinds);
            self.rewind(index, next, out);
        }
    }

    pub(crate) fn on_accepted(&mut self, from: MemberId, ballot: Ballot, up_to: Slot, stable: Slot, out: Out<'_, P>) {
        let index = self.electorate.index_of(from);
        let chosen = self.log().chosen();
        let Role::Leader(leader) = &mut self.role else { return };
        // An acknowledgement of another ballot says nothing of this one.
        if leader.ballot != ballot || up_to > leader.proposed {
            mark(Mark::AckStale);
            return;
        }
        let peer = &mut leader.peers[index];
        peer.acked = peer.acked.max(up_to);
        peer.stable = peer.stable.max(stable.min(chosen));
        peer.away &= peer.acked < chosen;
        let resume = peer.flow == Flow::CatchingUp;
        let next = peer.acked.next();
        self.update_low();
        self.count_votes(out);
        if resume && matches!(self.role, Role::Leader(_)) {
            mark(Mark::PeerResumes);
            self.rewind(index, next, out);
        }
    }

    pub(crate) fn own_durable(&mut self, seq: RecordSeq, out: Out<'_, P>) {
        let index = self.electorate.index_of(self.electorate.own());
        let leader = self.leader_mut();
        let mut advanced = false;
        while let Some((of, slot, chosen)) = leader.own.front().copied()
            && of <= seq
        {
            leader.own.pop_front();
            let own = &mut leader.peers[index];
            own.acked = own.acked.max(slot);
            own.stable = own.stable.max(chosen);
            advanced = true;
        }
        if advanced {
            self.update_low();
            self.count_votes(out);
        }
    }

    /// Chooses what a phase-2 quorum has durably accepted at this ballot, and lets witnesses have what others keep.
    fn count_votes(&mut self, out: Out<'_, P>) {
        self.choose_acknowledged(out);
        for index in 0..self.electorate.voters.len() {
            let Role::Leader(leader) = &self.role else { return };
            if leader.peers[index].witness {
                self.pump(index, out);
            }
        }
    }

    fn choose_acknowledged(&mut self, out: Out<'_, P>) {
        let quorum = self.electorate.quorums.phase_2;
        let chosen = self.log().chosen();
        let up_to = self.leader_mut().quorum_acked(quorum);
        if up_to <= chosen {
            return;
        }
        if quorum * 2 <= self.electorate.voters.len() {
            mark(Mark::ChosenByFew);
        }
        let full = |peer: &&Peer| !peer.witness && peer.acked >= up_to;
        if self.leader_mut().peers.iter().filter(full).count() < quorum {
            mark(Mark::ChosenWithWitness);
        }
        let bytes: u64 = (chosen.0 + 1..=up_to.0)
            .map(|slot| self.log().get(Slot(slot)).expect("the log is contiguous").value.bytes())
            .sum();
        self.leader_mut().unchosen_bytes -= bytes;
        self.choose(up_to, out);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.open |= up_to >= leader.epoch_start && !leader.last;
        self.propose_configuration(out);
    }

    fn update_low(&mut self) {
        let low = self.leader_mut().peers.iter().map(|p| p.stable).min().expect("a leader is a voter");
        self.low = self.low.max(low);
    }

    pub(crate) fn on_reject(&mut self, ballot: Ballot, promised: Ballot, out: Out<'_, P>) {
        if promised <= ballot || promised.round > self.round_seen.saturating_add(Ballot::ROUND_JUMP_MAX) {
            return;
        }
        self.round_seen = self.round_seen.max(promised.round);
        match &self.role {
            Role::Leader(leader) if leader.ballot == ballot => {
                mark(Mark::LeaderRejected);
                self.resign(ballot, out);
            }
            Role::Candidate(_) if self.promised() == ballot => {
                mark(Mark::CandidateRejected);
                self.role = Role::Follower;
                out.push(Action::RestartTimer);
            }
            _ => {}
        }
    }

    /// Leads no longer, and tells all voters by name.
    pub(crate) fn resign(&mut self, ballot: Ballot, out: Out<'_, P>) {
        self.role = Role::Follower;
        self.broadcast(&Message::Resign { ballot }, out);
        out.push(Action::SteppedDown { ballot });
        out.push(Action::RestartTimer);
    }

    pub(crate) fn on_progress_timeout(&mut self, out: Out<'_, P>) {
        let chosen = self.log().chosen();
        let leader = self.leader_mut();
        let progress = leader.chosen_at_timeout != chosen;
        leader.chosen_at_timeout = chosen;
        leader.stalls = if progress { 0 } else { leader.stalls + 1 };
        out.push(Action::RestartTimer);
        if leader.stalls > STALLS_MAX {
            mark(Mark::LeaderGivesUp);
            let ballot = leader.ballot;
            self.resign(ballot, out);
        } else if !progress {
            mark(Mark::ProgressStalled);
            // Something was lost on the way: send it again. Who has not even answered is not waited for.
            let own = self.electorate.me;
            for (index, member) in self.electorate.voters.iter().enumerate() {
                let Role::Leader(leader) = &mut self.role else { break };
                let peer = &mut leader.peers[index];
                peer.away |= Some(*member) != own && peer.acked <= chosen && !peer.witness;
            }
            self.count_votes(out);
            let (chosen, low) = (self.log().chosen(), self.low);
            let Role::Leader(leader) = &self.role else { return };
            // Who takes its time to catch up hurries then.
            let message = leader.commit_message(chosen, low);
            self.broadcast(&message, out);
            for index in 0..self.electorate.voters.len() {
                let leader = self.leader_mut();
                let peer = leader.peers[index];
                if peer.flow != Flow::Paused && peer.acked < leader.proposed {
                    self.rewind(index, peer.acked.next(), out);
                }
            }
        }
    }

    /// Announces what the peers have not been told, for a group that has gone quiet, and makes the own chosen prefix
    /// durable; `again` repeats what was told already, in case it was lost. Returns true once all voters' durable logs
    /// bear the whole chosen prefix: then the group is silent.
    pub fn heartbeat(&mut self, again: bool, out: Out<'_, P>) -> bool {
        if !self.electorate.witnesses.is_empty() && matches!(self.role, Role::Leader(_)) {
            // Someone may have gone away since, for whom they stand in.
            self.count_votes(out);
        }
        let (chosen, low) = (self.log().chosen(), self.low);
        let Role::Leader(leader) = &mut self.role else { return true };
        if again {
            mark(Mark::AnnouncedAgain);
        }
        if again || leader.announced != (chosen, low) {
            leader.announced = (chosen, low);
            let message = leader.commit_message(chosen, low);
            self.broadcast(&message, out);
        }
        if self.chosen_recorded < chosen {
            let seq = self.persist(Record::Chosen, out);
            // The own votes are durable up to here once this record is.
            let leader = self.leader_mut();
            leader.own.push_back((seq, leader.proposed, chosen));
        }
        low == chosen && self.log().last() == chosen
    }

    /// Appends a vote again, as it is: the part of the log that holds it is to go. It is the same vote, so nothing else
    /// changes.
    ///
    /// # Panics
    /// When the slot is chosen, or holds nothing.
    pub fn append_again(&mut self, slot: Slot, out: Out<'_, P>) {
        assert!(slot > self.log().chosen(), "what is chosen is not voted for");
        let entry = self.log().get(slot).expect("the caller has seen that it is there");
        let (ballot, value) = (entry.accepted, entry.value.clone());
        assert!(ballot <= self.promised(), "an accept at {ballot} promises it");
        let first = match &self.role {
            // The record may be sent again from where it lies now: with another first slot, its receiver would take the
            // slots before it for acknowledged.
            Role::Leader(leader) if leader.ballot == ballot => leader.first,
            // Nobody but the leader of a ballot sends its Accepts.
            _ => slot,
        };
        self.persist(Record::Accept { slot, ballot, first, value }, out);
    }

    pub(crate) fn leader_mut(&mut self) -> &mut Leader {
        match &mut self.role {
            Role::Leader(leader) => leader,
            Role::Candidate(_) | Role::Follower => unreachable!("only a leader gets here"),
        }
    }
}
