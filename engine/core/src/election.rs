//! Elections: pre-vote, then phase 1 over all open slots.
//!
//! Invariants: no ballot is begun twice, since the candidate's own promise is durable before its first Prepare leaves;
//! a promise counts once per voter, only for its exact ballot and attempt, only when its report is whole, and only
//! when the candidate knows all that the promise says is chosen.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::action::{Action, Record, RecordSeq};
use crate::configuration::Quorums;
use crate::ids::{Ballot, MemberId, Slot};
use crate::leader::Leader;
use crate::marks::{Mark, mark};
use crate::message::{Message, Vote};
use crate::planted::{Bug, is};
use crate::replica::{Out, Replica, Role};
use crate::value::{Body, Payload, Value};

/// How often phase 1 is tried at one ballot before a new pre-vote.
const ATTEMPTS_MAX: u32 = 3;

/// What a promise has brought so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Promise<P> {
    chosen: Slot,
    expected: u32,
    reports: Vec<(Slot, Ballot, Value<P>)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stage<P> {
    /// A set of voters by index, as bits.
    PreVote {
        granted: u32,
    },
    Phase1 {
        own: RecordSeq,
        own_durable: bool,
        attempt: u32,
        promises: Vec<Option<Promise<P>>>,
    },
}

/// A replica that tries to lead.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Candidate<P> {
    ballot: Ballot,
    /// The ballot of the leader that ordered this; zero: nobody did.
    order: Ballot,
    stage: Stage<P>,
}

impl<P> Candidate<P> {
    /// True when the candidate's own promise has just become durable.
    pub(crate) fn own_promise_durable(&mut self, seq: RecordSeq) -> bool {
        match &mut self.stage {
            Stage::Phase1 { own, own_durable, .. } if !*own_durable && *own <= seq => {
                *own_durable = true;
                true
            }
            _ => false,
        }
    }
}

impl<P: Payload> Replica<P> {
    /// Asks all whether they would promise. Nothing changes at anyone, so a replica that cannot win disturbs nobody.
    fn start_pre_vote(&mut self, out: Out<'_, P>) {
        // Only what is heard from now on counts for the next try: one stray message must not hold the rounds too high for
        // all others for ever.
        let round = core::mem::take(&mut self.round_seen).max(self.promised().round) + 1;
        if round > Ballot::ROUND_MAX {
            return; // The rounds are used up: refuse to lead rather than wrap around.
        }
        let ballot = Ballot { round, member: self.electorate.own() };
        let granted = 1 << self.electorate.index_of(ballot.member);
        self.following = None;
        self.learning = None;
        self.role = Role::Candidate(Candidate { ballot, order: Ballot::ZERO, stage: Stage::PreVote { granted } });
        let version = self.configuration.version;
        self.broadcast(&Message::PreVote { ballot, version }, out);
        self.conclude_pre_vote(out);
    }

    pub(crate) fn on_election_timeout(&mut self, out: Out<'_, P>) {
        if let Role::Candidate(candidate) = &mut self.role
            && let Stage::Phase1 { own, attempt, promises, .. } = &mut candidate.stage
            && *attempt < ATTEMPTS_MAX
        {
            mark(Mark::Phase1TriedAgain);
            *attempt += 1;
            promises.iter_mut().for_each(|p| *p = None);
            let version = self.configuration.version;
            let (ballot, order) = (candidate.ballot, candidate.order);
            let (seq, vote) = (*own, Vote::Prepare { ballot, attempt: *attempt, version, order });
            self.learning = None;
            for to in self.electorate.peers() {
                out.push(Action::SendAfter { seq, to, vote: vote.clone() });
            }
            out.push(Action::RestartTimer);
            return;
        }
        self.start_pre_vote(out);
        out.push(Action::RestartTimer);
    }

    pub(crate) fn on_candidate_connected(&mut self, member: MemberId, out: Out<'_, P>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let (ballot, version) = (candidate.ballot, self.configuration.version);
        match &candidate.stage {
            Stage::PreVote { .. } => {
                mark(Mark::PreVoteOverNewConnection);
                out.push(Action::Send { to: member, message: Message::PreVote { ballot, version } });
            }
            Stage::Phase1 { own, attempt, .. } => {
                mark(Mark::PrepareOverNewConnection);
                let vote = Vote::Prepare { ballot, attempt: *attempt, version, order: candidate.order };
                out.push(Action::SendAfter { seq: *own, to: member, vote });
            }
        }
    }

