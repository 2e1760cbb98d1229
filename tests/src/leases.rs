//! Leases, read points and transfers on schedules of their own: three shards on simulated disks, whose messages, clocks and
//! restarts are moved by hand. Each is a schedule that reads something stale, or keeps a group without a
//! leader, when the rule that it is named for is left out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::disk::{Dice, SimDisk};
use crate::sim::files::SimFiles;
use synod::simulation::{NoShard, SimPeer, SimPlace, SimShard, SimStore};
use synod::{Config, Consistency, Entries, Member, Outcome, ReadError, ReadPoint, TransferError};
use synod_transport::frame::Decoder;

pub(crate) const MS: u64 = 1_000_000;
const SEGMENT_BYTES: u64 = 1 << 20;
const SUPPORT_MS: u64 = 500;

pub(crate) struct Node {
    pub(crate) shard: Option<SimShard>,
    pub(crate) disk: SimDisk,
    config: Config,
    boot: u64,
    /// What its clock shows beyond the world's.
    ahead_ns: u64,
    /// How much faster than the world's its clock runs.
    pub(crate) drift_ppm: u64,
    /// The replica that its log is; the first has the node's number.
    pub(crate) replica: u128,
    /// Its disk answers nothing.
    pub(crate) hangs: bool,
    /// Its process stands still.
    pub(crate) paused: bool,
    /// Why it has ended by itself: its log has lost votes.
    pub(crate) suspect: Option<String>,
}

/// Three nodes of one shard each.
pub(crate) struct World {
    now_ns: u64,
    pub(crate) nodes: Vec<Node>,
    /// Directions in which nothing arrives: it waits.
    pub(crate) held: Vec<(usize, usize)>,
    /// Nodes that have not heard yet of connections that broke and came.
    deaf: Vec<usize>,
    pub(crate) wires: BTreeMap<(usize, usize), (Vec<u8>, Decoder)>,
}

pub(crate) type Told<T> = Arc<Mutex<Option<T>>>;

impl World {
    /// A cluster of one group, whose node 1 leads it.
    pub(crate) fn new() -> Self {
        Self::of(|_| ())
    }

    /// A cluster with another configuration; node 1 leads all groups.
    pub(crate) fn of(configure: impl Fn(&mut Config)) -> Self {
        let address = |at: u64| format!("127.0.0.1:{}", 1000 + at).parse().unwrap();
        let members: Vec<Member> = (1..=3).map(|node| Member { node, address: address(node) }).collect();
        let node = |at: u64| {
            let mut config = Config::new(7, at, "", members.clone());
            (config.cache_mib, config.preferred_leader) = (1, Some(1));
            configure(&mut config);
            Node {
                shard: None,
                disk: SimDisk::new(SEGMENT_BYTES),
                config,
                boot: 0,
                ahead_ns: 0,
                drift_ppm: 0,
                replica: u128::from(at),
                hangs: false,
                paused: false,
                suspect: None,
            }
        };
        let nodes = (1..=3).map(node).collect();
        let mut world = Self { now_ns: 1, nodes, held: Vec::new(), deaf: Vec::new(), wires: BTreeMap::new() };
        (0..3).for_each(|node| world.start(node));
        world.run_until(3000, |world| world.leads(0));
        world.run(100);
        assert!(world.leads(0), "the preferred node leads");
        world
    }

    pub(crate) fn conn(a: usize, b: usize) -> u64 {
        (a.min(b) * 10 + a.max(b)) as u64 + 1
    }

    fn local_ns(&self, node: usize) -> u64 {
        self.now_ns + self.nodes[node].ahead_ns
    }

    pub(crate) fn start(&mut self, at: usize) {
        self.try_start(at).unwrap();
    }

