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

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    every_proposal_is_answered shows AnswersAreDropped,
    followers_of_a_busy_group_learn_what_all_have shows BusyGroupsAreNotTold,
};
