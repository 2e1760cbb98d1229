//! The replica processes of a run and the client beside them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use synod::{Config, DiskBackend, Member, Node, StartError, Sync};

use super::process::{Process, ProcessError};
use crate::conditions::{Client, Conditions, Disk, Leaders, SyncMode};
use crate::files::RunDir;
use crate::messages::{Answer, Applied, GroupStatus, LoadPlan, Order, PhaseTimes, Sample};
use crate::verify::Acknowledged;

/// How long a child may take to start: it may have a log to read.
const START_MAX: Duration = Duration::from_secs(60);
/// How long an answer may take; a load waits half a minute for what is outstanding.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const ELECTION_MAX: Duration = Duration::from_secs(30);
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
/// How long the log's files may take to be made; zeroing them is plain writing.
const PREPARE_MAX: Duration = Duration::from_secs(300);
/// For so long no file of the log may come or go before it counts as prepared.
const PREPARED_FOR: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(20);

const SEGMENT_MIB: u64 = 64;
/// Segments that a restarted replica keeps zeroed ahead.
const RESTART_SPARES: usize = 2;
/// The log may grow so much beyond what it keeps before proposals are refused.
const WAL_ROOM_MIB: u64 = 2048;
/// Ports that no outgoing connection is given, on a usual Linux: a replica that is killed finds its own again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The cluster could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A child went wrong.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A node's directory could not be made.
    #[error(transparent)]
    Init(#[from] StartError),
    /// A file could not be written.
    #[error("{}: {source}; check its permissions and free space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No port is free.
    #[error("no free port on 127.0.0.1 between {} and {}: stop what uses them", PORTS.start, PORTS.end)]
    NoPort,
    /// Something took too long.
    #[error("{what} after {waited:?}; the logs are {}", logs.display())]
    TooLong {
        /// What has not happened.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// Where the logs are.
        logs: PathBuf,
    },
}

struct Replica {
    node: u64,
    config: Config,
    process: Process,
    /// It was killed or restarted: nothing is asked of it until it is up again.
    down: bool,
}

/// All child processes; dropped, they are killed.
pub(super) struct Cluster {
    dir: PathBuf,
    replicas: Vec<Replica>,
    client: Option<Process>,
    segments: usize,
    shards: u16,
}

impl Cluster {
    /// Makes the nodes' directories and starts all processes.
    pub(super) fn start(dir: &RunDir, conditions: &Conditions) -> Result<Self, ClusterError> {
        let configs = configs(dir, conditions)?;
        let segments = configs[0].spare_segments;
        let cluster_file = dir.path().join("cluster.toml");
        write_toml(&cluster_file, &configs[0].cluster())?;
        let mut cluster = Self {
            dir: dir.path().to_owned(),
            replicas: Vec::new(),
            client: None,
            segments,
            shards: conditions.shards,
        };
        for config in configs {
            Node::init(&config)?;
            let process = start_replica(dir.path(), &config)?;
            cluster.replicas.push(Replica { node: config.node, config, process, down: false });
        }
        for replica in &mut cluster.replicas {
            hear_ready(&mut replica.process)?;
        }
        if conditions.client == Client::Process {
            let log = dir.path().join("client.log");
            let arguments = ["client".as_ref(), cluster_file.as_os_str()];
            let mut client = Process::start("the client".to_owned(), &arguments, &log)?;
            hear_ready(&mut client)?;
            cluster.client = Some(client);
        }
        Ok(cluster)
    }

    /// Waits until each group has a leader and every file of the logs is made. `alive` is called between looks.
    pub(super) fn settle(&mut self, groups: u32, mut alive: impl FnMut(Duration)) -> Result<(), ClusterError> {
        let start = Instant::now();
        while leaders(&self.status()?).len() < groups as usize {
            self.in_time(start, ELECTION_MAX, "not all groups have a leader")?;
            std::thread::sleep(POLL);
            alive(start.elapsed());
        }
        let (mut files, mut since) = (self.segment_files(), Instant::now());
        // Without the one that is open.
        let wanted = self.segments * self.replicas.len() * usize::from(self.shards);
        while files.len() < wanted || since.elapsed() < PREPARED_FOR {
            self.in_time(start, PREPARE_MAX, "the logs' files are not all made")?;
            std::thread::sleep(POLL);
            let now = self.segment_files();
            if now != files {
                (files, since) = (now, Instant::now());
            }
            alive(start.elapsed());
        }
        Ok(())
    }

