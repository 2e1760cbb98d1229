//! Shards on simulated disks, whose messages, clocks, disks and restarts are moved by hand: what schedules to the
//! millisecond are made of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::disk::{CrashChoice, Dice, SimDisk};
use crate::sim::files::SimFiles;
use crate::sim::machine::{Held, Kind, Machine};
use synod::client::protocol::GroupInfoV1;
use synod::simulation::{SimPeer, SimPlace, SimShard, SimStore};
use synod::{
    Config, Consistency, Entries, GroupId, MachineFactory, Member, MembershipChange, MembershipOutcome, Outcome,
    ReadError, ReadPoint, TransferError,
};
use synod_transport::frame::Decoder;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;

/// An answer, once it has come.
pub type Told<T> = Arc<Mutex<Option<T>>>;

/// What the nodes are made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many there are.
    pub nodes: usize,
    /// For the choice of timeouts.
    pub seed: u64,
    /// Size of a segment of their logs, in bytes.
    pub segment_bytes: u64,
    /// Whether the groups have state machines: in memory, with checkpoints.
    pub machines: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { nodes: 3, seed: 77, segment_bytes: 1 << 20, machines: false }
    }
}

/// A node with one shard.
pub struct Node {
    /// Its process, while it runs.
    pub shard: Option<SimShard>,
    store: Option<SimStore>,
    /// The disk of its log.
    pub disk: SimDisk,
    /// The disk takes operations, and ends none.
    pub stalled: bool,
    files: SimFiles,
    /// What it starts with.
    pub config: Config,
    boot: u64,
    /// What its clock shows beyond the world's.
    pub ahead_ns: u64,
    held: BTreeMap<GroupId, Arc<Mutex<Held>>>,
}

/// The nodes of a cluster, each with one shard, and what is on its way between them.
pub struct Shards {
    setup: Setup,
    now_ns: u64,
    /// The nodes; node 1 is the first.
    pub nodes: Vec<Node>,
    /// Directions in which nothing arrives: it waits.
    pub held: Vec<(usize, usize)>,
    /// Nodes that have not heard yet of connections that broke and came.
    pub deaf: Vec<usize>,
    /// Nodes whose timers stand still.
    pub still: Vec<usize>,
    wires: BTreeMap<(usize, usize), (Vec<u8>, Decoder)>,
}

impl Shards {
    /// Nodes that are not started yet, with one group, which node 1 prefers to lead.
    pub fn new(setup: Setup) -> Self {
        let address = |at: u64| format!("127.0.0.1:{}", 1000 + at).parse().unwrap();
        let members: Vec<Member> =
            (1..=setup.nodes as u64).map(|node| Member { node, address: address(node) }).collect();
        let node = |at: u64| {
            let mut config = Config::new(7, at, "", members.clone());
            (config.cache_mib, config.preferred_leader) = (1, Some(1));
            let disk = SimDisk::new(setup.segment_bytes);
            let (files, held) = (SimFiles::default(), BTreeMap::new());
            Node { shard: None, store: None, disk, stalled: false, files, config, boot: 0, ahead_ns: 0, held }
        };
        let nodes = (1..=setup.nodes as u64).map(node).collect();
        let (held, deaf, still) = (Vec::new(), Vec::new(), Vec::new());
        Self { setup, now_ns: 1, nodes, held, deaf, still, wires: BTreeMap::new() }
    }

    /// Starts all nodes, and waits until node 1 leads.
    pub fn led(mut self) -> Self {
        (0..self.nodes.len()).for_each(|node| self.start(node));
        self.run_until(3000, |world| world.leads(0));
        self.run(100);
        assert!(self.leads(0), "the preferred node leads");
        self
    }

    fn conn(a: usize, b: usize) -> u64 {
        (a.min(b) * 10 + a.max(b)) as u64 + 1
    }

    fn local_ns(&self, node: usize) -> u64 {
        self.now_ns + self.nodes[node].ahead_ns
    }

    // ---- processes ----

