//! Groups that are made and dropped while the cluster runs, on real nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use synod::{
    CommittedBatch, Entries, GroupError, MachineError, MachineFactory, MadeGroup, Node, Options, ProposeError,
    ReadError, Rejection, StateMachine,
};
use synod_sim::orders::{create, drop_group};
use synod_sim::{Cluster, PATIENCE, wait_until};

/// Commits an entry exactly once, whoever leads.
fn commit(cluster: &Cluster, group: u64, entry: &[u8]) {
    let end = Instant::now() + PATIENCE;
    let session = open(cluster, group);
    loop {
        let entries = Entries::one(entry).unwrap();
        match cluster.leader(group).propose_in_session(group, session, 1, entries).wait() {
            Ok(_) => return,
            Err(ProposeError::Rejected(_) | ProposeError::Unknown | ProposeError::Superseded) => {
                assert!(Instant::now() < end, "group {group} takes nothing");
            }
            Err(error) => panic!("group {group}: {error}"),
        }
    }
}

/// Opens a session in a group, whoever leads.
fn open(cluster: &Cluster, group: u64) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        match cluster.leader(group).open_session(group).wait() {
            Ok(session) => return session.id(),
            Err(error) => assert!(Instant::now() < end, "group {group} opens no session: {error}"),
        }
    }
}

/// Waits until the nodes that run all have just this group of the name, or none.
fn wait_for(cluster: &Cluster, group: u64, made: Option<MadeGroup>) {
    for node in cluster.nodes.iter().flatten() {
        let handle = node.handle();
        wait_until(
            &format!("node {} of group {group}: {:?}, not {made:?}", handle.node(), handle.made_groups()),
            || {
                let found = handle.made_groups().unwrap().into_iter().find(|made| made.group == group);
                found == made && handle.info(group).is_some() == made.is_some()
            },
        );
    }
}

fn restart_all(cluster: &mut Cluster) {
    let nodes = cluster.nodes.len() as u64;
    (1..=nodes).for_each(|node| cluster.stop_node(node));
    (1..=nodes).for_each(|node| cluster.start_node(node));
}

#[test]
fn groups_come_and_go_and_a_restart_knows_them() {
    let mut cluster = Cluster::start(3, |c| (c.groups, c.shards) = (2, 2));
    // One on each shard.
    let made = [create(&cluster.handles(), 7).unwrap(), create(&cluster.handles(), 8).unwrap()];
    assert_ne!(made[0].uid, made[1].uid);
    for made in made {
        commit(&cluster, made.group, b"one");
        wait_for(&cluster, made.group, Some(made));
    }
    restart_all(&mut cluster);
    for made in made {
        commit(&cluster, made.group, b"two");
        wait_for(&cluster, made.group, Some(made));
        for node in 1..=3 {
            assert_eq!(cluster.log(node, made.group, 2), [b"one".to_vec(), b"two".to_vec()]);
        }
    }
    drop_group(&cluster.handles(), 7).unwrap();
    wait_for(&cluster, 7, None);
    restart_all(&mut cluster);
    wait_for(&cluster, 7, None);
    wait_for(&cluster, 8, Some(made[1]));
    commit(&cluster, 8, b"three");
    commit(&cluster, 1, b"the first ones are there");

    let again = create(&cluster.handles(), 7).unwrap();
    assert!(again.uid != made[0].uid, "a uid is never used again");
    commit(&cluster, 7, b"new");
    restart_all(&mut cluster);
    wait_for(&cluster, 7, Some(again));
    for node in 1..=3 {
        assert_eq!(cluster.log(node, 7, 1), [b"new".to_vec()]);
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let cluster = Cluster::start(3, |c| c.groups = 2);
    assert_eq!(create(&cluster.handles(), 2), Err(GroupError::Configured(2)));
    assert_eq!(drop_group(&cluster.handles(), 1), Err(GroupError::Configured(1)));
    assert_eq!(create(&cluster.handles(), 0), Err(GroupError::BadNumber(0)));
    assert_eq!(create(&cluster.handles(), 1 << 62), Err(GroupError::BadNumber(1 << 62)));
    assert_eq!(drop_group(&cluster.handles(), 9), Err(GroupError::UnknownGroup(9)));
    create(&cluster.handles(), 9).unwrap();
    assert_eq!(create(&cluster.handles(), 9), Err(GroupError::Exists(9)));
    wait_until("the followers refuse too", || {
        let refusals = (1..=3).map(|node| cluster.node(node).create_group(10, Duration::ZERO).wait());
        refusals
            .into_iter()
            .any(|refusal| matches!(refusal, Err(GroupError::Rejected(Rejection::NotLeader { leader: Some(_) }))))
    });
}

/// Readers and proposers of a group that is dropped are told.
#[test]
fn who_waits_for_a_dropped_group_is_told() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    create(&cluster.handles(), 5).unwrap();
    commit(&cluster, 5, b"one");
    let leader = cluster.leader(5);
    leader.pin(5, "reader", 1, PATIENCE).unwrap();
    let tail = leader.read(5, 2, PATIENCE);
    drop_group(&cluster.handles(), 5).unwrap();
    assert!(matches!(tail.wait(), Err(ReadError::UnknownGroup(5))));
    wait_for(&cluster, 5, None);
    let refused = leader.propose(5, b"late").wait();
    assert_eq!(refused, Err(ProposeError::Rejected(Rejection::UnknownGroup)));
    assert!(leader.pin(5, "reader", 1, PATIENCE).unwrap_err().contains("no group 5"));
}

