//! A shard's log at a start: it is recovered, or refused, or set aside for a new one. The whole policy is here.

use std::collections::VecDeque;
use std::sync::Arc;

use synod_core::{Configuration, Quorums, ReplicaId, Slot};
use synod_wal::recover::{Expect, Recovery, recover};

use crate::assemble::{AssembleError, ShardPlace, assemble};
use crate::checkpoint::files::SystemFiles;
use crate::checkpoint::message::PULL_BYTES_MAX;
use crate::checkpoint::store::Store;
use crate::config::Config;
use crate::groups::{directory_group, name_of};
use crate::homes::Placement;
use crate::large::Cutting;
use crate::limits::MIB;
use crate::log_store::{LogPlace, LogStore};
use crate::meta::{self, Directory};
use crate::node::MachineFactory;
use crate::outcome::GroupId;
use crate::peers::{Genesis, Peers};
use crate::random::random_u128;
use crate::recovery::Recoverer;
use crate::seen::Seen;
use crate::shard::Shard;
use crate::shard::memory::Memory;

/// What a log is opened with.
pub(crate) struct Opening<'a> {
    pub(crate) config: &'a Config,
    /// How many nodes there are, those that were introduced among them.
    pub(crate) nodes: usize,
    pub(crate) directory: &'a Directory,
    pub(crate) peers: &'a Peers,
    pub(crate) seen: &'a Arc<Seen>,
    pub(crate) logs: &'a dyn LogStore,
    pub(crate) machines: Option<&'a MachineFactory>,
    /// Where the groups of the node are.
    pub(crate) placement: &'a Arc<Placement>,
}

