//! Votes are taken away and given back, in a cluster under load of its own making.

use synod::{Cluster, Config, Member};
use synod_sim::free_addresses;

use crate::cluster::TestCluster;
use crate::process::{arg, check, run, run_with_input, wait_for};

/// What `synod member` says.
fn member(action: &str, of: &[&str], rest: &[&str]) -> String {
    String::from_utf8(run(&[&["member", action][..], of, rest].concat()).success()).unwrap()
}

#[test]
fn votes_are_taken_away_and_given_back() {
    let mut cluster = TestCluster::start(3, 1, 1);
    cluster.wait_leaders();
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let member = |action: &str, rest: &[&str]| member(action, &["--cluster", &file, "--group", "1"], rest);
    let append = |text: &str| {
        run_with_input(&["append", "--cluster", &file, "--group", "1"], text.as_bytes()).success();
    };
    assert_eq!(member("show", &[]), "version 0, voters 1, 2, 3, learners none, quorum 2 of 3, a majority\n");
    append("one\n");
    assert_eq!(member("remove", &["--node", "3"]), "version 1, voters 1, 2, learners 3, quorum 2 of 2, a majority\n");
    let wrong = |rest: &[&str], words: &[&str]| {
        let args: Vec<&str> = ["member"].iter().chain(rest).copied().chain(["--cluster", &file]).collect();
        check(&args, words);
    };
    wrong(&["remove", "--node", "3", "--group", "1"], &["node 3 does not vote"]);
    wrong(&["add", "--node", "2", "--group", "1"], &["node 2 votes already"]);
    wrong(&["add", "--node", "4", "--group", "1"], &["no node 4", "nodes are 1, 2, 3"]);
    wrong(&["remove", "--node", "1", "--group", "2"], &["no group 2"]);
    wrong(&["add", "--node", "3", "--group", "1", "--version", "0"], &["version 1", "look at them again"]);

    // Two voters go on without the third, which learns what it missed when it comes back.
    cluster.kill(3);
    append("two\n");
    wrong(&["add", "--node", "3", "--group", "1", "--timeout", "1"], &["node 3 has not caught up"]);
    cluster.serve(3);
    assert_eq!(
        member("add", &["--node", "3"]),
        "version 2, voters 1, 2, 3, learners none, quorum 2 of 3, a majority\n"
    );
    // And now a second may go.
    cluster.kill(2);
    append("three\n");
    let read = run(&["tail", "--cluster", &file, "--node", "3", "--group", "1", "--until-end"]).success();
    assert_eq!(String::from_utf8(read).unwrap(), "one\ntwo\nthree\n");
    // One of two that are left cannot go: the other is down. Who answered a second ago still counts as up.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let left = if cluster.leader(1).0 == 1 { "3" } else { "1" };
    wrong(&["remove", "--node", left, "--group", "1"], &["too few voters"]);
}

