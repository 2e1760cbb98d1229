//! Clients whose cluster file leads nowhere, or to somebody else: no command hangs, and each says whom it asked.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

use synod::{Config, Member, new_cluster_id};

use crate::cluster::{TestCluster, members};
use crate::process::{Finished, Running, arg, check, run, run_with_input, temporary};

fn cluster_file(dir: &Path, members: Vec<Member>) -> String {
    let path = dir.join("cluster.toml");
    let cluster = Config::new(new_cluster_id(), 1, "data", members).cluster();
    fs::write(&path, toml::to_string(&cluster).unwrap()).unwrap();
    arg(&path).to_owned()
}

/// `status` says why of every node, and at last what follows.
fn check_down(status: &Finished, nodes: usize, words: &[&str]) {
    assert_eq!(status.status.code(), Some(1), "{}", status.stderr);
    let table = String::from_utf8_lossy(&status.stdout);
    assert_eq!(table.lines().filter(|line| line.ends_with("down")).count(), nodes, "{table}");
    let complaints: Vec<&str> = status.stderr.lines().collect();
    assert_eq!(complaints.len(), nodes + 1, "{complaints:?}");
    assert!(complaints.iter().all(|line| line.starts_with("synod: ")), "{complaints:?}");
    assert!(complaints[nodes].contains("group 1 has no leader"), "{complaints:?}");
    for complaint in &complaints[..nodes] {
        words.iter().for_each(|word| assert!(complaint.contains(word), "{complaint} should say {word}"));
    }
}

#[test]
fn a_cluster_that_is_down_is_given_up_with_a_reason() {
    let dir = temporary();
    let members = members(3);
    let file = cluster_file(dir.path(), members.clone());
    let group = ["--cluster", &file, "--group", "1"];
    // These two try for half a minute, for an election may be on its way; so they do it side by side.
    let mut append = Running::start(&[&["append"][..], &group].concat());
    append.take_stdin().write_all(b"one\n").unwrap();
    let until_end = Running::start(&[&["tail", "--node", "1", "--until-end"][..], &group].concat());

    let status = run(&["status", "--cluster", &file]);
    check_down(&status, 3, &["refused"]);
    for Member { node, address } in &members {
        assert!(status.stderr.contains(&format!("node {node} at {address}")), "{}", status.stderr);
    }
    let address = members[1].address.to_string();
    check(&[&["tail", "--node", "2"][..], &group].concat(), &["node 2", &address, "refused", "--from 1"]);

    append.finish().check_failure(&["group 1 has no leader", "refused", "nothing was appended"]);
    until_end.finish().check_failure(&["group 1 has no leader", "refused"]);
}

#[test]
fn somebody_else_at_the_address_is_no_node() {
    let dir = temporary();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = cluster_file(dir.path(), vec![Member { node: 1, address: listener.local_addr().unwrap() }]);
    let tail = ["tail", "--cluster", &file, "--node", "1", "--group", "1"];

    // Nobody takes the connection, so nobody answers.
    check_down(&run(&["status", "--cluster", &file]), 1, &["node 1"]);
    check(&tail, &["node 1", "--from 1"]);

    // A server of the web. It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(&b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(400)));
        }
    });
    check_down(&run(&["status", "--cluster", &file]), 1, &["node 1"]);
    check(&tail, &["node 1", "--from 1"]);
}

#[test]
fn a_file_of_another_cluster_reaches_nobody() {
    let cluster = TestCluster::start(1, 2, 1);
    let other = cluster.write_false_file(|file| file.cluster = "8f14e45fceea167a5a36dedd4bea2543".into());
    check_down_all_groups(&run(&["status", "--cluster", arg(&other)]), "cluster");
    check(&["tail", "--cluster", arg(&other), "--node", "1", "--group", "1"], &["node 1", "cluster"]);

    let other = cluster.write_false_file(|file| file.members[0].node = 7);
    check_down_all_groups(&run(&["status", "--cluster", arg(&other)]), "node 7");
    check(&["tail", "--cluster", arg(&other), "--node", "7", "--group", "1"], &["node 7"]);

    // With the wrong number of shards, requests still find their group's shard.
    let other = cluster.write_false_file(|file| file.shards = 2);
    assert!(
        run(&["tail", "--cluster", arg(&other), "--node", "1", "--group", "2", "--until-end"]).success().is_empty()
    );

    // Groups that the file promises and the nodes do not have.
    let other = cluster.write_false_file(|file| file.groups = 9);
    let status = run(&["status", "--cluster", arg(&other)]);
    assert!(String::from_utf8(status.stdout).unwrap().contains("missing"));
    assert!(status.stderr.contains("group 3 has no leader"), "{}", status.stderr);
    let group = ["--cluster", arg(&other), "--group", "9"];
    run_with_input(&[&["append"][..], &group].concat(), b"x\n").check_failure(&["no group 9"]);
    check(&[&["tail", "--node", "1", "--until-end"][..], &group].concat(), &["no group 9"]);
    check(&[&["tail", "--node", "1"][..], &group].concat(), &["no group 9"]);

    // Nothing of all that came in.
    assert_eq!(cluster.leader(1).1, 1);
    assert_eq!(cluster.leader(2).1, 1);
}

fn check_down_all_groups(status: &Finished, word: &str) {
    assert_eq!(status.status.code(), Some(1));
    let table = String::from_utf8_lossy(&status.stdout);
    assert!(table.lines().skip(1).all(|line| line.ends_with("down")), "{table}");
    assert!(status.stderr.lines().next().unwrap_or_default().contains(word), "{}", status.stderr);
}