    /// Starts a node, or says why its log makes no shard.
    pub(crate) fn try_start(&mut self, at: usize) -> Result<(), NoShard> {
        let now_ns = self.local_ns(at);
        let node = &mut self.nodes[at];
        node.boot += 1;
        let founds = node.replica == at as u128 + 1;
        let place = SimPlace {
            shard: 0,
            replica: node.replica,
            founders: founds.then(|| (1..=3).map(|node| (node, u128::from(node))).collect()),
            segment_bytes: SEGMENT_BYTES,
            tight_memory: false,
            part_bytes: 0,
            pull_bytes: 1 << 20,
            seed: 77 + at as u64 + 10 * node.boot,
        };
        // Without state machines there are no checkpoints.
        let mut store = SimStore::open(&node.config, Box::<SimFiles>::default()).unwrap();
        let (mut shard, recovery) = SimShard::recover(&node.config, place, &mut node.disk, &mut store, None)?;
        if let Some(tail) = recovery.tail_generation() {
            node.disk.flush_tail(tail).unwrap();
        }
        node.disk.open();
        shard.set_now(now_ns);
        shard.start(2);
        node.shard = Some(shard);
        for other in 0..3 {
            if other != at && self.nodes[other].shard.is_some() {
                self.connect(at, other);
            }
        }
        self.turn(at);
        Ok(())
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (of, to) in [(a, b), (b, a)] {
            self.wires.insert((of, to), (Vec::new(), Decoder::new()));
            if self.deaf.contains(&of) {
                continue;
            }
            let now_ns = self.local_ns(of);
            let replica = self.nodes[of].replica;
            let seen = self.nodes[to].shard.as_ref().unwrap().seen(of as u64 + 1, replica);
            let peer = SimPeer { boot: self.nodes[to].boot, replica: self.nodes[to].replica, seen };
            let shard = self.nodes[of].shard.as_mut().unwrap();
            shard.set_now(now_ns);
            shard.disconnected(Self::conn(a, b));
            shard.peer_connected(to as u64 + 1, Self::conn(a, b), peer);
        }
    }

    /// A node closes a connection. Where a direction is closed, no other comes in its place.
    fn close(&mut self, a: usize, b: usize) {
        for (of, to) in [(a, b), (b, a)] {
            self.wires.remove(&(of, to));
            let now_ns = self.local_ns(of);
            if let Some(shard) = &mut self.nodes[of].shard {
                shard.set_now(now_ns);
                shard.disconnected(Self::conn(a, b));
            }
        }
        if !self.held.contains(&(a, b)) && !self.held.contains(&(b, a)) {
            self.connect(a, b);
        }
    }

    /// Ends a node's process; its peers learn of it.
    pub(crate) fn kill(&mut self, at: usize) {
        self.nodes[at].disk.kill(&mut Dice::new(1));
        self.bury(at);
    }

