//! The report as a table for the terminal.

use std::fmt::Write as _;
use std::path::Path;

use super::{Phase, Report};
use crate::conditions::{Client, Durability, Leaders, Load, SyncMode};
use crate::format::{ABSENT, count, decimal, mebibytes, micros, plural, seconds, thousands};

const COLUMN: usize = 10;

pub(super) fn render(report: &Report, files: &[&Path]) -> String {
    let mut out = String::new();
    for section in [conditions(report), throughput(report), latency(report), phases(report), cost(report)] {
        out += &section;
        out.push('\n');
    }
    out += &verification(report);
    if !files.is_empty() {
        out.push('\n');
    }
    for (place, file) in files.iter().enumerate() {
        let head = if place == 0 { "report" } else { "" };
        line(&mut out, format_args!("  {head:<8}{}", file.display()));
    }
    out
}

/// What was run and where, in words; the HTML page says the same.
pub(crate) fn setting(report: &Report) -> [String; 3] {
    let run = &report.conditions;
    let load = match run.load {
        Load::Closed { window } => format!("closed loop, window of {} per group", thousands(window.into())),
        Load::Open { rate } => format!("open loop at {} entries/s, latency from the due time", thousands(rate)),
    };
    let shape = format!(
        "{}, {}, {} each, {} B entries",
        plural(run.replicas.into(), "replica"),
        plural(run.groups.into(), "group"),
        plural(run.shards.into(), "shard"),
        thousands(run.payload.into()),
    );
    let client = match run.client {
        Client::Inside => "load inside the leader",
        Client::Process => "load from a separate process",
    };
    let leaders = match run.leaders {
        Leaders::One => "one node leads",
        Leaders::Spread => "leaders spread over nodes",
    };
    let kill = run.kill_leader_after.map_or_else(String::new, |at| format!(", leader killed after {}", seconds(at)));
    let time = format!("{} measured after {} of warm-up", seconds(run.seconds), seconds(run.warmup));
    [format!("{shape}; {load}"), format!("{client}, {leaders}; {time}{kill}"), worth(report)]
}

/// What an acknowledgement was worth, and on which machine.
fn worth(report: &Report) -> String {
    let durability = match (report.durability, report.conditions.sync) {
        (Durability::Durable, _) => "durable (synced to disk before the answer)",
        (Durability::Os, _) => "os (handed to the kernel, not synced)",
        (Durability::None, SyncMode::Durable) => "none (the directory is on tmpfs: synced, but to memory)",
        (Durability::None, SyncMode::Os) => "none (the directory is on tmpfs)",
    };
    let cpus = report.machine.cpus.map_or_else(|| ABSENT.to_owned(), |cpus| thousands(cpus.into()));
    let kernel = report.machine.kernel.as_deref().unwrap_or(ABSENT);
    format!("durability: {durability}; disk {}; CPUs {cpus}, Linux {kernel}", report.conditions.disk)
}

fn conditions(report: &Report) -> String {
    let mut out = format!("synod-bench {}\n", report.version);
    for sentence in setting(report) {
        line(&mut out, format_args!("  {sentence}"));
    }
    out
}

fn throughput(report: &Report) -> String {
    let time = report.measured_seconds.map_or_else(|| ABSENT.to_owned(), |time| format!("{} s", decimal(time, 1)));
    format!(
        "  throughput  {:>14} commits/s  {:>10} MB/s     {} in {time}\n",
        decimal(report.commits_per_second, 0),
        decimal(report.megabytes_per_second, 1),
        count(report.commits),
    )
}

fn latency(report: &Report) -> String {
    let l = &report.latency_us;
    let columns = [
        ("p50", l.p50),
        ("p90", l.p90),
        ("p99", l.p99),
        ("p99.9", l.p999),
        ("p99.99", l.p9999),
        ("max", l.max),
        ("mean", l.mean),
    ];
    let mut out = row("  latency us", columns.iter().map(|(name, _)| (*name).to_owned()));
    out += &row("", columns.iter().map(|(_, us)| micros(*us)));
    out
}

