//! Replicas that lose their logs and are replaced: by hand, and in seeded storms.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::replica_test::{Random, Wire, World, config, member};
use crate::*;

const ALL: [u16; 3] = [1, 2, 3];

/// Lets replicas without a vote ask until nothing moves.
pub(crate) fn catch_up(w: &mut World, up: &[u16]) {
    for _ in 0..6 {
        for me in up {
            if w.node(*me).replica.timer() == Timer::Learn {
                w.act(*me, Replica::timeout);
            }
        }
        w.settle(up);
    }
}

pub(crate) fn configuration(w: &mut World, me: u16) -> (u64, Vec<u16>) {
    let configuration = w.node(me).replica.configuration();
    (configuration.version, configuration.voters.iter().map(|voter| voter.member.0).collect())
}

#[test]
fn a_wiped_acceptor_votes_only_under_a_new_number() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let first = w.propose(1);
    w.settle(&[1, 2]);
    w.wipe(2);
    assert!(!w.node(2).replica.votes());
    // Replica 3 has seen nothing: with the wiped one it must not be able to lead.
    for _ in 0..5 {
        w.act(3, Replica::timeout);
        w.act(2, Replica::timeout);
        w.settle(&[2, 3]);
    }
    assert_eq!((w.node(3).replica.epoch(), w.node(2).replica.epoch()), (None, None));
    // With replica 1 it learns, is given a vote, and its vote counts without replica 3.
    w.elect(1, &[1, 3]);
    catch_up(&mut w, &ALL);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 4, 3]));
    assert!(w.node(2).replica.votes());
    let second = w.propose(1);
    w.settle(&[1, 2]);
    assert_eq!(w.batches(1), [first, second]);
}

#[test]
fn a_replica_without_a_vote_asks_peers_that_come_later() {
    let alone = Config { genesis: Configuration::default(), peers: 0, ..config(1, 1) };
    let (mut replica, mut out) = (Replica::<u64>::new(alone, Recovered::default()), Vec::new());
    replica.timeout(&mut out);
    assert_eq!((replica.timer(), replica.asks()), (Timer::Off, None));
    replica.peers_grew(2);
    assert_eq!(replica.timer(), Timer::Learn);
    let asked: Vec<_> = (0..3).map(|_| (replica.timeout(&mut out), replica.asks()).1).collect();
    assert_eq!(asked, [0, 1, 0].map(|peer| Some(MemberId::outsider(peer))));
}

#[test]
fn a_configuration_waits_until_nothing_is_in_flight() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.propose(1);
    let next = w.node(1).replica.configuration().replace(3, ReplicaId(77)).unwrap();
    w.act(1, |r, out| assert!(r.reconfigure(next.clone(), out)));
    assert!(!w.node(1).replica.can_propose(), "nothing may follow before the configuration");
    let proposed = |w: &mut World| {
        let log = w.node(1).replica.log();
        let mut slots = log.chosen().0 + 1..=log.last().0;
        slots.any(|slot| matches!(log.get(Slot(slot)).unwrap().value.body, Body::Configuration(_)))
    };
    assert!(!proposed(&mut w), "one batch is in flight");
    while w.node(1).replica.log().chosen() < Slot(2) {
        w.sync(1);
        w.sync(2);
        let packet = w.net.remove(0);
        w.receive(packet);
    }
    assert!(proposed(&mut w));
    w.settle(&ALL);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 2, 4]));
}

#[test]
fn a_candidate_that_finds_a_configuration_goes_on_under_it() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.wipe(3);
    catch_up(&mut w, &[1]);
    // The configuration reaches replica 2's disk, and its leader dies before it is known to be chosen.
    let next = w.newest_configuration().replace(3, ReplicaId(103)).unwrap();
    w.act(1, |r, out| assert!(r.reconfigure(next, out)));
    w.sync(1);
    for packet in core::mem::take(&mut w.net) {
        if packet.1 == member(2) {
            w.receive(packet);
        }
    }
    w.sync(2);
    w.net.clear();
    assert_eq!(configuration(&mut w, 2).0, 0, "accepted is not chosen");
    // Replicas 1 and 2 still are a quorum of the old one; replica 3 has no vote in it.
    w.crash(1);
    w.act(2, Replica::leader_lost);
    for _ in 0..4 {
        w.act(2, Replica::timeout);
        w.settle(&ALL);
        catch_up(&mut w, &ALL);
    }
    assert_eq!(configuration(&mut w, 2), (1, vec![1, 2, 4]));
    assert!(w.node(2).replica.epoch().is_some());
    let value = w.propose(2);
    w.settle(&[2, 3]);
    assert_eq!(w.batches(2), [value], "replicas 2 and 4 are a quorum now");
}

