//! Nodes with two shards, between which a group moves: what a power cut leaves at any moment of that, and what a voter that
//! moves is bound to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use synod::simulation::{SimMoves, SimPass, SimPeer, SimPlace, SimShard, SimStore};
use synod::{Config, Consistency, Entries, GroupOutcome, MachineFactory, Member, Outcome, ProposeError};
use synod_transport::frame::Decoder;

use crate::disk::{Dice, SimDisk};
use crate::schedules::{Schedule, schedules};
use crate::shards::Told;
use crate::sim::files::SimFiles;
use crate::sim::machine::{Held, Kind, Machine, hash_behind};

const MS: u64 = 1_000_000;
const SHARDS: usize = 2;
/// The group that moves. It is at home on shard 0.
const GROUP: u64 = 2;
/// A group that is made at run time. Its directory is on shard 1.
const MADE: u64 = 9;
const SEGMENT_BYTES: u64 = 64 << 10;

type OnOrder = Box<dyn FnOnce(GroupOutcome) + Send>;

struct Node {
    config: Config,
    nodes: u64,
    disks: Vec<SimDisk>,
    files: Vec<SimFiles>,
    moves: SimMoves,
    shards: Vec<SimShard>,
    stores: Vec<SimStore>,
    passes: VecDeque<(usize, SimPass)>,
    held: BTreeMap<u64, Arc<Mutex<Held>>>,
    now_ns: u64,
    steps: usize,
    boot: u64,
    /// What was proposed in the group, in order, and whether it is acknowledged.
    proposed: Vec<(u64, bool)>,
    entries: u64,
    /// What becomes of the last of it.
    told: Option<Told<Outcome>>,
}

impl Node {
    /// One of so many, not started yet.
    fn new(number: u64, nodes: u64) -> Self {
        let address = |node: u64| format!("127.0.0.1:{}", 1000 + node).parse().expect("it is one");
        let members = (1..=nodes).map(|node| Member { node, address: address(node) });
        let mut config = Config::new(7, number, "", members.collect());
        (config.shards, config.groups, config.cache_mib) = (SHARDS, 4, 1);
        (config.checkpoint_entries, config.hold_entries, config.retain_mib) = (5, 3, 0);
        Self {
            moves: SimMoves::new(&config),
            config,
            nodes,
            disks: (0..SHARDS).map(|_| SimDisk::new(SEGMENT_BYTES)).collect(),
            files: (0..SHARDS).map(|_| SimFiles::default()).collect(),
            shards: Vec::new(),
            stores: Vec::new(),
            passes: VecDeque::new(),
            held: BTreeMap::new(),
            now_ns: 1,
            steps: 0,
            boot: 0,
            proposed: Vec::new(),
            entries: 0,
            told: None,
        }
    }

    /// The only one, with a few entries.
    fn lone() -> Self {
        let mut node = Self::new(1, 1);
        node.start();
        node.run_until("nobody leads", |node| node.leads());
        for _ in 0..12 {
            node.commit();
        }
        node
    }

    fn start(&mut self) {
        self.boot += 1;
        self.moves = self.moves.started(&self.config);
        self.held = (1..=self.config.groups).map(|group| (group, Arc::default())).collect();
        let held = self.held.clone();
        let machines: MachineFactory = Arc::new(move |group| {
            let Some(held) = held.get(&group).map(Arc::clone) else { return Ok(None) };
            Ok(Some(Box::new(Machine { kind: Kind::InMemory, group, held, delivered: Arc::default(), asked: 0 })))
        });
        let of = |shard| (1..=self.nodes).map(|node| (node, replica(node, shard))).collect();
        let founders: Vec<_> = (0..SHARDS).map(|shard| (shard, of(shard))).collect();
        for shard in 0..SHARDS {
            let place = SimPlace {
                shard,
                replica: replica(self.config.node, shard),
                founders: founders.clone(),
                segment_bytes: SEGMENT_BYTES,
                tight_memory: false,
                part_bytes: 0,
                seed: 10_000 * self.config.node + 10 * self.boot + shard as u64,
                pull_bytes: 1 << 20,
                moves: self.moves.clone(),
            };
            let mut store = SimStore::open(&self.config, Box::new(self.files[shard].clone())).expect("no file fails");
            let disk = &mut self.disks[shard];
            let recovered = SimShard::recover(&self.config, place, disk, &mut store, Some(&machines));
            let (mut sim, recovery) = recovered.expect("a power cut leaves a sound log");
            if let Some(tail) = recovery.tail_generation() {
                disk.flush_tail(tail).expect("no disk fails");
            }
            disk.open();
            sim.set_now(self.now_ns);
            sim.start(2);
            self.shards.push(sim);
            self.stores.push(store);
        }
    }

