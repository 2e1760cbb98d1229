//! Shards on simulated disks, whose messages, clocks, disks and restarts are moved by hand: what schedules to the
//! millisecond are made of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::disk::{CrashChoice, Dice, SimDisk};
use crate::sim::files::SimFiles;
use crate::sim::machine::{Held, Kind, Machine};
use synod::client::protocol::GroupInfoV1;
use synod::simulation::{Introductions, NoShard, SimMoves, SimPeer, SimPlace, SimShard, SimStore};
use synod::{
    Config, Consistency, Entries, Epoch, GroupId, GroupOutcome, Introduction, MachineFactory, Member, MembershipChange,
    MembershipOutcome, Outcome, ReadError, ReadPoint, TransferError,
};
use synod_transport::frame::Decoder;

mod datagrams;

pub use datagrams::Post;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;

/// An answer, once it has come.
pub type Told<T> = Arc<Mutex<Option<T>>>;

/// An answer that is yet to come, and how it is told.
fn answer<T: Send + 'static>() -> (Told<T>, impl FnOnce(T) + Send + 'static) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    (told, move |answer| *tell.lock().unwrap() = Some(answer))
}

/// What the nodes are made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many there are at the beginning.
    pub nodes: usize,
    /// For the choice of timeouts.
    pub seed: u64,
    /// Size of a segment of their logs, in bytes.
    pub segment_bytes: u64,
    /// The groups' state machines, if they have any.
    pub machines: Option<Kind>,
    /// Bytes of a part of a large entry; 0: as large as in production.
    pub part_bytes: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { nodes: 3, seed: 77, segment_bytes: 1 << 20, machines: None, part_bytes: 0 }
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
    /// The nodes that were introduced, as far as it knows: durably.
    pub known: Introductions,
    boot: u64,
    /// What its clock shows beyond the world's.
    pub ahead_ns: u64,
    /// How much faster than the world's its clock runs.
    pub drift_ppm: u64,
    /// The replica that its log is; the first has the node's number.
    pub replica: u128,
    /// Its process stands still.
    pub paused: bool,
    /// Why it has ended by itself.
    pub ended: Option<String>,
    /// It may end for other reasons than a log that has lost votes.
    pub may_end: bool,
    held: BTreeMap<GroupId, Arc<Mutex<Held>>>,
}

/// A node and where it listens.
pub fn member(node: u64) -> Member {
    Member { node, address: ([127, 0, 0, 1], 1000 + node as u16).into() }
}

impl Node {
    /// One that has never run, with these members in its configuration.
    fn new(setup: &Setup, node: u64, members: Vec<Member>) -> Self {
        let mut config = Config::new(7, node, "", members);
        (config.cache_mib, config.preferred_leader) = (1, Some(1));
        Self {
            shard: None,
            store: None,
            disk: SimDisk::new(setup.segment_bytes),
            stalled: false,
            files: SimFiles::default(),
            config,
            known: Introductions::default(),
            boot: 0,
            ahead_ns: 0,
            drift_ppm: 0,
            replica: u128::from(node),
            paused: false,
            ended: None,
            may_end: false,
            held: BTreeMap::new(),
        }
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.shard.is_some()
    }

    /// Whether it lets a node in.
    fn knows(&self, node: u64) -> bool {
        let configured = self.config.members.iter().any(|member| member.node == node);
        configured || self.known.list().iter().any(|introduced| introduced.node == node)
    }
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
    /// So many nodes take datagrams.
    lanes: usize,
    /// Datagrams on their way.
    pub datagrams: Vec<Post>,
    /// Directions in which no datagram arrives: it waits.
    pub late: Vec<(usize, usize)>,
    /// Directions in which datagrams are lost.
    pub drowned: Vec<(usize, usize)>,
}

impl Shards {
    /// Nodes that are not started yet, with one group, which node 1 prefers to lead.
    pub fn new(setup: Setup) -> Self {
        let members: Vec<Member> = (1..=setup.nodes as u64).map(member).collect();
        let nodes = (1..=setup.nodes as u64).map(|node| Node::new(&setup, node, members.clone())).collect();
        Self {
            setup,
            now_ns: 1,
            nodes,
            held: Vec::new(),
            deaf: Vec::new(),
            still: Vec::new(),
            wires: BTreeMap::new(),
            lanes: 0,
            datagrams: Vec::new(),
            late: Vec::new(),
            drowned: Vec::new(),
        }
    }

    /// With another configuration, before they are started.
    pub fn configured(mut self, configure: impl Fn(&mut Config)) -> Self {
        self.nodes.iter_mut().for_each(|node| configure(&mut node.config));
        self
    }

    /// The only node of a cluster, started: all that it has durably is chosen.
    pub fn lone(seed: u64, configure: impl Fn(&mut Config)) -> Self {
        Self::lone_of(Setup { seed: 1000 * seed, ..Setup::default() }, configure)
    }

