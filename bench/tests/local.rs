//! The whole bench on real processes, disks and sockets: small runs, judged by their reports. No test judges time.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs one after another: each has three replicas, and the machine may be small.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bench(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synod-bench"));
    command.arg("local").arg("--dir").arg(dir).args(line.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A run that must end well: its report, and what it printed.
fn run(line: &str) -> (Value, Output) {
    let _turn = turn();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let line = format!("--warmup 0.2 --retain-mib 64 {line}");
    let output = bench(&dir, &line).output().unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "`{line}` failed:\n{stdout}\n{stderr}");
    let json = std::fs::read_to_string(dir.join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    for (key, expected) in [("lost", 0), ("duplicated", 0), ("reordered", 0), ("alien", 0), ("acked_twice", 0)] {
        assert_eq!(report[key].as_u64(), Some(expected), "{key} after `{line}`: {stdout}");
    }
    assert_eq!((report["replicas_agree"].as_bool(), report["clean"].as_bool()), (Some(true), Some(true)));
    assert!(report["acked"].as_u64().unwrap() >= report["commits"].as_u64().unwrap());
    assert!(0 < report["commits"].as_u64().unwrap(), "{stdout}");
    assert!(stdout.contains("verified: "), "{stdout}");
    assert!(stdout.trim_end().ends_with("report.html"), "the report's path comes last: {stdout}");
    assert!(std::fs::read_to_string(dir.join("report.html")).unwrap().starts_with("<!doctype html>"));
    assert!(std::fs::read_to_string(dir.join("report.hgrm")).unwrap().contains("Percentile"));
    (report, output)
}

#[test]
fn a_closed_loop_inside_the_leader() {
    let (report, output) = run("--seconds 1.5 --groups 3 --window 16");
    for key in ["commits_per_second", "megabytes_per_second", "cpu_seconds", "measured_seconds"] {
        assert!(0.0 < report[key].as_f64().unwrap(), "{key}");
    }
    for key in ["p50", "p90", "p99", "p999", "p9999", "max", "mean"] {
        assert!(0.0 < report["latency_us"][key].as_f64().unwrap(), "{key}");
    }
    for phase in ["queue", "batch", "wal", "remote", "remote_wal", "network", "quorum", "apply", "complete", "total"] {
        for key in ["p50", "p99", "mean"] {
            assert!(report["phases_us"][phase][key].is_number(), "{phase} {key}");
        }
    }
    for (key, value) in [("replicas", 3), ("groups", 3), ("shards", 1), ("payload", 128), ("window", 16)] {
        assert_eq!(report[key].as_u64(), Some(value), "{key}");
    }
    assert!(["durable", "none"].contains(&report["durability"].as_str().unwrap()));
    for key in ["unknown", "elections", "refused"] {
        assert!(report[key].is_u64(), "{key}");
    }
    assert_eq!(report["memory"].as_array().unwrap().len(), 3);
    assert_eq!(report["timeline"].as_array().unwrap().len(), 2);
    let live = text(&output.stderr);
    for stage in ["starting", "warm-up", "measuring"] {
        assert!(live.contains(stage), "{live}");
    }
}

#[test]
fn an_open_loop_inside_with_leaders_spread_over_shards() {
    let (report, _) = run("--seconds 1 --groups 4 --shards 2 --rate 2000 --leaders spread --payload 16");
    assert_eq!((report["rate"].as_u64(), report["window"].is_null()), (Some(2000), true));
}

#[test]
fn an_open_loop_from_another_process() {
    let (report, _) = run("--seconds 1 --groups 2 --rate 1000 --client process --payload 5000 --disk blocking");
    assert_eq!(report["client"], "process");
}

#[test]
fn a_killed_leader_comes_back_and_nothing_is_lost() {
    let (report, _) = run("--seconds 2.5 --groups 2 --window 8 --kill-leader-after 0.4");
    assert_eq!(report["client"], "process");
    let events = report["events"].as_array().unwrap();
    let what: Vec<&str> = events.iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(what.len(), 2, "{what:?}");
    assert!(what[0].starts_with("killed node") && what[1].starts_with("restarted node"), "{what:?}");
    assert!(1 <= report["elections"].as_u64().unwrap());
}

/// Runs what must fail, and gives what it says.
fn fails(dir: &Path, line: &str, status: i32) -> String {
    let output = bench(dir, line).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "`{line}`: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

#[test]
fn wrong_usage_ends_with_status_2_and_touches_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    for (line, word) in [
        ("--colour", "--colour"),
        ("--payload 15", "at least 16"),
        ("--rate 5 --window 6", "drop --window"),
        ("--client inside --kill-leader-after 1", "--client process"),
        ("--groups 1 --shards 2", "each shard needs a group"),
    ] {
        assert!(fails(&dir, line, 2).contains(word), "{line}");
    }
    assert!(!dir.exists());
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("thesis.tex"), "x").unwrap();
    let stderr = fails(root.path(), "", 1);
    assert!(stderr.contains("thesis.tex") && stderr.contains("--dir"), "{stderr}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_report_that_could_not_be_written_is_met_before_the_run() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let json = root.path().join("missing/report.json");
    let stderr = fails(&dir, &format!("--json {}", json.display()), 1);
    assert!(stderr.contains("missing/report.json"), "{stderr}");
    assert!(!dir.join("node-1").exists());
}

/// The processes, by number, whose command line bears `dir` and `word`.
fn processes(dir: &Path, word: &str) -> Vec<i32> {
    let dir = dir.to_string_lossy();
    let bears = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> = line.split(|byte| *byte == 0).map(text).collect();
        words.iter().any(|w| w == word) && words.iter().any(|w| w.contains(&*dir))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(bears).collect()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start_long_run(dir: &Path) -> Child {
    let run = bench(dir, "--seconds 600 --groups 1 --retain-mib 64").spawn().unwrap();
    wait_for("three replicas", || processes(dir, "replica").len() == 3);
    run
}

#[test]
fn a_killed_controller_leaves_nothing_behind() {
    let _turn = turn();
    let root = tempfile::tempdir().unwrap();
    let mut run = start_long_run(root.path());
    run.kill().unwrap();
    run.wait().unwrap();
    wait_for("the end of its replicas", || processes(root.path(), "replica").is_empty());
}

#[test]
fn a_replica_that_dies_ends_the_run_with_its_log() {
    let _turn = turn();
    let root = tempfile::tempdir().unwrap();
    let run = start_long_run(root.path());
    let victim = processes(root.path(), "replica")[0];
    let victim = rustix::process::Pid::from_raw(victim).unwrap();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
    let output = run.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("died unexpectedly") && stderr.contains("signal: 9") && stderr.contains(".log"),
        "{stderr}"
    );
    assert_eq!(processes(root.path(), "replica"), Vec::<i32>::new());
}
