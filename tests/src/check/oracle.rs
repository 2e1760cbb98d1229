//! The omniscient view of Paxos: fed with every acceptor's durable votes, it knows what is chosen.
//!
//! A value is chosen in a slot when one ballot has durable votes of a quorum for it. Checked at each vote, whatever the
//! order in which votes of different replicas come in: a ballot carries one value per slot; a slot has one chosen value;
//! every vote at a ballot above that of a chosen value is for that value (so a wrong leader is seen long before it has
//! a quorum); no replica votes below its durable promise; and no replica's promise or vote goes back over a restart.
//! Where configurations are told ([`Oracle::among`], [`Oracle::configuration`]), only the voters of the one that governs a
//! slot count there, and as many of them as it says: that of the last slot before it in which a configuration is chosen.
//! Settled prefixes are forgotten ([`Oracle::settle`]): memory is bounded by what is not settled.

use std::collections::{BTreeMap, BTreeSet};

/// A replica, by whatever number the test gives it; a wiped one comes back under another.
pub type Member = u64;

/// A durable vote: this value was accepted at this ballot in this slot. Ballots order as numbers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// Where.
    pub slot: u64,
    /// At which ballot.
    pub ballot: u64,
    /// What names the value: equal for equal values of a slot, different for different ones.
    pub value: u64,
}

/// Paxos was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OracleViolation {
    /// One ballot, one slot, two values.
    #[error("group {group}: member {member} holds {vote:?}, but that ballot has value {other} in that slot")]
    BallotWithTwoValues {
        /// Whose.
        group: u64,
        /// The second voter.
        member: Member,
        /// Its vote.
        vote: Vote,
        /// The value of the first one.
        other: u64,
    },
    /// Two values are chosen.
    #[error(
        "group {group}: slot {slot} has two chosen values: {first} at ballot {first_ballot}, {second} at {second_ballot}"
    )]
    TwoChosen {
        /// Whose.
        group: u64,
        /// Where.
        slot: u64,
        /// One.
        first: u64,
        /// Its ballot.
        first_ballot: u64,
        /// The other.
        second: u64,
        /// Its ballot.
        second_ballot: u64,
    },
    /// A vote at a ballot above a chosen value's is for another value.
    #[error("group {group}: {vote:?} goes against value {chosen}, chosen there at ballot {ballot}")]
    AgainstChosen {
        /// Whose.
        group: u64,
        /// The higher one.
        vote: Vote,
        /// What is chosen.
        chosen: u64,
        /// The ballot that chose it.
        ballot: u64,
    },
    /// A vote below the voter's promise.
    #[error("group {group}: member {member} holds {vote:?}, below its durable promise {promised}")]
    BelowPromise {
        /// Whose.
        group: u64,
        /// Who.
        member: Member,
        /// What.
        vote: Vote,
        /// The promise, its own or implied by a vote.
        promised: u64,
    },
    /// A promise that goes back.
    #[error("group {group}: the promise of member {member} went back from {promised} to {now}")]
    PromiseWentBack {
        /// Whose.
        group: u64,
        /// Who.
        member: Member,
        /// What it was.
        promised: u64,
        /// What it is.
        now: u64,
    },
    /// A durable vote that is gone, or replaced by an older one.
    #[error("group {group}: member {member} lost {lost:?} over a restart; it holds {now:?}")]
    VoteLost {
        /// Whose.
        group: u64,
        /// Who.
        member: Member,
        /// What it had.
        lost: Vote,
        /// What it has in that slot.
        now: Option<Vote>,
    },
    /// A replica takes as chosen what is not.
    #[error("group {group}: member {member} takes value {value} as chosen in slot {slot}, where {chosen:?} is")]
    NotChosen {
        /// Whose.
        group: u64,
        /// Who.
        member: Member,
        /// Where.
        slot: u64,
        /// What it believes.
        value: u64,
        /// What is chosen, if anything.
        chosen: Option<u64>,
    },
    /// A value was chosen although a configuration before it was not chosen yet.
    #[error("group {group}: slot {slot} was chosen before the configuration in slot {configuration}")]
    BehindConfiguration {
        /// Whose.
        group: u64,
        /// Where.
        slot: u64,
        /// The slot of the configuration.
        configuration: u64,
    },
    /// A prefix is called settled, but a slot of it has no chosen value.
    #[error("group {group}: slot {slot} is called settled, but nothing is chosen there")]
    SettledUnchosen {
        /// Whose.
        group: u64,
        /// Where.
        slot: u64,
    },
}

