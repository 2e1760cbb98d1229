//! Another number of shards by the configuration's file.

use std::path::Path;

use synod::{Config, NodeId};

use crate::cluster::{TestCluster, input};
use crate::process::{arg, run};

fn set_shards(cluster: &TestCluster, node: NodeId, shards: usize) {
    let file = cluster.config_file(node);
    let text = std::fs::read_to_string(&file).unwrap();
    let line = |line: &str| if line.starts_with("shards = ") { format!("shards = {shards}") } else { line.into() };
    let text: Vec<String> = text.lines().map(line).collect();
    std::fs::write(&file, text.join("\n")).unwrap();
    assert_eq!(Config::read(&file).unwrap().shards, shards);
}

fn groups(cluster: &TestCluster, args: &[&str]) -> String {
    let file = cluster.cluster_file();
    let args = [&["group"], args, &["--cluster", arg(&file)]].concat();
    String::from_utf8(run(&args).success()).unwrap()
}

fn logs(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("shard-") || name.starts_with("era-")).collect();
    names.sort();
    names
}

#[test]
fn a_cluster_is_started_with_another_number_of_shards() {
    let mut cluster = TestCluster::start(3, 4, 2);
    groups(&cluster, &["create", "--group", "9"]);
    let mut all = [input(1, 300), input(2, 300), input(9, 300)];
    all.iter_mut().for_each(|lines| lines.push(b'\n'));
    for (group, lines) in [1, 2, 9].into_iter().zip(&all) {
        cluster.append_all(group, lines).success();
    }
    for shards in [1, 3] {
        (1..=3).for_each(|node| cluster.stop(node));
        (1..=3).for_each(|node| set_shards(&cluster, node, shards));
        for node in 1..=3 {
            cluster.serve(node);
            cluster.wait_log(node, "the node has another number of shards");
            assert_eq!(logs(&cluster.node_dir(node)), [if shards == 1 { "era-1" } else { "era-2" }]);
        }
        cluster.wait_leaders();
        // The cluster's file still says that there are two.
        assert!(groups(&cluster, &["list"]).contains('9'));
        for (group, lines) in [1, 2, 9].into_iter().zip(&mut all) {
            let more = format!("in group {group} with {shards} shards\n").into_bytes();
            cluster.append_all(group, &more).success();
            lines.extend(more);
            cluster.check_tails(group, lines);
        }
    }
    // One that has another number than the others is told so, and comes back.
    cluster.stop(3);
    set_shards(&cluster, 3, 2);
    cluster.serve(3);
    cluster.wait_log(3, "start all nodes with the same number");
    cluster.stop(3);
    set_shards(&cluster, 3, 3);
    cluster.serve(3);
    cluster.check_tails(9, &all[2]);
}

#[test]
fn a_damaged_log_is_not_copied() {
    let mut cluster = TestCluster::start(3, 2, 2);
    cluster.append_all(1, b"one\n").success();
    cluster.append_all(1, b"two\n").success();
    cluster.append_all(1, b"three\n").success();
    cluster.stop(3);
    let shard = cluster.node_dir(3).join("shard-1");
    let (path, mut bytes, at) = std::fs::read_dir(&shard)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(3).position(|window| window == b"one")?;
            Some((path, bytes, at))
        })
        .expect("the line is in the log");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let before = logs(&cluster.node_dir(3));
    set_shards(&cluster, 3, 1);
    cluster.serve_until_it_stops(3, "Start the node with `shards = 2` first");
    assert_eq!(logs(&cluster.node_dir(3)), before);
    // There it is begun anew, gets its vote back, and then it can be given another number.
    set_shards(&cluster, 3, 2);
    cluster.serve(3);
    cluster.wait_log(3, "another configuration governs");
    for node in 1..=3 {
        cluster.stop(node);
        set_shards(&cluster, node, 1);
    }
    (1..=3).for_each(|node| cluster.serve(node));
    cluster.wait_leaders();
    cluster.append_all(1, b"four\n").success();
    cluster.check_tails(1, b"one\ntwo\nthree\nfour\n");
}
