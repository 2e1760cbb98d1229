//! The classics: mistakes that consensus implementations have made before, each by its name.
//!
//! A test shows the right behaviour where the mistake would be. Packets and syncs are delivered by hand; nothing here
//! is random. Records become durable one by one where that matters.

mod membership;
mod snapshots;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use crate::replica_test::{Packet, Wire, config, member};
use crate::*;

/// A replica, its disk, and what has not reached the disk.
struct Node {
    replica: Replica<u64>,
    disk: Recovered<u64>,
    cache: VecDeque<(RecordSeq, Slot, Record<u64>)>,
    waiting: VecDeque<(RecordSeq, MemberId, Vote<u64>)>,
    durable: RecordSeq,
    /// The chosen values in slot order.
    applied: Vec<Value<u64>>,
}

struct World {
    nodes: Vec<Node>,
    net: Vec<Packet>,
    proposed: u64,
}

fn ballot(round: u64, n: u16) -> Ballot {
    Ballot { round, member: member(n) }
}

fn is_accept(wire: &Wire) -> bool {
    matches!(wire, Wire::Message(Message::Accept { .. }))
}

fn accepted(wire: &Wire) -> Option<Slot> {
    match wire {
        Wire::Vote(Vote::Accepted { up_to, .. }) => Some(*up_to),
        _ => None,
    }
}

impl Node {
    fn start(me: u16, n: u16, disk: Recovered<u64>) -> Self {
        let config = config(me, n);
        Self {
            replica: Replica::new(config, disk.clone()),
            disk,
            cache: VecDeque::new(),
            waiting: VecDeque::new(),
            durable: RecordSeq(0),
            applied: vec![],
        }
    }

    fn apply(&mut self) {
        while (self.applied.len() as u64) < self.replica.log().chosen().0 {
            let slot = Slot(self.applied.len() as u64 + 1);
            self.applied.push(self.replica.log().get(slot).unwrap().value.clone());
        }
    }

    fn batches(&self) -> Vec<u64> {
        let mut epoch = Epoch::default();
        let mut batches = vec![];
        for value in &self.applied {
            if let (true, Body::Batch(batch)) = (epoch.apply(value), &value.body) {
                batches.push(*batch);
            }
        }
        batches
    }
}

impl World {
    fn new(n: u16) -> Self {
        let nodes = (1..=n).map(|me| Node::start(me, n, Recovered::default())).collect();
        Self { nodes, net: vec![], proposed: 0 }
    }

    fn node(&mut self, n: u16) -> &mut Node {
        &mut self.nodes[usize::from(n) - 1]
    }

    fn act(&mut self, me: u16, event: impl FnOnce(&mut Replica<u64>, &mut Vec<Action<u64>>)) {
        let mut out = vec![];
        event(&mut self.node(me).replica, &mut out);
        self.node(me).apply();
        for action in out {
            match action {
                Action::Persist { seq, chosen, record } => self.node(me).cache.push_back((seq, chosen, record)),
                Action::Send { to, message } => self.net.push((member(me), to, Wire::Message(message))),
                Action::SendAfter { seq, to, vote } => self.node(me).waiting.push_back((seq, to, vote)),
                Action::ServeLearn { to, from } => {
                    let through = Slot(self.node(me).applied.len() as u64);
                    for slot in (from.0..=through.0).map(Slot) {
                        let value = self.node(me).applied[slot.0 as usize - 1].clone();
                        self.net.push((member(me), to, Wire::Message(Message::Learned { slot, through, value })));
                    }
                }
                _ => {}
            }
        }
        self.release_votes(me);
    }

    fn release_votes(&mut self, me: u16) {
        let durable = self.node(me).durable;
        while self.node(me).waiting.front().is_some_and(|(seq, ..)| *seq <= durable) {
            let (_, to, vote) = self.node(me).waiting.pop_front().unwrap();
            self.net.push((member(me), to, Wire::Vote(vote)));
        }
    }

