//! Leases, read points and transfers on schedules of their own: three shards on simulated disks, whose messages, clocks and
//! restarts are moved by hand. Each is a schedule that reads something stale, or keeps a group without a
//! leader, when the rule that it is named for is left out.

use synod::{Consistency, ReadError, ReadPoint, TransferError};

use crate::schedules::{Schedule, schedules};
use crate::shards::{Setup, Shards, Told};

const SUPPORT_MS: u64 = 500;

/// Commits an entry at node 1, and has the group bound to it: it holds a lease.
pub(crate) fn with_lease() -> Shards {
    with_lease_in(Shards::new(Setup::default()).led())
}

/// The same, in a cluster that is led.
pub(crate) fn with_lease_in(mut world: Shards) -> Shards {
    let committed = world.propose(0);
    world.deliver();
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    let read = world.read(0, Consistency::Linearizable, 1000);
    world.run(30);
    assert_eq!(read.lock().unwrap().clone().unwrap().unwrap().index, 1);
    assert!(world.info(0).lease);
    world
}

pub(crate) fn index(told: &Told<Result<ReadPoint, ReadError>>) -> Option<u64> {
    told.lock().unwrap().as_ref().and_then(|answer| answer.as_ref().ok()).map(|point| point.index)
}

fn a_lease_read_asks_nobody() {
    let mut world = with_lease();
    world.hold(0, 1);
    world.hold(0, 2);
    let read = world.read(0, Consistency::Linearizable, 1000);
    assert_eq!(index(&read), Some(1));
}

fn a_follower_reads_at_its_leaders_point() {
    let mut world = with_lease();
    let committed = world.propose(0);
    world.deliver();
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    let read = world.read(2, Consistency::Linearizable, 1000);
    world.run(60);
    assert_eq!(index(&read), Some(2));
}

fn a_lease_lapses_before_its_voters_elect_another() {
    let mut world = with_lease();
    world.hold(0, 1);
    world.hold(0, 2);
    let mut lapsed_at = None;
    for ms in 0..3000 {
        world.run(1);
        if !world.info(0).lease {
            lapsed_at.get_or_insert(ms);
        }
        if world.leads(1) || world.leads(2) {
            assert!(lapsed_at.is_some_and(|at| at < ms), "a lease goes on beside another leader");
            assert!((SUPPORT_MS / 2..SUPPORT_MS).contains(&lapsed_at.unwrap()));
            return;
        }
    }
    panic!("nobody else is elected");
}

fn a_stale_leader_reads_nothing_by_its_lease() {
    let mut world = with_lease();
    world.hold(0, 1);
    world.hold(0, 2);
    world.run_until(3000, |world| world.leads(1) || world.leads(2));
    let other = if world.leads(1) { 1 } else { 2 };
    let committed = world.propose(other);
    world.run(10);
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    // It may think that it leads; what it knows is older than what was acknowledged.
    let reads = [Consistency::Linearizable, Consistency::Quorum].map(|how| world.read(0, how, 200));
    world.run(300);
    for read in reads {
        assert!(matches!(*read.lock().unwrap(), Some(Err(_))));
    }
}

fn a_voter_that_restarts_promises_nobody_at_once() {
    let mut world = with_lease();
    // Node 1 keeps its lease by node 2's support alone, which is started anew and forgets.
    world.hold(0, 2);
    world.run(SUPPORT_MS + 100);
    assert!(world.info(0).lease, "one voter besides the leader is enough");
    world.hold(0, 1);
    // Node 1 does not learn of that: it still counts on what node 2 has granted it.
    world.deaf.push(0);
    world.kill(1);
    world.start(1);
    assert!(world.info(0).lease);
    for _ in 0..3000 {
        world.run(1);
        let elected = world.leads(1) || world.leads(2);
        assert!(!(elected && world.info(0).lease), "a lease goes on beside another leader");
        if elected {
            return;
        }
    }
    panic!("nobody else is elected");
}

fn a_binding_in_a_lapsed_epoch_makes_no_lease() {
    let mut world = with_lease();
    // Heartbeats fail to come for so long that support lapses at both voters, but not so long that they elect.
    world.hold(0, 1);
    world.hold(0, 2);
    world.run(SUPPORT_MS + 20);
    assert!(!world.info(0).lease);
    world.held.clear();
    world.run(50);
    if world.leads(0) {
        // They support it again, in a new epoch; the group is not bound to that.
        assert!(!world.info(0).lease, "what was bound to an epoch that lapsed is bound no longer");
        let read = world.read(0, Consistency::Linearizable, 1000);
        world.run(30);
        assert_eq!(index(&read), Some(1));
        assert!(world.info(0).lease, "it was bound anew");
    }
}

fn a_transfer_that_fails_leaves_no_lease() {
    let mut world = with_lease();
    // The order gets to node 2, and nothing of what it does about that gets out in time.
    world.held.extend([(1, 0), (1, 2)]);
    let transfer = world.transfer(0, 2, 50);
    world.run(60);
    assert_eq!(*transfer.lock().unwrap(), Some(Err(TransferError::TimedOut)));
    assert!(world.leads(0) && !world.info(0).lease);
    // Then it takes over with node 3, and commits, and node 1 hears nothing of it.
    world.held = vec![(1, 0), (2, 0)];
    world.run_until(500, |world| world.leads(1));
    assert!(world.leads(1), "an order passes the binding");
    let committed = world.propose(1);
    world.run(10);
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    let read = world.read(0, Consistency::Linearizable, 100);
    world.run(200);
    assert_eq!(index(&read), None, "it reads by a lease that it gave up");
}

