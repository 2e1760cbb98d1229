//! Another number of shards: a whole cluster is started with it, on real nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use synod::{Config, Entries, Node, Options};
use synod_sim::sums::{Sums, sum_with};
use synod_sim::{Cluster, PATIENCE, orders, wait_until};

/// A cluster, and what was committed in its groups.
struct Written {
    cluster: Cluster,
    logs: HashMap<u64, Vec<Vec<u8>>>,
}

impl Written {
    fn start(shards: usize) -> Self {
        let cluster = Cluster::start(3, |c| (c.groups, c.shards, c.pin) = (4, shards, Some(false)));
        let logs = (1..=4).map(|group| (group, Vec::new())).collect();
        Self { cluster, logs }
    }

    /// Commits an entry in every group, in the session that it began with.
    fn write(&mut self, text: &str) {
        for (group, log) in &mut self.logs {
            let entry = format!("{text} in {group}").into_bytes();
            log.push(entry.clone());
            self.cluster.commit(*group, 1, log.len() as u64, &Entries::one(&entry).unwrap());
            // It was committed, and is known as such in whatever shard.
            self.cluster.commit(*group, 1, log.len() as u64, &Entries::one(b"a second time").unwrap());
        }
    }

    fn make(&mut self, group: u64) {
        orders::create(&self.cluster.handles(), group).expect("it may be made");
        self.logs.insert(group, Vec::new());
    }

    fn drop_group(&mut self, group: u64) {
        orders::drop_group(&self.cluster.handles(), group).expect("it may be dropped");
        self.logs.remove(&group);
    }

    fn set_shards(&mut self, nodes: &[u64], shards: usize) {
        for node in nodes {
            self.cluster.configs[*node as usize - 1].shards = shards;
        }
    }

    fn restart(&mut self, shards: usize) {
        (1..=3).for_each(|node| self.cluster.stop_node(node));
        self.set_shards(&[1, 2, 3], shards);
        (1..=3).for_each(|node| self.cluster.start_node(node));
    }

    /// All running nodes hold just what was committed, with the same voters as at the beginning.
    fn check(&self) {
        for node in self.cluster.nodes.iter().flatten().map(|node| node.handle().node()) {
            for (group, log) in &self.logs {
                assert_eq!(self.cluster.log(node, *group, log.len() as u64), *log, "group {group} on node {node}");
                let membership = self.cluster.node(node).membership(*group).expect("the group is there");
                assert_eq!((membership.version, membership.voters.len()), (0, 3), "nobody had to be given a vote");
            }
        }
    }
}

#[test]
fn a_cluster_goes_on_with_another_number_of_shards() {
    let mut all = Written::start(2);
    for group in 7..=10 {
        all.make(group);
    }
    all.write("two shards");
    all.drop_group(9);
    let uids = |all: &Written| -> Vec<(u64, u128)> {
        let mut made = all.cluster.node(1).made_groups().unwrap();
        made.sort_by_key(|made| made.group);
        made.into_iter().map(|made| (made.group, made.uid)).collect()
    };
    let wait_for_three = |all: &Written| wait_until("three groups made are left", || uids(all).len() == 3);
    wait_for_three(&all);
    let made = uids(&all);
    for shards in [1, 3, 4, 2] {
        all.restart(shards);
        wait_for_three(&all);
        assert_eq!(uids(&all), made);
        all.check();
        all.write(&format!("{shards} shards"));
        // Groups still come and go.
        let group = 20 + shards as u64;
        all.make(group);
        all.write("more");
        all.check();
        all.drop_group(group);
        wait_for_three(&all);
    }
    // Each node is needed: it votes as the replica that it always was.
    all.cluster.stop_node(3);
    all.write("without the third");
    all.cluster.start_node(3);
    all.cluster.stop_node(1);
    all.write("without the first");
    all.check();
}