    /// Makes the oldest record durable.
    fn sync_one(&mut self, me: u16) {
        let node = self.node(me);
        let (seq, chosen, record) = node.cache.pop_front().unwrap();
        node.durable = seq;
        let (slot, promised, value) = match record {
            Record::Promise { ballot } => (Slot::ZERO, ballot, None),
            Record::Accept { slot, ballot, value, .. } => (slot, ballot, Some((ballot, value))),
            Record::Learned { slot, value } => (slot, Ballot::ZERO, Some((Ballot::ZERO, value))),
            Record::Chosen | Record::Installed { .. } => (Slot::ZERO, Ballot::ZERO, None),
        };
        node.disk.promised = node.disk.promised.max(promised);
        if let Some(entry) = value {
            match node.disk.entries.get_mut(slot.0 as usize - 1) {
                Some(old) => *old = entry,
                None => node.disk.entries.push(entry),
            }
        }
        node.disk.chosen = node.disk.chosen.max(chosen);
        self.release_votes(me);
        self.act(me, |r, out| r.durable(seq, out));
    }

    fn sync(&mut self, me: u16) {
        while !self.node(me).cache.is_empty() {
            self.sync_one(me);
        }
    }

    fn crash(&mut self, me: u16) {
        let n = self.nodes.len() as u16;
        let disk = self.node(me).disk.clone();
        *self.node(me) = Node::start(me, n, disk);
        self.node(me).apply();
    }

    fn deliver(&mut self, (from, to, wire): Packet) {
        self.act(to.0, |r, out| match wire {
            Wire::Message(message) => r.receive(from, message, out),
            Wire::Vote(vote) => r.receive_vote(from, vote, out),
        });
    }

    /// Takes the packets off the network that fit.
    fn take(&mut self, fits: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let (taken, rest) = self.net.drain(..).partition(|packet| fits(packet));
        self.net = rest;
        taken
    }

    /// Delivers and syncs among the nodes of `up` until nothing moves; what is on its way to others is lost, and what
    /// is held stays on its way.
    fn settle_but(&mut self, up: &[u16], held: impl Fn(&Packet) -> bool) {
        loop {
            up.iter().for_each(|me| self.sync(*me));
            let Some(at) = self.net.iter().position(|packet| !held(packet)) else { return };
            let packet = self.net.remove(at);
            if up.contains(&packet.0.0) && up.contains(&packet.1.0) {
                self.deliver(packet);
            }
        }
    }

    fn settle(&mut self, up: &[u16]) {
        self.settle_but(up, |_| false);
    }

    /// Wins phase 1 among `up` and proposes what it adopts; the Accepts stay on their way.
    fn campaign(&mut self, me: u16, up: &[u16]) -> Ballot {
        for _ in 0..3 {
            for other in up {
                self.act(*other, Replica::quorum_lost);
                self.act(*other, Replica::leader_lost);
            }
            self.act(me, Replica::timeout);
            self.settle_but(up, |packet| is_accept(&packet.2));
            if let Some(ballot) = self.node(me).replica.leader().filter(|ballot| ballot.member == member(me)) {
                return ballot;
            }
        }
        panic!("{me} does not win among {up:?}");
    }

    fn elect(&mut self, me: u16, up: &[u16]) -> Ballot {
        let ballot = self.campaign(me, up);
        self.settle(up);
        for _ in 0..2 {
            if self.node(me).replica.epoch().is_none() {
                // A voter had to learn first; the leader's timer sends the rest again.
                self.act(me, Replica::timeout);
                self.settle(up);
            }
        }
        assert_eq!(self.node(me).replica.epoch(), Some(ballot));
        ballot
    }

    fn propose(&mut self, me: u16) -> u64 {
        self.proposed += 1;
        let batch = self.proposed;
        self.act(me, |r, out| {
            r.propose(batch, out);
        });
        batch
    }

    /// The leader tells the others what is chosen.
    fn announce(&mut self, me: u16, up: &[u16]) {
        self.act(me, |r, out| {
            r.heartbeat(true, out);
        });
        self.settle(up);
    }

