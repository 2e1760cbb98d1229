//! The door for a simulator: one shard's event machine, the very one that runs in production, without any driver.
//!
//! The simulator plays the driver's part (see the runtime's): it feeds events, each with the shard's clock, lets a turn run
//! after them, and carries out what the turn asks for, over a disk, a network and a clock of its own.

use std::sync::{Arc, Mutex};

use synod_core::{Body, Slot};
use synod_transport::frame::Frame;
use synod_wal::ops::{DiskDone, DiskOp};
use synod_wal::record::{RecordHeader, Records, body_crc};
use synod_wal::recover::{Recovery, SegmentSource};

use crate::assemble::{AssembleError, ShardPlace, assemble};
use crate::batch::Entries;
pub use crate::checkpoint::files::Files;
use crate::checkpoint::store::Store;
use crate::checkpoint::{StoreDone, StoreOp};
use crate::client::protocol::GroupInfoV1;
use crate::config::Config;
use crate::configuration;
use crate::groups::{GroupChange, GroupOutcome, MadeGroup};
use crate::homes::{Names, Placement};
use crate::introductions::Introduction;
pub use crate::introductions::Introductions;
use crate::large::Cutting;
use crate::limits::PEER_OUTBOX_BYTES_MAX;
pub use crate::log_store::failing::FailingStore;
use crate::mailbox::{Mail, PeerHello};
use crate::membership::{MembershipChange, MembershipOutcome};
use crate::meta::{MovedGroup, Noted, begin_anew, groups_on, named_on, note_moved, places};
use crate::node::MachineFactory;
use crate::outcome::{Epoch, GroupId, NodeId, Outcome};
use crate::seen::Seen;
use crate::shard::links::Outgoing;
use crate::shard::made::GroupReply;
use crate::shard::membership::MembershipReply;
use crate::shard::memory::Memory;
use crate::shard::moving::Pass;
use crate::shard::points::{AtPoint, Consistency, ReadPoint};
use crate::shard::reads::{CommittedEntries, ReadError};
use crate::shard::sessions::Ask;
use crate::shard::transfer::TransferError;
use crate::shard::trim_orders::TrimReply;
use crate::shard::{Notice, Shard};
use crate::wire::{CONFIGURATION, kind};

mod datagrams;

pub use datagrams::SimDatagram;

/// Numbers from this one on, with which no group can be made, stand for a shard's directory.
pub const DIRECTORIES: GroupId = 1 << 63;

/// What a record of the log says about a vote, for an observer of durable state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Voted {
    /// Nothing below this ballot is accepted or promised any more.
    Promise {
        /// The ballot, packed.
        ballot: u64,
    },
    /// A value is accepted.
    Accept {
        /// The slot.
        slot: u64,
        /// The ballot, packed.
        ballot: u64,
        /// The ballot that first proposed the value, packed: with the slot it names the value.
        origin: u64,
        /// The checksum of the value's batch.
        crc: u32,
    },
    /// A value is known as chosen.
    Learned {
        /// The slot.
        slot: u64,
        /// The ballot that first proposed the value, packed.
        origin: u64,
        /// The checksum of the value's batch.
        crc: u32,
    },
}

/// What a replica's log holds of votes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldVotes {
    /// The promise, packed.
    pub promised: u64,
    /// The chosen prefix.
    pub chosen: u64,
    /// Above it: (slot, ballot of the vote, origin, checksum of the batch); ballot 0: learned as chosen.
    pub values: Vec<(u64, u64, u64, u32)>,
}

/// The uid of the directory of a shard.
///
/// # Panics
/// When the configuration is none that a node could start with.
pub fn directory_uid(config: &Config, shard: usize) -> u128 {
    config.directory_uid(shard as u64)
}

/// The directory whose order has made the group with this uid, or that itself has it; there is one on each shard.
pub fn directory_of(config: &Config, uid: u128) -> usize {
    config.directory_of(uid) as usize
}

