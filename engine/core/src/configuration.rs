//! Who votes in a group.
//!
//! A configuration is a value in the log, and *governs* the slots behind it once it is chosen; one that is only
//! accepted governs nothing. Invariants, each of which answers a schedule that loses data without it:
//! - a leader proposes one only when all before it is chosen, and nothing behind it at the same ballot: what follows is
//!   proposed under the new configuration, after a phase 1 with a quorum of it;
//! - a candidate that finds one in phase 1 gets it chosen under the old configuration, forgets what was reported behind
//!   it, and begins again under the new one;
//! - votes are asked for and counted only among replicas that hold the same configuration, and only by replica: a node
//!   that lost its log comes back as another replica, which has no vote until a configuration names it.
//!
//! This is the stop-sign form of reconfiguration (Lamport, Malkhi, Zhou, "Reconfiguring a State Machine", 2010), with a
//! window of one slot around the change.
//!
//! The quorums of the two phases may differ in size (Howard, Malkhi, Spiegelman, "Flexible Paxos", 2016): all that phase 1
//! must be sure of is to meet whatever phase 2 may have used at a lower ballot of the same configuration. Invariant:
//! `phase_1 + phase_2 > voters`, so any two of them have a voter in common.
//!
//! Some voters may be *witnesses*, which keep votes and no payloads. Invariant: `phase_2 > witnesses`, so whatever is chosen
//! was accepted by a voter that has the payload.

use alloc::vec::Vec;

use crate::ids::{MemberId, ReplicaId};
use crate::planted::{Bug, is};
use crate::replica::VOTERS_MAX;

/// One voter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Voter {
    /// Its number in the group, never used again.
    pub member: MemberId,
    /// The node that it lives on.
    pub node: u64,
    /// The log that holds its votes.
    pub replica: ReplicaId,
}

impl Voter {
    /// Whether it votes and keeps no payloads.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.replica.is_witness()
    }
}

/// How many voters each phase needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Quorums {
    /// To elect a leader.
    pub phase_1: usize,
    /// To choose a value, to lease, and to confirm a leader to readers.
    pub phase_2: usize,
}

impl Quorums {
    /// The quorums of so many voters, of whom `phase_2` choose; 0: a majority. Phase 1 takes as few as will surely meet them.
    ///
    /// # Panics
    /// When more are to choose than there are.
    #[must_use]
    pub fn of(voters: usize, phase_2: u16) -> Self {
        let apart = usize::from(is(Bug::QuorumsDoNotMeet) && voters > 1);
        let quorums = match usize::from(phase_2) {
            0 => Self { phase_1: voters / 2 + 1 - apart, phase_2: voters / 2 + 1 - apart },
            phase_2 => {
                assert!(phase_2 <= voters, "{phase_2} of {voters} cannot choose");
                Self { phase_1: (voters + 1 - phase_2 - apart).max(1), phase_2 }
            }
        };
        assert!(quorums.phase_1 + quorums.phase_2 > voters || apart > 0, "two quorums always meet");
        quorums
    }

    /// With fewer a group gets no further: nobody can be elected, or nothing chosen.
    #[must_use]
    pub fn both(self) -> usize {
        self.phase_1.max(self.phase_2)
    }
}

/// The voters of a group.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Configuration {
    /// Counts the changes; 0 is the configuration that the group began with.
    pub version: u64,
    /// The number that the next new voter gets.
    pub next_member: u16,
    /// How many voters choose a value; 0: a majority. It stays as it is when voters come and go.
    pub phase_2: u16,
    /// The voters, each node at most once. None: this replica does not know yet who votes, or the group has ended.
    pub voters: Vec<Voter>,
}

impl Configuration {
    /// The configuration that a group begins with: its voters get the numbers from 1 on, in the order given.
    #[must_use]
    pub fn genesis(voters: impl IntoIterator<Item = (u64, ReplicaId)>) -> Self {
        let number = |(at, (node, replica))| Voter { member: MemberId(at as u16 + 1), node, replica };
        let voters: Vec<Voter> = voters.into_iter().enumerate().map(number).collect();
        Self { version: 0, next_member: voters.len() as u16 + 1, phase_2: 0, voters }
    }

