//! A node's directory: whose it is, which replicas its logs are, and that only one process uses it.
//!
//! `init` draws the directory's incarnation; a start never does, so an empty directory never bootstraps itself. Every
//! start counts up the boot number and makes it durable before anything is sent.
//!
//! Each shard's log has an id of 128 bits that is durable before the log's first frame, and the groups that begin in it are
//! *replicas* with this id. A log that can no longer be trusted is set aside and a new one, with a new id, takes its place:
//! whoever counts votes tells the two apart.
//!
//! The logs of one number of shards are an *era*. Another number begins a new era ([`crate::rehome`]): logs with new ids, in
//! which the groups are the replicas that they were.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Serialize};
use rustix::fs::{FlockOperation, flock};

use synod_core::{ReplicaId, Slot};
use synod_transport::hello::ReplicaRule;

use crate::config::Config;
use crate::directory::Birth;
use crate::homes::{self, Away, Homes, Names};
use crate::outcome::{GroupId, NodeId};
use crate::peers;
use crate::random::random_u128;
use crate::sealed::{self, Broken};

const MAGIC: [u8; 8] = *b"SYNODMET";
const FORMAT: u32 = 7;
const META: &str = "meta";
const LOCK: &str = "lock";
const REPAIRED: &str = "repaired";
const ERA: &str = "era-";

/// Logs of earlier eras that are remembered; beyond that the oldest are forgotten.
const PAST_LOGS_MAX: usize = 1 << 14;

/// What a directory says of itself.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct MetaV7 {
    pub(crate) cluster: u128,
    pub(crate) node: u64,
    pub(crate) incarnation: u128,
    pub(crate) boot: u64,
    /// How many voters choose a value in the groups of the configuration at their beginning; 0: a majority.
    pub(crate) phase_2: u16,
    /// Its replicas are witnesses.
    pub(crate) witness: bool,
    /// How often the number of shards was changed: only the logs of this era count.
    pub(crate) era: u64,
    /// By shard.
    pub(crate) logs: Vec<LogIds>,
    /// The replicas that this directory began with, one for each shard that the cluster began with.
    pub(crate) first: Vec<u128>,
    /// What was drawn since; a later one counts more.
    pub(crate) renewed: Vec<Renewed>,
    /// The logs of earlier eras, oldest first.
    pub(crate) past: Vec<PastLog>,
    /// It was made to replace a lost directory: its replicas are no voters of the beginning.
    pub(crate) replacement: bool,
    /// Groups that were moved between shards while the node ran, and where they are by now.
    pub(crate) moved: Vec<MovedGroup>,
}

/// A group that was moved to another shard, or back.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct MovedGroup {
    pub(crate) group: GroupId,
    /// If it was made at run time: by the order in which slot, and what it began with.
    pub(crate) made: Option<(u64, Birth)>,
    /// Which move that was, counted from 1. The log that it is in says the same, or is an older one.
    pub(crate) number: u64,
    /// It has begun anew there since, with an empty log.
    pub(crate) anew: bool,
    /// Where it is.
    pub(crate) shard: u32,
    /// The replica that it is.
    pub(crate) replica: u128,
}

impl MovedGroup {
    /// The slot of the order that made it; 0 when it is one of the configuration.
    pub(crate) fn made(&self) -> Slot {
        Slot(self.made.as_ref().map_or(0, |(slot, _)| *slot))
    }

    pub(crate) fn uid(&self, config: &Config) -> u128 {
        config.uid_of_group(self.group, self.made())
    }

    pub(crate) fn is_on(&self, shard: usize) -> bool {
        self.shard as usize == shard
    }
}

/// Notes it in a list of moved groups, in which each number is once.
pub(crate) fn note_moved(moved: &mut Vec<MovedGroup>, noted: Noted) {
    match noted {
        Noted::Moved(new) => {
            moved.retain(|old| old.group != new.group);
            moved.push(new);
        }
        Noted::Gone { group, made } => moved.retain(|old| (old.group, old.made()) != (group, made)),
    }
}

