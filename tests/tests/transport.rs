//! Clusters over a transport of one's own.

use std::sync::Arc;
use std::task::{Context, Waker};

use synod::{Entries, Node, Options, StartError};
use synod_sim::pipes::Network;
use synod_sim::{Cluster, PATIENCE, wait_until};

fn start_node(cluster: &mut Cluster, network: &Arc<Network>, node: u64) {
    let options = Options { transport: Some(network.transport(node)), ..Options::default() };
    let config = cluster.configs[node as usize - 1].clone();
    cluster.nodes[node as usize - 1] = Some(Node::start(config, options).unwrap());
}

fn start(shards: usize) -> (Cluster, Arc<Network>) {
    let mut cluster = Cluster::prepare(3, |c| (c.groups, c.shards) = (2, shards));
    let network = Arc::default();
    (1..=3).for_each(|node| start_node(&mut cluster, &network, node));
    (cluster, network)
}

/// Larger than a pipe, now and then.
fn entry(n: u64) -> Vec<u8> {
    vec![n as u8; if n.is_multiple_of(10) { 50_000 } else { 100 }]
}

fn commit(cluster: &Cluster, from: u64, to: u64) {
    for n in from..=to {
        (1..=2).for_each(|group| cluster.commit(group, 1, n, &Entries::one(&entry(n)).unwrap()));
    }
}

fn check(cluster: &Cluster, nodes: &[u64], count: u64) {
    let expected: Vec<Vec<u8>> = (1..=count).map(entry).collect();
    for node in nodes {
        for group in 1..=2 {
            assert!(cluster.log(*node, group, count) == expected, "node {node} has another log of group {group}");
        }
    }
}

#[test]
fn a_cluster_over_pipes_goes_on_although_nodes_are_cut_off() {
    let (mut cluster, network) = start(2);
    commit(&cluster, 1, 40);
    assert_eq!(network.connections(), 6, "each shard has a connection to each peer");
    let mut written = 40;
    for node in [1, 2, 3, 1] {
        network.cut(node);
        // Whoever is cut off may take itself for the leader: its own handle would wait for nothing.
        let away = cluster.nodes[node as usize - 1].take();
        commit(&cluster, written + 1, written + 20);
        written += 20;
        cluster.nodes[node as usize - 1] = away;
        network.heal(node);
        check(&cluster, &[node], written);
    }
    cluster.stop_node(2);
    commit(&cluster, written + 1, written + 10);
    start_node(&mut cluster, &network, 2);
    check(&cluster, &[1, 2, 3], written + 10);
}

#[test]
fn foreign_bytes_end_a_connection_and_nothing_else() {
    let (cluster, network) = start(1);
    commit(&cluster, 1, 10);
    for round in 1..=3 {
        network.falsify(5);
        commit(&cluster, 10 * round + 1, 10 * round + 10);
        wait_until("nobody writes", || network.is_honest());
    }
    network.lie(3);
    wait_until("nobody reads", || network.is_honest());
    commit(&cluster, 41, 50);
    check(&cluster, &[1, 2, 3], 50);
    // One who speaks no protocol at all.
    let stranger = network.transport(9).dial(1, cluster.configs[0].members[0].address, PATIENCE).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    assert!(stranger.poll_write(&mut context, &[std::io::IoSlice::new(&[0xa5; 4000])]).is_ready());
    wait_until("the stranger is not sent away", || {
        stranger.poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 64]).is_ready()
    });
    check(&cluster, &[1], 50);
}

#[test]
fn an_address_that_the_transport_does_not_give_is_a_clear_error() {
    let cluster = Cluster::prepare(1, |_| {});
    let network: Arc<Network> = Arc::default();
    let transport = network.transport(1);
    let _taken = transport.listen(cluster.configs[0].members[0].address).unwrap();
    let options = Options { transport: Some(transport), ..Options::default() };
    let Err(StartError::Listen { error, .. }) = Node::start(cluster.configs[0].clone(), options) else {
        panic!("somebody else listens there")
    };
    assert!(error.to_string().contains("somebody listens at the pipe"), "{error}");
}
