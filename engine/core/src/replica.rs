//! One replica of a group: the door of the core.
//!
//! Votes live in [`crate::acceptor`], elections in [`crate::election`], phase 2 in [`crate::leader`]; this file routes
//! inputs to them, keeps commit knowledge, and learns what was chosen without it.

use alloc::vec::Vec;

use crate::acceptor::Acceptor;
use crate::action::{Action, Record, RecordSeq};
use crate::configuration::{Configuration, Electorate, Quorums, Voter};
use crate::election::Candidate;
use crate::ids::{Ballot, MemberId, ReplicaId, Slot};
use crate::leader::Leader;
use crate::log::{Entry, Log};
use crate::marks::{Mark, mark};
use crate::message::{Message, Vote};
use crate::planted::{Bug, is};
use crate::value::{Payload, Value};

/// The most voters that a group can have.
pub const VOTERS_MAX: usize = 15;

/// What a replica is told at its start, besides its log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// This replica.
    pub replica: ReplicaId,
    /// Who votes at the beginning; empty when this is not known yet, or not to be known: then it votes only once a
    /// chosen configuration names it.
    pub genesis: Configuration,
    /// How many peers the caller has connections to: they are addressed by [`MemberId::outsider`] where they have no
    /// vote.
    pub peers: usize,
    /// How many slots may be proposed and not yet chosen.
    pub window_slots: u64,
    /// How many bytes may be proposed and not yet chosen; one more batch may start below this.
    pub window_bytes: u64,
}

/// What a replica's durable log says at a start.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recovered<P> {
    /// The highest ballot promised, by a promise or by an accept.
    pub promised: Ballot,
    /// Slots up to here are chosen, applied, and not handed over.
    pub floor: Slot,
    /// The last configuration chosen up to `floor`, if there was any.
    pub configuration: Option<Configuration>,
    /// The chosen prefix; at least `floor`.
    pub chosen: Slot,
    /// The values from `floor + 1` on, with the ballot at which each was accepted.
    pub entries: Vec<(Ballot, Value<P>)>,
}

impl<P> Default for Recovered<P> {
    fn default() -> Self {
        Self { promised: Ballot::ZERO, floor: Slot::ZERO, configuration: None, chosen: Slot::ZERO, entries: Vec::new() }
    }
}

/// The kind of timer that a replica wants armed. The caller chooses the durations, and draws those of
/// [`Timer::Election`] at random so that two candidates do not collide for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// None.
    Off,
    /// There is no leader, or an election is going on.
    Election,
    /// This replica leads and waits for its quorum.
    Progress,
    /// This replica has asked a peer for chosen values.
    Learn,
}

/// Where a follower stands towards its leader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Following {
    pub(crate) ballot: Ballot,
    pub(crate) first: Slot,
}

/// A request for chosen values under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Learning {
    pub(crate) from: MemberId,
    /// What is known to be chosen elsewhere.
    pub(crate) target: Slot,
    /// What was chosen here when it asked.
    pub(crate) since: Slot,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role<P> {
    Follower,
    Candidate(Candidate<P>),
    Leader(Leader),
}

/// One replica of one group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica<P> {
    pub(crate) config: Config,
    pub(crate) configuration: Configuration,
    /// The slot that holds it.
    pub(crate) configured_at: Slot,
    /// The voters of the configuration before it.
    pub(crate) former: Vec<Voter>,
    pub(crate) electorate: Electorate,
    pub(crate) acceptor: Acceptor<P>,
    pub(crate) role: Role<P>,
    pub(crate) following: Option<Following>,
    pub(crate) learning: Option<Learning>,
    /// Whom a replica without a vote asks next.
    pub(crate) peer_to_ask: usize,
    /// The highest round seen anywhere since the last try to lead.
    pub(crate) round_seen: u64,
    records: RecordSeq,
    /// The chosen prefix that the last record bears.
    pub(crate) chosen_recorded: Slot,
    /// Every voter's durable log bears at least this chosen prefix.
    pub(crate) low: Slot,
}

pub(crate) type Out<'a, P> = &'a mut Vec<Action<P>>;

