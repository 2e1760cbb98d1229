//! Support, bindings and leases: for how long a voter elects nobody else, and what its leader may make of that.
//!
//! A node's shard *supports* a peer's for [`SUPPORT_NS`] from each heartbeat that it takes in. Support has an epoch: a lapse
//! on the voter's clock or a restart of either end begins another one. A voter *binds* a group to its leader when that
//! asks, by name (group, ballot) and within the present epoch, while its promise is that very ballot. While it is bound
//! and supports the leader's node, it neither stands for election in the group nor answers others who do.
//!
//! A leader holds a *lease* of a group as long as a phase-2 quorum of the voters, itself among them, elects nobody else: the end
//! of each voter's part is counted from when the heartbeat was sent that the voter last answered, which is before the
//! voter's own count begins, and is shorter by what two clocks may run apart.
//!
//! Invariants: what a lease counts on ends at the leader before it ends at the voter, whatever their clocks show; a
//! binding holds for one ballot, one epoch of support and [`BINDING_NS`], whichever ends first; a voter that was started
//! promises nobody until all that it may have been bound to has lapsed; a leader that gives its lease up has none for the
//! rest of its ballot, and neither has one that leads no longer.

use synod_core::planted::{Bug, is};
use synod_core::{Ballot, Message, Timer, Vote};

use super::Shard;
use crate::marks::{Mark, mark};
use crate::payload::Payload;

/// How long a heartbeat is good for. Shorter than the silence after which a leader is taken for gone.
pub(crate) const SUPPORT_NS: u64 = 500_000_000;
/// How long a group stays bound; a leader that still wants its lease asks again before. So a group whose lease nobody
/// uses finds another leader as quickly as if there were none, also when it is not told that its leader stepped down.
pub(crate) const BINDING_NS: u64 = 2_000_000_000;

const _: () = assert!(SUPPORT_NS < super::PEER_LOST_NS && SUPPORT_NS < BINDING_NS);

/// By how much two clocks may run apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drift {
    percent: u64,
}

impl Drift {
    pub(crate) fn of_percent(percent: u64) -> Self {
        assert!(percent < 100, "the configuration is validated");
        Self { percent: if is(Bug::DriftIsIgnored) { 0 } else { percent } }
    }

    /// The part of a duration on another's clock that is surely over there when it is over here.
    fn shortened(self, ns: u64) -> u64 {
        ns / 100 * (100 - self.percent)
    }

    /// A duration that lasts here at least as long as `ns` on any other clock.
    pub(super) fn stretched(self, ns: u64) -> u64 {
        ns / 100 * (100 + self.percent)
    }
}

/// What a voter's shard grants a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Granted {
    epoch: u64,
    until_ns: u64,
}

impl Granted {
    /// Epochs of different processes must differ: they begin at a random number.
    pub(crate) fn starting_at(random: u64) -> Self {
        Self { epoch: random >> 1, until_ns: 0 }
    }

    /// A heartbeat has come in. Gives the epoch, never 0, to which its support belongs.
    fn renew(&mut self, now_ns: u64) -> u64 {
        if now_ns >= self.until_ns {
            self.void();
        }
        self.until_ns = now_ns + SUPPORT_NS;
        self.epoch
    }

    /// Whatever was bound to this support is bound no longer.
    fn void(&mut self) {
        self.epoch += 1;
        self.until_ns = 0;
    }

    fn holds(&self, epoch: u64, now_ns: u64) -> bool {
        self.epoch == epoch && now_ns < self.until_ns
    }
}

/// The support that a peer's last answer to a heartbeat grants this shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Support {
    epoch: u64,
    /// When the heartbeat was sent.
    sent_ns: u64,
}

impl Support {
    fn answered(&mut self, epoch: u64, sent_ns: u64, now_ns: u64) {
        if sent_ns > now_ns {
            return; // No heartbeat of this process.
        }
        // An answer that another has overtaken, by datagram or over the connection, says nothing new.
        let sent_ns = if is(Bug::LeasesCountFromReceipt) { now_ns } else { sent_ns };
        if sent_ns > self.sent_ns {
            *self = Self { epoch, sent_ns };
        }
    }
}

/// To whom a voter has bound a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    peer: usize,
    ballot: Ballot,
    epoch: u64,
    until_ns: u64,
}

/// What a peer has confirmed to the leader of a ballot.
#[derive(Clone, Copy, Debug, Default)]
struct Confirmed {
    /// The last round of questions in which it named the ballot.
    round: u64,
    /// The epoch of support to which it has bound the group; 0: none.
    epoch: u64,
    /// When it was asked for that.
    asked_ns: u64,
}

/// A group's leader, at one ballot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenure {
    ballot: Ballot,
    lease_given_up: bool,
    /// When voters were last asked to bind the group.
    pub(super) bind_asked_ns: u64,
    peers: Vec<Confirmed>,
}

