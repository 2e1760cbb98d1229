//! A log that is cut off right behind what a new group was told: the group is there after the start, with all its votes.

use std::sync::{Arc, Mutex};

use synod::simulation::SimShard;

use crate::disk::Dice;
use crate::schedules::{Schedule, schedules};
use crate::shards::{MS, Setup, Shards};

const GROUP: u64 = 5;

/// The only node of a cluster: all that it has durably is chosen.
struct Lone(Shards);

impl Lone {
    fn new(seed: u64) -> Self {
        let mut shards = Shards::new(Setup { nodes: 1, seed: 1000 * seed, ..Setup::default() });
        shards.start(0);
        Self(shards)
    }

    fn shard(&mut self) -> &mut SimShard {
        self.0.shard(0)
    }

    /// Single turns, so that a cut meets what is between two of them.
    fn until(&mut self, what: &str, holds: impl Fn(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.0.pass_ms();
            self.0.tick(0);
            self.0.step(0);
        }
        panic!("{what}");
    }
}

/// Without a summary of the directory before the first record of the group, what follows it in the log would belong to
/// nobody after a start, and the group would begin anew.
fn a_vote_is_never_in_the_log_without_its_group() {
    let mut acknowledged = 0;
    for turns in 0..60 {
        let mut lone = Lone::new(turns + 1);
        lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
        let told = Arc::new(Mutex::new(None));
        lone.until("it makes no group", |lone| {
            let tell = Arc::clone(&told);
            let reply = Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome));
            if lone.shard().made_groups().is_empty() {
                lone.shard().change_groups(GROUP, true, 1000 * MS, reply);
            }
            lone.0.step(0);
            lone.shard().uid(GROUP).is_some()
        });
        let uid = lone.shard().uid(GROUP);
        lone.until("nobody leads the group", |lone| lone.shard().epoch(GROUP).is_some());
        let outcome = lone.0.submit(GROUP, 0, b"kept");
        for _ in 0..turns {
            lone.0.step(0);
        }
        let is_acknowledged = matches!(*outcome.lock().unwrap(), Some(Ok(_)));
        lone.0.cut_power(0, &mut Dice::new(1));
        lone.0.start(0);
        assert_eq!(lone.shard().uid(GROUP), uid, "behind {turns} turns the group is lost");
        lone.until("nobody leads the group again", |lone| {
            let info = lone.shard().info(GROUP).unwrap();
            info.epoch > 0 && info.applied_slot == info.chosen_slot
        });
        let next_index = lone.shard().info(GROUP).unwrap().next_index;
        if is_acknowledged {
            acknowledged += 1;
            assert_eq!(next_index, 2, "behind {turns} turns what was acknowledged is lost");
        }
    }
    assert!(acknowledged > 30, "hardly anything was acknowledged: {acknowledged}");
}

/// All of them.
pub const SCHEDULES: &[Schedule] = schedules! {
    a_vote_is_never_in_the_log_without_its_group shows GroupsAreNotRecorded,
};
