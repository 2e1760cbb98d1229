//! Nodes die by SIGKILL while lines are appended, and come back: nothing is lost, doubled or out of order.

use std::io::Write;
use std::sync::mpsc;

use crate::cluster::{TestCluster, input};
use crate::process::wait_for;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Leader,
    Follower,
}

/// Appends in as many parts as nodes are killed, and one more. While a part is on its way, a node is killed; it comes
/// back before the next is killed.
fn check_kills(roles: &[Role]) {
    let mut cluster = TestCluster::start(3, 1, 1);
    let file = input(3, 3000 * (roles.len() + 1));
    let mut append = cluster.append(1);
    let mut stdin = append.take_stdin();
    let (go, gone) = mpsc::channel::<()>();
    let parts: Vec<Vec<u8>> = file.chunks(file.len().div_ceil(roles.len() + 1)).map(<[u8]>::to_vec).collect();
    assert_eq!(parts.len(), roles.len() + 1);
    // The whole lines before each part.
    let before: Vec<u64> = parts
        .iter()
        .scan(0, |lines, part| {
            let before = *lines;
            *lines += part.iter().filter(|byte| **byte == b'\n').count() as u64;
            Some(before)
        })
        .collect();
    let writer = std::thread::spawn(move || {
        for part in parts {
            // The pipe breaks when the command fails; its status tells.
            let _ = stdin.write_all(&part);
            // The rest comes only after the kill, so the kill is midway.
            let _ = gone.recv();
        }
    });
    for (role, part) in roles.iter().zip(before.windows(2)) {
        // Something of this part is committed, and perhaps more is on its way.
        let leader = wait_for("progress", || {
            let (leader, next_index) = cluster.leader(1);
            (part[0] + 1 < next_index).then_some(leader)
        });
        let victim = match role {
            Role::Leader => leader,
            Role::Follower => cluster.nodes().into_iter().find(|node| *node != leader).unwrap(),
        };
        cluster.kill(victim);
        go.send(()).unwrap();
        // The others go on with the next part without it.
        wait_for("progress without the killed node", || (part[1] + 1 < cluster.leader(1).1).then_some(()));
        cluster.serve(victim);
        cluster.wait_leaders();
    }
    drop(go);
    writer.join().unwrap();
    append.finish().success();
    cluster.check_tails(1, &file);

    // All of it is on disk, too.
    for node in cluster.nodes() {
        cluster.kill(node);
    }
    for node in cluster.nodes() {
        cluster.serve(node);
    }
    cluster.check_tails(1, &file);
}

#[test]
fn the_leader_is_killed_midway() {
    check_kills(&[Role::Leader]);
}

#[test]
fn a_node_of_each_role_is_killed_midway() {
    check_kills(&[Role::Follower, Role::Leader, Role::Follower, Role::Leader]);
}
