//! What a stopped node's directory holds. Nothing in it is changed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use synod_core::{Ballot, Configuration, ReplicaId, Slot};
use synod_wal::disk::FileSource;
use synod_wal::index::Index;
use synod_wal::ops::RecordPlace;
use synod_wal::record::{RECORD_HEADER_BYTES, RecordHeader};
use synod_wal::recover::{Expect, RecoverError, Verdict, recover};
use synod_wal::segment_name;

use super::RepairError;
use super::plan::Evidence;
use crate::apply::ApplyState;
use crate::checkpoint::files::SystemFiles;
use crate::checkpoint::store::Store;
use crate::config::Config;
use crate::directory::{Birth, Directory, Made};
use crate::groups::{directory_group, directory_number, name_of};
use crate::limits::MIB;
use crate::meta::{self, DirectoryLock, MetaV7};
use crate::outcome::{GroupId, NodeId};
use crate::payload::Payload;
use crate::peers::{Owner, Peers};
use crate::persist::Summary;
use crate::recovery::Recoverer;
use crate::wire::kind;

/// A survivor: the directory of a node that is stopped, and locked for as long as this lives.
pub(crate) struct Survivor {
    pub(crate) path: PathBuf,
    pub(crate) meta: MetaV7,
    pub(crate) shards: Vec<ShardLog>,
    _lock: DirectoryLock,
}

/// A shard's log.
pub(crate) struct ShardLog {
    pub(crate) dir: PathBuf,
    /// Why its votes are not all that were given, if so.
    pub(crate) damage: Option<String>,
    /// Where the tail was cut, if it was.
    pub(crate) torn: Option<String>,
    pub(crate) index: Index,
    /// By uid.
    pub(crate) groups: BTreeMap<u128, FoundGroup>,
    /// The founders of the shards that the cluster began with, as far as they are known.
    founders: Vec<Configuration>,
}

/// A group of the old cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    /// Its number, or a directory's name.
    pub(crate) id: GroupId,
    /// If it was made at run time: by the order in which slot, and what it began with.
    pub(crate) made: Option<(Slot, Birth)>,
    /// It is being dropped.
    pub(crate) ending: bool,
}

impl Subject {
    pub(crate) fn of(id: GroupId) -> Self {
        Self { id, made: None, ending: false }
    }

    fn made(slot: Slot, made: &Made) -> Self {
        Self { id: made.id, made: Some((slot, made.birth.clone())), ending: made.ending }
    }

    /// The groups that a directory names.
    pub(crate) fn all_of(directory: &Directory) -> impl Iterator<Item = Self> {
        directory.iter().map(|(slot, made)| Self::made(slot, made))
    }

    /// Its uid, in the cluster that `config` is of.
    pub(crate) fn uid(&self, config: &Config) -> u128 {
        config.uid_of_group(self.id, self.made.as_ref().map_or(Slot::ZERO, |(slot, _)| *slot))
    }

    pub(crate) fn home(&self, config: &Config) -> u64 {
        config.homes().home(self.id)
    }

    /// The configuration that it began with; without voters nobody chooses.
    fn genesis(&self, founders: &Configuration, phase_2: u16) -> Configuration {
        match &self.made {
            Some((_, birth)) => birth.genesis().unwrap_or_else(|| birth.sized(founders.clone())),
            None if directory_number(self.id).is_some() => founders.clone(),
            None => founders.clone().with_phase_2(phase_2).unwrap_or_else(|| founders.clone()),
        }
    }
}

/// A group in a shard's log.
pub(crate) struct FoundGroup {
    pub(crate) uid: u128,
    pub(crate) evidence: Evidence<Payload>,
    /// What the slots did that are gone from the log; of a group that has come from another shard, those that came along too.
    pub(crate) base: ApplyState,
    /// What can be read of those that came along: first slot, how many, index.
    pub(crate) readable: Vec<(Slot, u64, u64)>,
    /// What the chosen ones did.
    pub(crate) apply: ApplyState,
    /// The slots of its checkpoints that are intact, the newest first.
    pub(crate) checkpoints: Vec<Slot>,
}