    pub(crate) fn on_pre_vote(&mut self, from: MemberId, ballot: Ballot, out: Out<'_, P>) {
        if let Role::Leader(leader) = &self.role {
            mark(Mark::PreVoteAtLeader);
            // Whoever asks does not know that there is a leader: tell it.
            let message = leader.commit_message(self.log().chosen(), self.low);
            out.push(Action::Send { to: from, message });
        }
        if self.following.is_some_and(|following| following.ballot.member == from) {
            mark(Mark::PreVoteFromLeader);
            // Who asks for votes leads no longer; that it stepped down was lost on the way.
            self.leader_lost(out);
        }
        let led = matches!(self.role, Role::Leader(_)) || self.following.is_some();
        let promised = self.promised();
        let granted = !led && ballot > promised && ballot.round <= promised.round + Ballot::ROUND_JUMP_MAX;
        out.push(Action::Send { to: from, message: Message::PreVoteReply { ballot, granted, promised } });
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
        out: Out<'_, P>,
    ) {
        let index = self.electorate.index_of(from);
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::PreVote { granted: voters } = &mut candidate.stage else { return };
        if candidate.ballot != ballot {
            return;
        }
        if granted {
            *voters |= 1 << index;
            self.conclude_pre_vote(out);
        } else if promised.round <= self.round_seen.saturating_add(Ballot::ROUND_JUMP_MAX) {
            mark(Mark::PreVoteRefused);
            // The next try starts above what is promised there.
            self.round_seen = self.round_seen.max(promised.round);
        }
    }

    fn conclude_pre_vote(&mut self, out: Out<'_, P>) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::PreVote { granted } = &candidate.stage else { return };
        // Who would be elected and could choose nothing cannot win either.
        if (granted.count_ones() as usize) < self.electorate.quorums.both() {
            return;
        }
        let ballot = candidate.ballot;
        if ballot <= self.acceptor.promised {
            // Another was promised meanwhile; the timer starts a new pre-vote above it.
            self.role = Role::Follower;
            return;
        }
        self.begin_phase_1(ballot, Ballot::ZERO, out);
    }

    /// Promises `ballot` to itself, durably, and asks all for theirs.
    pub(crate) fn begin_phase_1(&mut self, ballot: Ballot, order: Ballot, out: Out<'_, P>) {
        assert!(!self.is_witness(), "a witness never leads");
        self.following = None;
        self.acceptor.promised = ballot;
        self.round_seen = ballot.round;
        let unrecorded = is(Bug::BallotIsNotRecorded);
        let own = if unrecorded { self.last_record() } else { self.persist(Record::Promise { ballot }, out) };
        let promises = self.electorate.voters.iter().map(|_| None).collect();
        self.role = Role::Candidate(Candidate {
            ballot,
            order,
            stage: Stage::Phase1 { own, own_durable: is(Bug::PrepareLeavesEarly) || unrecorded, attempt: 1, promises },
        });
        let version = self.configuration.version;
        for to in self.electorate.peers() {
            out.push(Action::SendAfter { seq: own, to, vote: Vote::Prepare { ballot, attempt: 1, version, order } });
        }
        out.push(Action::RestartTimer);
    }

