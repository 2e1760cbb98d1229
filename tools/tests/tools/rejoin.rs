//! Logs that were damaged or rolled back, and directories that were lost: the replicas come back as new ones, learn what was
//! chosen, and get their votes back from the others.

use std::fs;
use std::path::Path;

use crate::cluster::TestCluster;
use crate::process::{arg, run};

/// Appends lines one by one, so that each has a frame of its own.
fn append_lines(cluster: &TestCluster, group: u64, numbers: std::ops::Range<u64>) -> Vec<u8> {
    let mut all = Vec::new();
    for number in numbers {
        let line = format!("this is the line number {number}\n").into_bytes();
        cluster.append_all(group, &line).success();
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
fn check_votes(cluster: &mut TestCluster, node: u64, other: u64, all: Vec<u8>) {
    check_votes_in(cluster, &[1], (node, other), all);
}

/// The same for the last of these groups, when all of them have to get votes back.
fn check_votes_in(cluster: &mut TestCluster, groups: &[u64], (node, other): (u64, u64), mut all: Vec<u8>) -> Vec<u8> {
    for group in groups {
        cluster.wait_log(node, &format!("another configuration governs group={group} "));
    }
    let group = groups[groups.len() - 1];
    all.extend(append_lines(cluster, group, 100..103));
    cluster.kill(other);
    cluster.wait_leaders();
    all.extend(append_lines(cluster, group, 200..203));
    cluster.serve(other);
    cluster.check_tails(group, &all);
    all
}

#[test]
fn a_damaged_log_comes_back_as_a_new_replica() {
    let mut cluster = TestCluster::start(3, 1, 1);
    let mut all = append_lines(&cluster, 1, 0..10);
    cluster.check_tails(1, &all);
    cluster.stop(3);
    all.extend(append_lines(&cluster, 1, 10..15));
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
    let all = append_lines(&cluster, 1, 0..5);
    cluster.stop(2);
    fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    run(&["init", "--replace", "--config", arg(&cluster.config_file(2))]).success();
    cluster.serve(2);
    check_votes(&mut cluster, 2, 3, all);
}

#[test]
fn a_log_that_ends_before_its_votes_is_found_out_by_the_others() {
    let mut cluster = TestCluster::start(3, 1, 1);
    let mut all = append_lines(&cluster, 1, 0..3);
    cluster.check_tails(1, &all);
    cluster.stop(3);
    let shard = cluster.node_dir(3).join("shard-0");
    let backup = shard.with_extension("backup");
    fs::create_dir(&backup).unwrap();
    for entry in fs::read_dir(&shard).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), backup.join(entry.file_name())).unwrap();
    }
    cluster.serve(3);
    all.extend(append_lines(&cluster, 1, 3..9));
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

/// A group that is at home on shard 1 is on shard 0 of all nodes.
fn with_a_guest(group: u64) -> (TestCluster, Vec<u8>) {
    let mut cluster = TestCluster::start(3, 2, 2);
    let (file, number) = (cluster.cluster_file(), group.to_string());
    let of_group = ["--cluster", arg(&file), "--group", &number];
    if group > 2 {
        run(&[&["group", "create"][..], &of_group].concat()).success();
        cluster.wait_leaders();
    }
    let mut all = append_lines(&cluster, group, 0..10);
    run(&[&["group", "move"][..], &of_group, &["--to-shard", "0"]].concat()).success();
    let arrived = format!("a group has come from another shard group={group} ");
    (1..=3).for_each(|node| cluster.wait_log(node, &arrived));
    cluster.wait_leaders();
    all.extend(append_lines(&cluster, group, 10..15));
    cluster.check_tails(group, &all);
    (cluster, all)
}

/// The log of the shard that it is at home on holds what it was before, and must not count.
fn check_guest_in_a_damaged_log(group: u64) {
    let (mut cluster, all) = with_a_guest(group);
    cluster.stop(3);
    flip(&cluster.node_dir(3).join("shard-0"), b"this is the line number 12\n");
    cluster.serve(3);
    cluster.wait_log(3, "this log must not be voted with again");
    let mut all = check_votes_in(&mut cluster, &[2, group], (3, 2), all);
    // What has begun anew is not missed at the next start.
    cluster.stop(3);
    cluster.serve(3);
    cluster.wait_leaders();
    all.extend(append_lines(&cluster, group, 300..303));
    cluster.check_tails(group, &all);
    let names = fs::read_dir(cluster.node_dir(3)).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name.to_str().unwrap().contains(".damaged-")).count(), 1);
}

#[test]
fn a_guest_in_a_damaged_log_comes_back_as_a_new_replica() {
    check_guest_in_a_damaged_log(1);
}

#[test]
fn a_made_guest_in_a_damaged_log_comes_back_as_a_new_replica() {
    check_guest_in_a_damaged_log(5);
}

/// Both logs: that of the directory which names the group, and that of the shard which has it.
#[test]
fn a_replacement_moves_the_groups_that_the_others_have_moved() {
    for group in [1, 5] {
        let (mut cluster, all) = with_a_guest(group);
        cluster.stop(2);
        fs::remove_dir_all(cluster.node_dir(2)).unwrap();
        run(&["init", "--replace", "--config", arg(&cluster.config_file(2))]).success();
        cluster.serve(2);
        check_votes_in(&mut cluster, &[2, 1, group], (2, 3), all);
    }
}

/// The directory that names a guest begins with nothing. Until it has learned what it was, it says nothing of the guest.
#[test]
fn a_guest_whose_directory_is_damaged_stays() {
    let (mut cluster, mut all) = with_a_guest(5);
    let file = cluster.cluster_file();
    run(&["group", "create", "--cluster", arg(&file), "--group", "7"]).success();
    cluster.wait_leaders();
    let of_seven = append_lines(&cluster, 7, 20..30);
    cluster.check_tails(7, &of_seven);
    cluster.stop(3);
    // Group 7 is in the directory's log.
    flip(&cluster.node_dir(3).join("shard-1"), b"this is the line number 22\n");
    cluster.serve(3);
    cluster.wait_log(3, "this log must not be voted with again");
    for group in [1, 7] {
        cluster.wait_log(3, &format!("another configuration governs group={group} "));
    }
    all.extend(append_lines(&cluster, 5, 30..33));
    cluster.check_tails(5, &all);
    cluster.kill(2);
    cluster.wait_leaders();
    all.extend(append_lines(&cluster, 5, 40..43));
    cluster.serve(2);
    cluster.check_tails(5, &all);
    let dropped = run(&["group", "drop", "--cluster", arg(&file), "--group", "5"]).success();
    assert!(String::from_utf8(dropped).unwrap().ends_with(" is dropped\n"));
    (1..=3).for_each(|node| cluster.wait_log(node, "a group is dropped group=5 "));
}
