//! Many groups at once, and groups with nothing to do: what they cost is counted in writes and frames.

use synod_transport::frame::Decoder;
use synod_wal::record::Records;

use super::{Schedule, schedules};
use crate::shards::{Setup, Shards};

/// Wire frame kind: records.
const RECORDS: u8 = 3;

fn many(groups: u64) -> Shards {
    let setup = Setup { segment_bytes: 16 << 20, ..Setup::default() };
    Shards::new(setup).configured(|config| config.groups = groups)
}

fn are_led(world: &Shards, groups: u64) -> bool {
    (1..=groups).all(|group| world.leads_in(group, 0))
}

/// The frames in some bytes of a connection: their kinds, and how many records are in them.
fn frames(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    while !bytes.is_empty() {
        bytes = &bytes[decoder.push(bytes)..];
        while let Some(frame) = decoder.next().unwrap() {
            let records = if frame.header.kind == RECORDS { Records::new(frame.body).count() } else { 0 };
            frames.push((frame.header.kind, records));
        }
    }
    frames
}

/// The writes and the frames of all nodes within a second, and the frames of their logs.
fn second_of_silence(groups: u64) -> (usize, usize, u64) {
    let mut world = many(groups);
    (0..3).for_each(|node| world.start(node));
    world.run_until(10_000, |world| are_led(world, groups));
    assert!(are_led(&world, groups), "the preferred node leads");
    world.run(2000);
    // From here on the heartbeats of node 2 are due at another time than those of the others.
    world.still.push(1);
    world.run(130);
    world.still.clear();
    world.run(200);
    let logs = |world: &mut Shards| -> u64 { (0..3).map(|node| world.shard(node).durable_through()).sum() };
    let (mut writes, mut count, before) = (0, 0, logs(&mut world));
    for _ in 0..1000 {
        world.pass_tick();
        while let Some((from, to)) = world.due() {
            writes += 1;
            count += frames(world.wire(from, to)).len();
            world.deliver_one(from, to);
        }
        for node in 0..3 {
            let due_ns = world.shard(node).next_tick_ns();
            assert!(due_ns > 0, "node {} is never idle", node + 1);
        }
    }
    (writes, count, logs(&mut world) - before)
}

/// An exchange of heartbeats is of a pair of shards: a question each and an answer each, in three writes.
fn idle_groups_cost_no_message() {
    let (writes, count, logs) = second_of_silence(1);
    assert!(writes <= 3 * 3 * 10 + 9, "{writes} writes");
    assert!(count <= 3 * 4 * 10 + 12, "{count} frames");
    assert_eq!(logs, 0, "nothing is written");
    assert_eq!(second_of_silence(2000), (writes, count, logs));
}

/// While their peers take nothing in, nodes that would lead thousands of groups do not ask for each of them again and again:
/// what that leaves on the connections would be worked through when nobody waits for it any more.
fn elections_of_many_groups_do_not_flood_a_slow_peer() {
    const GROUPS: u64 = 3000;
    let mut world = many(GROUPS);
    (0..3).for_each(|node| world.start(node));
    world.run(1);
    world.hold(0, 1);
    world.hold(0, 2);
    world.run(500);
    let asked: usize = frames(world.wire(0, 1)).iter().map(|(_, records)| records).sum();
    assert!((1000..8000).contains(&asked), "{asked} questions for {GROUPS} groups");
    world.held.clear();
    world.run_until(5000, |world| are_led(world, GROUPS));
    assert!(are_led(&world, GROUPS), "the preferred node leads");
}

/// Groups that are elected at the same time share the frames of the log and those on the wire.
fn elections_of_many_groups_share_frames() {
    const GROUPS: u64 = 3000;
    let mut world = many(GROUPS);
    (0..3).for_each(|node| world.start(node));
    let (mut count, mut records) = (0, 0);
    for _ in 0..2000 {
        world.pass_tick();
        while let Some((from, to)) = world.due() {
            let sent = frames(world.wire(from, to));
            count += sent.len();
            records += sent.iter().map(|(_, records)| records).sum::<usize>();
            world.deliver_one(from, to);
        }
    }
    assert!(are_led(&world, GROUPS), "the preferred node leads");
    let logs: Vec<u64> = (0..3).map(|node| world.shard(node).durable_through()).collect();
    assert!(records >= 5 * GROUPS as usize, "{records} records");
    assert!(count < 1000, "{count} frames for {records} records");
    assert!(logs.iter().all(|frames| *frames < 150), "{logs:?} frames of the logs");
}

/// A node that comes late gets its groups back a few at a time at first, and soon many: all of thousands within seconds.
fn groups_go_home_in_growing_numbers() {
    const GROUPS: u64 = 400;
    let mut world = many(GROUPS);
    world.start(1);
    world.start(2);
    let led = |world: &Shards| (1..=GROUPS).all(|group| world.leads_in(group, 1) || world.leads_in(group, 2));
    world.run_until(5000, led);
    assert!(led(&world), "somebody leads");
    world.start(0);
    let home = |world: &Shards| (1..=GROUPS).filter(|group| world.leads_in(*group, 0)).count();
    world.run(5500);
    assert!((1..100).contains(&home(&world)), "{} groups are home: it was not well for long", home(&world));
    world.run(3000);
    assert_eq!(home(&world), GROUPS as usize);
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    idle_groups_cost_no_message,
    elections_of_many_groups_do_not_flood_a_slow_peer,
    elections_of_many_groups_share_frames,
    groups_go_home_in_growing_numbers,
};