/// The groups on a shard that are named whatever its rules say: by uid, the replicas that they are.
pub(crate) fn named_on(moved: &[MovedGroup], config: &Config, shard: usize) -> impl Iterator<Item = (u128, u128)> {
    moved.iter().filter(move |moved| moved.is_on(shard)).map(|moved| (moved.uid(config), moved.replica))
}

/// The groups that were made at run time and are guests on a shard, each with the slot of the order that made it, and what it
/// began with.
pub(crate) fn made_guests(
    moved: &[MovedGroup],
    homes: Homes,
    shard: usize,
) -> impl Iterator<Item = (&MovedGroup, Slot, &Birth)> {
    let guests = moved.iter().filter(move |moved| moved.is_on(shard) && homes.shard(moved.group) != shard);
    guests.filter_map(|moved| {
        let (slot, birth) = moved.made.as_ref()?;
        Some((moved, Slot(*slot), birth))
    })
}

/// What is noted in a node's directory of where its groups are.
pub(crate) enum Noted {
    /// One is there from now on.
    Moved(MovedGroup),
    /// One that the order in this slot made is no more.
    Gone { group: GroupId, made: Slot },
}

/// A shard's log.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogIds {
    /// The log as it is now.
    pub(crate) log: u128,
    /// A log that is being set aside, 0 for none.
    aside: u128,
}

impl LogIds {
    pub(crate) fn new(log: u128) -> Self {
        Self { log, aside: 0 }
    }
}

/// The replica that all groups of a shard became when its log was begun anew.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Renewed {
    /// How many shards there were.
    shards: u32,
    /// Which one.
    shard: u32,
    replica: u128,
}

/// A log whose records were copied into those of the next era.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PastLog {
    pub(crate) log: u128,
    /// How many shards there were, and which one it was of.
    shards: u32,
    shard: u32,
    /// The sequence of its last frame, 0 for none.
    pub(crate) end: u64,
}

impl MetaV7 {
    /// A legal one, always the same.
    #[cfg(feature = "simulation")]
    pub(crate) fn specimen() -> Self {
        Self {
            cluster: 5,
            node: 2,
            incarnation: 9,
            boot: 3,
            phase_2: 2,
            witness: false,
            era: 1,
            logs: vec![LogIds::new(12)],
            first: vec![7, 8],
            renewed: vec![Renewed { shards: 2, shard: 1, replica: 11 }],
            past: vec![
                PastLog { log: 7, shards: 2, shard: 0, end: 40 },
                PastLog { log: 11, shards: 2, shard: 1, end: 3 },
            ],
            replacement: false,
            moved: vec![
                MovedGroup { group: 4, made: None, number: 9, anew: false, shard: 0, replica: 8 },
                MovedGroup {
                    group: 6,
                    made: Some((3, Birth::specimen())),
                    number: 1,
                    anew: true,
                    shard: 0,
                    replica: 7,
                },
            ],
        }
    }

    /// A new directory, with ids of its own.
    pub(crate) fn draw(
        cluster: u128,
        node: u64,
        (shards, first, phase_2): (usize, usize, u16),
        (witness, replacement): (bool, bool),
    ) -> Self {
        let first: Vec<u128> = (0..first).map(|_| draw_replica(witness)).collect();
        let log = |shard: usize| LogIds::new(if shards == first.len() { first[shard] } else { draw_replica(witness) });
        Self {
            cluster,
            node,
            incarnation: random_u128(),
            boot: 0,
            phase_2,
            witness,
            era: 0,
            logs: (0..shards).map(log).collect(),
            first,
            renewed: Vec::new(),
            past: Vec::new(),
            replacement,
            moved: Vec::new(),
        }
    }