    /// A node's process has ended; its peers learn of it.
    pub(crate) fn bury(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.shard, node.hangs, node.paused) = (None, false, false);
        for other in (0..3).filter(|other| *other != at) {
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

    pub(crate) fn hold(&mut self, a: usize, b: usize) {
        self.held.extend([(a, b), (b, a)]);
    }

    /// A node's turns until it asks nothing more of its disk; what it sends lies on the wires.
    pub(crate) fn turn(&mut self, at: usize) {
        let now_ns = self.local_ns(at);
        let node = &mut self.nodes[at];
        let Some(shard) = &mut node.shard else { return };
        if node.paused {
            return;
        }
        loop {
            shard.set_now(now_ns);
            if let Err(why) = shard.turn() {
                assert!(shard.is_suspect(), "{why}");
                node.suspect = Some(why);
                self.kill(at);
                return;
            }
            let ops = shard.take_disk_ops();
            if ops.is_empty() {
                break;
            }
            for op in ops {
                node.disk.start(op);
            }
            if node.hangs {
                break;
            }
            for done in node.disk.finish_all() {
                shard.on_disk(done).unwrap();
            }
        }
        let closed = shard.take_closed();
        for other in (0..3).filter(|other| closed.contains(&Self::conn(at, *other))) {
            self.close(at, other);
        }
        let shard = self.nodes[at].shard.as_mut().expect("it runs");
        for to in 0..3 {
            if let Some((wire, _)) = self.wires.get_mut(&(at, to)) {
                wire.extend(shard.take_output(Self::conn(at, to), 1 << 20));
            }
        }
    }

    /// Delivers what may arrive, until nothing is on the wires that may.
    pub(crate) fn deliver(&mut self) {
        while let Some((from, to)) = self.due() {
            self.deliver_one(from, to);
        }
    }

    /// A direction in which something may arrive.
    pub(crate) fn due(&self) -> Option<(usize, usize)> {
        let may = |way: &(usize, usize)| !self.held.contains(way) && !self.nodes[way.1].paused;
        self.wires.iter().find(|(way, (wire, _))| !wire.is_empty() && may(way)).map(|(way, _)| *way)
    }

    pub(crate) fn deliver_one(&mut self, from: usize, to: usize) {
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
        self.turn(to);
    }

    /// Milliseconds go by, with ticks.
    pub(crate) fn run(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    pub(crate) fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..ms {
            if done(self) {
                return;
            }
            self.tick();
            self.deliver();
        }
    }

    /// A millisecond goes by, and nothing arrives.
    pub(crate) fn tick(&mut self) {
        self.now_ns += MS;
        for at in 0..3 {
            self.nodes[at].ahead_ns += self.nodes[at].drift_ppm * MS / 1_000_000;
            let now_ns = self.local_ns(at);
            let node = &mut self.nodes[at];
            if let Some(shard) = node.shard.as_mut().filter(|_| !node.paused) {
                shard.set_now(now_ns);
                shard.tick();
                self.turn(at);
            }
        }
    }

    pub(crate) fn leads(&self, at: usize) -> bool {
        self.nodes[at].shard.as_ref().is_some_and(|shard| shard.epoch(1).is_some())
    }

    pub(crate) fn lease(&self, at: usize) -> bool {
        self.nodes[at].shard.as_ref().unwrap().info(1).unwrap().lease
    }

    pub(crate) fn shard(&mut self, at: usize) -> &mut SimShard {
        let now_ns = self.local_ns(at);
        let shard = self.nodes[at].shard.as_mut().unwrap();
        shard.set_now(now_ns);
        shard
    }

    pub(crate) fn read(&mut self, at: usize, consistency: Consistency, ms: u64) -> Told<Result<ReadPoint, ReadError>> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        self.shard(at).read_index(1, consistency, ms * MS, move |answer| *tell.lock().unwrap() = Some(answer));
        self.turn(at);
        told
    }

    pub(crate) fn propose(&mut self, at: usize) -> Told<Outcome> {
        self.propose_in(at, 1, None)
    }

    /// Proposes an entry in a group, in a session (id, sequence) or not.
    pub(crate) fn propose_in(&mut self, at: usize, group: u64, session: Option<(u64, u64)>) -> Told<Outcome> {
        self.propose_entry(at, group, session, b"entry")
    }

    pub(crate) fn propose_entry(
        &mut self,
        at: usize,
        group: u64,
        session: Option<(u64, u64)>,
        entry: &[u8],
    ) -> Told<Outcome> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        let entries = Entries::one(entry).unwrap();
        self.shard(at).propose(group, entries, session, None, move |outcome| *tell.lock().unwrap() = Some(outcome));
        self.turn(at);
        told
    }

    fn transfer(&mut self, at: usize, to: u64, ms: u64) -> Told<Result<(), TransferError>> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        self.shard(at).transfer(1, to, ms * MS, move |end| *tell.lock().unwrap() = Some(end));
        self.turn(at);
        told
    }

    /// Commits an entry at node 1, and has the group bound to it: it holds a lease.
    pub(crate) fn with_lease() -> Self {
        let mut world = Self::new();
        let committed = world.propose(0);
        world.deliver();
        assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
        let read = world.read(0, Consistency::Linearizable, 1000);
        world.run(30);
        assert_eq!(read.lock().unwrap().clone().unwrap().unwrap().index, 1);
        assert!(world.lease(0));
        world
    }
}

pub(crate) fn index(told: &Told<Result<ReadPoint, ReadError>>) -> Option<u64> {
    told.lock().unwrap().as_ref().and_then(|answer| answer.as_ref().ok()).map(|point| point.index)
}

fn a_lease_read_asks_nobody() {
    let mut world = World::with_lease();
    world.hold(0, 1);
    world.hold(0, 2);
    let read = world.read(0, Consistency::Linearizable, 1000);
    assert_eq!(index(&read), Some(1));
}