    fn chosen(&mut self, me: u16) -> Slot {
        self.node(me).replica.log().chosen()
    }

    fn origin(&mut self, me: u16, slot: u64) -> Ballot {
        self.node(me).replica.log().get(Slot(slot)).unwrap().value.origin
    }
}

const ALL: [u16; 3] = [1, 2, 3];

#[test]
fn promise_sent_before_durable() {
    let mut w = World::new(3);
    w.deliver((
        member(1),
        member(2),
        Wire::Vote(Vote::Prepare { ballot: ballot(1, 1), attempt: 1, version: 0, order: Ballot::ZERO }),
    ));
    assert!(w.net.is_empty(), "the promise waits");
    w.crash(2);
    assert_eq!(w.node(2).replica.promised(), Ballot::ZERO, "so it may be forgotten");
    w.deliver((
        member(1),
        member(2),
        Wire::Vote(Vote::Prepare { ballot: ballot(1, 1), attempt: 1, version: 0, order: Ballot::ZERO }),
    ));
    w.sync(2);
    assert!(matches!(w.net[0].2, Wire::Vote(Vote::Promise { .. })));
    w.crash(2);
    assert_eq!(w.node(2).replica.promised(), ballot(1, 1), "and from now on not");
}

#[test]
fn accept_acked_before_durable() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.propose(1);
    w.sync(1);
    let accepts = w.take(|packet| is_accept(&packet.2));
    accepts.into_iter().for_each(|packet| w.deliver(packet));
    assert!(w.net.is_empty(), "both have accepted and neither has said so");
    w.crash(2);
    w.crash(3);
    assert_eq!(w.chosen(1), Slot(1), "what only the leader's disk holds is not chosen");
}

#[test]
fn recovery_picks_highest_ballot_value() {
    // Replica 1 holds a batch in slot 2 at ballot 1, replica 3 an epoch start at ballot 2. Whichever of them leads with
    // the other, ballot 2 wins.
    for candidate in [1, 3] {
        let mut w = World::new(3);
        w.elect(1, &ALL);
        let old = w.propose(1);
        w.sync(1);
        w.net.clear();
        let second = w.elect(2, &[2, 3]);
        assert!(w.origin(1, 2) < second && w.chosen(3) < Slot(2));
        w.elect(candidate, &[1, 3]);
        assert_eq!(w.origin(candidate, 2), second);
        assert!(!w.node(candidate).batches().contains(&old));
    }
}

#[test]
fn ballot_reused_after_restart() {
    let mut w = World::new(3);
    let mut begun = vec![];
    // It crashes before its promise is durable, after that, and after its Prepare was answered.
    for crash_at in [0, 1, 2, 0, 1, 2] {
        w.act(1, Replica::timeout);
        w.settle_but(&[2, 3], |packet| packet.0 == member(1) || packet.1 == member(1));
        for packet in w.take(|packet| matches!(packet.2, Wire::Message(Message::PreVote { .. }))) {
            w.deliver(packet);
        }
        for packet in w.take(|packet| matches!(packet.2, Wire::Message(Message::PreVoteReply { .. }))) {
            w.deliver(packet);
        }
        if crash_at > 0 {
            w.sync(1);
        }
        let prepares = w.take(|packet| packet.0 == member(1));
        begun.extend(prepares.iter().filter(|packet| packet.1 == member(2)).filter_map(|packet| match packet.2 {
            Wire::Vote(Vote::Prepare { ballot, .. }) => Some(ballot),
            _ => None,
        }));
        if crash_at > 1 {
            prepares.into_iter().for_each(|packet| w.deliver(packet));
            w.settle_but(&[2, 3], |packet| packet.1 == member(1));
        }
        w.net.clear();
        w.crash(1);
    }
    assert_eq!(begun.len(), 4);
    assert!(begun.is_sorted_by(|a, b| a < b), "{begun:?}");
}

