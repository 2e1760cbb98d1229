//! Real nodes whose state machines live in memory: their logs are trimmed behind checkpoints, and who was away catches up.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use synod::{Config, Entries};
use synod_sim::sums::Sums;
use synod_sim::{Cluster, PATIENCE};

const ENTRY_BYTES: usize = 64 << 10;

/// Some weight, so that a checkpoint does not go in one message.
const CHECKPOINT_BYTES: usize = 3 << 20;

fn small(config: &mut Config) {
    config.segment_mib = 4;
    config.retain_mib = 4;
    config.wal_mib_max = 40;
    config.cache_mib = 4;
    config.preferred_leader = Some(1);
}

struct Summing {
    cluster: Cluster,
    sums: Sums,
    written: u64,
}

impl Summing {
    /// A cluster whose machines take part from the first entry on.
    fn start() -> Self {
        Self::start_with(small)
    }

    fn start_with(configure: impl Fn(&mut Config)) -> Self {
        let cluster = Cluster::start(3, configure);
        let mut this = Self { cluster, sums: Sums::with_filling(CHECKPOINT_BYTES), written: 0 };
        (1..=3).for_each(|node| this.cluster.stop_node(node));
        (1..=3).for_each(|node| this.start_node(node));
        this
    }

    fn start_node(&mut self, node: u64) {
        self.cluster.start_summing(node, &self.sums);
    }

    fn stop_node(&mut self, node: u64) {
        self.cluster.stop_node(node);
        self.sums.forget(node);
    }

    fn write(&mut self, entries: u64) {
        for _ in 0..entries {
            self.written += 1;
            let entry = vec![self.written as u8; ENTRY_BYTES];
            self.cluster.commit(1, 1, self.written, &Entries::one(&entry).expect("it is below the limit"));
        }
    }

    /// Waits until these nodes have equal states with all entries.
    fn converge(&self, nodes: &[u64]) {
        let end = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = nodes.iter().map(|node| self.sums.of(*node, 1)).collect();
            if all.iter().all(|state| *state == all[0] && state.is_some_and(|(count, _)| count == self.written)) {
                return;
            }
            assert!(Instant::now() < end, "{} entries were written, the nodes have {all:?}", self.written);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn files(&self, node: u64, what: &str) -> Vec<PathBuf> {
        let shard = self.cluster.configs[node as usize - 1].dir.join("shard-0");
        let dir = if what == "seg" { shard } else { shard.join("checkpoints") };
        let files = std::fs::read_dir(dir).expect("the directory").map(|file| file.expect("an entry").path());
        let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|e| e == what)).collect();
        files.sort();
        files
    }
}

#[test]
fn trim_past_slowest_learner() {
    let mut c = Summing::start();
    c.write(10);
    c.converge(&[1, 2, 3]);
    c.stop_node(3);
    // Far more than a log may hold: it is trimmed although a voter is away.
    c.write(1000);
    c.converge(&[1, 2]);
    for node in [1, 2] {
        assert!(c.files(node, "seg").len() <= 14, "{:?}", c.files(node, "seg"));
        assert!((1..=3).contains(&c.files(node, "checkpoint").len()));
        let info = c.cluster.node(node).info(1).expect("the group is there");
        assert!(info.first_index > 11 && info.checkpoint_index >= info.first_index - 1, "{info:?}");
    }
    c.start_node(3);
    c.converge(&[1, 2, 3]);
    assert!(c.cluster.node(3).info(1).expect("the group is there").first_index > 11, "it was given the log");
    // It votes and serves as before.
    c.stop_node(2);
    c.write(5);
    c.converge(&[1, 3]);
    // All come back from their checkpoints and what is behind them.
    c.start_node(2);
    c.converge(&[1, 2, 3]);
    (1..=3).for_each(|node| c.stop_node(node));
    (1..=3).for_each(|node| c.start_node(node));
    c.write(1);
    c.converge(&[1, 2, 3]);
}

/// A checkpoint was fetched and is durable, and the node ended before its log said so.
#[test]
fn a_checkpoint_before_its_record_in_the_log_is_taken_over_at_the_start() {
    let mut c = Summing::start();
    c.write(10);
    c.converge(&[1, 2, 3]);
    c.stop_node(3);
    c.write(1000);
    c.cluster.node(1).checkpoint(1).wait().expect("a checkpoint");
    let newest = c.files(1, "checkpoint").pop().expect("there is one");
    let to = c.cluster.configs[2].dir.join("shard-0/checkpoints").join(newest.file_name().expect("a name"));
    std::fs::copy(&newest, to).expect("it is copied");
    c.start_node(3);
    c.converge(&[1, 2, 3]);
    c.stop_node(2);
    c.write(5);
    c.converge(&[1, 3]);
}

