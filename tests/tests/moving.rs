//! Real nodes whose groups move between shards under load, through kills and restarts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use synod::{Entries, Event, GroupError, Handle};
use synod_sim::sums::Sums;
use synod_sim::{Cluster, orders, wait_until};

const GROUP: u64 = 2;

/// Has the group placed.
fn place(cluster: &Cluster, shard: usize) {
    orders::place(&cluster.handles(), GROUP, shard).expect("it may be there");
}

fn wait_placed(cluster: &Cluster, nodes: &[u64], shard: usize) {
    wait_group_placed(cluster, GROUP, nodes, shard);
}

fn wait_group_placed(cluster: &Cluster, group: u64, nodes: &[u64], shard: usize) {
    wait_until("the group is not where it should be", || {
        nodes.iter().all(|node| {
            let handle = cluster.node(*node);
            handle.shard_of(group) == shard && handle.info(group).is_some()
        })
    });
}

fn start() -> Cluster {
    Cluster::start(3, |config| {
        (config.shards, config.groups, config.pin) = (2, 4, Some(false));
        (config.segment_mib, config.retain_mib, config.wal_mib_max) = (4, 64, 256);
    })
}

fn commit(cluster: &Cluster, sequence: u64) {
    commit_in(cluster, GROUP, sequence);
}

fn commit_in(cluster: &Cluster, group: u64, sequence: u64) {
    let entry = sequence.to_le_bytes().repeat(500);
    cluster.commit(group, 1, sequence, &Entries::one(&entry).expect("it is small"));
}

/// What a node has of the group, from the first entry on.
fn log(cluster: &Cluster, node: u64, up_to: u64) -> Vec<Vec<u8>> {
    cluster.log(node, GROUP, up_to)
}

#[test]
fn a_group_moves_under_load_with_all_that_its_log_holds() {
    let mut cluster = start();
    for sequence in 1..=300 {
        commit(&cluster, sequence);
    }
    assert!((1..=3).all(|node| cluster.node(node).shard_of(GROUP) == 0), "it is at home");
    let mut sequence = 300;
    for (to, entries) in [(1, 100), (0, 50), (1, 20)] {
        let (done, written) = (AtomicBool::new(false), AtomicU64::new(sequence));
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    commit(&cluster, written.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
            place(&cluster, to);
            wait_placed(&cluster, &[1, 2, 3], to);
            done.store(true, Ordering::Relaxed);
            load.join().expect("all is committed");
        });
        sequence = written.load(Ordering::Relaxed);
        for _ in 0..entries {
            sequence += 1;
            commit(&cluster, sequence);
        }
        let logs: Vec<_> = (1..=3).map(|node| log(&cluster, node, sequence)).collect();
        for (entry, number) in logs[0].iter().zip(1u64..) {
            assert_eq!(entry[..8], number.to_le_bytes(), "the entries are in order, each once");
        }
        assert!(logs[0].len() as u64 == sequence && logs.iter().all(|log| *log == logs[0]), "all nodes have the same");
    }
    // It is where it was behind a restart of each node, with its log.
    for node in 1..=3 {
        cluster.stop_node(node);
        cluster.start_node(node);
        assert_eq!(cluster.node(node).shard_of(GROUP), 1);
        sequence += 1;
        commit(&cluster, sequence);
    }
    let logs: Vec<_> = (1..=3).map(|node| log(&cluster, node, sequence)).collect();
    assert!(logs[0].len() as u64 == sequence && logs.iter().all(|log| *log == logs[0]));
    // Another number of shards brings it home, and back again it is placed as before.
    for (shards, at) in [(3, 2), (2, 1)] {
        (1..=3).for_each(|node| cluster.stop_node(node));
        cluster.configs.iter_mut().for_each(|config| config.shards = shards);
        (1..=3).for_each(|node| cluster.start_node(node));
        wait_placed(&cluster, &[1, 2, 3], at);
        sequence += 1;
        commit(&cluster, sequence);
        assert_eq!(log(&cluster, 1, sequence).len() as u64, sequence);
    }
}

#[test]
fn a_state_machine_moves_with_its_group_and_who_was_away_follows() {
    let mut cluster = start();
    let sums = Sums::with_filling(100 << 10);
    (1..=3).for_each(|node| cluster.stop_node(node));
    (1..=3).for_each(|node| cluster.start_summing(node, &sums));
    let mut sequence = 0;
    let mut write = |cluster: &Cluster, entries: u64| {
        for _ in 0..entries {
            sequence += 1;
            commit(cluster, sequence);
        }
        sequence
    };
    let converge = |count: u64, nodes: &[u64]| {
        wait_until("the machines differ", || {
            let states: Vec<_> = nodes.iter().map(|node| sums.of(*node, GROUP)).collect();
            states.iter().all(|state| *state == states[0] && state.is_some_and(|(entries, _)| entries == count))
        });
    };
    let count = write(&cluster, 50);
    cluster.node(1).checkpoint(GROUP).wait().expect("a machine in memory takes checkpoints");
    converge(count, &[1, 2, 3]);
    // One is away while the others move.
    cluster.stop_node(3);
    sums.forget(3);
    place(&cluster, 1);
    wait_placed(&cluster, &[1, 2], 1);
    let count = write(&cluster, 20);
    converge(count, &[1, 2]);
    cluster.start_summing(3, &sums);
    wait_placed(&cluster, &[3], 1);
    let count = write(&cluster, 1);
    converge(count, &[1, 2, 3]);
    // In memory there is nothing left: the checkpoint has come along, and the log behind it.
    for node in 1..=3 {
        cluster.stop_node(node);
        sums.forget(node);
        cluster.start_summing(node, &sums);
        let count = write(&cluster, 1);
        converge(count, &[1, 2, 3]);
    }
}

