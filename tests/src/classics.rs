//! The classics that take whole shards: mistakes that others have made before, each by its name, on shards whose messages,
//! disks, clocks and restarts are moved by hand. The others are in the core's `classics_test.rs` and the log's
//! `classics.rs`.

use synod::simulation::NoShard;
use synod::{Consistency, Outcome};
use synod_transport::frame::Decoder;

use crate::disk::{self, Dice, SimDisk, Step};
use crate::leases::{index, with_lease};
use crate::shards::{Setup, Shards, Told};

/// Three nodes, of which the first leads.
fn three() -> Shards {
    Shards::new(Setup::default()).led()
}

/// The only node of a cluster, which leads.
fn lone() -> Shards {
    let mut lone = Shards::lone(1, |_| ());
    leads(&mut lone);
    lone
}

/// The only node leads its group, once it does.
#[track_caller]
fn leads(lone: &mut Shards) {
    lone.step_until(0, "it does not lead", |lone| lone.leads(0));
}

/// The only node commits an entry; gives its index.
#[track_caller]
fn append(lone: &mut Shards) -> u64 {
    let told = lone.submit(1, 0, b"entry");
    lone.step_until(0, "it is not committed", |_| is_committed(&told));
    committed_at(&told)
}

/// A turn in which the first write lands, and its sync fails; gives why the shard must stop.
fn turn_with_a_failed_sync(lone: &mut Shards) -> String {
    lone.shard(0).turn().unwrap();
    let ops = lone.shard(0).take_disk_ops();
    let node = &mut lone.nodes[0];
    let ids: Vec<_> = ops.into_iter().map(|op| node.disk.start(op)).collect();
    let write = ids[0];
    assert_eq!(node.disk.advance(write), Some(Step::Land));
    let failed = node.disk.finish(write, disk::Outcome::Eio).expect("a write is answered");
    let shard = node.shard.as_mut().expect("it runs");
    let why = shard.on_disk(failed).expect_err("a sync has failed");
    for done in node.disk.finish_all() {
        shard.on_disk(done).expect_err("it stays poisoned");
    }
    why
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
fn elected(world: &mut Shards, among: &[usize]) -> usize {
    world.run_until(20_000, |world| among.iter().any(|at| world.leads(*at)));
    *among.iter().find(|at| world.leads(**at)).expect("somebody is elected")
}

/// Commits an entry at whoever leads among these, however often that changes.
#[track_caller]
fn commit(world: &mut Shards, group: u64, among: &[usize]) {
    for _ in 0..200 {
        let leader = among.iter().find(|at| world.leads_in(group, **at)).copied();
        let told = leader.map(|leader| world.propose_in(group, leader, b"entry"));
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
        let mut world = three();
        world.run(1000);
        let before = world.promised(2);
        // Another leader is wanted, and node 3's disk answers nothing any more.
        world.kill(0);
        world.nodes[2].stalled = true;
        world.run_until(5000, |world| world.promised(2) > before);
        let asked = world.promised(2);
        assert!(asked > before);
        assert!(!world.nodes[2].disk.pending().is_empty(), "it is being written");
        world.run(20);
        assert!(!world.leads(1) && !world.leads(2), "a promise counts that is not durable");
        // The power goes while the promise is written: it was not told anyone, so it may be lost, but not by half.
        world.cut_power(2, &mut Dice::new(seed));
        world.start(2);
        match world.promised(2) {
            of if of == before => lost += 1,
            of if of == asked => kept += 1,
            of => panic!("a promise of {of:x} came back, and {before:x} and {asked:x} were made"),
        }
        // Once it was told, nothing that is written behind it can take it away.
        let leader = elected(&mut world, &[1, 2]);
        world.run(50);
        let durable = world.promised(2);
        assert!(durable >= asked);
        world.nodes[2].stalled = true;
        world.propose(leader);
        world.deliver();
        world.cut_power(2, &mut Dice::new(seed));
        world.start(2);
        assert!(world.promised(2) >= durable);
        commit(&mut world, 1, &[1, 2]);
    }
    assert!(lost > 0 && kept > 0, "{lost} were lost and {kept} kept");
}

#[test]
fn duplicate_delivery_after_retry() {
    // The leader dies before it has heard that the batch is accepted, or behind that.
    for heard in [false, true] {
        let mut world = three();
        let opened = world.open_session(0);
        world.deliver();
        let session = opened.lock().unwrap().expect("it is answered").expect("it is open").slot;
        if !heard {
            world.held = vec![(1, 0), (2, 0)];
        }
        let first = world.propose_in_session(0, (session, 1));
        world.deliver();
        assert_eq!(is_committed(&first), heard);
        world.kill(0);
        world.held.clear();
        let leader = elected(&mut world, &[1, 2]);
        // Its client cannot know, and says it again and again.
        for _ in 0..3 {
            let again = world.propose_in_session(leader, (session, 1));
            world.run(20);
            assert_eq!(committed_at(&again), 1, "a second position");
        }
        world.start(0);
        world.run(3000);
        let leader = elected(&mut world, &[0, 1, 2]);
        let again = world.propose_in_session(leader, (session, 1));
        let next = world.propose_in_session(leader, (session, 2));
        world.run(1000);
        assert_eq!((committed_at(&again), committed_at(&next)), (1, 2));
        for at in 0..3 {
            assert_eq!(world.info(at).next_index, 3, "two entries are delivered at node {at}");
        }
    }
}

/// A leader that has won its ballot may hold entries of which it does not know yet that they are chosen.
#[test]
fn read_index_before_own_noop() {
    let mut world = three();
    let acknowledged = world.propose(0);
    world.deliver();
    assert_eq!(committed_at(&acknowledged), 1);
    world.kill(0);
    // Another has won phase 1, and from here on its voter's disk answers nothing: nothing of its own is chosen.
    let leader = 'won: loop {
        world.pass_tick();
        while let Some((from, to)) = world.due() {
            world.deliver_one(from, to);
            for at in [1, 2] {
                if world.info(at).leader == at as u64 + 1 {
                    break 'won at;
                }
            }
        }
    };
    assert!(!world.leads(leader));
    let voter = 3 - leader;
    world.nodes[voter].stalled = true;
    assert_eq!(world.info(leader).next_index, 1, "it has not applied what was acknowledged");
    let how = [Consistency::Linearizable, Consistency::Quorum];
    let reads = how.map(|how| world.read(leader, how, 5000));
    let forwarded = how.map(|how| world.read(voter, how, 5000));
    world.run(100);
    for read in reads.iter().chain(&forwarded) {
        assert_eq!(*read.lock().unwrap(), None, "it is answered before the leader knows what is chosen");
    }
    world.nodes[voter].stalled = false;
    world.release_disk(voter);
    world.turn(voter);
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
        let mut world = with_lease();
        for at in [1, 2] {
            world.nodes[at].drift_ppm = 99_000;
        }
        world.run(500 + phase);
        let read = world.read(0, Consistency::Linearizable, 1000);
        world.run(50);
        assert_eq!(index(&read), Some(1));
        assert!(world.info(0).lease, "it holds a lease, drift or not");
        for at in [1, 2] {
            world.lose(0, at);
            world.turn(at);
        }
        while !world.leads(1) && !world.leads(2) {
            assert!(world.leads(0) || !world.info(0).lease);
            world.run(1);
        }
        assert!(!world.info(0).lease, "a lease goes on beside another leader");
    }
}

