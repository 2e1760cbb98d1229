//! The acceptor: promises and accepts.
//!
//! Invariants: never a vote below `promised`; accepting at b raises the promise to b; an acknowledgement names the end
//! of an unbroken run of slots that are accepted at its very ballot or chosen, so it can be cumulative. A suffix
//! accepted at an older ballot is not cut off before its replacement is whole: a value in it may be chosen.

use crate::action::{Action, Record, RecordSeq};
use crate::ids::{Ballot, MemberId, Slot};
use crate::log::{Entry, Log};
use crate::marks::{Mark, mark};
use crate::message::{Message, Vote};
use crate::planted::{Bug, is};
use crate::replica::{Out, Replica, Role};
use crate::value::{Payload, Value};

/// The votes of one replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Acceptor<P> {
    pub(crate) promised: Ballot,
    pub(crate) log: Log<P>,
    /// The run of slots accepted at one ballot, once it is known.
    run: Option<(Ballot, Slot)>,
    /// The gap that was last told, so that a burst behind it is answered once.
    gap: Option<(Ballot, Slot)>,
}

impl<P: Payload> Acceptor<P> {
    pub(crate) fn new(promised: Ballot, log: Log<P>) -> Self {
        Self { promised, log, run: None, gap: None }
    }

    /// The end of the unbroken run from `first` of slots that are chosen or accepted at `ballot`. The chosen prefix
    /// must reach `first`.
    fn run_up_to(&mut self, ballot: Ballot, first: Slot) -> Slot {
        assert!(self.log.chosen().next() >= first);
        let mut up_to = match self.run {
            Some((of, up_to)) if of == ballot => up_to.max(self.log.chosen()),
            _ => self.log.chosen(),
        };
        // A slot held from an older ballot breaks the run.
        while self
            .log
            .get(up_to.next())
            .is_some_and(|entry| entry.accepted == ballot || is(Bug::OldSlotsAreAcknowledged))
        {
            up_to = up_to.next();
        }
        self.run = Some((ballot, up_to));
        up_to
    }

    /// All slots up to `slot` are chosen, though their values are not here.
    pub(crate) fn skip_to(&mut self, slot: Slot) {
        self.log.skip_to(slot);
        if is(Bug::InstallForgetsPromise) {
            self.promised = Ballot::ZERO;
        }
        if is(Bug::InstallForgetsVotes) {
            self.log = Log::new(slot);
        }
        self.run = None;
        self.gap = None;
    }

    /// Stores a value accepted at `ballot`, which is from now on promised.
    pub(crate) fn accept(&mut self, ballot: Ballot, slot: Slot, value: Value<P>) {
        assert!(ballot >= self.promised, "never accept below the promise");
        if !is(Bug::AcceptPromisesNothing) {
            self.promised = ballot;
        }
        self.log.put(slot, Entry { accepted: ballot, value });
    }
}

impl<P: Payload> Replica<P> {
    pub(crate) fn on_prepare(&mut self, from: MemberId, ballot: Ballot, attempt: u32, out: Out<'_, P>) {
        if ballot.member != from
            || ballot.round > self.promised().round + Ballot::ROUND_JUMP_MAX
            || self.electorate.is_witness(from)
        {
            return;
        }
        if ballot < self.promised() {
            mark(Mark::PrepareBelowPromise);
            let promised = self.promised();
            out.push(Action::Send { to: from, message: Message::Reject { ballot, promised } });
            return;
        }
        self.round_seen = self.round_seen.max(ballot.round);
        if ballot > self.promised() {
            self.step_down_below(ballot, out);
            self.acceptor.promised = ballot;
            self.persist(Record::Promise { ballot }, out);
        } else {
            mark(Mark::PrepareAgain);
        }
        // The report holds all that was appended before; it leaves behind the last record, so all of it is durable.
        let seq = self.last_record();
        let (chosen, mut last) = (self.log().chosen(), self.log().last());
        if is(Bug::ReportsAreCutShort) {
            last = last.min(chosen.next());
        }
        let reports = (last.0 - chosen.0) as u32;
        out.push(Action::SendAfter { seq, to: from, vote: Vote::Promise { ballot, attempt, chosen, reports } });
        if reports > 0 {
            mark(Mark::PromiseReportsValues);
        }
        for slot in (chosen.0 + 1..=last.0).map(Slot) {
            let Entry { accepted, value } = self.log().get(slot).expect("the log is contiguous").clone();
            out.push(Action::SendAfter {
                seq,
                to: from,
                vote: Vote::Report { ballot, attempt, slot, accepted, value },
            });
        }
        out.push(Action::RestartTimer);
    }

