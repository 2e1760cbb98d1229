//! Changing who votes, and replicas that have no vote: how they catch up, and how they get one.
//!
//! The invariants are those of [`crate::configuration`]. A replica without a vote asks its peers in turn for what is
//! chosen; a leader that it has caught up with tells its caller, who may have it made a voter.

use alloc::boxed::Box;

use crate::action::{Action, Record};
use crate::configuration::{Configuration, Electorate, Voter};
use crate::ids::{Ballot, MemberId, Slot};
use crate::message::Message;
use crate::planted::{Bug, is};
use crate::replica::{Out, Replica, Role};
use crate::value::{Body, Payload, Value};

/// A replica that lags by no more slots than this counts as caught up: the pipeline alone can be as long.
const CAUGHT_UP_SLOTS: u64 = 256;
/// An answer with fewer slots, and with fewer bytes than [`LITTLE_BYTES`], may be all that its sender has.
const LITTLE_SLOTS: u64 = 32;
const LITTLE_BYTES: u64 = 64 << 10;
/// With large values another peer is asked whenever so many slots are full: the leader must hear that this one keeps up.
const ROUND_SLOTS: u64 = 16;

impl<P: Payload> Replica<P> {
    /// The configuration that governs the slot behind the chosen prefix.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The slot of the configuration that governs, or one behind it when that is all that is known: once more is chosen,
    /// its voters have chosen something.
    pub fn configured_at(&self) -> Slot {
        self.configured_at
    }

    /// The voter with a number, of this configuration or of the one before: who has lost its vote is told so under its
    /// old number.
    pub fn voter(&self, member: MemberId) -> Option<&Voter> {
        self.configuration.voter(member).or_else(|| self.former.iter().find(|voter| voter.member == member))
    }

    /// Whether this replica votes.
    pub fn votes(&self) -> bool {
        self.electorate.me.is_some()
    }

    /// Who votes at the beginning has become known.
    pub fn found(&mut self, genesis: Configuration, out: Out<'_, P>) {
        if self.configuration == Configuration::default() {
            self.govern(genesis, Slot::ZERO, out);
        }
    }

    /// Has `next` govern, once all that is in flight is chosen. False when this replica does not lead or another change
    /// is under way: the caller tries again.
    ///
    /// # Panics
    /// When `next` is not legal, or does not follow the configuration that governs.
    pub fn reconfigure(&mut self, next: Configuration, out: Out<'_, P>) -> bool {
        assert!(next.is_legal() && next.follows(&self.configuration) && !self.configuration.is_end());
        match &mut self.role {
            Role::Leader(leader) if leader.takes_proposals() => {
                leader.next = Some(Box::new(next));
                self.propose_configuration(out);
                true
            }
            _ => false,
        }
    }

    /// Proposes the next configuration when nothing is in flight any more.
    pub(crate) fn propose_configuration(&mut self, out: Out<'_, P>) {
        let drained = self.log().last() == self.log().chosen() || is(Bug::ConfigurationOvertakes);
        let Role::Leader(leader) = &mut self.role else { return };
        if drained && let Some(next) = leader.next.take() {
            leader.last = true;
            let origin = leader.ballot;
            let slot = self.log().last().next();
            self.propose_at(slot, Value { origin, body: Body::Configuration(next) }, out);
        }
    }

    /// Takes in the configurations in the slots behind `before`, which are chosen now.
    pub(crate) fn adopt_configurations(&mut self, before: Slot, out: Out<'_, P>) {
        let newest = (before.0 + 1..=self.log().chosen().0).rev().find_map(|slot| {
            match &self.log().get(Slot(slot)).expect("what was just chosen is in memory").value.body {
                Body::Configuration(configuration) => Some(((**configuration).clone(), Slot(slot))),
                _ => None,
            }
        });
        if let Some((configuration, slot)) = newest {
            self.govern(configuration, slot, out);
        }
    }

    /// Lets a chosen configuration govern. Whoever led goes on under it with a ballot of its own.
    fn govern(&mut self, configuration: Configuration, slot: Slot, out: Out<'_, P>) {
        let newer =
            configuration.version > self.configuration.version || self.configuration == Configuration::default();
        if !newer || !configuration.is_legal() {
            return;
        }
        if let Role::Leader(leader) = &self.role {
            // Whoever has accepted it holds it with this, and can promise under it at once.
            let message = leader.commit_message(self.log().chosen(), self.low);
            self.broadcast(&message, out);
        }
        self.electorate = Electorate::new(&configuration, self.config.replica);
        self.configured_at = slot;
        self.former = core::mem::replace(&mut self.configuration, configuration).voters;
        let lost = |voter: &&Voter| !self.electorate.is_voter(voter.member) && voter.replica != self.config.replica;
        for to in self.former.iter().filter(lost).map(|voter| voter.member) {
            // It is told by all who know: some may not reach it now, and it would follow a leader of that time for ever.
            let chosen = self.acceptor.log.chosen();
            out.push(Action::Send { to, message: Message::Behind { chosen } });
        }
        out.push(Action::Reconfigured);
        if self.following.is_some_and(|f| !self.electorate.is_voter(f.ballot.member)) {
            self.following = None;
        }
        if self.learning.is_some_and(|l| l.from.outsider_peer().is_none() && !self.electorate.is_voter(l.from)) {
            self.learning = None;
        }
        match &self.role {
            Role::Leader(leader) => {
                out.push(Action::SteppedDown { ballot: leader.ballot });
                self.role = Role::Follower;
                if self.votes() {
                    self.campaign(Ballot::ZERO, out);
                }
            }
            Role::Candidate(_) => self.role = Role::Follower,
            Role::Follower => {}
        }
        out.push(Action::RestartTimer);
    }

