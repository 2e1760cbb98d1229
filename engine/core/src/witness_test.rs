//! Witnesses: voters that keep no payloads. Node 3 (or the last ones) is one, the others keep what they accept.

use alloc::vec::Vec;

use crate::replica_test::{STUB, Wire, World, member};
use crate::*;

const ALL: [u16; 3] = [1, 2, 3];

fn two_and_a_witness() -> World {
    World::with_witnesses(3, 0, &[3])
}

/// Whether something for node `to` is on its way that `is` is true of.
fn is_sent(w: &World, to: u16, is: impl Fn(&Wire) -> bool) -> bool {
    w.net.iter().any(|(_, of, wire)| *of == member(to) && is(wire))
}

fn is_batch(wire: &Wire) -> bool {
    matches!(wire, Wire::Message(Message::Accept { value: Value { body: Body::Batch(_), .. }, .. }))
}

fn disconnect(w: &mut World, me: u16, peer: u16) {
    w.node(me).replica.disconnected(member(peer));
}

/// What node 2 has said is lost, and it is taken for gone.
fn go_on_without_2(w: &mut World) {
    w.net.clear();
    disconnect(w, 1, 2);
    w.act(1, |r, out| {
        r.heartbeat(false, out);
    });
    w.settle(&[1, 3]);
}

/// Node 2 is away, and 1 and the witness choose a value. Then 1 goes, and 2 comes back.
fn chosen_without_the_other() -> (World, u64) {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    disconnect(&mut w, 1, 2);
    let value = w.propose(1);
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [value], "the witness stands in for who is away");
    w.net.clear();
    (w, value)
}

#[test]
fn a_stub_is_not_an_empty_slot() {
    let (mut w, value) = chosen_without_the_other();
    assert!(!w.tries(2, &[2, 3]), "nobody may lead while only the witness tells of the value");
    assert!(w.batches(2).is_empty());
    assert!(w.tries(2, &ALL), "whoever has it is there again");
    assert_eq!(w.batches(2), [value]);
}

#[test]
fn a_value_of_an_older_ballot_is_not_what_a_stub_names() {
    let mut w = two_and_a_witness();
    w.elect(2, &ALL);
    // Node 2 proposes something that nobody else accepts.
    w.propose(2);
    w.settle(&[2]);
    w.net.clear();
    w.elect(1, &[1, 3]);
    let value = w.propose(1);
    disconnect(&mut w, 1, 2);
    w.settle(&[1, 3]);
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [value]);
    w.net.clear();
    assert!(!w.tries(2, &[2, 3]), "what it holds in that slot is another value");
    assert!(w.tries(2, &ALL));
    assert_eq!(w.batches(2), [value]);
}

#[test]
fn a_stub_is_made_whole_by_the_same_value_elsewhere() {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    let value = w.propose(1);
    // Node 2 accepts it, but its acknowledgement is lost, and it is taken for gone.
    w.settle_from(1, 2);
    go_on_without_2(&mut w);
    assert_eq!(w.batches(1), [value]);
    w.net.clear();
    assert!(w.tries(2, &[2, 3]), "the candidate has the payload");
    assert_eq!(w.batches(2), [value]);
}

/// The stub of what was never chosen, and whose payload is lost, stands in the way of no quorum that does without it.
#[test]
fn a_quorum_without_witnesses_does_without_their_stubs() {
    let mut w = two_and_a_witness();
    let ballot = w.elect(1, &ALL);
    let last = w.node(3).replica.log().last();
    let value = Value { origin: ballot, body: Body::Batch(7 | STUB) };
    let accept = Message::Accept { ballot, first: Slot(1), slot: last.next(), chosen: last, value };
    w.receive((member(1), member(3), Wire::Message(accept)));
    w.sync(3);
    w.crash(1);
    assert!(!w.tries(2, &[2, 3]));
    assert!(w.tries(2, &ALL));
    let value = w.propose(2);
    w.settle(&ALL);
    assert_eq!(w.batches(2), [value]);
}

#[test]
fn a_promise_of_another_brings_the_payload() {
    let mut w = World::with_witnesses(5, 0, &[4, 5]);
    w.elect(1, &[1, 2, 3, 4, 5]);
    disconnect(&mut w, 1, 2);
    let value = w.propose(1);
    w.settle(&[1, 3, 4, 5]);
    assert_eq!(w.batches(1), [value]);
    w.net.clear();
    assert!(!w.tries(2, &[2, 4, 5]), "a quorum, and nobody in it has the payload");
    assert!(w.tries(2, &[2, 3, 4]));
    assert_eq!(w.batches(2), [value]);
}