impl Opening<'_> {
    /// Where a shard's log is now.
    pub(crate) fn place(&self, shard: usize) -> LogPlace {
        LogPlace {
            log: self.directory.log_id(shard),
            shard,
            directory: meta::log_dir(&self.directory.logs(), shard),
            segment_bytes: self.config.segment_mib * MIB,
            sync: self.config.sync.into(),
        }
    }

    /// Recovers a shard's log. One that is damaged or suspect is set aside and begun anew: the new one's replica founds
    /// nothing, and gets its vote back from the others. One that is lost is not: its disk may only be missing, perhaps on
    /// all nodes alike. Nor is one without which the others are no quorum: then nobody could give it a vote.
    ///
    /// # Errors
    /// Why this node cannot start with this log, and what to do.
    pub(crate) fn recover_or_renew(&self, shard: usize) -> Result<(Shard, Recovery, Store), String> {
        match self.recover(shard) {
            Err(AssembleError::Damaged(reason)) if self.others_are_a_quorum() => {
                if let Some(group) = self.needs_this_vote(shard) {
                    return Err(format!(
                        "{reason}. In {} the other voters are no quorum without this one, as far as this log can be \
                         read, so nobody could give it a new vote: put back a sound copy of these very files, or go on \
                         from what is intact (`synod repair --damaged-too`). If the group has more voters by now, \
                         replace this node by a new one (`synod init --replace` in an empty directory). Nothing was changed",
                        name_of(group)
                    ));
                }
                let old = self.directory.log_id(shard);
                let new = self.directory.renew_replica(shard).map_err(|error| error.to_string())?;
                tracing::error!(
                    shard,
                    old = format!("{old:032x}"),
                    new = format!("{new:032x}"),
                    reason,
                    "this log must not be voted with again: it is set aside, beside the others, and an empty one takes \
                     its place. The new replica learns what was chosen from the others, and they give it a vote"
                );
                self.recover(shard).map_err(|error| error.to_string())
            }
            Err(AssembleError::Damaged(reason)) => Err(format!(
                "{reason}. The other members are no quorum without this one, so nobody could give it a new vote: put back \
                 a sound copy of these very files; nothing was changed"
            )),
            recovered => recovered.map_err(|error| error.to_string()),
        }
    }

    /// Whether the other members could give a new replica of this one its vote.
    fn others_are_a_quorum(&self) -> bool {
        Quorums::of(self.nodes, self.config.phase_2).both() < self.nodes
    }

    /// A group, or a directory, in which the others are no quorum without this shard's replica, by the last configuration that
    /// the log, as far as it is intact, knows as chosen.
    fn needs_this_vote(&self, shard: usize) -> Option<GroupId> {
        let config = self.config;
        let (incarnation, names) = (self.directory.log_id(shard), self.directory.names(config, shard));
        let expect = Expect { shard: shard as u32, incarnation, segment_bytes: config.segment_mib * MIB };
        let mut found = Recoverer::default();
        let visit = &mut |place, _, header: &_, body: &_| found.record(place, header, body);
        if let Ok(mut segments) = self.logs.segments(&self.place(shard)) {
            // That it is damaged is known.
            let _ = recover(&mut *segments, expect, visit);
        }
        let (homes, meta) = (config.homes(), self.directory.snapshot());
        let configured = meta.groups_of(config, shard).into_iter().map(|id| (id, Slot::ZERO, None));
        let guests = meta::made_guests(&meta.moved, homes, shard);
        let guests = guests.map(|(moved, slot, birth)| (moved.group, slot, birth.genesis()));
        let directories = homes.directories(shard).map(|number| (directory_group(number), Slot::ZERO, None));
        let mut left: VecDeque<(GroupId, Slot, Option<Configuration>)> =
            configured.chain(guests).chain(directories).collect();
        while let Some((id, made, genesis)) = left.pop_front() {
            let uid = config.uid_of_group(id, made);
            let (recovered, group, _) = found.finish_up_to_hole(uid);
            let replica = ReplicaId(names.of_named(uid).unwrap_or_else(|| names.of(homes.home(id))));
            let needs = |configuration: Configuration| {
                let votes = configuration.member_of(replica).is_some();
                votes && configuration.voters.len() - 1 < configuration.quorums().both()
            };
            if recovered.configuration.or(genesis).is_some_and(needs) {
                return Some(id);
            }
            // Of a directory: the groups that it names. Those that are elsewhere are none of this log's.
            let made = group.apply.directory.iter().filter(|(_, made)| self.placement.away(made.id).is_none());
            left.extend(made.map(|(slot, made)| (made.id, slot, made.birth.genesis())));
        }
        None
    }

    /// The founders of the groups on a shard, as far as they are known.
    fn founders(&self, shard: usize) -> Vec<(usize, Genesis)> {
        let (shards, first_shards) = (self.directory.shards(), self.directory.first().len());
        let meta = self.directory.snapshot();
        let guests = meta.moved.iter().filter(|moved| moved.is_on(shard));
        let guests: Vec<usize> = guests.map(|moved| (moved.group % first_shards as u64) as usize).collect();
        let here = |first: &usize| shards != first_shards || *first == shard || guests.contains(first);
        (0..first_shards).filter(here).filter_map(|first| Some((first, self.peers.genesis(first)?))).collect()
    }

    fn recover(&self, shard: usize) -> Result<(Shard, Recovery, Store), AssembleError> {
        let logs = self.directory.logs();
        let log = meta::log_dir(&logs, shard);
        let failed = |error: std::io::Error| AssembleError::Refused(format!("{}: {error}", log.display()));
        if let Some(reason) = meta::suspect_reason(&logs, shard).map_err(failed)? {
            return Err(AssembleError::Damaged(format!("the log in {}: {reason}", log.display())));
        }
        std::fs::create_dir_all(&log).map_err(failed)?;
        // Recovery does not know the directory's name.
        std::fs::read_dir(&log).map_err(failed)?;
        let meta = self.directory.snapshot();
        let place = ShardPlace {
            shard,
            log: self.directory.log_id(shard),
            names: self.directory.names(self.config, shard),
            placement: Arc::clone(self.placement),
            groups: meta.groups_of(self.config, shard),
            moved: meta.moved,
            segment_bytes: self.config.segment_mib * MIB,
            memory: Memory::new(self.config.cache_mib << 20),
            cutting: Cutting::default(),
            seed: random_u128() as u64,
            founders: self.founders(shard),
            seen: Arc::clone(self.seen),
            pull_bytes: PULL_BYTES_MAX,
        };
        let cluster = self.config.cluster_id().expect("validated");
        let files = SystemFiles::open(log.join("checkpoints")).map_err(failed)?;
        let mut store = Store::open(Box::new(files), cluster).map_err(failed)?;
        let mut segments = self.logs.segments(&self.place(shard)).map_err(failed)?;
        let (shard_machine, recovery) = assemble(self.config, &place, &mut *segments, &mut store, self.machines)?;
        if recovery.segments.is_empty() && meta::was_opened(&logs, shard).map_err(failed)? {
            return Err(AssembleError::Refused(format!(
                "the log in {} is lost, and with it this node's votes: put its files back (is its disk mounted, and is \
                 it the log store that this node was made with?), or, when they are gone for good, replace this node by \
                 a new one (`synod init --replace` in an empty directory)",
                log.display()
            )));
        }
        Ok((shard_machine, recovery, store))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use synod_core::{Ballot, Body, Configuration, Slot, Value};
    use synod_wal::{End, SegmentHeader, segment_name};

    use super::*;
    use crate::apply::ApplyState;
    use crate::config::{DiskBackend, Member};
    use crate::meta::{DirectoryLock, MetaV7};
    use crate::peers::Owner;
    use crate::persist::Summary;
    use crate::repair::ShardWriter;

    struct Node {
        config: Config,
        directory: Directory,
        peers: Peers,
        _lock: DirectoryLock,
    }

    fn node(path: &Path) -> Node {
        let members = (1..=3).map(|node| Member { node, address: "127.0.0.1:1".parse().unwrap() });
        let config = Config::new(5, 1, path, members.collect());
        Directory::init(path, &MetaV7::draw(5, 1, (1, 1, 0), (false, false)), vec![1]).unwrap();
        let (directory, _lock) = Directory::open(path, 5, 1, (0, false)).unwrap();
        let founders = Some(directory.first());
        let owner = Owner { node: 1, incarnation: directory.incarnation(), founders, shards: 1 };
        let peers = Peers::open(path, owner).unwrap();
        Node { config, directory, peers, _lock }
    }

    impl Node {
        fn open(&self) -> Result<(Shard, Recovery), String> {
            let (seen, machines, logs) = (&Arc::default(), None, &DiskBackend::Uring);
            let Self { config, directory, peers, .. } = self;
            let placement = &Arc::new(Placement::new(config.homes(), []));
            let nodes = config.members.len();
            let opening = Opening { config, nodes, directory, peers, seen, logs, machines, placement };
            let opened = opening.recover_or_renew(0);
            opened.map(|(shard, recovery, _)| (shard, recovery))
        }
    }

    /// After `spoil` the log is refused with `word` when the others could give no vote, else begun anew.
    fn check_spoilt(spoil: impl FnOnce(&Directory), word: &str) {
        let dir = tempfile::tempdir().unwrap();
        let mut node = node(&dir.path().join("node"));
        let path = node.directory.path().to_owned();
        node.open().unwrap();
        let first = node.directory.log_id(0);
        assert!(node.directory.is_founder(0), "a new log is not renewed");
        meta::note_opened(&path, 0).unwrap();
        spoil(&node.directory);
        let third = node.config.members.pop();
        let Err(error) = node.open() else { panic!("it should say {word}") };
        assert!(error.contains(word), "{error}");
        assert_eq!(node.directory.log_id(0), first, "a refusal changes nothing");

        node.config.members.extend(third);
        let (_, recovery) = node.open().unwrap();
        assert!(recovery.segments.is_empty());
        assert!(node.directory.log_id(0) != first && !node.directory.is_founder(0));
        assert_eq!(node.peers.genesis(0), Some(vec![(1, first)]), "the founders stay as they were");
        let aside = path.join(format!("shard-0.damaged-{:016x}", first as u64));
        assert!(aside.is_dir());
    }

    #[test]
    fn a_lost_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(&dir.path().join("node"));
        node.open().unwrap();
        meta::note_opened(node.directory.path(), 0).unwrap();
        fs::remove_dir_all(meta::log_dir(node.directory.path(), 0)).unwrap();
        for _ in 0..2 {
            let Err(error) = node.open() else { panic!("its disk may only be missing") };
            assert!(error.contains("is lost"), "{error}");
        }
        assert!(node.directory.is_founder(0));
    }

    #[test]
    fn a_suspect_log_is_begun_anew() {
        let reason = "a peer has seen more";
        check_spoilt(|dir| meta::mark_suspect(dir.path(), 0, reason).unwrap(), reason);
    }

    /// Of the voters of a group only this replica and some others are left, on nodes 2 and up.
    fn check_with_others(group: GroupId, others: u64) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let node = node(&dir.path().join("node"));
        node.open().unwrap();
        let (path, replica) = (node.directory.path(), node.directory.log_id(0));
        let voters = (1..=1 + others).map(|of| (of, if of == 1 { ReplicaId(replica) } else { ReplicaId(of.into()) }));
        let configuration = Configuration { version: 2, ..Configuration::genesis(voters) };
        let mut apply = ApplyState::default();
        let body = Body::Configuration(Box::new(configuration));
        apply.apply(Slot(1), &Value { origin: Ballot::ZERO, body });
        let mut writer =
            ShardWriter::create(&meta::log_dir(path, 0), 0, replica, node.config.segment_mib * MIB).unwrap();
        let summary = Summary { promised: Ballot::ZERO, chosen: Slot(1), apply, arrival: 0, accepted: vec![] };
        let (header, body) = summary.encode(node.config.uid_of_group(group, Slot::ZERO));
        writer.push(&header, &body).unwrap();
        writer.finish().unwrap();
        meta::note_opened(path, 0).unwrap();
        meta::mark_suspect(path, 0, "a peer has seen more").unwrap();
        let opened = node.open();
        assert_eq!(opened.is_err(), node.directory.log_id(0) == replica, "a refusal changes nothing");
        opened.map(|_| ())
    }

    /// There are members enough, but not among the voters: set aside, such a log could never be voted with again.
    #[test]
    fn a_log_without_which_the_others_are_no_quorum_is_not_set_aside() {
        for (group, name) in [(1, "group 1"), (directory_group(0), "directory 0")] {
            for others in [0, 1] {
                let error = check_with_others(group, others).unwrap_err();
                let says = format!("In {name} the other voters");
                assert!(error.contains("a peer has seen more") && error.contains(&says), "{error}");
            }
            for others in [2, 3, 4] {
                check_with_others(group, others).unwrap();
            }
        }
    }

    /// Writes a segment without frames, under the name of the generation `named`.
    fn write_segment(dir: &Directory, header: SegmentHeader, named: u64) {
        let mut file = header.encode().to_vec();
        file.resize(header.segment_bytes as usize, 0);
        let log = meta::log_dir(dir.path(), 0);
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join(segment_name(named)), file).unwrap();
    }

    fn first_segment(replica: u128) -> SegmentHeader {
        SegmentHeader {
            generation: 1,
            segment_bytes: 4 * MIB,
            shard: 0,
            incarnation: replica,
            first_sequence: 1,
            recycled: false,
            previous: None,
        }
    }

    #[test]
    fn a_damaged_log_is_begun_anew() {
        let damage = |dir: &Directory| {
            let first = first_segment(dir.log_id(0));
            let previous = Some(End { generation: 2, sequence: 0, offset: 4096, crc: 0 });
            write_segment(dir, SegmentHeader { generation: 3, previous, ..first }, 2);
        };
        check_spoilt(damage, "the file was renamed");
    }

    /// Nothing says that a log of somebody else is damaged: it is never set aside.
    #[test]
    fn a_foreign_log_is_only_refused() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(&dir.path().join("node"));
        write_segment(&node.directory, first_segment(node.directory.log_id(0) + 1), 1);
        let Err(error) = node.open() else { panic!("it should be refused") };
        assert!(error.contains("mixed up"), "{error}");
        assert!(node.directory.is_founder(0));
    }
}