fn a_transfer_hands_over_and_loses_nothing() {
    let mut world = with_lease();
    let transfer = world.transfer(0, 3, 1000);
    // What comes meanwhile waits, and is refused when the other leads.
    let refused = world.propose(0);
    world.run(50);
    assert_eq!(*transfer.lock().unwrap(), Some(Ok(())));
    assert!(world.leads(2) && !world.leads(0));
    assert!(matches!(*refused.lock().unwrap(), Some(Err(synod::ProposeError::Rejected(_)))));
    let committed = world.propose(2);
    world.run(10);
    assert_eq!(committed.lock().unwrap().unwrap().unwrap().first_index, 2);
}

fn a_round_that_was_asked_before_a_read_does_not_confirm_it() {
    let mut world = with_lease();
    // A first read is confirmed by answers that are on their way.
    world.held.extend([(1, 0), (2, 0)]);
    let first = world.read(0, Consistency::Quorum, 5000);
    world.deliver();
    // Node 2 and node 3 have answered. Now node 1 is cut off, and another leads and commits.
    let answers: Vec<_> = [(1, 0), (2, 0)].map(|way| std::mem::take(world.wire(way.0, way.1))).into();
    world.hold(0, 1);
    world.hold(0, 2);
    world.run_until(3000, |world| world.leads(1) || world.leads(2));
    let other = if world.leads(1) { 1 } else { 2 };
    let committed = world.propose(other);
    world.run(10);
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    // A second read comes, and then the old answers.
    let second = world.read(0, Consistency::Quorum, 200);
    world.held.retain(|way| way.1 != 0);
    for (way, bytes) in [(1, 0), (2, 0)].into_iter().zip(answers) {
        *world.wire(way.0, way.1) = bytes;
        world.deliver_one(way.0, way.1);
        world.wire(way.0, way.1).clear();
        world.held.push(way);
    }
    world.run(300);
    assert_eq!(index(&second), None, "it was confirmed by what was asked before it came");
    assert!(first.lock().unwrap().is_some() || !world.leads(0));
}

fn a_lease_counts_from_when_heartbeats_were_sent() {
    let mut world = with_lease();
    // Nobody is heard by node 1; then it is heard by nobody.
    world.held.extend([(1, 0), (2, 0)]);
    world.run(SUPPORT_MS / 2);
    world.held.extend([(0, 1), (0, 2)]);
    world.run(SUPPORT_MS * 9 / 10);
    // What was answered long ago comes all at once.
    world.held.retain(|way| way.1 != 0);
    world.deliver();
    world.held.extend([(1, 0), (2, 0)]);
    for _ in 0..3000 {
        world.run(1);
        let elected = world.leads(1) || world.leads(2);
        assert!(!(elected && world.info(0).lease), "a lease goes on beside another leader");
        if elected {
            return;
        }
    }
    panic!("nobody else is elected");
}

fn a_lease_ends_before_voters_whose_clocks_run_fast_elect() {
    let mut world = Shards::new(Setup::default()).configured(|config| config.clock_drift_percent = 20).led();
    let committed = world.propose(0);
    world.deliver();
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    drop(world.read(0, Consistency::Linearizable, 1000));
    world.run(30);
    assert!(world.info(0).lease);
    // Both others are started anew, of which node 1 does not learn, and node 2 would rather lead itself now.
    world.cut_off(0);
    world.deaf.push(0);
    world.nodes[1].config.preferred_leader = Some(2);
    [1, 2].iter().for_each(|at| world.kill(*at));
    [1, 2].iter().for_each(|at| world.start(*at));
    world.nodes[1..].iter_mut().for_each(|node| node.drift_ppm = 200_000);
    for _ in 0..1000 {
        world.run(1);
        let elected = world.leads(1) || world.leads(2);
        assert!(!(elected && world.info(0).lease), "a lease goes on beside another leader");
        if elected {
            return;
        }
    }
    panic!("nobody else is elected");
}

/// All of them.
pub const SCHEDULES: &[Schedule] = schedules! {
    a_lease_counts_from_when_heartbeats_were_sent shows LeasesCountFromReceipt,
    a_lease_read_asks_nobody,
    a_follower_reads_at_its_leaders_point,
    a_lease_lapses_before_its_voters_elect_another,
    a_lease_ends_before_voters_whose_clocks_run_fast_elect shows DriftIsIgnored,
    a_stale_leader_reads_nothing_by_its_lease,
    a_voter_that_restarts_promises_nobody_at_once shows RestartForgetsSupport,
    a_binding_in_a_lapsed_epoch_makes_no_lease,
    a_transfer_that_fails_leaves_no_lease shows LeaseIsKeptInTransfer,
    a_transfer_hands_over_and_loses_nothing,
    a_round_that_was_asked_before_a_read_does_not_confirm_it shows OlderRoundsConfirm,
};