#[test]
fn same_acceptor_counted_twice() {
    let mut w = World::new(5);
    w.act(1, Replica::timeout);
    w.settle_but(&[1, 2, 3, 4, 5], |packet| matches!(packet.2, Wire::Vote(Vote::Promise { .. })));
    let promise = w.take(|packet| packet.0 == member(2)).remove(0);
    for _ in 0..3 {
        w.deliver(promise.clone());
    }
    assert_eq!(w.node(1).replica.leader(), None, "two of five promised");
    w.settle(&[1, 2, 3, 4, 5]);
    assert!(w.node(1).replica.epoch().is_some());

    w.propose(1);
    w.settle_but(&[1, 2, 3, 4, 5], |packet| accepted(&packet.2) == Some(Slot(2)));
    let acknowledgement = w.take(|packet| packet.0 == member(2)).remove(0);
    for _ in 0..3 {
        w.deliver(acknowledgement.clone());
    }
    assert_eq!(w.chosen(1), Slot(1), "two of five accepted");
    let third = w.take(|packet| packet.0 == member(3)).remove(0);
    w.deliver(third);
    assert_eq!(w.chosen(1), Slot(2));
}

#[test]
fn stale_phase1_reply_counted() {
    let mut w = World::new(3);
    w.act(1, Replica::timeout);
    w.settle_but(&ALL, |packet| matches!(packet.2, Wire::Vote(Vote::Promise { .. })));
    let stale = w.take(|packet| packet.1 == member(1));
    assert_eq!(stale.len(), 2);
    let first = w.node(1).replica.promised();
    // The candidate begins again, and a value is accepted meanwhile.
    w.crash(1);
    w.elect(2, &[2, 3]);
    w.act(2, Replica::leader_lost);
    w.act(3, Replica::leader_lost);
    w.act(2, Replica::quorum_lost);
    for _ in 0..2 {
        w.act(1, Replica::timeout);
        w.settle_but(&ALL, |packet| matches!(packet.2, Wire::Vote(Vote::Promise { .. } | Vote::Report { .. })));
    }
    let second = w.node(1).replica.promised();
    assert!(second > first && second.member == member(1));
    stale.into_iter().for_each(|packet| w.deliver(packet));
    assert_eq!(w.node(1).replica.leader(), None, "promises at {first} say nothing at {second}");
    w.settle(&ALL);
    assert_eq!(w.node(1).replica.epoch(), Some(second));
    assert_eq!(w.origin(1, 1).member, member(2), "what was chosen meanwhile is kept");
}

#[test]
fn late_accept_after_noop_fill() {
    // An acceptor's log has no holes here, so what replaces a lost value is the next leader's epoch start.
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let late = w.propose(1);
    w.sync(1);
    let accepts = w.take(|packet| is_accept(&packet.2));
    let second = w.elect(2, &[2, 3]);
    assert_eq!(w.origin(2, 2), second);
    for packet in accepts {
        w.deliver(packet);
    }
    assert_eq!((w.origin(2, 2), w.origin(3, 2)), (second, second));
    w.settle(&ALL);
    assert_eq!(w.node(1).replica.epoch(), None, "its leader hears of it and steps down");
    w.announce(2, &ALL);
    assert_eq!(w.origin(1, 2), second);
    assert!(ALL.iter().all(|me| !w.nodes[usize::from(*me) - 1].batches().contains(&late)));
}

