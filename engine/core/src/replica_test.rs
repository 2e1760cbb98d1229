//! Replicas with messages and syncs delivered by hand, and a seeded storm over the same world.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use crate::*;

impl Payload for u64 {
    fn bytes(&self) -> u32 {
        8
    }

    fn stub(&self) -> Self {
        self | STUB
    }

    fn is_stub(&self) -> bool {
        self & STUB != 0
    }

    fn agrees(&self, other: &Self) -> bool {
        (self ^ other) & !STUB == 0
    }
}

/// Marks what a witness keeps. The number below only lets the tests tell stubs from each other.
pub(crate) const STUB: u64 = 1 << 63;

/// From, to, what. Both by the number that the node's first replica votes under.
pub(crate) type Packet = (MemberId, MemberId, Wire);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wire {
    Message(Message<u64>),
    Vote(Vote<u64>),
}

/// A replica with its durable log.
pub(crate) struct Node {
    pub(crate) replica: Replica<u64>,
    /// Which replica lives on the node now, and who votes at the beginning.
    config: Config,
    /// What is durable, with the chosen prefix that each record bears.
    disk: Vec<(Slot, Record<u64>)>,
    /// What is appended and not durable, and the votes that wait.
    cache: VecDeque<(RecordSeq, Slot, Record<u64>)>,
    waiting: VecDeque<(RecordSeq, MemberId, Vote<u64>)>,
    durable: RecordSeq,
    log: Vec<(Slot, Value<u64>)>,
}

pub(crate) struct World {
    nodes: Vec<Node>,
    pub(crate) net: Vec<Packet>,
    /// The value that was first seen chosen in each slot.
    chosen: BTreeMap<Slot, Value<u64>>,
    next_value: u64,
}

pub(crate) fn member(n: u16) -> MemberId {
    MemberId(n)
}

/// Voters 1 to `n`, each on the node with its number, in the log with its number.
pub(crate) fn config(me: u16, n: u16) -> Config {
    Config {
        replica: ReplicaId(u128::from(me)),
        genesis: Configuration::genesis((1..=n).map(|of| (u64::from(of), ReplicaId(u128::from(of))))),
        peers: usize::from(n) - 1,
        window_slots: 64,
        window_bytes: 1 << 20,
    }
}

impl Node {
    fn id(&self) -> ReplicaId {
        self.config.replica
    }

    fn new(config: Config) -> Self {
        Self {
            replica: Replica::new(config.clone(), Recovered::default()),
            config,
            disk: vec![],
            cache: VecDeque::new(),
            waiting: VecDeque::new(),
            durable: RecordSeq(0),
            log: vec![],
        }
    }

    /// What a start finds: the records that were durable.
    fn recover(&self) -> Self {
        let mut state = Recovered::default();
        let mut entries: BTreeMap<Slot, (Ballot, Value<u64>)> = BTreeMap::new();
        for (chosen, record) in &self.disk {
            state.chosen = state.chosen.max(*chosen);
            match record {
                Record::Promise { ballot } => state.promised = state.promised.max(*ballot),
                Record::Accept { slot, ballot, value, .. } => {
                    state.promised = state.promised.max(*ballot);
                    entries.insert(*slot, (*ballot, value.clone()));
                }
                Record::Learned { slot, value } => {
                    entries.insert(*slot, (Ballot::ZERO, value.clone()));
                    // Only the chosen is learned, and in order.
                    state.chosen = state.chosen.max(*slot);
                }
                Record::Chosen => {}
                Record::Installed { .. } => unreachable!("nothing is trimmed here"),
            }
        }
        state.entries = entries.into_values().collect();
        let replica = Replica::new(self.config.clone(), state);
        Self { replica, disk: self.disk.clone(), ..Self::new(self.config.clone()) }
    }
}

impl World {
    pub(crate) fn new(n: u16) -> Self {
        Self::with_phase_2(n, 0)
    }

    pub(crate) fn with_phase_2(n: u16, phase_2: u16) -> Self {
        Self::with_witnesses(n, phase_2, &[])
    }

