//! The report as one self-contained HTML page: no scripts, no fonts, nothing from elsewhere.
//!
//! Invariants: all text from outside passes `escape`; colours in the plots are tokens that the style sheet maps, so
//! that the page follows the reader's light or dark mode.

mod plot;

use std::fmt::Write as _;

use crate::format::{ABSENT, count, decimal, mebibytes, micros, seconds};
use crate::histogram::LatencyHistogram;
use crate::report::{Phase, Report, judgement, setting};

const STYLE: &str = include_str!("html/style.css");

/// The page could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the plot of {plot}: {reason}; the other reports hold the same numbers")]
pub struct HtmlError {
    plot: &'static str,
    reason: String,
}

/// Renders the page.
///
/// # Errors
/// When the plotting library fails.
pub fn render(report: &Report, latencies: &LatencyHistogram) -> Result<String, HtmlError> {
    let mut body = head(report);
    body += &cards(report);
    body += "<div class=\"plots\">\n";
    body += &figure(
        "Latency by percentile",
        "Every entry of the measured time. Both axes are logarithmic: each step to the right is a ten times rarer entry.",
        &[],
        plot::percentiles(latencies)?,
    );
    let marks = events(report);
    body += &figure(
        "Throughput over time",
        &format!("Entries committed in each second.{marks}"),
        &[],
        plot::throughput(report)?,
    );
    body += &figure(
        "Latency over time",
        &format!("Of the entries committed in each second; logarithmic.{marks}"),
        &[("a", "p50"), ("b", "p99")],
        plot::latency(report)?,
    );
    body += &figure(
        "Where the time goes",
        "wal and remote run side by side within quorum; remote_wal and network make up remote.",
        &[("a", "mean"), ("b", "p50 to p99")],
        plot::phases(report)?,
    );
    body += "</div>\n<div class=\"tables\">\n";
    body += &phases(report);
    body += &conditions(report);
    body += "</div>\n";
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>synod-bench report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    ))
}

fn head(report: &Report) -> String {
    let sentences = setting(report).map(|sentence| format!("<p>{}</p>\n", escape(&sentence)));
    let class = match report.verification.clean {
        Some(true) => "good",
        Some(false) => "bad",
        None => "open",
    };
    let mut lines = judgement(report).into_iter().map(|line| escape(&line));
    let gist = lines.next().unwrap_or_default();
    let rest: String = lines.map(|line| format!("<li>{line}</li>")).collect();
    let rest = if rest.is_empty() { rest } else { format!("<ul>{rest}</ul>") };
    format!(
        "<header>\n<h1>synod-bench</h1>\n{}</header>\n<section class=\"verdict {class}\"><strong>{gist}</strong>{rest}</section>\n",
        sentences.concat()
    )
}

fn cards(report: &Report) -> String {
    let l = &report.latency_us;
    let mut out = "<section class=\"cards\">\n".to_owned();
    for (value, unit, what) in [
        (decimal(report.commits_per_second, 0), "/s", "commits"),
        (decimal(report.megabytes_per_second, 1), "MB/s", "of entries"),
        (micros(l.p50), "\u{b5}s", "p50"),
        (micros(l.p99), "\u{b5}s", "p99"),
        (micros(l.p9999), "\u{b5}s", "p99.99"),
        (micros(l.max), "\u{b5}s", "max"),
    ] {
        out += &format!("<div><b>{value}</b> <span>{unit}</span><small>{what}</small></div>\n");
    }
    out + "</section>\n"
}

fn events(report: &Report) -> String {
    let list: Vec<_> =
        report.events.iter().map(|event| format!("{} s {}", decimal(event.at_seconds, 1), event.what)).collect();
    if list.is_empty() { String::new() } else { format!(" Upright lines: {}.", list.join("; ")) }
}

/// A plot with its title, caption and legend, all of them plain text.
fn figure(title: &str, caption: &str, legend: &[(&str, &str)], plot: Option<String>) -> String {
    let plot = plot.unwrap_or_else(|| "<p class=\"none\">not measured</p>\n".to_owned());
    let legend: String =
        legend.iter().map(|(class, name)| format!("<span class=\"key {class}\">{}</span>", escape(name))).collect();
    let (title, caption) = (escape(title), escape(caption));
    format!(
        "<figure>\n<h2>{title}</h2>\n<div class=\"legend\">{legend}</div>\n<div role=\"img\" aria-label=\"{title}\">{plot}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )
}

fn phases(report: &Report) -> String {
    let mut out =
        "<section>\n<h2>Phases</h2>\n<table class=\"numbers\">\n<thead><tr><th>phase, \u{b5}s</th><th>p50</th>\
        <th>p99</th><th>mean</th><th>of total</th></tr></thead>\n<tbody>\n"
            .to_owned();
    for phase in Phase::ALL {
        let us = report.phases_us[phase];
        let share = report.phases_us.share_percent(phase);
        let share = share.map_or_else(|| ABSENT.to_owned(), |share| format!("{share:.0}%"));
        writeln!(
            out,
            "<tr><th class=\"depth{}\" title=\"{}\">{}<small>{}</small></th><td>{}</td><td>{}</td><td>{}</td><td>{share}</td></tr>",
            phase.depth(),
            phase.meaning(),
            phase.name(),
            phase.meaning(),
            micros(us.p50),
            micros(us.p99),
            micros(us.mean),
        )
        .expect("a String takes any text");
    }
    out + "</tbody>\n</table>\n</section>\n"
}

fn conditions(report: &Report) -> String {
    let run = &report.conditions;
    let memory: Vec<_> =
        report.memory.iter().map(|usage| format!("node {}: {}", usage.node, mebibytes(usage.rss_bytes))).collect();
    let rows = [
        ("command", report.command.clone()),
        ("version", report.version.clone()),
        ("replicas", run.replicas.to_string()),
        ("groups", count(u64::from(run.groups))),
        ("shards per replica", run.shards.to_string()),
        ("payload", format!("{} B", count(u64::from(run.payload)))),
        ("window per group", count(run.window().map(u64::from))),
        ("rate", run.rate().map_or_else(|| ABSENT.to_owned(), |rate| format!("{} entries/s", count(rate)))),
        ("measured", report.measured_seconds.map_or_else(|| ABSENT.to_owned(), seconds)),
        ("asked for", seconds(run.seconds)),
        ("warm-up", seconds(run.warmup)),
        ("sync", run.sync.to_string()),
        ("durability", report.durability.to_string()),
        ("load", run.client.to_string()),
        ("leaders", run.leaders.to_string()),
        ("leader killed after", run.kill_leader_after.map_or_else(|| ABSENT.to_owned(), seconds)),
        ("disk backend", run.disk.to_string()),
        ("log kept per shard", format!("{} MiB", count(run.retain_mib))),
        ("commits measured", count(report.commits)),
        ("refused", count(report.refused)),
        ("elections", count(report.elections)),
        (
            "CPU of all replicas",
            report.cpu_seconds.map_or_else(|| ABSENT.to_owned(), |cpu| format!("{} s", decimal(cpu, 1))),
        ),
        ("memory", if memory.is_empty() { ABSENT.to_owned() } else { memory.join(", ") }),
        ("CPUs", count(report.machine.cpus.map(u64::from))),
        ("kernel", report.machine.kernel.clone().unwrap_or_else(|| ABSENT.to_owned())),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value))).collect();
    format!("<section>\n<h2>Conditions</h2>\n<table>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n")
}

/// Text that means nothing to HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