    /// Which replicas the groups are.
    fn all_rules(&self) -> Vec<ReplicaRule> {
        let shards = self.first.len() as u32;
        let first =
            (0..shards).zip(&self.first).map(|(shard, replica)| ReplicaRule { shards, shard, replica: *replica });
        let mut rules: Vec<ReplicaRule> = first.collect();
        for Renewed { shards, shard, replica } in &self.renewed {
            homes::add_rule(&mut rules, ReplicaRule { shards: *shards, shard: *shard, replica: *replica });
        }
        rules
    }

    /// What the handshake says of the replicas of a shard, if there were `shards` of them.
    pub(crate) fn rules_of(&self, shard: usize, shards: usize) -> Vec<ReplicaRule> {
        homes::rules_of_shard(&self.all_rules(), (shard, shards))
    }

    /// The replica that a group with this home is, if it was never moved.
    pub(crate) fn replica_at(&self, home: u64) -> u128 {
        homes::named(&self.all_rules(), home)
    }

    /// What follows when the logs are copied into those of another number of shards: `ends` are the sequences of the last
    /// frames of the present ones.
    pub(crate) fn next_era(&self, shards: usize, ends: &[u64]) -> Self {
        let of = self.logs.len() as u32;
        let now = (0..of).zip(&self.logs).zip(ends);
        let now = now.map(|((shard, ids), end)| PastLog { log: ids.log, shards: of, shard, end: *end });
        let mut past: Vec<PastLog> = self.past.iter().copied().chain(now).collect();
        past.drain(..past.len().saturating_sub(PAST_LOGS_MAX));
        let logs = (0..shards).map(|_| LogIds::new(draw_replica(self.witness))).collect();
        // The copy brings all groups home.
        let home = |moved: &MovedGroup| MovedGroup { shard: self.home_shard(moved, shards), ..moved.clone() };
        let moved = self.moved.iter().map(home).collect();
        Self { era: self.era + 1, logs, past, moved, ..self.clone() }
    }

    /// The shard among so many that a group is at home on.
    fn home_shard(&self, moved: &MovedGroup, shards: usize) -> u32 {
        let home = if moved.made.is_some() { moved.group % self.first.len() as u64 } else { moved.group };
        (home % shards as u64) as u32
    }

    /// The groups of the configuration that are on a shard, in order.
    pub(crate) fn groups_of(&self, config: &Config, shard: usize) -> Vec<GroupId> {
        groups_on(&self.moved, config.groups, (shard, self.logs.len()))
    }

    /// The groups that are not at home, and where they are.
    pub(crate) fn places(&self, config: &Config) -> Vec<(GroupId, Away)> {
        places(&self.moved, config)
    }

    /// Fails unless the directory at `path` is the one that the configuration means, with so many shards if it matters.
    fn check_owner(
        &self,
        path: &Path,
        (cluster, node, shards): (u128, Option<u64>, Option<usize>),
    ) -> Result<(), DirectoryError> {
        let (node, shards) = (node.unwrap_or(self.node), shards.unwrap_or(self.logs.len()));
        if (self.cluster, self.node, self.logs.len()) == (cluster, node, shards) {
            return Ok(());
        }
        let name = |cluster: u128, node: u64, shards: usize| {
            format!("node {node} of cluster {cluster:032x} with {shards} shard(s)")
        };
        Err(DirectoryError::Foreign {
            path: path.to_owned(),
            theirs: name(self.cluster, self.node, self.logs.len()),
            ours: name(cluster, node, shards),
        })
    }
}

/// The groups that are not at home, and where they are.
pub(crate) fn places(moved: &[MovedGroup], config: &Config) -> Vec<(GroupId, Away)> {
    let homes = config.homes();
    let is_known = |moved: &&MovedGroup| moved.made.is_some() == (moved.group > homes.groups);
    let is_away = |moved: &&MovedGroup| !moved.is_on(homes.shard(moved.group));
    let place = |moved: &MovedGroup| (moved.group, Away { made: moved.made(), shard: moved.shard as usize });
    moved.iter().filter(is_known).filter(is_away).map(place).collect()
}

