//! Clusters that grow while they run.

use synod::{Introduction, Member, MembershipChange, Outcome};

use super::{Schedule, schedules};
use crate::shards::{Setup, Shards, Told, member};

/// Entries are proposed to whoever leads, each millisecond one, until `done`.
fn load_until(world: &mut Shards, told: &mut Vec<Told<Outcome>>, what: &str, done: impl Fn(&Shards) -> bool) {
    for _ in 0..10_000 {
        if done(world) {
            return;
        }
        let leader = (0..world.nodes.len()).find(|at| world.nodes[*at].shard.is_some() && world.leads(*at));
        told.extend(leader.map(|leader| world.propose(leader)));
        world.run(1);
    }
    panic!("{what}");
}

fn committed(told: &Told<Outcome>) -> bool {
    matches!(*told.lock().unwrap(), Some(Ok(_)))
}

/// What a node has applied of group 1.
fn applied(world: &Shards, at: usize) -> u64 {
    world.info(at).applied_slot
}

/// The introductions that a node knows.
fn known(world: &Shards, at: usize) -> &[Introduction] {
    world.nodes[at].known.list()
}

/// What is known of a node that was introduced so.
fn introduction(Member { node, address }: Member, version: u64) -> Introduction {
    Introduction { node, address, witness: false, version }
}

/// A fourth node comes to three that run, is introduced to one that does not lead, gets a vote, and is needed for a quorum;
/// also after all were started anew with the configurations that they have, which say nothing of it.
fn a_node_that_is_introduced_under_load_becomes_a_voter() {
    let mut world = Shards::new(Setup::default()).led();
    let mut told = Vec::new();
    let fourth = world.join();
    world.start(fourth);
    load_until(&mut world, &mut told, "node 1 commits nothing", |world| applied(world, 0) > 100);
    assert_eq!(applied(&world, fourth), 0, "nobody knows it");
    world.introduce(1, member(4));
    load_until(&mut world, &mut told, "not all know node 4", |world| {
        (0..4).all(|at| known(world, at) == [introduction(member(4), 1)]) && applied(world, fourth) > 100
    });
    assert!(!world.info(fourth).votes, "an introduction gives no vote");
    let change = world.change_voters(0, MembershipChange::Add(4), 5000);
    load_until(&mut world, &mut told, "node 4 gets no vote", |_| change.lock().unwrap().is_some());
    let voters = change.lock().unwrap().clone().unwrap().expect("it has caught up").voters;
    assert_eq!(voters, [1, 2, 3, 4]);
    // Three of four go on, with the new one among them.
    for at in 0..3 {
        world.kill(at);
        let before = applied(&world, fourth);
        load_until(&mut world, &mut told, "three of four do not go on", |world| applied(world, fourth) > before + 50);
        world.start(at);
        let before = applied(&world, fourth);
        load_until(&mut world, &mut told, "who comes back does not catch up", |world| applied(world, at) > before);
    }
    world.run(500);
    assert!(told.iter().filter(|told| committed(told)).count() > 200);
    world.agree(&[0, 1, 2, 3]);
}

/// A node is introduced while another is away, and then once more at each end of a cut, with another address each. What all
/// know in the end is the same.
fn introductions_reach_who_was_away_and_one_of_them_counts() {
    let mut world = Shards::new(Setup::default()).led();
    let fourth = world.join();
    world.kill(2);
    world.introduce(0, member(4));
    world.run(50);
    let first = [introduction(member(4), 1)];
    assert_eq!((known(&world, 1), known(&world, 2)), (&first[..], &[][..]));
    world.start(fourth);
    world.start(2);
    world.run(100);
    assert_eq!((known(&world, 2), known(&world, fourth)), (&first[..], &first[..]));
    // Both ends say that it has moved, before they hear of each other.
    world.cut_off(1);
    let (here, there) = (Member { node: 4, ..member(8) }, Member { node: 4, ..member(7) });
    world.introduce(1, here);
    world.introduce(0, there);
    world.run(50);
    assert_eq!((known(&world, 1), known(&world, 2)), (&[introduction(here, 2)][..], &[introduction(there, 2)][..]));
    world.held.clear();
    world.run(5000);
    for at in 0..4 {
        assert_eq!(known(&world, at), [introduction(here, 2)], "node {}", at + 1);
    }
    world.agree(&[0, 1, 2, fourth]);
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    a_node_that_is_introduced_under_load_becomes_a_voter,
    introductions_reach_who_was_away_and_one_of_them_counts,
};