    /// As [`Shards::lone`], made in another way.
    pub fn lone_of(setup: Setup, configure: impl Fn(&mut Config)) -> Self {
        let mut lone = Self::new(Setup { nodes: 1, ..setup }).configured(configure);
        lone.start(0);
        lone
    }

    /// Starts all nodes, and waits until node 1 leads.
    pub fn led(mut self) -> Self {
        (0..self.nodes.len()).for_each(|node| self.start(node));
        self.run_until(3000, |world| world.leads(0));
        self.run(100);
        assert!(self.leads(0), "the preferred node leads");
        self
    }

    /// One node more, made to join: its configuration has all nodes. It is not started, and nobody knows it.
    pub fn join(&mut self) -> usize {
        let node = self.nodes.len() as u64 + 1;
        self.nodes.push(Node::new(&self.setup, node, (1..=node).map(member).collect()));
        self.nodes.len() - 1
    }

    /// The connection of two nodes.
    pub fn conn(a: usize, b: usize) -> u64 {
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
        self.try_start(at).unwrap();
    }

    /// Starts a node's process, or says why its log makes no shard.
    pub fn try_start(&mut self, at: usize) -> Result<(), NoShard> {
        let (now_ns, setup) = (self.local_ns(at), self.setup);
        let founders = setup.nodes as u64;
        let node = &mut self.nodes[at];
        node.boot += 1;
        let founds = node.replica == at as u128 + 1 && at < setup.nodes;
        let place = SimPlace {
            shard: 0,
            replica: node.replica,
            founders: founds
                .then(|| (0, (1..=founders).map(|node| (node, u128::from(node))).collect()))
                .into_iter()
                .collect(),
            moves: SimMoves::new(&node.config),
            segment_bytes: setup.segment_bytes,
            tight_memory: false,
            part_bytes: setup.part_bytes,
            pull_bytes: 1 << 20,
            seed: setup.seed + at as u64 + 10 * node.boot,
        };
        let kind = setup.machines.unwrap_or(Kind::InMemory);
        if kind == Kind::InMemory {
            node.held.clear();
        }
        for group in 1..=node.config.groups {
            node.held.entry(group).or_default();
        }
        let held = node.held.clone();
        let machines: MachineFactory = Arc::new(move |group| {
            // Groups made at run time have none.
            let Some(held) = held.get(&group).map(Arc::clone) else { return Ok(None) };
            Ok(Some(Box::new(Machine { kind, group, held, delivered: Arc::default(), asked: 0 })))
        });
        let machines = setup.machines.map(|_| &machines);
        let mut store = SimStore::open(&node.config, Box::new(node.files.clone())).unwrap();
        let (mut shard, recovery) = SimShard::recover(&node.config, place, &mut node.disk, &mut store, machines)?;
        if let Some(tail) = recovery.tail_generation() {
            node.disk.flush_tail(tail).unwrap();
        }
        node.disk.open();
        shard.set_now(now_ns);
        shard.introduce(&node.known);
        shard.start(2);
        (node.shard, node.store) = (Some(shard), Some(store));
        self.open_lanes(at);
        for other in 0..self.nodes.len() {
            if other != at && self.nodes[other].shard.is_some() {
                self.connect(at, other);
            }
        }
        self.turn(at);
        Ok(())
    }

    /// Connects two nodes, if they know each other.
    fn connect(&mut self, a: usize, b: usize) {
        if !self.nodes[a].knows(b as u64 + 1) || !self.nodes[b].knows(a as u64 + 1) {
            return;
        }
        for (of, to) in [(a, b), (b, a)] {
            self.wires.insert((of, to), (Vec::new(), Decoder::new()));
            if self.deaf.contains(&of) {
                continue;
            }
            let now_ns = self.local_ns(of);
            let (own, other) = (self.nodes[of].replica, &self.nodes[to]);
            let seen = other.shard.as_ref().map_or(0, |peer| peer.seen(of as u64 + 1, own));
            let peer = SimPeer { boot: other.boot, replica: other.replica, seen };
            let shard = self.nodes[of].shard.as_mut().unwrap();
            shard.set_now(now_ns);
            shard.disconnected(Self::conn(a, b));
            shard.peer_connected(to as u64 + 1, Self::conn(a, b), peer);
        }
    }

    /// A node has closed a connection: another comes in its place, unless a direction is held.
    fn closed(&mut self, a: usize, b: usize) {
        for (of, to) in [(a, b), (b, a)] {
            self.wires.remove(&(of, to));
            if self.nodes[of].shard.is_some() {
                self.shard(of).disconnected(Self::conn(a, b));
            }
        }
        let run = [a, b].iter().all(|at| self.nodes[*at].shard.is_some());
        if run && !self.held.contains(&(a, b)) && !self.held.contains(&(b, a)) {
            self.connect(a, b);
        }
    }