/// A node that was away while a group was dropped and another of its name was made comes back with the old one's replica,
/// and its votes: it never touches the new group.
#[test]
fn group_id_recreated_zombie() {
    let mut cluster = Cluster::start(3, |c| c.groups = 1);
    let old = create(&cluster.handles(), 5).unwrap();
    commit(&cluster, 5, b"old one");
    for node in 1..=3 {
        cluster.log(node, 5, 1);
    }
    for away in 1..=3 {
        cluster.stop_node(away);
        drop_group(&cluster.handles(), 5).unwrap();
        let new = create(&cluster.handles(), 5).unwrap();
        assert_ne!(new.uid, old.uid);
        commit(&cluster, 5, format!("new one {away}").as_bytes());
        cluster.start_node(away);
        wait_for(&cluster, 5, Some(new));
        commit(&cluster, 5, b"with all");
        for node in 1..=3 {
            assert_eq!(cluster.log(node, 5, 2), [format!("new one {away}").into_bytes(), b"with all".to_vec()]);
        }
    }
}

/// The sessions of a dropped group are none of the group that has its number now.
#[test]
fn a_session_of_a_dropped_group_is_unknown_in_the_next() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    let append = |session: u64, sequence: u64, entry: &[u8]| {
        let end = Instant::now() + PATIENCE;
        loop {
            let entries = Entries::one(entry).unwrap();
            match cluster.leader(5).propose_in_session(5, session, sequence, entries).wait() {
                Err(ProposeError::Rejected(_) | ProposeError::Unknown | ProposeError::Superseded) => {
                    assert!(Instant::now() < end, "nobody takes it");
                }
                outcome => return outcome,
            }
        }
    };
    create(&cluster.handles(), 5).unwrap();
    let old = open(&cluster, 5);
    append(old, 1, b"old").unwrap();
    drop_group(&cluster.handles(), 5).unwrap();
    create(&cluster.handles(), 5).unwrap();
    wait_until("a node still has the old group", || {
        let uids: Vec<_> = (1..=3).map(|node| cluster.node(node).made_groups().unwrap()).collect();
        uids.iter().all(|made| made == &uids[0])
    });
    let new = open(&cluster, 5);
    append(new, 1, b"new").unwrap();
    assert_eq!(append(old, 2, b"late"), Err(ProposeError::SessionExpired));
    append(new, 2, b"new again").unwrap();
    assert_eq!(append(new, 2, b"new again").map(|at| at.first_index), Ok(2), "its own is known");
    assert_eq!(cluster.log(1, 5, 2), [b"new".to_vec(), b"new again".to_vec()]);
}

/// A machine that keeps its own data: here in a place that outlives the node.
struct Keeping {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl StateMachine for Keeping {
    fn durable_index(&self) -> u64 {
        self.kept.lock().unwrap().len() as u64
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        self.kept.lock().unwrap().extend(batch.entries.iter().map(<[u8]>::to_vec));
        Ok(())
    }

