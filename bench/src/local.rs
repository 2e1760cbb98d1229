//! `synod-bench local`: replicas on this machine, load, verification, report.
//!
//! Invariants: no child outlives the run, however it ends; the report is written only after the verdict.

mod cluster;
mod process;

pub use cluster::ClusterError;
pub use process::ProcessError;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::args::Plan;
use crate::files::{FilesError, RunDir, prepare_reports, write_reports};
use crate::histogram::LatencyHistogram;
use crate::live::{Live, Sample as Shown, Stage};
use crate::messages::{PhaseTimes, Sample};
use crate::report::{Event, LatencyUs, Machine, PhaseUs, PhasesUs, ReplicaMemory, Report, Second, Verification};
use crate::verify::{Acknowledged, GroupEvidence, ReplicaEvidence, Verdict, verdict};
use cluster::Cluster;

/// How long a killed replica stays away.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// The live line and the timeline have one point a second.
const SECOND: Duration = Duration::from_secs(1);

/// A run that came to no verdict.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A directory or file.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The processes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Runs it all and prints the report. True if nothing was violated.
///
/// # Errors
/// When the run could not be carried out.
pub fn run(plan: &Plan, command: String) -> Result<bool, LocalError> {
    let dir = RunDir::open(&plan.dir)?;
    prepare_reports(&plan.outputs)?;
    let conditions = &plan.conditions;
    let durability = dir.durability(conditions.sync);
    let report = Report::unmeasured(conditions.clone(), durability, Machine::here(), command);
    let mut run = Run { plan, report, live: Live::stderr(), latencies: LatencyHistogram::new(), errors: 0 };

    run.idle(Stage::Start, Duration::ZERO);
    let mut cluster = Cluster::start(&dir, conditions)?;
    cluster.settle(conditions.groups, |elapsed| run.idle(Stage::Start, elapsed))?;
    cluster.load(conditions)?;
    run.warm_up(&mut cluster)?;
    run.measure(&mut cluster)?;
    let outcomes = cluster.stop_load()?;
    let verdict = run.verify(&mut cluster, outcomes)?;
    drop(cluster);
    run.live.finish();

    let Run { mut report, latencies, .. } = run;
    report.latency_us = LatencyUs::from(&latencies);
    report.verification = Verification::from(&verdict);
    write_reports(&report, &latencies, &plan.outputs)?;
    let files = plan.outputs.named().map(|(_, path)| path);
    print!("{}", report.text(&files));
    Ok(verdict.is_clean())
}

struct Run<'a> {
    plan: &'a Plan,
    report: Report,
    live: Live<std::io::Stderr>,
    /// Of the measured time.
    latencies: LatencyHistogram,
    errors: u64,
}

/// A kill on its way.
#[derive(Clone, Copy)]
enum Kill {
    None,
    At(Instant),
    RestartAt(Instant, u64),
}

