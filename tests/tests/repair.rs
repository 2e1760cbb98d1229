//! A quorum is lost for good, and the cluster goes on from what is left.

use std::time::{Duration, Instant};

use synod::repair::{Repair, RepairNote, RepairOptions};
use synod::{Config, Entries, GroupId, Handle, MembershipChange, Node, Options, directory_group, new_cluster_id};
use synod_sim::{Cluster, PATIENCE, free_addresses, orders, wait_until};

/// Proposes at a node until it is committed.
fn commit(node: &Handle, entry: &str) {
    commit_in(node, 1, entry);
}

fn commit_in(node: &Handle, group: GroupId, entry: &str) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = node.propose(group, entry.as_bytes()).wait() {
        assert!(Instant::now() < end, "{entry}: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The entries of a node's log up to an index.
fn log(node: &Handle, up_to: u64) -> Vec<String> {
    log_of(node, 1, up_to)
}

fn log_of(node: &Handle, group: GroupId, up_to: u64) -> Vec<String> {
    let mut tail = node.subscribe(group, 1);
    let mut log = Vec::new();
    let end = Instant::now() + PATIENCE;
    while tail.next_index() <= up_to {
        assert!(Instant::now() < end, "{log:?}: {:?}", node.info(group));
        let entries = tail.next(Duration::from_millis(200)).expect("the log is readable");
        log.extend(entries.entries.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()));
    }
    log
}

fn start(config: &Config) -> Node {
    Node::start(config.clone(), Options::default()).unwrap_or_else(|error| panic!("node {}: {error}", config.node))
}

/// The node's file for another cluster, beside the old directory.
fn renewed(old: &Config, cluster: u128) -> Config {
    let dir = old.dir.with_file_name(format!("new-{}", old.node));
    Config { cluster: format!("{cluster:032x}"), dir, ..old.clone() }
}

fn add_vote(leader: &Handle, node: u64) {
    add_vote_in(leader, 1, node);
}

fn add_vote_in(leader: &Handle, group: GroupId, node: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let version = leader.membership(group).expect("it runs").version;
        match leader.change_membership(group, version, MembershipChange::Add(node), PATIENCE).wait() {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < end, "node {node}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn repair(old: &Config, new: &Config) {
    let repair = Repair::examine(old, &RepairOptions::default()).expect("it can be repaired from");
    assert!(!repair.findings()[0].quorum);
    repair.carry_out(new, &RepairNote { seconds: 0, command: "test".into() }).expect("it is repaired");
}

/// Nodes 1 and 3 acknowledge an entry that node 2 never sees, and are lost; node 2 is repaired. Then the lost directories are
/// found, and their nodes started at their old addresses: they are a quorum, and go on. Were they taken for members of what
/// came of node 2, one side would learn slots of the other, and the logs would differ from there on.
#[test]
fn lost_nodes_that_come_back_do_not_mix_their_history_with_the_repaired_one() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.commit(1, 1, 1, &Entries::one(b"all").unwrap());
    assert_eq!(cluster.log(2, 1, 1), [b"all"]);
    cluster.stop_node(2);
    cluster.commit(1, 1, 2, &Entries::one(b"acknowledged by the lost ones").unwrap());
    cluster.stop_node(1);
    cluster.stop_node(3);

    let id = new_cluster_id();
    let new: Vec<Config> = cluster.configs.iter().map(|old| renewed(old, id)).collect();
    repair(&cluster.configs[1], &new[1]);
    let repaired = start(&new[1]);
    commit(&repaired.handle(), "repaired");

    cluster.start_node(1);
    cluster.start_node(3);
    cluster.commit(1, 1, 3, &Entries::one(b"found again").unwrap());
    commit(&repaired.handle(), "repaired more");
    assert_eq!(log(&repaired.handle(), 3), ["all", "repaired", "repaired more"]);
    for node in [1, 3] {
        assert_eq!(cluster.log(node, 1, 3), [&b"all"[..], b"acknowledged by the lost ones", b"found again"]);
    }
    // Nor can a lost directory be started as a member of the new cluster, or the repaired one as of the old.
    cluster.stop_node(3);
    let disguised = Config { dir: cluster.configs[2].dir.clone(), ..new[2].clone() };
    let refused = Node::start(disguised, Options::default()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("belongs to node 3 of cluster"), "{refused}");
    let refused = Node::start(cluster.configs[1].clone(), Options::default()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("two histories"), "{refused}");

    // One of the old ones still holds its address and its client's port; a new node 3 takes part all the same.
    Node::init_replacement(&new[2]).unwrap();
    let third = start(&new[2]);
    add_vote(&repaired.handle(), 3);
    commit(&repaired.handle(), "with three");
    assert_eq!(log(&third.handle(), 4), ["all", "repaired", "repaired more", "with three"]);
}

#[test]
fn a_repaired_node_gets_others_beside_it_and_may_then_be_away() {
    let mut cluster = Cluster::start(3, |_| {});
    for sequence in 1..=20 {
        cluster.commit(1, 1, sequence, &Entries::one(format!("{sequence}").as_bytes()).unwrap());
    }
    assert_eq!(cluster.log(2, 1, 20).len(), 20);
    (1..=3).for_each(|node| cluster.stop_node(node));
    for node in [0, 2] {
        std::fs::remove_dir_all(&cluster.configs[node].dir).unwrap();
    }
    // Alone it can commit nothing: it is no quorum.
    cluster.start_node(2);
    let refused = cluster.node(2).propose(1, b"alone").wait();
    assert!(refused.is_err(), "{refused:?}");
    cluster.stop_node(2);

    let id = new_cluster_id();
    let mut new: Vec<Config> = cluster.configs.iter().map(|old| renewed(old, id)).collect();
    // The new cluster may live elsewhere.
    for (at, address) in free_addresses(3).into_iter().enumerate() {
        new.iter_mut().for_each(|config| config.members[at].address = address);
    }
    repair(&cluster.configs[1], &new[1]);
    let second = start(&new[1]);
    commit(&second.handle(), "repaired");
    for node in [0, 2] {
        Node::init_replacement(&new[node]).unwrap();
    }
    let others = [start(&new[0]), start(&new[2])];
    add_vote(&second.handle(), 1);
    add_vote(&second.handle(), 3);
    let mut expected: Vec<String> = (1..=20).map(|sequence| sequence.to_string()).collect();
    expected.push("repaired".into());
    for node in &others {
        assert_eq!(log(&node.handle(), 21), expected);
    }
    // The repaired one is needed no more.
    second.shutdown();
    let leader = others[0].handle().wait_leader(1, PATIENCE).expect("two of three elect a leader");
    commit(&others[usize::from(leader == 3)].handle(), "without it");
    expected.push("without it".into());
    for node in &others {
        assert_eq!(log(&node.handle(), 22), expected);
    }
}

/// What was made at run time goes on as well, and more can be made: a repair is of the directories, too. A group that was
/// being dropped is dropped.
#[test]
fn groups_made_at_run_time_are_repaired_and_more_can_be_made() {
    const MADE: GroupId = 5;
    let mut cluster = Cluster::start(3, |config| {
        (config.shards, config.groups, config.pin) = (2, 2, Some(false));
    });
    let all: Vec<Handle> = (1..=3).map(|node| cluster.node(node)).collect();
    for group in [MADE, 7] {
        orders::create(&all, group).expect("it may be made");
    }
    orders::place(&all, MADE, 0).expect("it may be there");
    wait_until("it does not move", || all.iter().all(|node| node.shard_of(MADE) == 0 && node.info(MADE).is_some()));
    cluster.commit(MADE, 1, 1, &Entries::one(b"made").unwrap());
    wait_until("node 2 lacks it", || all[1].info(MADE).is_some_and(|info| info.next_index == 2));
    // Without the others it cannot end.
    cluster.stop_node(1);
    cluster.stop_node(3);
    let left = [cluster.node(2)];
    let _ = left[0].drop_group(7, Duration::from_millis(100)).wait();
    cluster.stop_node(2);

    let new: Vec<Config> = cluster.configs.iter().map(|old| renewed(old, new_cluster_id())).collect();
    let new: Vec<Config> =
        new.iter().map(|config| Config { cluster: new[0].cluster.clone(), ..config.clone() }).collect();
    repair(&cluster.configs[1], &new[1]);
    let second = start(&new[1]);
    let handle = second.handle();
    commit_in(&handle, MADE, "repaired");
    assert_eq!(log_of(&handle, MADE, 2), ["made", "repaired"]);
    wait_until("it is not where it was placed", || handle.shard_of(MADE) == 0 && handle.info(MADE).is_some());
    orders::create(std::slice::from_ref(&handle), 9).expect("it may be made");
    // Whether the order to drop it was given in time or not.
    wait_until("it is not dropped", || {
        let _ = handle.drop_group(7, PATIENCE).wait();
        handle.made_groups().is_ok_and(|groups| groups.iter().map(|made| made.group).eq([MADE, 9]))
    });
    // A node that comes in has them all, and may vote.
    Node::init_replacement(&new[2]).unwrap();
    let third = start(&new[2]);
    let other = third.handle();
    for group in [MADE, 9, directory_group(1)] {
        wait_until("it does not lead", || handle.info(group).is_some_and(|info| info.epoch > 0));
        add_vote_in(&handle, group, 3);
        assert_eq!(handle.membership(group).unwrap().voters, [2, 3]);
    }
    assert_eq!(log_of(&other, MADE, 2), ["made", "repaired"]);
    assert!(other.info(7).is_none());
    orders::create(&[handle.clone(), other.clone()], 11).expect("it may be made");
    wait_until("it is not everywhere", || other.info(11).is_some());
}