/// What a record says about a vote, if it does.
pub fn vote_of(header: &RecordHeader, body: &[u8]) -> Option<(u128, Voted)> {
    crate::persist::vote_of(header, body)
}

/// What the records of a log frame say about votes: (group uid, vote), in their order.
///
/// `records` are the bytes behind the frame's header.
pub fn votes(records: &[u8]) -> impl Iterator<Item = (u128, Voted)> + '_ {
    Records::new(records).map_while(Result::ok).filter_map(|(header, body, _)| vote_of(&header, body))
}

/// A configuration that is accepted in a slot of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProposedConfiguration {
    /// The group's uid.
    pub uid: u128,
    /// The slot.
    pub slot: u64,
    /// The ballot that first proposed it, packed.
    pub origin: u64,
    /// The checksum of its bytes.
    pub crc: u32,
    /// The replicas that vote under it.
    pub replicas: Vec<u128>,
    /// How many of them choose a value; 0: a majority.
    pub phase_2: u16,
}

/// The configuration that a record of the log accepts, if it does.
pub fn configuration_of(header: &RecordHeader, body: &[u8]) -> Option<ProposedConfiguration> {
    if header.kind != kind::ACCEPT || header.flags != CONFIGURATION {
        return None;
    }
    let [slot, _, origin, ..] = header.numbers;
    let configuration = configuration::decode(body)?;
    let replicas = configuration.voters.iter().map(|voter| voter.replica.0).collect();
    let (uid, crc, phase_2) = (header.uid, header.body_crc, configuration.phase_2);
    Some(ProposedConfiguration { uid, slot, origin, crc, replicas, phase_2 })
}

/// The configurations that the records of a log frame accept; `records` are the bytes behind the frame's header.
pub fn configurations(records: &[u8]) -> impl Iterator<Item = ProposedConfiguration> + '_ {
    Records::new(records).map_while(Result::ok).filter_map(|(header, body, _)| configuration_of(&header, body))
}

/// How full a queue is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// What is counted.
    pub name: &'static str,
    /// How much of it there is.
    pub value: u64,
    /// How much there may be.
    pub max: u64,
}

/// All coverage marks of core, log and shard: by name, how often each was hit in this process.
pub fn marks() -> Vec<(String, u64)> {
    let core = synod_core::marks::hits().map(|(mark, hits)| (format!("core {mark:?}"), hits));
    let wal = synod_wal::marks::hits().map(|(mark, hits)| (format!("wal {mark:?}"), hits));
    let shard = crate::marks::hits().map(|(mark, hits)| (format!("shard {mark:?}"), hits));
    core.chain(wal).chain(shard).collect()
}

/// Why a log makes no shard.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoShard {
    /// What was acknowledged may be lost: the log must be set aside, and a new replica take its place.
    #[error("{0}")]
    Damaged(String),
    /// It cannot be used as it is.
    #[error("{0}")]
    Refused(String),
}

/// What the handshake says of a peer's shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimPeer {
    /// Names the start of its process.
    pub boot: u64,
    /// The replica that its log is.
    pub replica: u128,
    /// How far it has seen votes rest on the log that it speaks to: see [`SimShard::seen`].
    pub seen: u64,
}

/// One shard.
pub struct SimShard {
    shard: Shard,
    seen: Arc<Seen>,
    /// What peers have told of introduced nodes and nobody has taken.
    heard: Vec<Introduction>,
}

/// Which shard of which directory a [`SimShard`] is.
#[derive(Clone, Debug)]
pub struct SimPlace {
    /// Its number on the node.
    pub shard: usize,
    /// The replica that the log is.
    pub replica: u128,
    /// The shards whose founders are known: the replicas that each began with, by node.
    pub founders: Vec<(usize, Vec<(NodeId, u128)>)>,
    /// Size of a segment, in bytes; it may be smaller than a configuration allows.
    pub segment_bytes: u64,
    /// Whether its memory is an eighth of what it is otherwise or less, besides the cache.
    pub tight_memory: bool,
    /// Entries of more than twice as many bytes are cut into parts of so many; 0: as usual.
    pub part_bytes: usize,
    /// For the choice of timeouts.
    pub seed: u64,
    /// Bytes of a checkpoint that a peer is asked for at once.
    pub pull_bytes: u32,
    /// Where the groups of the node are.
    pub moves: SimMoves,
}