    pub(crate) fn with_witnesses(n: u16, phase_2: u16, witnesses: &[u16]) -> Self {
        let id = |of: u16| ReplicaId(u128::from(of)).of_kind(witnesses.contains(&of));
        let genesis = Configuration::genesis((1..=n).map(|of| (u64::from(of), id(of)))).with_phase_2(phase_2).unwrap();
        let config = |me| Config { replica: id(me), genesis: genesis.clone(), ..config(me, n) };
        Self {
            nodes: (1..=n).map(|me| Node::new(config(me))).collect(),
            net: vec![],
            chosen: BTreeMap::new(),
            next_value: 1,
        }
    }

    pub(crate) fn node(&mut self, n: u16) -> &mut Node {
        &mut self.nodes[usize::from(n) - 1]
    }

    pub(crate) fn act(&mut self, me: u16, f: impl FnOnce(&mut Replica<u64>, &mut Vec<Action<u64>>)) {
        let mut actions = vec![];
        f(&mut self.node(me).replica, &mut actions);
        for action in actions {
            match action {
                Action::Persist { seq, chosen, record } => self.node(me).cache.push_back((seq, chosen, record)),
                Action::Send { to, message } => self.send(me, to, Wire::Message(message)),
                Action::SendAfter { seq, to, vote } => {
                    if seq <= self.node(me).durable {
                        self.send(me, to, Wire::Vote(vote));
                    } else {
                        self.node(me).waiting.push_back((seq, to, vote));
                    }
                }
                Action::Chosen { up_to } => self.deliver(me, up_to),
                Action::ServeLearn { to, from } => {
                    let through = self.node(me).replica.log().chosen();
                    for slot in (from.0..=through.0).map(Slot) {
                        let value = self.node(me).replica.log().get(slot).unwrap().value.clone();
                        let stub = self.receiver(me, to).is_some_and(|to| self.node(to).id().is_witness());
                        let value = if stub { value.stub() } else { value };
                        self.send(me, to, Wire::Message(Message::Learned { slot, through, value }));
                    }
                }
                Action::CaughtUp { outsider } => self.give_vote(me, outsider),
                Action::Elected { .. }
                | Action::SteppedDown { .. }
                | Action::Follows { .. }
                | Action::Reconfigured
                | Action::RestartTimer => {}
            }
        }
    }

    /// The node that `me` has as its peer number `peer`.
    fn peer(me: u16, peer: usize) -> u16 {
        let peer = peer as u16 + 1;
        if peer < me { peer } else { peer + 1 }
    }

    /// The node with the replica that `to` names for `me`, if it is there.
    fn receiver(&mut self, me: u16, to: MemberId) -> Option<u16> {
        if let Some(peer) = to.outsider_peer() {
            return Some(Self::peer(me, peer));
        }
        let voter = self.node(me).replica.voter(to).copied()?;
        (self.node(voter.node as u16).id() == voter.replica).then_some(voter.node as u16)
    }

    /// Sends to whoever `to` names for `me`, as a shard does: only to that very replica.
    fn send(&mut self, me: u16, to: MemberId, wire: Wire) {
        let Some(to) = self.receiver(me, to) else { return };
        if let Wire::Message(Message::Accept { value, .. } | Message::Learned { value, .. })
        | Wire::Vote(Vote::Report { value, .. }) = &wire
            && let Body::Batch(_) = &value.body
        {
            let witness = self.node(me).id().is_witness() || self.node(to).id().is_witness();
            assert_eq!(value.is_stub(), witness, "payloads never go to witnesses, and never come from them: {wire:?}");
        }
        self.net.push((member(me), member(to), wire));
    }

    /// How `me` addresses the replica that lives on node `from`.
    fn address(&self, me: u16, from: u16) -> MemberId {
        let id = self.nodes[usize::from(from) - 1].id();
        let configuration = self.nodes[usize::from(me) - 1].replica.configuration();
        configuration
            .member_of(id)
            .unwrap_or_else(|| MemberId::outsider(usize::from(if from < me { from - 1 } else { from - 2 })))
    }