#[test]
fn chosen_needs_quorum_in_one_ballot() {
    let mut w = World::new(5);
    w.elect(1, &[1, 2, 3, 4, 5]);
    w.announce(1, &[1, 2, 3, 4, 5]);
    // A batch reaches 1 and 2 only. Its acknowledgement is late.
    let batch = w.propose(1);
    w.settle_but(&[1, 2], |packet| accepted(&packet.2).is_some());
    let late = w.take(|packet| accepted(&packet.2).is_some());
    assert_eq!(late.len(), 1);
    // 5 leads with 3 and 4, and its epoch start in that slot reaches only itself.
    w.crash(1);
    let second = w.campaign(5, &[3, 4, 5]);
    w.net.clear();
    // 1 leads with 2 and 3 and proposes the batch again; only 3 takes it.
    let third = w.campaign(1, &[1, 2, 3]);
    w.settle_but(&[1, 3], |packet| packet.1 == member(2));
    late.into_iter().for_each(|packet| w.deliver(packet));
    w.net.clear();
    let held: Vec<_> = [1, 2, 3].map(|me| w.node(me).replica.log().get(Slot(2)).unwrap().clone()).into();
    assert!(held.iter().all(|entry| entry.value.body == Body::Batch(batch)), "a majority holds the batch");
    assert_eq!(held[1].accepted, ballot(1, 1));
    assert!(held[0].accepted == third && held[2].accepted == third);
    assert_eq!(w.chosen(1), Slot(1), "but only two at one ballot");
    // So 5 may still win with its own value.
    w.crash(1);
    w.elect(5, &[2, 4, 5]);
    assert_eq!(w.origin(5, 2), second);
    w.settle(&[1, 2, 3, 4, 5]);
    for me in 1..=3 {
        w.act(5, |r, out| r.connected(member(me), out));
    }
    w.settle(&[1, 2, 3, 4, 5]);
    w.announce(5, &[1, 2, 3, 4, 5]);
    assert!((1..=5).all(|me| w.origin(me, 2) == second && w.chosen(me) == w.chosen(5)));
}

#[test]
fn huge_ballot_poisons_group() {
    for round in [u64::MAX, Ballot::ROUND_MAX + 1, Ballot::ROUND_MAX, Ballot::ROUND_JUMP_MAX + 2] {
        let mut w = World::new(3);
        let led = w.elect(1, &ALL);
        let huge = ballot(round, 3);
        let value = Value { origin: huge, body: Body::EpochStart };
        let (first, slot, chosen) = (Slot(2), Slot(2), Slot(1));
        for to in [1, 2].map(member) {
            w.deliver((
                member(3),
                to,
                Wire::Vote(Vote::Prepare { ballot: huge, attempt: 1, version: 0, order: Ballot::ZERO }),
            ));
            w.deliver((member(3), to, Wire::Message(Message::PreVote { ballot: huge, version: 0 })));
            let accept = Message::Accept { ballot: huge, first, slot, chosen, value: value.clone() };
            w.deliver((member(3), to, Wire::Message(accept)));
            w.deliver((member(3), to, Wire::Message(Message::Reject { ballot: led, promised: huge })));
        }
        assert!([1, 2].iter().all(|me| w.nodes[*me - 1].replica.promised() == led), "round {round}");
        w.settle(&[1, 2]);
        assert_eq!(w.node(1).replica.epoch(), Some(led), "its leader stays");
        let batch = w.propose(1);
        w.settle(&[1, 2]);
        w.elect(2, &[1, 2]);
        assert_eq!(w.node(2).batches(), [batch], "and others can lead after it");
    }
}

#[test]
fn partial_batch_accept() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    for _ in 0..3 {
        w.propose(1);
    }
    let accepts = w.take(|packet| is_accept(&packet.2) && packet.1 == member(2));
    accepts.into_iter().for_each(|packet| w.deliver(packet));
    w.net.clear();
    // One record of three is durable when the power goes.
    w.sync_one(2);
    let told: Vec<Slot> = w.net.iter().filter_map(|packet| accepted(&packet.2)).collect();
    assert_eq!(told, [Slot(2)]);
    w.crash(2);
    assert_eq!(w.node(2).replica.log().last(), Slot(2), "what was told is there");
    let acknowledgement = w.net.remove(0);
    w.deliver(acknowledgement);
    w.sync(1);
    assert_eq!(w.chosen(1), Slot(2), "and no more than that is chosen");
}

#[test]
fn pipelined_hole_after_leader_change() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.announce(1, &ALL);
    for _ in 0..3 {
        w.propose(1);
    }
    // The Accept of the first is lost; the other two arrive.
    let accepts = w.take(|packet| is_accept(&packet.2) && packet.1 == member(2));
    w.net.clear();
    accepts.into_iter().skip(1).for_each(|packet| w.deliver(packet));
    assert_eq!(w.node(2).replica.log().last(), Slot(1), "a gap takes nothing");
    w.net.clear();
    w.elect(2, &[2, 3]);
    let next = w.propose(2);
    w.settle(&[2, 3]);
    assert_eq!(w.node(2).batches(), [next], "neither of the two without the first");
}