    fn in_time(&mut self, start: Instant, limit: Duration, what: &str) -> Result<(), ClusterError> {
        self.check()?;
        if start.elapsed() < limit {
            return Ok(());
        }
        Err(ClusterError::TooLong { what: what.to_owned(), waited: limit, logs: self.dir.join("node-*.log") })
    }

    /// The names of all finished segments, and of those in the making.
    fn segment_files(&self) -> Vec<PathBuf> {
        let shard_dirs = self.replicas.iter().flat_map(|replica| {
            let dir = self.dir.join(format!("node-{}", replica.node));
            (0..self.shards).map(move |shard| dir.join(format!("shard-{shard}")))
        });
        let mut files: Vec<PathBuf> = shard_dirs
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        files.sort();
        files
    }

    /// An error if a child has died unasked.
    pub(super) fn check(&mut self) -> Result<(), ClusterError> {
        for replica in self.replicas.iter_mut().filter(|replica| !replica.down) {
            replica.process.check()?;
        }
        if let Some(client) = &mut self.client {
            client.check()?;
        }
        Ok(())
    }

    fn loads(&mut self) -> Vec<&mut Process> {
        match &mut self.client {
            Some(client) => vec![client],
            None => self.replicas.iter_mut().map(|replica| &mut replica.process).collect(),
        }
    }

    /// Starts the load.
    pub(super) fn load(&mut self, conditions: &Conditions) -> Result<(), ClusterError> {
        for (at, process) in self.loads().into_iter().enumerate() {
            let plan = LoadPlan {
                groups: conditions.groups.into(),
                shards: conditions.shards.into(),
                payload: conditions.payload,
                load: conditions.load,
                origin: at as u32 + 1,
            };
            ask(process, &Order::Load(plan), done)?;
        }
        Ok(())
    }

    /// The measured time begins.
    pub(super) fn measure(&mut self) -> Result<(), ClusterError> {
        // The load comes last: what it measures is what was asked for.
        let replicas = self.replicas.iter_mut().map(|replica| &mut replica.process);
        let mut all: Vec<_> = replicas.chain(self.client.as_mut()).collect();
        ask_all(&mut all, &Order::Measure, done)?;
        Ok(())
    }

    /// What all loads did since the last time.
    pub(super) fn sample(&mut self) -> Result<Sample, ClusterError> {
        let samples = ask_all(&mut self.loads(), &Order::Sample, |answer| match answer {
            Answer::Sample(sample) => Some(sample),
            _ => None,
        })?;
        let mut sum = Sample::default();
        samples.iter().for_each(|sample| sum.merge(sample));
        Ok(sum)
    }

    /// Stops the load and collects what it was told, by group.
    pub(super) fn stop_load(&mut self) -> Result<Vec<(u64, Acknowledged)>, ClusterError> {
        let all = ask_all(&mut self.loads(), &Order::StopLoad, |answer| match answer {
            Answer::Outcomes(outcomes) => Some(outcomes),
            _ => None,
        })?;
        Ok(all.into_iter().flatten().collect())
    }

    fn up(&mut self) -> impl Iterator<Item = &mut Replica> {
        self.replicas.iter_mut().filter(|replica| !replica.down)
    }

    /// The phases and elections of all replicas that are up.
    pub(super) fn phases(&mut self) -> Result<Vec<PhaseTimes>, ClusterError> {
        let mut up: Vec<_> = self.up().map(|replica| &mut replica.process).collect();
        ask_all(&mut up, &Order::Phases, |answer| match answer {
            Answer::Phases(times) => Some(times),
            _ => None,
        })
    }