/// A leader stands still for longer than its lease, and is read at once when it goes on, before it hears or ticks.
#[test]
fn lease_read_after_pause() {
    let mut world = with_lease();
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
    let mut lone = lone();
    for number in 1..=20 {
        leads(&mut lone);
        for _ in 0..number {
            append(&mut lone);
        }
        let acknowledged = lone.info(0).next_index - 1;
        lone.cut_power(0, &mut Dice::new(number));
        lone.start(0);
        // Asked before anything is applied again, and in each turn until somebody leads.
        let mut reads = Vec::new();
        while !lone.leads(0) {
            for how in [Consistency::Linearizable, Consistency::Quorum] {
                reads.push(lone.submit_read(0, how, 20_000));
            }
            lone.step_ms(0);
        }
        lone.step_until(0, "a read is not answered", |_| reads.iter().all(|read| read.lock().unwrap().is_some()));
        for read in &reads {
            assert_eq!(index(read), Some(acknowledged));
        }
    }
}

#[test]
fn old_incarnation_message() {
    let mut world = three();
    // Node 2 has accepted and says so, and node 1 does not hear it yet.
    world.held = vec![(1, 0)];
    world.hold(0, 2);
    let told = world.propose(0);
    world.deliver();
    let late = world.wire(1, 0).clone();
    assert!(!late.is_empty() && !is_committed(&told));
    // Then it loses its log, and comes back as another replica.
    world.kill(1);
    world.nodes[1].disk = SimDisk::new(1 << 20);
    world.nodes[1].replica = 102;
    world.start(1);
    // What the old one has said comes over the connection that is gone, and over the new one.
    for connection in [999, Shards::conn(0, 1)] {
        world.receive(0, connection, &mut Decoder::new(), &late);
        world.turn(0);
    }
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
    let mut world = three();
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
    let why = world.nodes[1].ended.take().expect("it votes with a log that has lost votes");
    assert!(why.contains("node 1 has seen votes"), "{why}");
}

