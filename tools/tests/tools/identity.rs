//! Directories that are emptied, put back from a copy, or replaced: the other nodes know whom they have met, also when
//! all of them were started anew since.

use std::fs;
use std::path::Path;

use crate::cluster::TestCluster;
use crate::process::{arg, run};

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Stops all nodes but one, starts them again, and takes the other one's directory away in between.
fn restart_without(cluster: &mut TestCluster, lost: u64) {
    cluster.stop(lost);
    fs::rename(cluster.node_dir(lost), cluster.node_dir(lost).with_extension("lost")).unwrap();
    for node in cluster.nodes().into_iter().filter(|node| *node != lost) {
        cluster.stop(node);
        cluster.serve(node);
    }
    cluster.wait_leaders();
}

/// Node 2 is dialled by one of the others and dials the other.
const LOST: u64 = 2;

#[test]
fn an_emptied_directory_is_refused_by_all() {
    let mut cluster = TestCluster::start(3, 2, 2);
    cluster.append_all(1, b"before\n").success();
    restart_without(&mut cluster, LOST);
    run(&["init", "--config", arg(&cluster.config_file(LOST))]).success();
    cluster.serve(LOST);
    for node in [1, 3] {
        cluster.wait_log(node, "holds none of its votes");
    }
    cluster.wait_log(LOST, "synod init --replace");
    cluster.append_all(1, b"without\n").success();

    // Its own directory, put back, is welcome.
    cluster.stop(LOST);
    fs::remove_dir_all(cluster.node_dir(LOST)).unwrap();
    fs::rename(cluster.node_dir(LOST).with_extension("lost"), cluster.node_dir(LOST)).unwrap();
    cluster.serve(LOST);
    cluster.check_tails(1, b"before\nwithout\n");
}

#[test]
fn an_old_copy_of_a_directory_is_refused_by_all() {
    let mut cluster = TestCluster::start(3, 1, 1);
    cluster.stop(LOST);
    let backup = cluster.node_dir(LOST).with_extension("backup");
    copy(&cluster.node_dir(LOST), &backup);
    for line in [b"one\n", b"two\n"] {
        cluster.serve(LOST);
        cluster.append_all(1, line).success();
        cluster.check_tails(1, if line == b"one\n" { b"one\n" } else { b"one\ntwo\n" });
        cluster.stop(LOST);
    }
    cluster.serve(LOST);
    restart_without(&mut cluster, LOST);
    fs::rename(&backup, cluster.node_dir(LOST)).unwrap();
    cluster.serve(LOST);
    for node in [1, 3] {
        cluster.wait_log(node, "old copy that has forgotten votes");
    }
    cluster.append_all(1, b"three\n").success();
}

#[test]
fn a_replacement_is_taken_and_the_replaced_one_refused() {
    let mut cluster = TestCluster::start(3, 1, 1);
    cluster.append_all(1, b"before\n").success();
    restart_without(&mut cluster, LOST);
    let replaced = run(&["init", "--replace", "--config", arg(&cluster.config_file(LOST))]).success();
    assert!(String::from_utf8(replaced).unwrap().contains("made anew"));
    cluster.serve(LOST);
    cluster.append_all(1, b"behind\n").success();
    for node in [1, 3] {
        cluster.wait_log(node, "was replaced by a new one");
    }

    // All of them have met the new one: the old one is refused, also after all were started anew.
    cluster.stop(LOST);
    let (new, old) = (cluster.node_dir(LOST).with_extension("new"), cluster.node_dir(LOST).with_extension("lost"));
    fs::rename(cluster.node_dir(LOST), &new).unwrap();
    fs::rename(old, cluster.node_dir(LOST)).unwrap();
    for node in [1, 3] {
        cluster.stop(node);
        cluster.serve(node);
    }
    cluster.serve(LOST);
    for node in [1, 3] {
        cluster.wait_log(node, "stop it and never start it again");
    }
    cluster.wait_leaders();
    cluster.append_all(1, b"without\n").success();
}
