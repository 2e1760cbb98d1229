//! Whatever is wrong gets one clear line and the right exit status.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use synod::{Cluster, Config, new_cluster_id};

use crate::cluster::{TestCluster, members};
use crate::process::{Running, SYNOD, arg, check, run, run_with_input, temporary};

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
    let new = arg(&dir.path().join("new")).to_owned();
    for (args, word) in [
        (&[][..], "Usage: synod <COMMAND>"),
        (&["frobnicate"], "'frobnicate'"),
        (&["--colour"], "'--colour'"),
        (&["init"], "--config <FILE>"),
        (&["init", "x"], "'x'"),
        (&["init", "--config", "x", "--force"], "'--force'"),
        (&["serve"], "--config <FILE>"),
        (&["serve", "--config"], "--config <FILE>"),
        (&["serve", "--config", "x", "--colour", "red"], "'--colour'"),
        (&["serve", "--config", "x", "--config", "y"], "--config <FILE>"),
        (&["status"], "--cluster <FILE>"),
        (&["status", "--cluster", "x", "--group", "1"], "'--group'"),
        (&["append", "--cluster", "x", "--group", "one"], "--group <GROUP>"),
        (&["append", "--cluster", "x", "--group", "-1"], "'-1'"),
        (&["append", "--cluster", "x"], "--group <GROUP>"),
        (&["append", "--group", "1"], "--cluster <FILE>"),
        (&["append", "--cluster", "x", "--group", "1", "input.txt"], "'input.txt'"),
        (&["tail", "--cluster", "x", "--group", "1"], "--node <NODE>"),
        (&["tail", "--cluster", "x", "--node", "1"], "--group <GROUP>"),
        (&["tail", "--cluster", "x", "--node", "1", "--group", "1", "--from", "0"], "--from <INDEX>"),
        (&["tail", "--cluster", "x", "--node", "1", "--group", "18446744073709551616"], "--group <GROUP>"),
        (&["tail", "--cluster", "x", "--cluster", "y", "--node", "1", "--group", "1"], "--cluster <FILE>"),
        (&["local"], "--dir <DIR>"),
        (&["local", "--dir", &new, "--nodes", "0"], "--nodes <NODES>"),
        (&["local", "--dir", &new, "--nodes", "16"], "1..=15"),
        (&["local", "--dir", &new, "--groups", "0"], "--groups <GROUPS>"),
        (&["local", "--dir", &new, "--shards", "0"], "`shards`"),
        (&["local", "--dir", &new, "--groups", "1", "--shards", "2"], "fewer `groups` than `shards`"),
    ] {
        let finished = run(args);
        let stderr = &finished.stderr;
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(finished.stdout.is_empty() && stderr.contains(word), "{args:?} should say {word}: {stderr}");
        let errors = stderr.lines().filter(|line| line.starts_with("error: ") || line.starts_with("synod: ")).count();
        assert_eq!(errors, usize::from(!args.is_empty()), "{args:?}: {stderr}");
    }
    // Nothing was made, so the next try, with the right flags, finds a new directory.
    let left: Vec<_> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|file| file == "lock"), "{left:?}");
    let file = config(dir.path(), |_| {});
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
    for args in [["init", "--config"], ["serve", "--config"], ["status", "--cluster"], ["local", "--dir"]] {
        let path = if args[0] == "local" { arg(&malformed) } else { arg(dir.path()) };
        check(&[args[0], args[1], path], &[path]);
    }
}

