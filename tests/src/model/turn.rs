//! One event at one voter, with the real replica. What comes of it depends on that voter alone, so it is worked out
//! once and remembered (see [`super::memo`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use synod_core::{Action, Ballot, Body, MemberId, Message, Record, Replica, Slot, Value, Vote};

use super::packet::{Batch, Packet, Wire};
use super::voter::{Appended, Sealed, Voter, index, member};
use super::{Bug, Step};

/// What an event at a voter comes to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) voter: Arc<Sealed>,
    pub(super) sent: Vec<Packet>,
    /// An accept that became durable.
    pub(super) vote: Option<(Slot, Ballot, Value<Batch>)>,
    /// A ballot that was begun.
    pub(super) begun: Option<Ballot>,
    /// The voter has just come to take slots from here on for chosen.
    pub(super) chosen_from: Option<Slot>,
    /// The voter is exactly as before.
    pub(super) same: bool,
}

/// Which voter a step is about.
pub(super) fn voter_of(step: &Step) -> usize {
    match step {
        Step::Deliver(packet) => index(packet.to()),
        Step::Sync(me)
        | Step::Campaign(me, _)
        | Step::Retry(me)
        | Step::Propose(me)
        | Step::Heartbeat(me)
        | Step::Crash(me) => *me,
    }
}

/// Runs a step at `before`, the voter that it is about; `peer` is the one that a campaign asks. `None` when the core
/// panicked.
pub(super) fn run(before: &Voter, peer: Option<&Voter>, step: &Step, bug: Option<Bug>) -> Option<Outcome> {
    let turn = || {
        let voter = before.clone();
        let mut turn =
            Turn { bug, me: voter_of(step), voter, sent: Vec::new(), vote: None, begun: None, chosen_from: None };
        turn.run(step, peer);
        let same = turn.voter == *before;
        Outcome {
            voter: Arc::new(Sealed::new(turn.voter)),
            sent: turn.sent,
            vote: turn.vote,
            begun: turn.begun,
            chosen_from: turn.chosen_from,
            same,
        }
    };
    catch_unwind(AssertUnwindSafe(turn)).ok()
}

struct Turn {
    bug: Option<Bug>,
    me: usize,
    voter: Voter,
    sent: Vec<Packet>,
    vote: Option<(Slot, Ballot, Value<Batch>)>,
    begun: Option<Ballot>,
    chosen_from: Option<Slot>,
}

impl Turn {
    fn run(&mut self, step: &Step, peer: Option<&Voter>) {
        match step {
            Step::Deliver(packet) => match packet.wire().clone() {
                Wire::Message(message) => self.act(|r, out| r.receive(packet.from(), message, out)),
                Wire::Vote(vote) => self.act(|r, out| r.receive_vote(packet.from(), vote, out)),
            },
            Step::Sync(_) => self.sync(),
            Step::Campaign(_, other) => self.campaign(*other, peer.expect("a campaign has one")),
            Step::Retry(_) => self.act(Replica::timeout),
            Step::Propose(_) => {
                let batch = self.next_batch();
                self.act(|r, out| {
                    r.propose(batch, out);
                });
            }
            Step::Heartbeat(_) => self.act(|r, out| {
                r.heartbeat(false, out);
            }),
            Step::Crash(_) => self.crash(),
        }
    }

    /// The leader's next batch, numbered by how many its epoch has already.
    fn next_batch(&self) -> Batch {
        let ballot = self.voter.replica.epoch().expect("it leads");
        let log = self.voter.replica.log();
        let of_epoch = |slot: &u64| {
            let value = &log.get(Slot(*slot)).expect("nothing is released here").value;
            value.origin == ballot && matches!(value.body, Body::Batch(_))
        };
        Batch((1..=log.last().0).filter(of_epoch).count() as u8)
    }

    fn sync(&mut self) {
        if let Record::Accept { slot, ballot, value, .. } = self.voter.sync() {
            self.vote = Some((slot, ballot, value));
        }
        let durable = self.voter.durable;
        while self.voter.waiting.front().is_some_and(|(seq, ..)| *seq <= durable) {
            let (_, to, vote) = self.voter.waiting.pop_front().expect("it was seen");
            self.send_vote(to, vote);
        }
        self.act(|r, out| r.durable(durable, out));
    }