fn phases(report: &Report) -> String {
    let head = ["p50", "p99", "mean", "of total"].map(str::to_owned);
    let mut out = format!("  {:<48}{}", "where the time goes, us", row("", head).trim_start_matches("            "));
    for phase in Phase::ALL {
        let us = report.phases_us[phase];
        let indent = 2 * phase.depth();
        let share = report.phases_us.share_percent(phase);
        let share = share.map_or_else(|| ABSENT.to_owned(), |share| format!("{share:.0}%"));
        let cells = [micros(us.p50), micros(us.p99), micros(us.mean), share];
        let name = format!("{:indent$}{}", "", phase.name());
        let label = format!("  {name:<16}{:<32}", phase.meaning());
        out += &format!("{label}{}", row("", cells).trim_start_matches("            "));
    }
    out
}

fn cost(report: &Report) -> String {
    let mut out = String::new();
    let cpu = report.cpu_seconds.map_or_else(|| ABSENT.to_owned(), |cpu| format!("{} s", decimal(cpu, 1)));
    let (elections, refused) = (count(report.elections), count(report.refused));
    line(&mut out, format_args!("  elections {elections}    refused {refused}    CPU of all replicas {cpu}"));
    let memory: Vec<_> =
        report.memory.iter().map(|usage| format!("node {}: {}", usage.node, mebibytes(usage.rss_bytes))).collect();
    let memory = if memory.is_empty() { ABSENT.to_owned() } else { memory.join("    ") };
    line(&mut out, format_args!("  memory    {memory}"));
    for event in &report.events {
        line(&mut out, format_args!("  at {:>6} s  {}", decimal(event.at_seconds, 1), event.what));
    }
    out
}

fn verification(report: &Report) -> String {
    let mut out = String::new();
    for (place, sentence) in judgement(report).into_iter().enumerate() {
        let indent = if place == 0 { "" } else { "  " };
        line(&mut out, format_args!("  {indent}{sentence}"));
    }
    out
}

/// The judgement in words, its gist first.
pub(crate) fn judgement(report: &Report) -> Vec<String> {
    let seen = &report.verification;
    let replicas = plural(report.conditions.replicas.into(), "replica");
    let unknown =
        format!("{} of unknown outcome, of which {} took effect", count(seen.unknown), count(seen.unknown_applied));
    match seen.clean {
        None => vec!["not verified: no judgement was reached".to_owned()],
        Some(true) => vec![
            format!(
                "verified: {} acknowledged entries, each exactly once and in order on {replicas} that agree",
                count(seen.acked)
            ),
            unknown,
        ],
        Some(false) => {
            let faults = [
                ("lost", seen.lost),
                ("duplicated", seen.duplicated),
                ("reordered", seen.reordered),
                ("alien", seen.alien),
                ("acknowledged twice", seen.acked_twice),
                ("untracked", seen.untracked),
            ];
            let faults: Vec<_> = faults.iter().map(|(name, number)| format!("{} {name}", count(*number))).collect();
            let agree = match seen.replicas_agree {
                Some(true) => "the replicas agree",
                Some(false) => "the replicas DISAGREE",
                None => "whether the replicas agree is not known",
            };
            let gist =
                format!("VIOLATED: of {} acknowledged entries: {}; {agree}", count(seen.acked), faults.join(", "));
            [gist, unknown].into_iter().chain(seen.violations.iter().cloned()).collect()
        }
    }
}

/// A label and right-aligned cells.
fn row(label: &str, cells: impl IntoIterator<Item = String>) -> String {
    let mut out = format!("{label:<12}");
    for cell in cells {
        write!(out, "{cell:>COLUMN$}").expect("a String takes any text");
    }
    out.push('\n');
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes any text");
}