impl<P: Payload> Replica<P> {
    /// A replica as its durable log describes it. It votes if the configuration names it; it has no leader yet.
    ///
    /// # Panics
    /// When `config` names no legal voters, or `recovered` contradicts itself: both are bugs of the caller.
    pub fn new(config: Config, recovered: Recovered<P>) -> Self {
        assert!(config.genesis.is_legal(), "at most {VOTERS_MAX} voters, each once");
        assert!(recovered.chosen >= recovered.floor);
        let mut log = Log::new(recovered.floor);
        for (accepted, value) in recovered.entries {
            assert!(accepted <= recovered.promised, "an accept at {accepted} promises it");
            assert!(config.replica.is_witness() || !value.is_stub(), "only a witness keeps no payloads");
            log.put(log.last().next(), Entry { accepted, value });
        }
        if recovered.chosen > log.chosen() {
            log.choose(recovered.chosen);
        }
        let configuration = recovered.configuration.unwrap_or_else(|| config.genesis.clone());
        let mut replica = Self {
            electorate: Electorate::new(&configuration, config.replica),
            configuration,
            configured_at: recovered.floor,
            former: Vec::new(),
            config,
            round_seen: recovered.promised.round,
            chosen_recorded: log.chosen(),
            acceptor: Acceptor::new(recovered.promised, log),
            role: Role::Follower,
            following: None,
            learning: None,
            peer_to_ask: 0,
            records: RecordSeq(0),
            low: Slot::ZERO,
        };
        // It does not lead, so nothing but its voters changes.
        replica.adopt_configurations(recovered.floor, &mut Vec::new());
        replica
    }

    /// The slots in memory.
    pub fn log(&self) -> &Log<P> {
        &self.acceptor.log
    }

    /// The highest ballot promised here.
    pub fn promised(&self) -> Ballot {
        self.acceptor.promised
    }

    /// The leader as this replica knows it, itself included.
    pub fn leader(&self) -> Option<Ballot> {
        match &self.role {
            Role::Leader(leader) => Some(leader.ballot),
            Role::Candidate(_) | Role::Follower => self.following.map(|f| f.ballot),
        }
    }

    /// Whether this replica leads, though perhaps without taking proposals yet.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The ballot that this replica leads and takes proposals at: its epoch.
    pub fn epoch(&self) -> Option<Ballot> {
        match &self.role {
            Role::Leader(leader) if leader.open || is(Bug::LeadersServeAtOnce) => Some(leader.ballot),
            _ => None,
        }
    }

    /// Every voter's durable log bears at least this chosen prefix, so nobody will ask for what is below.
    pub fn low(&self) -> Slot {
        self.low
    }

    /// The timer that this replica wants.
    pub fn timer(&self) -> Timer {
        match &self.role {
            _ if !self.votes() && self.config.peers == 0 => Timer::Off,
            _ if !self.votes() => Timer::Learn,
            Role::Leader(leader) if !leader.open || self.log().last() > self.log().chosen() => Timer::Progress,
            Role::Leader(_) => Timer::Off,
            Role::Candidate(_) => Timer::Election,
            Role::Follower if self.following.is_none() && !self.is_witness() => Timer::Election,
            Role::Follower if self.learning.is_some() => Timer::Learn,
            Role::Follower => Timer::Off,
        }
    }

    /// The caller has connections to so many peers from now on, the new ones behind those that it had. Its timer may be
    /// another one then.
    pub fn peers_grew(&mut self, peers: usize) {
        assert!(self.config.peers <= peers, "peers keep their places");
        self.config.peers = peers;
    }

