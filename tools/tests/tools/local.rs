//! `synod local`: from nothing to a cluster, and back to it.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use synod::Config;

use crate::cluster::input;
use crate::process::{Finished, Running, arg, run, run_with_input, temporary, wait_for};

/// Starts a cluster, in a process group of its own as a shell does, and waits until it can be used.
fn start(dir: &Path, more: &[&str]) -> Running {
    let mut args = vec!["local", "--dir", arg(dir)];
    args.extend_from_slice(more);
    let mut local = Running::start_with(&args, |command| {
        command.process_group(0);
    });
    local.wait_stdout("every group has a leader");
    local
}

fn pid(dir: &Path, node: u64) -> i32 {
    std::fs::read_to_string(dir.join(format!("node-{node}.pid"))).unwrap().trim().parse().unwrap()
}

/// Ended, or waiting only for its end to be noticed.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[test]
fn a_cluster_is_made_run_broken_and_run_again() {
    let temporary = temporary();
    let dir = temporary.path().join("demo");
    let file = dir.join("cluster.toml");
    let with_cluster = |command: &str, more: &[&str], input: &[u8]| -> Finished {
        let mut args = vec![command, "--cluster", arg(&file)];
        args.extend_from_slice(more);
        run_with_input(&args, input)
    };
    let mut local = start(&dir, &["--nodes", "3", "--groups", "2"]);
    with_cluster("append", &["--group", "2"], b"one\ntwo\n").success();

    // Nobody else may run it.
    let second = run(&["local", "--dir", arg(&dir)]);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stderr.contains("in use"), "{}", second.stderr);

    // A killed node stays away, until it is served by hand.
    kill_process(Pid::from_raw(pid(&dir, 3)).unwrap(), Signal::KILL).unwrap();
    local.wait_stderr("node 3 has ended (signal: 9 (SIGKILL)); it is not restarted");
    assert!(!dir.join("node-3.pid").exists());
    wait_for("leaders without node 3", || with_cluster("status", &[], b"").status.success().then_some(()));
    let status = with_cluster("status", &[], b"").stdout;
    assert!(String::from_utf8(status).unwrap().contains("3     down"));
    with_cluster("append", &["--group", "2"], b"three\n").success();
    let mut third = Running::start(&["serve", "--config", arg(&dir.join("node-3.toml"))]);
    third.wait_stdout("node 3 is ready");
    let tail = ["--group", "2", "--node", "3", "--until-end"];
    assert_eq!(with_cluster("tail", &tail, b"").success(), b"one\ntwo\nthree\n");
    third.signal(Signal::TERM);
    third.finish().success();

    // Stopped and started, it is the same cluster.
    let nodes = [pid(&dir, 1), pid(&dir, 2)];
    local.signal(Signal::INT);
    let stopped = local.finish();
    assert!(stopped.status.success() && !stopped.stderr.contains("is killed"), "{stopped:?}");
    assert!(nodes.iter().all(|pid| is_gone(*pid)));
    let local = start(&dir, &[]);
    assert_eq!(with_cluster("tail", &tail, b"").success(), b"one\ntwo\nthree\n");

    // However it ends, its nodes end with it.
    let nodes = [1, 2, 3].map(|node| pid(&dir, node));
    drop(local);
    wait_for("the end of all nodes", || nodes.iter().all(|pid| is_gone(*pid)).then_some(()));

    // Flags that contradict what is there, and a cluster that cannot start.
    let other = run(&["local", "--dir", arg(&dir), "--nodes", "5"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(other.stderr.contains("has 3 nodes, not 5"), "{}", other.stderr);
    for node in 1..=3 {
        std::fs::remove_dir_all(dir.join(format!("node-{node}"))).unwrap();
    }
    let lost = run(&["local", "--dir", arg(&dir)]);
    assert_eq!(lost.status.code(), Some(1));
    assert!(lost.stderr.contains("all nodes are gone") && lost.stderr.contains("synod init"), "{}", lost.stderr);
}

/// What `synod status` says of one node.
#[derive(Debug)]
struct Line {
    leader: Option<u64>,
    node: u64,
    process: Option<i32>,
    applied: u64,
    next: u64,
}

/// The lines of group 1.
fn status(file: &Path) -> Vec<Line> {
    let text = String::from_utf8(run(&["status", "--cluster", arg(file)]).stdout).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let names = ["group", "leader", "node", "process", "shard", "applied", "next", "chain", "votes", "lease"];
    assert_eq!(head, [&names[..], &["checkpoint", "pins", "pinned", "quorum"]].concat());
    let mut leader = None;
    let parse = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        // A group's first line begins with the group and its leader.
        if line.starts_with("      1") {
            assert_eq!(words.remove(0), "1");
            leader = words.remove(0).parse().ok();
        }
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        let process = words[1].parse().ok();
        Line { leader, node: number(0), process, applied: number(3), next: number(4) }
    };
    lines.map(parse).collect()
}

