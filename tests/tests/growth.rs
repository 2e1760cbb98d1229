//! Real nodes: clusters that grow and shrink by the lists of their members, and lists that do not go together.

use std::time::{Duration, Instant};

use synod::{
    Config, Entries, Event, Handle, IntroduceError, Introduction, Member, MembershipChange, MembershipError, Node,
    Options, Rejection,
};
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
        if before.voters.contains(&node) != matches!(change, MembershipChange::Remove(_)) {
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
fn restart_with(cluster: &mut Cluster, nodes: &[u64], members: &[Member], sequence: &mut u64) {
    for node in nodes {
        cluster.stop_node(*node);
        cluster.configs[*node as usize - 1].members = members.to_vec();
        cluster.start_node(*node);
        *sequence += 1;
        commit(cluster, *sequence);
    }
}

/// Makes a node that joins, of which no other knows; its configuration has the members that node 1's has, and itself.
fn make_joining(cluster: &mut Cluster, node: u64, change: impl FnOnce(&mut Config)) -> Member {
    let member = Member { node, address: free_addresses(1)[0] };
    let mut config = Config { node, dir: cluster.dir().join(format!("node-{node}")), ..cluster.configs[0].clone() };
    config.members.push(member);
    change(&mut config);
    Node::init_joining(&config).expect("a new directory");
    cluster.configs.push(config);
    cluster.nodes.push(None);
    member
}

/// Waits until a node knows of these introductions and no others.
fn wait_known(of: &Handle, known: &[Introduction]) {
    let end = Instant::now() + PATIENCE;
    while of.introductions().expect("it runs") != known {
        assert!(Instant::now() < end, "node {} knows {:?}", of.node(), of.introductions());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn introduction(Member { node, address }: Member, version: u64) -> Introduction {
    Introduction { node, address, witness: false, version }
}

#[test]
fn a_running_cluster_grows_by_a_node_that_is_introduced() {
    let mut cluster = Cluster::start(3, |_| {});
    let mut sequence = 0;
    let mut commit_next = |cluster: &Cluster| {
        sequence += 1;
        commit(cluster, sequence);
    };
    commit_next(&cluster);
    let fourth = make_joining(&mut cluster, 4, |_| {});
    // It may come before anyone knows it.
    cluster.start_node(4);
    let known = [introduction(fourth, 1)];
    assert_eq!(cluster.node(2).introduce(fourth).wait(), Ok(known[0]));
    (1..=4).for_each(|node| wait_known(&cluster.node(node), &known));
    assert_eq!(cluster.leader(1).membership(1).expect("the group is there").voters, [1, 2, 3], "it has no vote yet");
    assert_eq!(change(&cluster, MembershipChange::Add(4)), [1, 2, 3, 4]);
    // Three of four go on, and one of them is the new one.
    cluster.stop_node(2);
    commit_next(&cluster);
    cluster.start_node(2);
    // No configuration but its own names it, and all know it after a start.
    for node in 1..=4 {
        cluster.stop_node(node);
        cluster.start_node(node);
        commit_next(&cluster);
        wait_known(&cluster.node(node), &known);
    }
    for node in 1..=3 {
        cluster.stop_node(node);
        commit_next(&cluster);
        cluster.start_node(node);
    }
    for node in 1..=4 {
        let log = cluster.log(node, 1, sequence);
        assert!(log.into_iter().eq((1..=sequence).map(|n| n.to_le_bytes().to_vec())), "node {node}");
    }
}

#[test]
fn a_node_that_is_down_learns_who_was_introduced() {
    let mut cluster = Cluster::start(3, |config| (config.shards, config.groups) = (2, 2));
    commit(&cluster, 1);
    cluster.stop_node(3);
    let fourth = make_joining(&mut cluster, 4, |_| {});
    let known = [introduction(fourth, 1)];
    assert_eq!(cluster.node(1).introduce(fourth).wait(), Ok(known[0]));
    cluster.start_node(4);
    assert_eq!(change(&cluster, MembershipChange::Add(4)), [1, 2, 3, 4]);
    cluster.start_node(3);
    wait_known(&cluster.node(3), &known);
    // Nodes 3 and 4 are needed from now on, for each other.
    cluster.stop_node(1);
    commit(&cluster, 2);
    assert_eq!(cluster.log(3, 1, 2), cluster.log(4, 1, 2));
}

#[test]
fn a_cluster_grows_by_a_witness_that_is_introduced() {
    let mut cluster = Cluster::start(2, |_| {});
    commit(&cluster, 1);
    let third = make_joining(&mut cluster, 3, |config| config.witnesses.push(3));
    cluster.start_node(3);
    // Said otherwise than its own configuration says, it could be given no vote.
    assert_eq!(cluster.node(1).introduce(third).wait(), Ok(introduction(third, 1)));
    (1..=3).for_each(|node| wait_known(&cluster.node(node), &[introduction(third, 1)]));
    let known = Introduction { witness: true, ..introduction(third, 2) };
    assert_eq!(cluster.node(2).introduce_witness(third).wait(), Ok(known));
    (1..=3).for_each(|node| wait_known(&cluster.node(node), &[known]));
    assert_eq!(change(&cluster, MembershipChange::AddWitness(3)), [1, 2, 3]);
    // Any two of the three go on, also after a start.
    for node in 1..=2 {
        cluster.stop_node(node);
        cluster.stop_node(3 - node);
        cluster.start_node(node);
        commit(&cluster, 1 + node);
        cluster.start_node(3 - node);
        // The witness has no entries: the other one must get them before this one is stopped.
        assert_eq!(cluster.log(3 - node, 1, 1 + node).len() as u64, 1 + node);
    }
}

#[test]
fn an_introduced_node_moves() {
    let mut cluster = Cluster::start(3, |_| {});
    commit(&cluster, 1);
    let [fourth, fifth] = [4, 5].map(|node| make_joining(&mut cluster, node, |_| {}));
    assert!(!cluster.configs[4].members.contains(&fourth), "node 5 is told of node 4 by others only");
    cluster.start_node(4);
    assert_eq!(cluster.node(1).introduce(fourth).wait(), Ok(introduction(fourth, 1)));
    assert_eq!(cluster.node(2).introduce(fifth).wait(), Ok(introduction(fifth, 1)));
    let heard = cluster.start_heard(5, None);
    let met = |event: &Event| *event == Event::PeerConnected { shard: 0, node: 4 };
    heard.wait(1, met);
    let known = [introduction(fourth, 1), introduction(fifth, 1)];
    (1..=5).for_each(|node| wait_known(&cluster.node(node), &known));

    // Of two nodes the one with the higher number dials: node 5 must learn where node 4 is now.
    cluster.stop_node(4);
    heard.wait(1, |event| *event == Event::PeerLost { shard: 0, node: 4 });
    let moved = Member { node: 4, address: free_addresses(1)[0] };
    let itself = cluster.configs[3].members.iter_mut().find(|member| member.node == 4).expect("it is one");
    itself.address = moved.address;
    cluster.start_node(4);
    assert_eq!(cluster.node(3).introduce(moved).wait(), Ok(introduction(moved, 2)));
    heard.wait(2, met);
    let known = [introduction(moved, 2), introduction(fifth, 1)];
    (1..=5).for_each(|node| wait_known(&cluster.node(node), &known));
    // It is dialled there after a start, too.
    cluster.stop_node(5);
    let heard = cluster.start_heard(5, None);
    heard.wait(1, met);
}

#[test]
fn what_a_node_cannot_be_introduced_as() {
    let mut cluster = Cluster::start(2, |_| {});
    let handle = cluster.node(1);
    let [first, second] = [cluster.configs[0].members[0], cluster.configs[0].members[1]];
    let third = Member { node: 3, address: free_addresses(1)[0] };
    let refused = |member: Member| handle.introduce(member).wait().expect_err("it cannot be");
    assert_eq!(refused(Member { node: 0, ..third }), IntroduceError::NoNumber);
    assert_eq!(refused(first), IntroduceError::Itself(1));
    let configured = IntroduceError::Configured { node: 2, address: second.address, witness: false };
    assert_eq!(refused(Member { node: 2, ..third }), configured);
    assert_eq!(handle.introduce_witness(second).wait(), Err(configured));
    let taken = IntroduceError::AddressInUse { address: second.address, node: 2 };
    assert_eq!(refused(Member { node: 3, ..second }), taken);
    let anywhere = "0.0.0.0:7003".parse().expect("an address");
    assert_eq!(refused(Member { node: 3, address: anywhere }), IntroduceError::NoAddress(anywhere));
    assert_eq!(handle.introduce(second).wait(), Ok(introduction(second, 0)), "the configuration says so");
    assert_eq!(handle.introductions(), Some(Vec::new()));
    // What a node is, a witness or not, is part of it.
    let witness = Introduction { witness: true, ..introduction(third, 1) };
    assert_eq!(handle.introduce_witness(third).wait(), Ok(witness));
    assert_eq!(handle.introduce_witness(third).wait(), Ok(witness));
    wait_known(&cluster.node(2), &[witness]);
    cluster.stop_node(1);
    assert!(matches!(handle.introduce(third).wait(), Err(IntroduceError::Rejected(_))), "it is gone");
    std::fs::write(cluster.configs[0].dir.join("introduced"), b"no list").expect("its directory is there");
    let error = Node::start(cluster.configs[0].clone(), Options::default()).err().expect("its file is damaged");
    assert!(error.to_string().contains("introduced is damaged: remove it"), "{error}");
    // It is told again.
    std::fs::remove_file(cluster.configs[0].dir.join("introduced")).expect("it is there");
    cluster.start_node(1);
    wait_known(&cluster.node(1), &[witness]);
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
    restart_with(&mut cluster, &[1, 2, 3], &members, &mut sequence);
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
    restart_with(&mut cluster, &[2, 3, 4], &members, &mut sequence);
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
    restart_with(&mut cluster, &[1], &members, &mut 1);
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
