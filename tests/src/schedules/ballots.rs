//! Ballots that are begun again.

use super::{Schedule, schedules};
use crate::shards::{Setup, Shards};

/// More than the log waits for before it writes a second frame beside one that is in flight.
const LARGE_ENTRY: [u8; 100 << 10] = [7; 100 << 10];

/// Node 1 has something accepted at its second ballot, in slots that it has forgotten after a power cut. What it proposes
/// then must not bear that ballot again.
fn no_ballot_is_begun_again_after_a_power_cut() {
    for seed in 0..4 {
        let mut world = Shards::new(Setup { seed: 100 * seed, ..Setup::default() });
        world.nodes.iter_mut().for_each(|node| node.config.groups = 2);
        let mut world = world.led();
        world.run_until(3000, |world| world.leads_in(2, 0));
        world.cut_off(2);
        // From here on node 1's disk takes long.
        world.nodes[0].stalled = true;
        world.propose(0);
        world.deliver();
        assert!(world.shard(0).resign(1));
        world.turn(0);
        // It stands for election again, nobody else does, and whatever its log waits for, another group has it go on.
        world.still = vec![1];
        world.run_until(300, |world| world.info(0).leader == 1);
        world.propose_in(2, 0, &LARGE_ENTRY);
        world.deliver();
        world.cut_power(0, &mut false);
        world.still.clear();
        // It comes back, and has node 3 to vote for it, while node 2 is away.
        world.held.clear();
        world.cut_off(1);
        world.start(0);
        world.run_until(2500, |world| world.leads(0));
        world.propose(0);
        world.run(50);
        world.held.clear();
        world.run(1000);
        world.agree(&[0, 1, 2]);
    }
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    no_ballot_is_begun_again_after_a_power_cut shows PrepareLeavesEarly,
};