/// One node after the other: those of one number make a quorum, and no vote is lost on the way.
#[test]
fn nodes_are_given_another_number_one_after_the_other() {
    let mut all = Written::start(1);
    all.write("all with one");
    all.cluster.stop_node(1);
    all.write("the first is stopped");
    all.set_shards(&[1], 3);
    all.cluster.start_node(1);
    all.write("the first is on its own");
    all.cluster.stop_node(2);
    // Neither is a quorum now.
    for node in [1, 3] {
        assert!(all.cluster.node(node).propose(1, b"alone").wait().is_err());
    }
    all.set_shards(&[2], 3);
    all.cluster.start_node(2);
    all.write("two with three, and one with one");
    all.cluster.stop_node(3);
    all.set_shards(&[3], 3);
    all.cluster.start_node(3);
    all.cluster.stop_node(2);
    all.write("all with three");
    all.cluster.start_node(2);
    all.check();
}

/// A log that must not be voted with is begun anew, also when its groups come from several logs of before; and a node that
/// lost its directory is replaced.
#[test]
fn damaged_and_lost_logs_come_back_in_another_number_of_shards() {
    let mut all = Written::start(2);
    all.make(7);
    all.make(8);
    all.write("two shards");
    all.restart(1);
    all.write("one shard");
    all.cluster.stop_node(3);
    let dir = all.cluster.configs[2].dir.clone();
    std::fs::write(dir.join("era-1/shard-0.suspect"), "as if a peer had seen more").unwrap();
    all.cluster.start_node(3);
    let version = |all: &Written, group: u64| all.cluster.node(1).membership(group).unwrap().version;
    let groups: Vec<u64> = all.logs.keys().copied().collect();
    all.write("the third is begun anew");
    for group in &groups {
        wait_until(&format!("node 3 is given a vote in group {group}"), || version(&all, *group) == 1);
    }
    // Its replicas are others now, wherever they are.
    all.restart(3);
    all.write("three shards");
    all.cluster.stop_node(2);
    all.write("with the vote of the third");
    all.cluster.start_node(2);

    all.cluster.stop_node(1);
    std::fs::remove_dir_all(&all.cluster.configs[0].dir).unwrap();
    Node::init_replacement(&all.cluster.configs[0]).unwrap();
    let started = Node::start(all.cluster.configs[0].clone(), Options::default()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let info = started.handle().info(1).expect("the group is there");
    assert_eq!(info.chosen_slot, 0, "it says that the cluster began with three shards, and is let in nowhere");
    started.shutdown();
    std::fs::remove_dir_all(&all.cluster.configs[0].dir).unwrap();
    all.cluster.configs[0].first_shards = Some(2);
    Node::init_replacement(&all.cluster.configs[0]).unwrap();
    all.cluster.start_node(1);
    let version = |all: &Written, group: u64| all.cluster.node(2).membership(group).unwrap().version;
    all.write("the first is replaced");
    for group in &groups {
        wait_until(&format!("node 1 is given a vote in group {group}"), || version(&all, *group) == 2);
    }
    all.cluster.stop_node(3);
    all.write("with the vote of the first");
    all.cluster.start_node(3);
    for node in 1..=3 {
        for (group, log) in &all.logs {
            assert_eq!(all.cluster.log(node, *group, log.len() as u64), *log, "group {group} on node {node}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_by_name_and_changes_nothing() {
    let mut all = Written::start(2);
    all.write("two shards");
    all.cluster.stop_node(1);
    let config = all.cluster.configs[0].clone();
    let refused = |config: Config| match Node::start(config, Options::default()) {
        Ok(_) => panic!("it should be refused"),
        Err(error) => error.to_string(),
    };
    let text = refused(Config { first_shards: Some(3), ..config.clone() });
    assert!(text.contains("`first_shards = 3`") && text.contains("began with 2"), "{text}");
    std::fs::write(config.dir.join("shard-1.suspect"), "it lost votes").unwrap();
    let text = refused(Config { shards: 4, ..config.clone() });
    assert!(text.contains("it lost votes") && text.contains("`shards = 2` first"), "{text}");
    std::fs::remove_file(config.dir.join("shard-1.suspect")).unwrap();
    all.cluster.start_node(1);
    all.write("as before");
    all.check();
}

/// Machines in memory come back from checkpoints, behind which the log was trimmed before the number was changed.
#[test]
fn checkpoints_and_trimmed_logs_come_along() {
    let small = |c: &mut Config| {
        (c.groups, c.shards, c.pin) = (2, 2, Some(false));
        (c.segment_mib, c.retain_mib, c.wal_mib_max, c.cache_mib) = (4, 4, 40, 4);
    };
    let mut cluster = Cluster::start(3, small);
    let sums = Sums::default();
    let restart = |cluster: &mut Cluster, shards: usize| {
        (1..=3).for_each(|node| cluster.stop_node(node));
        for node in 1..=3 {
            sums.forget(node);
            cluster.configs[node as usize - 1].shards = shards;
            cluster.start_summing(node, &sums);
        }
    };
    restart(&mut cluster, 2);
    let mut expected = [(0, 0); 2];
    let mut sequence = 0;
    let mut write = |cluster: &Cluster, entries: u64| {
        for _ in 0..entries {
            sequence += 1;
            for group in [1, 2] {
                let entry = vec![sequence as u8; 64 << 10];
                cluster.commit(group, 1, sequence, &Entries::one(&entry).unwrap());
                let sum = &mut expected[group as usize - 1];
                *sum = sum_with(*sum, &entry);
            }
        }
        for (node, group) in (1..=3).flat_map(|node| [(node, 1), (node, 2)]) {
            wait_until(&format!("the machine of group {group} on node {node} has everything"), || {
                sums.of(node, group) == Some(expected[group as usize - 1])
            });
        }
    };
    write(&cluster, 300);
    let first = |cluster: &Cluster, group: u64| cluster.node(2).info(group).expect("it is there").first_index;
    assert!(first(&cluster, 1) > 1 && first(&cluster, 2) > 1, "the logs were trimmed");
    for shards in [1, 2] {
        restart(&mut cluster, shards);
        assert!(first(&cluster, 1) > 1 && first(&cluster, 2) > 1);
        write(&cluster, 100);
    }
    // The logs of another number can be trimmed as any others.
    let before = first(&cluster, 1);
    write(&cluster, 300);
    assert!(first(&cluster, 1) > before);
}

/// A log is put back as it was earlier, and copied. Those who have seen newer votes of it remember, although the votes rest
/// on another log now.
#[test]
fn votes_that_were_lost_before_the_copy_are_noticed() {
    let mut all = Written::start(2);
    all.write("early");
    all.cluster.stop_node(3);
    let dir = all.cluster.configs[2].dir.clone();
    let copy = all.cluster.dir().join("copy");
    let copy_all = |from: &std::path::Path, to: &std::path::Path| {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    };
    copy_all(&dir.join("shard-1"), &copy);
    all.cluster.start_node(3);
    for round in 0..5 {
        all.write(&format!("late {round}"));
    }
    // Its votes are seen by the others.
    all.check();
    all.cluster.stop_node(3);
    copy_all(&copy, &dir.join("shard-1"));
    // Alone in one shard, it meets nobody.
    all.set_shards(&[3], 1);
    all.cluster.start_node(3);
    all.cluster.stop_node(3);
    all.set_shards(&[3], 2);
    let (tell, told) = std::sync::mpsc::channel();
    let on_fatal = Arc::new(move |reason: &str| drop(tell.send(reason.to_owned())));
    let options = Options { on_fatal: Some(on_fatal), ..Options::default() };
    let node = Node::start(all.cluster.configs[2].clone(), options).unwrap();
    let reason = told.recv_timeout(PATIENCE).expect("a peer says what it has seen");
    assert!(reason.contains("shard 1") && reason.contains("this log was copied from one that ended with"), "{reason}");
    node.shutdown();
    all.write("meanwhile");
    // At the next start its replicas are new ones, and get their votes back; those of the other log never lost theirs.
    all.cluster.start_node(3);
    for group in 1..=4 {
        let version = u64::from(group % 2 == 1);
        wait_until(&format!("node 3 votes in group {group}"), || {
            all.cluster.node(1).membership(group).unwrap().version == version
        });
    }
    all.cluster.stop_node(2);
    all.write("with the vote of the third");
    all.cluster.start_node(2);
    for node in 1..=3 {
        for (group, log) in &all.logs {
            assert_eq!(all.cluster.log(node, *group, log.len() as u64), *log, "group {group} on node {node}");
        }
    }
}
