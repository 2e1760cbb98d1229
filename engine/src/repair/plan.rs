//! What a repair makes of a group: a pure function of what the survivors' logs say of it.
//!
//! The rule loses as little as the survivors allow. What one of them knows as chosen is chosen. Behind that, what their
//! votes say is adopted as a new leader would adopt it: per slot the value of the highest ballot, up to the first slot
//! that nobody holds, and nothing behind a configuration. All that is taken for chosen: an entry that the lost voters
//! acknowledged may be among it, and nobody is left who could tell.
//!
//! Then this node's new replica is made the only voter, by a configuration above all that the survivors know, at a ballot
//! far above all that they have promised, so that epochs never go back.

use synod_core::{Ballot, Body, Configuration, MemberId, ReplicaId, Slot, Value, Voter};

/// Rounds that are left out: the lost voters may have promised more than the survivors know, and users tell epochs apart
/// by their ballots.
const ROUNDS_SKIPPED: u64 = 1 << 20;

/// What one survivor's log says of a group.
#[derive(Clone, Debug)]
pub(crate) struct Evidence<P> {
    /// The replica that the log is.
    pub(crate) replica: ReplicaId,
    /// Nothing says that its end is lost or that it is damaged.
    pub(crate) sound: bool,
    /// The highest ballot that it has promised.
    pub(crate) promised: Ballot,
    /// The last configuration that it knows as chosen, or that of the beginning; without voters if it knows none.
    pub(crate) configuration: Configuration,
    /// Slots up to here are gone from the log: only what they did is known.
    pub(crate) gone: Slot,
    /// Slots up to here are chosen, and known here.
    pub(crate) chosen: Slot,
    /// Slots up to here were chosen, as it has heard; at least `chosen`.
    pub(crate) told: Slot,
    /// What it has accepted from `chosen` + 1 on.
    pub(crate) accepted: Vec<(Ballot, Value<P>)>,
}

impl<P> Evidence<P> {
    /// The last slot for which it has a value.
    pub(crate) fn last(&self) -> Slot {
        Slot(self.chosen.0 + self.accepted.len() as u64)
    }

    fn accepted_in(&self, slot: Slot) -> Option<&(Ballot, Value<P>)> {
        self.accepted.get(usize::try_from(slot.0.checked_sub(self.chosen.0 + 1)?).ok()?)
    }
}

/// What becomes of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan<P> {
    /// The survivor whose log is taken up to its chosen prefix.
    pub(crate) base: usize,
    /// The values behind that prefix which are taken for chosen, slot after slot.
    pub(crate) kept: Vec<Value<P>>,
    /// How many votes for other values, or for slots behind a configuration, are dropped.
    pub(crate) dropped: usize,
    /// How many slots were chosen, as a survivor has heard, and are held by none of them: they are lost.
    pub(crate) lost: u64,
    /// Who voted before, as far as the survivors know.
    pub(crate) before: Configuration,
    /// Who votes from now on.
    pub(crate) forced: Configuration,
    /// The ballot of `forced`, and the promise of its voter.
    pub(crate) ballot: Ballot,
    /// Whether the first survivor, whose node is to be the voter, voted before.
    pub(crate) voted: bool,
    /// Whether the survivors can still elect a leader and choose, so that nothing had to be repaired.
    pub(crate) quorum: bool,
    /// Whether they are a phase-1 quorum at least: among them they have all that was ever acknowledged.
    pub(crate) whole: bool,
}

