//! Classics of changes of who votes.

use alloc::vec;
use alloc::vec::Vec;

use crate::reconfigure_test::{catch_up, change_voters, configuration};
use crate::replica_test::{Packet, Wire, World, member};
use crate::*;

const ALL: [u16; 3] = [1, 2, 3];

/// Delivers what is on its way to `me`, and drops all else.
fn deliver_to(w: &mut World, me: u16) {
    let packets: Vec<Packet> = w.net.drain(..).filter(|packet| packet.1 == member(me)).collect();
    packets.into_iter().for_each(|packet| w.receive(packet));
}

/// Lets a replica try to lead among `up`, as often as one may.
fn try_to_lead(w: &mut World, me: u16, up: &[u16]) {
    for _ in 0..6 {
        w.act(me, Replica::leader_lost);
        w.act(me, Replica::timeout);
        w.settle(up);
    }
}

/// Ongaro's schedule of 2015: two leaders change one voter each, from the same configuration. Where an accepted
/// configuration counts, the two have quorums without a voter in common.
#[test]
fn single_server_change_bug() {
    let all = [1, 2, 3, 4, 5];
    let mut w = World::new(5);
    w.elect(1, &all);
    change_voters(&mut w, 1, 5);
    w.settle(&all);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 2, 3, 4]));
    // 1 adds node 5 again, and gets no further than its own disk.
    change_voters(&mut w, 1, 5);
    w.sync(1);
    w.net.clear();
    assert_eq!(configuration(&mut w, 1).0, 1, "accepted is not chosen");
    // 2 is elected by 2, 3 and 4. It may change nothing before something of its own is chosen.
    for other in 2..=4 {
        w.act(other, Replica::leader_lost);
    }
    w.act(2, Replica::timeout);
    while !w.node(2).replica.leads() {
        (2..=4).for_each(|me| w.sync(me));
        let packet = w.net.remove(0);
        if packet.0 != member(1) && packet.1 != member(1) {
            w.receive(packet);
        }
    }
    let without_1 = w.node(2).replica.configuration().remove(1).unwrap();
    w.act(2, |r, out| assert!(!r.reconfigure(without_1.clone(), out), "its epoch start is not chosen"));
    w.settle(&[2, 3, 4]);
    // 2 takes 1's vote away: chosen by three of four, 4 does not hear so.
    w.act(2, |r, out| assert!(r.reconfigure(without_1, out)));
    w.settle(&[2, 3, 4]);
    assert_eq!(configuration(&mut w, 2), (2, vec![2, 3, 4]));
    let committed = w.propose(2);
    w.settle(&[2, 3]);
    assert_eq!(w.batches(2), [committed], "two of three");
    // 1, 4 and 5 were a majority of the configuration that 1 alone holds.
    try_to_lead(&mut w, 1, &[1, 4, 5]);
    assert!(!w.node(1).replica.leads(), "it leads beside 2");
    // All come together: nothing is lost, and there is one configuration.
    for other in [1, 3, 4, 5] {
        w.reconnect(2, other);
        w.reconnect(other, 2);
    }
    w.settle(&all);
    w.act(2, |r, out| {
        r.heartbeat(true, out);
    });
    catch_up(&mut w, &all);
    for me in [1, 2, 3, 4] {
        assert_eq!(configuration(&mut w, me).0, 2);
        assert_eq!(w.batches(me), [committed]);
    }
}

#[test]
fn quorums_from_two_configs() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    change_voters(&mut w, 1, 3);
    w.settle(&[1, 2]);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 2]));
    assert_eq!(configuration(&mut w, 3).0, 0, "3 has not heard of it, and believes that it votes");
    // Its acknowledgement completes no quorum, under whatever number it comes.
    let ballot = w.node(1).replica.epoch().unwrap();
    let batch = w.propose(1);
    w.sync(1);
    w.net.clear();
    let up_to = w.node(1).replica.log().last();
    let acknowledgement = Vote::Accepted { ballot, up_to, stable: Slot::ZERO };
    w.receive((member(3), member(1), Wire::Vote(acknowledgement.clone())));
    w.act(1, |r, out| r.receive_vote(member(3), acknowledgement, out));
    assert!(w.batches(1).is_empty());
    // Nor does its promise: 2 needs 1's.
    w.act(1, Replica::quorum_lost);
    w.settle(&[1, 2]);
    w.act(2, Replica::timeout);
    while w.node(2).replica.promised().member != member(2) {
        let packet = w.net.remove(0);
        w.receive(packet);
    }
    w.sync(2);
    w.net.clear();
    let promise = Vote::Promise { ballot: w.node(2).replica.promised(), attempt: 1, chosen: Slot(1), reports: 0 };
    w.receive((member(3), member(2), Wire::Vote(promise.clone())));
    w.act(2, |r, out| r.receive_vote(member(3), promise, out));
    assert!(!w.node(2).replica.leads());
    // And with the two old voters 2 and 3 nobody leads under the old configuration.
    try_to_lead(&mut w, 3, &[2, 3]);
    assert!(!w.node(2).replica.leads() && !w.node(3).replica.leads());
    w.elect(1, &[1, 2]);
    assert_eq!(w.batches(1), [batch]);
}