/// The groups of a configuration with so many of them that are on a shard, in order.
pub(crate) fn groups_on(moved: &[MovedGroup], groups: u64, (shard, shards): (usize, usize)) -> Vec<GroupId> {
    let of_these = |moved: &&MovedGroup| moved.made.is_none() && moved.group <= groups;
    let is_moved = |group: &GroupId| moved.iter().filter(of_these).any(|moved| moved.group == *group);
    let at_home = (1..=groups).filter(|group| group % shards as u64 == shard as u64 && !is_moved(group));
    let here = moved.iter().filter(of_these).filter(|moved| moved.is_on(shard));
    let mut on: Vec<GroupId> = at_home.chain(here.map(|moved| moved.group)).collect();
    on.sort_unstable();
    on
}

/// A new replica's id.
fn draw_replica(witness: bool) -> u128 {
    ReplicaId(random_u128()).of_kind(witness).0
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there or was never initialised.
    #[error(
        "{0} holds no node: run `synod init` for a new one. If this node has voted before, its votes are lost with \
         the directory; do not start it empty: put the directory back, or, if it is lost for good, run `synod init \
         --replace`"
    )]
    NotInitialised(PathBuf),
    /// There is something already.
    #[error("{0} is not empty: a node is only initialised in a new or empty directory")]
    NotEmpty(PathBuf),
    /// Another process uses it.
    #[error("{0} is in use by another process: two nodes must never share a directory")]
    InUse(PathBuf),
    /// It belongs to another node or cluster, or has another number of shards where that is not changed.
    #[error("{path} belongs to {theirs}, but the configuration says {ours}: correct `dir` or the configuration")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it says.
        theirs: String,
        /// What the configuration says.
        ours: String,
    },
    /// Its groups began with quorums of another size.
    #[error(
        "{path} was made with `phase_2 = {theirs}`, but the configuration says {ours}: correct the configuration. \
         The quorums of a group that is there are changed with `synod member quorum`"
    )]
    Quorum {
        /// The directory.
        path: PathBuf,
        /// What it was made with.
        theirs: u16,
        /// What the configuration says.
        ours: u16,
    },
    /// It is a witness's, or should be one.
    #[error(
        "{path} {}, and the configuration says otherwise: correct its `witnesses`. A node changes its kind only with a new \
         directory: set this one aside and run `synod init --replace`",
        if *.witness { "belongs to a witness, which keeps no entries" } else { "does not belong to a witness" }
    )]
    Kind {
        /// The directory.
        path: PathBuf,
        /// Whether it is a witness's.
        witness: bool,
    },
    /// One of its own files is damaged or gone.
    #[error(
        "{0} is damaged or gone, and with it what this node must not forget: put it back, or, if it is lost for good, \
         set the directory aside and run `synod init --replace`"
    )]
    Damaged(PathBuf),
    /// The file of introduced nodes is damaged, which others know too.
    #[error(
        "{0} is damaged: remove it and start the node, which is told again by the others whom they know. Should nobody else \
         know one, introduce it again (`synod member introduce`)"
    )]
    IntroducedDamaged(PathBuf),
    /// One of its own files was written by another release.
    #[error("{0} has the format of another release: run the release that wrote it, or make the cluster anew")]
    Format(PathBuf),
    /// It was repaired: what it holds goes on elsewhere.
    #[error(
        "{path} was repaired: {text}. It must not be started again, or there would be two histories. Should what came of \
         the repair be lost as well, remove {path}/repaired"
    )]
    Repaired {
        /// The directory.
        path: PathBuf,
        /// Into what.
        text: String,
    },
    /// There is nothing in it that could be repaired.
    #[error("{0} was never started, so there is nothing in it: use `synod serve`")]
    NeverStarted(PathBuf),
    /// A start was broken off in the middle of a step that must not be looked into.
    #[error("{0} was about to set a damaged log aside when it stopped: start its node once, so that this is done")]
    HalfDone(PathBuf),
    /// One of its own files is another directory's.
    #[error("{0} belongs to another directory: files were mixed up; put this directory's own file back")]
    MixedUp(PathBuf),
    /// The file system refused.
    #[error("{path}: {error}{}", hint(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        error: io::Error,
    },
}

