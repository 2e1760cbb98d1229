//! The report of a run: JSON for programs, a table for people.
//!
//! Invariant: a number that was not measured is `None`: `null` in JSON, `-` in text. Keys never come and go.

mod text;

pub(crate) use text::{judgement, setting};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::conditions::{Conditions, Durability};
use crate::histogram::LatencyHistogram;
use crate::verify::Verdict;

/// All that a run found, under the conditions it found it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the bench and of the engine beneath it.
    pub version: String,
    /// The command line that repeats the run.
    pub command: String,
    /// What was run, as flat keys.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// What an acknowledgement was worth, given the directory's file system.
    pub durability: Durability,
    /// Where it ran.
    pub machine: Machine,
    /// Seconds that were really measured.
    pub measured_seconds: Option<f64>,
    /// Entries committed in that time.
    pub commits: Option<u64>,
    /// Entries committed per second.
    pub commits_per_second: Option<f64>,
    /// Megabytes (10^6 bytes) of entries committed per second.
    pub megabytes_per_second: Option<f64>,
    /// Latency of the entries committed in the measured time.
    pub latency_us: LatencyUs,
    /// Where that time went.
    pub phases_us: PhasesUs,
    /// Proposals that were refused, and so never took effect.
    pub refused: Option<u64>,
    /// The judgement over the whole run, warm-up included, as flat keys.
    #[serde(flatten)]
    pub verification: Verification,
    /// Elections won in the measured time.
    pub elections: Option<u64>,
    /// CPU time of all replica processes in the measured time.
    pub cpu_seconds: Option<f64>,
    /// Memory of each replica process.
    pub memory: Vec<ReplicaMemory>,
    /// Each second of the measured time.
    pub timeline: Vec<Second>,
    /// What was done to the cluster meanwhile.
    pub events: Vec<Event>,
}

impl Report {
    /// A report in which nothing is measured yet.
    #[must_use]
    pub fn unmeasured(conditions: Conditions, durability: Durability, machine: Machine, command: String) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            conditions,
            durability,
            machine,
            measured_seconds: None,
            commits: None,
            commits_per_second: None,
            megabytes_per_second: None,
            latency_us: LatencyUs::default(),
            phases_us: PhasesUs::default(),
            refused: None,
            verification: Verification::default(),
            elections: None,
            cpu_seconds: None,
            memory: Vec::new(),
            timeline: Vec::new(),
            events: Vec::new(),
        }
    }

    /// States the throughput: `commits` entries within `time`. Without time there is no rate.
    pub fn measured(&mut self, commits: u64, time: Duration) {
        let seconds = time.as_secs_f64();
        self.commits = Some(commits);
        self.measured_seconds = Some(round3(seconds));
        let rate = (0.0 < seconds).then(|| commits as f64 / seconds);
        self.commits_per_second = rate.map(round3);
        self.megabytes_per_second = rate.map(|rate| round3(rate * f64::from(self.conditions.payload) / 1e6));
    }

    /// A table for the terminal that ends with the paths of `files`.
    #[must_use]
    pub fn text(&self, files: &[&std::path::Path]) -> String {
        text::render(self, files)
    }
}

/// Where a run ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// CPUs that the run could use.
    pub cpus: Option<u32>,
    /// The kernel's release.
    pub kernel: Option<String>,
}

/// Latency in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyUs {
    /// Half of all entries took at most this.
    pub p50: Option<f64>,
    /// 90% did.
    pub p90: Option<f64>,
    /// 99% did.
    pub p99: Option<f64>,
    /// 99.9% did.
    pub p999: Option<f64>,
    /// 99.99% did.
    pub p9999: Option<f64>,
    /// All did.
    pub max: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
}

impl From<&LatencyHistogram> for LatencyUs {
    fn from(histogram: &LatencyHistogram) -> Self {
        let at = |quantile| histogram.quantile_us(quantile);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max_us(),
            mean: histogram.mean_us(),
        }
    }
}

/// One phase of a commit, in microseconds, weighted by entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseUs {
    /// Half of all entries took at most this.
    pub p50: Option<f64>,
    /// 99% did.
    pub p99: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
}

impl From<&LatencyHistogram> for PhaseUs {
    fn from(histogram: &LatencyHistogram) -> Self {
        Self { p50: histogram.quantile_us(0.5), p99: histogram.quantile_us(0.99), mean: histogram.mean_us() }
    }
}

/// The phases of a commit. Serial ones add up to `total`; `wal` and `remote` run side by side within `quorum`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PhasesUs {
    /// From the proposal until the shard takes it up.
    pub queue: PhaseUs,
    /// Until its batch is closed.
    pub batch: PhaseUs,
    /// From there until the leader's own record is durable.
    pub wal: PhaseUs,
    /// From the frame's way to the socket until the acknowledgement that completes the quorum.
    pub remote: PhaseUs,
    /// The part of `remote` that the follower spent on its disk.
    pub remote_wal: PhaseUs,
    /// The rest of `remote`.
    pub network: PhaseUs,
    /// From the closed batch until its slot is chosen.
    pub quorum: PhaseUs,
    /// Until it is applied.
    pub apply: PhaseUs,
    /// Until the proposer knows.
    pub complete: PhaseUs,
    /// All of it.
    pub total: PhaseUs,
}