    /// Promises the ballot of the leader that it follows, which it may have missed the election of. A leader with nothing
    /// to propose sends no Accept that would raise the promise, and without it this voter can neither confirm the leader
    /// to readers nor take over on its order.
    pub(crate) fn promise_followed(&mut self, ballot: Ballot, out: Out<'_, P>) {
        if ballot > self.promised() && self.following.is_some_and(|following| following.ballot == ballot) {
            mark(Mark::FollowedPromised);
            self.acceptor.promised = ballot;
            self.persist(Record::Promise { ballot }, out);
        }
    }

    pub(crate) fn on_accept(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        first: Slot,
        slot: Slot,
        value: Value<P>,
        out: Out<'_, P>,
    ) {
        if ballot.member != from
            || ballot.round > self.promised().round + Ballot::ROUND_JUMP_MAX
            || value.origin > ballot
            || slot < first
            || first == Slot::ZERO
            || self.lacks_payload(&value)
        {
            return;
        }
        let value = self.kept(value);
        if ballot < self.promised() {
            mark(Mark::AcceptBelowPromise);
            let promised = self.promised();
            out.push(Action::Send { to: from, message: Message::Reject { ballot, promised } });
            return;
        }
        self.follow(from, ballot, first, out);
        if self.log().chosen().next() < first {
            // What was chosen before this ballot is missing here; the leader does not propose it again.
            mark(Mark::AcceptBeforeLearning);
            self.learn(from, first.prev(), out);
            return;
        }
        let up_to = self.acceptor.run_up_to(ballot, first);
        if slot <= up_to {
            mark(Mark::AcceptAgain);
            let seq = self.last_record();
            self.acknowledge(ballot, first, seq, out);
        } else if slot == up_to.next() {
            if slot <= self.log().last() {
                mark(Mark::AcceptOverOlder);
            }
            self.acceptor.accept(ballot, slot, value.clone());
            self.acceptor.gap = None;
            let seq = self.persist(Record::Accept { slot, ballot, first, value }, out);
            self.acknowledge(ballot, first, seq, out);
        } else if self.acceptor.gap != Some((ballot, up_to)) {
            mark(Mark::AcceptLeavesGap);
            self.acceptor.gap = Some((ballot, up_to));
            out.push(Action::Send { to: from, message: Message::Expected { ballot, next: up_to.next() } });
        }
    }

    /// Acknowledges the run at `ballot`, behind record `seq`.
    pub(crate) fn acknowledge(&mut self, ballot: Ballot, first: Slot, seq: RecordSeq, out: Out<'_, P>) {
        if ballot < self.promised() || self.log().chosen().next() < first {
            return;
        }
        let up_to = self.acceptor.run_up_to(ballot, first);
        let unrecorded = first.max(self.chosen_recorded.next()).0..=self.log().chosen().0;
        let at_ballot = |slot| self.log().get(slot).is_some_and(|entry| entry.accepted == ballot);
        let seq = if unrecorded.into_iter().all(|slot| at_ballot(Slot(slot))) {
            seq
        } else {
            // The run rests on slots that are only known as chosen, and no record says so yet: forgotten, they would count
            // as they were accepted before.
            self.persist(Record::Chosen, out)
        };
        // The last record bears this chosen prefix, so behind it the prefix is durable too.
        let stable = self.chosen_recorded;
        out.push(Action::SendAfter { seq, to: ballot.member, vote: Vote::Accepted { ballot, up_to, stable } });
    }

    /// Gives up leading or campaigning below `ballot`, and following a lower leader.
    fn step_down_below(&mut self, ballot: Ballot, out: Out<'_, P>) {
        match &self.role {
            Role::Leader(leader) => {
                assert!(leader.ballot < ballot);
                mark(Mark::LeaderDeposed);
                out.push(Action::SteppedDown { ballot: leader.ballot });
                self.role = Role::Follower;
            }
            Role::Candidate(_) => {
                mark(Mark::CandidateDeposed);
                self.role = Role::Follower;
            }
            Role::Follower => {}
        }
        if self.following.is_some_and(|f| f.ballot < ballot) {
            self.following = None;
            self.learning = None;
        }
    }
}
