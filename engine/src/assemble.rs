//! From a log to a shard: recovery, the groups and the writer, on any source of segments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use synod_core::{Configuration, Slot};
use synod_wal::recover::{Expect, RecoverError, Recovery, SegmentSource, recover};
use synod_wal::writer::{Writer, WriterConfig};

use crate::checkpoint::Kept;
use crate::checkpoint::store::Store;
use crate::config::Config;
use crate::groups::directory_group;
use crate::homes::{Names, Placement};
use crate::large::Cutting;
use crate::limits::MIB;
use crate::machine::StateMachine;
use crate::meta::{MovedGroup, made_guests};
use crate::node::MachineFactory;
use crate::outcome::{GroupId, NodeId};
use crate::peers::Genesis;
use crate::recovery::Recoverer;
use crate::seen::Seen;
use crate::shard::admission::Pacing;
use crate::shard::checkpoints::{CheckpointPolicy, GroupCheckpoints};
use crate::shard::group::{Group, GroupKind, GroupNames};
use crate::shard::made::Maker;
use crate::shard::memory::Memory;
use crate::shard::pace::Rate;
use crate::shard::sessions::Expiry;
use crate::shard::{Parts, Shard};

/// Which shard of which directory.
#[derive(Clone, Debug)]
pub(crate) struct ShardPlace {
    pub(crate) shard: usize,
    /// The id of the log; a log with another one is foreign.
    pub(crate) log: u128,
    /// The replicas that its groups are.
    pub(crate) names: Names,
    /// Where all groups of the node are.
    pub(crate) placement: Arc<Placement>,
    /// Those of the configuration that are here, in order.
    pub(crate) groups: Vec<GroupId>,
    /// All groups of the node that were moved.
    pub(crate) moved: Vec<MovedGroup>,
    pub(crate) segment_bytes: u64,
    /// How much memory its values may take.
    pub(crate) memory: Memory,
    /// Which entries are cut.
    pub(crate) cutting: Cutting,
    /// For the choice of timeouts.
    pub(crate) seed: u64,
    /// The founders of shards that the cluster began with, as far as they are known and are those of groups here.
    pub(crate) founders: Vec<(usize, Genesis)>,
    /// Where the shard notes how far it has seen its peers.
    pub(crate) seen: Arc<Seen>,
    /// Bytes of a checkpoint that a peer is asked for at once.
    pub(crate) pull_bytes: u32,
}

impl ShardPlace {
    /// What is noted of a group here, if it was ever moved.
    fn moved_here(&self, id: GroupId, kind: GroupKind) -> Option<&MovedGroup> {
        let made = match kind {
            GroupKind::Configured => Slot::ZERO,
            GroupKind::Made(slot) => slot,
            GroupKind::Directory | GroupKind::Gone => return None,
        };
        self.moved.iter().find(|moved| (moved.group, moved.made()) == (id, made))
    }
}

/// Why there is no shard; says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    /// What was acknowledged may be lost: nobody may vote with this log again.
    #[error("{0}")]
    Damaged(String),
    /// It cannot be used as it is, but nothing says that it is damaged.
    #[error("{0}")]
    Refused(String),
}

/// Finds a group's newest intact checkpoint, and restores the machine from it if the machine has nothing of its own, or
/// less than the log can bring. Gives the checkpoint, and the index that the machine was restored to, or 0.
fn restore(
    store: &mut Store,
    (id, uid): (GroupId, u128),
    machine: Option<&mut Box<dyn StateMachine>>,
    first_index: u64,
) -> Result<(Option<Kept>, u64), AssembleError> {
    let Some(machine) = machine.filter(|machine| machine.takes_checkpoints()) else { return Ok((None, 0)) };
    let refused = |error: String| AssembleError::Refused(format!("the checkpoints of group {id}: {error}"));
    let newest = store.newest(uid).map_err(|error| refused(error.to_string()))?;
    let durable = machine.durable_index();
    let mut restored = 0;
    if let Some(kept) = &newest
        && durable < kept.index()
        && (durable == 0 || durable + 1 < first_index)
    {
        restored = store.restore(uid, kept.slot().0, &mut **machine).map_err(refused)?;
    }
    Ok((newest, restored))
}

