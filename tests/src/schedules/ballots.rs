//! Ballots that are begun again.

use super::{Schedule, schedules};
use crate::shards::{Setup, Shards};

/// More than the log waits for before it writes a second frame beside one that is in flight.
static LARGE_ENTRY: [u8; 100 << 10] = [7; 100 << 10];

/// Node 1 has adopted an entry at its second ballot, and has forgotten that after a power cut. What it proposes in that slot
/// then must not bear the same ballot.
fn no_ballot_is_begun_again_after_a_power_cut() {
    for seed in 0..4 {
        let mut world = Shards::new(Setup { seed: 100 * seed, ..Setup::default() });
        world.nodes.iter_mut().for_each(|node| node.config.groups = 2);
        let mut world = world.led();
        world.run_until(3000, |world| world.leads_in(2, 0));
        world.cut_off(2);
        // Node 2 leads for a while, and in the end it alone has an entry.
        world.transfer(0, 2, 1000);
        world.run_until(500, |world| world.leads(1));
        world.run(50);
        world.hold(0, 1);
        world.propose(1);
        world.wire(1, 0).clear();
        assert!(world.shard(1).resign(1));
        world.turn(1);
        // Node 1 stands, and nobody else. Its disk takes long, but another group has its log go on.
        world.held.clear();
        world.cut_off(2);
        world.nodes[0].stalled = true;
        world.deliver();
        world.still = vec![1];
        world.run_until(400, |world| world.info(0).leader == 1);
        world.propose_in(2, 0, &LARGE_ENTRY);
        world.deliver();
        world.cut_power(0, &mut false);
        world.still.clear();
        // It comes back, and has node 3 to vote for it, while node 2 is away.
        world.held.clear();
        world.cut_off(1);
        world.start(0);
        world.run_until(1500, |world| world.leads(0) || world.leads(2));
        world.propose(0);
        world.run(50);
        world.held.clear();
        world.run(1000);
        world.agree(&[0, 1, 2]);
    }
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    no_ballot_is_begun_again_after_a_power_cut shows PrepareLeavesEarly BallotIsNotRecorded,
};
