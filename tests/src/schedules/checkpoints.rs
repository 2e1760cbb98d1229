//! Checkpoints that are taken over.

use super::{Schedule, schedules};
use synod::Config;

use crate::disk::Dice;
use crate::shards::{Setup, Shards};
use crate::sim::machine::Kind;

const ENTRIES: u64 = 60;

/// Node 3 is started again after it was away for so long that the others have trimmed their logs.
fn with_one_far_behind(seed: u64) -> Shards {
    let setup =
        Setup { seed: 100 * seed, segment_bytes: 256 << 10, machines: Some(Kind::InMemory), ..Setup::default() };
    let mut world = Shards::new(setup);
    for node in &mut world.nodes {
        let config = &mut node.config;
        (config.retain_mib, config.hold_entries, config.checkpoint_entries) = (0, 0, 5);
    }
    let mut world = world.led();
    world.kill(2);
    for _ in 0..ENTRIES {
        world.propose_in(1, 0, &[1; 20 << 10]);
        world.run(10);
    }
    world.run(100);
    let info = world.info(0);
    assert!(info.next_index == ENTRIES + 1 && info.first_index > 2, "the log is trimmed: {info:?}");
    world.start(2);
    // What is sent to it is taken in by hand.
    world.held = vec![(0, 2), (1, 2)];
    world
}

/// One turn of node 3, or a millisecond when it has nothing to do.
fn step(world: &mut Shards) {
    if !world.step(2) {
        world.pass_ms();
        for at in [0, 1] {
            world.tick(at);
            world.turn(at);
        }
        world.deliver();
        world.tick(2);
        world.feed(0, 2);
        world.feed(1, 2);
    }
}

/// The power goes at any moment while a checkpoint is taken over. What the log then counts on it for must be there, without
/// anybody's help.
fn what_the_log_counts_on_a_checkpoint_for_is_in_it() {
    let mut world = with_one_far_behind(1);
    let mut steps = 0u64;
    while world.machine_index(2) < ENTRIES {
        step(&mut world);
        steps += 1;
        assert!(steps < 1000, "node 3 does not catch up: {:?}", world.info(2));
    }
    let mut taken_over = 0;
    for cut in steps.saturating_sub(30)..steps + 10 {
        let mut world = with_one_far_behind(1);
        (0..cut).for_each(|_| step(&mut world));
        world.cut_power(2, &mut Dice::new(cut));
        world.held.clear();
        world.cut_off(2);
        world.start(2);
        world.run(10);
        let index = world.info(2).next_index - 1;
        assert_eq!(world.machine_index(2), index, "after {cut} steps the machine lacks what the log counts on");
        taken_over += u32::from(index == ENTRIES);
    }
    assert!(taken_over > 5, "it was hardly ever taken over: {taken_over}");
}

/// A node starts again at any moment of its load. Behind its newest checkpoint its log is whole: whoever lags is given the
/// one and then the other, whether or not this node can go on and take a newer checkpoint.
fn checkpoint_and_log_join_after_a_restart() {
    let mut trimmed = 0;
    for entries in 30..90 {
        let setup = Setup { segment_bytes: 256 << 10, machines: Some(Kind::OnDisk), ..Setup::default() };
        let configure = |config: &mut Config| {
            (config.retain_mib, config.hold_entries, config.checkpoint_entries) = (0, 0, 5);
        };
        let mut world = Shards::new(setup).configured(configure).led();
        for _ in 0..entries {
            world.propose_in(1, 0, &[1; 20 << 10]);
            world.run(1);
        }
        world.kill(0);
        world.cut_off(0);
        world.start(0);
        let info = world.info(0);
        assert!(info.first_index <= info.checkpoint_index + 1, "{entries} entries: {info:?}");
        trimmed += u32::from(info.first_index > 1);
    }
    assert!(trimmed > 30, "hardly any log was trimmed: {trimmed}");
}

/// The last entries are chosen, and only their leader knows it: by its vote and that of node 2. It takes a checkpoint, starts
/// again, lets its log go, and the checkpoint rots. As a leader it could give the others neither the entries nor a state;
/// they have them, and must lead.
fn who_lacks_a_state_lets_others_lead() {
    let setup = Setup { segment_bytes: 256 << 10, machines: Some(Kind::InMemory), ..Setup::default() };
    let configure = |config: &mut Config| {
        (config.retain_mib, config.hold_entries, config.checkpoint_entries) = (0, 0, 5);
    };
    let mut world = Shards::new(setup).configured(configure).led();
    let first = world.propose(0);
    world.run(200);
    assert!(matches!(*first.lock().unwrap(), Some(Ok(_))));
    let last: Vec<_> = (0..20).map(|_| world.submit(1, 0, b"entry")).collect();
    world.turn(0);
    world.deliver_one(0, 1);
    world.deaf = vec![1, 2];
    world.held = vec![(0, 1), (0, 2), (1, 2), (2, 1)];
    world.deliver();
    assert!(last.iter().all(|told| matches!(*told.lock().unwrap(), Some(Ok(_)))), "they are chosen");
    world.run(10);
    world.cut_off(0);
    // The log goes on in another segment at each start. Those that are not needed wait to be used again.
    for _ in 0..4 {
        world.kill(0);
        world.start(0);
        world.run(100);
    }
    let (info, other) = (world.info(0), world.info(1));
    assert!(info.first_index == 22 && other.next_index == 2, "{info:?} {other:?}");
    world.kill(0);
    world.rot_checkpoints(0);
    (world.held, world.deaf) = (Vec::new(), Vec::new());
    for at in [1, 2] {
        world.kill(at);
        world.start(at);
    }
    world.start(0);
    world.run_until(5000, |world| world.leads(1) || world.leads(2));
    let leader = (0..3).find(|at| world.leads(*at));
    let state = world.shard(0).machine_state(1);
    assert!(leader.is_some_and(|leader| leader > 0), "{leader:?} leads: {state:?}");
    let next = world.propose(leader.unwrap());
    world.run_until(5000, |world| world.machine_index(0) == 22);
    assert!(matches!(*next.lock().unwrap(), Some(Ok(_))));
    assert_eq!(world.machine_index(0), 22, "it is given a state");
    world.agree(&[0, 1, 2]);
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    what_the_log_counts_on_a_checkpoint_for_is_in_it shows CheckpointsAreInstalledEarly,
    checkpoint_and_log_join_after_a_restart,
    who_lacks_a_state_lets_others_lead,
};