    /// How far each replica that is up is: (node, groups).
    pub(super) fn status(&mut self) -> Result<Vec<(u64, Vec<GroupStatus>)>, ClusterError> {
        let nodes: Vec<u64> = self.up().map(|replica| replica.node).collect();
        let mut up: Vec<_> = self.up().map(|replica| &mut replica.process).collect();
        let status = ask_all(&mut up, &Order::Status, |answer| match answer {
            Answer::Status(status) => Some(status),
            _ => None,
        })?;
        Ok(nodes.into_iter().zip(status).collect())
    }

    /// What each replica applied: (node, groups).
    pub(super) fn evidence(&mut self) -> Result<Vec<(u64, Vec<Applied>)>, ClusterError> {
        let mut evidence = Vec::new();
        for replica in &mut self.replicas {
            let applied = ask(&mut replica.process, &Order::Evidence, |answer| match answer {
                Answer::Evidence(applied) => Some(applied),
                _ => None,
            })?;
            evidence.push((replica.node, applied));
        }
        Ok(evidence)
    }

    /// Waits until all replicas have applied the same. True if they have; a replica that does not get there in time is
    /// for the verdict to judge.
    pub(super) fn catch_up(&mut self, mut alive: impl FnMut(Duration)) -> Result<bool, ClusterError> {
        for replica in self.replicas.iter_mut().filter(|replica| replica.down) {
            hear_ready(&mut replica.process)?;
            replica.down = false;
        }
        let start = Instant::now();
        while start.elapsed() < CATCH_UP_MAX {
            let status = self.status()?;
            let seen = status.iter().flat_map(|(_, groups)| groups).all(|group| group.applied == group.observed);
            let facts = |groups: &[GroupStatus]| {
                groups.iter().map(|group| (group.group, group.slot, group.applied)).collect::<Vec<_>>()
            };
            if seen && status.windows(2).all(|pair| facts(&pair[0].1) == facts(&pair[1].1)) {
                return Ok(true);
            }
            std::thread::sleep(POLL);
            alive(start.elapsed());
        }
        Ok(false)
    }

    /// CPU time of all replica processes so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        self.replicas.iter().map(|replica| replica.process.cpu_seconds()).sum()
    }

    /// Each replica's node, resident bytes, and most resident bytes.
    pub(super) fn memory(&self) -> impl Iterator<Item = (u64, Option<u64>, Option<u64>)> {
        self.replicas.iter().map(|replica| {
            let (now, peak) = replica.process.memory();
            (replica.node, now, peak)
        })
    }

    /// Kills the replica that leads group 1. Gives its node, and the CPU time that it had used.
    pub(super) fn kill_leader(&mut self) -> Result<Option<(u64, f64)>, ClusterError> {
        let status = self.status()?;
        let leads = |groups: &[GroupStatus]| groups.iter().any(|group| group.group == 1 && group.leads);
        let Some(node) = status.iter().find(|(_, groups)| leads(groups)).map(|(node, _)| *node) else {
            return Ok(None);
        };
        let replica = self.replicas.iter_mut().find(|replica| replica.node == node).expect("it has answered");
        let cpu_seconds = replica.process.cpu_seconds().unwrap_or(0.0);
        replica.process.kill();
        replica.down = true;
        Ok(Some((node, cpu_seconds)))
    }

    /// Starts a killed replica again, on the same directory. It is asked nothing before [`Cluster::catch_up`].
    pub(super) fn restart(&mut self, node: u64) -> Result<(), ClusterError> {
        let replica = self.replicas.iter_mut().find(|replica| replica.node == node).expect("it was there");
        // It comes back to a log with files enough: zeroing more would disturb what is measured.
        replica.config.spare_segments = RESTART_SPARES;
        replica.process = start_replica(&self.dir, &replica.config)?;
        Ok(())
    }
}

/// The groups that have a leader, ascending.
fn leaders(status: &[(u64, Vec<GroupStatus>)]) -> std::collections::BTreeSet<u64> {
    status.iter().flat_map(|(_, groups)| groups).filter(|group| group.leads).map(|group| group.group).collect()
}