impl Run<'_> {
    fn idle(&mut self, stage: Stage, elapsed: Duration) {
        let errors = self.errors;
        self.live.show(&Shown { stage, elapsed, commits_per_second: None, p50_us: None, p99_us: None, errors });
    }

    fn show(&mut self, stage: Stage, elapsed: Duration, sample: &Sample, within: Duration) {
        self.errors += sample.unknown + sample.refused;
        self.live.show(&Shown {
            stage,
            elapsed,
            commits_per_second: Some(sample.commits as f64 / within.as_secs_f64().max(1e-9)),
            p50_us: sample.latencies.quantile_us(0.5),
            p99_us: sample.latencies.quantile_us(0.99),
            errors: self.errors,
        });
    }

    fn warm_up(&mut self, cluster: &mut Cluster) -> Result<(), LocalError> {
        let start = Instant::now();
        let end = start + self.plan.conditions.warmup();
        let mut last = start;
        while Instant::now() < end {
            sleep_until(end.min(last + SECOND));
            cluster.check()?;
            let sample = cluster.sample()?;
            let now = Instant::now();
            self.show(Stage::WarmUp, now - start, &sample, now - last);
            last = now;
        }
        Ok(())
    }

    fn measure(&mut self, cluster: &mut Cluster) -> Result<(), LocalError> {
        cluster.measure()?;
        let start = Instant::now();
        let end = start + self.plan.conditions.measured();
        let cpu_before = cluster.cpu_seconds();
        let mut cpu_of_the_dead = 0.0;
        let mut kill = self.plan.conditions.kill_leader_after().map_or(Kill::None, |after| Kill::At(start + after));
        let (mut commits, mut refused, mut second) = (0, 0, 0);
        let mut last = start;
        loop {
            let next_second = end.min(start + SECOND * (second + 1));
            match kill {
                Kill::At(at) if at <= next_second => {
                    sleep_until(at);
                    kill = Kill::None;
                    match cluster.kill_leader()? {
                        Some((node, cpu_seconds)) => {
                            cpu_of_the_dead += cpu_seconds;
                            kill = Kill::RestartAt(Instant::now() + RESTART_AFTER, node);
                            self.event(start, format!("killed node {node}, the leader of group 1"));
                        }
                        None => self.event(start, "group 1 had no leader to kill".to_owned()),
                    }
                    continue;
                }
                Kill::RestartAt(at, node) if at <= next_second => {
                    sleep_until(at);
                    cluster.restart(node)?;
                    kill = Kill::None;
                    self.event(start, format!("restarted node {node}"));
                    continue;
                }
                _ => {}
            }
            sleep_until(next_second);
            cluster.check()?;
            let sample = cluster.sample()?;
            let now = Instant::now();
            self.show(Stage::Measure, now - start, &sample, now - last);
            self.latencies.merge(&sample.latencies);
            (commits, refused) = (commits + sample.commits, refused + sample.refused);
            self.report.timeline.push(Second {
                second,
                commits: sample.commits,
                p50_us: sample.latencies.quantile_us(0.5),
                p99_us: sample.latencies.quantile_us(0.99),
                errors: sample.unknown + sample.refused,
            });
            (second, last) = (second + 1, now);
            if end <= next_second {
                break;
            }
        }
        self.report.measured(commits, last - start);
        self.report.refused = Some(refused);
        self.report.cpu_seconds =
            cluster.cpu_seconds().zip(cpu_before).map(|(after, before)| after + cpu_of_the_dead - before);
        self.report.memory = cluster
            .memory()
            .map(|(node, rss_bytes, rss_peak_bytes)| ReplicaMemory { node, rss_bytes, rss_peak_bytes })
            .collect();
        if let Kill::RestartAt(at, node) = kill {
            sleep_until(at);
            cluster.restart(node)?;
            self.event(start, format!("restarted node {node}"));
        }
        self.phases(cluster)
    }

    fn event(&mut self, start: Instant, what: String) {
        self.live.note(&what);
        let at_seconds = (start.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        self.report.events.push(Event { at_seconds, what });
    }

    fn phases(&mut self, cluster: &mut Cluster) -> Result<(), LocalError> {
        let mut by_name: BTreeMap<String, LatencyHistogram> = BTreeMap::new();
        let mut elections = 0;
        for PhaseTimes { phases, elections: won } in cluster.phases()? {
            elections += won;
            for (name, histogram) in phases {
                by_name.entry(name).or_default().merge(&histogram);
            }
        }
        let phase = |name: &str| by_name.get(name).map_or_else(PhaseUs::default, PhaseUs::from);
        self.report.phases_us = PhasesUs {
            queue: phase("queue"),
            batch: phase("batch"),
            wal: phase("wal"),
            remote: phase("remote"),
            remote_wal: phase("remote_wal"),
            network: phase("network"),
            quorum: phase("quorum"),
            apply: phase("apply"),
            complete: phase("complete"),
            total: phase("total"),
        };
        self.report.elections = Some(elections);
        Ok(())
    }

    fn verify(&mut self, cluster: &mut Cluster, outcomes: Vec<(u64, Acknowledged)>) -> Result<Verdict, LocalError> {
        if !cluster.catch_up(|elapsed| self.idle(Stage::Verify, elapsed))? {
            self.live.note("the replicas have not all applied the same; verifying what there is");
        }
        let mut told: BTreeMap<u64, Acknowledged> = BTreeMap::new();
        for (group, outcomes) in &outcomes {
            told.entry(*group).or_default().absorb(outcomes);
        }
        let evidence = cluster.evidence()?;
        let mut groups: BTreeMap<u64, GroupEvidence<'_>> = BTreeMap::new();
        let nothing = Acknowledged::new();
        for group in 1..=u64::from(self.plan.conditions.groups) {
            let acknowledged = told.get(&group).unwrap_or(&nothing);
            groups.insert(group, GroupEvidence { group, acknowledged, replicas: Vec::new() });
        }
        for (node, applied) in &evidence {
            for one in applied {
                let replica =
                    ReplicaEvidence { node: *node, observer: &one.observer, applied: one.applied, chain: one.chain };
                if let Some(group) = groups.get_mut(&one.group) {
                    group.replicas.push(replica);
                }
            }
        }
        let groups: Vec<GroupEvidence<'_>> = groups.into_values().collect();
        Ok(verdict(&groups, usize::from(self.plan.conditions.replicas)))
    }
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}