/// Which groups of a node were moved between its shards: what a real node keeps in its directory, and in memory.
#[derive(Clone, Debug)]
pub struct SimMoves {
    durable: Arc<Mutex<Vec<MovedGroup>>>,
    placement: Arc<Placement>,
}

impl SimMoves {
    /// Nothing was moved.
    pub fn new(config: &Config) -> Self {
        let placement = Arc::new(Placement::new(config.homes(), []));
        Self { durable: Arc::default(), placement }
    }

    /// The same for a new process, which knows what is durable.
    #[must_use]
    pub fn started(&self, config: &Config) -> Self {
        let places = places(&self.moved(), config);
        Self { durable: Arc::clone(&self.durable), placement: Arc::new(Placement::new(config.homes(), places)) }
    }

    /// The log of a shard is begun anew, as this replica: all groups on it are that one.
    pub fn renew(&self, shard: usize, replica: u128) {
        let mut moved = self.durable.lock().expect("no holder panics");
        begin_anew(&mut moved, shard, replica);
    }

    /// The shard that a group is on.
    pub fn shard(&self, group: GroupId) -> usize {
        self.placement.shard(group)
    }

    /// The shard whose leader orders where a group should be.
    pub fn directory_shard(&self, group: GroupId) -> usize {
        self.placement.directory_shard(group)
    }

    /// Whether the group with this uid, one of the configuration if `configured` names it, is on a shard.
    pub fn is_on(&self, config: &Config, uid: u128, configured: Option<GroupId>, shard: usize) -> bool {
        let home = || {
            let home = configured.unwrap_or_else(|| config.directory_of(uid));
            config.homes().shard_of(home)
        };
        let moved = self.durable.lock().expect("no holder panics");
        moved.iter().find(|moved| moved.uid(config) == uid).map_or_else(home, |moved| moved.shard as usize) == shard
    }

    /// The groups made at run time that are guests on a shard.
    pub fn guests(&self, shard: usize) -> Vec<GroupId> {
        let here = self.placement.made_away().into_iter().filter(|(_, away)| away.shard == shard);
        here.map(|(group, _)| group).collect()
    }

    fn moved(&self) -> Vec<MovedGroup> {
        self.durable.lock().expect("no holder panics").clone()
    }

    fn note(&self, noted: Noted) {
        note_moved(&mut self.durable.lock().expect("no holder panics"), noted);
    }
}

/// What one shard of a node tells another of a group that moves.
#[derive(Debug)]
pub struct SimPass(Pass);

/// Of the simulator's checkpoints, which are no longer than a few kilobytes, some are packed and some are not.
const PACKED_BYTES_MAX: usize = 2500;

/// The store of a shard's checkpoints, over files of the simulator.
pub struct SimStore(Store);

/// What a shard asks of its store.
pub struct SimStoreOp(StoreOp);

/// What a store answers.
pub struct SimStoreDone(StoreDone);

impl SimStoreOp {
    /// What it does: `write`, `read`, `begin`, `append`, `finish`, `restore` or `remove`.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }
}

impl SimStore {
    /// The store of a shard over these files.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn open(config: &Config, files: Box<dyn Files>) -> std::io::Result<Self> {
        let store = Store::open(files, config.cluster_id().expect("a checked configuration"))?;
        Ok(Self(store.pack_up_to(PACKED_BYTES_MAX)))
    }

    /// Carries out some operations in turn.
    pub fn carry_out(&mut self, ops: impl IntoIterator<Item = SimStoreOp>) -> Vec<SimStoreDone> {
        let mut dones = Vec::new();
        self.0.carry_out(ops.into_iter().map(|op| op.0), |done| dones.push(SimStoreDone(done)));
        dones
    }
}