    /// This configuration, in which `phase_2` voters choose a value, or a majority if that is 0; `None` when so many can
    /// not, or so few that witnesses alone would do. For the configuration that a group begins with: any other is changed
    /// by [`Configuration::resize`].
    #[must_use]
    pub fn with_phase_2(self, phase_2: u16) -> Option<Self> {
        Some(Self { phase_2, ..self }).filter(Self::is_legal)
    }

    /// This configuration with quorums of other sizes; `None` when so many voters there are not, or witnesses alone could
    /// choose.
    #[must_use]
    pub fn resize(&self, phase_2: u16) -> Option<Self> {
        let next = Self { version: self.version + 1, ..self.clone() };
        next.with_phase_2(phase_2)
    }

    /// How many voters each phase needs.
    #[must_use]
    pub fn quorums(&self) -> Quorums {
        Quorums::of(self.voters.len(), self.phase_2)
    }

    /// This configuration with another replica in place of the one that `node` had; `None` when it has no voter there,
    /// when that is of the other kind, when the replica votes already, or when the numbers are used up.
    #[must_use]
    pub fn replace(&self, node: u64, replica: ReplicaId) -> Option<Self> {
        if self.member_of(replica).is_some() || self.next_member >= MemberId::OUTSIDERS {
            return None;
        }
        let mut next = self.clone();
        let voter = next.voters.iter_mut().find(|voter| voter.node == node)?;
        if voter.is_witness() != replica.is_witness() {
            return None;
        }
        *voter = Voter { member: MemberId(self.next_member), node, replica };
        next.version += 1;
        next.next_member += 1;
        Some(next)
    }

    /// This configuration with one voter more, on `node`; `None` when node or replica has a vote already, when there
    /// are no more voters or numbers to be had, or when witnesses alone could choose.
    #[must_use]
    pub fn add(&self, node: u64, replica: ReplicaId) -> Option<Self> {
        let known = self.voter_on(node).is_some() || self.member_of(replica).is_some();
        if known || self.voters.len() == VOTERS_MAX || self.next_member >= MemberId::OUTSIDERS {
            return None;
        }
        let mut next = self.clone();
        next.voters.push(Voter { member: MemberId(self.next_member), node, replica });
        next.version += 1;
        next.next_member += 1;
        Some(next).filter(Self::is_legal)
    }

    /// This configuration without the voter on `node`; `None` when there is none, or no other, when fewer would be left
    /// than are to choose a value, or when witnesses alone could choose.
    #[must_use]
    pub fn remove(&self, node: u64) -> Option<Self> {
        self.voter_on(node)?;
        let mut next = self.clone();
        next.voters.retain(|voter| voter.node != node);
        next.version += 1;
        (!next.voters.is_empty() && next.is_legal()).then_some(next)
    }

    /// The configuration that ends the group: nobody votes, so nothing is ever chosen behind the slot that holds it.
    #[must_use]
    pub fn end(&self) -> Self {
        Self { version: self.version + 1, next_member: self.next_member, phase_2: 0, voters: Vec::new() }
    }

