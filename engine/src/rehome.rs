//! Another number of shards: the logs of a node are copied into those of a new *era*.
//!
//! A group's shard is its home modulo the number of shards, so another number puts most groups elsewhere. The node does
//! nothing else meanwhile. All records of all groups go, in their order and as they are, into new logs beside the old ones;
//! these are read back and compared, and one durable file, `meta`, switches. The groups stay the replicas that they were
//! (see [`crate::homes`]): nobody else has to agree.
//!
//! Invariants:
//! - Before the switch the old era is as it was, and whatever was begun of the new one is thrown away, unread; after it the
//!   new era is whole, and the old one is thrown away, unread. Nothing votes in between.
//! - Of a log that is damaged, suspect or lost nothing is copied: there is no new era.
//! - What counts of each group is the same behind the copy as before it, or there is no switch.
//! - The end of each old log is remembered: a peer that has seen votes that rest on more of it is believed.

mod copy;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use synod_transport::hello::REPLICA_RULES_MAX;
use synod_wal::disk::SyncMode;
use synod_wal::record::RecordHeader;
use synod_wal::recover::{Expect, RecoverError, Recovery, Verdict, recover};

use crate::checkpoint::contents::{Contents, whole_name};
use crate::checkpoint::files::SystemFiles;
use crate::checkpoint::packs::pack_name;
use crate::config::Config;
use crate::limits::MIB;
use crate::log_store::{LogPlace, LogStore};
use crate::meta::{self, Directory, MetaV7};
use crate::new_log::NewLog;
use crate::outcome::GroupId;
use crate::peers::Peers;
use crate::recovery::{Digest, Recoverer};
use crate::sealed;
use copy::Copier;

/// Why a directory is not given another number of shards.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the directory has {from} shard(s) and the configuration says {to}, but its logs cannot be copied: {reason}")]
pub struct RehomeError {
    /// How many shards it has.
    pub from: usize,
    /// How many it was to have.
    pub to: usize,
    /// What stands against it, and what to do.
    pub reason: String,
}

/// A directory that is given another number of shards.
struct Rehoming<'a> {
    config: &'a Config,
    directory: &'a Directory,
    now: MetaV7,
    next: MetaV7,
    /// The home of each group that there is, by uid.
    homes: HashMap<u128, u64>,
    /// What counts of the groups with records.
    digests: HashMap<u128, Digest>,
    logs: &'a dyn LogStore,
}

type Step = fn(&Rehoming<'_>) -> Result<(), String>;

/// Each is durable before the next. The last one, which writes `meta`, decides.
const STEPS: [Step; 6] = [
    |rehoming| rehoming.begin(),
    |rehoming| rehoming.write_logs(),
    |rehoming| rehoming.link_checkpoints(),
    |rehoming| rehoming.finish_era(),
    |rehoming| rehoming.compare(),
    |rehoming| rehoming.decide(),
];

fn at(path: &Path) -> impl FnOnce(io::Error) -> String + '_ {
    move |error| {
        let hint = if error.kind() == ErrorKind::StorageFull {
            " (the disk must have room for a second copy of the logs)"
        } else {
            ""
        };
        format!("{}: {error}{hint}", path.display())
    }
}

/// Whether the replicas of every shard can be named in a handshake if there are so many shards.
///
/// # Errors
/// When they cannot.
pub(crate) fn check_rules(meta: &MetaV7, shards: usize) -> Result<(), RehomeError> {
    let most = (0..shards).map(|shard| meta.rules_of(shard, shards).len()).max().unwrap_or(0);
    if most <= REPLICA_RULES_MAX {
        return Ok(());
    }
    let reason = format!(
        "a shard would have groups of {most} earlier logs, and can have those of {REPLICA_RULES_MAX} at most: choose more \
         shards"
    );
    Err(RehomeError { from: meta.logs.len(), to: shards, reason })
}

/// Gives a directory as many shards as the configuration says. The configuration's `first_shards` is the directory's.
///
/// # Errors
/// Why not, and what has become of the directory.
pub(crate) fn rehome(
    logs: &dyn LogStore,
    config: &Config,
    directory: &Directory,
    peers: &Peers,
) -> Result<(), RehomeError> {
    rehome_on(logs, STEPS.len(), config, directory, peers)
}

