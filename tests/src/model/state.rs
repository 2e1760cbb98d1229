//! A state of the model, and how a step leads to the next.

use std::sync::Arc;

use synod_core::{Ballot, Message, Recovered, Slot, Timer, Vote};

use super::memo::Memo;
use super::oracle::{Fault, Oracle};
use super::packet::{Network, Packet, Wire};
use super::turn::{Outcome, voter_of};
use super::voter::{Sealed, VOTERS, Voter, member};
use super::{Scope, Step};

/// A state: the voters, the network, and what happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    voters: [Arc<Sealed>; VOTERS],
    network: Arc<Network>,
    oracle: Arc<Oracle>,
    campaigns: [u8; VOTERS],
    proposals: u8,
    crashes: u8,
    retries: u8,
    lost_records: bool,
    /// The first thing that went wrong; nothing happens after it.
    pub fault: Option<Fault>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            voters: std::array::from_fn(|me| Arc::new(Sealed::new(Voter::start(me, Recovered::default())))),
            network: Arc::default(),
            oracle: Arc::default(),
            campaigns: [0; VOTERS],
            proposals: 0,
            crashes: 0,
            retries: 0,
            lost_records: false,
            fault: None,
        }
    }

    /// How many batches take effect, at the voter that knows most.
    pub(super) fn effective(&self) -> usize {
        self.voters.iter().map(|v| v.effects.effective).max().expect("there are voters")
    }

    pub(super) fn has_void(&self) -> bool {
        self.voters.iter().any(|v| v.effects.void > 0)
    }

    pub(super) fn has_adopted(&self) -> bool {
        self.oracle.has_adopted()
    }

    pub(super) fn lost_records(&self) -> bool {
        self.lost_records
    }

    pub(super) fn steps(&self, scope: &Scope, steps: &mut Vec<Step>) {
        if self.fault.is_some() {
            return;
        }
        if let Some(me) = self.syncs_first(scope) {
            steps.push(Step::Sync(me));
            return;
        }
        for (me, Sealed { voter, .. }) in self.voters.iter().map(|v| &**v).enumerate() {
            if !voter.cache.is_empty() {
                steps.push(Step::Sync(me));
            }
            if me < scope.proposers && self.campaigns[me] < scope.ballots && voter.replica.epoch().is_none() {
                steps.extend((0..VOTERS).filter(|other| *other != me).map(|other| Step::Campaign(me, other)));
            }
            if voter.replica.can_propose() && usize::from(self.proposals) < scope.proposals {
                steps.push(Step::Propose(me));
            }
            let leads = voter.replica.leader().is_some_and(|ballot| ballot.member == member(me));
            if leads && scope.heartbeats {
                steps.push(Step::Heartbeat(me));
            }
            if !leads && voter.replica.timer() == Timer::Election && self.retries < scope.retries {
                steps.push(Step::Retry(me));
            }
            if self.crashes < scope.crashes {
                steps.push(Step::Crash(me));
            }
        }
        steps.extend(self.network.packets().iter().copied().map(Step::Deliver));
    }

    /// A voter whose sync can go before all else. When no crash is to come and the voter neither leads nor campaigns (it
    /// has promised another), a sync does nothing but add votes to a network that may hold them back for ever: every
    /// schedule has a twin in which it happens at once.
    fn syncs_first(&self, scope: &Scope) -> Option<usize> {
        let follows = |me: &usize| {
            let voter = &self.voters[*me].voter;
            !voter.cache.is_empty() && voter.replica.promised().member != member(*me)
        };
        (self.crashes == scope.crashes).then(|| (0..VOTERS).find(follows)).flatten()
    }

    /// The state behind a step; `None` when the step changes nothing.
    pub(super) fn next(&self, scope: &Scope, memo: &Memo, step: &Step) -> Option<Self> {
        let Some(outcome) = memo.outcome(&self.voters, step, scope.bug) else {
            return Some(Self { fault: Some(Fault::Panicked), ..self.clone() });
        };
        if outcome.same && outcome.sent.iter().all(|packet| self.network.contains(packet)) {
            return None;
        }
        let me = voter_of(step);
        let mut next = self.clone();
        match step {
            Step::Campaign(..) => next.campaigns[me] += 1,
            Step::Retry(_) => next.retries += 1,
            Step::Propose(_) => next.proposals += 1,
            Step::Crash(_) => {
                next.crashes += 1;
                next.lost_records |= !self.voters[me].voter.cache.is_empty();
                if self.forgets(me, outcome.voter.voter.replica.promised()) {
                    next.fail(Fault::VoteForgotten);
                }
            }
            Step::Deliver(_) | Step::Sync(_) | Step::Heartbeat(_) => {}
        }
        next.take(me, &outcome);
        Some(next)
    }

    fn take(&mut self, me: usize, outcome: &Arc<Outcome>) {
        if outcome.begun.is_some_and(|ballot| self.has_begun(ballot)) {
            self.fail(Fault::BegunTwice);
        }
        if let Some((slot, ballot, value)) = &outcome.vote
            && !Arc::make_mut(&mut self.oracle).vote(me, *slot, *ballot, value)
        {
            self.fail(Fault::TwoChosen);
        }
        for packet in outcome.sent.iter().copied() {
            if !self.network.contains(&packet) {
                Arc::make_mut(&mut self.network).insert(packet);
            }
        }
        self.voters[me] = Arc::clone(&outcome.voter);
        if let Some(from) = outcome.chosen_from {
            self.check_chosen(me, from);
        }
        let low = outcome.voter.voter.replica.low();
        if self.voters.iter().any(|v| v.voter.disk.chosen < low) {
            self.fail(Fault::TrimmedTooEarly);
        }
    }

    /// Whether a packet of `begun` is in the network, which forgets nothing.
    fn has_begun(&self, begun: Ballot) -> bool {
        self.network.packets().iter().any(|packet| {
            packet.from() == begun.member
                && match packet.wire() {
                    Wire::Vote(Vote::Prepare { ballot, .. }) | Wire::Message(Message::Accept { ballot, .. }) => {
                        *ballot == begun
                    }
                    _ => false,
                }
        })
    }

    /// Whether a voter that starts with `promised` has sent a vote above it. An acknowledgement of nothing but chosen
    /// slots promises nothing.
    fn forgets(&self, me: usize, promised: Ballot) -> bool {
        let above = |packet: &Packet| match packet.wire() {
            Wire::Vote(Vote::Promise { ballot, .. }) => *ballot > promised,
            Wire::Vote(Vote::Accepted { ballot, up_to, .. }) => {
                *ballot > promised && !(1..=up_to.0).all(|slot| self.oracle.is_decided(Slot(slot)))
            }
            _ => false,
        };
        self.network.packets().iter().any(|packet| packet.from() == member(me) && above(packet))
    }

    /// Checks what a voter takes for chosen, from a slot on.
    fn check_chosen(&mut self, me: usize, from: Slot) {
        let Sealed { voter, effects, .. } = &*self.voters[me];
        let log = voter.replica.log();
        let chosen = |slot: u64| {
            let entry = log.get(Slot(slot)).expect("nothing is released here");
            self.oracle.is_chosen(Slot(slot), &entry.value)
        };
        let (all_chosen, in_order) = ((from.0..=log.chosen().0).all(chosen), effects.in_order);
        if !all_chosen {
            self.fail(Fault::AppliedUnchosen);
        }
        if !in_order {
            self.fail(Fault::OutOfOrder);
        }
    }

    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }
}