/// The last slot is chosen by the leader and the witness, and the leader is gone before the other hears of it: under that
/// configuration nobody has a vote.
#[test]
fn a_witness_that_alone_knows_the_end_tells_of_it() {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    w.settle(&ALL);
    let end = w.node(1).replica.configuration().end();
    w.act(1, |r, out| assert!(r.reconfigure(end, out)));
    w.settle_from(1, 2);
    go_on_without_2(&mut w);
    let ended = |w: &mut World, node: u16| w.node(node).replica.configuration().is_end();
    assert_eq!([1, 2, 3].map(|node| ended(&mut w, node)), [true, false, true]);
    w.net.clear();
    assert!(!w.tries(2, &[2, 3]), "there is nothing to lead any more");
    assert!(ended(&mut w, 2));
}

/// The leader has told the witness what is chosen, and is gone before the other hears of it.
#[test]
fn a_witness_tells_what_is_chosen_to_who_holds_it() {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    let value = w.propose(1);
    w.settle(&ALL);
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.net.retain(|(_, to, _)| *to == member(3));
    w.settle(&[1, 3]);
    assert_eq!(w.batches(3), [value | STUB]);
    assert!(w.batches(2).is_empty());
    w.net.clear();
    assert!(w.tries(2, &[2, 3]));
    assert_eq!(w.batches(2), [value]);
}

#[test]
fn what_a_witness_knows_and_nobody_here_holds_is_awaited() {
    let (mut w, value) = chosen_without_the_other();
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&[1, 3]);
    assert_eq!(w.batches(3), [value | STUB]);
    w.net.clear();
    assert!(!w.tries(2, &[2, 3]));
    assert!(w.batches(2).is_empty());
    assert!(w.tries(2, &ALL));
    assert_eq!(w.batches(2), [value]);
}

/// Else a power cut of the leader would leave a stub whose payload nobody has, and nobody could ever lead.
#[test]
fn a_stub_leaves_behind_a_durable_payload_only() {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    disconnect(&mut w, 1, 2);
    w.propose(1);
    assert!(!is_sent(&w, 3, is_batch), "the leader's own record is not durable yet");
    w.crash(1);
    w.net.clear();
    assert!(w.tries(2, &[2, 3]), "so nothing stands in the way");
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    disconnect(&mut w, 1, 2);
    w.propose(1);
    w.sync(1);
    assert!(is_sent(&w, 3, is_batch), "now it is");
}

/// While all are there, the loss of any one of them leaves a quorum with all payloads.
#[test]
fn a_witness_is_sent_what_all_others_have() {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    let value = w.propose(1);
    w.sync(1);
    assert!(is_sent(&w, 2, is_batch) && !is_sent(&w, 3, is_batch));
    w.settle(&[1, 3]);
    assert!(w.batches(1).is_empty(), "the other is not known to be away");
    w.net.clear();
    assert!(w.tries(2, &[2, 3]), "nothing stands in the way of who is left");
    assert!(w.batches(2).is_empty() && w.batches(1).is_empty(), "{value} was never chosen");
}

#[test]
fn who_does_not_answer_is_not_waited_for() {
    let mut w = two_and_a_witness();
    w.elect(1, &ALL);
    let first = w.propose(1);
    w.settle(&[1, 3]);
    for _ in 0..2 {
        w.act(1, Replica::timeout);
        w.settle(&[1, 3]);
    }
    assert_eq!(w.batches(1), [first], "the connection is up, and nothing comes");
    let second = w.propose(1);
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [first, second], "and this one is not waited for again");
    w.reconnect(1, 2);
    w.settle(&ALL);
    let third = w.propose(1);
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [first, second], "it was there again");
    w.act(1, |r, out| r.connected(member(2), out));
    w.settle(&ALL);
    assert_eq!(w.batches(1), [first, second, third]);
}