    pub(crate) fn reconnect(&mut self, me: u16, peer: u16) {
        let peer = self.address(me, peer);
        self.act(me, |r, out| r.connected(peer, out));
    }

    /// The nodes that some configuration has given a vote for good: all that a replica knows as the newest.
    pub(crate) fn newest_configuration(&self) -> Configuration {
        let known = self.nodes.iter().map(|node| node.replica.configuration());
        known.max_by_key(|c| (c.version, c.voters.len())).expect("there are nodes").clone()
    }

    /// Whether the replica that `voter` names lives on its node.
    pub(crate) fn is_sound(&self, voter: &Voter) -> bool {
        self.nodes[voter.node as usize - 1].id() == voter.replica
    }

    /// Whether a configuration may still be chosen that nobody knows as chosen yet.
    pub(crate) fn change_in_flight(&self) -> bool {
        let newest = self.newest_configuration().version;
        let is_newer = |value: &Value<u64>| matches!(&value.body, Body::Configuration(c) if c.version > newest);
        let held = self.nodes.iter().any(|node| {
            let log = node.replica.log();
            let waits = matches!(&node.replica.role, crate::replica::Role::Leader(leader) if leader.next.is_some());
            waits || (log.floor().0 + 1..=log.last().0).any(|slot| is_newer(&log.get(Slot(slot)).unwrap().value))
        });
        held || self.net.iter().any(|(.., wire)| match wire {
            Wire::Message(Message::Accept { value, .. } | Message::Learned { value, .. })
            | Wire::Vote(Vote::Report { value, .. }) => is_newer(value),
            _ => false,
        })
    }

    /// The replica that lives on a node.
    pub(crate) fn id(&mut self, node: u16) -> ReplicaId {
        self.node(node).id()
    }

    /// The last slot seen chosen anywhere.
    pub(crate) fn last_chosen(&self) -> Slot {
        self.chosen.keys().next_back().copied().unwrap_or_default()
    }

    fn give_vote(&mut self, me: u16, outsider: MemberId) {
        let node = Self::peer(me, outsider.outsider_peer().unwrap());
        let id = self.node(node).id();
        if let Some(next) = self.node(me).replica.configuration().replace(u64::from(node), id) {
            self.act(me, |r, out| {
                r.reconfigure(next, out);
            });
        }
    }

    /// The node loses its log, and comes back as another replica.
    pub(crate) fn wipe(&mut self, me: u16) {
        let replica = ReplicaId(self.node(me).id().0 + 100);
        let config = Config { replica, ..self.node(me).config.clone() };
        *self.node(me) = Node::new(config);
        self.net.retain(|(from, to, _)| from.0 != me && to.0 != me);
    }

    /// Has `me` take over what the slots up to `slot` did, of which `from` knows that they are chosen. True when it does.
    pub(crate) fn install(&mut self, me: u16, from: u16, slot: Slot) -> bool {
        let configuration = self.node(from).replica.configuration().clone();
        let state: Vec<_> = self.node(from).log.iter().take(slot.0 as usize).cloned().collect();
        assert_eq!(state.last().map(|(last, _)| *last), Some(slot), "{from} knows it");
        let mut installed = false;
        self.act(me, |r, out| installed = r.install(slot, configuration, out));
        if installed {
            self.node(me).log = state;
        }
        installed
    }

    fn deliver(&mut self, me: u16, up_to: Slot) {
        let node = &mut self.nodes[usize::from(me) - 1];
        let from = node.log.last().map_or(1, |(slot, _)| slot.0 + 1);
        for slot in (from..=up_to.0).map(Slot) {
            let value = node.replica.log().get(slot).unwrap().value.clone();
            if let Body::Batch(payload) = &value.body {
                assert_eq!(payload.is_stub(), node.id().is_witness());
            }
            let first = self.chosen.entry(slot).or_insert_with(|| value.stub());
            assert_eq!(*first, value.stub(), "two values are chosen in slot {slot}");
            node.log.push((slot, value));
        }
    }