fn rehome_on(
    logs: &dyn LogStore,
    steps: usize,
    config: &Config,
    directory: &Directory,
    peers: &Peers,
) -> Result<(), RehomeError> {
    let now = directory.snapshot();
    let (from, to) = (now.logs.len(), config.shards);
    let failed = |reason: String| {
        let reason = format!("{reason}. Nothing was changed: with `shards = {from}` the node starts as before");
        RehomeError { from, to, reason }
    };
    check_rules(&now, to)?;
    tracing::warn!(
        from,
        to,
        "the number of shards is another: the logs are copied, and the node starts when that is done. All nodes of the \
         cluster must be given the same number"
    );
    let rehoming = Rehoming::examine(logs, config, directory, peers).map_err(failed)?;
    let (prepare, decide) = STEPS[..steps].split_at(steps.min(STEPS.len() - 1));
    if let Err(reason) = prepare.iter().try_for_each(|step| step(&rehoming)) {
        // It only takes room; the next start removes what is in files as well.
        rehoming.forget(&rehoming.new_logs(), &rehoming.next);
        let _ = fs::remove_dir_all(rehoming.new_logs());
        return Err(failed(reason));
    }
    if let Some(decide) = decide.first() {
        // Both eras are whole and stay: which of them the next start finds named cannot be known now.
        let unknown = |reason| {
            let reason = format!("{reason}. It may be decided all the same: start the node again, with either number");
            RehomeError { from, to, reason }
        };
        let old = directory.logs();
        decide(&rehoming).map_err(unknown)?;
        tracing::info!(from, to, era = rehoming.next.era, "the node has another number of shards");
        rehoming.forget(&old, &rehoming.now);
        directory.remove_other_eras();
    }
    Ok(())
}

impl<'a> Rehoming<'a> {
    /// Reads all logs. Nothing is changed.
    fn examine(
        logs: &'a dyn LogStore,
        config: &'a Config,
        directory: &'a Directory,
        peers: &Peers,
    ) -> Result<Self, String> {
        let now = directory.snapshot();
        let from = now.logs.len();
        let waits = |shard: &usize| peers.founds() && directory.is_founder(*shard) && peers.genesis(*shard).is_none();
        if let Some(shard) = (0..from).find(waits) {
            return Err(format!(
                "the groups of shard {shard} have not begun, since node(s) {:?} were not met yet: start all nodes with \
                 `shards = {from}` once",
                peers.missing(shard)
            ));
        }
        let mut recoverer = Recoverer::default();
        let mut ends = Vec::new();
        for (shard, ids) in now.logs.iter().enumerate() {
            let place = place(config, &directory.logs(), shard, ids.log);
            let elsewhere = elsewhere(config, &now, shard);
            ends.push(read_log(logs, &directory.logs(), &place, from, &elsewhere, &mut recoverer)?);
        }
        let homes = homes_of_groups(config, &recoverer);
        let mut digests = HashMap::new();
        for uid in homes.keys() {
            let Some(group) = recoverer.group(*uid) else { continue };
            if let Some(slot) = group.hole() {
                return Err(damaged(&format!("slot {slot} of group {uid:032x} is missing"), from));
            }
            digests.insert(*uid, group.digest(*uid));
        }
        let next = now.next_era(config.shards, &ends);
        Ok(Self { config, directory, now, next, homes, digests, logs })
    }

    fn new_logs(&self) -> PathBuf {
        meta::era_dir(self.directory.path(), self.next.era)
    }

    fn place(&self, logs: &Path, shard: usize, log: u128) -> LogPlace {
        place(self.config, logs, shard, log)
    }

    fn forget(&self, logs: &Path, of: &MetaV7) {
        (0..).zip(&of.logs).for_each(|(shard, ids)| self.logs.forget(&self.place(logs, shard, ids.log)));
    }