    fn cut_power(&mut self, seed: u64) {
        let mut dice = Dice::new(seed);
        self.disks.iter_mut().for_each(|disk| disk.crash(&mut dice));
        self.files.iter().for_each(|files| files.end(true, &mut dice));
        (self.shards, self.stores, self.told) = (Vec::new(), Vec::new(), None);
        self.passes.clear();
    }

    /// One thing happens at one of the shards: its disk ends something, its store does, another shard tells it something, or
    /// time passes for it.
    fn step(&mut self) {
        let at = self.steps / 4 % SHARDS;
        let sim = &mut self.shards[at];
        sim.set_now(self.now_ns);
        match self.steps % 4 {
            0 => {
                let disk = &mut self.disks[at];
                let ready = disk.pending().into_iter().find(|pending| pending.ready);
                if let Some(done) = ready.and_then(|ready| disk.finish(ready.id, crate::disk::Outcome::Done)) {
                    sim.on_disk(done).expect("no disk fails");
                }
            }
            1 => {
                let ops = sim.take_store_ops();
                self.stores[at].carry_out(ops).into_iter().for_each(|done| sim.on_store(done));
            }
            2 => {
                if let Some((to, pass)) = self.passes.pop_front() {
                    self.shards[to].set_now(self.now_ns);
                    self.shards[to].on_pass(pass);
                }
            }
            _ => {
                self.now_ns += MS;
                sim.tick();
            }
        }
        let sim = &mut self.shards[at];
        sim.turn().expect("nothing fails");
        for op in sim.take_disk_ops() {
            self.disks[at].start(op);
        }
        let passes = sim.take_passes();
        self.passes.extend(passes);
        self.steps += 1;
        let told = self.told.as_ref().and_then(|told| *told.lock().expect("no holder panics"));
        if let Some(outcome) = told {
            self.told = None;
            match outcome {
                Ok(_) => self.proposed.last_mut().expect("it was proposed").1 = true,
                // It was never proposed.
                Err(ProposeError::Rejected(_)) => drop(self.proposed.pop()),
                Err(_) => {}
            }
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..40_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("{what}");
    }

    fn host(&mut self) -> &mut SimShard {
        self.host_of(GROUP)
    }

    fn host_of(&mut self, group: u64) -> &mut SimShard {
        let at = self.moves.shard(group);
        let sim = &mut self.shards[at];
        sim.set_now(self.now_ns);
        sim
    }

    fn leads(&mut self) -> bool {
        self.host().epoch(GROUP).is_some()
    }

    /// Proposes the next entry, unless the last one is under way.
    fn propose(&mut self) {
        if self.told.is_some() {
            return;
        }
        self.entries += 1;
        let told: Told<Outcome> = Arc::default();
        let tell = Arc::clone(&told);
        let entries = Entries::one(&entry(self.entries)).expect("it fits");
        self.proposed.push((self.entries, false));
        self.told = Some(told);
        let tell = move |outcome| *tell.lock().expect("no holder panics") = Some(outcome);
        self.host().propose(GROUP, entries, None, None, tell);
    }

    fn place(&mut self, to: usize) -> Told<GroupOutcome> {
        self.order(GROUP, |sim, reply| sim.place_group(GROUP, to, 1000 * MS, reply))
    }

    /// Gives an order to the shard of a group's directory.
    fn order(&mut self, group: u64, order: impl FnOnce(&mut SimShard, OnOrder)) -> Told<GroupOutcome> {
        let at = self.moves.directory_shard(group);
        let told: Told<GroupOutcome> = Arc::default();
        let tell = Arc::clone(&told);
        let reply = Box::new(move |outcome| *tell.lock().expect("no holder panics") = Some(outcome));
        self.shards[at].set_now(self.now_ns);
        order(&mut self.shards[at], reply);
        told
    }

    /// Gives an order until it is carried out.
    fn carry_out(&mut self, group: u64, order: impl Fn(&mut SimShard, OnOrder)) {
        let mut told = self.order(group, &order);
        self.run_until("an order is not carried out", |node| {
            let outcome = *told.lock().expect("no holder panics");
            match outcome {
                Some(Ok(_)) => true,
                Some(Err(_)) => {
                    told = node.order(group, &order);
                    false
                }
                None => false,
            }
        });
    }

    fn drop_made(&mut self) -> Told<GroupOutcome> {
        self.order(MADE, |sim, reply| sim.change_groups(MADE, None, 1000 * MS, reply))
    }

    /// Has the group that was made dropped, if it is there.
    fn carry_out_end(&mut self) {
        let mut told = self.drop_made();
        self.run_until("it is never dropped", |node| {
            if told.lock().expect("no holder panics").is_some() {
                told = node.drop_made();
            }
            node.shards.iter().all(|sim| sim.made_groups().is_empty() && sim.uid(MADE).is_none())
                && node.moves.shard(MADE) == 1
        });
    }

    /// What the replicas of a group that was made at run time have promised, wherever they are.
    fn promises_of(&self, group: u64) -> Vec<u64> {
        self.shards.iter().filter_map(|sim| sim.held(group)).map(|held| held.promised).collect()
    }

    fn commit(&mut self) {
        let before = self.acknowledged();
        self.run_until("nothing is committed", move |node| {
            node.propose();
            node.acknowledged() > before
        });
    }

    fn acknowledged(&self) -> u64 {
        self.proposed.iter().filter(|(_, acknowledged)| *acknowledged).count() as u64
    }

    /// What is acknowledged is there, in one place, and the machine has just that.
    fn check(&mut self, what: &str) {
        let at = self.moves.shard(GROUP);
        let uids: Vec<bool> = self.shards.iter().map(|sim| sim.uid(GROUP).is_some()).collect();
        assert_eq!(uids, (0..SHARDS).map(|shard| shard == at).collect::<Vec<_>>(), "{what}: where the group is");
        // What was accepted is chosen once it leads. It may be on its way again.
        self.run_until("the machine lacks something", |node| {
            let next_index = node.host().info(GROUP).map_or(0, |info| info.next_index);
            node.leads() && node.held[&GROUP].lock().unwrap().last().0 + 1 == next_index
        });
        let state = self.held[&GROUP].lock().unwrap().last();
        assert!(is_made_of(state, (0, 0), &self.proposed), "{what}: {state:?} is not of {:?}", self.proposed);
    }
}

/// The replica that a shard of a node begins with.
fn replica(node: u64, shard: usize) -> u128 {
    u128::from(10 * node) + shard as u128
}

fn entry(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(300)
}

/// Whether a state, an index and a hash, follows from another by these proposals: all that are acknowledged, and any of the
/// others.
fn is_made_of(state: (u64, u64), before: (u64, u64), proposed: &[(u64, bool)]) -> bool {
    let Some(((number, acknowledged), rest)) = proposed.split_first() else { return state == before };
    let index = before.0 + 1;
    let with = (index, hash_behind(before.1, index, &entry(*number)));
    is_made_of(state, with, rest) || !acknowledged && is_made_of(state, before, rest)
}

/// The power goes behind any number of steps of a move, under load. A start finds the group on one of the two shards, with
/// all that was acknowledged, and the move goes on.
fn a_group_moves_whole_or_not_at_all() {
    let (mut before, mut behind) = (0, 0);
    for cut in 0..500 {
        let mut node = Node::lone();
        node.place(1);
        for _ in 0..cut {
            node.propose();
            node.step();
        }
        node.cut_power(cut);
        node.start();
        let what = format!("a cut after {cut} steps");
        match node.moves.shard(GROUP) {
            0 => before += 1,
            _ => behind += 1,
        }
        node.check(&what);
        node.place(1);
        node.run_until("it never moves", |node| node.moves.shard(GROUP) == 1 && node.leads());
        node.commit();
        node.check(&what);
    }
    assert!(before > 50 && behind > 50, "{before} cuts were before the switch, {behind} behind it");
}

/// A group that was made at run time is dropped where it is a guest, and the power goes behind any number of steps of that. A
/// start finds it with all its votes, or not at all, and never as it was at home before it moved.
fn a_guest_ends_whole_or_not_at_all() {
    let create = |sim: &mut SimShard, reply: OnOrder| sim.change_groups(MADE, Some(0), 1000 * MS, reply);
    let ending = || {
        let mut node = Node::new(1, 1);
        node.start();
        node.carry_out(MADE, create);
        node.carry_out(MADE, |sim, reply| sim.place_group(MADE, 0, 1000 * MS, reply));
        // What it promises as a guest is above what it has promised at home.
        node.run_until("it never moves", |node| {
            node.moves.shard(MADE) == 0 && node.host_of(MADE).epoch(MADE).is_some()
        });
        drop(node.drop_made());
        node
    };
    let mut node = ending();
    let begin = node.steps;
    node.run_until("it never ends", |node| node.shards[0].uid(MADE).is_none());
    let end = node.steps - begin;
    let (mut there, mut gone) = (0, 0);
    for cut in (0..end).step_by(end / 100).chain(end.saturating_sub(60)..end + 60) {
        let mut node = ending();
        let (promises, uid) = (node.promises_of(MADE), node.host_of(MADE).uid(MADE));
        for _ in 0..cut {
            node.step();
        }
        node.cut_power(cut as u64);
        node.start();
        match &node.promises_of(MADE)[..] {
            [] => gone += 1,
            [one] => {
                assert!(*one >= promises[0], "cut {cut}: the promise went back from {} to {one}", promises[0]);
                there += 1;
            }
            more => panic!("cut {cut}: it is on {} shards", more.len()),
        }
        node.carry_out_end();
        node.carry_out(MADE, create);
        node.run_until("nobody leads it", |node| node.host_of(MADE).epoch(MADE).is_some());
        assert!(node.moves.shard(MADE) == 1 && node.host_of(MADE).uid(MADE) != uid, "cut {cut}: it is another one");
    }
    assert!(there > 20 && gone > 20, "{there} found it, {gone} did not");
}

/// Three nodes, and what is on its way between them.
struct Cluster {
    nodes: Vec<Node>,
    wires: BTreeMap<(usize, usize, usize), Decoder>,
    /// Nothing gets to it or from it.
    cut_off: Option<usize>,
}

fn conn(shard: usize, a: usize, b: usize) -> u64 {
    (100 * shard + 10 * a.min(b) + a.max(b)) as u64 + 1
}

impl Cluster {
    fn started() -> Self {
        let mut nodes: Vec<Node> = (1..=3).map(|number| Node::new(number, 3)).collect();
        nodes.iter_mut().for_each(Node::start);
        let mut wires = BTreeMap::new();
        for (at, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            for shard in 0..SHARDS {
                let peer = SimPeer { boot: nodes[to].boot, replica: replica(to as u64 + 1, shard), seen: 0 };
                nodes[at].shards[shard].peer_connected(to as u64 + 1, conn(shard, at, to), peer);
                wires.insert((at, to, shard), Decoder::new());
            }
        }
        Self { nodes, wires, cut_off: None }
    }