/// Plans the repair of one group, of which the survivors, the first of them on `node`, say `evidence`. `replica` is the
/// log that will hold the group.
///
/// # Panics
/// Without a survivor.
pub(crate) fn plan<P: Clone>(evidence: &[Evidence<P>], node: u64, replica: ReplicaId) -> Plan<P> {
    assert!(!evidence.is_empty(), "a repair begins with what is left");
    // Of equal ones the log that reaches back furthest, then the first.
    let base = (0..evidence.len())
        .min_by_key(|at| (u64::MAX - evidence[*at].chosen.0, evidence[*at].gone.0))
        .expect("there is one");
    let newest = |configurations: &mut dyn Iterator<Item = &Configuration>| {
        // The first of equal ones; they do not differ.
        configurations.fold(Configuration::default(), |newest, next| {
            let newer = newest.voters.is_empty() || next.version > newest.version;
            if newer { next.clone() } else { newest }
        })
    };
    let before = newest(&mut evidence.iter().map(|of| &of.configuration));
    let votes = |of: &Evidence<P>| before.member_of(of.replica).is_some();

    // The votes of those who had none, or have none any more, never count.
    let voters: Vec<&Evidence<P>> = evidence.iter().filter(|of| votes(of)).collect();
    let first = evidence[base].chosen.next();
    let mut kept: Vec<Value<P>> = Vec::new();
    let (mut slot, mut stopped) = (first, false);
    while !stopped && let Some((_, value)) = highest(&voters, slot) {
        stopped = matches!(value.body, Body::Configuration(_));
        kept.push(value.clone());
        slot = slot.next();
    }
    let last = Slot(slot.0 - 1);
    let is_kept = |slot: Slot, value: &Value<P>| {
        slot.0.checked_sub(first.0).and_then(|at| kept.get(at as usize)).is_some_and(|kept| kept.origin == value.origin)
    };
    let dropped = voters.iter().flat_map(|of| (of.chosen.0 + 1..).map(Slot).zip(&of.accepted));
    let dropped = dropped.filter(|(slot, (_, value))| *slot >= first && !is_kept(*slot, value)).count();
    let lost = evidence.iter().map(|of| of.told).max().unwrap_or_default().0.saturating_sub(last.0);

    let last_configuration = newest(&mut [&before].into_iter().chain(kept.iter().filter_map(configuration_of)));
    let rounds = evidence.iter().flat_map(|of| {
        let values = of.accepted.iter().flat_map(|(ballot, value)| [*ballot, value.origin]);
        values.chain([of.promised]).map(|ballot| ballot.round)
    });
    let round = (rounds.max().unwrap_or(0) + ROUNDS_SKIPPED).min(Ballot::ROUND_MAX);
    // The numbers of the group may be used up; those of ballots tell its members apart as well.
    let next = Some(last_configuration.next_member).filter(|next| (1..MemberId::OUTSIDERS).contains(next));
    let member = MemberId(next.unwrap_or(1));
    let forced = Configuration {
        version: last_configuration.version + 1,
        next_member: member.0 + 1,
        phase_2: 0,
        voters: vec![Voter { member, node, replica }],
    };
    let sound = voters.iter().filter(|of| of.sound).count();
    Plan {
        base,
        dropped,
        lost,
        ballot: Ballot { round, member },
        forced,
        voted: votes(&evidence[0]),
        quorum: !before.voters.is_empty() && sound >= before.quorums().both(),
        whole: !before.voters.is_empty() && sound >= before.quorums().phase_1,
        kept,
        before,
    }
}

fn configuration_of<P>(value: &Value<P>) -> Option<&Configuration> {
    match &value.body {
        Body::Configuration(configuration) => Some(configuration),
        _ => None,
    }
}