impl Shard {
    /// What the leader of a group keeps for its ballot; none when this replica does not lead and take proposals.
    pub(super) fn tenure(&mut self, at: u32) -> Option<&mut Tenure> {
        let peers = self.peers.len();
        let group = &mut self.groups[at as usize];
        let ballot = group.replica.epoch()?;
        if group.tenure.ballot != ballot {
            group.tenure = Tenure { ballot, peers: vec![Confirmed::default(); peers], ..Tenure::default() };
        }
        // Nodes may have been introduced since.
        group.tenure.peers.resize(peers, Confirmed::default());
        Some(&mut group.tenure)
    }

    /// The voters besides this one that it takes, with it, to make a phase-2 quorum: any phase-1 quorum meets them.
    fn others_needed(&self, at: u32) -> usize {
        self.groups[at as usize].replica.quorums().phase_2 - 1
    }

    /// The `needed`-th highest of what `of` gives for the group's other voters.
    fn among_voters(&self, at: u32, needed: usize, of: impl Fn(usize, &Confirmed) -> u64) -> u64 {
        let peers = &self.groups[at as usize].tenure.peers;
        let voters = peers.iter().enumerate().filter(|(peer, _)| self.address(at, *peer).outsider_peer().is_none());
        let mut numbers: Vec<u64> = voters.map(|(peer, confirmed)| of(peer, confirmed)).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.get(needed - 1).copied().unwrap_or(0)
    }

    /// When this leader's lease of a group ends; 0 when it has none. That of one who is a phase-2 quorum by itself never does:
    /// nobody is elected without it.
    pub(super) fn lease_end(&self, at: u32) -> u64 {
        let group = &self.groups[at as usize];
        let Some(ballot) = group.replica.epoch() else { return 0 };
        let needed = self.others_needed(at);
        let tenure = Some(&group.tenure).filter(|tenure| tenure.ballot == ballot);
        if tenure.is_some_and(|tenure| tenure.lease_given_up) || needed > 0 && tenure.is_none() {
            return 0;
        }
        if needed == 0 {
            return u64::MAX;
        }
        self.among_voters(at, needed, |peer, confirmed| {
            let support = &self.peers[peer].support;
            // Bound in the very epoch that the last answer names, or not at all.
            if confirmed.epoch == 0 || confirmed.epoch != support.epoch {
                return 0;
            }
            let supported = support.sent_ns + self.drift.shortened(SUPPORT_NS);
            supported.min(confirmed.asked_ns + self.drift.shortened(BINDING_NS))
        })
    }

    pub(super) fn holds_lease(&self, at: u32) -> bool {
        self.now_ns < self.lease_end(at)
    }

    /// The last round of questions in which a phase-2 quorum has named this leader's ballot.
    pub(super) fn confirmed_round(&self, at: u32) -> u64 {
        let group = &self.groups[at as usize];
        let needed = self.others_needed(at);
        if needed == 0 {
            u64::MAX
        } else if group.replica.epoch().is_some_and(|ballot| ballot == group.tenure.ballot) {
            self.among_voters(at, needed, |_, confirmed| confirmed.round)
        } else {
            0
        }
    }

    /// This leader serves no more reads by its lease at this ballot, whatever becomes of it.
    pub(super) fn give_up_lease(&mut self, at: u32) {
        if is(Bug::LeaseIsKeptInTransfer) {
            return;
        }
        if let Some(tenure) = self.tenure(at) {
            tenure.lease_given_up = true;
        }
    }

    /// Whether the group's leader may ask for its lease again.
    pub(super) fn may_lease(&mut self, at: u32) -> bool {
        self.tenure(at).is_some_and(|tenure| !tenure.lease_given_up)
    }

    // ---- the voter ----

    /// A heartbeat of a peer grants it support. Gives the epoch.
    pub(super) fn grant_support(&mut self, peer: usize) -> u64 {
        let now_ns = self.now_ns;
        self.peers[peer].granted.renew(now_ns)
    }

    /// A peer has answered a heartbeat.
    pub(super) fn note_support(&mut self, peer: usize, epoch: u64, sent_ns: u64) {
        let now_ns = self.now_ns;
        self.peers[peer].answered_ns = now_ns;
        self.peers[peer].support.answered(epoch, sent_ns, now_ns);
    }

    /// A peer was started anew: it leads nothing that it led, and supports nobody whom it supported.
    pub(super) fn void_support(&mut self, peer: usize) {
        self.peers[peer].granted.void();
        self.peers[peer].support = Support::default();
    }

    /// Whether this voter's promise is a peer's ballot, and whether it has bound the group to it, if it was asked to.
    pub(super) fn confirm(&mut self, at: u32, peer: usize, ballot: Ballot, bind: bool) -> Option<bool> {
        let group = &self.groups[at as usize];
        let own = ballot.member == self.address(at, peer) && group.replica.promised() == ballot;
        if !own || !group.replica.votes() || self.suspect {
            return None;
        }
        // A log with something in it keeps whoever is started from it from promising at once.
        let granted = self.peers[peer].granted;
        let binds = bind && granted.holds(granted.epoch, self.now_ns) && self.writer.durable_through() > 0;
        if binds {
            let until_ns = self.now_ns + BINDING_NS;
            self.groups[at as usize].binding = Some(Binding { peer, ballot, epoch: granted.epoch, until_ns });
        }
        Some(binds)
    }