    fn begin(&self) -> Result<(), String> {
        let dir = self.new_logs();
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(&dir)(error)),
            _ => {}
        }
        fs::create_dir(&dir).map_err(at(&dir))?;
        sealed::sync_dir(self.directory.path()).map_err(at(self.directory.path()))
    }

    fn write_logs(&self) -> Result<(), String> {
        let (old, new) = (self.directory.logs(), self.new_logs());
        let mut logs = Vec::new();
        for (shard, ids) in self.next.logs.iter().enumerate() {
            let place = self.place(&new, shard, ids.log);
            fs::create_dir(&place.directory).map_err(at(&place.directory))?;
            let disk = self.logs.open(&place, None).map_err(|error| error.to_string())?;
            logs.push(NewLog::create(disk, shard, ids.log, place.segment_bytes)?);
        }
        let mut copier = Copier::new(self.config.homes(), &self.homes, logs);
        for (shard, ids) in self.now.logs.iter().enumerate() {
            let place = self.place(&old, shard, ids.log);
            let dir = &place.directory;
            if !dir.try_exists().map_err(at(dir))? {
                continue;
            }
            let mut outcome = Ok(());
            let mut segments = self.logs.segments(&place).map_err(at(dir))?;
            let elsewhere = elsewhere(self.config, &self.now, shard);
            recover(&mut *segments, expect(&place), &mut |place, _, header, body| {
                if outcome.is_ok() && !elsewhere.contains(&header.uid) {
                    outcome = copier.take(place, header, body);
                }
            })
            .map_err(|error| error.to_string())?;
            outcome?;
            tracing::info!(shard, bytes = copier.bytes(), "the log of this shard of before is copied");
        }
        copier.finish()
    }

    /// Checkpoints do not change, so a second name is as good as a copy.
    fn link_checkpoints(&self) -> Result<(), String> {
        let (old, new) = (self.directory.logs(), self.new_logs());
        let dir_of = |logs: &Path, shard: usize| meta::log_dir(logs, shard).join("checkpoints");
        for shard in 0..self.config.shards {
            let dir = dir_of(&new, shard);
            fs::create_dir(&dir).map_err(at(&dir))?;
        }
        let mut next_packs = vec![0; self.config.shards];
        for shard in 0..self.now.logs.len() {
            let dir = dir_of(&old, shard);
            let contents = Contents::find(&mut SystemFiles::look(dir.clone())).map_err(at(&dir))?;
            let shard_of = |uid: &u128| self.homes.get(uid).map(|home| self.config.homes().shard_of(*home));
            let elsewhere = elsewhere(self.config, &self.now, shard);
            for (uid, slot) in contents.alone().filter(|(uid, _)| !elsewhere.contains(uid)) {
                let Some(shard) = shard_of(&uid) else { continue };
                let name = whole_name(uid, slot);
                let to = dir_of(&new, shard).join(&name);
                fs::hard_link(dir.join(&name), &to).map_err(at(&to))?;
            }
            for number in contents.packs() {
                // Those of its groups that are on another shard are left out there.
                let shards: BTreeSet<usize> = contents.members(number).filter_map(|(uid, _)| shard_of(&uid)).collect();
                for shard in shards {
                    let to = dir_of(&new, shard).join(pack_name(next_packs[shard]));
                    next_packs[shard] += 1;
                    fs::hard_link(dir.join(pack_name(number)), &to).map_err(at(&to))?;
                }
            }
        }
        Ok(())
    }

    /// Marks the logs as opened, since an empty one in their place would be a lost one, and makes all names durable.
    fn finish_era(&self) -> Result<(), String> {
        let new = self.new_logs();
        for shard in 0..self.config.shards {
            meta::note_opened(&new, shard).map_err(at(&new))?;
            let dir = meta::log_dir(&new, shard);
            for dir in [dir.join("checkpoints"), dir] {
                sealed::sync_dir(&dir).map_err(at(&dir))?;
            }
        }
        sealed::sync_dir(&new).map_err(at(&new))
    }

    /// Reads the new logs as a start would.
    fn compare(&self) -> Result<(), String> {
        let new = self.new_logs();
        let mut recoverer = Recoverer::default();
        for (shard, ids) in self.next.logs.iter().enumerate() {
            let place = self.place(&new, shard, ids.log);
            let dir = &place.directory;
            let homes = self.config.homes();
            let mut stray = false;
            let mut segments = self.logs.segments(&place).map_err(at(dir))?;
            let recovery = recover(&mut *segments, expect(&place), &mut |place, _, header, body| {
                stray |= self.homes.get(&header.uid).is_none_or(|home| homes.shard_of(*home) != shard);
                recoverer.note(place, header, body);
            })
            .map_err(|error| error.to_string())?;
            if recovery.verdict != Verdict::Clean || recoverer.malformed.is_some() || stray {
                return Err(format!("{}: the new log is not what was written", dir.display()));
            }
        }
        for uid in self.homes.keys() {
            if recoverer.group(*uid).map(|group| group.digest(*uid)).as_ref() != self.digests.get(uid) {
                return Err(format!("a bug: group {uid:032x} is not the same in the new logs"));
            }
        }
        Ok(())
    }

    /// With this the new era is the directory's.
    fn decide(&self) -> Result<(), String> {
        self.directory.begin_era(&self.next).map_err(|error| error.to_string())
    }
}