    /// A node is introduced to another one.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn introduce(&mut self, at: usize, member: Member) {
        let to = &mut self.nodes[at];
        to.known.introduce(&to.config, member, false).expect("it can be");
        self.follow_introductions(at);
        self.turn(at);
    }

    /// Peers have told a node whom they know.
    fn hear(&mut self, at: usize, heard: &[Introduction]) {
        let node = &mut self.nodes[at];
        let before = node.known.clone();
        node.known.merge(heard);
        if node.known != before {
            self.follow_introductions(at);
        }
    }

    /// A node's shard learns whom the node knows durably, and who knows each other is connected.
    fn follow_introductions(&mut self, at: usize) {
        let known = self.nodes[at].known.clone();
        self.shard(at).introduce(&known);
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            if self.nodes[other].shard.is_some() && !self.wires.contains_key(&(at, other)) {
                self.connect(at, other);
            }
        }
    }

    /// The connection of two nodes is gone, and only `to` learns of it, in its next turn.
    pub fn lose(&mut self, from: usize, to: usize) {
        self.wires.remove(&(from, to));
        self.wires.remove(&(to, from));
        self.shard(to).disconnected(Self::conn(from, to));
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

    /// Bits of all of a node's checkpoints flip.
    pub fn rot_checkpoints(&mut self, at: usize) {
        let mut dice = Dice::new(1);
        for _ in 0..16 {
            assert!(self.nodes[at].files.rot(&mut dice), "it has a checkpoint");
        }
    }

    fn ended(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.shard, node.store, node.stalled, node.paused) = (None, None, false, false);
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

    /// One turn of a node with what it asks of its disk and its store; whether it asked for anything. One whose log has lost
    /// votes ends.
    pub fn step(&mut self, at: usize) -> bool {
        let now_ns = self.local_ns(at);
        let node = &mut self.nodes[at];
        let (Some(shard), Some(store), false) = (&mut node.shard, &mut node.store, node.paused) else { return false };
        shard.set_now(now_ns);
        if let Err(why) = shard.turn() {
            assert!(shard.is_suspect() || node.may_end, "{why}");
            node.ended = Some(why);
            self.kill(at);
            return false;
        }
        let (disk_ops, store_ops) = (shard.take_disk_ops(), shard.take_store_ops());
        let asked = !disk_ops.is_empty() || !store_ops.is_empty() || shard.wants_turn();
        for op in disk_ops {
            node.disk.start(op);
        }
        if !node.stalled {
            for done in node.disk.finish_all() {
                shard.on_disk(done).unwrap();
            }
        }
        for done in store.carry_out(store_ops) {
            shard.on_store(done);
        }
        let (closed, heard) = (shard.take_closed(), shard.take_heard());
        for other in (0..self.nodes.len()).filter(|other| closed.contains(&Self::conn(at, *other))) {
            self.closed(at, other);
        }
        self.post_datagrams(at);
        self.hear(at, &heard);
        let nodes = self.nodes.len();
        let shard = self.nodes[at].shard.as_mut().expect("it runs");
        for to in 0..nodes {
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

    /// A node's disk ends all that it has taken, stalled or not; the node's turn is yet to come.
    pub fn release_disk(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let shard = node.shard.as_mut().expect("it runs");
        for done in node.disk.finish_all() {
            shard.on_disk(done).unwrap();
        }
    }

    /// Delivers what may arrive, until nothing is on the wires that may.
    pub fn deliver(&mut self) {
        loop {
            if let Some((from, to)) = self.due() {
                self.deliver_one(from, to);
            } else if !self.deliver_datagram() {
                return;
            }
        }
    }

    /// A direction in which something may arrive.
    pub fn due(&self) -> Option<(usize, usize)> {
        let may = |way: &(usize, usize)| !self.held.contains(way) && !self.nodes[way.1].paused;
        self.wires.iter().find(|(way, (wire, _))| !wire.is_empty() && may(way)).map(|(way, _)| *way)
    }

    /// Delivers what waits in a direction, held or not.
    pub fn deliver_one(&mut self, from: usize, to: usize) {
        self.feed(from, to);
        self.turn(to);
    }

    /// As [`Shards::deliver_one`]; the receiver's turn is yet to come.
    pub fn feed(&mut self, from: usize, to: usize) {
        let (wire, mut decoder) = self.wires.remove(&(from, to)).unwrap();
        self.receive(to, Self::conn(from, to), &mut decoder, &wire);
        self.wires.insert((from, to), (Vec::new(), decoder));
    }

    /// A node gets bytes over a connection; its turn is yet to come.
    pub fn receive(&mut self, at: usize, connection: u64, decoder: &mut Decoder, mut bytes: &[u8]) {
        let shard = self.shard(at);
        while !bytes.is_empty() {
            bytes = &bytes[decoder.push(bytes)..];
            while let Some(frame) = decoder.next().unwrap() {
                shard.receive(connection, &frame);
            }
        }
    }

    /// A millisecond goes by at a node, with a tick; its turn is yet to come.
    pub fn tick(&mut self, at: usize) {
        let now_ns = self.local_ns(at);
        let node = &mut self.nodes[at];
        if let Some(shard) = node.shard.as_mut().filter(|_| !node.paused) {
            shard.set_now(now_ns);
            shard.tick();
        }
    }

    /// A millisecond goes by, without ticks.
    pub fn pass_ms(&mut self) {
        self.now_ns += MS;
        self.nodes.iter_mut().for_each(|node| node.ahead_ns += node.drift_ppm * MS / 1_000_000);
    }

    /// A millisecond goes by, with ticks, and nothing arrives.
    pub fn pass_tick(&mut self) {
        self.pass_ms();
        for at in 0..self.nodes.len() {
            if !self.still.contains(&at) {
                self.tick(at);
                self.turn(at);
            }
        }
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
            self.pass_tick();
            self.deliver();
        }
    }

    /// A millisecond goes by at a node, with a tick and a single turn, so that a cut meets what is between two of them.
    pub fn step_ms(&mut self, at: usize) {
        self.pass_ms();
        self.tick(at);
        self.step(at);
    }

    /// As [`Shards::step_ms`], until `done`.
    ///
    /// # Panics
    /// With `what`, when that does not come.
    pub fn step_until(&mut self, at: usize, what: &str, done: impl Fn(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.step_ms(at);
        }
        panic!("{what}");
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

    /// The ballot that a node has promised in group 1.
    ///
    /// # Panics
    /// When the node does not run.
    pub fn promised(&self, at: usize) -> u64 {
        self.nodes[at].shard.as_ref().expect("it runs").held(1).expect("every node has group 1").promised
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
        let told = self.submit_read(at, consistency, ms);
        self.turn(at);
        told
    }

    /// Reads group 1 at a node in its next turn.
    pub fn submit_read(&mut self, at: usize, consistency: Consistency, ms: u64) -> Told<Result<ReadPoint, ReadError>> {
        let (told, tell) = answer();
        self.shard(at).read_index(1, consistency, ms * MS, tell);
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
        let (told, tell) = answer();
        self.shard(at).propose(group, Entries::one(entry).unwrap(), None, None, tell);
        told
    }

    /// Proposes an entry of group 1 in a session: its id, and the proposal's sequence.
    pub fn propose_in_session(&mut self, at: usize, session: (u64, u64)) -> Told<Outcome> {
        let (told, tell) = answer();
        self.shard(at).propose(1, Entries::one(b"entry").unwrap(), Some(session), None, tell);
        self.turn(at);
        told
    }

    /// Proposes an entry of group 1 by an ordered handle, of this number and epoch, in the node's next turn.
    pub fn submit_ordered(&mut self, at: usize, handle: (u64, Epoch)) -> Told<Outcome> {
        let (told, tell) = answer();
        self.shard(at).propose(1, Entries::one(b"entry").unwrap(), None, Some(handle), tell);
        told
    }

    /// Opens a session in group 1.
    pub fn open_session(&mut self, at: usize) -> Told<Outcome> {
        let (told, tell) = answer();
        self.shard(at).open_session(1, tell);
        self.turn(at);
        told
    }

    /// Has group 1 handed over to node `to`.
    pub fn transfer(&mut self, at: usize, to: u64, ms: u64) -> Told<Result<(), TransferError>> {
        let (told, tell) = answer();
        self.shard(at).transfer(1, to, ms * MS, tell);
        self.turn(at);
        told
    }

    /// Has the vote of `node` in group 1 taken away.
    pub fn remove_voter(&mut self, at: usize, node: u64, ms: u64) -> Told<MembershipOutcome> {
        self.change_voters(at, MembershipChange::Remove(node), ms)
    }

    /// Has the voters of group 1 changed.
    pub fn change_voters(&mut self, at: usize, change: MembershipChange, ms: u64) -> Told<MembershipOutcome> {
        let ((told, tell), version) = (answer(), self.info(at).configuration);
        self.shard(at).change_membership(1, version, change, ms * MS, Box::new(tell));
        self.turn(at);
        told
    }

    /// Has a group made, in which a majority chooses, or dropped, in the node's next turn.
    pub fn change_groups(&mut self, at: usize, group: GroupId, create: bool, ms: u64) -> Told<GroupOutcome> {
        let (told, tell) = answer();
        self.shard(at).change_groups(group, create.then_some(0), ms * MS, Box::new(tell));
        told
    }
}