impl DirectoryError {
    /// What is wrong with a sealed file.
    pub(crate) fn broken(file: PathBuf, broken: Broken) -> Self {
        match broken {
            Broken::Damaged => Self::Damaged(file),
            Broken::Format => Self::Format(file),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => " (make the directory writable for this user)",
        ErrorKind::StorageFull => " (free some space or choose another `dir`)",
        _ => "",
    }
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError + '_ {
    move |error| DirectoryError::Io { path: path.to_owned(), error }
}

/// Keeps other processes out of a directory until it is dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// A directory in use by this process.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    meta: Mutex<MetaV7>,
}

impl Directory {
    /// Makes a new node's directory. `founding`: see [`peers::init`].
    pub(crate) fn init(path: &Path, meta: &MetaV7, founding: Vec<NodeId>) -> Result<(), DirectoryError> {
        fs::create_dir_all(path).map_err(io_error(path))?;
        if fs::read_dir(path).map_err(io_error(path))?.next().is_some() {
            return Err(DirectoryError::NotEmpty(path.to_owned()));
        }
        // The meta file comes last: with it the directory is a node's, and has all that a node must have.
        peers::init(path, meta.incarnation, founding)?;
        write_meta(path, meta)
    }

    /// Takes the directory for this process and counts up its boot number.
    pub(crate) fn open(
        path: &Path,
        cluster: u128,
        node: u64,
        (phase_2, witness): (u16, bool),
    ) -> Result<(Self, DirectoryLock), DirectoryError> {
        if !path.join(META).try_exists().map_err(io_error(path))? {
            return Err(DirectoryError::NotInitialised(path.to_owned()));
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = take_lock(path, lock.map_err(io_error(&lock_path))?)?;
        refuse_repaired(path)?;
        let mut meta = read_meta(path)?;
        meta.check_owner(path, (cluster, Some(node), None))?;
        if meta.phase_2 != phase_2 {
            return Err(DirectoryError::Quorum { path: path.to_owned(), theirs: meta.phase_2, ours: phase_2 });
        }
        if meta.witness != witness {
            return Err(DirectoryError::Kind { path: path.to_owned(), witness: meta.witness });
        }
        let logs = era_dir(path, meta.era);
        if !logs.try_exists().map_err(io_error(&logs))? {
            // Each log of it was opened: none is a new one.
            return Err(DirectoryError::Damaged(logs));
        }
        meta.boot += 1;
        write_meta(path, &meta)?;
        // What a crash left half done.
        for shard in 0..meta.logs.len() {
            if meta.logs[shard].aside != 0 {
                RENEWAL[1..].iter().try_for_each(|step| step(path, &mut meta, shard))?;
            }
        }
        let directory = Self { path: path.to_owned(), meta: Mutex::new(meta) };
        directory.remove_other_eras();
        Ok((directory, lock))
    }

    /// Deletes what is there of other eras: the ones before, and one whose beginning was broken off. Nothing of them is
    /// ever read, so what cannot be deleted only takes room.
    pub(crate) fn remove_other_eras(&self) {
        if let Err(error) = remove_other_eras(&self.path, self.meta().era) {
            tracing::warn!(%error, "what is left of another number of shards cannot be deleted");
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn incarnation(&self) -> u128 {
        self.meta().incarnation
    }

    pub(crate) fn boot(&self) -> u64 {
        self.meta().boot
    }

    pub(crate) fn is_replacement(&self) -> bool {
        self.meta().replacement
    }

    /// How many shards it has.
    pub(crate) fn shards(&self) -> usize {
        self.meta().logs.len()
    }

    /// The replicas that it began with, one for each shard that the cluster began with.
    pub(crate) fn first(&self) -> Vec<u128> {
        self.meta().first.clone()
    }

    /// Where the logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        era_dir(&self.path, self.meta().era)
    }

    /// The id of a shard's log.
    pub(crate) fn log_id(&self, shard: usize) -> u128 {
        self.meta().logs[shard].log
    }

    /// What the handshake says of a shard's replicas: nothing when they are what the log is.
    pub(crate) fn rules(&self, shard: usize) -> Vec<ReplicaRule> {
        let meta = self.meta();
        let rules = meta.rules_of(shard, meta.logs.len());
        if rules.iter().all(|rule| rule.replica == meta.logs[shard].log) { Vec::new() } else { rules }
    }

    /// The replicas that the groups of a shard are.
    pub(crate) fn names(&self, config: &Config, shard: usize) -> Names {
        let meta = self.snapshot();
        let names = Names::of_shard((shard, meta.logs.len()), meta.logs[shard].log, &self.rules(shard));
        names.with(named_on(&meta.moved, config, shard))
    }

    /// Makes durable where a group is. **This is the switch** of a move.
    pub(crate) fn note_moved(&self, noted: Noted) -> Result<(), DirectoryError> {
        let mut meta = self.meta();
        let mut next = meta.clone();
        note_moved(&mut next.moved, noted);
        write_meta(&self.path, &next)?;
        *meta = next;
        Ok(())
    }

    /// The end of a log of an earlier era that is remembered.
    pub(crate) fn past_end(&self, log: u128) -> Option<u64> {
        self.meta().past.iter().find(|past| past.log == log).map(|past| past.end)
    }

    /// Whether a shard's log may be a voter of the beginning.
    pub(crate) fn is_founder(&self, shard: usize) -> bool {
        let meta = self.meta();
        !meta.replacement && meta.logs.len() == meta.first.len() && meta.logs[shard].log == meta.first[shard]
    }

    /// Sets a shard's log aside, whatever is left of it, and draws the id of the new one. Nobody may use the log now.
    pub(crate) fn renew_replica(&self, shard: usize) -> Result<u128, DirectoryError> {
        let mut meta = self.meta();
        RENEWAL.iter().try_for_each(|step| step(&self.path, &mut meta, shard))?;
        Ok(meta.logs[shard].log)
    }

    /// What it says of itself now.
    pub(crate) fn snapshot(&self) -> MetaV7 {
        self.meta().clone()
    }

    /// The switch to another era, whose logs are durable.
    pub(crate) fn begin_era(&self, next: &MetaV7) -> Result<(), DirectoryError> {
        let mut meta = self.meta();
        assert_eq!(meta.era + 1, next.era, "eras follow each other");
        write_meta(&self.path, next)?;
        *meta = next.clone();
        Ok(())
    }

    fn meta(&self) -> MutexGuard<'_, MetaV7> {
        self.meta.lock().expect("no holder panics")
    }
}

fn take_lock(path: &Path, file: File) -> Result<DirectoryLock, DirectoryError> {
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| DirectoryError::InUse(path.to_owned()))?;
    Ok(DirectoryLock { _file: file })
}