    /// Takes a message that needs no durable record of its sender.
    pub fn receive(&mut self, from: MemberId, message: Message<P>, out: Out<'_, P>) {
        match message {
            Message::LearnRequest { from: slot } => {
                self.note_progress(from, slot, out);
                // A witness tells which values are chosen, to who may hold them. At the end nobody has a vote any more, and
                // it may be the only one who knows of it.
                let serves = !self.is_witness() || self.has_vote_of(from) || self.configuration.is_end();
                if serves && slot > Slot::ZERO && slot <= self.log().chosen() {
                    out.push(Action::ServeLearn { to: from, from: slot });
                }
            }
            Message::Learned { slot, through, value } => self.on_learned(from, slot, through, value, out),
            Message::Behind { chosen } => self.learn(from, chosen, out),
            message if !self.has_vote_of(from) => self.receive_without_vote(from, &message, out),
            Message::PreVote { ballot, version } => {
                if self.same_configuration(from, version, out) {
                    self.on_pre_vote(from, ballot, out);
                }
            }
            Message::PreVoteReply { ballot, granted, promised } => {
                self.on_pre_vote_reply(from, ballot, granted, promised, out);
            }
            Message::Accept { ballot, first, slot, chosen, value } => {
                self.on_accept(from, ballot, first, slot, value, out);
                self.on_commit(ballot, first, chosen, out);
            }
            Message::Expected { ballot, next } => self.on_expected(from, ballot, next, out),
            Message::Reject { ballot, promised } => self.on_reject(ballot, promised, out),
            Message::Commit { ballot, first, chosen, low, .. } => {
                if ballot < self.promised() && ballot.member == from {
                    // It cannot be followed any more. Where nothing is proposed, it would never learn of it.
                    mark(Mark::CommitBelowPromise);
                    let promised = self.promised();
                    out.push(Action::Send { to: from, message: Message::Reject { ballot, promised } });
                }
                self.follow(from, ballot, first, out);
                self.promise_followed(ballot, out);
                self.on_commit(ballot, first, chosen, out);
                if self.log().chosen() < chosen && !matches!(self.role, Role::Leader(_)) {
                    // The leader is quiet or no longer sends what is missing here.
                    self.learn(from, chosen, out);
                }
                if self.following.is_some_and(|f| f.ballot == ballot) {
                    self.low = self.low.max(low.min(self.log().chosen()));
                    self.settle_follower(chosen, out);
                }
            }
            Message::Campaign { ballot } => self.on_order(from, ballot, out),
            Message::Resign { ballot } => {
                if self.following.is_some_and(|f| f.ballot == ballot) {
                    mark(Mark::ResignHeard);
                    self.leader_lost(out);
                }
            }
        }
    }

    /// Takes a vote.
    pub fn receive_vote(&mut self, from: MemberId, vote: Vote<P>, out: Out<'_, P>) {
        if let Vote::Prepare { version, .. } = &vote
            && !self.same_configuration(from, *version, out)
        {
            return;
        }
        if !self.has_vote_of(from) {
            return;
        }
        match vote {
            Vote::Prepare { ballot, attempt, .. } => self.on_prepare(from, ballot, attempt, out),
            Vote::Promise { ballot, attempt, chosen, reports } => {
                self.on_promise(from, ballot, attempt, chosen, reports, out);
            }
            Vote::Report { ballot, attempt, slot, accepted, value } => {
                self.on_report(from, ballot, attempt, slot, accepted, value, out);
            }
            Vote::Accepted { ballot, up_to, stable } => self.on_accepted(from, ballot, up_to, stable, out),
        }
    }

    /// Record `seq` and all before it are durable.
    pub fn durable(&mut self, seq: RecordSeq, out: Out<'_, P>) {
        assert!(seq <= self.records, "a record that was never appended cannot be durable");
        match &mut self.role {
            Role::Leader(_) => self.own_durable(seq, out),
            Role::Candidate(candidate) => {
                if candidate.own_promise_durable(seq) {
                    self.conclude_phase_1(out);
                }
            }
            Role::Follower => {}
        }
    }

    /// The timer fired.
    pub fn timeout(&mut self, out: Out<'_, P>) {
        match self.timer() {
            Timer::Off => {}
            Timer::Election => self.on_election_timeout(out),
            Timer::Progress => self.on_progress_timeout(out),
            Timer::Learn => {
                mark(Mark::LearnElsewhere);
                // Ask another: this one may be gone.
                let learning = self.learning.take();
                match learning {
                    Some(learning) if self.votes() => self.learn_after(learning.from, learning.target, out),
                    _ => self.learn_from_next(out),
                }
            }
        }
    }

    /// The leader that this replica follows is gone: its node is silent or has restarted, or it resigned.
    pub fn leader_lost(&mut self, out: Out<'_, P>) {
        if self.following.take().is_some() {
            mark(Mark::LeaderLost);
            self.learning = None;
            out.push(Action::RestartTimer);
        }
    }

    /// This node can no longer reach a phase-2 quorum. A leader steps down.
    pub fn quorum_lost(&mut self, out: Out<'_, P>) {
        if let Role::Leader(leader) = &self.role {
            mark(Mark::QuorumLost);
            let ballot = leader.ballot;
            self.resign(ballot, out);
        }
    }