/// What an acceptor has after a restart.
#[derive(Clone, Copy, Debug)]
pub struct Restarted<'a> {
    /// Its promise.
    pub promised: u64,
    /// All slots up to here it knows as chosen or has trimmed: votes there are no longer asked for.
    pub chosen_to: u64,
    /// What it holds above, in rising order of slots; a value learned as chosen counts with the highest ballot.
    pub accepted: &'a [Vote],
}

/// All groups' acceptors, seen from above.
#[derive(Debug)]
pub struct Oracle {
    /// Who votes before any configuration is chosen, and how many choose.
    founders: Electorate,
    /// Groups in which so many of the founders choose instead.
    begin_with: BTreeMap<u64, usize>,
    /// Who keeps no payloads.
    witnesses: BTreeSet<Member>,
    groups: BTreeMap<u64, Group>,
}

/// How many of so many voters choose, where `phase_2` is set; 0: a majority.
pub fn quorum_of(voters: usize, phase_2: u16) -> usize {
    if phase_2 == 0 { voters / 2 + 1 } else { usize::from(phase_2) }
}

/// Who votes, and how many of them choose.
#[derive(Clone, Debug)]
struct Electorate {
    /// `None`: whoever does.
    voters: Option<Vec<Member>>,
    quorum: usize,
}

impl Electorate {
    fn choose(&self, voters: &[Member], quorum: usize) -> bool {
        let votes = match &self.voters {
            Some(electorate) => electorate.iter().filter(|m| voters.contains(m)).count(),
            None => voters.len(),
        };
        quorum <= votes
    }
}

#[derive(Debug, Default)]
struct Group {
    settled: u64,
    slots: BTreeMap<u64, Slot>,
    promised: BTreeMap<Member, u64>,
    /// Who would vote behind a value: by slot and value.
    proposed: BTreeMap<(u64, u64), Electorate>,
    /// Who votes behind the slots in which a configuration is chosen.
    governing: BTreeMap<u64, Electorate>,
    last_chosen: u64,
}

/// What one slot has seen.
#[derive(Debug, Default)]
struct Slot {
    /// By ballot: the value and who voted for it.
    ballots: BTreeMap<u64, (u64, Vec<Member>)>,
    /// The lowest ballot that has a quorum, and its value.
    chosen: Option<(u64, u64)>,
}

impl Oracle {
    /// Groups in which this many votes of one ballot choose.
    pub fn new(quorum: usize) -> Self {
        assert!(1 <= quorum);
        let founders = Electorate { voters: None, quorum };
        Self { founders, begin_with: BTreeMap::new(), witnesses: BTreeSet::new(), groups: BTreeMap::new() }
    }

    /// Groups that begin with these voters, of which a majority chooses, until a configuration says otherwise.
    pub fn among(founders: Vec<Member>) -> Self {
        let quorum = quorum_of(founders.len(), 0);
        let founders = Electorate { voters: Some(founders), quorum };
        Self { founders, begin_with: BTreeMap::new(), witnesses: BTreeSet::new(), groups: BTreeMap::new() }
    }

    /// Some that vote keep no payloads: without the vote of another, nothing is chosen by them.
    #[must_use]
    pub fn with_witnesses(self, witnesses: BTreeSet<Member>) -> Self {
        Self { witnesses, ..self }
    }

    /// One more that keeps no payloads.
    pub fn witness(&mut self, member: Member) {
        self.witnesses.insert(member);
    }

    /// A group in which so many of the founders choose.
    pub fn begins_with(&mut self, group: u64, quorum: usize) {
        self.begin_with.insert(group, quorum);
    }

    /// A value of a slot is a configuration: once it is chosen there, these vote in the slots behind, and so many choose.
    pub fn configuration(&mut self, group: u64, slot: u64, value: u64, voters: Vec<Member>, quorum: usize) {
        let electorate = Electorate { voters: Some(voters), quorum };
        self.groups.entry(group).or_default().proposed.insert((slot, value), electorate);
    }

    /// How many voters choose behind the last configuration that is chosen.
    pub fn quorum(&self, group: u64) -> usize {
        let governing = self.groups.get(&group).and_then(|state| state.governing.last_key_value());
        governing.map_or_else(|| self.founding_quorum(group), |(_, electorate)| electorate.quorum)
    }

