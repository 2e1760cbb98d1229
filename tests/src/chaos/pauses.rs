//! Nodes stand still (SIGSTOP) and go on as if nothing had been: the operating system keeps their connections.

use std::time::Duration;

use super::world::{World, millis, some_node};
use super::{NODES, Trouble};
use crate::disk::Dice;

/// Entries that must be acknowledged between two pauses.
const ENTRIES_BETWEEN: u64 = 300;

/// Pauses nodes for about so long altogether.
pub(super) fn run(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let pauses = draw(dice, Duration::from_secs(seconds));
    world.plan(pauses.len() as u64, Duration::from_secs(seconds));
    for (kind, length) in pauses {
        if !world.has_time() {
            break;
        }
        let nodes = match kind {
            "a leader" => vec![world.some_leader(dice)],
            "two at once" => {
                let spared = some_node(dice);
                (1..=NODES).filter(|node| *node != spared).collect()
            }
            _ => vec![some_node(dice)],
        };
        let stopped = nodes.iter().filter(|node| world.nodes.pause(**node, true)).count();
        let result = stand_still(world, nodes.len(), length);
        for node in &nodes {
            world.nodes.pause(*node, false);
        }
        result?;
        if stopped == nodes.len() {
            world.faults.happened(kind, 1);
        }
        world.await_progress("commits after a pause", ENTRIES_BETWEEN)?;
    }
    Ok(())
}

fn stand_still(world: &mut World, nodes: usize, length: Duration) -> Result<(), Trouble> {
    world.sleep(length)?;
    // Long enough for the others to notice.
    if nodes == 1 && Duration::from_secs(1) < length {
        world.await_progress("commits without the paused node", 0)?;
    }
    Ok(())
}

fn draw(dice: &mut Dice, time: Duration) -> Vec<(&'static str, Duration)> {
    let mut pauses = Vec::new();
    let mut total = Duration::ZERO;
    while total < time {
        let kind = ["a leader", "a leader", "any node", "two at once"][pauses.len() % 4];
        let length = match dice.below(4) {
            0..2 => millis(dice, 100..700),
            2 => millis(dice, 700..2000),
            _ => millis(dice, 2000..5000),
        };
        // What follows a pause takes its time too.
        total += length + Duration::from_millis(500);
        pauses.push((kind, length));
    }
    pauses
}