#[test]
fn what_was_reported_behind_a_configuration_is_forgotten() {
    let mut w = World::new(3);
    let next = Box::new(w.newest_configuration().replace(3, ReplicaId(103)).unwrap());
    let at = |round| Ballot { round, member: member(1) };
    let accept = |round, first: u64, slot: u64, body| {
        let value = Value { origin: at(round), body };
        let (first, slot) = (Slot(first), Slot(slot));
        Wire::Message(Message::Accept { ballot: at(round), first, slot, chosen: first.prev(), value })
    };
    // Replica 2 holds slots 1 to 3 from a ballot that lost; then slot 1 is chosen, and a configuration comes in slot 2.
    for (slot, body) in [(1, Body::EpochStart), (2, Body::Batch(7)), (3, Body::Batch(8))] {
        w.receive((member(1), member(2), accept(1, 1, slot, body)));
    }
    w.receive((member(1), member(2), accept(2, 1, 1, Body::EpochStart)));
    w.receive((member(1), member(2), accept(2, 1, 2, Body::Configuration(next))));
    w.sync(2);
    w.net.clear();
    w.act(2, Replica::leader_lost);
    w.act(2, Replica::timeout);
    let mut behind = false;
    while !w.net.is_empty() {
        let packet = w.net.remove(0);
        if let Wire::Message(Message::Accept { slot: Slot(3), .. }) = packet.2 {
            behind |= w.node(2).replica.configuration().version == 0;
        }
        w.receive(packet);
        ALL.iter().for_each(|me| w.sync(*me));
    }
    assert!(!behind, "slot 3 is not for the old configuration to choose");
    assert_eq!(configuration(&mut w, 2).0, 1);
}

#[test]
fn one_who_holds_an_older_configuration_is_told() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.wipe(3);
    // Replica 2 hears nothing of the change that 1 and the new one bring about.
    w.settle(&ALL);
    catch_up(&mut w, &ALL);
    assert_eq!(configuration(&mut w, 1).0, 1);
    let old = Message::PreVote { ballot: Ballot { round: 90, member: member(2) }, version: 0 };
    w.net.clear();
    w.receive((member(2), member(1), Wire::Message(old)));
    assert!(matches!(w.net[..], [(_, _, Wire::Message(Message::Behind { .. }))]), "{:?}", w.net);
    let old =
        Vote::Prepare { ballot: Ballot { round: 90, member: member(2) }, attempt: 1, version: 0, order: Ballot::ZERO };
    w.net.clear();
    w.receive((member(2), member(1), Wire::Vote(old)));
    w.sync(1);
    assert!(matches!(w.net[..], [(_, _, Wire::Message(Message::Behind { .. }))]), "no promise: {:?}", w.net);
}

/// A leader has a vote given or taken away: on a node of its configuration or not.
pub(crate) fn change_voters(w: &mut World, leader: u16, node: u16) {
    let id = w.id(node);
    let configuration = w.node(leader).replica.configuration();
    let next = match configuration.voter_on(u64::from(node)) {
        Some(_) => configuration.remove(u64::from(node)),
        None => configuration.add(u64::from(node), id),
    };
    if let Some(next) = next {
        w.act(leader, |r, out| {
            r.reconfigure(next, out);
        });
    }
}

