//! Whatever is wrong gets one clear line and the right exit status.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use synod::{Config, new_cluster_id};

use crate::cluster::{TestCluster, members};
use crate::process::{Finished, Running, arg, run, run_with_input, temporary};

/// Exit status 1 and one complaint that has all the words.
fn check_failure(finished: &Finished, words: &[&str]) {
    let stderr = &finished.stderr;
    assert_eq!(finished.status.code(), Some(1), "{words:?}: {} {stderr}", finished.status);
    let complaints: Vec<&str> = stderr.lines().filter(|line| line.starts_with("synod: ")).collect();
    assert_eq!(complaints.len(), 1, "one line that says {words:?}: {stderr}");
    assert_eq!(stderr.lines().last(), Some(complaints[0]), "it comes last: {stderr}");
    words.iter().for_each(|word| assert!(complaints[0].contains(word), "{} should say {word}", complaints[0]));
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn check(args: &[&str], words: &[&str]) {
    check_failure(&run(args), words);
}

/// Writes a node's file, after a change.
fn config(dir: &Path, change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::new(new_cluster_id(), 1, "data", members(3));
    change(&mut config);
    write_config(dir, &config)
}

fn write_config(dir: &Path, config: &Config) -> String {
    let path = dir.join("node.toml");
    fs::write(&path, toml::to_string(config).unwrap()).unwrap();
    arg(&path).to_owned()
}

#[test]
fn wrong_usage_exits_with_2() {
    let dir = temporary();
    let dir = arg(dir.path()).to_owned();
    for args in [
        &[][..],
        &["frobnicate"],
        &["serve"],
        &["serve", "--config", "x", "--colour", "red"],
        &["init", "x"],
        &["append", "--cluster", "x", "--group", "one"],
        &["append", "--cluster", "x"],
        &["tail", "--cluster", "x", "--node", "1", "--group", "1", "--from", "0"],
        &["tail", "--cluster", "x", "--cluster", "y", "--node", "1", "--group", "1"],
        &["local"],
        &["local", "--dir", &dir, "--nodes", "0"],
        &["local", "--dir", &dir, "--nodes", "16"],
        &["local", "--dir", &dir, "--groups", "1", "--shards", "2"],
    ] {
        let finished = run(args);
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty(), "{args:?}");
    }
    let file = config(dir.as_ref(), |_| {});
    let loud = Running::start_with(&["serve", "--config", &file], |command| {
        command.env("RUST_LOG", "a=b=c");
    });
    let finished = loud.finish();
    assert_eq!(finished.status.code(), Some(2));
    assert!(finished.stderr.contains("RUST_LOG"), "{}", finished.stderr);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = temporary();
    let missing = dir.path().join("missing.toml");
    let malformed = dir.path().join("malformed.toml");
    fs::write(&malformed, "cluster = \"12\"\nnode = = 3\n").unwrap();
    let binary = dir.path().join("binary.toml");
    fs::write(&binary, [0xff, 0, 0xfe]).unwrap();
    for args in [&["init", "--config"][..], &["serve", "--config"], &["status", "--cluster"]] {
        for (file, words) in [(&missing, "No such file"), (&malformed, "line 2"), (&binary, "UTF-8")] {
            let args: Vec<&str> = args.iter().copied().chain([arg(file)]).collect();
            check(&args, &[arg(file), words]);
        }
    }
    let file = config(dir.path(), |config| config.retain_mib = 1);
    check(&["init", "--config", &file], &["retain_mib"]);
    check(&["serve", "--config", &file], &["retain_mib"]);
    fs::write(&file, format!("colour = 3\n{}", fs::read_to_string(&file).unwrap())).unwrap();
    check(&["serve", "--config", &file], &["colour", "line 1"]);
    let cluster = dir.path().join("cluster.toml");
    fs::write(&cluster, "cluster = \"12\"\ngroups = 1\nshards = 1\nmembers = []\n").unwrap();
    check(&["status", "--cluster", arg(&cluster)], &["cluster", "hexadecimal"]);
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let dir = temporary();
    let data = dir.path().join("data");
    let file = config(dir.path(), |_| {});
    check(&["serve", "--config", &file], &["holds no node", "synod init", arg(&data)]);
    run(&["init", "--config", &file]).success();
    check(&["init", "--config", &file], &["not empty", arg(&data)]);

    // The directory of another cluster, and of another node of this one.
    let ours = Config::read(file.as_ref()).unwrap();
    let other = config(dir.path(), |_| {});
    check(&["serve", "--config", &other], &["belongs to node 1 of cluster", &ours.cluster]);
    let file = write_config(dir.path(), &Config { node: 2, ..ours.clone() });
    check(&["serve", "--config", &file], &["belongs to node 1", "says node 2"]);

    // The directory's own file is damaged.
    let file = write_config(dir.path(), &ours);
    let meta = data.join("meta");
    let mut bytes = fs::read(&meta).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&meta, bytes).unwrap();
    check(&["serve", "--config", &file], &["meta", "damaged"]);

    // Nobody may make a directory there, whoever runs this.
    let file = config(dir.path(), |config| config.dir = "/sys/synod".into());
    check(&["init", "--config", &file], &["/sys/synod"]);
    // A file stands in the way.
    let file = config(dir.path(), |config| config.dir = "node.toml/data".into());
    check(&["init", "--config", &file], &["node.toml/data"]);
    check(&["local", "--dir", &format!("{file}/data")], &["node.toml/data"]);
}