#[test]
fn the_leader_of_a_local_cluster_is_killed_while_a_file_goes_in() {
    let temporary = temporary();
    let dir = temporary.path().join("demo");
    let cluster = dir.join("cluster.toml");
    let file = input(11, 20_000);
    let entries = file.split_inclusive(|byte| *byte == b'\n').count() as u64;
    let mut local = start(&dir, &["--nodes", "3"]);

    let args = ["--cluster", arg(&cluster), "--group", "1"];
    let mut append = Running::start(&[&["append"][..], &args].concat());
    let mut stdin = append.take_stdin();
    let (go, gone) = mpsc::channel::<()>();
    let halves = file.split_at(file.len() / 2);
    let halves = [halves.0.to_vec(), halves.1.to_vec()];
    let writer = std::thread::spawn(move || {
        for half in halves {
            // The pipe breaks when the command fails; its status tells.
            let _ = stdin.write_all(&half);
            let _ = gone.recv();
        }
    });
    // The leader is found as a user finds it.
    let leader = wait_for("progress", || {
        let lines = status(&cluster);
        assert_eq!(lines.iter().map(|line| line.node).collect::<Vec<_>>(), [1, 2, 3]);
        let leader = lines[0].leader?;
        let line = &lines[leader as usize - 1];
        (1 < line.next && 1 < line.applied).then_some((leader, line.process.unwrap()))
    });
    let (leader, process) = leader;
    assert_eq!(pid(&dir, leader), process);
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    drop(go);
    local.wait_stderr(&format!("node {leader} has ended (signal: 9 (SIGKILL))"));
    writer.join().unwrap();
    let appended = append.finish();
    assert!(appended.stderr.contains(&format!("appended {entries} entries, {} bytes", file.len())), "{appended:?}");
    appended.success();
    let lines = status(&cluster);
    let dead = &lines[leader as usize - 1];
    assert!(dead.process.is_none() && lines[0].leader.is_some_and(|new| new != leader), "{lines:?}");

    let config = dir.join(format!("node-{leader}.toml"));
    let mut back = Running::start(&["serve", "--config", arg(&config)]);
    back.wait_stdout("is ready");
    for node in ["1", "2", "3"] {
        let tail = run(&[&["tail", "--until-end", "--node", node][..], &args].concat()).success();
        assert!(tail == file, "node {node}: {} bytes instead of {}", tail.len(), file.len());
    }
    let lines = status(&cluster);
    assert_eq!(lines[leader as usize - 1].process, Some(back.pid() as i32), "{lines:?}");
    assert!(lines.iter().all(|line| line.next == entries + 1), "{lines:?}");
    back.signal(Signal::INT);
    back.finish().success();

    let nodes = [1, 2, 3].into_iter().filter(|node| *node != leader).map(|node| pid(&dir, node));
    let nodes: Vec<i32> = nodes.collect();
    local.signal(Signal::TERM);
    let ended = local.finish();
    assert!(ended.status.success() && !ended.stderr.contains("is killed"), "{ended:?}");
    assert!(nodes.iter().all(|pid| is_gone(*pid)));
    assert!((1..=3).all(|node| !dir.join(format!("node-{node}.pid")).exists()));
}

#[test]
fn control_c_reaches_all_processes_at_once() {
    let temporary = temporary();
    let local = start(temporary.path(), &["--nodes", "3"]);
    let nodes = [1, 2, 3].map(|node| pid(temporary.path(), node));
    // The terminal signals the whole process group.
    kill_process_group(Pid::from_raw(local.pid() as i32).unwrap(), Signal::INT).unwrap();
    let ended = local.finish();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    assert!(nodes.iter().all(|pid| is_gone(*pid)));
}

#[test]
fn a_node_that_cannot_start_says_why_and_the_others_go_on() {
    let temporary = temporary();
    let dir = temporary.path();
    let local = start(dir, &["--nodes", "3"]);
    local.signal(Signal::TERM);
    local.finish().success();
    let address = Config::read(&dir.join("node-2.toml")).unwrap().members[1].address;
    let held = TcpListener::bind(address).unwrap();
    let mut local = start(dir, &[]);
    local.wait_stderr("node 2 has ended (exit status: 1): ");
    local.wait_stderr(&format!("port {}", address.port()));
    local.wait_stderr("node-2.log");
    let file = dir.join("cluster.toml");
    run_with_input(&["append", "--cluster", arg(&file), "--group", "1"], b"one\n").success();
    drop(held);
    let mut second = Running::start(&["serve", "--config", arg(&dir.join("node-2.toml"))]);
    second.wait_stdout("is ready");
    let tail = ["tail", "--cluster", arg(&file), "--group", "1", "--node", "2", "--until-end"];
    assert_eq!(run(&tail).success(), b"one\n");
}