    fn dropped(&mut self) {
        self.kept.lock().unwrap().clear();
    }
}

/// What machines keep, by node and group.
type Kept = Arc<Mutex<HashMap<(u64, u64), Arc<Mutex<Vec<Vec<u8>>>>>>>;

fn restart_with(cluster: &mut Cluster, kept: &Kept, node: u64) {
    if cluster.nodes[node as usize - 1].is_some() {
        cluster.stop_node(node);
    }
    let kept = Arc::clone(kept);
    let machines: MachineFactory = Arc::new(move |group| {
        let kept = Arc::clone(kept.lock().unwrap().entry((node, group)).or_default());
        Ok(Some(Box::new(Keeping { kept })))
    });
    let options = Options { machines: Some(machines), ..Options::default() };
    let started = Node::start(cluster.configs[node as usize - 1].clone(), options).unwrap();
    cluster.nodes[node as usize - 1] = Some(started);
}

/// The machine of a new group begins with nothing, whatever the one of an earlier group of its number kept: also on a node
/// that was away during the drop.
#[test]
fn a_machine_goes_with_its_group() {
    let mut cluster = Cluster::start(3, |c| c.groups = 1);
    let kept = Kept::default();
    (1..=3).for_each(|node| restart_with(&mut cluster, &kept, node));
    let held = |node: u64| kept.lock().unwrap().get(&(node, 5)).map(|kept| kept.lock().unwrap().clone());
    create(&cluster.handles(), 5).unwrap();
    (0..3).for_each(|n| commit(&cluster, 5, format!("old {n}").as_bytes()));
    wait_until("the machines are not fed", || (1..=3).all(|node| held(node).is_some_and(|held| held.len() == 3)));
    cluster.stop_node(3);
    drop_group(&cluster.handles(), 5).unwrap();
    wait_until("the machines are not told", || (1..=2).all(|node| held(node) == Some(Vec::new())));
    create(&cluster.handles(), 5).unwrap();
    commit(&cluster, 5, b"new");
    restart_with(&mut cluster, &kept, 3);
    let is_new = |node: u64| held(node) == Some(vec![b"new".to_vec()]);
    wait_until("the machines have not just the new entry", || (1..=3).all(is_new));
    (1..=3).for_each(|node| restart_with(&mut cluster, &kept, node));
    commit(&cluster, 5, b"newer");
    let is_newer = |node: u64| held(node) == Some(vec![b"new".to_vec(), b"newer".to_vec()]);
    wait_until("a restart has fed them something else", || (1..=3).all(is_newer));
}

/// A node that was away while groups came and went learns of it.
#[test]
fn a_node_that_was_away_follows() {
    let mut cluster = Cluster::start(3, |c| c.groups = 1);
    let stays = create(&cluster.handles(), 5).unwrap();
    commit(&cluster, 5, b"one");
    cluster.stop_node(3);
    create(&cluster.handles(), 6).unwrap();
    commit(&cluster, 6, b"one");
    drop_group(&cluster.handles(), 6).unwrap();
    let new = create(&cluster.handles(), 7).unwrap();
    commit(&cluster, 7, b"one");
    cluster.start_node(3);
    wait_for(&cluster, 5, Some(stays));
    wait_for(&cluster, 6, None);
    wait_for(&cluster, 7, Some(new));
    // It votes in them.
    cluster.stop_node(1);
    for group in [5, 7] {
        commit(&cluster, group, b"two");
        assert_eq!(cluster.log(3, group, 2), [b"one".to_vec(), b"two".to_vec()]);
    }
}

/// What a dropped group took goes: its records no longer keep segments of the log.
#[test]
fn a_dropped_group_keeps_no_log() {
    let cluster = Cluster::start(3, |c| {
        (c.groups, c.segment_mib, c.retain_mib, c.wal_mib_max) = (1, 4, 4, 64);
    });
    create(&cluster.handles(), 5).unwrap();
    let leader = cluster.leader(5);
    commit(&cluster, 5, b"kept by a reader");
    for node in 1..=3 {
        cluster.log(node, 5, 1);
        cluster.node(node).pin(5, "reader", 1, Duration::from_secs(3600)).unwrap();
    }
    let large = vec![7; 1 << 19];
    // Without the reader's pin this would go round several times.
    (0..40).for_each(|_| commit(&cluster, 5, &large));
    assert_eq!(leader.info(5).unwrap().first_index, 1);
    drop_group(&cluster.handles(), 5).unwrap();
    wait_for(&cluster, 5, None);
    let segments = |node: u64| {
        let files = std::fs::read_dir(cluster.dir().join(format!("node-{node}/shard-0"))).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        names
    };
    let before: Vec<String> = (1..=3).map(|node| segments(node).remove(0)).collect();
    wait_until("the segments of the dropped group stay", || {
        commit(&cluster, 1, &large);
        (1..=3).all(|node| segments(node)[0] > before[node as usize - 1])
    });
}