impl Survivor {
    /// Takes the directory at `path`, of the node that `node` names or of whichever one of the cluster it is, and reads all
    /// its logs. `damaged_too`: what is intact of a log that is damaged, or must not be voted with for another reason.
    pub(crate) fn read(
        config: &Config,
        path: &Path,
        node: Option<NodeId>,
        damaged_too: bool,
    ) -> Result<Self, RepairError> {
        let cluster = config.cluster_id().expect("validated");
        let (meta, lock) = meta::look_into(path, (cluster, node, config.shards))?;
        if meta.witness {
            return Err(RepairError::Refused(format!(
                "{} is a witness's, which keeps no entries: leave it out, and repair from what other nodes have",
                path.display()
            )));
        }
        let config = &Config { first_shards: Some(meta.first.len()), ..config.clone() };
        let owner = Owner {
            node: meta.node,
            incarnation: meta.incarnation,
            founders: (!meta.replacement).then(|| meta.first.clone()),
            shards: meta.first.len(),
        };
        let peers = Peers::open(path, owner)?;
        let mut shards = Vec::new();
        for shard in 0..config.shards {
            shards.push(ShardLog::read(config, path, &meta, (shard, &peers), damaged_too)?);
        }
        Ok(Self { path: path.to_owned(), meta, shards, _lock: lock })
    }

    /// The log that a group is in.
    pub(crate) fn log_of(&self, uid: u128) -> &ShardLog {
        self.shards.iter().find(|log| log.groups.contains_key(&uid)).expect("each group is in one of them")
    }

    /// What there is of a group.
    pub(crate) fn group(&self, uid: u128) -> &FoundGroup {
        self.log_of(uid).group(uid)
    }

    /// A group that others know: if it is not here yet, nothing of it is.
    pub(crate) fn meet(&mut self, config: &Config, subject: &Subject) {
        let (uid, home) = (subject.uid(config), subject.home(config));
        if self.shards.iter().all(|log| !log.groups.contains_key(&uid)) {
            let shard = &mut self.shards[config.homes().shard_of(home)];
            let genesis = subject.genesis(&shard.founders[(home % self.meta.first.len() as u64) as usize], 0);
            let replica = ReplicaId(self.meta.replica_at(home));
            let nothing = FoundGroup::nothing(uid, replica, genesis, shard.damage.is_none());
            shard.groups.insert(uid, nothing);
        }
    }
}