    pub(crate) fn on_promise(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        attempt: u32,
        chosen: Slot,
        reports: u32,
        out: Out<'_, P>,
    ) {
        let index = self.electorate.index_of(from);
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::Phase1 { attempt: now, promises, .. } = &mut candidate.stage else { return };
        if (candidate.ballot != ballot || *now != attempt) && !is(Bug::StalePromisesCount) {
            mark(Mark::PromiseStale);
            return;
        }
        promises[index] = Some(Promise { chosen, expected: reports, reports: Vec::new() });
        self.conclude_phase_1(out);
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn on_report(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        attempt: u32,
        slot: Slot,
        accepted: Ballot,
        value: Value<P>,
        out: Out<'_, P>,
    ) {
        let index = self.electorate.index_of(from);
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::Phase1 { attempt: now, promises, .. } = &mut candidate.stage else { return };
        let stale = (candidate.ballot != ballot || *now != attempt) && !is(Bug::StalePromisesCount);
        if stale || accepted >= ballot || value.origin > accepted {
            mark(Mark::ReportStale);
            return;
        }
        let Some(promise) = &mut promises[index] else { return };
        // Reports come in slot order behind their promise; anything else is not of this report.
        if slot.0.checked_sub(promise.chosen.0) != Some(1 + promise.reports.len() as u64)
            || promise.reports.len() as u32 == promise.expected
        {
            return;
        }
        promise.reports.push((slot, accepted, value));
        self.conclude_phase_1(out);
    }

    /// Leads, when a phase-1 quorum of promises counts.
    pub(crate) fn conclude_phase_1(&mut self, out: Out<'_, P>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let Stage::Phase1 { own_durable: true, promises, .. } = &candidate.stage else { return };
        let prefix = self.log().chosen();
        // Its own, which is durable.
        let mut counted = if is(Bug::SamePromiseCountsTwice) { 2 } else { 1 };
        let mut of_witnesses = 0;
        let mut behind = None;
        for (index, promise) in promises.iter().enumerate() {
            let Some(promise) = promise else { continue };
            if promise.reports.len() as u32 != promise.expected && !is(Bug::PartialReportsCount) {
                continue;
            }
            if promise.chosen > prefix && !is(Bug::PromisesAheadCount) {
                // All up to there is chosen: it must be learned, never filled. Until then this promise does not count.
                let member = self.electorate.voters[index];
                if behind.is_none() || !self.electorate.is_witness(member) {
                    behind = Some((member, promise.chosen));
                }
            } else {
                counted += 1;
                of_witnesses += usize::from(self.electorate.is_witness(self.electorate.voters[index]));
            }
        }
        let Quorums { phase_1, phase_2 } = self.electorate.quorums;
        let needed = if is(Bug::Phase1TakesPhase2Quorum) { phase_2 } else { phase_1 };
        let all = |_: usize| true;
        let full = |index: usize| !self.electorate.is_witness(self.electorate.voters[index]);
        let adopted = (counted >= needed).then(|| self.adopt(promises, prefix, all)).flatten();
        // Others are a quorum by themselves: a value that none of them holds was never chosen.
        let enough = counted - of_witnesses >= needed && of_witnesses > 0;
        let adopted = adopted.or_else(|| enough.then(|| self.adopt(promises, prefix, full)).flatten());
        // Where only witnesses tell of a value, another voter's promise or what it has chosen must bring it.
        let Some(adopted) = adopted else {
            if let Some((member, target)) = behind {
                mark(Mark::PromiseAhead);
                self.learn(member, target, out);
            }
            return;
        };
        if phase_1 * 2 <= self.electorate.voters.len() {
            mark(Mark::ElectedByFew);
        }
        let ballot = candidate.ballot;
        assert!(ballot == self.promised(), "a candidate that promised another is none");
        if !adopted.is_empty() {
            mark(Mark::ValuesAdopted);
        }
        self.learning = None;
        self.lead(Leader::new(ballot, prefix.next(), &self.electorate), adopted, out);
    }

    /// The values to propose again, from the slot behind `prefix` on: per slot the one accepted at the highest ballot
    /// among the promises that count, of the voters that `counts` is true of; a slot that is empty in all of them is filled
    /// with a no-op. `None` when only witnesses have told of one of them: it may be chosen, and its payload is elsewhere.
    fn adopt(
        &self,
        promises: &[Option<Promise<P>>],
        prefix: Slot,
        counts: impl Fn(usize) -> bool,
    ) -> Option<Vec<Value<P>>> {
        let mut best: BTreeMap<Slot, (Ballot, &Value<P>)> = BTreeMap::new();
        let own_last = if is(Bug::OwnValuesAreForgotten) { prefix } else { self.log().last() };
        for slot in (prefix.0 + 1..=own_last.0).map(Slot) {
            let entry = self.log().get(slot).expect("the log is contiguous");
            best.insert(slot, (entry.accepted, &entry.value));
        }
        let counted = promises.iter().enumerate().filter(|(index, _)| counts(*index)).filter_map(|(_, p)| p.as_ref());
        let counted = counted.filter(|p| {
            (p.chosen <= prefix || is(Bug::PromisesAheadCount))
                && (p.reports.len() as u32 == p.expected || is(Bug::PartialReportsCount))
        });
        for (slot, accepted, value) in counted.flat_map(|p| &p.reports) {
            if value.is_stub() && is(Bug::StubIsTakenForEmpty) {
                continue;
            }
            let better = best.get(slot).is_none_or(|(of, _)| (of < accepted) != is(Bug::LowestBallotIsAdopted));
            // One ballot has one value in a slot.
            if value.is_stub() && best.get(slot).is_some_and(|(of, held)| of == accepted && !held.is_stub()) {
                mark(Mark::StubMadeWhole);
            }
            if *slot > prefix && better {
                if best.contains_key(slot) {
                    mark(Mark::HigherBallotAdopted);
                }
                best.insert(*slot, (*accepted, value));
            }
        }
        if is(Bug::OnlyFirstSlotIsAdopted) {
            best.retain(|slot, _| *slot <= self.log().last().max(prefix.next()));
        }
        let last = best.keys().next_back().copied().unwrap_or(prefix);
        let fill = Value { origin: self.promised(), body: Body::Noop };
        let mut adopted: Vec<(Slot, &Value<P>)> = (prefix.0 + 1..=last.0)
            .map(|slot| (Slot(slot), best.get(&Slot(slot)).map_or(&fill, |(_, value)| *value)))
            .collect();
        // What stands behind a configuration is not for this one to choose.
        if let Some(at) = adopted.iter().position(|(_, value)| matches!(value.body, Body::Configuration(_))) {
            adopted.truncate(at + 1);
        }
        let whole = adopted.into_iter().map(|(slot, value)| self.completed(promises, slot, value).cloned());
        whole.collect()
    }

    /// The value of a slot with its payload: (slot, origin) names a value, so it is the same wherever it is found, at
    /// whatever ballot it was accepted there and whether that promise counts.
    fn completed<'a>(
        &'a self,
        promises: &'a [Option<Promise<P>>],
        slot: Slot,
        value: &'a Value<P>,
    ) -> Option<&'a Value<P>> {
        if !value.is_stub() {
            return Some(value);
        }
        let reports = promises.iter().flatten().flat_map(|promise| &promise.reports);
        let reported = reports.filter(|(of, ..)| *of == slot).map(|(.., value)| value);
        let held = self.log().get(slot).map(|entry| &entry.value);
        let whole = held.into_iter().chain(reported).find(|other| other.completes(value));
        mark(if whole.is_some() { Mark::StubMadeWhole } else { Mark::OnlyAStub });
        whole
    }
}