/// Replicas that do not know yet whether a configuration is chosen must not let it, or the one before, govern what comes
/// behind.
#[test]
fn alpha_window_config_skew() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&ALL);
    let slot = w.node(1).replica.log().last().next();
    change_voters(&mut w, 1, 2);
    assert!(!w.node(1).replica.can_propose(), "nothing follows before the configuration is chosen");
    // 1 and 2 choose it, and 3 has only accepted it.
    w.sync(1);
    for packet in core::mem::take(&mut w.net) {
        w.receive(packet);
    }
    w.sync(2);
    deliver_to(&mut w, 1);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 3]));
    w.sync(3);
    w.net.clear();
    assert_eq!((configuration(&mut w, 3).0, w.node(3).replica.log().last()), (0, slot));
    // Its leader begins anew under the new one. 3 promises nothing there, and takes nothing behind the configuration.
    w.sync(1);
    let promised = w.node(3).replica.promised();
    let ballot = w.node(1).replica.promised();
    assert!(ballot > promised);
    w.net.retain(|(.., wire)| matches!(wire, Wire::Vote(Vote::Prepare { .. })));
    assert!(!w.net.is_empty());
    deliver_to(&mut w, 3);
    let value = Value { origin: ballot, body: Body::EpochStart };
    let accept = Message::Accept { ballot, first: slot.next(), slot: slot.next(), chosen: slot, value };
    w.net.clear();
    w.receive((member(1), member(3), Wire::Message(accept)));
    w.sync(3);
    assert_eq!(w.node(3).replica.log().last(), slot);
    assert!(w.net.iter().all(|(.., wire)| !matches!(wire, Wire::Vote(_))), "no vote: {:?}", w.net);
    // Once it knows that the configuration is chosen, it votes under it, and only it and 1 do.
    for _ in 0..4 {
        w.act(1, Replica::timeout);
        w.act(3, Replica::timeout);
        w.settle(&[1, 3]);
    }
    assert_eq!(configuration(&mut w, 3), (1, vec![1, 3]));
    w.elect(1, &[1, 3]);
    let batch = w.propose(1);
    w.settle(&[1, 2]);
    assert!(w.batches(1).is_empty(), "2 has no vote behind it");
    w.act(1, Replica::timeout);
    w.act(1, Replica::timeout);
    w.settle(&[1, 3]);
    assert_eq!(w.batches(1), [batch]);
}

#[test]
fn removed_node_disrupts() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    change_voters(&mut w, 1, 3);
    // What 3 is told of it is lost: it follows the old leader till that is silent, and then wants to lead.
    w.settle(&[1, 2]);
    let epoch = w.node(1).replica.epoch();
    assert!(epoch.is_some() && w.node(3).replica.votes());
    for round in 0..20 {
        let asked = Ballot { round: 100 + round, member: member(3) };
        let prepare = Vote::Prepare { ballot: asked, attempt: 1, version: 0, order: Ballot::ZERO };
        let reject = Message::Reject { ballot: epoch.unwrap(), promised: asked };
        for to in [1, 2] {
            w.receive((member(3), member(to), Wire::Message(Message::PreVote { ballot: asked, version: 0 })));
            w.receive((member(3), member(to), Wire::Vote(prepare.clone())));
            w.receive((member(3), member(to), Wire::Message(reject.clone())));
        }
        w.settle(&[1, 2]);
        assert_eq!(w.node(1).replica.epoch(), epoch, "the leader stays");
        assert_eq!([1, 2].map(|me| w.node(me).replica.promised()), [epoch.unwrap(); 2]);
    }
    // Where it hears answers, it learns that it has no vote, and asks for none any more.
    try_to_lead(&mut w, 3, &ALL);
    catch_up(&mut w, &ALL);
    assert!(!w.node(3).replica.votes());
    assert_ne!(w.node(3).replica.timer(), Timer::Election);
    assert_eq!(w.node(1).replica.epoch(), epoch);
    let batch = w.propose(1);
    w.settle(&[1, 2]);
    assert_eq!(w.batches(1), [batch]);
}

/// A configuration that was only accepted is overruled as any value, and whoever held it goes on with the one before.
#[test]
fn config_in_truncated_tail_reverts() {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    w.act(1, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&ALL);
    change_voters(&mut w, 1, 3);
    w.sync(1);
    w.net.clear();
    assert!(!w.node(1).replica.can_propose());
    // 2 leads with 3, and something else is chosen in that slot.
    let slot = w.node(1).replica.log().last();
    w.elect(2, &[2, 3]);
    let first = w.propose(2);
    w.settle(&[2, 3]);
    w.crash(1);
    w.reconnect(2, 1);
    w.settle(&ALL);
    w.act(2, |r, out| {
        r.heartbeat(true, out);
    });
    w.settle(&ALL);
    for me in ALL {
        assert_eq!(configuration(&mut w, me), (0, vec![1, 2, 3]));
        assert!(matches!(w.node(me).replica.log().get(slot).unwrap().value.body, Body::EpochStart));
        assert_eq!(w.batches(me), [first]);
    }
    // 3 votes as before, and the change can be asked for again.
    let second = w.propose(2);
    w.settle(&[2, 3]);
    assert_eq!(w.batches(2), [first, second]);
    change_voters(&mut w, 2, 3);
    w.settle(&ALL);
    assert_eq!(configuration(&mut w, 1), (1, vec![1, 2]));
}
