//! The classics that take whole shards: mistakes that others have made before, each by its name, on shards whose messages,
//! disks, clocks and restarts are moved by hand. The others are in the core's `classics_test.rs` and the log's
//! `classics.rs`.

use std::sync::{Arc, Mutex};

use synod::simulation::NoShard;
use synod::{Consistency, Entries, Epoch, MembershipChange, Outcome};
use synod_transport::frame::Decoder;

use crate::disk::{CrashChoice, Dice, SimDisk};
use crate::leases::{MS, Node, Told, World, index};
use crate::lone::Lone;

impl Node {
    fn promised(&self) -> u64 {
        self.shard.as_ref().expect("it runs").held(1).expect("the group is there").promised
    }

    fn epoch(&self, group: u64) -> Option<Epoch> {
        self.shard.as_ref().expect("it runs").epoch(group)
    }
}

impl World {
    /// The connection of two nodes is gone, and only `to` learns of it.
    fn lose(&mut self, from: usize, to: usize) {
        self.wires.remove(&(from, to));
        self.wires.remove(&(to, from));
        self.shard(to).disconnected(Self::conn(from, to));
        self.turn(to);
    }

    /// The power of a node goes; its peers learn of it.
    fn cut_power(&mut self, at: usize, choice: &mut dyn CrashChoice) {
        self.nodes[at].disk.crash(choice);
        self.bury(at);
    }

    /// A disk that hung answers.
    fn release_disk(&mut self, at: usize) {
        self.nodes[at].hangs = false;
        for done in self.nodes[at].disk.finish_all() {
            self.shard(at).on_disk(done).unwrap();
        }
        self.turn(at);
    }

    pub(crate) fn propose_bytes(&mut self, at: usize, group: u64, entry: &[u8]) -> Told<Outcome> {
        self.propose_entry(at, group, None, entry)
    }
}

fn is_committed(told: &Told<Outcome>) -> bool {
    matches!(*told.lock().unwrap(), Some(Ok(_)))
}

/// Index of an entry that is committed.
fn committed_at(told: &Told<Outcome>) -> u64 {
    told.lock().unwrap().expect("it is answered").expect("it is committed").first_index
}

/// The node among these that leads, once one does.
#[track_caller]
fn elected(world: &mut World, among: &[usize]) -> usize {
    world.run_until(20_000, |world| among.iter().any(|at| world.leads(*at)));
    *among.iter().find(|at| world.leads(**at)).expect("somebody is elected")
}

/// Commits an entry at whoever leads among these, however often that changes.
#[track_caller]
fn commit(world: &mut World, group: u64, among: &[usize]) {
    for _ in 0..200 {
        let leader = among.iter().find(|at| world.shard(**at).epoch(group).is_some()).copied();
        let told = leader.map(|leader| world.propose_in(leader, group, None));
        world.run(100);
        if told.is_some_and(|told| is_committed(&told)) {
            return;
        }
    }
    panic!("nothing is committed in group {group} among {among:?}");
}

#[test]
fn promise_lost_in_torn_write() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..16 {
        let mut world = World::new();
        world.run(1000);
        let before = world.nodes[2].promised();
        // Another leader is wanted, and node 3's disk answers nothing any more.
        world.kill(0);
        world.nodes[2].hangs = true;
        world.run_until(5000, |world| world.nodes[2].promised() > before);
        let asked = world.nodes[2].promised();
        assert!(asked > before);
        assert!(!world.nodes[2].disk.pending().is_empty(), "it is being written");
        world.run(20);
        assert!(!world.leads(1) && !world.leads(2), "a promise counts that is not durable");
        // The power goes while the promise is written: it was not told anyone, so it may be lost, but not by half.
        world.cut_power(2, &mut Dice::new(seed));
        world.start(2);
        match world.nodes[2].promised() {
            of if of == before => lost += 1,
            of if of == asked => kept += 1,
            of => panic!("a promise of {of:x} came back, and {before:x} and {asked:x} were made"),
        }
        // Once it was told, nothing that is written behind it can take it away.
        let leader = elected(&mut world, &[1, 2]);
        world.run(50);
        let durable = world.nodes[2].promised();
        assert!(durable >= asked);
        world.nodes[2].hangs = true;
        world.propose(leader);
        world.deliver();
        world.cut_power(2, &mut Dice::new(seed));
        world.start(2);
        assert!(world.nodes[2].promised() >= durable);
        commit(&mut world, 1, &[1, 2]);
    }
    assert!(lost > 0 && kept > 0, "{lost} were lost and {kept} kept");
}