impl ShardLog {
    fn read(
        config: &Config,
        path: &Path,
        meta: &MetaV7,
        (shard, peers): (usize, &Peers),
        damaged_too: bool,
    ) -> Result<Self, RepairError> {
        let logs = &meta::era_dir(path, meta.era);
        let dir = meta::log_dir(logs, shard);
        let expect =
            Expect { shard: shard as u32, incarnation: meta.logs[shard].log, segment_bytes: config.segment_mib * MIB };
        let at = |error: io::Error| RepairError::Io { path: dir.clone(), error };
        let mut damage =
            meta::suspect_reason(logs, shard).map_err(at)?.map(|reason| format!("{}: {reason}", dir.display()));
        let mut checkpoints = look_at_checkpoints(&dir, meta.cluster)?;
        let mut recoverer = Recoverer::default();
        let mut bases: HashMap<u128, ApplyState> = HashMap::new();
        let mut arriving = HashSet::new();
        let mut torn = None;
        let mut empty = true;
        if dir.try_exists().map_err(at)? {
            let recovered = recover(&mut FileSource::new(&dir), expect, &mut |place, _, header, body| {
                empty = false;
                recoverer.record(place, header, body);
                // The last one that the recovery went on from; one that came again says the same. The one that a group brings
                // along from another shard is younger than its first values.
                if header.kind == kind::ARRIVAL {
                    arriving.insert(header.uid);
                } else if header.kind == kind::SUMMARY
                    && let Some(summary) = Summary::decode(header, body)
                    && (arriving.remove(&header.uid) || recoverer.gone(header.uid) == summary.apply.slot)
                {
                    bases.insert(header.uid, summary.apply);
                }
            });
            match recovered {
                Ok(recovery) => {
                    empty &= recovery.segments.is_empty();
                    if let Verdict::TornTail { file, offset } = recovery.verdict {
                        torn = Some(format!("{file} ends with a torn tail at byte {offset}, which is left out"));
                    }
                }
                Err(error @ RecoverError::Damaged { .. }) if !empty => damage = Some(error.to_string()),
                Err(error) => return Err(RepairError::Refused(error.to_string())),
            }
        }
        if empty && meta::was_opened(logs, shard).map_err(at)? {
            return Err(RepairError::Refused(format!(
                "the log in {} is lost: there is nothing to repair from. Put its files back (is its disk mounted?)",
                dir.display()
            )));
        }
        if recoverer.malformed.is_some() {
            return Err(RepairError::Refused(format!(
                "{} holds records that this version cannot read: run the version that wrote them",
                dir.display()
            )));
        }
        let founders = |first: usize| {
            let mut founders = peers.genesis(first).unwrap_or_default();
            founders.sort_unstable();
            let voters = founders.into_iter().map(|(node, replica)| (node, ReplicaId(replica)));
            Configuration::genesis(voters)
        };
        let founders: Vec<Configuration> = (0..meta.first.len()).map(founders).collect();
        let mut groups = BTreeMap::new();
        let mut left = subjects(config, meta, shard);
        while let Some(subject) = left.pop_front() {
            let (id, uid, home) = (subject.id, subject.uid(config), subject.home(config));
            let (recovered, found, hole) = recoverer.finish_up_to_hole(uid);
            if let Some(slot) = hole {
                damage.get_or_insert(format!("{}: slot {slot} of {} is missing", dir.display(), name_of(id)));
            }
            let genesis = || subject.genesis(&founders[(home % meta.first.len() as u64) as usize], meta.phase_2);
            let noted = |uid: u128| meta.moved.iter().find(|moved| moved.uid(config) == uid);
            let made = Subject::all_of(&found.apply.directory);
            left.extend(made.filter(|made| noted(made.uid(config)).is_none_or(|moved| moved.is_on(shard))));
            let moved = noted(uid);
            let replica = moved.map_or_else(|| meta.replica_at(home), |moved| moved.replica);
            let told = found.told().max(recovered.chosen);
            let evidence = Evidence {
                replica: ReplicaId(replica),
                sound: true,
                promised: recovered.promised,
                configuration: recovered.configuration.unwrap_or_else(genesis),
                gone: found.gone,
                chosen: recovered.chosen,
                told,
                accepted: recovered.entries,
            };
            let base = bases.remove(&uid).unwrap_or_default();
            let came = found.indexes.iter().take_while(|(slot, _)| *slot <= base.slot);
            let readable = came.map(|(slot, index)| (*slot, found.indexes.slots(*slot), *index)).collect();
            let mut group = FoundGroup { uid, evidence, base, readable, apply: found.apply, checkpoints: Vec::new() };
            group.find_checkpoints(&mut checkpoints);
            groups.insert(uid, group);
        }
        if let Some(damage) = &damage {
            if !damaged_too {
                return Err(RepairError::Damaged(damage.clone()));
            }
            groups.values_mut().for_each(|group| group.evidence.sound = false);
        }
        Ok(Self { dir, damage, torn, index: recoverer.index, groups, founders })
    }

    pub(crate) fn group(&self, uid: u128) -> &FoundGroup {
        &self.groups[&uid]
    }

    /// The checkpoints beside it.
    pub(crate) fn checkpoints(&self, cluster: u128) -> Result<Store, RepairError> {
        look_at_checkpoints(&self.dir, cluster)
    }
}