    fn founding_quorum(&self, group: u64) -> usize {
        self.begin_with.get(&group).copied().unwrap_or(self.founders.quorum)
    }

    /// Who votes behind the last configuration that is chosen, and whether anything is chosen behind it.
    pub fn voters(&self, group: u64) -> (&[Member], bool) {
        let founders = self.founders.voters.as_deref().unwrap_or(&[]);
        let Some(state) = self.groups.get(&group) else { return (founders, true) };
        match state.governing.last_key_value() {
            Some((slot, electorate)) => (electorate.voters.as_deref().unwrap_or(&[]), *slot < state.last_chosen),
            None => (founders, true),
        }
    }

    /// A promise has become durable.
    pub fn promised(&mut self, group: u64, member: Member, ballot: u64) -> Result<(), OracleViolation> {
        let promised = self.groups.entry(group).or_default().promised.entry(member).or_insert(0);
        if ballot < *promised {
            return Err(OracleViolation::PromiseWentBack { group, member, promised: *promised, now: ballot });
        }
        *promised = ballot;
        Ok(())
    }

    /// A vote has become durable. Told again, it changes nothing.
    pub fn voted(&mut self, group: u64, member: Member, vote: Vote) -> Result<(), OracleViolation> {
        let founding_quorum = self.founding_quorum(group);
        let state = self.groups.entry(group).or_default();
        let promised = state.promised.entry(member).or_insert(0);
        let is_repeated = state.slots.get(&vote.slot).is_some_and(|slot| slot.has(member, vote));
        // A vote may be written again when the part of the log that holds it is to go. What is settled is forgotten here.
        if vote.ballot < *promised && vote.slot <= state.settled {
            return Ok(());
        }
        if vote.ballot < *promised && !is_repeated {
            return Err(OracleViolation::BelowPromise { group, member, vote, promised: *promised });
        }
        // Accepting at a ballot promises it.
        *promised = (*promised).max(vote.ballot);
        if vote.slot <= state.settled {
            return Ok(());
        }
        let slot = state.slots.entry(vote.slot).or_default();
        let (value, voters) = slot.ballots.entry(vote.ballot).or_insert((vote.value, Vec::new()));
        if *value != vote.value {
            return Err(OracleViolation::BallotWithTwoValues { group, member, vote, other: *value });
        }
        if !voters.contains(&member) {
            voters.push(member);
        }
        let is_chosen = match state.governing.range(..vote.slot).next_back() {
            Some((_, electorate)) => electorate.choose(voters, electorate.quorum),
            None => self.founders.choose(voters, founding_quorum),
        };
        let is_chosen = is_chosen && voters.iter().any(|member| !self.witnesses.contains(member));
        let was_chosen = slot.chosen.is_some();
        slot.check(group, vote, is_chosen)?;
        if is_chosen && !was_chosen {
            state.note_chosen(group, vote.slot, vote.value)?;
        }
        Ok(())
    }

    /// An acceptor has come back from its durable log.
    pub fn restarted(&mut self, group: u64, member: Member, now: &Restarted<'_>) -> Result<(), OracleViolation> {
        self.holds(group, member, now)?;
        self.groups.entry(group).or_default().promised.insert(member, now.promised);
        Ok(())
    }

    /// What an acceptor holds stands for all its durable votes, and perhaps for some that are not durable yet.
    pub fn holds(&self, group: u64, member: Member, now: &Restarted<'_>) -> Result<(), OracleViolation> {
        let Some(state) = self.groups.get(&group) else { return Ok(()) };
        let promised = state.promised.get(&member).copied().unwrap_or(0);
        if now.promised < promised {
            return Err(OracleViolation::PromiseWentBack { group, member, promised, now: now.promised });
        }
        for (&number, slot) in state.slots.range(now.chosen_to + 1..) {
            let Some(lost) = slot.last_vote(number, member) else { continue };
            let held = now.accepted.iter().find(|held| held.slot == number).copied();
            let is_kept = held.is_some_and(|held| {
                lost.ballot < held.ballot || (held.ballot == lost.ballot && held.value == lost.value)
            });
            if !is_kept {
                return Err(OracleViolation::VoteLost { group, member, lost, now: held });
            }
        }
        Ok(())
    }