/// Looks into the directory of a stopped node, whichever one of the cluster it is unless `node` says so, and keeps others
/// out of it. Nothing in it is changed.
pub(crate) fn look_into(
    path: &Path,
    (cluster, node, shards): (u128, Option<u64>, usize),
) -> Result<(MetaV7, DirectoryLock), DirectoryError> {
    if !path.join(META).try_exists().map_err(io_error(path))? {
        return Err(DirectoryError::NotInitialised(path.to_owned()));
    }
    let lock_path = path.join(LOCK);
    let lock = match File::open(&lock_path) {
        // Every start makes it.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(DirectoryError::NeverStarted(path.to_owned()));
        }
        opened => take_lock(path, opened.map_err(io_error(&lock_path))?)?,
    };
    refuse_repaired(path)?;
    let meta = read_meta(path)?;
    meta.check_owner(path, (cluster, node, Some(shards)))?;
    if meta.logs.iter().any(|log| log.aside != 0) {
        return Err(DirectoryError::HalfDone(path.to_owned()));
    }
    Ok((meta, lock))
}

/// Whether a directory is a node's.
pub(crate) fn is_initialised(path: &Path) -> Result<bool, DirectoryError> {
    path.join(META).try_exists().map_err(io_error(path))
}

/// Closes a directory for good: what it holds goes on elsewhere, as `text` says.
pub(crate) fn mark_repaired(path: &Path, text: &str) -> Result<(), DirectoryError> {
    sealed::replace(path, REPAIRED, text.as_bytes()).map_err(io_error(&path.join(REPAIRED)))
}