impl SimShard {
    /// Recovers a shard from its segments. The simulator must make the kept tail durable before it starts the shard.
    ///
    /// # Errors
    /// Why the node cannot vote with this log.
    pub fn recover(
        config: &Config,
        place: SimPlace,
        source: &mut dyn SegmentSource,
        store: &mut SimStore,
        machines: Option<&MachineFactory>,
    ) -> Result<(Self, Recovery), NoShard> {
        let SimPlace { shard, replica, founders, segment_bytes, tight_memory, part_bytes, seed, pull_bytes, moves } =
            place;
        let memory = Memory::new(config.cache_mib << 20);
        let memory = if tight_memory { memory.tight() } else { memory };
        let cutting = if part_bytes > 0 { Cutting::into(part_bytes) } else { Cutting::default() };
        let seen: Arc<Seen> = Arc::default();
        let seen_here = Arc::clone(&seen);
        let moved = moves.moved();
        let (log, names) = (replica, Names::all(replica).with(named_on(&moved, config, shard)));
        let place = ShardPlace {
            placement: Arc::clone(&moves.placement),
            groups: groups_on(&moved, config.groups, (shard, config.shards)),
            moved,
            shard,
            log,
            names,
            segment_bytes,
            memory,
            cutting,
            seed,
            founders,
            seen: seen_here,
            pull_bytes,
        };
        let assembled = assemble(config, &place, source, &mut store.0, machines);
        let (mut shard, recovery) = assembled.map_err(|error| match error {
            AssembleError::Damaged(reason) => NoShard::Damaged(reason),
            AssembleError::Refused(reason) => NoShard::Refused(reason),
        })?;
        shard.moves.note = Some(Arc::new(move |noted| {
            moves.note(noted);
            Ok(())
        }));
        if tight_memory {
            shard.elections.max = 1;
            shard.peers.iter_mut().for_each(|peer| peer.outbox = Outgoing::new(PEER_OUTBOX_BYTES_MAX / 2));
        }
        Ok((Self { shard, seen, heard: Vec::new() }, recovery))
    }

    /// Sets the shard's clock, in nanoseconds, never 0: before every event.
    pub fn set_now(&mut self, now_ns: u64) {
        assert!(now_ns > 0, "a shard's clock is never 0");
        self.shard.now_ns = now_ns;
    }

    /// Opens the log.
    pub fn start(&mut self, spare_segments: usize) {
        self.shard.start(spare_segments);
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        self.shard.producers.due = true;
        self.shard.tick();
    }

    /// When the shard next needs its clock; 0: at every tick.
    pub fn next_tick_ns(&self) -> u64 {
        self.shard.next_tick_ns()
    }

    /// The disk has answered.
    ///
    /// # Errors
    /// Why the shard must stop.
    pub fn on_disk(&mut self, done: DiskDone) -> Result<(), String> {
        self.shard.on_disk(done).map_err(|error| error.to_string())
    }

    /// A connection to a peer's shard is up.
    pub fn peer_connected(&mut self, node: NodeId, connection: u64, peer: SimPeer) {
        let SimPeer { boot, replica, seen } = peer;
        self.shard.peer_connected(
            node,
            connection,
            PeerHello { boot, log: replica, names: Names::all(replica), seen, lost: None },
        );
    }

    /// How far votes were seen to rest on a replica's log.
    pub fn seen(&self, node: NodeId, replica: u128) -> u64 {
        self.seen
            .of(self.shard.shard_number(), node)
            .filter(|(of, _)| *of == replica)
            .map_or(0, |(_, sequence)| sequence)
    }

    /// Whether the log has turned out to have lost votes.
    pub fn is_suspect(&self) -> bool {
        self.shard.suspect
    }

