//! Sample reports for tests: made up, but of a shape that runs have.

use super::*;

fn phase(p50: f64, p99: f64, mean: f64) -> PhaseUs {
    PhaseUs { p50: Some(p50), p99: Some(p99), mean: Some(mean) }
}

/// Latencies of a run with a tail.
pub(crate) fn histogram() -> LatencyHistogram {
    let mut histogram = LatencyHistogram::new();
    let mut value_ns = 140_000_f64;
    let mut entries = 1_200_000_u64;
    while 0 < entries {
        histogram.record_n(value_ns as u64, entries);
        (value_ns, entries) = (value_ns * 1.13, entries * 7 / 10);
    }
    histogram
}

/// A report in which nothing was measured.
pub(crate) fn empty() -> Report {
    let machine = Machine { cpus: None, kernel: None };
    Report::unmeasured(crate::conditions::sample(), Durability::Durable, machine, "synod-bench local".into())
}

/// A report of a clean run in which a leader was killed.
pub(crate) fn full() -> Report {
    let histogram = histogram();
    let machine = Machine { cpus: Some(2), kernel: Some("6.18.5".into()) };
    let command = "synod-bench local --kill-leader-after 6".to_owned();
    let mut conditions = crate::conditions::sample();
    conditions.kill_leader_after = Some(6.0);
    conditions.client = crate::conditions::Client::Process;
    let mut report = Report::unmeasured(conditions, Durability::Durable, machine, command);
    report.measured(histogram.count(), Duration::from_secs(10));
    report.latency_us = LatencyUs::from(&histogram);
    report.phases_us = PhasesUs {
        queue: phase(4.0, 31.0, 6.1),
        batch: phase(21.0, 96.0, 27.4),
        wal: phase(118.0, 402.0, 131.9),
        remote: phase(142.0, 455.0, 160.2),
        remote_wal: phase(112.0, 371.0, 124.0),
        network: phase(29.0, 96.0, 36.2),
        quorum: phase(149.0, 472.0, 167.8),
        apply: phase(2.0, 9.0, 2.6),
        complete: phase(1.0, 6.0, 1.4),
        total: phase(182.0, 600.0, 205.3),
    };
    report.refused = Some(64);
    report.verification = Verification {
        acked: Some(4_123_456),
        unknown: Some(512),
        unknown_applied: Some(97),
        lost: Some(0),
        duplicated: Some(0),
        reordered: Some(0),
        alien: Some(0),
        acked_twice: Some(0),
        untracked: Some(0),
        replicas_agree: Some(true),
        clean: Some(true),
        violations: Vec::new(),
    };
    report.elections = Some(2);
    report.cpu_seconds = Some(17.42);
    report.memory = (1..=3)
        .map(|node| ReplicaMemory { node, rss_bytes: Some(90_000_000 + node * 1_234_567), rss_peak_bytes: None })
        .collect();
    report.timeline = (0..10)
        .map(|second| Second {
            second,
            commits: [401_200, 411_873, 405_519, 409_004, 398_771, 407_312, 21_043, 361_900, 404_021, 402_800]
                [second as usize],
            p50_us: Some(180.0 + f64::from(second)),
            p99_us: Some(if second == 6 { 912_000.0 } else { 640.0 + f64::from(second * 13 % 7) * 22.0 }),
            errors: u64::from(second == 6) * 576,
        })
        .collect();
    report.events = vec![
        Event { at_seconds: 6.0, what: "killed node 1, a leader".into() },
        Event { at_seconds: 7.2, what: "restarted node 1".into() },
    ];
    report
}