#[test]
fn values_that_cannot_work_are_named() {
    let dir = temporary();
    let file = config(dir.path(), |_| {});
    let good = fs::read_to_string(&file).unwrap();
    let host = Config::read(file.as_ref()).unwrap().members[0].address.ip().to_string();
    // With a line of another key in its place, or with one more.
    for (key, line, words) in [
        ("", "colour = 3", &["line 1", "colour"][..]),
        ("", "groups = 1", &["duplicate key", "line"]),
        ("cluster", "", &["missing field", "cluster"]),
        ("cluster", "cluster = \"8f14\"", &["`cluster`", "32 hexadecimal digits"]),
        ("cluster", "cluster = 8", &["line 1", "expected a string"]),
        ("cluster", "cluster = \"00000000000000000000000000000000\"", &["`cluster`", "not all zero"]),
        ("node", "", &["missing field", "node"]),
        ("node", "node = \"one\"", &["line 2", "expected u64"]),
        ("node", "node = -1", &["line 2", "-1"]),
        ("node", "node = 9", &["`node` is not among the `members`"]),
        ("dir", "", &["missing field", "dir"]),
        ("groups", "groups = 0", &["`groups` must be between 1 and 1048576"]),
        ("groups", "groups = 9999999", &["`groups` must be between 1 and 1048576"]),
        ("groups", "groups = 1.5", &["line 4", "expected u64"]),
        ("shards", "shards = 2", &["fewer `groups` than `shards`"]),
        ("sync", "sync = \"never\"", &["line 7", "never", "durable"]),
        ("disk", "disk = \"tape\"", &["line 8", "tape", "blocking"]),
        ("segment_mib", "segment_mib = 2", &["`segment_mib` must be between 4 and 1024"]),
        ("batch_entries_max", "batch_entries_max = 0", &["`batch_entries_max` must be between 1 and 65536"]),
        ("learn_mib_per_second", "learn_mib_per_second = 9999999", &["`learn_mib_per_second` must be at most 1048576"]),
        ("index_mib", "index_mib = 0", &["`index_mib` must be between 1 and 1048576"]),
        ("retain_mib", "retain_mib = 1", &["`retain_mib` must be at least `segment_mib`"]),
        ("wal_mib_max", "wal_mib_max = 1024", &["`wal_mib_max` must be at least `retain_mib` and four segments"]),
        ("cache_mib", "cache_mib = 0", &["`cache_mib` must be between"]),
        ("spare_segments", "spare_segments = 5000", &["`spare_segments` must be at most 1024"]),
        ("allow_plaintext", "allow_plaintext = \"yes\"", &["expected a boolean"]),
        ("allow_plaintext", "preferred_leader = 9", &["`preferred_leader` is not among the `members`"]),
    ] {
        let is_key = |text: &str| !key.is_empty() && text.starts_with(&format!("{key} = "));
        assert!(key.is_empty() || good.lines().take_while(|text| !text.starts_with('[')).any(is_key), "no {key}");
        let mut head = true;
        let kept = good.lines().map(|text| {
            head &= !text.starts_with('[');
            if head && is_key(text) { line } else { text }
        });
        let extra = if key.is_empty() { line } else { "" };
        let text: Vec<&str> = extra.split_terminator('\n').chain(kept).collect();
        check_value(&file, &text.join("\n"), words);
    }
    for (from, to, words) in [
        ("node = 3", "node = 2", "two members have the same `node`"),
        ("node = 3", "node = 0", "must not be 0"),
        (&*host, "localhost", "address"),
        (&*host, "192.0.2.1", "allow_plaintext = true"),
    ] {
        assert!(good.contains(from));
        check_value(&file, &good.replace(from, to), &[words]);
    }
    let one = config(dir.path(), |config| config.members[1].address = config.members[0].address);
    check_value(&file, &fs::read_to_string(one).unwrap(), &["two members have the same `address`"]);
    assert!(!dir.path().join("data").exists(), "nothing was made");

    let cluster = dir.path().join("cluster.toml");
    for (text, words) in [
        ("", &["missing field"][..]),
        ("cluster = \"12\"\ngroups = 1\nshards = 1\nmembers = []\n", &["`cluster`", "hexadecimal"]),
        ("cluster = \"8f14e45fceea167a5a36dedd4bea2543\"\ngroups = 1\nshards = 1\nmembers = []\n", &["`members`"]),
        // A node's file is no cluster file.
        (&good, &["unknown field", "expected one of `cluster`"]),
    ] {
        fs::write(&cluster, text).unwrap();
        let words: Vec<&str> = words.iter().copied().chain([arg(&cluster)]).collect();
        check(&["status", "--cluster", arg(&cluster)], &words);
        check(&["tail", "--cluster", arg(&cluster), "--node", "1", "--group", "1"], &words);
        run_with_input(&["append", "--cluster", arg(&cluster), "--group", "1"], b"x\n").check_failure(&words);
    }
}

#[test]
fn a_cluster_file_that_no_cluster_has_is_refused() {
    let dir = temporary();
    let file = dir.path().join("cluster.toml");
    let check_file = |change: fn(&mut Cluster), word: &str| {
        let mut cluster = Config::new(new_cluster_id(), 1, "data", members(3)).cluster();
        change(&mut cluster);
        fs::write(&file, toml::to_string(&cluster).unwrap()).unwrap();
        check(&["tail", "--cluster", arg(&file), "--node", "1", "--group", "1"], &[arg(&file), word]);
    };
    check_file(|cluster| cluster.groups = 1 << 50, "`groups`");
    check_file(|cluster| cluster.shards = 1 << 40, "`shards`");
    check_file(|cluster| cluster.members[1].node = 0, "`node`");
    check_file(|cluster| cluster.members[1].node = 3, "same `node`");
    check_file(|cluster| cluster.members[1].address = cluster.members[0].address, "same `address`");
}

/// A node's file with this text is refused, by its name and with these words.
fn check_value(file: &str, text: &str, words: &[&str]) {
    fs::write(file, text).unwrap();
    let words: Vec<&str> = words.iter().copied().chain([file]).collect();
    check(&["init", "--config", file], &words);
    check(&["serve", "--config", file], &words);
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

    // A replacement needs an empty directory too, and somebody to replace it for.
    check(&["init", "--replace", "--config", &file], &["not empty", arg(&data)]);
    let alone = config(dir.path(), |config| config.members.truncate(1));
    check(&["init", "--replace", "--config", &alone], &["only node", "put its directory back"]);

    // What the directory knows of the others is gone, or damaged.
    let file = write_config(dir.path(), &ours);
    let peers = data.join("peers");
    let kept = fs::read(&peers).unwrap();
    fs::remove_file(&peers).unwrap();
    check(&["serve", "--config", &file], &[arg(&peers), "gone", "put it back"]);
    fs::write(&peers, &kept[1..]).unwrap();
    check(&["serve", "--config", &file], &[arg(&peers), "damaged", "synod init --replace"]);
    fs::write(&peers, kept).unwrap();

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

    cluster.stop(1);
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
    run_with_input(&["append", "--cluster", file, "--group", "3"], b"x\n").check_failure(&["group 3", "1 to 2"]);
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
fn a_node_whose_log_cannot_be_opened_is_never_ready() {
    let dir = temporary();
    let file = config(dir.path(), |config| {
        config.dir = dir.path().join("data");
        config.members.truncate(1);
    });
    run(&["init", "--config", &file]).success();
    // No file may grow to the size of a segment.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 1000; trap '' XFSZ; exec \"$0\" serve --config \"$1\"", SYNOD, &file]);
    let finished = Running::spawn(command, |_| ()).finish();
    finished.check_failure(&["shard 0", "0000000000000001.seg", "File too large"]);
    assert!(finished.stdout.is_empty(), "it was never ready");
    Running::start(&["serve", "--config", &file]).wait_stdout("is ready");
}