/// The name of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained at the field of PhasesUs that bears its name")]
pub enum Phase {
    Queue,
    Batch,
    Wal,
    Remote,
    RemoteWal,
    Network,
    Quorum,
    Apply,
    Complete,
    Total,
}

impl Phase {
    /// All phases in the order in which they are read: what is within another follows it.
    pub const ALL: [Self; 10] = [
        Self::Queue,
        Self::Batch,
        Self::Quorum,
        Self::Wal,
        Self::Remote,
        Self::RemoteWal,
        Self::Network,
        Self::Apply,
        Self::Complete,
        Self::Total,
    ];

    /// Its key in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Batch => "batch",
            Self::Wal => "wal",
            Self::Remote => "remote",
            Self::RemoteWal => "remote_wal",
            Self::Network => "network",
            Self::Quorum => "quorum",
            Self::Apply => "apply",
            Self::Complete => "complete",
            Self::Total => "total",
        }
    }

    /// What the time is spent on, in a few words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Queue => "waiting for the shard's turn",
            Self::Batch => "waiting for the batch to close",
            Self::Quorum => "until a quorum has it",
            Self::Wal => "the leader's own disk",
            Self::Remote => "the peers, side by side with wal",
            Self::RemoteWal => "their disk",
            Self::Network => "all the rest of remote",
            Self::Apply => "applying it",
            Self::Complete => "telling the proposer",
            Self::Total => "from proposal to completion",
        }
    }

    /// How deep it lies within other phases.
    #[must_use]
    pub const fn depth(self) -> usize {
        match self {
            Self::Wal | Self::Remote => 1,
            Self::RemoteWal | Self::Network => 2,
            _ => 0,
        }
    }
}

impl std::ops::Index<Phase> for PhasesUs {
    type Output = PhaseUs;

    fn index(&self, phase: Phase) -> &PhaseUs {
        match phase {
            Phase::Queue => &self.queue,
            Phase::Batch => &self.batch,
            Phase::Wal => &self.wal,
            Phase::Remote => &self.remote,
            Phase::RemoteWal => &self.remote_wal,
            Phase::Network => &self.network,
            Phase::Quorum => &self.quorum,
            Phase::Apply => &self.apply,
            Phase::Complete => &self.complete,
            Phase::Total => &self.total,
        }
    }
}

impl PhasesUs {
    /// The share of `total`'s mean that `phase` has, in percent.
    #[must_use]
    pub fn share_percent(&self, phase: Phase) -> Option<f64> {
        let (part, total) = (self[phase].mean?, self.total.mean?);
        (0.0 < total).then(|| 100.0 * part / total)
    }
}

/// The judgement; all `None` before there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Entries acknowledged.
    pub acked: Option<u64>,
    /// Entries of unknown outcome.
    pub unknown: Option<u64>,
    /// Those of them that took effect.
    pub unknown_applied: Option<u64>,
    /// Acknowledged entries that a replica lacks.
    pub lost: Option<u64>,
    /// Entries that took effect again.
    pub duplicated: Option<u64>,
    /// Entries behind a later one of their producer.
    pub reordered: Option<u64>,
    /// Entries that nobody proposed, or that were refused.
    pub alien: Option<u64>,
    /// Entries acknowledged twice.
    pub acked_twice: Option<u64>,
    /// Entries that could not be verified.
    pub untracked: Option<u64>,
    /// Whether all replicas hold the same.
    pub replicas_agree: Option<bool>,
    /// Whether nothing was violated.
    pub clean: Option<bool>,
    /// What was violated, in words.
    pub violations: Vec<String>,
}

impl From<&Verdict> for Verification {
    fn from(verdict: &Verdict) -> Self {
        Self {
            acked: Some(verdict.acked),
            unknown: Some(verdict.unknown),
            unknown_applied: Some(verdict.unknown_applied),
            lost: Some(verdict.lost),
            duplicated: Some(verdict.duplicated),
            reordered: Some(verdict.reordered),
            alien: Some(verdict.alien),
            acked_twice: Some(verdict.acked_twice),
            untracked: Some(verdict.untracked),
            replicas_agree: Some(verdict.replicas_agree),
            clean: Some(verdict.is_clean()),
            violations: verdict.details.clone(),
        }
    }
}

/// Memory of a replica process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaMemory {
    /// Its node.
    pub node: u64,
    /// Resident bytes at the end of the measured time.
    pub rss_bytes: Option<u64>,
    /// Most resident bytes so far.
    pub rss_peak_bytes: Option<u64>,
}

/// One second of the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its number; the first is 0.
    pub second: u32,
    /// Entries committed within it.
    pub commits: u64,
    /// Their median latency, in microseconds.
    pub p50_us: Option<f64>,
    /// Their 99% latency, in microseconds.
    pub p99_us: Option<f64>,
    /// Proposals refused or of unknown outcome within it.
    pub errors: u64,
}

/// Something that was done to the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in seconds of measured time.
    pub at_seconds: f64,
    /// What.
    pub what: String,
}

fn round3(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