#[test]
fn a_removed_voter_does_not_count_and_a_new_one_does() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let first = w.propose(1);
    w.settle(&ALL);
    change_voters(&mut w, 1, 3);
    w.settle(&ALL);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 2]));
    // Replica 3 was a quorum with 1 before; now it takes both 1 and 2.
    let second = w.propose(1);
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [first]);
    // What was lost goes out again when nothing has moved for a while.
    for _ in 0..2 {
        w.act(1, Replica::timeout);
        w.settle(&ALL);
    }
    assert_eq!(w.batches(1), [first, second]);
    assert!(!w.node(3).replica.votes());
    catch_up(&mut w, &ALL);
    assert_eq!(w.batches(3), [first, second], "it learns on without a vote");
    change_voters(&mut w, 1, 3);
    w.settle(&ALL);
    assert_eq!(configuration(&mut w, 1), (2, vec![1, 2, 4]));
    catch_up(&mut w, &ALL);
    let third = w.propose(1);
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [first, second, third]);
}

#[test]
fn a_leader_that_is_removed_leads_no_longer() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    let first = w.propose(1);
    w.settle(&ALL);
    change_voters(&mut w, 1, 1);
    w.settle(&ALL);
    assert!(w.node(1).replica.epoch().is_none() && !w.node(1).replica.votes());
    for me in [2, 3] {
        assert_eq!(configuration(&mut w, me), (1, vec![2, 3]));
        assert_eq!(w.node(me).replica.leader(), None, "nobody waits for it");
    }
    w.elect(2, &[2, 3]);
    let second = w.propose(2);
    w.settle(&[2, 3]);
    assert_eq!(w.batches(2), [first, second]);
    catch_up(&mut w, &ALL);
    w.act(2, |r, out| {
        r.heartbeat(true, out);
    });
    catch_up(&mut w, &ALL);
    assert_eq!(w.batches(1), [first, second]);
}