/// Recovers a shard's log and makes its groups. What recovery kept may not be durable yet: it must be flushed before the
/// shard starts.
///
/// # Errors
/// Why this node cannot vote with this log, and what to do.
pub(crate) fn assemble(
    config: &Config,
    place: &ShardPlace,
    source: &mut dyn SegmentSource,
    store: &mut Store,
    machines: Option<&MachineFactory>,
) -> Result<(Shard, Recovery), AssembleError> {
    let mut recoverer = Recoverer::default();
    let expect = Expect { shard: place.shard as u32, incarnation: place.log, segment_bytes: place.segment_bytes };
    let homes = config.homes();
    let name = |uid: u128| {
        place
            .groups
            .iter()
            .find(|id| config.group_uid(**id) == uid)
            .map_or("an unknown group".into(), |id| format!("group {id}"))
    };
    let recovery = recover(source, expect, &mut |place, _, header, body| {
        recoverer.record(place, header, body);
    })
    .map_err(|error| match &error {
        RecoverError::Damaged { uid: Some(uid), .. } => {
            AssembleError::Damaged(format!("{error} (a record of {})", name(*uid)))
        }
        RecoverError::Damaged { uid: None, .. } => AssembleError::Damaged(error.to_string()),
        _ => AssembleError::Refused(error.to_string()),
    })?;
    if let Some((record, uid)) = recoverer.malformed {
        return Err(AssembleError::Refused(format!(
            "{} holds a record of {} at offset {} that this version cannot read: run the version that wrote it, or \
             replace this node",
            source.name(record.generation),
            name(uid),
            record.offset
        )));
    }

    let maker = Maker { config: config.clone(), names: place.names.clone(), machines: machines.cloned() };
    let peers: Vec<NodeId> = config.nodes().into_iter().filter(|node| *node != config.node).collect();
    let mut groups = Vec::new();
    let mut prefers = Vec::new();
    let mut add = |recoverer: &mut Recoverer, names: GroupNames, kind: GroupKind, genesis: Option<Configuration>| {
        let GroupNames { id, uid, home } = names;
        let (state, recovered) =
            recoverer.finish(id, uid).map_err(|error| AssembleError::Damaged(error.to_string()))?;
        let directory = recovered.apply.directory.clone();
        let replica = maker.replica(maker.name(uid, home), genesis, state);
        let is_new = recovered.apply.slot == Slot::ZERO && replica.log().last() == Slot::ZERO;
        let moved = place.moved_here(id, kind);
        let number = moved.map_or(0, |moved| moved.number);
        // What has begun anew with its log did not come into that one.
        let may_lack_it = moved.is_some_and(|moved| moved.anew) && recovered.arrival == 0;
        if recovered.arrival != number && !may_lack_it {
            return Err(AssembleError::Damaged(format!(
                "group {id} came from another shard with move {number}, and the log holds move {}: the end of the log is \
                 damaged, or it is an older copy",
                recovered.arrival
            )));
        }
        let mut machine = match kind {
            GroupKind::Made(_) if is_new => maker.new_machine(id).map_err(AssembleError::Refused)?,
            GroupKind::Configured | GroupKind::Made(_) => maker.machine(id).map_err(AssembleError::Refused)?,
            GroupKind::Directory | GroupKind::Gone => None,
        };
        let first_index = recovered.indexes.front().map_or(recovered.apply.next_index, |(_, index)| *index);
        let (newest, restored) = restore(store, (id, uid), machine.as_mut(), first_index)?;
        let taken = machine.as_ref().is_some_and(|machine| machine.takes_checkpoints());
        let checkpoints = GroupCheckpoints::new(uid, taken, newest);
        let log = (recovered.indexes, recovered.gone);
        let group = Group::new(names, replica, recovered.apply, log, machine, checkpoints, restored);
        let preferred = if kind.is_visible() { config.preferred(id) } else { 0 };
        groups.push(Group { kind, preferred, arrival: number, ..group });
        prefers.push(config.prefers(if kind == GroupKind::Directory { home } else { id }));
        Ok::<_, AssembleError>(directory)
    };
    for id in place.groups.iter().copied() {
        let names = GroupNames { id, uid: config.group_uid(id), home: homes.home(id) };
        add(&mut recoverer, names, GroupKind::Configured, None)?;
    }
    for (moved, slot, birth) in made_guests(&place.moved, homes, place.shard) {
        let id = moved.group;
        let names = GroupNames { id, uid: moved.uid(config), home: homes.home(id) };
        add(&mut recoverer, names, GroupKind::Made(slot), birth.genesis())?;
    }
    let mut directories = HashMap::new();
    for number in homes.directories(place.shard) {
        let names = GroupNames { id: directory_group(number), uid: config.directory_uid(number), home: number };
        let directory = add(&mut recoverer, names, GroupKind::Directory, None)?;
        for (slot, made) in directory.iter() {
            if let Some(reason) = maker.refuses(made.id) {
                return Err(AssembleError::Refused(reason));
            }
            // It may be on another shard, or one that had its number before may not be gone from there yet.
            if place.placement.away(made.id).is_none() {
                let names = GroupNames { id: made.id, uid: config.uid_of_group(made.id, slot), home: number };
                add(&mut recoverer, names, GroupKind::Made(slot), made.birth.genesis())?;
            }
        }
        directories.insert(number, directory);
    }
    for group in &mut groups {
        if let (GroupKind::Made(slot), Some(directory)) = (group.kind, directories.get(&group.names.home)) {
            group.ending = directory.get(slot).is_some_and(|made| made.ending);
        }
    }
    // What is left of other groups is of such as were dropped.
    recoverer.forget_others();
    let known: HashSet<u128> = groups.iter().map(|group| group.names.uid).collect();
    // Groups of other shards are here where a pack of checkpoints came along when the number of shards was changed.
    let elsewhere: HashSet<u128> = (1..=config.groups).map(|id| config.group_uid(id)).collect();
    let is_over = |uid| !known.contains(&uid) && (config.is_made_uid(uid) || elsewhere.contains(&uid));
    store.remove_all_of(is_over).map_err(|error| AssembleError::Refused(format!("the checkpoints: {error}")))?;
    let writer_config = WriterConfig {
        segment_bytes: place.segment_bytes,
        bytes_max: config.wal_mib_max * MIB,
        ..WriterConfig::new(place.shard as u32, place.log)
    };
    let mut shard = Shard::new(Parts {
        peers,
        seen: Arc::clone(&place.seen),
        prefers,
        clock_drift_percent: config.clock_drift_percent,
        groups,
        maker,
        writer: Writer::new(writer_config, &recovery),
        index: recoverer.index,
        seed: place.seed,
        memory: place.memory,
        cutting: place.cutting,
        retain_bytes: config.retain_mib * MIB,
        index_bytes_max: config.index_mib << 20,
        expiry: Expiry::new(config.sessions_max, config.session_idle_seconds),
        pacing: Pacing::new(config.queue_ms_max * 1_000_000, config.batch_entries_max),
        checkpoints: CheckpointPolicy::new(config, place.pull_bytes),
        pace: (config.learn_mib_per_second > 0).then(|| Rate::new(config.learn_mib_per_second * MIB)),
        node: config.node,
        shard: (place.shard, config.shards),
        homes,
        placement: Arc::clone(&place.placement),
        moved: &place.moved,
    });
    for (first_shard, genesis) in &place.founders {
        shard.found(*first_shard, genesis);
    }
    Ok((shard, recovery))
}
