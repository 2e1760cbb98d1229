//! Real processes under real faults: a durable cluster of three processes, clients over TCP, something that breaks it,
//! and a judge.
//!
//! [`run`] carries out one [`Plan`]: it starts the nodes (the program itself again, see [`child`]), lets clients append
//! and read all the while, breaks what the plan says, heals all, kills all nodes once more, and then judges what the
//! clients were told: nothing acknowledged is lost or doubled, the history is linearizable, all replicas have the same
//! stream, and every group commits again.
//!
//! Invariants: nothing depends on how long something takes, but what must come has [`PATIENCE`](crate::PATIENCE) to come;
//! whatever was made in the system (processes, mounts, namespaces) goes with the value that made it, also on a panic.

pub mod child;
mod cluster;
mod fault;
mod io_errors;
mod judge;
mod kills;
mod load;
mod netns;
mod partitions;
mod pauses;
mod process;
mod proxy;
mod record;
mod relay;
mod room;
mod small_disk;
mod world;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::Dice;
use cluster::{Ground, default_configs};
pub use fault::Faults;
pub use judge::Judged;
pub use record::Told;
use world::World;

/// The nodes of every cluster here.
const NODES: u64 = 3;
/// The groups of every cluster here; more than nodes, so that every node leads one.
const GROUPS: u64 = 4;
/// What a node's memory may have been at most, in any plan.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;
/// Of the planned faults so many in a hundred must have happened, or the run says nothing.
const FAULTS_PERCENT_MIN: u64 = 80;

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Nodes die by SIGKILL.
    Kills,
    /// Nodes stand still (SIGSTOP) and go on.
    Pauses,
    /// Packets are dropped between network namespaces.
    Partitions,
    /// Bytes between nodes are late, lost, doubled or changed.
    Relay,
    /// One node's disk is full.
    FullDisk,
    /// A sync fails.
    IoErrors,
    /// A sync takes very long.
    SlowDisk,
}

impl Plan {
    /// All plans, in the order in which `all` runs them.
    pub const ALL: [Self; 7] =
        [Self::Kills, Self::Pauses, Self::Partitions, Self::Relay, Self::FullDisk, Self::IoErrors, Self::SlowDisk];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Pauses => "pauses",
            Self::Partitions => "partitions",
            Self::Relay => "relay",
            Self::FullDisk => "full-disk",
            Self::IoErrors => "io-errors",
            Self::SlowDisk => "slow-disk",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a plan is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program that the nodes run: it must call [`child::run`] for `node`.
    pub program: PathBuf,
    /// Where the run's directory is made.
    pub dir: PathBuf,
    /// Decides which faults come, and in which order.
    pub seed: u64,
    /// About how long everything is broken now and then; not for kills.
    pub seconds: u64,
    /// How many kills.
    pub kills: u64,
    /// Keep the run's directory also when all is well.
    pub keep: bool,
    /// Tell every second or so how far it is.
    pub progress: bool,
}

/// How a run ended, if nothing was wrong.
#[derive(Clone, Debug)]
pub enum Ended {
    /// All promises were kept.
    Passed(Box<Report>),
    /// It cannot be run here.
    Skipped(String),
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was broken.
    pub plan: Plan,
    /// Which faults came, and how often.
    pub faults: Faults,
    /// What the clients were told.
    pub told: Told,
    /// What was judged.
    pub judged: Judged,
    /// The most memory that any node had, in bytes.
    pub resident_bytes: u64,
    /// The longest time that any group went without an acknowledgement while things were broken.
    pub silence: Duration,
    /// From start to verdict.
    pub took: Duration,
}

/// Why a run failed. Its directory stays.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A file or directory.
    #[error("{what}: {error}")]
    Io {
        /// What was done.
        what: String,
        /// The refusal.
        error: std::io::Error,
    },
    /// A node died although nobody killed it, or did not start.
    #[error("node {node} ended unasked ({status}); the end of its log:\n{tail}")]
    Died {
        /// Which.
        node: u64,
        /// How.
        status: String,
        /// What it said last.
        tail: String,
    },
    /// What must come did not.
    #[error("waited {waited:?} in vain for {what}\n{evidence}")]
    Stalled {
        /// For what.
        what: String,
        /// How long.
        waited: Duration,
        /// How the groups stand and what the nodes said last.
        evidence: String,
    },
    /// Too little was broken.
    #[error("only {done} of {planned} planned faults happened: the run says too little")]
    TooFewFaults {
        /// Happened.
        done: u64,
        /// Planned.
        planned: u64,
    },
    /// A promise was broken.
    #[error("{0}")]
    Violation(String),
    /// Someone wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// A tool of the system failed.
    #[error("{command} failed: {text}")]
    Tool {
        /// What was called.
        command: String,
        /// What it said.
        text: String,
    },
}