#[test]
fn a_pinned_log_stays_until_it_is_unpinned() {
    let mut c = Summing::start();
    c.write(10);
    let handle = c.cluster.node(1);
    handle.pin(1, "a slow reader", 5, Duration::from_secs(600)).expect("it is there");
    c.write(300);
    let info = handle.info(1).expect("the group is there");
    assert!(info.first_index <= 5 && info.pins == 1 && info.pinned_index == 5 && info.pin_seconds > 0, "{info:?}");
    assert!(handle.read(1, 5, Duration::ZERO).wait().is_ok());
    handle.unpin(1, "a slow reader").expect("the node runs");
    c.write(300);
    let end = Instant::now() + PATIENCE;
    while handle.info(1).expect("the group is there").first_index <= 5 {
        assert!(Instant::now() < end, "nothing is trimmed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = handle.pin(1, "too late", 5, Duration::from_secs(1)).expect_err("it is gone");
    assert!(refused.contains("trimmed"), "{refused}");
}

#[test]
fn a_log_is_trimmed_on_demand_and_never_past_a_pinned_reader() {
    let mut c = Summing::start_with(|config| {
        small(config);
        (config.retain_mib, config.wal_mib_max) = (512, 1024);
    });
    c.write(600);
    let handle = c.cluster.node(1);
    let first_index = || handle.info(1).expect("the group is there").first_index;
    assert_eq!(first_index(), 1, "nothing is trimmed below the budget");
    handle.pin(1, "a reader", 250, Duration::from_secs(600)).expect("it is there");
    let past = handle.trim(1, 300, PATIENCE).wait().expect_err("a reader needs it");
    assert!(past.contains("a reader") && past.contains("250"), "{past}");
    let first = handle.trim(1, 250, PATIENCE).wait().expect("nobody needs what is before");
    assert!(first > 1 && first <= 250 && first_index() == first, "it begins at {first}");
    // Its pin has gone with the process, and what it needs is there.
    c.stop_node(1);
    c.start_node(1);
    let handle = c.cluster.node(1);
    let first_index = || handle.info(1).expect("the group is there").first_index;
    handle.pin(1, "a reader", 250, Duration::from_secs(600)).expect("it is there still");
    assert!(handle.read(1, 250, Duration::ZERO).wait().is_ok());
    c.converge(&[1, 2, 3]);
    handle.unpin(1, "a reader").expect("the node runs");
    let behind = handle.trim(1, 602, PATIENCE).wait().expect_err("it ends before");
    assert!(behind.contains("ends"), "{behind}");
    handle.pause_trimming(1, true).expect("the node runs");
    let paused = handle.trim(1, 500, PATIENCE).wait().expect_err("trimming is paused");
    assert!(paused.contains("paused"), "{paused}");
    handle.pause_trimming(1, false).expect("the node runs");
    let last = handle.trim(1, 601, PATIENCE).wait().expect("there are checkpoints");
    assert!(last > first && last <= 601 && first_index() == last, "it begins at {last}");
    assert!(handle.trim(9, 1, PATIENCE).wait().expect_err("there is none").contains("no group 9"));
    // What is gone is not needed: all come back and go on.
    (1..=3).for_each(|node| c.stop_node(node));
    (1..=3).for_each(|node| c.start_node(node));
    c.write(5);
    c.converge(&[1, 2, 3]);
}

/// All of a node's checkpoints rot while it is down: it gets one from the others.
#[test]
fn a_node_whose_checkpoints_are_damaged_is_given_one() {
    let mut c = Summing::start();
    c.write(600);
    c.converge(&[1, 2, 3]);
    c.cluster.node(3).checkpoint(1).wait().expect("a checkpoint");
    c.write(600);
    c.converge(&[1, 2, 3]);
    c.stop_node(3);
    for file in c.files(3, "checkpoint") {
        let mut bytes = std::fs::read(&file).expect("it can be read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).expect("it can be written");
    }
    c.start_node(3);
    c.converge(&[1, 2, 3]);
}

/// Without a state machine a log is all that its readers have: whoever was away gets it from a node that still has it,
/// though the leader has trimmed it.
#[test]
fn who_was_away_gets_the_log_from_whoever_still_has_it() {
    let mut cluster = Cluster::start(3, |config| {
        config.groups = 1;
        small(config);
        if config.node != 1 {
            (config.retain_mib, config.wal_mib_max) = (512, 1024);
        }
    });
    let entry = |n: u64| vec![n as u8; ENTRY_BYTES];
    let write = |cluster: &Cluster, all: std::ops::RangeInclusive<u64>| {
        all.for_each(|n| cluster.commit(1, 1, n, &Entries::one(&entry(n)).expect("it is below the limit")));
    };
    write(&cluster, 1..=5);
    cluster.stop_node(3);
    write(&cluster, 6..=400);
    let first_index = |cluster: &Cluster, node| cluster.node(node).info(1).expect("the group is there").first_index;
    assert!(first_index(&cluster, 1) > 6, "the leader has trimmed what the other lacks");
    cluster.start_node(3);
    let log = cluster.log(3, 1, 400);
    assert!(log.into_iter().eq((1..=400).map(entry)));
    assert_eq!(first_index(&cluster, 3), 1);
}