#[test]
fn a_witness_never_leads() {
    let mut w = two_and_a_witness();
    assert_eq!(w.node(3).replica.timer(), Timer::Off);
    w.act(3, Replica::timeout);
    assert!(w.net.is_empty());
    let ballot = w.elect(1, &ALL);
    w.propose(1);
    w.settle(&ALL);
    w.act(1, |r, out| r.order(member(3), out));
    assert!(w.net.is_empty(), "no order goes to it");
    w.receive((member(1), member(3), Wire::Message(Message::Campaign { ballot })));
    w.settle(&ALL);
    assert!(w.net.is_empty() && w.node(3).replica.leader() == Some(ballot), "and it takes none");
    w.act(3, Replica::leader_lost);
    assert_eq!(w.node(3).replica.timer(), Timer::Off);
    // Nor is one that pretends to be a candidate promised anything.
    let ballot = Ballot { round: 9, member: member(3) };
    let prepare = Vote::Prepare { ballot, attempt: 1, version: 0, order: Ballot::ZERO };
    w.receive((member(3), member(2), Wire::Vote(prepare)));
    assert!(w.node(2).replica.promised() < ballot);
}

#[test]
fn a_witness_keeps_stubs_over_a_restart() {
    let (mut w, value) = chosen_without_the_other();
    w.crash(3);
    let log = w.node(3).replica.log();
    let held: Vec<_> = (1..=log.last().0).map(|slot| log.get(Slot(slot)).unwrap().value.clone()).collect();
    assert!(held.iter().any(|held| held.body == Body::Batch(value | STUB)), "{held:?}");
    assert!(!w.tries(2, &[2, 3]));
}

#[test]
fn a_witness_that_lags_is_sent_stubs() {
    let mut w = two_and_a_witness();
    w.elect(1, &[1, 2]);
    let values = [w.propose(1), w.propose(1)];
    w.settle(&[1, 2]);
    w.crash(1);
    w.elect(2, &ALL);
    w.act(2, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&ALL);
    assert_eq!(w.batches(3), [values[0] | STUB, values[1] | STUB]);
    // It tells nobody more than that.
    w.receive((member(2), member(3), Wire::Message(Message::LearnRequest { from: Slot(1) })));
    assert!(is_sent(&w, 2, |wire| matches!(wire, Wire::Message(Message::Learned { .. }))));
}

#[test]
fn one_who_keeps_payloads_takes_no_stubs() {
    let mut w = two_and_a_witness();
    let ballot = w.elect(1, &ALL);
    let last = w.node(2).replica.log().last();
    let value = Value { origin: ballot, body: Body::Batch(7 | STUB) };
    let accept = Message::Accept { ballot, first: Slot(1), slot: last.next(), chosen: last, value };
    w.receive((member(1), member(2), Wire::Message(accept)));
    assert_eq!(w.node(2).replica.log().last(), last);
}

#[test]
fn a_witness_is_replaced_by_one_of_its_kind() {
    let witness = |id| ReplicaId(id).of_kind(true);
    let genesis = Configuration::genesis([(1, ReplicaId(1)), (2, ReplicaId(2)), (3, witness(3))]);
    assert_eq!(genesis.witnesses(), 1);
    assert_eq!(genesis.replace(3, ReplicaId(9)), None, "what it holds are no values");
    assert_eq!(genesis.replace(2, witness(9)), None);
    assert!(genesis.replace(3, witness(9)).is_some());
    let without = genesis.remove(3).unwrap();
    assert!(without.add(3, ReplicaId(9)).is_some(), "under another id, once it has caught up");
}

#[test]
fn witnesses_alone_are_never_a_quorum() {
    let witness = |id| ReplicaId(id).of_kind(true);
    let of = |full: u64, witnesses: u64| {
        Configuration::genesis((1..=full + witnesses).map(|node| (node, ReplicaId(node.into()).of_kind(node > full))))
    };
    for (full, witnesses, legal) in [
        (1, 0, true),
        (0, 1, false),
        (1, 1, true),
        (1, 2, false),
        (2, 1, true),
        (2, 2, true),
        (3, 2, true),
        (2, 3, false),
    ] {
        assert_eq!(of(full, witnesses).is_legal(), legal, "{full} and {witnesses}");
    }
    assert_eq!(of(2, 1).with_phase_2(1), None, "the witness could choose alone");
    assert_eq!(of(3, 2).resize(2), None);
    assert!(of(3, 2).resize(4).is_some());
    assert_eq!(of(1, 1).add(3, witness(3)), None);
    assert_eq!(of(2, 2).remove(1).map(|c| c.voters.len()), None, "two of three would be witnesses");
    assert_eq!(of(1, 1).remove(1), None);
}