    /// A connection to `member` has come up, or has room again: what was on its way may be lost.
    pub fn connected(&mut self, member: MemberId, out: Out<'_, P>) {
        if !self.has_vote_of(member) {
            // It may believe that it votes still, and follow a leader of that time for ever.
            let chosen = self.log().chosen();
            out.push(Action::Send { to: member, message: Message::Behind { chosen } });
            return;
        }
        match &mut self.role {
            Role::Leader(_) => self.on_peer_connected(member, out),
            Role::Candidate(_) => self.on_candidate_connected(member, out),
            Role::Follower => {}
        }
    }

    /// The connection to `member` is down or full: nothing that is sent now arrives.
    pub fn disconnected(&mut self, member: MemberId) {
        if let Role::Leader(leader) = &mut self.role
            && self.electorate.is_voter(member)
        {
            leader.pause(self.electorate.index_of(member));
        }
    }

    /// Lets go of the values up to `up_to` in memory. They must be applied; a peer that needs them is served from the
    /// durable log.
    pub fn release(&mut self, up_to: Slot) {
        self.acceptor.log.release(up_to);
    }

    /// All voters of the group.
    pub fn members(&self) -> &[MemberId] {
        &self.electorate.voters
    }

    /// How many voters each phase needs.
    pub fn quorums(&self) -> Quorums {
        self.electorate.quorums
    }

    /// Whether this replica and `from`, another one, both vote.
    fn has_vote_of(&self, from: MemberId) -> bool {
        self.electorate.me.is_some_and(|me| me != from) && self.electorate.is_voter(from)
    }

    pub(crate) fn persist(&mut self, record: Record<P>, out: Out<'_, P>) -> RecordSeq {
        self.records.0 += 1;
        let mut chosen = self.log().chosen();
        self.chosen_recorded = chosen;
        if is(Bug::UnchosenIsRecordedChosen) {
            chosen = self.log().last();
        }
        out.push(Action::Persist { seq: self.records, chosen, record });
        self.records
    }

    /// The last record: a vote behind it rests on all that was appended.
    pub(crate) fn last_record(&self) -> RecordSeq {
        self.records
    }

    pub(crate) fn broadcast(&self, message: &Message<P>, out: Out<'_, P>) {
        for to in self.electorate.peers() {
            out.push(Action::Send { to, message: message.clone() });
        }
    }

    /// Takes `ballot`'s leader for the leader, unless a higher ballot is promised here.
    pub(crate) fn follow(&mut self, from: MemberId, ballot: Ballot, first: Slot, out: Out<'_, P>) {
        if ballot < self.promised()
            || ballot.member != from
            || ballot.round > self.promised().round.saturating_add(Ballot::ROUND_JUMP_MAX)
            || self.following.is_some_and(|f| f.ballot >= ballot)
        {
            return;
        }
        match &self.role {
            Role::Leader(leader) if leader.ballot >= ballot => return,
            Role::Leader(leader) => {
                mark(Mark::LeaderFollows);
                // A leader that learns of a higher ballot's values leads no longer.
                out.push(Action::SteppedDown { ballot: leader.ballot });
            }
            Role::Candidate(_) | Role::Follower => {}
        }
        self.role = Role::Follower;
        self.round_seen = self.round_seen.max(ballot.round);
        self.following = Some(Following { ballot, first });
        out.push(Action::Follows { ballot });
        out.push(Action::RestartTimer);
    }

    /// Commit knowledge: slots `first..=chosen` were chosen by votes at `ballot`. It holds for what was accepted here
    /// at `ballot` or above; anything else is fetched.
    fn on_commit(&mut self, ballot: Ballot, first: Slot, chosen: Slot, out: Out<'_, P>) {
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        let mut up_to = self.log().chosen();
        while up_to < chosen && up_to.next() >= first {
            match self.log().get(up_to.next()) {
                Some(entry) if entry.accepted >= ballot || is(Bug::LowerBallotIsCommitted) => up_to = up_to.next(),
                _ => {
                    mark(Mark::CommitNotHeld);
                    break;
                }
            }
        }
        self.choose(up_to, out);
    }

    pub(crate) fn choose(&mut self, up_to: Slot, out: Out<'_, P>) {
        if up_to > self.log().chosen() {
            let before = self.log().chosen();
            self.acceptor.log.choose(up_to);
            out.push(Action::Chosen { up_to });
            self.adopt_configurations(before, out);
        }
    }