    /// The version of the configuration that governs a group, and whether this replica votes under it.
    pub fn configuration(&self, group: GroupId) -> Option<(u64, bool)> {
        let replica = &self.shard.groups[self.shard.group_at(group)? as usize].replica;
        Some((replica.configuration().version, replica.votes()))
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, connection: u64) {
        self.shard.disconnected(connection);
    }

    /// A whole frame of a peer has come in.
    pub fn receive(&mut self, connection: u64, frame: &Frame<'_>) {
        self.shard.on_peer_frame(connection, frame.header.kind, frame.body);
    }

    /// Proposes entries, in a session (client, first sequence) or not.
    pub fn propose(
        &mut self,
        group: GroupId,
        entries: Entries,
        session: Option<(u64, u64)>,
        handle: Option<(u64, Epoch)>,
        reply: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let submitted_ns = self.shard.now_ns;
        let reply = Box::new(reply);
        self.shard.on_mail(Mail::Propose { group, entries, session, handle, submitted_ns, permit: None, reply });
    }

    /// Opens a session; the slot of a good answer is its id.
    pub fn open_session(&mut self, group: GroupId, reply: impl FnOnce(Outcome) + Send + 'static) {
        let submitted_ns = self.shard.now_ns;
        self.shard.on_mail(Mail::Session { group, ask: Ask::Open, submitted_ns, reply: Box::new(reply) });
    }

    /// Closes a session.
    pub fn close_session(&mut self, group: GroupId, id: u64, reply: impl FnOnce(Outcome) + Send + 'static) {
        let submitted_ns = self.shard.now_ns;
        self.shard.on_mail(Mail::Session { group, ask: Ask::Close(id), submitted_ns, reply: Box::new(reply) });
    }