    /// Starts a node's process over what its disk holds.
    ///
    /// # Panics
    /// When it refuses its log.
    pub fn start(&mut self, at: usize) {
        let (now_ns, setup, founders) = (self.local_ns(at), self.setup, self.nodes.len() as u64);
        let node = &mut self.nodes[at];
        node.boot += 1;
        let place = SimPlace {
            shard: 0,
            replica: at as u128 + 1,
            founders: Some((1..=founders).map(|node| (node, u128::from(node))).collect()),
            segment_bytes: setup.segment_bytes,
            tight_memory: false,
            pull_bytes: 1 << 20,
            seed: setup.seed + at as u64 + 10 * node.boot,
        };
        // They are in memory, so they begin anew.
        node.held = (1..=node.config.groups).map(|group| (group, Arc::default())).collect();
        let held = node.held.clone();
        let machines: MachineFactory = Arc::new(move |group| {
            let (held, delivered) = (Arc::clone(held.get(&group)?), Arc::default());
            Some(Box::new(Machine { kind: Kind::InMemory, group, held, delivered, asked: 0 }))
        });
        let machines = setup.machines.then_some(&machines);
        let mut store = SimStore::open(&node.config, Box::new(node.files.clone())).unwrap();
        let (mut shard, recovery) =
            SimShard::recover(&node.config, place, &mut node.disk, &mut store, machines).unwrap();
        if let Some(tail) = recovery.tail_generation() {
            node.disk.flush_tail(tail).unwrap();
        }
        node.disk.open();
        shard.set_now(now_ns);
        shard.start(2);
        (node.shard, node.store) = (Some(shard), Some(store));
        for other in 0..self.nodes.len() {
            if other != at && self.nodes[other].shard.is_some() {
                self.connect(at, other);
            }
        }
        self.turn(at);
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (of, to) in [(a, b), (b, a)] {
            self.wires.insert((of, to), (Vec::new(), Decoder::new()));
            if self.deaf.contains(&of) {
                continue;
            }
            let now_ns = self.local_ns(of);
            let replica = to as u128 + 1;
            let seen = self.nodes[to].shard.as_ref().map_or(0, |peer| peer.seen(of as u64 + 1, of as u128 + 1));
            let peer = SimPeer { boot: self.nodes[to].boot, replica, seen };
            let shard = self.nodes[of].shard.as_mut().unwrap();
            shard.set_now(now_ns);
            shard.disconnected(Self::conn(a, b));
            shard.peer_connected(to as u64 + 1, Self::conn(a, b), peer);
        }
    }