#[test]
fn phase1_window_too_short() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.announce(1, &ALL);
    let mut batches = vec![];
    while w.node(1).replica.can_propose() {
        batches.push(w.propose(1));
    }
    assert_eq!(batches.len(), 64, "the whole window is open");
    w.settle(&[1, 2]);
    assert_eq!(w.node(1).batches(), batches, "chosen, and only replica 2 can tell");
    assert_eq!((w.chosen(2), w.chosen(3)), (Slot(1), Slot(1)));
    w.elect(3, &[2, 3]);
    assert_eq!(w.node(3).batches(), batches);
}

#[test]
fn commit_beyond_local_log() {
    for chosen in [Slot(100), Slot(u64::MAX)] {
        let mut w = World::new(3);
        let ballot = w.elect(1, &ALL);
        w.announce(1, &ALL);
        let commit = Message::Commit { ballot, first: Slot(1), chosen, low: chosen, stalled: false };
        w.deliver((member(1), member(2), Wire::Message(commit)));
        assert_eq!(w.chosen(2), Slot(1), "what is not here is not taken for chosen");
        assert!(w.node(2).replica.low() <= Slot(1));
        assert_eq!(w.net, [(member(2), member(1), Wire::Message(Message::LearnRequest { from: Slot(2) }))]);
        // It follows on all the same.
        w.settle(&ALL);
        let batch = w.propose(1);
        w.settle(&ALL);
        w.announce(1, &ALL);
        assert_eq!(w.node(2).batches(), [batch]);
    }
}

#[test]
fn timed_out_append_commits_later() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let batch = w.propose(1);
    w.settle_but(&[1, 2], |packet| accepted(&packet.2) == Some(Slot(2)));
    w.net.clear();
    for _ in 0..10 {
        w.act(1, Replica::timeout);
        w.net.clear();
    }
    assert_eq!(w.node(1).replica.epoch(), None, "the leader gives up, and the outcome is unknown");
    assert!(w.node(1).batches().is_empty());
    w.elect(2, &[2, 3]);
    assert_eq!(w.node(2).batches(), [batch], "it commits under the next leader");
    w.settle(&ALL);
    w.act(2, |r, out| r.connected(member(1), out));
    w.settle(&ALL);
    w.announce(2, &ALL);
    assert!(w.nodes.iter().all(|node| node.batches() == [batch]), "once");
}

#[test]
fn duelling_proposers() {
    let mut w = World::new(3);
    let mut last = Ballot::ZERO;
    for _ in 0..10 {
        for me in [1, 2] {
            // Each wins phase 1 before the Accepts of the other arrive.
            let ballot = w.campaign(me, &ALL);
            assert!(ballot > last && ballot.round <= last.round + 2, "{ballot} after {last}");
            last = ballot;
        }
    }
    // All the Accepts come late.
    w.settle(&ALL);
    w.elect(1, &ALL);
    let batch = w.propose(1);
    w.settle(&ALL);
    w.announce(1, &ALL);
    assert!(w.nodes.iter().all(|node| node.batches() == [batch]));
    assert!(w.nodes.iter().all(|node| node.applied == w.nodes[0].applied));
}

#[test]
fn learner_takes_unchosen_tail() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.announce(1, &ALL);
    w.propose(1);
    w.settle_but(&[1, 2], |packet| accepted(&packet.2) == Some(Slot(2)));
    w.net.clear();
    // Both 1 and 2 hold slot 2, and neither knows that it is chosen.
    for asked in [1, 2] {
        assert_eq!(w.node(asked).replica.log().last(), Slot(2));
        for (from, answers) in [(1, 1), (2, 0), (3, 0), (0, 0)] {
            let request = Message::LearnRequest { from: Slot(from) };
            w.deliver((member(3), member(asked), Wire::Message(request)));
            assert_eq!(w.net.len(), answers, "from slot {from} of {asked}");
            assert!(w.net.drain(..).all(|packet| {
                matches!(packet.2, Wire::Message(Message::Learned { slot: Slot(1), through: Slot(1), .. }))
            }));
        }
    }
}