    /// Whether it has ended the group. One without voters that no change has led to only is not known yet.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.version > 0 && self.voters.is_empty()
    }

    /// Whether this configuration is the next one behind `before`: at most one voter has gone, and at most one has come, or
    /// else `phase_2` was set anew; or it is the end, behind which no ballot of any configuration ever has a quorum.
    #[must_use]
    pub fn follows(&self, before: &Self) -> bool {
        let missing = |of: &Self, other: &Self| of.voters.iter().filter(|voter| !other.voters.contains(voter)).count();
        let (gone, come) = (missing(before, self), missing(self, before));
        let one_change = if self.phase_2 == before.phase_2 { gone <= 1 && come <= 1 } else { gone + come == 0 };
        self.version == before.version + 1 && (self.voters.is_empty() || one_change)
    }

    /// How many of the voters are witnesses.
    #[must_use]
    pub fn witnesses(&self) -> usize {
        self.voters.iter().filter(|voter| voter.is_witness()).count()
    }

    /// The voter that lives on a node.
    #[must_use]
    pub fn voter_on(&self, node: u64) -> Option<&Voter> {
        self.voters.iter().find(|voter| voter.node == node)
    }

    /// The number under which a replica votes.
    #[must_use]
    pub fn member_of(&self, replica: ReplicaId) -> Option<MemberId> {
        self.voters.iter().find(|voter| voter.replica == replica).map(|voter| voter.member)
    }

    /// The voter with a number.
    #[must_use]
    pub fn voter(&self, member: MemberId) -> Option<&Voter> {
        self.voters.iter().find(|voter| voter.member == member)
    }

    /// Whether it can govern a group: no more voters than may be, each number, node and replica once, all numbers below
    /// the next one, no more of them to choose a value than there are, and never witnesses alone.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        let voters = &self.voters;
        voters.len() <= VOTERS_MAX
            && usize::from(self.phase_2) <= voters.len()
            && self.next_member <= MemberId::OUTSIDERS
            && voters.iter().enumerate().all(|(at, voter)| {
                voter.member < MemberId(self.next_member)
                    && voters[..at].iter().all(|other| {
                        other.member != voter.member && other.node != voter.node && other.replica != voter.replica
                    })
            })
            && (voters.is_empty() || self.witnesses() < self.quorums().phase_2 || is(Bug::QuorumsDoNotMeet))
    }
}

/// The voters of the governing configuration by their numbers, and which of them is this replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Electorate {
    /// This replica's number; `None` when it does not vote.
    pub(crate) me: Option<MemberId>,
    pub(crate) voters: Vec<MemberId>,
    /// Those of them that keep no payloads.
    pub(crate) witnesses: Vec<MemberId>,
    pub(crate) quorums: Quorums,
}

impl Electorate {
    pub(crate) fn new(configuration: &Configuration, replica: ReplicaId) -> Self {
        let voters = configuration.voters.iter().map(|voter| voter.member).collect();
        let witnesses = configuration.voters.iter().filter(|voter| voter.is_witness()).map(|voter| voter.member);
        let (me, witnesses) = (configuration.member_of(replica), witnesses.collect());
        Self { me, voters, witnesses, quorums: configuration.quorums() }
    }

    /// This replica's number.
    ///
    /// # Panics
    /// When it does not vote: who asks has made sure.
    pub(crate) fn own(&self) -> MemberId {
        self.me.expect("only a voter gets here")
    }

    pub(crate) fn is_voter(&self, member: MemberId) -> bool {
        self.voters.contains(&member)
    }

    pub(crate) fn is_witness(&self, member: MemberId) -> bool {
        self.witnesses.contains(&member)
    }

    /// The next voter behind `member` in the order of the voters that keeps payloads, and is not this replica.
    pub(crate) fn full_after(&self, member: MemberId) -> Option<MemberId> {
        let at = self.voters.iter().position(|voter| *voter == member).unwrap_or(0);
        let n = self.voters.len();
        let mut others = (1..=n).map(|step| self.voters[(at + step) % n]);
        others.find(|voter| Some(*voter) != self.me && !self.is_witness(*voter))
    }

