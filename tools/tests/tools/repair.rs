//! What is left of a cluster that lost its quorum is made a new one, by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use synod::{Config, new_cluster_id};

use crate::cluster::TestCluster;
use crate::process::{Running, arg, check, run, run_with_input};

/// All files below a directory.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => left.push(path),
                path => drop(all.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    all
}

/// Writes the file of a node of the new cluster.
fn write_new(cluster: &TestCluster, node: u64, id: u128) -> PathBuf {
    let old = Config::read(&cluster.config_file(node)).unwrap();
    let dir = cluster.node_dir(node).with_file_name(format!("new-{node}"));
    let path = cluster.config_file(node).with_file_name(format!("new-{node}.toml"));
    let new = Config { cluster: format!("{id:032x}"), dir, ..old };
    fs::write(&path, toml::to_string(&new).unwrap()).unwrap();
    path
}

fn serve(file: &Path) -> Running {
    let mut running = Running::start(&["serve", "--config", arg(file)]);
    running.wait_stdout("is ready");
    running
}

#[test]
fn a_cluster_that_lost_its_quorum_goes_on_from_one_node() {
    let mut cluster = TestCluster::start(3, 2, 1);
    cluster.append_all(1, b"one\ntwo\n").success();
    cluster.append_all(2, b"three\n").success();
    cluster.check_tails(1, b"one\ntwo\n");
    cluster.check_tails(2, b"three\n");
    let old = cluster.config_file(2);
    let repair = ["repair", "--config", arg(&old)];
    check(&repair, &["in use by another process"]);
    (1..=3).for_each(|node| cluster.kill(node));
    for node in [1, 3] {
        fs::remove_dir_all(cluster.node_dir(node)).unwrap();
    }

    // Looking changes nothing, with and without a file to repair into.
    let new_2 = write_new(&cluster, 2, new_cluster_id());
    let before = bytes(&cluster.node_dir(2));
    let looks = |more: &[&str]| {
        let args: Vec<&str> = repair.iter().chain(more).copied().collect();
        String::from_utf8(run(&args).success()).unwrap()
    };
    for text in [looks(&[]), looks(&["--into", arg(&new_2)])] {
        for words in
            ["group 1: version 0, voters 1, 2, 3", "group 2:", "the only voter", "is lost", "Nothing was changed"]
        {
            assert!(text.contains(words), "{text} should say {words}");
        }
    }
    assert!(looks(&[]).contains("cluster = \""));
    assert!(!looks(&["--group", "2"]).contains("group 1:"));
    assert_eq!(bytes(&cluster.node_dir(2)), before);

    // Nothing by mistake.
    let with =
        |more: &[&'static str]| -> Vec<String> { repair.iter().chain(more).map(|word| (*word).to_owned()).collect() };
    let refused = |args: &[&str], words: &[&str]| check(&[&repair[..], args].concat(), words);
    refused(&["--group", "3"], &["no group 3", "1 to 2"]);
    refused(&["--into", arg(&old)], &["`cluster` of its own"]);
    refused(&["--with", arg(&cluster.node_dir(3))], &["holds no node"]);
    refused(&["--with", arg(&cluster.node_dir(2))], &["in use"]);
    for (args, word) in [(with(&["--accept-data-loss"]), "--into"), (with(&["--yes"]), "--accept-data-loss")] {
        let finished = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(finished.status.code(), Some(2));
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
    let unasked = [&repair[..], &["--into", arg(&new_2), "--accept-data-loss"]].concat();
    let finished = run_with_input(&unasked, b"");
    assert_eq!(finished.status.code(), Some(2));
    assert!(finished.stderr.contains("--yes"), "{}", finished.stderr);
    assert_eq!(bytes(&cluster.node_dir(2)), before);

    run(&[&unasked[..], &["--yes"]].concat()).success();
    check(&["serve", "--config", arg(&old)], &["was repaired", "two histories", "new-2"]);
    check(&repair, &["was repaired"]);
    let mut second = serve(&new_2);
    second.wait_stderr("come out of a repair");

    // The others come in and get their votes, and the first can go.
    let new_config = Config::read(&new_2).unwrap();
    let file = new_2.with_file_name("new-cluster.toml");
    fs::write(&file, toml::to_string(&new_config.cluster()).unwrap()).unwrap();
    let append = |group: &str, text: &[u8]| {
        run_with_input(&["append", "--cluster", arg(&file), "--group", group], text).success();
    };
    append("1", b"four\n");
    let id = u128::from_str_radix(&new_config.cluster, 16).unwrap();
    let others: Vec<Running> = [1, 3]
        .map(|node| {
            let new = write_new(&cluster, node, id);
            run(&["init", "--replace", "--config", arg(&new)]).success();
            serve(&new)
        })
        .into();
    for node in ["1", "3"] {
        for group in ["1", "2"] {
            run(&["member", "add", "--cluster", arg(&file), "--group", group, "--node", node]).success();
        }
    }
    drop(second);
    append("1", b"five\n");
    append("2", b"six\n");
    for (group, expected) in [("1", "one\ntwo\nfour\nfive\n"), ("2", "three\nsix\n")] {
        for node in ["1", "3"] {
            let args = ["tail", "--cluster", arg(&file), "--node", node, "--group", group, "--until-end"];
            assert_eq!(String::from_utf8(run(&args).success()).unwrap(), expected);
        }
    }
    drop(others);
}
