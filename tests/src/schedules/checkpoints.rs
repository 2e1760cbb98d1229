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

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    what_the_log_counts_on_a_checkpoint_for_is_in_it shows CheckpointsAreInstalledEarly,
    checkpoint_and_log_join_after_a_restart,
};
