//! Real nodes: clusters that grow and shrink by the lists of their members, and lists that do not go together.

use std::time::{Duration, Instant};

use synod::{Config, Entries, Member, MembershipChange, MembershipError, Node, Options, Rejection};
use synod_sim::{Cluster, PATIENCE, free_addresses};

fn commit(cluster: &Cluster, sequence: u64) {
    cluster.commit(1, 1, sequence, &Entries::one(&sequence.to_le_bytes()).expect("it is small"));
}

/// Changes the voters of group 1, whoever leads it.
fn change(cluster: &Cluster, change: MembershipChange) -> Vec<u64> {
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "{change:?} is never done");
        let leader = cluster.leader(1);
        let Some(before) = leader.membership(1) else { continue };
        let node = change.node().expect("these name one");
        if before.voters.contains(&node) == matches!(change, MembershipChange::Add(_)) {
            return before.voters;
        }
        match leader.change_membership(1, before.version, change, Duration::from_secs(20)).wait() {
            Ok(after) => return after.voters,
            // A node that was just started anew may not be reached yet, or leads no more.
            Err(
                MembershipError::Rejected(Rejection::NotLeader { .. })
                | MembershipError::VersionConflict { .. }
                | MembershipError::NotCaughtUp(_)
                | MembershipError::WouldStop(_)
                | MembershipError::Busy
                | MembershipError::Unknown,
            ) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => panic!("{change:?}: {error}"),
        }
    }
}

/// Starts nodes anew, one after another, with these members; between them something is committed.
fn introduce(cluster: &mut Cluster, nodes: &[u64], members: &[Member], sequence: &mut u64) {
    for node in nodes {
        cluster.stop_node(*node);
        cluster.configs[*node as usize - 1].members = members.to_vec();
        cluster.start_node(*node);
        *sequence += 1;
        commit(cluster, *sequence);
    }
}

#[test]
fn a_cluster_grows_by_a_node_and_lets_one_of_the_first_go() {
    let mut cluster = Cluster::start(3, |_| {});
    let mut sequence = 1;
    commit(&cluster, sequence);
    let address = free_addresses(1)[0];
    let mut members = cluster.configs[0].members.clone();
    members.push(Member { node: 4, address });
    let mut fourth = Config { node: 4, dir: cluster.dir().join("node-4"), ..cluster.configs[0].clone() };
    fourth.members = members.clone();
    Node::init_joining(&fourth).expect("a new directory");
    cluster.configs.push(fourth);
    cluster.nodes.push(None);
    // It comes before the others know it, and is let in by each that does.
    cluster.start_node(4);
    introduce(&mut cluster, &[1, 2, 3], &members, &mut sequence);
    assert_eq!(cluster.leader(1).membership(1).expect("the group is there").voters, [1, 2, 3], "it has no vote yet");
    assert_eq!(change(&cluster, MembershipChange::Add(4)), [1, 2, 3, 4]);
    // Three of four go on.
    cluster.stop_node(2);
    sequence += 1;
    commit(&cluster, sequence);
    cluster.start_node(2);
    assert_eq!(change(&cluster, MembershipChange::Remove(1)), [2, 3, 4]);
    cluster.stop_node(1);
    members.retain(|member| member.node != 1);
    introduce(&mut cluster, &[2, 3, 4], &members, &mut sequence);
    // The new one counts as any other: two of three go on.
    cluster.stop_node(3);
    sequence += 1;
    commit(&cluster, sequence);
    cluster.start_node(3);
    for node in 2..=4 {
        let log = cluster.log(node, 1, sequence);
        assert!(log.into_iter().eq((1..=sequence).map(|n| n.to_le_bytes().to_vec())), "node {node}");
    }
}

/// The first node of three that are not there yet would have to wait for them, if they were taken for voters.
#[test]
fn members_that_are_added_later_change_no_quorum() {
    let mut cluster = Cluster::start(1, |_| {});
    commit(&cluster, 1);
    let mut members = cluster.configs[0].members.clone();
    members.extend((2..).zip(free_addresses(2)).map(|(node, address)| Member { node, address }));
    introduce(&mut cluster, &[1], &members, &mut 1);
    assert_eq!(cluster.leader(1).membership(1).expect("the group is there").voters, [1]);
}

#[test]
fn nodes_that_were_made_with_other_members_never_meet() {
    let mut cluster = Cluster::start(2, |_| {});
    cluster.stop_node(2);
    // Node 2 is made anew, as if by someone who has begun with three nodes in mind.
    let mut second = cluster.configs[1].clone();
    second.dir = cluster.dir().join("made-otherwise");
    second.members.push(Member { node: 3, address: free_addresses(1)[0] });
    Node::init(&second).expect("a new directory");
    let mut first = cluster.configs[0].clone();
    first.dir = cluster.dir().join("made-anew");
    Node::init(&first).expect("a new directory");
    cluster.stop_node(1);
    let nodes = [first, second].map(|config| Node::start(config, Options::default()).expect("it starts"));
    // They would elect a leader within a fraction of a second.
    std::thread::sleep(Duration::from_secs(3));
    for node in &nodes {
        let info = node.handle().info(1).expect("the group is there");
        assert!((info.leader, info.votes) == (0, false), "{info:?}");
    }
}

#[test]
fn a_node_that_joins_must_be_told_whom() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let member = Member { node: 4, address: free_addresses(1)[0] };
    let refused = Node::init_joining(&Config::new(7, 4, dir.path().join("node-4"), vec![member]));
    assert!(refused.expect_err("there is nobody to join").to_string().contains("other nodes"));
}