    /// Makes everything appended so far durable.
    pub(crate) fn sync(&mut self, me: u16) {
        let node = self.node(me);
        let Some((seq, ..)) = node.cache.back() else { return };
        node.durable = *seq;
        for (_, chosen, record) in node.cache.drain(..) {
            node.disk.push((chosen, record));
        }
        let durable = node.durable;
        while self.node(me).waiting.front().is_some_and(|(seq, ..)| *seq <= durable) {
            let (_, to, vote) = self.node(me).waiting.pop_front().unwrap();
            self.send(me, to, Wire::Vote(vote));
        }
        self.act(me, |r, out| r.durable(durable, out));
    }

    pub(crate) fn crash(&mut self, me: u16) {
        let fresh = self.node(me).recover();
        *self.node(me) = fresh;
        let up_to = self.node(me).replica.log().chosen();
        self.deliver(me, up_to);
    }

    pub(crate) fn receive(&mut self, (from, to, wire): Packet) {
        let from = self.address(to.0, from.0);
        self.act(to.0, |r, out| match wire {
            Wire::Message(message) => r.receive(from, message, out),
            Wire::Vote(vote) => r.receive_vote(from, vote, out),
        });
    }

    /// Delivers and syncs until nothing moves, among the nodes of `up`.
    pub(crate) fn settle(&mut self, up: &[u16]) {
        loop {
            for me in up {
                self.sync(*me);
            }
            if self.net.is_empty() {
                if up.iter().all(|me| self.node(*me).cache.is_empty()) {
                    break;
                }
                continue;
            }
            let packet = self.net.remove(0);
            if up.contains(&packet.1.0) && up.contains(&packet.0.0) {
                self.receive(packet);
            }
        }
    }

    /// Makes what `me` has durable, and lets `peer` take in and sync what is on its way from it, but not answer.
    pub(crate) fn settle_from(&mut self, me: u16, peer: u16) {
        self.sync(me);
        let of = |packet: &Packet| packet.0 == member(me) && packet.1 == member(peer);
        while let Some(at) = self.net.iter().position(of) {
            let packet = self.net.remove(at);
            self.receive(packet);
        }
        self.sync(peer);
    }

    pub(crate) fn elect(&mut self, me: u16, up: &[u16]) -> Ballot {
        for other in up {
            self.act(*other, Replica::leader_lost);
        }
        // The first try may only learn what was promised elsewhere.
        for _ in 0..2 {
            if self.node(me).replica.epoch().is_none() {
                self.act(me, Replica::timeout);
                self.settle(up);
            }
        }
        self.node(me).replica.epoch().expect("elected")
    }

    /// Has a node try to lead among those that are up, for long; whether it does.
    pub(crate) fn tries(&mut self, me: u16, up: &[u16]) -> bool {
        for other in up {
            self.act(*other, Replica::leader_lost);
        }
        for _ in 0..8 {
            self.act(me, Replica::timeout);
            self.settle(up);
        }
        self.node(me).replica.epoch().is_some()
    }

    pub(crate) fn propose(&mut self, me: u16) -> u64 {
        let value = self.next_value;
        self.next_value += 1;
        self.act(me, |r, out| {
            r.propose(value, out);
        });
        value
    }

    pub(crate) fn batches(&self, me: u16) -> Vec<u64> {
        let mut epoch = Epoch::default();
        let log = self.nodes[usize::from(me) - 1].log.iter();
        log.filter_map(|(_, value)| match value.body {
            Body::Batch(batch) => epoch.apply(value).then_some(batch),
            _ => {
                epoch.apply(value);
                None
            }
        })
        .collect()
    }
}

const ALL: [u16; 3] = [1, 2, 3];

