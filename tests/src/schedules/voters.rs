//! Changes of who votes.

use super::{Schedule, schedules};
use crate::shards::{Setup, Shards};

/// Node 1 leads, and is asked for a change while an entry that only it has is in flight. Node 2 is elected, puts its epoch
/// start in the entry's slot, and ends before anyone else has that; when it comes back its log and node 1's decide. The
/// entry is lost, and so must be what was asked for behind it.
fn a_change_of_voters_waits_for_what_was_proposed_before_it() {
    let mut world = Shards::new(Setup::default()).led();
    world.cut_off(0);
    let lost = world.propose(0);
    world.remove_voter(0, 3, 50);
    world.run(650);
    assert_eq!(world.info(1).leader, 0, "node 1 is silent");
    world.hold(1, 2);
    world.wire(2, 1).clear();
    world.wire(1, 2).clear();
    world.still = vec![2];
    for _ in 0..1000 {
        world.run(1);
        world.deliver_one(1, 2);
        world.deliver_one(2, 1);
        if world.info(1).leader == 2 {
            break;
        }
    }
    assert!(world.info(1).leader == 2 && !world.leads(1), "its epoch start is its own alone");
    world.kill(2);
    world.kill(1);
    world.held.clear();
    world.start(1);
    world.run_until(3000, |world| world.info(0).applied_slot.min(world.info(1).applied_slot) > 2);
    world.run(200);
    assert!(!matches!(*lost.lock().unwrap(), Some(Ok(_))));
    world.agree(&[0, 1]);
    let applied = world.info(0).next_index;
    assert!(applied == 2 || world.info(0).configuration == 0, "the change has overtaken the entry");
    assert_eq!(applied, 1, "the entry was to be lost");
}

/// Node 3 asks for votes, and meanwhile the vote of node 4 is taken away. Who knows that promises node 3 nothing.
fn one_who_knows_older_voters_is_promised_nothing() {
    let mut world = Shards::new(Setup { nodes: 4, ..Setup::default() }).led();
    let first = world.propose(0);
    world.run(100);
    assert!(matches!(*first.lock().unwrap(), Some(Ok(_))));
    // Node 1 orders node 3 to take over, of which nothing is heard any more, and goes on.
    world.held = vec![(2, 0), (2, 1), (2, 3)];
    let order = world.transfer(0, 3, 50);
    world.run(60);
    assert!(matches!(*order.lock().unwrap(), Some(Err(_))) && world.leads(0));
    world.cut_off(2);
    let change = world.remove_voter(0, 4, 1000);
    world.run(100);
    assert!(matches!(*change.lock().unwrap(), Some(Ok(_))));
    assert_eq!((world.info(1).configuration, world.info(2).configuration), (1, 0));
    // What node 3 asked for comes to node 2.
    let promised = world.shard(1).held(1).unwrap().promised;
    world.deliver_one(2, 1);
    assert_eq!(
        world.shard(1).held(1).unwrap().promised,
        promised,
        "node 2 has promised an older configuration's candidate"
    );
    let second = world.propose(0);
    world.run(20);
    assert!(matches!(*second.lock().unwrap(), Some(Ok(_))), "node 1's leadership was ended by it");
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    a_change_of_voters_waits_for_what_was_proposed_before_it shows ConfigurationOvertakes,
    one_who_knows_older_voters_is_promised_nothing shows OldConfigurationsVote,
};
