//! Three nodes in one process, over real disks and sockets.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use synod::{Config, DiskBackend, Entries, Handle, Member, Node, Options, new_cluster_id};

/// Ports that were free a moment ago.
fn members(count: u64) -> Vec<Member> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let member = |(at, l): (usize, &TcpListener)| Member { node: at as u64 + 1, address: l.local_addr().unwrap() };
    listeners.iter().enumerate().map(member).collect()
}

fn configs(dir: &Path, count: u64, groups: u64, shards: usize, disk: DiskBackend) -> Vec<Config> {
    let (cluster, members) = (new_cluster_id(), members(count));
    let config = |node: u64| {
        let mut config = Config::new(cluster, node, dir.join(format!("node-{node}")), members.clone());
        (config.groups, config.shards, config.disk) = (groups, shards, disk);
        config.spare_segments = 1;
        config
    };
    let configs: Vec<Config> = (1..=count).map(config).collect();
    configs.iter().for_each(|c| Node::init(c).unwrap());
    configs
}

fn start(configs: &[Config]) -> Vec<Node> {
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
    configs.iter().map(|c| Node::start(c.clone(), Options::default()).unwrap()).collect()
}

/// The node that leads a group and takes its proposals.
fn leader(nodes: &[Node], group: u64) -> Handle {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        for node in nodes {
            if node.handle().info(group).is_some_and(|info| info.epoch > 0) {
                return node.handle();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("group {group} has no leader after a minute");
}

/// All entries of a group up to an index, as one node tells them.
fn log(node: &Node, group: u64, up_to: u64) -> Vec<Vec<u8>> {
    let mut tail = node.handle().subscribe(group, 1);
    let mut log = Vec::new();
    let end = Instant::now() + Duration::from_secs(60);
    while tail.next_index() <= up_to {
        assert!(Instant::now() < end, "group {group} stays at index {}", tail.next_index());
        log.extend(tail.next(Duration::from_millis(200)).unwrap().entries.iter().map(<[u8]>::to_vec));
    }
    log
}

fn check_cluster(count: u64, groups: u64, shards: usize, disk: DiskBackend) {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), count, groups, shards, disk);
    let mut nodes = start(&configs);
    let mut expected = vec![Vec::new(); groups as usize];
    for round in 0..2 {
        for group in 1..=groups {
            let handle = leader(&nodes, group);
            let mut proposals = Vec::new();
            for n in 0..20 {
                let entry = format!("round {round} group {group} entry {n}");
                proposals.push((handle.propose(group, entry.as_bytes()), entry));
            }
            let expected = &mut expected[group as usize - 1];
            for (proposal, entry) in proposals {
                let committed = proposal.wait().unwrap();
                expected.push(entry.into_bytes());
                assert_eq!(committed.first_index, expected.len() as u64);
            }
        }
        for node in &nodes {
            for group in 1..=groups {
                let expected = &expected[group as usize - 1];
                assert_eq!(&log(node, group, expected.len() as u64), expected);
            }
        }
        // All stop, and start again from their logs.
        nodes.drain(..).for_each(Node::shutdown);
        nodes = start(&configs);
    }
}

#[test]
fn three_nodes_commit_and_restart() {
    check_cluster(3, 4, 1, DiskBackend::Uring);
}

#[test]
fn shards_share_the_groups() {
    check_cluster(3, 5, 2, DiskBackend::Uring);
}

#[test]
fn one_node_is_a_cluster() {
    check_cluster(1, 2, 1, DiskBackend::Uring);
}

#[test]
fn the_blocking_backend_does_the_same() {
    check_cluster(3, 2, 1, DiskBackend::Blocking);
}

#[test]
fn a_minority_may_be_away() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), 3, 3, 1, DiskBackend::Uring);
    let mut nodes = start(&configs);
    for group in 1..=3 {
        leader(&nodes, group).propose(group, b"all").wait().unwrap();
    }
    let away = nodes.remove(0);
    away.shutdown();
    for group in 1..=3 {
        let mut batch = Entries::one(b"without").unwrap();
        batch.push(b"one").unwrap();
        let committed = leader(&nodes, group).propose_batch(group, batch).wait().unwrap();
        assert_eq!((committed.first_index, committed.count), (2, 2));
    }
    let back = Node::start(configs[0].clone(), Options::default()).unwrap();
    for group in 1..=3 {
        assert_eq!(log(&back, group, 3), [b"all".to_vec(), b"without".to_vec(), b"one".to_vec()]);
    }
}

#[test]
fn a_proposer_is_bound_to_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = start(&configs(dir.path(), 3, 1, 1, DiskBackend::Uring));
    let handle = leader(&nodes, 1);
    let mut proposer = handle.proposer(1).unwrap();
    let first = proposer.propose(Entries::one(b"1").unwrap());
    let second = proposer.propose(Entries::one(b"2").unwrap());
    assert_eq!((first.wait().unwrap().first_index, second.wait().unwrap().first_index), (1, 2));
    for node in &nodes {
        if node.handle().node() != handle.node() {
            assert!(node.handle().proposer(1).is_err(), "only the leader opens a proposer");
        }
    }
}
