//! What goes in comes out, byte for byte, on every node.

use std::io::Write;
use std::process::Stdio;

use crate::cluster::{TestCluster, input};
use crate::process::{Running, arg, wait_for};

#[test]
fn a_file_comes_out_of_every_node_as_it_went_in() {
    let cluster = TestCluster::start(3, 3, 2);
    let file = input(1, 8000);
    let entries = file.split_inclusive(|byte| *byte == b'\n').count();
    let appended = cluster.append_all(1, &file);
    assert!(appended.status.success(), "{}", appended.stderr);
    let last = appended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("synod: appended {entries} entries, {} bytes", file.len())), "{last}");
    assert!(appended.stdout.is_empty());
    cluster.check_tails(1, &file);

    // The groups are logs of their own, on both shards.
    let other = input(2, 500);
    cluster.append_all(2, &other).success();
    cluster.append_all(3, b"").success();
    cluster.append_all(3, b"\n").success();
    cluster.check_tails(1, &file);
    cluster.check_tails(2, &other);
    cluster.check_tails(3, b"\n");

    // A second run goes behind the first. Its first entry's index is known.
    cluster.append_all(1, b"again\n\nand again").success();
    let from = (entries + 1).to_string();
    assert_eq!(cluster.tail(3, 1, &["--from", &from]), b"again\n\nand again");
    assert_eq!(cluster.tail(3, 1, &["--from", &(entries + 4).to_string()]), b"");

    status_shows_every_group_and_node(&cluster, &[entries + 4, 0, 2]);
    a_tail_follows_and_ends_with_its_reader(&cluster, entries + 4);
}

/// `next`: the next index of each group; 0: not checked.
fn status_shows_every_group_and_node(cluster: &TestCluster, next: &[usize]) {
    // A follower hears of the last commit a moment later.
    wait_for("equal checksums in the status", || {
        let text = String::from_utf8(cluster.status().success()).unwrap();
        let mut lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        for (group, next) in (1..).zip(next) {
            let mut chain = None;
            for (at, node) in cluster.nodes().into_iter().enumerate() {
                let mut words = lines.next().expect("a line per group and node");
                if at == 0 {
                    let head: Vec<&str> = words.drain(..2).collect();
                    assert_eq!(head[0], format!("{group}"));
                    assert!((1..=3).contains(&head[1].parse::<u64>().unwrap()), "{text}");
                }
                assert_eq!(words[..2], [node.to_string(), cluster.pid(node).to_string()], "{text}");
                let same = *chain.get_or_insert(words[5]) == words[5];
                if !same || (*next > 0 && words[4] != next.to_string()) {
                    return None;
                }
            }
        }
        assert_eq!(lines.next(), None);
        Some(())
    });
}

fn a_tail_follows_and_ends_with_its_reader(cluster: &TestCluster, from: usize) {
    let (file, from) = (cluster.cluster_file(), from.to_string());
    let args = ["tail", "--cluster", arg(&file), "--node", "2", "--group", "1", "--from", &from];
    let mut following = Running::start(&args);
    cluster.append_all(1, b"news\n").success();
    following.wait_stdout("news\n");
    cluster.append_all(1, b"more news\n").success();
    following.wait_stdout("news\nmore news\n");
    drop(following);

    // The reader goes at once; the tail notices although nothing more comes.
    let (reader, writer) = std::io::pipe().unwrap();
    let tail = Running::start_with(&args, |command| {
        command.stdout(Stdio::from(writer));
    });
    drop(reader);
    let finished = tail.finish();
    assert!(finished.status.success() && finished.stderr.is_empty(), "{finished:?}");
}

#[test]
fn a_line_over_64_mebibytes_is_named_and_a_large_one_goes_in_whole() {
    let cluster = TestCluster::start(1, 1, 1);
    let large = [&vec![b'x'; 3 << 20][..], b"\n"].concat();
    let before = [b"one\n", &large[..]].concat();
    let file = [&before[..], &vec![b'x'; (64 << 20) + 1], b"\nafter\n"].concat();
    let finished = cluster.append_all(1, &file);
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("line 3 is longer than 64 MiB"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1);
    cluster.check_tails(1, &before);
}

#[test]
fn lines_are_committed_as_they_come() {
    let cluster = TestCluster::start(1, 1, 1);
    let mut append = cluster.append(1);
    let mut stdin = append.take_stdin();
    for line in 1..=3 {
        stdin.write_all(format!("line {line}\n").as_bytes()).unwrap();
        wait_for("the line", || (cluster.leader(1).1 == line + 1).then_some(()));
    }
    drop(stdin);
    append.finish().success();
    cluster.check_tails(1, b"line 1\nline 2\nline 3\n");
}