#[test]
fn swapped_disks() {
    let mut world = three();
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
        let mut world = three();
        world.held = held.clone();
        world.run(2000);
        for _ in 0..5 {
            commit(&mut world, 1, &[0, 1, 2]);
        }
        // It has come to rest: whoever leads now goes on.
        let epochs = |world: &mut Shards| [0, 1, 2].map(|at| world.shard(at).epoch(1));
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
    let mut lone = Shards::lone(1, |config| (config.groups, config.retain_mib) = (2, 4));
    lone.step_until(0, "it does not lead", |lone| (1..=2).all(|group| lone.leads_in(group, 0)));
    append(&mut lone);
    let idle = lone.shard(0).held(1).unwrap();
    let oldest = |lone: &Shards| *lone.nodes[0].disk.segments().iter().min().unwrap();
    let first = oldest(&lone);
    // The log is told to keep 4 MiB of its 1 MiB segments.
    for _ in 0..24 {
        for _ in 0..4 {
            let told = lone.submit(2, 0, &[7; 256 << 10]);
            lone.step_until(0, "it is not committed", |_| told.lock().unwrap().is_some());
        }
        (0..50).for_each(|_| lone.step_ms(0));
    }
    let oldest = oldest(&lone);
    assert!(oldest > first + 3, "segment {oldest} is the oldest: nothing was used again");
    lone.cut_power(0, &mut Dice::new(1));
    lone.start(0);
    let held = lone.shard(0).held(1).unwrap();
    assert!(held.promised >= idle.promised, "{held:?} of {idle:?}");
    assert_eq!(lone.info(0).next_index, 2, "what was committed is applied");
    leads(&mut lone);
    assert_eq!(append(&mut lone), 2);
}

/// A group that has lost its quorum, and whose queues are full, stands still beside others on the same shards.
#[test]
fn poisoned_group_stalls_core_mates() {
    let mut world = Shards::new(Setup::default()).configured(|config| config.groups = 2).led();
    world.run_until(5000, |world| world.leads_in(2, 0));
    // Node 3 loses its vote in group 1 only, and node 2 goes: group 1 has one of two voters left, group 2 two of three.
    let told = world.remove_voter(0, 3, 5000);
    world.run_until(5000, |_| told.lock().unwrap().is_some());
    assert!(matches!(*told.lock().unwrap(), Some(Ok(_))), "{told:?}");
    world.kill(1);
    world.run(50);
    let mut stuck = Vec::new();
    for _ in 0..40 {
        // More than group 1 can take: it fills its window and its queue, and then refuses.
        for _ in 0..8 {
            stuck.push(world.propose_in(1, 0, &[1; 200 << 10]));
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
    let mut lone = lone();
    append(&mut lone);
    let lost = lone.submit(1, 0, b"entry");
    let why = turn_with_a_failed_sync(&mut lone);
    assert!(why.contains("write") || why.contains("sync"), "{why}");
    assert!(!is_committed(&lost), "what a failed sync was to keep is acknowledged");
    // The shard must stop; whoever goes on with it gets nothing more out of it.
    let later = lone.submit(1, 0, b"later");
    let _ = lone.shard(0).turn();
    assert!(lone.shard(0).take_disk_ops().is_empty(), "a poisoned log asks its disk again");
    assert!(!is_committed(&later) && !is_committed(&lost));
    lone.cut_power(0, &mut Dice::new(1));
    lone.start(0);
    leads(&mut lone);
    assert!((2..=3).contains(&append(&mut lone)), "what was acknowledged is there, what was not may be");
}