#[test]
fn a_stable_leader_commits_in_order() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let values: Vec<u64> = (0..10).map(|_| w.propose(1)).collect();
    w.settle(&ALL);
    w.act(1, |r, out| {
        r.heartbeat(false, out);
    });
    w.settle(&ALL);
    for me in ALL {
        assert_eq!(w.batches(me), values);
    }
}

#[test]
fn a_single_voter_commits_alone() {
    let mut w = World::new(1);
    w.elect(1, &[1]);
    let value = w.propose(1);
    assert!(w.batches(1).is_empty(), "not before its record is durable");
    w.settle(&[1]);
    assert_eq!(w.batches(1), [value]);
}

#[test]
fn no_vote_leaves_before_its_record_is_durable() {
    let mut w = World::new(3);
    w.act(1, Replica::timeout);
    while !w.net.is_empty() {
        let packet = w.net.remove(0);
        w.receive(packet);
    }
    assert_eq!(w.node(1).cache.len(), 1, "the candidate has written its promise");
    assert!(w.net.is_empty(), "and sends no Prepare before it is durable");
    w.sync(1);
    assert_eq!(w.net.len(), 2);
    let prepare = w.net.remove(0);
    w.receive(prepare);
    assert_eq!(w.net.len(), 1, "no promise yet");
    w.sync(2);
    assert!(matches!(w.net[1], (_, _, Wire::Vote(Vote::Promise { .. }))));
}

#[test]
fn accept_implies_promise() {
    let mut w = World::new(3);
    let ballot = w.elect(1, &[1, 2]);
    // Replica 3 never saw the Prepare; its accept alone must raise its promise.
    let first = Slot(1);
    let value = Value { origin: ballot, body: Body::EpochStart };
    let accept = Message::Accept { ballot, first, slot: first, chosen: Slot(0), value };
    w.receive((member(1), member(3), Wire::Message(accept)));
    assert_eq!(w.node(3).replica.promised(), ballot);
    w.sync(3);
    w.crash(3);
    assert_eq!(w.node(3).replica.promised(), ballot, "also after a restart");
}

#[test]
fn no_ballot_is_begun_twice_over_a_restart() {
    let mut w = World::new(3);
    w.act(1, Replica::timeout);
    w.settle(&ALL);
    let before = w.node(1).replica.promised();
    w.crash(1);
    let after = w.elect(1, &ALL);
    assert!(after > before, "{after} > {before}");
}

#[test]
fn a_cumulative_acknowledgement_stops_at_an_older_ballot() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    // Slots 2 to 4 reach only replica 2.
    for _ in 0..3 {
        w.propose(1);
    }
    w.settle(&[1, 2]);
    w.net.clear();
    // Replica 3 leads with 1 down and adopts them; replica 2 holds all, but from an older ballot.
    w.act(2, Replica::leader_lost);
    w.act(3, Replica::leader_lost);
    w.act(3, Replica::timeout);
    let mut first_accept = None;
    while first_accept.is_none() {
        w.sync(2);
        w.sync(3);
        let packet = w.net.remove(0);
        match &packet.2 {
            Wire::Message(Message::Accept { slot, .. }) if packet.1 == member(2) => {
                first_accept = Some((*slot, packet))
            }
            _ if packet.1 != member(1) => w.receive(packet),
            _ => {}
        }
    }
    let (slot, packet) = first_accept.unwrap();
    w.receive(packet);
    w.sync(2);
    let acked = w.net.iter().rev().find_map(|(from, _, wire)| match wire {
        Wire::Vote(Vote::Accepted { up_to, .. }) if *from == member(2) => Some(*up_to),
        _ => None,
    });
    assert_eq!(acked, Some(slot), "the rest of its suffix is from the older ballot");
}

