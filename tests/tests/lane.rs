//! Real nodes whose heartbeats go by UDP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use synod::{Config, Datagrams, Entries, Event, Node, Options, StartError};
use synod_sim::pipes::Network;
use synod_sim::relay::Relay;
use synod_sim::{Cluster, PATIENCE, free_addresses, wait_until};

/// The datagrams of the shard of a group.
fn datagrams(cluster: &Cluster, node: u64, group: u64) -> Datagrams {
    cluster.node(node).on_shard(group, |shard| shard.datagrams()).expect("it runs")
}

fn commit(cluster: &Cluster, group: u64, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        cluster.commit(group, 1, sequence, &Entries::one(&sequence.to_le_bytes()).unwrap());
    }
}

fn check(cluster: &Cluster, group: u64, count: u64) {
    let expected: Vec<Vec<u8>> = (1..=count).map(|sequence| sequence.to_le_bytes().into()).collect();
    (1..=3).for_each(|node| assert_eq!(cluster.log(node, group, count), expected, "node {node}"));
}

#[test]
fn heartbeats_go_by_udp_between_all_shards() {
    let mut cluster = Cluster::start(3, |c| (c.groups, c.shards, c.udp_lane) = (2, 2, true));
    for round in 0..2 {
        for (node, group) in (1..=3).flat_map(|node| [(node, 1), (node, 2)]) {
            wait_until("datagrams never get through", || datagrams(&cluster, node, group).peers == 2);
        }
        (1..=2).for_each(|group| commit(&cluster, group, 20 * round + 1..=20 * round + 20));
        // They come back after their connections were gone.
        cluster.stop_node(2);
        cluster.start_node(2);
    }
    (1..=2).for_each(|group| check(&cluster, group, 40));
}

#[test]
fn a_node_without_the_lane_is_spoken_to_by_tcp() {
    let cluster = Cluster::start(3, |c| c.udp_lane = c.node != 3);
    commit(&cluster, 1, 1..=20);
    wait_until("the two others find each other", || [1, 2].iter().all(|node| datagrams(&cluster, *node, 1).peers == 1));
    let before = datagrams(&cluster, 1, 1).taken;
    wait_until("they go on", || datagrams(&cluster, 1, 1).taken > before + 20);
    assert_eq!(datagrams(&cluster, 3, 1), Datagrams::default());
    commit(&cluster, 1, 21..=40);
    check(&cluster, 1, 40);
}

/// Starts three nodes that dial each other through relays at this host, or at their own.
fn through_relays(host: Option<Ipv4Addr>, change: impl Fn(&mut Config)) -> (Cluster, Vec<Relay>) {
    let mut cluster = Cluster::prepare(3, change);
    let mut relays = Vec::new();
    for from in 0..3 {
        for to in 0..3 {
            let member = &mut cluster.configs[from].members[to].address;
            // Of two nodes the one with the higher number dials.
            if to < from {
                let at = host.map_or_else(|| free_addresses(1)[0], |host| SocketAddr::from((host, 0)));
                relays.push(Relay::start(at, *member));
                *member = relays.last().expect("it was just made").address();
            } else if let (true, Some(host)) = (from < to, host) {
                member.set_ip(host.into());
            }
        }
    }
    (1..=3).for_each(|node| cluster.start_node(node));
    (cluster, relays)
}

/// As behind a firewall or a translator of addresses: each takes the others to be where they take no datagrams.
#[test]
fn where_no_datagram_gets_through_all_goes_by_tcp() {
    let (cluster, _relays) = through_relays(Some(Ipv4Addr::LOCALHOST), |c| c.udp_lane = true);
    commit(&cluster, 1, 1..=20);
    for node in 1..=3 {
        wait_until("they are tried", || datagrams(&cluster, node, 1).sent > 30);
    }
    commit(&cluster, 1, 21..=40);
    check(&cluster, 1, 40);
    for node in 1..=3 {
        let Datagrams { taken, peers, .. } = datagrams(&cluster, node, 1);
        assert_eq!((taken, peers), (0, 0), "node {node}");
    }
}

/// A leader whose followers hear nothing for 0.6 s is lost. Here nothing comes by TCP for longer, and in some round,
/// on a machine that may be busy, nobody minds.
#[test]
fn a_leader_stays_while_tcp_stands_still() {
    let (mut cluster, relays) = through_relays(None, |c| c.udp_lane = true);
    let heard = [1, 2, 3].map(|node| {
        cluster.stop_node(node);
        cluster.start_heard(node, None)
    });
    let lost = || heard.iter().flat_map(|heard| heard.all()).filter(|e| matches!(e, Event::PeerLost { .. })).count();
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "nodes are lost in each round");
        for node in 1..=3 {
            wait_until("datagrams never get through", || datagrams(&cluster, node, 1).peers == 2);
        }
        let (leader, before) = (cluster.leader(1), lost());
        let info = leader.info(1).expect("it has the group");
        let taken = [1, 2, 3].map(|node| datagrams(&cluster, node, 1).taken);
        relays.iter().for_each(|relay| relay.stand_still(true));
        let waits = leader.propose(1, b"entry");
        // Two exchanges of a question and an answer in 0.1 s: 0.75 s at the least.
        let many = |node: u64| datagrams(&cluster, node, 1).taken >= taken[node as usize - 1] + 60;
        wait_until("heartbeats come", || (1..=3).all(many) || lost() > before);
        let behind = leader.info(1).expect("it has the group");
        let stood = (behind.epoch, behind.next_index) == (info.epoch, info.next_index) && lost() == before;
        relays.iter().for_each(|relay| relay.stand_still(false));
        // What waited is committed by the same leader, unless it was lost all the same.
        if waits.wait().is_ok() && stood && leader.info(1).is_some_and(|after| after.epoch == info.epoch) {
            return;
        }
    }
}

#[test]
fn a_transport_of_ones_own_has_no_lane() {
    let cluster = Cluster::prepare(1, |c| c.udp_lane = true);
    let network: Arc<Network> = Arc::default();
    let options = Options { transport: Some(network.transport(1)), ..Options::default() };
    let Err(StartError::Config(error)) = Node::start(cluster.configs[0].clone(), options) else {
        panic!("it cannot send datagrams")
    };
    assert!(error.to_string().contains("udp_lane"), "{error}");
}