#[test]
fn prepare_for_trimmed_slot() {
    let mut w = World::new(3);
    w.elect(1, &[1, 2]);
    let batches: Vec<u64> = (0..5).map(|_| w.propose(1)).collect();
    w.settle(&[1, 2]);
    w.announce(1, &[1, 2]);
    let chosen = w.chosen(2);
    w.node(2).replica.release(chosen);
    assert_eq!(w.node(2).replica.log().get(Slot(1)), None);
    // Replica 3 has nothing: it must not take for empty what 2 no longer holds in memory.
    w.elect(3, &[2, 3]);
    assert_eq!(w.node(3).batches(), batches);
}

#[test]
fn a_stray_reject_with_a_high_round_blocks_no_election() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    // One stray message to each: inside the allowed jump of the receiver, beyond that of the others.
    for to in [1, 2] {
        let promised = ballot(1 + Ballot::ROUND_JUMP_MAX, 3);
        w.deliver((member(3), member(to), Wire::Message(Message::Reject { ballot: ballot(0, 0), promised })));
    }
    w.elect(2, &[1, 2]);
}

#[test]
fn a_stray_commit_with_a_huge_round_blocks_no_election() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    for to in [1, 2] {
        let huge = ballot(Ballot::ROUND_MAX, 3);
        let commit = Message::Commit { ballot: huge, first: Slot(1), chosen: Slot(0), low: Slot(0), stalled: false };
        w.deliver((member(3), member(to), Wire::Message(commit)));
    }
    w.elect(2, &[1, 2]);
}

#[test]
fn a_promise_with_the_highest_slot_is_no_overflow() {
    let mut w = World::new(3);
    w.act(1, Replica::timeout);
    w.settle_but(&ALL, |packet| matches!(packet.2, Wire::Vote(Vote::Promise { .. })));
    let ballot = w.node(1).replica.promised();
    let value = Value { origin: Ballot::ZERO, body: Body::Noop };
    let promise = Vote::Promise { ballot, attempt: 1, chosen: Slot(u64::MAX), reports: 1 };
    w.deliver((member(3), member(1), Wire::Vote(promise)));
    let report = Vote::Report { ballot, attempt: 1, slot: Slot(1), accepted: Ballot::ZERO, value };
    w.deliver((member(3), member(1), Wire::Vote(report)));
}

#[test]
fn a_follower_that_had_to_learn_goes_on_without_a_timer() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    // 2 is told that slot 1 is chosen, 3 is not.
    w.announce(1, &[1, 2]);
    let ballot = w.campaign(2, &[2, 3]);
    w.settle(&[2, 3]);
    assert_eq!(w.node(2).replica.epoch(), Some(ballot));
}

/// The word of a step-down can be lost while the node's heartbeats still arrive.
#[test]
fn who_missed_a_silent_leaders_election_takes_its_order() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.crash(3);
    let second = w.elect(2, &[1, 2]);
    w.announce(2, &[1, 2]);
    assert!(w.node(3).replica.promised() < second);
    // It comes back, and from here on nothing is proposed.
    w.act(2, |r, out| r.connected(member(3), out));
    w.settle(&ALL);
    assert_eq!(w.chosen(3), w.chosen(2), "it has learned all");
    assert_eq!(w.node(2).replica.lags(member(3)), Some(0), "and said so");
    assert_eq!(w.node(3).replica.promised(), second);
    w.act(2, |r, out| r.order(member(3), out));
    w.settle(&ALL);
    assert_eq!(w.node(3).replica.epoch().map(|epoch| epoch.member), Some(member(3)));
}