fn start_replica(dir: &Path, config: &Config) -> Result<Process, ClusterError> {
    let name = format!("node-{}", config.node);
    let path = dir.join(format!("{name}.toml"));
    write_toml(&path, config)?;
    let log = dir.join(format!("{name}.log"));
    Ok(Process::start(format!("node {}", config.node), &["replica".as_ref(), path.as_os_str()], &log)?)
}

fn hear_ready(process: &mut Process) -> Result<(), ProcessError> {
    match process.hear(START_MAX)? {
        Answer::Ready => Ok(()),
        _ => Err(process.out_of_turn()),
    }
}

fn done(answer: Answer) -> Option<()> {
    (answer == Answer::Done).then_some(())
}

fn ask<T>(process: &mut Process, order: &Order, want: fn(Answer) -> Option<T>) -> Result<T, ClusterError> {
    let mut answers = ask_all(&mut [process], order, want)?;
    Ok(answers.pop().expect("one was asked"))
}

/// Orders all of them, then hears all of them: they work side by side.
fn ask_all<T>(
    processes: &mut [&mut Process],
    order: &Order,
    want: fn(Answer) -> Option<T>,
) -> Result<Vec<T>, ClusterError> {
    for process in &mut *processes {
        process.tell(order)?;
    }
    let mut answers = Vec::new();
    for process in processes {
        let answer = process.hear(ANSWER_MAX)?;
        answers.push(want(answer).ok_or_else(|| process.out_of_turn())?);
    }
    Ok(answers)
}

fn write_toml(path: &Path, value: &impl serde::Serialize) -> Result<(), ClusterError> {
    let text = toml::to_string(value).expect("a configuration is a table of plain values");
    std::fs::write(path, text).map_err(|source| ClusterError::Write { path: path.to_owned(), source })
}

fn configs(dir: &RunDir, conditions: &Conditions) -> Result<Vec<Config>, ClusterError> {
    let nodes = 1..=u64::from(conditions.replicas);
    let ports = free_ports(conditions.replicas.into()).ok_or(ClusterError::NoPort)?;
    let members: Vec<Member> = nodes
        .clone()
        .zip(ports)
        .map(|(node, port)| Member { node, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
        .collect();
    let cluster = synod::new_cluster_id();
    let config = |node| {
        let mut config = Config::new(cluster, node, dir.replica(node), members.clone());
        config.groups = conditions.groups.into();
        config.shards = conditions.shards.into();
        config.sync = match conditions.sync {
            SyncMode::Durable => Sync::Durable,
            SyncMode::Os => Sync::Os,
        };
        config.disk = match conditions.disk {
            Disk::Uring => DiskBackend::Uring,
            Disk::Blocking => DiskBackend::Blocking,
        };
        config.preferred_leader = match conditions.leaders {
            Leaders::One => Some(1),
            Leaders::Spread => None,
        };
        config.retain_mib = conditions.retain_mib;
        config.wal_mib_max = conditions.retain_mib + WAL_ROOM_MIB;
        // All that the log keeps, and what it rolls through until the oldest may go: none is zeroed while measuring.
        config.spare_segments = (conditions.retain_mib / SEGMENT_MIB + 4).min(1024) as usize;
        config
    };
    Ok(nodes.map(config).collect())
}

/// Ports that are free now. Runs side by side seldom meet, since each begins elsewhere.
fn free_ports(count: usize) -> Option<Vec<u16>> {
    let span = usize::from(PORTS.end - PORTS.start);
    let first = std::process::id() as usize * 37 % span;
    // Held until all are found, so that none is found twice.
    let mut held = Vec::new();
    for step in 0..span {
        let port = PORTS.start + ((first + step) % span) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Some(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let ports = free_ports(9).unwrap();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), 9);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn every_legal_condition_makes_a_legal_configuration() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::open(&root.path().join("run")).unwrap();
        let mut conditions = crate::conditions::sample();
        for (replicas, retain_mib, leaders) in [(1, 64, Leaders::One), (9, 1 << 20, Leaders::Spread)] {
            (conditions.replicas, conditions.retain_mib, conditions.leaders) = (replicas, retain_mib, leaders);
            for config in configs(&dir, &conditions).unwrap() {
                config.validate().unwrap();
            }
        }
    }
}
