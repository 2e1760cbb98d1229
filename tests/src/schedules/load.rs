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
    let mut world = Shards::new(Setup::default()).configured(|config| config.learn_mib_per_second = 1).led();
    world.kill(2);
    for _ in 0..ENTRIES {
        world.propose_in(1, 0, &[1; 60 << 10]);
        world.run(10);
    }
    world.start(2);
    world.run(3000);
    let index = world.info(2).next_index;
    assert!((20..80).contains(&index), "it fetches 1 MiB a second, and has {index} of {ENTRIES}");
    world.kill(1);
    let told = world.propose_in(1, 0, b"needs node 3");
    world.run(3000);
    assert!(matches!(*told.lock().unwrap(), Some(Ok(_))), "node 3 has {} of {ENTRIES}", world.info(2).next_index);
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    every_proposal_is_answered shows AnswersAreDropped,
    followers_of_a_busy_group_learn_what_all_have shows BusyGroupsAreNotTold,
    a_voter_that_is_waited_for_hurries shows LaggardsNeverHurry,
};