    /// Asks up to where the group is applied here, at a consistency.
    pub fn read_index(
        &mut self,
        group: GroupId,
        consistency: Consistency,
        wait_ns: u64,
        reply: impl FnOnce(Result<ReadPoint, ReadError>) + Send + 'static,
    ) {
        let reply = Box::new(|answer: AtPoint<'_>| reply(answer.map(|(point, _)| point)));
        self.shard.on_mail(Mail::ReadPoint { group, consistency, wait_ns, reply });
    }

    /// Reads committed entries from an index on; a large one comes whole.
    pub fn read(
        &mut self,
        group: GroupId,
        from_index: u64,
        reply: impl FnOnce(Result<CommittedEntries, ReadError>) + Send + 'static,
    ) {
        let (bytes_max, reply) = (1 << 10, Box::new(reply));
        self.shard.on_mail(Mail::Read { group, from_index, bytes_max, wait_ms: 0, whole: true, reply });
    }

    /// Hands a group over to another node.
    pub fn transfer(
        &mut self,
        group: GroupId,
        to: NodeId,
        timeout_ns: u64,
        reply: impl FnOnce(Result<(), TransferError>) + Send + 'static,
    ) {
        self.shard.on_mail(Mail::Transfer { group, to, timeout_ns, reply: Box::new(reply) });
    }

    /// Gives a group's leadership up.
    pub fn resign(&mut self, group: GroupId) -> bool {
        self.shard.resign(group)
    }

    /// The turn that runs after events, at the clock's time.
    ///
    /// # Errors
    /// Why the shard must stop.
    pub fn turn(&mut self) -> Result<(), String> {
        self.shard.complete()?;
        self.shard.flush(self.shard.now_ns);
        Ok(())
    }

    /// Whether the shard wants another turn although nothing has happened.
    pub fn wants_turn(&self) -> bool {
        self.shard.wants_turn()
    }

    /// Operations for the disk, since the last call.
    pub fn take_disk_ops(&mut self) -> Vec<DiskOp> {
        std::mem::take(&mut self.shard.disk_ops)
    }

    /// Operations for the store of checkpoints, since the last call.
    pub fn take_store_ops(&mut self) -> Vec<SimStoreOp> {
        self.shard.checkpoints.ops.drain(..).map(SimStoreOp).collect()
    }

    /// The store has answered.
    pub fn on_store(&mut self, done: SimStoreDone) {
        self.shard.on_store(done.0);
    }

    /// Orders a group's log to be trimmed up to before an index, within so long.
    pub fn trim(&mut self, group: GroupId, before: u64, wait_ns: u64) {
        let until_ns = self.shard.now_ns.saturating_add(wait_ns);
        self.shard.trim(group, before, until_ns, TrimReply::Callback(Box::new(drop)));
    }

    /// Keeps the log of a group from an index on for a reader, for so long; none: no longer.
    ///
    /// # Errors
    /// When the log begins behind it, or too many have pinned it.
    pub fn pin(&mut self, group: GroupId, name: &str, index: Option<(u64, u64)>) -> Result<(), String> {
        self.shard.pin(group, name.to_owned(), index)
    }

    /// Bytes of the log's live segments.
    pub fn log_bytes(&self) -> u64 {
        self.shard.writer.bytes_live()
    }

    /// The connections that the shard wants closed, since the last call.
    pub fn take_closed(&mut self) -> Vec<u64> {
        let mut closed = Vec::new();
        for notice in self.shard.notices.extract_if(.., |notice| !matches!(notice, Notice::Pass(..))) {
            match notice {
                Notice::Close(connection) => closed.push(connection),
                Notice::Heard(list) => self.heard.extend(list),
                Notice::Forward(connection, ..) => panic!("connection {connection} is no client's"),
                Notice::Pass(..) => unreachable!("these stay"),
            }
        }
        closed
    }

    /// What the shard tells others of its node, since the last call: to which shard, and what. All arrives, in order.
    pub fn take_passes(&mut self) -> Vec<(usize, SimPass)> {
        let passes = self.shard.notices.extract_if(.., |notice| matches!(notice, Notice::Pass(..)));
        let pass = |notice| match notice {
            Notice::Pass(to, pass) => (to, SimPass(pass)),
            Notice::Close(_) | Notice::Forward(..) | Notice::Heard(_) => unreachable!("these stay"),
        };
        passes.map(pass).collect()
    }

    /// Another shard of the node tells this one of a group that moves.
    pub fn on_pass(&mut self, pass: SimPass) {
        self.shard.on_pass(pass.0);
    }

    /// What peers have told of introduced nodes until the last [`take_closed`](Self::take_closed), since the last call.
    pub fn take_heard(&mut self) -> Vec<Introduction> {
        std::mem::take(&mut self.heard)
    }

    /// The node knows these introductions durably.
    pub fn introduce(&mut self, known: &Introductions) {
        self.shard.introduce(known.list().to_vec());
    }

    /// Bytes that wait for a connection to a peer; `bytes_max` bounds what the socket takes.
    pub fn take_output(&mut self, connection: u64, bytes_max: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        if let Some(outbox) = self.shard.outbox(connection) {
            let sent: Result<bool, ()> = outbox.flush_with(|slices| {
                let before = taken.len();
                for slice in slices {
                    let room = bytes_max - taken.len();
                    taken.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                Ok(taken.len() - before)
            });
            debug_assert!(sent.is_ok());
        }
        taken
    }

    /// What this shard knows of a group.
    pub fn info(&self, group: GroupId) -> Option<GroupInfoV1> {
        self.place(group).map(|at| self.shard.group_info(at))
    }

    /// A group's uid, which names it in records.
    pub fn uid(&self, group: GroupId) -> Option<u128> {
        self.place(group).map(|at| self.shard.groups[at as usize].names.uid)
    }

    /// The epoch at which this shard takes proposals of a group.
    pub fn epoch(&self, group: GroupId) -> Option<Epoch> {
        self.shard.group_at(group).and_then(|at| self.shard.epoch_of(at))
    }

    /// What a group's replica holds of votes; in memory, perhaps not durable yet.
    pub fn held(&self, group: GroupId) -> Option<HeldVotes> {
        let replica = &self.shard.groups[self.place(group)? as usize].replica;
        let log = replica.log();
        let value = |slot: u64| {
            let entry = log.get(Slot(slot))?;
            let crc = match &entry.value.body {
                Body::Batch(payload) => payload.header().crc,
                Body::Configuration(configuration) => body_crc(&[&configuration::encode(configuration)]),
                Body::Noop | Body::EpochStart => 0,
            };
            Some((slot, entry.accepted.pack(), entry.value.origin.pack(), crc))
        };
        let values = (log.chosen().0 + 1..=log.last().0).filter_map(value).collect();
        Some(HeldVotes { promised: replica.promised().pack(), chosen: log.chosen().0, values })
    }

    /// Memory fails: the chained checksum of what a group has applied is another one from now on.
    pub fn spoil_chain(&mut self, group: GroupId) {
        let at = self.place(group).expect("the group is here");
        self.shard.groups[at as usize].apply.chain ^= 1;
    }

    /// The slot up to which, as this shard knows, every voter's durable log of a group bears what is chosen.
    pub fn low(&self, group: GroupId) -> Option<u64> {
        Some(self.shard.groups[self.place(group)? as usize].replica.low().0)
    }

    /// Asks for a change of who votes in a group whose voters are those of `version`, as a node's handle does.
    pub fn change_membership(
        &mut self,
        group: GroupId,
        version: u64,
        change: MembershipChange,
        patience_ns: u64,
        reply: Box<dyn FnOnce(MembershipOutcome) + Send>,
    ) {
        let until_ns = self.shard.now_ns + patience_ns;
        self.shard.change_membership(group, version, change, until_ns, MembershipReply::Callback(reply));
    }

    /// The place of a group, or of the shard's directory.
    fn place(&self, group: GroupId) -> Option<u32> {
        if group >= DIRECTORIES {
            self.shard.made.directory(self.shard.shard_number() as u64)
        } else {
            self.shard.group_at(group)
        }
    }

    /// Makes a group, in which so many voters choose, or drops one.
    pub fn change_groups(
        &mut self,
        group: GroupId,
        create: Option<u16>,
        patience_ns: u64,
        reply: Box<dyn FnOnce(GroupOutcome) + Send>,
    ) {
        let change = create.map_or(GroupChange::Drop(group), |phase_2| GroupChange::Create(group, phase_2));
        let until_ns = self.shard.now_ns + patience_ns;
        self.shard.change_groups(change, until_ns, GroupReply::Callback(reply));
    }

    /// Orders that a group is moved to another shard of every node.
    pub fn place_group(
        &mut self,
        group: GroupId,
        shard: usize,
        patience_ns: u64,
        reply: Box<dyn FnOnce(GroupOutcome) + Send>,
    ) {
        let until_ns = self.shard.now_ns + patience_ns;
        self.shard.change_groups(GroupChange::Place(group, shard), until_ns, GroupReply::Callback(reply));
    }

    /// The groups made at run time.
    pub fn made_groups(&self) -> Vec<MadeGroup> {
        self.shard.made_groups()
    }

    /// Why a log that refuses proposals does not let its oldest segment go.
    pub fn why_kept(&self) -> Option<String> {
        self.shard.why_kept()
    }

    /// Where a group's machine stands, for a failure's description.
    pub fn machine_state(&self, group: GroupId) -> Option<String> {
        let group = &self.shard.groups[self.shard.group_at(group)? as usize];
        let (next, feeding, of) = (group.machine_next, group.feeding, &group.checkpoints);
        let (first, last) = (group.first_index(), group.replica.log().last());
        Some(format!("log from index {first} to slot {last} machine next {next} feeding {feeding} {of:?}"))
    }

    /// How full its queues are, after a turn.
    pub fn census(&self) -> [Bound; 22] {
        self.shard.census()
    }

    /// Every frame of the log up to this sequence is durable.
    pub fn durable_through(&self) -> u64 {
        self.shard.writer.durable_through()
    }
}