    /// Whether one who asks for a vote holds the same configuration. If it holds an older one it is told; if it holds a
    /// newer one, this replica asks it.
    pub(crate) fn same_configuration(&mut self, from: MemberId, version: u64, out: Out<'_, P>) -> bool {
        if version < self.configuration.version {
            out.push(Action::Send { to: from, message: Message::Behind { chosen: self.log().chosen() } });
        } else if version > self.configuration.version {
            self.learn(from, self.log().chosen().next(), out);
        }
        version == self.configuration.version || is(Bug::OldConfigurationsVote)
    }

    /// A message between two of which at least one has no vote: only what is chosen counts.
    pub(crate) fn receive_without_vote(&mut self, from: MemberId, message: &Message<P>, out: Out<'_, P>) {
        match message {
            Message::PreVote { version, .. } => drop(self.same_configuration(from, *version, out)),
            Message::Accept { chosen, .. } | Message::Commit { chosen, .. } => self.learn(from, *chosen, out),
            _ => {}
        }
    }

    /// A leader looks whether a replica without a vote has caught up.
    pub(crate) fn note_progress(&mut self, from: MemberId, wants: Slot, out: Out<'_, P>) {
        if let Role::Leader(leader) = &self.role
            && leader.takes_proposals()
            && from.outsider_peer().is_some()
            && wants.0.saturating_add(CAUGHT_UP_SLOTS) > self.log().chosen().0
        {
            out.push(Action::CaughtUp { outsider: from });
        }
    }

    /// Whether [`Replica::install`] would take it.
    pub fn can_install(&self, slot: Slot) -> bool {
        slot > self.log().chosen() && !matches!(self.role, Role::Leader(_))
    }

    /// Takes over what the chosen slots up to `slot` did, of which only that is known any more. The promise stays, and
    /// so does what is accepted above. False when this replica knows more already.
    pub fn install(&mut self, slot: Slot, configuration: Configuration, out: Out<'_, P>) -> bool {
        if !self.can_install(slot) {
            return false;
        }
        self.acceptor.skip_to(slot);
        self.persist(Record::Installed { slot }, out);
        self.govern(configuration, slot, out);
        if let Some(learning) = self.learning.take() {
            // Whoever was asked is there, and likely has what follows: without a vote, this replica asks it on.
            let further = if self.votes() { Slot::ZERO } else { self.log().chosen().next() };
            self.learn(learning.from, learning.target.max(further), out);
        }
        if self.learning.is_none() {
            self.learn_on(out);
        }
        self.conclude_phase_1(out);
        true
    }

    /// A replica without a vote asks on: `learning` has ended, or its answer did not come.
    pub(crate) fn learn_on(&mut self, out: Out<'_, P>) {
        if !self.votes() && self.config.peers > 0 {
            self.learn_from_next(out);
        }
    }

    /// Asks the next peer for what is chosen.
    pub(crate) fn learn_from_next(&mut self, out: Out<'_, P>) {
        let peer = self.peer_to_ask % self.config.peers.max(1);
        self.peer_to_ask = peer + 1;
        self.learn(MemberId::outsider(peer), self.log().chosen().next(), out);
    }

    /// Whether another peer is to be asked after an answer that brought what is behind `since`: it was so little that its
    /// sender may have no more. With large values even a full answer is few slots: of those only one that passes a multiple of
    /// `ROUND_SLOTS` is followed by another peer.
    pub(crate) fn asks_another(&self, since: Slot) -> bool {
        let chosen = self.log().chosen();
        if chosen.0.saturating_sub(since.0) >= LITTLE_SLOTS {
            return false;
        }
        if chosen.0 / ROUND_SLOTS != since.0 / ROUND_SLOTS {
            return true;
        }
        // What has left memory already may have been large.
        let bytes = |slot| self.log().get(Slot(slot)).map_or(LITTLE_BYTES, |entry| entry.value.bytes());
        (since.0 + 1..=chosen.0).map(bytes).sum::<u64>() < LITTLE_BYTES
    }

    /// Whom this replica asks for chosen values, while it does.
    pub fn asks(&self) -> Option<MemberId> {
        self.learning.map(|learning| learning.from)
    }
}

impl<P: Payload> Replica<P> {
    /// Begins a ballot without asking whether it could win: who led until now goes on, or has ordered this.
    pub(crate) fn campaign(&mut self, order: Ballot, out: Out<'_, P>) {
        let round = self.round_seen.max(self.promised().round) + 1;
        if round <= Ballot::ROUND_MAX {
            self.begin_phase_1(Ballot { round, member: self.electorate.own() }, order, out);
        }
    }
}