    /// A replica takes a value as chosen: it applies it, acknowledges it or tells others so.
    pub fn learned(&self, group: u64, member: Member, slot: u64, value: u64) -> Result<(), OracleViolation> {
        if self.settled(group) < slot {
            let chosen = self.chosen(group, slot);
            if chosen != Some(value) {
                return Err(OracleViolation::NotChosen { group, member, slot, value, chosen });
            }
        }
        Ok(())
    }

    /// All slots up to `slot` are known as chosen wherever it matters: they are forgotten.
    pub fn settle(&mut self, group: u64, slot: u64) -> Result<(), OracleViolation> {
        let state = self.groups.entry(group).or_default();
        while state.settled < slot {
            let next = state.settled + 1;
            if state.slots.get(&next).is_none_or(|slot| slot.chosen.is_none()) {
                return Err(OracleViolation::SettledUnchosen { group, slot: next });
            }
            state.slots.remove(&next);
            state.settled = next;
        }
        Ok(())
    }

    /// What is chosen in a slot that is not settled.
    pub fn chosen(&self, group: u64, slot: u64) -> Option<u64> {
        self.groups.get(&group)?.slots.get(&slot)?.chosen.map(|(_, value)| value)
    }

    /// The last slot of a group that is settled.
    pub fn settled(&self, group: u64) -> u64 {
        self.groups.get(&group).map_or(0, |group| group.settled)
    }

    /// Whether a member has made a promise in a group, by itself or by an accept.
    pub fn has_promised(&self, group: u64, member: Member) -> bool {
        self.groups.get(&group).is_some_and(|group| group.promised.get(&member).is_some_and(|ballot| *ballot > 0))
    }

    /// How many slots are kept.
    pub fn slots_kept(&self) -> usize {
        self.groups.values().map(|group| group.slots.len()).sum()
    }
}

impl Group {
    /// A slot has got its value. If that is a configuration, it governs what comes behind.
    fn note_chosen(&mut self, group: u64, slot: u64, value: u64) -> Result<(), OracleViolation> {
        self.last_chosen = self.last_chosen.max(slot);
        let Some(electorate) = self.proposed.get(&(slot, value)) else { return Ok(()) };
        self.governing.insert(slot, electorate.clone());
        let behind = self.slots.range(slot + 1..).find(|(_, state)| state.chosen.is_some());
        match behind {
            Some((behind, _)) => {
                Err(OracleViolation::BehindConfiguration { group, slot: *behind, configuration: slot })
            }
            None => Ok(()),
        }
    }
}

impl Slot {
    fn has(&self, member: Member, vote: Vote) -> bool {
        let at = self.ballots.get(&vote.ballot);
        at.is_some_and(|(value, voters)| *value == vote.value && voters.contains(&member))
    }

    /// What a member must still hold here.
    fn last_vote(&self, slot: u64, member: Member) -> Option<Vote> {
        let mut ballots = self.ballots.iter().rev();
        let (&ballot, &(value, _)) = ballots.find(|(_, (_, voters))| voters.contains(&member))?;
        Some(Vote { slot, ballot, value })
    }

    /// Judges a vote that was counted, and whether its ballot has a quorum.
    fn check(&mut self, group: u64, vote: Vote, is_chosen: bool) -> Result<(), OracleViolation> {
        if let Some((ballot, chosen)) = self.chosen {
            if is_chosen && chosen != vote.value {
                let (slot, second, second_ballot) = (vote.slot, vote.value, vote.ballot);
                let (first, first_ballot) = (chosen, ballot);
                return Err(OracleViolation::TwoChosen { group, slot, first, first_ballot, second, second_ballot });
            }
            if ballot < vote.ballot && chosen != vote.value {
                return Err(OracleViolation::AgainstChosen { group, vote, chosen, ballot });
            }
        }
        if !is_chosen || self.chosen.is_some_and(|(ballot, _)| ballot <= vote.ballot) {
            return Ok(());
        }
        self.chosen = Some((vote.ballot, vote.value));
        // It may have become known late: what was voted for above it must agree as well.
        let against = self.ballots.range(vote.ballot + 1..).find(|(_, (value, _))| *value != vote.value);
        if let Some((&ballot, &(value, _))) = against {
            let against = Vote { slot: vote.slot, ballot, value };
            return Err(OracleViolation::AgainstChosen {
                group,
                vote: against,
                chosen: vote.value,
                ballot: vote.ballot,
            });
        }
        Ok(())
    }
}
