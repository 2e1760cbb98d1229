//! Quorums of different sizes in the two phases, by hand.

use crate::replica_test::World;
use crate::*;

#[test]
fn phase_2_of_one_needs_phase_1_of_all() {
    let all = [1, 2, 3];
    let mut w = World::with_phase_2(3, 1);
    assert!(!w.tries(1, &[1, 2]), "the third may have chosen something by itself");
    w.elect(1, &all);
    let value = w.propose(1);
    w.settle(&[1]);
    assert_eq!(w.batches(1), [value], "its own durable vote chooses");
    w.net.clear();
    assert!(!w.tries(2, &[2, 3]), "only the first one knows what it has chosen");
    w.crash(1);
    assert!(w.tries(2, &all));
    assert_eq!(w.batches(2), [value]);
}

#[test]
fn phase_2_of_all_needs_phase_1_of_one() {
    let all = [1, 2, 3];
    let mut w = World::with_phase_2(3, 3);
    w.elect(1, &all);
    let value = w.propose(1);
    w.settle(&[1, 2]);
    assert!(w.batches(1).is_empty(), "two of three choose nothing");
    w.act(1, |r, out| r.connected(MemberId(3), out));
    w.settle(&all);
    assert_eq!(w.batches(1), [value]);
    // Whoever is left has all that was chosen. But alone it could choose nothing more, so it leaves the ballots alone.
    let promised = w.node(2).replica.promised();
    assert!(!w.tries(2, &[2, 3]));
    assert_eq!(w.node(2).replica.promised(), promised);
}

#[test]
fn two_of_four_choose_and_three_elect() {
    let mut w = World::with_phase_2(4, 2);
    w.elect(1, &[1, 2, 3]);
    let value = w.propose(1);
    w.settle(&[1, 4]);
    assert_eq!(w.batches(1), [value]);
    w.net.clear();
    assert!(!w.tries(2, &[2, 3]), "the two others may have chosen without them");
    assert!(w.tries(2, &[2, 3, 4]));
    assert_eq!(w.batches(2), [value]);
}

#[test]
fn quorums_change_behind_the_configuration_that_says_so() {
    let all = [1, 2, 3, 4, 5];
    let mut w = World::new(5);
    w.elect(1, &all);
    let first = w.propose(1);
    w.settle(&[1, 2]);
    assert!(w.batches(1).is_empty(), "a majority it was");
    w.act(1, |r, out| r.connected(MemberId(3), out));
    w.settle(&[1, 2, 3]);
    let next = w.newest_configuration().resize(2).unwrap();
    w.act(1, |r, out| assert!(r.reconfigure(next, out)));
    w.settle(&[1, 2, 3]);
    assert_eq!(w.node(1).replica.configuration().version, 1, "the old quorum chose it");
    assert_eq!(w.node(1).replica.quorums(), Quorums { phase_1: 4, phase_2: 2 });
    assert!(w.node(1).replica.epoch().is_none(), "and the new one elects behind it");
    w.net.clear();
    assert!(!w.tries(2, &[2, 3, 4]));
    assert!(w.tries(1, &[1, 2, 3, 4]));
    let second = w.propose(1);
    w.settle(&[1, 5]);
    assert_eq!(w.batches(1), [first, second]);
}