#[test]
fn commit_index_applies_lower_ballot_value() {
    // Replica 3 holds a value of an old ballot in slot 2; being told that slot 2 was chosen by votes at a higher ballot
    // must not choose the old one there.
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let lost = w.propose(1);
    let to_three: Vec<Packet> =
        w.net.drain(..).filter(|(_, to, wire)| *to == member(3) && matches!(wire, Wire::Message(_))).collect();
    to_three.into_iter().for_each(|p| w.receive(p));
    w.sync(3);
    w.net.clear();
    w.crash(1);
    // 2 leads with 1, without 3: slot 2 becomes its epoch start.
    let ballot = w.elect(2, &[1, 2]);
    let commit = Message::Commit { ballot, first: Slot(2), chosen: Slot(2), low: Slot(0), stalled: false };
    w.net.clear();
    w.receive((member(2), member(3), Wire::Message(commit)));
    assert_eq!(w.node(3).replica.log().chosen(), Slot(1), "it must ask for slot 2");
    w.settle(&ALL);
    assert_eq!(w.node(3).replica.log().chosen(), Slot(2));
    assert!(!w.batches(3).contains(&lost));
}

#[test]
fn a_promise_with_a_longer_chosen_prefix_does_not_count_before_it_is_learned() {
    let mut w = World::new(3);
    w.elect(1, &[1, 2]);
    let values: Vec<u64> = (0..5).map(|_| w.propose(1)).collect();
    w.settle(&[1, 2]);
    w.act(1, |r, out| {
        r.heartbeat(false, out);
    });
    w.settle(&[1, 2]);
    // Replica 3 knows nothing and leads with replica 2, which no longer reports the chosen slots.
    w.net.clear();
    w.act(2, Replica::leader_lost);
    w.act(3, Replica::timeout);
    w.settle(&[2, 3]);
    assert!(w.node(3).replica.epoch().is_some());
    assert_eq!(w.batches(3), values, "learned, not filled");
}

#[test]
fn a_deposed_leader_adopts_nothing_of_its_own_later() {
    // The schedule behind the void rule: proposal 2 must not take effect without proposal 1.
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.act(1, |r, out| {
        r.heartbeat(false, out);
    });
    w.settle(&ALL);
    let one = w.propose(1);
    let two = w.propose(1);
    w.sync(1);
    w.net.clear();
    // 1 is cut off. 2 leads with 3 and puts its epoch start where `one` was.
    w.elect(2, &[2, 3]);
    w.net.clear();
    // 1 comes back as leader with 3.
    w.crash(1);
    w.elect(1, &[1, 3]);
    let three = w.propose(1);
    w.settle(&[1, 3]);
    assert!(!w.batches(1).contains(&one));
    assert!(!w.batches(1).contains(&two), "two without one");
    assert!(w.batches(1).contains(&three));
}

#[test]
fn a_gap_is_answered_with_the_slot_expected() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    for _ in 0..3 {
        w.propose(1);
    }
    // The first Accept to 2 is lost.
    let lost = w.net.iter().position(|(_, to, _)| *to == member(2)).unwrap();
    w.net.remove(lost);
    w.settle(&ALL);
    w.act(1, |r, out| {
        r.heartbeat(false, out);
    });
    w.settle(&ALL);
    assert_eq!(w.batches(2).len(), 3);
}

#[test]
fn a_replica_that_cannot_win_disturbs_nobody() {
    let mut w = World::new(3);
    let ballot = w.elect(1, &ALL);
    w.act(3, Replica::leader_lost);
    for _ in 0..5 {
        w.act(3, Replica::timeout);
        w.settle(&ALL);
    }
    assert_eq!(w.node(1).replica.epoch(), Some(ballot));
    assert_eq!(w.node(3).replica.leader(), Some(ballot), "and it is told who leads");
}

#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.propose(1);
    w.net.clear();
    for _ in 0..10 {
        w.act(1, Replica::timeout);
        w.net.clear();
    }
    assert_eq!(w.node(1).replica.epoch(), None);
}

#[test]
fn a_huge_ballot_is_refused() {
    let mut w = World::new(3);
    let ballot = Ballot { round: Ballot::ROUND_MAX, member: member(3) };
    w.receive((
        member(3),
        member(1),
        Wire::Vote(Vote::Prepare { ballot, attempt: 1, version: 0, order: Ballot::ZERO }),
    ));
    assert_eq!(w.node(1).replica.promised(), Ballot::ZERO);
    assert!(w.net.is_empty());
}

