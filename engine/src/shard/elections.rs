//! The groups' timers, and how many elections are under way at a time.
//!
//! A shard's groups often lose their leaders all at once: at a start, or when a node is gone. Each election takes a few
//! messages and durable records, which groups share as far as they are about at the same time; but thousands that begin in
//! one moment would take longer than their timeouts, begin anew before they can end, and fill the connections with
//! messages that nobody waits for any more. So the next group waits until one of [`ELECTIONS_MAX`] has ended.
//!
//! Invariants: an election counts until its group has a leader that takes proposals, or its timer fires: one that cannot end
//! keeps its place no longer than a timeout, then the groups that waited have theirs first.

use std::collections::{BTreeSet, VecDeque};

use synod_core::{Ballot, Timer};

use super::Shard;
use super::group::Group;
use super::links::Peer;
use crate::marks::{Mark, mark};

/// Elections under way at a time: enough to share frames and syncs, and so few that they end within their timeouts.
const ELECTIONS_MAX: usize = 1024;
/// The time of one try to be elected, and how long it is waited for a leader after the last one was lost.
const ELECTION_NS: std::ops::Range<u64> = 50_000_000..250_000_000;
/// The first wait, of a node that would not rather lead the group.
const ELECTION_FIRST_NS: std::ops::Range<u64> = 700_000_000..1_200_000_000;
/// The wait of a node that would.
const ELECTION_PREFERRED_NS: std::ops::Range<u64> = 5_000_000..25_000_000;
/// So often a preferred leader tries early: a node that cannot win must not do so for ever.
const PREFERRED_TRIES: u32 = 40;
const PROGRESS_NS: u64 = 400_000_000;
const LEARN_NS: u64 = 500_000_000;
/// Who is asked for chosen values and cannot be reached is passed over after so long, when another can be.
const LEARN_ELSEWHERE_NS: u64 = 5_000_000;

/// Where a group stands with its election here.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Election {
    /// None is wanted, as far as its timer says.
    #[default]
    None,
    /// Its timer has fired: it waits for its turn.
    Due,
    /// It is one of those that count.
    Running,
}

/// The timers and elections of a shard's groups.
#[derive(Debug)]
pub(crate) struct Elections {
    timers: BTreeSet<(u64, u32)>,
    /// Each group that is [`Election::Due`] once, first come first served, and others that were.
    due: VecDeque<u32>,
    running: usize,
    pub(crate) max: usize,
}

impl Elections {
    pub(crate) fn new() -> Self {
        Self { timers: BTreeSet::new(), due: VecDeque::new(), running: 0, max: ELECTIONS_MAX }
    }

    /// Timers that are armed.
    #[cfg(feature = "simulation")]
    pub(crate) fn timers(&self) -> usize {
        self.timers.len()
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// When the next timer fires.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn is_any_due(&self) -> bool {
        !self.due.is_empty()
    }
}

/// How often a group's election is begun early.
pub(super) fn early_tries(prefers: bool) -> u32 {
    if prefers { PREFERRED_TRIES } else { 0 }
}

impl Group {
    /// Whether an election that began here may still end here: nobody else leads, and this replica is not yet ready to.
    fn is_electing(&self) -> bool {
        self.replica.timer() == Timer::Election || self.replica.leads() && self.replica.epoch().is_none()
    }
}

impl Shard {
    pub(super) fn arm_timer(&mut self, at: u32, rearm: bool) {
        let group = &self.groups[at as usize];
        let (wanted, (armed, deadline), election) = (group.replica.timer(), group.timer, group.election);
        if wanted == armed && !rearm {
            return;
        }
        if let Some(deadline) = deadline {
            self.elections.timers.remove(&(deadline, at));
        }
        let deadline = match wanted {
            Timer::Off => None,
            Timer::Election => {
                let new = self.groups[at as usize].replica.promised() == Ballot::ZERO;
                let range = match election {
                    Election::Running => ELECTION_NS,
                    Election::None | Election::Due if self.prefers[at as usize] > 0 => ELECTION_PREFERRED_NS,
                    Election::None | Election::Due if new => ELECTION_FIRST_NS,
                    Election::None | Election::Due => ELECTION_NS,
                };
                // Nobody stands before it may promise.
                let from = self.now_ns.max(self.promises_from(at));
                Some(from + self.draw(range))
            }
            Timer::Progress => Some(self.now_ns + PROGRESS_NS),
            Timer::Learn if !self.learn_waits(at) && self.asks_in_vain(at) => Some(self.now_ns + LEARN_ELSEWHERE_NS),
            Timer::Learn => Some(self.now_ns + LEARN_NS),
        };
        self.groups[at as usize].timer = (wanted, deadline);
        if let Some(deadline) = deadline {
            self.elections.timers.insert((deadline, at));
        }
    }