    /// The epoch of the support that a peer has; 0 when it has none.
    pub(super) fn support_epoch(&self, peer: usize) -> u64 {
        let granted = &self.peers[peer].granted;
        if granted.holds(granted.epoch, self.now_ns) { granted.epoch } else { 0 }
    }

    /// A voter names this leader's ballot in its answer to a round, and may have bound the group.
    pub(super) fn confirmed(
        &mut self,
        at: u32,
        peer: usize,
        ballot: Ballot,
        (round, sent_ns): (u64, u64),
        bound: Option<u64>,
    ) {
        let now_ns = self.now_ns;
        let Some(tenure) = self.tenure(at) else { return };
        if tenure.ballot != ballot || sent_ns > now_ns {
            return;
        }
        let confirmed = &mut tenure.peers[peer];
        confirmed.round = confirmed.round.max(round);
        if let Some(epoch) = bound {
            mark(Mark::VoterBound);
            (confirmed.epoch, confirmed.asked_ns) = (epoch, sent_ns);
        }
    }

    /// The peer to whom this voter has bound a group, and the ballot, while that lasts.
    fn bound_to(&self, at: u32) -> Option<(usize, Ballot)> {
        let group = &self.groups[at as usize];
        let binding = group.binding.as_ref()?;
        let lasts = binding.ballot == group.replica.promised()
            && self.now_ns < binding.until_ns
            && self.peers[binding.peer].granted.holds(binding.epoch, self.now_ns);
        lasts.then_some((binding.peer, binding.ballot))
    }

    /// Whether this replica must not stand for election now: it is bound to a leader, or may have been before it was
    /// started, or could not lead.
    pub(super) fn must_not_campaign(&self, at: u32) -> bool {
        let election = self.groups[at as usize].timer.0 == Timer::Election;
        election && (!self.may_promise(at) || self.bound_to(at).is_some() || self.lacks_state(at))
    }

    /// Whether neither the log nor a checkpoint has what was chosen first. Whoever lacks some of that as well could not be
    /// brought up to date from here: as a leader this replica would choose nothing more, while another may.
    fn lacks_state(&self, at: u32) -> bool {
        self.groups[at as usize].checkpoints.lacks
    }

    /// From when on a group's promises may leave: a voter that was just started does not know to whom it was bound, and one
    /// that came from another shard does.
    pub(super) fn promises_from(&self, at: u32) -> u64 {
        let restarted = if is(Bug::RestartForgetsSupport) { 0 } else { self.promises_from_ns };
        restarted.max(self.groups[at as usize].promises_from_ns)
    }

    fn may_promise(&self, at: u32) -> bool {
        self.now_ns >= self.promises_from(at)
    }

    /// Until when this voter may be bound to a group's leader; 0: it is bound to none.
    pub(super) fn bound_until(&self, at: u32) -> u64 {
        let binding = self.groups[at as usize].binding.as_ref().filter(|_| self.bound_to(at).is_some());
        binding.map_or(0, |binding| binding.until_ns).max(self.promises_from(at))
    }

    pub(super) fn wait_before_promising(&mut self) {
        // A log that was never written was never voted with.
        if self.recovered_end > 0 && !self.peers.is_empty() {
            self.promises_from_ns = self.now_ns + self.drift.stretched(SUPPORT_NS);
        }
    }

    /// Takes note of what a message says about a binding. True when the message must not reach the replica.
    pub(super) fn withholds_message(&mut self, at: u32, peer: usize, message: &Message<Payload>) -> bool {
        match message {
            // Who says so, or asks for votes above its ballot, leads no longer.
            Message::Resign { ballot } | Message::PreVote { ballot, .. }
                if self.bound_to(at).is_some_and(|(to, bound)| to == peer && bound <= *ballot) =>
            {
                mark(Mark::BindingReleased);
                self.groups[at as usize].binding = None;
                false
            }
            // Nor is an order taken by one who may have been bound to another since.
            Message::Campaign { .. } => !self.may_promise(at) || self.lacks_state(at),
            // A log that does not advance makes no promise durable: who was elected on the word of its voter could choose
            // nothing, again and again.
            Message::PreVote { .. } if !self.may_promise(at) || self.bound_to(at).is_some() || self.wal_stuck() => {
                mark(Mark::PreVoteWithheld);
                true
            }
            _ => false,
        }
    }

    /// Whether a vote must not reach the replica: another's Prepare, while this one is bound, or leads by a lease. Only the
    /// order of the very leader and ballot passes a binding.
    pub(super) fn withholds_vote(&self, at: u32, peer: usize, vote: &Vote<Payload>) -> bool {
        let Vote::Prepare { order, .. } = vote else { return false };
        let bound = self.bound_to(at).is_some_and(|(to, ballot)| to != peer && ballot != *order);
        let withholds = !self.may_promise(at) || bound || self.holds_own_lease(at);
        if withholds {
            mark(Mark::PrepareWithheld);
        }
        withholds
    }

    /// Whether this leader's own vote is part of a lease.
    fn holds_own_lease(&self, at: u32) -> bool {
        !self.peers.is_empty() && self.holds_lease(at)
    }
}
