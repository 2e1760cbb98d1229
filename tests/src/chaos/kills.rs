//! Nodes die by SIGKILL: any, the leader, two at once, all at once, and while they recover.

use std::time::Duration;

use super::world::{World, millis, some_node};
use super::{NODES, Trouble};
use crate::disk::Dice;

/// Entries that must be acknowledged for each kill, or the next one does not come.
pub(super) const ENTRIES_PER_KILL: u64 = 1000;

/// Kills so often.
pub(super) fn run(world: &mut World, dice: &mut Dice, kills: u64) -> Result<(), Trouble> {
    world.plan(kills, Duration::from_millis(600) * kills as u32);
    // Every kind comes, whatever the dice say: they only shuffle.
    let mut deck: Vec<u8> = Vec::new();
    while world.faults.done < kills && world.has_time() {
        let before = world.faults.done;
        if deck.is_empty() {
            deck = (0..10).collect();
        }
        match deck.swap_remove(dice.below(deck.len())) {
            0..3 => one(world, dice, "any node", |_, dice| some_node(dice))?,
            3..6 => one(world, dice, "a leader", World::some_leader)?,
            6 => {
                let spared = some_node(dice);
                together(world, dice, "two at once", |node| node != spared)?;
            }
            7 => together(world, dice, "all at once", |_| true)?,
            8 => successor(world, dice)?,
            _ => recovering(world, dice)?,
        }
        // What was killed has a price: without traffic the kills show nothing.
        let killed = world.faults.done - before;
        world.await_progress("commits after a kill", ENTRIES_PER_KILL * killed)?;
    }
    world.start_all()
}

/// Kills a node that may not even be ready, and starts it again, at once or later.
fn one(
    world: &mut World,
    dice: &mut Dice,
    kind: &'static str,
    victim: impl Fn(&mut World, &mut Dice) -> u64,
) -> Result<(), Trouble> {
    let node = victim(world, dice);
    kill(world, kind, &[node]);
    match dice.below(4) {
        0 => {}
        1 => world.sleep(millis(dice, 10..300))?,
        2 => world.sleep(millis(dice, 0..30))?,
        // The others go on without it. They may be recovering themselves: then it waits for them.
        _ => world.await_progress("commits without the killed node", 0)?,
    }
    world.start_all()
}

fn together(world: &mut World, dice: &mut Dice, kind: &'static str, dies: impl Fn(u64) -> bool) -> Result<(), Trouble> {
    let nodes: Vec<u64> = (1..=NODES).filter(|node| dies(*node)).collect();
    kill(world, kind, &nodes);
    if dice.below(2) == 0 {
        world.sleep(millis(dice, 10..200))?;
    }
    world.start_all()
}

/// Kills a leader, and whoever leads after it.
fn successor(world: &mut World, dice: &mut Dice) -> Result<(), Trouble> {
    let group = 1 + dice.below(super::GROUPS as usize) as u64;
    let Some(first) = world.leader(group) else { return Ok(()) };
    kill(world, "a leader", &[first]);
    world.start_node(first)?;
    let mut second = None;
    world.wait_for("a new leader", |world| {
        second = world.leader(group);
        Ok(second.is_some())
    })?;
    let second = second.expect("it was waited for");
    kill(world, "its successor", &[second]);
    world.start_node(second)
}

/// Kills a node, and kills it again while it recovers.
fn recovering(world: &mut World, dice: &mut Dice) -> Result<(), Trouble> {
    let node = some_node(dice);
    kill(world, "any node", &[node]);
    world.start_node(node)?;
    // From before its first instruction to about when it is ready.
    world.sleep(millis(dice, 0..60))?;
    kill(world, "a recovering node", &[node]);
    world.start_all()
}

fn kill(world: &mut World, kind: &'static str, nodes: &[u64]) {
    let died = nodes.iter().filter(|node| world.nodes.kill(**node)).count() as u64;
    if 0 < died {
        world.faults.happened(kind, died);
    }
}
