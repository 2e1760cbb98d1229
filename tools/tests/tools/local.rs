//! `synod local`: from nothing to a cluster, and back to it.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Finished, Running, arg, run, run_with_input, temporary, wait_for};

fn start(dir: &Path, more: &[&str]) -> Running {
    let mut args = vec!["local", "--dir", arg(dir)];
    args.extend_from_slice(more);
    let mut local = Running::start(&args);
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