fn a_follower_reads_at_its_leaders_point() {
    let mut world = World::with_lease();
    let committed = world.propose(0);
    world.deliver();
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    let read = world.read(2, Consistency::Linearizable, 1000);
    world.run(60);
    assert_eq!(index(&read), Some(2));
}

fn a_lease_lapses_before_its_voters_elect_another() {
    let mut world = World::with_lease();
    world.hold(0, 1);
    world.hold(0, 2);
    let mut lapsed_at = None;
    for ms in 0..3000 {
        world.run(1);
        if !world.lease(0) {
            lapsed_at.get_or_insert(ms);
        }
        if world.leads(1) || world.leads(2) {
            assert!(lapsed_at.is_some_and(|at| at < ms), "a lease goes on beside another leader");
            assert!((SUPPORT_MS / 2..SUPPORT_MS).contains(&lapsed_at.unwrap()));
            return;
        }
    }
    panic!("nobody else is elected");
}

fn a_stale_leader_reads_nothing_by_its_lease() {
    let mut world = World::with_lease();
    world.hold(0, 1);
    world.hold(0, 2);
    world.run_until(3000, |world| world.leads(1) || world.leads(2));
    let other = if world.leads(1) { 1 } else { 2 };
    let committed = world.propose(other);
    world.run(10);
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    // It may think that it leads; what it knows is older than what was acknowledged.
    let reads = [Consistency::Linearizable, Consistency::Quorum].map(|how| world.read(0, how, 200));
    world.run(300);
    for read in reads {
        assert!(matches!(*read.lock().unwrap(), Some(Err(_))));
    }
}

fn a_voter_that_restarts_promises_nobody_at_once() {
    let mut world = World::with_lease();
    // Node 1 keeps its lease by node 2's support alone, which is started anew and forgets.
    world.hold(0, 2);
    world.run(SUPPORT_MS + 100);
    assert!(world.lease(0), "one voter besides the leader is enough");
    world.hold(0, 1);
    // Node 1 does not learn of that: it still counts on what node 2 has granted it.
    world.deaf.push(0);
    world.kill(1);
    world.start(1);
    assert!(world.lease(0));
    for _ in 0..3000 {
        world.run(1);
        let elected = world.leads(1) || world.leads(2);
        assert!(!(elected && world.lease(0)), "a lease goes on beside another leader");
        if elected {
            return;
        }
    }
    panic!("nobody else is elected");
}

fn a_binding_in_a_lapsed_epoch_makes_no_lease() {
    let mut world = World::with_lease();
    // Heartbeats fail to come for so long that support lapses at both voters, but not so long that they elect.
    world.hold(0, 1);
    world.hold(0, 2);
    world.run(SUPPORT_MS + 20);
    assert!(!world.lease(0));
    world.held.clear();
    world.run(50);
    if world.leads(0) {
        // They support it again, in a new epoch; the group is not bound to that.
        assert!(!world.lease(0), "what was bound to an epoch that lapsed is bound no longer");
        let read = world.read(0, Consistency::Linearizable, 1000);
        world.run(30);
        assert_eq!(index(&read), Some(1));
        assert!(world.lease(0), "it was bound anew");
    }
}

fn a_transfer_that_fails_leaves_no_lease() {
    let mut world = World::with_lease();
    // The order gets to node 2, and nothing of what it does about that gets out in time.
    world.held.extend([(1, 0), (1, 2)]);
    let transfer = world.transfer(0, 2, 50);
    world.run(60);
    assert_eq!(*transfer.lock().unwrap(), Some(Err(TransferError::TimedOut)));
    assert!(world.leads(0) && !world.lease(0));
    // Then it takes over with node 3, and commits, and node 1 hears nothing of it.
    world.held = vec![(1, 0), (2, 0)];
    world.run_until(500, |world| world.leads(1));
    assert!(world.leads(1), "an order passes the binding");
    let committed = world.propose(1);
    world.run(10);
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    let read = world.read(0, Consistency::Linearizable, 100);
    world.run(200);
    assert_eq!(index(&read), None, "it reads by a lease that it gave up");
}