#[test]
fn duplicate_delivery_after_retry() {
    // The leader dies before it has heard that the batch is accepted, or behind that.
    for heard in [false, true] {
        let mut world = World::new();
        let opened = Told::<Outcome>::default();
        let tell = Arc::clone(&opened);
        world.shard(0).open_session(1, move |outcome| *tell.lock().unwrap() = Some(outcome));
        world.turn(0);
        world.deliver();
        let session = opened.lock().unwrap().expect("it is answered").expect("it is open").slot;
        if !heard {
            world.held = vec![(1, 0), (2, 0)];
        }
        let first = world.propose_in(0, 1, Some((session, 1)));
        world.deliver();
        assert_eq!(is_committed(&first), heard);
        world.kill(0);
        world.held.clear();
        let leader = elected(&mut world, &[1, 2]);
        // Its client cannot know, and says it again and again.
        for _ in 0..3 {
            let again = world.propose_in(leader, 1, Some((session, 1)));
            world.run(20);
            assert_eq!(committed_at(&again), 1, "a second position");
        }
        world.start(0);
        world.run(3000);
        let leader = elected(&mut world, &[0, 1, 2]);
        let again = world.propose_in(leader, 1, Some((session, 1)));
        let next = world.propose_in(leader, 1, Some((session, 2)));
        world.run(1000);
        assert_eq!((committed_at(&again), committed_at(&next)), (1, 2));
        for at in 0..3 {
            assert_eq!(world.shard(at).info(1).unwrap().next_index, 3, "two entries are delivered at node {at}");
        }
    }
}

/// A leader that has won its ballot may hold entries of which it does not know yet that they are chosen.
#[test]
fn read_index_before_own_noop() {
    let mut world = World::new();
    let acknowledged = world.propose(0);
    world.deliver();
    assert_eq!(committed_at(&acknowledged), 1);
    world.kill(0);
    // Another has won phase 1, and from here on its voter's disk answers nothing: nothing of its own is chosen.
    let leader = 'won: loop {
        world.tick();
        while let Some((from, to)) = world.due() {
            world.deliver_one(from, to);
            for at in [1, 2] {
                if world.shard(at).info(1).unwrap().leader == at as u64 + 1 {
                    break 'won at;
                }
            }
        }
    };
    assert!(!world.leads(leader));
    let voter = 3 - leader;
    world.nodes[voter].hangs = true;
    assert_eq!(world.shard(leader).info(1).unwrap().next_index, 1, "it has not applied what was acknowledged");
    let how = [Consistency::Linearizable, Consistency::Quorum];
    let reads = how.map(|how| world.read(leader, how, 5000));
    let forwarded = how.map(|how| world.read(voter, how, 5000));
    world.run(100);
    for read in reads.iter().chain(&forwarded) {
        assert_eq!(*read.lock().unwrap(), None, "it is answered before the leader knows what is chosen");
    }
    world.release_disk(voter);
    world.run(3000);
    for read in reads.iter().chain(&forwarded) {
        assert!(index(read).is_none_or(|index| index >= 1), "what was acknowledged is not seen");
    }
    assert!(reads.iter().any(|read| index(read) == Some(1)));
}

/// Voters whose clocks run ahead of the leader's, by as much as is allowed, learn at once that its connections are gone, and
/// the leader does not.
#[test]
fn lease_read_under_drift() {
    for phase in 0..40 {
        let mut world = World::with_lease();
        for at in [1, 2] {
            world.nodes[at].drift_ppm = 99_000;
        }
        world.run(500 + phase);
        let read = world.read(0, Consistency::Linearizable, 1000);
        world.run(50);
        assert_eq!(index(&read), Some(1));
        assert!(world.lease(0), "it holds a lease, drift or not");
        world.lose(0, 1);
        world.lose(0, 2);
        while !world.leads(1) && !world.leads(2) {
            assert!(world.leads(0) || !world.lease(0));
            world.run(1);
        }
        assert!(!world.lease(0), "a lease goes on beside another leader");
    }
}

/// A leader stands still for longer than its lease, and is read at once when it goes on, before it hears or ticks.
#[test]
fn lease_read_after_pause() {
    let mut world = World::with_lease();
    world.nodes[0].paused = true;
    let other = elected(&mut world, &[1, 2]);
    let committed = world.propose(other);
    world.run(20);
    assert_eq!(committed_at(&committed), 2);
    // It believes that it leads still.
    world.nodes[0].paused = false;
    let reads = [Consistency::Linearizable, Consistency::Quorum].map(|how| world.read(0, how, 1000));
    for read in &reads {
        assert_eq!(*read.lock().unwrap(), None, "it is answered out of a lease that has lapsed");
    }
    world.run(2000);
    for read in &reads {
        assert_ne!(index(read), Some(1), "it was acknowledged meanwhile that there is more");
    }
}

