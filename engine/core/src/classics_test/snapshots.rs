//! Classics of states that replace a part of the log.

use crate::replica_test::{Wire, World, member};
use crate::*;

const ALL: [u16; 3] = [1, 2, 3];

/// Replica 3 holds five batches of leader 1 in slots 2 to 6 that lost, while 2 and 1 have chosen ten others there.
fn with_a_tail_that_lost() -> World {
    let mut w = World::new(3);
    w.elect(1, &ALL);
    for _ in 0..5 {
        w.propose(1);
    }
    w.net.retain(|packet| packet.1 == member(3));
    while !w.net.is_empty() {
        let packet = w.net.remove(0);
        w.receive(packet);
    }
    w.sync(3);
    w.net.clear();
    w.crash(1);
    w.elect(2, &[1, 2]);
    for _ in 0..10 {
        w.propose(2);
        w.settle(&[1, 2]);
    }
    assert_eq!((w.node(3).replica.log().chosen(), w.node(3).replica.log().last()), (Slot(1), Slot(6)));
    assert_eq!(w.node(2).replica.log().chosen(), Slot(12));
    w
}

/// The leader reaches replica 3 again.
fn heal(w: &mut World) {
    w.reconnect(2, 3);
    w.settle(&ALL);
    for _ in 0..3 {
        w.act(2, |r, out| {
            r.heartbeat(true, out);
        });
        w.settle(&ALL);
    }
    assert_eq!(w.batches(3), w.batches(2));
    assert_eq!(w.node(3).replica.log().chosen(), w.node(2).replica.log().chosen());
}

#[test]
fn snapshot_races_accepted_slots() {
    let mut w = World::new(3);
    let ballot = w.elect(1, &ALL);
    let genesis = w.newest_configuration();
    let accept = |slot| {
        let value = Value { origin: ballot, body: Body::Batch(slot) };
        Wire::Message(Message::Accept { ballot, first: Slot(1), slot: Slot(slot), chosen: Slot(1), value })
    };
    for slot in 2..=6 {
        w.receive((member(1), member(3), accept(slot)));
    }
    w.sync(3);
    let promised = w.node(3).replica.promised();
    w.act(3, |r, out| assert!(r.install(Slot(4), genesis.clone(), out)));
    let replica = &w.node(3).replica;
    assert_eq!((replica.log().floor(), replica.log().chosen(), replica.log().last()), (Slot(4), Slot(4), Slot(6)));
    assert_eq!(replica.promised(), promised);
    assert!(promised >= ballot, "and so it promises nothing below");
    for slot in [5, 6].map(Slot) {
        let entry = replica.log().get(slot).expect("an accepted value may be chosen: it stays");
        assert_eq!((entry.accepted, &entry.value.body), (ballot, &Body::Batch(slot.0)));
    }
    w.act(3, |r, out| assert!(!r.install(Slot(3), genesis, out), "never backwards"));
}

/// What is held above a state and lost must not keep the leader from going on there, again and again.
#[test]
fn snapshot_keeps_conflicting_entry() {
    for slot in [2, 4, 5, 6, 7, 12].map(Slot) {
        let mut w = with_a_tail_that_lost();
        assert!(w.install(3, 2, slot));
        assert_eq!(w.node(3).replica.log().last(), slot.max(Slot(6)), "what lies above stays");
        heal(&mut w);
        let batch = w.propose(2);
        w.settle(&[2, 3]);
        assert_eq!(w.batches(2).last(), Some(&batch), "it votes behind a state up to {slot:?}");
    }
}

#[test]
fn two_snapshots_in_a_row() {
    for (first, second) in [(2, 4), (3, 5), (4, 6), (5, 9), (6, 12), (11, 12)] {
        let mut w = with_a_tail_that_lost();
        let promised = w.node(3).replica.promised();
        assert!(w.install(3, 2, Slot(first)));
        // It asks for more meanwhile; then comes the next state, and once more the first.
        w.reconnect(2, 3);
        w.settle(&[3]);
        assert!(w.install(3, 2, Slot(second)));
        assert!(!w.install(3, 2, Slot(first)), "an older one changes nothing");
        assert!(!w.install(3, 2, Slot(second)), "nor does the same again");
        assert_eq!(w.node(3).replica.log().chosen(), Slot(second));
        assert!(w.node(3).replica.promised() >= promised);
        heal(&mut w);
    }
}