fn a_transfer_hands_over_and_loses_nothing() {
    let mut world = World::with_lease();
    let transfer = world.transfer(0, 3, 1000);
    // What comes meanwhile waits, and is refused when the other leads.
    let refused = world.propose(0);
    world.run(50);
    assert_eq!(*transfer.lock().unwrap(), Some(Ok(())));
    assert!(world.leads(2) && !world.leads(0));
    assert!(matches!(*refused.lock().unwrap(), Some(Err(synod::ProposeError::Rejected(_)))));
    let committed = world.propose(2);
    world.run(10);
    assert_eq!(committed.lock().unwrap().unwrap().unwrap().first_index, 2);
}

fn a_round_that_was_asked_before_a_read_does_not_confirm_it() {
    let mut world = World::with_lease();
    // A first read is confirmed by answers that are on their way.
    world.held.extend([(1, 0), (2, 0)]);
    let first = world.read(0, Consistency::Quorum, 5000);
    world.deliver();
    // Node 2 and node 3 have answered. Now node 1 is cut off, and another leads and commits.
    let answers: Vec<_> = [(1, 0), (2, 0)].map(|way| std::mem::take(&mut world.wires.get_mut(&way).unwrap().0)).into();
    world.hold(0, 1);
    world.hold(0, 2);
    world.run_until(3000, |world| world.leads(1) || world.leads(2));
    let other = if world.leads(1) { 1 } else { 2 };
    let committed = world.propose(other);
    world.run(10);
    assert!(matches!(*committed.lock().unwrap(), Some(Ok(_))));
    // A second read comes, and then the old answers.
    let second = world.read(0, Consistency::Quorum, 200);
    world.held.retain(|way| way.1 != 0);
    for (way, bytes) in [(1, 0), (2, 0)].into_iter().zip(answers) {
        world.wires.get_mut(&way).unwrap().0 = bytes;
        world.deliver_one(way.0, way.1);
        world.wires.get_mut(&way).unwrap().0.clear();
        world.held.push(way);
    }
    world.run(300);
    assert_eq!(index(&second), None, "it was confirmed by what was asked before it came");
    assert!(first.lock().unwrap().is_some() || !world.leads(0));
}

fn a_lease_counts_from_when_heartbeats_were_sent() {
    let mut world = World::with_lease();
    // Nobody is heard by node 1; then it is heard by nobody.
    world.held.extend([(1, 0), (2, 0)]);
    world.run(SUPPORT_MS / 2);
    world.held.extend([(0, 1), (0, 2)]);
    world.run(SUPPORT_MS * 9 / 10);
    // What was answered long ago comes all at once.
    world.held.retain(|way| way.1 != 0);
    world.deliver();
    world.held.extend([(1, 0), (2, 0)]);
    for _ in 0..3000 {
        world.run(1);
        let elected = world.leads(1) || world.leads(2);
        assert!(!(elected && world.lease(0)), "a lease goes on beside another leader");
        if elected {
            return;
        }
    }
    panic!("nobody else is elected");
}

/// All schedules, by name. One that fails panics.
pub const SCHEDULES: &[(&str, fn())] = &[
    ("a_lease_counts_from_when_heartbeats_were_sent", a_lease_counts_from_when_heartbeats_were_sent),
    ("a_lease_read_asks_nobody", a_lease_read_asks_nobody),
    ("a_follower_reads_at_its_leaders_point", a_follower_reads_at_its_leaders_point),
    ("a_lease_lapses_before_its_voters_elect_another", a_lease_lapses_before_its_voters_elect_another),
    ("a_stale_leader_reads_nothing_by_its_lease", a_stale_leader_reads_nothing_by_its_lease),
    ("a_voter_that_restarts_promises_nobody_at_once", a_voter_that_restarts_promises_nobody_at_once),
    ("a_binding_in_a_lapsed_epoch_makes_no_lease", a_binding_in_a_lapsed_epoch_makes_no_lease),
    ("a_transfer_that_fails_leaves_no_lease", a_transfer_that_fails_leaves_no_lease),
    ("a_transfer_hands_over_and_loses_nothing", a_transfer_hands_over_and_loses_nothing),
    (
        "a_round_that_was_asked_before_a_read_does_not_confirm_it",
        a_round_that_was_asked_before_a_read_does_not_confirm_it,
    ),
];