/// A group made at run time moves as any other, ends where it is, and leaves its number to another, which begins at home.
#[test]
fn a_group_made_at_run_time_moves_and_ends_where_it_is() {
    const MADE: u64 = 9;
    let mut cluster = start();
    let log = |cluster: &Cluster, node, up_to| cluster.log(node, MADE, up_to);
    let first = orders::create(&cluster.handles(), MADE).expect("it may be made");
    wait_group_placed(&cluster, MADE, &[1, 2, 3], 1);
    let mut sequence = 0;
    let mut write = |cluster: &Cluster, entries: u64| {
        for _ in 0..entries {
            sequence += 1;
            commit_in(cluster, MADE, sequence);
        }
        sequence
    };
    write(&cluster, 100);
    orders::place(&cluster.handles(), MADE, 0).expect("it may be there");
    wait_group_placed(&cluster, MADE, &[1, 2, 3], 0);
    write(&cluster, 20);
    // It is a guest behind a restart, and goes home while one is away, which follows.
    for node in 1..=3 {
        cluster.stop_node(node);
        cluster.start_node(node);
        assert_eq!(cluster.node(node).shard_of(MADE), 0);
        write(&cluster, 1);
    }
    cluster.stop_node(3);
    orders::place(&cluster.handles(), MADE, 1).expect("it may be there");
    wait_group_placed(&cluster, MADE, &[1, 2], 1);
    write(&cluster, 10);
    cluster.start_node(3);
    wait_group_placed(&cluster, MADE, &[3], 1);
    orders::place(&cluster.handles(), MADE, 0).expect("it may be there");
    wait_group_placed(&cluster, MADE, &[1, 2, 3], 0);
    let count = write(&cluster, 1);
    let logs: Vec<_> = (1..=3).map(|node| log(&cluster, node, count)).collect();
    assert!(logs[0].len() as u64 == count && logs.iter().all(|log| *log == logs[0]), "all nodes have the same");
    // Another number of shards brings it home, and back again it is placed as before.
    for (shards, at) in [(3, 1), (2, 0)] {
        (1..=3).for_each(|node| cluster.stop_node(node));
        cluster.configs.iter_mut().for_each(|config| (config.shards, config.first_shards) = (shards, Some(2)));
        (1..=3).for_each(|node| cluster.start_node(node));
        wait_group_placed(&cluster, MADE, &[1, 2, 3], at);
        let count = write(&cluster, 1);
        assert_eq!(log(&cluster, 1, count).len() as u64, count);
    }
    // It ends as a guest, also on a node that was away, and what comes after it is another group.
    cluster.stop_node(3);
    let gone = |cluster: &Cluster, nodes: &[u64]| {
        wait_until("the group is still there", || nodes.iter().all(|node| cluster.node(*node).info(MADE).is_none()));
    };
    assert_eq!(cluster.node(1).made_groups(), Ok(vec![first]));
    orders::drop_group(&cluster.handles(), MADE).expect("it may be dropped");
    gone(&cluster, &[1, 2]);
    let second = orders::create(&cluster.handles(), MADE).expect("it may be made");
    assert_ne!(second.uid, first.uid);
    wait_group_placed(&cluster, MADE, &[1, 2], 1);
    cluster.start_node(3);
    wait_group_placed(&cluster, MADE, &[3], 1);
    for node in 1..=3 {
        cluster.stop_node(node);
        cluster.start_node(node);
        wait_group_placed(&cluster, MADE, &[node], 1);
    }
    wait_until("nothing is committed", || (1..=3).any(|node| cluster.node(node).propose(MADE, b"new").wait().is_ok()));
    assert!((1..=3).all(|node| log(&cluster, node, 1) == [b"new"]), "nothing is left of the one before");
}

#[test]
fn listeners_hear_of_a_move_and_bad_orders_are_refused() {
    let mut cluster = start();
    cluster.stop_node(1);
    let heard = cluster.start_heard(1, None);
    commit(&cluster, 1);
    let ask = |group: u64, shard: usize| orders::place(&cluster.handles(), group, shard);
    assert_eq!(ask(GROUP, 2), Err(GroupError::NoSuchShard { shard: 2, shards: 2 }));
    assert_eq!(ask(9, 1), Err(GroupError::UnknownGroup(9)));
    assert_eq!(ask(0, 1), Err(GroupError::BadNumber(0)));
    let handle: Handle = cluster.node(1);
    assert_eq!(handle.shard_of(GROUP), 0);
    ask(GROUP, 1).expect("it may be there");
    heard.wait(1, |event| *event == Event::GroupMoved { group: GROUP, shard: 1 });
    assert_eq!(handle.shard_of(GROUP), 1);
}