    pub(crate) fn index_of(&self, member: MemberId) -> usize {
        self.voters.iter().position(|v| *v == member).expect("only voters are looked up")
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.iter().copied().filter(|v| Some(*v) != self.me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_voter_gets_a_number_of_its_own() {
        let genesis = Configuration::genesis([(10, ReplicaId(1)), (20, ReplicaId(2)), (30, ReplicaId(3))]);
        assert!(genesis.is_legal());
        let next = genesis.replace(20, ReplicaId(9)).unwrap();
        assert!(next.is_legal());
        assert_eq!((next.version, next.next_member), (1, 5));
        assert_eq!(next.member_of(ReplicaId(9)), Some(MemberId(4)));
        assert_eq!((next.member_of(ReplicaId(2)), next.voter(MemberId(2))), (None, None));
        assert_eq!(next.replace(20, ReplicaId(9)), None, "it votes already");
        assert_eq!(next.replace(40, ReplicaId(8)), None, "no voter lives there");
    }

    #[test]
    fn voters_come_and_go_one_at_a_time() {
        let genesis = Configuration::genesis([(10, ReplicaId(1)), (20, ReplicaId(2))]);
        let three = genesis.add(30, ReplicaId(3)).unwrap();
        assert!(three.is_legal() && three.follows(&genesis));
        assert_eq!(three.voter_on(30).unwrap().member, MemberId(3));
        assert_eq!(three.add(30, ReplicaId(4)), None, "a voter lives there");
        assert_eq!(three.add(40, ReplicaId(3)), None, "it votes elsewhere");
        let two = three.remove(10).unwrap();
        assert!(two.is_legal() && two.follows(&three) && !two.follows(&genesis));
        assert_eq!(two.remove(10), None, "no voter lives there");
        let back = two.add(10, ReplicaId(1)).unwrap();
        assert_eq!(back.voter_on(10).unwrap().member, MemberId(4), "a number is never used again");
        let one = two.remove(20).unwrap();
        assert_eq!(one.remove(30), None, "the last one stays");
    }

    fn of(voters: u64) -> Configuration {
        Configuration::genesis((1..=voters).map(|node| (node, ReplicaId(u128::from(node)))))
    }

    /// Any two voters sets of such sizes have one in common, whatever was set.
    #[test]
    fn flexible_quorums_intersect() {
        for voters in 1..=VOTERS_MAX as u64 {
            for phase_2 in 0..=voters as u16 {
                let Quorums { phase_1, phase_2: chooses } = of(voters).with_phase_2(phase_2).unwrap().quorums();
                assert!(phase_1 + chooses > voters as usize, "{voters} voters, {phase_2}");
                assert!((1..=voters as usize).contains(&phase_1) && (1..=voters as usize).contains(&chooses));
            }
            assert_eq!(of(voters).with_phase_2(voters as u16 + 1), None);
        }
    }

    #[test]
    fn quorums_of_a_size_stay_legal_when_voters_come_and_go() {
        let five = of(5).resize(4).unwrap();
        assert!(five.follows(&of(5)) && five.is_legal());
        assert_eq!(five.quorums(), Quorums { phase_1: 2, phase_2: 4 });
        let four = five.remove(3).unwrap();
        assert_eq!(four.quorums(), Quorums { phase_1: 1, phase_2: 4 });
        assert_eq!(four.remove(2), None, "three cannot be four");
        let back = four.add(3, ReplicaId(9)).unwrap();
        assert_eq!(back.quorums(), five.quorums());
        assert_eq!(back.replace(2, ReplicaId(8)).unwrap().quorums(), five.quorums());
        assert_eq!(back.resize(6), None);
        let both = Configuration { version: 1, ..four.clone() };
        assert!(!both.follows(&of(5)), "one at a time");
        let majority = back.resize(0).unwrap();
        assert_eq!(majority.quorums(), Quorums { phase_1: 3, phase_2: 3 });
        assert_eq!(majority.remove(1).unwrap().quorums(), Quorums { phase_1: 3, phase_2: 3 });
        assert!(back.end().is_legal(), "nobody chooses behind the end");
    }

    #[test]
    fn the_end_follows_any_configuration_and_nothing_follows_it() {
        let genesis = Configuration::genesis([(10, ReplicaId(1)), (20, ReplicaId(2)), (30, ReplicaId(3))]);
        let end = genesis.end();
        assert!(end.is_legal() && end.follows(&genesis) && end.is_end());
        assert!(!genesis.is_end() && !Configuration::default().is_end());
        assert_eq!(
            (end.add(10, ReplicaId(9)).map(|next| next.is_end()), end.replace(10, ReplicaId(9))),
            (Some(false), None)
        );
    }

    #[test]
    fn a_configuration_that_names_one_twice_is_not_legal() {
        let voter = |member, node, replica| Voter { member: MemberId(member), node, replica: ReplicaId(replica) };
        let of = |voters| Configuration { version: 1, next_member: 9, phase_2: 0, voters };
        assert!(of(alloc::vec![voter(1, 1, 1), voter(2, 2, 2)]).is_legal());
        for other in [voter(1, 2, 2), voter(2, 1, 2), voter(2, 2, 1), voter(9, 2, 2)] {
            assert!(!of(alloc::vec![voter(1, 1, 1), other]).is_legal(), "{other:?}");
        }
    }
}