fn refuse_repaired(path: &Path) -> Result<(), DirectoryError> {
    let file = path.join(REPAIRED);
    match sealed::read(&file) {
        Ok(text) => Err(DirectoryError::Repaired {
            path: path.to_owned(),
            text: String::from_utf8_lossy(&text).trim().to_owned(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(&file)(error)),
    }
}

type RenewalStep = fn(&Path, &mut MetaV7, usize) -> Result<(), DirectoryError>;

/// How a log is set aside. Each step is durable before the next, and may be done again; a start after a crash goes on
/// with the second. The first makes the old log foreign, so that nothing votes with it any more; only behind the last can
/// there be a new log, so that never a new one is set aside.
const RENEWAL: [RenewalStep; 4] = [
    |path, meta, shard| {
        let mut next = meta.clone();
        let replica = draw_replica(next.witness);
        next.logs[shard] = LogIds { log: replica, aside: next.logs[shard].log };
        let new = Renewed { shards: next.logs.len() as u32, shard: shard as u32, replica };
        next.renewed.retain(|old| (old.shards, old.shard) != (new.shards, new.shard));
        next.renewed.push(new);
        // Whose groups are all other replicas now: nobody asks any more what it held.
        // Guests have forgotten their votes as the others have.
        begin_anew(&mut next.moved, shard, replica);
        next.past.retain(|past| !(past.shards.is_multiple_of(new.shards) && past.shard % new.shards == new.shard));
        write_meta(path, &next)?;
        *meta = next;
        Ok(())
    },
    |path, meta, shard| {
        let logs = era_dir(path, meta.era);
        let log = log_dir(&logs, shard);
        let aside = path.join(format!("shard-{shard}.damaged-{:016x}", meta.logs[shard].aside as u64));
        if log.try_exists().map_err(io_error(&log))? {
            fs::rename(&log, &aside).map_err(io_error(&aside))?;
        }
        sealed::sync_dir(path).map_err(io_error(path))?;
        sealed::sync_dir(&logs).map_err(io_error(&logs))
    },
    |path, meta, shard| {
        let logs = era_dir(path, meta.era);
        for file in [opened_file(&logs, shard), suspect_file(&logs, shard)] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(&file)(error)),
                _ => {}
            }
        }
        sealed::sync_dir(&logs).map_err(io_error(&logs))
    },
    |path, meta, shard| {
        let mut next = meta.clone();
        next.logs[shard].aside = 0;
        write_meta(path, &next)?;
        *meta = next;
        Ok(())
    },
];

/// All groups on a shard are another replica from now on, which begins with nothing.
pub(crate) fn begin_anew(moved: &mut [MovedGroup], shard: usize, replica: u128) {
    for moved in moved.iter_mut().filter(|moved| moved.is_on(shard)) {
        (moved.replica, moved.anew) = (replica, true);
    }
}