    /// The election timer fires; the one asked has lost its leader too, and its answer to the pre-vote comes back at
    /// once. It changes nothing but what it takes for its leader, so it stays as it was.
    fn campaign(&mut self, other: usize, peer: &Voter) {
        let me = member(self.me);
        let mut ignored = Vec::new();
        self.voter.replica.leader_lost(&mut ignored);
        self.voter.replica.timeout(&mut ignored);
        let mut peer = peer.replica.clone();
        let mut answers = Vec::new();
        peer.leader_lost(&mut answers);
        for action in ignored {
            if let Action::Send { to, message: message @ Message::PreVote { .. } } = action
                && to == member(other)
            {
                peer.receive(me, message, &mut answers);
            }
        }
        for action in answers {
            if let Action::Send { message: message @ Message::PreVoteReply { .. }, .. } = action {
                self.act(|r, out| r.receive(member(other), message, out));
            }
        }
        if let Some(Appended { record: Record::Promise { ballot }, .. }) = self.voter.cache.back()
            && ballot.member == me
        {
            self.begun = Some(*ballot);
        }
    }

    fn crash(&mut self) {
        let mut disk = self.voter.disk.clone();
        match self.bug {
            Some(Bug::ForgottenPromise) => {
                disk.promised = disk.entries.iter().map(|(ballot, _)| *ballot).max().unwrap_or_default();
            }
            Some(Bug::ForgottenAccepts) => disk.entries.truncate(disk.chosen.0 as usize),
            _ => {}
        }
        self.voter = Voter::start(self.me, disk);
        self.chosen_from = Some(Slot(1));
    }

    /// Does what the replica asks for.
    fn act(&mut self, event: impl FnOnce(&mut Replica<Batch>, &mut Vec<Action<Batch>>)) {
        let chosen = self.voter.replica.log().chosen();
        let mut out = Vec::new();
        event(&mut self.voter.replica, &mut out);
        for action in out {
            match action {
                Action::Persist { seq, chosen, record } => {
                    self.voter.cache.push_back(Appended { seq, chosen, record });
                }
                // Pre-votes are answered at once, in a campaign.
                Action::Send { message: Message::PreVote { .. }, .. } => {}
                Action::Send { to, message } => self.send(to, Wire::Message(message)),
                Action::SendAfter { seq, to, vote } => {
                    let waits = (seq, to, vote);
                    if seq <= self.voter.durable || self.bug == Some(Bug::EarlyVotes) {
                        self.send_vote(to, waits.2);
                    } else if !self.voter.waiting.contains(&waits) {
                        self.voter.waiting.push_back(waits);
                    }
                }
                Action::Chosen { .. } => self.chosen_from = Some(chosen.next()),
                Action::ServeLearn { to, from } => self.serve(to, from),
                Action::Elected { .. }
                | Action::SteppedDown { .. }
                | Action::Follows { .. }
                | Action::Reconfigured
                | Action::CaughtUp { .. }
                | Action::RestartTimer => {}
            }
        }
    }

    fn serve(&mut self, to: MemberId, from: Slot) {
        let through = self.voter.replica.log().chosen();
        for slot in (from.0..=through.0).map(Slot) {
            let value = self.voter.replica.log().get(slot).expect("nothing is released here").value.clone();
            self.send(to, Wire::Message(Message::Learned { slot, through, value }));
        }
    }

    fn send_vote(&mut self, to: MemberId, vote: Vote<Batch>) {
        let vote = match vote {
            Vote::Promise { ballot, attempt, chosen, .. } if self.bug == Some(Bug::EmptyReports) => {
                Vote::Promise { ballot, attempt, chosen, reports: 0 }
            }
            vote => vote,
        };
        self.send(to, Wire::Vote(vote));
    }

    fn send(&mut self, to: MemberId, wire: Wire) {
        self.sent.push(Packet::new(member(self.me), to, wire));
    }
}