    /// Ends a node's process; its peers learn of it.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].disk.kill(&mut Dice::new(1));
        self.nodes[at].files.end(false, &mut Dice::new(1));
        self.ended(at);
    }

    /// The power of a node goes, and `choice` says what stays of its log that is not synced; its peers learn of it. Of its
    /// checkpoints anything may stay.
    pub fn cut_power(&mut self, at: usize, choice: &mut dyn CrashChoice) {
        self.nodes[at].disk.crash(choice);
        self.nodes[at].files.end(true, &mut Dice::new(self.now_ns));
        self.ended(at);
    }

    fn ended(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.shard, node.store, node.stalled) = (None, None, false);
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.wires.remove(&(at, other));
            self.wires.remove(&(other, at));
            let now_ns = self.local_ns(other);
            let hears = !self.deaf.contains(&other);
            if let Some(shard) = self.nodes[other].shard.as_mut().filter(|_| hears) {
                shard.set_now(now_ns);
                shard.disconnected(Self::conn(at, other));
            }
        }
    }

    // ---- messages and time ----

    /// Nothing gets from one of two nodes to the other any more: it waits.
    pub fn hold(&mut self, a: usize, b: usize) {
        self.held.extend([(a, b), (b, a)]);
    }

    /// Nothing gets to a node or from it any more: it waits.
    pub fn cut_off(&mut self, at: usize) {
        (0..self.nodes.len()).filter(|other| *other != at).for_each(|other| self.hold(at, other));
    }

    /// What waits in a direction.
    pub fn wire(&mut self, from: usize, to: usize) -> &mut Vec<u8> {
        &mut self.wires.get_mut(&(from, to)).expect("they are connected").0
    }

    /// One turn of a node with what it asks of its disk and its store; whether it asked for anything.
    pub fn step(&mut self, at: usize) -> bool {
        let now_ns = self.local_ns(at);
        let node = &mut self.nodes[at];
        let (Some(shard), Some(store)) = (&mut node.shard, &mut node.store) else { return false };
        shard.set_now(now_ns);
        shard.turn().unwrap();
        let (disk_ops, store_ops) = (shard.take_disk_ops(), shard.take_store_ops());
        let asked = !disk_ops.is_empty() || !store_ops.is_empty();
        for op in disk_ops {
            node.disk.start(op);
        }
        if !node.stalled {
            for done in node.disk.finish_all() {
                shard.on_disk(done).unwrap();
            }
        }
        for op in store_ops {
            if let Some(done) = store.carry_out(op) {
                shard.on_store(done);
            }
        }
        assert!(shard.take_closed().is_empty());
        for to in 0..self.setup.nodes {
            if let Some((wire, _)) = self.wires.get_mut(&(at, to)) {
                wire.extend(shard.take_output(Self::conn(at, to), 1 << 20));
            }
        }
        asked
    }

    /// A node's turns until it asks for nothing more; what it sends lies on the wires.
    pub fn turn(&mut self, at: usize) {
        while self.step(at) {}
    }

    /// Delivers what may arrive, until nothing is on the wires that may.
    pub fn deliver(&mut self) {
        loop {
            let due = self.wires.iter().find(|(way, (wire, _))| !wire.is_empty() && !self.held.contains(way));
            let Some((&(from, to), _)) = due else { return };
            self.deliver_one(from, to);
        }
    }

    /// Delivers what waits in a direction, held or not.
    pub fn deliver_one(&mut self, from: usize, to: usize) {
        self.feed(from, to);
        self.turn(to);
    }

    /// As [`Shards::deliver_one`]; the receiver's turn is yet to come.
    pub fn feed(&mut self, from: usize, to: usize) {
        let now_ns = self.local_ns(to);
        let (wire, decoder) = self.wires.get_mut(&(from, to)).unwrap();
        let bytes = std::mem::take(wire);
        let shard = self.nodes[to].shard.as_mut().unwrap();
        shard.set_now(now_ns);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = decoder.space();
            let taken = space.len().min(rest.len());
            space[..taken].copy_from_slice(&rest[..taken]);
            decoder.filled(taken);
            rest = &rest[taken..];
            while let Some(frame) = decoder.next().unwrap() {
                shard.receive(Self::conn(from, to), &frame);
            }
        }
    }

    /// A millisecond goes by at a node, with a tick; its turn is yet to come.
    pub fn tick(&mut self, at: usize) {
        let now_ns = self.local_ns(at);
        if let Some(shard) = &mut self.nodes[at].shard {
            shard.set_now(now_ns);
            shard.tick();
        }
    }

    /// A millisecond goes by, without ticks.
    pub fn pass_ms(&mut self) {
        self.now_ns += MS;
    }

    /// Milliseconds go by, with ticks.
    pub fn run(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Milliseconds go by, with ticks, until `done`, but no more than `ms`.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..ms {
            if done(self) {
                return;
            }
            self.pass_ms();
            for at in 0..self.nodes.len() {
                if !self.still.contains(&at) {
                    self.tick(at);
                    self.turn(at);
                }
            }
            self.deliver();
        }
    }

    // ---- what they know ----

    /// A node's shard.
    ///
    /// # Panics
    /// When the node does not run.
    pub fn shard(&mut self, at: usize) -> &mut SimShard {
        let now_ns = self.local_ns(at);
        let shard = self.nodes[at].shard.as_mut().expect("it runs");
        shard.set_now(now_ns);
        shard
    }

    /// Whether a node leads group 1 and takes proposals.
    pub fn leads(&self, at: usize) -> bool {
        self.leads_in(1, at)
    }

    /// Whether a node leads a group and takes proposals.
    pub fn leads_in(&self, group: GroupId, at: usize) -> bool {
        self.nodes[at].shard.as_ref().is_some_and(|shard| shard.epoch(group).is_some())
    }

    /// What a node says of group 1.
    ///
    /// # Panics
    /// When the node does not run.
    pub fn info(&self, at: usize) -> GroupInfoV1 {
        self.nodes[at].shard.as_ref().expect("it runs").info(1).expect("every node has group 1")
    }

    /// The last index that a node's machine of group 1 has applied.
    pub fn machine_index(&self, at: usize) -> u64 {
        self.nodes[at].held[&1].lock().unwrap().last().0
    }

    /// That some nodes have applied the same in group 1.
    ///
    /// # Panics
    /// When they have not.
    pub fn agree(&self, nodes: &[usize]) {
        let applied = |at: &usize| {
            let info = self.info(*at);
            (info.applied_slot, info.next_index, info.chain)
        };
        let applied: Vec<_> = nodes.iter().map(applied).collect();
        assert!(applied.windows(2).all(|pair| pair[0] == pair[1]), "slot, next index, checksum: {applied:?}");
    }

    // ---- what they are asked ----

    /// Reads group 1 at a node.
    pub fn read(&mut self, at: usize, consistency: Consistency, ms: u64) -> Told<Result<ReadPoint, ReadError>> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        self.shard(at).read_index(1, consistency, ms * MS, move |answer| *tell.lock().unwrap() = Some(answer));
        self.turn(at);
        told
    }

    /// Proposes an entry of group 1.
    pub fn propose(&mut self, at: usize) -> Told<Outcome> {
        self.propose_in(1, at, b"entry")
    }

    /// Proposes an entry of a group.
    pub fn propose_in(&mut self, group: GroupId, at: usize, entry: &[u8]) -> Told<Outcome> {
        let told = self.submit(group, at, entry);
        self.turn(at);
        told
    }

    /// Proposes an entry of a group in the node's next turn.
    pub fn submit(&mut self, group: GroupId, at: usize, entry: &[u8]) -> Told<Outcome> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        let entries = Entries::one(entry).unwrap();
        self.shard(at).propose(group, entries, None, None, move |outcome| *tell.lock().unwrap() = Some(outcome));
        told
    }

    /// Has group 1 handed over to node `to`.
    pub fn transfer(&mut self, at: usize, to: u64, ms: u64) -> Told<Result<(), TransferError>> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        self.shard(at).transfer(1, to, ms * MS, move |end| *tell.lock().unwrap() = Some(end));
        self.turn(at);
        told
    }

    /// Has the vote of `node` in group 1 taken away.
    pub fn remove_voter(&mut self, at: usize, node: u64, ms: u64) -> Told<MembershipOutcome> {
        let (told, version) = (Told::default(), self.info(at).configuration);
        let tell = Arc::clone(&told);
        let reply = Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome));
        self.shard(at).change_membership(1, version, MembershipChange::Remove(node), ms * MS, reply);
        self.turn(at);
        told
    }
}