#[test]
fn a_promise_to_a_followed_leader_is_durable_before_the_next_vote() {
    let mut w = World::new(3);
    let first = w.elect(1, &ALL);
    w.crash(3);
    let second = w.elect(2, &[1, 2]);
    w.act(2, |r, out| r.connected(member(3), out));
    w.settle_but(&[2], |packet| packet.1 == member(3));
    let commits = w.take(|packet| matches!(packet.2, Wire::Message(Message::Commit { .. })));
    commits.into_iter().for_each(|packet| w.deliver(packet));
    assert_eq!(w.node(3).replica.promised(), second);
    // What it votes next leaves only behind that promise.
    let prepare = Vote::Prepare { ballot: ballot(second.round + 1, 1), attempt: 1, version: 0, order: Ballot::ZERO };
    w.deliver((member(1), member(3), Wire::Vote(prepare)));
    let votes =
        |w: &World| w.net.iter().filter(|packet| packet.0 == member(3) && matches!(packet.2, Wire::Vote(_))).count();
    assert_eq!(votes(&w), 0);
    w.sync_one(3);
    assert_eq!((votes(&w), w.node(3).disk.promised), (0, second));
    w.crash(3);
    assert!(first < second && w.node(3).replica.promised() == second);
}

#[test]
fn leader_hears_nobody_but_heartbeats() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    // 1 steps down, and what it says of it is lost; 2 and 3 go on following it.
    w.act(1, Replica::quorum_lost);
    w.net.clear();
    assert_eq!(w.node(2).replica.leader().map(|ballot| ballot.member), Some(member(1)));
    // It asks for votes, though it hears no answer: that it leads no longer.
    w.act(1, Replica::timeout);
    w.settle_but(&ALL, |packet| packet.1 == member(1));
    assert_eq!(w.node(2).replica.leader(), None);
    w.elect(2, &[2, 3]);
}

/// Without the last acknowledgement of a quiet group no voter could ever trim its log.
#[test]
fn lost_last_acknowledgement_is_told_again() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.propose(1);
    w.settle(&ALL);
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle_but(&ALL, |packet| packet.0 == member(3) && accepted(&packet.2).is_some());
    assert!(!w.net.is_empty(), "3 says that its log bears all that is chosen");
    w.net.clear();
    let chosen = w.chosen(1);
    assert!(w.node(1).replica.low() < chosen, "and that was lost");
    w.announce(1, &ALL);
    assert_eq!(w.node(1).replica.low(), chosen);
}

#[test]
fn an_acknowledgement_rests_on_nothing_that_a_crash_forgets() {
    let mut w = World::new(3);
    let value = Value { origin: ballot(1, 1), body: Body::EpochStart };
    let accept = |of| {
        let value = value.clone();
        Wire::Message(Message::Accept { ballot: of, first: Slot(1), slot: Slot(1), chosen: Slot(0), value })
    };
    w.deliver((member(1), member(3), accept(ballot(1, 1))));
    w.sync(3);
    w.act(3, Replica::leader_lost);
    // It learns that the value which it holds is chosen: nothing of that is written.
    w.deliver((member(2), member(3), Wire::Message(Message::Behind { chosen: Slot(1) })));
    let learned = Message::Learned { slot: Slot(1), through: Slot(1), value: value.clone() };
    w.deliver((member(2), member(3), Wire::Message(learned)));
    assert!(w.node(3).cache.is_empty() && w.node(3).replica.log().chosen() == Slot(1));
    w.net.clear();
    // The same value at another ballot: it holds it from an older one, and knows it as chosen.
    w.deliver((member(2), member(3), accept(ballot(2, 2))));
    assert!(!w.net.iter().any(|(_, _, wire)| accepted(wire).is_some()), "the vote waits for what it rests on");
    w.sync(3);
    assert!(w.net.iter().any(|(_, _, wire)| accepted(wire) == Some(Slot(1))));
    w.crash(3);
    assert_eq!(w.node(3).replica.log().chosen(), Slot(1), "what was acknowledged as chosen is chosen after a restart");
}