fn damaged(what: &str, shards: usize) -> String {
    format!(
        "{what}. Start the node with `shards = {shards}` first: then this log is begun anew, and its replicas get their \
         votes back from the other nodes"
    )
}

/// A log of an era, whatever the node says of syncs: nobody else has what is in it while it is copied.
fn place(config: &Config, logs: &Path, shard: usize, log: u128) -> LogPlace {
    let (directory, segment_bytes) = (meta::log_dir(logs, shard), config.segment_mib * MIB);
    LogPlace { log, shard, directory, segment_bytes, sync: SyncMode::Durable }
}

fn expect(place: &LogPlace) -> Expect {
    Expect { shard: place.shard as u32, incarnation: place.log, segment_bytes: place.segment_bytes }
}

/// Reads a shard's log, one of `shards`; gives the sequence of its last frame.
fn read_log(
    store: &dyn LogStore,
    logs: &Path,
    place: &LogPlace,
    shards: usize,
    elsewhere: &HashSet<u128>,
    recoverer: &mut Recoverer,
) -> Result<u64, String> {
    let (shard, dir) = (place.shard, &place.directory);
    if let Some(reason) = meta::suspect_reason(logs, shard).map_err(at(dir))? {
        return Err(damaged(&format!("the log in {}: {reason}", dir.display()), shards));
    }
    let mut recovery = Recovery::empty();
    if dir.try_exists().map_err(at(dir))? {
        let visit = &mut |place, _, header: &RecordHeader, body: &_| {
            if !elsewhere.contains(&header.uid) {
                recoverer.note(place, header, body);
            }
        };
        let mut segments = store.segments(place).map_err(at(dir))?;
        recovery = recover(&mut *segments, expect(place), visit).map_err(|error| match &error {
            RecoverError::Damaged { .. } => damaged(&error.to_string(), shards),
            _ => error.to_string(),
        })?;
    }
    if recovery.segments.is_empty() && meta::was_opened(logs, shard).map_err(at(dir))? {
        return Err(format!("the log in {} is lost: put its files back (is its disk mounted?)", dir.display()));
    }
    if recoverer.malformed.is_some() {
        return Err(format!(
            "{} holds records that this version cannot read: run the one that wrote them",
            dir.display()
        ));
    }
    if let Verdict::TornTail { file, offset } = &recovery.verdict {
        tracing::warn!(file, offset, "the log ends with a torn tail, which is left out");
    }
    Ok(recovery.durable_through)
}

/// The groups that are on another shard than this one: what its log says of them is of an earlier stay.
fn elsewhere(config: &Config, now: &MetaV7, shard: usize) -> HashSet<u128> {
    let here: HashSet<GroupId> = now.groups_of(config, shard).into_iter().collect();
    let configured = (1..=config.groups).filter(|group| !here.contains(group)).map(|group| config.group_uid(group));
    let made = now.moved.iter().filter(|moved| moved.made.is_some() && !moved.is_on(shard));
    configured.chain(made.map(|moved| moved.uid(config))).collect()
}

/// The homes of all groups that there are, by uid.
fn homes_of_groups(config: &Config, recoverer: &Recoverer) -> HashMap<u128, u64> {
    let homes = config.homes();
    let mut by_uid: HashMap<u128, u64> = (1..=config.groups).map(|id| (config.group_uid(id), homes.home(id))).collect();
    for number in 0..homes.first_shards {
        let uid = config.directory_uid(number);
        by_uid.insert(uid, number);
        let made = recoverer.group(uid).into_iter().flat_map(|group| group.apply.directory.iter());
        by_uid.extend(made.map(|(slot, made)| (config.uid_of_group(made.id, slot), number)));
    }
    by_uid
}

#[cfg(test)]
mod tests;