#[test]
fn a_promise_of_another_attempt_does_not_count() {
    let mut w = World::new(3);
    w.act(1, Replica::timeout);
    while !w.net.is_empty() {
        let packet = w.net.remove(0);
        w.receive(packet);
    }
    w.sync(1);
    let ballot = w.node(1).replica.promised();
    w.net.clear();
    w.act(1, Replica::timeout); // A second attempt.
    let stale = Vote::Promise { ballot, attempt: 1, chosen: Slot(0), reports: 0 };
    w.receive((member(2), member(1), Wire::Vote(stale)));
    assert_eq!(w.node(1).replica.leader(), None);
}

#[test]
fn a_lagging_voter_catches_up_from_the_log() {
    let mut w = World::new(3);
    w.elect(1, &[1, 2]);
    let values: Vec<u64> = (0..50).map(|_| w.propose(1)).collect();
    w.settle(&[1, 2]);
    w.act(1, |r, out| r.connected(member(3), out));
    w.settle(&ALL);
    w.act(1, |r, out| {
        r.heartbeat(false, out);
    });
    w.settle(&ALL);
    assert_eq!(w.batches(3), values);
    // All have the whole prefix in their durable logs, so all below may go.
    w.act(1, |r, out| assert!(r.heartbeat(false, out)));
    assert_eq!(w.node(1).replica.low(), w.node(1).replica.log().chosen());
}

/// A small xorshift, so that a seed replays a storm.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Drops, duplicates, reorders, crashes; every step asserts that no slot is chosen twice.
fn storm(seed: u64) -> usize {
    let mut random = Random::new(seed);
    let n = [1, 3, 3, 4, 5][random.below(5) as usize];
    let size = |random: &mut Random| random.below(u64::from(n) + 1) as u16;
    let phase_2 = if random.below(2) == 0 { size(&mut random) } else { 0 };
    // As many witnesses as never choose alone, or fewer; the first node, which leads in the end, is none.
    let most = Quorums::of(usize::from(n), phase_2).phase_2 as u64 - 1;
    let witnesses = if random.below(2) == 0 { random.below(most.min(u64::from(n) - 1) + 1) as u16 } else { 0 };
    let witnesses: Vec<u16> = (n - witnesses + 1..=n).collect();
    let mut w = World::with_witnesses(n, phase_2, &witnesses);
    let any = |random: &mut Random| 1 + random.below(u64::from(n)) as u16;
    for _ in 0..600 {
        match random.below(100) {
            0..45 if !w.net.is_empty() => {
                let at = random.below(w.net.len() as u64) as usize;
                let packet = if random.below(10) == 0 { w.net[at].clone() } else { w.net.remove(at) };
                w.receive(packet);
            }
            45..50 if !w.net.is_empty() => {
                let at = random.below(w.net.len() as u64) as usize;
                w.net.remove(at);
            }
            50..75 => {
                let me = any(&mut random);
                w.sync(me);
            }
            75..85 => {
                let me = any(&mut random);
                if w.node(me).replica.can_propose() && random.below(20) == 0 && phase_2 > 0 {
                    if let Some(next) = w.node(me).replica.configuration().resize(size(&mut random)) {
                        w.act(me, |r, out| {
                            r.reconfigure(next, out);
                        });
                    }
                } else if w.node(me).replica.can_propose() {
                    w.propose(me);
                }
            }
            85..89 => {
                let me = any(&mut random);
                w.act(me, Replica::timeout);
            }
            89..92 => {
                let me = any(&mut random);
                w.act(me, Replica::leader_lost);
            }
            92..94 => {
                let me = any(&mut random);
                w.crash(me);
            }
            94..97 => {
                let (me, peer) = (any(&mut random), any(&mut random));
                if me != peer && random.below(3) > 0 {
                    w.reconnect(me, peer);
                } else if me != peer {
                    let peer = w.address(me, peer);
                    w.node(me).replica.disconnected(peer);
                }
            }
            _ => {
                let me = any(&mut random);
                let again = random.below(2) == 0;
                w.act(me, |r, out| {
                    r.heartbeat(again, out);
                });
            }
        }
    }
    // Then everything heals: one leader must commit, and all must agree.
    let up: Vec<u16> = (1..=n).collect();
    w.net.clear();
    for _ in 0..20 {
        for other in &up {
            w.act(*other, Replica::quorum_lost);
            w.act(*other, Replica::leader_lost);
        }
        w.settle(&up);
        // One that holds an older configuration tries to lead, and is told; it may take all to elect.
        let newest = w.newest_configuration().version;
        for other in &up {
            if w.node(*other).replica.configuration().version < newest {
                w.act(*other, Replica::timeout);
                w.settle(&up);
            }
        }
        w.act(1, Replica::timeout);
        w.settle(&up);
        if w.node(1).replica.epoch().is_some() {
            break;
        }
    }
    assert!(w.node(1).replica.can_propose(), "no leader in seed {seed}");
    let value = w.propose(1);
    for _ in 0..3 {
        w.settle(&up);
        for me in &up {
            // A request for chosen values was lost with the network.
            if w.node(*me).replica.timer() == Timer::Learn {
                w.act(*me, Replica::timeout);
                w.settle(&up);
            }
        }
        w.act(1, |r, out| {
            r.heartbeat(true, out);
        });
        w.settle(&up);
    }
    let whole = |w: &World, me| w.batches(me).into_iter().map(|batch| batch & !STUB).collect::<Vec<_>>();
    for me in &up {
        if witnesses.contains(me) {
            assert_eq!(whole(&w, *me), w.batches(1), "witness {me} of seed {seed}");
            continue;
        }
        assert_eq!(w.batches(*me).last(), Some(&value), "replica {me} of seed {seed}");
        assert_eq!(w.batches(*me), w.batches(1), "seed {seed}");
    }
    w.batches(1).len()
}