/// The vote for a slot at the highest ballot.
fn highest<'a, P>(voters: &[&'a Evidence<P>], slot: Slot) -> Option<&'a (Ballot, Value<P>)> {
    voters.iter().filter_map(|of| of.accepted_in(slot)).max_by_key(|(ballot, _)| *ballot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, member: MemberId(1) }
    }

    fn batch(round: u64, payload: u32) -> Value<u32> {
        Value { origin: ballot(round), body: Body::Batch(payload) }
    }

    fn genesis() -> Configuration {
        Configuration::genesis([(1, ReplicaId(1)), (2, ReplicaId(2)), (3, ReplicaId(3))])
    }

    /// What replica `replica` says: chosen up to a slot, and votes behind it.
    fn evidence(replica: u128, chosen: u64, accepted: &[(u64, Value<u32>)]) -> Evidence<u32> {
        Evidence {
            replica: ReplicaId(replica),
            sound: true,
            promised: ballot(9),
            configuration: genesis(),
            gone: Slot::ZERO,
            chosen: Slot(chosen),
            told: Slot(chosen),
            accepted: accepted.iter().map(|(round, value)| (ballot(*round), value.clone())).collect(),
        }
    }

    fn plan(evidence: &[Evidence<u32>]) -> Plan<u32> {
        super::plan(evidence, 2, ReplicaId(99))
    }

    #[test]
    fn what_is_accepted_is_kept_and_this_replica_alone_votes() {
        let got = plan(&[evidence(2, 4, &[(3, batch(3, 5)), (3, batch(3, 6))])]);
        assert_eq!(got.kept, [batch(3, 5), batch(3, 6)]);
        assert_eq!((got.base, got.dropped, got.lost, got.voted, got.quorum), (0, 0, 0, true, false));
        assert_eq!(got.before, genesis());
        assert!(got.forced.is_legal());
        assert_eq!((got.forced.version, got.forced.next_member), (1, 5));
        assert_eq!(got.forced.voters, [Voter { member: MemberId(4), node: 2, replica: ReplicaId(99) }]);
    }

    /// Also above those that a value names as its origin: a promise may have been forgotten with a damaged log.
    #[test]
    fn the_new_ballot_is_above_all_that_survivors_know() {
        let mut of = evidence(2, 0, &[(30, batch(20, 1))]);
        of.promised = ballot(10);
        assert!(plan(&[of.clone()]).ballot > ballot(30));
        of.promised = ballot(40);
        assert!(plan(&[of.clone()]).ballot > ballot(40));
        of.promised = ballot(Ballot::ROUND_MAX);
        assert_eq!(plan(&[of]).ballot.round, Ballot::ROUND_MAX);
    }

    #[test]
    fn of_several_survivors_the_chosen_and_then_the_highest_ballot_count() {
        let one = evidence(2, 1, &[(3, batch(3, 20)), (3, batch(3, 30)), (3, batch(3, 40)), (3, batch(3, 50))]);
        let two = evidence(3, 2, &[(5, batch(5, 31)), (2, batch(2, 41))]);
        let got = plan(&[one, two]);
        assert_eq!(got.base, 1);
        assert_eq!(got.kept, [batch(5, 31), batch(3, 40), batch(3, 50)]);
        // What the first holds in slot 2 is chosen, or the other's is: it is not dropped by this.
        assert_eq!(got.dropped, 2);
    }

    #[test]
    fn nothing_is_kept_behind_a_configuration_and_its_version_is_passed() {
        let next = genesis().replace(3, ReplicaId(7)).unwrap();
        let change = Value { origin: ballot(3), body: Body::Configuration(Box::new(next)) };
        let got = plan(&[evidence(2, 1, &[(3, change.clone()), (2, batch(2, 9))])]);
        assert_eq!((got.kept, got.dropped), (vec![change], 1));
        assert_eq!((got.forced.version, got.forced.voters[0].member), (2, MemberId(5)));
    }

    #[test]
    fn what_was_chosen_and_is_nowhere_is_told() {
        let mut of = evidence(2, 4, &[(3, batch(3, 5))]);
        of.told = Slot(9);
        assert_eq!(plan(&[of]).lost, 4);
    }

    /// It has never accepted anything, or what it accepted was overruled long ago.
    #[test]
    fn one_without_a_vote_only_says_what_is_chosen() {
        let votes = evidence(2, 1, &[(3, batch(3, 2))]);
        let outsider = evidence(8, 1, &[(7, batch(7, 3))]);
        let got = plan(&[votes.clone(), outsider.clone()]);
        assert_eq!((got.kept, got.voted), (vec![batch(3, 2)], true));
        let got = plan(&[outsider, votes]);
        assert_eq!((got.kept, got.voted), (vec![batch(3, 2)], false));
        let longer = evidence(8, 5, &[]);
        let got = plan(&[evidence(2, 1, &[(3, batch(3, 2))]), longer]);
        assert_eq!((got.base, got.kept, got.dropped), (1, vec![], 0));
    }

    #[test]
    fn a_quorum_of_sound_survivors_needs_no_repair() {
        let (two, mut three) = (evidence(2, 1, &[]), evidence(3, 1, &[]));
        assert!(plan(&[two.clone(), three.clone()]).quorum);
        three.sound = false;
        assert!(!plan(&[two, three]).quorum);
    }

    /// Where all choose, one has all that was acknowledged and can do nothing with it; where one chooses, two may lack it.
    #[test]
    fn survivors_are_counted_by_the_quorums_of_their_group() {
        let plan_with = |phase_2| {
            let of = |node| {
                let configuration = genesis().with_phase_2(phase_2).unwrap();
                Evidence { configuration, ..evidence(node, 1, &[]) }
            };
            let (one, two) = (plan(&[of(2)]), plan(&[of(2), of(3)]));
            [(one.quorum, one.whole), (two.quorum, two.whole)]
        };
        assert_eq!(plan_with(0), [(false, false), (true, true)]);
        assert_eq!(plan_with(3), [(false, true), (false, true)]);
        assert_eq!(plan_with(1), [(false, false), (false, false)]);
    }

    #[test]
    fn the_newest_configuration_says_who_votes() {
        let mut newer = evidence(2, 9, &[]);
        newer.configuration = genesis().remove(3).unwrap();
        let removed = evidence(3, 4, &[(8, batch(8, 5))]);
        let got = plan(&[removed, newer]);
        assert_eq!((got.base, got.voted, got.before.version, got.kept), (1, false, 1, vec![]));
        assert_eq!(got.forced.version, 2);
    }

    #[test]
    fn a_replica_that_never_knew_who_votes_has_no_vote() {
        let mut of = evidence(2, 0, &[]);
        of.configuration = Configuration::default();
        let got = plan(&[of]);
        assert_eq!((got.voted, got.quorum), (false, false));
        assert!(got.forced.is_legal());
        assert_eq!(got.forced.voters[0].member, MemberId(1));
    }

    #[test]
    fn of_equal_survivors_the_one_with_more_of_the_log_is_taken() {
        let mut short = evidence(2, 4, &[]);
        short.gone = Slot(3);
        assert_eq!(plan(&[short, evidence(3, 4, &[])]).base, 1);
    }
}
