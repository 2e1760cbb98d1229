//! Real nodes in which electing and choosing take different numbers of voters.

use std::time::{Duration, Instant};

use synod::{Consistency, Entries, Handle, Membership, MembershipChange, MembershipError, Node, NodeId, Options};
use synod_sim::{Cluster, PATIENCE};

/// So long nothing happens where nothing may; nobody could be elected however long it took.
const A_WHILE: Duration = Duration::from_secs(4);

fn commit(cluster: &Cluster, sequence: u64) {
    cluster.commit(1, 1, sequence, &Entries::one(&sequence.to_le_bytes()).unwrap());
}

/// All that was committed up to a sequence, as a node has it.
fn check(cluster: &Cluster, node: NodeId, up_to: u64) {
    let all: Vec<Vec<u8>> = (1..=up_to).map(|sequence| sequence.to_le_bytes().to_vec()).collect();
    assert_eq!(cluster.log(node, 1, up_to), all, "node {node}");
}

fn others(cluster: &Cluster, than: NodeId) -> Vec<NodeId> {
    (1..=cluster.nodes.len() as u64).filter(|node| *node != than).collect()
}

fn somebody_leads(cluster: &Cluster) -> bool {
    let leads = |handle: &Handle| handle.info(1).is_some_and(|info| info.epoch > 0);
    cluster.nodes.iter().flatten().any(|node| leads(&node.handle()))
}

/// Nobody leads any more, and nobody is elected.
fn nobody_leads(cluster: &Cluster) {
    let patience = Instant::now() + PATIENCE;
    while somebody_leads(cluster) {
        assert!(Instant::now() < patience, "a leader without enough voters steps down");
        std::thread::sleep(Duration::from_millis(20));
    }
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert!(!somebody_leads(cluster));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Has the leader change the quorum, however often leaders change.
fn resize(cluster: &Cluster, phase_2: u16) -> Membership {
    let end = Instant::now() + PATIENCE;
    loop {
        let leader = cluster.leader(1);
        let membership = leader.membership(1).expect("it is there");
        if membership.phase_2 == usize::from(phase_2) && !membership.majority {
            return membership;
        }
        let change = MembershipChange::Quorum(phase_2);
        match leader.change_membership(1, membership.version, change, PATIENCE).wait() {
            Ok(membership) => return membership,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

#[test]
fn two_of_four_commit_and_three_elect() {
    let mut cluster = Cluster::start(4, |c| c.phase_2 = 2);
    commit(&cluster, 1);
    let leader = cluster.leader(1).node();
    let others = others(&cluster, leader);
    let membership = cluster.node(leader).membership(1).unwrap();
    assert_eq!((membership.phase_1, membership.phase_2, membership.majority), (3, 2, false));
    cluster.stop_node(others[0]);
    cluster.stop_node(others[1]);
    commit(&cluster, 2);
    assert_eq!(cluster.leader(1).node(), leader, "half of the voters keep it");
    // The other half cannot lead: this one may have committed without it.
    cluster.stop_node(leader);
    cluster.start_node(others[0]);
    nobody_leads(&cluster);
    cluster.start_node(others[1]);
    commit(&cluster, 3);
    for node in &others {
        check(&cluster, *node, 3);
    }
    cluster.start_node(leader);
    check(&cluster, leader, 3);
}

#[test]
fn one_that_chooses_alone_hands_over_and_is_missed() {
    let mut cluster = Cluster::start(3, |c| c.phase_2 = 1);
    commit(&cluster, 1);
    // With its own vote given, nobody can be elected against it: it reads without asking, and hands over all the same.
    let first = cluster.leader(1);
    let to = others(&cluster, first.node())[0];
    let end = Instant::now() + PATIENCE;
    while cluster.leader(1).node() != to {
        let leader = cluster.leader(1);
        leader.read_index(1, Consistency::Linearizable, PATIENCE).wait().expect("it leads");
        let ended = leader.transfer(1, to, Duration::from_secs(2)).wait();
        assert!(Instant::now() < end, "node {to} never takes over: {ended:?}");
    }
    commit(&cluster, 2);
    let leader = cluster.leader(1).node();
    let others = others(&cluster, leader);
    others.iter().for_each(|node| cluster.stop_node(*node));
    commit(&cluster, 3);
    assert_eq!(cluster.leader(1).node(), leader, "its disk is enough");
    cluster.stop_node(leader);
    others.iter().for_each(|node| cluster.start_node(*node));
    nobody_leads(&cluster);
    cluster.start_node(leader);
    commit(&cluster, 4);
    (1..=3).for_each(|node| check(&cluster, node, 4));
}

#[test]
fn quorums_are_changed_while_the_cluster_runs_and_kept() {
    let mut cluster = Cluster::start(5, |_| {});
    commit(&cluster, 1);
    let leader = cluster.leader(1);
    let version = leader.membership(1).unwrap().version;
    let wrong = leader.change_membership(1, version + 1, MembershipChange::Quorum(2), PATIENCE).wait();
    assert!(!matches!(wrong, Ok(_) | Err(MembershipError::Unknown)), "{wrong:?}");
    let wrong = leader.change_membership(1, version, MembershipChange::Quorum(6), PATIENCE).wait();
    assert!(!matches!(wrong, Ok(_) | Err(MembershipError::Unknown)), "{wrong:?}");
    let membership = resize(&cluster, 2);
    assert_eq!((membership.phase_1, membership.phase_2), (4, 2));
    commit(&cluster, 2);
    let leader = cluster.leader(1).node();
    let others = others(&cluster, leader);
    others[..3].iter().for_each(|node| cluster.stop_node(*node));
    commit(&cluster, 3);
    // Three are a majority, and no longer enough.
    cluster.stop_node(leader);
    others[..2].iter().for_each(|node| cluster.start_node(*node));
    nobody_leads(&cluster);
    cluster.start_node(others[2]);
    commit(&cluster, 4);
    cluster.start_node(leader);
    assert_eq!(resize(&cluster, 5).phase_1, 1);
    commit(&cluster, 5);
    (1..=5).for_each(|node| check(&cluster, node, 5));
    // A node that is missing keeps all from choosing.
    cluster.stop_node(leader);
    nobody_leads(&cluster);
    cluster.start_node(leader);
    commit(&cluster, 6);
}

#[test]
fn a_directory_keeps_the_quorum_it_was_made_with() {
    let mut cluster = Cluster::start(3, |c| c.phase_2 = if c.node == 3 { 2 } else { 0 });
    // Two that disagree would count votes differently: node 3 is let in by nobody, so the groups never begin.
    nobody_leads(&cluster);
    cluster.stop_node(1);
    let mut config = cluster.configs[0].clone();
    config.phase_2 = 2;
    let error = Node::start(config, Options::default()).err().expect("it is refused").to_string();
    assert!(error.contains("made with `phase_2 = 0`") && error.contains("says 2"), "{error}");
}