/// The groups that are in a shard's log, but for those that its directories name.
fn subjects(config: &Config, meta: &MetaV7, shard: usize) -> VecDeque<Subject> {
    let homes = config.homes();
    let directories = homes.directories(shard).map(|number| Subject::of(directory_group(number)));
    let configured = meta.groups_of(config, shard).into_iter().map(Subject::of);
    let guests = meta::made_guests(&meta.moved, homes, shard)
        .map(|(moved, slot, birth)| Subject { made: Some((slot, birth.clone())), ..Subject::of(moved.group) });
    directories.chain(configured).chain(guests).collect()
}

impl FoundGroup {
    /// A group of which there is nothing.
    fn nothing(uid: u128, replica: ReplicaId, genesis: Configuration, sound: bool) -> Self {
        let evidence = Evidence {
            replica,
            sound,
            promised: Ballot::ZERO,
            configuration: genesis,
            gone: Slot::ZERO,
            chosen: Slot::ZERO,
            told: Slot::ZERO,
            accepted: Vec::new(),
        };
        let (base, apply) = (ApplyState::default(), ApplyState::default());
        Self { uid, evidence, base, readable: Vec::new(), apply, checkpoints: Vec::new() }
    }

    /// Finds the checkpoints that are intact. One that is ahead of the log, as a crash may leave it, says what is chosen.
    fn find_checkpoints(&mut self, store: &mut Store) {
        for slot in store.slots(self.uid) {
            match store.check(self.uid, slot) {
                Ok(kept) => {
                    self.checkpoints.push(Slot(slot));
                    self.adopt(kept.state);
                }
                Err(error) => {
                    let uid = format_args!("{:032x}", self.uid);
                    tracing::warn!(%uid, slot, %error, "a checkpoint cannot be used: it is left out")
                }
            }
        }
    }

    fn adopt(&mut self, state: ApplyState) {
        let evidence = &mut self.evidence;
        if state.slot <= evidence.chosen {
            return;
        }
        let held = (state.slot.0 - evidence.chosen.0).min(evidence.accepted.len() as u64);
        evidence.accepted.drain(..held as usize);
        (evidence.gone, evidence.chosen) = (state.slot, state.slot);
        evidence.told = evidence.told.max(state.slot);
        if let Some(configuration) = &state.configuration {
            evidence.configuration = configuration.clone();
        }
        self.base = state.clone();
        self.apply = state;
    }
}

fn look_at_checkpoints(log: &Path, cluster: u128) -> Result<Store, RepairError> {
    let path = log.join("checkpoints");
    let files = SystemFiles::look(path.clone());
    Store::look(Box::new(files), cluster).map_err(|error| RepairError::Io { path, error })
}

/// Reads records of a log by their places.
pub(crate) struct RecordReader {
    dir: PathBuf,
    open: Option<(u64, File)>,
}

impl RecordReader {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    /// A record, checked: its header and its body.
    pub(crate) fn read(&mut self, place: RecordPlace) -> Result<(RecordHeader, Vec<u8>), RepairError> {
        let path = self.dir.join(segment_name(place.generation));
        let failed = |error: io::Error| RepairError::Io { path: path.clone(), error };
        if self.open.as_ref().is_none_or(|(open, _)| *open != place.generation) {
            self.open = Some((place.generation, File::open(&path).map_err(failed)?));
        }
        let (_, file) = self.open.as_ref().expect("opened above");
        let mut bytes = vec![0; place.bytes as usize];
        file.read_exact_at(&mut bytes, place.offset).map_err(failed)?;
        let header = RecordHeader::decode(&bytes).map_err(|error| failed(io::Error::other(error)))?;
        let mut body = bytes.split_off(RECORD_HEADER_BYTES);
        body.truncate(header.body_len as usize);
        header.check_body(&body).map_err(|error| failed(io::Error::other(error)))?;
        Ok((header, body))
    }
}