/// Where an era's logs are.
pub(crate) fn era_dir(path: &Path, era: u64) -> PathBuf {
    if era == 0 { path.to_owned() } else { path.join(format!("{ERA}{era}")) }
}

fn remove_other_eras(path: &Path, era: u64) -> Result<(), DirectoryError> {
    let mut removed = false;
    for entry in fs::read_dir(path).map_err(io_error(path))? {
        let entry = entry.map_err(io_error(path))?;
        let name = entry.file_name();
        let Some(of) = name.to_str().and_then(era_of) else { continue };
        if of != era {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(io_error(&path))?;
            removed = true;
        }
    }
    if removed { sealed::sync_dir(path).map_err(io_error(path)) } else { Ok(()) }
}

/// The era that a name in a directory belongs to, if it is one of an era's. Logs that were set aside belong to none.
fn era_of(name: &str) -> Option<u64> {
    if let Some(era) = name.strip_prefix(ERA) {
        return era.parse().ok();
    }
    let rest = name.strip_prefix("shard-")?;
    let shard = rest.strip_suffix(".opened").or_else(|| rest.strip_suffix(".suspect")).unwrap_or(rest);
    shard.parse::<usize>().ok().map(|_| 0)
}

/// Where a shard's log is among those of its era.
pub(crate) fn log_dir(path: &Path, shard: usize) -> PathBuf {
    path.join(format!("shard-{shard}"))
}

fn opened_file(path: &Path, shard: usize) -> PathBuf {
    path.join(format!("shard-{shard}.opened"))
}

fn suspect_file(path: &Path, shard: usize) -> PathBuf {
    path.join(suspect_name(shard))
}

fn suspect_name(shard: usize) -> String {
    format!("shard-{shard}.suspect")
}

/// Notes for good that a shard's log was opened: from now on an empty one is a lost one.
pub(crate) fn note_opened(path: &Path, shard: usize) -> io::Result<()> {
    let file = opened_file(path, shard);
    if !file.try_exists()? {
        File::create(&file)?.sync_all()?;
        sealed::sync_dir(path)?;
    }
    Ok(())
}

/// Whether a shard's log was ever opened.
pub(crate) fn was_opened(path: &Path, shard: usize) -> io::Result<bool> {
    opened_file(path, shard).try_exists()
}

/// Notes for good that a shard's log must not be voted with again, and why.
pub(crate) fn mark_suspect(path: &Path, shard: usize, reason: &str) -> io::Result<()> {
    sealed::replace(path, &suspect_name(shard), reason.as_bytes())
}

/// Why a shard's log must not be voted with, if so.
pub(crate) fn suspect_reason(path: &Path, shard: usize) -> io::Result<Option<String>> {
    match sealed::read(&suspect_file(path, shard)) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_meta(path: &Path) -> Result<MetaV7, DirectoryError> {
    let file = path.join(META);
    let bytes = sealed::read(&file).map_err(io_error(&file))?;
    decode_meta(&bytes).map_err(|broken| DirectoryError::broken(file, broken))
}

pub(crate) fn decode_meta(bytes: &[u8]) -> Result<MetaV7, Broken> {
    let archive = sealed::unseal(MAGIC, FORMAT, bytes)?;
    rkyv::from_bytes::<MetaV7, Failure>(&archive).map_err(|_| Broken::Damaged)
}

pub(crate) fn encode_meta(meta: &MetaV7) -> Vec<u8> {
    let archive = rkyv::to_bytes::<Failure>(meta).expect("plain numbers always have an archive");
    sealed::seal(MAGIC, FORMAT, &archive)
}

pub(crate) fn write_meta(path: &Path, meta: &MetaV7) -> Result<(), DirectoryError> {
    sealed::replace(path, META, &encode_meta(meta)).map_err(io_error(&path.join(META)))
}

#[cfg(test)]
mod tests;