#[test]
fn read_before_replay_done() {
    let mut lone = Lone::of(1, |_| ());
    for number in 1..=20 {
        lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
        for _ in 0..number {
            let told = lone.propose(1);
            lone.until("it is not committed", |_| is_committed(&told));
        }
        let acknowledged = lone.shard().info(1).unwrap().next_index - 1;
        lone.crash();
        lone.start();
        // Asked before anything is applied again, and in each turn until somebody leads.
        let mut reads = Vec::new();
        while lone.shard().epoch(1).is_none() {
            for how in [Consistency::Linearizable, Consistency::Quorum] {
                reads.push(lone.read(1, how));
            }
            lone.tick();
        }
        lone.until("a read is not answered", |_| reads.iter().all(|read| read.lock().unwrap().is_some()));
        for read in &reads {
            assert_eq!(index(read), Some(acknowledged));
        }
    }
}

#[test]
fn old_incarnation_message() {
    let mut world = World::new();
    // Node 2 has accepted and says so, and node 1 does not hear it yet.
    world.held = vec![(1, 0)];
    world.hold(0, 2);
    let told = world.propose(0);
    world.deliver();
    let late = world.wires[&(1, 0)].0.clone();
    assert!(!late.is_empty() && !is_committed(&told));
    // Then it loses its log, and comes back as another replica.
    world.kill(1);
    world.nodes[1].disk = SimDisk::new(1 << 20);
    world.nodes[1].replica = 102;
    world.start(1);
    let feed = |world: &mut World, connection: u64| {
        let mut decoder = Decoder::new();
        decoder.space()[..late.len()].copy_from_slice(&late);
        decoder.filled(late.len());
        while let Some(frame) = decoder.next().unwrap() {
            world.shard(0).receive(connection, &frame);
        }
        world.turn(0);
    };
    // What the old one has said comes over the connection that is gone, and over the new one.
    feed(&mut world, 999);
    feed(&mut world, World::conn(0, 1));
    assert!(!is_committed(&told), "an acknowledgement counts whose log is gone");
    world.held.retain(|way| *way != (1, 0));
    world.run(50);
    assert!(!is_committed(&told), "nor does the new one vote: it has not been given its vote");
    // With node 3, the second of the old voters, it is committed, and then the new one gets its vote.
    world.held.clear();
    world.run(3000);
    assert!(told.lock().unwrap().is_some());
    commit(&mut world, 1, &[0, 2]);
    let (version, votes) = world.shard(1).configuration(1).unwrap();
    assert!(version > 0 && votes, "version {version}");
}

#[test]
fn rolled_back_disk() {
    let mut world = World::new();
    world.run(2000);
    let old = world.nodes[1].disk.clone();
    // Node 1 commits by node 2's votes alone.
    world.hold(0, 2);
    world.hold(1, 2);
    for _ in 0..3 {
        let told = world.propose(0);
        world.run(20);
        assert!(is_committed(&told));
    }
    // Node 2 comes back with what its disk held before. Node 1, which has seen those votes, says so at once.
    world.kill(1);
    world.nodes[1].disk = old;
    world.start(1);
    let why = world.nodes[1].suspect.take().expect("it votes with a log that has lost votes");
    assert!(why.contains("node 1 has seen votes"), "{why}");
}

#[test]
fn swapped_disks() {
    let mut world = World::new();
    commit(&mut world, 1, &[0]);
    world.kill(1);
    world.kill(2);
    let (one, two) = (world.nodes[1].disk.clone(), world.nodes[2].disk.clone());
    (world.nodes[1].disk, world.nodes[2].disk) = (two.clone(), one.clone());
    for at in [1, 2] {
        let refused = world.try_start(at).expect_err("the log of another node");
        assert!(matches!(&refused, NoShard::Refused(why) if why.contains("belongs to directory")), "{refused}");
    }
    // Put back, they go on.
    (world.nodes[1].disk, world.nodes[2].disk) = (one, two);
    world.start(1);
    world.start(2);
    commit(&mut world, 1, &[0, 1, 2]);
}

/// One direction, or all to or from one node, is closed for good, and nobody is told.
#[test]
fn one_way_partition_livelock() {
    let pairs = (0..3).flat_map(|from| (0..3).filter(move |to| *to != from).map(move |to| vec![(from, to)]));
    let deaf = (0..3).map(|at| (0..3).filter(|from| *from != at).map(|from| (from, at)).collect());
    let mute = (0..3).map(|at| (0..3).filter(|to| *to != at).map(|to| (at, to)).collect());
    for held in pairs.chain(deaf).chain(mute) {
        let mut world = World::new();
        world.held = held.clone();
        world.run(2000);
        for _ in 0..5 {
            commit(&mut world, 1, &[0, 1, 2]);
        }
        // It has come to rest: whoever leads now goes on.
        let epochs = |world: &mut World| [0, 1, 2].map(|at| world.shard(at).epoch(1));
        world.run(5000);
        let settled = epochs(&mut world);
        world.run(5000);
        assert_eq!(epochs(&mut world), settled, "with {held:?} closed, leaders come and go");
        assert!(settled.iter().any(Option::is_some), "with {held:?} closed, nobody leads");
    }
}

