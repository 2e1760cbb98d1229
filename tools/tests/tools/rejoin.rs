//! Logs that were damaged or rolled back, and directories that were lost: the replicas come back as new ones, learn what was
//! chosen, and get their votes back from the others.

use std::fs;
use std::path::Path;

use crate::cluster::TestCluster;
use crate::process::{arg, run};

/// Appends lines one by one, so that each has a frame of its own.
fn append_lines(cluster: &TestCluster, numbers: std::ops::Range<u64>) -> Vec<u8> {
    let mut all = Vec::new();
    for number in numbers {
        let line = format!("this is the line number {number}\n").into_bytes();
        cluster.append_all(1, &line).success();
        all.extend(line);
    }
    all
}

/// Flips a bit in the first segment that holds these bytes.
fn flip(shard: &Path, wanted: &[u8]) {
    for entry in fs::read_dir(shard).unwrap().map(Result::unwrap) {
        let mut bytes = fs::read(entry.path()).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            bytes[at] ^= 1;
            fs::write(entry.path(), bytes).unwrap();
            return;
        }
    }
    panic!("{} is in no segment", wanted.escape_ascii());
}

/// The node has its vote back: with it and node 1 alone, all that was appended is there, and more can be.
fn check_votes(cluster: &mut TestCluster, node: u64, other: u64, mut all: Vec<u8>) {
    // The shard's directory is a group of its own, and comes first.
    cluster.wait_log(node, "another configuration governs group=1 ");
    all.extend(append_lines(cluster, 100..103));
    cluster.kill(other);
    cluster.wait_leaders();
    all.extend(append_lines(cluster, 200..203));
    cluster.serve(other);
    cluster.check_tails(1, &all);
}

#[test]
fn a_damaged_log_comes_back_as_a_new_replica() {
    let mut cluster = TestCluster::start(3, 1, 1);
    let mut all = append_lines(&cluster, 0..10);
    cluster.check_tails(1, &all);
    cluster.stop(3);
    all.extend(append_lines(&cluster, 10..15));
    flip(&cluster.node_dir(3).join("shard-0"), b"this is the line number 4\n");
    cluster.serve(3);
    cluster.wait_log(3, "this log must not be voted with again");
    check_votes(&mut cluster, 3, 2, all);
    let aside = fs::read_dir(cluster.node_dir(3)).unwrap().map(|entry| entry.unwrap().file_name());
    let aside = aside.filter(|name| name.to_str().unwrap().starts_with("shard-0.damaged-")).count();
    assert_eq!(aside, 1, "the damaged files are kept");
}

#[test]
fn a_replacement_gets_the_votes_of_the_lost_directory() {
    let mut cluster = TestCluster::start(3, 1, 1);
    let all = append_lines(&cluster, 0..5);
    cluster.stop(2);
    fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    run(&["init", "--replace", "--config", arg(&cluster.config_file(2))]).success();
    cluster.serve(2);
    check_votes(&mut cluster, 2, 3, all);
}

#[test]
fn a_log_that_ends_before_its_votes_is_found_out_by_the_others() {
    let mut cluster = TestCluster::start(3, 1, 1);
    let mut all = append_lines(&cluster, 0..3);
    cluster.check_tails(1, &all);
    cluster.stop(3);
    let shard = cluster.node_dir(3).join("shard-0");
    let backup = shard.with_extension("backup");
    fs::create_dir(&backup).unwrap();
    for entry in fs::read_dir(&shard).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), backup.join(entry.file_name())).unwrap();
    }
    cluster.serve(3);
    all.extend(append_lines(&cluster, 3..9));
    cluster.check_tails(1, &all);
    cluster.stop(3);
    // The log as it was; everything else in the directory is the newest.
    fs::remove_dir_all(&shard).unwrap();
    fs::rename(&backup, &shard).unwrap();
    cluster.serve_until_it_stops(3, "the directory is an older copy");
    cluster.serve(3);
    cluster.wait_log(3, "this log must not be voted with again");
    check_votes(&mut cluster, 3, 2, all);
}

/// Group 1, which is at home on shard 1, is on shard 0 of all nodes.
fn with_a_guest() -> (TestCluster, Vec<u8>) {
    let mut cluster = TestCluster::start(3, 2, 2);
    let mut all = append_lines(&cluster, 0..10);
    let file = cluster.cluster_file();
    run(&["group", "move", "--cluster", arg(&file), "--group", "1", "--to-shard", "0"]).success();
    (1..=3).for_each(|node| cluster.wait_log(node, "a group has come from another shard group=1 "));
    cluster.wait_leaders();
    all.extend(append_lines(&cluster, 10..15));
    cluster.check_tails(1, &all);
    (cluster, all)
}

/// The log of the shard that it is at home on holds what it was before, and must not count.
#[test]
fn a_guest_in_a_damaged_log_comes_back_as_a_new_replica() {
    let (mut cluster, all) = with_a_guest();
    cluster.stop(3);
    flip(&cluster.node_dir(3).join("shard-0"), b"this is the line number 12\n");
    cluster.serve(3);
    cluster.wait_log(3, "this log must not be voted with again");
    check_votes(&mut cluster, 3, 2, all);
}

#[test]
fn a_replacement_moves_the_groups_that_the_others_have_moved() {
    let (mut cluster, all) = with_a_guest();
    cluster.stop(2);
    fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    run(&["init", "--replace", "--config", arg(&cluster.config_file(2))]).success();
    cluster.serve(2);
    check_votes(&mut cluster, 2, 3, all);
}
