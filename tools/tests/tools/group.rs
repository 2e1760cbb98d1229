//! Groups are made, used, listed and dropped by command.

use synod::client::Client;
use synod::{Cluster, GroupId};

use crate::cluster::TestCluster;
use crate::process::{PATIENCE, arg, check, run, run_with_input, wait_for};

#[test]
fn groups_are_made_and_dropped() {
    let cluster = TestCluster::start(3, 2, 2);
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let group = |action: &str, rest: &[&str]| {
        let args: Vec<&str> = ["group", action, "--cluster", &file].iter().chain(rest).copied().collect();
        String::from_utf8(run(&args).success()).unwrap()
    };
    assert_eq!(group("list", &[]), "");
    let seven = group("create", &["--group", "7"]);
    let eight = group("create", &["--group", "8"]);
    assert!(seven.starts_with("group 7, uid ") && seven.ends_with('\n'), "{seven}");
    let settle = |groups: &[GroupId]| {
        let known = |node| {
            let made =
                Client::new(Cluster::read(&cluster.cluster_file()).unwrap()).made_groups(node, PATIENCE).unwrap();
            made.iter().map(|made| made.group).collect::<Vec<_>>()
        };
        wait_for("the groups on all nodes", || (1..=3).all(|node| known(node) == groups).then_some(()));
    };
    settle(&[7, 8]);
    cluster.wait_leaders();
    assert_eq!(group("list", &[]), format!("{seven}{eight}"));

    let of_seven = ["--cluster", &file, "--group", "7"];
    run_with_input(&[&["append"][..], &of_seven].concat(), b"one\n").success();
    let read = run(&[&["tail", "--node", "2", "--until-end"][..], &of_seven].concat()).success();
    assert_eq!(read, b"one\n");
    // It fails as long as one of them has no leader.
    let status = wait_for("leaders of all groups", || {
        let status = run(&["status", "--cluster", &file]);
        status.status.success().then(|| String::from_utf8(status.success()).unwrap())
    });
    assert!(status.lines().any(|line| line.trim_start().starts_with("8 ")), "{status}");

    check(&["group", "create", "--cluster", &file, "--group", "7"], &["group 7 already"]);
    check(&["group", "create", "--cluster", &file, "--group", "2"], &["group 2", "configuration"]);
    check(&["group", "drop", "--cluster", &file, "--group", "9"], &["no group 9"]);
    assert!(group("drop", &["--group", "7"]).ends_with(" is dropped\n"));
    settle(&[8]);
    assert_eq!(group("list", &[]), eight);
    check(&[&["tail", "--node", "2", "--until-end"][..], &of_seven].concat(), &["no group 7"]);
    let again = group("create", &["--group", "7"]);
    assert!(again != seven, "another uid");
}

#[test]
fn a_group_is_moved_by_command() {
    let cluster = TestCluster::start(3, 4, 2);
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let of_two = ["--cluster", &file, "--group", "2"];
    run_with_input(&[&["append"][..], &of_two].concat(), b"one\ntwo\n").success();
    let order = |shard: &'static str| [&["group", "move"][..], &of_two, &["--to-shard", shard]].concat();
    let told = String::from_utf8(run(&order("1")).success()).unwrap();
    assert_eq!(told, "group 2 goes to shard 1 on every node\n");
    let places = || {
        let mut client = Client::new(Cluster::read(&cluster.cluster_file()).unwrap());
        let shard = |node, client: &mut Client| {
            let info = client.info(node, PATIENCE).ok()?;
            info.groups.iter().find(|info| info.group == 2).map(|info| info.shard)
        };
        (1..=3).map(|node| shard(node, &mut client)).collect::<Vec<_>>()
    };
    wait_for("the group on its new shard on all nodes", || (places() == [Some(1); 3]).then_some(()));
    cluster.wait_leaders();
    run_with_input(&[&["append"][..], &of_two].concat(), b"three\n").success();
    for node in ["1", "2", "3"] {
        let read = [&["tail", "--node", node, "--until-end"][..], &of_two].concat();
        wait_for("all entries", || (run(&read).success() == b"one\ntwo\nthree\n").then_some(()));
    }
    check(&order("2"), &["no shard 2", "have 2"]);
    check(&["group", "move", "--cluster", &file, "--group", "9", "--to-shard", "1"], &["no group 9"]);
}