/// A group in which nothing happens any more has its votes in the oldest segment; another fills the log they share.
#[test]
fn shared_wal_gc_with_idle_group() {
    let mut lone = Lone::of(1, |config| (config.groups, config.retain_mib) = (2, 4));
    lone.until("it does not lead", |lone| (1..=2).all(|group| lone.shard().epoch(group).is_some()));
    let told = lone.propose(1);
    lone.until("it is not committed", |_| is_committed(&told));
    let idle = lone.shard().held(1).unwrap();
    let first = *lone.disk.segments().iter().min().unwrap();
    // The log is told to keep 4 MiB of its 1 MiB segments.
    for _ in 0..24 {
        for _ in 0..4 {
            let told = lone.propose_bytes(2, &[7; 256 << 10]);
            lone.until("it is not committed", |_| told.lock().unwrap().is_some());
        }
        lone.run(50);
    }
    let oldest = *lone.disk.segments().iter().min().unwrap();
    assert!(oldest > first + 3, "segment {oldest} is the oldest: nothing was used again");
    lone.crash();
    lone.start();
    let held = lone.shard().held(1).unwrap();
    assert!(held.promised >= idle.promised, "{held:?} of {idle:?}");
    assert_eq!(lone.shard().info(1).unwrap().next_index, 2, "what was committed is applied");
    lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
    let told = lone.propose(1);
    lone.until("it is not committed", |_| is_committed(&told));
    assert_eq!(committed_at(&told), 2);
}

/// A group that has lost its quorum, and whose queues are full, stands still beside others on the same shards.
#[test]
fn poisoned_group_stalls_core_mates() {
    let mut world = World::of(|config| config.groups = 2);
    world.run_until(5000, |world| world.nodes[0].epoch(2).is_some());
    // Node 3 loses its vote in group 1 only, and node 2 goes: group 1 has one of two voters left, group 2 two of three.
    let told = Told::default();
    let tell = Arc::clone(&told);
    let reply = Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome));
    world.shard(0).change_membership(1, 0, MembershipChange::Remove(3), 5000 * MS, reply);
    world.run_until(5000, |_| told.lock().unwrap().is_some());
    assert!(matches!(*told.lock().unwrap(), Some(Ok(_))), "{told:?}");
    world.kill(1);
    world.run(50);
    let mut stuck = Vec::new();
    for _ in 0..40 {
        // More than group 1 can take: it fills its window and its queue, and then refuses.
        for _ in 0..8 {
            stuck.push(world.propose_bytes(0, 1, &[1; 200 << 10]));
        }
        commit(&mut world, 2, &[0, 2]);
    }
    assert!(stuck.iter().any(|told| told.lock().unwrap().is_some()), "none is refused");
    assert!(stuck.iter().all(|told| !is_committed(told)), "one of two voters is no quorum");
    // All that waited is told in the end, and with node 2 group 1 goes on.
    world.start(1);
    world.run(5000);
    assert!(stuck.iter().all(|told| told.lock().unwrap().is_some()), "a proposal is never answered");
    commit(&mut world, 1, &[0, 1]);
}

/// A sync fails once and then succeeds: what it was to make durable is lost, and nothing that was built on it is told.
#[test]
fn fsync_fails_then_succeeds() {
    let mut lone = Lone::of(1, |_| ());
    lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
    let kept = lone.propose(1);
    lone.until("it is not committed", |_| is_committed(&kept));
    let lost = lone.propose(1);
    let why = lone.turn_with_a_failed_sync();
    assert!(why.contains("write") || why.contains("sync"), "{why}");
    assert!(!is_committed(&lost), "what a failed sync was to keep is acknowledged");
    // The shard must stop; whoever goes on with it gets nothing more out of it.
    let later = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&later);
    let entries = Entries::one(b"later").unwrap();
    lone.shard().propose(1, entries, None, None, move |outcome: Outcome| *tell.lock().unwrap() = Some(outcome));
    let _ = lone.shard().turn();
    assert!(lone.shard().take_disk_ops().is_empty(), "a poisoned log asks its disk again");
    assert!(!is_committed(&later) && !is_committed(&lost));
    lone.crash();
    lone.start();
    lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
    let next = lone.propose(1);
    lone.until("it is not committed", |_| is_committed(&next));
    assert!((2..=3).contains(&committed_at(&next)), "what was acknowledged is there, what was not may be");
}
