//! What a stopped node's directory holds. Nothing in it is changed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use synod_core::{Configuration, ReplicaId, Slot};
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
    /// In the order of their numbers.
    pub(crate) groups: Vec<(GroupId, FoundGroup)>,
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

    /// The log that a group of the configuration is in.
    pub(crate) fn log_of(&self, id: GroupId) -> &ShardLog {
        let has = |log: &&ShardLog| log.groups.iter().any(|(of, _)| *of == id);
        self.shards.iter().find(has).expect("each group is in one of them")
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
        let uids: Vec<(GroupId, u128)> =
            meta.groups_of(config, shard).into_iter().map(|id| (id, config.group_uid(id))).collect();
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
        let mut groups = Vec::new();
        for (id, uid) in uids {
            let (recovered, found, hole) = recoverer.finish_up_to_hole(uid);
            if let Some(slot) = hole {
                damage.get_or_insert(format!("{}: slot {slot} of group {id} is missing", dir.display()));
            }
            let home = config.homes().home(id);
            let genesis = || {
                let mut founders = peers.genesis((home % meta.first.len() as u64) as usize).unwrap_or_default();
                founders.sort_unstable();
                let voters = founders.into_iter().map(|(node, replica)| (node, ReplicaId(replica)));
                let genesis = Configuration::genesis(voters);
                // Without voters nobody chooses.
                genesis.clone().with_phase_2(meta.phase_2).unwrap_or(genesis)
            };
            let told = found.told().max(recovered.chosen);
            let evidence = Evidence {
                replica: ReplicaId(meta.replica_of(id, home)),
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
            groups.push((id, group));
        }
        if let Some(damage) = &damage {
            if !damaged_too {
                return Err(RepairError::Damaged(damage.clone()));
            }
            groups.iter_mut().for_each(|(_, group)| group.evidence.sound = false);
        }
        Ok(Self { dir, damage, torn, index: recoverer.index, groups })
    }

    pub(crate) fn group(&self, id: GroupId) -> &FoundGroup {
        let at = self.groups.binary_search_by_key(&id, |(id, _)| *id).expect("all groups of a shard were looked at");
        &self.groups[at].1
    }

    /// The checkpoints beside it.
    pub(crate) fn checkpoints(&self, cluster: u128) -> Result<Store, RepairError> {
        look_at_checkpoints(&self.dir, cluster)
    }
}

impl FoundGroup {
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
