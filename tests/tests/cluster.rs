//! Clusters that commit, stop, start again and lose a node.

use synod::{Config, DiskBackend, Entries};
use synod_sim::Cluster;

fn check_cluster(count: usize, groups: u64, shards: usize, disk: DiskBackend) {
    let mut cluster = Cluster::start(count, |c: &mut Config| (c.groups, c.shards, c.disk) = (groups, shards, disk));
    let mut expected = vec![Vec::new(); groups as usize];
    for round in 0..2 {
        for group in 1..=groups {
            let handle = cluster.leader(group);
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
        for node in 1..=count as u64 {
            for group in 1..=groups {
                let expected = &expected[group as usize - 1];
                assert_eq!(&cluster.log(node, group, expected.len() as u64), expected);
            }
        }
        // All stop, and start again from their logs.
        (1..=count as u64).for_each(|node| cluster.stop_node(node));
        (1..=count as u64).for_each(|node| cluster.start_node(node));
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
    let mut cluster = Cluster::start(3, |c| c.groups = 3);
    for group in 1..=3 {
        cluster.leader(group).propose(group, b"all").wait().unwrap();
    }
    cluster.stop_node(1);
    for group in 1..=3 {
        let mut batch = Entries::one(b"without").unwrap();
        batch.push(b"one").unwrap();
        let committed = cluster.leader(group).propose_batch(group, batch).wait().unwrap();
        assert_eq!((committed.first_index, committed.count), (2, 2));
    }
    cluster.start_node(1);
    for group in 1..=3 {
        assert_eq!(cluster.log(1, group, 3), [b"all".to_vec(), b"without".to_vec(), b"one".to_vec()]);
    }
}

#[test]
fn a_proposer_is_bound_to_its_epoch() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    let handle = cluster.leader(1);
    let mut proposer = handle.proposer(1).unwrap();
    let first = proposer.propose(Entries::one(b"1").unwrap());
    let second = proposer.propose(Entries::one(b"2").unwrap());
    assert_eq!((first.wait().unwrap().first_index, second.wait().unwrap().first_index), (1, 2));
    for node in (1..=3).filter(|node| *node != handle.node()) {
        assert!(cluster.node(node).proposer(1).is_err(), "only the leader opens a proposer");
    }
}

#[test]
fn a_session_takes_each_sequence_once() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    let leader = cluster.leader(1);
    let append = |sequence, entry: &[u8]| {
        leader.propose_in_session(1, 77, sequence, Entries::one(entry).unwrap()).wait()
    };
    assert_eq!(append(1, b"a").unwrap().first_index, 1);
    assert_eq!(append(1, b"a"), Err(synod::ProposeError::Duplicate));
    assert_eq!(append(3, b"c"), Err(synod::ProposeError::OutOfSession));
    assert_eq!(append(2, b"b").unwrap().first_index, 2);
    assert_eq!(cluster.log(1, 1, 2), [b"a", b"b"]);
}

#[test]
fn entries_of_a_mebibyte_pass_and_larger_ones_are_refused() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    let leader = cluster.leader(1);
    let large = vec![7; synod::limits::ENTRY_BYTES_MAX];
    let proposals: Vec<_> = (0..8).map(|_| leader.propose(1, &large)).collect();
    for proposal in proposals {
        proposal.wait().unwrap();
    }
    let refused = leader.propose(1, &vec![7; synod::limits::ENTRY_BYTES_MAX + 1]).wait();
    assert_eq!(refused, Err(synod::ProposeError::Rejected(synod::Rejection::TooLarge)));
    for node in 1..=3 {
        assert!(cluster.log(node, 1, 8).iter().all(|entry| *entry == large));
    }
}
