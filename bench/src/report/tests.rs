//! Tests of the report: its keys, its text, and that nothing is made up.

use super::*;

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn keys_are_golden_and_do_not_depend_on_what_was_measured() {
    let golden = "acked acked_twice alien clean client command commits commits_per_second cpu_seconds \
        disk duplicated durability elections events groups kill_leader_after latency_us leaders lost machine \
        measured_seconds megabytes_per_second memory payload phases_us rate refused reordered replicas replicas_agree \
        retain_mib seconds shards sync timeline unknown unknown_applied untracked version violations warmup window";
    let golden: Vec<_> = golden.split_whitespace().collect();
    for report in [sample::empty(), sample::full()] {
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(keys(&json), golden);
        assert_eq!(keys(&json["latency_us"]), ["max", "mean", "p50", "p90", "p99", "p999", "p9999"]);
        let mut phases: Vec<_> = Phase::ALL.iter().map(|phase| phase.name()).collect();
        phases.sort_unstable();
        assert_eq!(keys(&json["phases_us"]), phases);
        for phase in phases {
            assert_eq!(keys(&json["phases_us"][phase]), ["mean", "p50", "p99"]);
        }
    }
}

#[test]
fn json_values_are_of_the_kind_that_readers_expect() {
    let json = serde_json::to_value(sample::full()).unwrap();
    assert_eq!(json["durability"], "durable");
    assert_eq!(json["replicas"], 3);
    assert_eq!(json["window"], 64);
    assert!(json["rate"].is_null());
    assert_eq!(json["lost"], 0);
    assert_eq!(json["replicas_agree"], true);
    assert!(json["commits_per_second"].is_f64());
    let json = serde_json::to_value(sample::empty()).unwrap();
    for key in ["commits_per_second", "acked", "lost", "replicas_agree", "clean", "elections", "cpu_seconds"] {
        assert!(json[key].is_null(), "{key} was not measured");
    }
    assert!(json["latency_us"]["p50"].is_null() && json["phases_us"]["wal"]["mean"].is_null());
}

#[test]
fn reports_round_trip_through_json() {
    for report in [sample::empty(), sample::full()] {
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}

#[test]
fn indexing_by_phase_finds_the_field_of_that_name() {
    let phases = sample::full().phases_us;
    let json = serde_json::to_value(phases).unwrap();
    for phase in Phase::ALL {
        assert_eq!(json[phase.name()]["p50"].as_f64(), phases[phase].p50, "{}", phase.name());
    }
}

#[test]
fn throughput_follows_from_commits_time_and_payload() {
    let mut report = sample::empty();
    report.measured(1_000_000, Duration::from_secs(4));
    assert_eq!((report.commits_per_second, report.megabytes_per_second), (Some(250_000.0), Some(32.0)));
    report.measured(0, Duration::ZERO);
    assert_eq!((report.commits_per_second, report.megabytes_per_second), (None, None));
}

#[test]
fn the_text_says_it_all_and_ends_with_the_files() {
    let text = sample::full().text(&["a/report.html".as_ref(), "a/report.json".as_ref()]);
    for part in [
        "3 replicas, 8 groups, 1 shard each, 128 B entries; closed loop, window of 64 per group",
        "leader killed after 6 s",
        "durability: durable",
        "verified: 4,123,456 acknowledged entries",
        "512 of unknown outcome, of which 97 took effect",
        "node 1: 87.0 MiB",
        "killed node 1",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert!(text.ends_with("  report  a/report.html\n          a/report.json\n"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 110), "{text}");
}

#[test]
fn tables_are_aligned() {
    let text = sample::full().text(&[]);
    let rows: Vec<_> = text.lines().skip_while(|line| !line.contains("where the time goes")).take(11).collect();
    assert_eq!(rows.len(), 11);
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    let latency: Vec<_> = text.lines().skip_while(|line| !line.contains("latency us")).take(2).collect();
    assert_eq!(latency[0].len(), latency[1].len(), "{text}");
}

#[test]
fn text_shows_a_dash_for_what_was_not_measured() {
    let text = sample::empty().text(&[]);
    let digits_in = |part: &str| {
        let line = text.lines().find(|line| line.contains(part)).expect(part);
        line.replace(part, "").chars().any(|c| c.is_ascii_digit())
    };
    for part in ["throughput", "elections", "memory", "  total ", "  remote_wal ", "not verified"] {
        assert!(!digits_in(part), "{part} shows a number in:\n{text}");
    }
}

#[test]
fn a_violation_is_loud() {
    let mut report = sample::full();
    report.verification.lost = Some(3);
    report.verification.clean = Some(false);
    report.verification.replicas_agree = Some(false);
    report.verification.violations = vec!["group 0: node 2 lacks".into()];
    let text = report.text(&[]);
    for part in ["VIOLATED", "3 lost", "DISAGREE", "    group 0: node 2 lacks"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("verified:"), "{text}");
}

#[test]
fn tmpfs_is_named() {
    let mut report = sample::full();
    report.durability = Durability::None;
    assert!(report.text(&[]).contains("durability: none (the directory is on tmpfs"));
}
