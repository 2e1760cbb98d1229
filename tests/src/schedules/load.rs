//! Groups with much to do.

use super::{Schedule, schedules};
use crate::shards::{Setup, Shards};

/// However many proposals end in one turn, each is answered.
fn every_proposal_is_answered() {
    let mut world = Shards::new(Setup::default()).led();
    let told: Vec<_> = (0..500).map(|_| world.submit(1, 0, b"entry")).collect();
    world.turn(0);
    world.run(20);
    let unanswered = told.iter().filter(|told| !matches!(*told.lock().unwrap(), Some(Ok(_)))).count();
    assert_eq!(unanswered, 0, "of {} proposals", told.len());
}

/// With a limit, proposals share slots up to it, and not one more.
fn slots_hold_no_more_entries_than_they_may() {
    let mut world = Shards::new(Setup::default()).configured(|config| config.batch_entries_max = 7).led();
    let first = world.info(0).chosen_slot + 1;
    let told: Vec<_> = (0..50).map(|_| world.submit(1, 0, b"entry")).collect();
    world.turn(0);
    world.run(50);
    let mut entries = std::collections::BTreeMap::<u64, u64>::new();
    for told in told {
        let committed = told.lock().unwrap().take().expect("it is answered").expect("it is committed");
        *entries.entry(committed.slot).or_default() += 1;
    }
    assert_eq!(entries.values().copied().collect::<Vec<_>>(), [7, 7, 7, 7, 7, 7, 7, 1]);
    assert_eq!(*entries.keys().next().unwrap(), first);
}

/// Accepts say what is chosen, but not what all voters have in their logs. Without that nobody but the leader could trim a
/// log that is never at rest.
fn followers_of_a_busy_group_learn_what_all_have() {
    let mut world = Shards::new(Setup::default()).led();
    for _ in 0..100 {
        world.propose(0);
        world.run(10);
    }
    for follower in [1, 2] {
        let low = world.shard(follower).low(1).unwrap();
        assert!(low > 20, "node {} knows of {low} slots only", follower + 1);
    }
}

/// A node that comes back fetches slowly what it lacks, so that others are not slowed down; but not while nothing can be
/// chosen without it.
fn a_voter_that_is_waited_for_hurries() {
    const ENTRIES: u64 = 300;
    let mut world =
        Shards::new(Setup::default()).configured(|config| (config.learn_mib_per_second, config.groups) = (1, 2)).led();
    world.kill(2);
    for _ in 0..ENTRIES {
        world.propose_in(1, 0, &[1; 60 << 10]);
        world.run(10);
    }
    world.start(2);
    for _ in 0..300 {
        // Whoever leads it, another group is not to be held up.
        (0..2).for_each(|at| drop(world.propose_in(2, at, b"small")));
        world.run(10);
    }
    let index = world.info(2).next_index;
    assert!((20..80).contains(&index), "it fetches 1 MiB a second, and has {index} of {ENTRIES}");
    world.kill(1);
    let told = world.propose_in(1, 0, b"needs node 3");
    for _ in 0..300 {
        drop(world.propose_in(2, 0, b"small"));
        world.run(10);
    }
    assert!(matches!(*told.lock().unwrap(), Some(Ok(_))), "node 3 has {} of {ENTRIES}", world.info(2).next_index);
}

/// Where nothing is to be held up, what a node lacks comes at once.
fn a_laggard_of_a_quiet_cluster_does_not_wait() {
    const ENTRIES: u64 = 300;
    let mut world = Shards::new(Setup::default()).configured(|config| config.learn_mib_per_second = 1).led();
    world.kill(2);
    for _ in 0..ENTRIES {
        world.propose_in(1, 0, &[1; 60 << 10]);
        world.run(10);
    }
    world.start(2);
    world.run(3000);
    assert_eq!(world.info(2).next_index, world.info(0).next_index, "of {ENTRIES}");
}

/// However slowly a node may fetch what it lacks, it gains on a group that is busy: by what its leader still has in memory,
/// and else as the tests of the pace of requests show.
fn a_laggard_gains_on_a_busy_group() {
    const ENTRIES: u64 = 200;
    let mut world =
        Shards::new(Setup::default()).configured(|config| (config.learn_mib_per_second, config.groups) = (1, 2)).led();
    let write = |world: &mut Shards, entries| {
        for _ in 0..entries {
            (0..2).for_each(|at| drop(world.propose_in(2, at, b"small")));
            world.propose_in(1, 0, &[1; 60 << 10]);
            world.run(10);
        }
    };
    world.kill(2);
    write(&mut world, ENTRIES);
    world.start(2);
    // Six times as much as the limit.
    write(&mut world, 4 * ENTRIES);
    let lag = world.info(0).next_index - world.info(2).next_index;
    assert!(lag < 10, "it still lacks {lag} entries");
}

/// Three nodes, with something committed, whose memory may fail.
fn with_faulty_memory() -> Shards {
    let mut world = Shards::new(Setup::default()).led();
    world.nodes.iter_mut().for_each(|node| node.may_end = true);
    world.propose(0);
    world.run(1000);
    world
}

/// Whether one of the nodes that are up commits an entry within a few seconds.
fn commits(world: &mut Shards) -> bool {
    (0..50).any(|_| {
        let up: Vec<usize> = (0..3).filter(|at| world.nodes[*at].is_up()).collect();
        let told: Vec<_> = up.into_iter().map(|at| world.propose(at)).collect();
        world.run(100);
        told.iter().any(|told| matches!(*told.lock().unwrap(), Some(Ok(_))))
    })
}

/// Replicas compare what they have applied: the one that differs from most ends, whether it leads or not, and the others go
/// on. Two that differ cannot know which of them is wrong.
fn who_has_applied_something_else_than_most_ends() {
    for spoilt in [0, 2] {
        let mut world = with_faulty_memory();
        world.shard(spoilt).spoil_chain(1);
        world.propose(0);
        world.run(1000);
        let ended: Vec<bool> = world.nodes.iter().map(|node| node.ended.is_some()).collect();
        assert!(ended[spoilt], "node {} differs from both others", spoilt + 1);
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 1, "{ended:?}");
        let why = world.nodes[spoilt].ended.clone().unwrap();
        assert!(why.contains("group 1") && why.contains("not what most voters have"), "{why}");
        assert!(commits(&mut world), "two are enough");
    }
    let mut world = with_faulty_memory();
    world.kill(1);
    world.shard(2).spoil_chain(1);
    assert!(commits(&mut world));
    world.run(1000);
    assert!(world.nodes.iter().all(|node| node.ended.is_none()), "one against one");
    // A third one decides.
    world.start(1);
    assert!(commits(&mut world));
    world.run(2000);
    assert!(world.nodes[2].ended.is_some() && world.nodes[0].ended.is_none() && world.nodes[1].ended.is_none());
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    every_proposal_is_answered shows AnswersAreDropped,
    slots_hold_no_more_entries_than_they_may,
    followers_of_a_busy_group_learn_what_all_have shows BusyGroupsAreNotTold,
    a_voter_that_is_waited_for_hurries shows LaggardsNeverHurry,
    a_laggard_of_a_quiet_cluster_does_not_wait,
    a_laggard_gains_on_a_busy_group,
    who_has_applied_something_else_than_most_ends shows ChainsAreNotCompared,
};