#[test]
fn storms_never_choose_two_values() {
    let committed: usize = (1..=2000).map(storm).sum();
    assert!(committed > 4000, "the storms must commit something to mean anything: {committed}");
}

#[test]
fn a_quiet_leader_learns_of_a_promise_above_it() {
    let mut w = World::new(3);
    let ballot = w.elect(1, &ALL);
    // Replica 3 promised somebody more, who is gone: nothing is proposed that it could refuse.
    let higher = Ballot { round: ballot.round + 1, member: member(2) };
    let version = w.node(3).replica.configuration().version;
    let prepare = Vote::Prepare { ballot: higher, attempt: 1, version, order: Ballot::ZERO };
    w.receive((member(2), member(3), Wire::Vote(prepare)));
    w.sync(3);
    w.net.clear();
    assert!(w.node(3).replica.leader().is_none(), "it follows nobody");
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&ALL);
    assert!(w.node(1).replica.epoch().is_none(), "the leader makes way for one above the promise");
    let next = w.elect(1, &ALL);
    assert!(next > higher && w.node(3).replica.leader() == Some(next));
}

#[test]
fn a_leader_that_waits_in_vain_says_so() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let says_stalled = |w: &World| {
        let commits = w.net.iter().filter_map(|(from, to, wire)| match wire {
            Wire::Message(Message::Commit { stalled, .. }) if *from == member(1) => Some((*to, *stalled)),
            _ => None,
        });
        commits.collect::<Vec<_>>()
    };
    // Nobody hears of this one.
    w.propose(1);
    w.sync(1);
    w.net.clear();
    w.act(1, Replica::timeout);
    assert!(says_stalled(&w).is_empty(), "the first timeout only sees how far it is");
    w.net.clear();
    w.act(1, Replica::timeout);
    assert_eq!(says_stalled(&w), [(member(2), true), (member(3), true)]);
    w.settle(&ALL);
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    assert_eq!(w.batches(1).len(), 1);
}