    /// Asks `from` for chosen values, up to `target` at least. A witness can only say which they are: that helps who holds
    /// them.
    pub(crate) fn learn(&mut self, from: MemberId, target: Slot, out: Out<'_, P>) {
        if target <= self.log().chosen() {
            return;
        }
        if self.electorate.is_witness(from) && (self.is_witness() || self.log().last() == self.log().chosen()) {
            return self.learn_after(from, target, out);
        }
        if let Some(learning) = &mut self.learning {
            learning.target = learning.target.max(target);
            return;
        }
        self.learning = Some(Learning { from, target, since: self.log().chosen() });
        out.push(Action::Send { to: from, message: Message::LearnRequest { from: self.log().chosen().next() } });
        out.push(Action::RestartTimer);
    }

    fn on_learned(&mut self, from: MemberId, slot: Slot, through: Slot, value: Value<P>, out: Out<'_, P>) {
        let Some(learning) = self.learning else { return };
        let next = self.log().chosen().next();
        // Whoever sends it: a chosen value is one.
        if slot > next || matches!(self.role, Role::Leader(_)) {
            return;
        }
        if slot == next {
            // (slot, origin) names a value: what is held already need not be written again.
            let compares = !is(Bug::HeldValuesAreNotCompared);
            let is_missing = self.log().get(slot).is_none_or(|entry| compares && entry.value.origin != value.origin);
            if self.lacks_payload(&value) {
                mark(if is_missing { Mark::StubNotHeld } else { Mark::StubLearned });
                if is_missing {
                    self.learning = None;
                    return self.learn_after(from, learning.target.max(slot), out);
                }
            }
            let value = self.kept(value);
            if is_missing {
                mark(Mark::LearnedWritten);
                self.acceptor.log.put(slot, Entry { accepted: Ballot::ZERO, value: value.clone() });
                self.persist(Record::Learned { slot, value }, out);
            } else {
                mark(Mark::LearnedHeld);
            }
            self.choose(slot, out);
        }
        if slot < through {
            return;
        }
        self.learning = None;
        if !self.votes() && self.asks_another(learning.since) {
            // It may have all that this one has. Only the leader can give it a vote, so it asks round.
            self.learn_from_next(out);
            return;
        }
        if self.log().chosen() < learning.target || !self.votes() {
            mark(Mark::LearnGoesOn);
            self.learn(from, learning.target.max(self.log().chosen().next()), out);
            return;
        }
        out.push(Action::RestartTimer);
        if let Some(Following { ballot, first }) = self.following {
            // Tell the leader where to go on: what it sent meanwhile was dropped here.
            let seq = self.persist(Record::Chosen, out);
            self.acknowledge(ballot, first, seq, out);
            let next = self.log().chosen().next();
            out.push(Action::Send { to: ballot.member, message: Message::Expected { ballot, next } });
        }
        self.conclude_phase_1(out);
    }

    /// For a quiet group: makes the chosen prefix durable, so that the log below can go one day.
    fn settle_follower(&mut self, chosen: Slot, out: Out<'_, P>) {
        if let Some(following) = self.following
            && self.chosen_recorded < self.log().chosen()
        {
            let seq = self.persist(Record::Chosen, out);
            self.acknowledge(following.ballot, following.first, seq, out);
        } else if let Some(following) = self.following
            && self.log().chosen() == chosen
            && self.low < chosen
        {
            // It was told already, but that may be lost: without it the logs of all could never be trimmed.
            mark(Mark::SettledAgain);
            let seq = self.last_record();
            self.acknowledge(following.ballot, following.first, seq, out);
        }
    }

    /// Asks the next one behind `member` that keeps payloads for what is chosen.
    fn learn_after(&mut self, member: MemberId, target: Slot, out: Out<'_, P>) {
        if !self.votes() {
            self.learn_from_next(out);
        } else if let Some(next) = self.electorate.full_after(member) {
            self.learn(next, target, out);
        }
    }

    /// Whether this replica keeps votes and no payloads.
    pub fn is_witness(&self) -> bool {
        self.config.replica.is_witness()
    }

    /// Whether a value cannot be taken here for want of its payload.
    pub(crate) fn lacks_payload(&self, value: &Value<P>) -> bool {
        value.is_stub() && !self.is_witness()
    }

    /// What this replica keeps of a value.
    pub(crate) fn kept(&self, value: Value<P>) -> Value<P> {
        if self.is_witness() { value.stub() } else { value }
    }
}
