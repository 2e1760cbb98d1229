//! Two nodes and a witness, which votes and keeps no entries.

use std::fs;
use std::path::Path;

use synod::{Config, Node};

use crate::cluster::{TestCluster, members};
use crate::process::{arg, check, run, temporary};

/// What every entry has in it.
const WORDS: &[u8] = b"these words are in every entry and nowhere else";

/// Lines of 100 kB.
fn lines(from: usize, count: usize) -> Vec<u8> {
    let line = |number: usize| {
        let mut line = format!("{number} ").into_bytes();
        while line.len() < 100_000 {
            line.extend_from_slice(WORDS);
        }
        line.push(b'\n');
        line
    };
    (from..from + count).flat_map(line).collect()
}

/// The bytes of all segments of a log, zeros not counted, and whether the words are in one.
fn look_into(shard: &Path) -> (usize, bool) {
    let files = fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut found = (0, false);
    for file in files {
        let bytes = fs::read(file).unwrap();
        found.0 += bytes.iter().filter(|byte| **byte != 0).count();
        found.1 |= bytes.windows(WORDS.len()).any(|window| window == WORDS);
    }
    found
}

#[test]
fn two_nodes_and_a_witness_go_on_without_any_one() {
    let mut cluster = TestCluster::start_with(3, 1, 1, |config| config.witnesses = vec![3]);
    let file = cluster.cluster_file();
    let file = arg(&file).to_owned();
    let told = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--cluster", &file]).collect();
        String::from_utf8(run(&args).success()).unwrap()
    };
    let wrong = |args: &[&str], words: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--cluster", &file]).collect();
        check(&args, words);
    };
    let voters = "voters 1, 2, 3 (witnesses 3), learners none, quorum 2 of 3, a majority";
    assert_eq!(told(&["member", "show", "--group", "1"]), format!("version 0, {voters}\n"));
    assert!(told(&["status"]).contains("witness"));
    let mut all = Vec::new();
    let append = |cluster: &TestCluster, all: &mut Vec<u8>| {
        let more = lines(all.len() / 100_000, 40);
        cluster.append_all(1, &more).success();
        all.extend(more);
    };
    append(&cluster, &mut all);
    // Each of the three is lost once, while the others go on; the leader first, without a warning.
    let leader = cluster.leader(1).0;
    let other = 3 - leader;
    for lost in [leader, other, 3] {
        cluster.kill(lost);
        cluster.wait_leaders();
        append(&cluster, &mut all);
        cluster.serve(lost);
        // Who comes back gets what it missed, before the next one goes.
        for node in [1, 2] {
            assert!(cluster.tail(node, 1, &[]) == all, "node {node} lacks something");
        }
    }
    wrong(&["tail", "--node", "3", "--group", "1", "--until-end"], &["witness", "no entries"]);
    wrong(&["transfer", "--to", "3", "--group", "1"], &["node 3 is a witness", "never leads"]);
    wrong(&["member", "quorum", "--group", "1", "--phase-2", "1"], &["1 of them would be witnesses"]);
    assert!(told(&["member", "remove", "--group", "1", "--node", "3"]).contains("voters 1, 2, learners 3"));
    wrong(&["member", "add", "--group", "1", "--node", "3"], &["node 3 is a witness", "--witness"]);
    assert!(told(&["member", "add", "--group", "1", "--node", "3", "--witness"]).contains("(witnesses 3)"));
    append(&cluster, &mut all);
    (1..=3).for_each(|node| cluster.stop(node));
    let (bytes, has_words) = look_into(&cluster.node_dir(3).join("shard-0"));
    assert!(!has_words, "an entry is on the witness's disk");
    assert!(bytes < all.len() / 50, "{bytes} bytes, for {} of entries", all.len());
    for node in [1, 2] {
        let (bytes, has_words) = look_into(&cluster.node_dir(node).join("shard-0"));
        assert!(has_words && bytes > all.len());
    }
}

#[test]
fn witnesses_that_could_choose_alone_do_not_start() {
    let dir = temporary();
    let init = |name: &str, change: fn(&mut Config)| {
        let mut config = Config::new(7, 1, name, members(3));
        change(&mut config);
        let path = dir.path().join(format!("{name}.toml"));
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        path
    };
    let few = init("few", |config| config.witnesses = vec![2, 3]);
    check(&["init", "--config", arg(&few)], &["witnesses", "keep no entries"]);
    let small = init("small", |config| (config.witnesses, config.phase_2) = (vec![3], 1));
    check(&["init", "--config", arg(&small)], &["witnesses", "larger `phase_2`"]);
    // A directory is a witness's or not, for good.
    let kind = init("kind", |_| ());
    run(&["init", "--config", arg(&kind)]).success();
    let mut config = Config::read(&kind).unwrap();
    config.witnesses = vec![1];
    let error = Node::start(config, synod::Options::default()).err().unwrap().to_string();
    assert!(error.contains("does not belong to a witness") && error.contains("init --replace"), "{error}");
}