#[test]
fn what_others_hold_is_named() {
    let mut cluster = TestCluster::start(1, 1, 1);
    let file = cluster.config_file(1);
    let serve = ["serve", "--config", arg(&file)];
    check(&serve, &["in use by another process", arg(&cluster.node_dir(1))]);

    stop(&mut cluster);
    let address = Config::read(&file).unwrap().members[0].address;
    let held = TcpListener::bind(address).unwrap();
    check(&serve, &[&format!("port {}", address.port()), "in use"]);
    drop(held);

    // And then it starts as if nothing had been.
    cluster.serve(1);
    cluster.wait_leaders();
}

#[test]
fn what_the_cluster_does_not_have_is_named() {
    let mut cluster = TestCluster::start(1, 2, 1);
    let file = cluster.cluster_file();
    let file = arg(&file);
    check_failure(&run_with_input(&["append", "--cluster", file, "--group", "3"], b"x\n"), &["group 3", "1 to 2"]);
    check(&["tail", "--cluster", file, "--node", "1", "--group", "0"], &["group 0", "1 to 2"]);
    check(&["tail", "--cluster", file, "--node", "2", "--group", "1"], &["no node 2", "nodes are 1"]);

    cluster.kill(1);
    let status = cluster.status();
    assert_eq!(status.status.code(), Some(1));
    assert!(status.stderr.contains("group 1 has no leader"), "{}", status.stderr);
    let table = String::from_utf8(status.stdout).unwrap();
    assert_eq!(table.lines().skip(1).filter(|line| line.contains("none") && line.ends_with("down")).count(), 2);
    check(&["tail", "--cluster", file, "--node", "1", "--group", "1"], &["node 1", "refused", "--from 1"]);
}

#[test]
fn a_damaged_segment_is_named() {
    let mut cluster = TestCluster::start(1, 1, 1);
    for line in 0..20 {
        cluster.append_all(1, format!("the line number {line}\n").as_bytes()).success();
    }
    stop(&mut cluster);
    let (segment, bytes, at) = find_in_segments(&cluster.node_dir(1).join("shard-0"), b"the line number 3\n");
    let (file, name) = (cluster.config_file(1), segment.file_name().unwrap().to_str().unwrap());
    let serve = ["serve", "--config", arg(&file)];
    let mut flipped = bytes.clone();
    flipped[at] ^= 1;
    fs::write(&segment, flipped).unwrap();
    check(&serve, &[name, "group 1", "damaged at byte"]);

    // Nothing was changed: with the bit as it was, nothing is lost.
    let expected: Vec<u8> = (0..20).flat_map(|line| format!("the line number {line}\n").into_bytes()).collect();
    fs::write(&segment, &bytes).unwrap();
    cluster.serve(1);
    cluster.wait_leaders();
    cluster.check_tails(1, &expected);

    // By now there is a later segment, which says how far this one went: it must not end before.
    stop(&mut cluster);
    fs::write(&segment, &bytes[..at]).unwrap();
    check(&serve, &[name]);
    fs::write(&segment, &bytes).unwrap();
    cluster.serve(1);
    cluster.wait_leaders();
    cluster.check_tails(1, &expected);
}

fn stop(cluster: &mut TestCluster) {
    let node = cluster.take(1);
    node.signal(Signal::TERM);
    node.finish().success();
}

/// The segment that holds some bytes, all of it, and where they are.
fn find_in_segments(shard: &Path, wanted: &[u8]) -> (PathBuf, Vec<u8>, usize) {
    for entry in fs::read_dir(shard).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            return (path, bytes, at);
        }
    }
    panic!("{} is in no segment", wanted.escape_ascii());
}
