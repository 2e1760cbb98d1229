//! Damaged, cut, lost and foreign files of a log: a node that may have lost what it acknowledged, and to which no others can
//! give a new vote, does not start, says which file, where and whose records, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use synod::GroupId;

use crate::cluster::TestCluster;
use crate::process::{arg, check_refused, run};

fn line(group: GroupId, number: u64) -> Vec<u8> {
    format!("group {group} has the line number {number}\n").into_bytes()
}

/// Appends lines to a group one by one, so that each has a frame of its own, and gives all of them.
fn append_lines(cluster: &TestCluster, group: GroupId, numbers: std::ops::Range<u64>) -> Vec<u8> {
    let mut all = Vec::new();
    for number in numbers {
        cluster.append_all(group, &line(group, number)).success();
        all.extend_from_slice(&line(group, number));
    }
    all
}

/// The segment that holds some bytes, all of it, and where they are.
fn find_in_segments(shard: &Path, wanted: &[u8]) -> (PathBuf, Vec<u8>, usize) {
    for path in segments(shard) {
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            return (path, bytes, at);
        }
    }
    panic!("{} is in no segment", wanted.escape_ascii());
}

/// All files of a shard's log, oldest first.
fn segments(shard: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_damaged_segment_is_named() {
    let mut cluster = TestCluster::start(1, 3, 2);
    let one = append_lines(&cluster, 1, 0..10);
    let three = append_lines(&cluster, 3, 0..10);
    append_lines(&cluster, 2, 0..1);
    cluster.stop(1);
    // Groups 1 and 3 share a shard; the bit is one of group 3.
    let (segment, bytes, at) = find_in_segments(&cluster.node_dir(1).join("shard-1"), &line(3, 3));
    let file = cluster.config_file(1);
    let mut flipped = bytes.clone();
    flipped[at] ^= 1;
    fs::write(&segment, &flipped).unwrap();
    // The frame begins at most some pages before its lines.
    let page = at / 4096 * 4096;
    check_refused(&file, &["shard 1", name(&segment), "group 3", &format!("damaged at byte {page}")]);
    assert!(fs::read(&segment).unwrap() == flipped, "nothing was changed");

    // With the bit as it was, nothing is lost.
    fs::write(&segment, &bytes).unwrap();
    cluster.serve(1);
    cluster.wait_leaders();
    cluster.check_tails(1, &one);
    cluster.check_tails(3, &three);

    // By now there is a later segment, which says how far this one went: it must not end before.
    cluster.stop(1);
    fs::write(&segment, &bytes[..at]).unwrap();
    check_refused(&file, &[name(&segment), "cut short", &format!("byte {at}")]);
    fs::write(&segment, &bytes).unwrap();
    cluster.serve(1);
    cluster.wait_leaders();
    cluster.check_tails(3, &three);
}

#[test]
fn the_newest_segment_cut_short_is_named() {
    let mut cluster = TestCluster::start(1, 1, 1);
    let expected = append_lines(&cluster, 1, 0..10);
    // Nothing comes behind it: only its size tells.
    cluster.kill(1);
    let (segment, bytes, at) = find_in_segments(&cluster.node_dir(1).join("shard-0"), &line(1, 4));
    fs::write(&segment, &bytes[..at / 4096 * 4096]).unwrap();
    let file = cluster.config_file(1);
    check_refused(&file, &[name(&segment), "cut short"]);
    fs::write(&segment, &bytes).unwrap();
    cluster.serve(1);
    cluster.wait_leaders();
    cluster.check_tails(1, &expected);
}

/// Runs a node several times, each time with three lines more, so that it has several segments; gives all lines.
fn run_several_times() -> (TestCluster, Vec<u8>) {
    let mut cluster = TestCluster::start(1, 1, 1);
    let mut lines = Vec::new();
    for run in 0..3 {
        lines.extend(append_lines(&cluster, 1, run * 3..run * 3 + 3));
        cluster.kill(1);
        cluster.serve(1);
        cluster.wait_leaders();
    }
    cluster.stop(1);
    (cluster, lines)
}

/// Takes a part of a node's files away: it must not start.
fn check_lost(take: impl FnOnce(&Path), words: &[&str]) {
    let (cluster, _) = run_several_times();
    take(&cluster.node_dir(1));
    check_refused(&cluster.config_file(1), words);
}

#[test]
fn a_directory_whose_files_are_gone_is_no_new_node() {
    let wipe = |dir: &Path| {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
    };
    check_lost(wipe, &["holds no node", "votes are lost"]);
}

#[test]
fn a_segment_missing_in_the_middle_is_named() {
    check_lost(|dir| fs::remove_file(&segments(&dir.join("shard-0"))[1]).unwrap(), &["missing"]);
}

/// That cannot be told from a log that was trimmed: each segment begins with a summary of all before it. So votes, order
/// and checksums are whole, and what is gone is called trimmed; nobody gets anything else in its place.
#[test]
fn a_segment_missing_at_the_beginning_was_trimmed() {
    let (mut cluster, lines) = run_several_times();
    let next = 10;
    fs::remove_file(&segments(&cluster.node_dir(1).join("shard-0"))[0]).unwrap();
    cluster.serve(1);
    cluster.wait_leaders();
    assert_eq!(cluster.leader(1).1, next);
    let file = cluster.cluster_file();
    let tail = ["tail", "--cluster", arg(&file), "--group", "1", "--node", "1", "--until-end"];
    let trimmed = run(&tail);
    trimmed.check_failure(&["group 1 was trimmed", "begins at index", "--from"]);
    assert!(trimmed.stdout.is_empty());
    let from = trimmed.stderr.trim_end().trim_end_matches('`').rsplit(' ').next().unwrap();
    let rest = cluster.tail(1, 1, &["--from", from]);
    let skipped: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(rest, skipped[from.parse::<usize>().unwrap() - 1..].concat());
}

#[test]
fn an_emptied_log_is_no_new_log() {
    let empty = |dir: &Path| {
        for segment in segments(&dir.join("shard-0")) {
            fs::remove_file(segment).unwrap();
        }
    };
    check_lost(empty, &["shard-0", "lost"]);
}

#[test]
fn a_lost_log_is_no_new_log() {
    check_lost(|dir| fs::remove_dir_all(dir.join("shard-0")).unwrap(), &["shard-0", "lost"]);
}

#[test]
fn the_log_of_another_node_is_foreign() {
    let mut cluster = TestCluster::start(2, 1, 1);
    let expected = append_lines(&cluster, 1, 0..3);
    cluster.stop(1);
    cluster.stop(2);
    let (one, two) = (cluster.node_dir(1), cluster.node_dir(2));
    let swap = |what: &str| {
        let aside = one.join("aside");
        fs::rename(one.join(what), &aside).unwrap();
        fs::rename(two.join(what), one.join(what)).unwrap();
        fs::rename(&aside, two.join(what)).unwrap();
    };
    let files = [cluster.config_file(1), cluster.config_file(2)];
    swap("shard-0");
    for file in &files {
        check_refused(file, &["belongs to directory", "mixed up"]);
    }
    // The whole directories, swapped.
    swap("meta");
    for (file, words) in files.iter().zip([["belongs to node 2", "says node 1"], ["belongs to node 1", "says node 2"]])
    {
        check_refused(file, &words);
    }
    swap("meta");
    swap("shard-0");
    cluster.serve(1);
    cluster.serve(2);
    cluster.wait_leaders();
    cluster.check_tails(1, &expected);
}
