//! Groups that are made at run time, on shards driven by hand: what must be durable before what goes, and how a replica that
//! was away follows a directory whose log is trimmed.

use synod::simulation::DIRECTORIES;

use crate::disk::{Dice, OpKind, Pending};
use crate::shards::{Setup, Shards};

const GROUP: u64 = 5;

fn changes_files(pending: &[Pending]) -> bool {
    pending.iter().any(|of| matches!(of.kind, OpKind::Prepare { .. } | OpKind::Discard { .. }))
}

/// A log that is cut off behind the release of a segment, and before the word of the deletion, would bring the group back
/// with a part of its votes.
#[test]
fn no_segment_goes_before_a_groups_deletion_is_durable() {
    let mut lone = Shards::lone(1, |config| config.retain_mib = 4);
    lone.step_until(0, "it does not lead", |lone| lone.leads(0));
    lone.step_until(0, "it makes no group", |lone| {
        if lone.shard(0).made_groups().is_empty() {
            lone.change_groups(0, GROUP, true, 1000);
        }
        lone.step(0);
        lone.leads_in(GROUP, 0)
    });
    let told = lone.submit(GROUP, 0, b"entry");
    lone.step_until(0, "it is not committed", |_| told.lock().unwrap().is_some());
    // A reader keeps the log, which gets far longer than it should.
    lone.shard(0).pin(1, "reader", Some((1, u64::MAX / 2))).unwrap();
    for _ in 0..48 {
        let told = lone.submit(1, 0, &[7; 256 << 10]);
        lone.step_until(0, "it is not committed", |_| told.lock().unwrap().is_some());
    }
    (0..500).for_each(|_| lone.step_ms(0));
    let oldest = |lone: &Shards| *lone.nodes[0].disk.segments().iter().min().unwrap();
    assert_eq!(oldest(&lone), 1);
    // The group is dropped. As soon as it is deleted, the disk answers nothing any more, and the reader goes.
    lone.change_groups(0, GROUP, false, 1000);
    lone.nodes[0].stalled = true;
    for _ in 0..20_000 {
        lone.step_ms(0);
        if lone.shard(0).uid(GROUP).is_none() {
            break;
        }
        lone.release_disk(0);
    }
    assert!(lone.shard(0).uid(GROUP).is_none(), "it is not deleted");
    let pending = |lone: &Shards| lone.nodes[0].disk.pending();
    assert!(!changes_files(&pending(&lone)));
    lone.shard(0).pin(1, "reader", None).unwrap();
    for _ in 0..400 {
        lone.step_ms(0);
        assert!(!changes_files(&pending(&lone)), "{:?}", pending(&lone));
    }
    // Whatever a power cut leaves of what is being written, the group is there whole or not at all.
    let mut cut = lone.nodes[0].disk.clone();
    cut.crash(&mut false);
    assert_eq!(*cut.segments().iter().min().unwrap(), 1);
    // Once the deletion is durable, they go.
    lone.nodes[0].stalled = false;
    lone.release_disk(0);
    (0..1000).for_each(|_| lone.step_ms(0));
    assert!(oldest(&lone) > 4, "segment {} is the oldest", oldest(&lone));
    lone.cut_power(0, &mut Dice::new(1));
    lone.start(0);
    assert!(lone.shard(0).uid(GROUP).is_none(), "it is back");
}

/// Orders a change of groups until it is done.
fn order(world: &mut Shards, group: u64, create: bool) {
    for _ in 0..200 {
        let leader = (0..2).find(|at| world.shard(*at).info(DIRECTORIES).is_some_and(|info| info.epoch > 0));
        let Some(leader) = leader else {
            world.run(50);
            continue;
        };
        let told = world.change_groups(leader, group, create, 2000);
        world.run_until(3000, |_| told.lock().unwrap().is_some());
        match told.lock().unwrap().take() {
            Some(Ok(_)) => return,
            Some(Err(error)) => assert!(matches!(error, synod::GroupError::Rejected(_)), "{error}"),
            None => {}
        }
        world.run(50);
    }
    panic!("group {group} is not changed");
}

#[test]
fn a_directory_is_learned_again_behind_its_trim_point() {
    let mut world = Shards::new(Setup::default()).configured(|config| config.retain_mib = 4).led();
    order(&mut world, 5, true);
    order(&mut world, 6, true);
    world.run(1000);
    assert_eq!(world.shard(2).made_groups().len(), 2);
    // Node 3 is away: 5 is dropped and made again, 6 is dropped, 7 is made, and the log goes.
    world.kill(2);
    for (group, create) in [(5, false), (6, false), (5, true), (7, true)] {
        order(&mut world, group, create);
    }
    for _ in 0..60 {
        let leader = (0..2).find(|at| world.leads(*at));
        if let Some(leader) = leader {
            world.propose_in(1, leader, &[7; 200 << 10]);
        }
        world.run(50);
    }
    for at in [0, 1] {
        let info = world.shard(at).info(DIRECTORIES).unwrap();
        assert!(info.first_index == info.next_index, "node {at} has the orders still: {info:?}");
    }
    world.start(2);
    let made = world.shard(0).made_groups();
    assert_eq!(made.iter().map(|of| of.group).collect::<Vec<_>>(), [5, 7]);
    for _ in 0..100 {
        if world.shard(2).made_groups() == made {
            break;
        }
        world.run(100);
    }
    assert_eq!(world.shard(2).made_groups(), made);
    let chain = |world: &mut Shards, at: usize| world.shard(at).info(DIRECTORIES).unwrap().chain;
    assert_eq!(chain(&mut world, 2), chain(&mut world, 0));
    // It has the groups, and its votes count in them, the directory's too.
    assert_eq!(world.shard(2).uid(6), None);
    world.run(1000);
    world.kill(1);
    for group in [5, 7] {
        let committed = (0..100).any(|_| {
            let leader = [0, 2].into_iter().find(|at| world.leads_in(group, *at));
            let told = leader.map(|leader| world.propose_in(group, leader, b"entry"));
            world.run(100);
            told.is_some_and(|told| matches!(*told.lock().unwrap(), Some(Ok(_))))
        });
        assert!(committed, "nothing is committed in group {group}");
    }
    world.start(1);
    world.kill(0);
    world.run(3000);
    assert_eq!(world.shard(2).made_groups(), made);
}
