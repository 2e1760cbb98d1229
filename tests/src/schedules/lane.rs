//! Heartbeats as datagrams, beside connections that stand still, and in every disorder.

use synod_transport::datagram::Datagram;

use super::{Schedule, schedules};
use crate::leases::with_lease_in;
use crate::shards::{Setup, Shards};

/// Wire frame kind: the answer to a heartbeat.
const HEARTBEAT_ACK: u8 = 6;
/// All directions between three nodes.
const WAYS: [(usize, usize); 6] = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];

/// Node 1 leads, and heartbeats go as datagrams between all nodes.
fn led() -> Shards {
    let mut world = Shards::new(Setup::default()).with_lanes(3).led();
    world.run(300);
    assert_eq!(lanes(&mut world), [2, 2, 2]);
    world
}

/// To how many peers datagrams get through, by node.
fn lanes(world: &mut Shards) -> [usize; 3] {
    [0, 1, 2].map(|at| world.shard(at).lanes())
}

fn another_leads(world: &Shards) -> bool {
    world.leads(1) || world.leads(2)
}

/// A leader is lost after 0.6 s of silence. While its heartbeats come it leads on, until the connections are given up.
fn a_leader_stays_while_its_connections_stand_still() {
    let mut world = led();
    world.cut_off(0);
    for _ in 0..2000 {
        world.run(1);
        assert!(world.leads(0) && !another_leads(&world), "its heartbeats come");
    }
    world.run_until(4000, another_leads);
    assert!(another_leads(&world), "a connection that stands still for long is half open");
}

/// The same without datagrams.
fn a_leader_is_lost_behind_connections_that_stand_still() {
    let mut world = Shards::new(Setup::default()).led();
    world.cut_off(0);
    world.run_until(2000, another_leads);
    assert!(another_leads(&world), "it is taken for lost");
}

/// Who hears that a connection is gone takes nothing in any more that bears its token, however long the other end
/// goes on.
fn a_lane_ends_with_its_connection() {
    let mut world = led();
    world.lose(0, 1);
    world.lose(0, 2);
    let mut dropped = 0;
    for _ in 0..3000 {
        world.late = WAYS.to_vec();
        world.run(1);
        for (from, to, bytes) in std::mem::take(&mut world.datagrams) {
            let taken = world.receive_datagram(to, &bytes);
            assert!(from > 0 || !taken, "its token is that of a connection which is gone");
            dropped += usize::from(from == 0);
            world.turn(to);
        }
        if another_leads(&world) {
            assert!(dropped > 0, "node 1 goes on");
            return;
        }
    }
    panic!("nobody else is elected");
}

/// Datagrams of an older connection, and of a process that has ended, reach the next one at the same port.
fn datagrams_of_an_older_connection_change_nothing() {
    let mut world = led();
    world.late = WAYS.to_vec();
    world.run(250);
    let old = std::mem::take(&mut world.datagrams);
    assert!(WAYS.iter().all(|way| old.iter().any(|(from, to, _)| (*from, *to) == *way)), "there are some of each way");
    world.late.clear();
    world.kill(0);
    world.start(0);
    world.run(1000);
    let again = lanes(&mut world);
    for (from, to, bytes) in old {
        // Between the others the connection is the same, and they have taken in newer ones.
        assert!(!world.receive_datagram(to, &bytes), "from node {} to node {}", from + 1, to + 1);
    }
    assert_eq!(lanes(&mut world), again);
}

/// Where datagrams do not get through, one way or both, all is as it is without them; and they are used again when
/// they do.
fn without_answers_heartbeats_go_over_the_connections() {
    for ways in [&WAYS[..], &WAYS[..2], &WAYS[2..3]] {
        let mut world = led();
        world.drowned = ways.to_vec();
        world.run(1000);
        let fallen = lanes(&mut world);
        assert!(fallen[0] < 2, "{fallen:?} lanes, although {ways:?} are drowned");
        for _ in 0..3000 {
            world.run(1);
            assert!(world.leads(0), "its heartbeats come over the connections");
        }
        world.drowned.clear();
        world.run(300);
        assert_eq!(lanes(&mut world), [2, 2, 2]);
    }
}

/// A node that takes no datagrams gets none, and nobody minds.
fn a_node_without_datagrams_is_spoken_to_over_its_connections() {
    let mut world = Shards::new(Setup::default()).with_lanes(2).led();
    world.run(300);
    assert_eq!(lanes(&mut world), [1, 1, 0]);
    world.held.extend([(0, 1), (1, 0)]);
    for _ in 0..2000 {
        world.run(1);
        assert!(world.leads(0), "one follower hears it by datagram, the other over its connection");
    }
}

/// As `a_lease_counts_from_when_heartbeats_were_sent`, with answers that come late, twice, and the last ones first.
fn no_disorder_of_datagrams_makes_a_lease_longer() {
    let mut world = with_lease_in(led());
    world.cut_off(0);
    // Nobody is heard by node 1; then it is heard by nobody.
    world.late = vec![(1, 0), (2, 0)];
    world.run(250);
    world.drowned = vec![(0, 1), (0, 2)];
    world.run(450);
    // What was answered long ago comes all at once, and again and again.
    let mut answers = std::mem::take(&mut world.datagrams);
    answers.retain(|(_, _, bytes)| Datagram::decode(bytes).is_ok_and(|datagram| datagram.kind == HEARTBEAT_ACK));
    assert!(answers.len() >= 4, "each of the others has answered more than once");
    answers.reverse();
    let again = answers.clone();
    for (_, to, bytes) in answers.into_iter().chain(again) {
        world.receive_datagram(to, &bytes);
        world.turn(to);
    }
    world.drowned = vec![(0, 1), (0, 2), (1, 0), (2, 0)];
    for _ in 0..3000 {
        world.run(1);
        assert!(!(another_leads(&world) && world.info(0).lease), "a lease goes on beside another leader");
        if another_leads(&world) {
            return;
        }
    }
    panic!("nobody else is elected");
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    a_leader_stays_while_its_connections_stand_still,
    a_leader_is_lost_behind_connections_that_stand_still,
    a_lane_ends_with_its_connection,
    datagrams_of_an_older_connection_change_nothing,
    without_answers_heartbeats_go_over_the_connections,
    a_node_without_datagrams_is_spoken_to_over_its_connections,
    no_disorder_of_datagrams_makes_a_lease_longer shows LeasesCountFromReceipt,
};