    /// Each node takes as many steps as it takes until all has happened once at each shard; what they send arrives.
    fn step(&mut self) {
        for node in &mut self.nodes {
            (0..4 * SHARDS).for_each(|_| node.step());
        }
        for ((from, to, shard), decoder) in &mut self.wires {
            let connection = conn(*shard, *from, *to);
            let bytes = self.nodes[*from].shards[*shard].take_output(connection, 1 << 20);
            let mut bytes = if self.cut_off.is_some_and(|at| at == *from || at == *to) { &[][..] } else { &bytes[..] };
            let now_ns = self.nodes[*to].now_ns;
            let target = &mut self.nodes[*to].shards[*shard];
            target.set_now(now_ns);
            while !bytes.is_empty() {
                bytes = &bytes[decoder.push(bytes)..];
                while let Some(frame) = decoder.next().expect("nothing is damaged") {
                    target.receive(connection, &frame);
                }
            }
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..5000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("{what}");
    }

    /// Whether one of the first two nodes takes the order to have the group there.
    fn others_place(&mut self, shard: usize) -> bool {
        let told: Vec<_> = (0..2).map(|at| self.nodes[at].place(shard)).collect();
        let all = || told.iter().map(|told| *told.lock().expect("no holder panics"));
        self.run_until("an order is not answered", |_| all().all(|told| told.is_some()));
        all().flatten().any(|outcome| outcome.is_ok())
    }
}

/// Node 3, which the group prefers, holds a lease of it and is cut off; its directory prefers node 1. The others move the group: to whom they were bound at the old shard they
/// are bound at the new one, so nobody else leads before that lease is over.
fn a_voter_that_moves_stays_bound() {
    let mut cluster = Cluster::started();
    cluster.run_until("node 3 does not lead", |cluster| cluster.nodes[2].leads());
    cluster.run_until("the directory has no other leader", |cluster| cluster.others_place(0));
    let lease = |cluster: &mut Cluster| cluster.nodes[2].host().info(GROUP).expect("it is here").lease;
    cluster.nodes[2].host().read_index(GROUP, Consistency::Linearizable, 1000 * MS, drop);
    cluster.run_until("there is no lease", lease);
    cluster.cut_off = Some(2);
    assert!(cluster.others_place(1), "a quorum takes the order");
    cluster.run_until("the others do not move it", |cluster| {
        cluster.nodes[..2].iter().all(|node| node.moves.shard(GROUP) == 1)
    });
    assert!(lease(&mut cluster), "they are quick");
    cluster.run_until("nobody else leads", |cluster| cluster.nodes[..2].iter_mut().any(Node::leads));
    assert!(!lease(&mut cluster), "a lease goes on beside another leader");
}

/// All of them.
pub(crate) const SCHEDULES: &[Schedule] = schedules! {
    a_group_moves_whole_or_not_at_all shows GroupsMoveEarly,
    a_guest_ends_whole_or_not_at_all shows GuestsGoEarly,
    a_voter_that_moves_stays_bound shows MovedVotersAreFree,
};