/// Wipes and changes of voters on top of drops, duplicates, reorderings and crashes, within what a quorum survives.
fn storm(seed: u64) -> (usize, u64) {
    let mut random = Random::new(seed);
    let n = [3, 3, 5][random.below(3) as usize];
    let mut w = World::new(n);
    let any = |random: &mut Random| 1 + random.below(u64::from(n)) as u16;
    // The slot behind which the newest configuration is known to work.
    let mut works = (0, Slot::ZERO);
    for _ in 0..900 {
        match random.below(100) {
            0..50 if !w.net.is_empty() => {
                let at = random.below(w.net.len() as u64) as usize;
                let packet = if random.below(10) == 0 { w.net[at].clone() } else { w.net.remove(at) };
                w.receive(packet);
            }
            50..53 if !w.net.is_empty() => {
                let at = random.below(w.net.len() as u64) as usize;
                w.net.remove(at);
            }
            50..75 => {
                let me = any(&mut random);
                w.sync(me);
            }
            75..83 => {
                let me = any(&mut random);
                if w.node(me).replica.can_propose() {
                    w.propose(me);
                }
            }
            83..89 => {
                let me = any(&mut random);
                w.act(me, Replica::timeout);
            }
            89..91 => {
                let me = any(&mut random);
                w.act(me, Replica::leader_lost);
            }
            91..93 => {
                let me = any(&mut random);
                w.crash(me);
            }
            93..96 => {
                let (me, peer) = (any(&mut random), any(&mut random));
                if me != peer {
                    w.reconnect(me, peer);
                }
            }
            96 => {
                let newest = w.newest_configuration();
                if works.0 != newest.version {
                    works = (newest.version, w.last_chosen());
                }
                let me = any(&mut random);
                let spare = newest.voters.len() > 2 || newest.voter_on(u64::from(me)).is_none();
                let settled = !w.change_in_flight();
                let others_sound = newest.voters.iter().all(|v| v.node == u64::from(me) || w.is_sound(v));
                if spare && settled && others_sound && (newest.version == 0 || w.last_chosen() > works.1) {
                    w.wipe(me);
                }
            }
            97 => {
                let (me, node) = (any(&mut random), any(&mut random));
                // As an operator must: nobody is taken away while another is gone.
                let sound = w.newest_configuration().voters.iter().all(|voter| w.is_sound(voter));
                if sound && w.node(me).replica.can_propose() && random.below(3) == 0 {
                    change_voters(&mut w, me, node);
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
    heal(&mut w, n, seed)
}

/// All comes back for good: every node must get a vote, one must lead, and all must agree.
fn heal(w: &mut World, n: u16, seed: u64) -> (usize, u64) {
    let up: Vec<u16> = (1..=n).collect();
    w.net.clear();
    let mut leader = None;
    for round in 0..60 {
        if leader.is_none_or(|me| w.node(me).replica.epoch().is_none()) {
            let me = 1 + round % n;
            for other in &up {
                w.act(*other, Replica::quorum_lost);
                w.act(*other, Replica::leader_lost);
            }
            w.settle(&up);
            w.act(me, Replica::timeout);
            w.settle(&up);
            leader = up.iter().copied().find(|me| w.node(*me).replica.epoch().is_some());
        }
        if let Some(me) = leader {
            up.iter().filter(|other| **other != me).for_each(|other| w.reconnect(me, *other));
            w.settle(&up);
        }
        catch_up(w, &up);
        if let Some(me) = leader {
            w.act(me, |r, out| {
                r.heartbeat(true, out);
            });
            w.settle(&up);
        }
    }
    let newest = w.newest_configuration();
    assert!(newest.voters.iter().all(|voter| w.is_sound(voter)), "seed {seed}: {newest:?}");
    let leader = leader.unwrap_or_else(|| panic!("no leader in seed {seed}"));
    assert!(w.node(leader).replica.can_propose(), "seed {seed}");
    let value = w.propose(leader);
    for _ in 0..3 {
        w.settle(&up);
        w.act(leader, |r, out| {
            r.heartbeat(true, out);
        });
        for me in &up {
            // One that has lost its leader finds out whom the others follow.
            if w.node(*me).replica.timer() == Timer::Election {
                w.act(*me, Replica::timeout);
            }
        }
        catch_up(w, &up);
    }
    for me in &up {
        assert_eq!(w.batches(*me).last(), Some(&value), "node {me} of seed {seed}");
        assert_eq!(w.batches(*me), w.batches(leader), "seed {seed}");
    }
    (w.batches(leader).len(), newest.version)
}

#[test]
fn storms_with_wipes_lose_nothing() {
    let ran: Vec<(usize, u64)> = (1..=1500).map(storm).collect();
    let (committed, replaced) = ran.iter().fold((0, 0), |(c, r), (of, version)| (c + of, r + version));
    assert!(committed > 3000 && replaced > 500, "too little happened: {committed} committed, {replaced} replaced");
}

/// A batch of so many bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sized(u32);

impl Payload for Sized {
    fn bytes(&self) -> u32 {
        self.0
    }

    fn stub(&self) -> Self {
        unreachable!("there are no witnesses here")
    }

    fn is_stub(&self) -> bool {
        false
    }

    fn agrees(&self, other: &Self) -> bool {
        self == other
    }
}

/// Whom a replica without a vote asks after each of some answers with one value of so many bytes.
fn asked_after(bytes: u32, answers: u64) -> Vec<MemberId> {
    let config = Config { genesis: Configuration::default(), ..crate::replica_test::config(4, 3) };
    let mut replica = Replica::new(config, Recovered::default());
    let mut out = Vec::new();
    replica.timeout(&mut out);
    let mut asked = Vec::new();
    for slot in (1..=answers).map(Slot) {
        let from = replica.asks().expect("it asks on");
        let value = Value { origin: Ballot { round: 1, member: member(1) }, body: Body::Batch(Sized(bytes)) };
        replica.receive(from, Message::Learned { slot, through: slot, value }, &mut out);
        assert_eq!(replica.log().chosen(), slot);
        asked.extend(replica.asks());
    }
    asked
}

#[test]
fn who_gets_few_large_values_asks_the_same_peer_on() {
    let [first, second] = [MemberId::outsider(0), MemberId::outsider(1)];
    assert_eq!(asked_after(100, 1), [second], "the first may have no more");
    let asked = asked_after(1 << 20, 40);
    assert!(asked[..15].iter().all(|of| *of == first), "full answers of one slot");
    assert_eq!(asked[15], second, "the leader must hear of it one day");
    assert_eq!(asked.iter().filter(|of| **of == second).count(), 16);
}