/// A failed run.
#[derive(Debug, thiserror::Error)]
#[error("plan {plan}, seed {seed}: {trouble}\nlogs and histories are in {}", dir.display())]
pub struct Failure {
    /// What was run.
    pub plan: Plan,
    /// With which seed.
    pub seed: u64,
    /// Where its logs, logs of nodes and histories are.
    pub dir: PathBuf,
    /// What was wrong.
    pub trouble: Trouble,
}

/// Runs one plan to its verdict.
///
/// # Errors
/// When a promise was broken, or the run came to no verdict.
pub fn run(plan: Plan, settings: &Settings) -> Result<Ended, Box<Failure>> {
    let dir = settings.dir.join(format!("{plan}-{}-{}", settings.seed, std::process::id()));
    let failure = |trouble| Box::new(Failure { plan, seed: settings.seed, dir: dir.clone(), trouble });
    let began = Instant::now();
    let made = std::fs::create_dir_all(&dir).and_then(|()| dir.canonicalize());
    let made = made.map_err(|error| failure(Trouble::Io { what: format!("cannot make {}", dir.display()), error }))?;
    let ground = match lay_ground(plan, settings, &made) {
        Ok(Ok(ground)) => ground,
        Ok(Err(why)) => {
            remove(&dir);
            return Ok(Ended::Skipped(why));
        }
        Err(trouble) => return Err(failure(trouble)),
    };
    let mut world = World::start(settings, made, ground).map_err(failure)?;
    let result = go(plan, settings, &mut world);
    let report = match result {
        Ok(judged) => world.report(plan, judged, began.elapsed()),
        Err(trouble) => {
            world.write_histories();
            return Err(failure(trouble));
        }
    };
    drop(world);
    if !settings.keep {
        remove(&dir);
    }
    Ok(Ended::Passed(Box::new(report)))
}

/// What a plan needs besides the nodes; or why it cannot be run here.
fn lay_ground(plan: Plan, settings: &Settings, dir: &Path) -> Result<Result<Ground, String>, Trouble> {
    let mut configs = default_configs(dir);
    // With every other seed heartbeats go by UDP.
    configs.iter_mut().for_each(|config| config.udp_lane = !settings.seed.is_multiple_of(2));
    match plan {
        Plan::Kills | Plan::Pauses => Ok(Ok(Ground::plain(configs))),
        Plan::Partitions => partitions::ground(configs),
        Plan::Relay => relay::ground(configs, settings.seed).map(Ok),
        Plan::FullDisk => small_disk::ground(configs, dir),
        Plan::IoErrors | Plan::SlowDisk => Ok(io_errors::ground(configs)),
    }
}

fn go(plan: Plan, settings: &Settings, world: &mut World) -> Result<Judged, Trouble> {
    let mut dice = Dice::new(settings.seed);
    world.settle()?;
    match plan {
        Plan::Kills => kills::run(world, &mut dice, settings.kills)?,
        Plan::Pauses => pauses::run(world, &mut dice, settings.seconds)?,
        Plan::Partitions => partitions::run(world, &mut dice, settings.seconds)?,
        Plan::Relay => relay::run(world, &mut dice, settings.seconds)?,
        Plan::FullDisk => small_disk::run(world, settings.seconds)?,
        Plan::IoErrors => io_errors::run_errors(world, &mut dice, settings.seconds)?,
        Plan::SlowDisk => io_errors::run_slow(world, &mut dice, settings.seconds)?,
    }
    world.judge()
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("chaos: {} stays: {error}", dir.display());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {}: passed in {:.1} s", self.plan, self.took.as_secs_f64())?;
        writeln!(f, "  faults:  {}", self.faults)?;
        writeln!(f, "  clients: {}", self.told)?;
        writeln!(f, "  judged:  {}", self.judged)?;
        write!(
            f,
            "  longest silence of a group {:.1} s; most memory of a node {} MiB",
            self.silence.as_secs_f64(),
            self.resident_bytes >> 20
        )
    }
}