/// A node that is to go for good is taken out of the directory as well. The two that are left make groups, and after one of
/// them is gone nobody does.
#[test]
fn a_directory_changes_its_voters_as_a_group_does() {
    let mut cluster = TestCluster::start(3, 2, 2);
    cluster.wait_leaders();
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let member = |action: &str, rest: &[&str]| member(action, &["--cluster", &file, "--directory", "1"], rest);
    let create = |group: &str| run(&["group", "create", "--cluster", &file, "--group", group, "--timeout", "3"]);
    assert_eq!(member("show", &[]), "version 0, voters 1, 2, 3, learners none, quorum 2 of 3, a majority\n");
    assert_eq!(member("remove", &["--node", "3"]), "version 1, voters 1, 2, learners 3, quorum 2 of 2, a majority\n");
    create("5").success();
    cluster.kill(3);
    create("7").success();
    cluster.kill(2);
    let refused = create("9");
    assert!(!refused.status.success(), "one of two voters makes no groups");
    cluster.serve(2);
    cluster.serve(3);
    assert_eq!(
        member("add", &["--node", "3"]),
        "version 2, voters 1, 2, 3, learners none, quorum 2 of 3, a majority\n"
    );
    check(&["member", "show", "--cluster", &file, "--directory", "2"], &["no directory 2"]);
    for wrong in [&["--directory", "1024"][..], &["--directory", "1", "--group", "1"], &[]] {
        let refused = run(&[&["member", "show", "--cluster", &file][..], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {}", refused.stderr);
    }
}

#[test]
fn the_size_of_a_quorum_is_changed() {
    let mut cluster = TestCluster::start(3, 1, 1);
    cluster.wait_leaders();
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let quorum = |phase_2: &'static str| ["member", "quorum", "--group", "1", "--phase-2", phase_2];
    let tell = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--cluster", &file]).collect();
        String::from_utf8(run(&args).success()).unwrap()
    };
    let voters = "voters 1, 2, 3, learners none";
    assert_eq!(tell(&quorum("3")), format!("version 1, {voters}, quorum 1 of 3 elect, 3 choose\n"));
    let wrong = |args: &[&str], words: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--cluster", &file]).collect();
        check(&args, words);
    };
    wrong(&quorum("4"), &["4 of 3 voters cannot choose"]);
    wrong(
        &["member", "remove", "--group", "1", "--node", "3"],
        &["3 of 2 voters cannot choose", "synod member quorum"],
    );
    wrong(&["group", "create", "--group", "7", "--phase-2", "4"], &["4 of 3 voters cannot choose"]);
    tell(&["group", "create", "--group", "7", "--phase-2", "1"]);
    // The others hear of it a moment later.
    while !tell(&["group", "list"]).contains("group 7") {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(
        tell(&["member", "show", "--group", "7"]),
        format!("version 0, {voters}, quorum 3 of 3 elect, 1 choose\n")
    );
    assert!(tell(&["status"]).contains("3+1"));
    assert_eq!(tell(&quorum("0")), format!("version 2, {voters}, quorum 2 of 3, a majority\n"));

    // Where all must elect, none may be missing.
    cluster.kill(2);
    std::thread::sleep(std::time::Duration::from_secs(2));
    wrong(&quorum("1"), &["3 voters", "2 can be"]);
    assert_eq!(tell(&quorum("2")), format!("version 3, {voters}, quorum 2 of 3 elect, 2 choose\n"));
}

#[test]
fn a_node_joins_while_the_others_run() {
    let mut cluster = TestCluster::start(3, 2, 2);
    cluster.wait_leaders();
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let member = |action: &str, rest: &[&str]| member(action, &["--cluster", &file], rest);
    let append = |text: &str| {
        run_with_input(&["append", "--cluster", &file, "--group", "1"], text.as_bytes()).success();
    };
    append("one\n");
    let fourth = Member { node: 4, address: free_addresses(1)[0] };
    let address = fourth.address.to_string();
    let mut config = Config::read(&cluster.config_file(1)).unwrap();
    (config.node, config.dir) = (4, cluster.node_dir(4));
    config.members.push(fourth);
    std::fs::write(cluster.config_file(4), toml::to_string(&config).unwrap()).unwrap();
    run(&["init", "--join", "--config", arg(&cluster.config_file(4))]).success();
    cluster.serve(4);
    let wrong = |rest: &[&str], words: &[&str]| {
        let args: Vec<&str> = ["member"].iter().chain(rest).copied().chain(["--cluster", &file]).collect();
        check(&args, words);
    };
    cluster.wait_log(4, "does not know a node 4: introduce it");
    wrong(&["add", "--group", "1", "--node", "4"], &["no node 4"]);
    let taken = Config::read(&cluster.config_file(1)).unwrap().members[1].address.to_string();
    wrong(&["introduce", "--node", "4", "--address", &taken], &["node 1", &taken, "the address of node 2"]);
    wrong(&["introduce", "--node", "2", "--address", &address], &["node 2 is among the `members`"]);

    // A node that is down is told by the others.
    cluster.kill(3);
    let said = member("introduce", &["--node", "4", "--address", &address]);
    let knows = |node: u64| format!("node {node} knows node 4 at {address}, introduction 1\n");
    let away = "node 3 does not answer: it is told by the others when it is back\n";
    assert_eq!(said, [&knows(1), &knows(2), away].concat());
    cluster.serve(3);
    let shown = format!("node 4 was introduced at {address} (introduction 1): known to 1, 2, 3\n");
    wait_for("node 3 to know node 4", || member("show", &["--group", "2"]).ends_with(&shown).then_some(()));
    for group in ["1", "2"] {
        let voters = member("add", &["--group", group, "--node", "4"]);
        assert_eq!(voters, "version 1, voters 1, 2, 3, 4, learners none, quorum 3 of 4, a majority\n");
    }
    // The files of the others say nothing of it.
    for node in 1..=3 {
        cluster.stop(node);
        cluster.serve(node);
    }
    cluster.kill(2);
    // The new one may lead: clients find it by the file.
    let mut with_fourth = Cluster::read(&cluster.cluster_file()).unwrap();
    with_fourth.members.push(fourth);
    std::fs::write(&file, toml::to_string(&with_fourth).unwrap()).unwrap();
    append("two\n");
    for node in ["1", "3", "4"] {
        let args = ["tail", "--cluster", &file, "--node", node, "--group", "1", "--until-end"];
        wait_for("all entries at each node", || (run(&args).success() == b"one\ntwo\n").then_some(()));
    }
    // Another directory under its number is refused, as that of any node.
    cluster.stop(4);
    config.dir = cluster.node_dir(5);
    std::fs::write(cluster.config_file(4), toml::to_string(&config).unwrap()).unwrap();
    run(&["init", "--join", "--config", arg(&cluster.config_file(4))]).success();
    cluster.serve(4);
    cluster.wait_log(4, "holds none of its votes");
}