    /// Whether a group asks a peer for chosen values that cannot be reached, while another can: under load it would
    /// never catch up if it waited for each of those.
    fn asks_in_vain(&self, at: u32) -> bool {
        let reached = |peer: &Peer| peer.connection.is_some() && !peer.lost;
        let Some(asked) = self.groups[at as usize].replica.asks() else { return false };
        let votes = self.groups[at as usize].replica.votes();
        let in_vain = self.peer_of(at, asked).is_none_or(|peer| {
            // A witness has nothing for one who has no vote.
            !reached(&self.peers[peer]) || !votes && self.replica_of(at, peer).is_witness()
        });
        in_vain && self.peers.iter().any(reached)
    }

    /// Lets the timers fire that are due, and elections begin.
    pub(super) fn fire_timers(&mut self) {
        while let Some((deadline, at)) = self.elections.timers.first().copied()
            && deadline <= self.now_ns
        {
            self.elections.timers.pop_first();
            self.groups[at as usize].timer.1 = None;
            self.end_election(at);
            let election = self.groups[at as usize].timer.0 == Timer::Election;
            // Who prefers the group begins as soon as votes may leave: it has the right of way.
            let early = election && self.prefers[at as usize] > 0;
            if self.wal_stuck() || self.yields() || !self.may_vote() && !early || self.learn_waits(at) {
                mark(Mark::TimerPutOff);
                self.arm_timer(at, true);
            } else if election {
                let group = &mut self.groups[at as usize];
                if group.election != Election::Due {
                    group.election = Election::Due;
                    self.elections.due.push_back(at);
                }
            } else {
                self.act(at, &[], |r, out| r.timeout(out));
                if self.groups[at as usize].timer.1.is_none() {
                    self.arm_timer(at, true);
                }
            }
        }
        self.begin_elections();
    }

    /// Begins the elections that are due, as far as there is room for them.
    fn begin_elections(&mut self) {
        if !self.elections.is_any_due() || !self.may_vote() || self.wal_stuck() || self.yields() {
            return;
        }
        while let Some(at) = self.elections.due.front().copied() {
            let group = &mut self.groups[at as usize];
            if group.timer != (Timer::Election, None) {
                // It has heard of a leader, or of somebody who may become one, and waits again.
                self.elections.due.pop_front();
                group.election = Election::None;
                continue;
            }
            if self.elections.running >= self.elections.max {
                mark(Mark::ElectionWaits);
                return;
            }
            self.elections.due.pop_front();
            group.election = Election::None;
            if self.must_not_campaign(at) {
                mark(Mark::ElectionPutOff);
                self.arm_timer(at, true);
                continue;
            }
            self.groups[at as usize].election = Election::Running;
            self.elections.running += 1;
            // A preference wears off.
            let tries = &mut self.prefers[at as usize];
            *tries = tries.saturating_sub(1);
            self.act(at, &[], |r, out| r.timeout(out));
            if self.groups[at as usize].timer == (Timer::Election, None) {
                self.arm_timer(at, true);
            }
        }
    }

    /// An event of the group is over: perhaps it has a leader now.
    pub(super) fn note_election(&mut self, at: u32) {
        let group = &self.groups[at as usize];
        if group.election == Election::Running && !group.is_electing() {
            self.end_election(at);
        }
    }

    /// The group's election counts no longer.
    pub(super) fn end_election(&mut self, at: u32) {
        let election = &mut self.groups[at as usize].election;
        if *election == Election::Running {
            *election = Election::None;
            self.elections.running -= 1;
        }
    }

    /// A group is no more.
    pub(super) fn forget_election(&mut self, at: u32) {
        self.end_election(at);
        if let Some(deadline) = self.groups[at as usize].timer.1.take() {
            self.elections.timers.remove(&(deadline, at));
        }
    }
}
